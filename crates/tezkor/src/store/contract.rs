//! The rules of a store, as functions over `&dyn Store`: every store runs them, now and later.
//! They never look inside a store. A rule that does not hold panics with what was expected.

use std::time::Duration;

use super::{Store, Write};
use crate::entry::{Found, Incr, Terms, Timeout, Value, When, Written};
use crate::event::Stats;
use crate::key::{Key, Space};

const MINUTE: Timeout = Timeout::After(Duration::from_secs(60));

/// A store that is checked, and what it offers beside its methods.
pub struct Checked<'s> {
    /// The store.
    pub store: &'s dyn Store,
    /// Moves the clock that expiry follows forward; `None` where nobody can turn it: rules about the time are left out then.
    pub advance: Option<&'s dyn Fn(Duration)>,
    /// Whether keys can be listed.
    pub scans: bool,
    /// Whether it is a far one. Those take entries of two prefixes for two, whatever their full keys are, and a removal tells
    /// of an entry that nobody could have read too: to know better would cost a round trip more.
    pub is_far: bool,
}

/// Checks all rules; each works in a location of its own.
pub fn check(checked: &Checked<'_>) {
    let rules: &[(&str, Rule)] = &[
        ("what was written is read", what_was_written_is_read),
        ("a batch answers in order", a_batch_answers_in_order),
        ("values of every size come back", values_of_every_size_come_back),
        ("any bytes are a key", any_bytes_are_a_key),
        ("add writes only where nothing is", add_writes_only_where_nothing_is),
        ("present writes only where something is", present_writes_only_where_something_is),
        ("unchanged writes only over what was seen", unchanged_writes_only_over_what_was_seen),
        ("unchanged sees that a count changed", unchanged_sees_that_a_count_changed),
        ("removed is gone", removed_is_gone),
        ("expired is gone", expired_is_gone),
        ("a timeout of zero removes", a_timeout_of_zero_removes),
        ("touch moves the expiry both ways", touch_moves_the_expiry_both_ways),
        ("counts add up and keep their timeout", counts_add_up_and_keep_their_timeout),
        ("locations and prefixes never meet", locations_and_prefixes_never_meet),
        ("clear empties one location", clear_empties_one_location),
        ("an entry goes with any of its tags", an_entry_goes_with_any_of_its_tags),
        ("what fits is removed from one prefix", what_fits_is_removed_from_one_prefix),
        ("a stale entry is not read", a_stale_entry_is_not_read),
        ("scan shows the live keys of one prefix", scan_shows_the_live_keys_of_one_prefix),
        ("what does not fit is refused and leaves nothing", what_does_not_fit_is_refused_and_leaves_nothing),
    ];
    for (name, rule) in rules {
        rule(&Bench { checked, location: format!("contract: {name}") });
    }
}

type Rule = fn(&Bench<'_>);

/// A store with a location of its own.
struct Bench<'c> {
    checked: &'c Checked<'c>,
    location: String,
}

impl Bench<'_> {
    fn store(&self) -> Sure<'_> {
        Sure(self.checked.store)
    }

    /// Turns the clock, if anybody can; else what depends on it is not to be asked.
    fn advance(&self, time: Duration) -> bool {
        if let Some(advance) = self.checked.advance {
            advance(time);
        }
        self.checked.advance.is_some()
    }

    fn key<'k>(&self, name: &'k [u8]) -> Key<'k> {
        self.key_in("", name)
    }

    fn key_in<'k>(&self, prefix: &str, name: &'k [u8]) -> Key<'k> {
        let space = self.store().space(self.location.as_bytes(), prefix.as_bytes());
        self.store().key(space, name)
    }

    fn set(&self, key: Key<'_>, bytes: &[u8], timeout: Timeout) -> Written {
        self.write(key, Value::Bytes { codec: 1, bytes }, timeout, When::Always)
    }

    fn write(&self, key: Key<'_>, value: Value<'_>, timeout: Timeout, when: When<'_>) -> Written {
        self.store().write(&[Write { key, value, terms: timeout.into() }], when)[0]
    }

    fn get(&self, key: Key<'_>) -> Option<Vec<u8>> {
        let mut result = None;
        self.store().read(&[key], &mut |_, found, bytes| {
            result = Some(if found.codec == 0 { found.count.to_le_bytes().to_vec() } else { bytes.to_vec() });
        });
        result
    }
}

/// A store that answers.
struct Sure<'s>(&'s dyn Store);

impl<'s> Sure<'s> {
    fn space(&self, location: &[u8], prefix: &[u8]) -> Space {
        self.0.space(location, prefix)
    }

    fn key<'k>(&self, space: Space, bytes: &'k [u8]) -> Key<'k> {
        self.0.key(space, bytes)
    }

    fn stats(&self) -> Stats {
        self.0.stats()
    }

    fn read(&self, keys: &[Key<'_>], each: &mut dyn FnMut(usize, Found, &[u8])) {
        self.0.read(keys, each).expect("it answers");
    }

    fn write(&self, writes: &[Write<'_>], when: When<'_>) -> Vec<Written> {
        self.0.write(writes, when).expect("it answers")
    }

    fn remove(&self, keys: &[Key<'_>]) -> Vec<bool> {
        self.0.remove(keys).expect("it answers")
    }

    fn touch(&self, keys: &[Key<'_>], timeout: Timeout) -> Vec<bool> {
        self.0.touch(keys, timeout).expect("it answers")
    }

    fn count(&self, key: &Key<'_>, delta: i64) -> Incr {
        self.0.count(key, delta).expect("it answers")
    }

    fn scan(&self, space: Space, each: &mut dyn FnMut(&[u8]) -> bool) {
        self.0.scan(space, each).expect("it answers");
    }

    fn remove_where(&self, space: Space, fits: &dyn Fn(&[u8]) -> bool) -> u64 {
        self.0.remove_where(space, fits).expect("it answers")
    }

    fn invalidate_tags(&self, space: Space, tags: &[&[u8]]) {
        self.0.invalidate_tags(space, tags).expect("it answers");
    }

    fn clear(&self, space: Space) {
        self.0.clear(space).expect("it answers");
    }

    fn clear_prefix(&self, space: Space) {
        self.0.clear_prefix(space).expect("it answers");
    }
}

fn is_stored(written: Written) -> bool {
    matches!(written, Written::Stored(_))
}

fn what_was_written_is_read(bench: &Bench<'_>) {
    let key = bench.key(b"a");
    assert_eq!(bench.get(key), None);
    assert!(is_stored(bench.set(key, b"one", MINUTE)));
    assert_eq!(bench.get(key).as_deref(), Some(&b"one"[..]));
    assert!(is_stored(bench.set(key, b"another", Timeout::Never)));
    assert_eq!(bench.get(key).as_deref(), Some(&b"another"[..]));
}

fn a_batch_answers_in_order(bench: &Bench<'_>) {
    let names: Vec<String> = (0..100).map(|number| format!("key {number}")).collect();
    let keys: Vec<Key<'_>> = names.iter().map(|name| bench.key(name.as_bytes())).collect();
    let writes: Vec<Write<'_>> = keys
        .iter()
        .zip(&names)
        .step_by(2)
        .map(|(key, name)| Write {
            key: *key,
            value: Value::Bytes { codec: 2, bytes: name.as_bytes() },
            terms: MINUTE.into(),
        })
        .collect();
    assert!(bench.store().write(&writes, When::Always).into_iter().all(is_stored));
    let mut seen = Vec::new();
    bench.store().read(&keys, &mut |place, found, bytes| {
        assert_eq!((found.codec, bytes), (2, names[place].as_bytes()));
        seen.push(place);
    });
    assert_eq!(seen, (0..100).step_by(2).collect::<Vec<_>>());
    assert_eq!(bench.store().remove(&keys).iter().filter(|removed| **removed).count(), 50);
}

fn values_of_every_size_come_back(bench: &Bench<'_>) {
    let largest = bench.store().stats().largest_value_bytes as usize;
    let sizes = (0..40).chain([255, 256, 1000, 4095, 4096, 4097, 16_300, 16_384, 70_001, 300_000, largest]);
    for size in sizes.filter(|size| *size <= largest) {
        let bytes: Vec<u8> = (0..size).map(|place| (place * 7 + size) as u8).collect();
        let key = bench.key(b"sized");
        assert!(is_stored(bench.set(key, &bytes, MINUTE)), "{size}");
        assert!(bench.get(key).is_some_and(|found| found == bytes), "{size}");
    }
}

fn any_bytes_are_a_key(bench: &Bench<'_>) {
    let keys: [&[u8]; 8] = [b"", b"\0", b"\0\0", b"a b\r\n", "ключ".as_bytes(), &[0xff; 8], &[0xff; 9], &[b'k'; 8000]];
    for key in keys {
        assert!(is_stored(bench.set(bench.key(key), key, MINUTE)));
    }
    for key in keys {
        assert_eq!(bench.get(bench.key(key)).as_deref(), Some(key));
    }
}

fn add_writes_only_where_nothing_is(bench: &Bench<'_>) {
    let key = bench.key(b"a");
    let one = Value::Bytes { codec: 1, bytes: b"one" };
    let two = Value::Bytes { codec: 1, bytes: b"two" };
    assert!(is_stored(bench.write(key, one, MINUTE, When::Absent)));
    assert!(matches!(bench.write(key, two, Timeout::Never, When::Absent), Written::Held));
    assert_eq!(bench.get(key).as_deref(), Some(&b"one"[..]));
    if bench.advance(Duration::from_secs(61)) {
        assert_eq!(bench.get(key), None, "an add that was held must not change the timeout");
        assert!(is_stored(bench.write(key, two, MINUTE, When::Absent)), "what has expired is absent");
    }
    assert!(matches!(
        bench.write(bench.key(b"b"), one, Timeout::After(Duration::ZERO), When::Absent),
        Written::Removed
    ));
    assert_eq!(bench.get(bench.key(b"b")), None);
}

fn present_writes_only_where_something_is(bench: &Bench<'_>) {
    let key = bench.key(b"a");
    let value = Value::Bytes { codec: 1, bytes: b"x" };
    assert!(matches!(bench.write(key, value, MINUTE, When::Present), Written::Held));
    assert_eq!(bench.get(key), None);
    bench.set(key, b"y", MINUTE);
    assert!(is_stored(bench.write(key, value, MINUTE, When::Present)));
    assert_eq!(bench.get(key).as_deref(), Some(&b"x"[..]));
}

fn unchanged_writes_only_over_what_was_seen(bench: &Bench<'_>) {
    let key = bench.key(b"a");
    let value = Value::Bytes { codec: 1, bytes: b"new" };
    let Written::Stored(stamp) = bench.set(key, b"seen", MINUTE) else { panic!("refused") };
    assert!(is_stored(bench.write(key, value, Timeout::Keep, When::Unchanged(&stamp))));
    assert!(matches!(bench.write(key, value, MINUTE, When::Unchanged(&stamp)), Written::Held));
    if bench.advance(Duration::from_secs(61)) {
        assert_eq!(bench.get(key), None, "Keep keeps the timeout");
    }
    assert!(matches!(bench.write(key, value, MINUTE, When::Unchanged(&stamp)), Written::Held));
}

fn unchanged_sees_that_a_count_changed(bench: &Bench<'_>) {
    let key = bench.key(b"count");
    let stamp = |number| {
        let mut stamp = None;
        bench.store().read(&[key], &mut |_, found, _| {
            assert_eq!(found.count, number);
            stamp = Some(found.stamp);
        });
        stamp.expect("it is there")
    };
    assert!(is_stored(bench.write(key, Value::Count(5), MINUTE, When::Always)));
    let seen = stamp(5);
    assert_eq!(bench.store().count(&key, 1), Incr::Value(6));
    assert!(matches!(bench.write(key, Value::Count(15), MINUTE, When::Unchanged(&seen)), Written::Held));
    assert_eq!(bench.store().count(&key, 1), Incr::Value(7));
    let seen = stamp(7);
    assert!(is_stored(bench.write(key, Value::Count(17), MINUTE, When::Unchanged(&seen))));
    assert_eq!(bench.store().count(&key, 1), Incr::Value(18));
}

fn removed_is_gone(bench: &Bench<'_>) {
    let key = bench.key(b"a");
    bench.set(key, b"x", MINUTE);
    assert_eq!(bench.store().remove(&[key]), [true]);
    assert_eq!(bench.store().remove(&[key]), [false]);
    assert_eq!(bench.get(key), None);
    bench.set(key, b"y", MINUTE);
    assert_eq!(bench.get(key).as_deref(), Some(&b"y"[..]), "what is set after a removal is there");
}

fn expired_is_gone(bench: &Bench<'_>) {
    let (short, long, never) = (bench.key(b"short"), bench.key(b"long"), bench.key(b"never"));
    bench.set(short, b"x", Timeout::After(Duration::from_millis(500)));
    bench.set(long, b"x", MINUTE);
    bench.set(never, b"x", Timeout::Never);
    if !bench.advance(Duration::from_millis(501)) {
        return;
    }
    assert_eq!((bench.get(short), bench.get(long).is_some()), (None, true));
    bench.advance(Duration::from_secs(3600 * 24 * 365 * 50));
    assert_eq!((bench.get(long), bench.get(never).is_some()), (None, true));
    assert_eq!(bench.store().remove(&[long]), [false], "what has expired was not there");
}

fn a_timeout_of_zero_removes(bench: &Bench<'_>) {
    let key = bench.key(b"a");
    bench.set(key, b"x", MINUTE);
    assert!(matches!(bench.set(key, b"y", Timeout::After(Duration::ZERO)), Written::Removed));
    assert_eq!(bench.get(key), None);
    bench.set(key, b"x", MINUTE);
    assert_eq!(bench.store().touch(&[key], Timeout::After(Duration::ZERO)), [true]);
    assert_eq!(bench.get(key), None);
}

fn touch_moves_the_expiry_both_ways(bench: &Bench<'_>) {
    let (a, b, count) = (bench.key(b"a"), bench.key(b"b"), bench.key(b"count"));
    assert_eq!(bench.store().touch(&[a], MINUTE), [false]);
    bench.set(a, b"x", Timeout::After(Duration::from_secs(10)));
    bench.set(b, b"x", MINUTE);
    bench.write(count, Value::Count(5), MINUTE, When::Always);
    assert_eq!(bench.store().touch(&[a], MINUTE), [true]);
    assert_eq!(bench.store().touch(&[b, count], Timeout::After(Duration::from_secs(10))), [true, true]);
    if !bench.advance(Duration::from_secs(11)) {
        return;
    }
    assert_eq!((bench.get(a).is_some(), bench.get(b), bench.get(count)), (true, None, None));
    assert_eq!(bench.store().touch(&[a], Timeout::Never), [true]);
    bench.advance(Duration::from_secs(1 << 32));
    assert_eq!(bench.get(a).as_deref(), Some(&b"x"[..]));
}

fn counts_add_up_and_keep_their_timeout(bench: &Bench<'_>) {
    let key = bench.key(b"n");
    assert_eq!(bench.store().count(&key, 1), Incr::Missing);
    bench.write(key, Value::Count(40), MINUTE, When::Always);
    assert_eq!(bench.store().count(&key, 3), Incr::Value(43));
    assert_eq!(bench.store().count(&key, -44), Incr::Value(-1));
    assert_eq!(bench.get(key), Some((-1i64).to_le_bytes().to_vec()));
    for number in [1 << 46, (1 << 46) - 1, -(1 << 46), i64::MAX - 1, i64::MIN] {
        bench.write(key, Value::Count(number), MINUTE, When::Always);
        assert_eq!(bench.get(key), Some(number.to_le_bytes().to_vec()));
        assert_eq!(bench.store().count(&key, 1), Incr::Value(number + 1));
        assert_eq!(bench.store().count(&key, 0), Incr::Value(number + 1));
    }
    bench.write(key, Value::Count(i64::MAX), MINUTE, When::Always);
    assert_eq!(bench.store().count(&key, 1), Incr::NotACount);
    bench.set(key, b"text", MINUTE);
    assert_eq!(bench.store().count(&key, 1), Incr::NotACount);
    bench.write(key, Value::Count(1), MINUTE, When::Always);
    if bench.advance(Duration::from_secs(40)) {
        assert_eq!(bench.store().count(&key, 1), Incr::Value(2));
        bench.advance(Duration::from_secs(21));
        assert_eq!(bench.store().count(&key, 1), Incr::Missing, "counting keeps the timeout");
    }
}

fn locations_and_prefixes_never_meet(bench: &Bench<'_>) {
    let elsewhere = Bench { checked: bench.checked, location: format!("{} elsewhere", bench.location) };
    bench.set(bench.key(b"k"), b"here", MINUTE);
    assert_eq!(elsewhere.get(elsewhere.key(b"k")), None);
    elsewhere.set(elsewhere.key(b"k"), b"there", MINUTE);
    assert_eq!(bench.get(bench.key(b"k")).as_deref(), Some(&b"here"[..]));
    // Within a location the full key alone identifies an entry, as in Django: a prefix is part of it or it is not.
    if !bench.checked.is_far {
        assert_eq!(bench.get(bench.key_in("p", b"k")).as_deref(), Some(&b"here"[..]));
    }
}

fn clear_empties_one_location(bench: &Bench<'_>) {
    if !bench.checked.scans {
        return;
    }
    let elsewhere = Bench { checked: bench.checked, location: format!("{} elsewhere", bench.location) };
    bench.set(bench.key(b"k"), b"x", Timeout::Never);
    bench.set(bench.key_in("p", b"p:k"), b"x", Timeout::Never);
    bench.set(bench.key_in("q", b"q:k"), b"x", Timeout::Never);
    elsewhere.set(elsewhere.key(b"k"), b"x", Timeout::Never);
    bench.store().clear_prefix(bench.key_in("p", b"").space());
    assert_eq!(bench.get(bench.key_in("p", b"p:k")), None);
    assert!(bench.get(bench.key(b"k")).is_some() && bench.get(bench.key_in("q", b"q:k")).is_some());
    bench.store().clear(bench.key(b"").space());
    assert_eq!((bench.get(bench.key(b"k")), bench.get(bench.key_in("q", b"q:k"))), (None, None));
    assert_eq!(bench.store().count(&bench.key(b"k"), 1), Incr::Missing);
    assert!(elsewhere.get(elsewhere.key(b"k")).is_some());
    bench.set(bench.key(b"k"), b"y", Timeout::Never);
    assert_eq!(bench.get(bench.key(b"k")).as_deref(), Some(&b"y"[..]));
}

fn tagged(bench: &Bench<'_>, key: Key<'_>, tags: &[&[u8]]) {
    let terms = Terms { tags, ..MINUTE.into() };
    let value = Value::Bytes { codec: 1, bytes: b"x" };
    assert!(is_stored(bench.store().write(&[Write { key, value, terms }], When::Always)[0]));
}

fn an_entry_goes_with_any_of_its_tags(bench: &Bench<'_>) {
    let names: Vec<Vec<u8>> = (0..64).map(|number| format!("tag {number}").into_bytes()).collect();
    let all: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    let key = bench.key(b"k");
    for tag in [all[0], all[31], all[63]] {
        tagged(bench, key, &all);
        tagged(bench, bench.key(b"other"), &[b"another"]);
        tagged(bench, bench.key_in("p", b"p:k"), &all);
        bench.store().invalidate_tags(key.space(), &[b"unrelated"]);
        assert!(bench.get(key).is_some());
        bench.store().invalidate_tags(key.space(), &[b"unrelated too", tag]);
        assert_eq!(bench.get(key), None);
        assert!(!bench.store().touch(&[key], MINUTE)[0]);
        assert!(!bench.store().remove(&[key])[0] || bench.checked.is_far);
        assert!(bench.get(bench.key(b"other")).is_some(), "another tag");
        assert!(bench.get(bench.key_in("p", b"p:k")).is_some(), "a tag belongs to a prefix");
    }
    // What is written after an invalidation is fresh, and counts go with their tags like others.
    tagged(bench, key, &[all[0]]);
    assert!(bench.get(key).is_some());
    let terms = Terms { tags: &[all[0]], ..MINUTE.into() };
    bench.store().write(&[Write { key, value: Value::Count(1), terms }], When::Always);
    assert_eq!(bench.store().count(&key, 1), Incr::Value(2));
    bench.store().invalidate_tags(key.space(), &[all[0]]);
    assert_eq!(bench.store().count(&key, 1), Incr::Missing);
}

fn what_fits_is_removed_from_one_prefix(bench: &Bench<'_>) {
    if !bench.checked.scans {
        return;
    }
    let names: Vec<String> = (0..200).map(|number| format!("{}:{number}", ["a", "b"][number % 2])).collect();
    for name in &names {
        bench.set(bench.key(name.as_bytes()), b"x", MINUTE);
        bench.set(bench.key_in("p", format!("p:{name}").as_bytes()), b"x", MINUTE);
    }
    let space = bench.key(b"").space();
    assert_eq!(bench.store().remove_where(space, &|key| key.starts_with(b"a:")), 100);
    for (number, name) in names.iter().enumerate() {
        assert_eq!(bench.get(bench.key(name.as_bytes())).is_some(), number % 2 == 1);
        assert!(bench.get(bench.key_in("p", format!("p:{name}").as_bytes())).is_some());
    }
    assert_eq!(bench.store().remove_where(space, &|_| true), 100);
}

fn a_stale_entry_is_not_read(bench: &Bench<'_>) {
    let key = bench.key(b"k");
    let terms = Terms { stale: Duration::from_secs(600), ..MINUTE.into() };
    let value = Value::Bytes { codec: 1, bytes: b"x" };
    bench.store().write(&[Write { key, value, terms }], When::Always);
    assert!(bench.get(key).is_some());
    if !bench.advance(Duration::from_secs(61)) {
        return;
    }
    assert_eq!(bench.get(key), None);
    assert!(!bench.store().touch(&[key], MINUTE)[0], "what has expired is not there");
    assert!(is_stored(bench.write(key, value, MINUTE, When::Absent)));
}

fn scan_shows_the_live_keys_of_one_prefix(bench: &Bench<'_>) {
    if !bench.checked.scans {
        return;
    }
    for number in 0..50 {
        let name = format!("p:{number}");
        let timeout = if number < 40 { Timeout::Never } else { Timeout::After(Duration::from_secs(1)) };
        bench.set(bench.key_in("p", name.as_bytes()), b"x", timeout);
    }
    bench.set(bench.key_in("q", b"q:0"), b"x", Timeout::Never);
    bench.store().remove(&[bench.key_in("p", b"p:0")]);
    if !bench.advance(Duration::from_secs(2)) {
        (40..50).for_each(|number| drop(bench.store().remove(&[bench.key_in("p", format!("p:{number}").as_bytes())])));
    }
    let mut seen = Vec::new();
    bench.store().scan(bench.key_in("p", b"").space(), &mut |key| {
        seen.push(String::from_utf8_lossy(key).into_owned());
        true
    });
    seen.sort();
    let mut expected: Vec<String> = (1..40).map(|number| format!("p:{number}")).collect();
    expected.sort();
    assert_eq!(seen, expected);
    let mut first = 0;
    bench.store().scan(bench.key_in("p", b"").space(), &mut |_| {
        first += 1;
        false
    });
    assert_eq!(first, 1);
}

fn what_does_not_fit_is_refused_and_leaves_nothing(bench: &Bench<'_>) {
    let largest = bench.store().stats().largest_value_bytes as usize;
    let key = bench.key(b"big");
    bench.set(key, b"small", MINUTE);
    assert!(matches!(bench.set(key, &vec![1; largest + 1], MINUTE), Written::Refused));
    assert_eq!(bench.get(key), None, "an old value behind a refused write would be stale");
    assert!(is_stored(bench.set(key, b"small", MINUTE)));
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::clock::Clock;
    use crate::store::segment::SegmentStore;
    use crate::store::segment::attach::Place;

    #[test]
    fn private_memory_keeps_the_contract() {
        for size in [1 << 20, 16 << 20, 300 << 20] {
            let store = SegmentStore::open(Place::Private, size, Clock::Manual).expect("memory");
            let now = Cell::new(1_000_000);
            store.set_time(now.get());
            let advance = |time: Duration| {
                now.set(now.get() + time.as_millis() as u64);
                store.set_time(now.get());
            };
            check(&Checked { store: &store, advance: Some(&advance), scans: true, is_far: false });
            assert_eq!(store.validate(), Vec::<String>::new());
        }
    }
}
