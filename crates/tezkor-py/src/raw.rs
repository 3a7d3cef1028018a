//! The few looks at Python objects that PyO3 has no safe way for. Nothing else in this crate is unsafe.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// How many references there are to an object, those of the caller included.
#[inline]
pub fn references(object: &Bound<'_, PyAny>) -> isize {
    #[allow(unsafe_code)]
    // SAFETY: a `Bound` proves that the object is alive and that this thread is attached; the count is only read.
    unsafe {
        ffi::Py_REFCNT(object.as_ptr())
    }
}

/// Walks over a dict. PyO3's own iterator panics when the dict is changed meanwhile by another thread; this one ends,
/// and the caller compares the number of items.
pub struct Items<'a, 'py> {
    dict: &'a Bound<'py, PyDict>,
    position: ffi::Py_ssize_t,
}

impl<'a, 'py> Items<'a, 'py> {
    /// Starts at the first item.
    #[inline]
    pub fn new(dict: &'a Bound<'py, PyDict>) -> Self {
        Self { dict, position: 0 }
    }
}

impl<'py> Iterator for Items<'_, 'py> {
    type Item = (Bound<'py, PyAny>, Bound<'py, PyAny>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let mut key: *mut ffi::PyObject = std::ptr::null_mut();
        let mut value: *mut ffi::PyObject = std::ptr::null_mut();
        #[allow(unsafe_code)]
        // SAFETY: the dict is alive and this thread attached, by `Bound`; PyDict_Next checks the position against the
        // dict as it is, so that a changed dict gives other items or none, never a dangling one.
        let found =
            unsafe { ffi::PyDict_Next(self.dict.as_ptr(), &raw mut self.position, &raw mut key, &raw mut value) };
        if found == 0 {
            return None;
        }
        let py = self.dict.py();
        #[allow(unsafe_code)]
        // SAFETY: PyDict_Next returned a key that the dict holds; nothing ran since that could have released it.
        let key = unsafe { Bound::from_borrowed_ptr_or_opt(py, key) }?;
        #[allow(unsafe_code)]
        // SAFETY: as above, for the value.
        let value = unsafe { Bound::from_borrowed_ptr_or_opt(py, value) }?;
        Some((key, value))
    }
}
