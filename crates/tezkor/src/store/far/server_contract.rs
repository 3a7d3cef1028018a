//! The rules of a server, as functions over `&dyn Server`: each one runs them against the real thing.
//! They never look inside a server. A rule that does not hold panics with what was expected.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::server::{Held, Item, Left, Lifetime, Put, Server};
use crate::entry::Incr;

const MINUTE: Lifetime = Lifetime::After(Duration::from_secs(60));

/// What a server that is checked offers.
pub struct Checked<'s> {
    /// The server.
    pub server: &'s dyn Server,
    /// Begins all names, so that checks do not meet each other or anything else.
    pub beginning: &'s str,
    /// Whether it can list names.
    pub scans: bool,
    /// The shortest lifetime that it can count.
    pub shortest: Duration,
}

type Rule = fn(&Bench<'_>);

/// Checks all rules, each with names of its own.
pub fn check(checked: &Checked<'_>) {
    let rules: &[(&str, Rule)] = &[
        ("set", what_was_set_is_got),
        ("batch", a_batch_answers_in_order),
        ("sizes", values_of_every_size_come_back),
        ("names", any_bytes_are_a_name),
        ("add", add_writes_only_where_nothing_is),
        ("swap", swap_writes_only_over_what_was_seen),
        ("one wins", one_of_many_swaps_wins),
        ("remove", removed_is_gone),
        ("incr", numbers_add_up_and_keep_their_lifetime),
        ("raise", a_number_is_raised_and_never_lowered),
        ("expire", expired_is_gone),
        ("touch", touch_moves_the_expiry_both_ways),
        ("scan", scan_shows_what_begins_so),
    ];
    for (name, rule) in rules {
        rule(&Bench { checked, name });
    }
}

struct Bench<'c> {
    checked: &'c Checked<'c>,
    name: &'c str,
}

impl Bench<'_> {
    fn server(&self) -> &dyn Server {
        self.checked.server
    }

    fn name(&self, name: &[u8]) -> Vec<u8> {
        [self.checked.beginning.as_bytes(), b":", self.name.as_bytes(), b":", name].concat()
    }

    fn set(&self, name: &[u8], bytes: &[u8], lifetime: Lifetime) -> Put {
        self.server().set(&[Item { name, bytes, lifetime }]).expect("a server that answers")[0]
    }

    fn add(&self, name: &[u8], bytes: &[u8], lifetime: Lifetime) -> Put {
        self.server().add(&[Item { name, bytes, lifetime }]).expect("a server that answers")[0]
    }

    fn held(&self, name: &[u8]) -> Option<Held> {
        self.server().get(&[name]).expect("a server that answers").remove(0)
    }

    fn get(&self, name: &[u8]) -> Option<Vec<u8>> {
        self.held(name).map(|held| held.bytes)
    }

    fn incr(&self, name: &[u8], delta: i64) -> Incr {
        self.server().incr(name, delta).expect("a server that answers")
    }

    fn left(&self, name: &[u8]) -> Left {
        self.server().left(name).expect("a server that answers")
    }

    fn remove(&self, name: &[u8]) -> bool {
        self.server().remove(&[name]).expect("a server that answers")[0]
    }
}

/// A value whose first bytes are another for each write, as those of records are.
fn record(text: &[u8]) -> Vec<u8> {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    [b"\xd4rec", &NUMBER.fetch_add(1, Ordering::Relaxed).to_le_bytes()[..], text].concat()
}

fn what_was_set_is_got(bench: &Bench<'_>) {
    let name = bench.name(b"a");
    assert_eq!(bench.get(&name), None);
    assert_eq!(bench.left(&name), Left::Absent);
    for value in [record(b"one"), record(b""), b"42".to_vec(), b"-7".to_vec(), record(&[0, 10, 13, 255])] {
        assert_eq!(bench.set(&name, &value, MINUTE), Put::Done);
        assert_eq!(bench.get(&name).as_deref(), Some(&value[..]));
    }
    assert!(
        matches!(bench.left(&name), Left::Time(left) if left <= Duration::from_secs(61) && left > Duration::from_secs(50))
    );
    bench.set(&name, b"1", Lifetime::Never);
    assert_eq!(bench.left(&name), Left::Never);
    bench.set(&name, b"2", MINUTE);
    bench.set(&name, b"3", Lifetime::Keep);
    assert!(matches!(bench.left(&name), Left::Time(_)), "it was to be kept");
}

fn a_batch_answers_in_order(bench: &Bench<'_>) {
    let names: Vec<Vec<u8>> = (0..100).map(|number| bench.name(format!("key {number}").as_bytes())).collect();
    let values: Vec<Vec<u8>> = (0..100).map(|number| record(format!("value {number}").as_bytes())).collect();
    let items: Vec<Item<'_>> =
        names.iter().zip(&values).step_by(2).map(|(name, bytes)| Item { name, bytes, lifetime: MINUTE }).collect();
    assert!(bench.server().set(&items).expect("it answers").into_iter().all(|put| put == Put::Done));
    let all: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    for (place, found) in bench.server().get(&all).expect("it answers").into_iter().enumerate() {
        assert_eq!(found.map(|held| held.bytes), (place % 2 == 0).then(|| values[place].clone()), "place {place}");
    }
    let removed = bench.server().remove(&all).expect("it answers");
    assert_eq!(removed, (0..100).map(|place| place % 2 == 0).collect::<Vec<_>>());
    for empty in [bench.server().get(&[]).map(|found| found.len()), bench.server().set(&[]).map(|put| put.len())] {
        assert_eq!(empty.expect("nothing to ask"), 0);
    }
}

fn values_of_every_size_come_back(bench: &Bench<'_>) {
    let largest = bench.server().largest_value_bytes();
    let name = bench.name(b"sized");
    for size in (0..40).chain([255, 4096, 70_001, 300_000, 900_000, 3_000_000]).filter(|size| *size + 100 <= largest) {
        let value = record(&(0..size).map(|place| (place * 7 + size) as u8).collect::<Vec<u8>>());
        assert_eq!(bench.set(&name, &value, MINUTE), Put::Done, "{size}");
        assert!(bench.get(&name).is_some_and(|found| found == value), "{size}");
    }
    if largest < 64 << 20 {
        let put = bench.set(&name, &record(&vec![1; largest + 1]), MINUTE);
        assert_eq!(put, Put::TooLarge);
        assert_eq!(bench.get(&name), None, "an old value behind a refused write would be stale");
    }
}

fn any_bytes_are_a_name(bench: &Bench<'_>) {
    let names: [&[u8]; 9] =
        [b"", b"\0", b"\0\0", b"a b\r\n", "ключ".as_bytes(), &[0xff; 8], &[0xff; 9], &[b'k'; 8200], b"{a}b"];
    let mut long = vec![b'k'; 8200];
    long[8199] = b'l';
    let names: Vec<Vec<u8>> = names.into_iter().chain([&long[..]]).map(|name| bench.name(name)).collect();
    for (number, name) in names.iter().enumerate() {
        assert_eq!(bench.set(name, format!("{number}").as_bytes(), MINUTE), Put::Done);
    }
    for (number, name) in names.iter().enumerate() {
        assert_eq!(bench.get(name), Some(format!("{number}").into_bytes()), "name {number}");
    }
    for name in &names {
        assert!(bench.remove(name));
    }
}

fn add_writes_only_where_nothing_is(bench: &Bench<'_>) {
    let name = bench.name(b"a");
    assert_eq!(bench.add(&name, b"1", MINUTE), Put::Done);
    assert_eq!(bench.add(&name, b"2", MINUTE), Put::Held);
    assert_eq!(bench.get(&name).as_deref(), Some(&b"1"[..]));
    assert!(bench.remove(&name));
    assert_eq!(bench.add(&name, b"3", MINUTE), Put::Done);
}

fn swap_writes_only_over_what_was_seen(bench: &Bench<'_>) {
    let name = bench.name(b"a");
    let swap = |bytes: &[u8], held: &Held| {
        bench.server().swap(&Item { name: &name, bytes, lifetime: MINUTE }, &held.mark).expect("it answers")
    };
    for (first, second) in [(record(b"one"), record(b"one")), (b"12".to_vec(), b"13".to_vec())] {
        bench.set(&name, &first, MINUTE);
        let seen = bench.held(&name).expect("it was set");
        let value = record(b"swapped");
        assert_eq!(swap(&value, &seen), Put::Done);
        assert_eq!(bench.get(&name), Some(value));
        assert_eq!(swap(b"5", &seen), Put::Held, "it has changed since");
        bench.set(&name, &second, MINUTE);
        assert_eq!(swap(b"5", &seen), Put::Held);
        assert!(!bench.server().remove_marked(&name, &seen.mark).expect("it answers"));
        assert_eq!(bench.get(&name), Some(second));
        let seen = bench.held(&name).expect("it was set");
        assert!(bench.server().remove_marked(&name, &seen.mark).expect("it answers"));
        assert_eq!(swap(b"5", &seen), Put::Held, "it is gone");
        assert_eq!(bench.get(&name), None);
    }
}

fn one_of_many_swaps_wins(bench: &Bench<'_>) {
    let (names, winners) = ([bench.name(b"a"), bench.name(b"b")], AtomicU64::new(0));
    for round in 0..20 {
        bench.set(&names[0], &record(b"first"), MINUTE);
        bench.remove(&names[1]);
        let seen = bench.held(&names[0]).expect("it was set");
        winners.store(0, Ordering::SeqCst);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let value = record(b"next");
                    let item = |name| Item { name, bytes: &value, lifetime: MINUTE };
                    let swapped = bench.server().swap(&item(&names[0]), &seen.mark).expect("it answers") == Put::Done;
                    let added = bench.server().add(&[item(&names[1])]).expect("it answers")[0] == Put::Done;
                    winners.fetch_add(u64::from(swapped) + (u64::from(added) << 32), Ordering::SeqCst);
                });
            }
        });
        assert_eq!(winners.load(Ordering::SeqCst), 1 << 32 | 1, "winners of round {round}");
    }
}

fn removed_is_gone(bench: &Bench<'_>) {
    let name = bench.name(b"a");
    bench.set(&name, &record(b"x"), MINUTE);
    assert!(bench.remove(&name));
    assert!(!bench.remove(&name));
    assert_eq!(bench.get(&name), None);
}

fn numbers_add_up_and_keep_their_lifetime(bench: &Bench<'_>) {
    let name = bench.name(b"n");
    assert_eq!(bench.incr(&name, 1), Incr::Missing);
    bench.set(&name, b"40", MINUTE);
    assert_eq!(bench.incr(&name, 2), Incr::Value(42));
    assert_eq!(bench.incr(&name, -50), Incr::Value(-8));
    assert_eq!(bench.incr(&name, 1), Incr::Value(-7));
    assert_eq!(bench.incr(&name, 10), Incr::Value(3));
    assert_eq!(bench.get(&name).as_deref(), Some(&b"3"[..]));
    assert!(matches!(bench.left(&name), Left::Time(_)), "counting keeps the lifetime");
    bench.set(&name, i64::MAX.to_string().as_bytes(), MINUTE);
    assert_eq!(bench.incr(&name, 1), Incr::NotACount);
    assert_eq!(bench.incr(&name, -1), Incr::Value(i64::MAX - 1));
    bench.set(&name, &record(b"x"), MINUTE);
    assert_eq!(bench.incr(&name, 1), Incr::NotACount);
    bench.set(&name, b"0", MINUTE);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..100).for_each(|_| assert_ne!(bench.incr(&name, 1), Incr::Missing)));
        }
    });
    assert_eq!(bench.get(&name).as_deref(), Some(&b"400"[..]));
}

fn a_number_is_raised_and_never_lowered(bench: &Bench<'_>) {
    let name = bench.name(b"n");
    let raise = |number| bench.server().raise(&[(&name, number, MINUTE)]).expect("it answers");
    for (to, then) in [
        (5, "5"),
        (3, "5"),
        (1 << 53, "9007199254740992"),
        ((1 << 53) + 1, "9007199254740993"),
        (7, "9007199254740993"),
    ] {
        raise(to);
        assert_eq!(bench.get(&name).as_deref(), Some(then.as_bytes()));
    }
    bench.server().raise(&[(&name, 1, Lifetime::After(Duration::from_secs(3600)))]).expect("it answers");
    assert!(matches!(bench.left(&name), Left::Time(left) if left > Duration::from_secs(3000)));
    raise(1);
    assert!(matches!(bench.left(&name), Left::Time(left) if left > Duration::from_secs(3000)), "it was shortened");
    bench.server().raise(&[(&name, 1, Lifetime::Never)]).expect("it answers");
    raise(1);
    assert_eq!(bench.left(&name), Left::Never);
    bench.set(&name, &record(b"no number"), MINUTE);
    raise(9);
    assert_eq!(bench.get(&name).as_deref(), Some(&b"9"[..]));
    bench.set(&name, b"0", MINUTE);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || (0..50).for_each(|number| raise(number * 4 + thread)));
        }
    });
    assert_eq!(bench.get(&name).as_deref(), Some(&b"199"[..]));
}

fn expired_is_gone(bench: &Bench<'_>) {
    let (name, shortest) = (bench.name(b"a"), bench.checked.shortest);
    bench.set(&name, &record(b"x"), Lifetime::After(shortest));
    bench.set(&bench.name(b"n"), b"1", Lifetime::After(shortest));
    std::thread::sleep(shortest * 2 + Duration::from_millis(50));
    assert_eq!(bench.get(&name), None);
    assert!(!bench.remove(&name), "what has expired is not there");
    assert_eq!(bench.incr(&bench.name(b"n"), 1), Incr::Missing);
    assert_eq!(bench.add(&name, b"1", MINUTE), Put::Done);
    bench.set(&name, b"2", Lifetime::After(Duration::from_millis(1)));
    std::thread::sleep(shortest * 2 + Duration::from_millis(50));
    assert_eq!(bench.left(&name), Left::Absent);
}

fn touch_moves_the_expiry_both_ways(bench: &Bench<'_>) {
    let (names, shortest) = ([bench.name(b"a"), bench.name(b"b"), bench.name(b"c")], bench.checked.shortest);
    bench.set(&names[0], b"1", Lifetime::After(shortest));
    bench.set(&names[1], &record(b"2"), MINUTE);
    let touch = |name: &[u8], lifetime| bench.server().touch(&[name], lifetime).expect("it answers")[0];
    assert!(touch(&names[0], MINUTE));
    assert!(touch(&names[1], Lifetime::After(shortest)));
    assert!(!touch(&names[2], MINUTE));
    std::thread::sleep(shortest * 2 + Duration::from_millis(50));
    assert!(bench.get(&names[0]).is_some());
    assert_eq!(bench.get(&names[1]), None);
    assert!(touch(&names[0], Lifetime::Never));
    assert_eq!(bench.left(&names[0]), Left::Never);
}

fn scan_shows_what_begins_so(bench: &Bench<'_>) {
    if !bench.checked.scans {
        let refused = bench.server().scan(b"x", &mut |_| true);
        assert!(refused.is_err_and(|error| error.is_unsupported()), "it cannot, and has to say so");
        bench.set(&bench.name(b"k"), b"1", MINUTE);
        bench.server().empty().expect("it answers");
        assert_eq!(bench.get(&bench.name(b"k")), None);
        return;
    }
    for number in 0..1500 {
        let name = bench.name(format!("{}*[x]:{number}", ["a", "b"][number % 2]).as_bytes());
        bench.set(&name, b"1", MINUTE);
    }
    let mut seen = std::collections::BTreeSet::new();
    let beginning = bench.name(b"a*[x]:");
    bench
        .server()
        .scan(&beginning, &mut |name| {
            assert!(name.starts_with(&beginning));
            seen.insert(name.to_vec());
            true
        })
        .expect("it answers");
    assert_eq!(seen.len(), 750);
    assert!(bench.server().empty().is_err_and(|error| error.is_unsupported()), "a scan does better");
    let mut first = 0;
    let stopped = bench.server().scan(&beginning, &mut |_| {
        first += 1;
        false
    });
    assert!(stopped.is_ok());
    assert_eq!(first, 1);
}
