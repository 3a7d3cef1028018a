//! Numbers that a test and its child processes share: anonymous shared memory, made before the fork.
//! It has nothing to do with the regions that are tested.
#![allow(unsafe_code)]

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// An array of shared words, zero at first.
pub struct Board {
    start: *const AtomicU64,
    words: usize,
}

// SAFETY: all that can be reached through it are atomic words.
unsafe impl Send for Board {}
// SAFETY: as above.
unsafe impl Sync for Board {}

impl Board {
    pub fn new(words: usize) -> Self {
        // SAFETY: a fresh anonymous mapping, at an address that the kernel chooses.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                words * 8,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED, "there is memory for the board");
        Board { start: start.cast(), words }
    }

    pub fn get(&self, place: usize) -> u64 {
        self[place].load(Ordering::SeqCst)
    }

    pub fn set(&self, place: usize, value: u64) {
        self[place].store(value, Ordering::SeqCst);
    }

    /// Adds, and returns the sum.
    pub fn add(&self, place: usize, value: u64) -> u64 {
        self[place].fetch_add(value, Ordering::SeqCst) + value
    }

    pub fn raise(&self, place: usize, value: u64) {
        self[place].fetch_max(value, Ordering::SeqCst);
    }

    /// Waits until a word is at least this.
    pub fn wait_for(&self, place: usize, value: u64) {
        let start = Instant::now();
        while self.get(place) < value {
            assert!(start.elapsed() < Duration::from_secs(60), "word {place} is {} after a minute", self.get(place));
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Deref for Board {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has this many words, is aligned to a page, and lives until `self` is dropped.
        unsafe { std::slice::from_raw_parts(self.start, self.words) }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // SAFETY: the mapping is this board's own, and no slice of it outlives the board.
        unsafe { libc::munmap(self.start.cast_mut().cast(), self.words * 8) };
    }
}
