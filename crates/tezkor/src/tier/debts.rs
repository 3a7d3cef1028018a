//! Debts: what the server could not be told, written down in the region of the machine until it has been. It stands for itself
//! alone: a debt that is lost for want of room has been counted, and then everything is removed.
//!
//! What is owed once more while it is being paid is owed still: it is written anew each time, and whoever pays crosses out the
//! writing that he has seen before he paid.

use std::time::Duration;

use super::Tier;
use super::breaker::{Breaker, Phase, TRIAL_MS};
use crate::entry::{Timeout, Value, When, Written};
use crate::error::Error;
use crate::key::Key;
use crate::store::far::{self, names, tags};
use crate::store::segment::tiers::Field;

/// A debt is counted, then written down. So often, and for so long at a time, its writing is waited for.
const WRITING_TRIES: usize = 25;
const WRITING_TIME: Duration = Duration::from_millis(2);

/// What a server has not been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Debt {
    /// A name to remove.
    Removal = b'r' as isize,
    /// A tag to invalidate.
    Tag = b't' as isize,
    /// Everything that begins so.
    Everything = b'e' as isize,
    /// What another library left under this prefix, in any version.
    Old = b'o' as isize,
}

impl Debt {
    /// The kind that stands before a name.
    pub(super) fn of(kind: u8) -> Option<Debt> {
        [Debt::Removal, Debt::Tag, Debt::Everything, Debt::Old].into_iter().find(|debt| *debt as u8 == kind)
    }
}

/// The value of what is written down: that it is there says all.
const WRITING: Value<'static> = Value::Bytes { codec: 0, bytes: b"" };

/// A debt as it is written down.
pub(super) struct Noted {
    /// Its kind and its name.
    pub(super) text: Vec<u8>,
    writing: [u64; 2],
}

impl Noted {
    /// Its kind, and what it is about.
    pub(super) fn debt(&self) -> Option<(Debt, &[u8])> {
        let (kind, name) = self.text.split_first()?;
        Some((Debt::of(*kind)?, name))
    }
}

impl Tier {
    /// Writes down what the server could not be told. From here on nobody asks it before it has been.
    pub(crate) fn owe(&self, debt: Debt, names: &[&[u8]]) {
        let store = self.machine.store();
        for name in names {
            let text = [&[debt as u8], *name].concat();
            // Counted before it is written: one that is lost for want of room is missed then.
            store.add_to_tier(self.name, Field::Debts, 1);
            if self.write_down(&store.key(self.debts, &text)) {
                store.add_to_tier(self.name, Field::Debts, -1);
            }
        }
    }

    /// Whether it was written down, and is written anew.
    fn write_down(&self, key: &Key<'_>) -> bool {
        loop {
            if !matches!(self.machine.add(key, WRITING, Timeout::Never), Written::Held) {
                return false;
            }
            match self.machine.store().write(key, WRITING, Timeout::Never.into(), When::Present) {
                // Somebody has paid it meanwhile.
                Written::Held => {}
                written => return matches!(written, Written::Stored(_)),
            }
        }
    }

    /// A debt as it is written down at this moment.
    pub(super) fn noted(&self, text: &[u8]) -> Option<Noted> {
        let store = self.machine.store();
        let writing = store.writing_of(&store.key(self.debts, text))?;
        Some(Noted { text: text.to_vec(), writing })
    }

    /// The server has been told of it since it was looked at.
    pub(super) fn cross_out(&self, noted: &Noted) {
        let store = self.machine.store();
        if store.remove_writing(&store.key(self.debts, &noted.text), noted.writing) {
            store.add_to_tier(self.name, Field::Debts, -1);
        }
    }

    /// How much the server has not been told, the intents of dead workers aside.
    pub fn debts(&self) -> u64 {
        self.machine.store().tier(self.name, Field::Debts)
    }

    /// Whether there is something that the server has not been told.
    pub(super) fn is_owed(&self) -> bool {
        self.debts() != 0 || !self.owed_intents().is_empty()
    }

    /// Tells the server what it has not been told. As soon as it has answered, others may change what it has, so this comes to
    /// an end. The breaker's word at the end.
    pub(super) fn catch_up(&self, mut trial: u64) -> Result<u64, Error> {
        while self.is_owed() {
            self.pay(&mut trial)?;
            self.move_on(&mut trial, Phase::CatchingUp)?;
        }
        Ok(trial)
    }

    /// Gives the trial more time.
    fn move_on(&self, trial: &mut u64, phase: Phase) -> Result<(), Error> {
        let next = Breaker { phase, until_ms: self.now_ms() + TRIAL_MS, ..Breaker::of(*trial) }.word();
        if !self.machine.store().replace_tier(self.name, Field::Breaker, *trial, next) {
            return Err(Error::outage(format!("{} failed another worker meanwhile", self.server.title())));
        }
        *trial = next;
        Ok(())
    }

    /// What is written down, and what the count of it says beyond that.
    pub(super) fn written_debts(&self) -> (Vec<Noted>, i64) {
        let mut texts: Vec<Vec<u8>> = Vec::new();
        let mut lost = 0;
        for _ in 0..WRITING_TRIES {
            let owed = self.debts();
            texts.clear();
            self.machine.scan_location(self.debts, &mut |text| {
                texts.push(text.to_vec());
                true
            });
            lost = (owed as i64 - texts.len() as i64).max(0);
            if lost == 0 {
                break;
            }
            // Another worker has counted one that it is about to write.
            std::thread::sleep(WRITING_TIME);
        }
        (texts.iter().filter_map(|text| self.noted(text)).collect(), lost)
    }

    /// Pays what is written down at this moment.
    fn pay(&self, trial: &mut u64) -> Result<(), Error> {
        let store = self.machine.store();
        let dead = self.owed_intents();
        let (intended, is_complete) = self.debts_of(&dead);
        let (written, lost) = self.written_debts();
        let names = |debt: Debt| {
            let texts = written.iter().map(|noted| &noted.text).chain(&intended);
            texts.filter(|text| text.first() == Some(&(debt as u8))).map(|text| &text[1..]).collect::<Vec<_>>()
        };
        for batch in names(Debt::Removal).chunks(far::REMOVAL) {
            self.server.remove(batch)?;
            self.move_on(trial, Breaker::of(*trial).phase)?;
        }
        for tag in names(Debt::Tag) {
            tags::invalidate(&*self.server, tag)?;
        }
        let mut beginnings = names(Debt::Everything);
        if lost > 0 || !is_complete {
            // What was written down has been evicted in part: nothing that is ours can be trusted.
            beginnings = vec![b"tz:{"];
        }
        for beginning in beginnings {
            match self.remove_all(beginning, trial) {
                Err(error) if error.is_unsupported() => self.server.empty()?,
                removed => removed?,
            }
        }
        for beginning in names(Debt::Old) {
            self.remove_old(beginning, &mut || self.move_on(trial, Breaker::of(*trial).phase))?;
        }
        for noted in &written {
            self.cross_out(noted);
        }
        store.add_to_tier(self.name, Field::Debts, -lost);
        self.note_told(&dead);
        Ok(())
    }

    /// Where names cannot be listed, nothing of another library is removed by its beginning.
    pub(super) fn remove_old(
        &self,
        beginning: &[u8],
        after_batch: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        match far::remove_those(&*self.server, beginning, &|name| names::is_of_a_version(name, beginning), after_batch)
        {
            Err(error) if error.is_unsupported() => Ok(()),
            removed => removed.map(drop),
        }
    }

    fn remove_all(&self, beginning: &[u8], trial: &mut u64) -> Result<(), Error> {
        let mut move_on = || self.move_on(trial, Breaker::of(*trial).phase);
        far::remove_those(&*self.server, beginning, &|_| true, &mut move_on).map(drop)
    }
}
