//! Models of loads and claims. What the database holds stands in `truth`, which a writer changes before it invalidates; a loader
//! reads it after its birth. In the end the cache may hold the truth, or nothing.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use super::exhaustive::explore;
use super::scene::{A, Explore, NOW_MS, Scene, Seen, key};
use crate::entry::{Value, Written};
use crate::store::segment::alloc::Worker;
use crate::store::segment::claims::{Asker, Claim, Claimed, Name, Table};
use crate::store::segment::write::Imprint;

const NAME: Name = Name { low: A, high: A };

fn claim(scene: &Scene, row: u16, living: &'static [usize]) -> Option<Claim> {
    let is_alive = |row: usize| living.contains(&row);
    match scene.claim_name(
        Table::Flights,
        NAME,
        0,
        Asker { now_ms: NOW_MS, row, is_patient: false, is_alive: &is_alive },
    ) {
        Claimed::Yes(claim) => Some(claim),
        Claimed::Taken(_) => None,
        Claimed::Full => panic!("there is room for eight"),
    }
}

/// A load as the store runs it: birth, what is there, the loader, the fill.
fn load(scene: &Scene, worker: &Worker, truth: &AtomicU64) -> Option<u64> {
    let imprint = Imprint { cost_us: 1, ..scene.imprint() };
    let seen = scene.find(&key(A, &A.to_le_bytes())).map(|located| located.header.id);
    let number = truth.load(Ordering::SeqCst);
    let bytes = (number << 32 | A).to_le_bytes();
    let value = Value::Bytes { codec: 1, bytes: &bytes };
    let written = scene.fill(worker, &key(A, &A.to_le_bytes()), value, imprint, seen, NOW_MS);
    matches!(written, Written::Stored(_)).then_some(number)
}

fn scene() -> (Scene, Worker, Arc<AtomicU64>) {
    let scene = Scene::new(4, 4, Explore::Loads);
    let worker = scene.worker(0);
    (scene, worker, Arc::new(AtomicU64::new(1)))
}

#[test]
fn load_that_a_delete_overtakes_leaves_nothing_old() {
    explore(|| {
        let (scene, worker, truth) = scene();
        let loader = thread::spawn({
            let (scene, truth) = (scene.clone(), truth.clone());
            move || load(&scene, &worker, &truth)
        });
        truth.store(2, Ordering::SeqCst);
        scene.remove(A);
        assert_ne!(scene.read(A), Seen::Value(1), "a delete has returned");
        loader.join().expect("the loader");
        assert_ne!(scene.read(A), Seen::Value(1), "the load brought back what was deleted");
        scene.check();
    });
}

#[test]
fn early_refresh_that_a_delete_overtakes_leaves_nothing_old() {
    explore(|| {
        let (scene, worker, truth) = scene();
        scene.set(&worker, A, 1);
        let loader = thread::spawn({
            let (scene, truth) = (scene.clone(), truth.clone());
            move || load(&scene, &worker, &truth)
        });
        truth.store(2, Ordering::SeqCst);
        scene.remove(A);
        assert_ne!(scene.read(A), Seen::Value(1), "a delete has returned");
        loader.join().expect("the loader");
        assert_ne!(scene.read(A), Seen::Value(1), "the load brought back what was deleted");
        scene.check();
    });
}

#[test]
fn load_that_a_pattern_overtakes_leaves_nothing_old() {
    explore(|| {
        let (scene, worker, truth) = scene();
        let loader = thread::spawn({
            let (scene, truth) = (scene.clone(), truth.clone());
            move || load(&scene, &worker, &truth)
        });
        truth.store(2, Ordering::SeqCst);
        // As `delete_pattern` does it, which then goes through the slots.
        scene.ledger().delete_pattern(0);
        scene.remove_all_tentative();
        let found = scene.find(&key(A, &A.to_le_bytes())).is_some();
        if found {
            scene.remove_entry(A);
        }
        loader.join().expect("the loader");
        assert_ne!(scene.read(A), Seen::Value(1), "the load brought back what was deleted");
        scene.check();
    });
}

#[test]
fn load_never_replaces_what_a_set_wrote_meanwhile() {
    explore(|| {
        let (scene, worker, truth) = scene();
        let flight = claim(&scene, 0, &[0, 1]).expect("nobody has it");
        let setter = scene.worker(1);
        let other = thread::spawn({
            let (scene, truth) = (scene.clone(), truth.clone());
            move || {
                truth.store(2, Ordering::SeqCst);
                scene.set(&setter, A, 2);
            }
        });
        load(&scene, &worker, &truth);
        scene.release_claim(&flight);
        other.join().expect("the setter");
        assert_eq!(scene.read(A), Seen::Value(2));
        scene.check();
    });
}

/// As above; and what was set is gone again (evicted, or expired) when the load ends.
#[test]
fn load_is_overtaken_by_a_set_that_is_gone_again() {
    explore(|| {
        let (scene, worker, truth) = scene();
        let flight = claim(&scene, 0, &[0, 1]).expect("nobody has it");
        let setter = scene.worker(1);
        let other = thread::spawn({
            let (scene, truth) = (scene.clone(), truth.clone());
            move || {
                truth.store(2, Ordering::SeqCst);
                scene.set(&setter, A, 2);
                for slot in scene.slots(A) {
                    scene.swap(slot.position, slot.word, |_| 0);
                }
            }
        });
        load(&scene, &worker, &truth);
        scene.release_claim(&flight);
        other.join().expect("the setter");
        assert_ne!(scene.read(A), Seen::Value(1));
        scene.check();
    });
}

#[test]
fn two_loads_leave_one_entry() {
    explore(|| {
        let (scene, worker, truth) = scene();
        let second = scene.worker(1);
        let other = thread::spawn({
            let (scene, truth) = (scene.clone(), truth.clone());
            move || load(&scene, &second, &truth)
        });
        load(&scene, &worker, &truth);
        other.join().expect("the other");
        assert!(scene.slots(A).len() <= 1);
        scene.check();
    });
}

#[test]
fn a_name_has_one_holder() {
    explore(|| {
        let (scene, ..) = scene();
        let other = thread::spawn({
            let scene = scene.clone();
            move || claim(&scene, 1, &[0, 1])
        });
        let (one, two) = (claim(&scene, 0, &[0, 1]), other.join().expect("the other"));
        assert!(one.is_some() ^ two.is_some(), "{one:?} {two:?}");
        let holder = one.or(two).expect("one of them");
        assert!(scene.release_claim(&holder));
        assert!(claim(&scene, 2, &[2]).is_some());
    });
}

#[test]
fn a_dead_holder_is_followed_by_one() {
    explore(|| {
        let (scene, ..) = scene();
        let dead = claim(&scene, 3, &[3]).expect("nobody has it");
        let other = thread::spawn({
            let scene = scene.clone();
            move || claim(&scene, 1, &[0, 1])
        });
        let (one, two) = (claim(&scene, 0, &[0, 1]), other.join().expect("the other"));
        assert!(one.is_some() ^ two.is_some(), "{one:?} {two:?}");
        assert!(!scene.release_claim(&dead), "it is another's by now");
    });
}

/// One gives it back while the other asks: it never has two holders, and is not lost.
#[test]
fn what_is_released_can_be_claimed_once() {
    explore(|| {
        let (scene, ..) = scene();
        let first = claim(&scene, 0, &[0, 1, 2]).expect("nobody has it");
        let other = thread::spawn({
            let scene = scene.clone();
            move || claim(&scene, 1, &[0, 1, 2])
        });
        assert!(scene.release_claim(&first));
        let third = claim(&scene, 2, &[0, 1, 2]);
        let second = other.join().expect("the other");
        assert!(second.is_none() || third.is_none(), "{second:?} {third:?}");
        if second.is_none() && third.is_none() {
            assert!(claim(&scene, 2, &[0, 1, 2]).is_some());
        }
    });
}
