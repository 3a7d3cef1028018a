//! Memory that calls of one thread use one after the other: the full key, the bytes read, the bytes to write.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

use tezkor::Buffer;

/// What a large value made it grow to is given back after the call.
const KEPT_BYTES: usize = 256 << 10;

/// The memory.
#[derive(Default)]
pub struct Scratch {
    pub key: Vec<u8>,
    pub read: Buffer,
    pub write: Vec<u8>,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// The thread's memory, taken for one call. A call that is made during it (by a model's code while it is decoded, say)
/// finds none and makes its own.
pub struct Taken(Option<Box<Scratch>>);

/// A random number in (0, 1], for decisions that nothing depends on: xorshift, seeded by the standard library.
pub fn dice() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0) | 1);
    }
    let state = STATE.try_with(|state| {
        // A child goes on elsewhere than its parent.
        let mut next = state.get() ^ (tezkor::forks() << 32);
        next ^= next << 13;
        next ^= next >> 7;
        next ^= next << 17;
        state.set(next.max(1));
        next
    });
    ((state.unwrap_or(1) >> 11) as f64 + 1.0) / (1_u64 << 53) as f64
}

/// Takes it.
#[inline]
pub fn take() -> Taken {
    Taken(SCRATCH.try_with(Cell::take).ok().flatten().or_else(|| Some(Box::default())))
}

impl Deref for Taken {
    type Target = Scratch;

    #[inline]
    fn deref(&self) -> &Scratch {
        match &self.0 {
            Some(scratch) => scratch,
            None => unreachable!("it is there until it is dropped"),
        }
    }
}

impl DerefMut for Taken {
    #[inline]
    fn deref_mut(&mut self) -> &mut Scratch {
        match &mut self.0 {
            Some(scratch) => scratch,
            None => unreachable!("it is there until it is dropped"),
        }
    }
}

impl Drop for Taken {
    #[inline]
    fn drop(&mut self) {
        let Some(mut scratch) = self.0.take() else {
            return;
        };
        if scratch.read.bytes().len() > KEPT_BYTES {
            scratch.read = Buffer::new();
        }
        if scratch.write.capacity() > KEPT_BYTES {
            scratch.write = Vec::new();
        }
        // At the end of the thread there is no place for it any more.
        let _ = SCRATCH.try_with(|place| place.set(Some(scratch)));
    }
}
