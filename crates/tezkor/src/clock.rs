//! The time that expiry is measured in, in milliseconds. No correctness promise rests on it, only timeouts do.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Which clock a store follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Clock {
    /// Time since boot, suspend included: nobody can set it. For regions that do not outlive the boot.
    #[default]
    Boot,
    /// Time of day: survives a reboot. For regions on disk.
    Wall,
    /// Set by the caller through [`crate::Cache::set_time`]: for tests that freeze or turn the clock.
    Manual,
}

/// A clock that can be read.
#[derive(Debug, Default)]
pub(crate) struct Time {
    clock: Clock,
    manual_ms: AtomicU64,
}

impl Time {
    pub(crate) fn new(clock: Clock) -> Self {
        Time { clock, manual_ms: AtomicU64::new(wall_ms()) }
    }

    #[inline]
    pub(crate) fn now_ms(&self) -> u64 {
        match self.clock {
            Clock::Boot => boot_ms(),
            Clock::Wall => wall_ms(),
            Clock::Manual => self.manual_ms.load(Ordering::Relaxed),
        }
    }

    /// The same in microseconds, as finely as the clock tells.
    pub(crate) fn now_us(&self) -> u64 {
        match self.clock {
            Clock::Wall => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64),
            _ => self.now_ms() * 1000,
        }
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    pub(crate) fn set(&self, unix_ms: u64) {
        self.manual_ms.store(unix_ms, Ordering::Relaxed);
    }
}

/// Milliseconds since 1970.
pub(crate) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

/// Milliseconds since boot, suspend included.
#[inline]
pub(crate) fn boot_ms() -> u64 {
    crate::store::segment::os::boot_ms()
}
