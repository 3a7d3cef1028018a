//! The connections of a process to one server: the one that was used last is used next, so that the others can go.
//! A connection of the parent is never used after a fork: the child finds an empty pool.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::connection::Connection;
use super::fault::Fault;
use crate::error::Error;
use crate::store::segment::os;

/// A connection that rested longer than this is looked at before it is used: a server that was restarted has closed it.
const LOOK_AFTER: Duration = Duration::from_millis(50);
/// A connection that rested longer than this is asked something first: what lies between may have forgotten it without a word.
const ASK_AFTER: Duration = Duration::from_secs(10);
/// A connection that nobody needed for this long is closed.
const CLOSE_AFTER: Duration = Duration::from_secs(60);

pub(super) struct Pool {
    shelf: ArcSwap<Shelf>,
    limit: usize,
}

/// The connections of one process.
struct Shelf {
    forks: u64,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    idle: VecDeque<Connection>,
    /// All that are open, those in use included.
    open: usize,
    /// How many threads wait for one; waking nobody would be a call to the kernel as well.
    waiting: usize,
}

/// A connection in use. It goes back only by `give_back`; dropped, it is closed.
pub(super) struct Lease {
    pub(super) connection: Connection,
    /// Whether it was used before.
    pub(super) history: History,
    place: Place,
}

/// The place of a connection among those that are open, given up when it is dropped.
struct Place {
    shelf: Arc<Shelf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum History {
    Used,
    Fresh,
}

impl Pool {
    pub(super) fn new(limit: usize) -> Pool {
        os::watch_forks();
        Pool { shelf: ArcSwap::from_pointee(Shelf::new()), limit }
    }

    /// A connection: the one that was used last, or one that is made now.
    pub(super) fn take(
        &self,
        until: Instant,
        allowed: Duration,
        title: &str,
        open: impl FnOnce() -> Result<Connection, Fault>,
    ) -> Result<Lease, Fault> {
        let shelf = self.shelf();
        let mut state = shelf.lock();
        loop {
            if let Some(mut connection) = state.idle.pop_back() {
                drop(state);
                let place = Place { shelf: Arc::clone(&shelf) };
                if is_healthy(&mut connection, allowed) {
                    return Ok(Lease { connection, history: History::Used, place });
                }
                drop((connection, place));
                state = shelf.lock();
                continue;
            }
            if state.open < self.limit {
                state.open += 1;
                drop(state);
                let place = Place { shelf };
                return Ok(Lease { connection: open()?, history: History::Fresh, place });
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Fault::unsent(Error::outage(format!(
                    "all {} connections to {title} are in use; raise max_connections",
                    self.limit
                ))));
            }
            state.waiting += 1;
            state = shelf.freed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
    }

    /// A connection that is made now, in the place of one that was just closed.
    pub(super) fn take_fresh(&self, open: impl FnOnce() -> Result<Connection, Fault>) -> Result<Lease, Fault> {
        let shelf = self.shelf();
        shelf.lock().open += 1;
        let place = Place { shelf };
        Ok(Lease { connection: open()?, history: History::Fresh, place })
    }

    /// Closes all that are idle: the server was stopped.
    pub(super) fn close_idle(&self) {
        let shelf = self.shelf();
        let closed = {
            let mut state = shelf.lock();
            state.open -= state.idle.len();
            mem::take(&mut state.idle)
        };
        shelf.freed.notify_all();
        drop(closed);
    }

    /// The shelf of this process.
    fn shelf(&self) -> Arc<Shelf> {
        let shelf = self.shelf.load_full();
        if shelf.forks == os::forks() {
            return shelf;
        }
        let own = Arc::new(Shelf::new());
        let before = self.shelf.compare_and_swap(&shelf, Arc::clone(&own));
        if !Arc::ptr_eq(&before, &shelf) {
            return Arc::clone(&before);
        }
        // Our copies of the parent's connections are closed, which the parent does not notice. If another thread of the parent
        // was changing the shelf at the fork, its memory cannot be trusted: then it is left as it is, for ever.
        match shelf.state.try_lock() {
            Ok(mut state) => state.idle.clear(),
            Err(TryLockError::Poisoned(state)) => state.into_inner().idle.clear(),
            Err(TryLockError::WouldBlock) => mem::forget(Arc::clone(&shelf)),
        }
        own
    }
}

impl Shelf {
    fn new() -> Shelf {
        Shelf { forks: os::forks(), state: Mutex::default(), freed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// Puts the connection back: its last exchange ended well.
    pub(super) fn give_back(self) {
        let Lease { mut connection, place, .. } = self;
        if !place.is_ours() {
            return;
        }
        let now = Instant::now();
        connection.rests_from(now);
        let mut state = place.shelf.lock();
        state.idle.push_back(connection);
        // What the place takes off again.
        state.open += 1;
        let is_needless = |oldest: &Connection| now.duration_since(oldest.used()) > CLOSE_AFTER;
        let needless = match state.idle.front() {
            Some(oldest) if is_needless(oldest) => state.idle.pop_front(),
            _ => None,
        };
        state.open -= usize::from(needless.is_some());
        drop(state);
        drop(needless);
    }
}

impl Place {
    /// A child that was forked while this connection was in use has a shelf of its own, and this one's lock may be held by a thread
    /// that it does not have.
    fn is_ours(&self) -> bool {
        self.shelf.forks == os::forks()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_ours() {
            let mut state = self.shelf.lock();
            state.open -= 1;
            let is_awaited = state.waiting > 0;
            drop(state);
            if is_awaited {
                self.shelf.freed.notify_one();
            }
        }
    }
}

fn is_healthy(connection: &mut Connection, allowed: Duration) -> bool {
    match connection.used().elapsed() {
        rested if rested > ASK_AFTER => connection.is_quiet() && connection.exchange(&[], allowed).is_ok(),
        rested if rested > LOOK_AFTER => connection.is_quiet(),
        _ => true,
    }
}
