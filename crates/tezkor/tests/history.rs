//! Promise 3: once set, delete or clear has returned, no get that starts later returns the older value, in any process, decoded
//! copies included. Checked over recorded histories of four processes, one of which is forked off in the middle.

mod support;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use support::board::Board;
use support::child::{Child, finish_all, start_all};
use support::history::{Done, Record, judge};
use support::place::{Place, Shelf, is_stored};
use support::{Random, now_ns, quick_or_soak};
use tezkor::{Config, Stamp, Timeout, Value};

const PROCESSES: u64 = 4;
const KEYS: u64 = 24;
/// Keys that nobody judges: they fill the region, so that what is judged is moved and evicted all the time.
const FILLERS: u64 = 3_000;
const REGION_BYTES: u64 = 1 << 20;

/// One process: a cache, its decoded copies, and what it has recorded.
struct Worker {
    shelf: Shelf,
    /// As the layer above the engine keeps them: a value, and the stamp that is asked whether it still is the value.
    decoded: HashMap<u64, (u64, Stamp)>,
    records: Vec<Record>,
    random: Random,
    next_value: u64,
}

impl Worker {
    fn new(config: &Config, number: u64) -> Worker {
        let shelf = Shelf::open(config);
        Worker {
            shelf,
            decoded: HashMap::new(),
            records: Vec::new(),
            random: Random::new(number),
            next_value: number << 40,
        }
    }

    fn record(&mut self, key: u64, done: Done, begin_ns: u64) {
        self.records.push(Record { key, done, begin_ns, end_ns: now_ns() });
    }

    fn step(&mut self) {
        let key = self.random.below(KEYS);
        match self.random.below(100) {
            0..60 => self.get(key, true),
            60..68 => self.get(key, false),
            68..80 => self.set(key),
            80..84 => self.delete(key),
            84..86 => self.touch(key),
            _ => self.fill(),
        }
        if self.random.one_in(5_000) {
            self.clear();
        }
    }

    fn get(&mut self, key: u64, may_be_decoded: bool) {
        let name = key.to_le_bytes();
        let begin_ns = now_ns();
        let key_of = self.shelf.key(&name);
        if may_be_decoded && let Some((value, stamp)) = self.decoded.get_mut(&key) {
            if self.shelf.cache.is_current(&key_of, stamp) {
                let value = *value;
                return self.record(key, Done::Got(value), begin_ns);
            }
            self.decoded.remove(&key);
        }
        let Some(found) = self.shelf.cache.get(&self.shelf.key(&name), &mut self.shelf.buffer) else { return };
        let first = self.shelf.buffer.bytes().first_chunk().expect("eight bytes and more");
        let value = u64::from_le_bytes(*first);
        self.record(key, Done::Got(value), begin_ns);
        self.decoded.insert(key, (value, found.stamp));
    }

    fn set(&mut self, key: u64) {
        self.next_value += 1;
        let value = self.next_value;
        let mut bytes = value.to_le_bytes().to_vec();
        // Mostly short, now and then in segments of its own.
        let length = if self.random.one_in(200) { 20_000 } else { self.random.below(600) };
        bytes.resize(8 + length as usize, 7);
        let name = key.to_le_bytes();
        let begin_ns = now_ns();
        let key_of = self.shelf.key(&name);
        let written = self.shelf.cache.set(&key_of, Value::Bytes { codec: 1, bytes: &bytes }, Timeout::Never);
        let done = if is_stored(written) { Done::Set(value) } else { Done::Removed };
        self.record(key, done, begin_ns);
        match written {
            tezkor::Written::Stored(stamp) => self.decoded.insert(key, (value, stamp)),
            _ => self.decoded.remove(&key),
        };
    }

    fn delete(&mut self, key: u64) {
        let name = key.to_le_bytes();
        let begin_ns = now_ns();
        self.shelf.cache.delete(&self.shelf.key(&name));
        self.record(key, Done::Removed, begin_ns);
    }

    fn touch(&mut self, key: u64) {
        let name = key.to_le_bytes();
        let timeout = Timeout::After(Duration::from_secs(1_000 + self.random.below(1_000)));
        self.shelf.cache.touch(&self.shelf.key(&name), timeout);
    }

    fn fill(&mut self) {
        let key = 1_000 + self.random.below(FILLERS);
        self.shelf.set(key, 1, 1_000);
    }

    fn clear(&mut self) {
        let begin_ns = now_ns();
        self.shelf.cache.clear(self.shelf.space);
        (0..KEYS).for_each(|key| self.record(key, Done::Removed, begin_ns));
    }

    fn write_to(&self, path: &Path) {
        let mut file = BufWriter::new(File::create(path).expect("the test's directory takes files"));
        for word in self.records.iter().flat_map(|record| record.to_words()) {
            file.write_all(&word.to_le_bytes()).expect("there is room for the records");
        }
        file.flush().expect("there is room for the records");
    }
}

fn read_from(path: &Path) -> Vec<Record> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).expect("each process wrote its records");
    let (words, _) = bytes.as_chunks::<8>();
    let (records, _) = words.as_chunks::<{ Record::WORDS }>();
    records.iter().map(|words| Record::from_words(words.map(u64::from_le_bytes))).collect()
}

/// Lets four processes work, and returns all that they have recorded.
fn recorded(place: &Place, operations: u64) -> Vec<Record> {
    let config = place.shared(REGION_BYTES);
    let board = Board::new(1);
    let path = |number: u64, life: u64| place.disk().join(format!("{number}-{life}"));
    let children = start_all(PROCESSES, |number| {
        let mut worker = Worker::new(&config, 1 + number);
        board.add(0, 1);
        board.wait_for(0, PROCESSES);
        (0..operations / 2).for_each(|_| worker.step());
        worker.write_to(&path(number, 0));
        worker.records.clear();
        // The second half in a child that inherits the decoded copies, while a parent of every other one works on as well.
        let parents_go_on = number % 2 == 0;
        let child = Child::start(|| {
            worker.next_value += 1 << 30;
            (0..operations / 2).for_each(|_| worker.step());
            worker.write_to(&path(number, 1));
        });
        if parents_go_on {
            (0..operations / 2).for_each(|_| worker.step());
            worker.write_to(&path(number, 2));
        }
        child.finish();
    });
    finish_all(children);
    let paths = (0..PROCESSES).flat_map(|number| (0..3).map(move |life| (number, life)));
    paths
        .map(|(number, life)| path(number, life))
        .filter(|path| path.exists())
        .flat_map(|path| read_from(&path))
        .collect()
}

#[test]
fn no_get_returns_what_was_replaced_before_it_began() {
    let start = Instant::now();
    for round in 0..quick_or_soak(6, 100) {
        let place = Place::new("history");
        let history = recorded(&place, 100_000);
        let gets = history.iter().filter(|record| matches!(record.done, Done::Got(_))).count();
        assert!(gets > 100_000, "{gets} gets found something: too few to judge");
        let mut shelf = Shelf::open(&place.shared(REGION_BYTES));
        shelf.get(0);
        println!(
            "{} records, {gets} gets; {} decoded hits, {} survivors, {} segments evicted; {:?}",
            history.len(),
            shelf.counter("hits_decoded"),
            shelf.counter("survivors"),
            shelf.counter("evicted_segments"),
            start.elapsed(),
        );
        let seen = ["hits_decoded", "survivors"].map(|name| shelf.counter(name));
        assert!(seen[0] > 20_000 && seen[1] > 300, "{seen:?}");
        assert_eq!(judge(&history), Vec::<String>::new());
        if round == 0 {
            every_planted_violation_is_found(&history);
        }
    }
}

/// Takes a history that is right, and makes it wrong in one place: the judge has to find each.
fn every_planted_violation_is_found(history: &[Record]) {
    let mut random = Random::new(7);
    let mut planted = 0;
    for _ in 0..10 {
        let start = random.below(history.len() as u64 / 2) as usize;
        let is_get = |record: &Record| matches!(record.done, Done::Got(_));
        let Some(get_at) = (start..history.len()).find(|at| is_get(&history[*at])) else { continue };
        let get = history[get_at];
        let writes = || history.iter().filter(|record| record.key == get.key && !is_get(record));
        // The last write that had ended before the get, and a set that had ended before that one began.
        let last = writes().filter(|write| write.end_ns < get.begin_ns).max_by_key(|write| write.begin_ns);
        let older = last
            .and_then(|last| writes().find(|write| matches!(write.done, Done::Set(_)) && write.end_ns < last.begin_ns));
        let Some(Record { done: Done::Set(value), .. }) = older else { continue };
        let mut wrong = history.to_vec();
        wrong[get_at].done = Done::Got(*value);
        assert_eq!(judge(&wrong).len(), 1, "a get that returns a replaced value");
        planted += 1;
    }
    assert!(planted >= 5, "{planted} violations planted");
}

#[test]
fn the_judge_finds_what_is_wrong_and_nothing_else() {
    let record = |done, begin_ns, end_ns| Record { key: 1, done, begin_ns, end_ns };
    let (set, removed, got) = (Done::Set, Done::Removed, Done::Got);
    type Case<'c> = (&'c str, &'c [(Done, u64, u64)], bool);
    let cases: &[Case<'_>] = &[
        ("a set is read", &[(set(1), 0, 1), (got(1), 2, 3)], true),
        ("a set that is under way may be read", &[(set(1), 0, 9), (got(1), 2, 3)], true),
        (
            "the older value may be read while a set is under way",
            &[(set(1), 0, 1), (set(2), 2, 9), (got(1), 5, 6)],
            true,
        ),
        ("either of two sets at once", &[(set(1), 0, 5), (set(2), 1, 6), (got(1), 7, 8), (got(1), 9, 10)], true),
        ("a get that began before the set returned", &[(set(1), 0, 1), (set(2), 2, 5), (got(1), 4, 9)], true),
        ("what nobody wrote", &[(set(1), 0, 1), (got(2), 2, 3)], false),
        ("what is written only later", &[(got(1), 0, 1), (set(1), 2, 3)], false),
        ("a replaced value", &[(set(1), 0, 1), (set(2), 2, 3), (got(1), 4, 5)], false),
        ("a removed value", &[(set(1), 0, 1), (removed, 2, 3), (got(1), 4, 5)], false),
        (
            "a removed value, two writes later",
            &[(set(1), 0, 1), (removed, 2, 3), (set(2), 4, 9), (got(1), 5, 6)],
            false,
        ),
        (
            "a replaced value, by a set that began late",
            &[(set(1), 0, 1), (set(2), 2, 3), (set(3), 3, 4), (got(2), 5, 6)],
            true,
        ),
        (
            "back to the older one while the set is under way",
            &[(set(1), 0, 1), (set(2), 2, 9), (got(2), 3, 4), (got(1), 5, 6)],
            false,
        ),
        (
            "back, with a set that never returned",
            &[(set(1), 0, 1), (set(2), 2, 99), (got(2), 3, 4), (got(1), 5, 6)],
            false,
        ),
        ("two gets at once may differ", &[(set(1), 0, 1), (set(2), 2, 9), (got(2), 3, 6), (got(1), 5, 7)], true),
        ("another key's value", &[(got(7), 5, 7)], false),
    ];
    for (name, operations, right) in cases {
        let history: Vec<Record> = operations.iter().map(|(done, begin, end)| record(*done, *begin, *end)).collect();
        let wrong = judge(&history);
        assert_eq!(wrong.is_empty(), *right, "{name}: {wrong:?}");
    }
}
