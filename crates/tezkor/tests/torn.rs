//! Four processes read, write and evict values that describe themselves, 1 B to 8 MiB: nobody ever sees a torn value, or one
//! of another key.

mod support;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use support::board::Board;
use support::child::{finish_all, start_all};
use support::place::{Place, Shelf};
use support::{Random, quick_or_soak, value};
use tezkor::Written;

const REGION_BYTES: u64 = 64 << 20;
const PROCESSES: u64 = 4;
/// Three times as much as the region holds.
const SMALL_KEYS: u64 = 30_000;
const LARGE_KEYS: u64 = 12;
const LARGEST: u64 = 8 << 20;

// Words of the board.
const VERSION: usize = 0;
const READS: usize = 1;
const LARGE_READS: usize = 2;
const MISSES: usize = 3;
const REFUSED: usize = 4;

#[test]
fn no_reader_sees_a_torn_value_or_one_of_another_key() {
    let place = Place::new("torn");
    let board = Board::new(8);
    let wanted = (quick_or_soak(1_000_000, 10_000_000), quick_or_soak(1_000, 10_000));
    let config = place.shared(REGION_BYTES);
    let start = Instant::now();
    let children = start_all(PROCESSES, |number| {
        let mut shelf = Shelf::open(&config);
        let mut random = Random::new(number);
        while board.get(READS) < wanted.0 || board.get(LARGE_READS) < wanted.1 {
            for _ in 0..512 {
                step(&mut shelf, &mut random, &board);
            }
            assert!(start.elapsed() < Duration::from_secs(quick_or_soak(200, 1200)), "too slow to finish");
        }
    });
    finish_all(children);
    let shelf = Shelf::open(&config);
    assert_eq!(shelf.cache.store().validate(), Vec::<String>::new());
    assert_eq!(shelf.cache.store().kind(), "shared");
    println!(
        "{} reads ({} above 1 MiB), {} misses, {} refused writes, {} segments evicted, in {:?}",
        board.get(READS),
        board.get(LARGE_READS),
        board.get(MISSES),
        board.get(REFUSED),
        shelf.counter("evicted_segments"),
        start.elapsed(),
    );
    assert!(shelf.counter("evicted_segments") > 1_000, "the test wants constant eviction");
    assert!(shelf.counter("survivors") > 1_000, "the test wants survivors");
    assert!(board.get(REFUSED) < board.get(MISSES) / 10, "writes are refused now and then, not as a rule");
    assert_eq!(shelf.counter("misses_corrupt"), 0, "nothing was damaged, so nothing is found damaged");
}

/// A read, and as caches are used: a write where it missed. Now and then a write or a removal out of order.
fn step(shelf: &mut Shelf, random: &mut Random, board: &Board) {
    let large = random.one_in(1100);
    let key = if large {
        SMALL_KEYS + random.below(LARGE_KEYS)
    } else {
        // Few keys are popular and most are not, as in life.
        random.log_uniform(1, SMALL_KEYS) - 1
    };
    let choice = random.below(100);
    if choice == 0 {
        shelf.delete(key);
    } else if choice < 5 {
        write(shelf, random, board, key, large);
    }
    let before = board.get(VERSION);
    match shelf.get(key) {
        Some((version, length)) => {
            let newest = board.get(VERSION);
            assert!(version <= newest, "key {key}: version {version} was not written yet ({before} to {newest})");
            board.add(READS, 1);
            if length > 1 << 20 {
                board.add(LARGE_READS, 1);
            }
        }
        None => {
            board.add(MISSES, 1);
            write(shelf, random, board, key, large);
        }
    }
}

fn write(shelf: &mut Shelf, random: &mut Random, board: &Board, key: u64, large: bool) {
    let length = if large { random.log_uniform((1 << 20) + 1, LARGEST) } else { random.log_uniform(1, 64 << 10) };
    let version = board.add(VERSION, 1);
    if matches!(shelf.set(key, version, length as usize), Written::Refused) {
        board.add(REFUSED, 1);
    }
}

/// Keys that the index cannot tell apart: one bucket, one fingerprint. Whoever is written last is there; no one is taken for another.
#[test]
fn keys_of_one_fingerprint_are_never_taken_for_each_other() {
    let place = Place::new("alike");
    let config = place.shared(1 << 20);
    let alike = {
        let shelf = Shelf::open(&config);
        let mut places = HashMap::new();
        let mut alike = Vec::new();
        for key in 0..400_000 {
            // The low bits are the fingerprint and the high ones lead to the bucket; sixteen of them are more than it takes.
            let low = shelf.key(&value::name(key)).hash() as u64;
            if let Some(other) = places.insert((low & 0xffff, low >> 48), key) {
                alike.extend([key, other]);
            }
        }
        alike
    };
    assert!(alike.len() >= 4, "{} keys share a fingerprint", alike.len());
    let board = Board::new(8);
    finish_all(start_all(PROCESSES, |number| {
        let mut shelf = Shelf::open(&config);
        let mut random = Random::new(number);
        for _ in 0..quick_or_soak(100_000, 5_000_000) {
            let pair = 2 * random.below(alike.len() as u64 / 2) as usize;
            let key = alike[pair + random.below(2) as usize];
            match random.below(10) {
                0 => {
                    shelf.delete(key);
                }
                1 => {
                    shelf.add(key, board.add(VERSION, 1), 40);
                }
                2..5 => {
                    shelf.set(key, board.add(VERSION, 1), random.log_uniform(1, 2_000) as usize);
                }
                _ => {
                    let hit = shelf.get(key).is_some();
                    board.add(if hit { READS } else { MISSES }, 1);
                }
            }
        }
    }));
    println!("{} keys, {} reads, {} misses", alike.len(), board.get(READS), board.get(MISSES));
    assert!(board.get(READS) > 10_000 && board.get(MISSES) > 10_000);
    assert_eq!(Shelf::open(&config).cache.store().validate(), Vec::<String>::new());
}
