//! The explorer's atomics in place of the machine's: every access is a point at which another thread may go on, and under
//! loom every value that the memory model allows is read. It never changes what the engine does with them.
//!
//! Words that no promise depends on (statistics, hints, padding) stay the machine's own: a model is explored in seconds or not
//! at all. They are read as of the last write, which is one of the values that the memory model allows.

use std::sync::atomic::{AtomicU64 as Plain, Ordering};

#[cfg(loom)]
use loom::{sync::atomic::AtomicU64 as Explored, sync::atomic::fence as explored_fence, thread};
#[cfg(shuttle)]
use shuttle::{sync::atomic::AtomicU64 as Explored, sync::atomic::fence as explored_fence, thread};

/// Whether a word takes part in schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// It does, and keeps the orders that the engine asks for.
    Explored,
    /// It does, without a total order of its accesses. Loom gives sequentially consistent ones more than the memory model
    /// promises beside relaxed ones: a missing fence shows only when the word does without.
    Weak,
    /// It does not.
    Plain,
}

/// A word that takes part in schedules, or does not.
pub(crate) enum AtomicU64 {
    Explored(Explored),
    Weak(Explored),
    Plain(Plain),
}

macro_rules! either {
    ($self:ident, $word:ident, $ordering:ident => $weak:expr, $access:expr) => {
        match $self {
            AtomicU64::Explored($word) => $access,
            AtomicU64::Plain($word) => $access,
            AtomicU64::Weak($word) => {
                let $ordering = if $ordering == Ordering::SeqCst { $weak } else { $ordering };
                $access
            }
        }
    };
}

impl AtomicU64 {
    pub(crate) fn new(value: u64) -> Self {
        AtomicU64::Plain(Plain::new(value))
    }

    pub(crate) fn zero(part: Part) -> Self {
        if part == Part::Plain {
            return AtomicU64::new(0);
        }
        let word = Explored::new(0);
        // Loom keeps the order of sequentially consistent accesses among themselves: the first value has to be one of them,
        // or a load could return it after a later one was stored.
        word.store(0, Ordering::SeqCst);
        if part == Part::Weak { AtomicU64::Weak(word) } else { AtomicU64::Explored(word) }
    }

    pub(crate) fn load(&self, order: Ordering) -> u64 {
        either!(self, word, order => Ordering::Acquire, word.load(order))
    }

    pub(crate) fn store(&self, value: u64, order: Ordering) {
        // A swap, since loom would let a store that follows another thread's swap be overtaken by it.
        let _ = self.swap(value, order);
    }

    pub(crate) fn swap(&self, value: u64, order: Ordering) -> u64 {
        either!(self, word, order => Ordering::AcqRel, word.swap(value, order))
    }

    pub(crate) fn compare_exchange(&self, old: u64, new: u64, won: Ordering, lost: Ordering) -> Result<u64, u64> {
        let lost = if matches!(self, AtomicU64::Weak(_)) { Ordering::Acquire } else { lost };
        either!(self, word, won => Ordering::AcqRel, word.compare_exchange(old, new, won, lost))
    }

    pub(crate) fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        either!(self, word, order => Ordering::AcqRel, word.fetch_add(value, order))
    }

    pub(crate) fn fetch_max(&self, value: u64, order: Ordering) -> u64 {
        either!(self, word, order => Ordering::AcqRel, word.fetch_max(value, order))
    }
}

pub(crate) fn fence(ordering: Ordering) {
    explored_fence(ordering);
}

pub(crate) fn yield_now() {
    thread::yield_now();
}
