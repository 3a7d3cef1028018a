//! What happened, and what can be seen: events for people, statistics, and the story of one key.

/// How serious an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Work goes on with less than what was asked for.
    Warning,
    /// Work goes on, but somebody has to do something.
    Error,
}

/// Something that the user should know, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// How serious it is.
    pub level: Level,
    /// What happened, and what to do.
    pub text: String,
    /// Whether the same has to be said each time that it happens.
    pub is_repeated: bool,
}

impl Event {
    pub(crate) fn new(level: Level, text: impl Into<String>) -> Self {
        Event { level, text: text.into(), is_repeated: false }
    }

    /// Something that has to be said each time that it happens.
    pub(crate) fn each_time(level: Level, text: impl Into<String>) -> Self {
        Event { is_repeated: true, ..Event::new(level, text) }
    }
}

/// Why a key is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Nothing is known of it: never set, or long forgotten.
    NeverSet,
    /// Its timeout is over.
    Expired,
    /// Its value was larger than the largest that fits, when this process set it last.
    TooLarge,
    /// It was dropped for want of room a short while ago.
    Evicted,
    /// It was deleted.
    Deleted,
    /// It was deleted, or never set: other keys that were deleted since have covered which.
    DeletedOrNeverSet,
    /// Its location, prefix or a tag was cleared.
    Invalidated,
}

/// The story of one key.
#[derive(Clone, Debug, Default)]
pub struct Explanation {
    /// The kind of store that was asked.
    pub store: &'static str,
    /// Why there is nothing; `None` when there is.
    pub missing: Option<Missing>,
    /// When it was written.
    pub created_unix_ms: Option<u64>,
    /// When it expires; `None` for never.
    pub expires_unix_ms: Option<u64>,
    /// How long after that it may be served while it is loaded.
    pub stale_ms: u64,
    /// The encoded size.
    pub size_bytes: usize,
    /// The number of its codec.
    pub codec: Option<u8>,
    /// The tags that it depends on.
    pub tags: Vec<Vec<u8>>,
    /// How often it was used lately: 0 to 3.
    pub frequency: u8,
    /// The eviction queue that it is in: small or main.
    pub queue: &'static str,
    /// The row of the worker that wrote it.
    pub worker: Option<u16>,
    /// The process that wrote it, if its row still is its own.
    pub pid: Option<u32>,
}

/// Sizes and counters of a store.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// The kind of store.
    pub store: &'static str,
    /// The size of the region.
    pub region_bytes: u64,
    /// The size of a segment.
    pub segment_bytes: u64,
    /// All segments.
    pub segments: u64,
    /// Segments never used so far.
    pub segments_untouched: u64,
    /// Segments that were emptied.
    pub segments_free: u64,
    /// Segments that workers append to.
    pub segments_open: u64,
    /// Segments being emptied.
    pub segments_evicting: u64,
    /// Segments that there is no memory for.
    pub segments_unavailable: u64,
    /// The largest value that fits.
    pub largest_value_bytes: u64,
    /// Places taken in the tables of loads under way (or failed a short while ago), of locks and of rate limits.
    pub loads_claimed: u64,
    /// See above.
    pub locks_claimed: u64,
    /// See above.
    pub rates_claimed: u64,
    /// Workers that have a row.
    pub workers: u64,
    /// Live entries.
    pub entries: u64,
    /// The encoded bytes of their values.
    pub payload_bytes: u64,
    /// The bytes of their keys.
    pub key_bytes: u64,
    /// All counters by name, summed over all processes.
    pub counters: Vec<(&'static str, u64)>,
}
