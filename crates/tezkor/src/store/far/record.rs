//! An entry as one value on a server: a header, the tags, the encoded bytes. A count without tags and without stale time is the
//! decimal text of its number, so that the server's own arithmetic works on it.
//!
//! It never trusts what it parses: every length is checked, and a checksum covers the name and all bytes, so that a value which
//! was damaged, cut, or moved to another key is a miss.
//!
//! ```text
//! byte 0      0xD4, which begins no number and no pickle       28-33  stale 48 (ms after the expiry)
//!      1      version of this format                           34-37  load cost 32 (microseconds)
//!      2      codec                                            38-41  length of the tags
//!      3      1: it has a value, 2: a load of it is under way  42-43  unused
//!      4-11   another for each write                           44-51  checksum (XXH3) over the name and all but itself
//!      12-19  birth: the sequence before the load began        52     tags: length 8 | name, for each
//!      20-27  expires (ms since 1970; 0: never)                       value
//! ```

use xxhash_rust::xxh3::Xxh3;

use super::server::Mark;

const MAGIC: u8 = 0xD4;
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 52;
const CHECKSUM_AT: usize = 44;
const HAS_VALUE: u8 = 1;
const IS_LOADING: u8 = 2;

/// The header of a record and what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'r> {
    pub(crate) codec: u8,
    pub(crate) has_value: bool,
    /// Whether somebody loads it anew.
    pub(crate) is_loading: bool,
    pub(crate) id: u64,
    pub(crate) birth: u64,
    /// Milliseconds since 1970; 0 for never.
    pub(crate) expires_unix_ms: u64,
    pub(crate) stale_ms: u64,
    pub(crate) cost_us: u32,
    pub(crate) tags: Tags<'r>,
    pub(crate) value: &'r [u8],
}

/// The tags of a record, packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tags<'r>(&'r [u8]);

impl<'r> Tags<'r> {
    pub(crate) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = &'r [u8]> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first()?;
            let (name, more) = after.split_at_checked(usize::from(*length))?;
            rest = more;
            Some(name)
        })
    }

    /// Packs names, each of at most 255 bytes.
    pub(crate) fn pack(names: &[&[u8]]) -> Vec<u8> {
        let mut packed = Vec::with_capacity(names.iter().map(|name| name.len() + 1).sum());
        for name in names {
            packed.push(name.len() as u8);
            packed.extend_from_slice(name);
        }
        packed
    }

    pub(crate) fn of(packed: &'r [u8]) -> Tags<'r> {
        Tags(packed)
    }
}

impl<'r> Record<'r> {
    /// The bytes of the record under a name.
    pub(crate) fn pack(&self, name: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.tags.0.len() + self.value.len());
        let flags = if self.has_value { HAS_VALUE } else { 0 } | if self.is_loading { IS_LOADING } else { 0 };
        bytes.extend_from_slice(&[MAGIC, VERSION, self.codec, flags]);
        bytes.extend_from_slice(&self.id.to_le_bytes());
        bytes.extend_from_slice(&self.birth.to_le_bytes());
        bytes.extend_from_slice(&self.expires_unix_ms.to_le_bytes());
        bytes.extend_from_slice(&self.stale_ms.to_le_bytes()[..6]);
        bytes.extend_from_slice(&self.cost_us.to_le_bytes());
        bytes.extend_from_slice(&(self.tags.0.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; HEADER_BYTES - CHECKSUM_AT + 2]);
        bytes.extend_from_slice(self.tags.0);
        bytes.extend_from_slice(self.value);
        let sum = checksum(name, &bytes);
        bytes[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads the record of a name; `None` when it is none, is damaged, or belongs to another name.
    pub(crate) fn parse(name: &[u8], bytes: &'r [u8]) -> Option<Record<'r>> {
        if bytes.len() < HEADER_BYTES || bytes[..2] != [MAGIC, VERSION] {
            return None;
        }
        let eight = |at: usize| bytes[at..].first_chunk::<8>().map_or(0, |chunk| u64::from_le_bytes(*chunk));
        let four = |at: usize| bytes[at..].first_chunk::<4>().map_or(0, |chunk| u32::from_le_bytes(*chunk));
        let (tags, value) = bytes[HEADER_BYTES..].split_at_checked(four(38) as usize)?;
        (eight(CHECKSUM_AT) == checksum(name, bytes)).then_some(Record {
            codec: bytes[2],
            has_value: bytes[3] & HAS_VALUE != 0,
            is_loading: bytes[3] & IS_LOADING != 0,
            id: eight(4),
            birth: eight(12),
            expires_unix_ms: eight(20),
            stale_ms: eight(28) & ((1 << 48) - 1),
            cost_us: four(34),
            tags: Tags(tags),
            value,
        })
    }
}

fn checksum(name: &[u8], bytes: &[u8]) -> u64 {
    let mut sum = Xxh3::with_seed(name.len() as u64);
    sum.update(name);
    sum.update(&bytes[..CHECKSUM_AT]);
    sum.update(&bytes[HEADER_BYTES..]);
    sum.digest()
}

/// The number that a value is the decimal text of, as this crate writes it.
pub(crate) fn number(bytes: &[u8]) -> Option<i64> {
    if bytes.len() > 20 || !matches!(bytes.first(), Some(b'-' | b'0'..=b'9')) {
        return None;
    }
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

const _: () = assert!(Mark::BYTES == 12, "the mark of a record ends behind its id");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_a_damaged_or_moved_one_does_not() {
        let packed = Tags::pack(&[b"product:7", b"", &[0xff; 250]]);
        for value in [&b""[..], b"x", &[7; 1000]] {
            let record = Record {
                codec: 3,
                has_value: true,
                is_loading: value.is_empty(),
                id: u64::MAX - 1,
                birth: 77,
                expires_unix_ms: 1 << 41,
                stale_ms: (1 << 48) - 1,
                cost_us: u32::MAX,
                tags: Tags::of(&packed),
                value,
            };
            let bytes = record.pack(b"name");
            assert_eq!(Record::parse(b"name", &bytes), Some(record));
            assert_eq!(record.tags.iter().count(), 3);
            assert_eq!(Record::parse(b"another", &bytes), None);
            for length in 0..bytes.len() {
                assert_eq!(Record::parse(b"name", &bytes[..length]), None, "cut at {length}");
            }
            for place in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[place] ^= 0x10;
                assert_eq!(Record::parse(b"name", &damaged), None, "byte {place}");
            }
        }
    }

    #[test]
    fn numbers_are_told_from_records() {
        for (bytes, expected) in [
            (&b"0"[..], Some(0)),
            (b"-9223372036854775808", Some(i64::MIN)),
            (b"9223372036854775808", None),
            (b"", None),
            (b"-", None),
            (b"1.5", None),
            (b"+1", None),
            (b"\xd4\x01", None),
        ] {
            assert_eq!(number(bytes), expected, "{bytes:?}");
        }
    }
}
