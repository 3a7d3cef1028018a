//! A key: the bytes that name an entry, and their 128-bit hash. It is checked once, when it is made.

use xxhash_rust::xxh3::xxh3_128_with_seed;

/// The longest full key in bytes.
pub const LONGEST_KEY_BYTES: usize = 8 << 10;

/// A location and prefix within a region: what a key is made in. Copies are free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// The region that the rows are of, and the seed of its hashes.
    pub(crate) region_id: u64,
    pub(crate) seed: u64,
    /// Identifies the location; part of every key, so that locations never meet.
    pub(crate) location: u64,
    /// The other half of the location's hash, and the prefix's.
    pub(crate) location_high: u64,
    pub(crate) prefix: [u64; 2],
    pub(crate) location_row: u16,
    pub(crate) prefix_row: u16,
}

/// The full key of an entry (Django's `prefix:version:key`) within a location.
#[derive(Clone, Copy, Debug)]
pub struct Key<'k> {
    pub(crate) bytes: &'k [u8],
    pub(crate) space: Space,
    pub(crate) low: u64,
    pub(crate) high: u64,
}

impl<'k> Key<'k> {
    /// Hashes the key with the region's seed.
    #[inline]
    pub(crate) fn new(space: Space, seed: u64, bytes: &'k [u8]) -> Self {
        let hash = xxh3_128_with_seed(bytes, seed ^ space.location);
        Key { bytes, space, low: hash as u64, high: (hash >> 64) as u64 }
    }

    /// The full key.
    pub fn bytes(&self) -> &'k [u8] {
        self.bytes
    }

    /// The 128-bit hash, seeded for the region and the location.
    pub fn hash(&self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.low)
    }

    /// The location and prefix that the key was made in.
    pub fn space(&self) -> Space {
        self.space
    }
}

/// A hash of a name (location, prefix, tag) that all processes and machines agree on.
pub(crate) fn name_hash(kind: u8, name: &[u8]) -> u128 {
    xxh3_128_with_seed(name, 0x7465_7A6B_6F72_0000 | u64::from(kind))
}
