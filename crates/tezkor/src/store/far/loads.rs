//! Loads on a far store: one machine runs a load, the others wait, and nothing is stored that was overtaken while it ran.
//! It never holds a key: a placeholder whose machine died, or that takes too long, is taken over.
//!
//! 1. Where nothing may be served, a placeholder is put under the key (a record without a value, which readers take for a miss).
//!    Where something stale is, it is written again, marked as being loaded; readers go on.
//! 2. The caller loads.
//! 3. What it brings is swapped in for exactly what was put or seen. Whoever set, removed or cleared the key meanwhile has changed
//!    that, so the swap fails. Tags that were invalidated since the birth are asked for before the swap, and at every read after it.
//!
//! Who waits looks for a change of what it saw. After [`PATIENCE`] of seeing the same it takes the load over.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::names::{self, Kind};
use super::record::{Record, Tags};
use super::server::{Held, Item, Lifetime, Mark, Put};
use super::tags::sequence_in;
use super::write::{Origin, lifetime, pack};
use super::{FarStore, MOST_TRIES, fresh_id, seen};
use crate::entry::{Found, Stamp, Terms, Timeout, Value, Written};
use crate::error::Error;
use crate::key::Key;
use crate::store::segment::loads::Begin;

/// How long somebody else's load is waited for before it is taken over: a holder on another machine that died is not known of.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// A placeholder that everybody has forgotten is gone after this; a load that takes longer is not stored.
const PLACEHOLDER_LIFETIME: Duration = Duration::from_secs(600);
/// Loads of others that are remembered at most.
const MOST_WATCHED: usize = 4096;

/// What looking for a value, and beginning its load, came to.
#[derive(Debug)]
pub enum Looked {
    /// There is a fresh one, with its bytes.
    Fresh(Found, Vec<u8>),
    /// There is none, or it should be loaded anew.
    Load(Load),
}

/// One load of one key. It is to be ended by `fill`, `fail` or `end`; one that is dropped holds up others for [`PATIENCE`].
#[derive(Clone, Debug)]
pub struct Load {
    name: Vec<u8>,
    part: Part,
    birth: u64,
    started: Instant,
    /// What may be served meanwhile, and whether that is fresh and only due for an early refresh.
    pub instead: Option<(Found, Vec<u8>, Instead)>,
}

/// What may be served while a load runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instead {
    /// Past its timeout.
    Stale,
    /// Still fresh.
    Early,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    /// The caller runs it: what it has put, or seen, is under this mark.
    Owner {
        mark: Mark,
        sign: Sign,
    },
    /// Another does.
    Busy {
        mark: Mark,
    },
    Ended,
}

/// What tells others that a load is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Placeholder,
    /// What is stale is marked.
    Stale,
    /// A refresh before the time tells nobody.
    Nothing,
}

impl Load {
    /// Whether the caller is to run it.
    pub fn is_owner(&self) -> bool {
        matches!(self.part, Part::Owner { .. })
    }

    /// Whether another runs it.
    pub fn is_busy(&self) -> bool {
        matches!(self.part, Part::Busy { .. })
    }

    /// The sequence of invalidations when it began.
    pub fn birth(&self) -> u64 {
        self.birth
    }
}

/// Loads of others that this process has seen, and since when.
#[derive(Debug, Default)]
pub(super) struct Watched(Mutex<HashMap<Vec<u8>, (Mark, Instant)>>);

impl Watched {
    /// Whether the same has been seen under a name for longer than anybody waits.
    fn is_overdue(&self, name: &[u8], mark: Mark) -> bool {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match watched.get(name) {
            Some((known, since)) if *known == mark => since.elapsed() >= PATIENCE,
            _ => {
                if watched.len() >= MOST_WATCHED {
                    watched.retain(|_, (_, since)| since.elapsed() < PATIENCE * 2);
                }
                if watched.len() < MOST_WATCHED {
                    watched.insert(name.to_vec(), (mark, Instant::now()));
                }
                false
            }
        }
    }

    fn forget(&self, name: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

impl FarStore {
    /// Looks for a value that is fresh and not due; begins a load where there is none.
    pub fn load(&self, key: &Key<'_>, begin: Begin) -> Result<Looked, Error> {
        let name = names::of_key(key, Kind::Entry);
        for _ in 0..MOST_TRIES {
            if let Some(looked) = self.try_load(key, &name, begin)? {
                return Ok(looked);
            }
        }
        Err(Error::outage(format!("{} changes a key faster than it can be read", self.server.title())))
    }

    /// `None`: it changed meanwhile.
    fn try_load(&self, key: &Key<'_>, name: &[u8], begin: Begin) -> Result<Option<Looked>, Error> {
        let sequence_name = names::of_sequence(key.space());
        // In one batch: what was invalidated before is known to the sequence, what is invalidated later overtakes.
        let mut found = self.server.get(&[&sequence_name, name])?.into_iter();
        let (sequence, held) = (found.next().flatten(), found.next().flatten());
        let sequence = match sequence_in(&sequence) {
            Some(sequence) => self.saw(sequence),
            None => self.begin_sequence(&sequence_name)?,
        };
        let birth = begin.birth.map_or(sequence, |birth| birth.min(sequence));
        let started = Instant::now();
        let load = |part, instead| Looked::Load(Load { name: name.to_vec(), part, birth, started, instead });
        let Some(held) = held else { return Ok(self.put_placeholder(name, None)?.map(|part| load(part, None))) };
        let Some(seen) = seen(name, &held).filter(|seen| seen.record.has_value || seen.record.is_loading) else {
            return Ok(self.put_placeholder(name, Some(&held.mark))?.map(|part| load(part, None)));
        };
        let now_unix_ms = self.now_unix_ms();
        let is_servable = seen.record.has_value && self.are_tags_fresh(name, &[&seen])?[0];
        if is_servable && !seen.has_expired(now_unix_ms) {
            let found = seen.found();
            let is_due = self.is_due(&found, begin);
            let bytes = seen.record.value.to_vec();
            if !is_due {
                return Ok(Some(Looked::Fresh(found, bytes)));
            }
            let part = Part::Owner { mark: held.mark, sign: Sign::Nothing };
            return Ok(Some(load(part, Some((found, bytes, Instead::Early)))));
        }
        let instead = is_servable.then(|| (seen.found(), seen.record.value.to_vec(), Instead::Stale));
        let is_anothers = seen.record.is_loading && (is_servable || !seen.record.has_value);
        if is_anothers && !begin.alone && !self.watched.is_overdue(name, held.mark) {
            return Ok(Some(load(Part::Busy { mark: held.mark }, instead)));
        }
        self.watched.forget(name);
        let part = match instead {
            // Whoever loads it goes on: the first to store wins.
            Some(_) if is_anothers && begin.alone => Some(Part::Owner { mark: held.mark, sign: Sign::Nothing }),
            Some(_) => self.mark_loading(name, &seen.record, &held.mark)?,
            None => self.put_placeholder(name, Some(&held.mark))?,
        };
        Ok(part.map(|part| load(part, instead)))
    }

    /// Puts a placeholder where nothing is, or in place of what cannot be served. `None`: it changed meanwhile.
    fn put_placeholder(&self, name: &[u8], over: Option<&Mark>) -> Result<Option<Part>, Error> {
        let record = Record {
            codec: 0,
            has_value: false,
            is_loading: true,
            id: fresh_id(),
            birth: 0,
            expires_unix_ms: 0,
            stale_ms: 0,
            cost_us: 0,
            tags: Tags::default(),
            value: &[],
        };
        let bytes = record.pack(name);
        let item = Item { name, bytes: &bytes, lifetime: Lifetime::After(PLACEHOLDER_LIFETIME) };
        let put = match over {
            Some(mark) => self.server.swap(&item, mark)?,
            None => self.server.add(&[item])?[0],
        };
        self.own(name, put, &bytes, Sign::Placeholder)
    }

    /// Marks what is stale as being loaded.
    fn mark_loading(&self, name: &[u8], record: &Record<'_>, mark: &Mark) -> Result<Option<Part>, Error> {
        let bytes = Record { id: fresh_id(), is_loading: true, ..*record }.pack(name);
        let put = self.server.swap(&Item { name, bytes: &bytes, lifetime: Lifetime::Keep }, mark)?;
        self.own(name, put, &bytes, Sign::Stale)
    }

    /// The part of whoever has put these bytes; the server may have a mark of its own for them.
    fn own(&self, name: &[u8], put: Put, bytes: &[u8], sign: Sign) -> Result<Option<Part>, Error> {
        if put != Put::Done {
            return Ok(None);
        }
        let held = self.server.get(&[name])?.remove(0);
        Ok(held.filter(|held| held.bytes == bytes).map(|Held { mark, .. }| Part::Owner { mark, sign }))
    }

    /// Stores what a load brought, and ends it. `Held`: it was overtaken by an invalidation or a set, and is not stored.
    pub fn fill(&self, key: &Key<'_>, load: &mut Load, value: Value<'_>, terms: Terms<'_>) -> Result<Written, Error> {
        let Part::Owner { mark, .. } = load.part else { return Ok(Written::Held) };
        let is_expired = matches!(terms.timeout, Timeout::After(time) if time.is_zero());
        if is_expired || !self.may_fill(key, load, &terms)? {
            self.end(load)?;
            return Ok(Written::Held);
        }
        let put = if value.length() > self.largest_value_bytes() {
            self.server.remove_marked(&load.name, &mark)?;
            Put::TooLarge
        } else {
            let cost_us = u32::try_from(load.started.elapsed().as_micros()).unwrap_or(u32::MAX);
            let origin = Origin { birth: load.birth, cost_us, now_unix_ms: self.now_unix_ms() };
            let bytes = pack(&load.name, value, &terms, origin);
            let item = Item { name: &load.name, bytes: &bytes, lifetime: lifetime(terms.timeout, terms.stale) };
            self.server.swap(&item, &mark)?
        };
        load.part = Part::Ended;
        Ok(match put {
            Put::Done => Written::Stored(Stamp::of_mark(&mark)),
            Put::Held => Written::Held,
            Put::TooLarge => {
                if let Some(tier) = &self.tier {
                    tier.tell_refused();
                }
                Written::Refused
            }
        })
    }

    /// Whether none of the tags was invalidated since the load began, and no dead worker's intent holds it up.
    fn may_fill(&self, key: &Key<'_>, load: &Load, terms: &Terms<'_>) -> Result<bool, Error> {
        let tags: Vec<Vec<u8>> = terms.tags.iter().map(|tag| names::of_tag(key.space(), tag)).collect();
        if self.tier.as_ref().is_some_and(|tier| tier.is_held(&load.name, &tags)) {
            return Ok(false);
        }
        if tags.is_empty() {
            return Ok(true);
        }
        let (_, numbers) = self.with_tags(key.space(), &tags, lifetime(terms.timeout, terms.stale))?;
        Ok(numbers.into_iter().all(|number| number <= load.birth))
    }

    /// Ends a load without storing anything: others may begin one at once.
    pub fn end(&self, load: &mut Load) -> Result<(), Error> {
        let Part::Owner { mark, sign } = std::mem::replace(&mut load.part, Part::Ended) else { return Ok(()) };
        match sign {
            Sign::Placeholder => self.server.remove_marked(&load.name, &mark).map(drop),
            Sign::Stale => self.unmark(&load.name, &mark),
            Sign::Nothing => Ok(()),
        }
    }

    /// Ends a load that failed. Where something stale is served meanwhile, others leave the source alone for [`PATIENCE`].
    pub fn fail(&self, load: &mut Load) -> Result<(), Error> {
        if let Part::Owner { sign: Sign::Stale, .. } = load.part {
            load.part = Part::Ended;
        }
        self.end(load)
    }

    fn unmark(&self, name: &[u8], mark: &Mark) -> Result<(), Error> {
        let held = self.server.get(&[name])?.remove(0).filter(|held| held.mark == *mark);
        let Some(seen) = held.as_ref().and_then(|held| seen(name, held)) else { return Ok(()) };
        let bytes = Record { id: fresh_id(), is_loading: false, ..seen.record }.pack(name);
        self.server.swap(&Item { name, bytes: &bytes, lifetime: Lifetime::Keep }, mark).map(drop)
    }

    /// Whether a load that another runs is over, or has been waited for long enough.
    pub fn is_over(&self, load: &Load) -> Result<bool, Error> {
        let Part::Busy { mark } = load.part else { return Ok(true) };
        let held = self.server.get(&[&load.name])?.remove(0);
        Ok(held.is_none_or(|held| held.mark != mark) || self.watched.is_overdue(&load.name, mark))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::fixture::Memory;
    use super::*;
    use crate::entry::When;
    use crate::store::{Store, Write};

    const BEGIN: Begin = Begin { birth: None, beta: 1.0, dice: 0.5, alone: false, refresh: false };
    const MINUTE: Timeout = Timeout::After(Duration::from_secs(60));
    const NEW: Value<'static> = Value::Bytes { codec: 1, bytes: b"new" };

    fn begun(store: &FarStore, key: &Key<'_>) -> Load {
        match store.load(key, BEGIN).expect("it answers") {
            Looked::Load(load) => load,
            Looked::Fresh(..) => panic!("there is something"),
        }
    }

    fn get(store: &FarStore, key: Key<'_>) -> Option<Vec<u8>> {
        let mut found = None;
        store.read(&[key], &mut |_, _, bytes| found = Some(bytes.to_vec())).expect("it answers");
        found
    }

    fn set(store: &FarStore, key: Key<'_>, terms: Terms<'_>) {
        let value = Value::Bytes { codec: 1, bytes: b"set" };
        store.write(&[Write { key, value, terms }], When::Always).expect("it answers");
    }

    /// Two machines: two stores on one server.
    fn machines() -> (FarStore, FarStore) {
        let server = Arc::new(Memory::default());
        (FarStore::new(server.clone()), FarStore::new(server))
    }

    #[test]
    fn one_machine_loads_and_the_others_wait() {
        let (one, other) = machines();
        let key = one.key(one.space(b"", b""), b"k");
        let mut load = begun(&one, &key);
        assert!(load.is_owner());
        assert_eq!(get(&other, key), None, "a placeholder is a miss");
        let waiting = begun(&other, &key);
        assert!(waiting.is_busy() && waiting.instead.is_none());
        assert!(!other.is_over(&waiting).expect("it answers"));
        assert!(matches!(one.fill(&key, &mut load, NEW, MINUTE.into()), Ok(Written::Stored(_))));
        assert!(other.is_over(&waiting).expect("it answers"));
        assert!(matches!(other.load(&key, BEGIN), Ok(Looked::Fresh(..))));
        assert_eq!(get(&other, key).as_deref(), Some(&b"new"[..]));
    }

    #[test]
    fn what_changes_the_key_overtakes_its_load() {
        type Change = fn(&FarStore, Key<'_>);
        let changes: [(&str, Change); 7] = [
            ("set", |store, key| set(store, key, MINUTE.into())),
            ("set and remove", |store, key| {
                set(store, key, MINUTE.into());
                store.remove(&[key]).expect("it answers");
            }),
            ("remove", |store, key| drop(store.remove(&[key]))),
            ("pattern", |store, key| drop(store.remove_where(key.space(), &|full| full == b"k"))),
            ("clear", |store, key| drop(store.clear(key.space()))),
            ("tag", |store, key| drop(store.invalidate_tags(key.space(), &[b"t"]))),
            ("add", |store, key| {
                store.write(&[Write { key, value: NEW, terms: MINUTE.into() }], When::Absent).expect("it answers");
            }),
        ];
        for (name, change) in changes {
            for begins_stale in [false, true] {
                let (one, other) = machines();
                let key = one.key(one.space(b"", b""), b"k");
                if begins_stale {
                    let stale =
                        Terms { stale: Duration::from_secs(60), ..Timeout::After(Duration::from_millis(1)).into() };
                    set(&one, key, stale);
                    std::thread::sleep(Duration::from_millis(3));
                }
                let mut load = begun(&one, &key);
                assert_eq!((load.is_owner(), load.instead.is_some()), (true, begins_stale));
                change(&other, key);
                let before = get(&other, key);
                let terms = Terms { tags: &[b"t"], ..MINUTE.into() };
                let value = Value::Bytes { codec: 1, bytes: b"overtaken" };
                assert!(matches!(one.fill(&key, &mut load, value, terms), Ok(Written::Held)), "{name}");
                assert_eq!(get(&other, key), before, "{name}");
                assert!(begun_or_there(&other, &key), "{name} holds the key up");
            }
        }
    }

    fn begun_or_there(store: &FarStore, key: &Key<'_>) -> bool {
        match store.load(key, BEGIN).expect("it answers") {
            Looked::Fresh(..) => true,
            Looked::Load(load) => load.is_owner(),
        }
    }

    #[test]
    fn a_load_that_ends_or_fails_makes_room_for_the_next() {
        let (one, other) = machines();
        let key = one.key(one.space(b"", b""), b"k");
        let mut load = begun(&one, &key);
        let waiting = begun(&other, &key);
        one.end(&mut load).expect("it answers");
        assert!(other.is_over(&waiting).expect("it answers"));
        assert!(begun(&other, &key).is_owner());
        assert!(matches!(one.fill(&key, &mut load, NEW, MINUTE.into()), Ok(Written::Held)), "it has ended");
    }

    #[test]
    fn a_load_whose_machine_died_is_taken_over_and_its_late_value_refused() {
        let (one, other) = machines();
        let key = one.key(one.space(b"", b""), b"k");
        let mut dead = begun(&one, &key);
        let alone = Begin { alone: true, ..BEGIN };
        let Ok(Looked::Load(mut load)) = other.load(&key, alone) else { panic!("nothing was stored") };
        assert!(load.is_owner());
        assert!(matches!(one.fill(&key, &mut dead, NEW, MINUTE.into()), Ok(Written::Held)));
        assert!(matches!(other.fill(&key, &mut load, NEW, MINUTE.into()), Ok(Written::Stored(_))));
        // Without asking for it: after a while.
        other.remove(&[key]).expect("it answers");
        begun(&one, &key);
        let waiting = begun(&other, &key);
        assert!(waiting.is_busy());
        other.watched.0.lock().expect("nobody panics with it").values_mut().for_each(|(_, since)| *since -= PATIENCE);
        assert!(other.is_over(&waiting).expect("it answers"));
        assert!(begun(&other, &key).is_owner());
    }

    #[test]
    fn a_stale_value_is_served_while_one_machine_loads() {
        let (one, other) = machines();
        let key = one.key(one.space(b"", b""), b"k");
        set(&one, key, Terms { stale: Duration::from_secs(60), ..Timeout::After(Duration::from_millis(1)).into() });
        std::thread::sleep(Duration::from_millis(3));
        assert_eq!(get(&one, key), None);
        let mut load = begun(&one, &key);
        let waiting = begun(&other, &key);
        for (load, is_owner) in [(&load, true), (&waiting, false)] {
            assert_eq!(load.is_owner(), is_owner);
            let Some((_, bytes, Instead::Stale)) = &load.instead else { panic!("{load:?}") };
            assert_eq!(bytes, b"set");
        }
        assert!(matches!(one.fill(&key, &mut load, NEW, MINUTE.into()), Ok(Written::Stored(_))));
        assert_eq!(get(&other, key).as_deref(), Some(&b"new"[..]));
    }
}
