//! One load of one key: what `Cache.load` answers when there is no fresh value. It decides nothing: who runs what, waits and
//! gives up is Python's matter.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tezkor::Instead;

use crate::cache::Cache;
use crate::scratch;
use crate::terms::{read_terms, seconds};
use crate::timeout::Given;

/// A load. Dropping one that its caller runs ends it, so that nobody waits for ever.
#[pyclass(frozen, module = "tezkor._native")]
pub struct Load {
    cache: Py<Cache>,
    full: Vec<u8>,
    engine: tezkor::Cache,
    /// `None`: a transaction has changed the key, so that nothing is stored.
    load: Mutex<Option<tezkor::Load>>,
    is_owner: bool,
    is_busy: bool,
    is_early: bool,
    birth: u64,
    value: Option<Py<PyAny>>,
}

impl Load {
    pub fn new(
        cache: Py<Cache>,
        full: &[u8],
        engine: tezkor::Cache,
        load: Option<tezkor::Load>,
        value: Option<Py<PyAny>>,
    ) -> Self {
        Self {
            is_owner: load.as_ref().is_some_and(tezkor::Load::is_owner),
            is_busy: load.as_ref().is_some_and(tezkor::Load::is_busy),
            is_early: load.as_ref().is_some_and(|load| matches!(load.instead, Some(Instead::Early(_)))),
            birth: load.as_ref().map_or(0, tezkor::Load::birth),
            cache,
            full: full.to_vec(),
            engine,
            load: Mutex::new(load),
            value,
        }
    }

    fn locked(&self) -> MutexGuard<'_, Option<tezkor::Load>> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the load away, so that it is ended once.
    fn take(&self) -> Option<tezkor::Load> {
        self.locked().take()
    }
}

#[pymethods]
impl Load {
    /// Whether the caller runs the loader, for all who wait.
    #[getter]
    fn is_owner(&self) -> bool {
        self.is_owner
    }

    /// Whether another runs it, or failed a short while ago.
    #[getter]
    fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Whether there is a value that may be served instead.
    #[getter]
    fn has_value(&self) -> bool {
        self.value.is_some()
    }

    /// Whether that value is still fresh, and only due for an early refresh.
    #[getter]
    fn is_early(&self) -> bool {
        self.is_early
    }

    /// The value that may be served instead; None without one.
    #[getter]
    fn value(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.value.as_ref().map(|value| value.clone_ref(py))
    }

    /// The logical time at which it began; what is invalidated later overtakes it.
    #[getter]
    fn birth(&self) -> u64 {
        self.birth
    }

    /// The full key.
    #[getter]
    fn full_key<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, pyo3::types::PyString>> {
        crate::key::key_text(py, &self.full)
    }

    /// Stores what the loader returned and ends the load. False: it was overtaken by an invalidation or a
    /// set, or did not fit.
    #[pyo3(signature = (value, timeout = Given::No, tags = None, stale = None, /), text_signature = "($self, value, timeout=..., tags=None, stale=None, /)")]
    fn store(
        &self,
        value: Bound<'_, PyAny>,
        timeout: Given<'_>,
        tags: Option<Bound<'_, PyAny>>,
        stale: Option<Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let cache = self.cache.get();
        let Some(mut load) = self.take() else { return Ok(false) };
        let mut taken = scratch::take();
        let stored = read_terms(cache.timeout(timeout), tags.as_ref(), stale.as_ref()).and_then(|terms| {
            let key = cache.alias.key(cache.alias.space(), &self.full)?;
            terms.with(|terms| cache.alias.fill(&key, &mut load, &value, terms, &mut taken.write))
        });
        if stored.is_err() {
            // The caller may know another way (in a thread, say), or ends it.
            *self.locked() = Some(load);
        }
        stored
    }

    /// Ends the load; processes that wait try one at a time, after a while.
    #[pyo3(signature = (/))]
    fn fail(&self) {
        if let Some(mut load) = self.take() {
            self.engine.store().fail(&mut load);
        }
    }

    /// Ends the load without storing anything.
    #[pyo3(signature = (/))]
    fn end(&self) {
        if let Some(mut load) = self.take() {
            self.engine.store().end(&mut load);
        }
    }

    /// Waits until a load that another runs is over, or the seconds are; whether it is over.
    #[pyo3(signature = (seconds, /))]
    fn wait(&self, py: Python<'_>, seconds: f64) -> PyResult<bool> {
        let Some(load) = self.locked().clone() else { return Ok(true) };
        let store = self.engine.store();
        let start = Instant::now();
        let most = self::seconds(seconds);
        store.count_waiter(&load, true);
        let result = loop {
            if store.is_over(&load) {
                break Ok(true);
            }
            let Some(left) = most.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else { break Ok(false) };
            py.detach(|| store.sleep_for(&load, left));
            if let Err(error) = py.check_signals() {
                break Err(error);
            }
        };
        store.count_waiter(&load, false);
        result
    }

    /// Whether a load that another runs is over.
    #[pyo3(signature = (/))]
    fn is_over(&self) -> bool {
        self.locked().as_ref().is_none_or(|load| self.engine.store().is_over(load))
    }

    /// Counts the caller among those who wait.
    #[pyo3(signature = (/))]
    fn begin_wait(&self) {
        if let Some(load) = self.locked().as_ref() {
            self.engine.store().count_waiter(load, true);
        }
    }

    /// Counts the caller no longer.
    #[pyo3(signature = (/))]
    fn end_wait(&self) {
        if let Some(load) = self.locked().as_ref() {
            self.engine.store().count_waiter(load, false);
        }
    }

    /// Whether anybody, in any process, waits for a load that the caller runs.
    #[pyo3(signature = (/))]
    fn is_awaited(&self) -> bool {
        self.locked().as_ref().is_some_and(|load| self.engine.store().is_awaited(load))
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let part = match (self.is_owner, self.is_busy) {
            (true, _) => "owner",
            (_, true) => "busy",
            _ => "free",
        };
        format!("<tezkor._native.Load {part} of {}>", PyBytes::new(py, &self.full))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(mut load) = self.take() {
            self.engine.store().end(&mut load);
        }
    }
}
