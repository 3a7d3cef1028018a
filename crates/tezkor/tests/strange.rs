//! Strange things where a region should be: links, foreign files, open directories, damaged or cut regions, at the start and under
//! running workers. Nothing is followed, nothing of others is changed, and the work goes on.

mod support;

use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use support::board::Board;
use support::child::{Child, apart, finish_all, start_all};
use support::place::{Place, Shelf, is_stored};
use support::system;
use tezkor::Clock;
use xxhash_rust::xxh3::xxh3_64;

const REGION_BYTES: u64 = 2 << 20;
const WORKERS: u64 = 4;
const PRECIOUS: &[u8] = &[b'p'; 3 << 20];
const MEMORY: &str = "memory (in place of a file)";

fn work(shelf: &mut Shelf, rounds: u64) {
    for round in 0..rounds {
        assert!(is_stored(shelf.set(round % 100, round, 500)));
        assert_eq!(shelf.get(round % 100), Some((round, 500)));
    }
}

/// Comes to a place where something strange is: what kind of store it gets, and what it is told.
fn comes_to(place: &Place, kind: &str, event: &str) {
    apart(|| {
        let mut shelf = Shelf::open(&place.shared(REGION_BYTES));
        assert_eq!(shelf.cache.store().kind(), kind);
        let events = shelf.cache.take_events();
        assert!(events.len() == 1 && events[0].text.contains(event), "{event}: {events:?}");
        work(&mut shelf, 500);
    });
}

/// A place in which a region has been: its directory is there.
fn used() -> Place {
    let place = Place::new("strange");
    apart(|| work(&mut Shelf::open(&place.shared(REGION_BYTES)), 200));
    place
}

fn precious(place: &Place) -> std::path::PathBuf {
    let path = place.disk().join("precious");
    std::fs::write(&path, PRECIOUS).expect("a file can be made");
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("its mode can be set");
    path
}

fn is_untouched(path: &Path) {
    assert!(std::fs::read(path).is_ok_and(|bytes| bytes == PRECIOUS), "{} was changed", path.display());
}

fn remove(path: &Path) {
    std::fs::remove_file(path).expect("it can be removed");
}

#[test]
fn a_link_in_place_of_the_region_is_replaced_and_not_followed() {
    for hard in [false, true] {
        let place = used();
        let precious = precious(&place);
        remove(&place.shared_file());
        match hard {
            true => std::fs::hard_link(&precious, place.shared_file()),
            false => symlink(&precious, place.shared_file()),
        }
        .expect("a link can be made");
        comes_to(&place, "shared", "was started empty");
        is_untouched(&precious);
    }
}

#[test]
fn a_link_in_place_of_the_lock_file_is_refused() {
    for hard in [false, true] {
        let place = used();
        let precious = precious(&place);
        remove(&place.shared_lock_file());
        match hard {
            true => std::fs::hard_link(&precious, place.shared_lock_file()),
            false => symlink(&precious, place.shared_lock_file()),
        }
        .expect("a link can be made");
        comes_to(&place, MEMORY, "private memory");
        is_untouched(&precious);
    }
}

#[test]
fn a_dangling_link_makes_no_file_elsewhere() {
    let place = used();
    let elsewhere = place.disk().join("elsewhere");
    remove(&place.shared_lock_file());
    symlink(&elsewhere, place.shared_lock_file()).expect("a link can be made");
    comes_to(&place, MEMORY, "private memory");
    assert!(!elsewhere.exists());
}

/// The directory is somebody's trap: a link to another one, open to others, or of another user.
#[test]
fn a_directory_that_is_not_ours_alone_is_refused() {
    for trap in ["link", "open", "foreign", "file"] {
        if trap == "foreign" && !system::is_root() {
            println!("not run: only root can give a directory away");
            continue;
        }
        let place = Place::new("trap");
        let (ours, elsewhere) = (place.disk().join(format!("tezkor-{}", user(&place))), place.disk().join("elsewhere"));
        std::fs::create_dir(&elsewhere).expect("a directory can be made");
        match trap {
            "link" => symlink(&elsewhere, &ours),
            "file" => std::fs::write(&ours, PRECIOUS),
            _ => std::fs::create_dir(&ours),
        }
        .expect("it can be made");
        match trap {
            "open" => std::fs::set_permissions(&ours, Permissions::from_mode(0o777)),
            "foreign" => {
                std::os::unix::fs::chown(&ours, Some(65_534), None).expect("root may");
                std::fs::set_permissions(&ours, Permissions::from_mode(0o700))
            }
            _ => Ok(()),
        }
        .expect("its mode can be set");
        let event = match trap {
            "open" => "chmod 700",
            "foreign" => "belongs to user 65534",
            _ => "private memory",
        };
        let directory = place.disk();
        apart(|| {
            Place::move_shared_to(&directory);
            comes_to(&place, MEMORY, event);
        });
        assert_eq!(elsewhere.read_dir().expect("it is there").count(), 0, "{trap}: something was made elsewhere");
        if trap == "file" {
            is_untouched(&ours);
        }
    }
}

fn user(place: &Place) -> String {
    let name = place.shared_directory();
    name.to_string_lossy().rsplit('-').next().expect("the directory ends in the user's number").to_string()
}

#[test]
fn a_directory_that_cannot_be_written_makes_private_memory() {
    let place = Place::new("readonly");
    let directory = place.disk();
    std::fs::set_permissions(&directory, Permissions::from_mode(0o555)).expect("its mode can be set");
    apart(|| {
        Place::move_shared_to(&directory);
        system::stop_being_root();
        comes_to(&place, MEMORY, "private memory");
    });
    assert_eq!(directory.read_dir().expect("it is there").count(), 0);
}

/// Damage to a region that nobody uses: it starts empty, with one event that says why.
#[test]
fn a_damaged_region_is_started_empty() {
    type Damage = fn(&File);
    let damages: &[(&str, &str, Damage)] = &[
        ("cut to nothing", "0 bytes", |file| set_len(file, 0)),
        ("cut to a few bytes", "100 bytes", |file| set_len(file, 100)),
        ("cut in half", "sizes", |file| set_len(file, REGION_BYTES / 2)),
        ("grown", "sizes", |file| set_len(file, REGION_BYTES * 2)),
        ("another file", "another layout", |file| write(file, 0, PRECIOUS)),
        ("another version", "another layout", |file| write(file, 7, b"\x01")),
        ("a flipped bit", "damaged", |file| write(file, 40, b"\xff")),
        ("other sizes, well formed", "sizes", |file| change_header(file, 3, 5)),
        ("another size, well formed", "sizes", |file| change_header(file, 1, REGION_BYTES / 2)),
        ("a huge size, well formed", "sizes", |file| change_header(file, 1, u64::MAX)),
        ("another clock", "sizes", |file| change_header(file, 9, 77)),
    ];
    for (name, event, damage) in damages {
        let place = used();
        damage(&File::options().read(true).write(true).open(place.shared_file()).expect("the region is there"));
        println!("{name}");
        comes_to(&place, "shared", event);
        comes_again(&place);
    }
}

fn set_len(file: &File, length: u64) {
    file.set_len(length).expect("its length can be set");
}

fn write(file: &File, at: u64, bytes: &[u8]) {
    let room = (REGION_BYTES - at).min(bytes.len() as u64) as usize;
    file.write_all_at(&bytes[..room], at).expect("it can be written");
}

fn change_header(file: &File, word: usize, value: u64) {
    let mut header = [0; 96];
    file.read_exact_at(&mut header, 0).expect("the region has a header");
    header[word * 8..word * 8 + 8].copy_from_slice(&value.to_le_bytes());
    write(file, 0, &header);
    write(file, 96, &xxh3_64(&header).to_le_bytes());
}

fn comes_again(place: &Place) {
    apart(|| {
        let mut shelf = Shelf::open(&place.shared(REGION_BYTES));
        assert_eq!(shelf.cache.take_events(), [], "once is enough");
        assert!(shelf.get(1).is_some(), "and what was written then is there");
    });
}

/// What happens to the files under running workers.
#[test]
fn workers_meet_at_one_new_region_within_two_seconds() {
    type Blow = fn(&Place);
    let blows: &[(&str, Blow)] = &[
        ("the region is deleted", |place| remove(&place.shared_file())),
        ("the lock file is deleted", |place| remove(&place.shared_lock_file())),
        ("both are deleted", |place| {
            remove(&place.shared_file());
            remove(&place.shared_lock_file());
        }),
        ("another file is put in its place", |place| {
            let other = place.disk().join("other");
            std::fs::write(&other, PRECIOUS).expect("a file can be made");
            std::fs::rename(other, place.shared_file()).expect("it can be moved");
        }),
        ("it is moved away and back is nothing", |place| {
            std::fs::rename(place.shared_file(), place.disk().join("away")).expect("it can be moved");
        }),
    ];
    for (name, blow) in blows {
        let place = Place::new("blow");
        let config = place.shared(REGION_BYTES);
        let board = Board::new(16);
        let workers = start_all(WORKERS, |number| {
            let mut shelf = Shelf::open(&config);
            while board.get(0) == 0 {
                shelf.renew();
                for round in 0..20 {
                    let key = number * 1_000 + round;
                    is_stored(shelf.set(key, round, 500));
                    shelf.get(key);
                }
                board.set(1 + number as usize, shelf.cache.region_id());
            }
            assert_eq!(shelf.cache.store().kind(), "shared");
        });
        (1..=WORKERS as usize).for_each(|worker| board.wait_for(worker, 1));
        let old = board.get(1);
        blow(&place);
        let start = Instant::now();
        std::thread::sleep(Duration::from_millis(5));
        let met = loop {
            let ids: Vec<u64> = (1..=WORKERS as usize).map(|worker| board.get(worker)).collect();
            if ids.iter().all(|id| *id == ids[0] && (*id != old || *name == "the lock file is deleted")) {
                break start.elapsed();
            }
            assert!(start.elapsed() < Duration::from_secs(2), "{name}: after two seconds workers are at {ids:?}");
            std::thread::sleep(Duration::from_millis(5));
        };
        println!("{name}: met after {met:?}");
        // They stay together, and a newcomer comes to the same.
        std::thread::sleep(Duration::from_millis(700));
        let here = board.get(1);
        apart(|| assert_eq!(Shelf::open(&config).cache.region_id(), here, "{name}"));
        board.set(0, 1);
        finish_all(workers);
        apart(|| {
            let mut shelf = Shelf::open(&config);
            shelf.get(1);
            assert_eq!(shelf.cache.stats().workers, 1, "{name}");
            assert_eq!(shelf.cache.store().validate(), Vec::<String>::new(), "{name}");
        });
    }
}

/// A region that is cut under workers who rest: at their next operation they find out, and meet at a new one.
#[test]
fn workers_that_rest_while_their_region_is_cut_move_on() {
    for length in [0, 4096, REGION_BYTES / 2] {
        let place = Place::new("cut");
        let config = place.shared(REGION_BYTES);
        let board = Board::new(16);
        let workers = start_all(WORKERS, |number| {
            let mut shelf = Shelf::open(&config);
            work(&mut shelf, 100);
            board.add(0, 1);
            board.wait_for(1, 1);
            shelf.get(1);
            shelf.renew();
            for round in 0..100 {
                is_stored(shelf.set(10_000 * (1 + number) + round, round, 500));
                let found = shelf.get(10_000 * (1 + number) + round);
                assert_eq!(found, Some((round, 500)));
            }
            board.set(2 + number as usize, shelf.cache.region_id());
        });
        board.wait_for(0, WORKERS);
        std::thread::sleep(Duration::from_millis(600));
        set_len(&File::options().write(true).open(place.shared_file()).expect("the region is there"), length);
        board.set(1, 1);
        finish_all(workers);
        let ids: Vec<u64> = (2..2 + WORKERS as usize).map(|worker| board.get(worker)).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "cut to {length}: {ids:?}");
    }
}

/// What stood in the way is gone: the process goes back to the region by itself.
#[test]
fn a_region_that_could_not_be_used_is_used_when_it_can() {
    let place = used();
    let trap = place.disk().join("trap");
    std::fs::write(&trap, b"").expect("a file can be made");
    remove(&place.shared_lock_file());
    symlink(&trap, place.shared_lock_file()).expect("a link can be made");
    apart(|| {
        let mut shelf = Shelf::open(&place.shared(REGION_BYTES));
        assert_eq!(shelf.cache.store().kind(), MEMORY);
        assert_eq!(shelf.cache.take_events().len(), 1);
        remove(&place.shared_lock_file());
        let start = Instant::now();
        while shelf.cache.store().kind() == MEMORY {
            assert!(start.elapsed() < Duration::from_secs(20), "it does not come back");
            shelf.get(1);
            std::thread::sleep(Duration::from_millis(10));
        }
        let events = shelf.cache.take_events();
        assert!(events.iter().any(|event| event.text.contains("can be used again")), "{events:?}");
        shelf.renew();
        work(&mut shelf, 200);
        // And others find it there.
        let meets = Board::new(1);
        apart(|| meets.set(0, u64::from(Shelf::open(&place.shared(REGION_BYTES)).get(99).is_some())));
        assert_eq!(meets.get(0), 1);
    });
}

/// A region on disk follows the time of day for expiry; what is looked after now and then does not.
#[test]
fn a_clock_that_is_set_back_stops_nothing() {
    let place = Place::new("clock");
    let config = place.file(REGION_BYTES).with_clock(Clock::Manual);
    apart(|| {
        let mut shelf = Shelf::open(&config);
        let now_ms = 1_700_000_000_000;
        shelf.cache.set_time(now_ms);
        work(&mut shelf, 10);
        shelf.cache.set_time(now_ms - 3_600_000);
        shelf.get(1);
        let region = shelf.cache.region_id();
        remove(&place.file_file());
        let start = Instant::now();
        while shelf.cache.region_id() == region {
            assert!(start.elapsed() < Duration::from_secs(20), "nobody looks after the region");
            shelf.get(1);
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}

/// Workers that start at the same time where there is no directory yet all come to one region.
#[test]
fn workers_that_make_the_directory_together_meet() {
    for round in 0..20 {
        let place = Place::new("together");
        let config = tezkor::Config {
            location: tezkor::Location::File { directory: place.disk().join(format!("a/b/{round}")) },
            ..place.file(REGION_BYTES)
        };
        let board = Board::new(1);
        finish_all(start_all(WORKERS, |number| {
            board.add(0, 1);
            board.wait_for(0, WORKERS);
            let mut shelf = Shelf::open(&config);
            assert_eq!(shelf.cache.store().kind(), "file", "{:?}", shelf.cache.take_events());
            assert!(is_stored(shelf.set(number, 1, 10)));
            board.add(0, 1);
            board.wait_for(0, 2 * WORKERS);
            assert!((0..WORKERS).all(|key| shelf.get(key).is_some()));
        }));
    }
}

/// Whoever tidies up may remove a directory that is empty still.
#[test]
fn a_directory_that_is_removed_while_a_worker_comes_is_made_anew() {
    let place = Place::new("tidied");
    let board = Board::new(1);
    let tidies = Child::start(|| {
        while board.get(0) == 0 {
            let _ = std::fs::remove_dir(place.shared_directory());
            std::thread::sleep(Duration::from_micros(20));
        }
    });
    apart(|| {
        for number in 0..300 {
            let name = format!("tidied-{number}");
            let location = tezkor::Location::Shared { name: Some(name.clone()) };
            let cache =
                tezkor::Cache::open(&tezkor::Config { location, ..place.shared(REGION_BYTES) }).expect("it opens");
            assert_eq!(cache.store().kind(), "shared", "{:?}", cache.take_events());
            for kind in ["region", "lock"] {
                remove(&place.shared_directory().join(format!("{name}.{kind}")));
            }
        }
        board.set(0, 1);
    });
    tidies.finish();
}

/// A worker rests while the region's file is replaced, and comes back to a set or a delete: they act on the region that is there.
#[test]
fn the_first_operation_after_a_rest_acts_on_the_region_that_is_there() {
    for deletes in [false, true] {
        let place = used();
        let config = place.shared(REGION_BYTES);
        let board = Board::new(2);
        let workers = start_all(2, |number| {
            let mut shelf = Shelf::open(&config);
            shelf.get(1);
            board.add(0, 1);
            if number == 1 {
                board.wait_for(0, 3);
                // Another region, in which somebody has set the key.
                std::thread::sleep(Duration::from_millis(600));
                shelf.get(1);
                shelf.renew();
                assert!(is_stored(shelf.set(1, 1, 100)));
                board.add(0, 1);
                board.wait_for(1, 1);
                shelf.renew();
            } else {
                board.wait_for(0, 4);
                std::thread::sleep(Duration::from_millis(600));
                match deletes {
                    true => assert!(shelf.delete(1), "what the other set is there"),
                    false => assert!(is_stored(shelf.set(1, 2, 100))),
                }
                shelf.renew();
                board.set(1, 1);
            }
            assert_eq!(shelf.get(1), if deletes { None } else { Some((2, 100)) }, "worker {number}");
        });
        board.wait_for(0, 2);
        remove(&place.shared_file());
        board.add(0, 1);
        finish_all(workers);
    }
}

/// A process opens the cache as root and goes on as another user, as servers do: it comes to the region of that user.
#[test]
fn a_process_that_changes_its_user_comes_to_the_region_of_that_user() {
    if !system::is_root() {
        println!("not run: only root can become another user");
        return;
    }
    let place = Place::new("user");
    let directory = place.disk().join("shared");
    std::fs::create_dir(&directory).expect("it can be made");
    std::fs::set_permissions(&directory, Permissions::from_mode(0o1777)).expect("its mode can be set");
    std::fs::set_permissions(place.disk(), Permissions::from_mode(0o755)).expect("its mode can be set");
    apart(|| {
        Place::move_shared_to(&directory);
        let config = place.shared(REGION_BYTES);
        let mut shelf = Shelf::open(&config);
        work(&mut shelf, 10);
        let board = Board::new(1);
        finish_all(start_all(2, |number| {
            let mut shelf = Shelf::open(&config);
            let region = shelf.cache.region_id();
            system::stop_being_root();
            let start = Instant::now();
            while shelf.cache.region_id() == region || shelf.cache.store().kind() != "shared" {
                assert!(start.elapsed() < Duration::from_secs(20), "{}", shelf.cache.store().kind());
                shelf.get(1);
                std::thread::sleep(Duration::from_millis(10));
            }
            shelf.renew();
            if number == 0 {
                assert!(is_stored(shelf.set(77, 1, 100)));
                board.set(0, 1);
            }
            board.wait_for(0, 1);
            assert!(shelf.get(77).is_some(), "the workers of the user meet");
        }));
        assert!(shelf.get(77).is_none(), "root's region is another one");
    });
}

/// Files that others may open are not trusted.
#[test]
fn files_that_are_open_to_others_are_refused() {
    let place = used();
    std::fs::set_permissions(place.shared_file(), Permissions::from_mode(0o644)).expect("its mode can be set");
    comes_to(&place, "shared", "mode 644");
    let place = used();
    std::fs::set_permissions(place.shared_lock_file(), Permissions::from_mode(0o606)).expect("its mode can be set");
    comes_to(&place, MEMORY, "mode 606");
}

/// Regions that no worker has used for a week go when another one is opened; those in use stay, however old.
#[test]
fn regions_that_nobody_uses_go_after_a_week() {
    let (old, used_on, fresh) = (used(), used(), used());
    let week = Duration::from_secs(8 * 24 * 3600);
    let board = Board::new(2);
    let workers = start_all(1, |_| {
        let mut shelf = Shelf::open(&used_on.shared(REGION_BYTES));
        work(&mut shelf, 1);
        board.set(0, 1);
        board.wait_for(1, 1);
    });
    board.wait_for(0, 1);
    for place in [&old, &used_on] {
        let lock = File::options().write(true).open(place.shared_lock_file()).expect("it is there");
        lock.set_modified(std::time::SystemTime::now() - week).expect("its age can be set");
    }
    apart(|| drop(Shelf::open(&Place::new("another").shared(REGION_BYTES))));
    assert!(!old.shared_file().exists() && !old.shared_lock_file().exists());
    assert!(used_on.shared_file().exists() && used_on.shared_lock_file().exists());
    assert!(fresh.shared_file().exists());
    board.set(1, 1);
    finish_all(workers);
}
