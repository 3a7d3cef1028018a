//! The contract of a store, kept by regions in files as by private memory, alone and beside a process that uses the same region.
#![cfg(feature = "crash-points")]

mod support;

use std::cell::Cell;
use std::time::Duration;

use support::child::{apart, finish_all, start_all};
use support::place::Place;
use tezkor::store::contract::{Checked, check};
use tezkor::{Cache, Clock, Config};

fn keeps_the_contract(config: &Config) {
    let config = config.clone().with_clock(Clock::Manual);
    let cache = Cache::open(&config).expect("the settings are right");
    let now = Cell::new(1_000_000);
    cache.set_time(now.get());
    let advance = |time: Duration| {
        now.set(now.get() + time.as_millis() as u64);
        cache.set_time(now.get());
    };
    check(&Checked { store: cache.store(), advance: Some(&advance), scans: true, is_far: false });
    let events = cache.take_events();
    assert!(events.iter().all(|event| event.text.contains("was not stored: the largest is")), "{events:?}");
    assert_eq!(events.len(), 1, "a refusal is said once");
}

#[test]
fn regions_in_files_keep_the_contract() {
    for size_bytes in [1 << 20, 16 << 20, 300 << 20] {
        for make in [Place::shared, Place::file] {
            let place = Place::new("contract");
            let config = make(&place, size_bytes);
            apart(|| {
                keeps_the_contract(&config);
                assert_eq!(Cache::open(&config.with_clock(Clock::Manual)).expect("open").store().validate(), [""; 0]);
            });
        }
    }
}

#[test]
fn a_store_keeps_the_contract_while_another_process_uses_the_region() {
    let place = Place::new("contract");
    let config = place.shared(16 << 20);
    finish_all(start_all(2, |number| {
        if number == 0 {
            return keeps_the_contract(&config);
        }
        let mut shelf = support::place::Shelf::open(&config.clone().with_clock(Clock::Manual));
        for round in 0..20_000 {
            shelf.set(round % 100, round, 300);
            shelf.get(round % 77);
        }
    }));
}
