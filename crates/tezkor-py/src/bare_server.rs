//! A server by itself, for tests and measurements: what the engine asks of a database, without entries and tags over it.

use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use tezkor::Incr;
use tezkor::store::database::DatabaseServer;
use tezkor::store::far::server::{Held, Item, Left, Lifetime, Mark, Put, Server};
use tezkor::store::far::server_contract::{Checked, check};

use crate::database::{DjangoConnection, take_raised};

/// Milliseconds; nothing for ever, a negative number to keep what is there.
type Milliseconds = Option<i64>;
/// A value and its mark.
type Seen<'py> = (Bound<'py, PyBytes>, Bound<'py, PyBytes>);
type Items = Vec<(PyBackedBytes, PyBackedBytes, Milliseconds)>;

#[pyclass(frozen, name = "_DatabaseServer", module = "tezkor._native")]
pub struct BareServer {
    server: DatabaseServer<DjangoConnection>,
}

fn lifetime(milliseconds: Milliseconds) -> Lifetime {
    match milliseconds {
        None => Lifetime::Never,
        Some(time) => u64::try_from(time).map_or(Lifetime::Keep, |time| Lifetime::After(Duration::from_millis(time))),
    }
}

fn text(put: Put) -> &'static str {
    match put {
        Put::Done => "done",
        Put::Held => "held",
        Put::TooLarge => "too large",
    }
}

fn items(given: &Items) -> Vec<Item<'_>> {
    given.iter().map(|(name, bytes, time)| Item { name, bytes, lifetime: lifetime(*time) }).collect()
}

fn slices(names: &[PyBackedBytes]) -> Vec<&[u8]> {
    names.iter().map(|name| &name[..]).collect()
}

impl BareServer {
    fn ask<T: Send>(
        &self,
        py: Python<'_>,
        act: impl FnOnce(&DatabaseServer<DjangoConnection>) -> Result<T, tezkor::Error> + Send,
    ) -> PyResult<T> {
        let done = py.detach(|| act(&self.server));
        if let Some(raised) = take_raised() {
            return Err(raised);
        }
        done.map_err(|error| PyRuntimeError::new_err(error.to_string()))
    }
}

#[pymethods]
impl BareServer {
    #[new]
    #[pyo3(signature = (connection, table, most_entries=None, /))]
    fn new(connection: Py<PyAny>, table: String, most_entries: Option<u64>) -> PyResult<Self> {
        let server = DatabaseServer::new(DjangoConnection::new(connection), table, most_entries);
        Ok(Self { server: server.map_err(|error| PyValueError::new_err(error.to_string()))? })
    }

    fn title(&self, py: Python<'_>) -> String {
        py.detach(|| self.server.title())
    }

    fn largest_value_bytes(&self, py: Python<'_>) -> usize {
        py.detach(|| self.server.largest_value_bytes())
    }

    fn get<'py>(&self, py: Python<'py>, names: Vec<PyBackedBytes>) -> PyResult<Vec<Option<Seen<'py>>>> {
        let held = self.ask(py, |server| server.get(&slices(&names)))?;
        let pair = |held: Held| (PyBytes::new(py, &held.bytes), PyBytes::new(py, held.mark.bytes()));
        Ok(held.into_iter().map(|held| held.map(pair)).collect())
    }

    fn set(&self, py: Python<'_>, given: Items) -> PyResult<Vec<&'static str>> {
        Ok(self.ask(py, |server| server.set(&items(&given)))?.into_iter().map(text).collect())
    }

    fn add(&self, py: Python<'_>, given: Items) -> PyResult<Vec<&'static str>> {
        Ok(self.ask(py, |server| server.add(&items(&given)))?.into_iter().map(text).collect())
    }

    fn swap(
        &self,
        py: Python<'_>,
        name: Vec<u8>,
        bytes: Vec<u8>,
        time: Milliseconds,
        mark: &[u8],
    ) -> PyResult<&'static str> {
        let item = Item { name: &name, bytes: &bytes, lifetime: lifetime(time) };
        self.ask(py, |server| server.swap(&item, &Mark::new(mark))).map(text)
    }

    fn remove(&self, py: Python<'_>, names: Vec<PyBackedBytes>) -> PyResult<Vec<bool>> {
        self.ask(py, |server| server.remove(&slices(&names)))
    }

    fn remove_marked(&self, py: Python<'_>, name: Vec<u8>, mark: &[u8]) -> PyResult<bool> {
        self.ask(py, |server| server.remove_marked(&name, &Mark::new(mark)))
    }

    /// The sum; `None` where there is none, the text where it is no number.
    fn incr<'py>(&self, py: Python<'py>, name: Vec<u8>, delta: i64) -> PyResult<Bound<'py, PyAny>> {
        Ok(match self.ask(py, |server| server.incr(&name, delta))? {
            Incr::Value(sum) => sum.into_pyobject(py)?.into_any(),
            Incr::Missing => py.None().into_bound(py),
            Incr::NotACount => "not a count".into_pyobject(py)?.into_any(),
        })
    }

    fn raise_to(&self, py: Python<'_>, given: Vec<(Vec<u8>, i64, Milliseconds)>) -> PyResult<()> {
        let items: Vec<_> =
            given.iter().map(|(name, number, time)| (name.as_slice(), *number, lifetime(*time))).collect();
        self.ask(py, |server| server.raise(&items))
    }

    fn touch(&self, py: Python<'_>, names: Vec<PyBackedBytes>, time: Milliseconds) -> PyResult<Vec<bool>> {
        self.ask(py, |server| server.touch(&slices(&names), lifetime(time)))
    }

    /// Milliseconds; -1 for ever, `None` where there is none.
    fn left(&self, py: Python<'_>, name: Vec<u8>) -> PyResult<Option<i64>> {
        Ok(match self.ask(py, |server| server.left(&name))? {
            Left::Absent => None,
            Left::Never => Some(-1),
            Left::Time(time) => Some(i64::try_from(time.as_millis()).unwrap_or(i64::MAX)),
        })
    }

    fn scan<'py>(&self, py: Python<'py>, beginning: Vec<u8>) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let mut names = Vec::new();
        self.ask(py, |server| {
            server.scan(&beginning, &mut |name| {
                names.push(name.to_vec());
                true
            })
        })?;
        Ok(names.iter().map(|name| PyBytes::new(py, name)).collect())
    }

    /// Panics where a rule of servers does not hold.
    fn check(&self, py: Python<'_>, beginning: &str, shortest_ms: u64) -> PyResult<()> {
        py.detach(|| {
            let shortest = Duration::from_millis(shortest_ms);
            check(&Checked { server: &self.server, beginning, scans: true, shortest });
        });
        take_raised().map_or(Ok(()), Err)
    }
}
