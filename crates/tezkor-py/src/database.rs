//! Statements on Django's connections: the Python object of `tezkor/database.py` opens the cursors, this converts.
//!
//! What Python raises beside the errors of a database (Ctrl-C, a forbidden query in a test) is kept for the thread until its caller
//! asks for it with [`take_raised`]: the engine knows no Python exceptions, and none may be lost.

use std::cell::RefCell;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyList, PyString, PyTuple};
use tezkor::store::database::{Access, Cell, Connection, Dialect, Failure, Outcome, Parameter, Statement, Vendor};

thread_local! {
    static RAISED: RefCell<Option<PyErr>> = const { RefCell::new(None) };
}

/// What Python raised in this thread's last statements and was no error of a database.
pub fn take_raised() -> Option<PyErr> {
    RAISED.take()
}

/// A `tezkor.database.Connection`.
pub struct DjangoConnection {
    object: Py<PyAny>,
}

impl DjangoConnection {
    /// Over the Python object.
    pub fn new(object: Py<PyAny>) -> Self {
        Self { object }
    }

    fn call<T>(&self, act: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<Result<T, Failure>>) -> Result<T, Failure> {
        Python::attach(|py| {
            act(self.object.bind(py)).unwrap_or_else(|error| {
                let text = format!("a statement of the cache was interrupted: {error}");
                RAISED.with_borrow_mut(|raised| {
                    raised.get_or_insert(error);
                });
                Err(Failure::Outage(text))
            })
        })
    }
}

impl Connection for DjangoConnection {
    fn title(&self) -> String {
        let title = self.call(|object| Ok(Ok(object.call_method0("title")?.extract::<String>()?)));
        title.unwrap_or_else(|_| "a database".to_owned())
    }

    fn dialect(&self) -> Result<Dialect, Failure> {
        self.call(|object| {
            let dialect = object.call_method0("dialect")?;
            match refusal(&dialect)? {
                Some(failure) => Ok(Err(failure)),
                None => read_dialect(&dialect).map(Ok),
            }
        })
    }

    fn is_lasting(&self) -> bool {
        self.call(|object| Ok(Ok(object.call_method0("is_lasting")?.extract()?))).unwrap_or(false)
    }

    fn run(&self, access: Access, statements: &[Statement<'_>]) -> Result<Vec<Outcome>, Failure> {
        self.call(|object| {
            let py = object.py();
            let access = match access {
                Access::Read => pyo3::intern!(py, "read"),
                Access::Write => pyo3::intern!(py, "write"),
                Access::Tidy => pyo3::intern!(py, "tidy"),
            };
            let given: Vec<_> = statements.iter().map(|statement| written(py, statement)).collect::<PyResult<_>>()?;
            let outcomes = object.call_method1(access, (PyList::new(py, given)?,))?;
            match refusal(&outcomes)? {
                Some(failure) => Ok(Err(failure)),
                None => outcomes.try_iter()?.map(|outcome| read_outcome(&outcome?)).collect::<PyResult<_>>().map(Ok),
            }
        })
    }
}

/// A text instead of an answer says what the database said.
fn refusal(answer: &Bound<'_, PyAny>) -> PyResult<Option<Failure>> {
    Ok(match answer.cast::<PyString>() {
        Ok(text) if text.is_exact_instance_of::<PyString>() => Some(Failure::Outage(text.extract()?)),
        Ok(text) => Some(Failure::Unasked(text.extract()?)),
        Err(_) => None,
    })
}

fn written<'py>(py: Python<'py>, statement: &Statement<'_>) -> PyResult<Bound<'py, PyTuple>> {
    let parameters = statement.parameters.iter().map(|parameter| match parameter {
        Parameter::Nothing => Ok(py.None().into_bound(py)),
        Parameter::Number(number) => Ok(number.into_pyobject(py)?.into_any()),
        Parameter::Bytes(bytes) => Ok(PyBytes::new(py, bytes).into_any()),
        Parameter::Several(all) => Ok(PyList::new(py, all.iter().map(|bytes| PyBytes::new(py, bytes)))?.into_any()),
    });
    let parameters = PyTuple::new(py, parameters.collect::<PyResult<Vec<_>>>()?)?;
    (PyString::new(py, &statement.text), parameters, statement.has_rows).into_pyobject(py)
}

fn read_outcome(outcome: &Bound<'_, PyAny>) -> PyResult<Outcome> {
    let (rows, changed, last_id): (Bound<'_, PyAny>, i64, Bound<'_, PyAny>) = outcome.extract()?;
    // A list from most drivers, a tuple from those of MySQL; each row is a tuple.
    let rows = match rows.cast::<PyList>() {
        Ok(rows) => rows.iter().map(|row| read_row(&row)).collect::<PyResult<_>>()?,
        Err(_) => rows.try_iter()?.map(|row| read_row(&row?)).collect::<PyResult<_>>()?,
    };
    // Drivers hand out the last id as an unsigned number.
    let last_id = last_id.extract::<i64>().or_else(|_| last_id.extract::<u64>().map(u64::cast_signed))?;
    // DB-API: -1 where it is not known, as after a SELECT.
    Ok(Outcome { rows, changed: changed.max(0).cast_unsigned(), last_id })
}

fn read_row(row: &Bound<'_, PyAny>) -> PyResult<Vec<Cell>> {
    row.cast::<PyTuple>()?.iter_borrowed().map(|cell| read_cell(&cell)).collect()
}

fn read_cell(cell: &Bound<'_, PyAny>) -> PyResult<Cell> {
    if let Ok(bytes) = cell.cast::<PyBytes>() {
        return Ok(Cell::Bytes(bytes.as_bytes().to_vec()));
    }
    if cell.is_none() {
        return Ok(Cell::Nothing);
    }
    if let Ok(number) = cell.cast::<PyInt>() {
        return Ok(Cell::Number(number.extract()?));
    }
    // psycopg2 hands out a memoryview.
    Ok(Cell::Bytes(cell.call_method0("tobytes")?.cast::<PyBytes>()?.as_bytes().to_vec()))
}

fn read_dialect(dialect: &Bound<'_, PyAny>) -> PyResult<Dialect> {
    let (vendor, has_returning, most_parameters, most_bytes): (String, bool, usize, usize) = dialect.extract()?;
    let vendor = match vendor.as_str() {
        "sqlite" => Vendor::Sqlite,
        "postgresql" => Vendor::Postgresql,
        "mysql" => Vendor::Mysql,
        "mariadb" => Vendor::Mariadb,
        other => return Err(PyValueError::new_err(unknown(other))),
    };
    Ok(Dialect { vendor, hole: "%s", has_returning, most_parameters, most_bytes })
}

fn unknown(vendor: &str) -> String {
    format!("the cache speaks to SQLite, PostgreSQL, MySQL and MariaDB, not to {vendor:?}; route it to one of those")
}

/// The statements that make a table, and its index: what `createcachetable` runs or prints.
#[pyfunction]
#[pyo3(signature = (dialect, table, /))]
pub fn create_table_statements(dialect: &Bound<'_, PyAny>, table: &str) -> PyResult<Vec<String>> {
    Ok(tezkor::store::database::creation(&read_dialect(dialect)?, table))
}
