//! What a tier tells people: that a server is away or back, once for all aliases of the process; that it takes no larger value.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Tier;
use super::breaker::Breaker;
use crate::error::Error;
use crate::event::{Event, Level};
use crate::store::segment::tiers::Field;

/// The servers that this process has said are away: once for all aliases, until they answer again.
static AWAY: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());
/// Whether there may be some.
static IS_ANY_AWAY: AtomicBool = AtomicBool::new(false);

fn is_first_to_say(name: u64) -> bool {
    let mut away = AWAY.lock().unwrap_or_else(PoisonError::into_inner);
    IS_ANY_AWAY.store(true, Ordering::Relaxed);
    away.insert(name)
}

pub(super) fn note_back(name: u64) {
    if IS_ANY_AWAY.load(Ordering::Relaxed) {
        let mut away = AWAY.lock().unwrap_or_else(PoisonError::into_inner);
        away.remove(&name);
        IS_ANY_AWAY.store(!away.is_empty(), Ordering::Relaxed);
    }
}

impl Tier {
    pub(super) fn tell_away(&self, error: &Error) {
        is_first_to_say(self.name);
        let text = format!("{error}; the cache does without {} until it answers again", self.server.title());
        self.machine.store().leave_events([Event::each_time(Level::Error, text)]);
    }

    /// A process that comes, or comes back to the server, while another has found it away.
    pub(super) fn tell_left_alone(&self) {
        // A trial that another worker has begun, of a server that nobody has found away, is over in no time.
        let is_away = Breaker::of(self.machine.store().tier(self.name, Field::Breaker)).opened > 0;
        if is_away && is_first_to_say(self.name) {
            let title = self.server.title();
            let text = format!("another worker found {title} away; the cache does without it until it answers again");
            self.machine.store().leave_events([Event::each_time(Level::Error, text)]);
        }
    }

    /// It is trusted again.
    pub(super) fn tell_back(&self) {
        let text = format!("{} answers again", self.server.title());
        self.machine.store().leave_events([Event::each_time(Level::Warning, text)]);
    }

    /// A value was too large for the server.
    pub(crate) fn tell_refused(&self) {
        let (title, most) = (self.server.title(), self.server.largest_value_bytes());
        let text = format!(
            "a value was larger than the {most} bytes that {title} takes: it is not cached, and what was there is gone"
        );
        self.machine.store().leave_events([Event::new(Level::Warning, text)]);
    }
}
