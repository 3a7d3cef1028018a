//! Loads: one run for all who miss the same key, and nothing stored that was overtaken while it ran.
//! Correctness never rests on who runs a load: that is the Ledger's matter. A flight only saves work.
//!
//! 1. The key is claimed in the table of flights (claims.rs); from then on every `set` of it tells the Ledger.
//! 2. The birth is read, and then the key once more: what was written before the claim is found here.
//! 3. The caller loads.
//! 4. The entry is published tentatively, so that whoever deletes the key meanwhile sees and removes it; the Ledger is asked
//!    whether the key, or a pattern of its prefix, was invalidated after the birth; then it is committed (publish.rs).
//!
//! Tags, locations and prefixes are asked about at every read, so they need no further step.

use std::time::{Duration, Instant};

use super::alloc::Worker;
use super::claims::{Asker, Claim, Claimed, Name, Table};
use super::counters::Counter;
use super::layout::{header, worker};
use super::publish::{Overtaking, Rule};
use super::read::Read;
use super::region::Region;
use super::words::{Buffer, Ordering};
use super::write::Imprint;
use super::{Attached, SegmentStore, os};
use crate::clock::Clock;
use crate::entry::{Found, Stamp, Terms, Timeout, Value, Written};
use crate::key::Key;

/// How long a sleeper sleeps before it looks whether the owner still lives.
const SLICE: Duration = Duration::from_millis(20);

/// What looking for a value, and beginning its load, came to.
#[derive(Debug)]
pub enum Looked {
    /// There is a fresh one: its bytes are in the buffer.
    Fresh(Found),
    /// There is none, or it should be loaded anew. If there is one that may be served meanwhile, its bytes are in the buffer.
    Load(Load),
}

/// One load of one key, begun by [`crate::Cache::load`]. It is to be ended by `fill`, `fail` or `end`; what is dropped holds up
/// others until this process ends.
#[derive(Clone, Debug)]
pub struct Load {
    region_id: u64,
    name: Name,
    /// The logical time before the load.
    birth: u64,
    started: Instant,
    /// The live entry that was there when the load began.
    seen: Option<u64>,
    part: Part,
    forks: u64,
    /// What may be served while the load runs, or when it fails.
    pub instead: Option<Instead>,
}

/// A value that is not fresh enough to go without a load.
#[derive(Clone, Copy, Debug)]
pub enum Instead {
    /// Past its timeout.
    Stale(Found),
    /// Still fresh, but due for an early refresh.
    Early(Found),
}

/// What part the caller has in the load.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// It runs it.
    Owner(Claim),
    /// Another does; or the last one failed a short while ago.
    Busy(Claim),
    /// It runs it on its own account: there was no place in the table, or it asked to.
    Free,
    Ended,
}

impl Load {
    /// Whether the caller is to run it for all.
    pub fn is_owner(&self) -> bool {
        matches!(self.part, Part::Owner(_))
    }

    /// Whether another runs it.
    pub fn is_busy(&self) -> bool {
        matches!(self.part, Part::Busy(_))
    }

    /// The logical time at which it began.
    pub fn birth(&self) -> u64 {
        self.birth
    }
}

/// How a load is begun.
#[derive(Clone, Copy, Debug)]
pub struct Begin {
    /// The logical time of the snapshot that the loader reads from, where that is older than the present.
    pub birth: Option<u64>,
    /// How eager an entry is refreshed before it expires: 1 is optimal, 0 never (XFetch).
    pub beta: f64,
    /// A random number in (0, 1].
    pub dice: f64,
    /// Whether to run it whoever else does.
    pub alone: bool,
    /// Whether what is there is to be loaded anew, however fresh.
    pub refresh: bool,
}

impl SegmentStore {
    /// The time that claims are kept in: nobody sets it back, but tests turn it.
    pub(super) fn tick_ms(&self, now_ms: u64) -> u64 {
        if self.time.clock() == Clock::Manual { now_ms } else { os::boot_ms() }
    }

    /// The logical time: the birth of a load that begins now.
    pub fn sequence(&self) -> u64 {
        let (attached, _) = self.enter();
        attached.region.ledger().sequence()
    }

    /// Whether an entry that is current is due for an early refresh.
    #[inline]
    pub(crate) fn is_due(&self, stamp: &Stamp, begin: Begin) -> bool {
        begin.refresh || (stamp.cost_us > 0 && stamp.is_due(self.time.now_ms(), begin.beta, begin.dice))
    }

    /// Looks for a value that is fresh and not due; begins a load where there is none.
    pub fn load(&self, key: &Key<'_>, buffer: &mut Buffer, begin: Begin) -> Looked {
        let (attached, now_ms) = self.enter();
        let renewed = attached.renewed(key);
        let key = renewed.as_ref().unwrap_or(key);
        let region = &attached.region;
        let is_patient = match region.read_stale(key, now_ms, buffer) {
            Read::Hit(found) if !is_due(&found, now_ms, begin) => {
                region.count(attached.row(), Counter::HitsRegion, 1);
                return Looked::Fresh(found);
            }
            Read::Hit(_) | Read::Stale(_) => true,
            _ => false,
        };
        let name = Name { low: key.low, high: key.high };
        let part = match attached.life().as_deref() {
            Some(life) if !begin.alone => {
                let is_alive = |row: usize| attached.liveness.is_alive(row);
                let row = life.worker.owner.row;
                let asker = Asker { now_ms: self.tick_ms(now_ms), row, is_patient, is_alive: &is_alive };
                match region.claim_name(Table::Flights, name, 0, asker) {
                    Claimed::Yes(claim) => Part::Owner(claim),
                    Claimed::Taken(claim) => Part::Busy(claim),
                    Claimed::Full => Part::Free,
                }
            }
            _ => Part::Free,
        };
        if let Part::Free = part {
            attached.count_free_load(true);
        }
        // After the claim: sets tell the Ledger from here on. What was written before is found by the read below.
        let now = region.ledger().sequence();
        let birth = begin.birth.map_or(now, |birth| birth.min(now));
        let mut load = Load {
            region_id: region.id,
            name,
            birth,
            started: Instant::now(),
            seen: None,
            part,
            forks: os::forks(),
            instead: None,
        };
        match region.read_stale(key, now_ms, buffer) {
            Read::Hit(found) if !is_due(&found, now_ms, begin) => {
                self.end(&mut load);
                region.count(attached.row(), Counter::HitsRegion, 1);
                return Looked::Fresh(found);
            }
            Read::Hit(found) => {
                load.seen = Some(found.stamp.id);
                load.instead = Some(Instead::Early(found));
            }
            Read::Stale(found) => load.instead = Some(Instead::Stale(found)),
            Read::Corrupt(position, word) => region.discard(position, word),
            _ => {}
        }
        let counter = if load.is_busy() { Counter::LoadsAwaited } else { Counter::Loads };
        region.count(attached.row(), counter, 1);
        Looked::Load(load)
    }

    /// Stores what a load brought, and ends it. `Held`: it was overtaken by an invalidation or a set, and is not stored.
    pub fn fill(&self, key: &Key<'_>, load: &mut Load, value: Value<'_>, terms: Terms<'_>) -> Written {
        let written = self.fill_only(key, load, value, terms);
        self.end(load);
        written
    }

    fn fill_only(&self, key: &Key<'_>, load: &Load, value: Value<'_>, terms: Terms<'_>) -> Written {
        let (attached, now_ms) = self.enter();
        if matches!(load.part, Part::Ended | Part::Busy(_)) || load.region_id != attached.region.id {
            return Written::Held;
        }
        let renewed = attached.renewed(key);
        let key = renewed.as_ref().unwrap_or(key);
        let region = &attached.region;
        let expires_ms = match terms.timeout {
            Timeout::Never | Timeout::Keep => super::NEVER_MS,
            Timeout::After(time) => super::after(now_ms, time),
        };
        if expires_ms <= now_ms {
            return Written::Held;
        }
        let life = attached.life();
        let Some(worker) = self.worker_of(life.as_deref(), region) else { return Written::Refused };
        let change = region.ledger().change();
        let dependencies = super::dependencies(key.space, terms.tags);
        let imprint = Imprint {
            expires_ms,
            now_ms,
            change,
            birth: load.birth,
            cost_us: u32::try_from(load.started.elapsed().as_micros()).unwrap_or(u32::MAX),
            stale_ms: super::milliseconds(terms.stale),
            tags: terms.tags,
            tag_hashes: &dependencies,
        };
        let written = region.fill(worker, key, value, imprint, load.seen, self.tick_ms(now_ms));
        if let Written::Refused = written {
            self.say_refused(region, value);
        }
        written
    }

    /// Ends a load that failed: processes that wait for it try one at a time, after a while.
    pub fn fail(&self, load: &mut Load) {
        let (attached, now_ms) = self.enter();
        if let (Part::Owner(claim), true) = (load.part, attached.has(load)) {
            attached.region.fail_claim(&claim, load.name, attached.asker(self.tick_ms(now_ms), &|_| true));
            attached.region.count(attached.row(), Counter::LoadsFailed, 1);
        }
        self.end(load);
    }

    /// Ends a load without storing anything.
    pub fn end(&self, load: &mut Load) {
        let (attached, _) = self.enter();
        if attached.has(load) {
            match load.part {
                Part::Owner(claim) => drop(attached.region.release_claim(&claim)),
                Part::Free => attached.count_free_load(false),
                Part::Busy(_) | Part::Ended => {}
            }
        }
        load.part = Part::Ended;
    }

    /// Whether a load that another runs is over: it has ended, its process has, or its back-off.
    pub fn is_over(&self, load: &Load) -> bool {
        let (attached, now_ms) = self.enter();
        let Part::Busy(claim) = load.part else { return true };
        let is_alive = |row: usize| attached.liveness.is_alive(row);
        !attached.has(load)
            || !attached.region.is_unchanged(&claim)
            || attached.region.is_vacant(&claim, attached.asker(self.tick_ms(now_ms), &is_alive))
    }

    /// Sleeps until a load that another runs may be over, for a short while at most.
    pub fn sleep_for(&self, load: &Load, most: Duration) {
        let attached = self.attached.load_full();
        if let (Part::Busy(claim), true) = (load.part, attached.has(load)) {
            let (word, value) = attached.region.sleep_on(&claim);
            os::wait_for_change(word, value, most.min(SLICE));
        }
    }

    /// Counts the caller among those who wait for a load, or no longer.
    pub fn count_waiter(&self, load: &Load, more: bool) {
        let attached = self.attached.load();
        if let (Part::Busy(claim), true) = (load.part, attached.has(load)) {
            attached.region.count_waiter(&claim, more);
        }
    }

    /// Whether somebody waits for a load that the caller runs.
    pub fn is_awaited(&self, load: &Load) -> bool {
        let attached = self.attached.load();
        matches!(load.part, Part::Owner(claim) if attached.has(load) && attached.region.is_awaited(&claim))
    }
}

impl Attached {
    /// Whether a load was begun in this region and this process.
    fn has(&self, load: &Load) -> bool {
        load.region_id == self.region.id && load.forks == os::forks()
    }

    pub(super) fn asker<'a>(&self, now_ms: u64, is_alive: &'a dyn Fn(usize) -> bool) -> Asker<'a> {
        Asker { now_ms, row: self.row() as u16, is_patient: false, is_alive }
    }

    /// Counts loads that have no place in the table: in the region, and in the worker's row, which its death sets right.
    fn count_free_load(&self, more: bool) {
        let words = [self.region.header(header::FREE_LOADS), &self.region.worker(self.row())[worker::FREE_LOADS]];
        for word in words {
            word.add(if more { 1 } else { u64::MAX });
        }
    }
}

impl Region {
    /// After a key was written by a set: a load of it that is under way has been overtaken.
    #[inline]
    pub(super) fn overtake_loads(&self, key: &Key<'_>) {
        let is_loading = self.header(header::FREE_LOADS).load(Ordering::SeqCst) != 0
            || self.is_claimed(Table::Flights, Name { low: key.low, high: key.high });
        if is_loading {
            self.ledger().invalidate_key(key.low, key.high);
        }
    }

    /// Writes what a load brought, unless it was overtaken.
    pub(crate) fn fill(
        &self,
        worker: &Worker,
        key: &Key<'_>,
        value: Value<'_>,
        imprint: Imprint<'_>,
        seen: Option<u64>,
        tick_ms: u64,
    ) -> Written {
        let may_commit =
            || self.ledger().is_load_fresh(key, imprint.birth) && !self.is_held(key, imprint.tag_hashes, tick_ms);
        let rows = [key.space.location_row, key.space.prefix_row];
        let is_fresh = self.ledger().are_rows_fresh(imprint.birth, rows)
            && self.ledger().are_tags_fresh(imprint.birth, imprint.tag_hashes.iter().copied());
        if !may_commit() || !is_fresh {
            self.count(worker.row(), Counter::LoadsOvertaken, 1);
            return Written::Held;
        }
        let rule = Rule::Load(&Overtaking { seen, may_commit: &may_commit });
        let written = self.write_by(worker, key, value, imprint, rule);
        match written {
            Written::Stored(_) => self.count(worker.row(), Counter::Sets, 1),
            Written::Held => self.count(worker.row(), Counter::LoadsOvertaken, 1),
            _ => {
                self.count(worker.row(), Counter::Refused, 1);
                self.remove(key, imprint.now_ms);
            }
        }
        written
    }

    /// What a worker that died counted of its loads no longer counts.
    pub(super) fn forget_free_loads(&self, row: usize) {
        let word = &self.worker(row)[worker::FREE_LOADS];
        let count = word.load(Ordering::SeqCst);
        if count != 0 && word.replace(count, 0).is_ok() {
            self.header(header::FREE_LOADS).add(count.wrapping_neg());
        }
    }
}

/// XFetch (Vattani, Chierichetti, Lowenstein, VLDB 2015): the closer the expiry and the dearer the load, the likelier.
fn is_due(found: &Found, now_ms: u64, begin: Begin) -> bool {
    begin.refresh || found.stamp.is_due(now_ms, begin.beta, begin.dice)
}
