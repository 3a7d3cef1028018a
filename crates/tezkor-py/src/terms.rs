//! Tags and stale time as callers give them.

use std::time::Duration;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyIterator, PyList, PySet, PyString, PyTuple};
use tezkor::{Cache, Terms, Timeout};

use crate::codec::surrogates;

/// A year and more: nobody waits, or keeps stale values, longer.
const SECONDS_MAX: f64 = 1e9;

/// Terms with tags of their own.
pub struct Given {
    timeout: Timeout,
    stale: Duration,
    tags: Vec<Vec<u8>>,
}

impl Given {
    /// Calls with the terms, which borrow the tags.
    pub fn with<T>(&self, call: impl FnOnce(Terms<'_>) -> T) -> T {
        if self.tags.is_empty() {
            return call(Terms { timeout: self.timeout, stale: self.stale, tags: &[] });
        }
        let tags: Vec<&[u8]> = self.tags.iter().map(Vec::as_slice).collect();
        call(Terms { timeout: self.timeout, stale: self.stale, tags: &tags })
    }
}

/// Reads what a write was given; an error names the argument and the fix.
pub fn read_terms(
    timeout: PyResult<Timeout>,
    tags: Option<&Bound<'_, PyAny>>,
    stale: Option<&Bound<'_, PyAny>>,
) -> PyResult<Given> {
    let stale = match stale {
        None => Duration::ZERO,
        Some(stale) => match stale.extract::<f64>() {
            Ok(number) if number >= 0.0 && number.is_finite() => seconds(number),
            Ok(_) => return Err(PyValueError::new_err("stale must be a number of seconds, 0 or more")),
            Err(_) => {
                let kind = stale.get_type().name()?;
                return Err(PyTypeError::new_err(format!("stale must be a number of seconds, not {kind}")));
            }
        },
    };
    let tags = match tags {
        None => Vec::new(),
        Some(tags) => read_tags(tags)?,
    };
    Ok(Given { timeout: timeout?, stale, tags })
}

/// Reads names of tags.
pub fn read_tags(tags: &Bound<'_, PyAny>) -> PyResult<Vec<Vec<u8>>> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    for tag in each(tags)? {
        let name = tag_bytes(&tag?)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    check(&names)?;
    Ok(names)
}

/// Any number of tags for an invalidation: the limit is on what one entry has.
pub fn read_any_tags(tags: &Bound<'_, PyAny>) -> PyResult<Vec<Vec<u8>>> {
    let names = each(tags)?.map(|tag| tag_bytes(&tag?)).collect::<PyResult<Vec<_>>>()?;
    names.chunks(tezkor::MOST_TAGS).try_for_each(check)?;
    Ok(names)
}

/// Whether all arguments of a load beside its timeout are known and plainly right, which most are. Of others Python says what is
/// wrong. Tags that are made when they are needed are not read.
pub fn are_plain(terms: &Bound<'_, PyDict>) -> bool {
    terms.iter().all(|(name, given)| {
        let Some(name) = name.cast::<PyString>().ok().and_then(|name| name.to_str().ok()) else { return false };
        match name {
            "background" | "cache_none" => true,
            "tags" => given.is_none() || are_plain_tags(&given),
            "stale" | "soft_timeout" | "hard_timeout" => given.is_none() || is_plain_number(&given),
            "beta" => is_plain_number(&given),
            _ => false,
        }
    })
}

fn is_plain_number(given: &Bound<'_, PyAny>) -> bool {
    let is_number = given.is_exact_instance_of::<PyInt>() || given.is_exact_instance_of::<PyFloat>();
    is_number && given.extract::<f64>().is_ok_and(|number| (0.0..=SECONDS_MAX).contains(&number))
}

fn are_plain_tags(given: &Bound<'_, PyAny>) -> bool {
    if let Ok(tags) = given.cast_exact::<PyList>() {
        return tags.iter().all(|tag| is_plain_tag(&tag)) && tags.len() <= tezkor::MOST_TAGS;
    }
    !given.is_instance_of::<PyString>()
        && !given.is_instance_of::<PyBytes>()
        && !given.is_instance_of::<PyTuple>()
        && !given.is_instance_of::<PySet>()
        && !given.is_instance_of::<PyFrozenSet>()
        && given.hasattr(intern!(given.py(), "__iter__")).unwrap_or(false)
}

fn is_plain_tag(tag: &Bound<'_, PyAny>) -> bool {
    tag.cast::<PyString>().is_ok_and(|tag| tag.to_str().is_ok_and(|tag| Cache::check_tags(&[tag.as_bytes()]).is_ok()))
}

fn each<'py>(tags: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyIterator>> {
    if tags.is_instance_of::<PyString>() || tags.is_instance_of::<PyBytes>() {
        let text = format!("tags must be a list of texts, not one text: write [{}]", tags.repr()?);
        return Err(PyTypeError::new_err(text));
    }
    if !tags.hasattr(intern!(tags.py(), "__iter__"))? {
        let kind = tags.get_type().name()?;
        return Err(PyTypeError::new_err(format!("tags must be a list of texts, not {kind}")));
    }
    tags.try_iter()
}

fn check(names: &[Vec<u8>]) -> PyResult<()> {
    let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    Cache::check_tags(&names).map_err(|error| PyValueError::new_err(error.to_string()))
}

fn tag_bytes(tag: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let Ok(text) = tag.cast::<PyString>() else {
        let kind = tag.get_type().name()?;
        return Err(PyTypeError::new_err(format!("a tag must be a text, not {kind}: write str({})", tag.repr()?)));
    };
    text_bytes(text)
}

/// The bytes of a text, lone surrogates included.
pub fn text_bytes(text: &Bound<'_, PyString>) -> PyResult<Vec<u8>> {
    match text.to_str() {
        Ok(text) => Ok(text.as_bytes().to_vec()),
        Err(_) => Ok(surrogates(text)?.as_bytes().to_vec()),
    }
}

/// A number of seconds as a time, within reason.
pub fn seconds(number: f64) -> Duration {
    if number > 0.0 { Duration::from_secs_f64(number.min(SECONDS_MAX)) } else { Duration::ZERO }
}
