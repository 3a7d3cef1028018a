//! Larger models under random schedules: several keys of one bucket, two of one fingerprint, all operations, evictions all the
//! time, deaths. What a thread sees is checked against what had returned before it looked.
//!
//! `SCHEDULES=n` sets how many each model runs; `SOAK=1` a million.

use std::sync::{Arc, Mutex, PoisonError};

use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;

use super::death::mortal;
use super::scene::{A, A_TWIN, B, C, Explore, NOW_MS, Scene, Seen};
use crate::entry::{Incr, Stamp, When, Written};
use crate::store::segment::alloc::Worker;
use crate::store::segment::counters::Counter;

const THREADS: u16 = 3;
const OPERATIONS: usize = 5;
const KEYS: [u64; 4] = [A, A_TWIN, B, C];

/// Runs a model under random schedules, and under those that change threads at few, but random points.
fn explore(model: impl Fn() + Send + Sync + 'static) {
    let soak = std::env::var("SOAK").is_ok_and(|value| value == "1");
    let asked = std::env::var("SCHEDULES").ok().and_then(|number| number.parse().ok());
    let schedules = asked.unwrap_or(if soak { 1_000_000 } else { 10_000 });
    let model = Arc::new(model);
    let again = model.clone();
    shuttle::check_random(move || model(), schedules / 2);
    shuttle::check_pct(move || again(), schedules / 2, 4);
}

/// What was written, and when: numbers count the beginnings and ends of all operations.
#[derive(Clone, Default)]
struct History(Arc<Mutex<Log>>);

#[derive(Default)]
struct Log {
    clock: u64,
    changes: Vec<Change>,
}

/// A set or a remove. One that has not ended (or never will) may act at any time.
struct Change {
    low: u64,
    began: u64,
    ended: u64,
}

impl History {
    fn log<T>(&self, with: impl FnOnce(&mut Log) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn now(&self) -> u64 {
        self.log(|log| {
            log.clock += 1;
            log.clock
        })
    }

    /// The number of a change that begins: what is written as the value.
    fn begin(&self, low: u64) -> u64 {
        let began = self.now();
        self.log(|log| {
            log.changes.push(Change { low, began, ended: u64::MAX });
            log.changes.len() as u64
        })
    }

    /// It took place: whoever looks from here on sees it, or what came later.
    fn end(&self, number: u64) {
        let ended = self.now();
        self.log(|log| log.changes[number as usize - 1].ended = ended);
    }

    /// A value that was seen by somebody who began to look at `began` must not have been overwritten by then.
    fn check(&self, low: u64, number: u64, began: u64) {
        self.log(|log| {
            let seen = &log.changes[number as usize - 1];
            assert_eq!(seen.low, low, "the value of another key");
            let newer = log
                .changes
                .iter()
                .find(|change| change.low == low && change.began > seen.ended && change.ended < began);
            assert!(newer.is_none(), "an older value was seen after a change had returned");
        });
    }
}

/// One thread's part of a model: random operations, each checked against the history.
fn play(scene: &Scene, worker: &Worker, history: &History) {
    let mut kept: Option<(u64, u64, Stamp)> = None;
    for _ in 0..OPERATIONS {
        let low = KEYS[thread_rng().gen_range(0..KEYS.len())];
        match thread_rng().gen_range(0..12) {
            0..3 => {
                let number = history.begin(low);
                if let Written::Stored(stamp) = scene.write(worker, low, number, When::Always) {
                    history.end(number);
                    kept = Some((low, number, stamp));
                }
            }
            3 => {
                let number = history.begin(low);
                if let Written::Stored(stamp) = scene.write(worker, low, number, When::Absent) {
                    history.end(number);
                    kept = Some((low, number, stamp));
                }
            }
            4 => {
                if let Some((low, seen, stamp)) = kept.take() {
                    let (began, number) = (history.now(), history.begin(low));
                    if let Written::Stored(stamp) = scene.write(worker, low, number, When::Unchanged(&stamp)) {
                        history.check(low, seen, began);
                        history.end(number);
                        kept = Some((low, number, stamp));
                    }
                }
            }
            5 => {
                let number = history.begin(low);
                scene.remove(low);
                history.end(number);
            }
            6 => {
                let expires_ms = NOW_MS + thread_rng().gen_range(1_000..1_000_000);
                scene.touch(worker, low, expires_ms);
            }
            7 => {
                scene.seal(worker);
                scene.evict(worker);
            }
            8 => {
                if let Some((low, number, stamp)) = &mut kept {
                    let began = history.now();
                    if scene.is_current(*low, stamp) {
                        history.check(*low, *number, began);
                    }
                }
            }
            _ => {
                let began = history.now();
                if let Seen::Value(number) = scene.read(low) {
                    history.check(low, number, began);
                }
            }
        }
    }
}

fn spawn(scene: &Scene, row: u16, history: &History) -> thread::JoinHandle<()> {
    let (scene, history) = (scene.clone(), history.clone());
    thread::spawn(move || {
        let worker = scene.worker(row);
        play(&scene, &worker, &history);
        scene.seal(&worker);
    })
}

#[test]
fn nobody_sees_an_older_value_after_a_change_has_returned() {
    explore(|| {
        let scene = Scene::new(8, 2, Explore::Records);
        let history = History::default();
        let players: Vec<_> = (0..THREADS).map(|row| spawn(&scene, row, &history)).collect();
        players.into_iter().for_each(|player| player.join().expect("a player"));
        scene.check();
    });
}

#[test]
fn threads_of_one_process_see_no_older_value_either() {
    explore(|| {
        let scene = Scene::new(8, 2, Explore::Records);
        let history = History::default();
        let worker = Arc::new(scene.worker(0));
        let players = (0..THREADS).map(|_| {
            let (scene, worker, history) = (scene.clone(), worker.clone(), history.clone());
            thread::spawn(move || play(&scene, &worker, &history))
        });
        players.collect::<Vec<_>>().into_iter().for_each(|player| player.join().expect("a player"));
        scene.check();
    });
}

#[test]
fn process_that_dies_blocks_nobody_and_hides_nothing() {
    explore(|| {
        let scene = Scene::new(8, 2, Explore::Records);
        let history = History::default();
        let victim = mortal(thread_rng().gen_range(0..150), {
            let (scene, history) = (scene.clone(), history.clone());
            move || play(&scene, &scene.worker(0), &history)
        });
        let players: Vec<_> = (1..THREADS).map(|row| spawn(&scene, row, &history)).collect();
        victim.wait();
        scene.adopt(0, 0);
        players.into_iter().for_each(|player| player.join().expect("a player"));
        let last = scene.worker(1);
        play(&scene, &last, &history);
        scene.check();
        scene.seal(&last);
        scene.empty(&last);
        victim.bury();
    });
}

#[test]
fn counts_are_exact() {
    explore(|| {
        let scene = Scene::new(10, 2, Explore::Records);
        let worker = scene.worker(0);
        scene.set_count(&worker, A, 0);
        for _ in 0..3 {
            scene.warm(A);
        }
        scene.seal(&worker);
        let players = (0..THREADS).map(|row| {
            let scene = scene.clone();
            thread::spawn(move || {
                let worker = scene.worker(row);
                let mut sums = Vec::new();
                for number in 0..OPERATIONS {
                    match thread_rng().gen_range(0..5) {
                        0 => {
                            scene.seal(&worker);
                            scene.evict(&worker);
                        }
                        1 => {
                            scene.touch(&worker, A, NOW_MS + thread_rng().gen_range(1_000..1_000_000));
                        }
                        2 => {
                            scene.write(&worker, B, number as u64, When::Always);
                        }
                        _ => sums.push(scene.incr(&worker, A, 1)),
                    }
                }
                scene.seal(&worker);
                sums
            })
        });
        let players: Vec<_> = players.collect();
        let mut sums: Vec<_> = players.into_iter().flat_map(|player| player.join().expect("a player")).collect();
        scene.check();
        if scene.total(Counter::EvictedEntries) + scene.total(Counter::Refused) > 0 {
            // Something was dropped for want of room, the count perhaps.
            return;
        }
        sums.sort_by_key(|sum| match sum {
            Incr::Value(sum) => *sum,
            _ => i64::MIN,
        });
        let expected: Vec<_> = (1..=sums.len() as i64).map(Incr::Value).collect();
        assert_eq!(sums, expected);
        assert_eq!(scene.read(A), Seen::Value(sums.len() as u64));
    });
}

#[test]
fn each_absent_key_is_added_once() {
    explore(|| {
        let scene = Scene::new(10, 2, Explore::Index);
        let players = (0..=THREADS).map(|row| {
            let scene = scene.clone();
            thread::spawn(move || {
                let worker = scene.worker(row);
                let mut keys = [A, B, C];
                keys.rotate_left(usize::from(row) % 3);
                keys.map(|low| (low, scene.add(&worker, low, u64::from(row))))
            })
        });
        let players: Vec<_> = players.collect();
        let added: Vec<_> = players.into_iter().flat_map(|player| player.join().expect("a player")).collect();
        for low in [A, B, C] {
            assert_eq!(added.iter().filter(|(added, won)| *added == low && *won).count(), 1, "winners of {low:x}");
            assert!(scene.remove(low));
            assert!(scene.slots(low).is_empty(), "the delete uncovered another copy");
        }
        scene.check();
    });
}

/// One thread's part of a model of large values, which fill two segments each.
fn play_large(scene: &Scene, worker: &Worker) {
    for round in 0..OPERATIONS {
        let low = [A, B][thread_rng().gen_range(0..2)];
        if thread_rng().gen_range(0..3) > 0 {
            scene.write_words(worker, low, &[u64::from(worker.owner.row) << 32 | round as u64; 30]);
        } else if let Some(words) = scene.read_words(low) {
            assert!(words.iter().all(|word| *word == words[0]), "a large value is torn");
        }
    }
}

fn spawn_large(scene: &Scene, row: u16) -> thread::JoinHandle<()> {
    let scene = scene.clone();
    thread::spawn(move || play_large(&scene, &scene.worker(row)))
}

/// The state word that a member of a large value has in one life must not be that of another: whoever found it orphaned a moment
/// before would recycle it under the value that has it since, and that value would be damaged.
#[test]
fn large_values_are_whole_or_missing() {
    explore(|| {
        let scene = Scene::new(7, 2, Explore::Index);
        let players: Vec<_> = (0..THREADS).map(|row| spawn_large(&scene, row)).collect();
        players.into_iter().for_each(|player| player.join().expect("a player"));
        for low in [A, B] {
            scene.read_words(low);
        }
        scene.check();
    });
}

#[test]
fn process_that_dies_leaves_large_values_whole() {
    explore(|| {
        let scene = Scene::new(7, 2, Explore::Index);
        let victim = mortal(thread_rng().gen_range(0..150), {
            let scene = scene.clone();
            move || play_large(&scene, &scene.worker(0))
        });
        let players: Vec<_> = (1..THREADS).map(|row| spawn_large(&scene, row)).collect();
        victim.wait();
        scene.adopt(0, 0);
        players.into_iter().for_each(|player| player.join().expect("a player"));
        for low in [A, B] {
            scene.read_words(low);
        }
        scene.check();
        victim.bury();
    });
}
