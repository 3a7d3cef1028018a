//! The geometry of a region: what lies where, as a pure function of its size.
//! It never touches memory; `docs/format.md` draws the same byte by byte.
//!
//! ```text
//! header 4 KiB | workers | rows | intents | claims (2 tables) | rate windows | tiers | Ledger (4 tables) | segment table | index | padding to 4 KiB
//! | segments ...
//! ```

/// Words (8 bytes) in a page.
pub(crate) const PAGE_WORDS: usize = 512;
/// The unit of offsets and lengths within a segment: 16 bytes.
pub(crate) const UNIT_WORDS: usize = 2;

/// `TEZKOR` and the version of the layout; raised by every change of what is written here or in `entry.rs`.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"TEZKOR\x00\x03");

/// The smallest region; below that there is private memory only.
pub const SMALLEST_REGION_BYTES: u64 = 1 << 20;
/// The largest region: 17 bits of segment number, 1 MiB each.
pub const LARGEST_REGION_BYTES: u64 = 128 << 30;
/// The most workers that a region has rows for.
pub(crate) const MOST_WORKERS: usize = 512;
/// The size of a region when none is asked for.
pub const DEFAULT_REGION_BYTES: u64 = 128 << 20;
/// The largest value, whatever the size of the region.
pub const LARGEST_VALUE_BYTES: u64 = 64 << 20;

/// Words of the header that never change once the region is ready.
pub(crate) mod header {
    pub(crate) const MAGIC: usize = 0;
    pub(crate) const SIZE_BYTES: usize = 1;
    pub(crate) const SEGMENT_WORDS: usize = 2;
    pub(crate) const SEGMENTS: usize = 3;
    pub(crate) const BUCKETS: usize = 4;
    pub(crate) const WORKERS: usize = 5;
    pub(crate) const SEED: usize = 6;
    pub(crate) const REGION_ID: usize = 7;
    pub(crate) const BOOT_ID: usize = 8;
    pub(crate) const CLOCK: usize = 9;
    pub(crate) const EPOCH: usize = 10;
    pub(crate) const CREATED_WALL_MS: usize = 11;
    pub(crate) const CHECKSUM: usize = 12;
    /// The size that was asked for when there was room for less; 0: what it has.
    pub(crate) const ASKED_BYTES: usize = 13;
    /// Words that the checksum covers.
    pub(crate) const FIXED: usize = 12;

    // Each of the following has a cache line of its own.
    /// The logical time of invalidations.
    pub(crate) const SEQUENCE: usize = 32;
    /// Raised at every change of the Ledger.
    pub(crate) const CHANGE: usize = 40;
    /// The next place in the eviction queues.
    pub(crate) const STAMP: usize = 48;
    /// Keys that the small queue evicted in this age of the ghost queue.
    pub(crate) const GHOSTS: usize = 56;
    pub(crate) const GHOST_AGE: usize = 57;
    /// Records in all segments, when one was last evicted.
    pub(crate) const RECORDS: usize = 58;
    /// Where the search for a free segment begins.
    pub(crate) const FREE_HINT: usize = 64;
    /// Whether the file system had no room for a segment lately.
    pub(crate) const SHORTAGE: usize = 65;
    /// Workers that came to a region on disk since it was clean; zero after a clean detach.
    pub(crate) const ATTACHED: usize = 72;
    /// Whether `ATTACHED` is on the disk.
    pub(crate) const SYNCED: usize = 73;
    /// The last fencing token that was given out.
    pub(crate) const TOKEN: usize = 80;
    /// Loads under way that have no place in the table of flights: while there are any, every set is told to the Ledger.
    pub(crate) const FREE_LOADS: usize = 88;
    /// Intents that are in use, and those among them whose owner died: hints, what counts is in the table.
    pub(crate) const INTENTS: usize = 96;
    pub(crate) const HOLDS: usize = 97;
    /// Until when nothing that a load brought is stored: more intents of a dead worker than the table has room for.
    pub(crate) const HOLD_ALL_UNTIL_MS: usize = 98;
}

/// Words of a worker's row.
pub(crate) mod worker {
    pub(crate) const WORDS: usize = 64;
    /// Incarnation (high 32 bits) and state.
    pub(crate) const STATE: usize = 0;
    pub(crate) const PID: usize = 1;
    pub(crate) const STARTED_MS: usize = 2;
    /// The number of entries that this row has written: the low part of an entry id.
    pub(crate) const ENTRIES: usize = 3;
    /// The process id is one of this namespace.
    pub(crate) const PID_NAMESPACE: usize = 4;
    /// Loads of this worker that have no place in the table of flights.
    pub(crate) const FREE_LOADS: usize = 5;
    /// Intents of this worker that the table had no room for: each stands for everything.
    pub(crate) const INTENTS_OVER: usize = 6;
    /// The first counter.
    pub(crate) const COUNTERS: usize = 8;
    pub(crate) const COUNTERS_END: usize = WORDS;
}

/// Words of a row: a location's or a prefix's own counter.
pub(crate) mod row {
    pub(crate) const WORDS: usize = 4;
    pub(crate) const NAME_LOW: usize = 0;
    pub(crate) const NAME_HIGH: usize = 1;
    /// The sequence at which it was last cleared.
    pub(crate) const CLEARED: usize = 2;
    /// The sequence at which a pattern was last deleted from it.
    pub(crate) const PATTERN: usize = 3;
}

/// Words of a segment's row in the segment table.
pub(crate) mod segment {
    pub(crate) const WORDS: usize = 8;
    pub(crate) const GENERATION: usize = 0;
    pub(crate) const STATE: usize = 1;
    /// Writers under way (high 32 bits) and the first free unit.
    pub(crate) const CURSOR: usize = 2;
    /// The place in the eviction queue.
    pub(crate) const STAMP: usize = 3;
    /// Of a chain's member: the head's segment.
    pub(crate) const HEAD: usize = 4;
    /// Of a chain's member: the head's generation.
    pub(crate) const HEAD_GENERATION: usize = 5;
    /// Not reused before this time: its last owner died.
    pub(crate) const RESTS_UNTIL_MS: usize = 6;
    /// Records that were begun in it.
    pub(crate) const RECORDS: usize = 7;
}

/// Words of an intent: an invalidation within a transaction that may have been committed when its worker dies.
pub(crate) mod intent {
    pub(crate) const WORDS: usize = 8;
    /// State (low 8 bits), the owner's row (24), a number (32).
    pub(crate) const STATE: usize = 0;
    /// What it invalidates.
    pub(crate) const KIND: usize = 1;
    pub(crate) const LOW: usize = 2;
    pub(crate) const HIGH: usize = 3;
    /// When it is carried out for the second time, after its owner's death; in boot time.
    pub(crate) const DUE_MS: usize = 4;
}

/// A bucket of claims: eight slots, then the data of each.
pub(crate) mod claim {
    pub(crate) const SLOTS: usize = 8;
    /// Words of data of a load or a lock.
    pub(crate) const DATA_WORDS: usize = 4;
    pub(crate) const BUCKET_WORDS: usize = SLOTS * (1 + DATA_WORDS);
    /// The fencing token.
    pub(crate) const TOKEN: usize = 0;
    /// Until when it is held.
    pub(crate) const DEADLINE: usize = 1;
    /// How many wait for it.
    pub(crate) const WAITERS: usize = 2;
    /// How often the load has failed in a row, and in which worker.
    pub(crate) const FAILURES: usize = 3;
    /// A rate limit has one word of data: its window.
    pub(crate) const RATE_DATA_WORDS: usize = 1;
    pub(crate) const RATE_BUCKET_WORDS: usize = SLOTS * (1 + RATE_DATA_WORDS);
    /// Flights and locks; rate windows follow, in a table of a size of its own.
    pub(crate) const TABLES: usize = 2;
}

/// Words of a tier: what the machine knows of a far store.
pub(crate) mod tier {
    pub(crate) const WORDS: usize = 4;
    /// Tiers of all caches that share the region.
    pub(crate) const ROWS: usize = 64;
    /// Which one; 0: nobody's.
    pub(crate) const NAME: usize = 0;
    /// The state of the breaker.
    pub(crate) const BREAKER: usize = 1;
    /// Invalidations that the store has not been told of.
    pub(crate) const DEBTS: usize = 2;
}

/// Slots of a bucket; word 0 of the bucket is its part of the ghost queue.
pub(crate) const BUCKET_WORDS: usize = 8;

/// The sizes and offsets (in words) of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) size_bytes: u64,
    pub(crate) segment_words: usize,
    pub(crate) segments: usize,
    pub(crate) buckets: usize,
    pub(crate) workers: usize,
    pub(crate) rows: usize,
    pub(crate) intents: usize,
    /// Buckets of flights, and of locks.
    pub(crate) claim_buckets: usize,
    /// Buckets of rate windows.
    pub(crate) rate_buckets: usize,
    /// Each of the four tables of the Ledger has 2^ledger_bits counters.
    pub(crate) ledger_bits: u32,
    pub(crate) workers_at: usize,
    pub(crate) rows_at: usize,
    pub(crate) intents_at: usize,
    pub(crate) claims_at: usize,
    pub(crate) rates_at: usize,
    pub(crate) tiers_at: usize,
    pub(crate) ledger_at: usize,
    pub(crate) table_at: usize,
    pub(crate) index_at: usize,
    pub(crate) segments_at: usize,
}

/// The sizes of what lies before the segments.
#[derive(Clone, Copy)]
struct Tables {
    buckets: usize,
    workers: usize,
    rows: usize,
    intents: usize,
    claim_buckets: usize,
    rate_buckets: usize,
    ledger_bits: u32,
}

impl Geometry {
    /// The geometry of a region of this many bytes, rounded down to whole pages.
    pub(crate) fn of_size(size_bytes: u64) -> Self {
        let size_bytes = size_bytes.clamp(SMALLEST_REGION_BYTES, LARGEST_REGION_BYTES) & !4095;
        let segment_bytes = (size_bytes / 512).clamp(16 << 10, 1 << 20) & !4095;
        let most_segments = (size_bytes / segment_bytes) as usize;
        // 64 workers at 8 MiB and above; two open segments each stay within a quarter of the region (alloc.rs).
        let workers = (most_segments / 8).clamp(8, MOST_WORKERS);
        let rows = if size_bytes < 8 << 20 { 128 } else { 1024 };
        let intents = if size_bytes < 8 << 20 { 32 } else { 256 };
        // One claim for 16 KiB, in a small region for 64 KiB: at most 8 192 loads and locks each at the same time, in less than
        // 1 % of the region.
        let claim_bytes = if size_bytes < 64 << 20 { 64 << 10 } else { 16 << 10 };
        let claim_buckets = (size_bytes as usize / claim_bytes / claim::SLOTS).clamp(4, 1024);
        // Rate limits are asked of each visitor: one window for 2 KiB, in 1 % of the region.
        let rate_buckets = (size_bytes as usize / (2 << 10) / claim::SLOTS).clamp(4, 1 << 17);
        // Four tables of 8-byte counters within 1/32 of the region, at most the 2^18 of the design.
        let ledger_bits = (size_bytes / (32 * 32)).ilog2().min(18);
        // One slot for every 224 bytes: an index that is half full at entries of 450 bytes and takes 4 % of the region.
        let buckets = (size_bytes / (224 * 7)) as usize;
        let tables = Tables { buckets, workers, rows, intents, claim_buckets, rate_buckets, ledger_bits };
        Self::assemble(size_bytes, segment_bytes as usize / 8, most_segments, tables)
    }

    fn assemble(size_bytes: u64, segment_words: usize, most_segments: usize, tables: Tables) -> Self {
        let Tables { buckets, workers, rows, intents, claim_buckets, rate_buckets, ledger_bits } = tables;
        let workers_at = PAGE_WORDS;
        // One row more: the counters of processes that found no worker slot.
        let rows_at = workers_at + (workers + 1) * worker::WORDS;
        let intents_at = rows_at + rows * row::WORDS;
        let claims_at = (intents_at + intents * intent::WORDS).next_multiple_of(BUCKET_WORDS);
        let rates_at = claims_at + claim::TABLES * claim_buckets * claim::BUCKET_WORDS;
        let tiers_at = rates_at + rate_buckets * claim::RATE_BUCKET_WORDS;
        let ledger_at = tiers_at + tier::ROWS * tier::WORDS;
        let table_at = ledger_at + (4usize << ledger_bits);
        let index_at = (table_at + most_segments * segment::WORDS).next_multiple_of(BUCKET_WORDS);
        let segments_at = (index_at + buckets * BUCKET_WORDS).next_multiple_of(PAGE_WORDS);
        let total_words = (size_bytes / 8) as usize;
        let segments = (total_words - segments_at) / segment_words;
        Geometry {
            size_bytes,
            segment_words,
            segments,
            buckets,
            workers,
            rows,
            intents,
            claim_buckets,
            rate_buckets,
            ledger_bits,
            workers_at,
            rows_at,
            intents_at,
            claims_at,
            rates_at,
            tiers_at,
            ledger_at,
            table_at,
            index_at,
            segments_at,
        }
    }

    /// A region just large enough for the schedule explorer: one bucket, segments of a few entries.
    #[cfg(all(test, any(loom, shuttle)))]
    pub(crate) fn tiny(segments: usize, segment_words: usize) -> Self {
        let tables =
            Tables { buckets: 1, workers: 4, rows: 2, intents: 2, claim_buckets: 1, rate_buckets: 1, ledger_bits: 1 };
        let bare = Self::assemble(1 << 30, segment_words, segments, tables);
        let words = bare.segments_at + segments * segment_words;
        Self::assemble(words as u64 * 8, segment_words, segments, tables)
    }

    #[cfg(test)]
    fn total_words(&self) -> usize {
        (self.size_bytes / 8) as usize
    }

    pub(crate) fn segment_units(&self) -> usize {
        self.segment_words / UNIT_WORDS
    }

    /// The first word of a segment.
    pub(crate) fn segment_at(&self, segment: usize) -> usize {
        self.segments_at + segment * self.segment_words
    }

    /// The largest value: a quarter of the region, at most 64 MiB.
    pub(crate) fn largest_value(&self) -> usize {
        (self.size_bytes / 4).min(LARGEST_VALUE_BYTES) as usize
    }

    /// Open segments hold at most a quarter of the region.
    pub(crate) fn most_open(&self) -> usize {
        (self.segments / 4).max(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_room_for_its_workers_and_most_of_it_for_segments() {
        for size in [1 << 20, 3 << 20, 8 << 20, 16 << 20, 64 << 20, 128 << 20, 1 << 30, 7 << 30, 128 << 30] {
            let geometry = Geometry::of_size(size);
            assert!(geometry.segments_at + geometry.segments * geometry.segment_words <= geometry.total_words());
            let share = (geometry.segments * geometry.segment_words * 8) as f64 / size as f64;
            assert!(share > 0.88, "{size}: {share}");
            assert!(geometry.segments < 1 << 17);
            assert!(geometry.segment_units() <= 1 << 16);
            assert!(geometry.workers <= geometry.most_open() || size < 2 << 20, "{geometry:?}");
            assert!((4usize << geometry.ledger_bits) * 8 <= size as usize / 32);
        }
        assert_eq!(Geometry::of_size(8 << 20).workers, 64);
    }

    #[test]
    fn the_largest_value_is_a_quarter_of_the_region_and_at_most_64_mebibytes() {
        for size in [1 << 20, 8 << 20, 128 << 20, 256 << 20] {
            let largest = Geometry::of_size(size).largest_value() as u64;
            assert_eq!(largest, size / 4);
        }
        assert_eq!(Geometry::of_size(1 << 30).largest_value(), 64 << 20);
        assert_eq!(Geometry::of_size(128 << 30).largest_value(), 64 << 20);
    }
}
