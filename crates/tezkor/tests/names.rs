//! More locations and prefixes than the region has rows for: they never meet all the same.

mod support;

use support::place::{Place, Shelf, is_stored};
use tezkor::{Begin, Cache, Config, Looked, Space, Timeout, Value, Written};

/// Sizes of regions, with more names than each has rows for: 128 below 8 MiB, 1024 from there on.
const CASES: [(u64, usize); 2] = [(1 << 20, 200), (8 << 20, 1_100)];

fn set(cache: &Cache, space: Space, name: &[u8]) {
    let key = cache.key(space, name).expect("a short key");
    assert!(is_stored(cache.set(&key, Value::Count(1), Timeout::Never)));
}

fn has(cache: &Cache, space: Space, name: &[u8]) -> bool {
    cache.has(&cache.key(space, name).expect("a short key"))
}

#[test]
fn prefixes_beyond_the_rows_are_cleared_one_by_one() {
    for (region_bytes, names) in CASES {
        clear_prefixes(region_bytes, names);
    }
}

fn clear_prefixes(region_bytes: u64, count: usize) {
    let place = Place::new("prefixes");
    let mut shelf = Shelf::open(&place.shared(region_bytes));
    let cache = shelf.cache.clone();
    let spaces: Vec<Space> = (0..count).map(|number| cache.space(format!("tenant {number}").as_bytes())).collect();
    // The full keys do not tell the prefixes: a key function may do as it likes.
    let names: Vec<Vec<u8>> = (0..count).map(|number| format!("key {number}").into_bytes()).collect();
    let set_all = || spaces.iter().zip(&names).for_each(|(space, name)| set(&cache, *space, name));
    let left = || (0..count).filter(|number| has(&cache, spaces[*number], &names[*number])).count();
    for cleared in [0, 60, count - 2, count - 1] {
        set_all();
        cache.clear_prefix(spaces[cleared]);
        assert!(!has(&cache, spaces[cleared], &names[cleared]));
        assert_eq!(left(), count - 1, "clearing prefix {cleared} emptied others");
        set_all();
        let mut seen = Vec::new();
        cache.scan(spaces[cleared], &mut |key| {
            seen.push(key.to_vec());
            true
        });
        assert_eq!(seen, [names[cleared].clone()]);
        assert_eq!(cache.store().delete_pattern(spaces[cleared], &|_| true), 1);
        assert_eq!(left(), count - 1, "the pattern of prefix {cleared} emptied others");
        // A load under way does not bring back what was cleared.
        let key = cache.key(spaces[cleared], &names[cleared]).expect("a short key");
        let begin = Begin { birth: None, beta: 1.0, dice: 0.5, alone: false, refresh: false };
        let Looked::Load(mut load) = cache.load(&key, &mut shelf.buffer, begin) else { panic!("it was removed") };
        cache.clear_prefix(spaces[cleared]);
        assert!(matches!(cache.fill(&key, &mut load, Value::Count(1), Timeout::Never), Written::Held));
    }
    cache.clear(spaces[0]);
    assert_eq!(left(), 0);
}

#[test]
fn locations_beyond_the_rows_are_cleared_one_by_one() {
    for (region_bytes, names) in CASES {
        clear_locations(region_bytes, names);
    }
}

fn clear_locations(region_bytes: u64, count: usize) {
    let place = Place::new("locations");
    let base = place.shared(region_bytes);
    let caches: Vec<Cache> = (0..count)
        .map(|number| {
            let config = Config { namespace: format!("location {number}").into_bytes(), ..base.clone() };
            Cache::open(&config).expect("the settings are right")
        })
        .collect();
    let spaces: Vec<Space> = caches.iter().map(|cache| cache.space(b"")).collect();
    let set_all = || caches.iter().zip(&spaces).for_each(|(cache, space)| set(cache, *space, b"key"));
    for cleared in [0, count - 2, count - 1] {
        set_all();
        caches[cleared].clear(spaces[cleared]);
        assert!(!has(&caches[cleared], spaces[cleared], b"key"));
        let left = (0..count).filter(|number| has(&caches[*number], spaces[*number], b"key")).count();
        assert_eq!(left, count - 1, "clearing location {cleared} emptied others");
    }
}
