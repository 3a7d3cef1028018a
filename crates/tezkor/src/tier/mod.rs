//! A tier: a server in its position, and the one place that holds the policy for outages.
//!
//! It never raises an outage to a reader of the cache: an error that [`Error::is_outage`] is a miss to the layer above, and has been
//! counted here. A server that refuses the password is away like any other, and the event says why. What the server must still be
//! told (a removal, an invalidation) is written down in the machine's region, and told before the server is trusted again.
//!
//! The breaker is a word that all workers of the machine share:
//!
//! ```text
//! closed --three failures in a row--> open --its rest is over: one worker--> on trial --it answers--> catching up --nothing is owed--> closed
//!                                       ^--------------- it fails: twice the rest, a second at most -----+----------------'
//! ```
//!
//! Who tries the server tells it what it has missed. While it catches up it takes changes from everybody, so that no more debts
//! are made, but no entry is read from it.
//!
//! While it is open, an operation costs a look at that word. Its rests are a quarter of a second at first and a second at most, so a
//! server that is back is used again within that time.

mod as_server;
mod breaker;
mod budget;
mod debts;
mod fleet;
mod intents;
mod news;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

pub use self::breaker::Phase;
use self::breaker::{Breaker, MOST_FAILURES, TRIAL_MS};
pub use self::budget::{begin_request, end_request};
pub(crate) use self::debts::Debt;
pub use self::intents::Intended;
use self::news::note_back;
use crate::cache::Cache;
use crate::error::Error;
use crate::key::{Space, name_hash};
use crate::store::far::names;
use crate::store::far::server::Server;
use crate::store::segment::tiers::Field;

/// What a request may wait in vain.
const BUDGET: Duration = Duration::from_millis(250);

/// Whether an operation may be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum May {
    Yes,
    /// It is the one that tries the server after a rest, with the breaker's word.
    Try(u64),
    No,
}

/// A server with its breaker.
pub struct Tier {
    server: Arc<dyn Server>,
    /// The region in which the machine keeps what it knows of the server.
    machine: Cache,
    name: u64,
    budget: Duration,
    debts: Space,
    intents: Space,
    /// Of several servers: when all that is owed is looked at again.
    look_at_ms: AtomicU64,
}

impl Tier {
    /// A server whose outages are known to the machine by this region. Workers that name the server alike share its breaker.
    pub fn new(server: Arc<dyn Server>, machine: Cache, name: &str) -> Tier {
        let space = |what: &str| machine.store().space(format!("{what} of {name}").as_bytes(), b"");
        let (debts, intents) = (space("debts"), space("intents"));
        Tier {
            server,
            machine,
            name: name_hash(b't', name.as_bytes()) as u64,
            budget: BUDGET,
            debts,
            intents,
            look_at_ms: AtomicU64::new(0),
        }
    }

    /// With another budget for what a request may wait in vain, over all its operations.
    pub fn with_budget(self, budget: Duration) -> Tier {
        Tier { budget, ..self }
    }

    /// What the breaker is at.
    pub fn phase(&self) -> Phase {
        Breaker::of(self.machine.store().tier(self.name, Field::Breaker)).phase
    }

    fn now_ms(&self) -> u64 {
        self.machine.store().breaker_ms()
    }

    fn may_ask(&self, reads_values: impl Fn() -> bool) -> May {
        let store = self.machine.store();
        loop {
            let word = store.tier(self.name, Field::Breaker);
            let breaker = Breaker::of(word);
            let now_ms = self.now_ms();
            match breaker.phase {
                // Debts that were made a moment ago are seen by whoever asks after that: so nobody reads what is to be removed.
                Phase::Closed if self.is_fleet() || !self.is_owed() => return May::Yes,
                Phase::Open | Phase::OnTrial if !breaker.is_over(now_ms) => return May::No,
                Phase::CatchingUp if !breaker.is_over(now_ms) => {
                    return if reads_values() { May::No } else { May::Yes };
                }
                // It is told only what stays told.
                _ if self.is_owed() && !self.server.is_lasting() => return May::No,
                _ => {
                    let trial = Breaker { phase: Phase::OnTrial, until_ms: now_ms + TRIAL_MS, ..breaker };
                    if store.replace_tier(self.name, Field::Breaker, word, trial.word()) {
                        return May::Try(trial.word());
                    }
                }
            }
        }
    }

    fn note_success(&self) {
        let store = self.machine.store();
        let word = store.tier(self.name, Field::Breaker);
        let breaker = Breaker::of(word);
        note_back(self.name);
        if breaker.phase == Phase::Closed && breaker.failures > 0 {
            // Another's failure that comes between counts on: it is one of a row all the same.
            store.replace_tier(self.name, Field::Breaker, word, 0);
        }
    }

    /// Trusts the server again, unless something came between.
    fn close(&self, trial: u64) {
        let was_open = Breaker::of(trial).opened > 0;
        if self.machine.store().replace_tier(self.name, Field::Breaker, trial, 0) && was_open {
            self.tell_back();
        }
    }

    fn note_failure(&self, error: &Error) {
        let store = self.machine.store();
        loop {
            let word = store.tier(self.name, Field::Breaker);
            let breaker = Breaker::of(word);
            let now_ms = self.now_ms();
            let next = match breaker.phase {
                Phase::Closed if breaker.failures + 1 < MOST_FAILURES => {
                    Breaker { failures: breaker.failures + 1, ..breaker }
                }
                Phase::Closed | Phase::OnTrial | Phase::CatchingUp => breaker.opened(now_ms),
                // An operation that began before it was opened.
                Phase::Open => return,
            };
            if store.replace_tier(self.name, Field::Breaker, word, next.word()) {
                if breaker.opened == 0 && next.phase == Phase::Open {
                    self.tell_away(error);
                }
                return;
            }
        }
    }

    /// Does what is asked of the server, unless it is left alone at the moment.
    fn ask<T>(
        &self,
        reads_values: impl Fn() -> bool,
        call: impl FnOnce(&dyn Server) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if budget::is_spent(self.budget) {
            let (title, ms) = (self.server.title(), self.budget.as_millis());
            return Err(Error::outage(format!(
                "{title} is left alone for the rest of a request that lost {ms} ms to it"
            )));
        }
        let start = Instant::now();
        let trial = match self.may_ask(reads_values) {
            May::No => {
                self.tell_left_alone();
                let title = self.server.title();
                return Err(Error::outage(format!("{title} is left alone for a moment: it did not answer")));
            }
            May::Yes => None,
            May::Try(trial) if self.is_fleet() => Some(trial),
            May::Try(trial) => Some(self.catch_up(trial).inspect_err(|error| {
                budget::lose(start.elapsed());
                self.note_failure(error);
            })?),
        };
        let result = call(&*self.server);
        match (&result, trial) {
            (Err(error), _) if error.is_outage() || error.is_setting() => {
                budget::lose(start.elapsed());
                // Of several servers one may be away, for its own names.
                if !self.server.is_partly_up() {
                    self.note_failure(error);
                }
            }
            (_, Some(trial)) => {
                self.close(trial);
                note_back(self.name);
            }
            _ => self.note_success(),
        }
        result
    }

    /// Does what changes names, and owes the removal of entries if nobody knows what became of them.
    fn change<T>(&self, names: &[&[u8]], call: impl FnOnce(&dyn Server) -> Result<T, Error>) -> Result<T, Error> {
        let result = self.ask(|| false, call);
        if result.as_ref().is_err_and(|error| error.is_outage() || error.is_setting()) {
            let entries: Vec<&[u8]> = names.iter().copied().filter(|name| names::holds_value(name)).collect();
            self.owe(Debt::Removal, &entries);
        }
        result
    }
}

#[cfg(test)]
mod tests;
