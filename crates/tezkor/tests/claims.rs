//! Locks, rate limits and intents over real processes: one holder, exact limits, and nothing that a death leaves behind.

mod support;

use std::time::{Duration, Instant};

use support::board::Board;
use support::child::{Child, apart, finish_all, start_all};
use support::place::{Place, Shelf};
use support::quick_or_soak;
use tezkor::{Begin, Clock, Everything, Locking, Looked, Terms, Timeout, Value, Written};

const PROCESSES: u64 = 4;
const REGION_BYTES: u64 = 1 << 20;
const HOUR: Duration = Duration::from_secs(3600);
const BEGIN: Begin = Begin { birth: None, beta: 1.0, dice: 0.5, alone: false, refresh: false };

fn lock(shelf: &Shelf, name: &[u8], most: Option<Duration>) -> Option<u64> {
    match shelf.cache.store().lock(&shelf.key(name), most).expect("there is a place for it") {
        Locking::Held(token) => Some(token),
        Locking::Taken => None,
    }
}

#[test]
fn a_lock_has_one_holder_and_tokens_grow() {
    let place = Place::new("lock");
    let config = place.shared(REGION_BYTES);
    let tries = quick_or_soak(25_000, 1_000_000);
    let board = Board::new(4);
    let (inside, last, held, started) = (0, 1, 2, 3);
    finish_all(start_all(PROCESSES, |number| {
        let shelf = Shelf::open(&config);
        board.add(started, 1);
        board.wait_for(started, PROCESSES);
        for round in 0..tries {
            // Half of them with a limit that is never reached.
            let Some(token) = lock(&shelf, b"door", (round % 2 == 0).then_some(HOUR)) else { continue };
            assert_eq!(board.add(inside, 1), 1, "two hold the lock");
            assert!(token > board.get(last), "the token of process {number} is not larger than the last");
            board.set(last, token);
            board.add(held, 1);
            board.set(inside, 0);
            assert!(shelf.cache.store().unlock(&shelf.key(b"door"), token), "it was lost");
        }
    }));
    // A holder that is put to sleep lets the others try in vain for as long.
    assert!(board.get(held) > tries / 100, "hardly anybody had it: {}", board.get(held));
}

#[test]
fn a_lock_of_a_killed_process_is_free_at_once() {
    let place = Place::new("killed");
    let config = place.shared(REGION_BYTES);
    let shelf = Shelf::open(&config);
    let mut worst = Duration::ZERO;
    for _ in 0..quick_or_soak(20, 200) {
        let board = Board::new(1);
        let mut holder = Child::start(|| {
            let shelf = Shelf::open(&config);
            assert!(lock(&shelf, b"door", None).is_some());
            board.set(0, 1);
            std::thread::sleep(Duration::from_secs(60));
        });
        board.wait_for(0, 1);
        assert_eq!(lock(&shelf, b"door", None), None);
        holder.kill();
        let start = Instant::now();
        let token = loop {
            if let Some(token) = lock(&shelf, b"door", None) {
                break token;
            }
        };
        worst = worst.max(start.elapsed());
        assert!(shelf.cache.store().unlock(&shelf.key(b"door"), token));
    }
    println!("free within {worst:?}");
    assert!(worst < Duration::from_millis(500), "{worst:?}");
}

#[test]
fn a_lock_is_kept_by_its_token_alone() {
    let place = Place::new("token");
    let shelf = Shelf::open(&place.shared(REGION_BYTES));
    let (store, door) = (shelf.cache.store(), shelf.key(b"door"));
    let token = lock(&shelf, b"door", None).expect("nobody has it");
    assert!(store.is_locked(&door));
    assert!(!store.unlock(&door, token + 1) && !store.extend_lock(&door, token + 1, None));
    // Neither clearing nor filling the region takes it away.
    shelf.cache.clear(shelf.space);
    assert_eq!(lock(&shelf, b"door", None), None);
    assert!(store.extend_lock(&door, token, Some(Duration::from_millis(20))));
    std::thread::sleep(Duration::from_millis(30));
    assert!(!store.is_locked(&door));
    assert!(!store.extend_lock(&door, token, None), "its time was over");
    let next = lock(&shelf, b"door", None).expect("its time was over");
    assert!(next > token);
    assert!(!store.unlock(&door, token), "it is another's");
    assert!(store.unlock(&door, next));
}

#[test]
fn a_full_table_of_locks_is_an_error_that_says_so() {
    let place = Place::new("full");
    let shelf = Shelf::open(&place.shared(REGION_BYTES));
    let (mut tokens, mut errors) = (Vec::new(), Vec::new());
    // A name has eight places in which it may be; so many names fill all of them.
    for number in 0..2_000_u32 {
        let name = number.to_le_bytes();
        match shelf.cache.store().lock(&shelf.key(&name), None) {
            Ok(Locking::Held(token)) => tokens.push((name, token)),
            Ok(Locking::Taken) => panic!("two names are taken for one"),
            Err(error) => errors.push(error),
        }
    }
    assert_eq!((tokens.len(), errors.len()), (32, 2_000 - 32));
    for error in errors {
        assert!(error.is_full() && error.to_string().contains("table of locks is full"), "{error}");
    }
    for (name, token) in tokens {
        assert!(shelf.cache.store().unlock(&shelf.key(&name), token));
    }
    assert_eq!(shelf.cache.stats().locks_claimed, 0);
}

/// A limit for each visitor of a site needs more places than there are loads and locks at a time. A key has sixteen places, in two
/// buckets, so until three fifths of the table are taken nobody is refused for want of one: beyond that chance decides.
#[test]
fn each_visitor_has_a_rate_limit_until_the_table_is_full() {
    let place = Place::new("visitors");
    let config = place.shared(8 << 20);
    apart(|| {
        let shelf = Shelf::open(&config);
        let places = (8 << 20) / (2 << 10);
        let uses = |visitor: u64| {
            let name = format!("visitor {visitor}");
            let allowed = |_| shelf.cache.store().use_rate(&shelf.key(name.as_bytes()), 2, HOUR).expect("a limit");
            (0..3).map(allowed).map(|rate| rate.is_allowed).collect::<Vec<_>>()
        };
        for visitor in 0..places * 3 / 5 {
            assert_eq!(uses(visitor), [true, true, false], "visitor {visitor}");
        }
        assert_eq!(shelf.counter("rates_refused"), 0);
        (places..places * 2).for_each(|visitor| drop(uses(visitor)));
        assert!(shelf.counter("rates_refused") > 0);
        let told = shelf.cache.take_events();
        assert!(told.iter().any(|event| event.text.contains("table of rate limits")), "{told:?}");
    });
}

/// Ten a second and twenty an hour: a window that ended later than the other's took it for one of another clock, and began anew.
#[test]
fn limits_of_one_key_for_two_periods_are_two_limits() {
    let place = Place::new("periods");
    let shelf = Shelf::open(&place.shared(REGION_BYTES));
    let mut allowed = [0, 0];
    for _ in 0..30 {
        for (place, (limit, period)) in [(1000, Duration::from_millis(50)), (20, HOUR)].into_iter().enumerate() {
            let rate = shelf.cache.store().use_rate(&shelf.key(b"ip"), limit, period).expect("a good limit");
            allowed[place] += u64::from(rate.is_allowed);
        }
    }
    assert_eq!(allowed, [30, 20]);
}

#[test]
fn a_rate_limit_is_exact_across_processes() {
    let place = Place::new("rate");
    let config = place.shared(REGION_BYTES);
    let (limit, tries) = (5_000, quick_or_soak(10_000, 300_000));
    let board = Board::new(2);
    finish_all(start_all(PROCESSES, |_| {
        let shelf = Shelf::open(&config);
        board.add(0, 1);
        board.wait_for(0, PROCESSES);
        for _ in 0..tries {
            let rate = shelf.cache.store().use_rate(&shelf.key(b"logins"), limit, HOUR).expect("a good limit");
            board.add(1, u64::from(rate.is_allowed));
        }
    }));
    assert_eq!(board.get(1), limit);
    let shelf = Shelf::open(&config);
    for wrong in [(0, HOUR), (1 << 40, HOUR), (1, Duration::ZERO), (1, HOUR * 24 * 400)] {
        assert!(
            shelf
                .cache
                .store()
                .use_rate(&shelf.key(b"logins"), wrong.0, wrong.1)
                .is_err_and(|error| error.is_setting())
        );
    }
    // A window ends.
    let short = Duration::from_millis(20);
    let uses: Vec<bool> = (0..3)
        .map(|_| shelf.cache.store().use_rate(&shelf.key(b"short"), 2, short).expect("a good limit").is_allowed)
        .collect();
    assert_eq!(uses, [true, true, false]);
    std::thread::sleep(Duration::from_millis(30));
    assert!(shelf.cache.store().use_rate(&shelf.key(b"short"), 2, short).expect("a good limit").is_allowed);
}

/// Whoever had read the clock and then slept took a window that began meanwhile for one of another clock, since it ended later
/// than one that began at the time that was read: all uses that were counted in it were forgotten.
#[test]
fn a_rate_limit_counts_in_a_window_that_began_after_the_caller_had_read_the_clock() {
    let place = Place::new("rate-clock");
    let shelf = Shelf::open(&place.memory(REGION_BYTES).with_clock(Clock::Manual));
    for (now_ms, expected) in [(1_000_500, true), (1_000_000, true), (1_000_000, false), (1_000_500, false)] {
        shelf.cache.set_time(now_ms);
        let rate = shelf.cache.store().use_rate(&shelf.key(b"logins"), 2, HOUR).expect("a good limit");
        assert_eq!(rate.is_allowed, expected, "at {now_ms} ms");
    }
}

fn has(shelf: &Shelf, name: &[u8]) -> bool {
    shelf.cache.has(&shelf.key(name))
}

fn set(shelf: &Shelf, name: &[u8], tag: &[u8]) {
    let terms = Terms { tags: &[tag], ..Timeout::Never.into() };
    assert!(matches!(shelf.cache.set(&shelf.key(name), Value::Count(1), terms), Written::Stored(_)));
}

fn is_filled(shelf: &mut Shelf, name: &[u8], tag: &[u8]) -> bool {
    let key = shelf.cache.key(shelf.space, name).expect("a short key");
    let Looked::Load(mut load) = shelf.cache.load(&key, &mut shelf.buffer, BEGIN) else { panic!("there is none") };
    let terms = Terms { tags: &[tag], ..Timeout::Never.into() };
    matches!(shelf.cache.fill(&shelf.key(name), &mut load, Value::Count(1), terms), Written::Stored(_))
}

/// A worker dies with intents open: what they name is invalidated, and for five seconds no load brings it back.
#[test]
fn what_a_dead_worker_meant_to_invalidate_is_invalidated() {
    let place = Place::new("intent");
    let config = place.shared(REGION_BYTES);
    let mut shelf = Shelf::open(&config);
    for (name, tag) in [(b"key" as &[u8], b"none" as &[u8]), (b"tagged", b"product:7"), (b"other", b"product:8")] {
        set(&shelf, name, tag);
    }
    let board = Board::new(1);
    let mut worker = Child::start(|| {
        let shelf = Shelf::open(&config);
        let full = shelf.key(b"key");
        let forgotten = shelf.cache.store().intend(shelf.space, &[shelf.key(b"other").bytes()], &[], None);
        std::mem::forget(shelf.cache.store().intend(shelf.space, &[full.bytes()], &[b"product:7"], None));
        shelf.cache.store().forget(forgotten);
        board.set(0, 1);
        std::thread::sleep(Duration::from_secs(60));
    });
    board.wait_for(0, 1);
    std::thread::sleep(Duration::from_millis(400));
    assert!(has(&shelf, b"key") && has(&shelf, b"tagged"), "a living worker's intent holds up nobody");
    worker.kill();
    let start = Instant::now();
    while has(&shelf, b"key") || has(&shelf, b"tagged") {
        assert!(start.elapsed() < Duration::from_secs(3), "nobody completes the invalidation");
        std::thread::sleep(Duration::from_millis(5));
    }
    let taken = start.elapsed();
    assert!(has(&shelf, b"other"), "it was forgotten");
    println!("completed within {taken:?} (bound 1 s)");
    assert!(!is_filled(&mut shelf, b"key", b"none") && !is_filled(&mut shelf, b"tagged", b"product:7"), "it is held");
    assert!(!is_filled(&mut shelf, b"another", b"product:7"), "so is whatever has the tag");
    assert!(is_filled(&mut shelf, b"free", b"product:8"), "and nothing else");
    while !is_filled(&mut shelf, b"key", b"none") {
        assert!(start.elapsed() < Duration::from_secs(8), "the hold does not end");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(start.elapsed() > Duration::from_millis(4_500), "the hold ended after {:?}", start.elapsed());
    assert!(is_filled(&mut shelf, b"tagged", b"product:7"));
}

/// More intents than the table has room for stand for everything.
#[test]
fn intents_beyond_the_table_stand_for_everything() {
    let place = Place::new("over");
    let config = place.shared(REGION_BYTES);
    let mut shelf = Shelf::open(&config);
    set(&shelf, b"untouched", b"none");
    let die_with = |many: u32, forgets: bool| {
        Child::start(|| {
            let shelf = Shelf::open(&config);
            let names: Vec<[u8; 4]> = (0..many).map(u32::to_le_bytes).collect();
            let names: Vec<&[u8]> = names.iter().map(<[u8; 4]>::as_slice).collect();
            let intents = shelf.cache.store().intend(shelf.space, &names, &[], Some(Everything::OfPrefix));
            if forgets {
                shelf.cache.store().forget(intents);
            }
            // Dies without leaving in order.
        })
        .finish();
    };
    die_with(500, true);
    std::thread::sleep(Duration::from_millis(700));
    assert!(has(&shelf, b"untouched"), "all were forgotten");
    die_with(500, false);
    let start = Instant::now();
    while has(&shelf, b"untouched") {
        assert!(start.elapsed() < Duration::from_secs(4), "nobody completes the invalidation");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!is_filled(&mut shelf, b"anything", b"none"), "everything is held");
}
