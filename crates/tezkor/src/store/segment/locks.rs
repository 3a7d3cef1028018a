//! Locks and rate limits: claims that people ask for by name. They live in tables of their own, so that neither eviction nor
//! `clear` takes one away from its holder.

use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::claims::{Claimed, HIGHEST_RATE_LIMIT, LONGEST_RATE_PERIOD_MS, Name, Table};
use super::counters::Counter;
use super::{Attached, Guard, Refusal, SegmentStore, os};
use crate::error::Error;
use crate::key::Key;
use std::sync::Arc;

/// What came of asking for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locking {
    /// It is the caller's; the fencing token is larger than all that were given out before in this region.
    Held(u64),
    /// Somebody has it.
    Taken,
}

/// What came of using a rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Whether this use is within the limit.
    pub is_allowed: bool,
    /// How many more are, until the window ends.
    pub remaining: u64,
    /// How long until then.
    pub resets_after: Duration,
}

impl SegmentStore {
    /// Takes a lock if nobody who lives has it: until it is released, this long at most, or until the process ends.
    ///
    /// # Errors
    ///
    /// When there is no place for a further lock, or no worker slot for this process.
    pub fn lock(&self, key: &Key<'_>, most: Option<Duration>) -> Result<Locking, Error> {
        let (attached, now_ms, name) = self.enter_with(key);
        let Some(life) = attached.life().clone() else {
            return Err(Error::full("a lock needs a worker slot, and all are taken: set a larger SIZE for more slots"));
        };
        let tick_ms = self.tick_ms(now_ms);
        let is_alive = |row: usize| attached.liveness.is_alive(row);
        let asker = super::claims::Asker {
            now_ms: tick_ms,
            row: life.worker.owner.row,
            is_patient: false,
            is_alive: &is_alive,
        };
        let deadline_ms = most.map_or(0, |most| (tick_ms + super::milliseconds(most)).max(1));
        match attached.region.claim_name(Table::Locks, name, deadline_ms, asker) {
            Claimed::Yes(claim) => Ok(Locking::Held(claim.token)),
            Claimed::Taken(_) => Ok(Locking::Taken),
            Claimed::Full => {
                Err(Error::full("the table of locks is full: release some, or set a larger SIZE for a larger table"))
            }
        }
    }

    /// Gives a lock back; whether it was still the caller's.
    pub fn unlock(&self, key: &Key<'_>, token: u64) -> bool {
        let (attached, now_ms, name) = self.enter_with(key);
        let Some(claim) = attached.region.claim_of_token(Table::Locks, name, token) else { return false };
        // One whose time is over may be anybody's in the next moment: it was lost.
        let was_ours = !attached.region.is_vacant(&claim, attached.asker(self.tick_ms(now_ms), &|_| true));
        attached.region.release_claim(&claim) && was_ours
    }

    /// Has a lock last this long from now on; whether it still is the caller's.
    pub fn extend_lock(&self, key: &Key<'_>, token: u64, most: Option<Duration>) -> bool {
        let (attached, now_ms, name) = self.enter_with(key);
        let tick_ms = self.tick_ms(now_ms);
        let Some(claim) = attached.region.claim_of_token(Table::Locks, name, token) else { return false };
        if attached.region.is_vacant(&claim, attached.asker(tick_ms, &|_| true)) {
            return false;
        }
        let deadline_ms = most.map_or(0, |most| (tick_ms + super::milliseconds(most)).max(1));
        attached.region.extend_claim(&claim, deadline_ms)
    }

    /// Whether a lock is the caller's at this moment.
    pub fn owns_lock(&self, key: &Key<'_>, token: u64) -> bool {
        let (attached, now_ms, name) = self.enter_with(key);
        let asker = attached.asker(self.tick_ms(now_ms), &|_| true);
        let claim = attached.region.claim_of_token(Table::Locks, name, token);
        claim.is_some_and(|claim| !attached.region.is_vacant(&claim, asker))
    }

    /// Whether somebody has a lock.
    pub fn is_locked(&self, key: &Key<'_>) -> bool {
        let (attached, now_ms, name) = self.enter_with(key);
        let is_alive = |row: usize| attached.liveness.is_alive(row);
        let asker = attached.asker(self.tick_ms(now_ms), &is_alive);
        attached.region.seen(Table::Locks, name).is_some_and(|claim| !attached.region.is_vacant(&claim, asker))
    }

    /// Sleeps until a lock may be free, for a short while at most.
    pub fn sleep_for_lock(&self, key: &Key<'_>, most: Duration) {
        let (attached, _, name) = self.enter_with(key);
        if let Some(claim) = attached.region.seen(Table::Locks, name) {
            let (word, value) = attached.region.sleep_on(&claim);
            os::wait_for_change(word, value, most.min(Duration::from_millis(20)));
        }
    }

    /// Uses a rate limit once: at most `limit` uses in each window of this length, which begins with its first use.
    ///
    /// # Errors
    ///
    /// When the limit is 0 or above 16 777 215, or the period is not between a millisecond and a year. A table that is full is
    /// a refusal, not an error.
    pub fn use_rate(&self, key: &Key<'_>, limit: u64, period: Duration) -> Result<Rate, Error> {
        if !(1..=HIGHEST_RATE_LIMIT).contains(&limit) {
            return Err(Error::setting(format!("limit is {limit}: write a number from 1 to {HIGHEST_RATE_LIMIT}")));
        }
        let period_ms = super::milliseconds(period);
        if !(1..=LONGEST_RATE_PERIOD_MS).contains(&period_ms) {
            return Err(Error::setting(format!("period is {period:?}: write a time from a millisecond to a year")));
        }
        let (attached, now_ms, name) = self.enter_with(key);
        // Limits of one key for several periods (ten a second, and a thousand an hour) are several limits.
        let of_period = xxh3_64_with_seed(&period_ms.to_le_bytes(), name.low);
        let name = Name { low: name.low ^ of_period, high: name.high ^ of_period.rotate_left(32) };
        let now_ms = self.tick_ms(now_ms);
        let used = attached.region.use_rate(name, limit, period_ms, attached.asker(now_ms, &|_| true));
        Ok(match used {
            Some((is_allowed, used, ends_ms)) => Rate {
                is_allowed,
                remaining: limit.saturating_sub(used),
                resets_after: Duration::from_millis(ends_ms.saturating_sub(now_ms)),
            },
            None => {
                attached.region.count(attached.row(), Counter::RatesRefused, 1);
                self.say_rates_full();
                Rate { is_allowed: false, remaining: 0, resets_after: period }
            }
        })
    }

    #[cold]
    fn say_rates_full(&self) {
        self.say(Refusal::NoRate, || {
            format!(
                "the table of rate limits of {} is full, so that new ones are refused until a window ends: set a larger SIZE \
                 for a larger table, or shorter periods",
                self.name()
            )
        });
    }

    /// Gives back all locks, loads and rate limits of the region, whoever has them: for tests, between which nothing is to be left.
    pub fn forget_claims(&self) {
        self.attached.load().region.forget_claims();
    }

    fn enter_with(&self, key: &Key<'_>) -> (Guard<Arc<Attached>>, u64, Name) {
        let (attached, now_ms) = self.enter();
        let renewed = attached.renewed(key);
        let key = renewed.as_ref().unwrap_or(key);
        (attached, now_ms, Name { low: key.low, high: key.high })
    }
}
