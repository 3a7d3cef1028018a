//! Python's own classes and functions that the codec needs, looked up once. Django's are in [`crate::django`].

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyInt, PyType};

/// Classes and functions of the standard library.
pub struct Types {
    pub date: Py<PyType>,
    pub time: Py<PyType>,
    pub datetime: Py<PyType>,
    pub timedelta: Py<PyType>,
    pub timezone: Py<PyType>,
    pub utc: Py<PyAny>,
    pub zone: Py<PyType>,
    pub decimal: Py<PyType>,
    pub uuid: Py<PyType>,
    /// `SafeUUID.unknown`: what a UUID is that did not come from the operating system's generator.
    pub uuid_unknown: Py<PyAny>,
    pub int_from_bytes: Py<PyAny>,
    pub set: Py<PyAny>,
    /// `object.__new__`
    pub new: Py<PyAny>,
    /// `object.__setattr__`
    pub set_attribute: Py<PyAny>,
    pub simple_cookie: Py<PyType>,
    pub morsel: Py<PyType>,
    pub dict_update: Py<PyAny>,
    pub dict_set_item: Py<PyAny>,
    pub dumps: Py<PyAny>,
    pub loads: Py<PyAny>,
}

/// Looks them up at the first call.
pub fn types(py: Python<'_>) -> PyResult<&'static Types> {
    static TYPES: PyOnceLock<Types> = PyOnceLock::new();
    TYPES.get_or_try_init(py, || Types::find(py))
}

impl Types {
    fn find(py: Python<'_>) -> PyResult<Self> {
        let datetime = py.import("datetime")?;
        let uuid = py.import("uuid")?;
        let builtins = py.import("builtins")?;
        let cookies = py.import("http.cookies")?;
        let pickle = py.import("pickle")?;
        let object = builtins.getattr("object")?;
        let dict = builtins.getattr("dict")?;
        let class = |module: &Bound<'_, PyModule>, name: &str| -> PyResult<Py<PyType>> {
            Ok(module.getattr(name)?.cast_into::<PyType>()?.unbind())
        };
        let timezone = class(&datetime, "timezone")?;
        Ok(Self {
            date: class(&datetime, "date")?,
            time: class(&datetime, "time")?,
            datetime: class(&datetime, "datetime")?,
            timedelta: class(&datetime, "timedelta")?,
            utc: timezone.getattr(py, "utc")?,
            timezone,
            zone: class(&py.import("zoneinfo")?, "ZoneInfo")?,
            decimal: class(&py.import("decimal")?, "Decimal")?,
            uuid: class(&uuid, "UUID")?,
            uuid_unknown: uuid.getattr("SafeUUID")?.getattr("unknown")?.unbind(),
            int_from_bytes: builtins.getattr("int")?.getattr("from_bytes")?.unbind(),
            set: builtins.getattr("set")?.unbind(),
            new: object.getattr("__new__")?.unbind(),
            set_attribute: object.getattr("__setattr__")?.unbind(),
            simple_cookie: class(&cookies, "SimpleCookie")?,
            morsel: class(&cookies, "Morsel")?,
            dict_update: dict.getattr("update")?.unbind(),
            dict_set_item: dict.getattr("__setitem__")?.unbind(),
            dumps: pickle.getattr("dumps")?.unbind(),
            loads: pickle.getattr("loads")?.unbind(),
        })
    }

    /// An instance as unpickling makes it: no `__init__`, no signals, its `__dict__` is the given one.
    pub fn instance<'py>(&self, class: &Bound<'py, PyType>, dict: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = class.py();
        let instance = self.new.bind(py).call1((class,))?;
        self.set_attribute.bind(py).call1((&instance, pyo3::intern!(py, "__dict__"), dict))?;
        Ok(instance)
    }
}

/// Whether the object is of this class itself, not of a subclass.
#[inline]
pub fn is_exact(object: &Bound<'_, PyAny>, class: &Py<PyType>) -> bool {
    object.get_type_ptr().cast() == class.as_ptr()
}

/// The number of an `int` (not of a subclass, `bool` included) that fits 64 bits.
#[inline]
pub fn small_int(object: &Bound<'_, PyAny>) -> Option<i64> {
    if object.is_exact_instance_of::<PyInt>() { object.extract().ok() } else { None }
}
