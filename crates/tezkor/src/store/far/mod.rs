//! Far stores: entries, tags, loads and locks on servers that are reached over a network or through a database.
//!
//! A far store keeps nothing in this process. What is fresh is decided by what the server says at this moment: the entry, and the
//! sequences at which its tags were invalidated last, which are fetched in one further batch for all entries of a read that have any.
//! Everything that has to be atomic is a swap of one value (`server.rs`), so it works the same on every server and on every node.
//!
//! 1. `invalidate_tags`: take the next number of the sequence, raise each tag to it.
//! 2. `write` with tags: read the sequence, which is the birth; a tag that the server does not know is created with it; write.
//! 3. `read`: an entry is fresh if none of its tags is newer than its birth. A tag that the server has lost is newer than everything.
//! 4. A load (`loads.rs`) puts a placeholder under the key and swaps it for what it brings: whoever sets or removes the key
//!    meanwhile takes the placeholder away.

#[cfg(test)]
pub(crate) mod fixture;
pub mod loads;
mod locks;
pub(crate) mod names;
mod record;
pub mod server;
pub mod server_contract;
pub(crate) mod tags;
mod write;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::{Store, Write};
use crate::clock::{Clock, Time};
use crate::entry::{CODEC_COUNT, Found, Incr, Stamp, Timeout, When, Written};
use crate::error::Error;
use crate::event::Stats;
use crate::key::{Key, Space};
use crate::store::segment::intents::Everything;
use crate::store::segment::loads::Begin;
use crate::tier::{Debt, Intended, Tier};
use names::Kind;
use record::{Record, Tags};
use server::{Held, Item, Left, Lifetime, Mark, Put, Server};
use write::{expiry, lifetime};

/// Tries of what others keep changing.
const MOST_TRIES: usize = 100;
/// What stands before a value at most, rounded up.
const MOST_BEFORE_VALUE: usize = 20 << 10;
/// Names that are removed in one batch.
pub(crate) const REMOVAL: usize = 500;

/// Which names are meant.
pub type Fits<'f> = &'f dyn Fn(&[u8]) -> bool;

/// A store on a server.
#[derive(Clone)]
pub struct FarStore {
    pub(crate) server: Arc<dyn Server>,
    /// The same, where outages are written down.
    tier: Option<Arc<Tier>>,
    /// Stale time is told by the machine's own clock: a clock that is wrong serves what is stale for longer, or not at all.
    time: Arc<Time>,
    watched: Arc<loads::Watched>,
    /// The highest number of the sequence that was seen: at most as high as the server's.
    known: Arc<AtomicU64>,
}

/// A fresh entry, or one of which the caller decides.
pub(crate) struct Seen<'h> {
    pub(crate) mark: Mark,
    pub(crate) record: Record<'h>,
    /// The number, of a count that is one to the server too.
    pub(crate) number: Option<i64>,
}

impl Seen<'_> {
    /// What a reader is given.
    pub(crate) fn found(&self) -> Found {
        let Record { codec, cost_us, expires_unix_ms, .. } = self.record;
        let stamp = Stamp { expires_ms: expires_unix_ms, cost_us, ..Stamp::of_mark(&self.mark) };
        match self.number {
            Some(count) => Found { codec: CODEC_COUNT, count, stamp: Stamp { count, ..stamp } },
            None if codec == CODEC_COUNT => {
                let count = record::number(self.record.value).unwrap_or(0);
                Found { codec, count, stamp: Stamp { count, ..stamp } }
            }
            None => Found { codec, count: 0, stamp },
        }
    }

    fn has_expired(&self, now_unix_ms: u64) -> bool {
        // Without stale time the server's own clock says when it ends.
        self.record.stale_ms != 0 && self.record.expires_unix_ms != 0 && now_unix_ms >= self.record.expires_unix_ms
    }
}

/// An entry that was read, with the bytes as they came.
#[derive(Clone, Debug)]
pub struct Taken {
    /// What it is.
    pub found: Found,
    bytes: Vec<u8>,
    value: std::ops::Range<usize>,
}

impl Taken {
    /// The encoded value.
    pub fn value(&self) -> &[u8] {
        &self.bytes[self.value.clone()]
    }
}

/// What a name holds; `None` for what is no entry of it.
pub(crate) fn seen<'h>(name: &[u8], held: &'h Held) -> Option<Seen<'h>> {
    let plain = Record {
        codec: CODEC_COUNT,
        has_value: true,
        is_loading: false,
        id: 0,
        birth: 0,
        expires_unix_ms: 0,
        stale_ms: 0,
        cost_us: 0,
        tags: Tags::default(),
        value: &held.bytes,
    };
    match record::number(&held.bytes) {
        Some(number) => Some(Seen { mark: held.mark, record: plain, number: Some(number) }),
        None => Record::parse(name, &held.bytes).map(|record| Seen { mark: held.mark, record, number: None }),
    }
}

/// Another number for each write, of all machines.
pub(crate) fn fresh_id() -> u64 {
    static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    SEED.hash_one((number, crate::forks(), std::process::id()))
}

impl FarStore {
    /// A store on this server.
    pub fn new(server: Arc<dyn Server>) -> FarStore {
        FarStore {
            server,
            tier: None,
            time: Arc::new(Time::new(Clock::Wall)),
            watched: Arc::default(),
            known: Arc::default(),
        }
    }

    /// A store on a server behind a breaker.
    pub fn behind(tier: Arc<Tier>) -> FarStore {
        FarStore { tier: Some(tier.clone()), ..FarStore::new(tier) }
    }

    /// The breaker, if there is one.
    pub fn tier(&self) -> Option<&Tier> {
        self.tier.as_deref()
    }

    /// What an outage has left undone is done before the server is asked again.
    fn owed<T>(&self, result: Result<T, Error>, debt: Debt, names: &[&[u8]]) -> Result<T, Error> {
        if let (Err(error), Some(tier)) = (&result, &self.tier)
            && (error.is_outage() || error.is_setting())
        {
            tier.owe(debt, names);
        }
        result
    }

    /// Writes down what a transaction is going to invalidate, so that others do it if this process dies after the COMMIT. To be
    /// forgotten when the transaction has ended. `None`: there is no breaker, and nothing that the machine keeps.
    pub fn intend(
        &self,
        space: Space,
        keys: &[&[u8]],
        tags: &[&[u8]],
        everything: Option<Everything>,
    ) -> Option<Intended> {
        let tier = self.tier.as_ref()?;
        let keys = keys.iter().map(|key| (Debt::Removal, names::of_key(&self.key(space, key), Kind::Entry)));
        let tags = tags.iter().map(|tag| (Debt::Tag, names::of_tag(space, tag)));
        let everything = everything.map(|everything| {
            let beginning = match everything {
                Everything::OfPrefix => names::of_prefix(space, Kind::Entry),
                Everything::OfLocation => names::of_location(space),
            };
            (Debt::Everything, beginning)
        });
        Some(tier.intend(&keys.chain(tags).chain(everything).collect::<Vec<_>>()))
    }

    /// Forgets it: it has been done, or is not to be.
    pub fn forget(&self, intended: Intended) {
        if let Some(tier) = &self.tier {
            tier.forget(intended);
        }
    }

    pub(crate) fn now_unix_ms(&self) -> u64 {
        self.time.now_ms()
    }

    /// The server.
    pub fn server(&self) -> &dyn Server {
        &*self.server
    }

    /// The largest value: what the server takes, less a header and the most tags.
    pub fn largest_value_bytes(&self) -> usize {
        self.server.largest_value_bytes().saturating_sub(MOST_BEFORE_VALUE)
    }

    /// As [`Store::read`], without a copy of the values.
    pub fn take(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Taken>>, Error> {
        let wanted: Vec<Vec<u8>> = keys.iter().map(|key| names::of_key(key, Kind::Entry)).collect();
        let wanted: Vec<&[u8]> = wanted.iter().map(Vec::as_slice).collect();
        let held = self.server.get(&wanted)?;
        let now_unix_ms = self.now_unix_ms();
        let mut entries: Vec<(usize, Seen<'_>)> = Vec::with_capacity(held.len());
        for (place, held) in held.iter().enumerate() {
            let seen = held.as_ref().and_then(|held| seen(wanted[place], held));
            entries.extend(
                seen.filter(|seen| seen.record.has_value && !seen.has_expired(now_unix_ms)).map(|seen| (place, seen)),
            );
        }
        let mut shown: Vec<Option<(Found, usize)>> = vec![None; held.len()];
        if let Some(first) = entries.first().map(|(place, _)| wanted[*place]) {
            let seen: Vec<&Seen<'_>> = entries.iter().map(|(_, seen)| seen).collect();
            let fresh = self.are_tags_fresh(first, &seen)?;
            for ((place, seen), _) in entries.iter().zip(fresh).filter(|(_, is_fresh)| *is_fresh) {
                shown[*place] = Some((seen.found(), seen.record.value.len()));
            }
        }
        let taken = |(held, shown): (Option<Held>, Option<(Found, usize)>)| {
            let ((found, length), bytes) = shown.zip(held.map(|held| held.bytes))?;
            // The value stands at the end of a record.
            Some(Taken { found, value: bytes.len() - length..bytes.len(), bytes })
        };
        Ok(held.into_iter().zip(shown).map(taken).collect())
    }

    fn is_fresh(&self, name: &[u8], held: &Held) -> Result<bool, Error> {
        let Some(seen) = seen(name, held) else { return Ok(false) };
        let now_unix_ms = self.now_unix_ms();
        Ok(seen.record.has_value && !seen.has_expired(now_unix_ms) && self.are_tags_fresh(name, &[&seen])?[0])
    }

    /// The value of one key that may be served, with its mark.
    fn look(&self, key: &Key<'_>) -> Result<Option<(Held, Found)>, Error> {
        let name = names::of_key(key, Kind::Entry);
        let Some(held) = self.server.get(&[&name])?.remove(0) else { return Ok(None) };
        if !self.is_fresh(&name, &held)? {
            return Ok(None);
        }
        let found = seen(&name, &held).map(|seen| seen.found());
        Ok(found.map(|found| (held, found)))
    }

    /// Whether an entry that was found should be loaded anew before it expires.
    pub fn is_due(&self, found: &Found, begin: Begin) -> bool {
        let Found { stamp, .. } = found;
        begin.refresh
            || (stamp.cost_us > 0 && stamp.expires_ms > 0 && stamp.is_due(self.now_unix_ms(), begin.beta, begin.dice))
    }

    /// The time that an entry lives on; the outer `None`: there is none; the inner: for ever.
    pub fn time_left(&self, key: &Key<'_>) -> Result<Option<Option<Duration>>, Error> {
        let name = names::of_key(key, Kind::Entry);
        let Some((held, _)) = self.look(key)? else { return Ok(None) };
        let stale = seen(&name, &held).map_or(0, |seen| seen.record.stale_ms);
        Ok(match self.server.left(&name)? {
            Left::Absent => None,
            Left::Never => Some(None),
            Left::Time(left) => Some(Some(left.saturating_sub(Duration::from_millis(stale)))),
        })
    }

    fn touch_one(&self, key: &Key<'_>, timeout: Timeout) -> Result<bool, Error> {
        let name = names::of_key(key, Kind::Entry);
        for _ in 0..MOST_TRIES {
            let Some(held) = self.server.get(&[&name])?.remove(0) else { return Ok(false) };
            if !self.is_fresh(&name, &held)? {
                return Ok(false);
            }
            let Some(seen) = seen(&name, &held) else { return Ok(false) };
            let stale = Duration::from_millis(seen.record.stale_ms);
            if let Timeout::After(time) = timeout
                && time.is_zero()
            {
                if self.server.remove_marked(&name, &held.mark)? {
                    return Ok(true);
                }
                continue;
            }
            if seen.record.stale_ms == 0 {
                return Ok(self.server.touch(&[&name], lifetime(timeout, stale))?[0]);
            }
            // The expiry stands in the record too.
            let record = Record { id: fresh_id(), expires_unix_ms: expiry(timeout, self.now_unix_ms()), ..seen.record };
            let bytes = record.pack(&name);
            let item = Item { name: &name, bytes: &bytes, lifetime: lifetime(timeout, stale) };
            match self.server.swap(&item, &held.mark)? {
                Put::Held => {}
                put => return Ok(put == Put::Done),
            }
        }
        Ok(false)
    }

    /// Counts an entry that is no number to the server: one with tags or stale time.
    fn count_record(&self, key: &Key<'_>, delta: i64) -> Result<Incr, Error> {
        let name = names::of_key(key, Kind::Entry);
        for _ in 0..MOST_TRIES {
            let Some((held, found)) = self.look(key)? else { return Ok(Incr::Missing) };
            let Some(seen) = seen(&name, &held) else { return Ok(Incr::Missing) };
            if found.codec != CODEC_COUNT {
                return Ok(Incr::NotACount);
            }
            let Some(sum) = found.count.checked_add(delta) else { return Ok(Incr::NotACount) };
            let text = sum.to_string();
            let bytes = match seen.number {
                Some(_) => text.clone().into_bytes(),
                None => Record { id: fresh_id(), value: text.as_bytes(), ..seen.record }.pack(&name),
            };
            let item = Item { name: &name, bytes: &bytes, lifetime: Lifetime::Keep };
            if self.server.swap(&item, &held.mark)? == Put::Done {
                return Ok(Incr::Value(sum));
            }
        }
        Ok(Incr::Missing)
    }

    /// Removes all of a location, its tags, locks and rate limits included: for tests.
    pub fn reset(&self, space: Space) -> Result<(), Error> {
        match self.remove_those(&names::of_location(space), &|_| true) {
            Err(error) if error.is_unsupported() => self.server.empty(),
            removed => removed.map(drop),
        }
    }

    /// Removes what another library left under a prefix, in any version, or what of it fits a pattern; how much it was. After an
    /// outage all of it goes. 0 where names cannot be listed.
    pub fn remove_old(&self, beginning: &[u8], pattern: Option<Fits<'_>>) -> Result<u64, Error> {
        let fits = |name: &[u8]| match pattern {
            Some(fits) => fits(name),
            None => names::is_of_a_version(name, beginning),
        };
        match self.remove_those(beginning, &fits) {
            Err(error) if error.is_unsupported() => Ok(0),
            removed => self.owed(removed, Debt::Old, &[beginning]),
        }
    }

    /// Removes the names that begin so and fit, placeholders of loads included: what they bring is not stored then.
    pub fn remove_those(&self, beginning: &[u8], fits: &dyn Fn(&[u8]) -> bool) -> Result<u64, Error> {
        remove_those(&*self.server, beginning, fits, &mut || Ok(()))
    }
}

/// Removes the names on a server that begin so and fit, in batches, with something done after each; how many there were.
pub(crate) fn remove_those(
    server: &dyn Server,
    beginning: &[u8],
    fits: &dyn Fn(&[u8]) -> bool,
    after_batch: &mut dyn FnMut() -> Result<(), Error>,
) -> Result<u64, Error> {
    let mut found = Vec::new();
    server.scan(beginning, &mut |name| {
        if fits(name) {
            found.push(name.to_vec());
        }
        true
    })?;
    found.sort();
    found.dedup();
    let mut removed = 0;
    for batch in found.chunks(REMOVAL) {
        let batch: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
        removed += server.remove(&batch)?.into_iter().filter(|was_there| *was_there).count() as u64;
        after_batch()?;
    }
    Ok(removed)
}

impl Store for FarStore {
    fn space(&self, location: &[u8], prefix: &[u8]) -> Space {
        names::space(location, prefix)
    }

    fn key<'k>(&self, space: Space, bytes: &'k [u8]) -> Key<'k> {
        Key::new(space, 0, bytes)
    }

    fn read(&self, keys: &[Key<'_>], each: &mut dyn FnMut(usize, Found, &[u8])) -> Result<(), Error> {
        for (place, taken) in self.take(keys)?.iter().enumerate() {
            if let Some(taken) = taken {
                each(place, taken.found, taken.value());
            }
        }
        Ok(())
    }

    fn write(&self, writes: &[Write<'_>], when: When<'_>) -> Result<Vec<Written>, Error> {
        let put = self.put(writes, when);
        if !matches!(when, When::Always) || put.is_ok() {
            return put;
        }
        // Of a failed one nothing is read that was there before.
        let names: Vec<Vec<u8>> = writes.iter().map(|write| names::of_key(&write.key, Kind::Entry)).collect();
        self.owed(put, Debt::Removal, &names.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    fn remove(&self, keys: &[Key<'_>]) -> Result<Vec<bool>, Error> {
        let wanted: Vec<Vec<u8>> = keys.iter().map(|key| names::of_key(key, Kind::Entry)).collect();
        let wanted: Vec<&[u8]> = wanted.iter().map(Vec::as_slice).collect();
        self.server.remove(&wanted)
    }

    fn touch(&self, keys: &[Key<'_>], timeout: Timeout) -> Result<Vec<bool>, Error> {
        keys.iter().map(|key| self.touch_one(key, timeout)).collect()
    }

    fn count(&self, key: &Key<'_>, delta: i64) -> Result<Incr, Error> {
        match self.server.incr(&names::of_key(key, Kind::Entry), delta)? {
            Incr::NotACount => self.count_record(key, delta),
            counted => Ok(counted),
        }
    }

    fn scan(&self, space: Space, each: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Error> {
        let beginning = names::of_prefix(space, Kind::Entry);
        self.server.scan(&beginning, &mut |name| names::full_key(name, &beginning).is_none_or(&mut *each))
    }

    fn remove_where(&self, space: Space, fits: &dyn Fn(&[u8]) -> bool) -> Result<u64, Error> {
        let beginning = names::of_prefix(space, Kind::Entry);
        let removed = self.remove_those(&beginning, &|name| names::full_key(name, &beginning).is_some_and(fits));
        self.owed(removed, Debt::Everything, &[&beginning])
    }

    fn invalidate_tags(&self, space: Space, tags: &[&[u8]]) -> Result<(), Error> {
        if tags.is_empty() {
            return Ok(());
        }
        let tags: Vec<Vec<u8>> = tags.iter().map(|tag| names::of_tag(space, tag)).collect();
        let tags: Vec<&[u8]> = tags.iter().map(Vec::as_slice).collect();
        self.owed(self.raise_tags(space, &tags), Debt::Tag, &tags)
    }

    fn clear(&self, space: Space) -> Result<(), Error> {
        let beginning = names::of_location(space);
        // Tags, locks and rate limits stay: entries that are written from here on depend on them.
        let removed = match self.remove_those(&beginning, &|name| names::is_entry(name)) {
            Err(error) if error.is_unsupported() => self.server.empty(),
            removed => removed.map(drop),
        };
        self.owed(removed, Debt::Everything, &[&beginning])
    }

    fn clear_prefix(&self, space: Space) -> Result<(), Error> {
        let beginning = names::of_prefix(space, Kind::Entry);
        let removed = self.remove_those(&beginning, &|_| true).map(drop);
        self.owed(removed, Debt::Everything, &[&beginning])
    }

    fn stats(&self) -> Stats {
        Stats { store: "far", largest_value_bytes: self.largest_value_bytes() as u64, ..Stats::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::Memory;
    use super::*;
    use crate::entry::{Terms, Value};
    use crate::store::contract::{self, Checked};

    #[test]
    fn the_server_of_these_tests_is_one() {
        let memory = Memory::default();
        memory.follow_the_clock();
        let shortest = Duration::from_millis(20);
        server_contract::check(&server_contract::Checked { server: &memory, beginning: "t", scans: true, shortest });
    }

    #[test]
    fn a_far_store_keeps_the_contract() {
        let memory = Arc::new(Memory::default());
        let time = Arc::new(Time::new(Clock::Manual));
        let store = FarStore { time, ..FarStore::new(memory.clone()) };
        let now = std::cell::Cell::new(1_700_000_000_000);
        let advance = |time: Duration| {
            now.set(now.get() + time.as_millis() as u64);
            store.time.set(now.get());
            memory.set_time(now.get());
        };
        advance(Duration::ZERO);
        contract::check(&Checked { store: &store, advance: Some(&advance), scans: true, is_far: true });
    }

    /// A server may lose a tag for want of room, and be told of it anew: what was invalidated before must not come back.
    #[test]
    fn an_entry_whose_tag_was_lost_stays_lost() {
        let store = FarStore::new(Arc::new(Memory::default()));
        let space = store.space(b"", b"");
        let terms = Terms { tags: &[b"t"], ..Timeout::After(Duration::from_secs(60)).into() };
        let value = Value::Bytes { codec: 1, bytes: b"x" };
        let write = |name: &'static [u8]| Write { key: store.key(space, name), value, terms };
        let is_there = |name: &'static [u8]| {
            let mut found = false;
            store.read(&[store.key(space, name)], &mut |_, _, _| found = true).expect("it answers");
            found
        };
        store.write(&[write(b"old")], When::Always).expect("it answers");
        assert!(is_there(b"old"));
        store.invalidate_tags(space, &[b"t"]).expect("it answers");
        assert!(!is_there(b"old"));
        store.server.remove(&[&names::of_tag(space, b"t")]).expect("it answers");
        assert!(!is_there(b"old"));
        store.write(&[write(b"new")], When::Always).expect("it answers");
        assert_eq!((is_there(b"old"), is_there(b"new")), (false, true));
        // The sequence is lost as well.
        store.server.remove(&[&names::of_sequence(space)]).expect("it answers");
        store.invalidate_tags(space, &[b"t"]).expect("it answers");
        assert_eq!((is_there(b"old"), is_there(b"new")), (false, false));
        store.write(&[write(b"new")], When::Always).expect("it answers");
        assert_eq!((is_there(b"old"), is_there(b"new")), (false, true));
    }
}
