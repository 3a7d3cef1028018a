//! Changing what is there: expiries and counts, in place where that is possible, else by writing the entry anew.
//! Nothing is changed in place once it is frozen, so a copy never misses a change.

use super::alloc::Worker;
use super::counters::Counter;
use super::publish::{MOST_TRIES, Rule, back_off};
use super::read::{Damage, Located};
use super::record::{self, FROZEN, Kind, NEVER_MS};
use super::region::Region;
use super::words::{Buffer, Ordering};
use super::write::Imprint;
use crate::entry::{CODEC_COUNT, Incr, Value, Written};
use crate::key::Key;

impl Region {
    /// Changes when an entry expires; whether there is one. Longer is done in place; shorter writes the entry anew, since
    /// decoded copies take their own expiry as a lower bound.
    ///
    /// Without a worker of its own a process changes in place only; what it cannot shorten goes.
    pub(crate) fn touch(
        &self,
        worker: Option<&Worker>,
        key: &Key<'_>,
        expires_ms: u64,
        now_ms: u64,
        buffer: &mut Buffer,
    ) -> bool {
        for attempt in 0..MOST_TRIES {
            let Ok(located) = self.locate(key) else { continue };
            let Some(located) = located else { return false };
            if !self.is_live(key, &located, now_ms) {
                return false;
            }
            let old = located.header.expiry_word;
            let longer = located.expires_ms().is_some_and(|current| current <= expires_ms);
            if longer && old & FROZEN == 0 {
                let new = record::salted_expiry(expires_ms.min(NEVER_MS), located.salt());
                if located.expiry().replace(old, new).is_ok() && self.still_holds(located.position, located.word) {
                    self.count(self.row_of(worker), Counter::Touches, 1);
                    return true;
                }
                continue;
            }
            let Some(worker) = worker else {
                if old & FROZEN != 0 && longer {
                    // Its mover is about to lead the slot to where it can be changed.
                    back_off(attempt, self.geometry.workers);
                    continue;
                }
                self.give_up(None, &located);
                return false;
            };
            match self.rewrite(worker, key, &located, expires_ms, None, now_ms, buffer) {
                Written::Stored(_) => {
                    self.count(worker.row(), Counter::Touches, 1);
                    return true;
                }
                Written::Held => {}
                _ => {
                    self.give_up(Some(worker), &located);
                    return false;
                }
            }
        }
        false
    }

    /// There is no room for an entry that has to be written anew: it goes, rather than stay with what was asked to change.
    fn give_up(&self, worker: Option<&Worker>, located: &Located<'_>) {
        self.count(self.row_of(worker), Counter::Refused, 1);
        if self.swap(located.position, located.word, |_| 0) {
            self.free_large_unowned(located.word);
        }
    }

    /// The row to count in.
    fn row_of(&self, worker: Option<&Worker>) -> usize {
        worker.map_or(self.geometry.workers, Worker::row)
    }

    /// Adds to a count in place; without a worker of its own a process can do no more than that.
    pub(crate) fn add_to_count(
        &self,
        worker: Option<&Worker>,
        key: &Key<'_>,
        delta: i64,
        now_ms: u64,
        buffer: &mut Buffer,
    ) -> Incr {
        for attempt in 0..MOST_TRIES {
            let Ok(located) = self.locate(key) else { continue };
            let Some(located) = located else { return Incr::Missing };
            if !self.is_live(key, &located, now_ms) {
                return Incr::Missing;
            }
            if located.header.codec != CODEC_COUNT {
                return Incr::NotACount;
            }
            let word = located.value_at().and_then(|at| located.record.get(at));
            let in_place = word.filter(|_| located.header.kind == Kind::Count);
            if let Some(word) = in_place {
                let old = word.load(Ordering::SeqCst);
                let Some(number) = record::count(old, located.salt()) else {
                    // Recycled under this thread, or damaged: a damaged one is removed, so that this ends.
                    self.swap(located.position, located.word, |_| 0);
                    continue;
                };
                let Some(sum) = number.checked_add(delta) else { return Incr::NotACount };
                if old & FROZEN == 0 && record::fits_count(sum) {
                    let new = record::salted_count(sum, located.salt());
                    if word.replace(old, new).is_ok() {
                        self.overtake_loads(key);
                        self.raise_frequency(located.position, located.word);
                        self.count(self.row_of(worker), Counter::Counts, 1);
                        return Incr::Value(sum);
                    }
                    continue;
                }
            }
            let Some(worker) = worker else {
                back_off(attempt, self.geometry.workers);
                continue;
            };
            // Frozen by an evictor, or too large for a word: written anew, if the slot still leads here.
            let number = match self.freeze_and_copy(&located, buffer) {
                Ok((_, number)) => number,
                Err(Damage::Changed) => continue,
                Err(Damage::Corrupt) => {
                    self.give_up(Some(worker), &located);
                    return Incr::Missing;
                }
            };
            // Read after the freeze: a touch may have lengthened it in place until then.
            let word = located.expiry().load(Ordering::SeqCst);
            let Some(expires_ms) = record::expires_ms(word, located.salt()) else { continue };
            let Some(sum) = number.checked_add(delta) else { return Incr::NotACount };
            match self.rewrite(worker, key, &located, expires_ms, Some(sum), now_ms, buffer) {
                Written::Stored(_) => {
                    self.overtake_loads(key);
                    self.count(worker.row(), Counter::Counts, 1);
                    return Incr::Value(sum);
                }
                Written::Held => {}
                _ => {
                    self.give_up(Some(worker), &located);
                    return Incr::Missing;
                }
            }
        }
        Incr::Missing
    }

    /// Freezes what is changed in place, so that nothing is lost between this copy and the swap of the slot.
    fn freeze_and_copy(&self, located: &Located<'_>, buffer: &mut Buffer) -> Result<(u8, i64), Damage> {
        let is_frozen = record::freeze_expiry(located.expiry(), located.salt()).is_some()
            && (located.header.kind != Kind::Count || located.freeze_count().is_some());
        let copied = if is_frozen { self.copy(located, buffer) } else { Err(Damage::Corrupt) };
        if self.generation(located.segment) == located.generation { copied } else { Err(Damage::Changed) }
    }

    /// Writes an entry anew with another expiry or count, if its slot still leads to what was located.
    #[allow(clippy::too_many_arguments)]
    fn rewrite(
        &self,
        worker: &Worker,
        key: &Key<'_>,
        located: &Located<'_>,
        expires_ms: u64,
        count: Option<i64>,
        now_ms: u64,
        buffer: &mut Buffer,
    ) -> Written {
        let (codec, number) = match self.freeze_and_copy(located, buffer) {
            Ok(found) => found,
            Err(Damage::Changed) => return Written::Held,
            Err(Damage::Corrupt) => return Written::Refused,
        };
        let dependencies: Vec<u64> = located.dependencies().collect();
        let tags = self.tag_names(located);
        let names: Vec<&[u8]> = tags.iter().map(Vec::as_slice).collect();
        let imprint = Imprint {
            expires_ms,
            now_ms,
            // Nobody keeps a decoded copy by its stamp.
            change: u64::MAX,
            birth: located.header.birth,
            cost_us: located.header.cost_us,
            stale_ms: located.header.stale_ms,
            tags: &names,
            tag_hashes: &dependencies,
        };
        let value = match codec {
            CODEC_COUNT => Value::Count(count.unwrap_or(number)),
            _ => Value::Bytes { codec, bytes: buffer.bytes() },
        };
        let rule = Rule::Exactly { position: located.position, word: located.word };
        self.write_by(worker, key, value, imprint, rule)
    }
}
