//! Loads of a cache on a server: one for all machines, or for want of the server one for this machine.

use pyo3::prelude::*;
use tezkor::store::far::loads::{Instead, Load as EngineLoad, Looked};
use tezkor::{Begin, Looked as LocallyLooked, Terms, Written};

use super::{Answer, FarCache, Instant, Object, ask, later};
use crate::load::{End, Load};

/// A load of a key on a server, and the machine's own part in it.
#[derive(Clone, Debug)]
pub struct FarLoad {
    pub local: Option<tezkor::Load>,
    load: Option<EngineLoad>,
}

impl FarLoad {
    /// Whether the caller runs the loader: for all machines, or for want of a server.
    pub fn is_owner(&self) -> bool {
        self.load.as_ref().map_or_else(|| self.local.as_ref().is_some_and(tezkor::Load::is_owner), EngineLoad::is_owner)
    }

    /// Whether another does.
    pub fn is_busy(&self) -> bool {
        match &self.load {
            Some(load) => load.is_busy(),
            None => self.local.as_ref().is_some_and(tezkor::Load::is_busy),
        }
    }

    pub fn is_early(&self) -> bool {
        let instead = self.load.as_ref().and_then(|load| load.instead.as_ref());
        matches!(instead, Some((_, _, Instead::Early)))
    }

    pub fn birth(&self) -> u64 {
        self.load.as_ref().map_or(0, EngineLoad::birth)
    }
}

/// A fresh value that is not due for an early refresh; else a [`Load`].
pub(super) fn begin<'py>(
    slf: &Bound<'py, FarCache>,
    key: Object<'py>,
    version: Option<Object<'py>>,
    begin: Begin,
) -> PyResult<Object<'py>> {
    let post = later::offered();
    let asked = Instant::now();
    let (py, this) = (slf.py(), slf.get());
    let full = this.full_key(&key, version.as_ref())?;
    let begun = |load, value: Option<Object<'py>>| {
        let load = Load::far(slf.clone().unbind(), &full, load, asked, value.map(Bound::unbind));
        Ok(Bound::new(py, load)?.into_any())
    };
    match ask(slf.as_any(), &full)? {
        Answer::GoOn => {}
        Answer::Bypass => return begun(None, None),
        Answer::Value(value) => return Ok(value),
    }
    if post.is_some() {
        // A loop learns what is there and fresh; a load is begun where its caller may wait.
        return later::read(slf, post, full, move |py, this, full, read| {
            let found = this.quiet(py, read)?.flatten();
            let is_fresh =
                !begin.refresh && found.as_ref().is_some_and(|taken| !this.store.is_due(&taken.found, begin));
            let value = if is_fresh { this.show(py, full, found)? } else { None };
            Ok(value.map_or_else(|| py.NotImplemented(), Bound::unbind))
        });
    }
    if !begin.refresh {
        let read = py.detach(|| this.read_all(&[&full]));
        let found = this.quiet(py, read)?.and_then(|mut found| found.pop().flatten());
        if found.as_ref().is_some_and(|taken| !this.store.is_due(&taken.found, begin))
            && let Some(value) = this.show(py, &full, found)?
        {
            return Ok(value);
        }
    }
    let name = this.machine.store().key(this.loads, &full);
    let local = match this.machine.load(&name, &mut tezkor::Buffer::new(), Begin { birth: None, ..begin }) {
        LocallyLooked::Load(load) => Some(load),
        LocallyLooked::Fresh(_) => None,
    };
    let looked = py.detach(|| this.store.load(&this.key(&full), begin));
    let mut load = FarLoad { local, load: None };
    match this.quiet(py, looked) {
        Ok(Some(Looked::Fresh(found, bytes))) => match this.decode(py, &full, &found, &bytes) {
            Ok(Some(value)) => {
                this.finish(load, End::Nothing);
                Ok(value)
            }
            // This process cannot read it, so it loads it anew.
            Ok(None) if !begin.refresh => {
                this.finish(load, End::Nothing);
                self::begin(slf, key, version, Begin { refresh: true, ..begin })
            }
            Ok(None) => {
                this.finish(load, End::Nothing);
                begun(None, None)
            }
            Err(error) => {
                this.finish(load, End::Nothing);
                Err(error)
            }
        },
        Ok(Some(Looked::Load(far))) => {
            let instead = far.instead.as_ref().map(|(found, bytes, _)| (*found, bytes.clone()));
            load.load = Some(far);
            let value = match instead.map(|(found, bytes)| this.decode(py, &full, &found, &bytes)).transpose() {
                Ok(value) => value.flatten(),
                Err(error) => {
                    this.finish(load, End::Nothing);
                    return Err(error);
                }
            };
            begun(Some(load), value)
        }
        // Without the server, one of the machine runs the loader, and nothing is kept.
        Ok(None) => begun(Some(load), None),
        Err(error) => {
            this.finish(load, End::Nothing);
            Err(error)
        }
    }
}

impl FarCache {
    /// Stores what a load brought; whether it is stored.
    pub fn fill(&self, full: &[u8], load: &mut FarLoad, value: &Object<'_>, terms: Terms<'_>) -> PyResult<bool> {
        let py = value.py();
        let encoded = self.encode(full, value)?;
        let Some(far) = &mut load.load else { return Ok(false) };
        let terms = self.spread(terms);
        let written = py.detach(|| self.store.fill(&self.key(full), far, encoded.value(), terms));
        Ok(matches!(self.quiet(py, written)?, Some(Written::Stored(_))))
    }

    /// Ends a load. What the server is not told of ends by itself.
    pub fn finish(&self, mut load: FarLoad, how: End) {
        if let Some(far) = &mut load.load {
            let _ = match how {
                End::Failed => self.store.fail(far),
                End::Nothing => self.store.end(far),
            };
        }
        if let Some(local) = &mut load.local {
            match how {
                End::Failed => self.machine.store().fail(local),
                End::Nothing => self.machine.store().end(local),
            }
        }
    }

    /// Whether a load that another runs is over.
    pub fn is_over(&self, py: Python<'_>, load: &FarLoad) -> bool {
        if let Some(local) = load.local.as_ref().filter(|local| local.is_busy()) {
            return self.machine.store().is_over(local);
        }
        match &load.load {
            Some(far) => py.detach(|| self.store.is_over(far)).unwrap_or(true),
            None => true,
        }
    }
}
