//! The Ledger: what was invalidated, in logical time. Every correctness promise rests on it, none on a lock or a wall clock.
//! It never forgets an invalidation, and it never needs a set of what depends on what.
//!
//! A sequence counts invalidations. Keys and tags have two tables of counters each; a dependency is hashed once into each
//! table, and was last invalidated at the smaller of its two counters. Locations and prefixes have counters of their own.
//! An entry carries the sequence that was current before its load began, its birth; it is fresh if and only if none of its
//! dependencies was invalidated later. A collision costs a reload, never a stale hit.
//!
//! The order of an invalidation: take a sequence number, raise the counters, raise `change`. A reader loads `change` first,
//! so that what it finds fresh is fresh at least up to that change.

use crate::key::Key;
use crate::store::segment::layout::{Geometry, header, row};
use crate::store::segment::words::{Ordering, Word};

/// The Ledger of a region.
#[derive(Clone, Copy)]
pub(crate) struct Ledger<'r> {
    words: &'r [Word],
    geometry: &'r Geometry,
}

/// The row of all who came when the table was full: it is never cleared, their entries have a dependency instead.
pub(crate) const SHARED_ROW: u16 = 0;

/// Which pair of tables a dependency lives in.
#[derive(Clone, Copy)]
enum Tables {
    Keys = 0,
    Tags = 2,
}

impl<'r> Ledger<'r> {
    pub(crate) fn new(words: &'r [Word], geometry: &'r Geometry) -> Self {
        Ledger { words, geometry }
    }

    /// The logical time: the birth of a load that begins now.
    #[inline]
    pub(crate) fn sequence(&self) -> u64 {
        self.words[header::SEQUENCE].load(Ordering::SeqCst)
    }

    /// Raised after every change of the Ledger.
    #[inline]
    pub(crate) fn change(&self) -> u64 {
        self.words[header::CHANGE].load(Ordering::SeqCst)
    }

    /// Invalidates one key for loads under way: what they bring is not fresh. The entry that is there its caller removes, so
    /// entries are not asked about their keys, and it is no change for what is decoded.
    pub(crate) fn invalidate_key(&self, low: u64, high: u64) {
        let sequence = self.words[header::SEQUENCE].next();
        for word in self.pair(Tables::Keys, low, high) {
            word.raise(sequence);
        }
    }

    /// Invalidates all entries that depend on one of the tags.
    pub(crate) fn invalidate_tags(&self, tags: &[u64]) {
        self.invalidate(|sequence| {
            for tag in tags {
                self.tag_pair(*tag).into_iter().for_each(|word| word.raise(sequence));
            }
        });
    }

    /// Invalidates loads under way of all keys of a prefix, before a pattern is deleted from it: which keys those are is not known.
    pub(crate) fn delete_pattern(&self, prefix_row: u16) {
        let sequence = self.words[header::SEQUENCE].next();
        self.row(prefix_row)[row::PATTERN].raise(sequence);
    }

    /// Whether what a load of the key brought may be stored: neither the key nor a pattern of its prefix was deleted after that
    /// birth.
    pub(crate) fn is_load_fresh(&self, key: &Key<'_>, birth: u64) -> bool {
        self.key_invalidated_at(key) <= birth
            && self.row(key.space.prefix_row)[row::PATTERN].load(Ordering::SeqCst) <= birth
    }

    /// Invalidates all entries of a location or prefix.
    pub(crate) fn clear_row(&self, index: u16) {
        self.invalidate(|sequence| self.row(index)[row::CLEARED].raise(sequence));
    }

    /// Whether neither of two rows (an entry's location and prefix) was cleared after that birth.
    #[inline]
    pub(crate) fn are_rows_fresh(&self, birth: u64, rows: [u16; 2]) -> bool {
        rows.into_iter().all(|row| self.row_cleared_at(row) <= birth)
    }

    /// Whether one of the tags was invalidated after that birth.
    pub(crate) fn are_tags_fresh(&self, birth: u64, tags: impl IntoIterator<Item = u64>) -> bool {
        tags.into_iter().all(|tag| Self::oldest(self.tag_pair(tag)) <= birth)
    }

    /// The sequence at which a key was last invalidated (or one that collides with it twice).
    pub(crate) fn key_invalidated_at(&self, key: &Key<'_>) -> u64 {
        Self::oldest(self.pair(Tables::Keys, key.low, key.high))
    }

    /// Whether a key was invalidated; `None` where others were since, so that nobody can tell. An invalidation raises both of a
    /// key's counters to a number of its own, so they are equal unless another key has raised one of them.
    pub(crate) fn was_invalidated(&self, key: &Key<'_>) -> Option<bool> {
        match self.pair(Tables::Keys, key.low, key.high).map(|word| word.load(Ordering::SeqCst)) {
            [0, _] | [_, 0] => Some(false),
            [one, other] => (one == other).then_some(true),
        }
    }

    /// The sequence at which a location or prefix was last cleared.
    pub(crate) fn row_cleared_at(&self, index: u16) -> u64 {
        self.row(index)[row::CLEARED].load(Ordering::SeqCst)
    }

    /// The row of a name; [`SHARED_ROW`] when the table is full, as it then stays: rows are never given back.
    pub(crate) fn row_of(&self, name: [u64; 2]) -> u16 {
        let (low, high) = (name[0].max(1), name[1]);
        let rows = self.geometry.rows - 1;
        let start = (high % rows as u64) as usize;
        for step in 0..rows {
            let index = (1 + (start + step) % rows) as u16;
            let words = self.row(index);
            let found = words[row::NAME_LOW].load(Ordering::Acquire);
            // The high half is written after the low one was won: until then, or for ever if the winner died, the low half
            // alone decides, which at 64 bits it can.
            if found == low || (found == 0 && self.claim(words, low, high)) {
                return index;
            }
        }
        SHARED_ROW
    }

    fn claim(&self, words: &[Word], low: u64, high: u64) -> bool {
        match words[row::NAME_LOW].replace(0, low) {
            Ok(()) => {
                words[row::NAME_HIGH].store(high, Ordering::Release);
                true
            }
            Err(other) => other == low,
        }
    }

    fn invalidate(&self, raise: impl FnOnce(u64)) {
        let sequence = self.words[header::SEQUENCE].next();
        raise(sequence);
        self.words[header::CHANGE].add(1);
    }

    fn row(&self, index: u16) -> &'r [Word] {
        // A header that another process damaged may name any row: the index is brought into range.
        let index = usize::from(index) % self.geometry.rows;
        let at = self.geometry.rows_at + index * row::WORDS;
        &self.words[at..at + row::WORDS]
    }

    fn tag_pair(&self, tag: u64) -> [&'r Word; 2] {
        self.pair(Tables::Tags, tag, tag.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn pair(&self, tables: Tables, first: u64, second: u64) -> [&'r Word; 2] {
        let bits = self.geometry.ledger_bits;
        let table = |number: usize, hash: u64| {
            let index = (hash >> (64 - bits)) as usize;
            &self.words[self.geometry.ledger_at + (number << bits) + index]
        };
        [table(tables as usize, first), table(tables as usize + 1, second)]
    }

    /// In the total order: a load that is about to be published asks this after it can be seen, and who invalidates looks for it
    /// after having raised the counters.
    fn oldest(pair: [&Word; 2]) -> u64 {
        pair[0].load(Ordering::SeqCst).min(pair[1].load(Ordering::SeqCst))
    }
}
