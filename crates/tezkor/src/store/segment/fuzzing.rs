//! What the fuzz targets need beyond the interface of a store: a private region that is the same at each run, and a way to damage it.
//! It is part of no other build.

use std::path::Path;

use super::SegmentStore;
use super::attach::{self, Place};
use super::layout::{Geometry, header};
use super::words::Ordering;
use crate::clock::Clock;

/// A part of a region that can be damaged.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// The words of the header that change.
    Header,
    /// Workers' rows.
    Workers,
    /// Rows of locations and prefixes.
    Rows,
    /// Counters of invalidations.
    Ledger,
    /// The segment table.
    Table,
    /// The bucket of a key.
    Bucket(u64),
    /// A segment.
    Segment(usize),
}

impl SegmentStore {
    /// A private region of the smallest size, whose seed does not change from run to run.
    pub fn for_fuzzing() -> SegmentStore {
        let store = SegmentStore::open(Place::Private, 1 << 20, Clock::Manual).expect("private memory");
        let opened = attach::open_private_with(1 << 20, Clock::Manual, [1, 2, 3]).expect("private memory");
        store.attach(opened);
        store.set_time(1 << 40);
        store
    }

    /// The region file `fuzz.region` of a directory, as `shared://` would come to it.
    pub fn at_for_fuzzing(parent: &Path) -> SegmentStore {
        let place = Place::File {
            parent: parent.to_path_buf(),
            directory: Some("tezkor".into()),
            name: "fuzz".into(),
            survives_boot: false,
        };
        SegmentStore::open(place, 1 << 20, Clock::Boot).expect("private memory at least")
    }

    /// Changes one word of a part; numbers beyond its end begin again.
    pub fn damage(&self, part: Part, number: usize, change: impl FnOnce(u64) -> u64) {
        let attached = self.attached.load();
        let region = &attached.region;
        let Geometry { workers_at, rows_at, ledger_at, table_at, index_at, segments, segment_words, .. } =
            region.geometry;
        let (at, count) = match part {
            Part::Header => (header::SEQUENCE, workers_at - header::SEQUENCE),
            Part::Workers => (workers_at, rows_at - workers_at),
            Part::Rows => (rows_at, ledger_at - rows_at),
            Part::Ledger => (ledger_at, table_at - ledger_at),
            Part::Table => (table_at, index_at - table_at),
            Part::Bucket(hash) => (region.bucket_at(hash), 8),
            Part::Segment(index) => (region.geometry.segment_at(index % segments), segment_words),
        };
        let word = &region.words()[at + number % count];
        word.store(change(word.load(Ordering::SeqCst)), Ordering::SeqCst);
    }
}
