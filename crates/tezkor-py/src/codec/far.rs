//! Values in stores outside of the machine: encoded as everywhere, compressed, then sealed.
//!
//! Never unpickles, unpacks or decodes what should be sealed before its seal is verified; and never tells what is in it.

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use tezkor::codec::{FLAG_ENCRYPTED, FLAG_SIGNED};

use super::compress::Method;
use super::fault::Unreadable;
use super::{Encoded, Format, RELEASE_BYTES};
use crate::report;
use crate::seal::{Binding, Refused, Seal};

/// What a network takes longer for than zstd: below about this it does not pay.
pub const COMPRESS_MIN_BYTES: usize = 1 << 10;

/// What must be sealed.
pub enum Guard {
    /// There is no key: nothing is sealed, and pickles are neither written nor read.
    NoKey,
    /// Pickles are signed, since who can write one can run code. Other values are only data.
    Pickles(Seal),
    /// Every value is encrypted. Signed ones are still read, so that what was there before stays readable.
    Everything(Seal),
}

/// How values are written to a store outside of the machine, and read from it.
pub struct FarFormat {
    format: Format,
    guard: Guard,
}

/// Why a value is refused before it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// A pickle without a seal.
    UnsignedPickle,
    /// A value without a seal where all must have one.
    NotEncrypted,
    /// There is a seal, and no key here.
    NoKey,
    /// The seal does not fit.
    Seal(Refused),
}

impl FarFormat {
    /// A format that pickles only if it may and can sign, and compresses payloads of at least so many bytes (0: none).
    pub fn new(pickle: bool, compress_min_bytes: usize, guard: Guard) -> Self {
        let pickle = pickle && !matches!(guard, Guard::NoKey);
        let compress = (compress_min_bytes > 0).then_some((compress_min_bytes, Method::Zstd));
        Self { format: Format { pickle, compress }, guard }
    }

    /// Encodes a value for a full key. The header is what the store keeps beside it and must not be changed; the same is needed to
    /// read it.
    pub fn encode(
        &self,
        full_key: &[u8],
        header: &[u8],
        value: &Bound<'_, PyAny>,
        buffer: Vec<u8>,
    ) -> PyResult<Encoded> {
        let Encoded { mut codec, mut bytes } = self.format.encode(value, buffer)?;
        match &self.guard {
            Guard::Everything(seal) => {
                codec |= FLAG_ENCRYPTED;
                let binding = Binding { full_key, codec, header };
                let sealed = released(value.py(), bytes.len(), || seal.encrypt(&binding, &mut bytes));
                sealed.map_err(|error| PyOSError::new_err(error.to_string()))?;
            }
            Guard::Pickles(seal) if Format::is_pickle(codec) => {
                codec |= FLAG_SIGNED;
                let binding = Binding { full_key, codec, header };
                released(value.py(), bytes.len(), || seal.sign(&binding, &mut bytes));
            }
            Guard::Pickles(_) | Guard::NoKey => {}
        }
        Ok(Encoded { codec, bytes })
    }

    /// Decodes what `encode` made for the same full key and header. What does not verify is a miss, and is told once an hour.
    pub fn decode<'py>(
        &self,
        py: Python<'py>,
        full_key: &[u8],
        header: &[u8],
        codec: u8,
        bytes: &[u8],
    ) -> Result<Bound<'py, PyAny>, Unreadable> {
        let opened = match codec & (FLAG_SIGNED | FLAG_ENCRYPTED) {
            0 => self.unsealed(codec).map(|()| Opened::Same(bytes)),
            _ => released(py, bytes.len(), || self.open(&Binding { full_key, codec, header }, bytes)),
        };
        let codec = codec & !(FLAG_SIGNED | FLAG_ENCRYPTED);
        match opened {
            Ok(Opened::Same(payload)) => self.format.decode(py, codec, payload),
            Ok(Opened::Decrypted(payload)) => self.format.decode(py, codec, &payload),
            Err(suspicion) => {
                report::tell_refused(py, full_key, suspicion);
                Err(Unreadable::Miss)
            }
        }
    }

    /// Whether a value without a seal may be read.
    fn unsealed(&self, codec: u8) -> Result<(), Suspicion> {
        match &self.guard {
            _ if Format::is_pickle(codec) => Err(Suspicion::UnsignedPickle),
            Guard::Everything(_) => Err(Suspicion::NotEncrypted),
            Guard::Pickles(_) | Guard::NoKey => Ok(()),
        }
    }

    fn open<'b>(&self, binding: &Binding<'_>, bytes: &'b [u8]) -> Result<Opened<'b>, Suspicion> {
        let (Guard::Pickles(seal) | Guard::Everything(seal)) = &self.guard else { return Err(Suspicion::NoKey) };
        let opened = match binding.codec & (FLAG_SIGNED | FLAG_ENCRYPTED) {
            FLAG_SIGNED => seal.verify(binding, bytes).map(Opened::Same),
            FLAG_ENCRYPTED => seal.decrypt(binding, bytes).map(Opened::Decrypted),
            _ => Err(Refused::Changed),
        };
        opened.map_err(Suspicion::Seal)
    }
}

/// A payload whose seal was verified.
enum Opened<'b> {
    Same(&'b [u8]),
    Decrypted(Vec<u8>),
}

/// Lets the Python lock go for large values.
fn released<T: Send>(py: Python<'_>, size_bytes: usize, work: impl FnOnce() -> T + Send) -> T {
    if size_bytes > RELEASE_BYTES { py.detach(work) } else { work() }
}

impl Suspicion {
    /// What is the matter, and what to do about it.
    pub fn text(self) -> &'static str {
        match self {
            Self::UnsignedPickle => {
                "it is a pickle without a signature, and who can write those to the store could run code here; find out who \
                 writes under this KEY_PREFIX"
            }
            Self::NotEncrypted => {
                "it is not encrypted, and this cache encrypts; it was written before, or by a process with other settings"
            }
            Self::NoKey => "it is sealed, and this cache was given no key to open it",
            Self::Seal(Refused::UnknownKey) => {
                "it was sealed with another key; if SECRET_KEY was changed, keep the old one in SECRET_KEY_FALLBACKS for a while"
            }
            Self::Seal(Refused::Changed) => {
                "its seal does not fit: it was changed, damaged, or moved here from another key"
            }
        }
    }
}
