//! Servers that Sentinel watches: the primary is looked up, and looked up anew when it is lost or turns out to be none any more.
//! It never asks a server again what that server may have carried out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use arc_swap::ArcSwapOption;

use super::command::Command;
use super::connection::Part;
use super::fault::{Cause, Fault, Reach};
use super::node::{Dial, Node, Purpose};
use super::reply::Reply;
use super::settings::{Address, Endpoint, Entry, Reads};
use crate::error::Error;

pub(super) struct Sentinel {
    sentinels: Vec<Node>,
    service: String,
    entry: Entry,
    dial: Dial,
    reads: Reads,
    /// The sentinel that is asked first: the one that answered last.
    first: AtomicUsize,
    found: ArcSwapOption<Found>,
    /// What was found before, be it forgotten: a server that is named again keeps its connections.
    known: ArcSwapOption<Found>,
    turn: AtomicUsize,
}

/// What the sentinels said.
struct Found {
    primary: Arc<Node>,
    replicas: Vec<Arc<Node>>,
}

impl Sentinel {
    pub(super) fn new(sentinels: &[Endpoint], service: &str, entry: &Entry, reads: Reads, dial: &Dial) -> Sentinel {
        Sentinel {
            sentinels: sentinels.iter().map(|sentinel| Node::new(sentinel.clone(), Part::Sentinel, dial)).collect(),
            service: service.into(),
            entry: entry.clone(),
            dial: dial.clone(),
            reads,
            first: AtomicUsize::new(0),
            found: ArcSwapOption::empty(),
            known: ArcSwapOption::empty(),
            turn: AtomicUsize::new(0),
        }
    }

    pub(super) fn ask(&self, purpose: Purpose, commands: &[Command<'_>], until: Instant) -> Result<Vec<Reply>, Fault> {
        let found = self.found(until)?;
        if purpose == Purpose::Read
            && let Some(replies) = self.ask_replica(&found, commands, until)
        {
            return Ok(replies);
        }
        let result = found.primary.ask(purpose, commands, until);
        let (mut replies, refused) = match result {
            Ok(replies) => {
                // The server is a replica by now, and has not carried these out.
                let refused: Vec<usize> =
                    (0..replies.len()).filter(|place| replies[*place].refuses("READONLY")).collect();
                if refused.is_empty() {
                    return Ok(replies);
                }
                (replies, refused)
            }
            Err(fault) => {
                self.forget(&found);
                let is_harmless = purpose == Purpose::Read || fault.reach == Reach::Unsent;
                if fault.cause != Cause::Closed || !is_harmless {
                    return Err(fault);
                }
                (vec![Reply::Nil; commands.len()], (0..commands.len()).collect())
            }
        };
        self.forget(&found);
        let again: Vec<Command<'_>> = refused.iter().map(|place| commands[*place]).collect();
        let answers = self.found(until)?.primary.ask(purpose, &again, until)?;
        for (place, answer) in refused.into_iter().zip(answers) {
            replies[place] = answer;
        }
        Ok(replies)
    }

    /// The primary.
    pub(super) fn primary(&self, until: Instant) -> Result<Arc<Node>, Fault> {
        self.found(until).map(|found| Arc::clone(&found.primary))
    }

    fn ask_replica(&self, found: &Found, commands: &[Command<'_>], until: Instant) -> Option<Vec<Reply>> {
        if found.replicas.is_empty() {
            return None;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let replica = &found.replicas[turn % found.replicas.len()];
        let replies = replica.ask(Purpose::Read, commands, until).ok()?;
        (!replies.iter().any(|reply| matches!(reply, Reply::Refusal(_)))).then_some(replies)
    }

    fn forget(&self, found: &Arc<Found>) {
        // Unless another thread has found another by now.
        self.found.compare_and_swap(Arc::as_ptr(found), None);
    }

    fn found(&self, until: Instant) -> Result<Arc<Found>, Fault> {
        if let Some(found) = self.found.load_full() {
            return Ok(found);
        }
        let found = Arc::new(self.look_up(until)?);
        self.found.store(Some(Arc::clone(&found)));
        self.known.store(Some(Arc::clone(&found)));
        Ok(found)
    }

    /// Asks the sentinels in turn until one answers.
    fn look_up(&self, until: Instant) -> Result<Found, Fault> {
        let first = self.first.load(Ordering::Relaxed);
        let mut last = None;
        for turn in 0..self.sentinels.len() {
            let place = (first + turn) % self.sentinels.len();
            let share = until.saturating_duration_since(Instant::now()) / (self.sentinels.len() - turn) as u32;
            match self.look_up_at(&self.sentinels[place], Instant::now() + share) {
                Ok(found) => {
                    self.first.store(place, Ordering::Relaxed);
                    return Ok(found);
                }
                Err(fault) => last = Some(fault),
            }
            // The next operation does not begin with one that was slow.
            self.first.store(place + 1, Ordering::Relaxed);
        }
        Err(last.unwrap_or_else(|| Fault::unsent(Error::setting("Sentinel: no sentinel is named"))))
    }

    fn look_up_at(&self, sentinel: &Node, until: Instant) -> Result<Found, Fault> {
        let service = self.service.as_bytes();
        let commands = [
            Command::Words(&[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", service]),
            Command::Words(&[b"SENTINEL", b"SLAVES", service]),
        ];
        let count = if self.reads == Reads::Replicas { 2 } else { 1 };
        let replies = sentinel.ask(Purpose::Read, &commands[..count], until)?;
        let primary = match &replies[0] {
            Reply::Many(parts) => address(parts.first(), parts.get(1)),
            Reply::Refusal(text) => return Err(Fault::unsent(super::fault::refusal(&sentinel.title, text))),
            _ => {
                return Err(Fault::unsent(Error::setting(format!(
                    "{} watches no service {:?}; check the name",
                    sentinel.title, self.service
                ))));
            }
        };
        let primary = primary.ok_or_else(|| Fault::foreign(&sentinel.title))?;
        let known = self.known.load();
        let known: Vec<&Arc<Node>> =
            known.iter().flat_map(|found| std::iter::once(&found.primary).chain(&found.replicas)).collect();
        let node = |address: Address, part: Part| {
            let same = known.iter().find(|node| node.endpoint.address == address && node.part == part);
            let make = || {
                Arc::new(Node::new(Endpoint { address: address.clone(), entry: self.entry.clone() }, part, &self.dial))
            };
            same.map_or_else(make, |node| Arc::clone(node))
        };
        let replicas = replies.get(1).map_or(&[][..], Reply::parts);
        Ok(Found {
            primary: node(primary, Part::Primary),
            replicas: replicas.iter().filter_map(replica_address).map(|address| node(address, Part::Any)).collect(),
        })
    }
}

fn address(host: Option<&Reply>, port: Option<&Reply>) -> Option<Address> {
    let (host, port) = (host?.text(), port?.text().parse().ok()?);
    (!host.is_empty()).then(|| Address::Tcp { host: host.into(), port })
}

/// The address of a replica that is well: a list of names and values.
fn replica_address(replica: &Reply) -> Option<Address> {
    let fields = replica.parts();
    let field = |name: &str| fields.chunks_exact(2).find(|pair| pair[0].text() == name).map(|pair| &pair[1]);
    let flags = field("flags")?.text();
    let is_well = !flags.contains("down") && !flags.contains("disconnected");
    is_well.then(|| address(field("ip"), field("port"))).flatten()
}
