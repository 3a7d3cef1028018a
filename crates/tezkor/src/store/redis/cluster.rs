//! A cluster: a batch becomes one exchange with each server that has some of its names, all sent before the first is read.
//!
//! 1. Group the commands by the server that has the slot of their name.
//! 2. Send every group, then read every group.
//! 3. What a server sent on (MOVED, ASK) was not carried out: it goes where it was sent, in another round. What could not be sent, and
//!    reads whose server closed the connection, go where the slots say after they were read anew.
//!
//! It never asks again what may have been carried out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::command::Command;
use super::connection::Part;
use super::fault::{Cause, Fault, Reach, foreign, refusal};
use super::node::{Dial, Node, Purpose};
use super::pool::Lease;
use super::reply::Reply;
use super::settings::{Address, Endpoint, Entry, Reads};
use super::slots::{Range, SLOT_COUNT, read, redirection, slot_of};
use crate::error::Error;
use crate::store::segment::os::boot_ms;

/// A batch is sent on this often: more means that the cluster does not come to rest.
const MOST_ROUNDS: usize = 6;
/// While slots are moved one by one, the map is read anew this often at most; between, servers send us on.
const REFRESH_MS: u64 = 50;
const NOBODY: u16 = u16::MAX;

pub(super) struct Cluster {
    seeds: Vec<Arc<Node>>,
    entry: Entry,
    dial: Dial,
    reads: Reads,
    map: ArcSwapOption<Map>,
    /// Servers by address, so that they keep their connections when slots move.
    nodes: ArcSwap<BTreeMap<(Address, Rank), Arc<Node>>>,
    is_suspect: AtomicBool,
    refreshed_ms: AtomicU64,
    turn: AtomicUsize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Primary,
    Replica,
}

/// The primaries, and how the slots lie on them.
pub(super) struct Survey {
    pub primaries: Vec<Arc<Node>>,
    ranges: Vec<Range>,
    open: Vec<String>,
}

/// Who has which slot.
struct Map {
    ranges: Vec<Range>,
    /// For each slot the place of its shard.
    slots: Vec<u16>,
    shards: Vec<Shard>,
}

struct Shard {
    primary: Arc<Node>,
    replicas: Vec<Arc<Node>>,
}

/// A command on its way.
struct Errand {
    place: usize,
    /// Where it was sent on to.
    to: Option<(Arc<Node>, Introduction)>,
}

/// How a server is told that it may answer for a slot that is moving to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Introduction {
    None,
    Asking,
}

/// What one server is asked in a round.
struct Group<'c> {
    node: Arc<Node>,
    commands: Vec<Command<'c>>,
    /// For each command the errand that it is of; ASKING is of none.
    places: Vec<Option<usize>>,
    lease: Option<Lease>,
}

impl Cluster {
    pub(super) fn new(seeds: &[Endpoint], reads: Reads, dial: &Dial) -> Cluster {
        let seed = |endpoint: &Endpoint| Arc::new(Node::new(endpoint.clone(), Part::Any, dial));
        Cluster {
            seeds: seeds.iter().map(seed).collect(),
            entry: seeds.first().map(|seed| seed.entry.clone()).unwrap_or_default(),
            dial: dial.clone(),
            reads,
            map: ArcSwapOption::empty(),
            nodes: ArcSwap::default(),
            is_suspect: AtomicBool::new(false),
            refreshed_ms: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
        }
    }

    pub(super) fn ask(&self, purpose: Purpose, commands: &[Command<'_>], until: Instant) -> Result<Vec<Reply>, Fault> {
        let mut replies = vec![Reply::Nil; commands.len()];
        let mut errands: Vec<Errand> = (0..commands.len()).map(|place| Errand { place, to: None }).collect();
        for _ in 0..MOST_ROUNDS {
            let map = self.map(until)?;
            let mut groups = self.groups(&map, purpose, commands, &errands)?;
            let mut next = Vec::new();
            let sent: Vec<Result<(), Fault>> = groups.iter_mut().map(|group| group.send(purpose, until)).collect();
            let mut lost = None;
            for (group, sent) in groups.iter_mut().zip(sent) {
                match sent.and_then(|()| group.receive(purpose, until)) {
                    Ok(answers) => self.sort(group, answers, &mut replies, &mut next)?,
                    Err(fault) => lost = self.lost(&map, group, purpose, fault, &mut next).or(lost),
                }
            }
            if let Some(fault) = lost {
                return Err(fault);
            }
            if next.is_empty() {
                return Ok(replies);
            }
            errands = next;
        }
        self.is_suspect.store(true, Ordering::Relaxed);
        Err(Fault::unsent(Error::outage(format!(
            "{}: the cluster keeps sending on what it is asked",
            self.seeds[0].title
        ))))
    }

    /// All primaries, and how the slots lie: those that are on their way count as another way to lie.
    pub(super) fn survey(&self, until: Instant) -> Result<Survey, Fault> {
        let map = self.refresh(until)?;
        let primaries: Vec<Arc<Node>> = map.shards.iter().map(|shard| Arc::clone(&shard.primary)).collect();
        let mut open = Vec::new();
        for node in &primaries {
            // Each server tells of its own slots alone: `... connected 0-5460 [93-<-id] [77->-id]`.
            let replies = node.ask(Purpose::Read, &[Command::Words(&[b"CLUSTER", b"NODES"])], until)?;
            let own = replies[0].text().lines().find(|line| line.contains("myself")).unwrap_or_default();
            open.extend(own.split(' ').filter(|word| word.starts_with('[')).map(String::from));
        }
        Ok(Survey { primaries, ranges: map.ranges.clone(), open })
    }

    fn groups<'c>(
        &self,
        map: &Map,
        purpose: Purpose,
        commands: &[Command<'c>],
        errands: &[Errand],
    ) -> Result<Vec<Group<'c>>, Fault> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut groups: Vec<Group<'c>> = Vec::new();
        for errand in errands {
            let command = commands[errand.place];
            let (node, introduction) = match &errand.to {
                Some((node, introduction)) => (Arc::clone(node), *introduction),
                None => {
                    let slot = slot_of(command.name().unwrap_or_default());
                    let Some(shard) = map.shards.get(usize::from(map.slots[usize::from(slot)])) else {
                        self.is_suspect.store(true, Ordering::Relaxed);
                        return Err(Fault::unsent(Error::outage(format!(
                            "{}: no server of the cluster has slot {slot}",
                            self.seeds[0].title
                        ))));
                    };
                    let reads_replica = purpose == Purpose::Read && !shard.replicas.is_empty();
                    let replica = reads_replica.then(|| &shard.replicas[turn % shard.replicas.len()]);
                    (Arc::clone(replica.unwrap_or(&shard.primary)), Introduction::None)
                }
            };
            let at = match groups.iter().position(|group| Arc::ptr_eq(&group.node, &node)) {
                Some(at) => at,
                None => {
                    groups.push(Group { node, commands: vec![], places: vec![], lease: None });
                    groups.len() - 1
                }
            };
            if introduction == Introduction::Asking {
                groups[at].commands.push(Command::Words(&[b"ASKING"]));
                groups[at].places.push(None);
            }
            groups[at].commands.push(command);
            groups[at].places.push(Some(errand.place));
        }
        Ok(groups)
    }

    /// Keeps answers, and makes errands of what was sent on.
    fn sort(
        &self,
        group: &Group<'_>,
        answers: Vec<Reply>,
        replies: &mut [Reply],
        next: &mut Vec<Errand>,
    ) -> Result<(), Fault> {
        for (place, answer) in group.places.iter().zip(answers) {
            let Some(place) = *place else { continue };
            let introduction = match &answer {
                Reply::Refusal(text) if text.starts_with("MOVED ") => Introduction::None,
                Reply::Refusal(text) if text.starts_with("ASK ") => Introduction::Asking,
                answer => {
                    if answer.refuses("CLUSTERDOWN") {
                        self.is_suspect.store(true, Ordering::Relaxed);
                    }
                    replies[place] = answer.clone();
                    continue;
                }
            };
            let Reply::Refusal(text) = &answer else { continue };
            let to = redirection(text, &group.node.endpoint.address);
            let to = to.ok_or_else(|| Fault::foreign(&group.node.title))?;
            if introduction == Introduction::None {
                self.is_suspect.store(true, Ordering::Relaxed);
            }
            next.push(Errand { place, to: Some((self.node(to, Rank::Primary), introduction)) });
        }
        Ok(())
    }

    /// What becomes of commands whose server was lost: another round where that is harmless, else the fault.
    fn lost(
        &self,
        map: &Map,
        group: &Group<'_>,
        purpose: Purpose,
        fault: Fault,
        next: &mut Vec<Errand>,
    ) -> Option<Fault> {
        self.is_suspect.store(true, Ordering::Relaxed);
        self.refreshed_ms.store(0, Ordering::Relaxed);
        let is_harmless = purpose == Purpose::Read || fault.reach == Reach::Unsent;
        if fault.cause != Cause::Closed || !is_harmless {
            return Some(fault);
        }
        // Reads of a lost replica go to its primary, which the slots may not say for a while.
        let lost_replica = |shard: &&Shard| shard.replicas.iter().any(|replica| Arc::ptr_eq(replica, &group.node));
        let primary = map.shards.iter().find(lost_replica).map(|shard| Arc::clone(&shard.primary));
        let errand = |place: &usize| Errand {
            place: *place,
            to: primary.as_ref().map(|primary| (Arc::clone(primary), Introduction::None)),
        };
        next.extend(group.places.iter().flatten().map(errand));
        None
    }

    /// The map, read anew if it was found to be wrong.
    fn map(&self, until: Instant) -> Result<Arc<Map>, Fault> {
        match self.map.load_full() {
            Some(map) if !self.is_suspect.load(Ordering::Relaxed) => Ok(map),
            Some(map) if boot_ms() < self.refreshed_ms.load(Ordering::Relaxed) + REFRESH_MS => Ok(map),
            _ => self.refresh(until),
        }
    }

    /// Reads the slots from the first server that answers.
    fn refresh(&self, until: Instant) -> Result<Arc<Map>, Fault> {
        let known: Vec<Arc<Node>> =
            self.map.load().iter().flat_map(|map| map.shards.iter()).map(|shard| Arc::clone(&shard.primary)).collect();
        let asked: Vec<&Arc<Node>> = known.iter().chain(&self.seeds).collect();
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut last = Fault::unsent(Error::setting("no server of the cluster is named"));
        for turn in 0..asked.len() {
            let node = asked[(first + turn) % asked.len()];
            let now = Instant::now();
            // One that swallows packets may not use up the time of all, nor the time of what is to be asked then.
            let share = until.saturating_duration_since(now) / 2;
            match self.refresh_from(node, now + share) {
                Ok(map) => return Ok(map),
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    fn refresh_from(&self, node: &Node, until: Instant) -> Result<Arc<Map>, Fault> {
        let replies = node.ask(Purpose::Read, &[Command::Words(&[b"CLUSTER", b"SLOTS"])], until)?;
        if let Reply::Refusal(text) = &replies[0] {
            return Err(Fault::unsent(match text.contains("cluster support disabled") {
                true => Error::setting(format!("{} is no cluster; open it as a single server", node.title)),
                false => refusal(&node.title, text),
            }));
        }
        let ranges = read(&replies[0], &node.endpoint.address).ok_or_else(|| Fault::foreign(&node.title))?;
        if ranges.is_empty() {
            return Err(Fault::unsent(Error::outage(format!("{} has no slots of the cluster", node.title))));
        }
        self.is_suspect.store(false, Ordering::Relaxed);
        self.refreshed_ms.store(boot_ms(), Ordering::Relaxed);
        let map = Arc::new(self.draw(ranges));
        let kept: Vec<*const Node> = map.shards.iter().flat_map(Shard::nodes).map(Arc::as_ptr).collect();
        self.nodes.rcu(|nodes| {
            let mut nodes = BTreeMap::clone(nodes);
            nodes.retain(|_, node| kept.contains(&Arc::as_ptr(node)));
            nodes
        });
        self.map.store(Some(Arc::clone(&map)));
        Ok(map)
    }

    fn draw(&self, mut ranges: Vec<Range>) -> Map {
        ranges.sort_by_key(|range| range.first);
        let (mut slots, mut shards) = (vec![NOBODY; SLOT_COUNT], Vec::<Shard>::new());
        for range in &ranges {
            let primary = self.node(range.servers[0].clone(), Rank::Primary);
            let replicas = if self.reads == Reads::Replicas { &range.servers[1..] } else { &[] };
            let at = match shards.iter().position(|shard| Arc::ptr_eq(&shard.primary, &primary)) {
                Some(at) => at,
                None => {
                    let replicas = replicas.iter().map(|address| self.node(address.clone(), Rank::Replica)).collect();
                    shards.push(Shard { primary, replicas });
                    shards.len() - 1
                }
            };
            slots[usize::from(range.first)..=usize::from(range.last)].fill(at as u16);
        }
        Map { ranges, slots, shards }
    }

    /// The server at an address.
    fn node(&self, address: Address, rank: Rank) -> Arc<Node> {
        let key = (address, rank);
        if let Some(node) = self.nodes.load().get(&key) {
            return Arc::clone(node);
        }
        let part = if rank == Rank::Replica { Part::ClusterReplica } else { Part::Any };
        let made =
            Arc::new(Node::new(Endpoint { address: key.0.clone(), entry: self.entry.clone() }, part, &self.dial));
        self.nodes.rcu(|nodes| {
            let mut nodes = BTreeMap::clone(nodes);
            nodes.entry(key.clone()).or_insert_with(|| Arc::clone(&made));
            nodes
        });
        self.nodes.load().get(&key).map_or(made, Arc::clone)
    }
}

impl Survey {
    /// Whether slots lie as they did.
    pub(super) fn is_like(&self, other: &Survey) -> bool {
        self.ranges == other.ranges && self.open == other.open
    }

    /// Whether no slot is on its way.
    pub(super) fn is_settled(&self) -> bool {
        self.open.is_empty()
    }
}

impl Shard {
    fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        std::iter::once(&self.primary).chain(&self.replicas)
    }
}

impl Group<'_> {
    fn send(&mut self, purpose: Purpose, until: Instant) -> Result<(), Fault> {
        let mut lease = self.node.lease(until)?;
        if let Err(fault) = lease.connection.send(&self.commands, self.node.reply_time(until)) {
            lease = self.node.renewed(lease, purpose, fault, until)?;
            lease.connection.send(&self.commands, self.node.reply_time(until))?;
        }
        self.lease = Some(lease);
        Ok(())
    }

    fn receive(&mut self, purpose: Purpose, until: Instant) -> Result<Vec<Reply>, Fault> {
        let mut lease = self.lease.take().ok_or_else(|| Fault::unsent(foreign(&self.node.title)))?;
        let allowed = self.node.reply_time(until);
        let answers = match lease.connection.receive(self.commands.len(), allowed) {
            Ok(answers) => answers,
            Err(fault) => {
                lease = self.node.renewed(lease, purpose, fault, until)?;
                lease.connection.exchange(&self.commands, self.node.reply_time(until))?
            }
        };
        lease.give_back();
        Ok(answers)
    }
}
