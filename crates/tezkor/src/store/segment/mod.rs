//! The segment store: private memory, a file on tmpfs or a file on disk, shared by all workers without a lock.
//! It starts no thread, keeps no lock whose holder can die, and leaves nothing to repair.
//!
//! Read in this order: `layout` (what lies where), `slot` and `record` (the two formats), `index`, `read`, `write` with `publish`, `amend` and
//! `large`, `alloc` and `evict` (segments), `lock` and `attach` (processes), `claims` with `loads`, `locks` and `intents`. `docs/format.md` has the same as one picture.

pub(crate) mod alloc;
mod amend;
pub(crate) mod attach;
pub(crate) mod claims;
pub(crate) mod counters;
pub(crate) mod evict;
#[cfg(fuzzing)]
pub mod fuzzing;
pub(crate) mod index;
pub mod intents;
mod large;
pub(crate) mod layout;
pub mod loads;
pub(crate) mod lock;
pub mod locks;
pub(crate) mod map;
mod missing;
pub(crate) mod os;
mod patterns;
pub(crate) mod publish;
pub(crate) mod read;
pub(crate) mod record;
pub(crate) mod region;
#[cfg(any(loom, shuttle))]
pub(crate) mod schedules;
pub(crate) mod slot;
pub(crate) mod state;
mod survey;
pub(crate) mod tiers;
pub(crate) mod words;
mod workers;
pub(crate) mod write;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};

use self::alloc::Worker;
use self::attach::Place;
use self::counters::Counter;
use self::layout::{MOST_WORKERS, SMALLEST_REGION_BYTES};
use self::lock::Liveness;
use self::read::Read;
use self::record::NEVER_MS;
use self::region::Region;
use self::words::Buffer;
use self::workers::Life;
use self::write::Imprint;
use crate::clock::{Clock, Time};
use crate::entry::{Found, Incr, Stamp, Terms, Timeout, Value, When, Written};
use crate::event::{Event, Level};
use crate::key::{Key, Space, name_hash};
use crate::ledger::SHARED_ROW;

/// How often an operation looks whether the region's file is still there and the lock file still open, in boot time.
const LOOK_EVERY_MS: u64 = 250;
/// How often a process whose region cannot be used tries again.
const RETRY_EVERY_MS: u64 = 2_000;
/// How long the first opening waits for another process that is making the region, and how long an operation does.
const OPEN_WAIT: Duration = Duration::from_secs(2);
const MOVE_WAIT: Duration = Duration::from_millis(50);
/// How often a directory that goes away is made anew.
const OPEN_TRIES: usize = 10;
/// Private memory in place of a region is had by each process: a part of the size, and no more than this.
const PRIVATE_SHARE: u64 = 8;
const LARGEST_PRIVATE_BYTES: u64 = 16 << 20;
/// How often the same kind of refusal is told at most.
const SAY_EVERY_MS: u64 = 60_000;
/// Keys of too large values that a process knows.
const TOO_LARGE_KEPT: usize = 16;

/// A segment store.
pub struct SegmentStore {
    attached: ArcSwap<Attached>,
    /// The id of its region, for those who only ask whether it was replaced.
    region_id: AtomicU64,
    place: Place,
    size_bytes: u64,
    time: Time,
    /// When the next operation looks after the region.
    look_at_ms: AtomicU64,
    /// Forks up to which the region was looked after.
    forks: AtomicU64,
    /// Missing pages of mapped files up to which the region was looked after.
    faults: AtomicUsize,
    /// Swapped, never locked: a fork amid it would leave the child a lock for ever.
    events: ArcSwap<Vec<Event>>,
    has_events: AtomicBool,
    /// When each kind of refusal was said last.
    said_ms: [AtomicU64; 5],
    /// Keys whose value did not fit: the low half of the hash, and the time of the Ledger. For people who ask about a key.
    too_large: [[AtomicU64; 2]; TOO_LARGE_KEPT],
}

/// Why a write is refused.
#[derive(Clone, Copy)]
enum Refusal {
    NoRow = 0,
    TooLarge = 1,
    NoRoom = 2,
    NoMemory = 3,
    NoRate = 4,
}

/// A region and this process's part in it.
pub(crate) struct Attached {
    region: Region,
    liveness: Liveness,
    /// Device and inode of the file.
    file: Option<(u64, u64)>,
    /// The path of a region that survives a reboot.
    disk: Option<PathBuf>,
    life: ArcSwapOption<Life>,
    enter_at_ms: AtomicU64,
    sweep_at_ms: AtomicU64,
    refresh_at_ms: AtomicU64,
}

impl Attached {
    fn new(region: Region, liveness: Liveness, file: Option<(u64, u64)>, disk: Option<PathBuf>) -> Self {
        Attached {
            region,
            liveness,
            file,
            disk,
            life: ArcSwapOption::empty(),
            enter_at_ms: AtomicU64::new(0),
            sweep_at_ms: AtomicU64::new(0),
            refresh_at_ms: AtomicU64::new(0),
        }
    }

    fn space_of(&self, location: [u64; 2], prefix: [u64; 2]) -> Space {
        let ledger = self.region.ledger();
        Space {
            region_id: self.region.id,
            seed: self.region.seed,
            location: location[0],
            location_high: location[1],
            prefix,
            location_row: ledger.row_of(location),
            prefix_row: ledger.row_of(prefix),
        }
    }

    /// A space that was made for another region, made for this one.
    #[inline]
    fn renewed_space(&self, space: Space) -> Space {
        if space.region_id == self.region.id {
            return space;
        }
        self.space_of([space.location, space.location_high], space.prefix)
    }

    /// A key that was made for another region, which has been replaced since, made for this one; `None` when it is right.
    #[inline]
    fn renewed<'k>(&self, key: &Key<'k>) -> Option<Key<'k>> {
        if key.space.region_id == self.region.id {
            return None;
        }
        Some(Key::new(self.renewed_space(key.space), self.region.seed, key.bytes))
    }
}

impl SegmentStore {
    /// Comes to the region of a place. Where that is not possible it is private memory, and an event says why.
    pub(crate) fn open(place: Place, size_bytes: u64, clock: Clock) -> io::Result<Self> {
        os::watch_forks();
        let mut events = Vec::new();
        let opened = match Self::come_to(&place, size_bytes, clock, OPEN_WAIT, &mut events) {
            Ok(opened) => opened,
            Err(error) => Self::go_private(&place, size_bytes, clock, &error, &mut events)?,
        };
        Ok(SegmentStore {
            region_id: AtomicU64::new(opened.region.id),
            attached: ArcSwap::from_pointee(opened),
            place,
            size_bytes,
            time: Time::new(clock),
            look_at_ms: AtomicU64::new(0),
            forks: AtomicU64::new(os::forks()),
            has_events: AtomicBool::new(!events.is_empty()),
            events: ArcSwap::from_pointee(events),
            faults: AtomicUsize::new(missing::faults()),
            said_ms: Default::default(),
            too_large: Default::default(),
        })
    }

    fn come_to(
        place: &Place,
        size_bytes: u64,
        clock: Clock,
        wait: Duration,
        events: &mut Vec<Event>,
    ) -> io::Result<Attached> {
        let Place::File { name, survives_boot, .. } = place else {
            return attach::open_private(size_bytes, clock);
        };
        let open = || attach::open_file(place, name, size_bytes, clock, *survives_boot, wait);
        // Somebody may remove the directory, which is empty, between our making it and our making a file in it.
        let opened = (0..OPEN_TRIES).map(|_| open()).find(|opened| !is_missing(opened));
        let (opened, notes) = opened.unwrap_or_else(open)?;
        events.extend(notes.into_iter().map(|text| Event::new(Level::Warning, text)));
        Ok(opened)
    }

    /// Private memory in place of a region that cannot be used now.
    fn go_private(
        place: &Place,
        size_bytes: u64,
        clock: Clock,
        error: &io::Error,
        events: &mut Vec<Event>,
    ) -> io::Result<Attached> {
        let size_bytes = (size_bytes / PRIVATE_SHARE).clamp(SMALLEST_REGION_BYTES, LARGEST_PRIVATE_BYTES);
        events.push(Event::new(
            Level::Warning,
            format!(
                "{}: {error}; each process caches in {} MiB of private memory until it can be used",
                place.directory().display(),
                size_bytes >> 20,
            ),
        ));
        // A process that is out of memory caches little, but goes on.
        attach::open_private(size_bytes, clock).or_else(|_| attach::open_private(SMALLEST_REGION_BYTES, clock))
    }

    /// The time of this store's clock, after looking after the region when that is due.
    #[inline]
    fn now(&self) -> u64 {
        let now_ms = self.time.now_ms();
        // What is done now and then follows the boot time: a clock that was set back must not stop it.
        let tick_ms = if self.time.clock() == Clock::Boot { now_ms } else { os::boot_ms() };
        let due = os::forks() != self.forks.load(Ordering::Relaxed)
            || tick_ms >= self.look_at_ms.load(Ordering::Relaxed)
            || missing::faults() != self.faults.load(Ordering::Relaxed);
        if due {
            self.look_after(tick_ms);
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
        let renewed = attached.renewed(key);
        let key = renewed.as_ref().unwrap_or(key);
        let region = &attached.region;
        let (result, counter) = match region.read(key, now_ms, buffer) {
            Read::Hit(found) => (Some(found), Counter::HitsRegion),
            Read::Absent => (None, Counter::MissesAbsent),
            Read::Expired | Read::Stale(_) => (None, Counter::MissesExpired),
            Read::Invalidated => (None, Counter::MissesInvalidated),
            Read::Corrupt(position, word) => {
                // It never becomes better: without it the key can be written by `add` again.
                region.discard(position, word);
                (None, Counter::MissesCorrupt)
            }
        };
        region.count(attached.row(), counter, 1);
        result
    }

    /// Whether the entry of a stamp is still the entry of the key and may be served; counts a hit if so.
    #[inline]
    pub fn is_current(&self, key: &Key<'_>, stamp: &mut Stamp) -> bool {
        let (attached, now_ms) = self.enter();
        let renewed = attached.renewed(key);
        let key = renewed.as_ref().unwrap_or(key);
        let current = attached.region.is_current(key, stamp, now_ms);
        if current {
            attached.region.count(attached.row(), Counter::HitsDecoded, 1);
        }
        current
    }

    /// Writes an entry under a condition.
    pub fn write(&self, key: &Key<'_>, value: Value<'_>, terms: Terms<'_>, when: When<'_>) -> Written {
        let (attached, now_ms) = self.enter();
        let renewed = attached.renewed(key);
        let key = renewed.as_ref().unwrap_or(key);
        let region = &attached.region;
        let expires_ms = match terms.timeout {
            Timeout::Never => NEVER_MS,
            Timeout::After(time) => after(now_ms, time),
            Timeout::Keep => match region.find(key).and_then(|located| located.expires_ms()) {
                Some(expires_ms) => expires_ms,
                None => return Written::Held,
            },
        };
        if expires_ms <= now_ms {
            return self.write_expired(&attached, key, when, now_ms);
        }
        let life = attached.life();
        let Some(worker) = self.worker_of(life.as_deref(), region) else {
            region.count(region.geometry.workers, Counter::Refused, 1);
            region.remove(key, now_ms);
            return Written::Refused;
        };
        let dependencies = dependencies(key.space, terms.tags);
        // The change counter before the birth: what a decoded copy takes for fresh is fresh at least up to it.
        let change = region.ledger().change();
        let imprint = Imprint {
            expires_ms,
            now_ms,
            change,
            birth: region.ledger().sequence(),
            cost_us: 0,
            stale_ms: milliseconds(terms.stale),
            tags: terms.tags,
            tag_hashes: &dependencies,
        };
        let written = region.write(worker, key, value, imprint, when);
        if let Written::Refused = written {
            self.say_refused(region, value);
        }
        written
    }

    #[cold]
    fn say_refused(&self, region: &Region, value: Value<'_>) {
        let (length, largest) = (value.length(), region.geometry.largest_value());
        if length > largest {
            self.say(Refusal::TooLarge, || {
                format!(
                    "{}: a value of {length} bytes was not stored: the largest is {largest}; set a larger SIZE",
                    self.name()
                )
            });
        } else {
            self.say(Refusal::NoRoom, || {
                format!("{}: a value of {length} bytes was not stored: no room could be made for it", self.name())
            });
        }
    }

    /// Remembers that a value was refused for its size, so that `explain` can tell.
    #[cold]
    pub(crate) fn note_refused(&self, key: &Key<'_>, value: Value<'_>) {
        let attached = self.attached.load();
        let key = attached.renewed(key).unwrap_or(*key);
        if value.length() > attached.region.geometry.largest_value() {
            let [hash, sequence] = &self.too_large[(key.low % TOO_LARGE_KEPT as u64) as usize];
            sequence.store(attached.region.ledger().sequence(), Ordering::Relaxed);
            hash.store(key.low, Ordering::Relaxed);
        }
    }

    /// Whether the last that is known of a key is that its value was refused for its size.
    fn was_too_large(&self, region: &Region, key: &Key<'_>) -> bool {
        let [hash, sequence] = &self.too_large[(key.low % TOO_LARGE_KEPT as u64) as usize];
        hash.load(Ordering::Relaxed) == key.low
            && region.ledger().key_invalidated_at(key) <= sequence.load(Ordering::Relaxed)
    }

    /// Leaves an event, at most one of its kind in a minute.
    fn say(&self, kind: Refusal, text: impl FnOnce() -> String) {
        let now_ms = os::boot_ms();
        let last = &self.said_ms[kind as usize];
        let before = last.load(Ordering::Relaxed);
        let due = before == 0 || now_ms >= before + SAY_EVERY_MS;
        if due && last.compare_exchange(before, now_ms.max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.leave_events([Event::new(Level::Warning, text())]);
        }
    }

    pub(crate) fn leave_events(&self, events: impl IntoIterator<Item = Event>) {
        let more: Vec<Event> = events.into_iter().collect();
        self.events.rcu(|events| events.iter().chain(&more).cloned().collect::<Vec<_>>());
        self.has_events.store(true, Ordering::Release);
    }

    /// Where it is, for people.
    fn name(&self) -> String {
        match &self.place {
            Place::File { name, .. } => self.place.directory().join(format!("{name}.region")).display().to_string(),
            Place::Private => "memory".into(),
        }
    }

    /// Whether [`SegmentStore::take_events`] has something to tell.
    #[inline]
    pub fn has_events(&self) -> bool {
        self.has_events.load(Ordering::Relaxed)
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
        attached.region.ledger().invalidate_key(key.low, key.high);
        attached.region.remove(key, now_ms);
        Written::Removed
    }

    /// Which writing of a key is there: its region, and the entry. Counts as no read.
    pub(crate) fn writing_of(&self, key: &Key<'_>) -> Option<[u64; 2]> {
        let (attached, now_ms) = self.enter();
        let renewed = attached.renewed(key);
        let key = renewed.as_ref().unwrap_or(key);
        let located = attached.region.find(key).filter(|located| attached.region.is_live(key, located, now_ms))?;
        Some([attached.region.id, located.header.id])
    }

    /// Removes an entry if it is still that writing of its key; whether it was. For entries that nobody loads.
    pub(crate) fn remove_writing(&self, key: &Key<'_>, writing: [u64; 2]) -> bool {
        let (attached, _) = self.enter();
        let renewed = attached.renewed(key);
        let key = renewed.as_ref().unwrap_or(key);
        let [region_id, id] = writing;
        region_id == attached.region.id && attached.region.remove_unchanged(key, id)
    }

    /// Removes an entry and invalidates the key for loads under way; whether there was one.
    pub fn remove(&self, key: &Key<'_>) -> bool {
        let (attached, now_ms) = self.enter();
        let renewed = attached.renewed(key);
        let key = renewed.as_ref().unwrap_or(key);
        let region = &attached.region;
        region.ledger().invalidate_key(key.low, key.high);
        let removed = region.remove(key, now_ms);
        region.count(attached.row(), Counter::Deletes, u64::from(removed));
        removed
    }

    /// Changes when an entry expires; whether there is one.
    pub fn touch(&self, key: &Key<'_>, timeout: Timeout) -> bool {
        let (attached, now_ms) = self.enter();
        let renewed = attached.renewed(key);
        let key = renewed.as_ref().unwrap_or(key);
        let region = &attached.region;
        let expires_ms = match timeout {
            Timeout::Never => NEVER_MS,
            Timeout::After(time) => after(now_ms, time),
            Timeout::Keep => return self.has(key),
        };
        if expires_ms <= now_ms {
            return self.remove(key);
        }
        let life = attached.life();
        let worker = self.worker_of(life.as_deref(), region);
        region.touch(worker, key, expires_ms, now_ms, &mut Buffer::new())
    }

    /// Adds to a count.
    pub fn count(&self, key: &Key<'_>, delta: i64) -> Incr {
        let (attached, now_ms) = self.enter();
        let renewed = attached.renewed(key);
        let key = renewed.as_ref().unwrap_or(key);
        let life = attached.life();
        let worker = self.worker_of(life.as_deref(), &attached.region);
        attached.region.add_to_count(worker, key, delta, now_ms, &mut Buffer::new())
    }

    /// The worker that a process is; `None`, which is said, for one that found no row.
    fn worker_of<'l>(&self, life: Option<&'l Life>, region: &Region) -> Option<&'l Worker> {
        if life.is_none() {
            self.say(Refusal::NoRow, || {
                format!(
                    "{}: all {} worker slots are taken: this process reads and counts, its other writes are refused until \
                     another process ends; set a larger SIZE for more slots",
                    self.name(),
                    region.geometry.workers,
                )
            });
        }
        life.map(|life| &life.worker)
    }

    /// Whether there is an entry that a read would return.
    pub fn has(&self, key: &Key<'_>) -> bool {
        let (attached, now_ms) = self.enter();
        let renewed = attached.renewed(key);
        let key = renewed.as_ref().unwrap_or(key);
        attached.region.find(key).is_some_and(|located| attached.region.is_live(key, &located, now_ms))
    }

    /// Empties the location of a space.
    pub fn clear(&self, space: Space) {
        self.clear_name(space, |space| (space.location_row, location_dependency(space)));
    }

    /// Empties one prefix of a location.
    pub fn clear_prefix(&self, space: Space) {
        self.clear_name(space, |space| (space.prefix_row, prefix_dependency(space)));
    }

    /// Empties a location or prefix: by its row, or, if the table of rows was full when it came, by the dependency that its
    /// entries have instead.
    fn clear_name(&self, space: Space, name: impl Fn(Space) -> (u16, u64)) {
        let (attached, _) = self.enter();
        match name(attached.renewed_space(space)) {
            (SHARED_ROW, dependency) => attached.region.ledger().invalidate_tags(&[dependency]),
            (row, _) => attached.region.ledger().clear_row(row),
        }
        attached.region.count(attached.row(), Counter::Clears, 1);
    }

    /// Invalidates all entries of the prefix that depend on one of the tags; constant cost, however many they are.
    pub fn invalidate_tags(&self, space: Space, tags: &[&[u8]]) {
        let (attached, _) = self.enter();
        let tags = tag_hashes(attached.renewed_space(space), tags);
        attached.region.ledger().invalidate_tags(&tags);
        attached.region.count(attached.row(), Counter::TagsInvalidated, tags.len() as u64);
    }

    /// The space of a prefix within a location.
    pub fn space(&self, location: &[u8], prefix: &[u8]) -> Space {
        let attached = self.attached.load();
        let location_hash = name_hash(b'l', location);
        let named: Vec<u8> = [&location_hash.to_le_bytes()[..], prefix].concat();
        let prefix_hash = name_hash(b'p', &named);
        attached.space_of(
            [location_hash as u64, (location_hash >> 64) as u64],
            [prefix_hash as u64, (prefix_hash >> 64) as u64],
        )
    }

    /// A key in a space.
    #[inline]
    pub fn key<'k>(&self, space: Space, bytes: &'k [u8]) -> Key<'k> {
        // Made for another region by now, it is made anew by the operation.
        Key::new(space, space.seed, bytes)
    }

    /// The id of the region: another one after the region was replaced.
    pub fn region_id(&self) -> u64 {
        self.region_id.load(Ordering::Acquire)
    }

    /// What the user should know about the region, each once.
    pub fn take_events(&self) -> Vec<Event> {
        self.has_events.store(false, Ordering::Release);
        Arc::unwrap_or_clone(self.events.swap(Arc::default()))
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

    #[cold]
    fn look_after(&self, tick_ms: u64) {
        // After a fork at once: a daemoniser forks, then closes every descriptor.
        self.forks.store(os::forks(), Ordering::Relaxed);
        let faults = missing::faults();
        let Place::File { name, .. } = &self.place else {
            self.look_at_ms.store(u64::MAX, Ordering::Relaxed);
            self.faults.store(faults, Ordering::Relaxed);
            return;
        };
        let due = self.look_at_ms.load(Ordering::Relaxed);
        let attached = self.attached.load_full();
        let next = tick_ms + if attached.file.is_some() { LOOK_EVERY_MS } else { RETRY_EVERY_MS };
        if self.look_at_ms.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let path = self.place.directory();
        let faulted = self.faults.swap(faults, Ordering::Relaxed) != faults;
        if attached.file.is_none() {
            self.come_back();
        } else if faulted || !attached.is_whole(&path, name) {
            attached.abandon();
            self.move_on();
        } else if !attached.is_locked(&path, name) {
            attached.leave();
            self.move_on();
        } else {
            attached.maintain(tick_ms);
            if attached.region.header(layout::header::SHORTAGE).load(words::Ordering::Relaxed) != 0 {
                self.say(Refusal::NoMemory, || {
                    format!("{}: its file system is full: the cache is smaller than it may be", self.name())
                });
            }
        }
    }

    /// Somebody deleted or replaced the region's file, or a daemoniser closed the lock file: all workers meet at the file that
    /// is there now.
    fn move_on(&self) {
        let mut events = Vec::new();
        let clock = self.time.clock();
        let opened = Self::come_to(&self.place, self.size_bytes, clock, MOVE_WAIT, &mut events)
            .or_else(|error| Self::go_private(&self.place, self.size_bytes, clock, &error, &mut events));
        match opened {
            Ok(opened) => {
                self.attach(opened);
            }
            Err(error) => events.push(Event::new(Level::Error, format!("the region cannot be replaced: {error}"))),
        }
        if !events.is_empty() {
            self.leave_events(events);
        }
    }

    fn attach(&self, opened: Attached) {
        let region_id = opened.region.id;
        self.attached.store(Arc::new(opened));
        self.region_id.store(region_id, Ordering::Release);
    }

    /// Tries to use a region that could not be used before.
    fn come_back(&self) {
        let mut events = Vec::new();
        let Ok(opened) = Self::come_to(&self.place, self.size_bytes, self.time.clock(), Duration::ZERO, &mut events)
        else {
            return; // It was said when it began.
        };
        self.attach(opened);
        let said = format!("{}: can be used again, and is", self.place.directory().display());
        self.leave_events(events.into_iter().chain([Event::new(Level::Warning, said)]));
    }
}

fn is_missing<T>(opened: &io::Result<T>) -> bool {
    opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// The hashes of tags, which belong to a prefix.
fn tag_hashes(space: Space, tags: &[&[u8]]) -> Vec<u64> {
    let hash = |tag: &&[u8]| {
        let [low, high] = space.prefix.map(u64::to_le_bytes);
        name_hash(b't', &[&low[..], &high, tag].concat()) as u64
    };
    tags.iter().map(hash).collect()
}

/// What an entry depends on: its tags, and what has no row of its own of its location and prefix.
fn dependencies(space: Space, tags: &[&[u8]]) -> Vec<u64> {
    let mut hashes = tag_hashes(space, tags);
    if space.location_row == SHARED_ROW {
        hashes.push(location_dependency(space));
    }
    if space.prefix_row == SHARED_ROW {
        hashes.push(prefix_dependency(space));
    }
    hashes
}

fn location_dependency(space: Space) -> u64 {
    let halves = [space.location, space.location_high].map(u64::to_le_bytes);
    name_hash(b'L', &halves.concat()) as u64
}

fn prefix_dependency(space: Space) -> u64 {
    name_hash(b'P', &space.prefix.map(u64::to_le_bytes).concat()) as u64
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).min(NEVER_MS)
}

/// The time so long after another.
fn after(now_ms: u64, time: Duration) -> u64 {
    now_ms.saturating_add(milliseconds(time)).min(NEVER_MS)
}

/// The most workers of a region.
pub const MOST_REGION_WORKERS: usize = MOST_WORKERS;
