//! Memcached as a [`Server`], over its meta protocol: `mg`, `ms`, `md`, `ma` (1.6.10 or later).
//!
//! Several servers share the keys; where a key lives is decided as pymemcache or libmemcached do ([`Placement`]), and never changes
//! because a server is down. A batch is written to all servers before any is read from; each reply is checked to be that of its
//! question; connections belong to one process and survive neither a fork nor an exchange that ended badly.
//!
//! ```text
//! Memcached (this file)   what each verb asks, and what the answers mean      counters.rs  numbers      lease.rs  leases
//!   ring.rs               which server                name.rs  the key on the wire         lifetime.rs  seconds
//!   exchange.rs           a batch over servers        wire.rs  questions and replies as bytes
//!   node.rs               idle connections, rests     connection.rs, dial.rs, tls.rs       one connection
//! ```
//!
//! What it never does: it lists no keys (memcached cannot), retries nothing that may have been carried out, and moves no key to another
//! server. While some servers of several are down, reads of their keys are misses and [`Memcached::down`] names them; writes and
//! removes of their keys are outages, and what went to the other servers of that batch stays done.

mod connection;
mod counters;
mod dial;
mod exchange;
mod fault;
mod hashes;
mod lease;
mod lifetime;
mod name;
mod node;
mod ring;
mod settings;
#[cfg(feature = "memcached-tls")]
mod tls;
#[cfg(not(feature = "memcached-tls"))]
#[path = "without_tls.rs"]
mod tls;
pub mod wire;

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use self::connection::{Answer, Ask};
use self::fault::Fault;
use self::lifetime::Seconds;
use self::name::Name;
use self::node::Node;
use self::ring::Ring;
use self::tls::Tls;
use self::wire::{Code, Verb, When};
use super::far::server::{Foreign, Held, Item, Left, Lifetime, Mark, Put, Server};
use crate::entry::Incr;
use crate::error::Error;

pub use self::lease::Lease;
pub use self::settings::{Address, DEFAULT_PORT, MemcachedSettings, Place, Placement, TlsSettings};

/// How often a change is tried anew that others overtook; in each round one of them gets on.
const MOST_ROUNDS: usize = 1000;

/// One memcached, or several that share the keys.
pub struct Memcached {
    settings: MemcachedSettings,
    ring: Ring,
    tls: Option<Tls>,
    here: ArcSwap<Here>,
}

/// What belongs to one process.
struct Here {
    forks: u64,
    nodes: Vec<Node>,
}

impl Memcached {
    /// Memcached with these settings. Nothing is connected yet.
    pub fn new(settings: MemcachedSettings) -> Result<Memcached, Error> {
        settings.check()?;
        crate::store::segment::os::watch_forks();
        let ring = Ring::new(&settings.places, settings.placement);
        let tls = settings.tls.as_ref().map(Tls::new).transpose()?;
        let here = ArcSwap::from_pointee(Here::new(&settings, tls.as_ref()));
        Ok(Memcached { settings, ring, tls, here })
    }

    /// Why servers are left out at the moment, one sentence for each.
    pub fn down(&self) -> Vec<String> {
        self.here().nodes.iter().filter_map(Node::down).collect()
    }

    /// The servers as this process reaches them. A child of a fork leaves the connections of its parent alone, but for its copies of
    /// their descriptors, which it closes.
    fn here(&self) -> Guard<Arc<Here>> {
        let here = self.here.load();
        if here.forks == crate::forks() {
            return here;
        }
        self.here.store(Arc::new(Here::new(&self.settings, self.tls.as_ref())));
        self.here.load()
    }

    /// Asks for each name; answers in order.
    fn ask<'a>(&self, asks: impl Iterator<Item = (&'a [u8], Verb<'a>)>) -> Vec<Result<Answer, Fault>> {
        let (mut homes, mut questions) = (Vec::new(), Vec::new());
        for (name, verb) in asks {
            homes.push(self.ring.server_of(name));
            questions.push(Ask { verb, name: Name::of(name) });
        }
        exchange::exchange(&self.here().nodes, &homes, &questions, &self.settings)
    }

    /// Asks for each name; an error where any was not answered.
    fn ask_all<'a>(&self, asks: impl Iterator<Item = (&'a [u8], Verb<'a>)>) -> Result<Vec<Answer>, Error> {
        Ok(self.ask(asks).into_iter().collect::<Result<_, Fault>>()?)
    }

    fn ask_one(&self, name: &[u8], verb: Verb<'_>) -> Result<Answer, Error> {
        let [answer] = &mut self.ask([(name, verb)].into_iter())[..] else {
            return Err(Error::outage("memcached was not asked"));
        };
        Ok(std::mem::replace(answer, Err(Fault::outage("taken")))?)
    }

    /// Whether the server of this name takes a value of this size.
    fn takes(&self, name: &[u8], size: usize) -> bool {
        if size <= self.largest_value_bytes() {
            return true;
        }
        self.here().nodes[self.ring.server_of(name)].takes(size, &self.settings)
    }

    /// Writes a value that keeps the lifetime of the one before it, which nobody may change in between.
    fn set_keeping(&self, item: &Item<'_>) -> Result<Put, Error> {
        for _ in 0..MOST_ROUNDS {
            let before = self.ask_one(item.name, Verb::Get(" c t"))?;
            let (when, ttl) = match before.code {
                Code::Missing => (When::Absent, Seconds::EVER),
                _ => (When::Cas(self.cas(&before)?), before.lives_on()),
            };
            let answer = self.ask_one(item.name, Verb::Set { value: item.bytes, ttl: ttl.token(), when })?;
            match put(&answer) {
                Put::Held => {}
                Put::Done => return Ok(Put::Done),
                Put::TooLarge => {
                    self.ask_one(item.name, Verb::Delete(None))?;
                    return Ok(Put::TooLarge);
                }
            }
        }
        Err(self.unsettled())
    }

    /// The cas number of a value, without which nothing can be changed safely.
    fn cas(&self, answer: &Answer) -> Result<u64, Error> {
        if answer.cas == 0 {
            let title = self.title();
            return Err(Error::unsupported(format!("{title} runs without cas numbers; start it without -C")));
        }
        Ok(answer.cas)
    }

    fn unsettled(&self) -> Error {
        Error::outage(format!("a value in {} was changed by others {MOST_ROUNDS} times in a row", self.title()))
    }
}

impl Here {
    fn new(settings: &MemcachedSettings, tls: Option<&Tls>) -> Here {
        let nodes = settings.places.iter().map(|place| Node::new(place.address.clone(), tls.cloned()));
        Here { forks: crate::forks(), nodes: nodes.collect() }
    }
}

impl Answer {
    /// The value, if there is one that may be served: neither one marked stale nor the empty one of a lease.
    fn is_held(&self) -> bool {
        self.code == Code::Value && !self.stale && !(self.waiting && self.value.is_empty())
    }

    fn lives_on(&self) -> Seconds {
        Seconds(self.left.unwrap_or(Seconds::EVER.0))
    }
}

fn put(answer: &Answer) -> Put {
    match answer.code {
        Code::Done => Put::Done,
        Code::Error => Put::TooLarge,
        _ => Put::Held,
    }
}

fn mark(cas: u64) -> Mark {
    Mark::new(&cas.to_be_bytes())
}

/// The cas number in a mark; 0, which no value has, in a mark of another server.
fn cas_of(mark: &Mark) -> u64 {
    mark.bytes().try_into().map_or(0, u64::from_be_bytes)
}

impl Memcached {
    /// What is under the names, of which these flags ask so much.
    fn get_as<T>(
        &self,
        names: &[&[u8]],
        flags: &'static str,
        each: impl Fn(Answer) -> T,
    ) -> Result<Vec<Option<T>>, Error> {
        let answers = self.ask(names.iter().map(|name| (*name, Verb::Get(flags))));
        let is_answered = answers.iter().any(Result::is_ok);
        let mut all = Vec::with_capacity(answers.len());
        for answer in answers {
            all.push(match answer {
                Ok(answer) if answer.is_held() => Some(each(answer)),
                Ok(_) => None,
                Err(fault) if is_answered && !fault.is_lasting() => None,
                Err(fault) => return Err(fault.into()),
            });
        }
        Ok(all)
    }
}

impl Server for Memcached {
    fn title(&self) -> String {
        self.settings.title()
    }

    fn largest_value_bytes(&self) -> usize {
        self.here().nodes.iter().map(Node::largest_value_bytes).min().unwrap_or(0)
    }

    fn is_fleet(&self) -> bool {
        self.here().nodes.len() > 1
    }

    /// In the order of the settings.
    fn place_of(&self, name: &[u8]) -> usize {
        self.ring.server_of(name)
    }

    fn is_partly_up(&self) -> bool {
        self.is_fleet() && self.here().nodes.iter().any(|node| node.down().is_none())
    }

    fn get(&self, names: &[&[u8]]) -> Result<Vec<Option<Held>>, Error> {
        self.get_as(names, " v c", |answer| Held { mark: mark(answer.cas), bytes: answer.value })
    }

    fn foreign(&self, names: &[&[u8]]) -> Result<Vec<Option<Foreign>>, Error> {
        self.get_as(names, " v f", |answer| (answer.value, answer.flags))
    }

    fn set(&self, items: &[Item<'_>]) -> Result<Vec<Put>, Error> {
        let takes: Vec<bool> = items.iter().map(|item| self.takes(item.name, item.bytes.len())).collect();
        let is_kept = |at: &usize| takes[*at] && items[*at].lifetime == Lifetime::Keep;
        let answers = self.ask_all((0..items.len()).filter(|at| !is_kept(at)).map(|at| {
            let (item, ttl) = (&items[at], Seconds::of(items[at].lifetime, Seconds::EVER).token());
            let set = Verb::Set { value: item.bytes, ttl, when: When::Always };
            // An old value behind a refused write would be stale.
            (item.name, if takes[at] { set } else { Verb::Delete(None) })
        }))?;
        // A server that found no memory for a value may have kept the old one.
        let refused =
            (0..items.len()).filter(|at| !is_kept(at)).zip(&answers).filter(|(_, answer)| answer.code == Code::Error);
        self.ask_all(refused.map(|(at, _)| (items[at].name, Verb::Delete(None))))?;
        let (mut answers, mut puts) = (answers.iter(), Vec::with_capacity(items.len()));
        for (at, item) in items.iter().enumerate() {
            puts.push(if is_kept(&at) {
                self.set_keeping(item)?
            } else {
                let put = answers.next().map_or(Put::Held, put);
                if takes[at] { put } else { Put::TooLarge }
            });
        }
        Ok(puts)
    }

    fn add(&self, items: &[Item<'_>]) -> Result<Vec<Put>, Error> {
        let takes: Vec<bool> = items.iter().map(|item| self.takes(item.name, item.bytes.len())).collect();
        let answers = self.ask_all(items.iter().zip(&takes).map(|(item, takes)| {
            let ttl = Seconds::of(item.lifetime, Seconds::EVER).token();
            let add = Verb::Set { value: item.bytes, ttl, when: When::Absent };
            (item.name, if *takes { add } else { Verb::Get("") })
        }))?;
        let puts = answers.iter().zip(&takes).map(|(answer, takes)| match takes {
            true => put(answer),
            false if answer.code == Code::Missing => Put::TooLarge,
            false => Put::Held,
        });
        Ok(puts.collect())
    }

    fn swap(&self, item: &Item<'_>, mark: &Mark) -> Result<Put, Error> {
        let cas = cas_of(mark);
        if cas == 0 {
            return Ok(Put::Held);
        }
        if !self.takes(item.name, item.bytes.len()) {
            return Ok(if self.remove_marked(item.name, mark)? { Put::TooLarge } else { Put::Held });
        }
        let before = match item.lifetime {
            Lifetime::Keep => self.ask_one(item.name, Verb::Get(" t"))?.lives_on(),
            _ => Seconds::EVER,
        };
        let ttl = Seconds::of(item.lifetime, before).token();
        let put = put(&self.ask_one(item.name, Verb::Set { value: item.bytes, ttl, when: When::Cas(cas) })?);
        if put == Put::TooLarge {
            // A server that found no memory for a value may have kept the old one.
            self.remove_marked(item.name, mark)?;
        }
        Ok(put)
    }

    fn remove(&self, names: &[&[u8]]) -> Result<Vec<bool>, Error> {
        let answers = self.ask_all(names.iter().map(|name| (*name, Verb::Delete(None))))?;
        Ok(answers.iter().map(|answer| answer.code == Code::Done).collect())
    }

    fn remove_marked(&self, name: &[u8], mark: &Mark) -> Result<bool, Error> {
        match cas_of(mark) {
            0 => Ok(false),
            cas => Ok(self.ask_one(name, Verb::Delete(Some(cas)))?.code == Code::Done),
        }
    }

    fn incr(&self, name: &[u8], delta: i64) -> Result<Incr, Error> {
        self.add_to(name, delta)
    }

    fn raise(&self, items: &[(&[u8], i64, Lifetime)]) -> Result<(), Error> {
        self.raise_all(items)
    }

    fn touch(&self, names: &[&[u8]], lifetime: Lifetime) -> Result<Vec<bool>, Error> {
        let verb = match lifetime {
            Lifetime::Keep => Verb::Get(""),
            _ => Verb::Touch(Seconds::of(lifetime, Seconds::EVER).token()),
        };
        let answers = self.ask_all(names.iter().map(|name| (*name, verb)))?;
        Ok(answers.iter().map(|answer| answer.code == Code::Done).collect())
    }

    fn left(&self, name: &[u8]) -> Result<Left, Error> {
        let answer = self.ask_one(name, Verb::Get(" t"))?;
        Ok(if answer.code == Code::Missing { Left::Absent } else { answer.lives_on().left() })
    }

    fn empty(&self) -> Result<(), Error> {
        self.here().nodes.iter().try_for_each(|node| node.empty(&self.settings)).map_err(Error::from)
    }

    fn scan(&self, _beginning: &[u8], _each: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Error> {
        let title = self.title();
        Err(Error::unsupported(format!(
            "{title} cannot list its keys; delete by tag, or use Redis where patterns are needed"
        )))
    }
}
