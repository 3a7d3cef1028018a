//! Intents that Python holds by a number: it keeps them in closures that a rollback drops.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tezkor::{Cache as Engine, Intents};

/// The engine and what was written down, by number.
#[derive(Default)]
struct Kept {
    last: u64,
    intents: HashMap<u64, (Engine, Intents)>,
}

static KEPT: Mutex<Option<Kept>> = Mutex::new(None);

/// Keeps intents; the number by which they are forgotten.
pub fn keep(engine: &Engine, intents: Intents) -> u64 {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = kept.get_or_insert_default();
    kept.last += 1;
    kept.intents.insert(kept.last, (engine.clone(), intents));
    kept.last
}

/// Forgets them; a number that is not known, or no longer, is fine.
pub fn forget(id: u64) {
    let found = KEPT.lock().unwrap_or_else(PoisonError::into_inner).as_mut().and_then(|kept| kept.intents.remove(&id));
    if let Some((engine, intents)) = found {
        engine.store().forget(intents);
    }
}
