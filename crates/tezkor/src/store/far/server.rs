//! What a far store needs of a server: bytes under names, each changed atomically. Redis, Valkey, memcached and databases are
//! servers; what an entry, a tag, a load or a lock is on them is decided once, above this trait.
//!
//! A server never interprets a value, but for numbers: a value that is the decimal text of an `i64` can be counted by `incr`
//! and raised by `raise`. It never retries what may have been carried out, and never answers from an exchange that was cut.

use std::time::Duration;

use crate::entry::Incr;
use crate::error::Error;

/// How long a value lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until the server evicts it.
    Never,
    /// From now on for this long, at least a millisecond; servers that count in seconds round up.
    After(Duration),
    /// As long as the value that it replaces; where there is none, for ever.
    Keep,
}

/// What is written under a name.
#[derive(Clone, Copy, Debug)]
pub struct Item<'i> {
    /// The name: any bytes, 8 500 at most.
    pub name: &'i [u8],
    /// The value.
    pub bytes: &'i [u8],
    /// How long it lives.
    pub lifetime: Lifetime,
}

/// Tells whether a value is still the one that was read: what a server compares before it swaps. At most 24 bytes.
///
/// Values other than numbers begin with bytes of which the first [`Mark::BYTES`] are another for each write (`far/record.rs`), so a
/// server without a number of its own for each write compares these; of a shorter value it compares all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    bytes: [u8; 24],
    length: u8,
}

impl Mark {
    /// The bytes at the beginning of a value that tell one write from another.
    pub const BYTES: usize = 12;

    /// A mark of these bytes, 24 at most.
    pub fn new(bytes: &[u8]) -> Mark {
        let mut mark = Mark { bytes: [0; 24], length: bytes.len().min(24) as u8 };
        mark.bytes[..usize::from(mark.length)].copy_from_slice(&bytes[..usize::from(mark.length)]);
        mark
    }

    /// The mark of a value by its own beginning.
    pub fn of_value(value: &[u8]) -> Mark {
        let is_number = value.len() <= 20 && matches!(value.first(), Some(b'-' | b'0'..=b'9'));
        Mark::new(if is_number { value } else { &value[..value.len().min(Mark::BYTES)] })
    }

    /// The bytes that it was made of.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// A value that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The value.
    pub bytes: Vec<u8>,
    /// What to hand to `swap` and `remove_marked`.
    pub mark: Mark,
}

/// What came of a write under a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is there.
    Done,
    /// The condition did not hold: nothing was changed.
    Held,
    /// The server does not take a value of this size: what was there is gone.
    TooLarge,
}

/// How long a value lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// There is none.
    Absent,
    /// For ever.
    Never,
    /// For so long.
    Time(Duration),
}

/// A value that another library wrote, and the flags that memcached keeps beside it; 0 elsewhere.
pub type Foreign = (Vec<u8>, u32);

/// A server. The batch is the primitive: a batch is one round trip (in a cluster one for each node), and answers in order.
///
/// An error means that nothing is known of the exchange: [`Error::is_outage`] where the server is away or slow or lied,
/// [`Error::is_setting`] where a setting is wrong, [`Error::is_unsupported`] where it cannot do this at all.
pub trait Server: Send + Sync {
    /// Names it in messages, without any secret: `redis at 10.0.0.5:6379`.
    fn title(&self) -> String;

    /// Whether what is done now stays done: not inside a transaction, which may be rolled back.
    fn is_lasting(&self) -> bool {
        true
    }

    /// Whether it is several servers, each with names of its own.
    fn is_fleet(&self) -> bool {
        false
    }

    /// The number of the server that a name lives on, of several.
    fn place_of(&self, _name: &[u8]) -> usize {
        0
    }

    /// Whether some of several servers answer, so that an outage concerns the names of the others alone.
    fn is_partly_up(&self) -> bool {
        false
    }

    /// The largest value that it takes, as far as that is known.
    fn largest_value_bytes(&self) -> usize;

    /// The values under the names.
    fn get(&self, names: &[&[u8]]) -> Result<Vec<Option<Held>>, Error>;

    /// What other libraries wrote under their names, with the flags that memcached keeps beside it; 0 elsewhere.
    fn foreign(&self, names: &[&[u8]]) -> Result<Vec<Option<Foreign>>, Error> {
        Ok(self.get(names)?.into_iter().map(|held| held.map(|held| (held.bytes, 0))).collect())
    }

    /// Writes each item, whatever is there.
    fn set(&self, items: &[Item<'_>]) -> Result<Vec<Put>, Error>;

    /// Writes each item where nothing is.
    fn add(&self, items: &[Item<'_>]) -> Result<Vec<Put>, Error>;

    /// Writes an item where the value is still the one of the mark.
    fn swap(&self, item: &Item<'_>, mark: &Mark) -> Result<Put, Error>;

    /// Removes each name; whether it was there.
    fn remove(&self, names: &[&[u8]]) -> Result<Vec<bool>, Error>;

    /// Removes a name whose value is still the one of the mark; whether it was.
    fn remove_marked(&self, name: &[u8], mark: &Mark) -> Result<bool, Error>;

    /// Adds to a number and keeps its lifetime. `NotACount` where the value is no number, or the sum does not fit an `i64`: nothing was
    /// changed.
    fn incr(&self, name: &[u8], delta: i64) -> Result<Incr, Error>;

    /// Raises each number to at least this; where there is none (or no number), it is set. Lifetimes are lengthened, never shortened.
    fn raise(&self, items: &[(&[u8], i64, Lifetime)]) -> Result<(), Error>;

    /// Gives each value another lifetime (not `Keep`); whether it is there.
    fn touch(&self, names: &[&[u8]], lifetime: Lifetime) -> Result<Vec<bool>, Error>;

    /// How long a value lives on.
    fn left(&self, name: &[u8]) -> Result<Left, Error>;

    /// Removes everything on the server, ours or not: for servers that cannot list names. Others are unsupported, since a scan does better.
    fn empty(&self) -> Result<(), Error>;

    /// Calls `each` with every name that begins so, in batches that hold up nobody, until it returns `false`. A name that is there all
    /// the time is shown at least once; it may be shown twice.
    fn scan(&self, beginning: &[u8], each: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Error>;
}
