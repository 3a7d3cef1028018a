//! What goes into a store and what comes out: values, timeouts, and the stamp by which a decoded copy is validated.

use std::time::Duration;

use crate::store::far::server::Mark;

/// The codec number of a count, the engine's own.
pub const CODEC_COUNT: u8 = 0;

/// A value as the engine sees it.
#[derive(Clone, Copy, Debug)]
pub enum Value<'v> {
    /// A whole number that is counted in place.
    Count(i64),
    /// Encoded bytes and the number of their codec (not [`CODEC_COUNT`]).
    Bytes {
        /// The number of the codec; the engine keeps it and looks no further.
        codec: u8,
        /// The encoded value.
        bytes: &'v [u8],
    },
}

impl Value<'_> {
    /// Its length in bytes.
    pub(crate) fn length(&self) -> usize {
        match self {
            Value::Count(_) => 8,
            Value::Bytes { bytes, .. } => bytes.len(),
        }
    }
}

/// How long an entry lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// Until it is evicted.
    Never,
    /// From now on for this long, to the millisecond. Nothing is stored for zero: a set removes.
    After(Duration),
    /// As long as the entry that it replaces.
    Keep,
}

/// What an entry is written with beside its value.
///
/// ```
/// use std::time::Duration;
/// use tezkor::{Terms, Timeout};
///
/// let minute = Timeout::After(Duration::from_secs(60));
/// let terms = Terms { tags: &[b"product:7"], stale: Duration::from_secs(600), ..Terms::from(minute) };
/// assert_eq!(terms.timeout, minute);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Terms<'t> {
    /// How long it lives.
    pub timeout: Timeout,
    /// How long after that it may be served while a load of it is under way or has failed.
    pub stale: Duration,
    /// The names it depends on: at most [`MOST_TAGS`], each of at most [`LONGEST_TAG_BYTES`].
    pub tags: &'t [&'t [u8]],
}

impl From<Timeout> for Terms<'static> {
    fn from(timeout: Timeout) -> Self {
        Terms { timeout, stale: Duration::ZERO, tags: &[] }
    }
}

/// The most tags of an entry.
pub const MOST_TAGS: usize = 64;
/// The longest tag.
pub const LONGEST_TAG_BYTES: usize = 250;

/// An entry that was found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The number of its codec; [`CODEC_COUNT`] for a count.
    pub codec: u8,
    /// The number, for a count.
    pub count: i64,
    /// How to ask later whether it is still the entry.
    pub stamp: Stamp,
}

/// Where and when an entry was seen: what a decoded copy keeps to ask whether it is still the entry.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// The region that it was seen in; a region that was replaced has another.
    pub(crate) region_id: u64,
    /// The slot's word in the region.
    pub(crate) position: usize,
    /// The slot word without frequency.
    pub(crate) identity: u64,
    /// The full generation of the segment.
    pub(crate) generation: u64,
    pub(crate) id: u64,
    pub(crate) birth: u64,
    pub(crate) prefix_row: u16,
    /// A lower bound: the entry may have been touched since.
    pub(crate) expires_ms: u64,
    /// The Ledger's change counter when it was last found fresh.
    pub(crate) change: u64,
    pub(crate) dependencies: bool,
    /// The number of a count, which changes in place.
    pub(crate) count: i64,
    /// What its load cost.
    pub(crate) cost_us: u32,
}

impl Stamp {
    /// The id of the entry: kept when the entry merely moves.
    pub fn id(&self) -> u64 {
        self.id
    }
}

/// What came of adding to a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incr {
    /// The sum, stored.
    Value(i64),
    /// There is no such entry.
    Missing,
    /// The entry is no count, or the sum does not fit one: read it, add, and write with `set_if_unchanged`.
    NotACount,
}

/// When a write takes place.
#[derive(Clone, Copy, Debug)]
pub enum When<'s> {
    /// Whatever is there.
    Always,
    /// Only where nothing is.
    Absent,
    /// Only where something is.
    Present,
    /// Only where the entry of the stamp still is.
    Unchanged(&'s Stamp),
}

/// What came of a write.
#[derive(Clone, Copy, Debug)]
pub enum Written {
    /// It is there.
    Stored(Stamp),
    /// The condition did not hold; nothing was changed.
    Held,
    /// It had expired when it was written, or the timeout was zero: what was there is gone.
    Removed,
    /// It did not fit: what was there is gone.
    Refused,
}

impl Stamp {
    /// The stamp of an entry on a server: the mark stands in the words that lead to an entry of a region.
    pub(crate) fn of_mark(mark: &Mark) -> Stamp {
        let mut bytes = [0; 24];
        bytes[..mark.bytes().len()].copy_from_slice(mark.bytes());
        let word = |at: usize| bytes[at..].first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk));
        Stamp {
            region_id: 0,
            position: word(0) as usize,
            identity: word(8),
            generation: word(16),
            id: word(4),
            birth: 0,
            prefix_row: mark.bytes().len() as u16,
            expires_ms: 0,
            change: 0,
            dependencies: false,
            count: 0,
            cost_us: 0,
        }
    }

    /// The mark that it was made of.
    pub(crate) fn mark(&self) -> Mark {
        let words = [self.position as u64, self.identity, self.generation].map(u64::to_le_bytes);
        let bytes = words.as_flattened();
        Mark::new(&bytes[..usize::from(self.prefix_row).min(bytes.len())])
    }

    /// Whether an entry should be loaded anew before it expires, for a random number in (0, 1].
    #[inline]
    pub(crate) fn is_due(&self, now_ms: u64, beta: f64, dice: f64) -> bool {
        let left_ms = self.expires_ms.saturating_sub(now_ms);
        // Thirty times the cost before the expiry the chance is 1e-13: no logarithm for those.
        let cost_ms = f64::from(self.cost_us) / 1000.0 * beta;
        cost_ms > 0.0 && (left_ms as f64) < cost_ms * 30.0 && -dice.ln() * cost_ms >= left_ms as f64
    }
}
