//! Small models, each with the promise that it is about as its name. Loom runs their schedules up to three preemptions,
//! as `make soak` does; `make test` stops at two. `LOOM_MAX_PREEMPTIONS` is for another number.
//!
//! Threads with workers of their own stand for processes, threads that share a worker for threads of one process.

use std::sync::Arc;

use loom::thread;

use super::death::mortal;
use super::scene::{A, A_TWIN, B, C, Explore, NOW_MS, Scene, Seen};
use super::set_generation_bits;
use crate::entry::{Incr, When, Written};
use crate::store::segment::alloc::Worker;
use crate::store::segment::counters::Counter;

const PREEMPTIONS: usize = 3;
/// Accesses of one schedule, far more than any of the models makes unless it does not end.
const MOST_ACCESSES: usize = 20_000;

pub(super) fn explore(model: impl Fn() + Sync + Send + 'static) {
    explore_with(1, model);
}

/// Explores with so many bits of the segment's generation in a slot word.
fn explore_with(generation_bits: u32, model: impl Fn() + Sync + Send + 'static) {
    let mut explorer = loom::model::Builder::new();
    explorer.max_branches = MOST_ACCESSES;
    explorer.preemption_bound.get_or_insert(PREEMPTIONS);
    let schedules = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = schedules.clone();
    explorer.check(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        set_generation_bits(generation_bits);
        model();
    });
    println!("{} schedules", schedules.load(std::sync::atomic::Ordering::Relaxed));
}

#[test]
fn reader_sees_nothing_or_the_whole_value() {
    explore(|| {
        let scene = Scene::new(4, 2, Explore::Records);
        let writer = scene.worker(0);
        scene.set(&writer, B, 1);
        let reader = thread::spawn({
            let scene = scene.clone();
            move || assert!(matches!(scene.read(A), Seen::Nothing | Seen::Value(1)))
        });
        scene.set(&writer, A, 1);
        assert_eq!(scene.read(A), Seen::Value(1));
        reader.join().expect("the reader");
        scene.check();
    });
}

#[test]
fn replaced_value_never_comes_back_and_is_never_missing() {
    explore(|| {
        let scene = Scene::new(4, 2, Explore::Ends);
        let writer = scene.worker(0);
        scene.set(&writer, A, 1);
        let reader = thread::spawn({
            let scene = scene.clone();
            move || {
                let (first, second) = (scene.read(A), scene.read(A));
                assert!(matches!((first, second), (Seen::Value(first), Seen::Value(second)) if first <= second));
            }
        });
        scene.set(&writer, A, 2);
        assert_eq!(scene.read(A), Seen::Value(2));
        reader.join().expect("the reader");
        scene.check();
    });
}

/// Two workers with an open segment each, so that the model is about the index alone.
fn two_workers(scene: &Scene) -> (Worker, Worker) {
    let (one, two) = (scene.worker(0), scene.worker(1));
    scene.set(&one, B, 1);
    scene.set(&two, C, 1);
    (one, two)
}

#[test]
fn add_of_an_absent_key_has_one_winner() {
    explore(|| {
        let scene = Scene::new(4, 2, Explore::Index);
        let (one, two) = two_workers(&scene);
        let other = thread::spawn({
            let scene = scene.clone();
            move || scene.add(&two, A, 2)
        });
        let first = scene.add(&one, A, 1);
        let second = other.join().expect("the other");
        assert!(first ^ second, "{first} {second}");
        assert_eq!(scene.read(A), Seen::Value(if first { 1 } else { 2 }));
        scene.check();
        assert!(scene.remove(A));
        assert!(scene.slots(A).is_empty(), "the delete uncovered another copy");
    });
}

/// In a full bucket both would take the place of the entry that is used least: the other's, once it is there.
#[test]
fn add_to_a_full_bucket_has_one_winner() {
    explore(|| {
        let scene = Scene::new(4, 8, Explore::Index);
        let (one, two) = two_workers(&scene);
        let others = [B, C, 0x0010_5551, 0x0010_5552, 0x0010_5553, 0x0010_5554];
        for other in others {
            scene.set(&one, other, 1);
            scene.warm(other);
        }
        let other = thread::spawn({
            let scene = scene.clone();
            move || scene.add(&two, A, 2)
        });
        let first = scene.add(&one, A, 1);
        let second = other.join().expect("the other");
        assert!(first ^ second, "{first} {second}");
        assert_eq!(scene.read(A), Seen::Value(if first { 1 } else { 2 }));
        for other in others {
            assert_eq!(scene.read(other), Seen::Value(1), "an entry that is used more was displaced");
        }
        scene.check();
    });
}

#[test]
fn sets_of_an_absent_key_leave_one_copy() {
    explore(|| {
        let scene = Scene::new(4, 2, Explore::Index);
        let (one, two) = two_workers(&scene);
        let other = thread::spawn({
            let scene = scene.clone();
            move || {
                scene.set(&two, A, 2);
            }
        });
        scene.set(&one, A, 1);
        assert_ne!(scene.read(A), Seen::Nothing);
        other.join().expect("the other");
        assert_ne!(scene.read(A), Seen::Nothing);
        scene.check();
        scene.remove(A);
        assert!(scene.slots(A).is_empty(), "the delete uncovered another copy");
    });
}

#[test]
fn keys_of_one_fingerprint_share_a_slot_and_never_a_value() {
    explore(|| {
        let scene = Scene::new(4, 2, Explore::Index);
        let (one, two) = two_workers(&scene);
        let other = thread::spawn({
            let scene = scene.clone();
            move || {
                scene.set(&two, A_TWIN, 2);
                assert!(matches!(scene.read(A), Seen::Nothing | Seen::Value(1)));
            }
        });
        scene.set(&one, A, 1);
        assert!(matches!(scene.read(A_TWIN), Seen::Nothing | Seen::Value(2)));
        other.join().expect("the other");
        scene.check();
        assert_eq!(scene.slots(A).len(), 1);
    });
}

#[test]
fn removed_is_gone_whoever_inserts_meanwhile() {
    explore(|| {
        let scene = Scene::new(4, 2, Explore::Index);
        let (one, two) = two_workers(&scene);
        scene.set(&one, A, 1);
        let other = thread::spawn({
            let scene = scene.clone();
            move || scene.add(&two, A, 2)
        });
        let removed = scene.remove(A);
        assert_ne!(scene.read(A), Seen::Value(1), "a delete has returned");
        let added = other.join().expect("the other");
        assert!(removed || added);
        assert!(matches!(scene.read(A), Seen::Nothing | Seen::Value(2)));
        scene.check();
    });
}

#[test]
fn one_of_two_conditional_writes_wins() {
    explore(|| {
        let scene = Scene::new(4, 2, Explore::Index);
        let (one, two) = two_workers(&scene);
        let stamp = scene.set(&one, A, 1);
        let other = thread::spawn({
            let scene = scene.clone();
            move || matches!(scene.write(&two, A, 2, When::Unchanged(&stamp)), Written::Stored(_))
        });
        let first = matches!(scene.write(&one, A, 3, When::Unchanged(&stamp)), Written::Stored(_));
        assert!(first ^ other.join().expect("the other"));
        assert_eq!(scene.read(A), Seen::Value(if first { 3 } else { 2 }));
        scene.check();
    });
}

#[test]
fn decoded_copy_is_never_current_after_a_set_has_returned() {
    explore(|| {
        let scene = Scene::new(4, 2, Explore::Index);
        let (one, _) = two_workers(&scene);
        let stamp = scene.set(&one, A, 1);
        let other = thread::spawn({
            let (scene, mut stamp) = (scene.clone(), stamp);
            move || {
                let before = scene.is_current(A, &mut stamp);
                let after = scene.is_current(A, &mut stamp);
                assert!(before || !after, "a replaced entry came back");
            }
        });
        scene.set(&one, A, 2);
        assert!(!scene.is_current(A, &mut { stamp }));
        other.join().expect("the other");
        assert!(!scene.is_current(A, &mut { stamp }));
    });
}

/// The slot word of an entry has come back, with another entry behind it.
#[test]
fn decoded_copy_is_not_current_when_its_slot_word_comes_back() {
    explore(|| {
        let scene = Scene::new(1, 1, Explore::Index);
        let writer = scene.worker(0);
        let stamp = scene.set(&writer, A, 1);
        let other = thread::spawn({
            let (scene, mut stamp) = (scene.clone(), stamp);
            move || {
                let before = scene.is_current(A, &mut stamp);
                assert!(before || !scene.is_current(A, &mut stamp), "a replaced entry came back");
            }
        });
        scene.set(&writer, A, 2);
        assert!(!scene.is_current(A, &mut { stamp }));
        let third = scene.set(&writer, A, 3);
        assert_eq!(third.identity, stamp.identity, "one bit of generation tells two apart");
        assert!(!scene.is_current(A, &mut { stamp }), "an entry was taken for one of two generations ago");
        other.join().expect("the other");
    });
}

/// A sealed segment with A alone in it, used before, so that an eviction keeps it.
fn sealed(scene: &Scene, set: impl FnOnce(&Worker)) {
    let writer = scene.worker(0);
    set(&writer);
    scene.warm(A);
    scene.seal(&writer);
}

#[test]
fn evicted_value_is_read_whole_or_not_at_all() {
    explore(|| {
        let scene = Scene::new(3, 1, Explore::WeakRecords);
        let writer = scene.worker(0);
        scene.set(&writer, A, 1);
        scene.seal(&writer);
        let reader = thread::spawn({
            let scene = scene.clone();
            move || assert!(matches!(scene.read(A), Seen::Nothing | Seen::Value(1)))
        });
        // A is dropped, and others' records take its place.
        assert!(scene.evict(&writer));
        for (low, number) in [(B, 1), (C, 2), (B, 3)] {
            scene.set(&writer, low, number);
        }
        reader.join().expect("the reader");
        scene.check();
    });
}

#[test]
fn segment_is_not_recycled_under_a_writer() {
    explore(|| {
        let scene = Scene::new(4, 2, Explore::Index);
        let worker = Arc::new(scene.worker(0));
        scene.set(&worker, B, 1);
        let other = thread::spawn({
            let (scene, worker) = (scene.clone(), worker.clone());
            move || {
                scene.seal(&worker);
                let evictor = scene.worker(1);
                scene.evict(&evictor);
                scene.set(&evictor, C, 1);
            }
        });
        let mut stamp = scene.set(&worker, A, 1);
        // Unless it was evicted after it was there.
        if scene.total(Counter::EvictedEntries) < 2 {
            assert!(scene.is_current(A, &mut stamp) || scene.total(Counter::EvictedEntries) == 2);
        }
        other.join().expect("the other");
        assert!(scene.total(Counter::EvictedEntries) == 2 || scene.read(A) == Seen::Value(1));
        scene.check();
    });
}

#[test]
fn value_in_a_segment_that_was_just_freed_stays() {
    explore(|| {
        let scene = Scene::new(1, 1, Explore::Index);
        let (one, two) = (scene.worker(0), scene.worker(1));
        scene.set(&one, A, 1);
        scene.seal(&one);
        let evictor = thread::spawn({
            let scene = scene.clone();
            move || {
                scene.evict(&one);
            }
        });
        // It finds no room while the other still evicts.
        if let Written::Stored(_) = scene.write(&two, B, 2, When::Always) {
            assert_eq!(scene.read(B), Seen::Value(2));
            evictor.join().expect("the evictor");
            assert_eq!(scene.read(B), Seen::Value(2));
        } else {
            evictor.join().expect("the evictor");
        }
        assert_eq!(scene.read(A), Seen::Nothing);
        scene.check();
    });
}

#[test]
fn survivor_is_never_missing() {
    explore(|| {
        let scene = Scene::new(3, 1, Explore::Ends);
        sealed(&scene, |writer| {
            scene.set(writer, A, 1);
        });
        let reader = thread::spawn({
            let scene = scene.clone();
            move || assert_eq!(scene.read(A), Seen::Value(1))
        });
        assert!(scene.evict(&scene.worker(1)));
        assert_eq!(scene.read(A), Seen::Value(1));
        reader.join().expect("the reader");
        scene.check();
    });
}

#[test]
fn survivor_of_an_eviction_never_covers_a_newer_value() {
    explore(|| {
        let scene = Scene::new(4, 1, Explore::Index);
        let two = scene.worker(1);
        scene.set(&two, C, 1);
        sealed(&scene, |writer| {
            scene.set(writer, A, 1);
        });
        let evictor = thread::spawn({
            let scene = scene.clone();
            move || {
                scene.evict(&scene.worker(0));
            }
        });
        scene.set(&two, A, 2);
        assert_eq!(scene.read(A), Seen::Value(2));
        evictor.join().expect("the evictor");
        assert_eq!(scene.read(A), Seen::Value(2));
        scene.check();
    });
}

#[test]
fn survivor_of_an_eviction_never_undoes_a_delete() {
    explore(|| {
        let scene = Scene::new(4, 1, Explore::Index);
        sealed(&scene, |writer| {
            scene.set(writer, A, 1);
        });
        let evictor = thread::spawn({
            let scene = scene.clone();
            move || {
                scene.evict(&scene.worker(0));
            }
        });
        assert!(scene.remove(A));
        assert!(scene.slots(A).is_empty());
        evictor.join().expect("the evictor");
        assert!(scene.slots(A).is_empty(), "the eviction brought a deleted entry back");
        scene.check();
    });
}

#[test]
fn eviction_loses_no_count() {
    explore(|| {
        let scene = Scene::new(4, 1, Explore::InPlace);
        sealed(&scene, |writer| {
            scene.set_count(writer, A, 10);
        });
        let evictor = thread::spawn({
            let scene = scene.clone();
            move || {
                scene.evict(&scene.worker(0));
            }
        });
        let two = scene.worker(1);
        assert_eq!(scene.incr(&two, A, 1), Incr::Value(11));
        assert_eq!(scene.incr(&two, A, 1), Incr::Value(12));
        evictor.join().expect("the evictor");
        assert_eq!(scene.read(A), Seen::Value(12));
        scene.check();
    });
}

#[test]
fn two_count_through_an_eviction() {
    explore(|| {
        let scene = Scene::new(6, 1, Explore::InPlace);
        sealed(&scene, |writer| {
            scene.set_count(writer, A, 10);
        });
        let other = thread::spawn({
            let scene = scene.clone();
            move || {
                scene.evict(&scene.worker(0));
                scene.incr(&scene.worker(0), A, 1)
            }
        });
        let first = scene.incr(&scene.worker(1), A, 1);
        let second = other.join().expect("the other");
        assert!(matches!((first, second), (Incr::Value(11), Incr::Value(12)) | (Incr::Value(12), Incr::Value(11))));
        assert_eq!(scene.read(A), Seen::Value(12));
        scene.check();
    });
}

#[test]
fn eviction_loses_no_touch() {
    explore(|| {
        let scene = Scene::new(4, 1, Explore::InPlace);
        sealed(&scene, |writer| {
            scene.set(writer, A, 1);
        });
        let evictor = thread::spawn({
            let scene = scene.clone();
            move || {
                scene.evict(&scene.worker(0));
            }
        });
        let later = NOW_MS + 1_000_000;
        assert!(scene.touch(&scene.worker(1), A, later));
        assert_eq!(scene.expires_ms(A), Some(later));
        evictor.join().expect("the evictor");
        assert_eq!(scene.expires_ms(A), Some(later));
        scene.check();
    });
}

#[test]
fn shortening_touch_loses_no_count() {
    explore(|| {
        let scene = Scene::new(6, 1, Explore::InPlace);
        sealed(&scene, |writer| {
            scene.set_count(writer, A, 10);
        });
        let other = thread::spawn({
            let scene = scene.clone();
            move || assert!(scene.touch(&scene.worker(0), A, NOW_MS + 1))
        });
        assert_eq!(scene.incr(&scene.worker(1), A, 1), Incr::Value(11));
        other.join().expect("the other");
        assert_eq!(scene.read(A), Seen::Value(11));
        assert_eq!(scene.expires_ms(A), Some(NOW_MS + 1));
        scene.check();
    });
}

/// The sum does not fit the word of a count: the entry is written anew while another lengthens its time.
#[test]
fn incr_that_writes_anew_loses_no_touch() {
    explore(|| {
        let scene = Scene::new(6, 1, Explore::InPlace);
        let most = (1 << 46) - 1;
        sealed(&scene, |writer| {
            scene.set_count(writer, A, most);
        });
        let later = NOW_MS + 1_000_000;
        let other = thread::spawn({
            let scene = scene.clone();
            move || assert!(scene.touch(&scene.worker(0), A, later))
        });
        assert_eq!(scene.incr(&scene.worker(1), A, 1), Incr::Value(most + 1));
        other.join().expect("the other");
        assert_eq!(scene.expires_ms(A), Some(later));
        scene.check();
    });
}

/// The slot word of an entry comes back, with other entries behind it, when its segment has been recycled as often as the bits
/// of its generation can count: a writer that slept since then takes its condition for fulfilled.
fn sleeping_writer_meets_a_recycled_segment(generation_bits: u32) {
    explore_with(generation_bits, || {
        let scene = Scene::new(2, 2, Explore::Index);
        let (sleeper, busy) = (scene.worker(0), scene.worker(1));
        scene.set(&sleeper, C, 1);
        let stamp = scene.set(&busy, A, 1);
        scene.seal(&busy);
        let other = thread::spawn({
            let scene = scene.clone();
            move || {
                scene.write(&sleeper, A, 9, When::Unchanged(&stamp));
            }
        });
        for number in [2, 3] {
            scene.set(&busy, A, number);
            scene.seal(&busy);
        }
        assert_eq!(scene.read(A), Seen::Value(3), "a conditional write went through over a newer value");
        other.join().expect("the other");
        assert_eq!(scene.read(A), Seen::Value(3), "a conditional write went through over a newer value");
    });
}

#[test]
#[should_panic(expected = "a conditional write went through over a newer value")]
fn one_bit_of_generation_is_not_enough() {
    sleeping_writer_meets_a_recycled_segment(1);
}

/// Each further bit doubles how often the segment has to be recycled between two instructions of one thread: at twelve it is
/// 4096 times, which takes as many segments full of entries.
#[test]
fn each_bit_of_generation_pushes_the_recycled_segment_further_away() {
    sleeping_writer_meets_a_recycled_segment(2);
}

#[test]
fn sleeping_writer_never_damages_what_took_its_place() {
    explore(|| {
        let scene = Scene::new(3, 1, Explore::InPlace);
        let (sleeper, busy) = (scene.worker(0), scene.worker(1));
        scene.set_count(&busy, A, 10);
        scene.seal(&busy);
        let other = thread::spawn({
            let scene = scene.clone();
            move || {
                scene.touch(&sleeper, A, NOW_MS + 1);
            }
        });
        // A is dropped, and others' records take its place.
        scene.evict(&busy);
        for (low, number) in [(B, 1), (C, 2), (B, 3)] {
            scene.set(&busy, low, number);
        }
        other.join().expect("the other");
        scene.check();
    });
}

#[test]
fn threads_of_one_process_share_its_open_segments() {
    explore(|| {
        let scene = Scene::new(6, 1, Explore::Index);
        let worker = Arc::new(scene.worker(0));
        let other = thread::spawn({
            let (scene, worker) = (scene.clone(), worker.clone());
            move || {
                scene.set(&worker, A, 1);
            }
        });
        scene.set(&worker, B, 2);
        scene.set(&worker, C, 3);
        other.join().expect("the other");
        assert_eq!([A, B, C].map(|low| scene.read(low)), [1, 2, 3].map(Seen::Value));
        scene.check();
    });
}

/// A thread that knows a segment as its process's open one sleeps; the segment is recycled, and taken for a large value.
#[test]
fn large_value_is_alone_in_its_segments() {
    explore(|| {
        let scene = Scene::new(3, 2, Explore::Index);
        let worker = Arc::new(scene.worker(0));
        scene.set(&worker, B, 1);
        let other = thread::spawn({
            let (scene, worker) = (scene.clone(), worker.clone());
            move || {
                scene.write(&worker, A, 1, When::Always);
            }
        });
        scene.set(&worker, C, 1);
        scene.set(&worker, C, 2);
        scene.evict(&scene.worker(1));
        let large: Vec<u64> = (0..20).collect();
        if scene.write_words(&worker, B, &large) {
            // It may have been evicted by the other, who needs room as well.
            assert!(scene.read_words(B).is_none_or(|found| found == large));
        }
        other.join().expect("the other");
        assert!(scene.read_words(B).is_none_or(|found| found == large));
        scene.check();
    });
}

/// A thread that knows a segment as its process's open one sleeps; the segment is recycled, and opened again by the process.
#[test]
fn segment_that_is_opened_again_is_not_written_twice() {
    explore(|| {
        let scene = Scene::new(1, 2, Explore::Index);
        let worker = Arc::new(scene.worker(0));
        scene.set(&worker, B, 1);
        let other = thread::spawn({
            let (scene, worker) = (scene.clone(), worker.clone());
            move || {
                scene.write(&worker, A, 1, When::Always);
            }
        });
        scene.seal(&worker);
        scene.evict(&scene.worker(1));
        for number in [1, 2] {
            scene.write(&worker, C, number, When::Always);
        }
        other.join().expect("the other");
        scene.check();
    });
}

/// A worker goes on with a segment that another left with room in it, while a third evicts it.
#[test]
fn segment_that_was_left_is_gone_on_with_or_evicted_and_not_both() {
    explore(|| {
        let scene = Scene::new(4, 4, Explore::Index);
        sealed(&scene, |writer| {
            scene.set(writer, A, 1);
        });
        let evictor = thread::spawn({
            let scene = scene.clone();
            move || {
                scene.evict(&scene.worker(1));
            }
        });
        let joining = scene.joining(2);
        scene.set(&joining, B, 2);
        assert_eq!(scene.read(B), Seen::Value(2));
        evictor.join().expect("the evictor");
        assert_eq!(scene.read(B), Seen::Value(2));
        scene.check();
    });
}

#[test]
fn segment_that_was_left_is_gone_on_with_by_one() {
    explore(|| {
        let scene = Scene::new(3, 4, Explore::Ends);
        sealed(&scene, |writer| {
            scene.set(writer, A, 1);
        });
        let other = thread::spawn({
            let scene = scene.clone();
            move || {
                scene.set(&scene.joining(1), B, 2);
            }
        });
        scene.set(&scene.joining(2), C, 3);
        other.join().expect("the other");
        assert_eq!([A, B, C].map(|key| scene.read(key)), [1, 2, 3].map(Seen::Value));
        scene.check();
    });
}

#[test]
fn large_value_is_read_whole_or_not_at_all() {
    explore(|| {
        let scene = Scene::new(5, 2, Explore::Ends);
        let writer = scene.worker(0);
        let large: Vec<u64> = (0..30).collect();
        scene.set_words(&writer, A, &large);
        let reader = thread::spawn({
            let (scene, large) = (scene.clone(), large.clone());
            move || assert!(scene.read_words(A).is_none_or(|found| found == large || found == [1]))
        });
        scene.set_words(&writer, A, &[1]);
        for number in [100, 200] {
            let other: Vec<u64> = (number..number + 30).collect();
            scene.set_words(&writer, B, &other);
            assert_eq!(scene.read_words(B), Some(other));
        }
        reader.join().expect("the reader");
        scene.check();
    });
}

/// Explores a model for a death before each store of a thread, until the thread ends before it dies.
fn explore_deaths(model: impl Fn(usize) -> bool + Sync + Send + 'static) {
    let model = Arc::new(model);
    for step in 0.. {
        let has_died = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (model, died) = (model.clone(), has_died.clone());
        explore(move || died.store(model(step), std::sync::atomic::Ordering::Relaxed));
        if !has_died.load(std::sync::atomic::Ordering::Relaxed) {
            return assert!(step > 10, "the thread that dies makes few stores: {step}");
        }
    }
}

#[test]
fn writer_that_dies_blocks_nobody() {
    explore_deaths(|step| {
        let scene = Scene::new(5, 1, Explore::Index);
        let (one, two) = (scene.worker(0), scene.worker(1));
        scene.set(&two, C, 1);
        let writer = mortal(step, {
            let scene = scene.clone();
            move || {
                scene.set(&one, A, 1);
            }
        });
        let is_dead = writer.wait();
        let other = thread::spawn({
            let scene = scene.clone();
            move || scene.add(&two, A, 2)
        });
        scene.adopt(0, 0);
        let before = scene.read(A);
        let added = other.join().expect("the other");
        assert!(added ^ (before == Seen::Value(1)), "{added} {before:?}");
        scene.check();
        assert!(scene.remove(A));
        assert!(scene.slots(A).is_empty());
        scene.empty(&scene.worker(1));
        writer.bury();
        is_dead
    });
}

#[test]
fn evictor_that_dies_loses_no_count_and_no_segment() {
    explore_deaths(|step| {
        let scene = Scene::new(6, 1, Explore::InPlace);
        sealed(&scene, |writer| {
            scene.set_count(writer, A, 10);
        });
        let evictor = mortal(step, {
            let scene = scene.clone();
            move || {
                scene.evict(&scene.worker(0));
            }
        });
        let is_dead = evictor.wait();
        let other = thread::spawn({
            let scene = scene.clone();
            move || scene.adopt(0, 0)
        });
        assert_eq!(scene.incr(&scene.worker(1), A, 1), Incr::Value(11));
        other.join().expect("the other");
        assert_eq!(scene.read(A), Seen::Value(11));
        scene.evict(&scene.worker(1));
        assert_eq!(scene.read(A), Seen::Value(11));
        scene.check();
        scene.remove(A);
        scene.empty(&scene.worker(1));
        evictor.bury();
        is_dead
    });
}
