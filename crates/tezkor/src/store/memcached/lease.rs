//! memcached's own leases: of all who find a value missing, about to expire or marked stale, one is told to make it, and the others are
//! told that somebody does.
//!
//! ```text
//! lease(name)       nothing there   -> Won, and an empty value that marks the lease until it is filled or its time is over
//! lease(name)       leased          -> Waiting
//! fill(item, mark)                  -> Done: all find it
//! invalidate(name)                  -> the next lease is Won again, with the stale value; a fill of an earlier lease stays stale
//! ```
//!
//! Names that are leased are best used through these methods alone. `get` never shows a stale or an empty value, but memcached counts
//! each reader of a stale value as the one who was told, and `add` finds the name taken while it is leased.

use std::time::Duration;

use super::lifetime::Seconds;
use super::wire::{Code, Verb, When};
use super::{Memcached, cas_of, mark, put};
use crate::error::Error;
use crate::store::far::server::{Held, Item, Lifetime, Mark, Put};

/// What a caller finds under a leased name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lease {
    /// A value that may be served.
    Fresh(Held),
    /// The caller is the one who is to make the value, and to [`Memcached::fill`] it with this mark.
    Won {
        /// What to hand to `fill`.
        mark: Mark,
        /// The value that was marked stale or is about to expire, if there is one.
        old: Option<Vec<u8>>,
    },
    /// Somebody else makes it.
    Waiting {
        /// The value that was marked stale, if there is one.
        old: Option<Vec<u8>>,
    },
}

impl Memcached {
    /// Asks for a value, and for the lease if it is missing or stale, or, with `early`, if it lives on for less than that. A lease that
    /// nobody fills ends after `hold`; one second is the shortest.
    pub fn lease(&self, name: &[u8], hold: Duration, early: Option<Duration>) -> Result<Lease, Error> {
        let early = early.map(|early| Seconds::of_time(early).token());
        let answer = self.ask_one(name, Verb::Lease(Seconds::of_time(hold).token(), early))?;
        let is_empty = answer.value.is_empty() && (answer.won || answer.waiting);
        if answer.won {
            let mark = mark(self.cas(&answer)?);
            return Ok(Lease::Won { mark, old: (!is_empty).then_some(answer.value) });
        }
        if is_empty || answer.stale {
            return Ok(Lease::Waiting { old: (!is_empty).then_some(answer.value) });
        }
        Ok(Lease::Fresh(Held { mark: mark(answer.cas), bytes: answer.value }))
    }

    /// Writes what the holder of a lease has made. `Held` where the name was removed, evicted or written meanwhile: nothing was changed.
    /// Where it was invalidated meanwhile the value is there and stale, so that the next lease is won at once.
    pub fn fill(&self, item: &Item<'_>, lease: &Mark) -> Result<Put, Error> {
        let cas = cas_of(lease);
        if cas == 0 {
            return Ok(Put::Held);
        }
        if !self.takes(item.name, item.bytes.len()) {
            let is_gone = self.ask_one(item.name, Verb::Delete(Some(cas)))?.code == Code::Done;
            return Ok(if is_gone { Put::TooLarge } else { Put::Held });
        }
        let ttl = Seconds::of(item.lifetime, Seconds::EVER).token();
        let verb = Verb::Set { value: item.bytes, ttl, when: When::CasOrStale(cas) };
        Ok(put(&self.ask_one(item.name, verb)?))
    }

    /// Marks values stale instead of removing them, and lets them live for so long; whether each was there.
    pub fn invalidate(&self, names: &[&[u8]], linger: Duration) -> Result<Vec<bool>, Error> {
        let verb = Verb::Invalidate(Seconds::of(Lifetime::After(linger), Seconds::EVER).token());
        let answers = self.ask_all(names.iter().map(|name| (*name, verb)))?;
        Ok(answers.iter().map(|answer| answer.code == Code::Done).collect())
    }
}
