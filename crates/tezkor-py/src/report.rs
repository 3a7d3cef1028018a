//! What is told to people: the story of a key, statistics, events; as Python dicts.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use tezkor::codec::{CODEC_COUNT, CODEC_MASK, CODEC_MODEL_PICKLE, CODEC_PICKLE, CODEC_TAGGED, FLAG_LZ4, FLAG_ZSTD};
use tezkor::decoded::Lookup;
use tezkor::{Level, Missing};

use crate::alias::Alias;
use crate::codec::far::Suspicion;
use crate::key::key_text;

/// When the same text is logged again, and how many different ones until then.
const SAY_AGAIN: Duration = Duration::from_secs(3600);
const SAID_MAX: usize = 1000;
/// How many other full keys with the same user's key are named.
const ELSEWHERE_MAX: usize = 10;

/// Where a key is, since when, until when, what it is and who wrote it; or why it is not there.
pub fn explain<'py>(py: Python<'py>, alias: &Alias, full: &[u8], user_key: &str) -> PyResult<Bound<'py, PyDict>> {
    let key = alias.key(alias.space(), full)?;
    let story = alias.engine.explain(&key);
    let answer = PyDict::new(py);
    answer.set_item("key", key_text(py, full)?)?;
    answer.set_item("found", story.missing.is_none())?;
    answer.set_item("store", story.store)?;
    if let Some(missing) = story.missing {
        let reason = match missing {
            Missing::NeverSet => "never set, or long forgotten",
            Missing::Expired => "expired",
            Missing::TooLarge => "its value was too large to be stored",
            Missing::Evicted => "evicted for want of room",
            Missing::Deleted => "deleted",
            Missing::DeletedOrNeverSet => "deleted, or never set: too many others were deleted since to tell",
            Missing::Invalidated => "its location, prefix or a tag was cleared",
        };
        answer.set_item("reason", reason)?;
        answer.set_item("elsewhere", elsewhere(py, alias, full, user_key)?)?;
        return Ok(answer);
    }
    let seconds = |ms: Option<u64>| ms.map(|ms| ms as f64 / 1000.0);
    answer.set_item("created", seconds(story.created_unix_ms))?;
    answer.set_item("expires", seconds(story.expires_unix_ms))?;
    answer.set_item("stale", story.stale_ms as f64 / 1000.0)?;
    describe(&answer, story.codec.unwrap_or_default(), story.size_bytes)?;
    let tags: Vec<String> = story.tags.iter().map(|tag| String::from_utf8_lossy(tag).into_owned()).collect();
    answer.set_item("tags", tags)?;
    answer.set_item("frequency", story.frequency)?;
    answer.set_item("queue", story.queue)?;
    answer.set_item("worker", story.worker)?;
    answer.set_item("pid", story.pid)?;
    let is_decoded = match alias.decoded.get(key.hash(), full, |_| true) {
        Lookup::Hit(_) => true,
        Lookup::Outdated(_) | Lookup::Absent => false,
    };
    answer.set_item("decoded_here", is_decoded)?;
    Ok(answer)
}

/// How a value is kept.
pub fn describe(answer: &Bound<'_, PyDict>, codec: u8, size_bytes: usize) -> PyResult<()> {
    answer.set_item("size_bytes", size_bytes)?;
    answer.set_item("codec", codec_name(codec))?;
    answer.set_item("compressed", compression_name(codec))
}

fn codec_name(codec: u8) -> &'static str {
    match codec & CODEC_MASK {
        CODEC_COUNT => "count",
        CODEC_TAGGED => "tagged",
        CODEC_PICKLE | CODEC_MODEL_PICKLE => "pickle",
        _ => "unknown",
    }
}

fn compression_name(codec: u8) -> Option<&'static str> {
    match codec & !CODEC_MASK {
        FLAG_LZ4 => Some("lz4"),
        FLAG_ZSTD => Some("zstd"),
        _ => None,
    }
}

/// The same user's key under another version or prefix of the location. Others may use Python meanwhile: it reads everything.
fn elsewhere(py: Python<'_>, alias: &Alias, full: &[u8], user_key: &str) -> PyResult<Vec<Py<PyString>>> {
    let tail = format!(":{user_key}");
    let mut found: Vec<Vec<u8>> = Vec::new();
    let space = alias.space();
    py.detach(|| {
        alias.engine.scan_location(space, &mut |other| {
            if other != full && other.ends_with(tail.as_bytes()) {
                found.push(other.to_vec());
            }
            found.len() < ELSEWHERE_MAX
        });
    });
    found.iter().map(|other| key_text(py, other).map(Bound::unbind)).collect()
}

/// Sizes, and counters of all processes.
pub fn stats<'py>(py: Python<'py>, alias: &Alias) -> PyResult<Bound<'py, PyDict>> {
    let stats = alias.engine.stats();
    let answer = PyDict::new(py);
    answer.set_item("store", stats.store)?;
    for (name, value) in [
        ("region_bytes", stats.region_bytes),
        ("segment_bytes", stats.segment_bytes),
        ("segments", stats.segments),
        ("segments_untouched", stats.segments_untouched),
        ("segments_free", stats.segments_free),
        ("segments_open", stats.segments_open),
        ("segments_evicting", stats.segments_evicting),
        ("segments_unavailable", stats.segments_unavailable),
        ("largest_value_bytes", stats.largest_value_bytes),
        ("workers", stats.workers),
        ("loads_claimed", stats.loads_claimed),
        ("locks_claimed", stats.locks_claimed),
        ("rates_claimed", stats.rates_claimed),
        ("entries", stats.entries),
        ("payload_bytes", stats.payload_bytes),
        ("key_bytes", stats.key_bytes),
        ("decoded_bytes", alias.decoded.bytes() as u64),
        ("decoded_entries", alias.decoded.count() as u64),
    ] {
        answer.set_item(name, value)?;
    }
    for (name, value) in stats.counters {
        answer.set_item(name, value)?;
    }
    Ok(answer)
}

/// Logs what happened since this was called last; the same text again after an hour at the earliest.
pub fn tell(py: Python<'_>, engine: &tezkor::Cache) -> PyResult<()> {
    for event in engine.take_events() {
        let method = match event.level {
            Level::Warning => intern!(py, "warning"),
            Level::Error => intern!(py, "error"),
        };
        if event.is_repeated {
            say(py, method, &event.text)?;
        } else {
            log(py, method, &event.text, &event.text)?;
        }
    }
    Ok(())
}

/// Logs that an entry could not be unpickled here: of all that fail in the same way, one. What a log handler raises is not the
/// caller's concern.
pub fn tell_unreadable(py: Python<'_>, full_key: &[u8], error: &PyErr) {
    let kind = error.get_type(py).name().map_or_else(|_| "an error".to_owned(), |name| name.to_string());
    let key = String::from_utf8_lossy(full_key);
    let raised = format!("{kind}: {}", error.value(py));
    let text = format!("the entry {key:?} is a miss in this process: unpickling it raised {raised}");
    if let Err(error) = log(py, intern!(py, "warning"), &raised, &text) {
        error.write_unraisable(py, None);
    }
}

/// Logs that a value in a far store was refused before it was decoded: of all that are refused for the same reason, one.
pub fn tell_refused(py: Python<'_>, full_key: &[u8], suspicion: Suspicion) {
    let key = String::from_utf8_lossy(full_key);
    let text = format!("the value of {key:?} in the far store is a miss: {}", suspicion.text());
    if let Err(error) = log(py, intern!(py, "warning"), suspicion.text(), &text) {
        error.write_unraisable(py, None);
    }
}

/// Logs a text, unless one about the same was logged within an hour.
fn log(py: Python<'_>, method: &Bound<'_, PyString>, about: &str, text: &str) -> PyResult<()> {
    static SAID: Mutex<BTreeMap<String, Instant>> = Mutex::new(BTreeMap::new());
    let now = Instant::now();
    {
        let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
        said.retain(|_, when| now.duration_since(*when) < SAY_AGAIN);
        if said.len() >= SAID_MAX || said.insert(about.to_owned(), now).is_some() {
            return Ok(());
        }
    }
    say(py, method, text)
}

fn say(py: Python<'_>, method: &Bound<'_, PyString>, text: &str) -> PyResult<()> {
    let logger = py.import("logging")?.call_method1("getLogger", ("tezkor",))?;
    logger.call_method1(method, ("%s", text))?;
    Ok(())
}
