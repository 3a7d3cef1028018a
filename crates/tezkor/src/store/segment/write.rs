//! Writing: append a record to the worker's open segment, then lead the index to it by one swap.
//! It never leaves an older value behind a write that was refused, and never changes anything under a condition that fails.

use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use super::alloc::{Reserved, Worker};
use super::counters::Counter;
use super::layout::{UNIT_WORDS, worker};
use super::publish::Rule;
use super::read::Located;
use super::record::{self, HEADER_WORDS, Header, Kind, NEVER_MS};
use super::region::Region;
use super::slot;
use super::state::Queue;
use super::words::{Ordering, Word, copy_in};
use crate::entry::{CODEC_COUNT, Stamp, Value, When, Written};
use crate::key::Key;

/// Up to here a value is copied once more, to be hashed in one pass with its header: faster than a streaming hash.
const SHORT_BYTES: usize = 4096;
/// The header's words that the checksum covers.
pub(crate) const CHECKED: usize = 8;

/// What is written beside key and value, and how the birth is to be seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Imprint<'t> {
    pub(crate) expires_ms: u64,
    pub(crate) now_ms: u64,
    /// The Ledger's change counter before the birth was read.
    pub(crate) change: u64,
    /// The Ledger's sequence before the load began; the present one for a plain set.
    pub(crate) birth: u64,
    pub(crate) cost_us: u32,
    pub(crate) stale_ms: u64,
    pub(crate) tags: &'t [&'t [u8]],
    pub(crate) tag_hashes: &'t [u64],
}

impl Region {
    /// Writes an entry. The expiry and the size are the caller's to check.
    pub(crate) fn write(
        &self,
        worker: &Worker,
        key: &Key<'_>,
        value: Value<'_>,
        imprint: Imprint<'_>,
        when: When<'_>,
    ) -> Written {
        if !matches!(when, When::Always) && !self.holds(key, when, imprint.now_ms) {
            self.count(worker.row(), Counter::Held, 1);
            return Written::Held;
        }
        let written = self.write_by(worker, key, value, imprint, Rule::When(when));
        match written {
            Written::Stored(_) => {
                self.overtake_loads(key);
                self.count(worker.row(), Counter::Sets, 1);
            }
            Written::Held => self.count(worker.row(), Counter::Held, 1),
            _ => {
                self.overtake_loads(key);
                self.count(worker.row(), Counter::Refused, 1);
                self.remove(key, imprint.now_ms);
            }
        }
        written
    }

    pub(crate) fn write_by(
        &self,
        worker: &Worker,
        key: &Key<'_>,
        value: Value<'_>,
        imprint: Imprint<'_>,
        rule: Rule<'_>,
    ) -> Written {
        let number;
        let (kind, codec, bytes): (_, _, &[u8]) = match value {
            Value::Count(count) if record::fits_count(count) => (Kind::Count, CODEC_COUNT, &[]),
            Value::Count(count) => {
                number = count.to_le_bytes();
                (Kind::Plain, CODEC_COUNT, &number)
            }
            Value::Bytes { codec, bytes } => (Kind::Plain, codec, bytes),
        };
        if bytes.len() > self.geometry.largest_value() {
            return Written::Refused;
        }
        let id =
            u64::from(worker.owner.row) << 48 | (self.worker(worker.row())[worker::ENTRIES].add(1) & ((1 << 48) - 1));
        let mut header = Header {
            kind,
            header_words: HEADER_WORDS,
            dependencies: imprint.tag_hashes.len(),
            units: 0,
            hash: key.low,
            id,
            expiry_word: imprint.expires_ms,
            stale_ms: imprint.stale_ms,
            codec,
            flags: 0,
            birth: imprint.birth,
            created_ms: imprint.now_ms,
            writer: worker.owner.row,
            epoch: self.epoch,
            cost_us: imprint.cost_us,
            key_length: key.bytes.len() + 8,
            prefix_row: key.space.prefix_row,
            location_row: key.space.location_row,
            value_length: bytes.len(),
            checksum: 0,
        };
        let value_words = if kind == Kind::Count { 1 } else { bytes.len().div_ceil(8) };
        let short = if bytes.len() <= SHORT_BYTES { value_words } else { 0 };
        // The words that the checksum covers: of the header (filled in when it is complete), key and dependencies, the value.
        let mut checked = Vec::with_capacity(CHECKED + header.key_words() + imprint.tag_hashes.len() + 1 + short);
        checked.extend_from_slice(&[0; CHECKED]);
        pack_middle(&mut checked, key, &imprint);
        let words = HEADER_WORDS + checked.len() - CHECKED + value_words;
        header.units = words.div_ceil(UNIT_WORDS);
        let reserved = if header.units <= self.geometry.segment_units() {
            self.append(worker, &mut header, checked, value, bytes, imprint.now_ms)
        } else {
            self.append_large(worker, &mut header, checked, bytes, imprint.now_ms)
        };
        let Some(reserved) = reserved else { return Written::Refused };
        let new = slot::pack(slot::fingerprint(key.low), reserved.segment, reserved.generation, reserved.offset);
        let published = self.publish(worker, key, new, rule, imprint.now_ms);
        if let Some((head, queue)) = reserved.large {
            self.settle_large(worker, head, matches!(published, Some(Some(_))).then_some(queue));
        }
        match published {
            Some(Some(published)) => {
                self.free_large(worker, published.replaced);
                Written::Stored(Stamp {
                    region_id: self.id,
                    position: published.position,
                    identity: slot::identity(new),
                    generation: reserved.generation,
                    id,
                    birth: imprint.birth,
                    prefix_row: key.space.prefix_row,
                    expires_ms: imprint.expires_ms.min(NEVER_MS),
                    change: imprint.change,
                    count: if let Value::Count(count) = value { count } else { 0 },
                    cost_us: imprint.cost_us,
                    dependencies: !imprint.tag_hashes.is_empty(),
                })
            }
            Some(None) => Written::Held,
            None => Written::Refused,
        }
    }

    fn append(
        &self,
        worker: &Worker,
        header: &mut Header,
        mut checked: Vec<u64>,
        value: Value<'_>,
        bytes: &[u8],
        now_ms: u64,
    ) -> Option<Appended<'_>> {
        let queue = if self.is_ghost(header.hash) { Queue::Main } else { Queue::Small };
        let reserved = match queue {
            Queue::Main => self.reserve(worker, Queue::Main, header.units, now_ms),
            _ => None,
        };
        let reserved = match reserved {
            Some(reserved) => reserved,
            None => self.reserve(worker, Queue::Small, header.units, now_ms)?,
        };
        let record = reserved.record();
        let value_at = HEADER_WORDS + checked.len() - CHECKED;
        let is_short = bytes.len() <= SHORT_BYTES;
        if is_short {
            pack_bytes(&mut checked, bytes);
        }
        header.checksum = self.checksum(header, &mut checked, if is_short { &[] } else { bytes });
        header.store(record, reserved.salt());
        put(&record[HEADER_WORDS..], &checked[CHECKED..]);
        match value {
            Value::Count(count) if header.kind == Kind::Count => {
                record[value_at].store(record::salted_count(count, reserved.salt()), Ordering::Relaxed);
            }
            _ if !is_short => copy_in(&record[value_at..], bytes),
            _ => {}
        }
        record[0].store(header.shape(), Ordering::Relaxed);
        Some(Appended {
            segment: reserved.segment,
            generation: reserved.generation,
            offset: reserved.offset,
            large: None,
            _reserved: Some(reserved),
        })
    }

    /// The checksum of a record: over the header's words, which this fills in, what else is in `checked`, and the bytes.
    pub(crate) fn checksum(&self, header: &Header, checked: &mut [u64], bytes: &[u8]) -> u64 {
        checked[..CHECKED].copy_from_slice(&header.checked());
        if bytes.is_empty() {
            return xxh3_64_with_seed(bytemuck::cast_slice(checked), self.seed);
        }
        let mut sum = Xxh3::with_seed(self.seed);
        sum.update(bytemuck::cast_slice(checked));
        sum.update(bytes);
        sum.update(&[0; 8][..bytes.len().next_multiple_of(8) - bytes.len()]);
        sum.digest()
    }

    /// The tag names of an entry.
    pub(crate) fn tag_names(&self, located: &Located<'_>) -> Vec<Vec<u8>> {
        if located.header.dependencies == 0 {
            return Vec::new();
        }
        let at = located.header.dependencies_at() + located.header.dependencies;
        let Some(value_at) = located.value_at() else { return Vec::new() };
        let mut words = Vec::new();
        super::words::copy_out(&located.record[at..value_at], &mut words);
        let bytes: &[u8] = bytemuck::cast_slice(words.get(1..).unwrap_or_default());
        let mut rest = &bytes[..(words.first().copied().unwrap_or(0) as usize).min(bytes.len())];
        let mut names = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<2>() {
            let length = usize::from(u16::from_le_bytes(*length));
            let Some((name, more)) = after.split_at_checked(length) else { break };
            names.push(name.to_vec());
            rest = more;
        }
        names
    }
}

/// A record that no slot leads to yet; its segment is not recycled while this lives.
pub(crate) struct Appended<'r> {
    pub(crate) segment: usize,
    pub(crate) generation: u64,
    pub(crate) offset: usize,
    pub(crate) large: Option<(usize, Queue)>,
    pub(crate) _reserved: Option<Reserved<'r>>,
}

/// Key, dependencies and tag names, as words.
fn pack_middle(middle: &mut Vec<u64>, key: &Key<'_>, imprint: &Imprint<'_>) {
    middle.push(key.space.location);
    pack_bytes(middle, key.bytes);
    if imprint.tag_hashes.is_empty() {
        return;
    }
    middle.extend_from_slice(imprint.tag_hashes);
    let mut names = Vec::new();
    for tag in imprint.tags {
        names.extend_from_slice(&(tag.len() as u16).to_le_bytes());
        names.extend_from_slice(tag);
    }
    middle.push(names.len() as u64);
    pack_bytes(middle, &names);
}

fn pack_bytes(to: &mut Vec<u64>, bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks::<8>();
    to.extend(whole.iter().map(|chunk| u64::from_le_bytes(*chunk)));
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        to.push(u64::from_le_bytes(last));
    }
}

pub(crate) fn put(to: &[Word], words: &[u64]) {
    for (target, word) in to.iter().zip(words) {
        target.store(*word, Ordering::Relaxed);
    }
}
