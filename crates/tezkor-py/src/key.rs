//! From the user's key to the full key: `prefix:version:key`, as Django's default key function composes it, or whatever
//! the alias's own key function says. No Python string is built on the usual way.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use tezkor::{Glob, LONGEST_KEY_BYTES};

use crate::codec::surrogates;
use crate::types::small_int;

/// memcached refuses longer keys; Django warns of them on all backends.
const LENGTH_MAX: usize = 250;

/// How keys of an alias are made.
pub struct KeyRule {
    prefix: String,
    version: Py<PyAny>,
    /// `prefix:version:` of the alias's own version.
    head: Vec<u8>,
    function: Option<Py<PyAny>>,
    validate: Option<Py<PyAny>>,
}

impl KeyRule {
    /// The rule of an alias.
    pub fn new(
        prefix: String,
        version: &Bound<'_, PyAny>,
        function: Option<Py<PyAny>>,
        validate: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let mut rule = Self { prefix, version: version.clone().unbind(), head: Vec::new(), function, validate };
        let mut head = Vec::new();
        rule.push_head(Some(version), &mut head)?;
        rule.head = head;
        Ok(rule)
    }

    /// The alias's prefix.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What all full keys of a version start with.
    pub fn head(&self, version: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<u8>> {
        let mut head = Vec::new();
        self.push_head(version, &mut head)?;
        Ok(head)
    }

    /// Composes the full key and has it checked when it looks as if memcached would refuse it.
    #[inline]
    pub fn compose(
        &self,
        key: &Bound<'_, PyAny>,
        version: Option<&Bound<'_, PyAny>>,
        full: &mut Vec<u8>,
    ) -> PyResult<()> {
        full.clear();
        match &self.function {
            None => {
                self.push_head(version, full)?;
                push_text(key, full)?;
            }
            Some(function) => {
                let py = key.py();
                let version = version.unwrap_or_else(|| self.version.bind(py));
                let made = function.bind(py).call1((key, &self.prefix, version))?;
                let made = made.cast::<PyString>().map_err(|_| {
                    PyTypeError::new_err("KEY_FUNCTION must return a str; make it return one for every key")
                })?;
                push_text(made, full)?;
            }
        }
        let suspicious = full.iter().fold(full.len() > LENGTH_MAX, |found, byte| found | (*byte < 33) | (*byte == 127));
        if suspicious { self.check(key.py(), full) } else { Ok(()) }
    }

    #[cold]
    fn check(&self, py: Python<'_>, full: &mut Vec<u8>) -> PyResult<()> {
        if let Some(validate) = &self.validate {
            validate.bind(py).call1((key_text(py, full)?,))?;
        }
        if full.len() > LONGEST_KEY_BYTES { shorten(py, full) } else { Ok(()) }
    }

    fn push_head(&self, version: Option<&Bound<'_, PyAny>>, full: &mut Vec<u8>) -> PyResult<()> {
        match version {
            None => full.extend_from_slice(&self.head),
            Some(version) => {
                full.extend_from_slice(self.prefix.as_bytes());
                full.push(b':');
                push_text(version, full)?;
                full.push(b':');
            }
        }
        Ok(())
    }
}

/// A pattern as it was given.
pub struct GivenPattern<'a>(pub &'a str);

impl<'a, 'py> FromPyObject<'a, 'py> for GivenPattern<'a> {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if object.is_instance_of::<PyString>() {
            return <&'a str>::extract(object).map(Self);
        }
        let kind = object.get_type().name()?;
        Err(PyTypeError::new_err(format!("a pattern must be a text such as 'list:*', not {kind}")))
    }
}

/// A pattern over the keys of an alias.
pub struct KeyPattern {
    head: Vec<u8>,
    glob: Option<Glob>,
}

impl KeyPattern {
    /// Whether a full key fits.
    pub fn matches(&self, full: &[u8]) -> bool {
        match (full.strip_prefix(self.head.as_slice()), &self.glob) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(rest), Some(glob)) => glob.matches(&String::from_utf8_lossy(rest)),
        }
    }

    /// The key as it was given, of a full key that fits.
    pub fn given<'f>(&self, full: &'f [u8]) -> &'f [u8] {
        full.get(self.head.len()..).unwrap_or_default()
    }
}

impl KeyRule {
    /// The pattern of an alias; `None` for all keys.
    pub fn pattern(
        &self,
        pattern: Option<GivenPattern<'_>>,
        version: Option<&Bound<'_, PyAny>>,
        py: Python<'_>,
    ) -> PyResult<KeyPattern> {
        let pattern = pattern.map(|given| given.0);
        let glob = |text: &str| Glob::new(text).map_err(|error| PyValueError::new_err(error.to_string()));
        let Some(function) = &self.function else {
            return Ok(KeyPattern { head: self.head(version)?, glob: pattern.map(glob).transpose()? });
        };
        // Its full keys cannot be taken apart: it makes a full pattern of the pattern.
        let Some(pattern) = pattern else { return Ok(KeyPattern { head: Vec::new(), glob: None }) };
        let version = version.unwrap_or_else(|| self.version.bind(py));
        let made: String = function.bind(py).call1((pattern, &self.prefix, version))?.extract()?;
        Ok(KeyPattern { head: Vec::new(), glob: Some(glob(&made)?) })
    }
}

/// Keys longer than the engine takes keep their beginning; a digest stands for the whole.
fn shorten(py: Python<'_>, full: &mut Vec<u8>) -> PyResult<()> {
    let digest = py.import("hashlib")?.call_method1("sha256", (PyBytes::new(py, full),))?.call_method0("hexdigest")?;
    let digest: String = digest.extract()?;
    let mut length = LONGEST_KEY_BYTES - digest.len() - 1;
    // Not within a letter.
    while full[length] & 0xC0 == 0x80 {
        length -= 1;
    }
    full.truncate(length);
    full.push(b'#');
    full.extend_from_slice(digest.as_bytes());
    Ok(())
}

/// Appends an object as `%s` formats it.
#[inline]
fn push_text(object: &Bound<'_, PyAny>, full: &mut Vec<u8>) -> PyResult<()> {
    if object.is_exact_instance_of::<PyString>() {
        return push_str(object.cast::<PyString>()?, full);
    }
    if let Some(number) = small_int(object) {
        let mut digits = [0; 20];
        full.extend_from_slice(decimal(number, &mut digits));
        return Ok(());
    }
    push_str(&object.str()?, full)
}

#[inline]
fn push_str(text: &Bound<'_, PyString>, full: &mut Vec<u8>) -> PyResult<()> {
    match text.to_str() {
        Ok(text) => full.extend_from_slice(text.as_bytes()),
        Err(_) => full.extend_from_slice(surrogates(text)?.as_bytes()),
    }
    Ok(())
}

fn decimal(number: i64, digits: &mut [u8; 20]) -> &[u8] {
    let mut rest = number.unsigned_abs();
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        start -= 1;
        digits[start] = b'-';
    }
    &digits[start..]
}

/// The text of a full key.
pub fn key_text<'py>(py: Python<'py>, full: &[u8]) -> PyResult<Bound<'py, PyString>> {
    match PyString::from_bytes(py, full) {
        Ok(text) => Ok(text),
        Err(_) => {
            let text = PyBytes::new(py, full).call_method1("decode", ("utf-8", "surrogatepass"))?;
            Ok(text.cast_into::<PyString>()?)
        }
    }
}
