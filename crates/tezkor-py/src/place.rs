//! LOCATION as the settings write it: an URL, or a name that tells caches within the project's own region apart.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tezkor::{Clock, Config, Location};

/// A LOCATION that was read.
pub struct Place {
    location: Location,
    size_bytes: Option<u64>,
    /// For a LOCATION without a scheme: its text.
    name: Option<String>,
}

impl Place {
    /// Reads it.
    pub fn parse(text: &str) -> PyResult<Self> {
        let place = text.split('?').next().unwrap_or_default();
        let name = (!place.is_empty() && !place.contains("://")).then(|| place.to_owned());
        let url = match &name {
            Some(name) => text.replacen(name.as_str(), "shared://", 1),
            None => text.to_owned(),
        };
        let (location, size_bytes) = Location::parse(&url).map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self { location, size_bytes, name })
    }

    /// The canonical text, which is also what tells locations of one region apart.
    pub fn url(&self) -> String {
        match (&self.name, &self.location) {
            (Some(name), _) => name.clone(),
            (None, Location::Memory { name }) => format!("memory://{name}"),
            (None, Location::Shared { name }) => {
                format!("shared://{}", name.as_deref().unwrap_or_default())
            }
            (None, Location::File { directory }) => format!("file://{}", directory.display()),
        }
    }

    /// Whether it is on disk.
    pub fn is_disk(&self) -> bool {
        matches!(self.location, Location::File { .. })
    }

    /// The engine's configuration, and whether the clock is Python's.
    pub fn config(&self, size_bytes: Option<u64>, clock: &str, region: Option<String>) -> PyResult<(Config, bool)> {
        let python = clock == "python";
        let clock = match clock {
            "boot" => Clock::Boot,
            "wall" => Clock::Wall,
            "python" => Clock::Manual,
            other => {
                return Err(PyValueError::new_err(format!("clock must be 'boot', 'wall' or 'python', not {other:?}")));
            }
        };
        let is_private = matches!(self.location, Location::Memory { .. });
        if python && !is_private {
            return Err(PyValueError::new_err(
                "clock='python' is for memory:// only: processes cannot share Python's clock",
            ));
        }
        let config = Config {
            location: self.location.clone(),
            namespace: self.url().into_bytes(),
            size_bytes: size_bytes.or(self.size_bytes),
            clock,
            region,
        };
        Ok((config, python))
    }
}

/// Takes a LOCATION apart: scheme, name, path, size_bytes. Raises ValueError naming the fix.
#[pyfunction]
#[pyo3(signature = (location, /))]
pub fn parse_location<'py>(py: Python<'py>, location: &str) -> PyResult<Bound<'py, PyDict>> {
    let place = Place::parse(location)?;
    let (scheme, name, path) = match &place.location {
        Location::Memory { name } => ("memory", Some(name.clone()), None),
        Location::Shared { name } => ("shared", place.name.clone().or_else(|| name.clone()), None),
        Location::File { directory } => ("file", None, Some(directory.display().to_string())),
    };
    let parts = PyDict::new(py);
    parts.set_item("scheme", scheme)?;
    parts.set_item("name", name.filter(|name| !name.is_empty()))?;
    parts.set_item("path", path)?;
    parts.set_item("size_bytes", place.size_bytes)?;
    Ok(parts)
}
