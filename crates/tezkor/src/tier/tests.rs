use super::*;
use crate::config::Config;
use crate::entry::{Terms, Timeout, Value, When};
use crate::store::far::FarStore;
use crate::store::far::fixture::Memory;
use crate::store::far::server::{Item, Lifetime, Put};
use crate::store::{Store, Write};

/// A machine with two workers, each with a tier of its own over the same server and region.
struct Machine {
    server: Arc<Memory>,
    workers: [FarStore; 2],
    tiers: [Arc<Tier>; 2],
    region: Cache,
}

fn machine(name: &str) -> Machine {
    let server = Arc::new(Memory::default());
    let region = Cache::open(&Config::new(&format!("memory://tier {name}")).expect("a location")).expect("memory");
    // A name of its own: what a process has said of a server it says once.
    let tiers = [(); 2].map(|()| Arc::new(Tier::new(server.clone(), region.clone(), name)));
    Machine { workers: tiers.clone().map(FarStore::behind), tiers, server, region }
}

impl Machine {
    fn phase(&self) -> Phase {
        self.tiers[0].phase()
    }

    fn debts(&self) -> u64 {
        self.tiers[0].debts()
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
    assert!(machine.set(b"tagged", &[b"t"]) && machine.set(b"other", &[b"u"]) && machine.set(b"set with tags", &[]));
    machine
        .server
        .set(&[Item { name: b"of another library", bytes: b"x", lifetime: Lifetime::Never }])
        .expect("it answers");
    machine.server.go_away();
    assert!(!machine.remove(b"removed") && !machine.set(b"set", &[]) && !machine.set(b"set with tags", &[b"u"]));
    let store = &machine.workers[0];
    assert!(store.invalidate_tags(store.space(b"", b""), &[b"t"]).is_err());
    assert!(!machine.remove(b"removed"), "twice");
    assert!(machine.tiers[0].remove(&[b"of another library", b"tz:{.!a lock}"]).is_err());
    assert_eq!(machine.debts(), 5, "a lock is no value");
    machine.server.come_back();
    machine.wait_until_closed();
    assert!(machine.tiers[0].foreign(&[b"of another library"]).expect("it answers")[0].is_none());
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

/// One worker is paying a debt when another sets the key anew, and a third fails to remove it again.
#[test]
fn what_is_owed_once_more_while_it_is_paid_is_owed_still() {
    for is_fleet in [false, true] {
        let machine = machine(if is_fleet { "once more, fleet" } else { "once more" });
        let name = if is_fleet { name_of_place(&machine, 1) } else { b"k".to_vec() };
        if is_fleet {
            machine.server.become_fleet();
        }
        assert!(machine.set(&name, &[]));
        machine.server.go_away();
        assert!(!machine.remove(&name));
        machine.server.come_back();
        let entry = entry_of(&machine, &name);
        let another = machine.tiers[1].clone();
        machine.server.after_removal(move |server| {
            let item = Item { name: &entry, bytes: b"x", lifetime: Lifetime::Never };
            assert_eq!(server.set(&[item]).expect("it answers"), [Put::Done]);
            another.owe(Debt::Removal, &[&entry]);
        });
        machine.get(0, &name);
        machine.wait_until_closed();
        let left = machine.server.get(&[&entry_of(&machine, &name)]).expect("it answers");
        assert!(left[0].is_none(), "it was to be removed");
        assert_eq!(machine.debts(), 0);
    }
}

/// A name that one of two servers has.
fn name_of_place(machine: &Machine, place: usize) -> Vec<u8> {
    let names = (0..100).map(|number| format!("name {number}").into_bytes());
    names.into_iter().find(|name| machine.server.place_of(&entry_of(machine, name)) == place).expect("every other one")
}

fn entry_of(machine: &Machine, name: &[u8]) -> Vec<u8> {
    let store = &machine.workers[0];
    names::of_key(&store.key(store.space(b"", b""), name), names::Kind::Entry)
}

/// The second of two servers has some of the tags: what could not be said of them is said before an entry that has one is read,
/// whatever server that entry is on.
#[test]
fn a_fleet_settles_the_tags_of_what_is_read() {
    let machine = machine("fleet tags");
    machine.server.become_fleet();
    let tags: Vec<Vec<u8>> = (0..8).map(|number| format!("tag {number}").into_bytes()).collect();
    let entries: Vec<Vec<u8>> = (0..8).map(|number| format!("entry {number}").into_bytes()).collect();
    for (entry, tag) in entries.iter().zip(&tags) {
        assert!(machine.set(entry, &[tag]));
    }
    machine.server.go_away();
    let store = &machine.workers[0];
    for tag in &tags {
        let _ = store.invalidate_tags(store.space(b"", b""), &[tag]);
    }
    assert!((1..8).contains(&machine.debts()), "some tags are on the server that is away: {}", machine.debts());
    assert!(entries.iter().all(|entry| machine.get(1, entry).is_none()));
    machine.server.come_back();
    assert!(entries.iter().all(|entry| machine.get(1, entry).is_none()), "no read before the debts are paid");
    machine.wait_until_closed();
    assert!(entries.iter().all(|entry| machine.get(1, entry).is_none()));
}

#[test]
fn a_fleet_that_was_cleared_in_part_serves_nothing_until_it_is_empty() {
    let machine = machine("fleet clear");
    machine.server.become_fleet();
    let entries = [name_of_place(&machine, 0), name_of_place(&machine, 1)];
    assert!(entries.iter().all(|entry| machine.set(entry, &[])));
    machine.server.go_away();
    let store = &machine.workers[0];
    assert!(store.clear(store.space(b"", b"")).is_err());
    assert!(entries.iter().all(|entry| machine.get(1, entry).is_none()));
    machine.server.come_back();
    machine.wait_until_closed();
    assert!(entries.iter().all(|entry| machine.get(1, entry).is_none()));
    assert!(machine.set(&entries[1], &[]) && machine.get(1, &entries[1]).is_some());
}

#[test]
fn debts_that_were_evicted_empty_the_server() {
    let machine = machine("evicted");
    assert!(machine.set(b"one", &[]) && machine.set(b"two", &[]));
    machine.server.go_away();
    assert!(!machine.remove(b"one"));
    machine.region.clear(machine.tiers[0].debts);
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
    let tier = &machine.tiers[0];
    let catching_up = Breaker { phase: Phase::CatchingUp, until_ms: tier.now_ms() + TRIAL_MS, failures: 0, opened: 1 };
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
