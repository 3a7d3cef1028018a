//! More locations and prefixes than the region has rows for: they never meet all the same.

mod support;

use support::place::{Place, Shelf, is_stored};
use tezkor::{Begin, Cache, Config, Looked, Space, Timeout, Value, Written};

const REGION_BYTES: u64 = 1 << 20;
/// The region has 128 rows.
const NAMES: usize = 200;

fn set(cache: &Cache, space: Space, name: &[u8]) {
    let key = cache.key(space, name).expect("a short key");
    assert!(is_stored(cache.set(&key, Value::Count(1), Timeout::Never)));
}

fn has(cache: &Cache, space: Space, name: &[u8]) -> bool {
    cache.has(&cache.key(space, name).expect("a short key"))
}

#[test]
fn prefixes_beyond_the_rows_are_cleared_one_by_one() {
    let place = Place::new("prefixes");
    let mut shelf = Shelf::open(&place.shared(REGION_BYTES));
    let cache = shelf.cache.clone();
    let spaces: Vec<Space> = (0..NAMES).map(|number| cache.space(format!("tenant {number}").as_bytes())).collect();
    // The full keys do not tell the prefixes: a key function may do as it likes.
    let names: Vec<Vec<u8>> = (0..NAMES).map(|number| format!("key {number}").into_bytes()).collect();
    let set_all = || spaces.iter().zip(&names).for_each(|(space, name)| set(&cache, *space, name));
    let left = || (0..NAMES).filter(|number| has(&cache, spaces[*number], &names[*number])).count();
    for cleared in [0, 60, NAMES - 2, NAMES - 1] {
        set_all();
        cache.clear_prefix(spaces[cleared]);
        assert!(!has(&cache, spaces[cleared], &names[cleared]));
        assert_eq!(left(), NAMES - 1, "clearing prefix {cleared} emptied others");
        set_all();
        let mut seen = Vec::new();
        cache.scan(spaces[cleared], &mut |key| {
            seen.push(key.to_vec());
            true
        });
        assert_eq!(seen, [names[cleared].clone()]);
        assert_eq!(cache.store().delete_pattern(spaces[cleared], &|_| true), 1);
        assert_eq!(left(), NAMES - 1, "the pattern of prefix {cleared} emptied others");
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
    let place = Place::new("locations");
    let base = place.shared(REGION_BYTES);
    let caches: Vec<Cache> = (0..NAMES)
        .map(|number| {
            let config = Config { namespace: format!("location {number}").into_bytes(), ..base.clone() };
            Cache::open(&config).expect("the settings are right")
        })
        .collect();
    let spaces: Vec<Space> = caches.iter().map(|cache| cache.space(b"")).collect();
    let set_all = || caches.iter().zip(&spaces).for_each(|(cache, space)| set(cache, *space, b"key"));
    for cleared in [0, NAMES - 2, NAMES - 1] {
        set_all();
        caches[cleared].clear(spaces[cleared]);
        assert!(!has(&caches[cleared], spaces[cleared], b"key"));
        let left = (0..NAMES).filter(|number| has(&caches[*number], spaces[*number], b"key")).count();
        assert_eq!(left, NAMES - 1, "clearing location {cleared} emptied others");
    }
}
