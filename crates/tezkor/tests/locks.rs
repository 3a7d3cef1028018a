//! Liveness by record locks, where it is at its weakest: descriptors closed by others, a region opened twice, forks, threads, more
//! workers than rows. Nobody corrupts anybody, and what the dead had open comes back.

mod support;

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use support::board::Board;
use support::child::{Child, Ended, apart, finish_all, start_all};
use support::place::{Place, Shelf, is_stored};
use support::{quick_or_soak, system, value};
use tezkor::{Cache, Config, Incr, SHARED_DIRECTORY_VARIABLE, Timeout, Value, Written};

const REGION_BYTES: u64 = 8 << 20;

/// Writes and reads on keys of its own for a while; every write is stored and read back unless somebody evicted it.
fn work(shelf: &mut Shelf, number: u64, rounds: u64) {
    for round in 0..rounds {
        let key = number * 1_000_000 + round % 200;
        assert!(is_stored(shelf.set(key, round, 600)));
        let found = shelf.get(key);
        assert!(found.is_none() || found == Some((round, 600)), "{found:?}");
        shelf.get(number.wrapping_sub(1) * 1_000_000 + round % 200);
    }
}

fn work_until(shelf: &mut Shelf, number: u64, board: &Board, word: usize, value: u64) {
    while board.get(word) < value {
        work(shelf, number, 50);
    }
}

/// In the end: whoever comes finds a sound region without what is left of others.
fn all_is_well(config: &Config) {
    apart(|| {
        let mut shelf = Shelf::open(config);
        assert_eq!(shelf.cache.take_events(), []);
        shelf.get(1);
        assert_eq!(shelf.cache.store().validate(), Vec::<String>::new());
        let stats = shelf.cache.stats();
        assert_eq!((stats.workers, stats.segments_evicting), (1, 0), "{stats:?}");
        assert!(stats.segments_open <= 2, "{} segments are open for one worker", stats.segments_open);
    });
}

/// A daemoniser closes every descriptor of a process that has the region open, and other files get their numbers.
#[test]
fn a_process_that_lost_its_descriptors_works_on() {
    for reused in [false, true] {
        let place = Place::new("closed");
        let config = place.shared(REGION_BYTES);
        let board = Board::new(1);
        let others = start_all(2, |number| work_until(&mut Shelf::open(&config), 10 + number, &board, 0, 2));
        let closed = Child::start(|| {
            let mut shelf = Shelf::open(&config);
            work(&mut shelf, 1, 200);
            system::close_all();
            // Log files take the numbers, those of the lock file among them.
            let log = || OpenOptions::new().create(true).append(true).open(place.disk().join("log")).expect("a log");
            let logs: Vec<_> = (0..if reused { 20 } else { 0 }).map(|_| log()).collect();
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(1_500) {
                work(&mut shelf, 1, 50);
            }
            logs.iter().for_each(|mut log| log.write_all(b"x").expect("the log is still open"));
            assert_eq!(shelf.cache.store().kind(), "shared");
            assert_eq!(shelf.cache.stats().workers, 3, "it has a row, and left none behind");
            board.set(0, 1);
            work_until(&mut shelf, 1, &board, 0, 2);
        });
        board.wait_for(0, 1);
        // Its locks hold: somebody who comes does not take its row.
        let rows = apart_row(&config);
        board.set(0, 2);
        closed.finish();
        finish_all(others);
        assert_eq!(rows, 4, "two others, the one that lost its descriptors, and the one that counts");
        all_is_well(&config);
    }
}

/// The number of workers that a newcomer sees after it has swept.
fn apart_row(config: &Config) -> u64 {
    let board = Board::new(1);
    apart(|| {
        let mut shelf = Shelf::open(config);
        work(&mut shelf, 20, 10);
        board.set(0, shelf.cache.stats().workers);
    });
    board.get(0)
}

/// The classic: use the cache, fork twice, close everything, go on in the grandchild at once, while the parent goes on too.
#[test]
fn a_daemon_works_on() {
    for reused in [false, true] {
        let place = Place::new("daemon");
        let config = place.shared(REGION_BYTES);
        apart(|| {
            let mut shelf = Shelf::open(&config);
            work(&mut shelf, 1, 200);
            let daemon = Child::start(|| {
                apart(|| {
                    system::close_all();
                    let log = || OpenOptions::new().create(true).append(true).open(place.disk().join("log"));
                    let _logs: Vec<_> = (0..if reused { 20 } else { 0 }).map(|_| log().expect("a log")).collect();
                    work(&mut shelf, 2, 2_000);
                    assert_eq!(shelf.cache.store().kind(), "shared");
                });
            });
            work(&mut shelf, 1, 2_000);
            daemon.finish();
            work(&mut shelf, 1, 200);
            assert_eq!(shelf.cache.take_events(), []);
            assert!(shelf.cache.stats().workers <= 2, "{} rows", shelf.cache.stats().workers);
        });
        all_is_well(&config);
    }
}

/// The row of a process without descriptors is taken by another one before it notices. Both work, and when the other one dies,
/// what it had open comes back.
#[test]
fn a_row_that_was_lost_and_taken_is_not_given_back_by_its_old_owner() {
    let place = Place::new("taken");
    let config = place.shared(REGION_BYTES);
    let board = Board::new(1);
    let old = Child::start(|| {
        let mut shelf = Shelf::open(&config);
        work(&mut shelf, 1, 200);
        system::close_all();
        board.set(0, 1);
        board.wait_for(0, 2);
        work_until(&mut shelf, 1, &board, 0, 3);
        work(&mut shelf, 1, 200);
    });
    board.wait_for(0, 1);
    let mut new = Child::start(|| {
        let mut shelf = Shelf::open(&config);
        work(&mut shelf, 2, 200);
        board.set(0, 2);
        work_until(&mut shelf, 2, &board, 0, 4);
    });
    board.wait_for(0, 2);
    std::thread::sleep(Duration::from_millis(1_200));
    assert_eq!(new.ended(), None);
    board.set(0, 3);
    old.finish();
    new.kill();
    all_is_well(&config);
}

/// Two stores over one file in one process (its directory has two names), and one closes and opens what it wants beside them.
#[test]
fn a_region_that_is_open_twice_keeps_its_locks() {
    let place = Place::new("twice");
    let config = place.shared(REGION_BYTES);
    let on_disk = place.file(REGION_BYTES);
    let other_name = place.disk().join("other");
    symlink(place.disk(), &other_name).expect("a link can be made");
    let linked = Config::new(&format!("file://{}?size=8MiB", other_name.display())).expect("the location is right");
    apart(|| {
        let (mut one, mut two) = (Shelf::open(&on_disk), Shelf::open(&linked));
        assert_eq!(one.cache.region_id(), two.cache.region_id(), "it is the same region");
        work(&mut one, 1, 300);
        work(&mut two, 2, 300);
        assert_eq!(one.cache.stats().workers, 2, "each has a row of its own");
        for _ in 0..3 {
            // Opening it once more is the same store, and takes no lock away.
            let mut again = Shelf::open(&on_disk);
            work(&mut again, 3, 10);
        }
        apart(|| {
            let mut shelf = Shelf::open(&config);
            work(&mut shelf, 1, 10);
            let mut shelf = Shelf::open(&on_disk);
            work(&mut shelf, 4, 10);
            assert_eq!(shelf.cache.stats().workers, 3, "the locks of the parent hold");
        });
        apart(|| {
            let mut again = Child::start(|| work(&mut two, 6, 100));
            assert_eq!(again.wait(), Ended::Exited(0));
            work(&mut one, 5, 100);
        });
        work(&mut one, 1, 300);
    });
    all_is_well(&on_disk);
}

/// A process that has the region open becomes another program: its row is free, and its descriptors are gone.
#[test]
fn a_row_ends_with_an_exec() {
    let place = Place::new("exec");
    let config = place.shared(REGION_BYTES);
    let mut child = Child::start(|| {
        work(&mut Shelf::open(&config), 1, 100);
        let error = Command::new("/bin/sh").args(["-c", "exec sleep 1000"]).exec();
        panic!("{error}");
    });
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(child.ended(), None);
    let fds = std::fs::read_dir(format!("/proc/{}/fd", child.pid())).expect("it lives").flatten();
    let ours = fds.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let ours: Vec<_> =
        ours.filter(|path| path.extension().is_some_and(|end| end == "lock" || end == "region")).collect();
    assert_eq!(ours, Vec::<std::path::PathBuf>::new(), "descriptors are not passed on");
    all_is_well(&config);
    child.kill();
}

/// A cache from a process that was started, not forked: `spawn` of Python's multiprocessing.
#[test]
fn a_spawned_process_shares_the_region() {
    if let Some(size) = std::env::var_os("TEZKOR_TEST_SPAWNED") {
        let size = size.to_string_lossy().parse().expect("a number");
        let mut config = Config::new("shared://spawned").expect("the location is right");
        config.size_bytes = Some(size);
        let mut shelf = Shelf::open(&config);
        assert_eq!(shelf.get(1), Some((1, 500)));
        assert!(is_stored(shelf.set(2, 1, 500)));
        return;
    }
    let place = Place::new("spawn");
    let directory = place.disk();
    apart(|| {
        Place::move_shared_to(&directory);
        let mut config = Config::new("shared://spawned").expect("the location is right");
        config.size_bytes = Some(REGION_BYTES);
        let mut shelf = Shelf::open(&config);
        assert!(is_stored(shelf.set(1, 1, 500)));
        let spawned = Command::new(std::env::current_exe().expect("this test has a file"))
            .args(["--exact", "a_spawned_process_shares_the_region", "--quiet"])
            .env("TEZKOR_TEST_SPAWNED", REGION_BYTES.to_string())
            .env(SHARED_DIRECTORY_VARIABLE, &directory)
            .output()
            .expect("it can be started");
        assert!(spawned.status.success(), "{}", String::from_utf8_lossy(&spawned.stdout));
        assert_eq!(shelf.get(2), Some((1, 500)));
    });
}

#[test]
fn threads_of_a_process_share_its_row() {
    for make in [Place::shared, Place::memory] {
        let place = Place::new("threads");
        let config = make(&place, 2 << 20);
        apart(|| {
            std::thread::scope(|scope| {
                for number in 0..8 {
                    let config = &config;
                    scope.spawn(move || work(&mut Shelf::open(config), 1 + number, quick_or_soak(10_000, 200_000)));
                }
            });
            let mut shelf = Shelf::open(&config);
            shelf.get(1);
            let stats = shelf.cache.stats();
            assert_eq!(stats.workers, 1);
            assert!(stats.segments_open <= 2, "{stats:?}");
            assert!(shelf.counter("evicted_segments") > 500);
            assert_eq!(shelf.cache.store().validate(), Vec::<String>::new());
        });
    }
}

#[test]
fn sixty_four_workers_write_to_eight_mebibytes() {
    let place = Place::new("many");
    let config = place.shared(REGION_BYTES);
    let board = Board::new(1);
    finish_all(start_all(64, |number| {
        let mut shelf = Shelf::open(&config);
        board.add(0, 1);
        board.wait_for(0, 64);
        work(&mut shelf, 1 + number, quick_or_soak(1_000, 30_000));
        board.add(0, 1);
        board.wait_for(0, 128);
        if number == 0 {
            let stats = shelf.cache.stats();
            assert_eq!(stats.workers, 64);
            // A quarter, but for workers that look at the same time.
            assert!(
                stats.segments_open * 100 <= stats.segments * 28,
                "open segments hold at most a quarter: {stats:?}"
            );
            assert_eq!(shelf.counter("refused"), 0);
            assert_eq!(shelf.cache.store().validate(), Vec::<String>::new());
        }
        board.add(0, 1);
        board.wait_for(0, 192);
    }));
    all_is_well(&config);
}

/// Workers beyond the rows of a small region: they read, their writes are refused and leave nothing old behind, and they get a
/// row when one is free.
#[test]
fn workers_without_a_row_read_and_are_refused() {
    let place = Place::new("rows");
    let config = place.shared(1 << 20);
    let board = Board::new(4);
    let rows = 8;
    apart(|| {
        let mut shelf = Shelf::open(&config);
        assert!(is_stored(shelf.cache.set(&shelf.key(b"count"), Value::Count(5), Timeout::Never)));
        for key in [20_000_000, 20_000_001] {
            assert!(is_stored(shelf.set(key, 1, 600)));
        }
    });
    let owners = start_all(rows, |number| {
        let mut shelf = Shelf::open(&config);
        work(&mut shelf, 1 + number, 10);
        board.add(0, 1);
        board.wait_for(1, 1 + number);
    });
    board.wait_for(0, rows);
    apart(|| {
        let mut shelf = Shelf::open(&config);
        assert_eq!(shelf.get(1_000_000), Some((0, 600)), "a worker without a row reads");
        let before = shelf.counter("refused");
        assert!(matches!(shelf.set(1_000_000, 9, 600), Written::Refused));
        assert_eq!(shelf.get(1_000_000), None, "the old value is gone");
        assert!(!is_stored(shelf.add(77, 1, 100)));
        assert!(shelf.delete(1_000_001), "it removes");
        assert_eq!(shelf.get(1_000_001), None);
        assert_eq!(shelf.counter("refused"), before + 2);
        // What is changed in place it changes; what would have to be written anew goes.
        assert_eq!(shelf.cache.incr(&shelf.key(b"count"), 2), Incr::Value(7));
        let names = [value::name(20_000_000), value::name(20_000_001)];
        assert!(shelf.cache.touch(&shelf.key(&names[0]), Timeout::Never));
        assert_eq!(shelf.get(20_000_000), Some((1, 600)));
        assert!(!shelf.cache.touch(&shelf.key(&names[1]), Timeout::After(Duration::from_secs(1))));
        assert_eq!(shelf.get(20_000_001), None);
        let events = shelf.cache.take_events();
        assert_eq!(events.len(), 1, "{events:?}");
        assert!(events[0].text.contains("all 8 worker slots are taken"), "{events:?}");
        assert_eq!(shelf.cache.stats().workers, rows);
        // One row becomes free.
        board.set(1, 1);
        let start = Instant::now();
        while !is_stored(shelf.set(1_000_000, 9, 600)) {
            assert!(start.elapsed() < Duration::from_secs(5), "it never gets a row");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(shelf.get(1_000_000), Some((9, 600)));
        work(&mut shelf, 50, 100);
    });
    board.set(1, rows);
    finish_all(owners);
    all_is_well(&config);
    apart(Cache::detach_all);
}
