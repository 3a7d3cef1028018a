//! Redis and Valkey as a [`Server`]: standalone, with replicas, watched by Sentinel, or as a cluster; over TCP, TLS or a unix socket.
//!
//! ```text
//! Redis (mod.rs)      what each operation is in commands, and what their answers mean
//!   standalone.rs, sentinel.rs, cluster.rs      which server is asked, and whether asking again is safe
//!     node.rs, pool.rs                          one server, and the connections of this process to it
//!       connection.rs, socket.rs, tls.rs        one exchange with a deadline, checked to be the answer to its question
//!         command.rs, reply.rs, scripts.rs      bytes
//! ```
//!
//! It never repeats what may have been carried out, but for reads; never uses a connection after a fault; never shows a secret; and
//! starts no thread but for looking up a name, since the system's resolver knows no deadline.
//!
//! Where the server is out of memory (OOM), a value that cannot be written removes the one that was there, and the answer is
//! `TooLarge`: the older value would be stale.

mod cluster;
mod command;
mod connection;
mod fault;
mod node;
mod pool;
mod reply;
mod scripts;
mod sentinel;
mod settings;
mod slots;
mod socket;
mod standalone;
mod tls;
mod url;

use std::sync::Arc;
use std::time::Duration;

pub use self::settings::{
    Address, Cover, Endpoint, Entry, Fleet, MOST_CONNECTIONS, PATIENCE, Product, Reads, RedisSettings, Secret, TlsFiles,
};

use self::cluster::Cluster;
use self::command::{Arguments, Command, milliseconds, pattern_of};
use self::fault::{Fault, foreign, refusal};
use self::node::{Dial, Node, Purpose};
use self::reply::{LARGEST_VALUE_BYTES, Reply};
use self::scripts::Script;
use self::sentinel::Sentinel;
use self::standalone::Standalone;
use super::far::server::{Held, Item, Left, Lifetime, Mark, Put, Server};
use crate::entry::Incr;
use crate::error::Error;

/// A pass over a cluster whose slots moved meanwhile is made again, this often at most.
const MOST_PASSES: usize = 4;

/// A Redis or Valkey. Its connections are made when they are needed, so opening it never waits.
pub struct Redis {
    runtime: Runtime,
    dial: Dial,
    title: String,
}

/// Who is asked.
enum Runtime {
    Standalone(Box<Standalone>),
    Sentinel(Box<Sentinel>),
    Cluster(Box<Cluster>),
}

impl Redis {
    /// Reads the files that the settings name. Nothing is asked of the server yet.
    ///
    /// # Errors
    ///
    /// When a file is missing, or is not what it should be.
    pub fn open(settings: &RedisSettings) -> Result<Redis, Error> {
        let endpoints = settings.fleet.endpoints();
        let mut needs_tls = endpoints.iter().any(|endpoint| endpoint.entry.cover == Cover::Tls);
        if let Fleet::Sentinel { entry, .. } = &settings.fleet {
            needs_tls |= entry.cover == Cover::Tls;
        }
        if endpoints.is_empty() {
            return Err(Error::setting("no server is named: give a url, such as redis://127.0.0.1:6379/0"));
        }
        let all = || endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect::<Vec<_>>().join(", ");
        let dial = Dial::new(settings, needs_tls)?;
        let (runtime, title) = match &settings.fleet {
            Fleet::Standalone { primary, replicas } => {
                let replicas = if settings.reads == Reads::Replicas { &replicas[..] } else { &[] };
                (Runtime::Standalone(Box::new(Standalone::new(primary, replicas, &dial))), primary.title())
            }
            Fleet::Sentinel { sentinels, service, entry } => (
                Runtime::Sentinel(Box::new(Sentinel::new(sentinels, service, entry, settings.reads, &dial))),
                format!("{} {service:?} of the sentinels {}", entry.product, all()),
            ),
            Fleet::Cluster { seeds } => (
                Runtime::Cluster(Box::new(Cluster::new(seeds, settings.reads, &dial))),
                format!("{} cluster of {}", seeds[0].entry.product, all()),
            ),
        };
        Ok(Redis { runtime, dial, title })
    }

    /// Asks, and teaches the server a script that it does not know.
    fn ask(&self, purpose: Purpose, commands: &[Command<'_>]) -> Result<Vec<Reply>, Error> {
        let mut replies = self.ask_once(purpose, commands)?;
        let unknown: Vec<usize> = (0..replies.len()).filter(|place| replies[*place].refuses("NOSCRIPT")).collect();
        if unknown.is_empty() {
            return Ok(replies);
        }
        let taught: Vec<Command<'_>> = unknown
            .iter()
            .map(|place| match commands[*place] {
                Command::Run(script, arguments) => Command::Teach(script, arguments),
                command => command,
            })
            .collect();
        for (place, reply) in unknown.into_iter().zip(self.ask_once(purpose, &taught)?) {
            replies[place] = reply;
        }
        Ok(replies)
    }

    fn ask_once(&self, purpose: Purpose, commands: &[Command<'_>]) -> Result<Vec<Reply>, Error> {
        let until = self.dial.until();
        let asked = match &self.runtime {
            Runtime::Standalone(standalone) => standalone.ask(purpose, commands, until),
            Runtime::Sentinel(sentinel) => sentinel.ask(purpose, commands, until),
            Runtime::Cluster(cluster) => cluster.ask(purpose, commands, until),
        };
        asked.map_err(|fault| fault.error)
    }

    fn ask_one(&self, purpose: Purpose, command: Command<'_>) -> Result<Reply, Error> {
        self.ask(purpose, &[command])?.pop().ok_or_else(|| self.foreign())
    }

    /// The error for an answer that a command cannot have.
    fn foreign(&self) -> Error {
        foreign(&self.title)
    }

    /// The error for an answer that is none of those that were expected.
    fn unexpected(&self, reply: &Reply) -> Error {
        match reply {
            Reply::Refusal(text) => refusal(&self.title, text),
            _ => self.foreign(),
        }
    }

    fn flag(&self, reply: &Reply) -> Result<bool, Error> {
        match reply {
            Reply::Number(0) => Ok(false),
            Reply::Number(1) => Ok(true),
            reply => Err(self.unexpected(reply)),
        }
    }

    fn held(&self, reply: Reply) -> Result<Option<Held>, Error> {
        match reply {
            Reply::Nil => Ok(None),
            Reply::Bytes(bytes) => Ok(Some(Held { mark: Mark::of_value(&bytes), bytes })),
            // Somebody else's list or hash under a name of ours.
            reply if reply.refuses("WRONGTYPE") => Ok(None),
            reply => Err(self.unexpected(&reply)),
        }
    }

    /// Scans one server; whether to go on.
    fn scan_at(
        &self,
        node: &Node,
        beginning: &[u8],
        pattern: &[u8],
        each: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<bool, Error> {
        let mut cursor = b"0".to_vec();
        loop {
            let asked = node.ask(Purpose::Read, &[Command::Scan(&cursor, pattern)], self.dial.until());
            let reply = asked.map_err(|fault| fault.error)?.pop().ok_or_else(|| self.foreign())?;
            let [Reply::Bytes(next), Reply::Many(names)] = reply.parts() else { return Err(self.unexpected(&reply)) };
            for name in names {
                let Reply::Bytes(name) = name else { return Err(self.foreign()) };
                if name.starts_with(beginning) && !each(name) {
                    return Ok(false);
                }
            }
            if next == b"0" {
                return Ok(true);
            }
            cursor.clone_from(next);
        }
    }

    /// Scans all primaries of a cluster, and again when slots moved meanwhile: a name may have passed from one that was still to be
    /// scanned to one that had been. While a slot is on its way its names pass one by one, and only one way, so then a second pass
    /// sees what the first has missed.
    fn scan_cluster(
        &self,
        cluster: &Cluster,
        beginning: &[u8],
        pattern: &[u8],
        each: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), Error> {
        let survey = || cluster.survey(self.dial.until()).map_err(|fault| fault.error);
        let mut before = survey()?;
        for pass in 0..MOST_PASSES {
            for node in &before.primaries {
                if !self.scan_at(node, beginning, pattern, each)? {
                    return Ok(());
                }
            }
            let after = survey()?;
            if after.is_like(&before) && (after.is_settled() || pass > 0) {
                return Ok(());
            }
            before = after;
        }
        Err(Error::outage(format!("{}: its slots keep moving while its names are listed", self.title)))
    }

    /// A swap whose value cannot be stored: what it would have replaced is gone.
    fn swap_for_nothing(&self, name: &[u8], mark: &Mark) -> Result<Put, Error> {
        self.remove_marked(name, mark).map(|was_there| if was_there { Put::TooLarge } else { Put::Held })
    }
}

fn is_too_large(item: &Item<'_>) -> bool {
    item.bytes.len() > LARGEST_VALUE_BYTES
}

impl Server for Redis {
    fn title(&self) -> String {
        self.title.clone()
    }

    fn largest_value_bytes(&self) -> usize {
        LARGEST_VALUE_BYTES
    }

    fn get(&self, names: &[&[u8]]) -> Result<Vec<Option<Held>>, Error> {
        match (names, &self.runtime) {
            ([], _) => Ok(vec![]),
            ([name], _) => Ok(vec![self.held(self.ask_one(Purpose::Read, Command::Get(name))?)?]),
            (_, Runtime::Cluster(_)) => {
                let commands: Vec<Command<'_>> = names.iter().map(|name| Command::Get(name)).collect();
                self.ask(Purpose::Read, &commands)?.into_iter().map(|reply| self.held(reply)).collect()
            }
            _ => match self.ask_one(Purpose::Read, Command::GetAll(names))? {
                Reply::Many(replies) if replies.len() == names.len() => {
                    replies.into_iter().map(|reply| self.held(reply)).collect()
                }
                reply => Err(self.unexpected(&reply)),
            },
        }
    }

    fn set(&self, items: &[Item<'_>]) -> Result<Vec<Put>, Error> {
        if items.is_empty() {
            return Ok(vec![]);
        }
        let commands: Vec<Command<'_>> = items
            .iter()
            .map(|item| if is_too_large(item) { Command::Unlink(item.name) } else { Command::Set(*item) })
            .collect();
        let replies = self.ask(Purpose::Write, &commands)?;
        let (mut puts, mut refused) = (Vec::with_capacity(items.len()), Vec::new());
        for (item, reply) in items.iter().zip(replies) {
            puts.push(match reply {
                Reply::Status(_) => Put::Done,
                Reply::Number(_) if is_too_large(item) => Put::TooLarge,
                reply if reply.refuses("OOM") => {
                    refused.push(item.name);
                    Put::TooLarge
                }
                reply => return Err(self.unexpected(&reply)),
            });
        }
        if !refused.is_empty() {
            self.remove(&refused)?;
        }
        Ok(puts)
    }

    fn add(&self, items: &[Item<'_>]) -> Result<Vec<Put>, Error> {
        if items.is_empty() {
            return Ok(vec![]);
        }
        let commands: Vec<Command<'_>> = items
            .iter()
            .map(|item| if is_too_large(item) { Command::Exists(item.name) } else { Command::Add(*item) })
            .collect();
        let mut replies = self.ask(Purpose::Write, &commands)?;
        // Out of memory, a server does not look whether something is there.
        let refused: Vec<usize> = (0..replies.len()).filter(|place| replies[*place].refuses("OOM")).collect();
        if !refused.is_empty() {
            let questions: Vec<Command<'_>> = refused.iter().map(|place| Command::Exists(items[*place].name)).collect();
            for (place, reply) in refused.into_iter().zip(self.ask(Purpose::Write, &questions)?) {
                replies[place] = reply;
            }
        }
        let put = |reply: Reply| match reply {
            Reply::Status(_) => Ok(Put::Done),
            Reply::Nil | Reply::Number(1) => Ok(Put::Held),
            Reply::Number(0) => Ok(Put::TooLarge),
            reply => Err(self.unexpected(&reply)),
        };
        replies.into_iter().map(put).collect()
    }

    fn swap(&self, item: &Item<'_>, mark: &Mark) -> Result<Put, Error> {
        if is_too_large(item) {
            return self.swap_for_nothing(item.name, mark);
        }
        let texts = [Some(mark.bytes()), Some(item.bytes)];
        let arguments = Arguments { texts, lifetime: Some(item.lifetime), ..Arguments::of(item.name) };
        match self.ask_one(Purpose::Write, Command::Run(Script::Swap, arguments))? {
            Reply::Number(1) => Ok(Put::Done),
            Reply::Number(0) => Ok(Put::Held),
            Reply::Number(-1) => Ok(Put::TooLarge),
            reply if reply.refuses("WRONGTYPE") => Ok(Put::Held),
            reply if reply.refuses("OOM") => self.swap_for_nothing(item.name, mark),
            reply => Err(self.unexpected(&reply)),
        }
    }

    fn remove(&self, names: &[&[u8]]) -> Result<Vec<bool>, Error> {
        if names.is_empty() {
            return Ok(vec![]);
        }
        let commands: Vec<Command<'_>> = names.iter().map(|name| Command::Unlink(name)).collect();
        self.ask(Purpose::Write, &commands)?.iter().map(|reply| self.flag(reply)).collect()
    }

    fn remove_marked(&self, name: &[u8], mark: &Mark) -> Result<bool, Error> {
        let arguments = Arguments { texts: [Some(mark.bytes()), None], ..Arguments::of(name) };
        match self.ask_one(Purpose::Write, Command::Run(Script::RemoveMarked, arguments))? {
            reply if reply.refuses("WRONGTYPE") => Ok(false),
            reply => self.flag(&reply),
        }
    }

    fn incr(&self, name: &[u8], delta: i64) -> Result<Incr, Error> {
        let arguments = Arguments { number: Some(delta), ..Arguments::of(name) };
        match self.ask_one(Purpose::Write, Command::Run(Script::Incr, arguments))? {
            Reply::Nil => Ok(Incr::Missing),
            Reply::Bytes(sum) => {
                let sum = std::str::from_utf8(&sum).ok().and_then(|sum| sum.parse().ok());
                sum.map(Incr::Value).ok_or_else(|| self.foreign())
            }
            Reply::Refusal(text)
                if ["not an integer", "overflow", "WRONGTYPE"].iter().any(|reason| text.contains(reason)) =>
            {
                Ok(Incr::NotACount)
            }
            reply => Err(self.unexpected(&reply)),
        }
    }

    fn raise(&self, items: &[(&[u8], i64, Lifetime)]) -> Result<(), Error> {
        if items.is_empty() {
            return Ok(());
        }
        let commands: Vec<Command<'_>> = items
            .iter()
            .map(|&(name, number, lifetime)| {
                let arguments = Arguments { number: Some(number), lifetime: Some(lifetime), ..Arguments::of(name) };
                Command::Run(Script::Raise, arguments)
            })
            .collect();
        for reply in self.ask(Purpose::Write, &commands)? {
            if !matches!(reply, Reply::Number(_) | Reply::Status(_)) {
                return Err(self.unexpected(&reply));
            }
        }
        Ok(())
    }

    fn touch(&self, names: &[&[u8]], lifetime: Lifetime) -> Result<Vec<bool>, Error> {
        if names.is_empty() {
            return Ok(vec![]);
        }
        let ms = match lifetime {
            Lifetime::After(time) => milliseconds(time),
            Lifetime::Keep => {
                let commands: Vec<Command<'_>> = names.iter().map(|name| Command::Exists(name)).collect();
                return self.ask(Purpose::Write, &commands)?.iter().map(|reply| self.flag(reply)).collect();
            }
            Lifetime::Never => {
                // PERSIST does not tell what had no lifetime from what is not there.
                let pairs = names.iter().flat_map(|name| [Command::Persist(name), Command::Exists(name)]);
                let pairs: Vec<Command<'_>> = pairs.collect();
                let replies = self.ask(Purpose::Write, &pairs)?;
                return replies.chunks_exact(2).map(|pair| self.flag(&pair[0]).and(self.flag(&pair[1]))).collect();
            }
        };
        let commands: Vec<Command<'_>> = names.iter().map(|name| Command::Expire(name, ms)).collect();
        self.ask(Purpose::Write, &commands)?.iter().map(|reply| self.flag(reply)).collect()
    }

    fn left(&self, name: &[u8]) -> Result<Left, Error> {
        match self.ask_one(Purpose::Read, Command::Left(name))? {
            Reply::Number(-2) => Ok(Left::Absent),
            Reply::Number(-1) => Ok(Left::Never),
            Reply::Number(ms) if ms >= 0 => Ok(Left::Time(Duration::from_millis(ms as u64))),
            reply => Err(self.unexpected(&reply)),
        }
    }

    fn empty(&self) -> Result<(), Error> {
        Err(Error::unsupported(format!("{} is emptied by removing what is ours", self.title)))
    }

    fn scan(&self, beginning: &[u8], each: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Error> {
        let pattern = pattern_of(beginning);
        let found: Result<Arc<Node>, Fault> = match &self.runtime {
            Runtime::Cluster(cluster) => return self.scan_cluster(cluster, beginning, &pattern, each),
            Runtime::Standalone(standalone) => {
                return self.scan_at(&standalone.primary, beginning, &pattern, each).map(|_| ());
            }
            Runtime::Sentinel(sentinel) => sentinel.primary(self.dial.until()),
        };
        let node = found.map_err(|fault| fault.error)?;
        self.scan_at(&node, beginning, &pattern, each).map(|_| ())
    }
}
