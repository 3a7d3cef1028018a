//! Promise 4: a load that was begun before an invalidation never makes a stale value look fresh. And one run for all who miss the
//! same key, whoever dies.

mod support;

use std::time::{Duration, Instant};

use support::board::Board;
use support::child::{Child, finish_all, start_all};
use support::place::{Place, Shelf};
use support::{Random, quick_or_soak};
use tezkor::{Begin, Instead, Load, Locking, Looked, Terms, Timeout, Value, Written};

const PROCESSES: u64 = 4;
const REGION_BYTES: u64 = 1 << 20;
/// Keys that are loaded and invalidated, and after them those that are loaded and set.
const INVALIDATED: u64 = 16;
const KEYS: u64 = 20;
const TAGS: u64 = 4;
const BEGIN: Begin = Begin { birth: None, beta: 1.0, dice: 0.5, alone: false, refresh: false };

fn load(shelf: &mut Shelf, name: &[u8], begin: Begin) -> Looked {
    let key = shelf.cache.key(shelf.space, name).expect("a short key");
    shelf.cache.load(&key, &mut shelf.buffer, begin)
}

/// What stands in the buffer.
fn number(shelf: &Shelf) -> u64 {
    u64::from_le_bytes(*shelf.buffer.bytes().first_chunk().expect("eight bytes"))
}

fn fill(shelf: &Shelf, name: &[u8], load: &mut Load, number: u64, terms: Terms<'_>) -> Written {
    let bytes = number.to_le_bytes();
    shelf.cache.fill(&shelf.key(name), load, Value::Bytes { codec: 1, bytes: &bytes }, terms)
}

/// One process of `nothing_that_was_overtaken_is_served`. The board holds for each key what the database has, and after it what it
/// had when the last invalidation that has returned was called: whoever reads later must see at least that.
struct Worker<'b> {
    shelf: Shelf,
    board: &'b Board,
    random: Random,
    loads: u64,
    overtaken: u64,
}

fn name_of(key: u64) -> Vec<u8> {
    let kind = if key < INVALIDATED { "key" } else { "set" };
    format!("{kind}:{}:{key}", key % TAGS).into_bytes()
}

fn tag_of(key: u64) -> Vec<u8> {
    format!("tag {}", key % TAGS).into_bytes()
}

impl Worker<'_> {
    fn step(&mut self) {
        let key = self.random.below(KEYS);
        match self.random.below(100) {
            0..80 => self.read(key),
            80..96 if key < INVALIDATED => self.invalidate(key),
            _ if key >= INVALIDATED => self.set(key),
            _ => self.read(key),
        }
    }

    fn read(&mut self, key: u64) {
        let floor = self.board.get((KEYS + key) as usize);
        // Now and then a load of its own, beside the one that others run.
        let begin =
            Begin { alone: self.random.one_in(20), dice: (1 + self.random.below(1000)) as f64 / 1000.0, ..BEGIN };
        let name = name_of(key);
        let mut load = match load(&mut self.shelf, &name, begin) {
            Looked::Fresh(_) => {
                let seen = number(&self.shelf);
                assert!(seen >= floor, "key {key}: {seen} was served as fresh, {floor} was invalidated before");
                return;
            }
            Looked::Load(load) => load,
        };
        if let Some(Instead::Stale(_) | Instead::Early(_)) = load.instead {
            let seen = number(&self.shelf);
            assert!(seen >= floor, "key {key}: {seen} was served as stale, {floor} was invalidated before");
        }
        if load.is_busy() {
            self.shelf.cache.store().sleep_for(&load, Duration::from_micros(200));
            return;
        }
        let loaded = self.board.get(key as usize);
        if self.random.one_in(30) {
            // The database is slow, or the process is.
            std::thread::sleep(Duration::from_micros(self.random.below(300)));
        }
        self.loads += 1;
        let tag = tag_of(key);
        let timeout = Timeout::After(Duration::from_millis(1 + self.random.below(50)));
        let terms = Terms { timeout, stale: Duration::from_millis(self.random.below(100)), tags: &[&tag] };
        match self.random.below(20) {
            0 => self.shelf.cache.store().fail(&mut load),
            1 => self.shelf.cache.store().end(&mut load),
            _ => {
                let written = fill(&self.shelf, &name, &mut load, loaded, terms);
                self.overtaken += u64::from(matches!(written, Written::Held));
            }
        }
    }

    /// Changes the database, then invalidates in one of the ways; what others read from here on is at least that.
    fn invalidate(&mut self, key: u64) {
        let way = self.random.below(8);
        let keys: Vec<u64> = match way {
            0..3 => vec![key],
            3..7 => (0..INVALIDATED).filter(|other| other % TAGS == key % TAGS).collect(),
            _ => (0..INVALIDATED).collect(),
        };
        let changed: Vec<(u64, u64)> = keys.iter().map(|key| (*key, self.board.add(*key as usize, 1))).collect();
        let (cache, space) = (&self.shelf.cache, self.shelf.space);
        match way {
            0..3 => drop(cache.delete(&self.shelf.key(&name_of(key)))),
            3..6 => cache.invalidate_tags(space, &[&tag_of(key)]),
            6 => {
                let head = format!("key:{}:", key % TAGS).into_bytes();
                cache.store().delete_pattern(space, &|full| full.starts_with(&head));
            }
            _ if self.random.one_in(4) => cache.clear(space),
            _ => cache.clear_prefix(space),
        }
        for (key, number) in changed {
            self.board.raise((KEYS + key) as usize, number);
        }
    }

    /// Changes the database, and sets what is there now: a load that began before must not put the old value in its place. One
    /// process at a time: of two plain sets either may come last.
    fn set(&mut self, key: u64) {
        let (name, tag) = (name_of(key), tag_of(key));
        let key_of = self.shelf.key(&name);
        let store = self.shelf.cache.store();
        let Locking::Held(token) = store.lock(&key_of, None).expect("there is room for a few locks") else { return };
        let number = self.board.add(key as usize, 1);
        let timeout = Timeout::After(Duration::from_millis(1 + self.random.below(20)));
        let terms = Terms { tags: &[&tag], ..timeout.into() };
        let bytes = number.to_le_bytes();
        self.shelf.cache.set(&key_of, Value::Bytes { codec: 1, bytes: &bytes }, terms);
        self.board.raise((KEYS + key) as usize, number);
        store.unlock(&key_of, token);
    }
}

#[test]
fn nothing_that_was_overtaken_is_served() {
    let place = Place::new("overtaken");
    let config = place.shared(REGION_BYTES);
    let board = Board::new(2 * KEYS as usize + 3);
    let (loads_at, overtaken_at, kills_at) = (2 * KEYS as usize, 2 * KEYS as usize + 1, 2 * KEYS as usize + 2);
    let enough = quick_or_soak(120_000, 10_000_000);
    let start = |number: u64| {
        let (board, config) = (&board, &config);
        Child::start(move || {
            let shelf = Shelf::open(config);
            let mut worker = Worker { shelf, board, random: Random::new(number), loads: 0, overtaken: 0 };
            while board.get(loads_at) < enough {
                (0..100).for_each(|_| worker.step());
                board.add(loads_at, std::mem::take(&mut worker.loads));
                board.add(overtaken_at, std::mem::take(&mut worker.overtaken));
            }
        })
    };
    let mut children: Vec<Child> = (0..PROCESSES).map(start).collect();
    let (mut next, mut random) = (PROCESSES, Random::new(77));
    while board.get(loads_at) < enough {
        for child in &mut children {
            // Some die, in the middle of whatever it is.
            if random.one_in(100) {
                child.kill();
                board.add(kills_at, 1);
            }
            if let Some(ended) = child.ended() {
                assert_ne!(ended, support::child::Ended::Exited(101), "what it said is above");
                if board.get(loads_at) < enough {
                    *child = start(next);
                    next += 1;
                }
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    for mut child in children {
        assert_ne!(child.wait(), support::child::Ended::Exited(101), "what it said is above");
    }
    let (loads, overtaken, kills) = (board.get(loads_at), board.get(overtaken_at), board.get(kills_at));
    println!("{loads} loads, {overtaken} overtaken, {kills} workers killed");
    assert!(overtaken > loads / 1000, "hardly any load was overtaken: nothing was tested");
    assert!(kills > 10, "hardly anybody died");
    let shelf = Shelf::open(&config);
    assert_eq!(shelf.cache.store().validate(), Vec::<String>::new());
}

#[test]
fn one_of_many_runs_a_load_and_the_others_find_what_it_brought() {
    let place = Place::new("one");
    let config = place.shared(REGION_BYTES);
    let rounds = quick_or_soak(300, 5_000);
    let board = Board::new(1 + rounds as usize);
    finish_all(start_all(PROCESSES, |_| {
        let mut shelf = Shelf::open(&config);
        for round in 0..rounds {
            board.add(0, 1);
            board.wait_for(0, PROCESSES * (round + 1));
            let name = format!("report {round}").into_bytes();
            loop {
                match load(&mut shelf, &name, BEGIN) {
                    Looked::Fresh(_) => break assert_eq!(number(&shelf), round),
                    Looked::Load(mut load) if load.is_owner() => {
                        board.add(1 + round as usize, 1);
                        std::thread::sleep(Duration::from_micros(200));
                        assert!(matches!(
                            fill(&shelf, &name, &mut load, round, Timeout::Never.into()),
                            Written::Stored(_)
                        ));
                    }
                    Looked::Load(load) => {
                        assert!(load.is_busy());
                        while !shelf.cache.store().is_over(&load) {
                            shelf.cache.store().sleep_for(&load, Duration::from_secs(1));
                        }
                    }
                }
            }
        }
    }));
    assert!((0..rounds).all(|round| board.get(1 + round as usize) == 1), "a load was run twice");
}

/// The process that runs a load is killed: another one that waits takes over.
#[test]
fn a_load_of_a_killed_process_is_taken_over() {
    let place = Place::new("taken");
    let config = place.shared(REGION_BYTES);
    let mut worst = Duration::ZERO;
    for round in 0..quick_or_soak(20, 200_u64) {
        let name = format!("report {round}").into_bytes();
        let board = Board::new(1);
        let mut owner = Child::start(|| {
            let mut shelf = Shelf::open(&config);
            let Looked::Load(load) = load(&mut shelf, &name, BEGIN) else { panic!("it is cold") };
            assert!(load.is_owner());
            board.set(0, 1);
            std::thread::sleep(Duration::from_secs(60));
        });
        board.wait_for(0, 1);
        let mut shelf = Shelf::open(&config);
        let Looked::Load(waited) = load(&mut shelf, &name, BEGIN) else { panic!("it is cold") };
        assert!(waited.is_busy() && !shelf.cache.store().is_over(&waited));
        owner.kill();
        let start = Instant::now();
        while !shelf.cache.store().is_over(&waited) {
            shelf.cache.store().sleep_for(&waited, Duration::from_secs(1));
        }
        let Looked::Load(mut mine) = load(&mut shelf, &name, BEGIN) else { panic!("nobody has filled it") };
        assert!(mine.is_owner());
        worst = worst.max(start.elapsed());
        shelf.cache.store().end(&mut mine);
    }
    println!("taken over within {worst:?} (bound 100 ms)");
    assert!(worst < Duration::from_secs(1), "{worst:?}");
}

/// A failing source is tried by one at a time, after a while that grows.
#[test]
fn a_load_that_failed_is_tried_again_by_one_after_a_while() {
    let place = Place::new("failed");
    let config = place.shared(REGION_BYTES);
    let tries = Board::new(2);
    finish_all(start_all(PROCESSES, |_| {
        let mut shelf = Shelf::open(&config);
        tries.add(0, 1);
        tries.wait_for(0, PROCESSES);
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            let Looked::Load(mut load) = load(&mut shelf, b"source", BEGIN) else { panic!("nothing is ever stored") };
            if load.is_owner() {
                tries.add(1, 1);
                shelf.cache.store().fail(&mut load);
                // This process gives up; the others go on waiting.
                return;
            }
            while !shelf.cache.store().is_over(&load) && Instant::now() < end {
                shelf.cache.store().sleep_for(&load, Duration::from_millis(20));
            }
        }
    }));
    // At once, after 100 ms, 300 ms, 700 ms: not all of them at once, and not one alone.
    assert!((3..=4).contains(&tries.get(1)), "{} tries in a second", tries.get(1));
}

/// A set under way of a load counts, even when what it wrote is gone again.
#[test]
fn a_set_overtakes_loads_of_its_key_alone() {
    let place = Place::new("set");
    let mut shelf = Shelf::open(&place.shared(REGION_BYTES));
    for alone in [false, true] {
        let begin = Begin { alone, ..BEGIN };
        let Looked::Load(mut mine) = load(&mut shelf, b"mine", begin) else { panic!("it is cold") };
        shelf.cache.set(&shelf.key(b"other"), Value::Count(1), Timeout::Never);
        assert!(matches!(fill(&shelf, b"mine", &mut mine, 1, Timeout::Never.into()), Written::Stored(_)));
        shelf.cache.delete(&shelf.key(b"mine"));

        let Looked::Load(mut mine) = load(&mut shelf, b"mine", begin) else { panic!("it is cold") };
        shelf.cache.set(&shelf.key(b"mine"), Value::Count(1), Timeout::After(Duration::from_millis(1)));
        std::thread::sleep(Duration::from_millis(3));
        assert!(matches!(fill(&shelf, b"mine", &mut mine, 1, Timeout::Never.into()), Written::Held));
        shelf.cache.delete(&shelf.key(b"mine"));
    }
}

/// The birth of a load in a transaction is that of its snapshot, which is older than the load.
#[test]
fn a_load_from_an_old_snapshot_is_as_old_as_that() {
    let place = Place::new("snapshot");
    let mut shelf = Shelf::open(&place.shared(REGION_BYTES));
    let birth = shelf.cache.store().sequence();
    shelf.cache.delete(&shelf.key(b"row"));
    let old = Begin { birth: Some(birth), ..BEGIN };
    let Looked::Load(mut mine) = load(&mut shelf, b"row", old) else { panic!("it is cold") };
    assert!(matches!(fill(&shelf, b"row", &mut mine, 1, Timeout::Never.into()), Written::Held));
    let Looked::Load(mut mine) = load(&mut shelf, b"row", BEGIN) else { panic!("it is cold") };
    assert!(matches!(fill(&shelf, b"row", &mut mine, 1, Timeout::Never.into()), Written::Stored(_)));
}
