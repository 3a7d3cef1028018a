//! Values that were decoded once (L0): a map, bounded in bytes, from a key to its decoded value and the stamp that tells
//! whether it is still the entry in the store.
//!
//! Never decides by itself that a value is current, never drops a value while it holds its lock: what is displaced is
//! handed to the caller, because dropping a Python object may run any code. Starts no thread.
//!
//! Eviction is S3-FIFO: an entry starts in a small queue (a tenth of the bytes); what was asked for again moves on to
//! the main queue, the rest leaves and is remembered as a ghost, so that it goes straight to the main queue next time.
//!
//! ```text
//! keep -> [ small queue ] -- asked for again --> [ main queue ] -- asked for again: once more around
//!                |                                    ^    |
//!                +--> ghosts (hashes only) -- kept ---+    +--> out
//! ```
//!
//! Memory: `capacity` bytes as the callers count them, which includes [`ENTRY_OVERHEAD`] and the key for each entry,
//! and 40 bytes for each ghost, of which there are at most as many as entries.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What an entry costs beside its key and value: a slot (about 120 bytes), its places in the index and a queue.
pub const ENTRY_OVERHEAD: usize = 192;
/// An entry may take so much of the capacity: one huge value must not push out everything else.
const LARGEST_SHARE: usize = 4;
/// The small queue's share of the capacity, as in the S3-FIFO paper.
const SMALL_SHARE: usize = 10;
const FREQUENCY_MAX: u8 = 3;

/// What [`Decoded::get`] found.
#[derive(Debug, PartialEq)]
pub enum Lookup<V> {
    /// The value, and it is current.
    Hit(V),
    /// There was a value, but not the store's any more. It is no longer kept; drop it outside of any lock.
    Outdated(V),
    /// Nothing.
    Absent,
}

/// The map. `S` is the store's stamp.
pub struct Decoded<V, S> {
    queues: Mutex<Queues<V, S>>,
    capacity: usize,
}

struct Slot<V, S> {
    hash: u128,
    key: Box<[u8]>,
    value: V,
    stamp: S,
    size: usize,
    frequency: u8,
    main: bool,
    /// Tells the slot's present tenant from an earlier one that a queue still names.
    tenant: u64,
}

struct Queues<V, S> {
    slots: Vec<Option<Slot<V, S>>>,
    free: Vec<usize>,
    index: HashMap<u128, usize, BuildHasherDefault<Identity>>,
    small: VecDeque<(usize, u64)>,
    main: VecDeque<(usize, u64)>,
    ghosts: VecDeque<u128>,
    ghost_index: HashSet<u128, BuildHasherDefault<Identity>>,
    tenants: u64,
    bytes: usize,
    small_bytes: usize,
}

/// The keys are hashes already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

impl<V: Clone, S> Decoded<V, S> {
    /// Keeps up to `capacity` bytes; 0 keeps nothing.
    pub fn new(capacity: usize) -> Self {
        let queues = Queues {
            slots: Vec::new(),
            free: Vec::new(),
            index: HashMap::default(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: VecDeque::new(),
            ghost_index: HashSet::default(),
            tenants: 0,
            bytes: 0,
            small_bytes: 0,
        };
        Self { queues: Mutex::new(queues), capacity }
    }

    /// The value of a key, if `is_current` says that its stamp is. It runs under the lock: a look at the store, no more.
    pub fn get(&self, hash: u128, key: &[u8], is_current: impl FnOnce(&mut S) -> bool) -> Lookup<V> {
        let mut queues = self.lock();
        let Some(&position) = queues.index.get(&hash) else {
            return Lookup::Absent;
        };
        let Some(slot) = queues.slots[position].as_mut().filter(|slot| *slot.key == *key) else {
            return Lookup::Absent;
        };
        if is_current(&mut slot.stamp) {
            slot.frequency = (slot.frequency + 1).min(FREQUENCY_MAX);
            return Lookup::Hit(slot.value.clone());
        }
        queues.remove(position).map_or(Lookup::Absent, Lookup::Outdated)
    }

    /// Keeps a value whose decoded size is about `size` bytes, in place of what the key had. Returns what had to leave
    /// (or the value itself when it is too large), to be dropped by the caller.
    #[must_use = "drop it where no lock is held"]
    pub fn keep(&self, hash: u128, key: &[u8], value: V, stamp: S, size: usize) -> Vec<V> {
        let size = size.saturating_add(key.len()).saturating_add(ENTRY_OVERHEAD);
        let mut gone = Vec::new();
        let mut queues = self.lock();
        if size > self.capacity / LARGEST_SHARE {
            gone.push(value);
            if let Some(position) = queues.index.get(&hash).copied() {
                gone.extend(queues.remove(position));
            }
            return gone;
        }
        match queues.index.get(&hash).copied() {
            Some(position) => gone.extend(queues.replace(position, key, value, stamp, size)),
            None => queues.insert(hash, key, value, stamp, size),
        }
        while queues.bytes > self.capacity {
            match queues.evict(self.capacity / SMALL_SHARE) {
                Some(value) => gone.push(value),
                None => break,
            }
        }
        gone
    }

    /// Takes a key's value out.
    #[must_use = "drop it where no lock is held"]
    pub fn forget(&self, hash: u128, key: &[u8]) -> Option<V> {
        let mut queues = self.lock();
        let position = *queues.index.get(&hash)?;
        queues.slots[position].as_ref().filter(|slot| *slot.key == *key)?;
        queues.remove(position)
    }

    /// Takes everything out.
    #[must_use = "drop it where no lock is held"]
    pub fn clear(&self) -> Vec<V> {
        let mut queues = self.lock();
        let slots = mem::take(&mut queues.slots);
        queues.free.clear();
        queues.index.clear();
        queues.small.clear();
        queues.main.clear();
        queues.ghosts.clear();
        queues.ghost_index.clear();
        queues.bytes = 0;
        queues.small_bytes = 0;
        drop(queues);
        slots.into_iter().flatten().map(|slot| slot.value).collect()
    }

    /// How many bytes are kept, as the callers counted them.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// How many values are kept.
    pub fn count(&self) -> usize {
        self.lock().index.len()
    }

    /// Nothing in here can be left half done by a panic that matters: the worst is a value that is not found.
    fn lock(&self) -> MutexGuard<'_, Queues<V, S>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V, S> Queues<V, S> {
    fn insert(&mut self, hash: u128, key: &[u8], value: V, stamp: S, size: usize) {
        self.tenants += 1;
        let main = self.ghost_index.remove(&hash);
        let tenant = self.tenants;
        let slot = Slot { hash, key: key.into(), value, stamp, size, frequency: 0, main, tenant };
        let position = self.free.pop().unwrap_or(self.slots.len());
        match self.slots.get_mut(position) {
            Some(free) => *free = Some(slot),
            None => self.slots.push(Some(slot)),
        }
        self.index.insert(hash, position);
        self.bytes += size;
        if main {
            self.main.push_back((position, tenant));
        } else {
            self.small_bytes += size;
            self.small.push_back((position, tenant));
        }
        self.sweep();
    }

    fn replace(&mut self, position: usize, key: &[u8], value: V, stamp: S, size: usize) -> Option<V> {
        let slot = self.slots[position].as_mut()?;
        self.bytes = self.bytes - slot.size + size;
        if !slot.main {
            self.small_bytes = self.small_bytes - slot.size + size;
        }
        slot.size = size;
        slot.stamp = stamp;
        if *slot.key != *key {
            slot.key = key.into();
        }
        Some(mem::replace(&mut slot.value, value))
    }

    fn remove(&mut self, position: usize) -> Option<V> {
        let slot = self.slots.get_mut(position)?.take()?;
        self.index.remove(&slot.hash);
        self.free.push(position);
        self.bytes -= slot.size;
        if !slot.main {
            self.small_bytes -= slot.size;
        }
        Some(slot.value)
    }

    /// One entry out, or `None` when there is none.
    fn evict(&mut self, small_capacity: usize) -> Option<V> {
        loop {
            let from_small = self.small_bytes > small_capacity || self.main.is_empty();
            let queue = if from_small { &mut self.small } else { &mut self.main };
            let Some((position, tenant)) = queue.pop_front() else {
                if self.small.is_empty() && self.main.is_empty() {
                    return None;
                }
                continue;
            };
            let Some(slot) = self.slots[position].as_mut().filter(|slot| slot.tenant == tenant) else {
                continue;
            };
            if slot.frequency > 0 {
                if from_small {
                    slot.frequency = 0;
                    slot.main = true;
                    self.small_bytes -= slot.size;
                } else {
                    slot.frequency -= 1;
                }
                self.main.push_back((position, tenant));
                continue;
            }
            if from_small {
                let hash = slot.hash;
                self.remember(hash);
            }
            return self.remove(position);
        }
    }

    fn remember(&mut self, hash: u128) {
        if self.ghost_index.insert(hash) {
            self.ghosts.push_back(hash);
        }
        while self.ghosts.len() > self.index.len().max(16) {
            if let Some(oldest) = self.ghosts.pop_front() {
                self.ghost_index.remove(&oldest);
            }
        }
    }

    /// Removed entries leave their place in a queue behind; before those outnumber the living they are swept out.
    fn sweep(&mut self) {
        let Self { slots, small, main, index, .. } = self;
        if small.len() + main.len() > 2 * index.len() + 64 {
            let lives = |&(position, tenant): &(usize, u64)| {
                slots.get(position).and_then(Option::as_ref).is_some_and(|slot| slot.tenant == tenant)
            };
            small.retain(lives);
            main.retain(lives);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn hash(key: &str) -> u128 {
        xxhash_rust::xxh3::xxh3_128(key.as_bytes())
    }

    fn keep(map: &Decoded<String, u32>, key: &str, value: &str, size: usize) -> Vec<String> {
        map.keep(hash(key), key.as_bytes(), value.to_owned(), 0, size)
    }

    fn found(map: &Decoded<String, u32>, key: &str) -> bool {
        matches!(map.get(hash(key), key.as_bytes(), |_| true), Lookup::Hit(_))
    }

    #[test]
    fn a_value_is_served_only_while_its_stamp_is_current() {
        let map = Decoded::new(1 << 20);
        assert!(keep(&map, "k", "v", 10).is_empty());
        assert_eq!(map.get(hash("k"), b"k", |_| true), Lookup::Hit("v".to_owned()));
        assert_eq!(map.get(hash("k"), b"k", |_| false), Lookup::Outdated("v".to_owned()));
        assert_eq!(map.get(hash("k"), b"k", |_| true), Lookup::Absent);
        assert_eq!(map.bytes(), 0);
    }

    #[test]
    fn a_stamp_that_the_store_renews_stays_renewed() {
        let map = Decoded::new(1 << 20);
        let _ = map.keep(1, b"k", (), 5_u32, 0);
        assert_eq!(
            map.get(1, b"k", |stamp| {
                *stamp += 1;
                true
            }),
            Lookup::Hit(())
        );
        assert_eq!(map.get(1, b"k", |stamp| *stamp == 6), Lookup::Hit(()));
    }

    #[test]
    fn another_key_with_the_same_hash_is_never_served() {
        let map = Decoded::new(1 << 20);
        let _ = map.keep(1, b"one", "one", 0_u32, 0);
        assert_eq!(map.get(1, b"two", |_| true), Lookup::Absent);
        assert_eq!(map.forget(1, b"two"), None);
        assert_eq!(map.keep(1, b"two", "two", 0, 0), ["one"]);
        assert_eq!(map.get(1, b"one", |_| true), Lookup::Absent);
        assert_eq!(map.get(1, b"two", |_| true), Lookup::Hit("two"));
    }

    #[test]
    fn bytes_stay_within_the_capacity_whatever_happens() {
        let map = Decoded::new(100_000);
        let mut random = 1_u64;
        for round in 0..50_000_u32 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let key = format!("key-{}", (random >> 33) % 700);
            match (random >> 60) % 4 {
                0 => drop(map.forget(hash(&key), key.as_bytes())),
                1 => drop(map.get(hash(&key), key.as_bytes(), |_| round % 7 > 0)),
                _ => drop(keep(&map, &key, "", (random >> 20) as usize % 2_000)),
            }
            assert!(map.bytes() <= 100_000);
        }
        let queues = map.lock();
        let (mut bytes, mut small) = (0, 0);
        for slot in queues.slots.iter().flatten() {
            bytes += slot.size;
            small += if slot.main { 0 } else { slot.size };
        }
        assert_eq!((bytes, small), (queues.bytes, queues.small_bytes));
        assert!(queues.small.len() + queues.main.len() <= 2 * queues.index.len() + 65);
        assert!(queues.slots.len() <= 700);
    }

    #[test]
    fn a_scan_does_not_push_out_what_is_asked_for_again() {
        let map = Decoded::new(100_000);
        for key in ["a", "b", "c"] {
            assert!(keep(&map, key, key, 1_000).is_empty());
            assert!(found(&map, key));
        }
        for number in 0..1_000 {
            drop(keep(&map, &format!("scan-{number}"), "", 1_000));
        }
        assert!(["a", "b", "c"].iter().all(|key| found(&map, key)));
    }

    #[test]
    fn a_value_that_is_too_large_is_handed_back_and_its_older_one_is_gone() {
        let map = Decoded::new(10_000);
        assert!(keep(&map, "k", "old", 10).is_empty());
        assert_eq!(keep(&map, "k", "new", 9_000), ["new", "old"]);
        assert!(!found(&map, "k"));
        assert_eq!(Decoded::new(0).keep(1, b"k", "v", 0_u32, 0), ["v"]);
    }

    #[test]
    fn nothing_is_dropped_under_the_lock() {
        struct Nosy(Arc<Decoded<Arc<Nosy>, ()>>);
        impl Drop for Nosy {
            fn drop(&mut self) {
                assert!(self.0.queues.try_lock().is_ok());
            }
        }
        let map = Arc::new(Decoded::new(10_000));
        for number in 0..100_u128 {
            drop(map.keep(number, b"k", Arc::new(Nosy(Arc::clone(&map))), (), 500));
        }
        drop(map.get(99, b"k", |()| false));
        drop(map.clear());
        assert_eq!(map.count(), 0);
    }
}
