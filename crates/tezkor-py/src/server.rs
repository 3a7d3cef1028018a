//! Servers as Python opens them: settings in, something to ask out. The class has no verbs: caches are made on it.
//! Opening one never waits: connections are made when they are needed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use tezkor::Error;
use tezkor::store::database::DatabaseServer;
use tezkor::store::far::server::Server as Engine;
use tezkor::store::memcached::{Memcached, MemcachedSettings, Placement, TlsSettings};
use tezkor::store::redis::{Reads, Redis, RedisSettings, TlsFiles};

use crate::database::DjangoConnection;
use crate::terms::seconds;

/// A server that caches are on: one for each set of settings in a process.
#[pyclass(frozen, module = "tezkor._native")]
pub struct Server {
    server: Arc<dyn Engine>,
}

impl Server {
    /// What is asked.
    pub fn server(&self) -> Arc<dyn Engine> {
        self.server.clone()
    }
}

fn wrong(error: Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn times(times: [(&mut Duration, Option<f64>); 2]) -> PyResult<()> {
    for (time, given) in times {
        match given {
            Some(number) if number > 0.0 && number.is_finite() => *time = seconds(number),
            Some(number) => {
                return Err(PyValueError::new_err(format!(
                    "a timeout is {number}: write seconds above 0, such as 0.1"
                )));
            }
            None => {}
        }
    }
    Ok(())
}

#[pymethods]
impl Server {
    /// Redis or Valkey: the URL of a primary and those of its replicas; with ``sentinels``, one URL that
    /// names the service; with ``cluster``, those of some nodes.
    #[staticmethod]
    #[pyo3(signature = (
        urls, /, *, sentinels = None, cluster = false, connect_timeout = None, reply_timeout = None, connections = None,
        read_replicas = false, ca_file = None, cert_file = None, key_file = None,
    ))]
    #[allow(clippy::too_many_arguments)]
    fn redis(
        urls: Vec<String>,
        sentinels: Option<Vec<String>>,
        cluster: bool,
        connect_timeout: Option<f64>,
        reply_timeout: Option<f64>,
        connections: Option<usize>,
        read_replicas: bool,
        ca_file: Option<PathBuf>,
        cert_file: Option<PathBuf>,
        key_file: Option<PathBuf>,
    ) -> PyResult<Self> {
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        let settings = match (sentinels, cluster, urls.as_slice()) {
            (Some(sentinels), _, [service]) => {
                RedisSettings::sentinel(service, &sentinels.iter().map(String::as_str).collect::<Vec<_>>())
            }
            (Some(_), _, _) => return Err(PyValueError::new_err("Sentinel takes one URL, which names the service")),
            (None, true, nodes) => RedisSettings::cluster(nodes),
            (None, false, urls) => RedisSettings::from_urls(urls),
        };
        let mut settings = settings.map_err(wrong)?;
        times([(&mut settings.connect_timeout, connect_timeout), (&mut settings.reply_timeout, reply_timeout)])?;
        if let Some(connections) = connections {
            settings.connections = connections.max(1);
        }
        if read_replicas {
            settings.reads = Reads::Replicas;
        }
        let TlsFiles { authorities, certificate, key } = &mut settings.tls;
        for (file, given) in [(authorities, ca_file), (certificate, cert_file), (key, key_file)] {
            if given.is_some() {
                *file = given;
            }
        }
        Ok(Self { server: Arc::new(Redis::open(&settings).map_err(wrong)?) })
    }

    /// Memcached, one or several that share the keys; ``placement`` is "rendezvous" (as pymemcache),
    /// "ketama", "ketama-weighted" or "modula" (as pylibmc).
    #[staticmethod]
    #[pyo3(signature = (
        locations, /, *, placement = "rendezvous", username = None, password = None, connect_timeout = None,
        reply_timeout = None, tls = false, ca_file = None, cert_file = None, key_file = None,
    ))]
    #[allow(clippy::too_many_arguments)]
    fn memcached(
        locations: Vec<String>,
        placement: &str,
        username: Option<String>,
        password: Option<String>,
        connect_timeout: Option<f64>,
        reply_timeout: Option<f64>,
        tls: bool,
        ca_file: Option<PathBuf>,
        cert_file: Option<PathBuf>,
        key_file: Option<PathBuf>,
    ) -> PyResult<Self> {
        let locations: Vec<&str> = locations.iter().map(String::as_str).collect();
        let mut settings = MemcachedSettings::new(&locations).map_err(wrong)?;
        settings.placement = Placement::named(placement).map_err(wrong)?;
        times([(&mut settings.connect_timeout, connect_timeout), (&mut settings.reply_timeout, reply_timeout)])?;
        if let (Some(username), Some(password)) = (username, password) {
            settings.login = Some((username, password));
        }
        if tls || ca_file.is_some() || cert_file.is_some() {
            let identity = cert_file.zip(key_file);
            settings.tls = Some(TlsSettings { authorities: ca_file, identity, server_name: None });
        }
        Ok(Self { server: Arc::new(Memcached::new(settings).map_err(wrong)?) })
    }

    /// A table of a database; ``connection`` is a ``tezkor.database.Connection``. Rows beyond
    /// ``max_entries`` are removed in small batches.
    #[staticmethod]
    #[pyo3(signature = (connection, table, /, *, max_entries = None))]
    fn database(connection: Py<PyAny>, table: &str, max_entries: Option<u64>) -> PyResult<Self> {
        let server = DatabaseServer::new(DjangoConnection::new(connection), table, max_entries).map_err(wrong)?;
        Ok(Self { server: Arc::new(server) })
    }

    fn __repr__(&self) -> String {
        format!("<tezkor._native.Server {}>", self.server.title())
    }
}
