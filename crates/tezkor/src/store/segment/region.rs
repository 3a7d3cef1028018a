//! A region in memory: typed access to its parts, and nothing of how it came to be there (see attach.rs).
//! It never holds state of its own beyond where things lie: everything else is in the words.

use super::layout::{BUCKET_WORDS, Geometry, header, segment, worker};
use super::words::{Ordering, Word, Words};
use crate::ledger::Ledger;

/// Reserves memory for a segment before it is first touched.
pub(crate) type Reserve = Box<dyn Fn(u64, u64) -> Room + Send + Sync>;

/// What came of reserving memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Reserved,
    /// The file system is full, for everybody.
    Full,
    /// This process could not ask: it is out of descriptors, say.
    Unknown,
}

/// A mapped region.
pub(crate) struct Region {
    words: Words,
    pub(crate) geometry: Geometry,
    /// A random number that tells regions apart.
    pub(crate) id: u64,
    /// The seed of the key hash.
    pub(crate) seed: u64,
    pub(crate) epoch: u32,
    /// Called with offset and length in bytes; what came of it.
    pub(crate) reserve: Reserve,
}

impl Region {
    /// Takes words whose header is complete and checked.
    pub(crate) fn new(words: Words, geometry: Geometry, reserve: Reserve) -> Self {
        let fixed = |index: usize| words[index].load(Ordering::Acquire);
        let (id, seed, epoch) = (fixed(header::REGION_ID), fixed(header::SEED), fixed(header::EPOCH) as u32);
        Region { words, geometry, id, seed, epoch, reserve }
    }

    pub(crate) fn words(&self) -> &[Word] {
        &self.words
    }

    pub(crate) fn header(&self, index: usize) -> &Word {
        &self.words[index]
    }

    pub(crate) fn ledger(&self) -> Ledger<'_> {
        Ledger::new(&self.words, &self.geometry)
    }

    /// A worker's row; the last one belongs to processes without a slot.
    pub(crate) fn worker(&self, row: usize) -> &[Word] {
        let at = self.geometry.workers_at + row * worker::WORDS;
        &self.words[at..at + worker::WORDS]
    }

    /// A word of a segment's row.
    #[inline(always)]
    pub(crate) fn meta(&self, segment: usize, field: usize) -> &Word {
        &self.words[self.geometry.table_at + segment * segment::WORDS + field]
    }

    #[inline(always)]
    pub(crate) fn generation(&self, segment: usize) -> u64 {
        self.meta(segment, segment::GENERATION).load(Ordering::SeqCst)
    }

    /// The words of a segment.
    #[inline(always)]
    pub(crate) fn segment(&self, segment: usize) -> &[Word] {
        let at = self.geometry.segment_at(segment);
        &self.words[at..at + self.geometry.segment_words]
    }

    /// The first word of a key's bucket.
    #[inline(always)]
    pub(crate) fn bucket_at(&self, hash: u64) -> usize {
        let bucket = ((u128::from(hash) * self.geometry.buckets as u128) >> 64) as usize;
        self.geometry.index_at + bucket * BUCKET_WORDS
    }
}
