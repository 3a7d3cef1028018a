//! The segment store: private memory, a file on tmpfs or a file on disk, shared by all workers without a lock.
//! It starts no thread, keeps no lock whose holder can die, and leaves nothing to repair.
//!
//! Read in this order: `layout` (what lies where), `slot` and `record` (the two formats), `index`, `read`, `write` with `publish`, `amend` and
//! `large`, `alloc` and `evict` (segments), `lock` and `attach` (processes). `docs/format.md` has the same as one picture.

pub(crate) mod alloc;
mod amend;
pub(crate) mod attach;
pub(crate) mod counters;
pub(crate) mod evict;
#[cfg(fuzzing)]
pub mod fuzzing;
pub(crate) mod index;
mod large;
pub(crate) mod layout;
pub(crate) mod lock;
pub(crate) mod map;
pub(crate) mod os;
pub(crate) mod publish;
pub(crate) mod read;
pub(crate) mod record;
pub(crate) mod region;
#[cfg(any(loom, shuttle))]
pub(crate) mod schedules;
pub(crate) mod slot;
pub(crate) mod state;
mod survey;
pub(crate) mod words;
mod workers;
pub(crate) mod write;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};

use self::attach::{Opened, Place};
use self::counters::Counter;
use self::layout::{MOST_WORKERS, SMALLEST_REGION_BYTES};
use self::lock::Liveness;
use self::read::Read;
use self::record::NEVER_MS;
use self::region::Region;
use self::words::Buffer;
use self::workers::Life;
use self::write::Terms;
use crate::clock::{Clock, Time};
use crate::entry::{Found, Incr, Stamp, Timeout, Value, When, Written};
use crate::event::{Event, Level};
use crate::key::{Key, Space, name_hash};

/// How often an operation looks whether the region's file is still there and the lock file still open.
const LOOK_EVERY_MS: u64 = 500;

/// A segment store.
pub struct SegmentStore {
    attached: ArcSwap<Attached>,
    place: Place,
    size_bytes: u64,
    time: Time,
    /// When the next operation looks after the region.
    look_at_ms: AtomicU64,
    /// Forks up to which the region was looked after.
    forks: AtomicU64,
    events: Mutex<Vec<Event>>,
}

/// A region and this process's part in it.
pub(crate) struct Attached {
    region: Region,
    liveness: Liveness,
    file: Option<(u64, u64)>,
    /// The path of a region that survives a reboot.
    disk: Option<PathBuf>,
    life: ArcSwapOption<Life>,
    enter_at_ms: AtomicU64,
    sweep_at_ms: AtomicU64,
    refresh_at_ms: AtomicU64,
}

impl From<Opened> for Attached {
    fn from(opened: Opened) -> Self {
        Attached {
            region: opened.region,
            liveness: opened.liveness,
            file: opened.file,
            disk: opened.disk,
            life: ArcSwapOption::empty(),
            enter_at_ms: AtomicU64::new(0),
            sweep_at_ms: AtomicU64::new(0),
            refresh_at_ms: AtomicU64::new(0),
        }
    }
}

impl SegmentStore {
    /// Comes to the region of a place. Where that is not possible it is private memory, and an event says why.
    pub(crate) fn open(place: Place, size_bytes: u64, clock: Clock) -> io::Result<Self> {
        os::watch_forks();
        let mut events = Vec::new();
        let opened = Self::come_to(&place, size_bytes, clock, &mut events)?;
        Ok(SegmentStore {
            attached: ArcSwap::from_pointee(opened.into()),
            place,
            size_bytes,
            time: Time::new(clock),
            look_at_ms: AtomicU64::new(0),
            forks: AtomicU64::new(os::forks()),
            events: Mutex::new(events),
        })
    }

    fn come_to(place: &Place, size_bytes: u64, clock: Clock, events: &mut Vec<Event>) -> io::Result<Opened> {
        let Place::File { parent, directory, name, survives_boot } = place else {
            return attach::open_private(size_bytes, clock);
        };
        match attach::open_file(parent, directory, name, size_bytes, clock, *survives_boot) {
            Ok(mut opened) => {
                events.extend(opened.notes.drain(..).map(|text| Event::new(Level::Warning, text)));
                Ok(opened)
            }
            Err(error) => {
                let size_bytes = size_bytes.clamp(SMALLEST_REGION_BYTES, layout::DEFAULT_REGION_BYTES);
                events.push(Event::new(
                    Level::Warning,
                    format!(
                        "{}: {error}; this process caches in {} MiB of private memory until it is restarted",
                        parent.join(directory).display(),
                        size_bytes >> 20,
                    ),
                ));
                attach::open_private(size_bytes, clock)
            }
        }
    }

    /// The time of this store's clock, after looking after the region when that is due.
    #[inline]
    fn now(&self) -> u64 {
        let now_ms = self.time.now_ms();
        let forked = os::forks() != self.forks.load(Ordering::Relaxed);
        if forked || now_ms >= self.look_at_ms.load(Ordering::Relaxed) {
            self.look_after(now_ms);
        }
        now_ms
    }

    /// What an operation works on: the region, and the time.
    #[inline]
    fn enter(&self) -> (Guard<Arc<Attached>>, u64) {
        let now_ms = self.now();
        (self.attached.load(), now_ms)
    }

    /// Reads a value into the buffer; `None` is a miss.
    #[inline]
    pub fn read(&self, key: &Key<'_>, buffer: &mut Buffer) -> Option<Found> {
        let (attached, now_ms) = self.enter();
        let region = &attached.region;
        let (result, counter) = match region.read(key, now_ms, buffer) {
            Read::Hit(found) => (Some(found), Counter::HitsRegion),
            Read::Absent => (None, Counter::MissesAbsent),
            Read::Expired => (None, Counter::MissesExpired),
            Read::Invalidated => (None, Counter::MissesInvalidated),
            Read::Corrupt => (None, Counter::MissesCorrupt),
        };
        region.count(attached.row(now_ms), counter, 1);
        result
    }

    /// Whether the entry of a stamp is still the entry of the key and may be served; counts a hit if so.
    #[inline]
    pub fn is_current(&self, key: &Key<'_>, stamp: &mut Stamp) -> bool {
        let (attached, now_ms) = self.enter();
        let current = attached.region.is_current(key, stamp, now_ms);
        if current {
            attached.region.count(attached.row(now_ms), Counter::HitsDecoded, 1);
        }
        current
    }

    /// Writes an entry under a condition.
    pub fn write(&self, key: &Key<'_>, value: Value<'_>, timeout: Timeout, when: When<'_>) -> Written {
        let (attached, now_ms) = self.enter();
        let region = &attached.region;
        let expires_ms = match timeout {
            Timeout::Never => NEVER_MS,
            Timeout::After(time) => now_ms.saturating_add(time.as_millis() as u64).min(NEVER_MS),
            Timeout::Keep => match region.find(key).and_then(|located| located.expires_ms()) {
                Some(expires_ms) => expires_ms,
                None => return Written::Held,
            },
        };
        if expires_ms <= now_ms {
            return self.write_expired(&attached, key, when, now_ms);
        }
        let life = attached.life(now_ms);
        let Some(life) = life.as_deref() else {
            region.count(region.geometry.workers, Counter::Refused, 1);
            region.remove(key, now_ms);
            return Written::Refused;
        };
        let terms = Terms {
            expires_ms,
            now_ms,
            birth: region.ledger().sequence(),
            cost_us: 0,
            stale_until_ms: 0,
            tags: &[],
            tag_hashes: &[],
        };
        region.write(&life.worker, key, value, terms, when)
    }

    /// A write with a timeout of zero removes what its condition allows it to replace.
    fn write_expired(&self, attached: &Attached, key: &Key<'_>, when: When<'_>, now_ms: u64) -> Written {
        let there = attached.region.find(key).filter(|located| attached.region.is_live(key, located, now_ms));
        let holds = match when {
            When::Always => true,
            When::Absent => there.is_none(),
            When::Present => there.is_some(),
            When::Unchanged(stamp) => there.is_some_and(|located| located.header.id == stamp.id),
        };
        if !holds {
            return Written::Held;
        }
        attached.region.remove(key, now_ms);
        Written::Removed
    }

    /// Removes an entry and invalidates the key for loads under way; whether there was one.
    pub fn remove(&self, key: &Key<'_>) -> bool {
        let (attached, now_ms) = self.enter();
        let region = &attached.region;
        region.ledger().invalidate_key(key);
        let removed = region.remove(key, now_ms);
        region.count(attached.row(now_ms), Counter::Deletes, u64::from(removed));
        removed
    }

    /// Changes when an entry expires; whether there is one.
    pub fn touch(&self, key: &Key<'_>, timeout: Timeout) -> bool {
        let (attached, now_ms) = self.enter();
        let region = &attached.region;
        let expires_ms = match timeout {
            Timeout::Never => NEVER_MS,
            Timeout::After(time) => now_ms.saturating_add(time.as_millis() as u64).min(NEVER_MS),
            Timeout::Keep => return self.has(key),
        };
        if expires_ms <= now_ms {
            return region.remove(key, now_ms);
        }
        let life = attached.life(now_ms);
        let Some(life) = life.as_deref() else {
            region.count(region.geometry.workers, Counter::Refused, 1);
            return region.remove(key, now_ms);
        };
        region.touch(&life.worker, key, expires_ms, now_ms, &mut Buffer::new())
    }

    /// Adds to a count.
    pub fn count(&self, key: &Key<'_>, delta: i64) -> Incr {
        let (attached, now_ms) = self.enter();
        match attached.life(now_ms).as_deref() {
            Some(life) => attached.region.add_to_count(&life.worker, key, delta, now_ms, &mut Buffer::new()),
            None => {
                attached.region.count(attached.region.geometry.workers, Counter::Refused, 1);
                Incr::Missing
            }
        }
    }

    /// Whether there is an entry that a read would return.
    pub fn has(&self, key: &Key<'_>) -> bool {
        let (attached, now_ms) = self.enter();
        attached.region.find(key).is_some_and(|located| attached.region.is_live(key, &located, now_ms))
    }

    /// Empties the location of a space.
    pub fn clear(&self, space: Space) {
        self.clear_row(space.location_row);
    }

    /// Empties one prefix of a location.
    pub fn clear_prefix(&self, space: Space) {
        self.clear_row(space.prefix_row);
    }

    fn clear_row(&self, row: u16) {
        let (attached, now_ms) = self.enter();
        attached.region.ledger().clear_row(row);
        attached.region.count(attached.row(now_ms), Counter::Clears, 1);
    }

    /// The space of a prefix within a location.
    pub fn space(&self, location: &[u8], prefix: &[u8]) -> Space {
        let attached = self.attached.load();
        let location_hash = name_hash(b'l', location);
        let named: Vec<u8> = [&location_hash.to_le_bytes()[..], prefix].concat();
        let ledger = attached.region.ledger();
        Space {
            location: location_hash as u64,
            location_row: ledger.row_of(location_hash),
            prefix_row: ledger.row_of(name_hash(b'p', &named)),
        }
    }

    /// A key in a space.
    #[inline]
    pub fn key<'k>(&self, space: Space, bytes: &'k [u8]) -> Key<'k> {
        Key::new(space, self.attached.load().region.seed, bytes)
    }

    /// The id of the region: another one after the region was replaced.
    pub fn region_id(&self) -> u64 {
        self.attached.load().region.id
    }

    /// What the user should know about the region, each once.
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Turns the clock of a store that follows [`Clock::Manual`].
    pub fn set_time(&self, unix_ms: u64) {
        self.time.set(unix_ms);
    }

    /// Seals what this process has open and gives its row back; on disk, writes everything out so that a reboot keeps it.
    pub fn detach(&self) {
        let attached = self.attached.load();
        attached.leave();
        attached.write_out();
    }

    fn look_after(&self, now_ms: u64) {
        // After a fork at once: a daemoniser forks, then closes every descriptor.
        self.forks.store(os::forks(), Ordering::Relaxed);
        let due = self.look_at_ms.load(Ordering::Relaxed);
        let next = now_ms + LOOK_EVERY_MS;
        if self.look_at_ms.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let Place::File { parent, directory, name, .. } = &self.place else { return };
        let attached = self.attached.load_full();
        let path = parent.join(directory);
        if attached.file.is_none() {
            // Private memory instead of a file that could not be used: until the process is restarted.
            return;
        }
        if !attached.is_whole(&path, name) {
            attached.abandon();
            self.move_on();
        } else if !attached.is_locked(&path, name) {
            attached.leave();
            self.move_on();
        } else {
            attached.maintain(now_ms);
        }
    }

    /// Somebody deleted or replaced the region's file, or a daemoniser closed the lock file: all workers meet at the file that
    /// is there now.
    fn move_on(&self) {
        let mut events = Vec::new();
        match Self::come_to(&self.place, self.size_bytes, self.time.clock(), &mut events) {
            Ok(opened) => {
                self.attached.store(Arc::new(opened.into()));
            }
            Err(error) => events.push(Event::new(Level::Error, format!("the region cannot be replaced: {error}"))),
        }
        self.events.lock().unwrap_or_else(PoisonError::into_inner).extend(events);
    }
}

/// The most workers of a region.
pub const MOST_REGION_WORKERS: usize = MOST_WORKERS;
