//! A primary, and perhaps replicas that take reads in turn. A replica that does not answer costs one exchange, then the primary is asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::command::Command;
use super::connection::Part;
use super::fault::Fault;
use super::node::{Dial, Node, Purpose};
use super::reply::Reply;
use super::settings::Endpoint;

pub(super) struct Standalone {
    pub primary: Node,
    replicas: Vec<Node>,
    turn: AtomicUsize,
}

impl Standalone {
    pub(super) fn new(primary: &Endpoint, replicas: &[Endpoint], dial: &Dial) -> Standalone {
        let node = |endpoint: &Endpoint| Node::new(endpoint.clone(), Part::Any, dial);
        Standalone { primary: node(primary), replicas: replicas.iter().map(node).collect(), turn: AtomicUsize::new(0) }
    }

    pub(super) fn ask(&self, purpose: Purpose, commands: &[Command<'_>], until: Instant) -> Result<Vec<Reply>, Fault> {
        if purpose == Purpose::Read && !self.replicas.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            if let Ok(replies) = self.replicas[turn % self.replicas.len()].ask(purpose, commands, until)
                && !replies.iter().any(|reply| matches!(reply, Reply::Refusal(_)))
            {
                return Ok(replies);
            }
        }
        self.primary.ask(purpose, commands, until)
    }
}
