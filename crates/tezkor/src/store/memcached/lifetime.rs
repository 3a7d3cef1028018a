//! How long values live, as memcached counts it: in whole seconds of a clock of its own, of which the first may be over at once.
//! So a second is added: a value never lives shorter than was asked, and up to two seconds longer.

use std::time::Duration;

use crate::clock::wall_ms;
use crate::store::far::server::{Left, Lifetime};

/// For ever, as memcached tells it.
const EVER: i64 = -1;
/// Beyond these, memcached reads seconds as a time of day since 1970.
const LONGEST_RELATIVE: i64 = 60 * 60 * 24 * 30;

/// So many seconds; -1 is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seconds(pub(super) i64);

impl Seconds {
    /// What is asked for, where the value that is replaced lives for so long.
    pub(super) fn of(lifetime: Lifetime, before: Seconds) -> Seconds {
        match lifetime {
            Lifetime::Never => Seconds(EVER),
            Lifetime::After(time) => Seconds::of_time(time),
            Lifetime::Keep => before,
        }
    }

    pub(super) fn of_time(time: Duration) -> Seconds {
        let whole = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
        Seconds(i64::try_from(whole).map_or(EVER, |whole| whole.saturating_add(1)))
    }

    pub(super) const EVER: Seconds = Seconds(EVER);

    pub(super) fn longest(self, other: Seconds) -> Seconds {
        if self.0 == EVER || other.0 == EVER { Seconds::EVER } else { Seconds(self.0.max(other.0)) }
    }

    /// The token of `T` and `N`. What memcached cannot count, from 2038 on, is for ever.
    pub(super) fn token(self) -> u32 {
        match self.0 {
            EVER => 0,
            seconds if seconds <= LONGEST_RELATIVE => seconds.max(1) as u32,
            seconds => {
                let at = seconds.saturating_add((wall_ms() / 1000) as i64);
                i32::try_from(at).map_or(0, |at| at as u32)
            }
        }
    }

    pub(super) fn left(self) -> Left {
        match self.0 {
            EVER => Left::Never,
            // Less the second that was added.
            seconds => {
                Left::Time(Duration::from_secs((seconds as u64).saturating_sub(1)).max(Duration::from_millis(1)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_rounded_up_and_long_ones_are_times_of_day() {
        let token = |time| Seconds::of(Lifetime::After(time), Seconds::EVER).token();
        assert_eq!(token(Duration::from_millis(1)), 2);
        assert_eq!(token(Duration::from_secs(1)), 2);
        assert_eq!(token(Duration::from_millis(59_001)), 61);
        assert_eq!(token(Duration::from_secs(LONGEST_RELATIVE as u64 - 1)), LONGEST_RELATIVE as u32);
        let now = (wall_ms() / 1000) as u32;
        let month = LONGEST_RELATIVE as u32;
        assert!((now + month + 1..now + month + 20).contains(&token(Duration::from_secs(u64::from(month)))));
        assert_eq!(token(Duration::MAX), 0);
        assert_eq!(token(Duration::from_secs(1 << 40)), 0);
        assert_eq!(Seconds::of(Lifetime::Never, Seconds(5)).token(), 0);
        assert_eq!(Seconds::of(Lifetime::Keep, Seconds(5)).token(), 5);
    }

    #[test]
    fn for_ever_is_longer_than_any_time() {
        assert_eq!(Seconds(5).longest(Seconds(7)), Seconds(7));
        assert_eq!(Seconds(5).longest(Seconds::EVER), Seconds::EVER);
        assert_eq!(Seconds::EVER.longest(Seconds(5)), Seconds::EVER);
    }
}
