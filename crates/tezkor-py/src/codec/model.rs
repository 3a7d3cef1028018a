//! Django model instances, both ways, as unpickling would bring them back: no `__init__`, no signals, and Django's
//! version left in the `__dict__`. What Django itself does not pickle in its plain way is not written here.

use std::rc::Rc;
use std::sync::Arc;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyList, PyString, PyType};
use tezkor::codec::{
    Reader, SHAPE_ADDING, SHAPE_FETCH, SHAPE_FETCH_SHIFT, SHAPE_HAS_ADDING, SHAPE_HAS_DB, SHAPE_RELATED, Shape, Token,
    ext,
};

use super::decode::Decoder;
use super::encode::{Encoder, changed, deeper, unchanged};
use super::fault::{Fault, Unreadable};
use crate::django::{Model, Models, loaded_models, models};
use crate::raw::Items;
use crate::types::is_exact;

const SHAPE_KNOWN: u64 = SHAPE_HAS_DB | SHAPE_HAS_ADDING | SHAPE_ADDING | SHAPE_RELATED | SHAPE_FETCH;

/// A shape that was written, to be referred back to.
pub struct ShapeKey {
    class: usize,
    flags: u64,
    database: Option<String>,
    names: Vec<Py<PyString>>,
}

/// An instance taken apart.
struct Instance<'py> {
    object: Bound<'py, PyAny>,
    dict: Bound<'py, PyDict>,
    related: Option<Bound<'py, PyDict>>,
    flags: u64,
    database: Option<String>,
}

impl<'py> Encoder<'py> {
    /// Writes a list of instances of one model, and returns true, when it is one.
    pub(super) fn models(
        &mut self,
        class: &Bound<'py, PyType>,
        list: &Bound<'py, PyList>,
        depth: u32,
    ) -> Result<bool, Fault> {
        let Some(models) = loaded_models(self.py) else {
            return Ok(false);
        };
        let mut instances = Vec::with_capacity(list.len());
        let mut model = None;
        for index in 0..list.len() {
            let object = list.get_item(index).map_err(|_| changed())?;
            if !object.get_type().is(class) {
                return Ok(false);
            }
            if model.is_none() {
                model = models.of(&object)?.filter(|model| model.plain);
            }
            let Some(model) = &model else {
                return Ok(false);
            };
            let Some(instance) = self.take_apart(models, model, object)? else {
                return Ok(false);
            };
            instances.push(instance);
        }
        let (Some(model), Some(first)) = (model, instances.first()) else {
            return Ok(false);
        };
        let Some(names) = names(&first.dict) else {
            return Ok(false);
        };
        let mut flags = first.flags;
        for instance in &instances {
            flags |= instance.flags & SHAPE_RELATED;
            let alike = (instance.flags ^ first.flags) & !SHAPE_RELATED == 0 && instance.database == first.database;
            if !alike || !has_names(&instance.dict, &names) {
                return Ok(false);
            }
        }
        let mark = self.out.begin(ext::MODELS);
        self.shape(&model, flags, first.database.clone(), &names);
        self.out.uint(instances.len() as u64);
        for (index, instance) in instances.iter().enumerate() {
            let result = self.row(instance, flags, &names, depth);
            self.step(result, || format!("[{index}]"))?;
        }
        self.out.end(mark);
        Ok(true)
    }

    /// Writes a single instance and returns true, when the object is one.
    pub(super) fn model(&mut self, object: &Bound<'py, PyAny>, depth: u32) -> Result<bool, Fault> {
        let Some(models) = loaded_models(self.py) else {
            return Ok(false);
        };
        let Some(model) = models.of(object)?.filter(|model| model.plain) else {
            return Ok(false);
        };
        // The clone is dropped before the references are counted.
        let Some(mut instance) = self.take_apart(models, &model, object.clone())? else {
            return Ok(false);
        };
        let Some(names) = names(&instance.dict) else {
            return Ok(false);
        };
        instance.object = self.py.None().into_bound(self.py);
        self.once(object)?;
        let mark = self.out.begin(ext::MODELS);
        self.shape(&model, instance.flags, instance.database.clone(), &names);
        self.out.nil();
        self.cells(&instance, instance.flags, &names, deeper(depth)?)?;
        self.out.end(mark);
        Ok(true)
    }

    /// `None` when the instance holds what only a pickle brings back.
    fn take_apart(
        &self,
        models: &Models,
        model: &Model,
        object: Bound<'py, PyAny>,
    ) -> Result<Option<Instance<'py>>, Fault> {
        let py = self.py;
        let Ok(dict) = object.getattr(intern!(py, "__dict__"))?.cast_into_exact::<PyDict>() else {
            return Ok(None);
        };
        let Some(state) = dict.get_item(intern!(py, "_state"))? else {
            return Ok(None);
        };
        if !is_exact(&state, &models.state) {
            return Ok(None);
        }
        let version = dict.get_item(intern!(py, "_django_version"))?;
        if version.is_some_and(|version| !version.eq(model.version.bind(py)).unwrap_or(false)) {
            return Ok(None);
        }
        let Ok(state) = state.getattr(intern!(py, "__dict__"))?.cast_into_exact::<PyDict>() else {
            return Ok(None);
        };
        let mut instance = Instance { object, dict, related: None, flags: 0, database: None };
        for (name, value) in Items::new(&state) {
            if name.is(intern!(py, "db")) {
                instance.flags |= SHAPE_HAS_DB;
                if !value.is_none() {
                    let Ok(alias) = value.cast_into_exact::<PyString>() else {
                        return Ok(None);
                    };
                    let Ok(alias) = alias.to_str() else {
                        return Ok(None);
                    };
                    instance.database = Some(alias.to_owned());
                }
            } else if name.is(intern!(py, "adding")) {
                let Ok(adding) = value.cast_into_exact::<PyBool>() else {
                    return Ok(None);
                };
                instance.flags |= SHAPE_HAS_ADDING | if adding.is_true() { SHAPE_ADDING } else { 0 };
            } else if name.is(intern!(py, "fields_cache")) {
                let Ok(related) = value.cast_into_exact::<PyDict>() else {
                    return Ok(None);
                };
                if !related.is_empty() {
                    instance.flags |= SHAPE_RELATED;
                    instance.related = Some(related);
                }
            } else if name.is(intern!(py, "fetch_mode")) {
                let Some(mode) = models.fetch_mode(&value) else { return Ok(None) };
                instance.flags |= (mode as u64 + 1) << SHAPE_FETCH_SHIFT;
            } else if !name.is(intern!(py, "peers")) || models.fetch_modes.is_empty() {
                // Weak references to the rows of the same query are left out by Django too.
                return Ok(None);
            }
        }
        Ok(Some(instance))
    }

    fn shape(&mut self, model: &Arc<Model>, flags: u64, database: Option<String>, names: &[Bound<'py, PyString>]) {
        let py = self.py;
        let class = model.class.as_ptr().addr();
        let equal = |shape: &ShapeKey| {
            shape.class == class
                && shape.flags == flags
                && shape.database == database
                && shape.names.len() == names.len()
                && shape.names.iter().zip(names).all(|(one, other)| same(one.bind(py), other))
        };
        if let Some(number) = self.shapes.iter().position(equal) {
            return self.out.uint(number as u64);
        }
        self.out.uint(self.shapes.len() as u64);
        self.out.array(6);
        self.out.str(&model.app_label);
        self.out.str(&model.name);
        self.out.bin(&model.fingerprint);
        self.out.uint(flags);
        match &database {
            Some(alias) => self.out.str(alias),
            None => self.out.nil(),
        }
        self.out.array(names.len());
        for name in names {
            // Checked when the names were collected.
            self.out.str(name.to_str().unwrap_or_default());
        }
        let names = names.iter().map(|name| name.clone().unbind()).collect();
        self.shapes.push(ShapeKey { class, flags, database, names });
    }

    fn row(
        &mut self,
        instance: &Instance<'py>,
        flags: u64,
        names: &[Bound<'py, PyString>],
        depth: u32,
    ) -> Result<(), Fault> {
        self.once(&instance.object)?;
        self.cells(instance, flags, names, depth)
    }

    fn cells(
        &mut self,
        instance: &Instance<'py>,
        flags: u64,
        names: &[Bound<'py, PyString>],
        depth: u32,
    ) -> Result<(), Fault> {
        if flags & SHAPE_RELATED != 0 {
            match &instance.related {
                Some(related) => {
                    let result = self.dict(related, deeper(depth)?);
                    self.step(result, || "._state.fields_cache".to_owned())?;
                }
                None => self.out.map(0),
            }
        }
        let mut written = 0;
        for ((_, value), name) in attributes(&instance.dict).zip(names) {
            let result = self.value(&value, depth);
            self.step(result, || format!(".{name}"))?;
            written += 1;
        }
        unchanged(names.len(), written)
    }
}

/// The attributes that are written: all but the state and Django's version, which are made again.
fn attributes<'a, 'py>(
    dict: &'a Bound<'py, PyDict>,
) -> impl Iterator<Item = (Bound<'py, PyAny>, Bound<'py, PyAny>)> + use<'a, 'py> {
    let py = dict.py();
    let (state, version) = (intern!(py, "_state"), intern!(py, "_django_version"));
    Items::new(dict).filter(move |(name, _)| !same(name, state) && !same(name, version))
}

fn names<'py>(dict: &Bound<'py, PyDict>) -> Option<Vec<Bound<'py, PyString>>> {
    let text = |name: Bound<'py, PyAny>| name.cast_into_exact::<PyString>().ok().filter(|name| name.to_str().is_ok());
    let names: Option<Vec<_>> = attributes(dict).map(|(name, _)| text(name)).collect();
    names.filter(|names| !names.is_empty())
}

fn has_names(dict: &Bound<'_, PyDict>, names: &[Bound<'_, PyString>]) -> bool {
    let mut count = 0;
    let alike = attributes(dict).all(|(name, _)| {
        count += 1;
        names.get(count - 1).is_some_and(|expected| same(&name, expected))
    });
    alike && count == names.len()
}

fn same(one: &Bound<'_, PyAny>, other: &Bound<'_, PyString>) -> bool {
    one.is(other) || (one.is_exact_instance_of::<PyString>() && one.eq(other).unwrap_or(false))
}

/// A shape that was read, and the dicts that each row starts as a copy of.
pub struct Pattern<'py> {
    model: Arc<Model>,
    related: bool,
    names: Vec<Bound<'py, PyString>>,
    dict: Bound<'py, PyDict>,
    state: Bound<'py, PyDict>,
}

impl<'py> Decoder<'py> {
    /// A single instance, or a list of them.
    pub(super) fn models(&mut self, payload: &[u8], depth: u32) -> Result<Bound<'py, PyAny>, Unreadable> {
        let mut reader = Reader::new(payload);
        let number = usize::try_from(reader.expect_uint()?).map_err(|_| Unreadable::Miss)?;
        if number == self.patterns.len() {
            let pattern = self.pattern(&Shape::read(&mut reader)?)?;
            self.patterns.push(Rc::new(pattern));
        }
        let pattern = Rc::clone(self.patterns.get(number).ok_or(Unreadable::Miss)?);
        let mut ahead = reader.clone();
        let value = if ahead.token()? == Token::Nil {
            reader = ahead;
            self.instance(&mut reader, &pattern, depth)?
        } else {
            let count = reader.expect_rows(pattern.names.len() + usize::from(pattern.related))?;
            let mut rows = Vec::new();
            for _ in 0..count {
                rows.push(self.instance(&mut reader, &pattern, depth)?);
            }
            PyList::new(self.py, rows)?.into_any()
        };
        reader.finish()?;
        Ok(value)
    }

    /// The class as it is: an entry that was written for other fields is a miss.
    fn pattern(&self, shape: &Shape) -> Result<Pattern<'py>, Unreadable> {
        let py = self.py;
        // Before Django's apps are ready this raises, as unpickling does: the entry is good.
        let model = models(py)?.named(py, &shape.app_label, &shape.model).map_err(Unreadable::Python)?;
        let model = model.ok_or(Unreadable::Miss)?;
        if model.fingerprint != shape.fingerprint || !model.plain || shape.flags & !SHAPE_KNOWN != 0 {
            return Err(Unreadable::Miss);
        }
        let (dict, state) = (PyDict::new(py), PyDict::new(py));
        dict.set_item(intern!(py, "_state"), py.None())?;
        let mut names = Vec::with_capacity(shape.names.len());
        for name in &shape.names {
            let name = PyString::intern(py, name);
            dict.set_item(&name, py.None())?;
            names.push(name);
        }
        dict.set_item(intern!(py, "_django_version"), &model.version)?;
        if shape.flags & SHAPE_HAS_ADDING != 0 {
            state.set_item(intern!(py, "adding"), shape.flags & SHAPE_ADDING != 0)?;
        }
        if shape.flags & SHAPE_HAS_DB != 0 {
            let alias = shape.database.as_ref().map(|alias| PyString::intern(py, alias));
            state.set_item(intern!(py, "db"), alias)?;
        }
        if shape.flags & SHAPE_FETCH != 0 {
            let mode = ((shape.flags & SHAPE_FETCH) >> SHAPE_FETCH_SHIFT) as usize - 1;
            state.set_item(intern!(py, "fetch_mode"), models(py)?.fetch_modes.get(mode).ok_or(Unreadable::Miss)?)?;
        }
        state.set_item(intern!(py, "fields_cache"), py.None())?;
        Ok(Pattern { model, related: shape.flags & SHAPE_RELATED != 0, names, dict, state })
    }

    fn instance(
        &mut self,
        reader: &mut Reader<'_>,
        pattern: &Pattern<'py>,
        depth: u32,
    ) -> Result<Bound<'py, PyAny>, Unreadable> {
        let py = self.py;
        let related = if pattern.related {
            let count = reader.expect_map()?;
            self.dict(reader, count, Reader::deeper(depth)?)?
        } else {
            PyDict::new(py)
        };
        let state = pattern.state.copy()?;
        state.set_item(intern!(py, "fields_cache"), related)?;
        let dict = pattern.dict.copy()?;
        dict.set_item(intern!(py, "_state"), self.types.instance(models(py)?.state.bind(py), state.as_any())?)?;
        for name in &pattern.names {
            dict.set_item(name, self.value(reader, depth)?)?;
        }
        Ok(self.types.instance(pattern.model.class.bind(py), dict.as_any())?)
    }
}
