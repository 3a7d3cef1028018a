//! A batch over several servers: the questions of each server in the order of the batch, written to all before any is read from.
//! It never asks anything twice, and takes the answers of an exchange that ended badly from nobody.
//!
//! ```text
//! questions 0 1 2 3 4    server A: 0 3    write A, write B, read A, read B;  answers 0 1 2 3 4
//!                        server B: 1 2 4
//! ```

use std::collections::VecDeque;

use super::connection::{Answer, Ask, Connection, Deadline};
use super::fault::Fault;
use super::node::Node;
use super::settings::MemcachedSettings;
use super::wire::Verb;

/// A round has as many questions to a server as fit here, so that what is written and what is answered meanwhile fits into the buffers
/// of the system: nobody ever waits for somebody who waits for him.
const ROUND_BYTES: usize = 32 << 10;
/// The bytes of an answer without a value, counted for writes, whose own size does not matter.
const SHORT_ANSWER: usize = 24;
/// The bytes of a question around its name.
const AROUND: usize = 40;

/// What is still to be done with one server.
struct Turn<'t> {
    node: &'t Node,
    connection: Option<Connection>,
    waiting: VecDeque<usize>,
    /// The questions of this round, and the opaque of the first.
    sent: Vec<usize>,
    first: u32,
}

/// Asks each question of the node at the same place in `homes`.
pub(super) fn exchange(
    nodes: &[Node],
    homes: &[usize],
    asks: &[Ask<'_>],
    settings: &MemcachedSettings,
) -> Vec<Result<Answer, Fault>> {
    if let ([home], [ask]) = (homes, asks) {
        return vec![exchange_one(&nodes[*home], ask, settings)];
    }
    let mut answers: Vec<Option<Result<Answer, Fault>>> = Vec::new();
    answers.resize_with(asks.len(), || None);
    let mut turns: Vec<Turn<'_>> = Vec::new();
    let mut turn_of = vec![usize::MAX; nodes.len()];
    for (place, home) in homes.iter().enumerate() {
        if turn_of[*home] == usize::MAX {
            turn_of[*home] = turns.len();
            let (waiting, sent) = (VecDeque::new(), Vec::new());
            turns.push(Turn { node: &nodes[*home], connection: None, waiting, sent, first: 0 });
        }
        turns[turn_of[*home]].waiting.push_back(place);
    }
    while !turns.is_empty() {
        for turn in &mut turns {
            if let Err(fault) = turn.write(asks, settings) {
                turn.give_up(&fault, &mut answers);
            }
        }
        let mut deadline = Deadline::after(settings.reply_timeout);
        for turn in &mut turns {
            if let Err(fault) = turn.read(asks, settings, &mut deadline, &mut answers) {
                turn.give_up(&fault, &mut answers);
            }
        }
        turns.retain_mut(|turn| {
            let is_done = turn.waiting.is_empty();
            if is_done && let Some(connection) = turn.connection.take() {
                turn.node.put_back(connection);
            }
            !is_done
        });
    }
    let unasked = || Err(Fault::outage("memcached was not asked"));
    answers.into_iter().map(|answer| answer.unwrap_or_else(unasked)).collect()
}

/// The same for one question, which most batches are: without the lists of a round.
fn exchange_one(node: &Node, ask: &Ask<'_>, settings: &MemcachedSettings) -> Result<Answer, Fault> {
    let mut connection = node.take(settings)?;
    let mut answer = None;
    let asked = connection.ask(std::iter::once(ask)).and_then(|first| {
        let mut deadline = Deadline::after(settings.reply_timeout);
        connection.answers(std::iter::once(ask), first, &mut deadline, |given| answer = Some(given))
    });
    asked.inspect_err(|fault| node.failed(fault, settings))?;
    node.put_back(connection);
    answer.ok_or_else(|| Fault::outage("memcached was not asked"))
}

impl Turn<'_> {
    /// Sends the questions of the next round.
    fn write(&mut self, asks: &[Ask<'_>], settings: &MemcachedSettings) -> Result<(), Fault> {
        if self.connection.is_none() {
            self.connection = Some(self.node.take(settings)?);
        }
        let mut bytes = 0;
        self.sent.clear();
        while let Some(place) = self.waiting.front() {
            bytes += cost(&asks[*place]);
            if bytes > ROUND_BYTES && !self.sent.is_empty() {
                break;
            }
            self.sent.extend(self.waiting.pop_front());
        }
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let first = connection.ask(self.sent.iter().map(|place| &asks[*place]));
        self.first = first.inspect_err(|fault| self.node.failed(fault, settings))?;
        Ok(())
    }

    /// Takes the answers of this round. They count when all of them have come.
    fn read(
        &mut self,
        asks: &[Ask<'_>],
        settings: &MemcachedSettings,
        deadline: &mut Deadline,
        answers: &mut [Option<Result<Answer, Fault>>],
    ) -> Result<(), Fault> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let mut places = self.sent.iter();
        let questions = self.sent.iter().map(|place| &asks[*place]);
        let read = connection.answers(questions, self.first, deadline, |answer| {
            if let Some(place) = places.next() {
                answers[*place] = Some(Ok(answer));
            }
        });
        read.inspect_err(|fault| self.node.failed(fault, settings))
    }

    /// Answers the questions of this round, whatever it has brought, and those not yet asked with the fault.
    fn give_up(&mut self, fault: &Fault, answers: &mut [Option<Result<Answer, Fault>>]) {
        self.connection = None;
        for place in self.sent.drain(..).chain(self.waiting.drain(..)) {
            answers[place] = Some(Err(fault.clone()));
        }
    }
}

fn cost(ask: &Ask<'_>) -> usize {
    match ask.verb {
        Verb::Set { .. } => SHORT_ANSWER,
        _ => AROUND + ask.name.sent_bytes(),
    }
}
