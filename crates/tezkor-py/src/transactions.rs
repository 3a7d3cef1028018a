//! Reads within a database transaction: while one is open that has changed something, Python is asked about each key first.
//! Without one a read pays one atomic load.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyTuple};

use crate::key::key_text;

static OPEN: AtomicI64 = AtomicI64::new(0);
static HOOK: Mutex<Option<Py<PyAny>>> = Mutex::new(None);

/// What a transaction says of a key.
pub enum Answer<'py> {
    /// Nothing.
    GoOn,
    /// It has changed the key: what is cached is not what it would read.
    Bypass,
    /// It has written this value, and not committed yet.
    Value(Bound<'py, PyAny>),
}

/// Adds to the number of transactions that have changed something; the sum.
#[pyfunction]
#[pyo3(signature = (delta, /))]
pub fn open_transactions(delta: i64) -> i64 {
    OPEN.fetch_add(delta, Ordering::SeqCst) + delta
}

/// Sets what is asked about a key while such transactions are open; None for nothing.
#[pyfunction]
#[pyo3(signature = (hook, /))]
pub fn set_transaction_hook(hook: Option<Py<PyAny>>) {
    let before = std::mem::replace(&mut *HOOK.lock().unwrap_or_else(PoisonError::into_inner), hook);
    drop(before);
}

/// Asks about a key of a native cache.
#[inline]
pub fn ask<'py>(cache: &Bound<'py, PyAny>, full: &[u8]) -> PyResult<Answer<'py>> {
    if OPEN.load(Ordering::Relaxed) <= 0 { Ok(Answer::GoOn) } else { ask_hook(cache, full) }
}

#[cold]
fn ask_hook<'py>(cache: &Bound<'py, PyAny>, full: &[u8]) -> PyResult<Answer<'py>> {
    let py = cache.py();
    let hook = HOOK.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|hook| hook.clone_ref(py));
    let Some(hook) = hook else { return Ok(Answer::GoOn) };
    let answer = hook.bind(py).call1((cache, key_text(py, full)?))?;
    if answer.is_none() {
        return Ok(Answer::GoOn);
    }
    if answer.is_exact_instance_of::<PyBool>() {
        return Ok(Answer::Bypass);
    }
    Ok(Answer::Value(answer.cast::<PyTuple>()?.get_item(0)?))
}
