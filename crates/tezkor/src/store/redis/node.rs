//! One server and the connections to it. It asks twice at most: again only where nothing was sent, or where only reading is meant and
//! the connection turned out to be closed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::command::Command;
use super::connection::{Connection, Part};
use super::fault::{Cause, Fault, Reach};
use super::pool::{History, Lease, Pool};
use super::reply::Reply;
use super::settings::{Endpoint, RedisSettings};
use super::tls;
use crate::error::Error;

/// What commands do, which decides whether they may be asked twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// They only read.
    Read,
    /// They may change something.
    Write,
}

/// What all connections are made with.
#[derive(Clone)]
pub(super) struct Dial {
    pub tls: Option<Arc<ClientConfig>>,
    pub connect_timeout: Duration,
    pub reply_timeout: Duration,
    pub connections: usize,
}

pub(super) struct Node {
    pub endpoint: Endpoint,
    pub title: Arc<str>,
    pub part: Part,
    dial: Dial,
    pool: Pool,
}

impl Dial {
    /// Reads the files of TLS if any server needs it.
    pub(super) fn new(settings: &RedisSettings, needs_tls: bool) -> Result<Dial, Error> {
        Ok(Dial {
            tls: if needs_tls { Some(tls::read(&settings.tls)?) } else { None },
            connect_timeout: settings.connect_timeout,
            reply_timeout: settings.reply_timeout,
            connections: settings.connections.max(1),
        })
    }

    /// When an operation that begins now has to be over.
    pub(super) fn until(&self) -> Instant {
        Instant::now() + self.connect_timeout + self.reply_timeout
    }
}

impl Node {
    pub(super) fn new(endpoint: Endpoint, part: Part, dial: &Dial) -> Node {
        let title = endpoint.title().into();
        Node { endpoint, title, part, dial: dial.clone(), pool: Pool::new(dial.connections) }
    }

    /// Asks in one exchange.
    pub(super) fn ask(&self, purpose: Purpose, commands: &[Command<'_>], until: Instant) -> Result<Vec<Reply>, Fault> {
        let mut lease = self.lease(until)?;
        let result = lease.connection.exchange(commands, self.reply_time(until));
        let fault = match result {
            Ok(replies) => {
                lease.give_back();
                return Ok(replies);
            }
            Err(fault) => fault,
        };
        let mut lease = self.renewed(lease, purpose, fault, until)?;
        let replies = lease.connection.exchange(commands, self.reply_time(until))?;
        lease.give_back();
        Ok(replies)
    }

    /// A connection.
    pub(super) fn lease(&self, until: Instant) -> Result<Lease, Fault> {
        self.pool.take(until, self.reply_time(until), &self.title, || self.open(until))
    }

    /// Another connection after a fault, if asking again can do no harm and may help.
    pub(super) fn renewed(&self, lease: Lease, purpose: Purpose, fault: Fault, until: Instant) -> Result<Lease, Fault> {
        let history = lease.history;
        drop(lease);
        if fault.cause == Cause::Closed {
            self.pool.close_idle();
        }
        let is_harmless = purpose == Purpose::Read || fault.reach == Reach::Unsent;
        match fault.cause == Cause::Closed && is_harmless && history == History::Used {
            true => self.pool.take_fresh(|| self.open(until)),
            false => Err(fault),
        }
    }

    /// The time for a reply, within what is left for the operation.
    pub(super) fn reply_time(&self, until: Instant) -> Duration {
        self.dial.reply_timeout.min(until.saturating_duration_since(Instant::now()))
    }

    fn open(&self, until: Instant) -> Result<Connection, Fault> {
        let allowed = self.dial.connect_timeout.min(until.saturating_duration_since(Instant::now()));
        Connection::open(&self.endpoint, &self.title, self.part, self.dial.tls.as_ref(), allowed)
    }
}
