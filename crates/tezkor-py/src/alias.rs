//! One alias of the settings over the engine: decoded values first, then the store. Counters, timeouts and keys as Django
//! means them. Knows no argument parsing (see [`crate::cache`]).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBool;
use tezkor::decoded::{Decoded, Lookup};
use tezkor::{
    Begin, CODEC_COUNT, Cache as Engine, Found, Incr, Instead, Key, Load, Looked, Space, Stamp, Terms, Timeout, Value,
    Written,
};

use crate::codec::{Format, Unreadable};
use crate::key::{KeyPattern, KeyRule, key_text};
use crate::order::Order;
use crate::report;
use crate::scratch;
use crate::timeout::EXPIRED;
use crate::types::small_int;
use crate::values::Held;

/// How often an addition that is not a plain count is tried again when others change the value meanwhile.
const ADDITIONS_MAX: usize = 10_000;

/// The alias.
pub struct Alias {
    pub engine: Engine,
    pub keys: KeyRule,
    pub format: Format,
    pub decoded: Arc<Values>,
    pub limit: Option<Limit>,
    /// What the location's aliases that have a limit keep of what is there.
    order: Arc<Mutex<Order>>,
    on_disk: bool,
    /// By which share at most a timeout is shortened, so that what was cached together does not expire together.
    jitter: f64,
    /// The space of the prefix, and the region that it was made for: the first one, and the one of a region that replaced it.
    first_space: (u64, Space),
    space: Mutex<(u64, Space)>,
    /// The module `time`, for caches that follow Python's clock: tools that turn it replace its function.
    clock: Option<Py<PyAny>>,
}

/// MAX_ENTRIES and CULL_FREQUENCY.
pub struct Limit {
    pub max_entries: usize,
    pub cull_frequency: usize,
}

/// The decoded values of a store in this process, for all aliases that it serves: so their bound is one for the process. Aliases
/// that refuse pickle do not see what others unpickled.
fn decoded_of(engine: &Engine, decoded_bytes: usize, pickle: bool) -> Arc<Values> {
    static KNOWN: Mutex<Vec<(Shelf, Arc<Values>)>> = Mutex::new(Vec::new());
    // A store that was opened stays open, and so does its address.
    let shelf = (std::ptr::from_ref(engine.store()).addr(), decoded_bytes, pickle);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    match known.iter().find(|(other, _)| *other == shelf) {
        Some((_, decoded)) => decoded.clone(),
        None => {
            let decoded = Arc::new(Decoded::new(decoded_bytes));
            known.push((shelf, decoded.clone()));
            decoded
        }
    }
}

/// Decoded values and their stamps.
type Values = Decoded<Arc<Held>, Stamp>;

/// Store, capacity in bytes, whether pickle is read.
type Shelf = (usize, usize, bool);

/// What looking for a value and beginning its load came to.
pub enum Loading<'py> {
    Fresh(Bound<'py, PyAny>),
    /// With the value that may be served instead.
    Begun(Box<Load>, Option<Bound<'py, PyAny>>),
    /// There is an entry that this process cannot read, and others write it again and again.
    Unreadable,
}

/// A value to write.
enum Writable<'v> {
    Count(i64),
    Bytes { codec: u8, bytes: &'v [u8] },
}

impl Alias {
    /// An alias over an open engine.
    pub fn new(
        engine: Engine,
        keys: KeyRule,
        format: Format,
        decoded_bytes: usize,
        limit: Option<Limit>,
        order: Arc<Mutex<Order>>,
        clock: Option<Py<PyAny>>,
    ) -> Self {
        let decoded = decoded_of(&engine, decoded_bytes, format.pickle);
        let space = (engine.region_id(), engine.space(keys.prefix().as_bytes()));
        Self {
            on_disk: !engine.is_near(),
            jitter: 0.0,
            engine,
            keys,
            format,
            decoded,
            limit,
            order,
            first_space: space,
            space: Mutex::new(space),
            clock,
        }
    }

    /// The same with timeouts that are shortened by up to this share.
    pub fn with_jitter(self, jitter: f64) -> Self {
        Self { jitter, ..self }
    }

    /// The space of the prefix: another one after the region was replaced.
    #[inline]
    pub fn space(&self) -> Space {
        let region = self.engine.region_id();
        if region == self.first_space.0 {
            return self.first_space.1;
        }
        let mut known = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != region {
            *known = (region, self.engine.space(self.keys.prefix().as_bytes()));
        }
        known.1
    }

    /// Composes a full key into `full`, and turns the clock if the cache follows Python's.
    #[inline]
    pub fn compose(
        &self,
        key: &Bound<'_, PyAny>,
        version: Option<&Bound<'_, PyAny>>,
        full: &mut Vec<u8>,
    ) -> PyResult<()> {
        self.turn_clock(key.py())?;
        self.keys.compose(key, version, full)
    }

    /// Turns the clock if the cache follows Python's.
    #[inline]
    pub fn turn_clock(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(clock) = &self.clock {
            let seconds: f64 = clock.bind(py).call_method0(intern!(py, "time"))?.extract()?;
            self.engine.set_time((seconds * 1000.0) as u64);
        }
        Ok(())
    }

    /// A key of the engine.
    #[inline]
    pub fn key<'k>(&self, space: Space, full: &'k [u8]) -> PyResult<Key<'k>> {
        self.engine.key(space, full).map_err(|error| PyValueError::new_err(error.to_string()))
    }

    /// The value of a key.
    #[inline]
    pub fn read<'py>(
        &self,
        py: Python<'py>,
        key: &Key<'_>,
        buffer: &mut tezkor::Buffer,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.decoded.get(key.hash(), key.bytes(), |stamp| self.engine.is_current(key, stamp)) {
            Lookup::Hit(held) => {
                self.note(key);
                return held.give(py).map(Some);
            }
            Lookup::Outdated(held) => drop(held),
            Lookup::Absent => {}
        }
        let Some(found) = self.run(py, |engine| engine.get(key, buffer)) else {
            self.forget(key);
            return Ok(None);
        };
        self.found(py, key, &found, buffer.bytes())
    }

    /// The value of a key, if it is fresh and not due for an early refresh; else a load is begun.
    pub fn load<'py>(
        &self,
        py: Python<'py>,
        key: &Key<'_>,
        begin: Begin,
        buffer: &mut tezkor::Buffer,
    ) -> PyResult<Loading<'py>> {
        let mut is_due = false;
        let decoded = self.decoded.get(key.hash(), key.bytes(), |stamp| {
            let is_current = self.engine.is_current(key, stamp);
            is_due = is_current && self.engine.is_due(stamp, begin);
            is_current
        });
        match decoded {
            Lookup::Hit(held) if !is_due => {
                self.note(key);
                return held.give(py).map(Loading::Fresh);
            }
            Lookup::Hit(held) | Lookup::Outdated(held) => drop(held),
            Lookup::Absent => {}
        }
        match self.run(py, |engine| engine.load(key, buffer, begin)) {
            Looked::Fresh(found) => match self.found(py, key, &found, buffer.bytes())? {
                Some(value) => Ok(Loading::Fresh(value)),
                // This process cannot read it, so it loads it anew.
                None if !begin.refresh => self.load(py, key, Begin { refresh: true, ..begin }, buffer),
                None => Ok(Loading::Unreadable),
            },
            Looked::Load(mut load) => {
                let value = match load.instead {
                    Some(Instead::Stale(found) | Instead::Early(found)) => self.found(py, key, &found, buffer.bytes()),
                    None => Ok(None),
                };
                let value = match value {
                    Ok(value) => value,
                    Err(error) => {
                        self.engine.store().end(&mut load);
                        return Err(error);
                    }
                };
                match (value, load.instead) {
                    // Somebody refreshes it already.
                    (Some(value), Some(Instead::Early(_))) if load.is_busy() && !begin.refresh => {
                        Ok(Loading::Fresh(value))
                    }
                    (value, _) => Ok(Loading::Begun(Box::new(load), value)),
                }
            }
        }
    }

    /// The value of an entry whose bytes are in the buffer.
    fn found<'py>(
        &self,
        py: Python<'py>,
        key: &Key<'_>,
        found: &Found,
        bytes: &[u8],
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.note(key);
        if found.codec == CODEC_COUNT {
            return Ok(Some(found.count.into_pyobject(py)?.into_any()));
        }
        self.decode(py, key, found, bytes)
    }

    /// Stores what a load brought, and ends it; whether it is stored.
    pub fn fill(
        &self,
        key: &Key<'_>,
        load: &mut Load,
        value: &Bound<'_, PyAny>,
        terms: Terms<'_>,
        write: &mut Vec<u8>,
    ) -> PyResult<bool> {
        self.encoded(value, write, |writable| {
            self.make_room(value.py(), key)?;
            let written = self.run(value.py(), |engine| engine.fill(key, load, writable.value(), self.spread(terms)));
            if let Written::Held = written {
                return Ok(false);
            }
            self.written(key, value, &writable, written)
        })
    }

    fn decode<'py>(
        &self,
        py: Python<'py>,
        key: &Key<'_>,
        found: &Found,
        bytes: &[u8],
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let value = match self.format.decode(py, found.codec, bytes) {
            Ok(value) => value,
            Err(Unreadable::Miss) => return Ok(None),
            Err(Unreadable::Raised(error)) => {
                report::tell_unreadable(py, key.bytes(), &error);
                return Ok(None);
            }
            Err(Unreadable::Python(error)) => return Err(error),
        };
        // What a pickle holds may be shared within it, or of any class: it is kept only where no copy is needed.
        let held = if Format::is_pickle(found.codec) { Held::shared(&value)? } else { Held::new(&value)? };
        let Some(held) = held else {
            return Ok(Some(value));
        };
        let given = held.give(py)?;
        self.keep(key, held, found.stamp);
        Ok(Some(given))
    }

    /// What the engine does. On disk it may wait for a page to be read: others may use Python meanwhile.
    #[inline]
    fn run<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&Engine) -> T + Send) -> T {
        let result = if self.on_disk { py.detach(|| work(&self.engine)) } else { work(&self.engine) };
        if self.engine.has_events() {
            self.tell(py);
        }
        result
    }

    /// Logs what the engine has to tell. What a log handler raises is not the caller's concern.
    #[cold]
    fn tell(&self, py: Python<'_>) {
        if let Err(error) = report::tell(py, &self.engine) {
            error.write_unraisable(py, None);
        }
    }

    fn keep(&self, key: &Key<'_>, held: Held, stamp: Stamp) {
        let bytes = held.bytes;
        drop(self.decoded.keep(key.hash(), key.bytes(), Arc::new(held), stamp, bytes));
    }

    /// Writes a value; whether it is stored, or rightly not (an expired one).
    pub fn set(
        &self,
        key: &Key<'_>,
        value: &Bound<'_, PyAny>,
        terms: Terms<'_>,
        write: &mut Vec<u8>,
    ) -> PyResult<bool> {
        self.encoded(value, write, |writable| {
            self.make_room(value.py(), key)?;
            let written = self.run(value.py(), |engine| engine.set(key, writable.value(), self.spread(terms)));
            self.written(key, value, &writable, written)
        })
    }

    /// Writes a value where there is none.
    pub fn add(
        &self,
        key: &Key<'_>,
        value: &Bound<'_, PyAny>,
        terms: Terms<'_>,
        write: &mut Vec<u8>,
    ) -> PyResult<bool> {
        self.encoded(value, write, |writable| {
            if self.limit.is_some() {
                if self.has(value.py(), key) && self.unreadable(value.py(), key)?.is_none() {
                    return Ok(false);
                }
                self.make_room(value.py(), key)?;
            }
            let written = self.run(value.py(), |engine| engine.add(key, writable.value(), self.spread(terms)));
            let written = match written {
                Written::Held => match self.unreadable(value.py(), key)? {
                    Some(stamp) => {
                        let terms = self.spread(terms);
                        self.run(value.py(), |engine| engine.set_if_unchanged(key, &stamp, writable.value(), terms))
                    }
                    None => return Ok(false),
                },
                written => written,
            };
            if let Written::Held = written {
                return Ok(false);
            }
            self.written(key, value, &writable, written)
        })
    }

    /// The stamp of an entry that is there for others, and a miss for this process: where its `get` finds nothing, its `add`
    /// may write.
    #[cold]
    fn unreadable(&self, py: Python<'_>, key: &Key<'_>) -> PyResult<Option<Stamp>> {
        let is_known = self.decoded.get(key.hash(), key.bytes(), |stamp| self.engine.is_current(key, stamp));
        if let Lookup::Hit(_) = is_known {
            return Ok(None);
        }
        let mut buffer = tezkor::Buffer::new();
        let Some(found) = self.run(py, |engine| engine.get(key, &mut buffer)) else { return Ok(None) };
        let is_readable = found.codec == CODEC_COUNT || self.decode(py, key, &found, buffer.bytes())?.is_some();
        Ok((!is_readable).then_some(found.stamp))
    }

    /// Shortens a timeout by a random part of the jitter.
    #[inline]
    fn spread<'t>(&self, terms: Terms<'t>) -> Terms<'t> {
        match terms.timeout {
            Timeout::After(time) if self.jitter > 0.0 && !time.is_zero() => {
                let share = 1.0 - self.jitter * (1.0 - scratch::dice());
                Terms { timeout: Timeout::After(time.mul_f64(share).max(Duration::from_millis(1))), ..terms }
            }
            _ => terms,
        }
    }

    fn encoded(
        &self,
        value: &Bound<'_, PyAny>,
        write: &mut Vec<u8>,
        store: impl FnOnce(Writable<'_>) -> PyResult<bool>,
    ) -> PyResult<bool> {
        if let Some(count) = small_int(value) {
            return store(Writable::Count(count));
        }
        let encoded = self.format.encode(value, std::mem::take(write))?;
        let result = store(Writable::Bytes { codec: encoded.codec, bytes: &encoded.bytes });
        *write = encoded.bytes;
        result
    }

    fn written(
        &self,
        key: &Key<'_>,
        value: &Bound<'_, PyAny>,
        writable: &Writable<'_>,
        written: Written,
    ) -> PyResult<bool> {
        match written {
            Written::Stored(stamp) => {
                self.note(key);
                let held = match writable {
                    Writable::Count(_) => None,
                    Writable::Bytes { .. } => Held::shared(value)?,
                };
                match held {
                    Some(held) => self.keep(key, held, stamp),
                    None => drop(self.decoded.forget(key.hash(), key.bytes())),
                }
                Ok(true)
            }
            Written::Removed => {
                self.forget(key);
                drop(self.decoded.forget(key.hash(), key.bytes()));
                Ok(true)
            }
            Written::Held | Written::Refused => {
                self.forget(key);
                drop(self.decoded.forget(key.hash(), key.bytes()));
                Ok(false)
            }
        }
    }

    /// Changes when an entry expires; whether there is one.
    pub fn touch(&self, py: Python<'_>, key: &Key<'_>, timeout: Timeout) -> bool {
        let found = self.run(py, |engine| engine.touch(key, timeout));
        if !found || timeout == EXPIRED {
            self.forget(key);
            drop(self.decoded.forget(key.hash(), key.bytes()));
        }
        found
    }

    /// Removes an entry; whether there was one.
    pub fn delete(&self, py: Python<'_>, key: &Key<'_>) -> bool {
        let removed = self.run(py, |engine| engine.delete(key));
        self.forget(key);
        drop(self.decoded.forget(key.hash(), key.bytes()));
        removed
    }

    /// Adds to a value and returns the sum; the entry's timeout stays. What is no plain count is read, added to by Python
    /// and written back if nobody changed it meanwhile.
    pub fn add_to<'py>(&self, key: &Key<'_>, delta: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = delta.py();
        if let Some(small) = plain_delta(delta) {
            match self.run(py, |engine| engine.incr(key, small)) {
                Incr::Value(sum) => {
                    self.note(key);
                    return Ok(sum.into_pyobject(py)?.into_any());
                }
                Incr::Missing => return Err(self.missing(py, key)),
                Incr::NotACount => {}
            }
        }
        let mut taken = scratch::take();
        let scratch = &mut *taken;
        for _ in 0..ADDITIONS_MAX {
            let Some(found) = self.run(py, |engine| engine.get(key, &mut scratch.read)) else {
                return Err(self.missing(py, key));
            };
            let value = if found.codec == CODEC_COUNT {
                found.count.into_pyobject(py)?.into_any()
            } else {
                match self.format.decode(py, found.codec, scratch.read.bytes()) {
                    Ok(value) => value,
                    Err(Unreadable::Miss | Unreadable::Raised(_)) => return Err(self.missing(py, key)),
                    Err(Unreadable::Python(error)) => return Err(error),
                }
            };
            let sum = value.add(delta)?;
            let mut stored = None;
            self.encoded(&sum, &mut scratch.write, |writable| {
                let write =
                    |engine: &Engine| engine.set_if_unchanged(key, &found.stamp, writable.value(), Timeout::Keep);
                stored = Some(self.run(py, write));
                Ok(true)
            })?;
            if !matches!(stored, Some(Written::Held)) {
                self.note(key);
                drop(self.decoded.forget(key.hash(), key.bytes()));
                return Ok(sum);
            }
            py.check_signals()?;
        }
        Err(self.missing(py, key))
    }

    /// Django's words, with the full key as its LocMemCache has it.
    fn missing(&self, py: Python<'_>, key: &Key<'_>) -> PyErr {
        self.forget(key);
        match key_text(py, key.bytes()) {
            Ok(text) => match intern!(py, "Key '%s' not found").rem(text) {
                Ok(text) => PyValueError::new_err(text.unbind()),
                Err(error) => error,
            },
            Err(error) => error,
        }
    }

    /// Whether there is an entry.
    pub fn has(&self, py: Python<'_>, key: &Key<'_>) -> bool {
        self.run(py, |engine| engine.has(key))
    }

    /// Empties the location.
    pub fn clear(&self, py: Python<'_>) {
        let space = self.space();
        self.run(py, |engine| engine.clear(space));
        self.forget_all();
    }

    /// Empties one prefix.
    pub fn clear_prefix(&self, py: Python<'_>) {
        let space = self.space();
        self.run(py, |engine| engine.clear_prefix(space));
        drop(self.decoded.clear());
    }

    /// Notes for MAX_ENTRIES that all entries are gone, and drops the decoded ones.
    fn forget_all(&self) {
        self.locked_order().clear();
        drop(self.decoded.clear());
    }

    /// Removes what fits a pattern; how many there were. With a key function the pattern is made into a full key by it.
    pub fn delete_pattern(&self, py: Python<'_>, pattern: &KeyPattern) -> u64 {
        let space = self.space();
        let removed = py.detach(|| self.engine.store().delete_pattern(space, &|full| pattern.matches(full)));
        if let Some(mut order) = self.order() {
            order.forget_all(|full| pattern.matches(full));
        }
        removed
    }

    fn order(&self) -> Option<MutexGuard<'_, Order>> {
        self.limit.as_ref().map(|_| self.locked_order())
    }

    fn locked_order(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn note(&self, key: &Key<'_>) {
        if let Some(mut order) = self.order() {
            order.note(key.bytes());
        }
    }

    #[inline]
    fn forget(&self, key: &Key<'_>) {
        if let Some(mut order) = self.order() {
            order.forget(key.bytes());
        }
    }

    /// Before a write, what MAX_ENTRIES asks to leave.
    fn make_room(&self, py: Python<'_>, key: &Key<'_>) -> PyResult<()> {
        let Some(limit) = &self.limit else {
            return Ok(());
        };
        let Some(leaving) = self.order().map(|mut order| order.cull(limit.max_entries, limit.cull_frequency)) else {
            return Ok(());
        };
        match leaving {
            None => self.clear(py),
            Some(leaving) => {
                for full in leaving {
                    let key = self.key(key.space(), &full)?;
                    self.run(py, |engine| engine.delete(&key));
                    drop(self.decoded.forget(key.hash(), key.bytes()));
                }
            }
        }
        Ok(())
    }
}

impl Writable<'_> {
    fn value(&self) -> Value<'_> {
        match *self {
            Writable::Count(count) => Value::Count(count),
            Writable::Bytes { codec, bytes } => Value::Bytes { codec, bytes },
        }
    }
}

/// A number to add, if plain addition is meant: classes of their own may add in a way of their own.
pub fn plain_delta(delta: &Bound<'_, PyAny>) -> Option<i64> {
    if delta.is_exact_instance_of::<PyBool>() { delta.extract().ok() } else { small_int(delta) }
}
