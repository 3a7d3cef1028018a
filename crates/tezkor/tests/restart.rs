//! Regions outlive their workers: warm after all have restarted; on disk, also after a reboot that followed a clean end, and
//! empty with a warning after one that did not.

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use support::child::{Child, apart};
use support::place::{Place, Shelf, is_stored};
use tezkor::{Cache, Config};
use xxhash_rust::xxh3::xxh3_64;

const REGION_BYTES: u64 = 8 << 20;
const KEYS: u64 = 200;

/// Words of a region's header (docs/format.md).
const BOOT_ID: u64 = 8;
const CHECKSUM: u64 = 12;
const ATTACHED: u64 = 72;

fn write_all(shelf: &mut Shelf) {
    (0..KEYS).for_each(|key| assert!(is_stored(shelf.set(key, 1, 500))));
    assert!(is_stored(shelf.set(KEYS, 1, 300_000)));
}

fn is_warm(shelf: &mut Shelf) -> bool {
    let found = (0..=KEYS).filter(|key| shelf.get(*key).is_some()).count() as u64;
    assert!(found == 0 || found == KEYS + 1, "{found} of {} are there", KEYS + 1);
    found > 0
}

/// What a worker finds that comes to the region.
fn newcomer(config: &Config, warm: bool, event: &str) {
    apart(|| {
        let mut shelf = Shelf::open(config);
        let events = shelf.cache.take_events();
        match event {
            "" => assert_eq!(events, []),
            text => assert!(events.iter().any(|event| event.text.contains(text)), "{events:?}"),
        }
        assert_eq!(is_warm(&mut shelf), warm);
        assert_eq!(shelf.cache.store().validate(), Vec::<String>::new());
        write_all(&mut shelf);
        assert!(is_warm(&mut shelf));
    });
}

/// Makes a region look as if the machine had been started again since.
fn reboot(path: &Path) {
    let file = File::options().read(true).write(true).open(path).expect("the region is there");
    let mut header = [0; 96];
    file.read_exact_at(&mut header, 0).expect("the region has a header");
    header[BOOT_ID as usize * 8] ^= 1;
    file.write_all_at(&header, 0).expect("the header can be written");
    file.write_all_at(&xxh3_64(&header).to_le_bytes(), CHECKSUM * 8).expect("the header can be written");
}

fn is_marked_in_use(path: &Path) -> bool {
    let file = File::open(path).expect("the region is there");
    let mut word = [0; 8];
    file.read_exact_at(&mut word, ATTACHED * 8).expect("the region has a header");
    u64::from_le_bytes(word) != 0
}

#[test]
fn a_region_is_warm_after_all_workers_have_restarted() {
    for make in [Place::shared, Place::file] {
        for orderly in [true, false] {
            let place = Place::new("warm");
            let config = make(&place, REGION_BYTES);
            apart(|| {
                write_all(&mut Shelf::open(&config));
                if orderly {
                    Cache::detach_all();
                }
            });
            for _ in 0..3 {
                newcomer(&config, true, "");
            }
        }
    }
}

#[test]
fn a_region_on_disk_is_kept_over_a_reboot_after_a_clean_end() {
    let place = Place::new("clean");
    let config = place.file(REGION_BYTES);
    apart(|| {
        write_all(&mut Shelf::open(&config));
        assert!(is_marked_in_use(&place.file_file()));
        Cache::detach_all();
        assert!(!is_marked_in_use(&place.file_file()));
    });
    reboot(&place.file_file());
    newcomer(&config, true, "");
    assert!(is_marked_in_use(&place.file_file()), "the newcomer ended without leaving");
}

#[test]
fn a_region_on_disk_starts_empty_after_a_reboot_that_came_amid_work() {
    let place = Place::new("amid");
    let config = place.file(REGION_BYTES);
    apart(|| write_all(&mut Shelf::open(&config)));
    reboot(&place.file_file());
    newcomer(&config, false, "stopped while it was in use");
}

#[test]
fn a_region_on_tmpfs_is_never_trusted_over_a_reboot() {
    let place = Place::new("tmpfs");
    let config = place.shared(REGION_BYTES);
    apart(|| {
        write_all(&mut Shelf::open(&config));
        Cache::detach_all();
    });
    reboot(&place.shared_file());
    newcomer(&config, false, "stopped while it was in use");
}

/// A worker that attached while another was there, and works on after that one has left in order: the region is not clean.
#[test]
fn a_region_is_not_clean_while_anybody_works_on_it() {
    let place = Place::new("late");
    let config = place.file(REGION_BYTES);
    let board = support::board::Board::new(2);
    let mut late = Child::start(|| {
        board.wait_for(0, 1);
        let mut shelf = Shelf::open(&config);
        board.set(1, 1);
        board.wait_for(0, 2);
        write_all(&mut shelf);
        board.set(1, 2);
        board.wait_for(0, 3);
    });
    apart(|| {
        let mut shelf = Shelf::open(&config);
        shelf.set(1, 1, 100);
        board.set(0, 1);
        board.wait_for(1, 1);
        Cache::detach_all();
        board.set(0, 2);
        board.wait_for(1, 2);
    });
    assert!(is_marked_in_use(&place.file_file()));
    late.kill();
    reboot(&place.file_file());
    newcomer(&config, false, "stopped while it was in use");
}

/// The same, with one worker that leaves and works on: an interpreter does that on its way out.
#[test]
fn a_worker_that_works_on_after_leaving_is_not_clean() {
    let place = Place::new("again");
    let config = place.file(REGION_BYTES);
    apart(|| {
        let mut shelf = Shelf::open(&config);
        write_all(&mut shelf);
        Cache::detach_all();
        assert!(is_stored(shelf.set(7, 2, 100)));
        assert_eq!(shelf.get(7), Some((2, 100)));
        assert!(is_marked_in_use(&place.file_file()));
    });
    reboot(&place.file_file());
    newcomer(&config, false, "stopped while it was in use");
}

#[test]
fn a_region_of_another_size_is_used_as_it_is_and_replaced_when_nobody_uses_it() {
    let place = Place::new("size");
    let (small, large) = (place.shared(REGION_BYTES), place.shared(2 * REGION_BYTES));
    let board = support::board::Board::new(1);
    let user = Child::start(|| {
        let mut shelf = Shelf::open(&small);
        write_all(&mut shelf);
        board.set(0, 1);
        board.wait_for(0, 2);
        assert!(is_warm(&mut shelf));
    });
    board.wait_for(0, 1);
    newcomer(&large, true, "has 8 MiB, not the 16 MiB asked for");
    board.set(0, 2);
    user.finish();
    newcomer(&large, false, "size was changed");
    apart(|| assert_eq!(Shelf::open(&large).cache.stats().region_bytes, 2 * REGION_BYTES));
}

/// One that has come to a region uses it, though it has neither read nor written yet.
#[test]
fn a_region_is_not_replaced_under_a_worker_that_has_only_come_to_it() {
    let place = Place::new("size-idle");
    let (small, large) = (place.shared(REGION_BYTES), place.shared(2 * REGION_BYTES));
    let board = support::board::Board::new(1);
    let user = Child::start(|| {
        let mut shelf = Shelf::open(&small);
        assert!(!shelf.cache.has(&shelf.key(b"nothing")));
        board.set(0, 1);
        board.wait_for(0, 2);
        assert!(is_warm(&mut shelf));
        assert!(is_stored(shelf.set(7, 2, 100)));
        assert_eq!(shelf.get(7), Some((2, 100)));
    });
    board.wait_for(0, 1);
    apart(|| {
        let mut shelf = Shelf::open(&large);
        assert_eq!(shelf.cache.stats().region_bytes, REGION_BYTES);
        write_all(&mut shelf);
        board.set(0, 2);
    });
    user.finish();
}
