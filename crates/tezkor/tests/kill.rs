//! Workers killed with SIGKILL at random, hundreds of times, while others work on: nobody hangs, nobody is held up, nobody reads
//! a wrong value, and in the end no segment and no row is lost. (crash.rs kills at each point of each operation.)

mod support;

use std::time::{Duration, Instant};

use support::board::Board;
use support::child::{Child, Ended, apart};
use support::place::{Place, Shelf, is_stored};
use support::{Random, now_ns, quick_or_soak, value};
use tezkor::{Config, Incr, Timeout, Value};

const REGION_BYTES: u64 = 8 << 20;
const WORKERS: usize = 4;
const KEYS: u64 = 4_000;
const COUNT: u64 = 1_000_000;
/// A worker that is held up for longer has failed: ten times the bound that the long profile reports against.
const LONGEST_STALL: Duration = Duration::from_millis(2500);

// Words of the board. Each worker has two: the operation's begin (0: none under way) and the operation.
const STOP: usize = 0;
const OPERATIONS: usize = 1;
const VERSION: usize = 2;
const WORST: usize = 3;
const WORKER: usize = 8;
/// Operations by duration: 64 powers of two of nanoseconds.
const HISTOGRAM: usize = 32;

#[test]
fn random_kills_hold_up_nobody_and_leak_nothing() {
    let place = Place::new("kill");
    let config = place.shared(REGION_BYTES);
    let board = Board::new(HISTOGRAM + 64);
    let kills = quick_or_soak(320, 10_000);
    let start = Instant::now();
    let fresh = Place::new("fresh");
    let fresh_payload = filled_payload(&fresh.shared(REGION_BYTES));
    let mut random = Random::new(now_ns());
    let mut workers: Vec<Child> = (0..WORKERS).map(|place| start_worker(&config, &board, place, &mut random)).collect();
    let mut killed = 0;
    while killed < kills {
        std::thread::sleep(Duration::from_micros(random.log_uniform(200, 40_000)));
        let place = random.below(WORKERS as u64) as usize;
        if random.one_in(2) {
            workers[place].send(libc::SIGKILL);
        }
        for (place, worker) in workers.iter_mut().enumerate() {
            watch(&board, place);
            let Some(ended) = worker.ended() else { continue };
            assert_eq!(ended, Ended::Signalled(libc::SIGKILL), "a worker ended by itself");
            killed += 1;
            *worker = start_worker(&config, &board, place, &mut random);
        }
    }
    board.set(STOP, 1);
    for mut worker in workers {
        // The last kill may be on its way to it, or it may come to its own end first.
        let ended = worker.wait();
        assert!(
            matches!(ended, Ended::Exited(0) | Ended::Signalled(libc::SIGKILL)),
            "a worker ended by itself: {ended:?}"
        );
    }
    report(&board, killed, start.elapsed());
    apart(|| nothing_is_lost(&config, fresh_payload));
}

/// A worker that works until it is killed: by the test, or (where crash points are built in) before a random store.
fn start_worker(config: &Config, board: &Board, place: usize, random: &mut Random) -> Child {
    let seed = random.next();
    board.set(WORKER + 2 * place, 0);
    Child::start(|| {
        let mut random = Random::new(seed);
        #[cfg(feature = "crash-points")]
        if random.one_in(2) {
            support::death::arm(1 + random.log_uniform(1, 30_000));
        }
        let mut shelf = Shelf::open(config);
        assert_eq!(shelf.cache.take_events(), []);
        while board.get(STOP) == 0 {
            let operation = random.below(1000);
            let start = now_ns();
            board.set(WORKER + 2 * place + 1, operation);
            board.set(WORKER + 2 * place, start);
            step(&mut shelf, &mut random, board, operation);
            board.set(WORKER + 2 * place, 0);
            let took = now_ns() - start;
            board.add(HISTOGRAM + took.max(1).ilog2() as usize, 1);
            board.raise(WORST, took);
            board.add(OPERATIONS, 1);
        }
    })
}

fn step(shelf: &mut Shelf, random: &mut Random, board: &Board, operation: u64) {
    let key = random.log_uniform(1, KEYS);
    match operation {
        0..500 => {
            if let Some((version, _)) = shelf.get(key) {
                assert!(version <= board.get(VERSION), "key {key}: version {version} was not written yet");
            }
        }
        500..850 => {
            let length = random.log_uniform(1, 8 << 10) as usize;
            shelf.set(key, board.add(VERSION, 1), length);
        }
        850..860 => {
            let length = random.log_uniform(64 << 10, 1 << 20) as usize;
            shelf.set(KEYS + key % 4, board.add(VERSION, 1), length);
        }
        860..880 => {
            shelf.get(KEYS + key % 4);
        }
        880..900 => {
            shelf.delete(key);
        }
        900..920 => {
            shelf.add(key, board.add(VERSION, 1), 100);
        }
        920..950 => touch(shelf, key, if key.is_multiple_of(2) { 100 } else { 1000 }),
        950..999 => count(shelf),
        _ => shelf.cache.clear(shelf.space),
    }
}

fn touch(shelf: &Shelf, key: u64, seconds: u64) {
    let name = value::name(key);
    shelf.cache.touch(&shelf.key(&name), Timeout::After(Duration::from_secs(seconds)));
}

fn count(shelf: &Shelf) {
    let name = value::name(COUNT);
    let key = shelf.key(&name);
    match shelf.cache.incr(&key, 1) {
        Incr::Value(number) => assert!((1..1 << 40).contains(&number), "{number}"),
        Incr::Missing => {
            shelf.cache.add(&key, Value::Count(0), Timeout::Never);
        }
        Incr::NotACount => panic!("the count is something else"),
    }
}

/// Ends the test if the operation of a worker takes too long.
fn watch(board: &Board, place: usize) {
    let (start, operation) = (board.get(WORKER + 2 * place), board.get(WORKER + 2 * place + 1));
    let stalled = Duration::from_nanos(now_ns().saturating_sub(start));
    assert!(start == 0 || stalled < LONGEST_STALL, "operation {operation} of a worker hangs for {stalled:?}");
}

fn report(board: &Board, killed: u64, took: Duration) {
    let operations = board.get(OPERATIONS);
    let mut seen = 0;
    let median = (0..64).find(|power| {
        seen += board.get(HISTOGRAM + power);
        seen * 2 >= operations
    });
    let worst = Duration::from_nanos(board.get(WORST));
    println!(
        "{killed} kills, {operations} operations in {took:?}; the median one took under {:?}, the worst {worst:?} (bound 250 ms)",
        Duration::from_nanos(2 << median.unwrap_or(0)),
    );
    assert!(worst < LONGEST_STALL, "the worst operation took {worst:?}");
}

/// A worker that comes when all others are gone: its first operation sweeps.
fn nothing_is_lost(config: &Config, fresh_payload: u64) {
    let mut shelf = Shelf::open(config);
    shelf.get(1);
    // What the last of the dead had open rests for five seconds from this sweep on.
    std::thread::sleep(Duration::from_millis(5_200));
    assert_eq!(shelf.cache.store().validate(), Vec::<String>::new());
    let stats = shelf.cache.stats();
    assert_eq!((stats.workers, stats.segments_evicting), (1, 0), "rows and evictions of the dead: {stats:?}");
    assert!(stats.segments_open <= 2, "{} segments are open for one worker", stats.segments_open);
    assert!(shelf.counter("dead_workers") > 100, "{}", shelf.counter("dead_workers"));
    assert_eq!(shelf.counter("misses_corrupt"), 0);
    let payload = filled_payload(config);
    assert!(payload * 100 > fresh_payload * 97, "{payload} bytes fit, and {fresh_payload} in a fresh region");
}

/// How many bytes of values a region keeps that was written over six times. Each is used, so that the main queue moves too.
fn filled_payload(config: &Config) -> u64 {
    let board = Board::new(1);
    apart(|| {
        let mut shelf = Shelf::open(config);
        shelf.cache.clear(shelf.space);
        for key in 2_000_000..2_000_000 + 6 * REGION_BYTES / 1000 {
            assert!(is_stored(shelf.set(key, 1, 1000)));
            assert_eq!(shelf.get(key), Some((1, 1000)));
        }
        board.set(0, shelf.cache.stats().payload_bytes);
    });
    board.get(0)
}
