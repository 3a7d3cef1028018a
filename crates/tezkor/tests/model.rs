//! Random operations on a cache and on a map that says what has to come of them, on a clock that the test turns. In a large
//! region both agree on everything; in a tiny one a value may be missing, and a wrong one may not be there.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use tezkor::{Buffer, Cache, Clock, Config, Incr, Space, Stamp, Timeout, Value, Written};

const PREFIXES: [&[u8]; 2] = [b"p", b"q"];
const NAMES: [&[u8]; 4] = [b"a", b"b", b"", b"a longer name than the others have, for a change"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    prefix: usize,
    name: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Content {
    Count(i64),
    Bytes(Vec<u8>),
}

impl Content {
    fn value(&self) -> Value<'_> {
        match self {
            Content::Count(count) => Value::Count(*count),
            Content::Bytes(bytes) => Value::Bytes { codec: 1, bytes },
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Set(Name, What, Timeout),
    Add(Name, What, Timeout),
    SetIfUnchanged(Name, What, Timeout),
    Touch(Name, Timeout),
    Delete(Name),
    Incr(Name, i64),
    Get(Name),
    IsCurrent(Name),
    Has(Name),
    Scan(usize),
    Clear,
    ClearPrefix(usize),
    Pass(Duration),
}

#[derive(Clone, Copy, Debug)]
enum What {
    Count(i64),
    Bytes { salt: u8, length: usize },
}

impl What {
    fn content(self) -> Content {
        match self {
            What::Count(count) => Content::Count(count),
            What::Bytes { salt, length } => {
                Content::Bytes((0..length).map(|place| (place as u8).wrapping_mul(31) ^ salt).collect())
            }
        }
    }
}

fn operations(longest: usize) -> impl Strategy<Value = Vec<Operation>> {
    let name = (0..PREFIXES.len(), 0..NAMES.len()).prop_map(|(prefix, name)| Name { prefix, name });
    let count = prop_oneof![-3..3i64, any::<i64>(), Just(i64::MAX), Just((1 << 46) - 1), Just(-(1 << 46))];
    let length = prop_oneof![4 => 0..100usize, 1 => 0..longest];
    let what = prop_oneof![
        1 => count.clone().prop_map(What::Count),
        2 => (any::<u8>(), length).prop_map(|(salt, length)| What::Bytes { salt, length }),
    ];
    let timeout = prop_oneof![
        2 => Just(Timeout::Never),
        4 => (1..5_000u64).prop_map(|ms| Timeout::After(Duration::from_millis(ms))),
        1 => Just(Timeout::After(Duration::ZERO)),
    ];
    let keep = prop_oneof![3 => timeout.clone(), 1 => Just(Timeout::Keep)];
    let operation = prop_oneof![
        6 => (name.clone(), what.clone(), timeout.clone()).prop_map(|(name, what, time)| Operation::Set(name, what, time)),
        3 => (name.clone(), what.clone(), timeout.clone()).prop_map(|(name, what, time)| Operation::Add(name, what, time)),
        3 => (name.clone(), what, keep).prop_map(|(name, what, time)| Operation::SetIfUnchanged(name, what, time)),
        3 => (name.clone(), timeout).prop_map(|(name, time)| Operation::Touch(name, time)),
        2 => name.clone().prop_map(Operation::Delete),
        4 => (name.clone(), count).prop_map(|(name, delta)| Operation::Incr(name, delta)),
        6 => name.clone().prop_map(Operation::Get),
        3 => name.clone().prop_map(Operation::IsCurrent),
        1 => name.prop_map(Operation::Has),
        1 => (0..PREFIXES.len()).prop_map(Operation::Scan),
        1 => Just(Operation::Clear),
        1 => (0..PREFIXES.len()).prop_map(Operation::ClearPrefix),
        3 => (1..3_000u64).prop_map(|ms| Operation::Pass(Duration::from_millis(ms))),
    ];
    proptest::collection::vec(operation, 1..120)
}

/// What the map knows of an entry.
#[derive(Clone, Debug)]
struct Entry {
    content: Content,
    /// `u64::MAX` for never.
    expires_ms: u64,
    /// Tells entries of one key apart.
    version: u64,
    /// Touched or counted since it was written: whether it is still "the same" is the store's to say.
    changed: bool,
}

/// Whether entries may go at any time.
#[derive(Clone, Copy, PartialEq)]
enum Room {
    Enough,
    Little,
}

struct Pair<'c> {
    cache: &'c Cache,
    /// Goes on from case to case.
    clock: &'c Cell<u64>,
    room: Room,
    spaces: [Space; 2],
    map: BTreeMap<Name, Entry>,
    stamps: BTreeMap<Name, (Stamp, u64)>,
    versions: u64,
    buffer: Buffer,
}

impl<'c> Pair<'c> {
    fn new(cache: &'c Cache, clock: &'c Cell<u64>, room: Room) -> Self {
        let spaces = PREFIXES.map(|prefix| cache.space(prefix));
        cache.set_time(clock.get());
        cache.clear(spaces[0]);
        Pair {
            cache,
            clock,
            room,
            spaces,
            map: BTreeMap::new(),
            stamps: BTreeMap::new(),
            versions: 0,
            buffer: Buffer::new(),
        }
    }

    fn now_ms(&self) -> u64 {
        self.clock.get()
    }

    fn bytes(name: Name) -> Vec<u8> {
        [PREFIXES[name.prefix], b":1:", NAMES[name.name]].concat()
    }

    fn live(&self, name: Name) -> Option<Entry> {
        self.map.get(&name).filter(|entry| self.now_ms() < entry.expires_ms).cloned()
    }

    /// Reads a key from both; where there is little room, the map forgets what the cache has dropped.
    fn agree(&mut self, name: Name) {
        let bytes = Self::bytes(name);
        let key = self.cache.key(self.spaces[name.prefix], &bytes).expect("a short key");
        let found = self.cache.get(&key, &mut self.buffer);
        let expected = self.live(name);
        let seen = found.map(|found| match found.codec {
            0 => Content::Count(found.count),
            _ => Content::Bytes(self.buffer.bytes().to_vec()),
        });
        if seen.is_none() && self.room == Room::Little {
            self.map.remove(&name);
            return;
        }
        assert_eq!(seen, expected.as_ref().map(|entry| entry.content.clone()), "{name:?}");
        if let (Some(found), Some(entry)) = (found, expected) {
            self.stamps.entry(name).or_insert((found.stamp, entry.version));
        }
    }

    fn expires_ms(&self, timeout: Timeout) -> u64 {
        match timeout {
            Timeout::After(time) => self.now_ms() + time.as_millis() as u64,
            _ => u64::MAX,
        }
    }

    /// What a write that may take place comes to.
    fn written(&mut self, name: Name, what: What, expires_ms: u64, written: Written) {
        self.versions += 1;
        match written {
            Written::Stored(stamp) => {
                assert!(expires_ms > self.now_ms());
                self.map.insert(
                    name,
                    Entry { content: what.content(), expires_ms, version: self.versions, changed: false },
                );
                self.stamps.insert(name, (stamp, self.versions));
            }
            Written::Removed => {
                assert!(expires_ms <= self.now_ms());
                self.map.remove(&name);
            }
            Written::Refused => {
                assert!(self.room == Room::Little, "there is room for {what:?}");
                self.map.remove(&name);
            }
            Written::Held => panic!("the condition of {name:?} holds"),
        }
    }

    fn run(&mut self, operation: Operation) {
        match operation {
            Operation::Pass(time) => {
                self.clock.set(self.clock.get() + time.as_millis() as u64);
                self.cache.set_time(self.now_ms());
            }
            Operation::Clear => {
                self.cache.clear(self.spaces[0]);
                self.map.clear();
            }
            Operation::ClearPrefix(prefix) => {
                self.cache.clear_prefix(self.spaces[prefix]);
                self.map.retain(|name, _| name.prefix != prefix);
            }
            Operation::Scan(prefix) => self.scan(prefix),
            Operation::Set(name, ..)
            | Operation::Add(name, ..)
            | Operation::SetIfUnchanged(name, ..)
            | Operation::Touch(name, _)
            | Operation::Delete(name)
            | Operation::Incr(name, _)
            | Operation::Get(name)
            | Operation::IsCurrent(name)
            | Operation::Has(name) => {
                if self.room == Room::Little {
                    self.agree(name);
                }
                self.run_on(name, operation);
                self.agree(name);
            }
        }
    }

    fn run_on(&mut self, name: Name, operation: Operation) {
        let bytes = Self::bytes(name);
        let cache = self.cache;
        let key = cache.key(self.spaces[name.prefix], &bytes).expect("a short key");
        let there = self.live(name);
        match operation {
            Operation::Set(_, what, timeout) => {
                let written = cache.set(&key, what.content().value(), timeout);
                self.written(name, what, self.expires_ms(timeout), written);
            }
            Operation::Add(_, what, timeout) => {
                let written = cache.add(&key, what.content().value(), timeout);
                match there {
                    Some(_) => assert!(matches!(written, Written::Held), "{written:?}"),
                    None => self.written(name, what, self.expires_ms(timeout), written),
                }
            }
            Operation::SetIfUnchanged(_, what, timeout) => {
                let Some((stamp, version)) = self.stamps.get(&name).copied() else { return };
                let written = cache.set_if_unchanged(&key, &stamp, what.content().value(), timeout);
                let expires_ms = match (timeout, &there) {
                    (Timeout::Keep, Some(entry)) => entry.expires_ms,
                    _ => self.expires_ms(timeout),
                };
                match there {
                    Some(entry) if entry.version == version => {
                        let may_be_held = entry.changed || self.room == Room::Little;
                        if !(may_be_held && matches!(written, Written::Held)) {
                            self.written(name, what, expires_ms, written);
                        }
                    }
                    _ => assert!(matches!(written, Written::Held), "{written:?}"),
                }
            }
            Operation::Touch(_, timeout) => {
                let touched = cache.touch(&key, timeout);
                if touched != there.is_some() {
                    assert!(self.room == Room::Little && !touched, "{touched}");
                    self.map.remove(&name);
                    return;
                }
                let expires_ms = self.expires_ms(timeout);
                if let Some(entry) = self.map.get_mut(&name).filter(|_| there.is_some()) {
                    entry.expires_ms = expires_ms;
                    entry.changed = true;
                }
            }
            Operation::Delete(_) => {
                assert_eq!(cache.delete(&key), there.is_some());
                self.map.remove(&name);
            }
            Operation::Incr(_, delta) => {
                let expected = match there.as_ref().map(|entry| &entry.content) {
                    None => Incr::Missing,
                    Some(Content::Bytes(_)) => Incr::NotACount,
                    Some(Content::Count(count)) => count.checked_add(delta).map_or(Incr::NotACount, Incr::Value),
                };
                let counted = cache.incr(&key, delta);
                if counted == Incr::Missing && self.room == Room::Little {
                    self.map.remove(&name);
                    return;
                }
                assert_eq!(counted, expected);
                if let (Incr::Value(sum), Some(entry)) = (counted, self.map.get_mut(&name)) {
                    entry.content = Content::Count(sum);
                    entry.changed = true;
                }
            }
            Operation::IsCurrent(_) => {
                let Some((mut stamp, version)) = self.stamps.get(&name).copied() else { return };
                let current = cache.is_current(&key, &mut stamp);
                match there {
                    Some(entry) if entry.version == version => {
                        assert!(current || entry.changed, "a decoded copy of what is there was refused");
                    }
                    _ => assert!(!current, "a decoded copy of what is gone was allowed"),
                }
            }
            Operation::Has(_) => assert_eq!(cache.has(&key), there.is_some()),
            _ => {}
        }
    }

    fn scan(&mut self, prefix: usize) {
        let mut found = Vec::new();
        self.cache.scan(self.spaces[prefix], &mut |key| {
            found.push(key.to_vec());
            true
        });
        found.sort();
        let mut expected: Vec<_> = (self.map.iter())
            .filter(|(name, entry)| name.prefix == prefix && self.now_ms() < entry.expires_ms)
            .map(|(name, _)| Self::bytes(*name))
            .collect();
        expected.sort();
        match self.room {
            Room::Enough => assert_eq!(found, expected),
            Room::Little => assert!(found.iter().all(|key| expected.contains(key)), "{found:?}"),
        }
    }
}

fn check(location: &str, room: Room, longest: usize) {
    let cache = Cache::open(&Config::new(location).expect("a location").with_clock(Clock::Manual)).expect("a cache");
    let soak = std::env::var("SOAK").is_ok_and(|value| value == "1");
    let cases = if soak { 2_000 } else { 200 };
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let clock = Cell::new(1_000_000);
    proptest!(config, |(operations in operations(longest))| {
        let mut pair = Pair::new(&cache, &clock, room);
        for operation in operations {
            pair.run(operation);
        }
    });
    assert_eq!(cache.store().validate(), [""; 0]);
}

#[test]
fn cache_with_room_does_what_a_map_does() {
    check("memory://roomy?size=256MiB", Room::Enough, 20_000);
}

#[test]
fn cache_without_room_misses_and_is_never_wrong() {
    check("memory://tight?size=1MiB", Room::Little, 60_000);
}
