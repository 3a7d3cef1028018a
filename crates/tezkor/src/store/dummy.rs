//! The store that keeps nothing: for switching a cache off. It never remembers a write, and accepts all of them.

use super::{Store, Write};
use crate::entry::{Found, Incr, Timeout, When, Written};
use crate::error::Error;
use crate::event::Stats;
use crate::key::{Key, Space, name_hash};

/// Keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct DummyStore;

impl Store for DummyStore {
    fn space(&self, location: &[u8], _prefix: &[u8]) -> Space {
        Space {
            region_id: 0,
            seed: 0,
            location: name_hash(b'l', location) as u64,
            location_high: 0,
            prefix: [0; 2],
            location_row: 0,
            prefix_row: 0,
        }
    }

    fn key<'k>(&self, space: Space, bytes: &'k [u8]) -> Key<'k> {
        Key::new(space, 0, bytes)
    }

    fn read(&self, _keys: &[Key<'_>], _each: &mut dyn FnMut(usize, Found, &[u8])) -> Result<(), Error> {
        Ok(())
    }

    fn write(&self, writes: &[Write<'_>], when: When<'_>) -> Result<Vec<Written>, Error> {
        let written = match when {
            When::Always | When::Absent => Written::Removed,
            When::Present | When::Unchanged(_) => Written::Held,
        };
        Ok(vec![written; writes.len()])
    }

    fn remove(&self, keys: &[Key<'_>]) -> Result<Vec<bool>, Error> {
        Ok(vec![false; keys.len()])
    }

    fn touch(&self, keys: &[Key<'_>], _timeout: Timeout) -> Result<Vec<bool>, Error> {
        Ok(vec![false; keys.len()])
    }

    fn count(&self, _key: &Key<'_>, _delta: i64) -> Result<Incr, Error> {
        Ok(Incr::Missing)
    }

    fn scan(&self, _space: Space, _each: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Error> {
        Ok(())
    }

    fn remove_where(&self, _space: Space, _fits: &dyn Fn(&[u8]) -> bool) -> Result<u64, Error> {
        Ok(0)
    }

    fn invalidate_tags(&self, _space: Space, _tags: &[&[u8]]) -> Result<(), Error> {
        Ok(())
    }

    fn clear(&self, _space: Space) -> Result<(), Error> {
        Ok(())
    }

    fn clear_prefix(&self, _space: Space) -> Result<(), Error> {
        Ok(())
    }

    fn stats(&self) -> Stats {
        Stats { store: "dummy", ..Stats::default() }
    }
}
