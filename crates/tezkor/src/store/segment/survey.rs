//! Looking at a region as a whole: keys, sizes, what became of a key. For people and tests; never on the path of a get.

use super::SegmentStore;
use super::claims::Table;
use super::counters::Counter;
use super::layout::{BUCKET_WORDS, UNIT_WORDS, segment, worker};
use super::read::Located;
use super::record::{Header, Kind, NEVER_MS};
use super::slot;
use super::state::State;
use super::words::{Buffer, Ordering};
use crate::clock::wall_ms;
use crate::event::{Explanation, Missing, Stats};
use crate::key::{Key, Space};

impl SegmentStore {
    /// Calls `each` with the full key of every live entry of a prefix, until it returns `false`.
    pub fn scan(&self, space: Space, each: &mut dyn FnMut(&[u8]) -> bool) {
        let (attached, now_ms) = self.enter();
        let space = attached.renewed_space(space);
        let region = &attached.region;
        let mut going = true;
        self.each_record(&mut |header, key_bytes| {
            let key = Key::new(space, region.seed, &key_bytes[8..]);
            let ours = header.prefix_row == space.prefix_row && key_bytes[..8] == space.location.to_le_bytes();
            let found = if ours && key.low == header.hash { region.find(&key) } else { None };
            if found.is_some_and(|at| at.is_of_prefix(space) && region.is_live(&key, &at, now_ms)) {
                going = each(&key_bytes[8..]);
            }
            going
        });
    }

    /// Calls `each` with the full key of every live entry of a location, whatever its prefix, until it returns `false`.
    pub fn scan_location(&self, space: Space, each: &mut dyn FnMut(&[u8]) -> bool) {
        let (attached, now_ms) = self.enter();
        let space = attached.renewed_space(space);
        let region = &attached.region;
        let mut going = true;
        self.each_record(&mut |header, key_bytes| {
            let key = Key::new(space, region.seed, &key_bytes[8..]);
            let is_ours = key_bytes[..8] == space.location.to_le_bytes() && key.low == header.hash;
            if is_ours && region.find(&key).is_some_and(|at| region.is_live(&key, &at, now_ms)) {
                going = each(&key_bytes[8..]);
            }
            going
        });
    }

    /// Calls `each` with the header and key of every record that a slot leads to.
    pub(super) fn each_record(&self, each: &mut dyn FnMut(&Header, &[u8]) -> bool) {
        let attached = self.attached.load();
        let region = &attached.region;
        let mut words = Vec::new();
        for position in region.geometry.index_at..region.geometry.index_at + region.geometry.buckets * BUCKET_WORDS {
            let word = region.words()[position].load(Ordering::SeqCst);
            let is_slot = !(position - region.geometry.index_at).is_multiple_of(BUCKET_WORDS);
            if !is_slot || word == 0 || word & slot::TENTATIVE != 0 {
                continue;
            }
            let Some(generation) = region.generation_of(word) else { continue };
            let index = slot::segment(word);
            let record = region.segment(index).get(slot::offset(word) * UNIT_WORDS..).unwrap_or_default();
            let Some(header) = Header::load(record) else { continue };
            if header.kind == Kind::Hole || header.key_length < 8 {
                continue;
            }
            let Some(key) = record.get(header.key_at()..header.key_at() + header.key_words()) else { continue };
            words.clear();
            super::words::copy_out(key, &mut words);
            if region.generation(index) != generation {
                continue;
            }
            let bytes: &[u8] = bytemuck::cast_slice(&words);
            if !each(&header, &bytes[..header.key_length]) {
                return;
            }
        }
    }

    /// Where an entry is and where it comes from, or why it is not there, as far as the region still knows.
    pub fn explain(&self, key: &Key<'_>) -> Explanation {
        let (attached, now_ms) = self.enter();
        let renewed = attached.renewed(key);
        let key = renewed.as_ref().unwrap_or(key);
        let region = &attached.region;
        let mut explanation = Explanation { store: self.kind(), ..Explanation::default() };
        let Some(located) = region.find(key) else {
            explanation.missing = Some(if self.was_too_large(region, key) {
                Missing::TooLarge
            } else if region.is_ghost(key.low) {
                Missing::Evicted
            } else {
                match region.ledger().was_invalidated(key) {
                    Some(true) => Missing::Deleted,
                    Some(false) => Missing::NeverSet,
                    None => Missing::DeletedOrNeverSet,
                }
            });
            return explanation;
        };
        let expires_ms = located.expires_ms().unwrap_or(0);
        if expires_ms <= now_ms {
            explanation.missing = Some(Missing::Expired);
        } else if !region.is_fresh(key, &located) {
            explanation.missing = Some(Missing::Invalidated);
        }
        let to_wall = |time_ms: u64| (wall_now(self, now_ms) + time_ms).saturating_sub(now_ms);
        explanation.created_unix_ms = Some(to_wall(located.header.created_ms));
        explanation.expires_unix_ms = (expires_ms != NEVER_MS).then(|| to_wall(expires_ms));
        explanation.stale_ms = located.header.stale_ms;
        explanation.size_bytes =
            located.header.value_length.max(if located.header.kind == Kind::Count { 8 } else { 0 });
        explanation.codec = Some(located.header.codec);
        explanation.tags = region.tag_names(&located);
        explanation.frequency = slot::frequency(located.word) as u8;
        explanation.queue = self.queue_of(&located);
        explanation.worker = Some(located.header.writer);
        let writer = usize::from(located.header.writer);
        if writer < region.geometry.workers {
            let row = region.worker(writer);
            // The row may have another owner by now, who began later than the entry was written.
            let began = row[worker::STARTED_MS].load(Ordering::Relaxed);
            explanation.pid =
                (began <= located.header.created_ms).then(|| row[worker::PID].load(Ordering::Relaxed) as u32);
        }
        explanation
    }

    fn queue_of(&self, located: &Located<'_>) -> &'static str {
        let attached = self.attached.load();
        let word = attached.region.meta(located.segment, segment::STATE).load(Ordering::Relaxed);
        if super::state::queue(word).is_main() { "main" } else { "small" }
    }

    /// What kind of store this is.
    pub fn kind(&self) -> &'static str {
        match (&self.place, self.attached.load().file) {
            (super::Place::Private, _) => "memory",
            (super::Place::File { .. }, None) => "memory (in place of a file)",
            (super::Place::File { survives_boot: true, .. }, _) => "file",
            _ => "shared",
        }
    }

    /// Sizes and counters, summed over all processes.
    pub fn stats(&self) -> Stats {
        let (attached, now_ms) = self.enter();
        let region = &attached.region;
        let geometry = &region.geometry;
        let mut stats = Stats {
            store: self.kind(),
            region_bytes: geometry.size_bytes,
            segment_bytes: geometry.segment_words as u64 * 8,
            segments: geometry.segments as u64,
            largest_value_bytes: geometry.largest_value() as u64,
            loads_claimed: region.claims_in_use(Table::Flights),
            locks_claimed: region.claims_in_use(Table::Locks),
            rates_claimed: region.claims_in_use(Table::Rates),
            ..Stats::default()
        };
        for index in 0..geometry.segments {
            match region.state(index) {
                State::Untouched => stats.segments_untouched += 1,
                State::Free => stats.segments_free += 1,
                State::Open => stats.segments_open += 1,
                State::Unavailable => stats.segments_unavailable += 1,
                State::Evicting => stats.segments_evicting += 1,
                State::Sealed | State::Chain => {}
            }
        }
        for row in 0..geometry.workers {
            stats.workers += region.worker(row)[worker::STATE].load(Ordering::Relaxed) & 1;
        }
        self.each_record(&mut |header, key| {
            let live = header.expiry_word & NEVER_MS > now_ms
                && region.ledger().are_rows_fresh(header.birth, [header.location_row, header.prefix_row]);
            if live {
                stats.entries += 1;
                stats.payload_bytes += (header.value_length as u64).max(8);
                stats.key_bytes += key.len() as u64 - 8;
            }
            true
        });
        stats.counters = Counter::ALL.iter().map(|counter| (counter.name(), region.total(*counter))).collect();
        stats
    }

    /// Checks every invariant of the region that can be checked while nobody writes; what does not hold, in words.
    pub fn validate(&self) -> Vec<String> {
        let (attached, _) = self.enter();
        let region = &attached.region;
        let mut faults = Vec::new();
        let mut buffer = Buffer::new();
        for bucket in 0..region.geometry.buckets {
            let at = region.geometry.index_at + bucket * BUCKET_WORDS;
            let mut seen = Vec::new();
            for position in at + 1..at + BUCKET_WORDS {
                let word = region.words()[position].load(Ordering::SeqCst);
                if word == 0 || word & slot::TENTATIVE != 0 || region.generation_of(word).is_none() {
                    continue;
                }
                let fingerprint = (word >> 45) & 0xffff;
                if seen.contains(&fingerprint) {
                    faults.push(format!("bucket {bucket} has two committed slots of fingerprint {fingerprint:x}"));
                }
                seen.push(fingerprint);
                let (index, offset) = (slot::segment(word), slot::offset(word));
                if !matches!(region.state(index), State::Open | State::Sealed) {
                    faults.push(format!("slot {position} leads to segment {index}, {:?}", region.state(index)));
                }
                let record = region.segment(index).get(offset * UNIT_WORDS..).unwrap_or_default();
                let Some(header) = Header::load(record).filter(|header| header.kind != Kind::Hole) else {
                    faults.push(format!("slot {position} leads to no record"));
                    continue;
                };
                let generation = region.generation(index);
                let located = Located { position, word, generation, segment: index, offset, record, header };
                if region.copy(&located, &mut buffer).is_err() {
                    faults.push(format!("slot {position} leads to a record that does not fit its checksum"));
                }
            }
        }
        for index in 0..region.geometry.segments {
            if region.writers(index) > 0 && region.state(index) != State::Free {
                faults.push(format!("segment {index} has {} writers under way", region.writers(index)));
            }
            if region.state(index) == State::Evicting {
                faults.push(format!("segment {index} is being evicted by nobody"));
            }
        }
        faults
    }
}

fn wall_now(store: &SegmentStore, now_ms: u64) -> u64 {
    match store.time.clock() {
        crate::clock::Clock::Boot => wall_ms(),
        _ => now_ms,
    }
}
