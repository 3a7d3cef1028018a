//! From Python objects to the format. Never pickles, never changes an object: what it has no tag for is a [`Fault`].
//!
//! Exact types only, so that a subclass never comes back as its base. A value must be a tree: where a mutable object
//! could be reached on two ways, only a pickle keeps it one object. The reference count tells it at no cost: an object
//! that one container alone holds cannot be anywhere else in the value; only the others are noted and looked for.

use std::collections::HashSet;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString, PyTuple};
use tezkor::codec::{MAX_DEPTH, Writer, ext};

use super::fault::Fault;
use super::model::ShapeKey;
use crate::raw::{Items, references};
use crate::types::{Types, is_exact, small_int, types};

/// The object itself and one container.
const SOLE_REFERENCES: isize = 2;

/// One value on its way into the format.
pub struct Encoder<'py> {
    pub(super) py: Python<'py>,
    pub(super) out: Writer,
    pub(super) types: &'py Types,
    pub(super) shapes: Vec<ShapeKey>,
    seen: HashSet<usize>,
    /// How many mutable objects were written: tells whether a tuple held any.
    mutable: usize,
    explain: bool,
}

impl<'py> Encoder<'py> {
    /// Appends to `out`. With `explain`, a fault says where in the value it is.
    pub fn new(py: Python<'py>, out: Vec<u8>, explain: bool) -> PyResult<Self> {
        let out = Writer::new(out);
        Ok(Self { py, out, types: types(py)?, shapes: Vec::new(), seen: HashSet::new(), mutable: 0, explain })
    }

    /// Writes the whole value.
    pub fn encode(mut self, value: &Bound<'py, PyAny>) -> Result<Vec<u8>, Fault> {
        self.value(value, 0)?;
        if self.out.overflowed() {
            return Err(Fault::because("longer than 4 GiB"));
        }
        Ok(self.out.into_bytes())
    }

    /// Writes one value, nested so deep.
    pub(super) fn value(&mut self, value: &Bound<'py, PyAny>, depth: u32) -> Result<(), Fault> {
        if value.is_exact_instance_of::<PyString>() {
            return self.text(value.cast_exact::<PyString>().map_err(PyErr::from)?);
        }
        if value.is_exact_instance_of::<PyInt>() {
            return self.int(value);
        }
        if value.is_none() {
            self.out.nil();
        } else if value.is_exact_instance_of::<PyBool>() {
            self.out.bool(value.is_truthy()?);
        } else if value.is_exact_instance_of::<PyFloat>() {
            self.out.float(value.extract()?);
        } else if value.is_exact_instance_of::<PyBytes>() {
            self.out.bin(value.cast_exact::<PyBytes>().map_err(PyErr::from)?.as_bytes());
        } else if value.is_exact_instance_of::<PyDict>() {
            self.once(value)?;
            self.dict(value.cast_exact().map_err(PyErr::from)?, deeper(depth)?)?;
        } else if value.is_exact_instance_of::<PyList>() {
            self.once(value)?;
            self.list(value.cast_exact().map_err(PyErr::from)?, deeper(depth)?)?;
        } else if value.is_exact_instance_of::<PyTuple>() {
            self.tuple(value.cast_exact().map_err(PyErr::from)?, deeper(depth)?)?;
        } else if value.is_exact_instance_of::<PySet>() {
            self.once(value)?;
            self.set(ext::SET, value, deeper(depth)?)?;
        } else if value.is_exact_instance_of::<PyFrozenSet>() {
            self.frozen(value, |encoder| encoder.set(ext::FROZENSET, value, deeper(depth)?))?;
        } else {
            self.object(value, depth)?;
        }
        Ok(())
    }

    fn object(&mut self, value: &Bound<'py, PyAny>, depth: u32) -> Result<(), Fault> {
        let types = self.types;
        if is_exact(value, &types.datetime) {
            return self.moment(ext::DATETIME, value);
        }
        if is_exact(value, &types.date) {
            return self.moment(ext::DATE, value);
        }
        if is_exact(value, &types.decimal) {
            self.out.extension(ext::DECIMAL, value.str()?.to_str()?.as_bytes());
            return Ok(());
        }
        if is_exact(value, &types.uuid) {
            return self.uuid(value);
        }
        if is_exact(value, &types.timedelta) {
            return self.timedelta(value);
        }
        if is_exact(value, &types.time) {
            return self.moment(ext::TIME, value);
        }
        self.django_object(value, depth)
    }

    /// Refuses an object that was written before. What is immutable need not ask: one copy more is not seen.
    pub(super) fn once(&mut self, value: &Bound<'py, PyAny>) -> Result<(), Fault> {
        self.mutable += 1;
        if references(value) > SOLE_REFERENCES && !self.seen.insert(value.as_ptr().addr()) {
            return Err(Fault::because("reached in two ways"));
        }
        Ok(())
    }

    /// Writes an immutable container, which may be reached in two ways as long as nothing mutable is in it.
    pub(super) fn frozen(
        &mut self,
        value: &Bound<'py, PyAny>,
        write: impl FnOnce(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let shared = references(value) > SOLE_REFERENCES;
        if shared && self.seen.contains(&value.as_ptr().addr()) {
            return Err(Fault::because("reached in two ways"));
        }
        let before = self.mutable;
        write(self)?;
        if shared && self.mutable > before {
            self.seen.insert(value.as_ptr().addr());
        }
        Ok(())
    }

    /// Notes a step on the way to a fault.
    pub(super) fn step(&self, result: Result<(), Fault>, step: impl FnOnce() -> String) -> Result<(), Fault> {
        if self.explain { result.map_err(|fault| fault.at(step)) } else { result }
    }

    pub(super) fn text(&mut self, text: &Bound<'py, PyString>) -> Result<(), Fault> {
        match text.to_str() {
            Ok(text) => self.out.str(text),
            Err(_) => self.out.extension(ext::SURROGATES, surrogates(text)?.as_bytes()),
        }
        Ok(())
    }

    fn int(&mut self, value: &Bound<'py, PyAny>) -> Result<(), Fault> {
        if let Some(value) = small_int(value) {
            self.out.int(value);
            return Ok(());
        }
        let bits: usize = value.call_method0(intern!(self.py, "bit_length"))?.extract()?;
        let signed = PyDict::new(self.py);
        signed.set_item(intern!(self.py, "signed"), true)?;
        let bytes = value.call_method(intern!(self.py, "to_bytes"), (bits / 8 + 1, "little"), Some(&signed))?;
        self.out.big_int(bytes.cast::<PyBytes>().map_err(PyErr::from)?.as_bytes());
        Ok(())
    }

    pub(super) fn dict(&mut self, dict: &Bound<'py, PyDict>, depth: u32) -> Result<(), Fault> {
        let count = dict.len();
        self.out.map(count);
        let mut written = 0;
        for (key, value) in Items::new(dict) {
            if key.is_exact_instance_of::<PyString>() {
                self.text(key.cast_exact().map_err(PyErr::from)?)?;
            } else {
                let result = self.value(&key, depth);
                self.step(result, || format!(" key {}", repr(&key)))?;
            }
            let result = self.value(&value, depth);
            self.step(result, || format!("[{}]", repr(&key)))?;
            written += 1;
        }
        unchanged(count, written)
    }

    fn list(&mut self, list: &Bound<'py, PyList>, depth: u32) -> Result<(), Fault> {
        if self.table(list, depth)? {
            return Ok(());
        }
        let count = list.len();
        self.out.array(count);
        for index in 0..count {
            let item = list.get_item(index).map_err(|_| changed())?;
            let result = self.value(&item, depth);
            self.step(result, || format!("[{index}]"))?;
        }
        unchanged(count, list.len())
    }

    fn tuple(&mut self, tuple: &Bound<'py, PyTuple>, depth: u32) -> Result<(), Fault> {
        self.frozen(tuple.as_any(), |encoder| {
            let mark = encoder.out.begin(ext::TUPLE);
            encoder.out.array(tuple.len());
            for (index, item) in tuple.iter().enumerate() {
                let result = encoder.value(&item, depth);
                encoder.step(result, || format!("[{index}]"))?;
            }
            encoder.out.end(mark);
            Ok(())
        })
    }

    fn set(&mut self, kind: i8, set: &Bound<'py, PyAny>, depth: u32) -> Result<(), Fault> {
        let mark = self.out.begin(kind);
        self.out.array(set.len()?);
        for item in set.try_iter()? {
            let item = item?;
            let result = self.value(&item, depth);
            self.step(result, || format!(" item {}", repr(&item)))?;
        }
        self.out.end(mark);
        Ok(())
    }

    fn uuid(&mut self, value: &Bound<'py, PyAny>) -> Result<(), Fault> {
        if !value.getattr(intern!(self.py, "is_safe"))?.is(&self.types.uuid_unknown) {
            return Err(Fault::foreign(value));
        }
        let number = value.getattr(intern!(self.py, "int"))?;
        let bytes = number.call_method1(intern!(self.py, "to_bytes"), (16, intern!(self.py, "big")))?;
        self.out.extension(ext::UUID, bytes.cast::<PyBytes>().map_err(PyErr::from)?.as_bytes());
        Ok(())
    }
}

/// The text as UTF-8 that also encodes surrogates.
pub fn surrogates<'py>(text: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyBytes>> {
    let bytes = text.call_method1(intern!(text.py(), "encode"), ("utf-8", "surrogatepass"))?;
    Ok(bytes.cast_into::<PyBytes>()?)
}

/// One level down. Deeper values are pickled.
pub(super) fn deeper(depth: u32) -> Result<u32, Fault> {
    if depth < MAX_DEPTH { Ok(depth + 1) } else { Err(Fault::because("nested too deep")) }
}

fn repr(object: &Bound<'_, PyAny>) -> String {
    object.repr().map(|text| text.to_string_lossy().into_owned()).unwrap_or_else(|_| "?".to_owned())
}

pub(super) fn unchanged(before: usize, after: usize) -> Result<(), Fault> {
    if before == after { Ok(()) } else { Err(changed().into()) }
}

/// Only another thread can do that.
pub(super) fn changed() -> PyErr {
    PyRuntimeError::new_err("the value changed while it was being stored; store a copy of what other threads change")
}
