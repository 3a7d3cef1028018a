//! This process's part in a region: its row, taken anew after every fork, and the sweep after workers that died.
//! A process without a row reads; its writes are refused.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::Guard;

use super::Attached;
use super::alloc::Worker;
use super::counters::Counter;
use super::evict::REST_MS;
use super::layout::{header, worker};
use super::lock::Liveness;
use super::state::Owner;
use super::words::Ordering as WordOrdering;
use super::{missing, os};

const TAKEN: u64 = 1;
const SWEEP_EVERY_MS: u64 = 2_000;
const REFRESH_EVERY_MS: u64 = 3_600_000;
/// Between two tries of a process that found no row.
const ENTER_EVERY_MS: u64 = 1_000;

/// A worker between two forks.
pub(crate) struct Life {
    pub(crate) worker: Worker,
    forks: u64,
}

impl Attached {
    /// This process's worker; taken at the first call after a fork. `None` when all rows are taken.
    #[inline]
    pub(crate) fn life(&self) -> Guard<Option<Arc<Life>>> {
        let life = self.life.load();
        match &*life {
            Some(known) if known.forks == os::forks() => life,
            _ => self.begin(),
        }
    }

    /// The row to count in: the last one, which nobody owns, for a process without a row of its own.
    #[inline]
    pub(crate) fn row(&self) -> usize {
        self.life().as_ref().map_or(self.region.geometry.workers, |life| life.worker.row())
    }

    #[cold]
    fn begin(&self) -> Guard<Option<Arc<Life>>> {
        self.join(|| self.mark_in_use())
    }

    /// Takes the row of a process that comes to the region; [`Attached::mark_in_use`] has to follow before it works.
    pub(crate) fn come(&self) {
        self.join(|| ());
    }

    fn join(&self, mark: impl FnOnce()) -> Guard<Option<Arc<Life>>> {
        let now_ms = os::boot_ms();
        let old = self.life.load();
        match &*old {
            // Another thread of this process was faster: its row must not be replaced by a second one.
            Some(known) if known.forks == os::forks() => return old,
            None if now_ms < self.enter_at_ms.load(Ordering::Relaxed) => return old,
            _ => {}
        }
        let fresh = (0..self.region.geometry.workers).find_map(|row| self.take_row(row, now_ms));
        let Some(owner) = fresh else {
            self.enter_at_ms.store(now_ms + ENTER_EVERY_MS, Ordering::Relaxed);
            self.life.compare_and_swap(&old, None);
            return self.life.load();
        };
        mark();
        let life = Arc::new(Life { worker: Worker::joining(owner), forks: os::forks() });
        let before = self.life.compare_and_swap(&old, Some(life));
        let won = match (&*before, &*old) {
            (Some(before), Some(old)) => Arc::ptr_eq(before, old),
            (None, None) => true,
            _ => false,
        };
        if !won {
            // Another thread of this process was faster.
            self.release_row(owner);
        }
        self.life.load()
    }

    /// Takes a row that nobody who lives has, and what its last owner left behind.
    fn take_row(&self, row: usize, now_ms: u64) -> Option<Owner> {
        if !self.liveness.take(row) {
            return None;
        }
        let words = self.region.worker(row);
        let found = words[worker::STATE].load(WordOrdering::SeqCst);
        let incarnation = (found >> 32) as u32;
        self.adopt(row, found & TAKEN != 0, now_ms);
        let owner = Owner { row: row as u16, incarnation: incarnation.wrapping_add(1) };
        words[worker::PID].store(u64::from(std::process::id()), WordOrdering::SeqCst);
        words[worker::PID_NAMESPACE].store(os::pid_namespace(), WordOrdering::SeqCst);
        words[worker::STARTED_MS].store(now_ms, WordOrdering::SeqCst);
        words[worker::STATE].store(u64::from(owner.incarnation) << 32 | TAKEN, WordOrdering::SeqCst);
        Some(owner)
    }

    /// Takes over what earlier owners of a row, which is ours, left behind.
    fn adopt(&self, row: usize, died: bool, now_ms: u64) {
        let rests_until_ms = match self.liveness {
            Liveness::Locks(_) if !self.is_gone(row) => now_ms + REST_MS,
            // After a fork the child alone has its copy of private memory.
            _ => 0,
        };
        self.region.adopt(row, rests_until_ms);
        // Before the row is anybody's again: who asks whether its claims' holder lives asks about the row.
        self.region.release_claims_of(row);
        self.region.forget_free_loads(row);
        self.region.hold_intents_of(row, now_ms);
        self.region.count(row, Counter::DeadWorkers, u64::from(died));
    }

    /// Whether the process that had a row last has ended for certain, and not only lost its lock.
    fn is_gone(&self, row: usize) -> bool {
        let words = self.region.worker(row);
        let pid = words[worker::PID].load(WordOrdering::SeqCst);
        let namespace = words[worker::PID_NAMESPACE].load(WordOrdering::SeqCst);
        namespace != 0 && namespace == os::pid_namespace() && !os::is_running(pid)
    }

    fn release_row(&self, owner: Owner) {
        let state = &self.region.worker(usize::from(owner.row))[worker::STATE];
        let free = u64::from(owner.incarnation) << 32;
        // A process that had lost its lock may find the row with another owner: that one's it stays.
        let _ = state.replace(free | TAKEN, free);
        self.liveness.give_back(usize::from(owner.row));
    }

    /// Gives this process's row back; what it had open is sealed.
    pub(crate) fn leave(&self) {
        if let Some(life) = self.life.swap(None)
            && life.forks == os::forks()
        {
            self.region.seal_open(&life.worker);
            self.release_row(life.worker.owner);
        }
    }

    /// Gives this process's row back without touching the region: of a file that was cut or replaced, nobody knows what is left.
    pub(crate) fn abandon(&self) {
        if let Some(life) = self.life.swap(None)
            && life.forks == os::forks()
        {
            self.liveness.give_back(life.worker.row());
        }
    }

    /// Whether the region's file is still the one at its path, as large as it was.
    pub(crate) fn is_whole(&self, path: &Path, name: &str) -> bool {
        std::fs::symlink_metadata(path.join(format!("{name}.region"))).is_ok_and(|found| {
            self.file == Some((found.dev(), found.ino())) && found.len() >= self.region.geometry.size_bytes
        })
    }

    /// Whether the lock file is still the one at its path, and its descriptor still open.
    pub(crate) fn is_locked(&self, path: &Path, name: &str) -> bool {
        match &self.liveness {
            Liveness::Locks(file) => file.is_intact() && file.is_at(&path.join(format!("{name}.lock"))),
            Liveness::Private(_) => true,
        }
    }

    /// What has to be done now and then: after dead workers, after memory that was full, for the age of the region. In boot
    /// time, which nobody sets back.
    pub(crate) fn maintain(&self, now_ms: u64) {
        self.probe_intents(now_ms);
        missing::come_first();
        if now_ms >= self.sweep_at_ms.load(Ordering::Relaxed) {
            self.sweep_at_ms.store(now_ms + SWEEP_EVERY_MS, Ordering::Relaxed);
            self.sweep(now_ms);
        }
        if now_ms >= self.refresh_at_ms.load(Ordering::Relaxed) {
            self.refresh_at_ms.store(now_ms + REFRESH_EVERY_MS, Ordering::Relaxed);
            if let Liveness::Locks(file) = &self.liveness {
                file.refresh();
            }
        }
    }

    /// Frees the rows of dead workers, puts their segments back into circulation, and tries memory that was full once more.
    pub(crate) fn sweep(&self, now_ms: u64) {
        for row in 0..self.region.geometry.workers {
            let taken = self.region.worker(row)[worker::STATE].load(WordOrdering::SeqCst) & TAKEN != 0;
            if taken
                && !self.liveness.is_alive(row)
                && let Some(owner) = self.take_row(row, now_ms)
            {
                self.release_row(owner);
            }
        }
        // Whoever claims it next reserves it, or finds that there is still no room.
        let _ = (0..self.region.geometry.segments).find(|index| self.region.retry_memory(*index));
    }

    /// A region on disk is marked as in use, on the disk too, before its first worker writes to it: after a power loss it is
    /// not trusted.
    pub(crate) fn mark_in_use(&self) {
        let Some(file) = self.open_disk() else { return };
        self.region.header(header::ATTACHED).add(1);
        if self.region.header(header::SYNCED).load(WordOrdering::SeqCst) == 0 && file.sync_all().is_ok() {
            self.region.header(header::SYNCED).store(1, WordOrdering::SeqCst);
        }
        // Where it fails the disk fails, and what it holds after a power loss fails its checksums.
    }

    /// The last worker to leave a region on disk writes it out and marks it clean. Whoever comes meanwhile raises the mark, and
    /// it stays.
    pub(crate) fn write_out(&self) {
        let attached = self.region.header(header::ATTACHED).load(WordOrdering::SeqCst);
        if self.is_in_use() {
            return;
        }
        let Some(file) = self.open_disk() else { return };
        // Before the mark goes, so that whoever comes after it syncs it again.
        self.region.header(header::SYNCED).store(0, WordOrdering::SeqCst);
        if file.sync_all().is_ok() && self.region.header(header::ATTACHED).replace(attached, 0).is_ok() {
            // Without it the mark is not on disk after a power loss, and the region starts empty: as it should.
            let _ = file.sync_all();
        }
    }

    fn is_in_use(&self) -> bool {
        (0..self.region.geometry.workers).any(|row| self.liveness.is_alive(row))
    }

    /// The file of a region on disk, if it still is the one.
    fn open_disk(&self) -> Option<File> {
        let file = File::options().read(true).write(true).open(self.disk.as_ref()?).ok()?;
        let found = file.metadata().ok()?;
        (self.file == Some((found.dev(), found.ino()))).then_some(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::segment::attach;

    #[test]
    fn a_thread_that_comes_to_begin_late_has_the_row_of_the_first() {
        let attached = attach::open_private(2 << 20, Clock::Boot).expect("private memory");
        let rows: Vec<usize> =
            (0..3).map(|_| attached.begin().as_ref().expect("there are rows").worker.row()).collect();
        assert_eq!(rows, [0, 0, 0]);
        let taken = |row: &usize| attached.region.worker(*row)[worker::STATE].load(WordOrdering::SeqCst) & TAKEN != 0;
        assert_eq!((0..attached.region.geometry.workers).filter(taken).count(), 1);
    }
}
