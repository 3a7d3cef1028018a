//! Values between Python and bytes: the engine's format where it has a tag for everything in the value, else a pickle of
//! the whole value, so that what is shared inside of it stays shared.

pub mod compress;
mod decode;
mod encode;
pub mod far;
mod fault;
mod model;
mod moment;
mod pickle;
mod response;
mod table;

use std::borrow::Cow;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use tezkor::codec::{
    CODEC_COUNT, CODEC_MASK, CODEC_MODEL_PICKLE, CODEC_PICKLE, CODEC_TAGGED, FLAG_LZ4, FLAG_ZSTD, ext,
};

use crate::django::loaded_safe_string;
use crate::types::{is_exact, types};
use compress::Method;
use decode::Decoder;
use encode::Encoder;
pub use encode::surrogates;
use fault::Fault;
pub use fault::Unreadable;

/// The Python lock is let go for compressing more than this: letting it go and taking it again costs about 0.1 µs, and
/// up to 5 ms when other threads are busy.
const RELEASE_BYTES: usize = 16 << 10;

/// How values are written.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Whether what the format has no tag for is pickled.
    pub pickle: bool,
    /// Payloads of at least so many bytes are compressed; `None` compresses nothing.
    pub compress: Option<(usize, Method)>,
}

/// An encoded value.
pub struct Encoded {
    pub codec: u8,
    pub bytes: Vec<u8>,
}

impl Format {
    /// Encodes a value; `buffer` is used for its capacity. Fails as pickling fails, before anything stored is touched.
    pub fn encode(&self, value: &Bound<'_, PyAny>, mut buffer: Vec<u8>) -> PyResult<Encoded> {
        let py = value.py();
        buffer.clear();
        let mut encoded = match Encoder::new(py, buffer, false)?.encode(value) {
            Ok(bytes) => Encoded { codec: CODEC_TAGGED, bytes },
            Err(Fault::Python(error)) => return Err(error),
            Err(Fault::Foreign { .. }) if self.pickle => {
                let pickled = types(py)?.dumps.bind(py).call1((value, 5))?;
                pickle::encoded(py, value, pickled.cast::<PyBytes>()?)?
            }
            Err(Fault::Foreign { .. }) => {
                return match Encoder::new(py, Vec::new(), true)?.encode(value) {
                    Err(fault) => Err(fault.into_type_error()),
                    Ok(bytes) => Ok(Encoded { codec: CODEC_TAGGED, bytes }),
                };
            }
        };
        if let Some((least, method)) = self.compress {
            encoded.compress(py, least, method);
        }
        Ok(encoded)
    }

    /// Whether a codec byte says that the payload is a pickle.
    pub fn is_pickle(codec: u8) -> bool {
        matches!(codec & CODEC_MASK, CODEC_PICKLE | CODEC_MODEL_PICKLE)
    }

    /// Decodes a value. A count is not decoded: it is not bytes.
    pub fn decode<'py>(&self, py: Python<'py>, codec: u8, bytes: &[u8]) -> Result<Bound<'py, PyAny>, Unreadable> {
        let method = match codec & !CODEC_MASK {
            0 => None,
            FLAG_LZ4 => Some(Method::Lz4),
            FLAG_ZSTD => Some(Method::Zstd),
            _ => return Err(Unreadable::Miss),
        };
        let payload = match method {
            None => Cow::Borrowed(bytes),
            Some(method) if bytes.len() > RELEASE_BYTES => Cow::Owned(py.detach(|| compress::unpack(method, bytes))?),
            Some(method) => Cow::Owned(compress::unpack(method, bytes)?),
        };
        match codec & CODEC_MASK {
            CODEC_TAGGED => Decoder::decode(py, &payload),
            CODEC_MODEL_PICKLE if self.pickle => pickle::decode(py, &payload),
            CODEC_PICKLE if self.pickle => Ok(types(py)?.loads.bind(py).call1((PyBytes::new(py, &payload),))?),
            _ => Err(Unreadable::Miss),
        }
    }
}

impl Encoded {
    fn compress(&mut self, py: Python<'_>, least: usize, method: Method) {
        if self.codec == CODEC_COUNT || self.bytes.len() < least {
            return;
        }
        let packed = if self.bytes.len() > RELEASE_BYTES {
            py.detach(|| compress::pack(method, &self.bytes))
        } else {
            compress::pack(method, &self.bytes)
        };
        if let Some(packed) = packed {
            self.bytes = packed;
            self.codec |= match method {
                Method::Lz4 => FLAG_LZ4,
                Method::Zstd => FLAG_ZSTD,
            };
        }
    }
}

impl From<compress::Damaged> for Unreadable {
    fn from(_: compress::Damaged) -> Self {
        Self::Miss
    }
}

impl<'py> Encoder<'py> {
    /// Safe strings, responses and model instances; the rest is foreign.
    fn django_object(&mut self, value: &Bound<'py, PyAny>, depth: u32) -> Result<(), Fault> {
        if loaded_safe_string(self.py).is_some_and(|class| is_exact(value, class)) {
            let text = value.cast::<PyString>().map_err(PyErr::from)?;
            let text = text.to_str().map_err(|_| Fault::because("a safe string with lone surrogates"))?;
            self.out.extension(ext::SAFE, text.as_bytes());
            return Ok(());
        }
        if self.response(value, depth)? || self.model(value, depth)? {
            return Ok(());
        }
        Err(Fault::foreign(value))
    }
}
