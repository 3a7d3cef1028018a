//! Values of a cache on a server: read and written in one exchange for many keys, and added to.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use tezkor::store::far::Taken;
use tezkor::store::{Store, Write};
use tezkor::{CODEC_COUNT, Error, Found, Key, Terms, Timeout, Value, When, Written};

use super::{Duration, FarCache, Object, dice, key_text, report};
use crate::codec::Unreadable;
use crate::types::small_int;

/// What was found, and its bytes.
pub(super) type Fetched = Option<Taken>;

/// How often an addition that is not a plain count is tried again when others change the value meanwhile.
const ADDITIONS_MAX: usize = 1_000;

/// An encoded value.
pub(super) enum Encoded {
    Count(i64),
    Bytes(u8, Vec<u8>),
}

impl Encoded {
    /// As the engine takes it.
    pub(super) fn value(&self) -> Value<'_> {
        match self {
            Encoded::Count(count) => Value::Count(*count),
            Encoded::Bytes(codec, bytes) => Value::Bytes { codec: *codec, bytes },
        }
    }
}

impl FarCache {
    /// What is at these keys, without Python's lock.
    pub(super) fn read_all(&self, fulls: &[impl AsRef<[u8]>]) -> Result<Vec<Fetched>, Error> {
        let keys: Vec<Key<'_>> = fulls.iter().map(|full| self.key(full.as_ref())).collect();
        self.store.take(&keys)
    }

    /// The value that was found at a key, if it can be read.
    pub(super) fn show<'py>(&self, py: Python<'py>, full: &[u8], found: Fetched) -> PyResult<Option<Object<'py>>> {
        found.map_or(Ok(None), |taken| self.decode(py, full, &taken.found, taken.value()))
    }

    pub(super) fn decode<'py>(
        &self,
        py: Python<'py>,
        full: &[u8],
        found: &Found,
        bytes: &[u8],
    ) -> PyResult<Option<Object<'py>>> {
        if found.codec == CODEC_COUNT {
            return Ok(Some(found.count.into_pyobject(py)?.into_any()));
        }
        match self.format.decode(py, full, &[], found.codec, bytes) {
            Ok(value) => Ok(Some(value)),
            Err(Unreadable::Miss) => Ok(None),
            Err(Unreadable::Raised(error)) => {
                report::tell_unreadable(py, full, &error);
                Ok(None)
            }
            Err(Unreadable::Python(error)) => Err(error),
        }
    }

    pub(super) fn encode(&self, full: &[u8], value: &Object<'_>) -> PyResult<Encoded> {
        if let Some(count) = small_int(value) {
            return Ok(Encoded::Count(count));
        }
        let encoded = self.format.encode(full, &[], value, Vec::new())?;
        Ok(Encoded::Bytes(encoded.codec, encoded.bytes))
    }

    /// A key and its value, as they are stored.
    pub(super) fn one_value(
        &self,
        key: &Object<'_>,
        version: Option<&Object<'_>>,
        value: &Object<'_>,
    ) -> PyResult<[(Vec<u8>, Encoded); 1]> {
        let full = self.full_key(key, version)?;
        let encoded = self.encode(&full, value)?;
        Ok([(full, encoded)])
    }

    /// Stores values, without Python's lock.
    pub(super) fn put(
        &self,
        values: &[(impl AsRef<[u8]>, Encoded)],
        terms: Terms<'_>,
        when: When<'_>,
    ) -> Result<Vec<Written>, Error> {
        let writes: Vec<Write<'_>> = values
            .iter()
            .map(|(full, encoded)| Write {
                key: self.key(full.as_ref()),
                value: encoded.value(),
                terms: self.spread(terms),
            })
            .collect();
        self.store.write(&writes, when)
    }

    /// Shortens a timeout by a random part of the jitter.
    pub(super) fn spread<'t>(&self, terms: Terms<'t>) -> Terms<'t> {
        match terms.timeout {
            Timeout::After(time) if self.jitter > 0.0 && !time.is_zero() => {
                let share = 1.0 - self.jitter * (1.0 - dice());
                Terms { timeout: Timeout::After(time.mul_f64(share).max(Duration::from_millis(1))), ..terms }
            }
            _ => terms,
        }
    }

    /// Adds to a value that the server cannot add to.
    pub(super) fn add_to<'py>(&self, full: &[u8], delta: &Object<'py>) -> PyResult<Object<'py>> {
        let py = delta.py();
        for _ in 0..ADDITIONS_MAX {
            let read = py.detach(|| self.read_all(&[full]));
            let taken = self.loud(py, read)?.pop().flatten();
            let stamp = taken.as_ref().map(|taken| taken.found.stamp);
            let Some((stamp, value)) = stamp.zip(self.show(py, full, taken)?) else {
                return Err(self.missing(py, full));
            };
            let sum = value.add(delta)?;
            let encoded = self.encode(full, &sum)?;
            let written = py.detach(|| self.put(&[(full, encoded)], Timeout::Keep.into(), When::Unchanged(&stamp)));
            if !matches!(self.loud(py, written)?[0], Written::Held) {
                return Ok(sum);
            }
            py.check_signals()?;
        }
        Err(self.missing(py, full))
    }

    /// Django's words.
    pub(super) fn missing(&self, py: Python<'_>, full: &[u8]) -> PyErr {
        match key_text(py, full) {
            Ok(text) => PyValueError::new_err(format!("Key '{text}' not found")),
            Err(error) => error,
        }
    }
}
