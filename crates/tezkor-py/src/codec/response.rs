//! Django's responses, both ways: status, headers with their case, cookies and body, as unpickling would bring them back.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple, PyType};
use tezkor::codec::{Reader, Token, ext};

use super::decode::Decoder;
use super::encode::{Encoder, deeper};
use super::fault::{Fault, Unreadable};
use crate::django::{loaded_responses, responses};
use crate::raw::Items;
use crate::types::is_exact;

/// The attributes that have a place of their own in the format, or are the same in all responses.
const PLACED: [&str; 8] = [
    "status_code",
    "_reason_phrase",
    "_charset",
    "headers",
    "cookies",
    "_container",
    "_resource_closers",
    "_handler_class",
];

impl<'py> Encoder<'py> {
    /// Writes a response and returns true, when the object is one.
    pub(super) fn response(&mut self, object: &Bound<'py, PyAny>, depth: u32) -> Result<bool, Fault> {
        let py = self.py;
        let Some(responses) = loaded_responses(py) else {
            return Ok(false);
        };
        let is_kind = |class: &Option<Py<PyType>>| class.as_ref().is_some_and(|class| is_exact(object, class));
        let Some(kind) = responses.classes.iter().position(is_kind) else {
            return Ok(false);
        };
        let Ok(dict) = object.getattr(intern!(py, "__dict__"))?.cast_into_exact::<PyDict>() else {
            return Ok(false);
        };
        // Pickling an unrendered response raises; let pickle do it.
        if kind > 0
            && !dict
                .get_item(intern!(py, "_is_rendered"))?
                .is_some_and(|rendered| rendered.is_truthy().unwrap_or(false))
        {
            return Ok(false);
        }
        let part = |name: &str| dict.get_item(name);
        let (Some(headers), Some(cookies), Some(container)) = (part("headers")?, part("cookies")?, part("_container")?)
        else {
            return Ok(false);
        };
        let at_rest = part("_handler_class")?.is_some_and(|handler| handler.is_none())
            && part("_resource_closers")?.is_some_and(|closers| {
                closers.is_exact_instance_of::<PyList>() && closers.len().is_ok_and(|count| count == 0)
            });
        let (Some(headers), Some(cookies)) = (self.headers(&headers, &responses.headers)?, self.cookies(&cookies)?)
        else {
            return Ok(false);
        };
        let Ok(container) = container.cast_into_exact::<PyList>() else {
            return Ok(false);
        };
        if !at_rest || !container.iter().all(|chunk| chunk.is_exact_instance_of::<PyBytes>()) {
            return Ok(false);
        }
        self.once(object)?;
        let depth = deeper(depth)?;
        let mark = self.out.begin(ext::RESPONSE);
        self.out.array(7);
        self.out.uint(kind as u64);
        for name in ["status_code", "_reason_phrase", "_charset"] {
            match part(name)? {
                Some(value) => self.value(&value, depth)?,
                None => self.out.nil(),
            }
        }
        self.out.array(headers.len());
        for text in &headers {
            self.text(text)?;
        }
        self.out.array(cookies.len());
        for part in &cookies {
            self.value(part, depth)?;
        }
        self.out.array(container.len());
        for chunk in container.iter() {
            self.out.bin(chunk.cast_exact::<PyBytes>().map_err(PyErr::from)?.as_bytes());
        }
        let others = PyDict::new(py);
        for (name, value) in Items::new(&dict) {
            let Ok(text) = name.extract::<String>() else {
                return Err(Fault::foreign(object));
            };
            if !PLACED.contains(&text.as_str()) && !responses.omitted[kind].contains(&text) {
                others.set_item(name, value)?;
            }
        }
        self.out.map(others.len());
        for (name, value) in Items::new(&others) {
            self.value(&name, depth)?;
            drop(name);
            let result = self.value(&value, depth);
            self.step(result, || format!(".{}", "attribute"))?;
        }
        self.out.end(mark);
        Ok(true)
    }

    /// Names and values in turn; `None` when there is something in them that a pickle would keep and this would not.
    fn headers(
        &self,
        headers: &Bound<'py, PyAny>,
        class: &Py<PyType>,
    ) -> Result<Option<Vec<Bound<'py, PyString>>>, Fault> {
        let py = self.py;
        if !is_exact(headers, class) {
            return Ok(None);
        }
        let Ok(dict) = headers.getattr(intern!(py, "__dict__"))?.cast_into_exact::<PyDict>() else {
            return Ok(None);
        };
        let (Some(store), 1) = (dict.get_item(intern!(py, "_store"))?, dict.len()) else {
            return Ok(None);
        };
        let Ok(store) = store.cast_into_exact::<PyDict>() else {
            return Ok(None);
        };
        let mut texts = Vec::with_capacity(store.len() * 2);
        for (key, pair) in Items::new(&store) {
            let Ok(pair) = pair.cast_into_exact::<PyTuple>() else {
                return Ok(None);
            };
            if pair.len() != 2 {
                return Ok(None);
            }
            for text in pair.iter() {
                match text.cast_into_exact::<PyString>() {
                    Ok(text) if text.to_str().is_ok() => texts.push(text),
                    _ => return Ok(None),
                }
            }
            if !key.eq(pair.get_item(0)?.call_method0(intern!(py, "lower"))?)? {
                return Ok(None);
            }
        }
        Ok(Some(texts))
    }

    /// Name, key, value, coded value and attributes of each cookie.
    fn cookies(&self, cookies: &Bound<'py, PyAny>) -> Result<Option<Vec<Bound<'py, PyAny>>>, Fault> {
        let py = self.py;
        let types = self.types;
        if !is_exact(cookies, &types.simple_cookie) || !has_dict(cookies, 0)? {
            return Ok(None);
        }
        let mut parts = Vec::new();
        for item in cookies.call_method0(intern!(py, "items"))?.try_iter()? {
            let (name, morsel): (Bound<'py, PyAny>, Bound<'py, PyAny>) = item?.extract()?;
            if !is_exact(&morsel, &types.morsel) || !has_dict(&morsel, 3)? {
                return Ok(None);
            }
            let attributes = PyDict::new(py);
            attributes.update(morsel.cast::<pyo3::types::PyMapping>().map_err(PyErr::from)?)?;
            parts.push(name);
            for part in ["key", "value", "coded_value"] {
                parts.push(morsel.getattr(part)?);
            }
            parts.push(attributes.into_any());
        }
        Ok(Some(parts))
    }
}

/// Whether the object has so many attributes of its own.
fn has_dict(object: &Bound<'_, PyAny>, count: usize) -> PyResult<bool> {
    Ok(object.getattr(intern!(object.py(), "__dict__"))?.len()? == count)
}

impl<'py> Decoder<'py> {
    /// A response.
    pub(super) fn response(&mut self, payload: &[u8], depth: u32) -> Result<Bound<'py, PyAny>, Unreadable> {
        let py = self.py;
        let responses = responses(py)?;
        let mut reader = Reader::new(payload);
        if reader.expect_array()? != 7 {
            return Err(Unreadable::Miss);
        }
        let kind = usize::try_from(reader.expect_uint()?).ok();
        let class = kind.and_then(|kind| responses.classes.get(kind)?.as_ref()).ok_or(Unreadable::Miss)?;
        let status = self.value(&mut reader, depth)?;
        let reason = self.value(&mut reader, depth)?;
        let charset = self.value(&mut reader, depth)?;
        let headers = self.read_headers(&mut reader)?;
        let cookies = self.read_cookies(&mut reader, depth)?;
        let container = PyList::empty(py);
        for _ in 0..reader.expect_array()? {
            let Token::Bin(chunk) = reader.token()? else {
                return Err(Unreadable::Miss);
            };
            container.append(PyBytes::new(py, chunk))?;
        }
        let dict = PyDict::new(py);
        let wrapper = PyDict::new(py);
        wrapper.set_item(intern!(py, "_store"), headers)?;
        dict.set_item(intern!(py, "headers"), self.types.instance(responses.headers.bind(py), wrapper.as_any())?)?;
        dict.set_item(intern!(py, "_charset"), charset)?;
        dict.set_item(intern!(py, "_resource_closers"), PyList::empty(py))?;
        dict.set_item(intern!(py, "_handler_class"), py.None())?;
        dict.set_item(intern!(py, "cookies"), cookies)?;
        if !status.is_none() {
            dict.set_item(intern!(py, "status_code"), status)?;
        }
        dict.set_item(intern!(py, "_reason_phrase"), reason)?;
        dict.set_item(intern!(py, "_container"), container)?;
        for _ in 0..reader.expect_map()? {
            let name = self.value(&mut reader, depth)?;
            dict.set_item(name, self.value(&mut reader, depth)?)?;
        }
        reader.finish()?;
        Ok(self.types.instance(class.bind(py), dict.as_any())?)
    }

    fn read_headers(&self, reader: &mut Reader<'_>) -> Result<Bound<'py, PyDict>, Unreadable> {
        let py = self.py;
        let count = reader.expect_array()?;
        if !count.is_multiple_of(2) {
            return Err(Unreadable::Miss);
        }
        let store = PyDict::new(py);
        for _ in 0..count / 2 {
            let name = PyString::new(py, reader.expect_str()?);
            let value = PyString::new(py, reader.expect_str()?);
            let key = name.call_method0(intern!(py, "lower"))?;
            store.set_item(key, PyTuple::new(py, [name, value])?)?;
        }
        Ok(store)
    }

    fn read_cookies(&mut self, reader: &mut Reader<'_>, depth: u32) -> Result<Bound<'py, PyAny>, Unreadable> {
        let py = self.py;
        let count = reader.expect_array()?;
        if !count.is_multiple_of(5) {
            return Err(Unreadable::Miss);
        }
        let mut parts = Vec::new();
        for _ in 0..count / 5 {
            let mut cookie = Vec::with_capacity(5);
            for _ in 0..5 {
                cookie.push(self.value(reader, depth)?);
            }
            parts.push(cookie);
        }
        Ok(make_cookies(self.types, py, &parts)?)
    }
}

/// A `SimpleCookie` of the parts of its cookies.
pub fn make_cookies<'py>(
    types: &crate::types::Types,
    py: Python<'py>,
    parts: &[Vec<Bound<'py, PyAny>>],
) -> PyResult<Bound<'py, PyAny>> {
    let cookies = types.simple_cookie.bind(py).call0()?;
    for cookie in parts {
        let [name, key, value, coded, attributes] = cookie.as_slice() else {
            continue;
        };
        let morsel = types.morsel.bind(py).call0()?;
        let state = PyDict::new(py);
        state.set_item(intern!(py, "key"), key)?;
        state.set_item(intern!(py, "value"), value)?;
        state.set_item(intern!(py, "coded_value"), coded)?;
        morsel.call_method1(intern!(py, "__setstate__"), (state,))?;
        types.dict_update.bind(py).call1((&morsel, attributes))?;
        types.dict_set_item.bind(py).call1((&cookies, name, morsel))?;
    }
    Ok(cookies)
}
