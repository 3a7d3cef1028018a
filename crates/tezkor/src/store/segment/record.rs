//! The record of an entry within a segment: ten header words, key, dependencies, tag names, value.
//! It never trusts what it parses: every length is checked against the segment before it is used.
//!
//! ```text
//! word 0   magic 8 | kind 8 | header words 8 | dependencies 8 | length in units of 16 bytes 32      (low bits first)
//!      1   hash of the key (low 64 bits): leads an evictor to the slot
//!      2   entry id: worker 16 | number 48; kept when a survivor is copied
//!      3   expiry 46 (ms) | salt 16 | unused 1 | frozen 1                                            changed in place
//!      4   stale 48 (ms after the expiry) | codec 8 | flags 8
//!      5   birth: the Ledger's sequence before the load began
//!      6   created 48 (ms) | writer 16
//!      7   epoch 32 | load cost 32 (microseconds)
//!      8   key length 14 | prefix row 11 | location row 11 | value length 28
//!      9   checksum over words 0-2, 4-8 and all that follows (but for the word of a count)
//! key, padded to a word; dependency hashes, a word each; if there are dependencies: the length of the tag names, the names;
//! value, padded to a word.
//! A count is one word: number 47 | salt 16 | frozen 1, changed in place.
//! A large value goes on in whole segments of its own; before it stands a pair of words for each: segment, generation.
//! ```

use super::layout::UNIT_WORDS;
use super::words::{Ordering, Word};

pub(crate) const HEADER_WORDS: usize = 10;
pub(crate) const RECORD_MAGIC: u64 = 0xC7;
/// Set by an evictor before it copies: in-place changes go to the copy from then on.
pub(crate) const FROZEN: u64 = 1 << 63;
/// The expiry of an entry that never expires.
pub(crate) const NEVER_MS: u64 = (1 << 46) - 1;

const MILLISECONDS: u64 = (1 << 48) - 1;
const SALT_BITS: u64 = 0xffff;
const ROW: u64 = 0x7ff;
const EXPIRY_SALT_AT: u32 = 46;
const COUNT_BITS: u32 = 47;

pub(crate) mod word {
    pub(crate) const SHAPE: usize = 0;
    pub(crate) const HASH: usize = 1;
    pub(crate) const ID: usize = 2;
    pub(crate) const EXPIRY: usize = 3;
    pub(crate) const CODEC: usize = 4;
    pub(crate) const BIRTH: usize = 5;
    pub(crate) const CREATED: usize = 6;
    pub(crate) const COST: usize = 7;
    pub(crate) const LENGTHS: usize = 8;
    pub(crate) const CHECKSUM: usize = 9;
}

/// What stands in the value's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The bytes of the value.
    Plain = 1,
    /// One word, changed in place.
    Count = 2,
    /// A list of segments, then the beginning of the value.
    Large = 3,
    /// Reserved and not (yet) written.
    Hole = 4,
}

/// The header of a record, unpacked.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) header_words: usize,
    pub(crate) dependencies: usize,
    pub(crate) units: usize,
    pub(crate) hash: u64,
    pub(crate) id: u64,
    pub(crate) expiry_word: u64,
    pub(crate) stale_ms: u64,
    pub(crate) codec: u8,
    pub(crate) flags: u8,
    pub(crate) birth: u64,
    pub(crate) created_ms: u64,
    pub(crate) writer: u16,
    pub(crate) epoch: u32,
    pub(crate) cost_us: u32,
    pub(crate) key_length: usize,
    pub(crate) prefix_row: u16,
    pub(crate) location_row: u16,
    pub(crate) value_length: usize,
    pub(crate) checksum: u64,
}

impl Header {
    /// Reads the header at the start of `record`; `None` when it cannot be one.
    #[inline]
    pub(crate) fn load(record: &[Word]) -> Option<Header> {
        let words = record.get(..HEADER_WORDS)?;
        let at = |index: usize| words[index].load(Ordering::Relaxed);
        let shape = at(word::SHAPE);
        let kind = match (shape >> 8) & 0xff {
            1 => Kind::Plain,
            2 => Kind::Count,
            3 => Kind::Large,
            4 => Kind::Hole,
            _ => return None,
        };
        let (codec, created, cost, lengths) = (at(word::CODEC), at(word::CREATED), at(word::COST), at(word::LENGTHS));
        let header = Header {
            kind,
            header_words: ((shape >> 16) & 0xff) as usize,
            dependencies: ((shape >> 24) & 0xff) as usize,
            units: (shape >> 32) as usize,
            hash: at(word::HASH),
            id: at(word::ID),
            expiry_word: at(word::EXPIRY),
            stale_ms: codec & MILLISECONDS,
            codec: (codec >> 48) as u8,
            flags: (codec >> 56) as u8,
            birth: at(word::BIRTH),
            created_ms: created & MILLISECONDS,
            writer: (created >> 48) as u16,
            epoch: cost as u32,
            cost_us: (cost >> 32) as u32,
            key_length: (lengths & 0x3fff) as usize,
            prefix_row: ((lengths >> 14) & ROW) as u16,
            location_row: ((lengths >> 25) & ROW) as u16,
            value_length: (lengths >> 36) as usize,
            checksum: at(word::CHECKSUM),
        };
        let fits = shape & 0xff == RECORD_MAGIC
            && header.units >= 1
            && header.units * UNIT_WORDS <= record.len()
            && (kind == Kind::Hole
                || (header.header_words >= HEADER_WORDS
                    && header.dependencies_at() + header.dependencies <= header.units * UNIT_WORDS));
        fits.then_some(header)
    }

    /// Writes all words but the shape, which the caller stores last, and the expiry's salt, which depends on the place.
    pub(crate) fn store(&self, record: &[Word], salt: u64) {
        let put = |index: usize, value: u64| record[index].store(value, Ordering::Relaxed);
        put(word::HASH, self.hash);
        put(word::ID, self.id);
        put(word::EXPIRY, salted_expiry(self.expiry_word, salt));
        for (index, value) in self.packed().into_iter().enumerate() {
            put(word::CODEC + index, value);
        }
        put(word::CHECKSUM, self.checksum);
    }

    pub(crate) fn shape(&self) -> u64 {
        RECORD_MAGIC
            | (self.kind as u64) << 8
            | (self.header_words as u64) << 16
            | (self.dependencies as u64) << 24
            | (self.units as u64) << 32
    }

    /// Words 4 to 8.
    fn packed(&self) -> [u64; 5] {
        [
            (self.stale_ms & MILLISECONDS) | u64::from(self.codec) << 48 | u64::from(self.flags) << 56,
            self.birth,
            (self.created_ms & MILLISECONDS) | u64::from(self.writer) << 48,
            u64::from(self.epoch) | u64::from(self.cost_us) << 32,
            self.key_length as u64
                | u64::from(self.prefix_row) << 14
                | u64::from(self.location_row) << 25
                | (self.value_length as u64) << 36,
        ]
    }

    /// The words that the checksum covers before what follows the header.
    pub(crate) fn checked(&self) -> [u64; 8] {
        let [codec, birth, created, cost, lengths] = self.packed();
        [self.shape(), self.hash, self.id, codec, birth, created, cost, lengths]
    }

    pub(crate) fn key_at(&self) -> usize {
        self.header_words
    }

    pub(crate) fn key_words(&self) -> usize {
        self.key_length.div_ceil(8)
    }

    pub(crate) fn dependencies_at(&self) -> usize {
        self.key_at() + self.key_words()
    }
}

/// The word that stands where a record is reserved and not yet written, so that a walk can step over it.
pub(crate) fn hole(units: usize) -> u64 {
    RECORD_MAGIC | (Kind::Hole as u64) << 8 | (units as u64) << 32
}

/// Sixteen bits that tie a word that is changed in place to its place: a paused writer that meets a recycled segment finds
/// another salt, and so does a reader that meets a flipped bit.
pub(crate) fn salt(generation: u64, segment: usize, offset: usize) -> u64 {
    let mixed = (generation ^ ((segment as u64) << 40) ^ ((offset as u64) << 20)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    // Never zero, which small numbers and empty memory have.
    ((mixed >> 48) & SALT_BITS).max(1)
}

/// The expiry word of an entry; times beyond 2231 years are never.
pub(crate) fn salted_expiry(expires_ms: u64, salt: u64) -> u64 {
    (expires_ms & NEVER_MS) | salt << EXPIRY_SALT_AT
}

/// The time in an expiry word, when its salt is the right one.
#[inline]
pub(crate) fn expires_ms(word: u64, salt: u64) -> Option<u64> {
    ((word >> EXPIRY_SALT_AT) & SALT_BITS == salt).then_some(word & NEVER_MS)
}

/// Freezes a word that is changed in place, so that changes are no longer made here; the word. `None` when it is not, or no
/// longer, the word of this place: a thread that slept since it looked must not change what has been written here since.
fn freeze(word: &Word, is_of_place: impl Fn(u64) -> bool) -> Option<u64> {
    let mut found = word.load(Ordering::SeqCst);
    while is_of_place(found) {
        if found & FROZEN != 0 {
            return Some(found);
        }
        match word.replace(found, found | FROZEN) {
            Ok(()) => return Some(found | FROZEN),
            Err(changed) => found = changed,
        }
    }
    None
}

/// Freezes an expiry word; the time in it.
pub(crate) fn freeze_expiry(word: &Word, salt: u64) -> Option<u64> {
    freeze(word, |word| expires_ms(word, salt).is_some()).and_then(|word| expires_ms(word, salt))
}

/// Freezes the word of a count; the number in it.
pub(crate) fn freeze_count(word: &Word, salt: u64) -> Option<i64> {
    freeze(word, |word| count(word, salt).is_some()).and_then(|word| count(word, salt))
}

/// Whether a number fits the word of a count.
pub(crate) fn fits_count(number: i64) -> bool {
    (-(1 << (COUNT_BITS - 1))..1 << (COUNT_BITS - 1)).contains(&number)
}

pub(crate) fn salted_count(number: i64, salt: u64) -> u64 {
    (number as u64 & ((1 << COUNT_BITS) - 1)) | salt << COUNT_BITS
}

/// The number in the word of a count, when its salt is the right one.
#[inline]
pub(crate) fn count(word: u64, salt: u64) -> Option<i64> {
    let shift = 64 - COUNT_BITS;
    ((word >> COUNT_BITS) & SALT_BITS == salt).then_some(((word << shift) as i64) >> shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_expiries_come_back_and_a_wrong_salt_is_refused() {
        for number in [0, 1, -1, (1 << 46) - 1, -(1 << 46), 123_456_789] {
            assert!(fits_count(number));
            assert_eq!(count(salted_count(number, 0xBEEF), 0xBEEF), Some(number));
            assert_eq!(count(salted_count(number, 0xBEEF) | FROZEN, 0xBEEF), Some(number));
            assert_eq!(count(salted_count(number, 0xBEEF), 0xBEEE), None);
        }
        assert!(!fits_count(1 << 46) && !fits_count(-(1 << 46) - 1));
        for expiry in [0, 1, NEVER_MS] {
            assert_eq!(expires_ms(salted_expiry(expiry, 7), 7), Some(expiry));
            assert_eq!(expires_ms(salted_expiry(expiry, 7), 8), None);
        }
    }
}
