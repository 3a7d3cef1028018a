//! The Python class: reads arguments, calls the alias, hands back what it says.

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use tezkor::{Cache as Engine, Timeout};

use crate::alias::{Alias, Limit};
use crate::codec::Format;
use crate::codec::compress::Method;
use crate::key::{KeyRule, key_text};
use crate::order::order_of;
use crate::place::Place;
use crate::report;
use crate::scratch;
use crate::timeout::{Given, read_timeout};

/// A cache: one alias of the settings. Safe across threads and tasks.
#[pyclass(frozen, module = "tezkor._native")]
pub struct Cache {
    alias: Alias,
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
        compress_min_bytes = 0, max_entries = None, cull_frequency = 3, clock = "boot", region = None,
    ), text_signature = "(location, /, *, prefix='', version=1, timeout=300, default_timeout=None, key_function=None, \
        validate_key=None, size_bytes=None, decoded_bytes=16777216, pickle=True, compress_min_bytes=0, \
        max_entries=None, cull_frequency=3, clock='boot', region=None)")]
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
    ) -> PyResult<Self> {
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
        let engine = Engine::open(&config).map_err(|error| PyValueError::new_err(error.to_string()))?;
        report::tell(py, &engine)?;
        let alias =
            Alias::new(engine, keys, Format { pickle, compress }, decoded_bytes, limit, order_of(&place.url()), clock);
        Ok(Self { alias, place, timeout, default_timeout: default_timeout.unwrap_or_else(|| py.Ellipsis()) })
    }

    /// The value of a key, or the default.
    #[pyo3(signature = (key, default = None, version = None, /))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        key: Object<'py>,
        default: Option<Object<'py>>,
        version: Option<Object<'py>>,
    ) -> PyResult<Object<'py>> {
        let mut taken = scratch::take();
        let scratch = &mut *taken;
        self.alias.compose(&key, version.as_ref(), &mut scratch.key)?;
        let key = self.alias.key(self.alias.space(), &scratch.key)?;
        let found = self.alias.read(py, &key, &mut scratch.read)?;
        Ok(found.or(default).unwrap_or_else(|| py.None().into_bound(py)))
    }

    /// The values of those keys that are there.
    #[pyo3(signature = (keys, version = None, /))]
    fn get_many<'py>(
        &self,
        py: Python<'py>,
        keys: Object<'py>,
        version: Option<Object<'py>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let mut taken = scratch::take();
        let scratch = &mut *taken;
        let found = PyDict::new(py);
        let space = self.alias.space();
        for key in keys.try_iter()? {
            let key = key?;
            self.alias.compose(&key, version.as_ref(), &mut scratch.key)?;
            let full = self.alias.key(space, &scratch.key)?;
            if let Some(value) = self.alias.read(py, &full, &mut scratch.read)? {
                found.set_item(key, value)?;
            }
        }
        Ok(found)
    }

    /// Stores a value.
    #[pyo3(signature = (key, value, timeout = Given::No, version = None, /), text_signature = "($self, key, value, timeout=..., version=None, /)")]
    fn set(&self, key: Object<'_>, value: Object<'_>, timeout: Given<'_>, version: Option<Object<'_>>) -> PyResult<()> {
        let mut taken = scratch::take();
        let scratch = &mut *taken;
        let timeout = self.timeout(timeout)?;
        self.alias.compose(&key, version.as_ref(), &mut scratch.key)?;
        let key = self.alias.key(self.alias.space(), &scratch.key)?;
        self.alias.set(&key, &value, timeout, &mut scratch.write)?;
        Ok(())
    }

    /// Stores several values; returns the keys of those that could not be stored.
    #[pyo3(signature = (data, timeout = Given::No, version = None, /), text_signature = "($self, data, timeout=..., version=None, /)")]
    fn set_many<'py>(
        &self,
        py: Python<'py>,
        data: Object<'py>,
        timeout: Given<'_>,
        version: Option<Object<'_>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let mut taken = scratch::take();
        let scratch = &mut *taken;
        let timeout = self.timeout(timeout)?;
        let failed = PyList::empty(py);
        let space = self.alias.space();
        for item in data.call_method0(intern!(py, "items"))?.try_iter()? {
            let (key, value): (Object<'_>, Object<'_>) = item?.extract()?;
            self.alias.compose(&key, version.as_ref(), &mut scratch.key)?;
            let full = self.alias.key(space, &scratch.key)?;
            if !self.alias.set(&full, &value, timeout, &mut scratch.write)? {
                failed.append(key)?;
            }
        }
        Ok(failed)
    }

    /// Stores a value where there is none; whether it did.
    #[pyo3(signature = (key, value, timeout = Given::No, version = None, /), text_signature = "($self, key, value, timeout=..., version=None, /)")]
    fn add(
        &self,
        key: Object<'_>,
        value: Object<'_>,
        timeout: Given<'_>,
        version: Option<Object<'_>>,
    ) -> PyResult<bool> {
        let mut taken = scratch::take();
        let scratch = &mut *taken;
        let timeout = self.timeout(timeout)?;
        self.alias.compose(&key, version.as_ref(), &mut scratch.key)?;
        let key = self.alias.key(self.alias.space(), &scratch.key)?;
        self.alias.add(&key, &value, timeout, &mut scratch.write)
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
    fn has_key(&self, key: Object<'_>, version: Option<Object<'_>>) -> PyResult<bool> {
        let mut taken = scratch::take();
        self.alias.compose(&key, version.as_ref(), &mut taken.key)?;
        let key = self.alias.key(self.alias.space(), &taken.key)?;
        Ok(self.alias.engine.has(&key))
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
    fn clear(&self) {
        self.alias.clear();
    }

    /// Removes what has this prefix, in all versions.
    #[pyo3(signature = (/))]
    fn clear_prefix(&self) {
        self.alias.clear_prefix();
    }

    /// The keys of this prefix and version, as they were given (with a key function of its own: the full keys).
    #[pyo3(signature = (version = None, /))]
    fn keys<'py>(&self, py: Python<'py>, version: Option<Object<'py>>) -> PyResult<Bound<'py, PyList>> {
        let head = if self.alias.keys.is_default() { self.alias.keys.head(version.as_ref())? } else { Vec::new() };
        let mut found: Vec<Vec<u8>> = Vec::new();
        let space = self.alias.space();
        py.detach(|| {
            self.alias.engine.scan(space, &mut |full| {
                found.extend(full.strip_prefix(head.as_slice()).map(<[u8]>::to_vec));
                true
            });
        });
        let keys = PyList::empty(py);
        for key in found {
            keys.append(key_text(py, &key)?)?;
        }
        Ok(keys)
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
    #[inline]
    fn timeout(&self, timeout: Given<'_>) -> PyResult<Timeout> {
        match timeout {
            Given::No => Ok(self.timeout),
            Given::Yes(timeout) if timeout.is(&self.default_timeout) => Ok(self.timeout),
            Given::Yes(timeout) => read_timeout(&timeout),
        }
    }
}
