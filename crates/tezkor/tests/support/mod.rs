//! What the tests of the engine over real processes share: places for regions, child processes, a board that all of them see,
//! and values that describe themselves. Nothing here touches a region that a user has.
#![allow(dead_code)]

pub mod board;
pub mod child;
pub mod death;
pub mod history;
pub mod memcached;
pub mod place;
pub mod servers;
pub mod system;
pub mod value;

/// Whether the long profile was asked for.
pub fn is_soak() -> bool {
    std::env::var_os("SOAK").is_some_and(|value| value == "1")
}

/// The quick number, or the one of the long profile.
pub fn quick_or_soak<T>(quick: T, soak: T) -> T {
    if is_soak() { soak } else { quick }
}

/// Nanoseconds of CLOCK_MONOTONIC, which all processes of the machine agree on.
pub fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec that lives through the call.
    #[allow(unsafe_code)]
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    assert_eq!(failed, 0, "the monotonic clock can be read");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Tells threads to stop when it goes, be it in a panic, so that a test that failed does not wait for them for ever.
#[derive(Default)]
pub struct Stop(std::sync::atomic::AtomicBool);

/// Says stop when it goes.
pub struct StopsAtEnd<'s>(&'s Stop);

impl Stop {
    pub fn at_end(&self) -> StopsAtEnd<'_> {
        StopsAtEnd(self)
    }

    pub fn is_said(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Drop for StopsAtEnd<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Random numbers, the same for the same seed (splitmix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(value::mix(seed ^ 0x5EED))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        value::mix(self.0)
    }

    /// A number below the bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Whether one chance in so many has come.
    pub fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    /// A number between the bounds, each power of two as likely as the next.
    pub fn log_uniform(&mut self, low: u64, high: u64) -> u64 {
        let span = (high as f64 / low as f64).ln();
        let share = self.below(1 << 30) as f64 / (1u64 << 30) as f64;
        ((low as f64 * (span * share).exp()) as u64).clamp(low, high)
    }
}
