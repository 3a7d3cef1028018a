//! From the format to Python objects. Never runs code that the bytes name: classes come from a fixed list and from
//! Django's registered models. Any bytes give an object or [`Unreadable`].

use std::rc::Rc;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyFrozenSet, PyList, PySet, PyString, PyTuple};
use tezkor::codec::{Reader, Token, ext};

use super::fault::Unreadable;
use super::model::Pattern;
use crate::django::safe_string;
use crate::types::{Types, types};

/// One value on its way out of the format.
pub struct Decoder<'py> {
    pub(super) py: Python<'py>,
    pub(super) types: &'py Types,
    pub(super) patterns: Vec<Rc<Pattern<'py>>>,
}

impl<'py> Decoder<'py> {
    /// Reads the whole payload.
    pub fn decode(py: Python<'py>, payload: &[u8]) -> Result<Bound<'py, PyAny>, Unreadable> {
        let mut decoder = Self { py, types: types(py)?, patterns: Vec::new() };
        let mut reader = Reader::new(payload);
        let value = decoder.value(&mut reader, 0)?;
        reader.finish()?;
        Ok(value)
    }

    #[inline]
    pub(super) fn value(&mut self, reader: &mut Reader<'_>, depth: u32) -> Result<Bound<'py, PyAny>, Unreadable> {
        let py = self.py;
        Ok(match reader.token()? {
            Token::Nil => py.None().into_bound(py),
            Token::Bool(value) => value.into_pyobject(py).map_err(PyErr::from)?.to_owned().into_any(),
            Token::Int(value) => value.into_pyobject(py).map_err(PyErr::from)?.into_any(),
            Token::Uint(value) => value.into_pyobject(py).map_err(PyErr::from)?.into_any(),
            Token::Float(value) => value.into_pyobject(py).map_err(PyErr::from)?.into_any(),
            Token::Str(bytes) => PyString::from_bytes(py, bytes)?.into_any(),
            Token::Bin(bytes) => PyBytes::new(py, bytes).into_any(),
            Token::Array(count) => {
                let values = self.values(reader, count, Reader::deeper(depth)?)?;
                PyList::new(py, values)?.into_any()
            }
            Token::Map(count) => self.dict(reader, count, Reader::deeper(depth)?)?.into_any(),
            Token::Ext(kind, payload) => self.extension(kind, payload, depth)?,
        })
    }

    /// The count comes from the input and is bounded by its length; the vector grows as values are really there.
    pub(super) fn values(
        &mut self,
        reader: &mut Reader<'_>,
        count: usize,
        depth: u32,
    ) -> Result<Vec<Bound<'py, PyAny>>, Unreadable> {
        let mut values = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            values.push(self.value(reader, depth)?);
        }
        Ok(values)
    }

    pub(super) fn dict(
        &mut self,
        reader: &mut Reader<'_>,
        count: usize,
        depth: u32,
    ) -> Result<Bound<'py, PyDict>, Unreadable> {
        let dict = PyDict::new(self.py);
        for _ in 0..count {
            let key = self.value(reader, depth)?;
            dict.set_item(key, self.value(reader, depth)?)?;
        }
        Ok(dict)
    }

    fn extension(&mut self, kind: i8, payload: &[u8], depth: u32) -> Result<Bound<'py, PyAny>, Unreadable> {
        let py = self.py;
        Ok(match kind {
            ext::DATETIME => self.datetime(payload)?,
            ext::DATE => self.date(payload)?,
            ext::TIME => self.time(payload)?,
            ext::TIMEDELTA => self.timedelta(payload)?,
            ext::DECIMAL => self.types.decimal.bind(py).call1((PyString::from_bytes(py, payload)?,))?,
            ext::UUID if payload.len() == 16 => self.uuid(payload)?,
            ext::SAFE => safe_string(py)?.bind(py).call1((PyString::from_bytes(py, payload)?,))?,
            ext::BIG_INT => self.big_int(payload, "little", true)?,
            ext::SURROGATES => {
                let bytes = PyBytes::new(py, payload);
                bytes.call_method1(intern!(py, "decode"), ("utf-8", "surrogatepass"))?
            }
            ext::TUPLE => PyTuple::new(py, self.sequence(payload, depth)?)?.into_any(),
            ext::SET => {
                let set = PySet::empty(py)?;
                for item in self.sequence(payload, depth)? {
                    set.add(item)?;
                }
                set.into_any()
            }
            ext::FROZENSET => PyFrozenSet::new(py, self.sequence(payload, depth)?)?.into_any(),
            ext::ROWS => self.rows(payload, Reader::deeper(depth)?)?,
            ext::TUPLES => self.tuples(payload, Reader::deeper(depth)?)?,
            ext::MODELS => self.models(payload, Reader::deeper(depth)?)?,
            ext::RESPONSE => self.response(payload, Reader::deeper(depth)?)?,
            _ => return Err(Unreadable::Miss),
        })
    }

    fn sequence(&mut self, payload: &[u8], depth: u32) -> Result<Vec<Bound<'py, PyAny>>, Unreadable> {
        let mut reader = Reader::new(payload);
        let count = reader.expect_array()?;
        let values = self.values(&mut reader, count, Reader::deeper(depth)?)?;
        reader.finish()?;
        Ok(values)
    }

    fn big_int(&self, payload: &[u8], order: &str, signed: bool) -> PyResult<Bound<'py, PyAny>> {
        let options = PyDict::new(self.py);
        options.set_item(intern!(self.py, "signed"), signed)?;
        let bytes = PyBytes::new(self.py, payload);
        self.types.int_from_bytes.bind(self.py).call((bytes, order), Some(&options))
    }

    /// As unpickling makes it: `UUID.__init__` would parse and check what is known already.
    fn uuid(&self, payload: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        let number = self.types.int_from_bytes.bind(py).call1((PyBytes::new(py, payload), intern!(py, "big")))?;
        let uuid = self.types.new.bind(py).call1((&self.types.uuid,))?;
        let set = self.types.set_attribute.bind(py);
        set.call1((&uuid, intern!(py, "int"), number))?;
        set.call1((&uuid, intern!(py, "is_safe"), &self.types.uuid_unknown))?;
        Ok(uuid)
    }
}
