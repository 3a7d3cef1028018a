//! The Python class of a cache on a server: the same methods as [`crate::cache::Cache`], each of which may wait for the network.
//!
//! It never holds the Python lock while it waits, and never raises an outage to who reads: that is a miss, or with `strict` an
//! error. What must not be silent (`add`, `incr`, a lock) raises.

mod answers;
mod later;
mod load;
mod values;

use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};
use tezkor::store::Store;
use tezkor::store::far::FarStore;
use tezkor::store::far::server::Left;
use tezkor::tier::{Phase, Tier};
use tezkor::{Begin, Cache as Machine, Incr, Key, Locking, Space, Timeout, When, Written};

use self::answers::truth;
pub use self::later::Later;
pub use self::load::FarLoad;
use crate::alias::plain_delta;
use crate::cache::Cache;
use crate::codec::far::FarFormat;
use crate::intended::{self, Kept};
use crate::key::{GivenPattern, KeyRule, key_text};
use crate::report;
use crate::scratch::{self, dice};
use crate::sealed::read_guard;
use crate::server::Server;
use crate::terms::{self, read_any_tags, read_terms};
use crate::timeout::{Given, read_timeout};
use crate::transactions::{Answer, ask};

type Object<'py> = Bound<'py, PyAny>;

/// What another library wrote, and memcached's flags of it.
type Foreign<'py> = (Bound<'py, PyBytes>, u32);

/// Between two looks at a lock that somebody has.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A cache on a server: one alias of the settings.
#[pyclass(frozen, module = "tezkor._native")]
pub struct FarCache {
    store: FarStore,
    /// Where the machine keeps who loads what, and what it knows of the server.
    machine: Machine,
    loads: Space,
    space: Space,
    keys: KeyRule,
    format: FarFormat,
    timeout: Timeout,
    default_timeout: Py<PyAny>,
    jitter: f64,
    strict: bool,
    title: String,
}

#[pymethods]
impl FarCache {
    #[new]
    #[pyo3(signature = (
        server, machine, /, *, name, prefix = String::new(), version = None, timeout = Given::No, default_timeout = None,
        key_function = None, validate_key = None, pickle = true, compress_min_bytes = 0, keys = vec![], encrypt = false,
        jitter = 0.0, strict = false, request_budget = None,
    ), text_signature = "(server, machine, /, *, name, prefix='', version=1, timeout=300, default_timeout=None, \
        key_function=None, validate_key=None, pickle=True, compress_min_bytes=0, keys=[], encrypt=False, \
        jitter=0.0, strict=False, request_budget=None)")]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        server: &Server,
        machine: &Cache,
        name: String,
        prefix: String,
        version: Option<Object<'_>>,
        timeout: Given<'_>,
        default_timeout: Option<Py<PyAny>>,
        key_function: Option<Py<PyAny>>,
        validate_key: Option<Py<PyAny>>,
        pickle: bool,
        compress_min_bytes: usize,
        keys: Vec<Object<'_>>,
        encrypt: bool,
        jitter: f64,
        strict: bool,
        request_budget: Option<f64>,
    ) -> PyResult<Self> {
        if !(0.0..1.0).contains(&jitter) {
            let text = format!("jitter is {jitter}: write a share of the timeout, from 0 to less than 1");
            return Err(PyValueError::new_err(text));
        }
        let machine = machine.alias.engine.clone();
        let tier = Tier::new(server.server(), machine.clone(), &name);
        let tier = Arc::new(match request_budget {
            Some(budget) => tier.with_budget(terms::seconds(budget)),
            None => tier,
        });
        let store = FarStore::behind(tier);
        let version = version.unwrap_or(1_i64.into_pyobject(py)?.into_any());
        let timeout = match timeout {
            Given::No => Timeout::After(Duration::from_secs(300)),
            Given::Yes(timeout) => read_timeout(&timeout)?,
        };
        Ok(Self {
            loads: machine.store().space(format!("loads of {name}").as_bytes(), b""),
            space: store.space(b"", prefix.as_bytes()),
            keys: KeyRule::new(prefix, &version, key_function, validate_key)?,
            format: FarFormat::new(pickle, compress_min_bytes, read_guard(&keys, encrypt)?),
            title: store.server().title(),
            store,
            machine,
            timeout,
            default_timeout: default_timeout.unwrap_or_else(|| py.Ellipsis()),
            jitter,
            strict,
        })
    }

    /// The value of a key, or the default.
    #[pyo3(signature = (key, default = None, version = None, /))]
    fn get<'py>(
        slf: &Bound<'py, Self>,
        key: Object<'py>,
        default: Option<Object<'py>>,
        version: Option<Object<'py>>,
    ) -> PyResult<Object<'py>> {
        let post = later::offered();
        let (py, this) = (slf.py(), slf.get());
        let full = this.full_key(&key, version.as_ref())?;
        let default = default.unwrap_or_else(|| py.None().into_bound(py));
        match ask(slf.as_any(), &full)? {
            Answer::GoOn => {}
            Answer::Bypass => return Ok(default),
            Answer::Value(value) => return Ok(value),
        }
        let default = default.unbind();
        later::read(slf, post, full, |py, this, full, read| {
            let found = this.quiet(py, read)?.flatten();
            Ok(this.show(py, full, found)?.map_or(default, Bound::unbind))
        })
    }

    /// The values of those keys that are there, in one round trip.
    #[pyo3(signature = (keys, version = None, /))]
    fn get_many<'py>(slf: &Bound<'py, Self>, keys: Object<'py>, version: Option<Object<'py>>) -> PyResult<Object<'py>> {
        let post = later::offered();
        let (py, this) = (slf.py(), slf.get());
        let known = PyDict::new(py);
        let (mut wanted, mut fulls) = (Vec::new(), Vec::new());
        for key in keys.try_iter()? {
            let key = key?;
            let full = this.full_key(&key, version.as_ref())?;
            match ask(slf.as_any(), &full)? {
                Answer::GoOn => {
                    wanted.push(key.unbind());
                    fulls.push(full);
                }
                Answer::Bypass => {}
                Answer::Value(value) => known.set_item(key, value)?,
            }
        }
        if wanted.is_empty() {
            return Ok(known.into_any());
        }
        let known = known.unbind();
        let run = move |this: &FarCache| (this.read_all(&fulls), fulls);
        later::perform(slf, post, run, |py, this, (read, fulls)| {
            let found = this.quiet(py, read)?.unwrap_or_default();
            for ((key, full), found) in wanted.into_iter().zip(&fulls).zip(found) {
                if let Some(value) = this.show(py, full, found)? {
                    known.bind(py).set_item(key, value)?;
                }
            }
            Ok(known.into_any())
        })
    }

    /// Stores a value.
    #[pyo3(signature = (key, value, timeout = Given::No, version = None, tags = None, stale = None, /), text_signature = "($self, key, value, timeout=..., version=None, tags=None, stale=None, /)")]
    fn set<'py>(
        slf: &Bound<'py, Self>,
        key: Object<'py>,
        value: Object<'py>,
        timeout: Given<'py>,
        version: Option<Object<'py>>,
        tags: Option<Object<'py>>,
        stale: Option<Object<'py>>,
    ) -> PyResult<Object<'py>> {
        let post = later::offered();
        let terms = read_terms(slf.get().timeout(timeout), tags.as_ref(), stale.as_ref())?;
        let values = slf.get().one_value(&key, version.as_ref(), &value)?;
        let run = move |this: &FarCache| terms.with(|terms| this.put(&values, terms, When::Always));
        later::perform(slf, post, run, |py, this, written| {
            this.quiet(py, written)?;
            Ok(py.None())
        })
    }

    /// Stores several values in one round trip; returns the keys of those that could not be stored.
    #[pyo3(signature = (data, timeout = Given::No, version = None, tags = None, stale = None, /), text_signature = "($self, data, timeout=..., version=None, tags=None, stale=None, /)")]
    fn set_many<'py>(
        slf: &Bound<'py, Self>,
        data: Object<'py>,
        timeout: Given<'py>,
        version: Option<Object<'py>>,
        tags: Option<Object<'py>>,
        stale: Option<Object<'py>>,
    ) -> PyResult<Object<'py>> {
        let post = later::offered();
        let (py, this) = (slf.py(), slf.get());
        let terms = read_terms(this.timeout(timeout), tags.as_ref(), stale.as_ref())?;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for item in data.call_method0(intern!(py, "items"))?.try_iter()? {
            let (key, value): (Object<'_>, Object<'_>) = item?.extract()?;
            let full = this.full_key(&key, version.as_ref())?;
            let encoded = this.encode(&full, &value)?;
            keys.push(key.unbind());
            values.push((full, encoded));
        }
        let run = move |this: &FarCache| terms.with(|terms| this.put(&values, terms, When::Always));
        later::perform(slf, post, run, |py, this, written| {
            let failed = PyList::empty(py);
            let written = this.quiet(py, written)?.unwrap_or_else(|| vec![Written::Refused; keys.len()]);
            for (key, written) in keys.into_iter().zip(written) {
                if matches!(written, Written::Refused | Written::Held) {
                    failed.append(key)?;
                }
            }
            Ok(failed.into_any().unbind())
        })
    }

    /// Stores a value where there is none; whether it did.
    #[pyo3(signature = (key, value, timeout = Given::No, version = None, tags = None, stale = None, /), text_signature = "($self, key, value, timeout=..., version=None, tags=None, stale=None, /)")]
    fn add<'py>(
        slf: &Bound<'py, Self>,
        key: Object<'py>,
        value: Object<'py>,
        timeout: Given<'py>,
        version: Option<Object<'py>>,
        tags: Option<Object<'py>>,
        stale: Option<Object<'py>>,
    ) -> PyResult<Object<'py>> {
        let post = later::offered();
        let terms = read_terms(slf.get().timeout(timeout), tags.as_ref(), stale.as_ref())?;
        let values = slf.get().one_value(&key, version.as_ref(), &value)?;
        let run = move |this: &FarCache| terms.with(|terms| this.put(&values, terms, When::Absent));
        later::perform(slf, post, run, |py, this, written| {
            truth(py, matches!(this.loud(py, written)?[0], Written::Stored(_) | Written::Removed))
        })
    }

    /// Gives an entry another timeout; whether there is one.
    #[pyo3(signature = (key, timeout = Given::No, version = None, /), text_signature = "($self, key, timeout=..., version=None, /)")]
    fn touch<'py>(
        slf: &Bound<'py, Self>,
        key: Object<'py>,
        timeout: Given<'py>,
        version: Option<Object<'py>>,
    ) -> PyResult<Object<'py>> {
        let post = later::offered();
        let this = slf.get();
        let timeout = this.timeout(timeout)?;
        let full = this.full_key(&key, version.as_ref())?;
        let run = move |this: &FarCache| this.store.touch(&[this.key(&full)], timeout);
        later::perform(slf, post, run, |py, this, touched| {
            truth(py, this.quiet(py, touched)?.is_some_and(|touched| touched[0]))
        })
    }

    /// Removes an entry; whether there was one.
    #[pyo3(signature = (key, version = None, /))]
    fn delete<'py>(slf: &Bound<'py, Self>, key: Object<'py>, version: Option<Object<'py>>) -> PyResult<Object<'py>> {
        let post = later::offered();
        let full = slf.get().full_key(&key, version.as_ref())?;
        let run = move |this: &FarCache| this.store.remove(&[this.key(&full)]);
        later::perform(slf, post, run, |py, this, removed| {
            truth(py, this.quiet(py, removed)?.is_some_and(|removed| removed[0]))
        })
    }

    /// Removes several entries in one round trip.
    #[pyo3(signature = (keys, version = None, /))]
    fn delete_many<'py>(
        slf: &Bound<'py, Self>,
        keys: Object<'py>,
        version: Option<Object<'py>>,
    ) -> PyResult<Object<'py>> {
        let post = later::offered();
        let mut fulls: Vec<Vec<u8>> = Vec::new();
        for key in keys.try_iter()? {
            fulls.push(slf.get().full_key(&key?, version.as_ref())?);
        }
        let run = move |this: &FarCache| {
            let keys: Vec<Key<'_>> = fulls.iter().map(|full| this.key(full)).collect();
            this.store.remove(&keys)
        };
        later::perform(slf, post, run, |py, this, removed| {
            this.quiet(py, removed)?;
            Ok(py.None())
        })
    }

    /// Whether there is an entry.
    #[pyo3(signature = (key, version = None, /))]
    fn has_key<'py>(slf: &Bound<'py, Self>, key: Object<'py>, version: Option<Object<'py>>) -> PyResult<Object<'py>> {
        let post = later::offered();
        let (py, this) = (slf.py(), slf.get());
        let full = this.full_key(&key, version.as_ref())?;
        match ask(slf.as_any(), &full)? {
            Answer::GoOn => {}
            Answer::Bypass => return Ok(truth(py, false)?.into_bound(py)),
            Answer::Value(_) => return Ok(truth(py, true)?.into_bound(py)),
        }
        later::read(slf, post, full, |py, this, _, read| truth(py, this.quiet(py, read)?.flatten().is_some()))
    }

    /// Adds to a number and returns the sum; its timeout stays as it is.
    #[pyo3(signature = (key, delta = Given::No, version = None, /), text_signature = "($self, key, delta=1, version=None, /)")]
    fn incr<'py>(
        slf: &Bound<'py, Self>,
        key: Object<'py>,
        delta: Given<'py>,
        version: Option<Object<'py>>,
    ) -> PyResult<Object<'py>> {
        let post = later::offered();
        let (py, this) = (slf.py(), slf.get());
        let full = this.full_key(&key, version.as_ref())?;
        let delta = match delta {
            Given::No => 1_i64.into_pyobject(py)?.into_any(),
            Given::Yes(delta) => delta,
        };
        let is_left = post.is_some();
        let Some(small) = plain_delta(&delta) else {
            return if is_left { Ok(py.NotImplemented().into_bound(py)) } else { this.add_to(&full, &delta) };
        };
        let delta = delta.unbind();
        let run = move |this: &FarCache| (this.store.count(&this.key(&full), small), full);
        later::perform(slf, post, run, move |py, this, (counted, full)| match this.loud(py, counted)? {
            Incr::Value(sum) => Ok(sum.into_pyobject(py)?.into_any().unbind()),
            Incr::Missing => Err(this.missing(py, &full)),
            // What takes several exchanges is not for the thread of a loop.
            Incr::NotACount if is_left => Ok(py.NotImplemented()),
            Incr::NotACount => Ok(this.add_to(&full, delta.bind(py))?.unbind()),
        })
    }

    /// Removes all that is the cache's on the server: all prefixes and versions.
    #[pyo3(signature = (/))]
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        let cleared = py.detach(|| self.store.clear(self.space));
        self.listed(py, cleared)?;
        Ok(())
    }

    /// Removes what has this prefix, in all versions.
    #[pyo3(signature = (/))]
    fn clear_prefix(&self, py: Python<'_>) -> PyResult<()> {
        let cleared = py.detach(|| self.store.clear_prefix(self.space));
        self.listed(py, cleared)?;
        Ok(())
    }

    /// Empties the location, and gives back what the machine keeps of it: for tests.
    #[pyo3(signature = (/))]
    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        self.machine.store().forget_claims();
        let cleared = py.detach(|| self.store.reset(self.space));
        self.quiet(py, cleared)?;
        Ok(())
    }

    /// The keys of this prefix and version that fit the pattern, as they were given.
    #[pyo3(signature = (pattern = None, version = None, /))]
    fn keys<'py>(
        &self,
        py: Python<'py>,
        pattern: Option<GivenPattern<'_>>,
        version: Option<Object<'py>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let pattern = self.keys.pattern(pattern, version.as_ref(), py)?;
        let mut found: Vec<Vec<u8>> = Vec::new();
        let scanned = py.detach(|| {
            self.store.scan(self.space, &mut |full| {
                if pattern.matches(full) {
                    found.push(pattern.given(full).to_vec());
                }
                true
            })
        });
        self.listed(py, scanned)?;
        found.sort();
        found.dedup();
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
        Ok(self.keys.pattern(Some(pattern), version.as_ref(), py)?.matches(&full))
    }

    /// Removes the entries of this prefix and version whose key fits the pattern; how many there were.
    #[pyo3(signature = (pattern, version = None, /))]
    fn delete_pattern(&self, py: Python<'_>, pattern: GivenPattern<'_>, version: Option<Object<'_>>) -> PyResult<u64> {
        let pattern = self.keys.pattern(Some(pattern), version.as_ref(), py)?;
        let removed = py.detach(|| self.store.remove_where(self.space, &|full| pattern.matches(full)));
        Ok(self.listed(py, removed)?.unwrap_or(0))
    }

    /// A fresh value that is not due for an early refresh; else a Load.
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
        load::begin(slf, key, version, Begin { birth, beta, dice: dice(), alone, refresh })
    }

    /// Invalidates all entries of this prefix that depend on one of the tags, in all versions.
    #[pyo3(signature = (tags, /))]
    fn invalidate_tags(&self, py: Python<'_>, tags: Object<'_>) -> PyResult<()> {
        let names = read_any_tags(&tags)?;
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let done = py.detach(|| self.store.invalidate_tags(self.space, &names));
        self.quiet(py, done)?;
        Ok(())
    }

    /// How long an entry lives on, in milliseconds: None for ever, -1 when there is none.
    #[pyo3(signature = (key, version = None, /))]
    fn ttl_ms(&self, py: Python<'_>, key: Object<'_>, version: Option<Object<'_>>) -> PyResult<Option<i64>> {
        self.with_key(&key, version, |key| {
            let left = py.detach(|| self.store.time_left(key));
            Ok(match self.quiet(py, left)?.flatten() {
                None => Some(-1),
                Some(left) => left.map(|left| i64::try_from(left.as_millis()).unwrap_or(i64::MAX)),
            })
        })
    }

    /// Takes a lock until it is released, and these seconds at most: its fencing token; 0 when somebody has it.
    #[pyo3(signature = (name, seconds, version = None, /))]
    fn acquire(
        &self,
        py: Python<'_>,
        name: Object<'_>,
        seconds: Option<f64>,
        version: Option<Object<'_>>,
    ) -> PyResult<u64> {
        let most = seconds.map(terms::seconds);
        self.with_key(&name, version, |key| {
            let locked = py.detach(|| self.store.lock(key, most));
            Ok(match self.loud(py, locked)? {
                Locking::Held(token) => token,
                Locking::Taken => 0,
            })
        })
    }

    /// Gives a lock back; whether it was still the caller's.
    #[pyo3(signature = (name, token, version = None, /))]
    fn release(&self, py: Python<'_>, name: Object<'_>, token: u64, version: Option<Object<'_>>) -> PyResult<bool> {
        self.with_key(&name, version, |key| {
            let released = py.detach(|| self.store.unlock(key, token));
            self.loud(py, released)
        })
    }

    /// Has a lock last these seconds from now on; whether it still is the caller's.
    #[pyo3(signature = (name, token, seconds, version = None, /))]
    fn extend(
        &self,
        py: Python<'_>,
        name: Object<'_>,
        token: u64,
        seconds: Option<f64>,
        version: Option<Object<'_>>,
    ) -> PyResult<bool> {
        let most = seconds.map(terms::seconds);
        self.with_key(&name, version, |key| {
            let extended = py.detach(|| self.store.extend_lock(key, token, most));
            self.loud(py, extended)
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
        self.with_key(&name, version, |key| {
            loop {
                let is_locked = py.detach(|| self.store.is_locked(key));
                if !self.loud(py, is_locked)? {
                    return Ok(true);
                }
                let Some(left) = most.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else {
                    return Ok(false);
                };
                py.detach(|| std::thread::sleep(left.min(LOOK_EVERY)));
                py.check_signals()?;
            }
        })
    }

    /// Whether a lock is the caller's at this moment.
    #[pyo3(signature = (name, token, version = None, /))]
    fn owns(&self, py: Python<'_>, name: Object<'_>, token: u64, version: Option<Object<'_>>) -> PyResult<bool> {
        self.with_key(&name, version, |key| {
            let owns = py.detach(|| self.store.owns_lock(key, token));
            self.loud(py, owns)
        })
    }

    /// Whether somebody has a lock.
    #[pyo3(signature = (name, version = None, /))]
    fn is_locked(&self, py: Python<'_>, name: Object<'_>, version: Option<Object<'_>>) -> PyResult<bool> {
        self.with_key(&name, version, |key| {
            let is_locked = py.detach(|| self.store.is_locked(key));
            self.loud(py, is_locked)
        })
    }

    /// Uses a rate limit once: whether that is allowed, how many more are, and in how many seconds the
    /// window ends.
    #[pyo3(signature = (key, limit, period, version = None, /))]
    fn rate(
        &self,
        py: Python<'_>,
        key: Object<'_>,
        limit: u64,
        period: f64,
        version: Option<Object<'_>>,
    ) -> PyResult<(bool, u64, f64)> {
        let period = terms::seconds(period);
        if limit == 0 || period.is_zero() {
            let text = format!("limit is {limit} and period is {period:?}: write a number and seconds above 0");
            return Err(PyValueError::new_err(text));
        }
        self.with_key(&key, version, |key| {
            let used = py.detach(|| self.store.use_rate(key, limit, period));
            let rate = self.loud(py, used)?;
            Ok((rate.is_allowed, rate.remaining, rate.resets_after.as_secs_f64()))
        })
    }

    /// The last number of the sequence of invalidations that this process has seen: it may be behind, and then what
    /// is loaded since is taken for older than it is.
    #[pyo3(signature = (/))]
    fn sequence(&self) -> u64 {
        self.store.known_sequence()
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
        self.keys.compose(&key, version.as_ref(), &mut taken.key)?;
        key_text(py, &taken.key)
    }

    /// The tags of the entry at a full key.
    #[pyo3(signature = (full_key, /))]
    fn tags_at<'py>(&self, py: Python<'py>, full_key: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyList>> {
        let full = terms::text_bytes(full_key)?;
        let found = py.detach(|| self.store.tags(&self.key(&full)));
        let tags = PyList::empty(py);
        for tag in self.quiet(py, found)?.unwrap_or_default() {
            tags.append(key_text(py, &tag)?)?;
        }
        Ok(tags)
    }

    /// Writes down in the region of the machine what a transaction invalidates, so that others complete it if this process dies
    /// after the COMMIT. To be forgotten, by the ids that are returned, when the transaction has ended.
    /// `everything` is "", "prefix" or "location".
    #[pyo3(signature = (full_keys, tags, everything, /))]
    fn intend(&self, full_keys: Vec<Bound<'_, PyString>>, tags: Object<'_>, everything: &str) -> PyResult<Vec<u64>> {
        let everything = intended::read_everything(everything)?;
        let keys = full_keys.iter().map(terms::text_bytes).collect::<PyResult<Vec<_>>>()?;
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let tags = read_any_tags(&tags)?;
        let tags: Vec<&[u8]> = tags.iter().map(Vec::as_slice).collect();
        let intended = self.store.intend(self.space, &keys, &tags, everything);
        Ok(intended.map(|intended| intended::keep(Kept::Far(self.store.clone(), intended))).into_iter().collect())
    }

    /// Forgets what `intend` wrote down.
    #[pyo3(signature = (ids, /))]
    fn forget(&self, ids: Vec<u64>) {
        ids.into_iter().for_each(intended::forget);
    }

    /// What there is to say of one key.
    #[pyo3(signature = (key, version = None, /))]
    fn explain<'py>(
        &self,
        py: Python<'py>,
        key: Object<'py>,
        version: Option<Object<'py>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let full = self.full_key(&key, version.as_ref())?;
        let answer = PyDict::new(py);
        answer.set_item("key", key_text(py, &full)?)?;
        answer.set_item("store", &self.title)?;
        let read = py.detach(|| self.read_all(&[&full]));
        let found = self.quiet(py, read)?.and_then(|mut found| found.pop().flatten());
        answer.set_item("found", found.is_some())?;
        let Some(taken) = found else {
            let is_away = self.store.tier().is_some_and(|tier| tier.phase() != Phase::Closed);
            answer
                .set_item("reason", if is_away { "the server is away" } else { "the server has none that is fresh" })?;
            return Ok(answer);
        };
        report::describe(&answer, taken.found.codec, taken.value().len())?;
        let full_text = key_text(py, &full)?;
        answer.set_item("tags", self.tags_at(py, &full_text)?)?;
        let left = py.detach(|| self.store.time_left(&self.key(&full)));
        let left = self.quiet(py, left)?.flatten().flatten();
        answer.set_item("expires_in", left.map(|left| left.as_secs_f64()))?;
        Ok(answer)
    }

    /// What is on the server under these very names, which another library gave, with memcached's flags.
    #[pyo3(signature = (names, /))]
    fn raw<'py>(&self, py: Python<'py>, names: Vec<Bound<'py, PyString>>) -> PyResult<Vec<Option<Foreign<'py>>>> {
        let names = names.iter().map(terms::text_bytes).collect::<PyResult<Vec<_>>>()?;
        let wanted: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let found = py.detach(|| self.store.server().foreign(&wanted));
        let found = self.quiet(py, found)?.unwrap_or_else(|| vec![None; names.len()]);
        Ok(found.into_iter().map(|held| held.map(|(bytes, flags)| (PyBytes::new(py, &bytes), flags))).collect())
    }

    /// Removes what is under these very names; how many there were.
    #[pyo3(signature = (names, /))]
    fn remove_raw(&self, py: Python<'_>, names: Vec<Bound<'_, PyString>>) -> PyResult<usize> {
        let names = names.iter().map(terms::text_bytes).collect::<PyResult<Vec<_>>>()?;
        let wanted: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let removed = py.detach(|| self.store.server().remove(&wanted));
        Ok(self.quiet(py, removed)?.map_or(0, |removed| removed.into_iter().filter(|was_there| *was_there).count()))
    }

    /// Removes what another library left under names of this prefix: those that a pattern fits, or all of any version that is a
    /// number; how many there were. Nothing where a server cannot list its names, or a key function makes them.
    #[pyo3(signature = (pattern = None, version = None, /))]
    fn remove_raw_all(
        &self,
        py: Python<'_>,
        pattern: Option<GivenPattern<'_>>,
        version: Option<Object<'_>>,
    ) -> PyResult<u64> {
        let beginning = [self.keys.prefix().as_bytes(), b":"].concat();
        let pattern = pattern.map(|pattern| self.keys.pattern(Some(pattern), version.as_ref(), py)).transpose()?;
        let removed = py.detach(|| {
            let fits = pattern.as_ref().map(|pattern| |name: &[u8]| pattern.matches(name));
            self.store.remove_old(&beginning, fits.as_ref().map(|fits| fits as &dyn Fn(&[u8]) -> bool))
        });
        Ok(self.quiet(py, removed)?.unwrap_or(0))
    }

    /// How many seconds what is under a full key as its very name lives on: None for ever.
    #[pyo3(signature = (key, version = None, /))]
    fn raw_seconds(&self, py: Python<'_>, key: Object<'_>, version: Option<Object<'_>>) -> PyResult<Option<f64>> {
        let full = self.full_key(&key, version.as_ref())?;
        let left = py.detach(|| self.store.server().left(&full));
        Ok(match self.quiet(py, left)? {
            Some(Left::Time(left)) => Some(left.as_secs_f64()),
            Some(Left::Never) => None,
            Some(Left::Absent) | None => Some(0.0),
        })
    }

    /// What the machine knows of the server.
    #[pyo3(signature = (/))]
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let answer = PyDict::new(py);
        answer.set_item("store", &self.title)?;
        answer.set_item("largest_value_bytes", self.store.largest_value_bytes())?;
        if let Some(tier) = self.store.tier() {
            let breaker = match tier.phase() {
                Phase::Closed => "closed",
                Phase::Open => "open",
                Phase::OnTrial => "on trial",
                Phase::CatchingUp => "catching up",
            };
            answer.set_item("breaker", breaker)?;
            answer.set_item("debts", tier.debts())?;
        }
        // Of all caches on servers that this machine has.
        let machine = self.machine.stats();
        answer.set_item("loads_claimed", machine.loads_claimed)?;
        for (name, value) in machine.counters {
            if name.starts_with("loads_") {
                answer.set_item(name, value)?;
            }
        }
        Ok(answer)
    }

    /// The server, without any secret.
    #[pyo3(signature = (/))]
    fn location(&self) -> &str {
        &self.title
    }

    /// Whether an operation never waits for a network, a database or a disk.
    #[pyo3(signature = (/))]
    fn is_near(&self) -> bool {
        false
    }

    fn __repr__(&self) -> String {
        format!("<tezkor._native.FarCache on {}>", self.title)
    }
}

impl FarCache {
    /// Where the machine keeps what it knows.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// What a given timeout means for this alias.
    pub fn timeout(&self, timeout: Given<'_>) -> PyResult<Timeout> {
        match timeout {
            Given::No => Ok(self.timeout),
            Given::Yes(timeout) if timeout.is(&self.default_timeout) => Ok(self.timeout),
            Given::Yes(timeout) => read_timeout(&timeout),
        }
    }

    fn key<'k>(&self, full: &'k [u8]) -> Key<'k> {
        self.store.key(self.space, full)
    }

    fn full_key(&self, key: &Object<'_>, version: Option<&Object<'_>>) -> PyResult<Vec<u8>> {
        let mut full = Vec::new();
        self.keys.compose(key, version, &mut full)?;
        Ok(full)
    }

    fn with_key<T>(
        &self,
        key: &Object<'_>,
        version: Option<Object<'_>>,
        call: impl FnOnce(&Key<'_>) -> PyResult<T>,
    ) -> PyResult<T> {
        let mut full = Vec::new();
        self.keys.compose(key, version.as_ref(), &mut full)?;
        call(&self.key(&full))
    }
}
