//! Why a value could not be encoded or decoded, and where in it.

use pyo3::exceptions::{PyException, PyTypeError};
use pyo3::prelude::*;
use tezkor::codec::Error;

/// Why the format cannot hold a value.
pub enum Fault {
    /// Something in it has no tag. The steps lead to it, the innermost first; they are only noted when asked for.
    Foreign { what: String, steps: Vec<String> },
    /// Python raised.
    Python(PyErr),
}

impl Fault {
    /// An object whose class has no tag.
    pub fn foreign(object: &Bound<'_, PyAny>) -> Self {
        let class = object.get_type();
        let name = class.fully_qualified_name().map(|name| name.to_string());
        Self::Foreign { what: name.unwrap_or_else(|_| "object".to_owned()), steps: Vec::new() }
    }

    /// A value that is a tree for the format, but not in memory: pickle keeps what is shared in it.
    pub fn because(what: &str) -> Self {
        Self::Foreign { what: what.to_owned(), steps: Vec::new() }
    }

    /// Notes that the fault is within this part of a container.
    #[cold]
    pub fn at(mut self, step: impl FnOnce() -> String) -> Self {
        if let Self::Foreign { steps, .. } = &mut self {
            steps.push(step());
        }
        self
    }

    /// The error for a cache that does not pickle.
    pub fn into_type_error(self) -> PyErr {
        match self {
            Self::Python(error) => error,
            Self::Foreign { what, mut steps } => {
                steps.push("value".to_owned());
                steps.reverse();
                PyTypeError::new_err(format!(
                    "{} is {what}, which this cache stores only as a pickle, and its OPTIONS[\"PICKLE\"] is False; \
                     store plain values (numbers, text, dates, lists, dicts, rows, models) or allow PICKLE",
                    steps.concat(),
                ))
            }
        }
    }
}

impl From<PyErr> for Fault {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

/// Why bytes are not a value.
#[derive(Debug)]
pub enum Unreadable {
    /// Damaged, foreign, from another version, or of a model that has changed since: a miss.
    Miss,
    /// Unpickling raised: a miss for this process, which may lack a class that others have.
    Raised(PyErr),
    /// Python raised something that is not about the value, for example `KeyboardInterrupt`.
    Python(PyErr),
}

impl From<Error> for Unreadable {
    fn from(_: Error) -> Self {
        Self::Miss
    }
}

impl From<PyErr> for Unreadable {
    /// What hostile or outdated bytes make Python raise is a miss. What is no `Exception` comes from outside.
    fn from(error: PyErr) -> Self {
        let about_the_value = Python::attach(|py| error.is_instance_of::<PyException>(py));
        if about_the_value { Self::Raised(error) } else { Self::Python(error) }
    }
}
