//! The state word of a segment: what it is used for, in which queue, and by which incarnation of which worker.
//! It never says that a segment is free before its generation has been raised.
//!
//! ```text
//! bits 63-32   31-16   15-8    7-0
//! incarnation  worker  queue   state        (worker and incarnation of its owner while it is open or being evicted; of a
//!                                            chain, nobody and the low bits of its generation)
//! ```

/// What a segment is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Never used: its memory is not reserved yet.
    Untouched = 0,
    /// Reserved and empty.
    Free = 1,
    /// Its owner appends records.
    Open = 2,
    /// Full; waits in its queue.
    Sealed = 3,
    /// Its owner moves what survives out of it.
    Evicting = 4,
    /// A further part of a large value; lives as long as the head's segment keeps its generation.
    Chain = 5,
    /// There was no memory for it.
    Unavailable = 6,
}

/// The eviction queue that a segment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queue {
    /// What was written recently.
    Small = 0,
    /// What was used since.
    Main = 1,
    /// Small queue, one large value alone.
    LargeSmall = 2,
    /// Main queue, one large value alone.
    LargeMain = 3,
}

impl Queue {
    pub(crate) fn is_main(self) -> bool {
        matches!(self, Queue::Main | Queue::LargeMain)
    }

    pub(crate) fn is_large(self) -> bool {
        matches!(self, Queue::LargeSmall | Queue::LargeMain)
    }
}

/// A worker in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) row: u16,
    pub(crate) incarnation: u32,
}

/// Nobody: the owner of segments that nobody owns.
pub(crate) const NOBODY: Owner = Owner { row: u16::MAX, incarnation: 0 };

pub(crate) fn pack(state: State, queue: Queue, owner: Owner) -> u64 {
    state as u64 | (queue as u64) << 8 | u64::from(owner.row) << 16 | u64::from(owner.incarnation) << 32
}

/// Whether `pack` can have made the word.
pub(crate) fn is_possible(word: u64) -> bool {
    word & 0xff <= State::Unavailable as u64 && (word >> 8) & 0xff <= Queue::LargeMain as u64
}

pub(crate) fn state(word: u64) -> State {
    match word & 0xff {
        0 => State::Untouched,
        1 => State::Free,
        2 => State::Open,
        3 => State::Sealed,
        4 => State::Evicting,
        5 => State::Chain,
        // Damaged words too: a segment in no known state is left alone.
        _ => State::Unavailable,
    }
}

pub(crate) fn queue(word: u64) -> Queue {
    match (word >> 8) & 0xff {
        1 => Queue::Main,
        2 => Queue::LargeSmall,
        3 => Queue::LargeMain,
        _ => Queue::Small,
    }
}

pub(crate) fn owner(word: u64) -> Owner {
    Owner { row: (word >> 16) as u16, incarnation: (word >> 32) as u32 }
}
