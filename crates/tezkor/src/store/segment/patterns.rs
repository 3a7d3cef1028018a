//! Deleting by pattern, and the time that an entry has left. A scan locks nothing and holds up nobody.

use super::counters::Counter;
use super::layout::BUCKET_WORDS;
use super::record::NEVER_MS;
use super::region::Region;
use super::words::Ordering;
use super::{SegmentStore, slot};
use crate::key::{Key, Space};

impl SegmentStore {
    /// Removes all entries of a prefix whose full key fits; how many there were. A load that is under way does not bring its
    /// key back.
    ///
    /// 1. The prefix's pattern sequence is raised: what loads under way bring is not stored from here on.
    /// 2. All slots are looked through. A tentative word may be that of a load which asked before step 1: it is removed, and
    ///    the load's commit fails.
    pub fn delete_pattern(&self, space: Space, fits: &dyn Fn(&[u8]) -> bool) -> u64 {
        let (attached, now_ms) = self.enter();
        let space = attached.renewed_space(space);
        let region = &attached.region;
        region.ledger().delete_pattern(space.prefix_row);
        region.remove_all_tentative();
        let mut removed = 0;
        self.each_record(&mut |header, key_bytes| {
            let ours = header.prefix_row == space.prefix_row && key_bytes[..8] == space.location.to_le_bytes();
            if ours && fits(&key_bytes[8..]) {
                let key = Key::new(space, region.seed, &key_bytes[8..]);
                let is_there = key.low == header.hash && region.find(&key).is_some_and(|at| at.is_of_prefix(space));
                // Stale entries go too, uncounted.
                removed += u64::from(is_there && region.remove(&key, now_ms));
            }
            true
        });
        region.count(attached.row(), Counter::Deletes, removed);
        removed
    }

    /// How long an entry lives on, in milliseconds: `None`: there is none; `Some(None)`: it never expires.
    pub fn time_left_ms(&self, key: &Key<'_>) -> Option<Option<u64>> {
        let (attached, now_ms) = self.enter();
        let renewed = attached.renewed(key);
        let key = renewed.as_ref().unwrap_or(key);
        let located = attached.region.find(key)?;
        if !attached.region.is_live(key, &located, now_ms) {
            return None;
        }
        let expires_ms = located.expires_ms()?;
        Some((expires_ms != NEVER_MS).then(|| expires_ms - now_ms))
    }

    /// The tags of an entry, live or not.
    pub fn tags(&self, key: &Key<'_>) -> Vec<Vec<u8>> {
        let (attached, _) = self.enter();
        let renewed = attached.renewed(key);
        let key = renewed.as_ref().unwrap_or(key);
        attached.region.find(key).map_or_else(Vec::new, |located| attached.region.tag_names(&located))
    }
}

impl Region {
    /// Removes what is about to be published anywhere: writers look again, loads that were overtaken end there.
    pub(crate) fn remove_all_tentative(&self) {
        let geometry = &self.geometry;
        for position in geometry.index_at..geometry.index_at + geometry.buckets * BUCKET_WORDS {
            let is_slot = !(position - geometry.index_at).is_multiple_of(BUCKET_WORDS);
            let word = self.words()[position].load(Ordering::SeqCst);
            if is_slot && word & slot::TENTATIVE != 0 {
                let _ = self.words()[position].replace(word, 0);
            }
        }
    }
}
