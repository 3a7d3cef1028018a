//! A process that used the cache and forks: parent and children all go on working, without ceremony, wherever the cache lives.

mod support;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::board::Board;
use support::child::{Child, Ended, apart, finish_all, start_all};
use support::place::{Place, Shelf, is_stored};
use support::system;
use tezkor::{Config, Incr, Timeout, Value};

const CHILDREN: u64 = 32;
const ROUNDS: u64 = 300;
const REGION_BYTES: u64 = 16 << 20;

/// Words of the board after these: the worker's row of each child.
const DONE: usize = 0;
const MAY_END: usize = 1;
const ROWS: usize = 2;

fn incr(shelf: &Shelf) -> i64 {
    match shelf.cache.incr(&shelf.key(b"count"), 1) {
        Incr::Value(sum) => sum,
        other => panic!("{other:?}"),
    }
}

/// What a worker does: all operations, on keys of its own and on those of all.
fn work(shelf: &mut Shelf, number: u64) {
    for round in 0..ROUNDS {
        let key = 1_000 * (1 + number) + round % 50;
        assert!(is_stored(shelf.set(key, round, 700)));
        assert_eq!(shelf.get(key), Some((round, 700)));
        if round % 7 == 0 {
            assert!(shelf.delete(key));
            assert_eq!(shelf.get(key), None);
            assert!(is_stored(shelf.add(key, round, 70)));
        }
        incr(shelf);
    }
    assert!(is_stored(shelf.set(900_000 + number, 1, 100_000)));
    assert_eq!(shelf.get(900_000 + number), Some((1, 100_000)));
}

fn parent_and_children_work_on(config: &Config, is_shared: bool) {
    apart(|| {
        let board = Board::new(ROWS + 1 + CHILDREN as usize);
        let mut shelf = Shelf::open(config);
        // Forks are counted from the first cache of the test process, which another test may have opened.
        let forks = tezkor::forks();
        assert!(is_stored(shelf.cache.set(&shelf.key(b"count"), Value::Count(0), Timeout::Never)));
        work(&mut shelf, 0);
        let children = {
            // Each child has the parent's cache, decoded copies and open segments in its memory: all but the parent's row.
            let shelf = std::cell::RefCell::new(&mut shelf);
            start_all(CHILDREN, |number| {
                let shelf = &mut **shelf.borrow_mut();
                assert!(shelf.get(1_002).is_some(), "what the parent wrote is there");
                work(shelf, 1 + number);
                let name = support::value::name(1_000 * (2 + number) + 1);
                let row = shelf.cache.explain(&shelf.key(&name)).worker.expect("it is there");
                board.set(ROWS + 1 + number as usize, 1 + u64::from(row));
                board.add(DONE, 1);
                if !is_shared {
                    assert_eq!(incr(shelf), 2 * ROUNDS as i64 + 1, "a child of private memory counts for itself");
                }
                assert_eq!(tezkor::forks(), forks + 1);
                board.wait_for(MAY_END, 1);
            })
        };
        work(&mut shelf, 0);
        board.wait_for(DONE, CHILDREN);
        if is_shared {
            assert_eq!(shelf.cache.stats().workers, 1 + CHILDREN);
            let rows: HashSet<u64> = (1..=CHILDREN as usize).map(|child| board.get(ROWS + child)).collect();
            assert_eq!(rows.len() as u64, CHILDREN, "each child has a row of its own: {rows:?}");
        }
        board.set(MAY_END, 1);
        finish_all(children);
        work(&mut shelf, 0);
        let expected = if is_shared { 3 + CHILDREN } else { 3 } * ROUNDS;
        assert_eq!(incr(&shelf), expected as i64 + 1);
        assert_eq!(tezkor::forks(), forks);
        assert_eq!(shelf.cache.take_events(), []);
    });
}

#[test]
fn parent_and_children_work_on_in_private_memory() {
    let place = Place::new("fork");
    parent_and_children_work_on(&place.memory(REGION_BYTES), false);
}

#[test]
fn parent_and_children_work_on_in_a_shared_region() {
    let place = Place::new("fork");
    parent_and_children_work_on(&place.shared(REGION_BYTES), true);
}

#[test]
fn parent_and_children_work_on_in_a_region_on_disk() {
    let place = Place::new("fork");
    parent_and_children_work_on(&place.file(REGION_BYTES), true);
}

/// Children that fork in turn, each after it has worked: every one finds what its ancestors wrote.
#[test]
fn descendants_work_on() {
    fn descend(shelf: &mut Shelf, depth: u64) {
        work(shelf, depth);
        let forks = tezkor::forks();
        assert!(forks >= depth);
        if depth < 8 {
            apart(|| {
                assert_eq!(tezkor::forks(), forks + 1);
                descend(shelf, depth + 1);
            });
        }
        work(shelf, depth);
        (0..=depth).for_each(|ancestor| assert!(shelf.get(1_000 * (1 + ancestor) + 1).is_some()));
    }
    let place = Place::new("descend");
    apart(|| {
        let mut shelf = Shelf::open(&place.shared(REGION_BYTES));
        assert!(is_stored(shelf.cache.set(&shelf.key(b"count"), Value::Count(0), Timeout::Never)));
        descend(&mut shelf, 0);
        assert_eq!(incr(&shelf), 9 * 2 * ROUNDS as i64 + 1);
    });
}

/// A fork while another thread waits for a region that somebody else is making: the child does not wait for that thread.
#[test]
fn a_fork_amid_an_opening_hangs_nobody() {
    for make in [Place::shared, Place::file] {
        let place = Place::new("opening");
        let config = make(&place, REGION_BYTES);
        apart(|| drop(Shelf::open(&config)));
        let held = Board::new(1);
        let lock_file = place.lock_file(&config);
        let maker = Child::start(|| {
            let file = std::fs::File::options().read(true).write(true).open(&lock_file).expect("it is there");
            system::lock_byte(&file, 0);
            held.set(0, 1);
            std::thread::sleep(Duration::from_millis(1_000));
        });
        held.wait_for(0, 1);
        apart(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| Shelf::open(&config).get(1));
                std::thread::sleep(Duration::from_millis(300));
                let child = Child::start(|| {
                    let mut shelf = Shelf::open(&config);
                    assert!(["shared", "file"].contains(&shelf.cache.store().kind()), "it has come to the region");
                    assert!(is_stored(shelf.set(1, 1, 100)));
                    assert_eq!(shelf.get(1), Some((1, 100)));
                });
                child.finish();
            });
        });
        maker.finish();
    }
}

/// A fork while other threads are in the midst of operations: the child, which has the forking thread alone, waits for none.
#[test]
fn a_fork_amid_operations_of_other_threads_hangs_nobody() {
    for make in [Place::shared, Place::file, Place::memory] {
        let place = Place::new("amid");
        let config = make(&place, REGION_BYTES);
        apart(|| {
            let stop = AtomicBool::new(false);
            let start = Instant::now();
            std::thread::scope(|scope| {
                for number in 0..3 {
                    let (config, stop) = (&config, &stop);
                    scope.spawn(move || {
                        let mut shelf = Shelf::open(config);
                        let mut round = 0;
                        while !stop.load(Ordering::Relaxed) {
                            round += 1;
                            shelf.set(number * 100 + round % 100, round, 2_000);
                            shelf.get(round % 300);
                        }
                    });
                }
                let mut shelf = Shelf::open(&config);
                let mut failed = 0;
                for round in 0..60 {
                    let mut child = Child::start(|| {
                        for key in 1_000..1_050 {
                            assert!(is_stored(shelf.set(key, round, 300)));
                            assert_eq!(shelf.get(key), Some((round, 300)));
                        }
                    });
                    failed += u64::from(child.wait() != Ended::Exited(0));
                    shelf.set(2_000, round, 400);
                    assert_eq!(shelf.get(2_000), Some((round, 400)));
                }
                stop.store(true, Ordering::Relaxed);
                assert_eq!(failed, 0, "children that failed");
            });
            assert!(start.elapsed() < Duration::from_secs(30), "60 forks took {:?}", start.elapsed());
        });
        if !matches!(config.location, tezkor::Location::Memory { .. }) {
            let mut shelf = Shelf::open(&config);
            shelf.get(1);
            assert_eq!(shelf.cache.store().validate(), Vec::<String>::new());
        }
    }
}

/// A child that outlives its parent: it knows the parent's row from before the fork, and still finds out that its owner is dead.
#[test]
fn a_child_clears_up_after_its_parent() {
    let place = Place::new("orphan");
    let config = place.shared(REGION_BYTES);
    let board = Board::new(1);
    apart(|| {
        let mut parent = Child::start(|| {
            let mut shelf = Shelf::open(&config);
            shelf.set(1, 1, 500);
            let orphan = Child::start(|| {
                support::child::outlive_parent();
                shelf.set(2, 1, 500);
                board.set(0, 1);
                let start = Instant::now();
                while shelf.cache.stats().workers != 1 {
                    assert!(start.elapsed() < Duration::from_secs(8), "the row of the dead parent is not freed");
                    assert!(is_stored(shelf.set(3, 1, 500)));
                    std::thread::sleep(Duration::from_millis(20));
                }
                assert_eq!(shelf.get(1), Some((1, 500)), "what the parent wrote stays");
                board.set(0, 3);
            });
            board.wait_for(0, 2);
            // The child is left behind: this process is killed.
            std::mem::forget(orphan);
            support::child::kill_self();
        });
        board.wait_for(0, 1);
        board.set(0, 2);
        assert_eq!(parent.wait(), Ended::Signalled(libc::SIGKILL));
        board.wait_for(0, 3);
    });
}
