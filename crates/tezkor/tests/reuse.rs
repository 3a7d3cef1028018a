//! What a site empties it can fill again: room that cleared, deleted, invalidated or expired entries take is had by new ones,
//! though the region is full and in use.

mod support;

use std::time::Duration;

use support::Random;
use support::place::{Place, Shelf, is_stored};
use tezkor::{Config, Terms, Timeout, Value};

const REGION_BYTES: u64 = 8 << 20;
const VALUE_BYTES: usize = 1000;
/// As many values as the region holds, about.
const HOLDS: u64 = 6_300;
const LARGE_BYTES: usize = 300 << 10;

fn full_of(config: &Config, timeout: Timeout, length: usize, holds: u64) -> Shelf {
    let mut shelf = Shelf::open(config);
    let mut random = Random::new(1);
    // Misses are loaded, so that the main queue fills with what is asked for again.
    for _ in 0..holds * 14 {
        let key = random.below(holds * 8 / 5);
        if shelf.get(key).is_none() {
            put(&shelf, key, timeout, length);
        }
    }
    shelf
}

fn put(shelf: &Shelf, key: u64, timeout: Timeout, length: usize) {
    let name = support::value::name(key);
    let mut bytes = Vec::new();
    support::value::fill(&mut bytes, key, 1, length);
    let value = Value::Bytes { codec: support::value::codec(key), bytes: &bytes };
    let terms = Terms { tags: &[b"all"], ..timeout.into() };
    assert!(is_stored(shelf.cache.set(&shelf.key(&name), value, terms)));
}

/// Writes six tenths of what the region holds, none of which is read meanwhile; how much of it is there, in percent.
fn filled_again(shelf: &mut Shelf, length: usize, holds: u64) -> u64 {
    let (first, number) = (1_000_000, holds * 6 / 10);
    for key in first..first + number {
        put(shelf, key, Timeout::Never, length);
    }
    assert_eq!(shelf.cache.store().validate(), Vec::<String>::new());
    (first..first + number).filter(|key| shelf.get(*key).is_some()).count() as u64 * 100 / number
}

fn emptied(name: &str, timeout: Timeout, empty: impl Fn(&Shelf)) {
    let place = Place::new(name);
    for (length, holds) in [(VALUE_BYTES, HOLDS), (LARGE_BYTES, 20)] {
        let mut shelf = full_of(&place.memory(REGION_BYTES + length as u64), timeout, length, holds);
        empty(&shelf);
        let kept = filled_again(&mut shelf, length, holds);
        assert!(kept >= 95, "{kept} % of {length} bytes each");
    }
}

#[test]
fn a_region_that_was_cleared_is_filled_again() {
    emptied("cleared", Timeout::Never, |shelf| shelf.cache.clear(shelf.space));
}

#[test]
fn a_region_whose_entries_have_a_tag_that_was_invalidated_is_filled_again() {
    emptied("invalidated", Timeout::Never, |shelf| shelf.cache.invalidate_tags(shelf.space, &[b"all"]));
}

#[test]
fn a_region_whose_entries_were_deleted_is_filled_again() {
    emptied("deleted", Timeout::Never, |shelf| {
        for key in 0..HOLDS * 2 {
            shelf.delete(key);
        }
    });
}

#[test]
fn a_region_whose_entries_have_expired_is_filled_again() {
    emptied("expired", Timeout::After(Duration::from_secs(3)), |_| std::thread::sleep(Duration::from_millis(3100)));
}

/// What lives among the dead stays, used or not.
#[test]
fn what_lives_among_what_was_deleted_stays() {
    let place = Place::new("among");
    let shelf = full_of(&place.memory(REGION_BYTES), Timeout::Never, VALUE_BYTES, HOLDS);
    // A look is no use.
    let is_there = |key: &u64| shelf.cache.has(&shelf.key(&support::value::name(*key)));
    let there: Vec<u64> = (0..HOLDS * 8 / 5).filter(is_there).collect();
    let (kept, deleted): (Vec<u64>, Vec<u64>) = there.into_iter().partition(|key| key % 10 == 0);
    assert!(kept.len() > 300, "{} are there", kept.len());
    for key in deleted {
        shelf.delete(key);
    }
    for key in 1_000_000..1_000_000 + HOLDS * 6 / 10 {
        put(&shelf, key, Timeout::Never, VALUE_BYTES);
    }
    let left = kept.iter().filter(|key| is_there(key)).count();
    assert!(left * 100 >= kept.len() * 90, "{left} of {}", kept.len());
}
