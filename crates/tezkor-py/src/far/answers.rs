//! What comes of an answer: to a reader an outage is nothing, to who must know it is an error, and people are told.

use pyo3::exceptions::{PyConnectionError, PyNotImplementedError};
use pyo3::prelude::*;
use tezkor::Error;

use super::FarCache;
use crate::database::take_raised;
use crate::report;

impl FarCache {
    /// An outage is nothing, unless the alias is strict.
    pub(super) fn quiet<T>(&self, py: Python<'_>, result: Result<T, Error>) -> PyResult<Option<T>> {
        self.tell(py);
        take_raised().map_or(Ok(()), Err)?;
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                // An interrupt cuts an exchange.
                py.check_signals()?;
                if self.strict { Err(raised(&error)) } else { Ok(None) }
            }
        }
    }

    /// As `quiet`, but that a server which cannot list its names says so.
    pub(super) fn listed<T>(&self, py: Python<'_>, result: Result<T, Error>) -> PyResult<Option<T>> {
        match &result {
            Err(error) if error.is_unsupported() => Err(raised(error)),
            _ => self.quiet(py, result),
        }
    }

    /// An outage raises.
    pub(super) fn loud<T>(&self, py: Python<'_>, result: Result<T, Error>) -> PyResult<T> {
        self.tell(py);
        take_raised().map_or(Ok(()), Err)?;
        result.or_else(|error| {
            py.check_signals()?;
            Err(raised(&error))
        })
    }

    pub(super) fn tell(&self, py: Python<'_>) {
        if self.machine.has_events()
            && let Err(error) = report::tell(py, &self.machine)
        {
            error.write_unraisable(py, None);
        }
    }
}

pub(super) fn truth(py: Python<'_>, is_true: bool) -> PyResult<Py<PyAny>> {
    Ok(is_true.into_pyobject(py)?.to_owned().into_any().unbind())
}

fn raised(error: &Error) -> PyErr {
    if error.is_unsupported() {
        PyNotImplementedError::new_err(error.to_string())
    } else {
        PyConnectionError::new_err(error.to_string())
    }
}
