//! One server: its idle connections, last in first out, and whether it rests because it failed. A connection is taken out to be used
//! and put back only when its exchange ended well. A node never waits for itself: who finds it resting is told so at once.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::connection::{Connection, Stream};
use super::dial::Dial;
use super::fault::Fault;
use super::settings::{Address, MemcachedSettings};
use super::tls::Tls;
use crate::clock::boot_ms;

/// Idle connections that are kept; threads that work at the same time beyond these connect anew.
const MOST_IDLE: usize = 64;
/// The item limit of memcached where it does not tell its own.
const USUAL_ITEM_LIMIT: usize = 1 << 20;
/// What memcached needs for an item besides its value: 56 bytes of header, the key of up to 250 bytes and its end, the value's two.
const ITEM_OVERHEAD: usize = 320;

/// A server.
pub(super) struct Node {
    address: Address,
    title: String,
    idle: Mutex<Vec<Connection>>,
    dial: Dial,
    tls: Option<Tls>,
    /// Failures since the last success.
    failures: AtomicU32,
    /// Until when it rests; 0 if it works.
    rests_until_ms: AtomicU64,
    last: Mutex<Option<Fault>>,
    /// What the server said; 0 until it was asked.
    item_limit: AtomicUsize,
}

impl Node {
    pub(super) fn new(address: Address, tls: Option<Tls>) -> Node {
        Node {
            title: format!("memcached at {address}"),
            address,
            idle: Mutex::default(),
            dial: Dial::default(),
            tls,
            failures: AtomicU32::new(0),
            rests_until_ms: AtomicU64::new(0),
            last: Mutex::default(),
            item_limit: AtomicUsize::new(0),
        }
    }

    /// A connection to use. While the node rests there is none, but for one caller when the time is over.
    pub(super) fn take(&self, settings: &MemcachedSettings) -> Result<Connection, Fault> {
        self.may_try(settings)?;
        let taken = match self.take_idle() {
            Some(connection) => Ok(connection),
            None => self.connect(settings),
        };
        let known = taken.and_then(|mut connection| {
            if self.item_limit.load(Ordering::Relaxed) == 0 {
                let limit = connection.item_limit()?.unwrap_or(USUAL_ITEM_LIMIT);
                self.item_limit.store(limit, Ordering::Relaxed);
            }
            Ok(connection)
        });
        known.inspect_err(|fault| self.failed(fault, settings))
    }

    fn take_idle(&self) -> Option<Connection> {
        loop {
            let mut connection = lock(&self.idle).pop()?;
            if connection.is_alive() {
                return Some(connection);
            }
        }
    }

    /// Takes a connection back whose exchange ended well.
    pub(super) fn put_back(&self, mut connection: Connection) {
        if self.rests_until_ms.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.rests_until_ms.store(0, Ordering::Release);
        }
        connection.rest();
        let mut idle = lock(&self.idle);
        if idle.len() < MOST_IDLE {
            idle.push(connection);
        }
    }

    /// Removes everything on it.
    pub(super) fn empty(&self, settings: &MemcachedSettings) -> Result<(), Fault> {
        let mut connection = self.take(settings)?;
        match connection.empty() {
            Ok(()) => {
                self.put_back(connection);
                Ok(())
            }
            Err(fault) => {
                self.failed(&fault, settings);
                Err(fault)
            }
        }
    }

    /// Lets the node rest. Its idle connections are dropped: they lead to what has just failed.
    pub(super) fn failed(&self, fault: &Fault, settings: &MemcachedSettings) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        *lock(&self.last) = Some(fault.clone());
        self.rests_until_ms.store(boot_ms() + rest_ms(failures, settings), Ordering::Release);
        // What comes back may be another server.
        self.item_limit.store(0, Ordering::Relaxed);
        let dropped = std::mem::take(&mut *lock(&self.idle));
        drop(dropped);
    }

    /// Why it rests, if it does.
    pub(super) fn down(&self) -> Option<String> {
        (self.rests_until_ms.load(Ordering::Acquire) != 0).then(|| self.last_fault().text().to_owned())
    }

    /// Whether a value of this size is sure to fit. Asks the server for its limit if that decides.
    pub(super) fn takes(&self, size: usize, settings: &MemcachedSettings) -> bool {
        let is_unknown = self.item_limit.load(Ordering::Relaxed) == 0;
        if is_unknown
            && size > self.largest_value_bytes()
            && let Ok(connection) = self.take(settings)
        {
            self.put_back(connection);
        }
        size <= self.largest_value_bytes()
    }

    /// The largest value that is sure to fit, as far as the server has told.
    pub(super) fn largest_value_bytes(&self) -> usize {
        let limit = match self.item_limit.load(Ordering::Relaxed) {
            0 => USUAL_ITEM_LIMIT,
            limit => limit,
        };
        limit.saturating_sub(ITEM_OVERHEAD)
    }

    fn may_try(&self, settings: &MemcachedSettings) -> Result<(), Fault> {
        let until = self.rests_until_ms.load(Ordering::Acquire);
        if until == 0 {
            return Ok(());
        }
        let now = boot_ms();
        let next = now + rest_ms(self.failures.load(Ordering::Relaxed), settings);
        // One caller moves the time on and tries; the others go on resting meanwhile.
        if now >= until
            && self.rests_until_ms.compare_exchange(until, next, Ordering::AcqRel, Ordering::Acquire).is_ok()
        {
            return Ok(());
        }
        Err(self.last_fault())
    }

    fn last_fault(&self) -> Fault {
        lock(&self.last).clone().unwrap_or_else(|| Fault::outage(format!("{} has failed before", self.title)))
    }

    fn connect(&self, settings: &MemcachedSettings) -> Result<Connection, Fault> {
        let mut connection = Connection::new(self.stream(settings)?, &self.title, settings.reply_timeout)?;
        if let Some((username, password)) = &settings.login {
            connection.log_in(username, password)?;
        }
        Ok(connection)
    }

    fn stream(&self, settings: &MemcachedSettings) -> Result<Box<dyn Stream>, Fault> {
        let unreachable = |error| {
            Fault::outage(format!("{} cannot be reached: {error}; check that it runs and LOCATION", self.title))
        };
        match &self.address {
            Address::Unix(path) => {
                let stream = self.dial.unix(path.clone(), settings.connect_timeout).map_err(unreachable)?;
                Ok(Box::new(stream))
            }
            Address::Tcp { host, port } => {
                let stream = self.dial.tcp(host, *port, settings.connect_timeout).map_err(unreachable)?;
                match &self.tls {
                    None => Ok(Box::new(stream)),
                    Some(tls) => tls.wrap(stream, host, &self.title, settings.connect_timeout),
                }
            }
        }
    }
}

fn rest_ms(failures: u32, settings: &MemcachedSettings) -> u64 {
    let doubled = settings.shortest_rest.saturating_mul(1 << failures.min(20));
    doubled.min(settings.longest_rest).as_millis().max(1) as u64
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here is ever left half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
