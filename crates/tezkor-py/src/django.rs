//! Django's classes, looked up when the first value needs them. The module works without Django: where a class is not
//! imported, no object can be of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::PyLookupError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyType};
use xxhash_rust::xxh3::xxh3_128;

use crate::types::is_exact;

/// The class of strings that need no escaping, if Django has it loaded.
pub fn loaded_safe_string(py: Python<'_>) -> Option<&'static Py<PyType>> {
    if let Some(class) = SAFE.get(py) {
        return Some(class);
    }
    is_loaded(py, "django.utils.safestring").then(|| safe_string(py).ok())?
}

static SAFE: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// The same, and loads it.
pub fn safe_string(py: Python<'_>) -> PyResult<&'static Py<PyType>> {
    SAFE.get_or_try_init(py, || class(py, "django.utils.safestring", "SafeString"))
}

/// The responses that have a tag of their own.
pub struct Responses {
    /// By kind: `HttpResponse`, `SimpleTemplateResponse`, `TemplateResponse`; `None` where this Django pickles them in
    /// a way of its own.
    pub classes: [Option<Py<PyType>>; 3],
    pub headers: Py<PyType>,
    /// What the template responses leave out, by kind.
    pub omitted: [Vec<String>; 3],
}

/// Django's responses, if they are loaded.
pub fn loaded_responses(py: Python<'_>) -> Option<&'static Responses> {
    if let Some(responses) = RESPONSES.get(py) {
        return Some(responses);
    }
    is_loaded(py, "django.http.response").then(|| responses(py).ok())?
}

static RESPONSES: PyOnceLock<Responses> = PyOnceLock::new();

/// The same, and loads them.
pub fn responses(py: Python<'_>) -> PyResult<&'static Responses> {
    RESPONSES.get_or_try_init(py, || {
        let plain = class(py, "django.http.response", "HttpResponse")?;
        let simple = class(py, "django.template.response", "SimpleTemplateResponse")?;
        let template = class(py, "django.template.response", "TemplateResponse")?;
        // An older or newer Django may leave more out of its pickles; what it names so is left out here too.
        let omitted = |class: &Py<PyType>, name: &str| -> PyResult<Vec<String>> {
            match class.bind(py).getattr_opt(name)? {
                Some(names) => names.try_iter()?.map(|name| name?.extract()).collect(),
                None => Ok(Vec::new()),
            }
        };
        let omitted = [
            omitted(&plain, "non_picklable_attrs")?,
            omitted(&simple, "rendering_attrs")?,
            omitted(&template, "rendering_attrs")?,
        ];
        Ok(Responses {
            headers: class(py, "django.http.response", "ResponseHeaders")?,
            classes: [Some(plain), Some(simple), Some(template)]
                .map(|class| class.filter(|class| pickles_its_dict(class.bind(py)))),
            omitted,
        })
    })
}

/// Nothing between the class and `object` changes how it is pickled, but Django's own `__getstate__`, whose rule is known.
fn pickles_its_dict(class: &Bound<'_, PyType>) -> bool {
    let py = class.py();
    let same = |name: &str| -> PyResult<bool> { Ok(class.getattr(name)?.is(&py.get_type::<PyAny>().getattr(name)?)) };
    let changed = |name: &str| class.hasattr(name).unwrap_or(true);
    same("__reduce_ex__").unwrap_or(false)
        && same("__reduce__").unwrap_or(false)
        && same("__new__").unwrap_or(false)
        && !["__setstate__", "__getnewargs__", "__getnewargs_ex__"].into_iter().any(changed)
}

/// What is to be known of a model.
pub struct Model {
    pub class: Py<PyType>,
    pub app_label: String,
    pub name: String,
    /// Of the concrete fields, the class and Django's version: an entry with another is a miss.
    pub fingerprint: [u8; 16],
    /// `_django_version`, which unpickling leaves in the instance.
    pub version: Py<PyString>,
    /// Pickled in Django's way, found by its name, so that the codec may do it instead.
    pub plain: bool,
}

/// The classes that all models share.
pub struct Models {
    base: Py<PyType>,
    pub state: Py<PyType>,
    /// FETCH_ONE, FETCH_PEERS, FETCH_RAISE, where Django has them: single objects without a state.
    pub fetch_modes: Vec<Py<PyAny>>,
    apps: Py<PyAny>,
    version: Py<PyString>,
    known: Mutex<HashMap<usize, Arc<Model>>>,
}

static MODELS: PyOnceLock<Models> = PyOnceLock::new();

/// The model classes, if they are loaded.
pub fn loaded_models(py: Python<'_>) -> Option<&'static Models> {
    if let Some(models) = MODELS.get(py) {
        return Some(models);
    }
    is_loaded(py, "django.db.models.base").then(|| models(py).ok())?
}

/// The same, and loads them.
pub fn models(py: Python<'_>) -> PyResult<&'static Models> {
    MODELS.get_or_try_init(py, || {
        Ok(Models {
            base: class(py, "django.db.models.base", "Model")?,
            state: class(py, "django.db.models.base", "ModelState")?,
            fetch_modes: match py.import("django.db.models.fetch_modes") {
                Ok(module) => ["FETCH_ONE", "FETCH_PEERS", "FETCH_RAISE"]
                    .into_iter()
                    .map(|name| module.getattr(name).map(Bound::unbind))
                    .collect::<PyResult<_>>()?,
                Err(_) => Vec::new(),
            },
            apps: py.import("django.apps")?.getattr("apps")?.unbind(),
            version: py.import("django")?.getattr("__version__")?.cast_into::<PyString>()?.unbind(),
            known: Mutex::default(),
        })
    })
}

impl Models {
    /// The model of an instance, or `None` when it is none.
    pub fn of(&self, object: &Bound<'_, PyAny>) -> PyResult<Option<Arc<Model>>> {
        let address = object.get_type_ptr().addr();
        if let Some(model) = self.known(address) {
            return Ok(Some(model));
        }
        let class = object.get_type();
        if !class.is_subclass(self.base.bind(object.py()))? || is_exact(object, &self.base) {
            return Ok(None);
        }
        self.learn(&class).map(Some)
    }

    /// The model of a class.
    pub fn of_class(&self, class: &Bound<'_, PyType>) -> PyResult<Arc<Model>> {
        match self.known(class.as_ptr().addr()) {
            Some(model) => Ok(model),
            None => self.learn(class),
        }
    }

    /// The model of a name, as unpickling finds it; `None` when there is none.
    pub fn named(&self, py: Python<'_>, app_label: &str, name: &str) -> PyResult<Option<Arc<Model>>> {
        let class = match self.apps.bind(py).call_method1(pyo3::intern!(py, "get_model"), (app_label, name)) {
            Ok(class) => class.cast_into::<PyType>()?,
            Err(error) if error.is_instance_of::<PyLookupError>(py) => return Ok(None),
            Err(error) => return Err(error),
        };
        match self.known(class.as_ptr().addr()) {
            Some(model) => Ok(Some(model)),
            None => self.learn(&class).map(Some),
        }
    }

    /// Which of Django's fetch modes an object is.
    pub fn fetch_mode(&self, object: &Bound<'_, PyAny>) -> Option<usize> {
        self.fetch_modes.iter().position(|mode| object.is(mode))
    }

    fn known(&self, address: usize) -> Option<Arc<Model>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&address).cloned()
    }

    fn learn(&self, class: &Bound<'_, PyType>) -> PyResult<Arc<Model>> {
        let py = class.py();
        let meta = class.getattr("_meta")?;
        let app_label: String = meta.getattr("app_label")?.extract()?;
        let name: String = meta.getattr("object_name")?.extract()?;
        let registered = match self.apps.bind(py).call_method1("get_model", (&app_label, &name)) {
            Ok(found) => found.is(class),
            Err(_) => false,
        };
        let model = Arc::new(Model {
            fingerprint: self.fingerprint(class, &meta)?,
            plain: registered && self.is_plain(class)?,
            class: class.clone().unbind(),
            app_label,
            name,
            version: self.version.clone_ref(py),
        });
        // The class is kept alive by the entry, so that its address stays its own.
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(class.as_ptr().addr(), Arc::clone(&model));
        Ok(model)
    }

    fn fingerprint(&self, class: &Bound<'_, PyType>, meta: &Bound<'_, PyAny>) -> PyResult<[u8; 16]> {
        let py = class.py();
        let mut text = String::new();
        let mut add = |part: &Bound<'_, PyAny>| -> PyResult<()> {
            text.push_str(part.str()?.to_str()?);
            text.push('\0');
            Ok(())
        };
        add(self.version.bind(py))?;
        add(&class.getattr("__module__")?)?;
        add(&class.getattr("__qualname__")?)?;
        for field in meta.getattr("concrete_fields")?.try_iter()? {
            let field = field?;
            for name in ["name", "attname", "column"] {
                add(&field.getattr(name)?)?;
            }
            add(&field.call_method0("get_internal_type")?)?;
            let kind = field.get_type();
            add(&kind.getattr("__module__")?)?;
            add(&kind.getattr("__qualname__")?)?;
        }
        Ok(xxh3_128(text.as_bytes()).to_be_bytes())
    }

    fn is_plain(&self, class: &Bound<'_, PyType>) -> PyResult<bool> {
        let py = class.py();
        let base = self.base.bind(py);
        for name in ["__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__new__", "__getattribute__"] {
            if !class.getattr(name)?.is(&base.getattr(name)?) {
                return Ok(false);
            }
        }
        // A property called __dict__ or _state would see what a pickle sees, but not what is written here.
        for ancestor in class.mro().iter() {
            if ancestor.is(base) {
                break;
            }
            let own = ancestor.getattr("__dict__")?;
            if own.contains("_state")? || own.contains("_django_version")? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn class(py: Python<'_>, module: &str, name: &str) -> PyResult<Py<PyType>> {
    Ok(py.import(module)?.getattr(name)?.cast_into::<PyType>()?.unbind())
}

fn is_loaded(py: Python<'_>, module: &str) -> bool {
    static MODULES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let find = || Ok::<_, PyErr>(py.import("sys")?.getattr("modules")?.cast_into::<PyDict>()?.unbind());
    let modules = MODULES.get_or_try_init(py, find);
    modules.is_ok_and(|modules| modules.bind(py).contains(module).unwrap_or(false))
}
