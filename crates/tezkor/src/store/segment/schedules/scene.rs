//! What a model plays on: one bucket, segments of a few records, keys whose hashes the model chooses.
//! It offers the steps of the store above the region, in the store's order.
#![allow(dead_code, reason = "each explorer uses a part of it")]

use std::sync::Arc;

use crate::entry::{Incr, Stamp, Value, When, Written};
use crate::key::{Key, Space};
use crate::store::segment::alloc::Worker;
use crate::store::segment::index::Occupied;
use crate::store::segment::layout::{Geometry, claim, header, segment};
use crate::store::segment::read::{Located, Read};
use crate::store::segment::record::{Header, Kind};
use crate::store::segment::region::{Region, Room};
use crate::store::segment::slot;
use crate::store::segment::state::{self, Owner, State};
use crate::store::segment::words::{Buffer, Ordering, Part, Words};
use crate::store::segment::write::Imprint;

/// A record of a one-word key and a one-word value (or a count), rounded up to units.
pub(super) const RECORD_WORDS: usize = 14;
/// Where a record's value stands.
pub(super) const VALUE_WORD: usize = 12;
pub(super) const NOW_MS: u64 = 1_000;
const LATER_MS: u64 = 60_000;
const SPACE: Space =
    Space { region_id: 0, seed: 0, location: 7, location_high: 0, prefix: [0; 2], location_row: 0, prefix_row: 0 };

/// Keys of one bucket; the last has the fingerprint of the first.
pub(super) const A: u64 = 0x1111;
pub(super) const B: u64 = 0x0001_2222;
pub(super) const C: u64 = 0x0002_3333;
pub(super) const A_TWIN: u64 = 0x0003_1111;

/// Which words take part in schedules besides slots, generations, states and cursors.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Explore {
    /// No words of records: the model is about the index alone.
    Index,
    /// The expiry and value words, which are changed in place.
    InPlace,
    /// The first and the last words of a record: enough to see it torn.
    Ends,
    /// All words.
    Records,
    /// All words, and generations are without a total order.
    WeakRecords,
    /// The Ledger and the claims, beside the index.
    Loads,
}

#[derive(Clone)]
pub(super) struct Scene(Arc<Region>);

impl std::ops::Deref for Scene {
    type Target = Region;

    fn deref(&self) -> &Region {
        &self.0
    }
}

/// What a model's read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Value(u64),
    Nothing,
}

impl Scene {
    pub(super) fn new(segments: usize, records_in_segment: usize, explore: Explore) -> Scene {
        let geometry = Geometry::tiny(segments, records_in_segment * RECORD_WORDS);
        let part = move |position: usize| {
            let explored = if position >= geometry.segments_at {
                let word = (position - geometry.segments_at) % RECORD_WORDS;
                match explore {
                    Explore::Index | Explore::Loads => false,
                    Explore::InPlace => matches!(word, 3 | VALUE_WORD),
                    Explore::Ends => matches!(word, 0 | VALUE_WORD),
                    Explore::Records | Explore::WeakRecords => true,
                }
            } else if position >= geometry.index_at {
                (1..8).contains(&(position - geometry.index_at))
            } else if position >= geometry.table_at {
                let field = (position - geometry.table_at) % segment::WORDS;
                if field == segment::GENERATION && explore == Explore::WeakRecords {
                    return Part::Weak;
                }
                field <= segment::CURSOR && explore != Explore::Loads
            } else if explore == Explore::Loads {
                let is_claim = (geometry.claims_at..geometry.ledger_at).contains(&position)
                    && (position - geometry.claims_at) % claim::BUCKET_WORDS < claim::SLOTS;
                is_claim || position >= geometry.ledger_at || matches!(position, header::SEQUENCE | header::TOKEN)
            } else {
                false
            };
            if explored { Part::Explored } else { Part::Plain }
        };
        let words = Words::zeroed((geometry.size_bytes / 8) as usize, part);
        Scene(Arc::new(Region::new(words, geometry, Box::new(|_, _| Room::Reserved))))
    }

    /// The worker of a row; threads that share one are threads of one process.
    pub(super) fn worker(&self, row: u16) -> Worker {
        Worker::new(owner(row))
    }

    /// A worker that first goes on where another left.
    pub(super) fn joining(&self, row: u16) -> Worker {
        Worker::joining(owner(row))
    }

    pub(super) fn imprint(&self) -> Imprint<'static> {
        Imprint {
            expires_ms: LATER_MS,
            now_ms: NOW_MS,
            change: self.ledger().change(),
            birth: self.ledger().sequence(),
            cost_us: 0,
            stale_ms: 0,
            tags: &[],
            tag_hashes: &[],
        }
    }

    pub(super) fn write(&self, worker: &Worker, low: u64, number: u64, when: When<'_>) -> Written {
        let bytes = (number << 32 | low).to_le_bytes();
        let value = Value::Bytes { codec: 1, bytes: &bytes };
        self.0.write(worker, &key(low, &low.to_le_bytes()), value, self.imprint(), when)
    }

    pub(super) fn set(&self, worker: &Worker, low: u64, number: u64) -> Stamp {
        match self.write(worker, low, number, When::Always) {
            Written::Stored(stamp) => stamp,
            other => panic!("a set came to {other:?}"),
        }
    }

    /// Sets a value of several words (one that does not fit a segment gets segments of its own); whether there was room.
    pub(super) fn write_words(&self, worker: &Worker, low: u64, words: &[u64]) -> bool {
        let value = Value::Bytes { codec: 2, bytes: bytemuck::cast_slice(words) };
        let key_bytes = low.to_le_bytes();
        let written = self.0.write(worker, &key(low, &key_bytes), value, self.imprint(), When::Always);
        matches!(written, Written::Stored(_))
    }

    pub(super) fn set_words(&self, worker: &Worker, low: u64, words: &[u64]) {
        assert!(self.write_words(worker, low, words), "a set of {} words was refused", words.len());
    }

    /// Reads a value of several words.
    pub(super) fn read_words(&self, low: u64) -> Option<Vec<u64>> {
        let key_bytes = low.to_le_bytes();
        let mut buffer = Buffer::new();
        match self.0.read(&key(low, &key_bytes), NOW_MS, &mut buffer) {
            Read::Hit(_) => {
                Some(buffer.bytes().chunks(8).map(|word| u64::from_le_bytes(word.try_into().expect("words"))).collect())
            }
            Read::Corrupt(..) => panic!("a read took what was changing under it for damaged"),
            _ => None,
        }
    }

    pub(super) fn add(&self, worker: &Worker, low: u64, number: u64) -> bool {
        match self.write(worker, low, number, When::Absent) {
            Written::Stored(_) => true,
            Written::Held => false,
            other => panic!("an add came to {other:?}"),
        }
    }

    pub(super) fn set_count(&self, worker: &Worker, low: u64, count: i64) -> Stamp {
        let key_bytes = low.to_le_bytes();
        match self.0.write(worker, &key(low, &key_bytes), Value::Count(count), self.imprint(), When::Always) {
            Written::Stored(stamp) => stamp,
            other => panic!("a set of a count came to {other:?}"),
        }
    }

    pub(super) fn incr(&self, worker: &Worker, low: u64, delta: i64) -> Incr {
        let key_bytes = low.to_le_bytes();
        self.add_to_count(Some(worker), &key(low, &key_bytes), delta, NOW_MS, &mut Buffer::new())
    }

    pub(super) fn touch(&self, worker: &Worker, low: u64, expires_ms: u64) -> bool {
        let key_bytes = low.to_le_bytes();
        self.0.touch(Some(worker), &key(low, &key_bytes), expires_ms, NOW_MS, &mut Buffer::new())
    }

    /// As the store does it: the Ledger first.
    pub(super) fn remove(&self, low: u64) -> bool {
        let key_bytes = low.to_le_bytes();
        let key = key(low, &key_bytes);
        self.ledger().invalidate_key(key.low, key.high);
        self.0.remove(&key, NOW_MS)
    }

    /// Removes an entry as the scan of a pattern does: without telling the Ledger about the key.
    pub(super) fn remove_entry(&self, low: u64) -> bool {
        let key_bytes = low.to_le_bytes();
        self.0.remove(&key(low, &key_bytes), NOW_MS)
    }

    /// Reads a value, which has to be a whole one of its key.
    pub(super) fn read(&self, low: u64) -> Seen {
        let key_bytes = low.to_le_bytes();
        let mut buffer = Buffer::new();
        match self.0.read(&key(low, &key_bytes), NOW_MS, &mut buffer) {
            Read::Hit(found) if found.codec == 0 => Seen::Value(found.count as u64),
            Read::Hit(_) => {
                let number = u64::from_le_bytes(buffer.bytes().try_into().expect("a value of one word"));
                assert_eq!(number & 0xffff_ffff, low, "the value of another key");
                Seen::Value(number >> 32)
            }
            Read::Absent | Read::Invalidated => Seen::Nothing,
            Read::Expired | Read::Stale(_) => panic!("nothing expires in a model"),
            Read::Corrupt(..) => panic!("a read took what was changing under it for damaged"),
        }
    }

    pub(super) fn is_current(&self, low: u64, stamp: &mut Stamp) -> bool {
        let key_bytes = low.to_le_bytes();
        self.0.is_current(&key(low, &key_bytes), stamp, NOW_MS)
    }

    pub(super) fn expires_ms(&self, low: u64) -> Option<u64> {
        let key_bytes = low.to_le_bytes();
        self.find(&key(low, &key_bytes)).and_then(|located| located.expires_ms())
    }

    pub(super) fn evict(&self, worker: &Worker) -> bool {
        self.0.evict(worker, NOW_MS)
    }

    /// Seals what a worker has open, so that it can be evicted.
    pub(super) fn seal(&self, worker: &Worker) {
        self.seal_open(worker);
    }

    /// The committed slots of a fingerprint, of whatever generation is the present one.
    pub(super) fn slots(&self, low: u64) -> Vec<Occupied> {
        let mut slots = Vec::new();
        self.occupied(low, |slot| {
            slots.push(slot);
            false
        });
        slots
    }

    /// What has to hold when all threads have ended: a slot for a fingerprint at most, each leading to a whole record.
    pub(super) fn check(&self) {
        let mut buffer = Buffer::new();
        for low in [A, B, C] {
            let slots = self.slots(low);
            assert!(slots.len() <= 1, "two committed slots of one fingerprint: {slots:x?}");
            for slot in slots {
                let (index, offset) = (slot::segment(slot.word), slot::offset(slot.word));
                let record = &self.segment(index)[offset * 2..];
                let header = Header::load(record).expect("a slot leads to a record");
                assert_ne!(header.kind, Kind::Hole, "a slot leads to a record that was not written");
                let located = Located {
                    position: slot.position,
                    word: slot.word,
                    generation: slot.generation,
                    segment: index,
                    offset,
                    record,
                    header,
                };
                assert!(self.copy(&located, &mut buffer).is_ok(), "a slot leads to a damaged record");
            }
        }
        for index in 0..self.geometry.segments {
            let is_free = matches!(self.state(index), State::Free | State::Untouched);
            assert!(is_free || self.writers(index) == 0, "a writer that has ended is still counted in segment {index}");
            assert_ne!(self.state(index), State::Evicting, "segment {index} is being evicted by nobody");
        }
    }

    /// Evicts what can be; what is left is open, so nothing is lost to those who come later.
    pub(super) fn empty(&self, worker: &Worker) {
        while self.evict(worker) {}
        for index in 0..self.geometry.segments {
            let state = self.state(index);
            let owner = state::owner(self.meta(index, segment::STATE).load(Ordering::SeqCst));
            // A sweep tries again what a dead worker was reserving memory for.
            let usable = matches!(state, State::Untouched | State::Free | State::Unavailable)
                || (state == State::Open && owner == worker.owner);
            assert!(usable, "segment {index} is lost: {state:?} of {owner:?}");
        }
    }

    /// Raises the frequency of a key, so that an eviction keeps it.
    pub(super) fn warm(&self, low: u64) {
        assert_ne!(self.read(low), Seen::Nothing);
    }
}

pub(super) fn owner(row: u16) -> Owner {
    Owner { row, incarnation: 1 }
}

pub(super) fn key(low: u64, bytes: &[u8]) -> Key<'_> {
    Key { bytes, space: SPACE, low, high: low }
}
