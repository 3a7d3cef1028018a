//! Liveness: each worker holds a POSIX record lock on its byte of a lock file, which the kernel drops at any death.
//! The descriptor is never closed: closing *any* descriptor of the file would drop all locks of this process.
//!
//! Byte 0 is the creation lock; byte `row + 1` belongs to a worker's row. Record locks are not inherited by a fork, and
//! `F_GETLK` never reports one's own: a process answers for its own rows from memory.

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;

use super::layout::MOST_WORKERS;
use super::os;

/// Every lock file that this process has ever opened. Never locked: a fork amid it would leave the child a lock for ever.
static REGISTRY: LazyLock<ArcSwap<Vec<Arc<LockFile>>>> = LazyLock::new(ArcSwap::default);

/// Rows that this process holds: 0, or one more than the number of forks when it took the row.
pub(crate) struct Held(Box<[AtomicU64]>);

impl Held {
    pub(crate) fn new(rows: usize) -> Self {
        Held((0..rows).map(|_| AtomicU64::new(0)).collect())
    }

    fn has(&self, row: usize) -> bool {
        self.0[row].load(Ordering::SeqCst) == os::forks() + 1
    }

    fn take(&self, row: usize) -> bool {
        let own = os::forks() + 1;
        let found = self.0[row].load(Ordering::SeqCst);
        found != own && self.0[row].compare_exchange(found, own, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn drop(&self, row: usize) {
        self.0[row].store(0, Ordering::SeqCst);
    }
}

/// The turn of one thread of this process. A turn that a thread of the parent had at a fork is nobody's in the child.
struct Turn;

/// 0, or one more than the number of forks of the process whose thread has the turn.
static TURN: AtomicU64 = AtomicU64::new(0);

impl Turn {
    fn take() -> Option<Turn> {
        let own = os::forks() + 1;
        let found = TURN.load(Ordering::SeqCst);
        (found != own && TURN.compare_exchange(found, own, Ordering::SeqCst, Ordering::SeqCst).is_ok()).then_some(Turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let own = os::forks() + 1;
        // After a fork amid it the turn may be another thread's.
        let _ = TURN.compare_exchange(own, 0, Ordering::SeqCst, Ordering::SeqCst);
    }
}

/// An open lock file.
pub(crate) struct LockFile {
    file: ManuallyDrop<File>,
    device: u64,
    inode: u64,
    held: Held,
}

impl LockFile {
    /// Opens the lock file in a directory, or returns the one that this process has open.
    pub(crate) fn open(directory: &File, path: &Path, name: &str, rows: usize) -> io::Result<Arc<LockFile>> {
        // Looked at by name first: a second descriptor could not be closed again.
        if let Ok(found) = std::fs::symlink_metadata(path)
            && let Some(known) = Self::known(&REGISTRY.load(), found.dev(), found.ino())
        {
            return Ok(known);
        }
        let file = ManuallyDrop::new(os::open_at(directory, name, libc::O_RDWR | libc::O_CREAT)?);
        let found = file.metadata()?;
        if let Err(error) = super::attach::check_owned(&found, name) {
            if !REGISTRY.load().iter().any(|known| known.is(found.dev(), found.ino())) {
                drop(ManuallyDrop::into_inner(file));
            }
            return Err(error);
        }
        let opened = Arc::new(LockFile {
            file,
            device: found.dev(),
            inode: found.ino(),
            held: Held::new(rows.max(MOST_WORKERS)),
        });
        let mut result = opened.clone();
        REGISTRY.rcu(|registry| {
            // Another thread may have opened it meanwhile: there is one table of held rows for one file. The second descriptor
            // stays open, as all of them do.
            if let Some(known) = Self::known(registry, opened.device, opened.inode) {
                result = known;
                return registry.clone();
            }
            result = opened.clone();
            Arc::new(registry.iter().chain([&opened]).cloned().collect())
        });
        Ok(result)
    }

    fn known(registry: &[Arc<LockFile>], device: u64, inode: u64) -> Option<Arc<LockFile>> {
        registry.iter().find(|known| known.is(device, inode) && known.is_intact()).cloned()
    }

    fn is(&self, device: u64, inode: u64) -> bool {
        (self.device, self.inode) == (device, inode)
    }

    /// Whether the descriptor still is that of the lock file: a daemoniser may have closed it, and another file may have it now.
    pub(crate) fn is_intact(&self) -> bool {
        self.file.metadata().is_ok_and(|found| self.is(found.dev(), found.ino()))
    }

    /// Whether the lock file is still the one at that path.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        std::fs::symlink_metadata(path).is_ok_and(|found| self.is(found.dev(), found.ino()))
    }

    /// Shows that the region is in use.
    pub(crate) fn refresh(&self) {
        // Only ages the region; it is kept a little shorter when this fails.
        let _ = self.file.set_modified(SystemTime::now());
    }

    /// Runs `create` while no other process (and no other thread) creates the region; waits for them this long at most.
    pub(crate) fn while_creating<T>(&self, wait: Duration, create: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let start = Instant::now();
        let patience = || {
            if start.elapsed() >= wait {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "another process holds the creation lock"));
            }
            std::thread::sleep(Duration::from_millis(2));
            Ok(())
        };
        let _threads = loop {
            match Turn::take() {
                Some(turn) => break turn,
                None => patience()?,
            }
        };
        while !os::lock_byte(self.file.as_fd(), 0)? {
            patience()?;
        }
        let result = create();
        os::unlock_byte(self.file.as_fd(), 0)?;
        result
    }

    fn take(&self, row: usize) -> bool {
        if !self.held.take(row) {
            return false;
        }
        // A descriptor that was closed may be another file's by now, which is not ours to lock.
        let locked = self.is_intact() && os::lock_byte(self.file.as_fd(), row as u64 + 1).unwrap_or(false);
        if !locked {
            self.held.drop(row);
        }
        locked
    }

    fn give_back(&self, row: usize) {
        if self.is_intact() {
            // The kernel does it at the latest when the process ends.
            let _ = os::unlock_byte(self.file.as_fd(), row as u64 + 1);
        }
        self.held.drop(row);
    }

    fn is_alive(&self, row: usize) -> bool {
        // A row whose lock cannot be asked for is left alone.
        self.held.has(row) || os::is_byte_locked(self.file.as_fd(), row as u64 + 1).unwrap_or(true)
    }
}

/// How the life of workers is known.
pub(crate) enum Liveness {
    /// By record locks.
    Locks(Arc<LockFile>),
    /// The region is private: only this process, in this life between forks, has rows.
    Private(Held),
}

impl Liveness {
    /// Takes a row, if nobody who lives has it.
    pub(crate) fn take(&self, row: usize) -> bool {
        match self {
            Liveness::Locks(file) => file.take(row),
            Liveness::Private(held) => held.take(row),
        }
    }

    /// Gives a row back.
    pub(crate) fn give_back(&self, row: usize) {
        match self {
            Liveness::Locks(file) => file.give_back(row),
            Liveness::Private(held) => held.drop(row),
        }
    }

    /// Whether anybody holds the row of a lock file.
    pub(crate) fn is_taken(file: &LockFile, row: usize) -> bool {
        file.is_alive(row)
    }

    /// Whether somebody who lives has the row.
    pub(crate) fn is_alive(&self, row: usize) -> bool {
        match self {
            Liveness::Locks(file) => file.is_alive(row),
            Liveness::Private(held) => held.has(row),
        }
    }
}
