//! Processes killed with SIGKILL before each of their stores to shared memory, operation by operation: nobody hangs, nobody reads
//! a wrong value, and what the dead had in hand is back in circulation after the next sweep. (kill.rs kills at random.)
#![cfg(feature = "crash-points")]

mod support;

use std::time::{Duration, Instant, SystemTime};

use support::board::Board;
use support::child::{Child, Ended, apart};
use support::death::{arm, disarm};
use support::place::{Place, Shelf, is_stored};
use support::value::{self, codec};
use support::{Random, quick_or_soak};
use tezkor::{Buffer, Cache, Clock, Config, Incr, Timeout, Value};

/// Ten times the bound on a survivor's stall.
const LONGEST_STALL: Duration = Duration::from_millis(2500);
const REGION_BYTES: u64 = 1 << 20;
/// More than what the dead had open rests before it is used again.
const REST_MS: u64 = 10_000;
/// A little more than one segment of such a region: a head and one short further part.
const LARGE: usize = 16_500;
const BYSTANDERS: u64 = 8;
const TARGET: u64 = 100;
const MINUTE: Timeout = Timeout::After(Duration::from_secs(60));
const HOUR: Timeout = Timeout::After(Duration::from_secs(3600));

// Words of the board.
const READY: usize = 0;
const KILLED: usize = 1;
const STORES: usize = 2;
const AGAIN: usize = 3;
const STALL: usize = 4;

/// Who dies, and when it begins to count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    /// A worker that has its row already.
    Worker,
    /// One that comes to the region.
    Newcomer,
    /// The child of a fork of a worker, at its first operation.
    ForkChild,
}

/// An operation in which somebody dies.
struct Case {
    victim: Victim,
    /// Brings about what the operation finds.
    before: fn(&mut Shelf),
    /// The operation.
    act: fn(&mut Shelf),
    /// What may be seen afterwards, wherever the victim died. `true`: after a survivor has done the same once more.
    outcome: fn(&mut Shelf, bool),
    /// Whether the bystanders may have been evicted by the operation.
    evicts: bool,
}

/// Kills a victim before each of its stores (of very many, before a sample), each in a region of its own.
fn enumerate(case: &Case) {
    let stores = run(case, u64::MAX).expect_err("nobody dies before a store that does not come");
    assert!(stores > 0, "the operation changes something");
    let start = Instant::now();
    let points = points(stores);
    let mut worst = 0;
    let mut kills = 0;
    for at in &points {
        println!("death before store {at}");
        if let Ok(stall_ns) = run(case, *at) {
            kills += 1;
            worst = worst.max(stall_ns);
        }
    }
    println!(
        "{kills} deaths at {} of {stores} stores, worst survivor {worst} ns, in {:?}",
        points.len(),
        start.elapsed()
    );
    // One run may make a store more or less than another: which slot a key hashes to differs from region to region.
    assert!(kills * 10 >= points.len() * 9, "only {kills} of {} died", points.len());
}

/// All stores, or the first and the last ones and a sample of those between.
fn points(stores: u64) -> Vec<u64> {
    let most = quick_or_soak(120, 1500);
    if stores <= most {
        return (1..=stores).collect();
    }
    let mut random = Random::new(support::now_ns());
    let middle = (most / 4..stores - most / 2).step_by((stores / (most / 4)) as usize);
    let middle = middle.map(|at| (at + random.below(stores / (most / 4))).min(stores));
    let mut points: Vec<u64> = (1..=most / 4).chain(middle).chain(stores - most / 2..=stores).collect();
    points.dedup();
    points
}

/// One death, or the number of stores if nobody died. The longest time that a survivor took for its part, in nanoseconds.
fn run(case: &Case, at: u64) -> Result<u64, u64> {
    let place = Place::new("kill");
    let config = place.shared(REGION_BYTES).with_clock(Clock::Manual);
    let board = Board::new(8);
    let survivor = Child::start(|| {
        let mut shelf = Shelf::open(&config);
        (0..BYSTANDERS).for_each(|key| assert!(is_stored(shelf.set(key, key, 300))));
        (case.before)(&mut shelf);
        board.set(READY, 1);
        board.wait_for(KILLED, 1);
        let start = Instant::now();
        look(&mut shelf, case, false);
        (case.act)(&mut shelf);
        look(&mut shelf, case, true);
        board.raise(STALL, start.elapsed().as_nanos() as u64);
        assert!(start.elapsed() < LONGEST_STALL, "a survivor was held up for {:?}", start.elapsed());
        board.set(AGAIN, 1);
        board.wait_for(AGAIN, 2);
        // The newcomer has written over the whole region since.
        assert!(is_stored(shelf.set(TARGET, 9, 100)));
        assert_eq!(shelf.get(TARGET), Some((9, 100)));
        assert_eq!(shelf.cache.store().validate(), Vec::<String>::new());
    });
    board.wait_for(READY, 1);
    let mut victim = Child::start(|| die(case, &config, at, &board));
    let ended = victim.wait();
    let died = match ended {
        Ended::Signalled(libc::SIGKILL) => true,
        Ended::Exited(0) => board.get(STORES) == 0,
        _ => panic!("the victim ended by itself: {ended:?}"),
    };
    board.set(KILLED, 1);
    board.wait_for(AGAIN, 1);
    apart(|| inspect(case, &config, &place));
    board.set(AGAIN, 2);
    survivor.finish();
    if died { Ok(board.get(STALL)) } else { Err(board.get(STORES)) }
}

/// The victim's life: the operation, and the number of stores on the board should it survive.
fn die(case: &Case, config: &Config, at: u64, board: &Board) {
    if case.victim == Victim::Newcomer {
        arm(at);
    }
    let mut shelf = Shelf::open(config);
    match case.victim {
        Victim::Newcomer => (case.act)(&mut shelf),
        Victim::Worker => {
            shelf.set(1000, 1, 100);
            arm(at);
            (case.act)(&mut shelf);
        }
        Victim::ForkChild => {
            shelf.set(1000, 1, 100);
            let mut child = Child::start(|| {
                arm(at);
                (case.act)(&mut shelf);
                board.set(STORES, disarm());
            });
            child.wait();
            assert!(is_stored(shelf.set(1000, 2, 100)), "the parent of the dead goes on");
            assert_eq!(shelf.get(1000), Some((2, 100)));
            return;
        }
    }
    board.set(STORES, disarm());
}

fn look(shelf: &mut Shelf, case: &Case, again: bool) {
    for key in 0..BYSTANDERS {
        let found = shelf.get(key);
        assert!(found == Some((key, 300)) || (case.evicts && found.is_none()), "bystander {key}: {found:?}");
    }
    (case.outcome)(shelf, again);
}

/// A newcomer, whose first operation sweeps: all is in order, and all segments can be used.
fn inspect(case: &Case, config: &Config, place: &Place) {
    let mut shelf = Shelf::open(config);
    assert_eq!(shelf.cache.take_events(), [], "the region is attached to as it is");
    look(&mut shelf, case, true);
    let store = shelf.cache.store();
    assert_eq!(store.kind(), "shared");
    assert_eq!(store.validate(), Vec::<String>::new());
    let stats = store.stats();
    assert_eq!(stats.workers, 2, "the survivor and this one: the row of the dead is free again");
    assert!(stats.segments_open <= 4, "{} segments are open for two workers", stats.segments_open);
    assert_eq!(stats.segments_evicting, 0);
    assert_eq!(place.unfinished(), Vec::<std::path::PathBuf>::new());
    // The region is written over three times: nothing in it makes that fail, or comes back wrong. What the dead had open has
    // rested by then.
    shelf.cache.set_time(wall_ms() + REST_MS);
    let start = Instant::now();
    for round in 0..3 {
        let mut stored = 0;
        for key in 2000..2500 {
            stored += u64::from(is_stored(shelf.set(key, round, 1800)));
            let found = shelf.get(key);
            assert!(found.is_none() || found == Some((round, 1800)), "{found:?}");
        }
        assert!(stored > 490, "{stored} of 500 writes");
    }
    for key in 0..BYSTANDERS {
        let found = shelf.get(key);
        assert!(found.is_none() || found == Some((key, 300)), "{found:?}");
    }
    assert!(start.elapsed() < LONGEST_STALL, "1500 writes and reads took {:?}", start.elapsed());
    assert_eq!(shelf.cache.store().validate(), Vec::<String>::new());
}

fn nothing(_: &mut Shelf) {}

fn target() -> Vec<u8> {
    value::name(TARGET)
}

/// The target is one of these versions, or gone; after a survivor's turn it is the last of them.
fn one_of(shelf: &mut Shelf, again: bool, versions: &[u64]) {
    let found = shelf.get(TARGET).map(|(version, _)| version);
    if again {
        assert_eq!(found, versions.last().copied(), "a survivor's write");
    } else {
        assert!(found.is_none_or(|version| versions.contains(&version)), "{found:?}");
    }
}

fn count_of(shelf: &mut Shelf) -> Option<i64> {
    let name = target();
    let key = shelf.key(&name);
    shelf.cache.get(&key, &mut Buffer::new()).map(|found| {
        assert_eq!(found.codec, tezkor::CODEC_COUNT);
        found.count
    })
}

fn set_count(shelf: &mut Shelf, number: i64) {
    let name = target();
    assert!(is_stored(shelf.cache.set(&shelf.key(&name), Value::Count(number), HOUR)));
}

fn touch(shelf: &mut Shelf, timeout: Timeout) {
    let name = target();
    // The entry may have gone with who died while touching it.
    shelf.cache.touch(&shelf.key(&name), timeout);
}

/// When the target expires, in seconds from now.
fn expires_in(shelf: &Shelf) -> Option<u64> {
    let name = target();
    let expires_ms = shelf.cache.explain(&shelf.key(&name)).expires_unix_ms?;
    Some(expires_ms.saturating_sub(wall_ms()).div_ceil(1000))
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

const WORKER: Case = Case { victim: Victim::Worker, before: nothing, act: nothing, outcome: |_, _| {}, evicts: false };

#[test]
fn death_in_a_set_of_a_new_key() {
    enumerate(&Case {
        act: |shelf| assert!(is_stored(shelf.set(TARGET, 1, 400))),
        outcome: |shelf, again| one_of(shelf, again, &[1]),
        ..WORKER
    });
}

#[test]
fn death_in_a_set_of_a_known_key() {
    enumerate(&Case {
        before: |shelf| assert!(is_stored(shelf.set(TARGET, 1, 400))),
        act: |shelf| assert!(is_stored(shelf.set(TARGET, 2, 200))),
        outcome: |shelf, again| one_of(shelf, again, &[1, 2]),
        ..WORKER
    });
}

#[test]
fn death_in_an_add() {
    enumerate(&Case {
        act: |shelf| {
            // Held if the dead one had come far enough.
            shelf.add(TARGET, 1, 100);
        },
        outcome: |shelf, again| one_of(shelf, again, &[1]),
        ..WORKER
    });
}

#[test]
fn death_in_a_set_if_unchanged() {
    enumerate(&Case {
        before: |shelf| assert!(is_stored(shelf.set(TARGET, 1, 400))),
        act: |shelf| {
            let name = target();
            let Some(found) = shelf.cache.get(&shelf.key(&name), &mut Buffer::new()) else {
                assert!(is_stored(shelf.set(TARGET, 2, 100)));
                return;
            };
            let mut bytes = Vec::new();
            value::fill(&mut bytes, TARGET, 2, 100);
            let value = Value::Bytes { codec: codec(TARGET), bytes: &bytes };
            let written = shelf.cache.set_if_unchanged(&shelf.key(&name), &found.stamp, value, Timeout::Keep);
            assert!(is_stored(written));
        },
        outcome: |shelf, again| one_of(shelf, again, &[1, 2]),
        ..WORKER
    });
}

#[test]
fn death_in_a_delete() {
    enumerate(&Case {
        before: |shelf| assert!(is_stored(shelf.set(TARGET, 1, 400))),
        act: |shelf| {
            shelf.delete(TARGET);
        },
        outcome: |shelf, again| {
            let found = shelf.get(TARGET);
            assert!(found.is_none() || (!again && found == Some((1, 400))), "{found:?}");
        },
        ..WORKER
    });
}

#[test]
fn death_in_a_touch_that_lengthens() {
    enumerate(&Case {
        before: |shelf| {
            assert!(is_stored(shelf.set(TARGET, 1, 100)));
            touch(shelf, MINUTE);
        },
        act: |shelf| touch(shelf, HOUR),
        outcome: |shelf, again| {
            one_of(shelf, again, &[1]);
            let seconds = expires_in(shelf);
            assert!(seconds.is_some_and(|seconds| seconds > 3000 || (!again && seconds <= 60)), "{seconds:?}");
        },
        ..WORKER
    });
}

#[test]
fn death_in_a_touch_that_shortens() {
    enumerate(&Case {
        before: |shelf| assert!(is_stored(shelf.set(TARGET, 1, 100))),
        act: |shelf| touch(shelf, MINUTE),
        outcome: |shelf, again| {
            one_of(shelf, again, &[1]);
            let seconds = expires_in(shelf);
            assert!(seconds.map_or(!again, |seconds| seconds <= 61), "{seconds:?}");
        },
        ..WORKER
    });
}

#[test]
fn death_in_an_incr() {
    enumerate(&Case {
        before: |shelf| set_count(shelf, 7),
        act: |shelf| {
            let name = target();
            assert!(matches!(shelf.cache.incr(&shelf.key(&name), 1), Incr::Value(8..=9)));
        },
        outcome: |shelf, again| {
            let count = count_of(shelf).expect("a count stays");
            assert!(if again { (8..=9).contains(&count) } else { (7..=8).contains(&count) }, "{count}");
        },
        ..WORKER
    });
}

#[test]
fn death_in_an_incr_that_writes_anew() {
    const NUMBER: i64 = 1 << 50;
    enumerate(&Case {
        before: |shelf| set_count(shelf, NUMBER),
        act: |shelf| {
            let name = target();
            let Incr::Value(sum) = shelf.cache.incr(&shelf.key(&name), 1) else { panic!("the count is gone") };
            assert!((NUMBER + 1..=NUMBER + 2).contains(&sum), "{sum}");
        },
        outcome: |shelf, again| {
            let count = count_of(shelf).expect("a count stays") - NUMBER;
            assert!(if again { (1..=2).contains(&count) } else { (0..=1).contains(&count) }, "{count}");
        },
        ..WORKER
    });
}

#[test]
fn death_in_a_set_of_a_large_value() {
    enumerate(&Case {
        act: |shelf| assert!(is_stored(shelf.set(TARGET, 1, LARGE))),
        outcome: |shelf, again| {
            one_of(shelf, again, &[1]);
            // A large value whose writer died is changed and read as quickly as any other.
            touch(shelf, HOUR);
            one_of(shelf, again, &[1]);
        },
        ..WORKER
    });
}

/// A large value that was published by somebody who died before he had put it into its queue survives evictions in one piece.
#[test]
fn a_large_value_whose_writer_died_survives_whole() {
    let case = Case { act: |shelf| assert!(is_stored(shelf.set(TARGET, 1, LARGE))), ..WORKER };
    let stores = run(&case, u64::MAX).expect_err("nobody dies before a store that does not come");
    let mut there = 0;
    for at in stores - 12..=stores {
        let place = Place::new("whole");
        let config = place.shared(REGION_BYTES).with_clock(Clock::Manual);
        let board = Board::new(8);
        Child::start(|| die(&case, &config, at, &board)).wait();
        apart(|| {
            let mut shelf = Shelf::open(&config);
            if shelf.get(TARGET).is_some() {
                board.set(READY, 1);
            }
            shelf.cache.set_time(wall_ms() + REST_MS);
            for key in 2000..4000 {
                assert!(is_stored(shelf.set(key, 1, 900)));
                if key % 50 == 0 {
                    // It is in use, so it stays.
                    let found = shelf.get(TARGET);
                    assert_eq!(found.is_some(), board.get(READY) == 1, "death before store {at}, at key {key}");
                    assert_eq!(shelf.cache.store().validate(), Vec::<String>::new(), "death before store {at}");
                }
            }
            touch(&mut shelf, HOUR);
            assert_eq!(shelf.get(TARGET).is_some(), board.get(READY) == 1);
        });
        there += board.get(READY);
    }
    assert!(there > 0, "nobody died between publishing the value and the end");
}

#[test]
fn death_in_a_set_over_a_large_value() {
    enumerate(&Case {
        before: |shelf| assert!(is_stored(shelf.set(TARGET, 1, 3 * LARGE))),
        act: |shelf| assert!(is_stored(shelf.set(TARGET, 2, 500))),
        outcome: |shelf, again| one_of(shelf, again, &[1, 2]),
        ..WORKER
    });
}

#[test]
fn death_in_an_eviction() {
    enumerate(&Case {
        before: |shelf| {
            // All of the region is full, and of what lies in it some is used: small values, counts, large ones.
            for key in 500..1200 {
                match key % 9 {
                    0 => assert!(is_stored(shelf.set(key, 1, 3000))),
                    _ => assert!(is_stored(shelf.set(key, 1, 700))),
                }
                if key % 4 == 0 {
                    shelf.get(key);
                }
                if key % 100 == 0 {
                    set_count(shelf, 7);
                    assert!(is_stored(shelf.set(key, 1, LARGE)));
                    shelf.get(key);
                }
                count_of(shelf);
            }
        },
        act: |shelf| {
            for key in 1200..1224 {
                assert!(is_stored(shelf.set(key, 2, 900)));
            }
        },
        outcome: |shelf, again| {
            for key in 500..1200 {
                let found = shelf.get(key);
                assert!(found.is_none_or(|(version, _)| version == 1), "{key}: {found:?}");
            }
            assert!(count_of(shelf).is_none_or(|count| count == 7));
            let there = (1200..1224).filter(|key| shelf.get(*key) == Some((2, 900))).count();
            assert!(!again || there > 20, "{there} of 24");
        },
        evicts: true,
        ..WORKER
    });
}

#[test]
fn death_in_a_clear() {
    enumerate(&Case {
        before: |shelf| assert!(is_stored(shelf.set(TARGET, 1, 100))),
        act: |shelf| {
            shelf.cache.clear(shelf.space);
            (0..BYSTANDERS).for_each(|key| assert!(is_stored(shelf.set(key, key, 300))));
        },
        outcome: |shelf, again| assert!(!again || shelf.get(TARGET).is_none()),
        evicts: true,
        ..WORKER
    });
}

#[test]
fn death_in_leaving() {
    enumerate(&Case {
        before: |shelf| assert!(is_stored(shelf.set(TARGET, 1, 100))),
        act: |_| Cache::detach_all(),
        outcome: |shelf, again| one_of(shelf, again, &[1]),
        ..WORKER
    });
}

#[test]
fn death_in_coming_to_a_region() {
    enumerate(&Case {
        victim: Victim::Newcomer,
        act: |shelf| assert!(is_stored(shelf.set(TARGET, 1, 100))),
        outcome: |shelf, again| one_of(shelf, again, &[1]),
        ..WORKER
    });
}

#[test]
fn death_in_clearing_up_after_the_dead() {
    enumerate(&Case {
        victim: Victim::Newcomer,
        before: |shelf| {
            // Three workers that die with segments open, one of them in the midst of a large value.
            for number in 0..3 {
                let mut child = Child::start(|| {
                    shelf.set(50 + number, 1, 200);
                    arm(if number == 2 { 1000 } else { 5 });
                    shelf.set(60 + number, 1, LARGE);
                });
                assert_eq!(child.wait(), Ended::Signalled(libc::SIGKILL));
            }
        },
        act: |shelf| assert!(is_stored(shelf.set(TARGET, 1, 100))),
        outcome: |shelf, again| {
            one_of(shelf, again, &[1]);
            (50..53).for_each(|key| assert_eq!(shelf.get(key), Some((1, 200))));
        },
        ..WORKER
    });
}

#[test]
fn death_of_a_fork_child_at_its_first_operation() {
    enumerate(&Case {
        victim: Victim::ForkChild,
        act: |shelf| assert!(is_stored(shelf.set(TARGET, 1, 100))),
        outcome: |shelf, again| one_of(shelf, again, &[1]),
        ..WORKER
    });
}

#[test]
fn death_in_making_a_region() {
    for make in [Place::shared, Place::file] {
        let (mut at, mut kills) = (1, 0);
        loop {
            let place = Place::new("made");
            let config = make(&place, REGION_BYTES);
            let mut victim = Child::start(|| {
                arm(at);
                assert!(is_stored(Shelf::open(&config).set(TARGET, 1, 100)));
            });
            let died = victim.wait() == Ended::Signalled(libc::SIGKILL);
            apart(|| {
                let mut shelf = Shelf::open(&config);
                assert_eq!(shelf.cache.take_events(), [], "death at {at}");
                assert!(matches!(shelf.cache.store().kind(), "shared" | "file"), "death at {at}");
                one_of(&mut shelf, false, &[1]);
                assert!(is_stored(shelf.set(TARGET, 1, 200)));
                one_of(&mut shelf, true, &[1]);
                assert_eq!(shelf.cache.store().validate(), Vec::<String>::new());
                assert_eq!(place.unfinished(), Vec::<std::path::PathBuf>::new());
            });
            if !died {
                break;
            }
            (at, kills) = (at + 1, kills + 1);
        }
        assert!(kills > 20, "{kills}");
    }
}
