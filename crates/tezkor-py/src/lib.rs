//! Python bindings of Tezkor: borrow, call, convert. No policy lives here.
//!
//! Read `cache.rs` first: the Python class. Below it `alias.rs` joins keys, decoded values and the engine; `codec/` turns
//! Python objects into the engine's format and back, `seal.rs` signs and encrypts what leaves the machine; `values.rs` holds the rule of what may be shared between callers.

mod alias;
mod bare_server;
mod cache;
mod codec;
mod database;
mod django;
mod far;
mod intended;
mod key;
mod load;
mod order;
mod place;
mod raw;
mod report;
mod scratch;
mod seal;
mod sealed;
mod server;
mod terms;
mod timeout;
mod transactions;
mod types;
mod values;

use pyo3::prelude::*;

/// The running thread begins a request, which may lose so much time to servers that do not answer, and no more.
#[pyfunction]
#[pyo3(signature = (/))]
fn begin_request() {
    tezkor::tier::begin_request();
}

/// It has ended.
#[pyfunction]
#[pyo3(signature = (/))]
fn end_request() {
    tezkor::tier::end_request();
}

#[pyfunction]
fn leave(py: Python<'_>) {
    py.detach(tezkor::Cache::detach_all);
}

#[pymodule]
mod _native {
    use pyo3::exceptions::PyValueError;
    use pyo3::prelude::*;
    use pyo3::types::{PyBytes, PyDict};

    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    #[pymodule_export]
    const SMALLEST_REGION_BYTES: u64 = tezkor::SMALLEST_REGION_BYTES;
    #[pymodule_export]
    const LARGEST_REGION_BYTES: u64 = tezkor::LARGEST_REGION_BYTES;

    #[pymodule_export]
    use crate::bare_server::BareServer;
    #[pymodule_export]
    use crate::begin_request;
    #[pymodule_export]
    use crate::cache::Cache;
    #[pymodule_export]
    use crate::database::create_table_statements;
    #[pymodule_export]
    use crate::end_request;
    #[pymodule_export]
    use crate::far::{FarCache, Later};
    #[pymodule_export]
    use crate::load::Load;
    #[pymodule_export]
    use crate::place::parse_location;
    #[pymodule_export]
    use crate::sealed::Seal;
    #[pymodule_export]
    use crate::server::Server;
    #[pymodule_export]
    use crate::transactions::{open_transactions, set_transaction_hook};

    use crate::codec::{Format, Unreadable};
    use crate::terms::{are_plain, read_terms};
    use crate::timeout::read_timeout;

    /// At the end of the process all regions are left in order: what is on disk is written out.
    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let leave = wrap_pyfunction!(crate::leave, module)?;
        module.py().import("atexit")?.call_method1("register", (leave,))?;
        Ok(())
    }

    const FORMAT: Format = Format { pickle: true, compress: None };

    /// A value as bytes: the number of the codec, then its payload. A number is never a counter here.
    #[pyfunction]
    #[pyo3(signature = (value, /))]
    fn encode<'py>(value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let encoded = FORMAT.encode(&value, Vec::new())?;
        let mut bytes = vec![encoded.codec];
        bytes.extend_from_slice(&encoded.bytes);
        Ok(PyBytes::new(value.py(), &bytes))
    }

    /// The value of bytes that `encode` made. Raises ValueError for others.
    #[pyfunction]
    #[pyo3(signature = (data, /))]
    fn decode<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        let unreadable = || PyValueError::new_err("the bytes are not a value that this version can read");
        let (codec, payload) = data.split_first().ok_or_else(unreadable)?;
        FORMAT.decode(py, *codec, payload).map_err(|error| match error {
            Unreadable::Miss | Unreadable::Raised(_) => unreadable(),
            Unreadable::Python(error) => error,
        })
    }

    /// Checks tags and stale seconds as a write does, before a loader runs.
    #[pyfunction]
    #[pyo3(signature = (tags, stale, /))]
    fn check_terms(tags: Option<Bound<'_, PyAny>>, stale: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        read_terms(Ok(tezkor::Timeout::Never), tags.as_ref(), stale.as_ref()).map(drop)
    }

    /// Whether all arguments of a load beside its timeout are known and plainly right.
    #[pyfunction]
    #[pyo3(signature = (terms, /))]
    fn are_plain_terms(terms: &Bound<'_, PyDict>) -> bool {
        are_plain(terms)
    }

    /// Checks a timeout as a write does.
    #[pyfunction]
    #[pyo3(signature = (timeout, /))]
    fn check_timeout(timeout: Bound<'_, PyAny>) -> PyResult<()> {
        read_timeout(&timeout).map(drop)
    }

    /// How many forks lie between the first process and this one.
    #[pyfunction]
    #[pyo3(signature = (/))]
    fn forked() -> u64 {
        tezkor::forks()
    }
}
