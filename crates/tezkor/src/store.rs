//! What a store is: one place that keeps bytes. Few methods, none with a default body; behaviour that all stores share is in
//! the tiers and the cache, never in a flag here.

pub mod contract;
pub mod database;
pub mod dummy;
pub mod far;
pub mod memcached;
#[cfg(feature = "redis")]
pub mod redis;
pub mod segment;

use crate::entry::{Found, Incr, Terms, Timeout, Value, When, Written};
use crate::error::Error;
use crate::event::Stats;
use crate::key::{Key, Space};

/// One entry to write.
#[derive(Clone, Copy, Debug)]
pub struct Write<'w> {
    /// Its key.
    pub key: Key<'w>,
    /// Its value.
    pub value: Value<'w>,
    /// How long it lives, and what it depends on.
    pub terms: Terms<'w>,
}

/// A place that keeps bytes. The batch is the primitive: one key is a batch of one.
///
/// Every store, present and to come, passes [`contract::check`]. An error means that the store is away, or cannot do this; near
/// stores have none.
pub trait Store: Send + Sync {
    /// The space of a prefix within a location.
    fn space(&self, location: &[u8], prefix: &[u8]) -> Space;

    /// A key in a space.
    fn key<'k>(&self, space: Space, bytes: &'k [u8]) -> Key<'k>;

    /// Calls `each` with the place in `keys`, the entry and its bytes for every key that is there.
    fn read(&self, keys: &[Key<'_>], each: &mut dyn FnMut(usize, Found, &[u8])) -> Result<(), Error>;

    /// Writes each entry under the condition; what came of it, in the same order.
    fn write(&self, writes: &[Write<'_>], when: When<'_>) -> Result<Vec<Written>, Error>;

    /// Removes each key; whether it was there.
    fn remove(&self, keys: &[Key<'_>]) -> Result<Vec<bool>, Error>;

    /// Changes when each entry expires; whether it is there.
    fn touch(&self, keys: &[Key<'_>], timeout: Timeout) -> Result<Vec<bool>, Error>;

    /// Adds to a count, atomically across all who use the store.
    fn count(&self, key: &Key<'_>, delta: i64) -> Result<Incr, Error>;

    /// Calls `each` with the full key of every entry of the space's prefix until it returns `false`.
    fn scan(&self, space: Space, each: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Error>;

    /// Removes every entry of the space's prefix whose full key fits; how many there were.
    fn remove_where(&self, space: Space, fits: &dyn Fn(&[u8]) -> bool) -> Result<u64, Error>;

    /// Invalidates every entry of the space's prefix that depends on one of the tags.
    fn invalidate_tags(&self, space: Space, tags: &[&[u8]]) -> Result<(), Error>;

    /// Empties the location of the space.
    fn clear(&self, space: Space) -> Result<(), Error>;

    /// Empties the prefix of the space.
    fn clear_prefix(&self, space: Space) -> Result<(), Error>;

    /// Sizes and counters.
    fn stats(&self) -> Stats;
}

impl Store for segment::SegmentStore {
    fn space(&self, location: &[u8], prefix: &[u8]) -> Space {
        self.space(location, prefix)
    }

    fn key<'k>(&self, space: Space, bytes: &'k [u8]) -> Key<'k> {
        self.key(space, bytes)
    }

    fn read(&self, keys: &[Key<'_>], each: &mut dyn FnMut(usize, Found, &[u8])) -> Result<(), Error> {
        let mut buffer = segment::words::Buffer::new();
        for (place, key) in keys.iter().enumerate() {
            if let Some(found) = self.read(key, &mut buffer) {
                each(place, found, buffer.bytes());
            }
        }
        Ok(())
    }

    fn write(&self, writes: &[Write<'_>], when: When<'_>) -> Result<Vec<Written>, Error> {
        Ok(writes.iter().map(|write| self.write(&write.key, write.value, write.terms, when)).collect())
    }

    fn remove(&self, keys: &[Key<'_>]) -> Result<Vec<bool>, Error> {
        Ok(keys.iter().map(|key| self.remove(key)).collect())
    }

    fn touch(&self, keys: &[Key<'_>], timeout: Timeout) -> Result<Vec<bool>, Error> {
        Ok(keys.iter().map(|key| self.touch(key, timeout)).collect())
    }

    fn count(&self, key: &Key<'_>, delta: i64) -> Result<Incr, Error> {
        Ok(self.count(key, delta))
    }

    fn scan(&self, space: Space, each: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Error> {
        self.scan(space, each);
        Ok(())
    }

    fn remove_where(&self, space: Space, fits: &dyn Fn(&[u8]) -> bool) -> Result<u64, Error> {
        Ok(self.delete_pattern(space, fits))
    }

    fn invalidate_tags(&self, space: Space, tags: &[&[u8]]) -> Result<(), Error> {
        self.invalidate_tags(space, tags);
        Ok(())
    }

    fn clear(&self, space: Space) -> Result<(), Error> {
        self.clear(space);
        Ok(())
    }

    fn clear_prefix(&self, space: Space) -> Result<(), Error> {
        self.clear_prefix(space);
        Ok(())
    }

    fn stats(&self) -> Stats {
        self.stats()
    }
}
