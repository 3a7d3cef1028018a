//! What has expired, and what is too much, goes in small batches that follow writes: no thread, no timer, no long statement.

use std::sync::atomic::{AtomicU64, Ordering};

/// So many rows written bring about one sweep.
pub(super) const ROWS_BETWEEN: u64 = 100;
/// A sweep removes so many at most: more than were written meanwhile, so that a table full of expired rows becomes smaller.
pub(super) const ROWS_AT_ONCE: u64 = 200;

/// Counts the rows that this process writes.
#[derive(Debug)]
pub(super) struct Tidying {
    written: AtomicU64,
    /// Counting the table costs as much as there are rows up to the limit: that many writes share it, or a tenth.
    between_counts: Option<u64>,
}

/// What is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) sweeps: u64,
    pub(super) counts: bool,
}

impl Tidying {
    /// Begins anywhere, so that processes which write little do their share too.
    pub(super) fn new(random: u64, most_entries: Option<u64>) -> Self {
        let between_counts = most_entries.map(|most| (most / 10).max(ROWS_BETWEEN));
        Self { written: AtomicU64::new(random % between_counts.unwrap_or(ROWS_BETWEEN)), between_counts }
    }

    pub(super) fn wrote(&self, rows: u64) -> Due {
        let before = self.written.fetch_add(rows, Ordering::Relaxed);
        let passed = |every: u64| (before + rows) / every - before / every;
        Due { sweeps: passed(ROWS_BETWEEN), counts: self.between_counts.is_some_and(|every| passed(every) > 0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hundred_rows_bring_about_one_sweep_in_whatever_batches_they_come() {
        let tidying = Tidying::new(50, None);
        let due = |rows| tidying.wrote(rows).sweeps;
        assert_eq!([due(49), due(1), due(99), due(1), due(250), due(49), due(1)], [0, 1, 0, 1, 2, 0, 1]);
    }

    #[test]
    fn the_table_is_counted_after_a_tenth_of_what_it_may_hold() {
        let tidying = Tidying::new(0, Some(20_000));
        assert!(!tidying.wrote(1999).counts);
        assert!(tidying.wrote(1).counts);
        assert!(!tidying.wrote(1999).counts);
        assert!(Tidying::new(0, Some(10)).wrote(100).counts);
        assert!(!Tidying::new(0, None).wrote(1 << 40).counts);
    }
}
