//! Intents that Python holds by a number: it keeps them in closures that a rollback drops.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use tezkor::store::far::FarStore;
use tezkor::tier::Intended;
use tezkor::{Cache as Engine, Everything, Intents};

/// What was written down, and where.
pub enum Kept {
    Near(Engine, Intents),
    Far(FarStore, Intended),
}

/// All of them, by number.
#[derive(Default)]
struct Numbered {
    last: u64,
    kept: HashMap<u64, Kept>,
}

static NUMBERED: Mutex<Option<Numbered>> = Mutex::new(None);

/// Keeps intents; the number by which they are forgotten.
pub fn keep(kept: Kept) -> u64 {
    let mut numbered = NUMBERED.lock().unwrap_or_else(PoisonError::into_inner);
    let numbered = numbered.get_or_insert_default();
    numbered.last += 1;
    numbered.kept.insert(numbered.last, kept);
    numbered.last
}

/// Forgets them; a number that is not known, or no longer, is fine.
pub fn forget(id: u64) {
    let mut numbered = NUMBERED.lock().unwrap_or_else(PoisonError::into_inner);
    let found = numbered.as_mut().and_then(|numbered| numbered.kept.remove(&id));
    drop(numbered);
    match found {
        Some(Kept::Near(engine, intents)) => drop(engine.store().forget(intents)),
        Some(Kept::Far(store, intended)) => store.forget(intended),
        None => {}
    }
}

/// What "", "prefix" and "location" stand for.
pub fn read_everything(text: &str) -> PyResult<Option<Everything>> {
    match text {
        "" => Ok(None),
        "prefix" => Ok(Some(Everything::OfPrefix)),
        "location" => Ok(Some(Everything::OfLocation)),
        other => {
            let text = format!("everything is {other:?}: write '', 'prefix' or 'location'");
            Err(PyValueError::new_err(text))
        }
    }
}
