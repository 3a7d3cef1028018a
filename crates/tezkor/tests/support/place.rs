//! A directory for the regions of one test, gone when the test ends. Shared regions get theirs through the variable that is
//! meant for it, so that no test meets a region that a user has.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use tezkor::{Buffer, Cache, Config, Key, SHARED_DIRECTORY_VARIABLE, Space, Timeout, Value, Written};

use super::value;

/// Where a test keeps its regions.
///
/// Tests of one process take turns: a child would inherit what the thread of another test holds, and the directory is shared.
pub struct Place {
    directory: PathBuf,
    name: String,
    owner: u32,
    _turn: Turn,
}

/// Held by the thread of the test that has its turn; a test may have several places.
struct Turn {
    _guard: Option<MutexGuard<'static, ()>>,
}

static TURN: Mutex<()> = Mutex::new(());

thread_local! {
    static PLACES: Cell<usize> = const { Cell::new(0) };
}

impl Turn {
    fn take() -> Turn {
        let places = PLACES.replace(PLACES.get() + 1);
        Turn { _guard: (places == 0).then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner)) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        PLACES.set(PLACES.get() - 1);
    }
}

impl Place {
    /// A place of its own for a test, on tmpfs where there is one.
    pub fn new(name: &str) -> Place {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let turn = Turn::take();
        let owner = std::process::id();
        let base = Some(PathBuf::from("/dev/shm")).filter(|base| base.is_dir()).unwrap_or_else(std::env::temp_dir);
        let shared = base.join(format!("tezkor-test-{owner}"));
        static VARIABLE: Once = Once::new();
        VARIABLE.call_once(|| {
            // SAFETY: no other thread of a test reads or writes the environment: each comes by here first.
            unsafe { std::env::set_var(SHARED_DIRECTORY_VARIABLE, &shared) };
        });
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let place = Place { directory: shared, name: format!("{name}-{number}"), owner, _turn: turn };
        std::fs::create_dir_all(place.disk()).expect("the test's directory can be made");
        place
    }

    /// Regions in a directory that has to stand somewhere else: a child's own mount, say. Only for a process of its own.
    pub fn move_shared_to(directory: &Path) {
        // SAFETY: called in child processes that have one thread.
        unsafe { std::env::set_var(SHARED_DIRECTORY_VARIABLE, directory) };
    }

    /// A directory of the test's own.
    pub fn disk(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    /// The directory in which shared regions lie.
    pub fn shared_directory(&self) -> PathBuf {
        // SAFETY: takes nothing and cannot fail.
        let user = unsafe { libc::geteuid() };
        self.directory.join(format!("tezkor-{user}"))
    }

    pub fn shared_file(&self) -> PathBuf {
        self.shared_directory().join(format!("{}.region", self.name))
    }

    pub fn shared_lock_file(&self) -> PathBuf {
        self.shared_directory().join(format!("{}.lock", self.name))
    }

    /// Unfinished regions that somebody left beside those of this place.
    pub fn unfinished(&self) -> Vec<PathBuf> {
        let directories = [self.shared_directory(), self.disk().join("tezkor")];
        let entries = directories.iter().filter_map(|directory| directory.read_dir().ok()).flatten().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| {
                let path = path.to_string_lossy();
                path.contains(".new") && path.contains(&self.name)
            })
            .collect()
    }

    /// The settings of a shared region of this size.
    pub fn shared(&self, size_bytes: u64) -> Config {
        self.config(&format!("shared://{}", self.name), size_bytes)
    }

    /// The settings of a region on disk of this size.
    pub fn file(&self, size_bytes: u64) -> Config {
        self.config(&format!("file://{}", self.disk().display()), size_bytes)
    }

    /// The lock file of either kind.
    pub fn lock_file(&self, config: &Config) -> PathBuf {
        match config.location {
            tezkor::Location::File { .. } => self.file_file().with_extension("lock"),
            _ => self.shared_lock_file(),
        }
    }

    pub fn file_file(&self) -> PathBuf {
        self.disk().join("tezkor/region.region")
    }

    /// Private memory of this size.
    pub fn memory(&self, size_bytes: u64) -> Config {
        self.config(&format!("memory://{}", self.name), size_bytes)
    }

    fn config(&self, location: &str, size_bytes: u64) -> Config {
        let mut config = Config::new(location).expect("the test's location is right");
        config.size_bytes = Some(size_bytes);
        config
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::process::id() != self.owner {
            return;
        }
        // What cannot be removed is left to the system: it is a temporary directory.
        let _ = std::fs::set_permissions(self.disk(), PermissionsExt::from_mode(0o700));
        let _ = std::fs::remove_dir_all(self.disk());
        let _ = std::fs::remove_file(self.shared_file());
        let _ = std::fs::remove_file(self.shared_lock_file());
        let _ = std::fs::remove_dir(self.shared_directory());
        let _ = std::fs::remove_dir(&self.directory);
    }
}

/// A cache with numbered keys and values that describe themselves.
pub struct Shelf {
    pub cache: Cache,
    pub space: Space,
    region_id: u64,
    pub buffer: Buffer,
    bytes: Vec<u8>,
}

impl Shelf {
    pub fn open(config: &Config) -> Shelf {
        let cache = Cache::open(config).expect("the settings are right");
        let space = cache.space(b"test");
        let region_id = cache.region_id();
        Shelf { cache, space, region_id, buffer: Buffer::new(), bytes: Vec::new() }
    }

    /// Makes the space anew when the region was replaced.
    pub fn renew(&mut self) {
        if self.cache.region_id() != self.region_id {
            self.region_id = self.cache.region_id();
            self.space = self.cache.space(b"test");
        }
    }

    pub fn key<'k>(&self, name: &'k [u8]) -> Key<'k> {
        self.cache.key(self.space, name).expect("the test's keys are short")
    }

    /// Writes a value of this version and length.
    pub fn set(&mut self, key: u64, version: u64, length: usize) -> Written {
        let name = value::name(key);
        value::fill(&mut self.bytes, key, version, length);
        let value = Value::Bytes { codec: value::codec(key), bytes: &self.bytes };
        self.cache.set(&self.key(&name), value, Timeout::Never)
    }

    pub fn add(&mut self, key: u64, version: u64, length: usize) -> Written {
        let name = value::name(key);
        value::fill(&mut self.bytes, key, version, length);
        let value = Value::Bytes { codec: value::codec(key), bytes: &self.bytes };
        self.cache.add(&self.key(&name), value, Timeout::Never)
    }

    /// The version and length of the value that is there. A wrong value ends the test.
    pub fn get(&mut self, key: u64) -> Option<(u64, usize)> {
        let name = value::name(key);
        let found = self.cache.get(&self.key(&name), &mut self.buffer)?;
        assert_eq!(found.codec, value::codec(key), "key {key} has the codec of another one");
        let bytes = self.buffer.bytes();
        let version = value::check(bytes, key).unwrap_or_else(|wrong| panic!("{wrong}"));
        Some((version, bytes.len()))
    }

    pub fn delete(&self, key: u64) -> bool {
        self.cache.delete(&self.key(&value::name(key)))
    }

    /// The sum of a counter over all processes.
    pub fn counter(&self, name: &str) -> u64 {
        let stats = self.cache.stats();
        stats.counters.iter().find(|(known, _)| *known == name).map_or(0, |(_, number)| *number)
    }
}

/// Whether a write took place.
pub fn is_stored(written: Written) -> bool {
    matches!(written, Written::Stored(_))
}
