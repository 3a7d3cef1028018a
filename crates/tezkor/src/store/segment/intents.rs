//! Intents: invalidations called inside a transaction, kept in the region until the transaction has ended. If the worker dies
//! before it could repeat them after its COMMIT, somebody else does. A live worker's intent holds up nobody.
//!
//! ```text
//! free -> being written -> open ------------- forgotten by its owner ---------------> free
//!                           \-- its owner died: carried out -> held -- 5 s later: carried out again -> free
//! ```
//!
//! While one is held nothing is stored that a load brought for it: the dead worker's COMMIT may still be on its way to the
//! database, and a load would bring what was there before it. What the table has no room for stands for everything.
//!
//! What is to be done on a server is done by its tier, which asks for it by [`SegmentStore::dead_intents`]:
//!
//! ```text
//! open -- its owner died --> held -- the server was told --> told -- 5 s later --> due -- told again --> free
//! ```

use super::layout::{header, intent, worker};
use super::region::Region;
use super::words::{Ordering, Word};
use super::{Attached, SegmentStore};
use crate::key::{Key, Space};
use crate::ledger::SHARED_ROW;

/// How long after a worker's death its COMMIT may still take effect.
const HOLD_MS: u64 = 5_000;

const FREE: u64 = 0;
const WRITING: u64 = 1;
const OPEN: u64 = 2;
const HELD: u64 = 3;
const TOLD: u64 = 4;
const DUE: u64 = 5;
const STATE: u64 = 0xff;
/// The id of an intent that the table had no room for.
const OVER: u32 = u32::MAX;

/// The owner's row in a state word; above it stands a number that tells intents of one place apart.
fn row_of(word: u64) -> usize {
    ((word >> 8) & 0xff_ffff) as usize
}

/// What an intent invalidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Key { low: u64, high: u64 },
    Tag(u64),
    Row(u16),
    Server(OnServer),
}

/// What is to be done on a server; its tier has written down what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OnServer {
    /// The name of the tier.
    pub(crate) tier: u64,
    /// What the tier finds it by.
    pub(crate) id: u64,
    /// How much was written down.
    pub(crate) length: u16,
    /// Whether that holds more than keys and tags.
    pub(crate) is_wide: bool,
}

/// An intent of a dead worker that its server has to be told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dead {
    pub(crate) on: OnServer,
    place: usize,
    word: u64,
}

impl Dead {
    /// Whether the server is still to be told: for the first time, or once more.
    pub(crate) fn is_owed(&self) -> bool {
        matches!(self.word & STATE, HELD | DUE)
    }
}

/// Intents of one call, to be forgotten together.
#[derive(Debug, Default)]
pub struct Intents {
    region_id: u64,
    forks: u64,
    /// Places in the table, and the word that each had when it was opened.
    places: Vec<(u32, u64)>,
}

impl Target {
    fn pack(self) -> [u64; 3] {
        match self {
            Target::Key { low, high } => [1, low, high],
            Target::Tag(tag) => [2, tag, 0],
            Target::Row(row) => [3, u64::from(row), 0],
            Target::Server(OnServer { tier, id, length, is_wide }) => {
                [4 | u64::from(is_wide) << 8 | u64::from(length) << 16, tier, id]
            }
        }
    }

    fn unpack(words: [u64; 3]) -> Option<Target> {
        match words {
            [1, low, high] => Some(Target::Key { low, high }),
            [2, tag, _] => Some(Target::Tag(tag)),
            [3, row, _] => Some(Target::Row(row as u16)),
            [kind, tier, id] if kind & 0xff == 4 => {
                Some(Target::Server(OnServer { tier, id, length: (kind >> 16) as u16, is_wide: kind & 0x100 != 0 }))
            }
            _ => None,
        }
    }
}

impl SegmentStore {
    /// Writes down what a transaction invalidates. To be forgotten when it has ended, one way or the other.
    pub fn intend(&self, space: Space, keys: &[&[u8]], tags: &[&[u8]], everything: Option<Everything>) -> Intents {
        let (attached, _) = self.enter();
        let space = attached.renewed_space(space);
        let region = &attached.region;
        let keys = keys.iter().map(|bytes| {
            let key = Key::new(space, region.seed, bytes);
            Target::Key { low: key.low, high: key.high }
        });
        let tags = super::tag_hashes(space, tags).into_iter().map(Target::Tag);
        let rows = everything.map(|everything| {
            let (row, dependency) = match everything {
                Everything::OfPrefix => (space.prefix_row, super::prefix_dependency(space)),
                Everything::OfLocation => (space.location_row, super::location_dependency(space)),
            };
            if row == SHARED_ROW { Target::Tag(dependency) } else { Target::Row(row) }
        });
        let row = attached.row();
        let places = keys.chain(tags).chain(rows).map(|target| region.open_intent(row, target)).collect();
        Intents { region_id: region.id, forks: super::os::forks(), places }
    }

    /// A number that no other intent on a server has.
    pub(crate) fn next_intent(&self) -> u64 {
        self.enter().0.region.header(header::TOKEN).next()
    }

    /// Opens the intent of a transaction on a server, of which the tier has written down what it is.
    pub(crate) fn intend_on_server(&self, on: OnServer) -> Intents {
        let (attached, _) = self.enter();
        let place = attached.region.open_intent(attached.row(), Target::Server(on));
        Intents { region_id: attached.region.id, forks: super::os::forks(), places: vec![place] }
    }

    /// The intents of dead workers on a server, as long as they are held.
    #[inline]
    pub(crate) fn dead_intents(&self, tier: u64) -> Vec<Dead> {
        let (attached, _) = self.enter();
        let region = &attached.region;
        if region.header(header::HOLDS).load(Ordering::SeqCst) == 0 {
            return Vec::new();
        }
        let dead = |place| {
            let word = region.intent(place)[intent::STATE].load(Ordering::SeqCst);
            match region.target(place) {
                Some(Target::Server(on)) if on.tier == tier && matches!(word & STATE, HELD | TOLD | DUE) => {
                    Some(Dead { on, place, word })
                }
                _ => None,
            }
        };
        (0..region.geometry.intents).filter_map(dead).collect()
    }

    /// Whether nothing at all that a load brought is stored at the moment.
    pub(crate) fn is_all_held(&self) -> bool {
        let (attached, now_ms) = self.enter();
        attached.region.is_all_held(self.tick_ms(now_ms))
    }

    /// The server was told. Whether that was for the last time.
    pub(crate) fn told(&self, dead: &Dead) -> bool {
        let (attached, now_ms) = self.enter();
        let region = &attached.region;
        let Some(state) = (dead.place < region.geometry.intents).then(|| &region.intent(dead.place)[intent::STATE])
        else {
            return false;
        };
        if dead.word & STATE == HELD && !region.is_due(dead.place, self.tick_ms(now_ms)) {
            // It is done once more: a load may have brought back what the COMMIT had not changed yet.
            let _ = state.replace(dead.word, (dead.word & !STATE) | TOLD);
            return false;
        }
        let is_last = state.replace(dead.word, FREE).is_ok();
        if is_last {
            region.header(header::HOLDS).add(u64::MAX);
            region.header(header::INTENTS).add(u64::MAX);
        }
        is_last
    }

    /// Forgets intents: the transaction has ended, and what they stood for has been done, or is not to be. Whether they were
    /// this process's.
    pub fn forget(&self, intents: Intents) -> bool {
        let attached = self.attached.load();
        // A child does not forget its parent's.
        if intents.region_id != attached.region.id || intents.forks != super::os::forks() {
            return false;
        }
        for (place, word) in intents.places {
            if place == OVER {
                attached.region.forget_over(attached.row());
            } else {
                attached.region.forget_intent(place as usize, word);
            }
        }
        true
    }
}

/// What is invalidated when a whole prefix or location is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Everything {
    /// All of the prefix.
    OfPrefix,
    /// All of the location.
    OfLocation,
}

impl Attached {
    /// Carries out the intents of workers that died. Cheap where there are none.
    pub(super) fn probe_intents(&self, tick_ms: u64) {
        let region = &self.region;
        if region.header(header::INTENTS).load(Ordering::SeqCst) == 0 {
            return;
        }
        for place in 0..region.geometry.intents {
            let found = region.intent(place)[intent::STATE].load(Ordering::SeqCst);
            let row = row_of(found);
            match found & STATE {
                OPEN if row < region.geometry.workers && !self.liveness.is_alive(row) => {
                    region.hold_intent(place, found, tick_ms);
                }
                HELD | TOLD => region.end_hold(place, found, tick_ms),
                _ => {}
            }
        }
        for row in 0..region.geometry.workers {
            if region.worker(row)[worker::INTENTS_OVER].load(Ordering::SeqCst) != 0 && !self.liveness.is_alive(row) {
                region.hold_intents_of(row, tick_ms);
            }
        }
    }
}

impl Region {
    fn intent(&self, place: usize) -> &[Word] {
        let at = self.geometry.intents_at + place * intent::WORDS;
        &self.words()[at..at + intent::WORDS]
    }

    fn open_intent(&self, row: usize, target: Target) -> (u32, u64) {
        let owner = (row as u64) << 8;
        // First, so that nobody who looks for intents of dead workers passes by.
        self.header(header::INTENTS).add(1);
        for place in 0..self.geometry.intents {
            let words = self.intent(place);
            // A number of its own tells it from later intents of the same place.
            if words[intent::STATE].load(Ordering::Relaxed) != FREE
                || words[intent::STATE].replace(FREE, WRITING | owner).is_err()
            {
                continue;
            }
            for (field, value) in [intent::KIND, intent::LOW, intent::HIGH].into_iter().zip(target.pack()) {
                words[field].store(value, Ordering::SeqCst);
            }
            let number = self.header(header::TOKEN).next() & 0xffff_ffff;
            let word = OPEN | owner | number << 32;
            words[intent::STATE].store(word, Ordering::SeqCst);
            return (place as u32, word);
        }
        self.worker(row)[worker::INTENTS_OVER].add(1);
        (OVER, 0)
    }

    fn forget_intent(&self, place: usize, word: u64) {
        if place < self.geometry.intents && self.intent(place)[intent::STATE].replace(word, FREE).is_ok() {
            self.header(header::INTENTS).add(u64::MAX);
        }
    }

    fn forget_over(&self, row: usize) {
        let word = &self.worker(row)[worker::INTENTS_OVER];
        let count = word.load(Ordering::SeqCst);
        if count > 0 && word.replace(count, count - 1).is_ok() {
            self.header(header::INTENTS).add(u64::MAX);
        }
    }

    /// What a dead worker meant to invalidate is invalidated, and held for a while.
    pub(super) fn hold_intents_of(&self, row: usize, tick_ms: u64) {
        for place in 0..self.geometry.intents {
            let word = &self.intent(place)[intent::STATE];
            let found = word.load(Ordering::SeqCst);
            if row_of(found) != row {
                continue;
            }
            match found & STATE {
                OPEN => self.hold_intent(place, found, tick_ms),
                // Its call had not returned: the transaction was not committed.
                WRITING => self.forget_intent(place, found),
                _ => {}
            }
        }
        let over = &self.worker(row)[worker::INTENTS_OVER];
        let count = over.load(Ordering::SeqCst);
        if count == 0 {
            return;
        }
        // The hold first, so that a second sweep after a death amid this one finds it to be done again.
        self.header(header::HOLD_ALL_UNTIL_MS).raise(tick_ms + HOLD_MS);
        self.clear_all();
        if over.replace(count, 0).is_ok() {
            self.header(header::INTENTS).add(count.wrapping_neg());
        }
    }

    fn hold_intent(&self, place: usize, found: u64, tick_ms: u64) {
        let words = self.intent(place);
        words[intent::DUE_MS].store(tick_ms + HOLD_MS, Ordering::SeqCst);
        // Before it is carried out: a load that asks whether it is held, and is told no, has asked before, and is overtaken.
        self.header(header::HOLDS).add(1);
        if words[intent::STATE].replace(found, (found & !STATE) | HELD).is_err() {
            self.header(header::HOLDS).add(u64::MAX);
            return;
        }
        self.carry_out(place);
    }

    fn end_hold(&self, place: usize, found: u64, tick_ms: u64) {
        if !self.is_due(place, tick_ms) {
            return;
        }
        if let Some(Target::Server(_)) = self.target(place) {
            if found & STATE == TOLD {
                let _ = self.intent(place)[intent::STATE].replace(found, (found & !STATE) | DUE);
            }
            return;
        }
        self.carry_out(place);
        if self.intent(place)[intent::STATE].replace(found, FREE).is_ok() {
            self.header(header::HOLDS).add(u64::MAX);
            self.header(header::INTENTS).add(u64::MAX);
        }
    }

    fn is_due(&self, place: usize, tick_ms: u64) -> bool {
        let due_ms = self.intent(place)[intent::DUE_MS].load(Ordering::SeqCst);
        // One that is further ahead than any hold is of an earlier boot.
        tick_ms >= due_ms || due_ms > tick_ms + HOLD_MS
    }

    fn target(&self, place: usize) -> Option<Target> {
        let words = self.intent(place);
        Target::unpack([intent::KIND, intent::LOW, intent::HIGH].map(|field| words[field].load(Ordering::SeqCst)))
    }

    fn carry_out(&self, place: usize) {
        match self.target(place) {
            Some(Target::Key { low, high }) => {
                self.ledger().invalidate_key(low, high);
                self.remove_hash(low);
            }
            Some(Target::Tag(tag)) => self.ledger().invalidate_tags(&[tag]),
            Some(Target::Row(row)) => self.ledger().clear_row(row),
            // Its tier sees to it.
            Some(Target::Server(_)) | None => {}
        }
    }

    /// Empties all locations. No load that is under way stores anything afterwards.
    fn clear_all(&self) {
        (0..self.geometry.rows).for_each(|row| self.ledger().clear_row(row as u16));
        self.owe_everything();
    }

    /// Whether an intent of a dead worker forbids storing what a load of the key brought.
    #[inline]
    pub(super) fn is_held(&self, key: &Key<'_>, tags: &[u64], tick_ms: u64) -> bool {
        if self.is_all_held(tick_ms) {
            return true;
        }
        self.header(header::HOLDS).load(Ordering::SeqCst) != 0 && self.is_among_held(key, tags)
    }

    /// Whether nothing that a load brought is stored at the moment.
    #[inline]
    pub(super) fn is_all_held(&self, tick_ms: u64) -> bool {
        let until_ms = self.header(header::HOLD_ALL_UNTIL_MS).load(Ordering::SeqCst);
        tick_ms < until_ms && until_ms <= tick_ms + HOLD_MS
    }

    #[cold]
    fn is_among_held(&self, key: &Key<'_>, tags: &[u64]) -> bool {
        (0..self.geometry.intents).any(|place| {
            self.intent(place)[intent::STATE].load(Ordering::SeqCst) & STATE == HELD
                && match self.target(place) {
                    Some(Target::Key { low, high }) => (low, high) == (key.low, key.high),
                    Some(Target::Tag(tag)) => tags.contains(&tag),
                    Some(Target::Row(row)) => row == key.space.location_row || row == key.space.prefix_row,
                    Some(Target::Server(_)) | None => false,
                }
        })
    }
}
