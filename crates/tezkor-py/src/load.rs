//! One load of one key: what `load` answers when there is no fresh value. It decides nothing: who runs what, waits and gives up
//! is Python's matter.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tezkor::Instead;

use crate::cache::Cache;
use crate::far::{FarCache, FarLoad};
use crate::scratch;
use crate::terms::{read_terms, seconds};
use crate::timeout::Given;

/// Between two looks at a load that another machine runs.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A load. Dropping one that its caller runs ends it, so that nobody waits for ever.
#[pyclass(frozen, module = "tezkor._native")]
pub struct Load {
    full: Vec<u8>,
    part: Part,
    is_owner: bool,
    is_busy: bool,
    is_early: bool,
    birth: u64,
    /// When the server was asked first.
    asked: Option<Instant>,
    value: Option<Py<PyAny>>,
}

/// The load of the engine; `None`: it has ended, or a transaction has changed the key, so that nothing is stored.
enum Part {
    Near { cache: Py<Cache>, engine: tezkor::Cache, load: Mutex<Option<tezkor::Load>> },
    Far { cache: Py<FarCache>, load: Mutex<Option<FarLoad>> },
}

impl Load {
    /// A load of a cache on this machine.
    pub fn near(
        cache: Py<Cache>,
        full: &[u8],
        engine: tezkor::Cache,
        load: Option<tezkor::Load>,
        value: Option<Py<PyAny>>,
    ) -> Self {
        Self {
            full: full.to_vec(),
            is_owner: load.as_ref().is_some_and(tezkor::Load::is_owner),
            is_busy: load.as_ref().is_some_and(tezkor::Load::is_busy),
            is_early: load.as_ref().is_some_and(|load| matches!(load.instead, Some(Instead::Early(_)))),
            birth: load.as_ref().map_or(0, tezkor::Load::birth),
            part: Part::Near { cache, engine, load: Mutex::new(load) },
            asked: None,
            value,
        }
    }

    /// A load of a cache on a server.
    pub fn far(
        cache: Py<FarCache>,
        full: &[u8],
        load: Option<FarLoad>,
        asked: Instant,
        value: Option<Py<PyAny>>,
    ) -> Self {
        Self {
            full: full.to_vec(),
            is_owner: load.as_ref().is_some_and(FarLoad::is_owner),
            is_busy: load.as_ref().is_some_and(FarLoad::is_busy),
            is_early: load.as_ref().is_some_and(FarLoad::is_early),
            birth: load.as_ref().map_or(0, FarLoad::birth),
            part: Part::Far { cache, load: Mutex::new(load) },
            asked: Some(asked),
            value,
        }
    }

    fn finish(&self, how: End) {
        match &self.part {
            Part::Near { engine, load, .. } => {
                if let Some(mut load) = locked(load).take() {
                    match how {
                        End::Failed => engine.store().fail(&mut load),
                        End::Nothing => engine.store().end(&mut load),
                    }
                }
            }
            Part::Far { cache, load } => {
                if let Some(load) = locked(load).take() {
                    cache.get().finish(load, how);
                }
            }
        }
    }

    /// The part of the load that this machine knows of.
    fn on_machine<T>(&self, call: impl FnOnce(&tezkor::Cache, &tezkor::Load) -> T) -> Option<T> {
        match &self.part {
            Part::Near { engine, load, .. } => locked(load).as_ref().map(|load| call(engine, load)),
            Part::Far { cache, load } => locked(load)
                .as_ref()
                .and_then(|load| load.local.as_ref().map(|local| call(cache.get().machine(), local))),
        }
    }

    fn look(&self, py: Python<'_>) -> bool {
        match &self.part {
            Part::Near { engine, load, .. } => locked(load).as_ref().is_none_or(|load| engine.store().is_over(load)),
            Part::Far { cache, load } => {
                let Some(load) = locked(load).clone() else { return true };
                cache.get().is_over(py, &load)
            }
        }
    }

    /// Sleeps for a while, until the load may be over.
    fn sleep(&self, py: Python<'_>, left: Duration) {
        let on_machine =
            self.on_machine(|engine, load| load.is_busy().then(|| (engine.clone(), load.clone()))).flatten();
        py.detach(|| match on_machine {
            Some((engine, load)) => engine.store().sleep_for(&load, left),
            None => std::thread::sleep(left.min(LOOK_EVERY)),
        });
    }
}

/// How a load ends without a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Failed,
    Nothing,
}

fn locked<T>(load: &Mutex<T>) -> MutexGuard<'_, T> {
    load.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Whether its verbs never wait for a network.
    #[getter]
    fn is_near(&self) -> bool {
        matches!(self.part, Part::Near { .. })
    }

    /// How many seconds ago a server was asked first; 0 where none is.
    #[getter]
    fn age(&self) -> f64 {
        self.asked.map_or(0.0, |asked| asked.elapsed().as_secs_f64())
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
        match &self.part {
            Part::Near { cache, load, .. } => {
                let cache = cache.get();
                let Some(mut taken) = locked(load).take() else { return Ok(false) };
                let mut scratch = scratch::take();
                let stored = read_terms(cache.timeout(timeout), tags.as_ref(), stale.as_ref()).and_then(|terms| {
                    let key = cache.alias.key(cache.alias.space(), &self.full)?;
                    terms.with(|terms| cache.alias.fill(&key, &mut taken, &value, terms, &mut scratch.write))
                });
                if stored.is_err() {
                    // The caller may know another way (in a thread, say), or ends it.
                    *locked(load) = Some(taken);
                }
                stored
            }
            Part::Far { cache, load } => {
                let cache = cache.get();
                let Some(mut taken) = locked(load).take() else { return Ok(false) };
                let stored = read_terms(cache.timeout(timeout), tags.as_ref(), stale.as_ref())
                    .and_then(|terms| terms.with(|terms| cache.fill(&self.full, &mut taken, &value, terms)));
                match stored {
                    Ok(_) => cache.finish(taken, End::Nothing),
                    Err(_) => *locked(load) = Some(taken),
                }
                stored
            }
        }
    }

    /// Ends the load; processes that wait try one at a time, after a while.
    #[pyo3(signature = (/))]
    fn fail(&self) {
        self.finish(End::Failed);
    }

    /// Ends the load without storing anything.
    #[pyo3(signature = (/))]
    fn end(&self) {
        self.finish(End::Nothing);
    }

    /// Waits until a load that another runs is over, or the seconds are; whether it is over.
    #[pyo3(signature = (seconds, /))]
    fn wait(&self, py: Python<'_>, seconds: f64) -> PyResult<bool> {
        let start = Instant::now();
        let most = self::seconds(seconds);
        self.begin_wait();
        let result = loop {
            if self.look(py) {
                break Ok(true);
            }
            let Some(left) = most.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else { break Ok(false) };
            self.sleep(py, left);
            if let Err(error) = py.check_signals() {
                break Err(error);
            }
        };
        self.end_wait();
        result
    }

    /// Whether a load that another runs is over.
    #[pyo3(signature = (/))]
    fn is_over(&self, py: Python<'_>) -> bool {
        self.look(py)
    }

    /// Counts the caller among those who wait.
    #[pyo3(signature = (/))]
    fn begin_wait(&self) {
        self.on_machine(|engine, load| engine.store().count_waiter(load, true));
    }

    /// Counts the caller no longer.
    #[pyo3(signature = (/))]
    fn end_wait(&self) {
        self.on_machine(|engine, load| engine.store().count_waiter(load, false));
    }

    /// Whether anybody, in any process of this machine, waits for a load that the caller runs.
    #[pyo3(signature = (/))]
    fn is_awaited(&self) -> bool {
        self.on_machine(|engine, load| engine.store().is_awaited(load)).unwrap_or(false)
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
        self.finish(End::Nothing);
    }
}
