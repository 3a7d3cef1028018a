//! Dates, times and zones, both ways. Python's own ten (six, four) bytes of state are the format's, so that one call
//! makes or reads an object.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use tezkor::codec::{Zone, check_date, ext, is_zone_name, push_zone, split_datetime, split_time, split_timedelta};

use super::decode::Decoder;
use super::encode::Encoder;
use super::fault::{Fault, Unreadable};
use crate::types::is_exact;

const SECOND: i64 = 1_000_000;

impl<'py> Encoder<'py> {
    /// A date, a time or a datetime.
    pub(super) fn moment(&mut self, kind: i8, value: &Bound<'py, PyAny>) -> Result<(), Fault> {
        let reduced = value.call_method1(intern!(self.py, "__reduce_ex__"), (5,))?;
        let state = reduced.get_item(1)?;
        let state = state.cast::<PyTuple>().map_err(PyErr::from)?;
        let bytes = state.get_item(0)?;
        let bytes = bytes.cast::<PyBytes>().map_err(PyErr::from)?.as_bytes();
        if state.len() == 1 {
            self.out.extension(kind, bytes);
            return Ok(());
        }
        let zone = self.zone(&state.get_item(1)?)?.ok_or_else(|| Fault::because("in a zone of its own class"))?;
        let mut payload = Vec::with_capacity(48);
        payload.extend_from_slice(bytes);
        push_zone(&mut payload, &zone);
        self.out.extension(kind, &payload);
        Ok(())
    }

    /// `None` for a zone that only a pickle brings back.
    fn zone(&self, zone: &Bound<'py, PyAny>) -> Result<Option<Zone<String>>, Fault> {
        if zone.is(&self.types.utc) {
            return Ok(Some(Zone::Utc));
        }
        if is_exact(zone, &self.types.timezone) {
            let arguments = zone.call_method0(intern!(self.py, "__getinitargs__"))?;
            // A second argument is a name of its own.
            if arguments.len()? != 1 {
                return Ok(None);
            }
            let offset = arguments.get_item(0)?;
            let (days, seconds, microseconds) = self.timedelta_parts(&offset)?;
            let offset = (i64::from(days) * 86_400 + seconds) * SECOND + microseconds;
            return Ok(Some(Zone::Offset(offset)));
        }
        if !is_exact(zone, &self.types.zone) {
            return Ok(None);
        }
        let Ok(name) = zone.getattr(intern!(self.py, "key"))?.extract::<String>() else {
            return Ok(None);
        };
        // A zone that was made beside the cache of zones is pickled in another way.
        let same =
            is_zone_name(&name) && self.types.zone.bind(self.py).call1((&name,)).is_ok_and(|cached| cached.is(zone));
        Ok(same.then_some(Zone::Named(name)))
    }

    fn timedelta_parts(&self, value: &Bound<'py, PyAny>) -> PyResult<(i32, i64, i64)> {
        let reduced = value.call_method0(intern!(self.py, "__reduce__"))?;
        reduced.get_item(1)?.extract()
    }

    /// A timedelta.
    pub(super) fn timedelta(&mut self, value: &Bound<'py, PyAny>) -> Result<(), Fault> {
        let (days, seconds, microseconds) = self.timedelta_parts(value)?;
        let (seconds, microseconds) = (seconds as u32, microseconds as u32);
        let mut payload = [0; 12];
        payload[..4].copy_from_slice(&days.to_be_bytes());
        payload[4..8].copy_from_slice(&seconds.to_be_bytes());
        payload[8..].copy_from_slice(&microseconds.to_be_bytes());
        self.out.extension(ext::TIMEDELTA, &payload);
        Ok(())
    }
}

impl<'py> Decoder<'py> {
    /// A date.
    pub(super) fn date(&self, payload: &[u8]) -> Result<Bound<'py, PyAny>, Unreadable> {
        check_date(payload.try_into().map_err(|_| Unreadable::Miss)?)?;
        Ok(self.types.date.bind(self.py).call1((PyBytes::new(self.py, payload),))?)
    }

    /// A time.
    pub(super) fn time(&self, payload: &[u8]) -> Result<Bound<'py, PyAny>, Unreadable> {
        let (bytes, zone) = split_time(payload)?;
        self.with_zone(&self.types.time, &bytes, zone)
    }

    /// A datetime.
    pub(super) fn datetime(&self, payload: &[u8]) -> Result<Bound<'py, PyAny>, Unreadable> {
        let (bytes, zone) = split_datetime(payload)?;
        self.with_zone(&self.types.datetime, &bytes, zone)
    }

    fn with_zone(
        &self,
        class: &Py<pyo3::types::PyType>,
        bytes: &[u8],
        zone: Zone<&str>,
    ) -> Result<Bound<'py, PyAny>, Unreadable> {
        let bytes = PyBytes::new(self.py, bytes);
        let class = class.bind(self.py);
        let zone = match zone {
            Zone::Naive => return Ok(class.call1((bytes,))?),
            Zone::Utc => self.types.utc.bind(self.py).clone(),
            Zone::Named(name) => self.types.zone.bind(self.py).call1((name,))?,
            Zone::Offset(offset) => {
                let offset = self.types.timedelta.bind(self.py).call1((
                    0,
                    offset.div_euclid(SECOND),
                    offset.rem_euclid(SECOND),
                ))?;
                self.types.timezone.bind(self.py).call1((offset,))?
            }
        };
        Ok(class.call1((bytes, zone))?)
    }

    /// A timedelta.
    pub(super) fn timedelta(&self, payload: &[u8]) -> Result<Bound<'py, PyAny>, Unreadable> {
        Ok(self.types.timedelta.bind(self.py).call1(split_timedelta(payload)?)?)
    }
}
