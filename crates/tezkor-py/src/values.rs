//! Which decoded values may be handed out as they are, and how the others are copied.
//!
//! Nothing that a caller could change is ever shared: not between two gets, not with the object that was passed to set.
//! What cannot be changed (text, numbers, dates, and tuples of those) is. Of the rest the containers are kept as they were
//! decoded and never handed out; each get receives copies of them with the unchangeable leaves shared.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString, PyTuple, PyType};

use crate::django::{loaded_models, loaded_responses, loaded_safe_string};
use crate::raw::Items;
use crate::types::{Types, is_exact, types};

/// Values nest no deeper in the format.
const DEPTH_MAX: u32 = 70;

/// A decoded value, kept for more than one get.
pub struct Held {
    copy: Copied,
    /// About how many bytes it takes.
    pub bytes: usize,
}

/// How a copy is made.
enum Copied {
    /// It is handed out as it is.
    Shared(Py<PyAny>),
    List(Py<PyList>, Vec<(usize, Copied)>),
    Dict(Py<PyDict>, Vec<(Py<PyAny>, Copied)>),
    Set(Py<PyAny>),
    Tuple(Vec<Copied>),
    /// An instance: its class, and its `__dict__`, which a copy gets one of its own of.
    Instance(Py<PyType>, Box<Copied>),
    /// An empty `SimpleCookie`.
    NoCookies,
}

impl Held {
    /// Keeps a decoded value, which from then on is handed out by [`Held::give`] alone; `None` for a value that no copy is
    /// known for.
    pub fn new(value: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let mut survey = Survey { types: types(value.py())?, bytes: 0 };
        let copy = survey.look(value, 0)?;
        Ok(copy.map(|copy| Self { copy, bytes: survey.bytes }))
    }

    /// Keeps a value only if it can be handed out as it is.
    pub fn shared(value: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let mut survey = Survey { types: types(value.py())?, bytes: 0 };
        let shared = survey.is_unchangeable(value, 0);
        Ok(shared.then(|| Self { copy: Copied::Shared(value.clone().unbind()), bytes: survey.bytes }))
    }

    /// The value for one get.
    #[inline]
    pub fn give<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match &self.copy {
            Copied::Shared(value) => Ok(value.bind(py).clone()),
            copy => copy.give(py, types(py)?),
        }
    }
}

impl Copied {
    fn give<'py>(&self, py: Python<'py>, types: &Types) -> PyResult<Bound<'py, PyAny>> {
        Ok(match self {
            Self::Shared(value) => value.bind(py).clone(),
            Self::Dict(dict, changeable) => {
                let dict = dict.bind(py).copy()?;
                for (key, value) in changeable {
                    dict.set_item(key, value.give(py, types)?)?;
                }
                dict.into_any()
            }
            Self::List(list, changeable) => {
                let list = list.bind(py);
                let copy = list.get_slice(0, list.len());
                for (index, value) in changeable {
                    copy.set_item(*index, value.give(py, types)?)?;
                }
                copy.into_any()
            }
            Self::Tuple(items) => {
                let items: Vec<_> = items.iter().map(|item| item.give(py, types)).collect::<PyResult<_>>()?;
                PyTuple::new(py, items)?.into_any()
            }
            Self::Set(set) => types.set.bind(py).call1((set,))?,
            Self::Instance(class, dict) => types.instance(class.bind(py), &dict.give(py, types)?)?,
            Self::NoCookies => types.simple_cookie.bind(py).call0()?,
        })
    }
}

/// Finds out how a value is copied, and how large it is.
struct Survey<'a> {
    types: &'a Types,
    bytes: usize,
}

impl Survey<'_> {
    /// Adds an object's size as CPython lays it out, roughly.
    fn add(&mut self, fixed: usize, each: usize, count: usize) {
        self.bytes += fixed + each * count;
    }

    /// Whether a caller can change nothing in it. Adds its size if so.
    fn is_unchangeable(&mut self, value: &Bound<'_, PyAny>, depth: u32) -> bool {
        let py = value.py();
        if let Ok(text) = value.cast_exact::<PyString>() {
            self.add(56, 1, text.len().unwrap_or(0));
            return true;
        }
        if value.is_none()
            || value.is_exact_instance_of::<PyInt>()
            || value.is_exact_instance_of::<PyBool>()
            || value.is_exact_instance_of::<PyFloat>()
        {
            self.add(32, 0, 0);
            return true;
        }
        if let Ok(bytes) = value.cast_exact::<PyBytes>() {
            self.add(40, 1, bytes.as_bytes().len());
            return true;
        }
        if let Ok(tuple) = value.cast_exact::<PyTuple>() {
            self.add(48, 8, tuple.len());
            return depth < DEPTH_MAX && tuple.iter().all(|item| self.is_unchangeable(&item, depth + 1));
        }
        if let Ok(set) = value.cast_exact::<PyFrozenSet>() {
            self.add(216, 32, set.len());
            return depth < DEPTH_MAX && set.iter().all(|item| self.is_unchangeable(&item, depth + 1));
        }
        let types = self.types;
        let unchangeable = [&types.date, &types.time, &types.datetime, &types.timedelta, &types.decimal, &types.uuid];
        if unchangeable.into_iter().any(|class| is_exact(value, class)) {
            self.add(104, 0, 0);
            return self.zone_is_unchangeable(value);
        }
        if loaded_models(py).is_some_and(|models| models.fetch_mode(value).is_some()) {
            return true;
        }
        if loaded_safe_string(py).is_some_and(|class| is_exact(value, class)) {
            self.add(64, 1, value.len().unwrap_or(0));
            return true;
        }
        false
    }

    /// A zone of somebody's own class might have anything in it.
    fn zone_is_unchangeable(&self, value: &Bound<'_, PyAny>) -> bool {
        let types = self.types;
        if !is_exact(value, &types.datetime) && !is_exact(value, &types.time) {
            return true;
        }
        let zone = value.getattr(intern!(value.py(), "tzinfo"));
        zone.is_ok_and(|zone| zone.is_none() || is_exact(&zone, &types.timezone) || is_exact(&zone, &types.zone))
    }

    fn look(&mut self, value: &Bound<'_, PyAny>, depth: u32) -> PyResult<Option<Copied>> {
        let py = value.py();
        let before = self.bytes;
        if self.is_unchangeable(value, depth) {
            return Ok(Some(Copied::Shared(value.clone().unbind())));
        }
        self.bytes = before;
        if depth >= DEPTH_MAX {
            return Ok(None);
        }
        if let Ok(dict) = value.cast_exact::<PyDict>() {
            return self.dict(dict, depth);
        }
        if let Ok(list) = value.cast_exact::<PyList>() {
            self.add(56, 8, list.len());
            let mut changeable = Vec::new();
            for (index, item) in list.iter().enumerate() {
                match self.look(&item, depth + 1)? {
                    Some(Copied::Shared(_)) => {}
                    Some(copy) => changeable.push((index, copy)),
                    None => return Ok(None),
                }
            }
            self.add(0, 40, changeable.len());
            return Ok(Some(Copied::List(list.clone().unbind(), changeable)));
        }
        if let Ok(set) = value.cast_exact::<PySet>() {
            self.add(216, 32, set.len());
            let shared = set.iter().all(|item| self.is_unchangeable(&item, depth + 1));
            return Ok(shared.then(|| Copied::Set(set.clone().into_any().unbind())));
        }
        if let Ok(tuple) = value.cast_exact::<PyTuple>() {
            self.add(48, 48, tuple.len());
            let mut items = Vec::with_capacity(tuple.len());
            for item in tuple.iter() {
                match self.look(&item, depth + 1)? {
                    Some(copy) => items.push(copy),
                    None => return Ok(None),
                }
            }
            return Ok(Some(Copied::Tuple(items)));
        }
        if is_exact(value, &self.types.simple_cookie) {
            self.add(300, 0, 0);
            return Ok((value.len()? == 0).then_some(Copied::NoCookies));
        }
        if self.is_plain_instance(value)? {
            self.add(64, 0, 0);
            let dict = value.getattr(intern!(py, "__dict__"))?;
            let copy = self.look(&dict, depth + 1)?;
            return Ok(copy.map(|copy| Copied::Instance(value.get_type().unbind(), Box::new(copy))));
        }
        Ok(None)
    }

    fn dict(&mut self, dict: &Bound<'_, PyDict>, depth: u32) -> PyResult<Option<Copied>> {
        self.add(232, 40, dict.len());
        let mut changeable = Vec::new();
        for (key, value) in Items::new(dict) {
            if !key.is_exact_instance_of::<PyString>() && !self.is_unchangeable(&key, depth + 1) {
                return Ok(None);
            }
            match self.look(&value, depth + 1)? {
                Some(Copied::Shared(_)) => {}
                Some(copy) => changeable.push((key.unbind(), copy)),
                None => return Ok(None),
            }
        }
        self.add(0, 40, changeable.len());
        Ok(Some(Copied::Dict(dict.clone().unbind(), changeable)))
    }

    /// The classes whose instances the codec makes of a `__dict__` alone.
    fn is_plain_instance(&self, value: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = value.py();
        if let Some(models) = loaded_models(py)
            && (is_exact(value, &models.state) || models.of(value)?.is_some_and(|model| model.plain))
        {
            return Ok(true);
        }
        Ok(loaded_responses(py).is_some_and(|responses| {
            is_exact(value, &responses.headers)
                || responses.classes.iter().flatten().any(|class| is_exact(value, class))
        }))
    }
}
