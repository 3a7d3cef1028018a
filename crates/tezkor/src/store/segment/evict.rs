//! Eviction: S3-FIFO over whole segments (Yang et al., SOSP 2023). Survivors are copied, so nothing fragments.
//! It never blocks anybody: a reader of what is evicted finds the generation changed, a dead evictor is replaced.
//!
//! 1. When the small queue holds more than a tenth of the region, its oldest segment is the victim, else the main queue's.
//!    But a segment of the main queue that is spent goes first: one of which most records were replaced, removed, cleared or have
//!    expired. The paper's queues have no such thing, since it removes objects one by one.
//! 2. Of each record that a slot still points to: expired or invalidated ones go; used ones are copied to the evictor's open
//!    main segment (a main one with its frequency lowered by one); the rest go, and those of the small queue are remembered
//!    as ghosts. Of a spent segment all that live are copied, as they are. Before a copy, the words that are changed in place are
//!    frozen: changes go to the copy from then on.
//! 3. The generation is raised, and the segment is free.

use super::alloc::Worker;
use super::counters::Counter;
use super::layout::{UNIT_WORDS, header, segment};
use super::os;
use super::record::{self, Header, Kind, word};
use super::region::Region;
use super::slot;
use super::state::{self, Queue, State};
use super::words::{Ordering, Word};

/// The small queue's share of the segments: a tenth, as the paper has it.
const SMALL_SHARE: usize = 10;
/// Looks over the segments before an evictor that always loses its candidates to others gives up.
const MOST_SURVEYS: usize = 64;
/// What a dead worker had open is not reused before this time, in boot time: it may only have lost its lock.
pub(crate) const REST_MS: u64 = 5_000;

/// So many records of a segment tell whether it is spent; so many segments are looked at for one of the main queue.
const SAMPLE: u64 = 8;
const LOOKED_AT: usize = 8;

/// Which of the records that live survive.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Used,
    All,
}

/// What the segment table holds, as one look over it finds it.
#[derive(Default)]
struct Survey {
    small: usize,
    oldest_small: Option<(u64, usize)>,
    oldest_main: Option<(u64, usize)>,
    records: u64,
}

/// A record that a slot points to, in the segment that is being evicted.
struct Live<'r> {
    position: usize,
    word: u64,
    offset: usize,
    record: &'r [Word],
    header: Header,
}

impl Region {
    /// Empties the oldest segment of a queue; `false` when none can be.
    pub(crate) fn evict(&self, worker: &Worker, now_ms: u64) -> bool {
        for _ in 0..MOST_SURVEYS {
            let survey = self.survey();
            self.header(header::RECORDS).store(survey.records, Ordering::Relaxed);
            let target = (self.geometry.segments / SMALL_SHARE).max(1);
            if survey.small > target && self.evict_spent(worker, survey.oldest_main, now_ms) {
                return true;
            }
            let (first, second) = if survey.small > target {
                (survey.oldest_small, survey.oldest_main)
            } else {
                (survey.oldest_main, survey.oldest_small)
            };
            if first.or(second).is_none() {
                return false;
            }
            // A candidate that another evictor took first is no reason to give up: there are others.
            if [first, second]
                .into_iter()
                .flatten()
                .any(|(_, index)| self.evict_segment(worker, index, Keep::Used, now_ms))
            {
                return true;
            }
        }
        false
    }

    /// Evicts a segment of the main queue that is spent, if the oldest or another one is, which differs each time.
    fn evict_spent(&self, worker: &Worker, oldest: Option<(u64, usize)>, now_ms: u64) -> bool {
        let tick_ms = os::boot_ms();
        let dice = self.header(header::STAMP).load(Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let start = dice as usize % self.geometry.segments;
        let another = (start..self.geometry.segments).chain(0..start).take(LOOKED_AT).find(|index| {
            let word = self.meta(*index, segment::STATE).load(Ordering::SeqCst);
            state::state(word) == State::Sealed && state::queue(word).is_main() && self.may_evict(*index, tick_ms)
        });
        oldest
            .map(|(_, index)| index)
            .into_iter()
            .chain(another)
            .any(|index| self.is_spent(index, dice, now_ms) && self.evict_segment(worker, index, Keep::All, now_ms))
    }

    /// Whether less than half of a few records of a segment live.
    fn is_spent(&self, index: usize, dice: u64, now_ms: u64) -> bool {
        let records = self.meta(index, segment::RECORDS).load(Ordering::Relaxed);
        let skipped = dice % (records / 2 + 1);
        // Behind its last record may be some of the segment's life before.
        let most = (records - skipped).min(SAMPLE);
        let (mut seen, mut live) = (0, 0);
        for (offset, record, header) in self.records(index).skip(skipped as usize).take(most as usize) {
            seen += 1;
            if let Some(found) = self.slot_of(index, offset, record, header) {
                live += usize::from(!self.is_expired(index, &found, now_ms) && !self.is_cleared(&found));
            }
        }
        live * 2 < seen
    }

    fn survey(&self) -> Survey {
        let tick_ms = os::boot_ms();
        let mut survey = Survey::default();
        for index in 0..self.geometry.segments {
            let word = self.meta(index, segment::STATE).load(Ordering::SeqCst);
            let queue = match state::state(word) {
                State::Sealed | State::Open => state::queue(word),
                State::Chain => {
                    let head =
                        self.meta(index, segment::HEAD).load(Ordering::Relaxed) as usize % self.geometry.segments;
                    state::queue(self.meta(head, segment::STATE).load(Ordering::Relaxed))
                }
                _ => continue,
            };
            // A damaged number counts for no more than fits.
            let records = self.meta(index, segment::RECORDS).load(Ordering::Relaxed);
            survey.records += records.min(self.geometry.segment_units() as u64);
            survey.small += usize::from(!queue.is_main());
            if state::state(word) != State::Sealed || !self.may_evict(index, tick_ms) {
                continue;
            }
            let oldest = if queue.is_main() { &mut survey.oldest_main } else { &mut survey.oldest_small };
            let candidate = (self.meta(index, segment::STAMP).load(Ordering::Relaxed), index);
            if oldest.is_none_or(|oldest| candidate < oldest) {
                *oldest = Some(candidate);
            }
        }
        survey
    }

    /// Whether nobody is writing into a sealed segment, and its dead owner's rest is over.
    pub(crate) fn may_evict(&self, index: usize, tick_ms: u64) -> bool {
        let rests_until_ms = self.meta(index, segment::RESTS_UNTIL_MS).load(Ordering::Relaxed);
        // A rest of an earlier boot is over.
        let rests = (tick_ms + 1..=tick_ms + REST_MS).contains(&rests_until_ms);
        self.writers(index) == 0 && !rests
    }

    fn evict_segment(&self, worker: &Worker, index: usize, keep: Keep, now_ms: u64) -> bool {
        let state_word = self.meta(index, segment::STATE);
        let sealed = state_word.load(Ordering::SeqCst);
        if state::state(sealed) != State::Sealed {
            return false;
        }
        let queue = state::queue(sealed);
        let evicting = state::pack(State::Evicting, queue, worker.owner);
        if state_word.replace(sealed, evicting).is_err() {
            return false;
        }
        if self.writers(index) != 0 {
            // A writer came in before the segment was taken: it is not to be disturbed.
            state_word.store(sealed, Ordering::SeqCst);
            return false;
        }
        if queue.is_large() {
            if let Some(queue) = self.keep_large(worker, index, (queue, keep), now_ms) {
                let stamp = self.header(header::STAMP).next();
                self.meta(index, segment::STAMP).store(stamp, Ordering::SeqCst);
                state_word.store(state::pack(State::Sealed, queue, state::owner(sealed)), Ordering::SeqCst);
                return true;
            }
        } else if !self.move_survivors(worker, index, (queue, keep), now_ms) {
            state_word.store(sealed, Ordering::SeqCst);
            return false;
        }
        self.recycle(index);
        self.count(worker.row(), Counter::EvictedSegments, 1);
        true
    }

    /// A large value has segments of its own: it survives by going to the end of the main queue, without a copy.
    fn keep_large(&self, worker: &Worker, index: usize, (queue, keep): (Queue, Keep), now_ms: u64) -> Option<Queue> {
        let live = self.live_records(index).next()?;
        if !self.is_worth_keeping(worker, index, &live, keep, now_ms) {
            self.drop_record(worker, queue, &live);
            return None;
        }
        let left = frequency_left(queue, keep, live.word);
        let kept = self.swap(live.position, live.word, |word| slot::with_frequency(word, left));
        kept.then_some(Queue::LargeMain)
    }

    /// Whether the segment can be freed: what is all to be kept stays where it is when there is no room for a copy.
    fn move_survivors(&self, worker: &Worker, index: usize, (queue, keep): (Queue, Keep), now_ms: u64) -> bool {
        for live in self.live_records(index) {
            let is_worth_it = self.is_worth_keeping(worker, index, &live, keep, now_ms);
            if is_worth_it && self.move_record(worker, index, (queue, keep), &live, now_ms) {
                continue;
            }
            if is_worth_it && keep == Keep::All {
                return false;
            }
            self.drop_record(worker, queue, &live);
        }
        true
    }

    /// The records of a segment, with their offsets.
    fn records(&self, index: usize) -> impl Iterator<Item = (usize, &[Word], Header)> {
        let end = if state::queue(self.meta(index, segment::STATE).load(Ordering::SeqCst)).is_large() {
            1
        } else {
            self.used_units(index)
        };
        let mut offset = 0;
        std::iter::from_fn(move || {
            while offset < end {
                let record = &self.segment(index)[offset * UNIT_WORDS..];
                let header = Header::load(record)?;
                let at = offset;
                offset += header.units;
                if header.kind != Kind::Hole {
                    return Some((at, record, header));
                }
            }
            None
        })
    }

    /// A record with the slot that points to it, if one still does.
    fn slot_of<'r>(&self, index: usize, offset: usize, record: &'r [Word], header: Header) -> Option<Live<'r>> {
        let mut found = None;
        self.occupied(header.hash, |slot| {
            let here = slot::segment(slot.word) == index && slot::offset(slot.word) == offset;
            if here {
                found = Some(slot);
            }
            here
        });
        found.map(|slot| Live { position: slot.position, word: slot.word, offset, record, header })
    }

    /// The records of a segment that slots still point to.
    fn live_records<'r>(&'r self, index: usize) -> impl Iterator<Item = Live<'r>> {
        self.records(index).filter_map(move |(offset, record, header)| self.slot_of(index, offset, record, header))
    }

    fn is_expired(&self, index: usize, live: &Live<'_>, now_ms: u64) -> bool {
        let salt = record::salt(self.generation(index), index, live.offset);
        let word = live.record[word::EXPIRY].load(Ordering::SeqCst);
        let dead_ms = |expires_ms: u64| expires_ms.saturating_add(live.header.stale_ms);
        record::expires_ms(word, salt).is_none_or(|expires_ms| dead_ms(expires_ms) <= now_ms)
    }

    fn is_worth_keeping(&self, worker: &Worker, index: usize, live: &Live<'_>, keep: Keep, now_ms: u64) -> bool {
        if self.is_expired(index, live, now_ms) {
            self.count(worker.row(), Counter::EvictedExpired, 1);
            return false;
        }
        (keep == Keep::All || slot::frequency(live.word) > 0) && !self.is_cleared(live)
    }

    /// Whether the record's location or prefix was cleared, or one of its tags invalidated, since its birth. (A key that was
    /// invalidated has no slot.)
    fn is_cleared(&self, live: &Live<'_>) -> bool {
        let Header { location_row, prefix_row, birth, .. } = live.header;
        let at = live.header.dependencies_at();
        let dependencies = live.record.get(at..at + live.header.dependencies).unwrap_or_default();
        !self.ledger().are_rows_fresh(birth, [location_row, prefix_row])
            || !self.ledger().are_tags_fresh(birth, dependencies.iter().map(|word| word.load(Ordering::Relaxed)))
    }

    /// Removes a record from the index; one that was evicted for want of use is remembered.
    fn drop_record(&self, worker: &Worker, queue: Queue, live: &Live<'_>) {
        if self.swap(live.position, live.word, |_| 0) {
            self.count(worker.row(), Counter::EvictedEntries, 1);
            if !queue.is_main() {
                self.remember_ghost(live.header.hash);
            }
        }
    }

    /// Copies a record to the evictor's open main segment (or, when it may have none, its small one) and leads the slot there.
    fn move_record(
        &self,
        worker: &Worker,
        index: usize,
        (queue, keep): (Queue, Keep),
        live: &Live<'_>,
        now_ms: u64,
    ) -> bool {
        let units = live.header.units;
        let Some(target) = self.reserve_for_survivor(worker, units, now_ms) else { return false };
        let from = &live.record[..units * UNIT_WORDS];
        let to = target.record();
        let salts = (record::salt(self.generation(index), index, live.offset), target.salt());
        if !self.copy_record(live, from, to, salts) {
            return false;
        }
        let kept = frequency_left(queue, keep, live.word);
        let fingerprint = slot::fingerprint(live.header.hash);
        let new = slot::pack(fingerprint, target.segment, target.generation, target.offset);
        let moved = self.swap(live.position, live.word, |_| slot::with_frequency(new, kept));
        if moved {
            self.count(worker.row(), Counter::Survivors, 1);
        }
        // Somebody replaced or removed it meanwhile: the copy is dead, and there is nothing to drop either.
        true
    }

    fn reserve_for_survivor(&self, worker: &Worker, units: usize, now_ms: u64) -> Option<super::alloc::Reserved<'_>> {
        self.reserve(worker, Queue::Main, units, now_ms).or_else(|| self.reserve_if_open(worker, Queue::Small, units))
    }

    fn copy_record(&self, live: &Live<'_>, from: &[Word], to: &[Word], (old, new): (u64, u64)) -> bool {
        let value_at = live.header.dependencies_at() + live.header.dependencies;
        let count_at = match (live.header.kind, live.header.dependencies) {
            (Kind::Count, 0) => Some(value_at),
            (Kind::Count, _) => {
                let bytes = from.get(value_at).map_or(0, |word| word.load(Ordering::Relaxed) as usize);
                Some(value_at + 1 + bytes.div_ceil(8))
            }
            _ => None,
        };
        for (place, (source, target)) in from.iter().zip(to).enumerate().skip(1) {
            let value = if place == word::EXPIRY {
                match record::freeze_expiry(source, old) {
                    Some(expires_ms) => record::salted_expiry(expires_ms, new),
                    None => return false,
                }
            } else if Some(place) == count_at {
                match record::freeze_count(source, old) {
                    Some(number) => record::salted_count(number, new),
                    None => return false,
                }
            } else {
                source.load(Ordering::Relaxed)
            };
            target.store(value, Ordering::Relaxed);
        }
        to[word::SHAPE].store(live.header.shape(), Ordering::Relaxed);
        true
    }

    /// Puts what dead owners of a row left behind back into circulation: nothing of it is lost but what they were writing.
    pub(crate) fn adopt(&self, row: usize, rests_until_ms: u64) {
        for index in 0..self.geometry.segments {
            let word = self.meta(index, segment::STATE);
            let found = word.load(Ordering::SeqCst);
            let owner = state::owner(found);
            if usize::from(owner.row) != row {
                continue;
            }
            match state::state(found) {
                State::Open => {
                    // It rests: a worker that was taken for dead may still be writing its last record.
                    self.meta(index, segment::RESTS_UNTIL_MS).store(rests_until_ms, Ordering::SeqCst);
                    self.forget_writers(index);
                    // A large value whose writer died between publishing it and saying so.
                    let is_large = Header::load(self.segment(index)).is_some_and(|header| header.kind == Kind::Large);
                    self.seal(index, found, if is_large { Queue::LargeSmall } else { state::queue(found) });
                }
                State::Evicting => {
                    let sealed = state::pack(State::Sealed, state::queue(found), owner);
                    let _ = word.replace(found, sealed);
                }
                State::Sealed if self.writers(index) > 0 => self.forget_writers(index),
                _ => {}
            }
        }
    }
}

/// The frequency with which a survivor goes on.
fn frequency_left(queue: Queue, keep: Keep, word: u64) -> u64 {
    match keep {
        Keep::All => slot::frequency(word),
        Keep::Used if queue.is_main() => slot::frequency(word).saturating_sub(1),
        Keep::Used => 0,
    }
}
