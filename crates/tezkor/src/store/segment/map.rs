//! Mapped memory: the one place that turns an address into a slice of atomic words.
//! It never unmaps while a slice of it can be reached, and never reads or writes the memory itself.

use std::fs::File;
use std::io;

use memmap2::{MmapOptions, MmapRaw};

use super::missing;
#[cfg(not(any(loom, shuttle)))]
use super::words::Word;

/// A mapping that is shared with other processes, or private memory of this one.
pub(crate) struct Mapping {
    map: MmapRaw,
    is_file: bool,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.is_file {
            missing::forget(self.map.as_ptr().addr());
        }
    }
}

impl Mapping {
    /// Maps the first `size_bytes` of a file that is at least as long.
    pub(crate) fn shared(file: &File, size_bytes: u64) -> io::Result<Self> {
        let length = usize::try_from(size_bytes).map_err(io::Error::other)?;
        let map = MmapOptions::new().len(length).map_raw(file)?;
        missing::watch(map.as_ptr().addr(), length);
        Ok(Mapping { map, is_file: true })
    }

    /// Zeroed memory of this process alone; pages are taken when they are first touched.
    pub(crate) fn private(size_bytes: u64) -> io::Result<Self> {
        let length = usize::try_from(size_bytes).map_err(io::Error::other)?;
        Ok(Mapping { map: MmapOptions::new().len(length).map_anon()?.into(), is_file: false })
    }

    #[cfg(any(loom, shuttle))]
    pub(crate) fn word_count(&self) -> usize {
        self.map.len() / 8
    }

    #[cfg(not(any(loom, shuttle)))]
    #[inline(always)]
    pub(crate) fn words(&self) -> &[Word] {
        let count = self.map.len() / 8;
        let start = self.map.as_ptr().cast::<Word>();
        // SAFETY: `map` is a live, page-aligned, readable and writable mapping of at least `count` words for as long as `self`
        // lives, which the borrow of the result ends before. `Word` is a transparent `AtomicU64`, for which every bit pattern
        // is valid and which may be changed by others at any time: no other kind of reference into the mapping exists.
        // The file is at least as long as the mapping when it is made (attach.rs checks it) and is never shortened by us; if
        // somebody else cuts it, missing.rs puts an empty page where one is touched that is gone.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(start, count)
        }
    }
}
