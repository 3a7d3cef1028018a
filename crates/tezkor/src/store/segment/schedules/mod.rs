//! Schedules: the lock-free core (index, read, write, alloc, evict) under an explorer that decides which thread goes on at
//! each access to shared memory. Nothing here is part of a build for use.
//!
//! - `RUSTFLAGS="--cfg loom"`: small models, all schedules up to a number of preemptions and all values that the memory model
//!   allows (`exhaustive`).
//! - `RUSTFLAGS="--cfg shuttle"`: larger ones, random schedules (`random`).
//!
//! Both: `cargo test --release -p tezkor --lib schedules`.

pub(crate) mod atomic;
#[cfg(test)]
mod death;
#[cfg(all(test, loom))]
mod exhaustive;
#[cfg(all(test, loom))]
mod loading;
#[cfg(all(test, shuttle))]
mod random;
#[cfg(test)]
mod scene;

thread_local! {
    static GENERATION_BITS: std::cell::Cell<Option<u32>> = const { std::cell::Cell::new(None) };
}

/// The bits of a segment's generation that a slot word has: as many as the model asks for.
pub(crate) fn generation_bits(usual: u32) -> u32 {
    GENERATION_BITS.get().unwrap_or(usual)
}

/// Gives slot words so many bits of generation, on this thread (an explorer runs all threads of a model on one).
#[cfg(all(test, loom))]
fn set_generation_bits(bits: u32) {
    GENERATION_BITS.set(Some(bits));
}
