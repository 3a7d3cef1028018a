//! Tiers: what all workers of the machine know together of a far store: whether its breaker is open, and how much it has not been
//! told. Words of a fixed table, changed by swaps: nobody waits, and a worker that dies leaves nothing to repair.
//! What the words mean is decided in `tier/`; this file never does.

use super::layout::tier;
use super::region::Region;
use super::words::{Ordering, Word};
use super::{SegmentStore, os};

/// Which word of a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Breaker = tier::BREAKER as isize,
    Debts = tier::DEBTS as isize,
}

impl Region {
    /// The row of a name, taken if it has none; `None` when the table is full.
    fn tier_row(&self, name: u64) -> Option<usize> {
        let name = name.max(1);
        for step in 0..tier::ROWS {
            let at = self.geometry.tiers_at + (name as usize).wrapping_add(step) % tier::ROWS * tier::WORDS;
            let word = &self.words()[at + tier::NAME];
            match word.load(Ordering::SeqCst) {
                0 => match word.replace(0, name) {
                    Ok(()) => return Some(at),
                    Err(found) if found == name => return Some(at),
                    Err(_) => {}
                },
                found if found == name => return Some(at),
                _ => {}
            }
        }
        None
    }

    /// Counts a debt that nobody writes down for each server: nothing that it has can be trusted.
    pub(super) fn owe_everything(&self) {
        for row in 0..tier::ROWS {
            let words = &self.words()[self.geometry.tiers_at + row * tier::WORDS..][..tier::WORDS];
            if words[tier::NAME].load(Ordering::SeqCst) != 0 {
                words[tier::DEBTS].add(1);
            }
        }
    }

    fn tier_word(&self, name: u64, field: Field) -> Option<&Word> {
        self.tier_row(name).map(|at| &self.words()[at + field as usize])
    }
}

impl SegmentStore {
    /// A word of a tier; 0 where the table is full.
    #[inline]
    pub(crate) fn tier(&self, name: u64, field: Field) -> u64 {
        let (attached, _) = self.enter();
        attached.region.tier_word(name, field).map_or(0, |word| word.load(Ordering::SeqCst))
    }

    /// Replaces a word of a tier if it is still the old one; whether it was.
    pub(crate) fn replace_tier(&self, name: u64, field: Field, old: u64, new: u64) -> bool {
        let (attached, _) = self.enter();
        attached.region.tier_word(name, field).is_none_or(|word| word.replace(old, new).is_ok())
    }

    /// Adds to a word of a tier, never below 0.
    pub(crate) fn add_to_tier(&self, name: u64, field: Field, delta: i64) {
        let (attached, _) = self.enter();
        let Some(word) = attached.region.tier_word(name, field) else { return };
        let mut old = word.load(Ordering::SeqCst);
        while let Err(found) = word.replace(old, old.saturating_add_signed(delta)) {
            old = found;
        }
    }

    /// The time that breakers are kept in.
    pub(crate) fn breaker_ms(&self) -> u64 {
        os::boot_ms()
    }
}
