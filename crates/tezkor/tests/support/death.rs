//! Death of this process before a chosen store to shared memory.
#![cfg(feature = "crash-points")]

use std::sync::atomic::{AtomicU64, Ordering};

use super::child::kill_self;

/// The store before which this process dies; none while it is 0.
static DIES_AT: AtomicU64 = AtomicU64::new(0);
static PASSED: AtomicU64 = AtomicU64::new(0);

/// Lets this process die before its store number `at` from here on.
pub fn arm(at: u64) {
    let _ = tezkor::crash::HOOK.set(|| {
        let at = DIES_AT.load(Ordering::SeqCst);
        if at > 0 && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == at {
            kill_self();
        }
    });
    PASSED.store(0, Ordering::SeqCst);
    DIES_AT.store(at, Ordering::SeqCst);
}

/// The stores that were made since `arm`.
pub fn disarm() -> u64 {
    DIES_AT.store(0, Ordering::SeqCst);
    PASSED.load(Ordering::SeqCst)
}
