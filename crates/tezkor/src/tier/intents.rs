//! What a transaction is going to do on a server, written down in the region of the machine until the transaction has ended: if
//! its worker dies between the COMMIT and what follows it, the next one who asks the server does it, and again after a hold. See
//! `store/segment/intents.rs` for the states.
//!
//! On other machines a load may store what was there before the COMMIT in that time; the second removal ends that.

use super::Tier;
use super::debts::Debt;
use crate::entry::{Timeout, Value};
use crate::store::segment::intents::{Dead, Intents, OnServer};
use std::time::Duration;

/// No transaction takes longer. What is left of one whose worker died just after it was forgotten goes then.
const LIFETIME: Timeout = Timeout::After(Duration::from_secs(86_400));
/// The bytes of an id.
const ID: usize = 8;

/// What one call of a transaction is going to do on a server.
#[derive(Debug)]
pub struct Intended {
    intents: Intents,
    texts: Vec<Vec<u8>>,
}

impl Tier {
    /// Writes down what a transaction is going to do. To be forgotten when it has ended, one way or the other.
    pub(crate) fn intend(&self, debts: &[(Debt, Vec<u8>)]) -> Intended {
        let store = self.machine.store();
        let id = store.next_intent();
        let texts: Vec<Vec<u8>> =
            debts.iter().map(|(debt, name)| [&id.to_be_bytes()[..], &[*debt as u8], name].concat()).collect();
        // Before the intent is opened: what is missing then has been evicted.
        for text in &texts {
            self.machine.set(&store.key(self.intents, text), Value::Count(1), LIFETIME);
        }
        let on = OnServer {
            tier: self.name,
            id,
            length: u16::try_from(texts.len()).unwrap_or(u16::MAX),
            is_wide: debts.iter().any(|(debt, _)| *debt == Debt::Everything),
        };
        Intended { intents: store.intend_on_server(on), texts }
    }

    /// Forgets it: it has been done, or is not to be.
    pub(crate) fn forget(&self, intended: Intended) {
        let store = self.machine.store();
        if store.forget(intended.intents) {
            for text in &intended.texts {
                self.machine.delete(&store.key(self.intents, text));
            }
        }
    }

    /// The intents of dead workers that the server has to be told.
    pub(super) fn owed_intents(&self) -> Vec<Dead> {
        let mut dead = self.machine.store().dead_intents(self.name);
        dead.retain(Dead::is_owed);
        dead
    }

    /// What they are about, and whether all of that was found.
    pub(super) fn debts_of(&self, dead: &[Dead]) -> (Vec<Vec<u8>>, bool) {
        let texts: Vec<Vec<Vec<u8>>> = dead.iter().map(|dead| self.texts_of(dead)).collect();
        let is_complete = dead.iter().zip(&texts).all(|(dead, texts)| texts.len() >= usize::from(dead.on.length));
        (texts.into_iter().flatten().map(|text| text[ID..].to_vec()).collect(), is_complete)
    }

    fn texts_of(&self, dead: &Dead) -> Vec<Vec<u8>> {
        let mut texts = Vec::new();
        self.machine.scan_location(self.intents, &mut |text| {
            if text.starts_with(&dead.on.id.to_be_bytes()) {
                texts.push(text.to_vec());
            }
            true
        });
        texts
    }

    /// The server has been told.
    pub(super) fn note_told(&self, dead: &[Dead]) {
        let store = self.machine.store();
        for dead in dead {
            let texts = self.texts_of(dead);
            if store.told(dead) {
                for text in &texts {
                    self.machine.delete(&store.key(self.intents, text));
                }
            }
        }
    }

    /// Whether an intent of a dead worker forbids storing what a load brought for this entry with these tags: the COMMIT may
    /// still be on its way.
    pub(crate) fn is_held(&self, name: &[u8], tags: &[Vec<u8>]) -> bool {
        let store = self.machine.store();
        let is_written = |dead: &Dead, debt: Debt, name: &[u8]| {
            let text = [&dead.on.id.to_be_bytes()[..], &[debt as u8], name].concat();
            self.machine.has(&store.key(self.intents, &text))
        };
        store.is_all_held()
            || store.dead_intents(self.name).iter().any(|dead| {
                dead.on.is_wide
                    || is_written(dead, Debt::Removal, name)
                    || tags.iter().any(|tag| is_written(dead, Debt::Tag, tag))
            })
    }
}
