//! Segments and the space in them: who may append where. Reserving space is one atomic add, taking a segment one swap.
//! It never lets a segment be recycled under a writer that is still in it: writers under way are counted in the cursor.

use std::sync::atomic::AtomicBool;

use super::layout::{UNIT_WORDS, header, segment};
use super::os;
use super::record;
use super::region::{Region, Room};
use super::state::{self, NOBODY, Owner, Queue, State};
use super::words::{AtomicU64, Ordering, Word, fence};

// The cursor: units reserved (low 32 bits), writers under way (16), low bits of the generation it belongs to (16).
const WRITER: u64 = 1 << 32;
const UNITS: u64 = WRITER - 1;
const TAG_AT: u32 = 48;
/// Segments that ordinary writers leave free for what survives an eviction.
const SPARE_SEGMENTS: usize = 1;
/// Segments whose memory is asked for in vain, without a word on why, before a search for one gives up.
const MOST_UNKNOWN: u32 = 8;
/// Evictions that one writer does for one segment before it gives up.
const MOST_EVICTIONS: usize = 64;
const NONE: u64 = u64::MAX;

/// What came of an attempt at one segment.
#[derive(PartialEq, Eq)]
enum Claim {
    Claimed,
    Taken,
    NoMemory,
    /// The system did not say whether there is memory: an interrupted call, say.
    Unknown,
}

/// A worker: a process that writes, in one of its lives. Its threads share its open segments.
pub(crate) struct Worker {
    pub(crate) owner: Owner,
    open: [AtomicU64; 2],
    /// Whether it goes on with a segment that somebody else left with room in it, before it takes one of its own.
    joins: AtomicBool,
}

impl Worker {
    pub(crate) fn new(owner: Owner) -> Self {
        Worker { owner, open: [AtomicU64::new(NONE), AtomicU64::new(NONE)], joins: AtomicBool::new(false) }
    }

    /// A worker that first goes on where others left: processes that write little and end do not use up a segment each.
    pub(crate) fn joining(owner: Owner) -> Self {
        Worker { joins: AtomicBool::new(true), ..Worker::new(owner) }
    }

    pub(crate) fn row(&self) -> usize {
        usize::from(self.owner.row)
    }
}

/// Space in an open segment. The segment is not recycled while this lives.
pub(crate) struct Reserved<'r> {
    region: &'r Region,
    pub(crate) segment: usize,
    pub(crate) generation: u64,
    /// In units of 16 bytes.
    pub(crate) offset: usize,
    units: usize,
}

impl<'r> Reserved<'r> {
    pub(crate) fn record(&self) -> &'r [Word] {
        &self.region.segment(self.segment)[self.offset * UNIT_WORDS..(self.offset + self.units) * UNIT_WORDS]
    }

    pub(crate) fn salt(&self) -> u64 {
        record::salt(self.generation, self.segment, self.offset)
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.region.leave(self.segment, self.generation);
    }
}

impl Region {
    /// Reserves space for a record in the worker's open segment of the queue (small or main), taking a fresh one when it is full.
    pub(crate) fn reserve<'r>(
        &'r self,
        worker: &Worker,
        queue: Queue,
        units: usize,
        now_ms: u64,
    ) -> Option<Reserved<'r>> {
        debug_assert!(!queue.is_large() && units <= self.geometry.segment_units());
        let open = &worker.open[queue as usize];
        loop {
            let current = open.load(Ordering::Acquire);
            if current != NONE {
                if let Some(reserved) = self.reserve_in(worker, queue, current as usize, units) {
                    return Some(reserved);
                }
                let _ = open.compare_exchange(current, NONE, Ordering::AcqRel, Ordering::Relaxed);
                continue;
            }
            let fresh = match queue {
                Queue::Main => self.claim_within_quarter(worker),
                _ => self.reopen(worker).or_else(|| self.take(worker, Queue::Small, now_ms)),
            }?;
            if open.compare_exchange(NONE, fresh as u64, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                // Another thread of this process was faster: one open segment is enough.
                self.close(worker, queue, fresh);
            }
        }
    }

    fn reserve_in<'r>(&'r self, worker: &Worker, queue: Queue, index: usize, units: usize) -> Option<Reserved<'r>> {
        let own = state::pack(State::Open, queue, worker.owner);
        let cursor = self.meta(index, segment::CURSOR).add(WRITER | units as u64);
        let generation = self.generation(index);
        if cursor >> TAG_AT != generation & 0xffff {
            // Recycled since this thread looked, and its cursor is (about to be) a fresh one: what was added is not in it.
            return None;
        }
        // From here on the segment is not recycled, if it is still ours: an evictor looks at the count after it has taken it.
        let offset = (cursor & UNITS) as usize;
        let reserved = Reserved { region: self, segment: index, generation, offset, units };
        if self.meta(index, segment::STATE).load(Ordering::SeqCst) != own {
            return None;
        }
        if offset + units > self.geometry.segment_units() {
            self.seal(index, own, queue);
            return None;
        }
        // Whoever reads what is written from here on finds the generation raised, however the processor orders the stores.
        fence(Ordering::Release);
        reserved.record()[record::word::SHAPE].store(record::hole(units), Ordering::Relaxed);
        self.meta(index, segment::RECORDS).count(1);
        Some(reserved)
    }

    /// Puts an open segment at the end of its queue.
    pub(crate) fn seal(&self, index: usize, open: u64, queue: Queue) {
        let stamp = self.header(header::STAMP).next();
        self.meta(index, segment::STAMP).store(stamp, Ordering::SeqCst);
        // Another thread may have sealed it already.
        let _ = self.meta(index, segment::STATE).replace(open, state::pack(State::Sealed, queue, state::owner(open)));
    }

    /// Seals what the worker has open, so that others can use it.
    pub(crate) fn seal_open(&self, worker: &Worker) {
        for queue in [Queue::Small, Queue::Main] {
            let index = worker.open[queue as usize].swap(NONE, Ordering::AcqRel);
            if index != NONE {
                self.seal(index as usize, state::pack(State::Open, queue, worker.owner), queue);
            }
        }
    }

    /// A segment of the small queue that was sealed with a quarter of it or more free, open again.
    fn reopen(&self, worker: &Worker) -> Option<usize> {
        if !worker.joins.swap(false, Ordering::Relaxed) {
            return None;
        }
        let tick_ms = os::boot_ms();
        (0..self.geometry.segments).find(|index| {
            let word = self.meta(*index, segment::STATE);
            let found = word.load(Ordering::SeqCst);
            state::state(found) == State::Sealed
                && state::queue(found) == Queue::Small
                && self.used_units(*index) * 4 <= self.geometry.segment_units() * 3
                && self.may_evict(*index, tick_ms)
                && word.replace(found, state::pack(State::Open, Queue::Small, worker.owner)).is_ok()
        })
    }

    /// Gives back a segment that was opened and is not needed. Another thread of this process may know it as the open one of
    /// an earlier time, and have written into it: then it is sealed.
    fn close(&self, worker: &Worker, queue: Queue, index: usize) {
        let state_word = self.meta(index, segment::STATE);
        let open = state::pack(State::Open, queue, worker.owner);
        if state_word.replace(open, state::pack(State::Evicting, queue, worker.owner)).is_err() {
            return;
        }
        if self.used_units(index) == 0 {
            self.recycle(index);
        } else {
            state_word.store(open, Ordering::SeqCst);
            self.seal(index, open, queue);
        }
    }

    /// A free segment, after evicting as needed; leaves one for survivors. One of a large queue is nobody's to append to.
    pub(crate) fn take(&self, worker: &Worker, queue: Queue, now_ms: u64) -> Option<usize> {
        for _ in 0..MOST_EVICTIONS {
            if self.has_free(SPARE_SEGMENTS + 1)
                && let Some(index) = self.claim(worker, queue)
            {
                return Some(index);
            }
            // What seems free may have no memory.
            if !self.evict(worker, now_ms) {
                break;
            }
        }
        self.claim(worker, queue)
    }

    /// A free segment for the main queue, unless open segments would then hold more than a quarter of the region.
    fn claim_within_quarter(&self, worker: &Worker) -> Option<usize> {
        let open = (0..self.geometry.segments).filter(|index| self.state(*index) == State::Open).count();
        if open + 1 > self.geometry.most_open() {
            return None;
        }
        self.claim(worker, Queue::Main)
    }

    fn has_free(&self, wanted: usize) -> bool {
        let start = self.header(header::FREE_HINT).load(Ordering::Relaxed) as usize % self.geometry.segments;
        let (before, after) = (0..start, start..self.geometry.segments);
        after.chain(before).filter(|index| self.is_claimable(*index)).take(wanted).count() == wanted
    }

    fn is_claimable(&self, index: usize) -> bool {
        match self.state(index) {
            State::Untouched | State::Free => true,
            State::Chain => self.is_orphan(index),
            _ => false,
        }
    }

    /// Whether the head of a chain's member has been recycled.
    fn is_orphan(&self, index: usize) -> bool {
        let head = self.meta(index, segment::HEAD).load(Ordering::SeqCst) as usize;
        let generation = self.meta(index, segment::HEAD_GENERATION).load(Ordering::SeqCst);
        head >= self.geometry.segments || self.generation(head) != generation
    }

    /// Takes a free segment without evicting.
    pub(crate) fn claim(&self, worker: &Worker, queue: Queue) -> Option<usize> {
        let hint = self.header(header::FREE_HINT);
        let start = hint.load(Ordering::Relaxed) as usize % self.geometry.segments;
        let (before, after) = (0..start, start..self.geometry.segments);
        let (mut has_memory, mut tries_left) = (true, MOST_UNKNOWN);
        for index in after.chain(before) {
            if !has_memory && self.state(index) == State::Untouched {
                // There was none for another a moment ago.
                continue;
            }
            match self.claim_one(worker, queue, index) {
                Claim::Claimed => {
                    hint.store((index as u64 + 1) % self.geometry.segments as u64, Ordering::Relaxed);
                    return Some(index);
                }
                Claim::NoMemory => has_memory = false,
                Claim::Unknown => {
                    // Once is no reason to refuse a write; again and again is.
                    tries_left = tries_left.saturating_sub(1);
                    has_memory &= tries_left > 0;
                }
                Claim::Taken => {}
            }
        }
        None
    }

    fn claim_one(&self, worker: &Worker, queue: Queue, index: usize) -> Claim {
        let word = self.meta(index, segment::STATE);
        let found = word.load(Ordering::SeqCst);
        let open = state::pack(State::Open, queue, worker.owner);
        match state::state(found) {
            State::Free => {
                if word.replace(found, open).is_err() {
                    return Claim::Taken;
                }
            }
            State::Untouched => {
                // Whoever dies before the memory is reserved leaves a segment that a sweep makes untouched again.
                let unavailable = state::pack(State::Unavailable, Queue::Small, worker.owner);
                if word.replace(found, unavailable).is_err() {
                    return Claim::Taken;
                }
                let bytes = self.geometry.segment_words as u64 * 8;
                match (self.reserve)(self.geometry.segment_at(index) as u64 * 8, bytes) {
                    Room::Reserved => {}
                    Room::Full => {
                        self.header(header::SHORTAGE).store(1, Ordering::Relaxed);
                        return Claim::NoMemory;
                    }
                    Room::Unknown => {
                        // Others may have more luck with it.
                        let _ = word.replace(unavailable, found);
                        return Claim::Unknown;
                    }
                }
                if word.replace(unavailable, open).is_err() {
                    return Claim::Taken;
                }
                if self.header(header::SHORTAGE).load(Ordering::Relaxed) != 0 {
                    self.end_shortage();
                }
            }
            State::Chain if self.is_orphan(index) => {
                let evicting = state::pack(State::Evicting, Queue::Small, worker.owner);
                if word.replace(found, evicting).is_err() {
                    return Claim::Taken;
                }
                self.recycle(index);
                if word.replace(state::pack(State::Free, Queue::Small, NOBODY), open).is_err() {
                    return Claim::Taken;
                }
            }
            _ => return Claim::Taken,
        }
        self.meta(index, segment::CURSOR).store((self.generation(index) & 0xffff) << TAG_AT, Ordering::SeqCst);
        self.meta(index, segment::RECORDS).store(0, Ordering::Relaxed);
        Claim::Claimed
    }

    /// There is memory again: all segments for which there was none are tried once more when their turn comes.
    #[cold]
    fn end_shortage(&self) {
        self.header(header::SHORTAGE).store(0, Ordering::Relaxed);
        for index in 0..self.geometry.segments {
            self.retry_memory(index);
        }
    }

    /// Tries memory that was not there once more, when the segment's turn comes.
    pub(crate) fn retry_memory(&self, index: usize) -> bool {
        let word = self.meta(index, segment::STATE);
        let found = word.load(Ordering::SeqCst);
        // Whoever is reserving it at this moment finds it changed, and looks for another.
        state::state(found) == State::Unavailable
            && word.replace(found, state::pack(State::Untouched, Queue::Small, NOBODY)).is_ok()
    }

    /// Makes a segment that the caller is evicting free. Its generation is raised first: what was copied from it before is
    /// found out by whoever copied it, before the first new byte is written.
    pub(crate) fn recycle(&self, index: usize) {
        self.meta(index, segment::GENERATION).add(1);
        self.meta(index, segment::STATE).store(state::pack(State::Free, Queue::Small, NOBODY), Ordering::SeqCst);
    }

    /// Gives back a segment that was claimed and not used.
    pub(crate) fn release(&self, index: usize) {
        self.recycle(index);
    }

    pub(crate) fn state(&self, index: usize) -> State {
        state::state(self.meta(index, segment::STATE).load(Ordering::SeqCst))
    }

    /// Writers that are in the segment now.
    pub(crate) fn writers(&self, index: usize) -> u64 {
        (self.meta(index, segment::CURSOR).load(Ordering::SeqCst) >> 32) & 0xffff
    }

    fn leave(&self, index: usize, generation: u64) {
        let cursor = self.meta(index, segment::CURSOR);
        let mut found = cursor.load(Ordering::SeqCst);
        // A cursor of another generation does not count this writer.
        while found >> TAG_AT == generation & 0xffff && (found >> 32) & 0xffff > 0 {
            match cursor.replace(found, found - WRITER) {
                Ok(()) => return,
                Err(changed) => found = changed,
            }
        }
    }

    /// Writers of a dead worker are no longer under way.
    pub(crate) fn forget_writers(&self, index: usize) {
        let cursor = self.meta(index, segment::CURSOR);
        let mut found = cursor.load(Ordering::SeqCst);
        while let Err(changed) = cursor.replace(found, found & !(0xffff << 32)) {
            found = changed;
        }
    }

    /// Reserves space only if the worker has an open segment of that queue with room in it.
    pub(crate) fn reserve_if_open<'r>(&'r self, worker: &Worker, queue: Queue, units: usize) -> Option<Reserved<'r>> {
        let current = worker.open[queue as usize].load(Ordering::Acquire);
        (current != NONE).then(|| self.reserve_in(worker, queue, current as usize, units)).flatten()
    }

    /// Units that have been reserved in the segment.
    pub(crate) fn used_units(&self, index: usize) -> usize {
        let units = (self.meta(index, segment::CURSOR).load(Ordering::SeqCst) & UNITS) as usize;
        units.min(self.geometry.segment_units())
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::super::attach;
    use super::*;
    use crate::clock::Clock;

    /// What a dead worker had open rests before it is evicted; a writer of it that died in the midst is not waited for.
    #[test]
    fn what_a_dead_worker_left_rests_and_is_not_lost() {
        let region = attach::open_private(1 << 20, Clock::Boot).expect("private memory").region;
        let (dead, living) =
            (Worker::new(Owner { row: 0, incarnation: 1 }), Worker::new(Owner { row: 1, incarnation: 1 }));
        let in_midst = region.reserve(&dead, Queue::Small, 4, 0).expect("there is room");
        std::mem::forget(in_midst);
        region.adopt(0, os::boot_ms() + super::super::evict::REST_MS);
        assert!(!region.evict(&living, 0), "it rests");
        let index = (0..region.geometry.segments).find(|index| region.state(*index) == State::Sealed).expect("sealed");
        region.meta(index, segment::RESTS_UNTIL_MS).store(os::boot_ms() - 1, Ordering::SeqCst);
        assert!(region.evict(&living, 0));

        // The same of one that was full and sealed before its owner died.
        let in_midst = region.reserve(&dead, Queue::Small, 4, 0).expect("there is room");
        std::mem::forget(in_midst);
        region.seal_open(&dead);
        assert!(!region.evict(&living, 0), "somebody writes into it");
        region.adopt(0, 0);
        assert!(region.evict(&living, 0));
    }

    #[test]
    fn open_segments_of_survivors_stay_within_a_quarter_of_the_region() {
        let region = attach::open_private(2 << 20, Clock::Boot).expect("private memory").region;
        let workers: Vec<Worker> =
            (0..region.geometry.segments as u16).map(|row| Worker::new(Owner { row, incarnation: 1 })).collect();
        let opened = workers.iter().filter(|worker| region.reserve(worker, Queue::Main, 1, 0).is_some()).count();
        assert_eq!(opened, region.geometry.most_open());
        assert!(opened <= region.geometry.segments / 4);
    }
}
