//! Counters of events, in each worker's row: summed when read, so that they cover all processes and survive their deaths.
//! They never slow a reader of another process: a row has cache lines of its own.

use super::layout::worker;
use super::region::Region;
use super::words::Ordering;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Counter { $($(#[$doc])* $name,)* }

        impl Counter {
            /// All counters, in the order of the region.
            pub const ALL: &'static [Counter] = &[$(Counter::$name,)*];

            /// The name under which statistics show it.
            pub fn name(self) -> &'static str {
                match self { $(Counter::$name => $text,)* }
            }
        }
    };
}

counters! {
    /// Reads answered by a decoded value.
    HitsDecoded = "hits_decoded",
    /// Reads answered by the region.
    HitsRegion = "hits_region",
    /// Reads that found nothing.
    MissesAbsent = "misses_absent",
    /// Reads that found an expired entry.
    MissesExpired = "misses_expired",
    /// Reads that found an invalidated entry.
    MissesInvalidated = "misses_invalidated",
    /// Reads that found a damaged entry.
    MissesCorrupt = "misses_corrupt",
    /// Entries written.
    Sets = "sets",
    /// Writes under a condition that did not hold.
    Held = "held",
    /// Writes that did not fit.
    Refused = "refused",
    /// Entries removed by a call.
    Deletes = "deletes",
    /// Expiries changed.
    Touches = "touches",
    /// Counts changed.
    Counts = "counts",
    /// Locations and prefixes cleared.
    Clears = "clears",
    /// Segments emptied.
    EvictedSegments = "evicted_segments",
    /// Entries dropped for want of use or room.
    EvictedEntries = "evicted_entries",
    /// Expired entries dropped.
    EvictedExpired = "evicted_expired",
    /// Entries that an eviction kept.
    Survivors = "survivors",
    /// Dead workers whose segments were taken over.
    DeadWorkers = "dead_workers",
    /// Loads that were run.
    Loads = "loads",
    /// Loads that another ran, which were waited for.
    LoadsAwaited = "loads_awaited",
    /// Loads that failed.
    LoadsFailed = "loads_failed",
    /// Loads that were overtaken by an invalidation or a set, and not stored.
    LoadsOvertaken = "loads_overtaken",
    /// Tags invalidated.
    TagsInvalidated = "tags_invalidated",
    /// Reads of a load that were answered by a stale value.
    HitsStale = "hits_stale",
    /// Uses of rate limits that were refused for want of a place in their table.
    RatesRefused = "rates_refused",
}

const _: () = assert!(Counter::ALL.len() <= worker::COUNTERS_END - worker::COUNTERS);

impl Region {
    /// Counts in a worker's row.
    #[inline]
    pub(crate) fn count(&self, row: usize, counter: Counter, number: u64) {
        self.worker(row)[worker::COUNTERS + counter as usize].count(number);
    }

    /// The sum over all workers, dead ones included.
    pub(crate) fn total(&self, counter: Counter) -> u64 {
        (0..=self.geometry.workers)
            .map(|row| self.worker(row)[worker::COUNTERS + counter as usize].load(Ordering::Relaxed))
            .fold(0, u64::wrapping_add)
    }
}
