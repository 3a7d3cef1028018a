//! Timeouts as Django's callers give them.

use std::time::Duration;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyInt;
use tezkor::Timeout;

/// Longer than any machine runs; what is given beyond is for ever.
const SECONDS_MAX: f64 = 1e12;

/// The argument of a method: given or not. `None` is a timeout, so that it cannot stand for "not given".
pub enum Given<'py> {
    /// Not given.
    No,
    /// Given.
    Yes(Bound<'py, PyAny>),
}

impl<'a, 'py> FromPyObject<'a, 'py> for Given<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self::Yes(object.to_owned()))
    }
}

/// Reads a number of seconds, or `None` for ever. Zero and less expire at once; what is no number, or has no end, is an error.
pub fn read_timeout(seconds: &Bound<'_, PyAny>) -> PyResult<Timeout> {
    if seconds.is_none() {
        return Ok(Timeout::Never);
    }
    let number = match seconds.extract::<f64>() {
        Ok(number) => number,
        // An integer that no float can hold.
        Err(_) if seconds.is_instance_of::<PyInt>() => {
            return Ok(if seconds.gt(0)? { Timeout::Never } else { EXPIRED });
        }
        Err(_) => {
            return Err(PyTypeError::new_err(format!(
                "timeout must be a number of seconds, or None for ever, not {}",
                seconds.get_type().name()?
            )));
        }
    };
    if number.is_finite() {
        return Ok(timeout_of(number));
    }
    Err(PyValueError::new_err(format!("timeout is {}: write a number of seconds, or None for ever", seconds.repr()?)))
}

/// Expired at once: a write removes.
pub const EXPIRED: Timeout = Timeout::After(Duration::ZERO);

/// Seconds to the millisecond, upwards: half a millisecond is not nothing.
fn timeout_of(seconds: f64) -> Timeout {
    if seconds <= 0.0 {
        EXPIRED
    } else if seconds < SECONDS_MAX {
        Timeout::After(Duration::from_millis((seconds * 1000.0).ceil() as u64))
    } else {
        Timeout::Never
    }
}
