//! Publishing: leading the index to a record, under a condition, and away from one.
//! "Changed while looking" is never taken for "absent": what lost a race looks again.

use super::alloc::Worker;
use super::counters::Counter;
use super::index::Inserted;
use super::layout::UNIT_WORDS;
use super::read::Located;
use super::record::{Header, Kind};
use super::region::Region;
use super::slot;
use super::words::Ordering;
use crate::entry::{Stamp, When};
use crate::key::Key;

/// Tries before a write that always loses its race is refused. Each loss means that another write won.
pub(crate) const MOST_TRIES: u32 = 10_000;

/// The engine's own condition beside those of a caller: that one slot still holds one word.
#[derive(Clone, Copy)]
pub(crate) enum Rule<'s> {
    When(When<'s>),
    Exactly { position: usize, word: u64 },
    Load(&'s Overtaking<'s>),
}

/// What a load must not have been overtaken by.
pub(crate) struct Overtaking<'s> {
    /// The live entry that was there when the load began.
    pub(crate) seen: Option<u64>,
    /// Asked last, when whoever invalidates the key can see that it is about to be published.
    pub(crate) may_commit: &'s dyn Fn() -> bool,
}

/// Where a record was published.
pub(crate) struct Published {
    pub(crate) position: usize,
    pub(crate) replaced: u64,
}

impl Region {
    /// Whether a condition holds now; `publish` decides.
    pub(crate) fn holds(&self, key: &Key<'_>, when: When<'_>, now_ms: u64) -> bool {
        let found = self.find(key).filter(|located| self.is_live(key, located, now_ms));
        self.allows(when, found.as_ref())
    }

    /// Whether a condition allows a write over what is there.
    fn allows(&self, when: When<'_>, live: Option<&Located<'_>>) -> bool {
        match when {
            When::Always => true,
            When::Absent => live.is_none(),
            When::Present => live.is_some(),
            When::Unchanged(stamp) => live.is_some_and(|located| self.is_same(located, stamp)),
        }
    }

    fn is_same(&self, located: &Located<'_>, stamp: &Stamp) -> bool {
        stamp.region_id == self.id && located.header.id == stamp.id
    }

    /// Leads the index to a record. `Some(None)`: the rule did not hold; `None`: it lost every race.
    pub(crate) fn publish(
        &self,
        worker: &Worker,
        key: &Key<'_>,
        new: u64,
        rule: Rule<'_>,
        now_ms: u64,
    ) -> Option<Option<Published>> {
        for attempt in 0..MOST_TRIES {
            if let Rule::Exactly { position, word } = rule {
                let swapped = self.swap(position, word, |current| slot::with_frequency(new, slot::frequency(current)));
                return Some(swapped.then_some(Published { position, replaced: word }));
            }
            let when = match rule {
                Rule::When(when) => when,
                Rule::Load(overtaking) => match self.publish_load(worker, key, new, overtaking, now_ms) {
                    Inserted::Stored { position, displaced } => {
                        return Some(Some(Published { position, replaced: displaced }));
                    }
                    Inserted::Forbidden => return Some(None),
                    Inserted::Again => {
                        back_off(attempt, worker.row());
                        continue;
                    }
                },
                Rule::Exactly { .. } => return None,
            };
            // The slot first, then what it leads to: a word that was not our key's when it was looked at never becomes so, and
            // the swap fails if the slot has another word by then.
            let mut occupied = None;
            self.occupied(key.low, |slot| {
                occupied = Some(slot);
                true
            });
            if !matches!(when, When::Always) {
                // "Changed while looking" is never "absent".
                let Ok(located) = self.locate(key) else { continue };
                let seen = located.as_ref().map(|located| slot::identity(located.word));
                if seen.is_some() && seen != occupied.map(|slot| slot::identity(slot.word)) {
                    continue;
                }
                let live = located.as_ref().filter(|located| self.is_live(key, located, now_ms));
                if !self.allows(when, live) {
                    return Some(None);
                }
                if let (When::Unchanged(stamp), Some(live)) = (when, live)
                    && live.header.kind == Kind::Count
                {
                    // Changed in place under the same id: from here on it is not, until the slot leads elsewhere.
                    match live.freeze_count() {
                        Some(count) if count == stamp.count => {}
                        Some(_) => return Some(None),
                        None => continue,
                    }
                }
            }
            match occupied {
                // Another key of the same fingerprint is replaced as well: this is a cache.
                Some(slot) => {
                    let swapped = self
                        .swap(slot.position, slot.word, |current| slot::with_frequency(new, slot::frequency(current)));
                    if swapped {
                        return Some(Some(Published { position: slot.position, replaced: slot.word }));
                    }
                }
                None => match self.insert(key.low, new, || true) {
                    Inserted::Stored { position, displaced } => {
                        if displaced != 0 && self.generation_of(displaced).is_some() {
                            self.count(worker.row(), Counter::EvictedEntries, 1);
                        }
                        return Some(Some(Published { position, replaced: displaced }));
                    }
                    Inserted::Again => back_off(attempt, worker.row()),
                    Inserted::Forbidden => return Some(None),
                },
            }
        }
        None
    }

    /// Publishes what a load brought, unless it was overtaken. A delete raises the Ledger first and then removes tentative words;
    /// a load puts its tentative word first and then asks the Ledger: whichever comes second sees the other.
    fn publish_load(&self, worker: &Worker, key: &Key<'_>, new: u64, rule: &Overtaking<'_>, now_ms: u64) -> Inserted {
        let mut occupied = None;
        self.occupied(key.low, |slot| {
            occupied = Some(slot);
            true
        });
        let Ok(located) = self.locate(key) else { return Inserted::Again };
        let live = located.as_ref().filter(|located| self.is_live(key, located, now_ms));
        if live.is_some_and(|live| Some(live.header.id) != rule.seen) {
            // A set came in between: what it wrote is younger than what the load has seen.
            return Inserted::Forbidden;
        }
        let Some(slot) = occupied else {
            if located.is_some() {
                return Inserted::Again;
            }
            let inserted = self.insert(key.low, new, rule.may_commit);
            if let Inserted::Stored { displaced, .. } = inserted
                && displaced != 0
                && self.generation_of(displaced).is_some()
            {
                self.count(worker.row(), Counter::EvictedEntries, 1);
            }
            return inserted;
        };
        if located.is_some_and(|located| slot::identity(located.word) != slot::identity(slot.word)) {
            return Inserted::Again;
        }
        let kept = |current| slot::with_frequency(new, slot::frequency(current));
        if !self.swap(slot.position, slot.word, |current| kept(current) | slot::TENTATIVE) {
            return Inserted::Again;
        }
        let tentative = self.words()[slot.position].load(Ordering::SeqCst);
        if slot::identity(tentative) != slot::identity(new) | slot::TENTATIVE {
            return Inserted::Again;
        }
        if !(rule.may_commit)() {
            let _ = self.words()[slot.position].replace(tentative, 0);
            return Inserted::Forbidden;
        }
        match self.words()[slot.position].replace(tentative, tentative & !slot::TENTATIVE) {
            Ok(()) => Inserted::Stored { position: slot.position, displaced: slot.word },
            Err(_) => Inserted::Again,
        }
    }

    /// Leads a slot away from a damaged record, if it still leads there.
    pub(crate) fn discard(&self, position: usize, word: u64) {
        if self.swap(position, word, |_| 0) {
            self.free_large_unowned(word);
        }
    }

    /// Removes whatever has this hash, for those who know no more of a key.
    pub(crate) fn remove_hash(&self, low: u64) {
        self.remove_tentative(low);
        self.occupied(low, |slot| {
            let record = self.segment(slot::segment(slot.word)).get(slot::offset(slot.word) * UNIT_WORDS..);
            if record.and_then(Header::load).is_some_and(|header| header.hash == low) {
                self.discard(slot.position, slot.word);
            }
            false
        });
    }

    /// Removes the entry with this id, if it is still the one of its key; whether it was. Not for counts, which change in place.
    pub(crate) fn remove_unchanged(&self, key: &Key<'_>, id: u64) -> bool {
        for _ in 0..MOST_TRIES {
            let Ok(located) = self.locate(key) else { continue };
            let Some(located) = located.filter(|located| located.header.id == id) else { return false };
            if self.swap(located.position, located.word, |_| 0) {
                self.free_large_unowned(located.word);
                return true;
            }
        }
        false
    }

    /// Removes an entry; whether there was one that could be read before its key was invalidated.
    pub(crate) fn remove(&self, key: &Key<'_>, now_ms: u64) -> bool {
        self.remove_tentative(key.low);
        for _ in 0..MOST_TRIES {
            let Ok(located) = self.locate(key) else { continue };
            let Some(located) = located else { return false };
            let Header { birth, prefix_row, .. } = located.header;
            let live = located.expires_ms().is_some_and(|expires_ms| now_ms < expires_ms)
                && self.ledger().are_rows_fresh(birth, [key.space.location_row, prefix_row])
                && self.ledger().are_tags_fresh(birth, located.dependencies());
            if self.swap(located.position, located.word, |_| 0) {
                self.free_large_unowned(located.word);
                return live;
            }
        }
        false
    }
}

/// Waits a little, differently in each worker, after losing a race for a slot.
pub(crate) fn back_off(attempt: u32, row: usize) {
    #[cfg(any(loom, shuttle))]
    {
        let _ = (attempt, row);
        super::schedules::atomic::yield_now();
    }
    #[cfg(not(any(loom, shuttle)))]
    for _ in 0..(attempt.min(64) * (1 + row as u32 % 7)) {
        std::hint::spin_loop();
    }
}
