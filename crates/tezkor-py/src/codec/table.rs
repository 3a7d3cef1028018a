//! Lists of alike rows, both ways: dicts with the same keys (`values()`), tuples of one width (`values_list()`) and
//! model instances are written with their names once.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};
use tezkor::codec::{Reader, ext};

use super::decode::Decoder;
use super::encode::{Encoder, changed, unchanged};
use super::fault::{Fault, Unreadable};
use crate::raw::Items;

/// A table costs more than a list for fewer rows.
const ROWS_MIN: usize = 2;

impl<'py> Encoder<'py> {
    /// Writes the list as a table and returns true, when it is one.
    pub(super) fn table(&mut self, list: &Bound<'py, PyList>, depth: u32) -> Result<bool, Fault> {
        if list.len() < ROWS_MIN {
            return Ok(false);
        }
        let first = list.get_item(0).map_err(|_| changed())?;
        let class = first.get_type();
        drop(first);
        if class.is(self.py.get_type::<PyDict>()) {
            let Some(rows) = all_exact::<PyDict>(list)? else {
                return Ok(false);
            };
            return self.rows(&rows, depth);
        }
        if class.is(self.py.get_type::<PyTuple>()) {
            let Some(rows) = all_exact::<PyTuple>(list)? else {
                return Ok(false);
            };
            return self.tuples(&rows, depth);
        }
        self.models(&class, list, depth)
    }

    fn rows(&mut self, rows: &[Bound<'py, PyDict>], depth: u32) -> Result<bool, Fault> {
        let Some(columns) = columns(&rows[0]) else {
            return Ok(false);
        };
        for row in &rows[1..] {
            if row.len() != columns.len() || !Items::new(row).zip(&columns).all(|((key, _), column)| same(&key, column))
            {
                return Ok(false);
            }
        }
        let mark = self.out.begin(ext::ROWS);
        self.out.array(columns.len());
        for column in &columns {
            self.text(column)?;
        }
        self.out.uint(rows.len() as u64);
        for (index, row) in rows.iter().enumerate() {
            let result = self.once(row.as_any());
            self.step(result, || format!("[{index}]"))?;
            let mut written = 0;
            for ((key, value), column) in Items::new(row).zip(&columns) {
                if !same(&key, column) {
                    return Err(changed().into());
                }
                let result = self.value(&value, depth);
                self.step(result, || format!("[{index}]['{column}']"))?;
                written += 1;
            }
            unchanged(columns.len(), written)?;
        }
        self.out.end(mark);
        Ok(true)
    }

    fn tuples(&mut self, rows: &[Bound<'py, PyTuple>], depth: u32) -> Result<bool, Fault> {
        let width = rows[0].len();
        if width == 0 || rows.iter().any(|row| row.len() != width) {
            return Ok(false);
        }
        let mark = self.out.begin(ext::TUPLES);
        self.out.uint(width as u64);
        self.out.uint(rows.len() as u64);
        for (index, row) in rows.iter().enumerate() {
            self.frozen(row.as_any(), |encoder| {
                for (column, value) in row.iter().enumerate() {
                    let result = encoder.value(&value, depth);
                    encoder.step(result, || format!("[{index}][{column}]"))?;
                }
                Ok(())
            })?;
        }
        self.out.end(mark);
        Ok(true)
    }
}

/// All items, when each is of this very type.
fn all_exact<'py, T: pyo3::PyTypeInfo>(list: &Bound<'py, PyList>) -> Result<Option<Vec<Bound<'py, T>>>, Fault> {
    let mut rows = Vec::with_capacity(list.len());
    for index in 0..list.len() {
        match list.get_item(index).map_err(|_| changed())?.cast_into_exact::<T>() {
            Ok(row) => rows.push(row),
            Err(_) => return Ok(None),
        }
    }
    Ok(if rows.len() < ROWS_MIN { None } else { Some(rows) })
}

/// The keys of a dict, when all are text and there is at least one.
fn columns<'py>(row: &Bound<'py, PyDict>) -> Option<Vec<Bound<'py, PyString>>> {
    let columns: Option<Vec<_>> = Items::new(row).map(|(key, _)| key.cast_into_exact::<PyString>().ok()).collect();
    columns.filter(|columns| !columns.is_empty())
}

/// Rows of one query share their keys; others have equal ones.
fn same(key: &Bound<'_, PyAny>, column: &Bound<'_, PyString>) -> bool {
    key.is(column) || (key.is_exact_instance_of::<PyString>() && key.eq(column).unwrap_or(false))
}

impl<'py> Decoder<'py> {
    /// A list of dicts. Each row starts as a copy of a dict that has all keys, which is cheaper than growing it.
    pub(super) fn rows(&mut self, payload: &[u8], depth: u32) -> Result<Bound<'py, PyAny>, Unreadable> {
        let mut reader = Reader::new(payload);
        let width = reader.expect_array()?;
        let mut columns = Vec::new();
        let pattern = PyDict::new(self.py);
        for _ in 0..width {
            let column = self.value(&mut reader, depth)?;
            pattern.set_item(&column, self.py.None())?;
            columns.push(column);
        }
        let count = reader.expect_rows(width)?;
        let mut rows = Vec::new();
        for _ in 0..count {
            let row = pattern.copy()?;
            for column in &columns {
                row.set_item(column, self.value(&mut reader, depth)?)?;
            }
            rows.push(row);
        }
        reader.finish()?;
        Ok(PyList::new(self.py, rows)?.into_any())
    }

    /// A list of tuples.
    pub(super) fn tuples(&mut self, payload: &[u8], depth: u32) -> Result<Bound<'py, PyAny>, Unreadable> {
        let mut reader = Reader::new(payload);
        let width = usize::try_from(reader.expect_uint()?).map_err(|_| Unreadable::Miss)?;
        let count = reader.expect_rows(width)?;
        let mut rows = Vec::new();
        for _ in 0..count {
            let cells = self.values(&mut reader, width, depth)?;
            rows.push(PyTuple::new(self.py, cells)?);
        }
        reader.finish()?;
        Ok(PyList::new(self.py, rows)?.into_any())
    }
}
