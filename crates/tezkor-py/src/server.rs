//! Servers as Python opens them: settings in, something to ask out. The class has no verbs: caches are made on it.

use std::sync::Arc;

use pyo3::prelude::*;

/// A server that caches are on: one for each set of settings in a process.
#[pyclass(frozen, module = "tezkor._native")]
pub struct Server {
    server: Arc<dyn tezkor::store::far::server::Server>,
}

impl Server {
    /// What is asked.
    pub fn server(&self) -> Arc<dyn tezkor::store::far::server::Server> {
        self.server.clone()
    }
}

#[pymethods]
impl Server {
    fn __repr__(&self) -> String {
        format!("<tezkor._native.Server {}>", self.server.title())
    }
}
