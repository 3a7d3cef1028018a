//! The Python class `Seal`: a value as the bytes that a far store holds of it, and back. For tests and for tools that look into a
//! store; a cache uses the same format without this class.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::codec::Unreadable;
use crate::codec::far::{COMPRESS_MIN_BYTES, FarFormat, Guard};
use crate::seal;

/// Seals values with the first key and opens what any of the keys sealed: pickles are signed, or every value is encrypted.
#[pyclass(frozen, module = "tezkor._native")]
pub struct Seal {
    format: FarFormat,
}

/// What a cache seals with keys as settings hold them: texts or bytes. Without a key pickles are refused.
pub fn read_guard(keys: &[Bound<'_, PyAny>], encrypt: bool) -> PyResult<Guard> {
    if keys.is_empty() && !encrypt {
        return Ok(Guard::NoKey);
    }
    let texts: Vec<Vec<u8>> = keys.iter().map(key_bytes).collect::<PyResult<_>>()?;
    let seal = seal::Seal::new(&texts).map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(if encrypt { Guard::Everything(seal) } else { Guard::Pickles(seal) })
}

fn key_bytes(key: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    if let Ok(text) = key.cast::<PyString>() {
        return Ok(text.to_str()?.as_bytes().to_vec());
    }
    match key.cast::<PyBytes>() {
        Ok(bytes) => Ok(bytes.as_bytes().to_vec()),
        Err(_) => Err(PyTypeError::new_err("a key is a str or bytes")),
    }
}

#[pymethods]
impl Seal {
    #[new]
    #[pyo3(signature = (keys, /, *, encrypt = false, pickle = true, compress_min_bytes = COMPRESS_MIN_BYTES))]
    fn new(keys: Vec<Bound<'_, PyAny>>, encrypt: bool, pickle: bool, compress_min_bytes: usize) -> PyResult<Self> {
        Ok(Self { format: FarFormat::new(pickle, compress_min_bytes, read_guard(&keys, encrypt)?) })
    }

    /// The codec byte and the payload, for this key and this header only.
    #[pyo3(signature = (full_key, value, /, header = b"".as_slice()))]
    fn seal<'py>(
        &self,
        py: Python<'py>,
        full_key: &[u8],
        value: Bound<'py, PyAny>,
        header: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        let encoded = self.format.encode(full_key, header, &value, Vec::new())?;
        let mut bytes = vec![encoded.codec];
        bytes.extend_from_slice(&encoded.bytes);
        Ok(PyBytes::new(py, &bytes))
    }

    /// The value. Raises ValueError for what was not sealed for this key and this header.
    #[pyo3(signature = (full_key, data, /, header = b"".as_slice()))]
    fn unseal<'py>(&self, py: Python<'py>, full_key: &[u8], data: &[u8], header: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        let unreadable = || PyValueError::new_err("the bytes are not a value of this key that may be read");
        let (codec, payload) = data.split_first().ok_or_else(unreadable)?;
        self.format.decode(py, full_key, header, *codec, payload).map_err(|error| match error {
            Unreadable::Miss | Unreadable::Raised(_) => unreadable(),
            Unreadable::Python(error) => error,
        })
    }
}
