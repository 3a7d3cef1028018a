//! Several servers of which each has names of its own. One that is away takes its names with it, and no others: the breaker stays
//! closed as long as another answers, and what a name is owed is paid before that name is read, or it is not read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use super::Tier;
use super::debts::{Debt, Noted};
use crate::error::Error;
use crate::store::far::{names, tags};
use crate::store::segment::tiers::Field;

/// Between two looks at all that is owed.
const LOOK_EVERY_MS: u64 = 250;
/// How long a look takes at most, and how much is told at a time: a reader pays what others owe.
const LOOK_MS: u64 = 20;
const BATCH: usize = 100;

impl Tier {
    /// Whether a server that is away may leave others that answer.
    pub(super) fn is_fleet(&self) -> bool {
        self.server.is_fleet()
    }

    /// Reads names of which nothing is owed; of the others nothing is found.
    pub(super) fn read<T>(
        &self,
        names: &[&[u8]],
        call: impl Fn(&[&[u8]]) -> Result<Vec<Option<T>>, Error>,
    ) -> Result<Vec<Option<T>>, Error> {
        if !self.is_fleet() || !self.is_owed() {
            return call(names);
        }
        let settled: Vec<bool> = self.settle(names);
        let asked: Vec<&[u8]> =
            names.iter().zip(&settled).filter(|(_, is_settled)| **is_settled).map(|(name, _)| *name).collect();
        let mut found = if asked.is_empty() { Vec::new() } else { call(&asked)? }.into_iter();
        Ok(settled.into_iter().map(|is_settled| if is_settled { found.next().flatten() } else { None }).collect())
    }

    /// An error where something is owed for one of the names.
    pub(super) fn require_settled(&self, names: &[&[u8]]) -> Result<(), Error> {
        if !self.is_fleet() || !self.is_owed() || self.settle(names).into_iter().all(|is_settled| is_settled) {
            return Ok(());
        }
        let title = self.server.title();
        Err(Error::outage(format!("one of {title} is away, and has not been told what was removed")))
    }

    /// Pays what is owed for these names, as far as that can be done; whether nothing is owed any more, for each.
    fn settle(&self, names: &[&[u8]]) -> Vec<bool> {
        let now_ms = self.now_ms();
        let next_ms = self.look_at_ms.load(Ordering::Relaxed);
        // What a dead worker left is written down by name at once.
        let is_due = now_ms >= next_ms || next_ms > now_ms + LOOK_EVERY_MS;
        if is_due || !self.owed_intents().is_empty() {
            self.look_at_ms.store(now_ms + LOOK_EVERY_MS, Ordering::Relaxed);
            self.pay_what_can_be();
        }
        names.iter().map(|name| self.settle_one(name)).collect()
    }

    fn settle_one(&self, name: &[u8]) -> bool {
        if names::holds_value(name) {
            return !self.is_written(Debt::Everything, names::location_of(name)) && self.pay_one(Debt::Removal, name);
        }
        self.pay_one(Debt::Tag, name)
    }

    fn is_written(&self, debt: Debt, name: &[u8]) -> bool {
        self.machine.has(&self.machine.store().key(self.debts, &[&[debt as u8], name].concat()))
    }

    /// Pays what is owed for a name; whether nothing is owed any more.
    fn pay_one(&self, debt: Debt, name: &[u8]) -> bool {
        let text = [&[debt as u8], name].concat();
        let Some(noted) = self.noted(&text) else { return true };
        self.pay_noted(debt, &[&noted]).is_ok() && !self.is_written(debt, name)
    }

    /// Pays debts of one kind.
    fn pay_noted(&self, debt: Debt, noted: &[&Noted]) -> Result<(), Error> {
        let names: Vec<&[u8]> = noted.iter().map(|noted| &noted.text[1..]).collect();
        match debt {
            Debt::Removal => self.server.remove(&names).map(drop)?,
            Debt::Tag => names.iter().try_for_each(|tag| tags::invalidate(&*self.server, tag))?,
            Debt::Everything => self.server.empty()?,
            Debt::Old => names.iter().try_for_each(|beginning| self.remove_old(beginning, &mut || Ok(())))?,
        }
        noted.iter().for_each(|noted| self.cross_out(noted));
        Ok(())
    }

    fn pay_what_can_be(&self) {
        let dead = self.owed_intents();
        let (intended, is_complete) = self.debts_of(&dead);
        let (mut written, lost) = self.written_debts();
        if lost > 0 || !is_complete {
            // What was written down has been evicted in part.
            self.owe(Debt::Everything, &[names::location_of(b"tz:{.")]);
            self.machine.store().add_to_tier(self.name, Field::Debts, -lost);
        }
        for text in &intended {
            if let Some((debt, name)) = text.split_first().and_then(|(kind, name)| Some((Debt::of(*kind)?, name))) {
                self.owe(debt, &[name]);
                written.extend(self.noted(text));
            }
        }
        self.note_told(&dead);
        // What is owed to a server that is away waits; the others are told in batches.
        let mut homes: BTreeMap<(Option<usize>, u8), Vec<&Noted>> = BTreeMap::new();
        for noted in &written {
            let Some((debt, name)) = noted.debt() else { continue };
            // The others are all servers'.
            let place = matches!(debt, Debt::Removal | Debt::Tag).then(|| self.server.place_of(name));
            homes.entry((place, debt as u8)).or_default().push(noted);
        }
        let mut away = BTreeSet::new();
        let until_ms = self.now_ms() + LOOK_MS;
        for ((place, kind), debts) in &homes {
            let Some(debt) = Debt::of(*kind) else { continue };
            for batch in debts.chunks(if debt == Debt::Removal { BATCH } else { 1 }) {
                if self.now_ms() >= until_ms {
                    return;
                }
                if away.contains(place) || self.pay_noted(debt, batch).is_err() {
                    away.insert(*place);
                    break;
                }
            }
        }
    }
}
