//! Random bit flips all over a live region (its size excepted) while processes read and write: misses, never a crash, never a hang,
//! never a wrong value.
//!
//! Counts are left out: a count is one word that is changed in place, so it has a salt in place of a checksum, and a flip in its
//! number is a wrong number.

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memmap2::{MmapOptions, MmapRaw};
use support::board::Board;
use support::child::{Child, apart, start_all};
use support::place::{Place, Shelf, is_stored};
use support::{Random, now_ns, quick_or_soak, value};
use tezkor::Timeout;

const REGION_BYTES: u64 = 2 << 20;
const LARGE_REGION_BYTES: u64 = 64 << 20;
const WORKERS: u64 = 3;
const KEYS: u64 = 1_500;
const LONGEST_OPERATION: Duration = Duration::from_secs(5);

const STOP: usize = 0;
const HITS: usize = 1;
const MISSES: usize = 2;
const BEGAN: usize = 4;

/// Where the bits are flipped: the word is drawn from a part of the region.
#[derive(Clone, Copy)]
enum Part {
    All,
    /// Header, rows, Ledger, segment table and index.
    Tables,
    Segments,
}

#[allow(unsafe_code)]
fn flip(map: &MmapRaw, random: &mut Random, part: Part) {
    let words = map.len() as u64 / 8;
    // The tables take the first eighth or so of a small region.
    let word = match part {
        Part::All => random.below(words),
        Part::Tables => random.below(words / 8),
        Part::Segments => words / 8 + random.below(words - words / 8),
    };
    // SAFETY: the word lies within the mapping, which lives as long as the borrow.
    let address = unsafe { map.as_mut_ptr().cast::<AtomicU64>().add(word as usize) };
    // SAFETY: aligned, mapped, and accessed as an atomic by everybody.
    let word = unsafe { &*address };
    word.fetch_xor(1 << random.below(64), Ordering::SeqCst);
}

fn flips_give_misses(name: &str, part: Part, flips: u64) {
    let place = Place::new(name);
    let config = place.shared(REGION_BYTES);
    let board = Board::new(16);
    apart(|| drop(Shelf::open(&config)));
    let mut workers = start_all(WORKERS, |number| work(&config, &board, number));
    let file = File::options().read(true).write(true).open(place.shared_file()).expect("the region is there");
    let map = MmapOptions::new().map_raw(&file).expect("the region can be mapped");
    let mut random = Random::new(now_ns());
    let start = Instant::now();
    for flipped in 0..flips {
        flip(&map, &mut random, part);
        if flipped % 64 == 0 {
            std::thread::sleep(Duration::from_micros(500));
            watch(&board, &mut workers);
        }
    }
    board.set(STOP, 1);
    workers.into_iter().for_each(Child::finish);
    println!("{flips} flips in {:?}: {} hits, {} misses", start.elapsed(), board.get(HITS), board.get(MISSES));
    assert!(board.get(HITS) > 1_000, "nothing was read");
    // Whoever comes next attaches to it or makes a new one; both work.
    apart(|| {
        let mut shelf = Shelf::open(&config);
        assert_eq!(shelf.cache.store().kind(), "shared");
        (0..KEYS).for_each(|key| {
            shelf.get(key);
        });
        shelf.cache.scan(shelf.space, &mut |_| true);
        shelf.cache.stats();
        shelf.cache.store().validate();
    });
}

fn watch(board: &Board, workers: &mut [Child]) {
    for (number, worker) in workers.iter_mut().enumerate() {
        let began = board.get(BEGAN + number);
        let took = Duration::from_nanos(now_ns().saturating_sub(began));
        assert!(began == 0 || took < LONGEST_OPERATION, "an operation hangs for {took:?}");
        assert_eq!(worker.ended(), None, "a worker crashed, or read a wrong value");
    }
}

fn work(config: &tezkor::Config, board: &Board, number: u64) {
    let mut shelf = Shelf::open(config);
    let mut random = Random::new(number);
    let mut stamps: Vec<Option<tezkor::Stamp>> = vec![None; KEYS as usize];
    while board.get(STOP) == 0 {
        board.set(BEGAN + number as usize, now_ns());
        shelf.renew();
        let key = random.log_uniform(1, KEYS) - 1;
        let name = value::name(key);
        match random.below(1_000) {
            0..400 => {
                let hit = shelf.get(key).is_some();
                board.add(if hit { HITS } else { MISSES }, 1);
            }
            400..800 => {
                let length = random.log_uniform(1, 4_000) as usize;
                let written = shelf.set(key, random.next(), length);
                if let tezkor::Written::Stored(stamp) = written {
                    stamps[key as usize] = Some(stamp);
                }
            }
            800..810 => {
                is_stored(shelf.set(key, 1, 60_000));
            }
            810..850 => {
                shelf.delete(key);
            }
            850..900 => {
                let timeout = Timeout::After(Duration::from_secs(random.below(10_000)));
                shelf.cache.touch(&shelf.key(&name), timeout);
            }
            900..950 => {
                if let Some(stamp) = &mut stamps[key as usize] {
                    shelf.cache.is_current(&shelf.key(&name), stamp);
                }
            }
            950..990 => {
                is_stored(shelf.add(key, 3, 50));
            }
            990..996 => {
                shelf.cache.explain(&shelf.key(&name));
            }
            996 => shelf.cache.clear(shelf.space),
            997 => shelf.cache.scan(shelf.space, &mut |_| true),
            998 => drop(shelf.cache.stats()),
            _ => {
                shelf.cache.incr(&shelf.key(&name), 1);
            }
        }
        board.set(BEGAN + number as usize, 0);
    }
}

#[test]
fn flips_everywhere_give_misses() {
    flips_give_misses("flips", Part::All, quick_or_soak(100_000, 2_000_000));
}

#[test]
fn flips_in_the_tables_give_misses() {
    flips_give_misses("tables", Part::Tables, quick_or_soak(100_000, 2_000_000));
}

#[test]
fn flips_in_the_segments_give_misses() {
    flips_give_misses("segments", Part::Segments, quick_or_soak(100_000, 2_000_000));
}

/// One flipped bit in the bytes of a value, wherever it is, and the value is a miss: for `get` and, once it was found, for
/// everybody else.
#[test]
fn every_flip_in_a_value_is_found() {
    let place = Place::new("value");
    let config = place.shared(REGION_BYTES);
    apart(|| {
        let mut shelf = Shelf::open(&config);
        let file = File::options().read(true).write(true).open(place.shared_file()).expect("the region is there");
        let mut bytes = Vec::new();
        for (key, length) in [(1, 1), (2, 31), (3, 400), (4, 40_000)] {
            value::fill(&mut bytes, key, 1, length);
            for bit in [0, 7, 8 * length.min(300) - 1] {
                assert!(is_stored(shelf.add(key, 1, length)), "nothing is in the way");
                let at = find(&file, &bytes[..length.min(300)]);
                let byte_at = at + bit as u64 / 8;
                let mut byte = [0];
                file.read_exact_at(&mut byte, byte_at).expect("it is there");
                file.write_all_at(&[byte[0] ^ 1 << (bit % 8)], byte_at).expect("it can be written");
                assert_eq!(shelf.get(key), None, "bit {bit} of {length} bytes is flipped");
                let name = value::name(key);
                assert!(!shelf.cache.has(&shelf.key(&name)), "what was found damaged is gone");
            }
        }
    });
}

/// What is damaged is found out by whoever changes it too, at once.
#[test]
fn what_is_damaged_is_not_changed() {
    let place = Place::new("changed");
    let config = place.shared(LARGE_REGION_BYTES);
    apart(|| {
        let mut shelf = Shelf::open(&config);
        let file = File::options().read(true).write(true).open(place.shared_file()).expect("the region is there");
        let mut bytes = Vec::new();
        for (key, length) in [(2, 400), (4, 8 << 20)] {
            assert!(is_stored(shelf.set(key, 1, length)));
            value::fill(&mut bytes, key, 1, length);
            let at = find(&file, &bytes[..300]);
            file.write_all_at(&[bytes[0] ^ 1], at).expect("it can be written");
            let name = value::name(key);
            let start = Instant::now();
            assert!(!shelf.cache.touch(&shelf.key(&name), Timeout::After(Duration::from_secs(1))));
            assert!(start.elapsed() < LONGEST_OPERATION, "it was copied again and again");
            assert!(!shelf.cache.has(&shelf.key(&name)));
        }
    });
}

/// Cut while it is read and written: whoever touches what is gone finds nothing there, and all move on to a new file.
#[test]
fn a_region_that_is_cut_while_it_is_used_gives_misses() {
    for length in [0, 64 << 10, REGION_BYTES / 2] {
        for on_disk in [false, true] {
            let place = Place::new("cut");
            let (config, path) = match on_disk {
                false => (place.shared(REGION_BYTES), place.shared_file()),
                true => (place.file(REGION_BYTES), place.file_file()),
            };
            let board = Board::new(16);
            apart(|| drop(Shelf::open(&config)));
            let workers = start_all(WORKERS, |number| work(&config, &board, number));
            while board.get(HITS) < 1_000 {
                std::thread::sleep(Duration::from_millis(1));
            }
            let file = File::options().write(true).open(path).expect("the region is there");
            file.set_len(length).expect("it can be cut");
            std::thread::sleep(Duration::from_millis(50));
            board.set(HITS, 0);
            let start = Instant::now();
            while board.get(HITS) < 1_000 {
                assert!(start.elapsed() < Duration::from_secs(20), "they do not move on");
                std::thread::sleep(Duration::from_millis(1));
            }
            board.set(STOP, 1);
            workers.into_iter().for_each(Child::finish);
        }
    }
}

/// A file whose header is right and whose tables are not, while nobody uses it: it is started empty, not left half dead.
#[test]
fn a_region_full_of_garbage_is_started_empty() {
    let place = Place::new("garbage");
    let config = place.shared(REGION_BYTES);
    apart(|| drop(Shelf::open(&config)));
    let file = File::options().write(true).open(place.shared_file()).expect("the region is there");
    let mut random = Random::new(7);
    let garbage: Vec<u8> = (4096..REGION_BYTES).map(|_| random.next() as u8).collect();
    file.write_all_at(&garbage, 4096).expect("it can be written");
    apart(|| {
        let mut shelf = Shelf::open(&config);
        let events = shelf.cache.take_events();
        assert!(events.len() == 1 && events[0].text.contains("damaged"), "{events:?}");
        assert!((0..500).all(|key| is_stored(shelf.set(key, 1, 1_000))));
        assert_eq!(shelf.cache.stats().segments_unavailable, 0);
    });
}

/// Where the bytes lie in a file: after the key's name, if they are too short to be found by themselves.
fn find(file: &File, bytes: &[u8]) -> u64 {
    let mut all = vec![0; file.metadata().expect("the region is there").len() as usize];
    file.read_exact_at(&mut all, 0).expect("the region is there");
    let mut wanted = bytes.to_vec();
    let mut before = 0;
    if bytes.len() == 1 {
        let mut name = value::name(1);
        name.resize(name.len().next_multiple_of(8), 0);
        before = name.len();
        wanted = [name.as_slice(), bytes].concat();
    }
    let at = all.windows(wanted.len()).position(|window| window == wanted).expect("the value lies in the file");
    (at + before) as u64
}
