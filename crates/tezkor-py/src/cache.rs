//! The Python class: reads arguments, calls the alias, hands back what it says.

use std::time::Instant;

use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};
use tezkor::{Begin, Cache as Engine, Key, Locking, Timeout};

use crate::alias::{Alias, Limit, Loading};
use crate::codec::Format;
use crate::codec::compress::Method;
use crate::intended::{self, Kept};
use crate::key::{GivenPattern, KeyRule, key_text};
use crate::load::Load;
use crate::order::order_of;
use crate::place::Place;
use crate::report;
use crate::scratch::{self, dice};
use crate::terms::{self, read_any_tags, read_terms};
use crate::timeout::{Given, read_timeout};
use crate::transactions::{Answer, ask};

/// A cache: one alias of the settings. Safe across threads and tasks.
#[pyclass(frozen, module = "tezkor._native")]
pub struct Cache {
    pub(crate) alias: Alias,
    place: Place,
    timeout: Timeout,
    default_timeout: Py<PyAny>,
}

type Object<'py> = Bound<'py, PyAny>;

#[pymethods]
impl Cache {
    #[new]
    #[pyo3(signature = (
        location, /, *, prefix = String::new(), version = None, timeout = Given::No, default_timeout = None,
        key_function = None, validate_key = None, size_bytes = None, decoded_bytes = 16 << 20, pickle = true,
        compress_min_bytes = 0, max_entries = None, cull_frequency = 3, clock = "boot", region = None, jitter = 0.0,
    ), text_signature = "(location, /, *, prefix='', version=1, timeout=300, default_timeout=None, key_function=None, \
        validate_key=None, size_bytes=None, decoded_bytes=16777216, pickle=True, compress_min_bytes=0, \
        max_entries=None, cull_frequency=3, clock='boot', region=None, jitter=0.0)")]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        location: &str,
        prefix: String,
        version: Option<Object<'_>>,
        timeout: Given<'_>,
        default_timeout: Option<Py<PyAny>>,
        key_function: Option<Py<PyAny>>,
        validate_key: Option<Py<PyAny>>,
        size_bytes: Option<u64>,
        decoded_bytes: usize,
        pickle: bool,
        compress_min_bytes: usize,
        max_entries: Option<usize>,
        cull_frequency: usize,
        clock: &str,
        region: Option<String>,
        jitter: f64,
    ) -> PyResult<Self> {
        if !(0.0..1.0).contains(&jitter) {
            let text = format!("jitter is {jitter}: write a share of the timeout, from 0 to less than 1");
            return Err(PyValueError::new_err(text));
        }
        let place = Place::parse(location)?;
        let (config, python_clock) = place.config(size_bytes, clock, region)?;
        let version = version.unwrap_or(1_i64.into_pyobject(py)?.into_any());
        let timeout = match timeout {
            Given::No => Timeout::After(std::time::Duration::from_secs(300)),
            Given::Yes(timeout) => read_timeout(&timeout)?,
        };
        let keys = KeyRule::new(prefix, &version, key_function, validate_key)?;
        let method = if place.is_disk() { Method::Zstd } else { Method::Lz4 };
        let compress = (compress_min_bytes > 0).then_some((compress_min_bytes, method));
        let limit = max_entries.map(|max_entries| Limit { max_entries, cull_frequency });
        let clock = if python_clock { Some(py.import("time")?.into_any().unbind()) } else { None };
        // With the GIL held: a fork by another thread amid it would leave the child a lock that nobody opens.
        let engine = Engine::open(&config).map_err(|error| match error.is_io() {
            true => PyMemoryError::new_err(error.to_string()),
            false => PyValueError::new_err(error.to_string()),
        })?;
        report::tell(py, &engine)?;
        let alias =
            Alias::new(engine, keys, Format { pickle, compress }, decoded_bytes, limit, order_of(&place.url()), clock)
                .with_jitter(jitter);
        Ok(Self { alias, place, timeout, default_timeout: default_timeout.unwrap_or_else(|| py.Ellipsis()) })
    }

    /// The value of a key, or the default.
    #[pyo3(signature = (key, default = None, version = None, /))]
    fn get<'py>(
        slf: &Bound<'py, Self>,
        key: Object<'py>,
        default: Option<Object<'py>>,
        version: Option<Object<'py>>,
    ) -> PyResult<Object<'py>> {
        let (py, alias) = (slf.py(), &slf.get().alias);
        let mut taken = scratch::take();
        let scratch = &mut *taken;
        alias.compose(&key, version.as_ref(), &mut scratch.key)?;
        let found = match ask(slf.as_any(), &scratch.key)? {
            Answer::GoOn => {
                let key = alias.key(alias.space(), &scratch.key)?;
                alias.read(py, &key, &mut scratch.read)?
            }
            Answer::Bypass => None,
            Answer::Value(value) => Some(value),
        };
        Ok(found.or(default).unwrap_or_else(|| py.None().into_bound(py)))
    }

    /// The values of those keys that are there.
    #[pyo3(signature = (keys, version = None, /))]
    fn get_many<'py>(
        slf: &Bound<'py, Self>,
        keys: Object<'py>,
        version: Option<Object<'py>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let (py, alias) = (slf.py(), &slf.get().alias);
        let mut taken = scratch::take();
        let scratch = &mut *taken;
        let found = PyDict::new(py);
        let space = alias.space();
        for key in keys.try_iter()? {
            let key = key?;
            alias.compose(&key, version.as_ref(), &mut scratch.key)?;
            let value = match ask(slf.as_any(), &scratch.key)? {
                Answer::GoOn => alias.read(py, &alias.key(space, &scratch.key)?, &mut scratch.read)?,
                Answer::Bypass => None,
                Answer::Value(value) => Some(value),
            };
            if let Some(value) = value {
                found.set_item(key, value)?;
            }
        }
        Ok(found)
    }

    /// Stores a value.
    #[pyo3(signature = (key, value, timeout = Given::No, version = None, tags = None, stale = None, /), text_signature = "($self, key, value, timeout=..., version=None, tags=None, stale=None, /)")]
    fn set(
        &self,
        key: Object<'_>,
        value: Object<'_>,
        timeout: Given<'_>,
        version: Option<Object<'_>>,
        tags: Option<Object<'_>>,
        stale: Option<Object<'_>>,
    ) -> PyResult<()> {
        let mut taken = scratch::take();
        let scratch = &mut *taken;
        let terms = read_terms(self.timeout(timeout), tags.as_ref(), stale.as_ref())?;
        self.alias.compose(&key, version.as_ref(), &mut scratch.key)?;
        let key = self.alias.key(self.alias.space(), &scratch.key)?;
        terms.with(|terms| self.alias.set(&key, &value, terms, &mut scratch.write))?;
        Ok(())
    }

    /// Stores several values; returns the keys of those that could not be stored.
    #[pyo3(signature = (data, timeout = Given::No, version = None, tags = None, stale = None, /), text_signature = "($self, data, timeout=..., version=None, tags=None, stale=None, /)")]
    fn set_many<'py>(
        &self,
        py: Python<'py>,
        data: Object<'py>,
        timeout: Given<'_>,
        version: Option<Object<'_>>,
        tags: Option<Object<'_>>,
        stale: Option<Object<'_>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let mut taken = scratch::take();
        let scratch = &mut *taken;
        let terms = read_terms(self.timeout(timeout), tags.as_ref(), stale.as_ref())?;
        let failed = PyList::empty(py);
        let space = self.alias.space();
        for item in data.call_method0(intern!(py, "items"))?.try_iter()? {
            let (key, value): (Object<'_>, Object<'_>) = item?.extract()?;
            self.alias.compose(&key, version.as_ref(), &mut scratch.key)?;
            let full = self.alias.key(space, &scratch.key)?;
            if !terms.with(|terms| self.alias.set(&full, &value, terms, &mut scratch.write))? {
                failed.append(key)?;
            }
        }
        Ok(failed)
    }

    /// Stores a value where there is none; whether it did.
    #[pyo3(signature = (key, value, timeout = Given::No, version = None, tags = None, stale = None, /), text_signature = "($self, key, value, timeout=..., version=None, tags=None, stale=None, /)")]
    fn add(
        &self,
        key: Object<'_>,
        value: Object<'_>,
        timeout: Given<'_>,
        version: Option<Object<'_>>,
        tags: Option<Object<'_>>,
        stale: Option<Object<'_>>,
    ) -> PyResult<bool> {
        let mut taken = scratch::take();
        let scratch = &mut *taken;
        let terms = read_terms(self.timeout(timeout), tags.as_ref(), stale.as_ref())?;
        self.alias.compose(&key, version.as_ref(), &mut scratch.key)?;
        let key = self.alias.key(self.alias.space(), &scratch.key)?;
        terms.with(|terms| self.alias.add(&key, &value, terms, &mut scratch.write))
    }

    /// Gives an entry another timeout; whether there is one.
    #[pyo3(signature = (key, timeout = Given::No, version = None, /), text_signature = "($self, key, timeout=..., version=None, /)")]
    fn touch(
        &self,
        py: Python<'_>,
        key: Object<'_>,
        timeout: Given<'_>,
        version: Option<Object<'_>>,
    ) -> PyResult<bool> {
        let mut taken = scratch::take();
        let timeout = self.timeout(timeout)?;
        self.alias.compose(&key, version.as_ref(), &mut taken.key)?;
        let key = self.alias.key(self.alias.space(), &taken.key)?;
        Ok(self.alias.touch(py, &key, timeout))
    }

    /// Removes an entry; whether there was one.
    #[pyo3(signature = (key, version = None, /))]
    fn delete(&self, py: Python<'_>, key: Object<'_>, version: Option<Object<'_>>) -> PyResult<bool> {
        let mut taken = scratch::take();
        self.alias.compose(&key, version.as_ref(), &mut taken.key)?;
        let key = self.alias.key(self.alias.space(), &taken.key)?;
        Ok(self.alias.delete(py, &key))
    }

    /// Removes several entries.
    #[pyo3(signature = (keys, version = None, /))]
    fn delete_many(&self, py: Python<'_>, keys: Object<'_>, version: Option<Object<'_>>) -> PyResult<()> {
        let mut taken = scratch::take();
        let space = self.alias.space();
        for key in keys.try_iter()? {
            self.alias.compose(&key?, version.as_ref(), &mut taken.key)?;
            let key = self.alias.key(space, &taken.key)?;
            self.alias.delete(py, &key);
        }
        Ok(())
    }

    /// Whether there is an entry.
    #[pyo3(signature = (key, version = None, /))]
    fn has_key(slf: &Bound<'_, Self>, key: Object<'_>, version: Option<Object<'_>>) -> PyResult<bool> {
        let alias = &slf.get().alias;
        let mut taken = scratch::take();
        alias.compose(&key, version.as_ref(), &mut taken.key)?;
        Ok(match ask(slf.as_any(), &taken.key)? {
            Answer::GoOn => alias.has(slf.py(), &alias.key(alias.space(), &taken.key)?),
            Answer::Bypass => false,
            Answer::Value(_) => true,
        })
    }

    /// Adds to a number and returns the sum; its timeout stays as it is.
    #[pyo3(signature = (key, delta = Given::No, version = None, /), text_signature = "($self, key, delta=1, version=None, /)")]
    fn incr<'py>(
        &self,
        py: Python<'py>,
        key: Object<'py>,
        delta: Given<'py>,
        version: Option<Object<'py>>,
    ) -> PyResult<Object<'py>> {
        let mut taken = scratch::take();
        self.alias.compose(&key, version.as_ref(), &mut taken.key)?;
        let key = self.alias.key(self.alias.space(), &taken.key)?;
        let delta = match delta {
            Given::No => 1_i64.into_pyobject(py)?.into_any(),
            Given::Yes(delta) => delta,
        };
        self.alias.add_to(&key, &delta)
    }

    /// Empties the location: all prefixes and versions, for all processes.
    #[pyo3(signature = (/))]
    fn clear(&self, py: Python<'_>) {
        self.alias.clear(py);
    }

    /// Empties the location, and gives back all locks, loads and rate limits of its region, whoever
    /// has them: for tests, between which nothing is to be left.
    #[pyo3(signature = (/))]
    fn reset(&self, py: Python<'_>) {
        self.alias.clear(py);
        self.alias.engine.store().forget_claims();
    }

    /// Removes what has this prefix, in all versions.
    #[pyo3(signature = (/))]
    fn clear_prefix(&self, py: Python<'_>) {
        self.alias.clear_prefix(py);
    }

    /// The keys of this prefix and version that fit the pattern, as they were given (with a key function of
    /// its own: the full keys). Reads the whole location.
    #[pyo3(signature = (pattern = None, version = None, /))]
    fn keys<'py>(
        &self,
        py: Python<'py>,
        pattern: Option<GivenPattern<'_>>,
        version: Option<Object<'py>>,
    ) -> PyResult<Bound<'py, PyList>> {
        self.alias.turn_clock(py)?;
        let pattern = self.alias.keys.pattern(pattern, version.as_ref(), py)?;
        let mut found: Vec<Vec<u8>> = Vec::new();
        let space = self.alias.space();
        py.detach(|| {
            self.alias.engine.scan(space, &mut |full| {
                if pattern.matches(full) {
                    found.push(pattern.given(full).to_vec());
                }
                true
            });
        });
        let keys = PyList::empty(py);
        for key in found {
            keys.append(key_text(py, &key)?)?;
        }
        Ok(keys)
    }

    /// Whether a full key is one that the pattern stands for.
    #[pyo3(signature = (pattern, full_key, version = None, /))]
    fn matches(
        &self,
        py: Python<'_>,
        pattern: GivenPattern<'_>,
        full_key: &Bound<'_, PyString>,
        version: Option<Object<'_>>,
    ) -> PyResult<bool> {
        let full = terms::text_bytes(full_key)?;
        Ok(self.alias.keys.pattern(Some(pattern), version.as_ref(), py)?.matches(&full))
    }

    /// Removes the entries of this prefix and version whose key fits the pattern; how many there were.
    #[pyo3(signature = (pattern, version = None, /))]
    fn delete_pattern(&self, py: Python<'_>, pattern: GivenPattern<'_>, version: Option<Object<'_>>) -> PyResult<u64> {
        self.alias.turn_clock(py)?;
        let pattern = self.alias.keys.pattern(Some(pattern), version.as_ref(), py)?;
        Ok(self.alias.delete_pattern(py, &pattern))
    }

    /// A fresh value that is not due for an early refresh; else a Load. Its birth is the logical time of
    /// the snapshot that the loader reads from, if that is older than the present. With `refresh` what is
    /// there is loaded anew. With `alone` it is run whoever else does.
    #[pyo3(signature = (key, version = None, birth = None, beta = 1.0, refresh = false, alone = false, /))]
    #[allow(clippy::too_many_arguments)]
    fn load<'py>(
        slf: &Bound<'py, Self>,
        key: Object<'py>,
        version: Option<Object<'py>>,
        birth: Option<u64>,
        beta: f64,
        refresh: bool,
        alone: bool,
    ) -> PyResult<Object<'py>> {
        let (py, alias) = (slf.py(), &slf.get().alias);
        let mut taken = scratch::take();
        let scratch = &mut *taken;
        alias.compose(&key, version.as_ref(), &mut scratch.key)?;
        let begun = |load, value: Option<Object<'py>>| {
            let load =
                Load::near(slf.clone().unbind(), &scratch.key, alias.engine.clone(), load, value.map(Bound::unbind));
            Ok(Bound::new(py, load)?.into_any())
        };
        match ask(slf.as_any(), &scratch.key)? {
            Answer::GoOn => {}
            Answer::Bypass => return begun(None, None),
            Answer::Value(value) => return Ok(value),
        }
        let full = alias.key(alias.space(), &scratch.key)?;
        let begin = Begin { birth, beta, dice: dice(), alone, refresh };
        match alias.load(py, &full, begin, &mut scratch.read)? {
            Loading::Fresh(value) => Ok(value),
            Loading::Begun(load, value) => begun(Some(*load), value),
            Loading::Unreadable => begun(None, None),
        }
    }

    /// Invalidates all entries of this prefix that depend on one of the tags, in all versions; at constant
    /// cost.
    #[pyo3(signature = (tags, /))]
    fn invalidate_tags(&self, tags: Object<'_>) -> PyResult<()> {
        let names = read_any_tags(&tags)?;
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        self.alias.engine.invalidate_tags(self.alias.space(), &names);
        Ok(())
    }

    /// How long an entry lives on, in milliseconds: None for ever, -1 when there is none.
    #[pyo3(signature = (key, version = None, /))]
    fn ttl_ms(&self, key: Object<'_>, version: Option<Object<'_>>) -> PyResult<Option<i64>> {
        let mut taken = scratch::take();
        self.alias.compose(&key, version.as_ref(), &mut taken.key)?;
        let key = self.alias.key(self.alias.space(), &taken.key)?;
        Ok(match self.alias.engine.store().time_left_ms(&key) {
            None => Some(-1),
            Some(left) => left.map(|left| i64::try_from(left).unwrap_or(i64::MAX)),
        })
    }

    /// Takes a lock until it is released, these seconds at most, or until the process ends: its fencing
    /// token; 0 when somebody has it. Raises RuntimeError when the table of locks is full.
    #[pyo3(signature = (name, seconds, version = None, /))]
    fn acquire(&self, name: Object<'_>, seconds: Option<f64>, version: Option<Object<'_>>) -> PyResult<u64> {
        self.with_name(&name, version, |key| match self.alias.engine.store().lock(key, seconds.map(terms::seconds)) {
            Ok(Locking::Held(token)) => Ok(token),
            Ok(Locking::Taken) => Ok(0),
            Err(error) => Err(PyRuntimeError::new_err(error.to_string())),
        })
    }

    /// Gives a lock back; whether it was still the caller's.
    #[pyo3(signature = (name, token, version = None, /))]
    fn release(&self, name: Object<'_>, token: u64, version: Option<Object<'_>>) -> PyResult<bool> {
        self.with_name(&name, version, |key| Ok(self.alias.engine.store().unlock(key, token)))
    }

    /// Has a lock last these seconds from now on; whether it still is the caller's.
    #[pyo3(signature = (name, token, seconds, version = None, /))]
    fn extend(
        &self,
        name: Object<'_>,
        token: u64,
        seconds: Option<f64>,
        version: Option<Object<'_>>,
    ) -> PyResult<bool> {
        self.with_name(&name, version, |key| {
            Ok(self.alias.engine.store().extend_lock(key, token, seconds.map(terms::seconds)))
        })
    }

    /// Waits until a lock is free, or the seconds are over; whether it is.
    #[pyo3(signature = (name, seconds, version = None, /))]
    fn await_lock(
        &self,
        py: Python<'_>,
        name: Object<'_>,
        seconds: f64,
        version: Option<Object<'_>>,
    ) -> PyResult<bool> {
        let (start, most) = (Instant::now(), terms::seconds(seconds));
        self.with_name(&name, version, |key| {
            let store = self.alias.engine.store();
            while store.is_locked(key) {
                let Some(left) = most.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else {
                    return Ok(false);
                };
                py.detach(|| store.sleep_for_lock(key, left));
                py.check_signals()?;
            }
            Ok(true)
        })
    }

    /// Whether a lock is the caller's at this moment.
    #[pyo3(signature = (name, token, version = None, /))]
    fn owns(&self, name: Object<'_>, token: u64, version: Option<Object<'_>>) -> PyResult<bool> {
        self.with_name(&name, version, |key| Ok(self.alias.engine.store().owns_lock(key, token)))
    }

    /// Whether somebody has a lock.
    #[pyo3(signature = (name, version = None, /))]
    fn is_locked(&self, name: Object<'_>, version: Option<Object<'_>>) -> PyResult<bool> {
        self.with_name(&name, version, |key| Ok(self.alias.engine.store().is_locked(key)))
    }

    /// Uses a rate limit once: whether that is allowed, how many more are, and in how many seconds the
    /// window ends.
    #[pyo3(signature = (key, limit, period, version = None, /))]
    fn rate(
        &self,
        key: Object<'_>,
        limit: u64,
        period: f64,
        version: Option<Object<'_>>,
    ) -> PyResult<(bool, u64, f64)> {
        self.with_name(&key, version, |key| {
            match self.alias.engine.store().use_rate(key, limit, terms::seconds(period)) {
                Ok(rate) => Ok((rate.is_allowed, rate.remaining, rate.resets_after.as_secs_f64())),
                Err(error) => Err(PyValueError::new_err(error.to_string())),
            }
        })
    }

    /// The logical time of invalidations: the birth of a load that begins now.
    #[pyo3(signature = (/))]
    fn sequence(&self) -> u64 {
        self.alias.engine.store().sequence()
    }

    /// The full key, checked.
    #[pyo3(signature = (key, version = None, /))]
    fn make_full_key<'py>(
        &self,
        py: Python<'py>,
        key: Object<'py>,
        version: Option<Object<'py>>,
    ) -> PyResult<Bound<'py, PyString>> {
        let mut taken = scratch::take();
        self.alias.compose(&key, version.as_ref(), &mut taken.key)?;
        key_text(py, &taken.key)
    }

    /// The tags of the entry at a full key.
    #[pyo3(signature = (full_key, /))]
    fn tags_at<'py>(&self, py: Python<'py>, full_key: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyList>> {
        let full = terms::text_bytes(full_key)?;
        let key = self.alias.key(self.alias.space(), &full)?;
        let tags = PyList::empty(py);
        for tag in self.alias.engine.store().tags(&key) {
            tags.append(key_text(py, &tag)?)?;
        }
        Ok(tags)
    }

    /// Writes down what a transaction invalidates, so that others complete it if this process dies after
    /// the COMMIT. To be forgotten, by the ids that are returned, when the transaction has ended.
    /// `everything` is "", "prefix" or "location".
    #[pyo3(signature = (full_keys, tags, everything, /))]
    fn intend(&self, full_keys: Vec<Bound<'_, PyString>>, tags: Object<'_>, everything: &str) -> PyResult<Vec<u64>> {
        let everything = intended::read_everything(everything)?;
        let keys = full_keys.iter().map(terms::text_bytes).collect::<PyResult<Vec<_>>>()?;
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let tags = read_any_tags(&tags)?;
        let tags: Vec<&[u8]> = tags.iter().map(Vec::as_slice).collect();
        let intents = self.alias.engine.store().intend(self.alias.space(), &keys, &tags, everything);
        Ok(vec![intended::keep(Kept::Near(self.alias.engine.clone(), intents))])
    }

    /// Forgets what `intend` wrote down.
    #[pyo3(signature = (ids, /))]
    fn forget(&self, ids: Vec<u64>) {
        ids.into_iter().for_each(intended::forget);
    }

    /// The story of one key.
    #[pyo3(signature = (key, version = None, /))]
    fn explain<'py>(
        &self,
        py: Python<'py>,
        key: Object<'py>,
        version: Option<Object<'py>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let mut taken = scratch::take();
        self.alias.compose(&key, version.as_ref(), &mut taken.key)?;
        let user_key = key.str()?.to_string_lossy().into_owned();
        report::explain(py, &self.alias, &taken.key, &user_key)
    }

    /// Sizes and counters, summed over all processes.
    #[pyo3(signature = (/))]
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        report::stats(py, &self.alias)
    }

    /// Where the cache is, as a URL.
    #[pyo3(signature = (/))]
    fn location(&self) -> String {
        self.place.url()
    }

    /// Whether an operation never waits for a network, a database or a disk.
    #[pyo3(signature = (/))]
    fn is_near(&self) -> bool {
        self.alias.engine.is_near()
    }

    fn __repr__(&self) -> String {
        format!("<tezkor._native.Cache {:?}>", self.place.url())
    }
}

impl Cache {
    fn with_name<T>(
        &self,
        name: &Object<'_>,
        version: Option<Object<'_>>,
        call: impl FnOnce(&Key<'_>) -> PyResult<T>,
    ) -> PyResult<T> {
        let mut taken = scratch::take();
        self.alias.compose(name, version.as_ref(), &mut taken.key)?;
        call(&self.alias.key(self.alias.space(), &taken.key)?)
    }

    /// What a given timeout means for this alias.
    #[inline]
    pub fn timeout(&self, timeout: Given<'_>) -> PyResult<Timeout> {
        match timeout {
            Given::No => Ok(self.timeout),
            Given::Yes(timeout) if timeout.is(&self.default_timeout) => Ok(self.timeout),
            Given::Yes(timeout) => read_timeout(&timeout),
        }
    }
}
