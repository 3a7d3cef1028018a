//! `incr`, `add` and `set_if_unchanged` raced by four processes: exact totals and one winner, also while evictors move the counts.

mod support;

use std::time::{Duration, Instant};

use support::board::Board;
use support::child::{apart, finish_all, start_all};
use support::place::{Place, Shelf, is_stored};
use support::quick_or_soak;
use tezkor::{Incr, Timeout, Value, Written};

const PROCESSES: u64 = 4;
const REGION_BYTES: u64 = 1 << 20;
/// Where entries fill whole segments, so that evictions never rest while the index has room for all.
const ROOMY_BYTES: u64 = 8 << 20;
const FILL_BYTES: usize = 15_000;
const COUNTS: u64 = 4;
const LIFE_BITS: u32 = 24;
const LIVES: usize = 100_000;

fn incr(shelf: &Shelf, name: &[u8], delta: i64) -> Incr {
    shelf.cache.incr(&shelf.key(name), delta)
}

/// The sum that processes reach together, counting up and down.
fn counted(first: i64, rounds: u64) {
    let place = Place::new("race");
    let config = place.shared(REGION_BYTES);
    let names: Vec<Vec<u8>> = (0..COUNTS).map(|number| format!("count {number}").into_bytes()).collect();
    apart(|| {
        let shelf = Shelf::open(&config);
        for name in &names {
            assert!(is_stored(shelf.cache.set(&shelf.key(name), Value::Count(first), Timeout::Never)));
        }
    });
    let board = Board::new(1);
    finish_all(start_all(PROCESSES, |_| {
        let shelf = Shelf::open(&config);
        board.add(0, 1);
        board.wait_for(0, PROCESSES);
        for round in 0..rounds {
            for name in &names {
                let delta = if round % 3 == 2 { -1 } else { 2 };
                assert!(matches!(incr(&shelf, name, delta), Incr::Value(_)), "nothing evicts the count");
            }
            // A count's expiry is changed in place beside it.
            if round % 50 == 0 {
                assert!(shelf.cache.touch(&shelf.key(&names[0]), Timeout::After(Duration::from_secs(3600 + round))));
            }
        }
    }));
    let thirds = (rounds / 3) as i64;
    assert_eq!(rounds % 3, 0);
    let expected = first + PROCESSES as i64 * (thirds * 2 * 2 - thirds);
    let shelf = Shelf::open(&config);
    for name in &names {
        assert_eq!(incr(&shelf, name, 0), Incr::Value(expected));
    }
    assert_eq!(shelf.cache.store().validate(), Vec::<String>::new());
}

/// Counts that evictors move all the time. A cache may lose one: whoever misses it begins it anew, from a number of its own.
/// In each of its lives a count ends at exactly as many as were added.
#[test]
fn counts_add_up_exactly_while_evictors_move_them() {
    let place = Place::new("moved");
    let config = place.shared(REGION_BYTES);
    let rounds = quick_or_soak(60_000, 3_000_000);
    // Of each life: how often it was counted, and the highest sum.
    let board = Board::new(2 * LIVES);
    finish_all(start_all(PROCESSES, |number| {
        let mut shelf = Shelf::open(&config);
        for round in 0..rounds {
            let name = format!("count {}", round % COUNTS);
            match incr(&shelf, name.as_bytes(), 1) {
                Incr::Value(sum) => {
                    let life = sum as usize >> LIFE_BITS;
                    board.add(2 * life, 1);
                    board.raise(2 * life + 1, sum as u64 & ((1 << LIFE_BITS) - 1));
                }
                Incr::Missing => {
                    let life = board.add(0, 1) as i64;
                    shelf.cache.add(&shelf.key(name.as_bytes()), Value::Count(life << LIFE_BITS), Timeout::Never);
                }
                Incr::NotACount => panic!("the count is something else"),
            }
            if round % 3 == 0 {
                // Each is used once, so that it goes to the main queue, where the counts are, and that queue moves.
                let key = 10_000 + number * rounds + round;
                shelf.set(key, 1, 700);
                shelf.get(key);
            }
        }
    }));
    let (counted, lives) = sums_are_exact(&board);
    let shelf = Shelf::open(&config);
    println!("{counted} counted in {lives} lives, {} survivors", shelf.counter("survivors"));
    assert!(shelf.counter("survivors") > 10_000, "the counts were never moved");
    assert!(counted > 100 * lives, "counts in use were lost {lives} times in {counted}");
}

/// How much was counted, in how many lives; in each of them the sum is what was counted.
fn sums_are_exact(board: &Board) -> (u64, u64) {
    let lives = board.get(0) as usize;
    for life in 1..=lives {
        assert_eq!(board.get(2 * life), board.get(2 * life + 1), "life {life}: how often it was counted, and its sum");
    }
    ((1..=lives).map(|life| board.get(2 * life)).sum(), lives as u64)
}

#[test]
fn counts_add_up_exactly() {
    counted(0, quick_or_soak(60_000, 3_000_000));
}

#[test]
fn counts_too_large_for_a_word_add_up_exactly() {
    counted(1 << 50, quick_or_soak(3_000, 150_000));
}

#[test]
fn counts_that_grow_out_of_a_word_add_up_exactly() {
    counted((1 << 46) - 10_000, quick_or_soak(6_000, 60_000));
}

/// Who of those that race for a key wins it: keys that are absent, keys that were deleted, while evictions never rest. All four
/// go through the keys of a round in the same order, so that they meet at one or another.
#[test]
fn an_add_has_one_winner() {
    const AT_ONCE: usize = 16;
    let place = Place::new("add");
    let config = place.shared(ROOMY_BYTES);
    let rounds = quick_or_soak(4_000, 100_000) as usize;
    // The winners of each key, and who has come to each round.
    let board = Board::new(rounds * AT_ONCE + rounds + 1);
    let start = Instant::now();
    finish_all(start_all(PROCESSES, |number| {
        let mut shelf = Shelf::open(&config);
        for round in 0..rounds {
            // Every fourth round takes the keys of one that all have left behind, after they were deleted.
            let names: Vec<String> = (0..AT_ONCE)
                .map(|key| format!("round {} key {key}", if round % 4 == 3 { round - 3 } else { round }))
                .collect();
            if round % 4 == 3 && number == 0 {
                for name in &names {
                    shelf.cache.delete(&shelf.key(name.as_bytes()));
                }
            }
            meet(&board, rounds * AT_ONCE + round);
            for (key, name) in names.iter().enumerate() {
                let value = Value::Count(number as i64);
                if is_stored(shelf.cache.add(&shelf.key(name.as_bytes()), value, Timeout::Never)) {
                    board.add(round * AT_ONCE + key, 1);
                }
            }
            if round % 3 == 0 {
                shelf.set(1_000_000 + number * rounds as u64 + round as u64, 1, FILL_BYTES);
            }
        }
    }));
    for round in 0..rounds {
        for key in 0..AT_ONCE {
            assert_eq!(board.get(round * AT_ONCE + key), 1, "round {round}, key {key}: the number of winners");
        }
    }
    println!("{rounds} rounds in {:?}", start.elapsed());
}

/// Waits, without sleeping, until all have come to this word.
fn meet(board: &Board, word: usize) {
    board.add(word, 1);
    let start = Instant::now();
    while board.get(word) < PROCESSES {
        std::thread::yield_now();
        assert!(start.elapsed() < Duration::from_secs(30), "somebody does not come");
    }
}

#[test]
fn set_if_unchanged_loses_no_update() {
    let place = Place::new("unchanged");
    let config = place.shared(ROOMY_BYTES);
    let rounds = quick_or_soak(8_000, 400_000);
    let board = Board::new(2 * LIVES);
    finish_all(start_all(PROCESSES, |number| {
        let mut shelf = Shelf::open(&config);
        for round in 0..rounds {
            let key = shelf.key(b"sum");
            let Some(found) = shelf.cache.get(&key, &mut shelf.buffer) else {
                let first = (board.add(0, 1) << LIFE_BITS).to_le_bytes();
                shelf.cache.add(&key, Value::Bytes { codec: 1, bytes: &first }, Timeout::Never);
                continue;
            };
            let next = 1 + u64::from_le_bytes(*shelf.buffer.bytes().first_chunk().expect("eight bytes"));
            let value = Value::Bytes { codec: 1, bytes: &next.to_le_bytes() };
            match shelf.cache.set_if_unchanged(&key, &found.stamp, value, Timeout::Keep) {
                Written::Stored(_) => {
                    let life = (next >> LIFE_BITS) as usize;
                    board.add(2 * life, 1);
                    board.raise(2 * life + 1, next & ((1 << LIFE_BITS) - 1));
                }
                Written::Held => {}
                other => panic!("{other:?}"),
            }
            if round % 20 == 0 {
                shelf.set(10_000 + number * rounds + round, 1, FILL_BYTES);
            }
        }
    }));
    let (updates, lives) = sums_are_exact(&board);
    println!("{updates} updates in {lives} lives");
    assert!(updates > rounds && updates > 100 * lives, "{updates} updates in {lives} lives");
    assert!(Shelf::open(&config).counter("evicted_segments") > 200);
}
