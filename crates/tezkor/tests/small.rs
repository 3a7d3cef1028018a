//! Too little room: a tiny tmpfs, one that fills up under a running cache, one that is full when somebody dies. A smaller cache or
//! private memory, one event, and never a SIGBUS.

mod support;

use std::fs::File;
use std::io::Write;
use std::path::Path;

use support::child::apart;
use support::place::{Place, Shelf, is_stored};
use support::system;
use tezkor::{Cache, Config, Level};

const ASKED_BYTES: u64 = 8 << 20;

/// Runs in a process that has a tmpfs of this size as its shared directory. Where the system does not let us mount one, it says so.
fn on_tmpfs(size_bytes: u64, run: impl FnOnce(&Path, &Config)) {
    let place = Place::new("small");
    let directory = place.disk();
    apart(|| {
        if let Err(error) = system::mount_tmpfs(&directory, size_bytes) {
            support::child::say(&format!("not run: a tmpfs cannot be mounted here ({error})\n"));
            return;
        }
        Place::move_shared_to(&directory);
        run(&directory, &place.shared(ASKED_BYTES));
    });
}

/// Writes and reads for a while; most writes have to be stored.
fn work(shelf: &mut Shelf, rounds: u64) {
    let mut stored = 0;
    for round in 0..rounds {
        let key = round % 500;
        stored += u64::from(is_stored(shelf.set(key, round, 3_000)));
        let found = shelf.get(key);
        assert!(found.is_none() || found == Some((round, 3_000)), "{found:?}");
    }
    assert!(stored * 10 > rounds * 9, "{stored} of {rounds} writes were stored");
}

fn only_event(shelf: &Shelf, text: &str) {
    let events = shelf.cache.take_events();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0].level, Level::Warning);
    assert!(events[0].text.contains(text), "{events:?}");
}

fn fill_up(directory: &Path) {
    let mut file = File::create(directory.join("filler")).expect("a file can be made");
    let block = [1; 4096];
    while file.write_all(&block).is_ok() {}
}

#[test]
fn a_tmpfs_of_one_mebibyte_makes_private_memory() {
    on_tmpfs(1 << 20, |_, config| {
        let mut shelf = Shelf::open(config);
        only_event(&shelf, "private memory until it can be used");
        assert_eq!(shelf.cache.store().kind(), "memory (in place of a file)");
        assert_eq!(shelf.cache.stats().region_bytes, 1 << 20, "a smaller cache, in each process");
        work(&mut shelf, 5_000);
        assert_eq!(shelf.cache.take_events(), []);
    });
}

#[test]
fn a_full_tmpfs_makes_private_memory() {
    on_tmpfs(16 << 20, |directory, config| {
        fill_up(directory);
        let mut shelf = Shelf::open(config);
        only_event(&shelf, "private memory");
        work(&mut shelf, 5_000);
    });
}

#[test]
fn a_small_tmpfs_makes_a_smaller_region() {
    on_tmpfs(4 << 20, |_, config| {
        let mut shelf = Shelf::open(config);
        only_event(&shelf, "instead of 8 MiB");
        assert_eq!(shelf.cache.store().kind(), "shared");
        let region_bytes = shelf.cache.stats().region_bytes;
        assert!((1 << 20..=2 << 20).contains(&region_bytes), "{region_bytes}");
        work(&mut shelf, 5_000);
        apart(|| {
            let mut other = Shelf::open(config);
            assert_eq!(other.cache.region_id(), shelf.cache.region_id(), "others come to the same region");
            work(&mut other, 1_000);
        });
    });
}

/// Less than was asked for is what there is, and it stays warm: no start makes it smaller.
#[test]
fn a_smaller_region_is_warm_after_all_have_restarted() {
    on_tmpfs(5 << 20, |_, config| {
        let mut region = 0;
        for start in 0..4 {
            apart(|| {
                let mut shelf = Shelf::open(config);
                let found = shelf.get(7);
                assert_eq!(found.is_some(), start > 0, "start {start}");
                if start == 0 {
                    assert!(is_stored(shelf.set(7, 1, 100)));
                } else {
                    only_event(&shelf, "no room for more");
                }
            });
            let mut shelf = Shelf::open(config);
            assert!(region == 0 || region == shelf.cache.region_id());
            region = shelf.cache.region_id();
            shelf.cache.store().detach();
            is_stored(shelf.set(8, 1, 10));
            Cache::detach_all();
        }
    });
}

/// A smaller size in the settings, and a file system that has room for one of the two.
#[test]
fn a_region_of_another_size_gets_the_room_of_the_old_one() {
    on_tmpfs(16 << 20, |directory, config| {
        apart(|| {
            let mut shelf = Shelf::open(config);
            assert!((0..3_000).all(|key| is_stored(shelf.set(key, 1, 3_000))), "all of it is in use");
        });
        std::fs::write(directory.join("other"), vec![1; 5 << 20]).expect("there is room");
        apart(|| {
            let shelf = Shelf::open(&Config { size_bytes: Some(5 << 20), ..config.clone() });
            assert_eq!(shelf.cache.stats().region_bytes, 5 << 20, "{:?}", shelf.cache.take_events());
        });
    });
}

/// A process without descriptors cannot reserve memory. That is its own trouble: others have all of the region.
#[test]
fn a_process_without_descriptors_takes_no_memory_from_others() {
    let place = Place::new("descriptors");
    let config = place.shared(16 << 20);
    apart(|| {
        let mut shelf = Shelf::open(&config);
        assert!(is_stored(shelf.set(1, 1, 100)));
        system::allow_no_more_descriptors();
        (0..2_000).for_each(|key| {
            shelf.set(key, 1, 3_000);
        });
        assert_eq!(shelf.cache.stats().segments_unavailable, 0);
    });
    apart(|| {
        let mut shelf = Shelf::open(&config);
        assert!((0..2_000).all(|key| is_stored(shelf.set(key, 1, 3_000))));
        assert!((0..2_000).all(|key| shelf.get(key).is_some()));
    });
}

/// Processes that write a little and end, one after the other: they go on where others left.
#[test]
fn processes_that_write_little_do_not_use_the_region_up() {
    let place = Place::new("little");
    for (config, orderly) in [(place.shared(8 << 20), true), (place.file(8 << 20), false)] {
        apart(|| {
            let mut shelf = Shelf::open(&config);
            (0..1_000).for_each(|key| assert!(is_stored(shelf.set(key, 1, 1_000))));
            Cache::detach_all();
        });
        for number in 0..600 {
            apart(|| {
                let mut shelf = Shelf::open(&config);
                assert!(is_stored(shelf.set(5_000 + number % 5, number, 10)), "process {number}");
                if orderly {
                    Cache::detach_all();
                }
            });
        }
        apart(|| {
            let mut shelf = Shelf::open(&config);
            let left = (0..1_000).filter(|key| shelf.get(*key).is_some()).count();
            // Two keys of one fingerprint in one bucket, once in some 700 regions, cost one of them.
            assert!(left >= 998, "they pushed others out: {left} of 1 000 are left");
        });
    }
}

/// Somebody else fills the tmpfs after the region was made and before its segments were reserved.
#[test]
fn a_tmpfs_that_fills_up_makes_the_cache_smaller() {
    for taken_first in [0, 10, 200] {
        on_tmpfs(5 << 20, |directory, config| {
            let mut shelf = Shelf::open(config);
            work_a_little(&mut shelf, taken_first);
            fill_up(directory);
            for round in 0..5_000 {
                let stored = is_stored(shelf.set(round % 500, round, 3_000));
                let found = shelf.get(round % 500);
                assert!(found.is_none() || (stored && found == Some((round, 3_000))), "{found:?}");
            }
            is_stored(shelf.set(1, 1, 200_000));
            assert!(taken_first == 0 || shelf.counter("sets") > 1_000, "what was reserved is used");
            let unavailable = shelf.cache.stats().segments_unavailable;
            assert!(unavailable > 0, "some of it could not be reserved");
            std::thread::sleep(std::time::Duration::from_millis(600));
            shelf.get(1);
            let events = shelf.cache.take_events();
            assert!(events.iter().any(|event| event.text.contains("file system is full")), "{events:?}");
            // There is room again: a sweep finds it, and then all of it.
            std::fs::remove_file(directory.join("filler")).expect("it can be removed");
            std::thread::sleep(std::time::Duration::from_millis(2_600));
            for round in 0..500 {
                shelf.set(round, round, 3_000);
            }
            assert_eq!(shelf.cache.stats().segments_unavailable, 0);
            assert_eq!(shelf.cache.store().validate(), Vec::<String>::new());
        });
    }
}

fn work_a_little(shelf: &mut Shelf, writes: u64) {
    (0..writes).for_each(|key| assert!(is_stored(shelf.set(key, 1, 3_000))));
}

/// A worker dies between taking a segment and reserving its memory; then there is none. Whoever uses that segment reserves it first.
#[test]
#[cfg(feature = "crash-points")]
fn a_segment_whose_owner_died_is_reserved_before_it_is_touched() {
    use support::child::Child;
    for at in 1..40 {
        on_tmpfs(5 << 20, |directory, config| {
            let mut victim = Child::start(|| {
                let mut shelf = Shelf::open(config);
                shelf.get(1);
                support::death::arm(at);
                for key in 0..20 {
                    shelf.set(key, 1, 3_000);
                }
            });
            victim.wait();
            fill_up(directory);
            apart(|| {
                let mut shelf = Shelf::open(config);
                for round in 0..2_000 {
                    shelf.set(round % 300, round, 3_000);
                    shelf.get(round % 300);
                }
            });
        });
    }
}
