//! The largest value: a quarter of the region, at most 64 MiB. It is stored and comes back, however full the region is.

mod support;

use support::place::{Place, Shelf, is_stored};
use tezkor::{Timeout, Value};

#[test]
fn a_quarter_of_the_region_is_stored_in_a_full_region_and_comes_back() {
    // In the last one a quarter is more than 64 MiB; it is not filled, which would take long.
    for region_bytes in [1 << 20, 3 << 20, 8 << 20, 64 << 20, 512 << 20] {
        let place = Place::new("quarter");
        let mut shelf = Shelf::open(&place.shared(region_bytes));
        if region_bytes < 512 << 20 {
            for number in 0..region_bytes / 1024 {
                is_stored(shelf.set(number, 1, 1024));
            }
        }
        let largest = (region_bytes / 4).min(64 << 20) as usize;
        assert_eq!(shelf.cache.stats().largest_value_bytes as usize, largest);
        for round in 0..3_u8 {
            let bytes: Vec<u8> = (0..largest).map(|place| (place / 7) as u8 ^ round).collect();
            let name = [b'k', round];
            let key = shelf.key(&name);
            assert!(is_stored(shelf.cache.set(&key, Value::Bytes { codec: 1, bytes: &bytes }, Timeout::Never)));
            let found = shelf.cache.get(&key, &mut shelf.buffer);
            assert!(found.is_some(), "{region_bytes}: the value is gone");
            assert!(shelf.buffer.bytes() == bytes, "{region_bytes}: another value came back");
        }
        let key = shelf.key(b"k");
        let written = shelf.cache.set(&key, Value::Bytes { codec: 1, bytes: &vec![0; largest + 1] }, Timeout::Never);
        assert!(!is_stored(written));
    }
}

#[test]
fn a_refused_key_says_so_until_more_is_known_of_it() {
    use tezkor::Missing;

    let place = Place::new("refused");
    let shelf = Shelf::open(&place.shared(1 << 20));
    let key = shelf.key(b"page");
    assert_eq!(shelf.cache.explain(&key).missing, Some(Missing::NeverSet));
    let too_large = vec![0; (1 << 18) + 1];
    shelf.cache.set(&key, Value::Bytes { codec: 1, bytes: &too_large }, Timeout::Never);
    assert_eq!(shelf.cache.explain(&key).missing, Some(Missing::TooLarge));
    assert_eq!(shelf.cache.explain(&shelf.key(b"other")).missing, Some(Missing::NeverSet));
    assert!(is_stored(shelf.cache.set(&key, Value::Count(1), Timeout::Never)));
    assert_eq!(shelf.cache.explain(&key).missing, None);
    shelf.cache.delete(&key);
    assert_eq!(shelf.cache.explain(&key).missing, Some(Missing::Deleted));
}
