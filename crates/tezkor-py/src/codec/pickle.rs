//! Pickles in which there are model instances: the fingerprints of their models' fields stand before them, so that after a deploy
//! that changes a model they are a miss, as instances that are not pickled are.
//!
//! ```text
//! models (16 bits) | for each: length of the label (16), the label `app.Model`, its fingerprint (16 bytes) | the pickle
//! ```

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};
use tezkor::codec::{CODEC_MODEL_PICKLE, CODEC_PICKLE};

use super::Encoded;
use super::fault::Unreadable;
use crate::django::{loaded_models, models};
use crate::types::types;

/// The function that unpickles an instance, by which Django's `Model.__reduce__` is found in a pickle.
const UNPICKLES_A_MODEL: &[u8] = b"model_unpickle";

/// A pickle, with what its models are like.
pub fn encoded(py: Python<'_>, value: &Bound<'_, PyAny>, pickled: &Bound<'_, PyBytes>) -> PyResult<Encoded> {
    // By Python's own search: values without models should not pay for this, and in 100 KB one byte after the other takes 12 µs more.
    let models = match loaded_models(py) {
        Some(models) if pickled.contains(PyBytes::new(py, UNPICKLES_A_MODEL))? => Some(models),
        _ => None,
    };
    let pickled = pickled.as_bytes();
    let Some(models) = models else {
        return Ok(Encoded { codec: CODEC_PICKLE, bytes: pickled.to_vec() });
    };
    let classes = py.import("tezkor.pickling")?.call_method1(intern!(py, "models_in"), (value,))?;
    let mut listed = Vec::new();
    let mut count = 0_u16;
    for class in classes.try_iter()? {
        let model = models.of_class(class?.cast::<PyType>()?)?;
        let label = format!("{}.{}", model.app_label, model.name);
        listed.extend_from_slice(&(label.len() as u16).to_le_bytes());
        listed.extend_from_slice(label.as_bytes());
        listed.extend_from_slice(&model.fingerprint);
        count += 1;
    }
    let mut bytes = count.to_le_bytes().to_vec();
    bytes.extend_from_slice(&listed);
    bytes.extend_from_slice(pickled);
    Ok(Encoded { codec: CODEC_MODEL_PICKLE, bytes })
}

/// The value, if all models are as they were.
pub fn decode<'py>(py: Python<'py>, payload: &[u8]) -> Result<Bound<'py, PyAny>, Unreadable> {
    let (count, mut rest) = payload.split_first_chunk::<2>().ok_or(Unreadable::Miss)?;
    for _ in 0..u16::from_le_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<2>().ok_or(Unreadable::Miss)?;
        let (label, after) = after.split_at_checked(u16::from_le_bytes(*length).into()).ok_or(Unreadable::Miss)?;
        let (fingerprint, after) = after.split_first_chunk::<16>().ok_or(Unreadable::Miss)?;
        let label = std::str::from_utf8(label).map_err(|_| Unreadable::Miss)?;
        let (app_label, name) = label.split_once('.').ok_or(Unreadable::Miss)?;
        // Before Django's apps are ready this raises, as unpickling does: the entry is good.
        let model = models(py)?.named(py, app_label, name).map_err(Unreadable::Python)?.ok_or(Unreadable::Miss)?;
        if model.fingerprint != *fingerprint {
            return Err(Unreadable::Miss);
        }
        rest = after;
    }
    Ok(types(py)?.loads.bind(py).call1((PyBytes::new(py, rest),))?)
}
