//! Finding and reading an entry without a lock: slot, generation, slot again, bounds, full key, copy, generation again.
//! It never returns bytes that were copied while their segment was recycled, nor those of another key.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::layout::UNIT_WORDS;
use super::record::{self, Header, Kind, word};
use super::region::Region;
use super::slot;
use super::words::{Buffer, Ordering, Word, copy_out, equal, fence};
use crate::entry::{CODEC_COUNT, Found, Stamp};
use crate::key::{Key, Space};
use crate::ledger::SHARED_ROW;

/// Looks at a bucket that changes all the time before a plain read takes it for a miss.
const MOST_LOOKS: usize = 64;

/// Something changed while it was looked at: look again. Never to be taken for "absent".
#[derive(Clone, Copy, Debug)]
pub(crate) struct Changed;

/// An entry of the right key, whose segment had this generation when its header was read.
pub(crate) struct Located<'r> {
    pub(crate) position: usize,
    pub(crate) word: u64,
    pub(crate) generation: u64,
    pub(crate) segment: usize,
    pub(crate) offset: usize,
    /// From the start of the record to the end of the segment.
    pub(crate) record: &'r [Word],
    pub(crate) header: Header,
}

impl<'r> Located<'r> {
    pub(crate) fn salt(&self) -> u64 {
        record::salt(self.generation, self.segment, self.offset)
    }

    /// When it expires by what was read, `None` when the word is damaged.
    pub(crate) fn expires_ms(&self) -> Option<u64> {
        record::expires_ms(self.header.expiry_word, self.salt())
    }

    /// When it is of no use any more, stale or not.
    pub(crate) fn dead_ms(&self) -> Option<u64> {
        self.expires_ms().map(|expires_ms| expires_ms.saturating_add(self.header.stale_ms))
    }

    /// Whether it was written under the prefix of a space, whose row its header has.
    pub(crate) fn is_of_prefix(&self, space: Space) -> bool {
        space.prefix_row != SHARED_ROW || self.dependencies().any(|hash| hash == super::prefix_dependency(space))
    }

    pub(crate) fn expiry(&self) -> &'r Word {
        &self.record[word::EXPIRY]
    }

    /// Where the value begins; `None` when the lengths cannot be right.
    pub(crate) fn value_at(&self) -> Option<usize> {
        let tags_at = self.header.dependencies_at() + self.header.dependencies;
        if self.header.dependencies == 0 {
            return Some(tags_at);
        }
        let bytes = self.record.get(tags_at)?.load(Ordering::Relaxed);
        let value_at = tags_at.checked_add(1)?.checked_add(usize::try_from(bytes).ok()?.div_ceil(8))?;
        (value_at <= self.header.units * UNIT_WORDS).then_some(value_at)
    }

    /// Freezes the word of a count; the number in it. `None` when it was recycled meanwhile, or is damaged.
    pub(crate) fn freeze_count(&self) -> Option<i64> {
        record::freeze_count(self.record.get(self.value_at()?)?, self.salt())
    }

    pub(crate) fn dependencies(&self) -> impl Iterator<Item = u64> {
        let at = self.header.dependencies_at();
        self.record[at..at + self.header.dependencies].iter().map(|word| word.load(Ordering::Relaxed))
    }

    pub(crate) fn stamp(&self, region: &Region, change: u64) -> Option<Stamp> {
        Some(Stamp {
            region_id: region.id,
            position: self.position,
            identity: slot::identity(self.word),
            generation: self.generation,
            id: self.header.id,
            birth: self.header.birth,
            prefix_row: self.header.prefix_row,
            expires_ms: self.expires_ms()?,
            change,
            dependencies: self.header.dependencies > 0,
            count: 0,
            cost_us: self.header.cost_us,
        })
    }
}

/// What a read came to.
pub(crate) enum Read {
    Hit(Found),
    Absent,
    Expired,
    /// Expired, not invalidated, and kept for as long as a load may take or fail.
    Stale(Found),
    Invalidated,
    /// The slot's position and word.
    Corrupt(usize, u64),
}

impl Region {
    /// Finds the record of a key, live or not.
    #[inline]
    pub(crate) fn locate<'r>(&'r self, key: &Key<'_>) -> Result<Option<Located<'r>>, Changed> {
        let mut result = Ok(None);
        self.occupied(key.low, |slot| {
            let segment = slot::segment(slot.word);
            let offset = slot::offset(slot.word);
            let record = self.segment(segment).get(offset * UNIT_WORDS..).unwrap_or_default();
            let header = Header::load(record);
            let matches = header.as_ref().is_some_and(|header| {
                let (start, end) = (header.key_at(), header.key_at() + header.key_words());
                header.kind != Kind::Hole
                    && header.hash == key.low
                    && header.key_length == key.bytes.len() + 8
                    && end <= record.len()
                    && record[start].load(Ordering::Relaxed) == key.space.location
                    && equal(&record[start + 1..end], key.bytes)
            });
            // What was read counts only if the slot still held the word and the segment its generation.
            fence(Ordering::Acquire);
            if !self.still_holds(slot.position, slot.word) || self.generation(segment) != slot.generation {
                result = Err(Changed);
                return true;
            }
            match header {
                Some(header) if matches => {
                    result = Ok(Some(Located {
                        position: slot.position,
                        word: slot.word,
                        generation: slot.generation,
                        segment,
                        offset,
                        record,
                        header,
                    }));
                    true
                }
                // Another key of the same fingerprint, or damage.
                _ => false,
            }
        });
        result
    }

    /// Finds the record of a key, looking again as often as it takes (within reason: a bucket that never rests is a miss).
    pub(crate) fn find<'r>(&'r self, key: &Key<'_>) -> Option<Located<'r>> {
        (0..MOST_LOOKS).find_map(|_| self.locate(key).ok()).flatten()
    }

    /// Whether an entry may still be served: not expired, not invalidated.
    pub(crate) fn is_live(&self, key: &Key<'_>, located: &Located<'_>, now_ms: u64) -> bool {
        located.expires_ms().is_some_and(|expires_ms| now_ms < expires_ms) && self.is_fresh(key, located)
    }

    pub(crate) fn is_fresh(&self, key: &Key<'_>, located: &Located<'_>) -> bool {
        let header = &located.header;
        self.ledger().are_rows_fresh(header.birth, [key.space.location_row, header.prefix_row])
            && (header.dependencies == 0 || self.ledger().are_tags_fresh(header.birth, located.dependencies()))
    }

    /// Reads the value of a key into the buffer.
    pub(crate) fn read(&self, key: &Key<'_>, now_ms: u64, buffer: &mut Buffer) -> Read {
        self.read_until(key, now_ms, buffer, |located| located.expires_ms())
    }

    /// Reads the value of a key that a load is about to replace: a stale one too.
    pub(crate) fn read_stale(&self, key: &Key<'_>, now_ms: u64, buffer: &mut Buffer) -> Read {
        match self.read_until(key, now_ms, buffer, |located| located.dead_ms()) {
            Read::Hit(found) if now_ms >= found.stamp.expires_ms => Read::Stale(found),
            other => other,
        }
    }

    fn read_until(
        &self,
        key: &Key<'_>,
        now_ms: u64,
        buffer: &mut Buffer,
        until: impl Fn(&Located<'_>) -> Option<u64>,
    ) -> Read {
        for _ in 0..MOST_LOOKS {
            // The change counter is loaded first: what is found fresh below is fresh at least up to it.
            let change = self.ledger().change();
            let Ok(located) = self.locate(key) else { continue };
            let Some(located) = located else {
                // A load is about to replace what is there: a matter of nanoseconds, unless it died or sleeps.
                if !cfg!(any(loom, shuttle)) && self.has_tentative(key.low) {
                    std::hint::spin_loop();
                    continue;
                }
                return Read::Absent;
            };
            let corrupt = Read::Corrupt(located.position, located.word);
            let Some(until_ms) = until(&located) else { return corrupt };
            if now_ms >= until_ms {
                return Read::Expired;
            }
            if !self.is_fresh(key, &located) {
                return Read::Invalidated;
            }
            let Some(mut stamp) = located.stamp(self, change) else { return corrupt };
            let found = self.copy(&located, buffer);
            fence(Ordering::Acquire);
            if self.generation(located.segment) != located.generation {
                continue;
            }
            return match found {
                Ok((codec, count)) => {
                    self.raise_frequency(located.position, located.word);
                    stamp.count = count;
                    Read::Hit(Found { codec, count, stamp })
                }
                Err(Damage::Changed) => continue,
                Err(Damage::Corrupt) => corrupt,
            };
        }
        Read::Absent
    }

    /// Copies the value and checks the checksum; the buffer's bytes are the value's afterwards.
    pub(crate) fn copy(&self, located: &Located<'_>, buffer: &mut Buffer) -> Result<(u8, i64), Damage> {
        let header = &located.header;
        let value_at = located.value_at().ok_or(Damage::Corrupt)?;
        let words = buffer.clear();
        copy_out(&located.record[..1], words);
        copy_out(&located.record[word::HASH..=word::ID], words);
        copy_out(&located.record[word::CODEC..=word::LENGTHS], words);
        let fixed = words.len();
        if header.kind == Kind::Count {
            let word = located.record.get(value_at).ok_or(Damage::Corrupt)?;
            copy_out(&located.record[header.header_words..value_at], words);
            let count = record::count(word.load(Ordering::SeqCst), located.salt()).ok_or(Damage::Corrupt)?;
            return self.check(header, buffer).map(|()| (CODEC_COUNT, count));
        }
        let start = (fixed + value_at - header.header_words) * 8;
        let value_words = header.value_length.div_ceil(8);
        match header.kind {
            Kind::Plain => {
                let end = value_at + value_words;
                if end > header.units * UNIT_WORDS {
                    return Err(Damage::Corrupt);
                }
                copy_out(&located.record[header.header_words..end], words);
                buffer.select(start, header.value_length);
            }
            _ => {
                let chain_words = self.copy_chain(located, value_at, value_words, words)?;
                buffer.select(start + chain_words * 8, header.value_length);
            }
        }
        self.check(header, buffer)?;
        let count = match header.codec {
            CODEC_COUNT => i64::from_le_bytes(buffer.bytes().try_into().map_err(|_| Damage::Corrupt)?),
            _ => 0,
        };
        Ok((header.codec, count))
    }

    /// Copies the parts of a large value; each member's generation is checked after its part.
    fn copy_chain(
        &self,
        located: &Located<'_>,
        list_at: usize,
        value_words: usize,
        words: &mut Vec<u64>,
    ) -> Result<usize, Damage> {
        let record = located.record;
        let count = record.get(list_at).ok_or(Damage::Corrupt)?.load(Ordering::Relaxed) as usize;
        if count > self.geometry.segments {
            return Err(Damage::Corrupt);
        }
        let first_at = list_at + 1 + 2 * count;
        let in_head = record.len().saturating_sub(first_at).min(value_words);
        if first_at > record.len() || in_head + count * self.geometry.segment_words < value_words {
            return Err(Damage::Corrupt);
        }
        copy_out(&record[located.header.header_words..first_at + in_head], words);
        let mut left = value_words - in_head;
        for member in 0..count {
            let pair = list_at + 1 + 2 * member;
            let segment = record[pair].load(Ordering::Relaxed) as usize;
            let generation = record[pair + 1].load(Ordering::Relaxed);
            if segment >= self.geometry.segments {
                return Err(Damage::Corrupt);
            }
            let part = left.min(self.geometry.segment_words);
            copy_out(&self.segment(segment)[..part], words);
            fence(Ordering::Acquire);
            if self.generation(segment) != generation {
                // Members are recycled after their head only: with the head as it was, its list is wrong.
                let recycled = self.generation(located.segment) != located.generation;
                return Err(if recycled { Damage::Changed } else { Damage::Corrupt });
            }
            left -= part;
        }
        Ok(first_at - list_at)
    }

    fn check(&self, header: &Header, buffer: &Buffer) -> Result<(), Damage> {
        let all = buffer.span(0, buffer.words().len() * 8).unwrap_or_default();
        if xxh3_64_with_seed(all, self.seed) == header.checksum { Ok(()) } else { Err(Damage::Corrupt) }
    }

    /// Whether what was decoded under this stamp is still the entry, and fresh; the stamp follows an entry that moved.
    #[inline]
    pub(crate) fn is_current(&self, key: &Key<'_>, stamp: &mut Stamp, now_ms: u64) -> bool {
        if stamp.region_id != self.id {
            return false;
        }
        let change = self.ledger().change();
        let word = self.words()[stamp.position].load(Ordering::SeqCst);
        let in_place = slot::identity(word) == stamp.identity
            && self.generation(slot::segment(word)) == stamp.generation
            && now_ms < stamp.expires_ms
            && (change == stamp.change
                || (!stamp.dependencies
                    && self.ledger().are_rows_fresh(stamp.birth, [key.space.location_row, stamp.prefix_row])));
        if in_place {
            stamp.change = change;
            self.raise_frequency(stamp.position, word);
            return true;
        }
        self.follow(key, stamp, now_ms)
    }

    /// The slow half of `is_current`: the entry may have moved, been touched, or depend on tags.
    #[cold]
    fn follow(&self, key: &Key<'_>, stamp: &mut Stamp, now_ms: u64) -> bool {
        let change = self.ledger().change();
        let Some(located) = self.find(key) else { return false };
        let same = located.header.id == stamp.id && self.is_live(key, &located, now_ms);
        fence(Ordering::Acquire);
        if !same || self.generation(located.segment) != located.generation {
            return false;
        }
        match located.stamp(self, change) {
            Some(fresh) => {
                *stamp = fresh;
                self.raise_frequency(located.position, located.word);
                true
            }
            None => false,
        }
    }
}

/// Why a copy is of no use.
pub(crate) enum Damage {
    /// It was changed meanwhile: look again.
    Changed,
    /// It does not fit its checksum.
    Corrupt,
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::super::alloc::Worker;
    use super::super::attach;
    use super::super::state::Owner;
    use super::super::write::Imprint;
    use super::*;
    use crate::clock::Clock;
    use crate::entry::{Value, When, Written};
    use crate::key::Space;

    /// The whole key decides, not its hash: two keys of the same 128 bits are two keys.
    #[test]
    fn keys_of_the_same_hash_are_told_apart() {
        let region = attach::open_private(1 << 20, Clock::Boot).expect("private memory").region;
        let worker = Worker::new(Owner { row: 0, incarnation: 1 });
        let space = Space {
            region_id: region.id,
            seed: region.seed,
            location: 1,
            location_high: 0,
            prefix: [0; 2],
            location_row: 0,
            prefix_row: 0,
        };
        let key = |bytes| Key { bytes, space, low: 7, high: 7 };
        let imprint = Imprint {
            expires_ms: 60_000,
            now_ms: 1,
            change: 0,
            birth: 0,
            cost_us: 0,
            stale_ms: 0,
            tags: &[],
            tag_hashes: &[],
        };
        let value = Value::Bytes { codec: 1, bytes: b"ada's" };
        let written = region.write(&worker, &key(b":1:user:1"), value, imprint, When::Always);
        assert!(matches!(written, Written::Stored(_)));
        let mut buffer = Buffer::new();
        assert!(matches!(region.read(&key(b":1:user:1"), 2, &mut buffer), Read::Hit(_)));
        for other in [&b":1:user:2"[..], b":1:user:11", b":1:user:", b""] {
            assert!(matches!(region.read(&key(other), 2, &mut buffer), Read::Absent), "{other:?}");
        }
        let elsewhere = Key { space: Space { location: 2, ..space }, ..key(b":1:user:1") };
        assert!(matches!(region.read(&elsewhere, 2, &mut buffer), Read::Absent), "another location");
    }
}
