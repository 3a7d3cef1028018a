//! A tier: a server in its position, and the one place that holds the policy for outages.
//!
//! A server that refuses the password is away like any other, and the event says why. It never raises an outage to a reader of the cache: an error that [`Error::is_outage`] is a miss to the layer above, and has been
//! counted here. What the server must still be told (a removal, an invalidation) is written down in the machine's region, and told
//! before the server is trusted again.
//!
//! The breaker is a word that all workers of the machine share:
//!
//! ```text
//! closed --three failures in a row--> open --its rest is over: one worker--> on trial --it answers--> catching up --nothing is owed--> closed
//!                                       ^--------------- it fails: twice the rest, a second at most -----+----------------'
//! ```
//!
//! Who tries the server tells it what it has missed. While it catches up it takes changes from everybody, so that no more debts
//! are made, but no entry is read from it.
//!
//! While it is open, an operation costs a look at that word. Its rests are a quarter of a second at first and a second at most, so a
//! server that is back is used again within that time.

mod breaker;
mod budget;
mod debts;
mod fleet;
mod intents;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use self::breaker::Phase;
use self::breaker::{Breaker, MOST_FAILURES, TRIAL_MS};
pub use self::budget::{begin_request, end_request};
pub(crate) use self::debts::Debt;
pub use self::intents::Intended;
use crate::cache::Cache;
use crate::entry::Incr;
use crate::error::Error;
use crate::event::{Event, Level};
use crate::key::{Space, name_hash};
use crate::store::far::names;
use crate::store::far::server::{Foreign, Held, Item, Left, Lifetime, Mark, Put, Server};
use crate::store::segment::tiers::Field;

/// What a request may wait in vain.
const BUDGET: Duration = Duration::from_millis(250);

/// The servers that this process has said are away: once for all aliases, until they answer again.
static AWAY: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());
/// Whether there may be some.
static IS_ANY_AWAY: AtomicBool = AtomicBool::new(false);

fn is_first_to_say(name: u64) -> bool {
    let mut away = AWAY.lock().unwrap_or_else(PoisonError::into_inner);
    IS_ANY_AWAY.store(true, Ordering::Relaxed);
    away.insert(name)
}

fn note_back(name: u64) {
    if IS_ANY_AWAY.load(Ordering::Relaxed) {
        let mut away = AWAY.lock().unwrap_or_else(PoisonError::into_inner);
        away.remove(&name);
        IS_ANY_AWAY.store(!away.is_empty(), Ordering::Relaxed);
    }
}

/// Whether an operation may be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum May {
    Yes,
    /// It is the one that tries the server after a rest, with the breaker's word.
    Try(u64),
    No,
}

/// A server with its breaker.
pub struct Tier {
    server: Arc<dyn Server>,
    /// The region in which the machine keeps what it knows of the server.
    machine: Cache,
    name: u64,
    budget: Duration,
    debts: Space,
    intents: Space,
    /// Of several servers: when all that is owed is looked at again.
    look_at_ms: AtomicU64,
}

impl Tier {
    /// A server whose outages are known to the machine by this region. Workers that name the server alike share its breaker.
    pub fn new(server: Arc<dyn Server>, machine: Cache, name: &str) -> Tier {
        let space = |what: &str| machine.store().space(format!("{what} of {name}").as_bytes(), b"");
        let (debts, intents) = (space("debts"), space("intents"));
        Tier {
            server,
            machine,
            name: name_hash(b't', name.as_bytes()) as u64,
            budget: BUDGET,
            debts,
            intents,
            look_at_ms: AtomicU64::new(0),
        }
    }

    /// With another budget for what a request may wait in vain, over all its operations.
    pub fn with_budget(self, budget: Duration) -> Tier {
        Tier { budget, ..self }
    }

    /// What the breaker is at.
    pub fn phase(&self) -> Phase {
        Breaker::of(self.machine.store().tier(self.name, Field::Breaker)).phase
    }

    fn now_ms(&self) -> u64 {
        self.machine.store().breaker_ms()
    }

    fn may_ask(&self, reads_values: impl Fn() -> bool) -> May {
        let store = self.machine.store();
        loop {
            let word = store.tier(self.name, Field::Breaker);
            let breaker = Breaker::of(word);
            let now_ms = self.now_ms();
            match breaker.phase {
                // Debts that were made a moment ago are seen by whoever asks after that: so nobody reads what is to be removed.
                Phase::Closed if self.is_fleet() || !self.is_owed() => return May::Yes,
                Phase::Open | Phase::OnTrial if !breaker.is_over(now_ms) => return May::No,
                Phase::CatchingUp if !breaker.is_over(now_ms) => {
                    return if reads_values() { May::No } else { May::Yes };
                }
                // It is told only what stays told.
                _ if self.is_owed() && !self.server.is_lasting() => return May::No,
                _ => {
                    let trial = Breaker { phase: Phase::OnTrial, until_ms: now_ms + TRIAL_MS, ..breaker };
                    if store.replace_tier(self.name, Field::Breaker, word, trial.word()) {
                        return May::Try(trial.word());
                    }
                }
            }
        }
    }

    fn note_success(&self) {
        let store = self.machine.store();
        let word = store.tier(self.name, Field::Breaker);
        let breaker = Breaker::of(word);
        note_back(self.name);
        if breaker.phase == Phase::Closed && breaker.failures > 0 {
            // Another's failure that comes between counts on: it is one of a row all the same.
            store.replace_tier(self.name, Field::Breaker, word, 0);
        }
    }

    /// Trusts the server again, unless something came between.
    fn close(&self, trial: u64) {
        let was_open = Breaker::of(trial).opened > 0;
        if self.machine.store().replace_tier(self.name, Field::Breaker, trial, 0) && was_open {
            let text = format!("{} answers again", self.server.title());
            self.machine.store().leave_events([Event::each_time(Level::Warning, text)]);
        }
    }

    fn note_failure(&self, error: &Error) {
        let store = self.machine.store();
        loop {
            let word = store.tier(self.name, Field::Breaker);
            let breaker = Breaker::of(word);
            let now_ms = self.now_ms();
            let next = match breaker.phase {
                Phase::Closed if breaker.failures + 1 < MOST_FAILURES => {
                    Breaker { failures: breaker.failures + 1, ..breaker }
                }
                Phase::Closed | Phase::OnTrial | Phase::CatchingUp => breaker.opened(now_ms),
                // An operation that began before it was opened.
                Phase::Open => return,
            };
            if store.replace_tier(self.name, Field::Breaker, word, next.word()) {
                if breaker.opened == 0 && next.phase == Phase::Open {
                    self.tell_away(error);
                }
                return;
            }
        }
    }

    fn tell_away(&self, error: &Error) {
        is_first_to_say(self.name);
        let text = format!("{error}; the cache does without {} until it answers again", self.server.title());
        self.machine.store().leave_events([Event::each_time(Level::Error, text)]);
    }

    /// A process that comes, or comes back to the server, while another has found it away.
    fn tell_left_alone(&self) {
        // A trial that another worker has begun, of a server that nobody has found away, is over in no time.
        let is_away = Breaker::of(self.machine.store().tier(self.name, Field::Breaker)).opened > 0;
        if is_away && is_first_to_say(self.name) {
            let title = self.server.title();
            let text = format!("another worker found {title} away; the cache does without it until it answers again");
            self.machine.store().leave_events([Event::each_time(Level::Error, text)]);
        }
    }

    /// A value was too large for the server.
    pub(crate) fn tell_refused(&self) {
        let (title, most) = (self.server.title(), self.server.largest_value_bytes());
        let text = format!(
            "a value was larger than the {most} bytes that {title} takes: it is not cached, and what was there is gone"
        );
        self.machine.store().leave_events([Event::new(Level::Warning, text)]);
    }

    /// Does what is asked of the server, unless it is left alone at the moment.
    fn ask<T>(
        &self,
        reads_values: impl Fn() -> bool,
        call: impl FnOnce(&dyn Server) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if budget::is_spent(self.budget) {
            let (title, ms) = (self.server.title(), self.budget.as_millis());
            return Err(Error::outage(format!(
                "{title} is left alone for the rest of a request that lost {ms} ms to it"
            )));
        }
        let start = Instant::now();
        let trial = match self.may_ask(reads_values) {
            May::No => {
                self.tell_left_alone();
                let title = self.server.title();
                return Err(Error::outage(format!("{title} is left alone for a moment: it did not answer")));
            }
            May::Yes => None,
            May::Try(trial) if self.is_fleet() => Some(trial),
            May::Try(trial) => Some(self.catch_up(trial).inspect_err(|error| {
                budget::lose(start.elapsed());
                self.note_failure(error);
            })?),
        };
        let result = call(&*self.server);
        match (&result, trial) {
            (Err(error), _) if error.is_outage() || error.is_setting() => {
                budget::lose(start.elapsed());
                // Of several servers one may be away, for its own names.
                if !self.server.is_partly_up() {
                    self.note_failure(error);
                }
            }
            (_, Some(trial)) => {
                self.close(trial);
                note_back(self.name);
            }
            _ => self.note_success(),
        }
        result
    }

    /// Does what changes names, and owes the removal of entries if nobody knows what became of them.
    fn change<T>(&self, names: &[&[u8]], call: impl FnOnce(&dyn Server) -> Result<T, Error>) -> Result<T, Error> {
        let result = self.ask(|| false, call);
        if result.as_ref().is_err_and(|error| error.is_outage() || error.is_setting()) {
            let entries: Vec<&[u8]> = names.iter().copied().filter(|name| names::holds_value(name)).collect();
            self.owe(Debt::Removal, &entries);
        }
        result
    }
}

/// What stands for what was not done with a name.
trait Undone {
    const UNDONE: Self;
}

impl Undone for Put {
    const UNDONE: Put = Put::Held;
}

impl Undone for bool {
    const UNDONE: bool = false;
}

impl Tier {
    /// Does with each what could not be done with all; an error where it could be done with none.
    fn each<I, T: Undone>(
        &self,
        all: &[I],
        error: Error,
        one: impl Fn(&I) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let done: Vec<Result<T, Error>> = all.iter().map(one).collect();
        if done.iter().all(Result::is_err) {
            return Err(error);
        }
        Ok(done.into_iter().map(|done| done.unwrap_or(T::UNDONE)).collect())
    }
}

fn has_values(names: &[&[u8]]) -> bool {
    names.iter().any(|name| names::holds_value(name))
}

fn names_of<'i>(items: &[Item<'i>]) -> Vec<&'i [u8]> {
    items.iter().map(|item| item.name).collect()
}

impl Server for Tier {
    fn title(&self) -> String {
        self.server.title()
    }

    fn largest_value_bytes(&self) -> usize {
        self.server.largest_value_bytes()
    }

    fn is_lasting(&self) -> bool {
        self.server.is_lasting()
    }

    fn get(&self, names: &[&[u8]]) -> Result<Vec<Option<Held>>, Error> {
        self.read(names, |names| self.ask(|| has_values(names), |server| server.get(names)))
    }

    fn foreign(&self, names: &[&[u8]]) -> Result<Vec<Option<Foreign>>, Error> {
        self.read(names, |names| self.ask(|| has_values(names), |server| server.foreign(names)))
    }

    fn set(&self, items: &[Item<'_>]) -> Result<Vec<Put>, Error> {
        if !self.is_fleet() || items.len() < 2 {
            return self.change(&names_of(items), |server| server.set(items));
        }
        match self.ask(|| false, |server| server.set(items)) {
            Err(error) if error.is_outage() => self.each(items, error, |item| {
                self.change(&[item.name], |server| server.set(std::slice::from_ref(item))).map(|puts| puts[0])
            }),
            result => result,
        }
    }

    fn add(&self, items: &[Item<'_>]) -> Result<Vec<Put>, Error> {
        self.require_settled(&names_of(items))?;
        self.ask(|| has_values(&names_of(items)), |server| server.add(items))
    }

    fn swap(&self, item: &Item<'_>, mark: &Mark) -> Result<Put, Error> {
        self.require_settled(&[item.name])?;
        self.change(&[item.name], |server| server.swap(item, mark))
    }

    fn remove(&self, names: &[&[u8]]) -> Result<Vec<bool>, Error> {
        if !self.is_fleet() || names.len() < 2 {
            return self.change(names, |server| server.remove(names));
        }
        match self.ask(|| false, |server| server.remove(names)) {
            Err(error) if error.is_outage() => self
                .each(names, error, |name| self.change(&[name], |server| server.remove(&[name])).map(|were| were[0])),
            result => result,
        }
    }

    fn remove_marked(&self, name: &[u8], mark: &Mark) -> Result<bool, Error> {
        self.ask(|| false, |server| server.remove_marked(name, mark))
    }

    fn incr(&self, name: &[u8], delta: i64) -> Result<Incr, Error> {
        self.require_settled(&[name])?;
        self.ask(|| has_values(&[name]), |server| server.incr(name, delta))
    }

    fn raise(&self, items: &[(&[u8], i64, Lifetime)]) -> Result<(), Error> {
        self.ask(|| false, |server| server.raise(items))
    }

    fn touch(&self, names: &[&[u8]], lifetime: Lifetime) -> Result<Vec<bool>, Error> {
        self.require_settled(names)?;
        self.ask(|| has_values(names), |server| server.touch(names, lifetime))
    }

    fn left(&self, name: &[u8]) -> Result<Left, Error> {
        self.require_settled(&[name])?;
        self.ask(|| has_values(&[name]), |server| server.left(name))
    }

    fn empty(&self) -> Result<(), Error> {
        self.ask(|| false, |server| server.empty())
    }

    fn scan(&self, beginning: &[u8], each: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Error> {
        self.ask(|| false, |server| server.scan(beginning, each))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::entry::{Terms, Timeout, Value, When};
    use crate::store::far::FarStore;
    use crate::store::far::fixture::Memory;
    use crate::store::{Store, Write};

    /// A machine with two workers, each with a tier of its own over the same server and region.
    struct Machine {
        server: Arc<Memory>,
        workers: [FarStore; 2],
        region: Cache,
    }

    fn machine(name: &str) -> Machine {
        let server = Arc::new(Memory::default());
        let region = Cache::open(&Config::new(&format!("memory://tier {name}")).expect("a location")).expect("memory");
        let worker = || FarStore::behind(Arc::new(Tier::new(server.clone(), region.clone(), "memory")));
        Machine { workers: [worker(), worker()], server, region }
    }

    impl Machine {
        fn phase(&self) -> Phase {
            self.workers[0].tier().expect("it has one").phase()
        }

        fn debts(&self) -> u64 {
            self.workers[0].tier().expect("it has one").debts()
        }

        /// What a worker reads; an outage is a miss.
        fn get(&self, worker: usize, name: &[u8]) -> Option<Vec<u8>> {
            let store = &self.workers[worker];
            let mut found = None;
            let key = store.key(store.space(b"", b""), name);
            let _ = store.read(&[key], &mut |_, _, bytes| found = Some(bytes.to_vec()));
            found
        }

        fn set(&self, name: &[u8], tags: &[&[u8]]) -> bool {
            let store = &self.workers[0];
            let key = store.key(store.space(b"", b""), name);
            let terms = Terms { tags, ..Timeout::After(Duration::from_secs(60)).into() };
            let value = Value::Bytes { codec: 1, bytes: name };
            store.write(&[Write { key, value, terms }], When::Always).is_ok()
        }

        fn remove(&self, name: &[u8]) -> bool {
            let store = &self.workers[0];
            store.remove(&[store.key(store.space(b"", b""), name)]).is_ok()
        }

        fn wait_until_closed(&self) {
            let start = std::time::Instant::now();
            while self.phase() != Phase::Closed || self.debts() > 0 {
                self.get(1, b"anything");
                assert!(start.elapsed() < Duration::from_secs(2), "the server is back for two seconds");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    fn tier_of(machine: &Machine) -> &Tier {
        machine.workers[0].tier().expect("it has one")
    }

    #[test]
    fn three_failures_open_the_breaker_for_all_workers_and_an_answer_closes_it() {
        let machine = machine("opens");
        assert!(machine.set(b"k", &[]));
        machine.server.go_away();
        for _ in 0..10 {
            assert_eq!(machine.get(0, b"k"), None);
            assert_eq!(machine.get(1, b"k"), None);
        }
        assert_eq!(machine.server.asked_in_vain(), MOST_FAILURES);
        assert_eq!(machine.phase(), Phase::Open);
        machine.server.come_back();
        machine.wait_until_closed();
        assert_eq!(machine.get(0, b"k").as_deref(), Some(&b"k"[..]));
        let told: Vec<String> = machine.region.take_events().into_iter().map(|event| event.text).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("memory is away") && told[1].contains("answers again"), "{told:?}");
    }

    #[test]
    fn failures_that_are_not_in_a_row_open_nothing() {
        let machine = machine("row");
        for _ in 0..5 {
            machine.server.go_away();
            machine.get(0, b"k");
            machine.get(0, b"k");
            machine.server.come_back();
            machine.get(1, b"k");
            assert_eq!(machine.phase(), Phase::Closed);
        }
    }

    /// While the server is away something is removed, another set anew, a tag invalidated: what the server has of them is never
    /// read again.
    #[test]
    fn what_was_changed_during_an_outage_is_told_before_anything_is_read() {
        let machine = machine("debts");
        for name in [&b"removed"[..], b"set", b"kept"] {
            assert!(machine.set(name, &[]));
        }
        assert!(
            machine.set(b"tagged", &[b"t"]) && machine.set(b"other", &[b"u"]) && machine.set(b"set with tags", &[])
        );
        machine
            .server
            .set(&[Item { name: b"of another library", bytes: b"x", lifetime: Lifetime::Never }])
            .expect("it answers");
        machine.server.go_away();
        assert!(!machine.remove(b"removed") && !machine.set(b"set", &[]) && !machine.set(b"set with tags", &[b"u"]));
        let store = &machine.workers[0];
        assert!(store.invalidate_tags(store.space(b"", b""), &[b"t"]).is_err());
        assert!(!machine.remove(b"removed"), "twice");
        assert!(tier_of(&machine).remove(&[b"of another library", b"tz:{.!a lock}"]).is_err());
        assert_eq!(machine.debts(), 5, "a lock is no value");
        machine.server.come_back();
        machine.wait_until_closed();
        assert!(tier_of(&machine).foreign(&[b"of another library"]).expect("it answers")[0].is_none());
        let names = [&b"removed"[..], b"set", b"set with tags", b"tagged", b"kept", b"other"];
        assert_eq!(names.map(|name| machine.get(1, name).is_some()), [false, false, false, false, true, true]);
        assert_eq!(machine.debts(), 0);
    }

    /// One change fails, and the breaker is closed: the very next read must not see what it should have changed.
    #[test]
    fn a_single_failed_removal_is_made_good_before_the_next_read() {
        let machine = machine("single");
        assert!(machine.set(b"k", &[]));
        machine.server.go_away();
        assert!(!machine.remove(b"k"));
        machine.server.come_back();
        assert_eq!(machine.phase(), Phase::Closed);
        assert_eq!(machine.get(1, b"k"), None);
        assert!(machine.set(b"k", &[]));
        assert!(machine.get(1, b"k").is_some());
    }

    /// A rollback would take back what the server is told inside a transaction.
    #[test]
    fn a_server_is_told_outside_of_transactions_only() {
        let machine = machine("transactions");
        assert!(machine.set(b"k", &[]) && machine.set(b"other", &[]));
        machine.server.go_away();
        assert!(!machine.remove(b"k"));
        machine.server.come_back();
        machine.server.set_in_transaction(true);
        assert_eq!((machine.get(0, b"k"), machine.get(0, b"other")), (None, None));
        assert_eq!(machine.debts(), 1);
        machine.server.set_in_transaction(false);
        assert!(machine.get(0, b"k").is_none() && machine.get(0, b"other").is_some());
        assert_eq!(machine.debts(), 0);
    }

    #[test]
    fn debts_that_were_evicted_empty_the_server() {
        let machine = machine("evicted");
        assert!(machine.set(b"one", &[]) && machine.set(b"two", &[]));
        machine.server.go_away();
        assert!(!machine.remove(b"one"));
        machine.region.clear(machine.workers[0].tier().expect("it has one").debts);
        machine.server.come_back();
        machine.wait_until_closed();
        assert_eq!((machine.get(0, b"one"), machine.get(0, b"two")), (None, None));
    }

    #[test]
    fn writers_that_never_rest_do_not_hold_up_the_recovery() {
        let machine = machine("busy");
        machine.server.go_away();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for number in 0..3 {
                let (machine, stop) = (&machine, &stop);
                scope.spawn(move || {
                    let mut round = 0_u64;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        round += 1;
                        machine.remove(format!("{number} {}", round % 50).as_bytes());
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(600));
            machine.server.come_back();
            let start = std::time::Instant::now();
            let mut is_used = false;
            while !is_used && start.elapsed() < Duration::from_secs(5) {
                is_used = machine.set(b"k", &[]) && machine.get(1, b"k").is_some();
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(is_used, "{:?}, {} debts", machine.phase(), machine.debts());
        });
    }

    /// Who changes something while the server is told what it has missed does it on the server.
    #[test]
    fn a_server_that_catches_up_takes_changes_and_serves_no_entry() {
        let machine = machine("catches up");
        assert!(machine.set(b"k", &[]));
        let tier = machine.workers[0].tier().expect("it has one");
        let catching_up =
            Breaker { phase: Phase::CatchingUp, until_ms: tier.now_ms() + TRIAL_MS, failures: 0, opened: 1 };
        assert!(machine.region.store().replace_tier(tier.name, Field::Breaker, 0, catching_up.word()));
        let store = &machine.workers[0];
        assert_eq!(machine.get(0, b"k"), None);
        assert!(machine.set(b"changed", &[b"t"]) && machine.remove(b"k"));
        assert!(store.invalidate_tags(store.space(b"", b""), &[b"t"]).is_ok());
        let name = names::of_key(&store.key(store.space(b"", b""), b"changed"), names::Kind::Entry);
        assert!(tier.touch(&[&name], Lifetime::Never).is_err());
        assert_eq!(machine.debts(), 0);
        // Its worker died: another one takes over.
        let over = Breaker { until_ms: tier.now_ms(), ..catching_up };
        assert!(machine.region.store().replace_tier(tier.name, Field::Breaker, catching_up.word(), over.word()));
        assert!(machine.set(b"k", &[]) && machine.get(1, b"k").is_some() && machine.phase() == Phase::Closed);
    }

    #[test]
    fn words_come_back() {
        for phase in [Phase::Closed, Phase::Open, Phase::OnTrial, Phase::CatchingUp] {
            let breaker = Breaker { phase, until_ms: (1 << 44) - 1, failures: 2, opened: 255 };
            assert_eq!(Breaker::of(breaker.word()), breaker);
        }
    }
}
