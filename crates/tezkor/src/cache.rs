//! What a user holds, and the whole life of a get: read this file first.
//!
//! ```text
//! get: key hashed with its prefix and version -> decoded values of the process (Decoded, validated by `is_current`)
//!      -> region: slot, record, Ledger -> bytes, which the caller decodes and keeps with the stamp
//! set: encoded once by the caller -> record appended, slot swapped -> stamp, under which an immutable value is kept decoded
//! ```
//!
//! A process opens each store once, however many caches are made of it; a cache costs a reference count.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;

use crate::clock::Clock;
use crate::config::{Config, Location};
use crate::entry::{Found, Incr, LONGEST_TAG_BYTES, MOST_TAGS, Stamp, Terms, Timeout, Value, When, Written};
use crate::error::Error;
use crate::event::{Event, Explanation, Stats};
use crate::key::{Key, LONGEST_KEY_BYTES, Space};
use crate::store::segment::SegmentStore;
use crate::store::segment::loads::{Begin, Load, Looked};
use crate::store::segment::words::Buffer;

/// A handle on one location. Clones are free and share everything.
///
/// ```
/// use std::time::Duration;
/// use tezkor::{Buffer, Cache, Config, Timeout, Value};
///
/// let cache = Cache::open(&Config::new("memory://example")?)?;
/// let space = cache.space(b"shop");
/// let key = cache.key(space, b"shop:1:greeting")?;
/// cache.set(&key, Value::Bytes { codec: 1, bytes: b"hello" }, Timeout::After(Duration::from_secs(60)));
///
/// let mut buffer = Buffer::new();
/// let found = cache.get(&key, &mut buffer).expect("set a moment ago");
/// assert_eq!((found.codec, buffer.bytes()), (1, &b"hello"[..]));
/// # Ok::<(), tezkor::Error>(())
/// ```
#[derive(Clone)]
pub struct Cache {
    store: Arc<SegmentStore>,
    namespace: Arc<[u8]>,
    location: Arc<Location>,
}

/// The stores that this process has open: one for each place. Never locked: a fork amid it would leave the child a lock for ever.
static OPEN: LazyLock<ArcSwap<HashMap<String, Arc<SegmentStore>>>> = LazyLock::new(ArcSwap::default);

/// The turn to open a store, which one thread of a process has. A turn that a thread of the parent had at a fork is nobody's.
struct Turn(u64);

/// The process whose thread has the turn, by the number of forks (and one); 0: nobody.
static OPENING: AtomicU64 = AtomicU64::new(0);

impl Turn {
    fn take() -> Turn {
        let mine = crate::forks() + 1;
        loop {
            match OPENING.compare_exchange(0, mine, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return Turn(mine),
                Err(theirs) if theirs != mine => {
                    if OPENING.compare_exchange(theirs, mine, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                        return Turn(mine);
                    }
                }
                Err(_) => std::thread::sleep(std::time::Duration::from_micros(100)),
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let _ = OPENING.compare_exchange(self.0, 0, Ordering::SeqCst, Ordering::SeqCst);
    }
}

impl Cache {
    /// Opens the store of a location, or returns the one that this process has open.
    ///
    /// # Errors
    ///
    /// When a setting is wrong. A region that cannot be used is not an error: the cache is private memory then, and
    /// [`Cache::take_events`] says why.
    pub fn open(config: &Config) -> Result<Cache, Error> {
        let place = config.place()?;
        let clock = config.clock();
        let size_bytes = config.size_bytes()?;
        let name = match &config.location {
            // Private caches are told apart by their names and clocks, files by their path.
            Location::Memory { name } => format!("memory://{name} {clock:?} {size_bytes}"),
            _ => format!("{place:?}"),
        };
        let known = OPEN.load().get(&name).cloned();
        let store = match known {
            Some(store) => store,
            None => {
                // Two threads that made the same region at once would each replace the file of the other: record locks, which
                // tell processes apart, do not hold between them.
                let _turn = Turn::take();
                if let Some(store) = OPEN.load().get(&name).cloned() {
                    return Ok(Cache {
                        store,
                        namespace: config.namespace.as_slice().into(),
                        location: config.location.clone().into(),
                    });
                }
                let opened = SegmentStore::open(place, size_bytes, clock).map_err(|error| {
                    Error::io(
                        format!("there is no memory for the cache {:?}", String::from_utf8_lossy(&config.namespace)),
                        error,
                    )
                })?;
                let mut store = Arc::new(opened);
                OPEN.rcu(|stores| {
                    let mut stores = HashMap::clone(stores);
                    // Another thread may have been faster: all of the process use that one.
                    store = stores.entry(name.clone()).or_insert_with(|| store.clone()).clone();
                    stores
                });
                store
            }
        };
        Ok(Cache { store, namespace: config.namespace.as_slice().into(), location: config.location.clone().into() })
    }

    /// The space of a prefix: what keys are made in, and what `clear_prefix` empties.
    pub fn space(&self, prefix: &[u8]) -> Space {
        self.store.space(&self.namespace, prefix)
    }

    /// A key: the full one, prefix and version included.
    ///
    /// # Errors
    ///
    /// When it is longer than 8 KiB.
    #[inline]
    pub fn key<'k>(&self, space: Space, full_key: &'k [u8]) -> Result<Key<'k>, Error> {
        if full_key.len() > LONGEST_KEY_BYTES {
            return Err(Error::setting(format!(
                "a key of {} bytes is longer than {LONGEST_KEY_BYTES}: use a digest of it",
                full_key.len()
            )));
        }
        Ok(self.store.key(space, full_key))
    }

    /// The number of the region that spaces and keys were made for: after it changed, make them anew.
    #[inline]
    pub fn region_id(&self) -> u64 {
        self.store.region_id()
    }

    /// Reads a value into the buffer; `None` is a miss.
    #[inline]
    pub fn get(&self, key: &Key<'_>, buffer: &mut Buffer) -> Option<Found> {
        self.store.read(key, buffer)
    }

    /// Whether what was decoded under this stamp is still the entry of the key and may be served. Counts as a hit if so.
    #[inline]
    pub fn is_current(&self, key: &Key<'_>, stamp: &mut Stamp) -> bool {
        self.store.is_current(key, stamp)
    }

    /// Whether an entry that is current should be loaded anew before it expires.
    #[inline]
    pub fn is_due(&self, stamp: &Stamp, begin: Begin) -> bool {
        self.store.is_due(stamp, begin)
    }

    /// Writes a value. `None`: nothing is stored now, since the timeout was zero or the value did not fit.
    pub fn set<'t>(&self, key: &Key<'_>, value: Value<'_>, terms: impl Into<Terms<'t>>) -> Written {
        self.told(key, value, self.store.write(key, value, terms.into(), When::Always))
    }

    /// Writes a value where there is none.
    pub fn add<'t>(&self, key: &Key<'_>, value: Value<'_>, terms: impl Into<Terms<'t>>) -> Written {
        self.told(key, value, self.store.write(key, value, terms.into(), When::Absent))
    }

    /// Writes a value if the entry is still the one of the stamp.
    pub fn set_if_unchanged<'t>(
        &self,
        key: &Key<'_>,
        stamp: &Stamp,
        value: Value<'_>,
        terms: impl Into<Terms<'t>>,
    ) -> Written {
        self.told(key, value, self.store.write(key, value, terms.into(), When::Unchanged(stamp)))
    }

    /// Changes when an entry expires; whether there is one.
    pub fn touch(&self, key: &Key<'_>, timeout: Timeout) -> bool {
        self.store.touch(key, timeout)
    }

    /// Removes an entry; whether there was one. Loads of the key that are under way are stale when they end.
    pub fn delete(&self, key: &Key<'_>) -> bool {
        self.store.remove(key)
    }

    /// Looks for a fresh value; begins a load where there is none, in which one process runs and the others wait.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tezkor::{Begin, Buffer, Cache, Config, Looked, Timeout, Value, Written};
    ///
    /// let cache = Cache::open(&Config::new("memory://load")?)?;
    /// let key = cache.key(cache.space(b""), b":1:report")?;
    /// let begin = Begin { birth: None, beta: 1.0, dice: 0.5, alone: false, refresh: false };
    /// let Looked::Load(mut load) = cache.load(&key, &mut Buffer::new(), begin) else { panic!("nothing was set") };
    /// assert!(load.is_owner());
    /// // Somebody deletes the key while the loader runs: what it brings may be too old, and is not stored.
    /// cache.delete(&key);
    /// let value = Value::Bytes { codec: 1, bytes: b"old" };
    /// assert!(matches!(cache.fill(&key, &mut load, value, Timeout::Never), Written::Held));
    /// # Ok::<(), tezkor::Error>(())
    /// ```
    pub fn load(&self, key: &Key<'_>, buffer: &mut Buffer, begin: Begin) -> Looked {
        self.store.load(key, buffer, begin)
    }

    /// Stores what a load brought and ends it; `Held` when an invalidation or a set has overtaken it.
    pub fn fill<'t>(&self, key: &Key<'_>, load: &mut Load, value: Value<'_>, terms: impl Into<Terms<'t>>) -> Written {
        self.told(key, value, self.store.fill(key, load, value, terms.into()))
    }

    #[inline]
    fn told(&self, key: &Key<'_>, value: Value<'_>, written: Written) -> Written {
        if let Written::Refused = written {
            self.store.note_refused(key, value);
        }
        written
    }

    /// Invalidates all entries of a prefix that depend on one of the tags, and loads of them that are under way. The cost does
    /// not depend on how many there are.
    pub fn invalidate_tags(&self, space: Space, tags: &[&[u8]]) {
        self.store.invalidate_tags(space, tags);
    }

    /// Checks tags before they are used.
    ///
    /// # Errors
    ///
    /// When there are more than 64, or one is longer than 250 bytes.
    pub fn check_tags(tags: &[&[u8]]) -> Result<(), Error> {
        if tags.len() > MOST_TAGS {
            return Err(Error::setting(format!(
                "{} tags are more than {MOST_TAGS}, the most of an entry: use coarser ones",
                tags.len()
            )));
        }
        match tags.iter().find(|tag| tag.len() > LONGEST_TAG_BYTES) {
            Some(tag) => Err(Error::setting(format!(
                "a tag of {} bytes is longer than {LONGEST_TAG_BYTES}: shorten it, or use a digest of it",
                tag.len()
            ))),
            None => Ok(()),
        }
    }

    /// Whether there is an entry.
    pub fn has(&self, key: &Key<'_>) -> bool {
        self.store.has(key)
    }

    /// Adds to a count in place; its timeout stays as it is.
    pub fn incr(&self, key: &Key<'_>, delta: i64) -> Incr {
        self.store.count(key, delta)
    }

    /// Empties the location.
    pub fn clear(&self, space: Space) {
        self.store.clear(space);
    }

    /// Empties one prefix.
    pub fn clear_prefix(&self, space: Space) {
        self.store.clear_prefix(space);
    }

    /// Calls `each` with the full key of every entry of a prefix until it returns `false`.
    pub fn scan(&self, space: Space, each: &mut dyn FnMut(&[u8]) -> bool) {
        self.store.scan(space, each);
    }

    /// Calls `each` with the full key of every entry of a location until it returns `false`.
    pub fn scan_location(&self, space: Space, each: &mut dyn FnMut(&[u8]) -> bool) {
        self.store.scan_location(space, each);
    }

    /// The story of one key.
    pub fn explain(&self, key: &Key<'_>) -> Explanation {
        self.store.explain(key)
    }

    /// Sizes and counters, summed over all processes.
    pub fn stats(&self) -> Stats {
        self.store.stats()
    }

    /// Whether [`Cache::take_events`] has something to tell: cheap enough to ask after every operation.
    #[inline]
    pub fn has_events(&self) -> bool {
        self.store.has_events()
    }

    /// What the user should know, each event once in this process.
    pub fn take_events(&self) -> Vec<Event> {
        self.store.take_events()
    }

    /// Turns the clock of a cache that follows [`Clock::Manual`].
    pub fn set_time(&self, unix_ms: u64) {
        self.store.set_time(unix_ms);
    }

    /// Whether an operation never waits for a network, a database or a disk.
    pub fn is_near(&self) -> bool {
        !matches!(*self.location, Location::File { .. })
    }

    /// The store itself, for those who want its own methods.
    pub fn store(&self) -> &SegmentStore {
        &self.store
    }

    /// Leaves all regions that this process has open: for the end of the process. Regions on disk are written out.
    pub fn detach_all() {
        for store in OPEN.load().values() {
            store.detach();
        }
    }
}

/// The clock that a location follows unless it is told otherwise.
impl Config {
    /// The same with another clock, which private memory follows.
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }
}
