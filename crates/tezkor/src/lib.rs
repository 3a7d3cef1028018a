//! One cache for all processes of a machine, with nothing to run.
//!
//! ```
//! use std::time::Duration;
//! use tezkor::{Buffer, Cache, Config, Timeout, Value};
//!
//! // "shared://shop" would be one cache for all processes of this user; "memory://" is this process's own.
//! let cache = Cache::open(&Config::new("memory://shop")?)?;
//! let space = cache.space(b"");
//! let key = cache.key(space, b":1:price:7")?;
//! cache.set(&key, Value::Count(41), Timeout::After(Duration::from_secs(300)));
//! assert_eq!(cache.incr(&key, 1), tezkor::Incr::Value(42));
//! # Ok::<(), tezkor::Error>(())
//! ```
//!
//! What it does: keeps bytes in append-only segments of a memory-mapped region (`memory://`, `shared://`, `file:///`), which
//! any number of processes read without a lock and write without one whose holder could die; evicts by S3-FIFO; validates
//! decoded copies by an atomic load or two; keeps an account of invalidations in logical time.
//!
//! What it does not do: on this machine's memory it starts no thread and opens no socket (stores on servers do, for their
//! connections and to look a name up); it decodes nothing (see [`codec`] for the format that Django's values are in), and never
//! runs what it reads.
//!
//! The file to read first is `cache.rs`; the bytes are drawn in `docs/format.md`.

pub mod cache;
mod clock;
pub mod codec;
mod config;
pub mod decoded;
mod entry;
mod error;
mod event;
mod glob;
mod key;
mod ledger;
pub mod store;
pub mod tier;

pub use cache::Cache;
pub use clock::Clock;
pub use config::{Config, Location, SHARED_DIRECTORY_VARIABLE, parse_size};
pub use entry::{CODEC_COUNT, Found, Incr, LONGEST_TAG_BYTES, MOST_TAGS, Stamp, Terms, Timeout, Value, When, Written};
pub use error::Error;
pub use event::{Event, Explanation, Level, Missing, Stats};
pub use glob::Glob;
pub use key::{Key, LONGEST_KEY_BYTES, Space};
#[cfg(feature = "redis")]
pub use store::redis;
pub use store::segment::counters::Counter;
pub use store::segment::intents::{Everything, Intents};
pub use store::segment::layout::{LARGEST_REGION_BYTES, SMALLEST_REGION_BYTES};
pub use store::segment::loads::{Begin, Instead, Load, Looked};
pub use store::segment::locks::{Locking, Rate};
pub use store::segment::words::Buffer;
#[cfg(feature = "crash-points")]
#[doc(hidden)]
pub use store::segment::words::crash;

/// How many forks lie between the first process that opened a cache and this one.
pub fn forks() -> u64 {
    store::segment::os::forks()
}
