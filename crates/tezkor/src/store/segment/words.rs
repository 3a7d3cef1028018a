//! The region as an array of 64-bit atomic words: every access of the segment store to shared memory goes through here.
//! It never hands out a reference to bytes that another process may change.
//!
//! Everything in a region is a whole word, so one bounds check makes any access memory-safe, whatever a broken or hostile peer
//! wrote there, and a schedule explorer can stand in for the real memory. Byte strings are copied word by word with
//! relaxed atomic accesses (a racing `memcpy` would be undefined behaviour); what was copied is trusted only after the
//! generation of its segment has been read again.

use std::ops::Deref;

pub(crate) use std::sync::atomic::Ordering;
#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::sync::atomic::{AtomicU64, fence};

use super::map::Mapping;
#[cfg(any(loom, shuttle))]
pub(crate) use super::schedules::atomic::{AtomicU64, Part, fence};

/// One word of the region. Each change passes a crash point, so that tests can kill a process between any two stores.
#[repr(transparent)]
pub(crate) struct Word(AtomicU64);

const _: () = assert!(cfg!(any(loom, shuttle)) || std::mem::size_of::<Word>() == 8);

impl Word {
    #[inline(always)]
    pub(crate) fn load(&self, ordering: Ordering) -> u64 {
        self.0.load(ordering)
    }

    /// The low half in memory, for the kernel to watch.
    #[cfg(all(target_os = "linux", not(any(loom, shuttle))))]
    pub(crate) fn low_half(&self) -> *const u32 {
        let at = (&raw const self.0).cast::<u32>();
        if cfg!(target_endian = "little") { at } else { at.wrapping_add(1) }
    }

    #[inline(always)]
    pub(crate) fn store(&self, value: u64, ordering: Ordering) {
        crash_point();
        self.0.store(value, ordering);
    }

    /// Replaces `old` by `new` (sequentially consistent); the error holds what was there instead.
    #[inline(always)]
    pub(crate) fn replace(&self, old: u64, new: u64) -> Result<(), u64> {
        crash_point();
        self.0.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).map(|_| ())
    }

    /// Replaces `old` by `new` where nothing depends on the order: hints and statistics.
    #[inline(always)]
    pub(crate) fn replace_relaxed(&self, old: u64, new: u64) -> bool {
        self.0.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    #[inline(always)]
    pub(crate) fn add(&self, value: u64) -> u64 {
        crash_point();
        self.0.fetch_add(value, Ordering::SeqCst)
    }

    /// Adds one; the sum. A counter that was damaged begins again after the largest number.
    #[inline(always)]
    pub(crate) fn next(&self) -> u64 {
        self.add(1).wrapping_add(1)
    }

    /// Counts an event; nothing depends on the order.
    #[inline(always)]
    pub(crate) fn count(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    #[inline(always)]
    pub(crate) fn raise(&self, value: u64) {
        crash_point();
        self.0.fetch_max(value, Ordering::SeqCst);
    }
}

/// All words of a region; keeps the mapping alive.
#[cfg(not(any(loom, shuttle)))]
pub(crate) struct Words(Mapping);

#[cfg(not(any(loom, shuttle)))]
impl Words {
    pub(crate) fn new(mapping: Mapping) -> Self {
        Words(mapping)
    }
}

#[cfg(not(any(loom, shuttle)))]
impl Deref for Words {
    type Target = [Word];

    #[inline(always)]
    fn deref(&self) -> &[Word] {
        self.0.words()
    }
}

/// Words that a schedule explorer watches, in place of a mapping.
#[cfg(any(loom, shuttle))]
pub(crate) struct Words(Box<[Word]>);

#[cfg(any(loom, shuttle))]
impl Words {
    pub(crate) fn new(mapping: Mapping) -> Self {
        Words::zeroed(mapping.word_count(), |_| Part::Plain)
    }

    /// Zeros, each of which takes part in schedules as `part` says of its position.
    pub(crate) fn zeroed(count: usize, part: impl Fn(usize) -> Part) -> Self {
        Words((0..count).map(|position| Word(AtomicU64::zero(part(position)))).collect())
    }
}

#[cfg(any(loom, shuttle))]
impl Deref for Words {
    type Target = [Word];

    fn deref(&self) -> &[Word] {
        &self.0
    }
}

/// Copies bytes into words; the last word is filled up with zeros.
pub(crate) fn copy_in(to: &[Word], bytes: &[u8]) {
    debug_assert!(to.len() * 8 >= bytes.len());
    let (whole, rest) = bytes.as_chunks::<8>();
    for (word, chunk) in to.iter().zip(whole) {
        word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        to[whole.len()].store(u64::from_le_bytes(last), Ordering::Relaxed);
    }
}

/// Appends the words to `to`. They may be torn: the caller reads the generation of the segment again before it trusts them.
#[inline]
pub(crate) fn copy_out(from: &[Word], to: &mut Vec<u64>) {
    to.extend(from.iter().map(|word| u64::from_le(word.load(Ordering::Relaxed))));
}

/// Whether the words hold exactly these bytes, filled up with zeros.
#[inline]
pub(crate) fn equal(words: &[Word], bytes: &[u8]) -> bool {
    let (whole, rest) = bytes.as_chunks::<8>();
    if words.len() != bytes.len().div_ceil(8) {
        return false;
    }
    for (word, chunk) in words.iter().zip(whole) {
        if word.load(Ordering::Relaxed) != u64::from_le_bytes(*chunk) {
            return false;
        }
    }
    if rest.is_empty() {
        return true;
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    words[whole.len()].load(Ordering::Relaxed) == u64::from_le_bytes(last)
}

/// Bytes that were copied out of a region, kept as words so that the next copy reuses the memory.
#[derive(Default)]
pub struct Buffer {
    words: Vec<u64>,
    start: usize,
    length: usize,
}

impl Buffer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes of the value that was read last.
    pub fn bytes(&self) -> &[u8] {
        self.span(self.start, self.length).unwrap_or_default()
    }

    pub(crate) fn clear(&mut self) -> &mut Vec<u64> {
        self.words.clear();
        (self.start, self.length) = (0, 0);
        &mut self.words
    }

    pub(crate) fn select(&mut self, start: usize, length: usize) {
        (self.start, self.length) = (start, length);
    }

    pub(crate) fn span(&self, start: usize, length: usize) -> Option<&[u8]> {
        bytemuck::cast_slice::<u64, u8>(&self.words).get(start..start.checked_add(length)?)
    }

    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }
}

#[cfg(not(any(feature = "crash-points", test)))]
#[inline(always)]
fn crash_point() {}

/// Calls the hook that a test has set.
#[cfg(any(feature = "crash-points", test))]
fn crash_point() {
    if let Some(hook) = crash::HOOK.get() {
        hook();
    }
}

/// The hook between all stores to shared memory.
#[cfg(any(feature = "crash-points", test))]
pub mod crash {
    /// What is called before each store to shared memory, once a test has set it.
    pub static HOOK: std::sync::OnceLock<fn()> = std::sync::OnceLock::new();
}
