//! The index: 64-byte buckets of seven slots, changed by compare-and-swap alone. Readers take no lock and register nowhere.
//! It never has two committed slots of one fingerprint in a bucket, and a process that dies in the middle blocks nobody.
//!
//! Replacing is one swap. Inserting an absent fingerprint takes two:
//! 1. put the word, marked tentative, into a slot;
//! 2. look through the bucket again: a committed slot of the fingerprint means that another came first: withdraw, start again;
//!    a foreign tentative one is removed, so that its owner's commit fails and it starts again;
//! 3. commit: swap the mark away.
//!
//! Of two inserters at least one looks after both have put their words, so two commits cannot both succeed. Readers ignore
//! tentative words, so an inserter that dies leaves a slot that the next one in need takes.
//!
//! Word 0 of a bucket remembers the last three fingerprints that were evicted from the small queue: the ghost queue.

use super::layout::{BUCKET_WORDS, header};
use super::region::Region;
use super::slot;
use super::words::Ordering;

const GHOSTS: u32 = 3;
const GHOST_BITS: u32 = 21;
const GHOST_AGE_BITS: u32 = 9;
/// Ages between two looks at the same ghost that still count: the ghost queue is as long as both others.
const GHOST_AGES: u64 = 8;

/// A slot that holds a committed word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occupied {
    /// The slot's word in the region.
    pub(crate) position: usize,
    pub(crate) word: u64,
    /// The generation that the segment had when the word was seen.
    pub(crate) generation: u64,
}

/// What came of putting a word into an index that had no slot of its fingerprint.
#[derive(Debug)]
pub(crate) enum Inserted {
    /// Committed in this slot; the word that it displaced, if it was one of an entry.
    Stored { position: usize, displaced: u64 },
    /// Another was there first, or came in between: look again.
    Again,
    /// The caller's last look before the commit forbade it.
    Forbidden,
}

impl Region {
    /// The committed slots of a fingerprint whose segment is still of their generation: at most one, but for words that
    /// changed while this looked.
    #[inline]
    pub(crate) fn occupied(&self, hash: u64, mut visit: impl FnMut(Occupied) -> bool) {
        let fingerprint = slot::fingerprint(hash);
        let bucket = self.bucket_at(hash);
        for position in bucket + 1..bucket + BUCKET_WORDS {
            let mut word = self.words()[position].load(Ordering::SeqCst);
            while word != 0 && word & slot::TENTATIVE == 0 && slot::has_fingerprint(word, fingerprint) {
                if let Some(generation) = self.generation_of(word) {
                    if visit(Occupied { position, word, generation }) {
                        return;
                    }
                    break;
                }
                match self.changed(position, word) {
                    Some(changed) => word = changed,
                    None => break,
                }
            }
        }
    }

    /// What a slot holds by now, if it is another word. A word whose segment has been recycled is dead only if the slot still
    /// holds it: an evictor leads the slot to the copy before it recycles the segment, and the entry is there all the time.
    fn changed(&self, position: usize, word: u64) -> Option<u64> {
        let found = self.words()[position].load(Ordering::SeqCst);
        (slot::identity(found) != slot::identity(word)).then_some(found)
    }

    /// The full generation of the segment that a word points into, unless the segment has been recycled since.
    #[inline]
    pub(crate) fn generation_of(&self, word: u64) -> Option<u64> {
        let segment = slot::segment(word);
        if segment >= self.geometry.segments {
            return None;
        }
        let generation = self.generation(segment);
        slot::is_of_generation(word, generation).then_some(generation)
    }

    /// Whether the slot still holds the word, whatever its frequency.
    #[inline]
    pub(crate) fn still_holds(&self, position: usize, word: u64) -> bool {
        slot::identity(self.words()[position].load(Ordering::SeqCst)) == slot::identity(word)
    }

    /// Replaces a committed word by another, or by 0; a change of frequency alone does not count as a change.
    pub(crate) fn swap(&self, position: usize, old: u64, new: impl Fn(u64) -> u64) -> bool {
        let slot_word = &self.words()[position];
        let mut current = old;
        loop {
            match slot_word.replace(current, new(current)) {
                Ok(()) => return true,
                Err(found) if slot::identity(found) == slot::identity(old) => current = found,
                Err(_) => return false,
            }
        }
    }

    /// Inserts the word of a fingerprint that no committed slot of the bucket holds. `may_commit` is asked when everybody who
    /// removes the key can see, and remove, the tentative word.
    pub(crate) fn insert(&self, hash: u64, new: u64, may_commit: impl FnOnce() -> bool) -> Inserted {
        let (position, found) = self.cheapest_slot(hash);
        let tentative = new | slot::TENTATIVE;
        let target = &self.words()[position];
        let came_first = slot::has_fingerprint(found, slot::fingerprint(hash)) && found & slot::TENTATIVE == 0;
        if found != 0 && came_first && self.generation_of(found).is_some() {
            // Committed since the caller looked: taking its slot would give an absent key two winners.
            return Inserted::Again;
        }
        if target.replace(found, tentative).is_err() {
            return Inserted::Again;
        }
        if !self.remove_rivals(hash, position) {
            // Somebody who removed our mark meanwhile has done this for us.
            let _ = target.replace(tentative, 0);
            return Inserted::Again;
        }
        if !may_commit() {
            let _ = target.replace(tentative, 0);
            return Inserted::Forbidden;
        }
        match target.replace(tentative, new) {
            Ok(()) => {
                let displaced = if found & slot::TENTATIVE == 0 { found } else { 0 };
                Inserted::Stored { position, displaced }
            }
            Err(_) => Inserted::Again,
        }
    }

    /// Removes the tentative words of a fingerprint: an insertion under way looks again, and a load that was overtaken ends there.
    pub(crate) fn remove_tentative(&self, hash: u64) {
        let fingerprint = slot::fingerprint(hash);
        let bucket = self.bucket_at(hash);
        for slot_word in &self.words()[bucket + 1..bucket + BUCKET_WORDS] {
            let word = slot_word.load(Ordering::SeqCst);
            if word & slot::TENTATIVE != 0 && slot::has_fingerprint(word, fingerprint) {
                let _ = slot_word.replace(word, 0);
            }
        }
    }

    /// Whether the bucket has a tentative word of the fingerprint: something is about to be published or withdrawn.
    pub(crate) fn has_tentative(&self, hash: u64) -> bool {
        let fingerprint = slot::fingerprint(hash);
        let bucket = self.bucket_at(hash);
        self.words()[bucket + 1..bucket + BUCKET_WORDS].iter().any(|word| {
            let word = word.load(Ordering::SeqCst);
            word & slot::TENTATIVE != 0 && slot::has_fingerprint(word, fingerprint)
        })
    }

    /// Removes foreign tentative words of the fingerprint; `false` when a committed one is there.
    fn remove_rivals(&self, hash: u64, own: usize) -> bool {
        let fingerprint = slot::fingerprint(hash);
        let bucket = self.bucket_at(hash);
        for position in (bucket + 1..bucket + BUCKET_WORDS).filter(|position| *position != own) {
            let target = &self.words()[position];
            let mut word = target.load(Ordering::SeqCst);
            while word != 0 && slot::has_fingerprint(word, fingerprint) {
                if word & slot::TENTATIVE == 0 {
                    if self.generation_of(word).is_some() {
                        return false;
                    }
                    match self.changed(position, word) {
                        Some(changed) => word = changed,
                        None => break,
                    }
                    continue;
                }
                match target.replace(word, 0) {
                    Ok(()) => break,
                    Err(changed) => word = changed,
                }
            }
        }
        true
    }

    /// The slot that is cheapest to take: empty, of a recycled segment, tentative, or of the lowest frequency.
    fn cheapest_slot(&self, hash: u64) -> (usize, u64) {
        let bucket = self.bucket_at(hash);
        let mut best = (u64::MAX, 0, 0);
        // The search begins at a slot that depends on the key, so that equal costs do not always hit the same slot.
        let start = (hash >> 16) as usize % (BUCKET_WORDS - 1);
        for step in 0..BUCKET_WORDS - 1 {
            let position = bucket + 1 + (start + step) % (BUCKET_WORDS - 1);
            let word = self.words()[position].load(Ordering::SeqCst);
            let cost = match word {
                0 => return (position, 0),
                _ if word & slot::TENTATIVE != 0 => 1,
                _ if self.generation_of(word).is_none() => 0,
                _ => 2 + slot::frequency(word),
            };
            if cost < best.0 {
                best = (cost, position, word);
            }
        }
        (best.1, best.2)
    }

    /// Counts a use of the entry for eviction. A lost race loses one count and nothing else.
    #[inline]
    pub(crate) fn raise_frequency(&self, position: usize, word: u64) {
        if slot::frequency(word) < 3 {
            self.words()[position].replace_relaxed(word, word + slot::FREQUENCY_STEP);
        }
    }

    /// Remembers a key that the small queue evicted.
    pub(crate) fn remember_ghost(&self, hash: u64) {
        let word = &self.words()[self.bucket_at(hash)];
        let old = word.load(Ordering::Relaxed);
        let ghost = (Self::ghost_fingerprint(hash) << GHOST_AGE_BITS) | self.ghost_age();
        word.replace_relaxed(old, (old << GHOST_BITS | ghost) & ((1 << (GHOST_BITS * GHOSTS)) - 1));
        // Eight ages pass while the small queue evicts as many keys as the region holds: of a region that is new nearly all are in
        // the small queue, so that the main queue alone would be no measure.
        let passed = self.header(header::GHOSTS).next();
        let records = self.header(header::RECORDS).load(Ordering::Relaxed).min(1 << 48);
        if passed >= (records / GHOST_AGES).max(1) && self.header(header::GHOSTS).replace_relaxed(passed, 0) {
            self.header(header::GHOST_AGE).add(1);
        }
    }

    /// Whether a key was evicted from the small queue a short while ago.
    pub(crate) fn is_ghost(&self, hash: u64) -> bool {
        let word = self.words()[self.bucket_at(hash)].load(Ordering::Relaxed);
        let (fingerprint, age) = (Self::ghost_fingerprint(hash), self.ghost_age());
        (0..GHOSTS).any(|place| {
            let ghost = (word >> (place * GHOST_BITS)) & ((1 << GHOST_BITS) - 1);
            let distance = age.wrapping_sub(ghost) & ((1 << GHOST_AGE_BITS) - 1);
            ghost >> GHOST_AGE_BITS == fingerprint && distance <= GHOST_AGES
        })
    }

    /// Never zero, so that an empty place is nobody's ghost.
    fn ghost_fingerprint(hash: u64) -> u64 {
        ((hash >> 16) & 0xfff).max(1)
    }

    fn ghost_age(&self) -> u64 {
        self.header(header::GHOST_AGE).load(Ordering::Relaxed) & ((1 << GHOST_AGE_BITS) - 1)
    }
}
