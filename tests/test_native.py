"""The native cache: Django's semantics of keys, timeouts, counters and limits, below the Django backend."""

import decimal
import math
import random
import shutil
import subprocess
import sys
import threading
import time

import pytest

from tezkor import _native

DEFAULT = object()


def cache(**options):
    options.setdefault("default_timeout", DEFAULT)
    return _native.Cache(f"memory://native-{random.getrandbits(64)}", **options)


@pytest.fixture
def now(monkeypatch):
    """A clock to turn; caches with clock="python" follow it."""

    class Now:
        seconds = 1_700_000_000.0

        def __call__(self):
            return self.seconds

    turned = Now()
    monkeypatch.setattr(time, "time", turned)
    return turned


def test_values_come_back_and_misses_give_the_default():
    store = cache()
    default = object()
    assert store.get("k") is None
    assert store.get("k", default) is default
    assert store.set("k", None) is None
    assert store.get("k", default) is None
    assert store.has_key("k")
    assert store.delete("k") is True
    assert store.delete("k") is False
    assert not store.has_key("k")


def test_many_at_once():
    store = cache()
    assert store.set_many({"a": 1, "b": "x", 3: None}) == []
    assert store.get_many(iter(["a", "b", 3, "nothing"])) == {"a": 1, "b": "x", 3: None}
    assert store.delete_many(iter(["a", "b"])) is None
    assert store.get_many(["a", "b", 3]) == {3: None}
    assert store.set_many({"c": 1, "d": 2}, 0) == []
    assert store.get_many(["c", "d"]) == {}
    assert store.delete_many([]) is None
    assert store.set_many({}) == []


def test_add_stores_only_where_nothing_is():
    store = cache()
    assert store.add("k", 1) is True
    assert store.add("k", 2) is False
    assert store.get("k") == 1
    assert store.add("text", "x") is True
    assert store.add("text", "y") is False
    assert store.get("text") == "x"


@pytest.mark.parametrize("none", [0, 0.0, -1, -0.5, -(10**400), False])
def test_a_timeout_of_zero_or_less_expires_at_once(none):
    store = cache()
    store.set("k", "x")
    store.set("k", "y", none)
    assert store.get("k") is None
    assert store.add("k", "x", none) is True
    assert store.get("k") is None
    store.set("k", "x")
    assert store.add("k", "y", none) is False
    assert store.get("k") == "x"
    assert store.touch("k", none) is True
    assert store.get("k") is None
    assert store.touch("k", none) is False


@pytest.mark.parametrize("forever", [None, 10**400, 1e300])
def test_timeouts_without_an_end(now, forever):
    store = cache(clock="python")
    store.set("k", "x", forever)
    store.set("n", 5, forever)
    now.seconds += 10**9
    assert store.get("k") == "x"
    assert store.incr("n") == 6
    assert store.explain("k")["expires"] is None


@pytest.mark.parametrize("timeout", [math.inf, -math.inf, math.nan])
def test_a_timeout_is_a_finite_number(timeout):
    """What is no number was for ever."""
    store = cache()
    store.set("k", "x")
    for call in (lambda: store.set("k", "y", timeout), lambda: store.touch("k", timeout)):
        with pytest.raises(ValueError, match=f"timeout is {timeout}: write a number of seconds, or None"):
            call()
    assert store.get("k") == "x"


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [(2, 2), (True, 1), (0.25, 0.25), (decimal.Decimal("1.5"), 1.5), (1.9999, 2.0), (DEFAULT, 7)],
)
def test_timeouts_are_kept_to_the_millisecond(now, timeout, seconds):
    store = cache(clock="python", timeout=7)
    for key, value in (("text", "x"), ("count", 1), ("list", [1])):
        store.set(key, value, timeout)
    assert store.add("added", 1, timeout)
    now.seconds += seconds - 0.002
    assert store.get_many(["text", "count", "list", "added"]) == {
        "text": "x",
        "count": 1,
        "list": [1],
        "added": 1,
    }
    now.seconds += 0.004
    assert store.get_many(["text", "count", "list", "added"]) == {}
    assert store.add("text", "new", timeout) is True


def test_the_default_timeout_is_the_aliass(now):
    store = cache(clock="python", timeout=10)
    store.set("omitted", 1)
    store.set("given", 1, DEFAULT)
    never = cache(clock="python", timeout=None)
    never.set("k", 1)
    now.seconds += 11
    assert store.get_many(["omitted", "given"]) == {}
    assert never.get("k") == 1
    zero = cache(timeout=0)
    zero.set("k", 1)
    assert zero.get("k") is None


@pytest.mark.parametrize("wrong", ["5", b"5", [], {}, object()])
def test_a_timeout_of_another_type_is_an_error_that_changes_nothing(wrong):
    store = cache()
    store.set("k", "x")
    for call in (
        lambda: store.set("k", "y", wrong),
        lambda: store.touch("k", wrong),
        lambda: store.add("n", 1, wrong),
    ):
        with pytest.raises(TypeError, match="timeout must be a number of seconds"):
            call()
    assert store.get("k") == "x"


def test_touch_changes_the_timeout_of_what_is_there(now):
    store = cache(clock="python")
    assert store.touch("k", 10) is False
    for key, value in (("text", "x"), ("count", 1), ("list", [1])):
        store.set(key, value, 10)
        assert store.get(key) == value
        assert store.touch(key, 100) is True
    now.seconds += 50
    assert store.get_many(["text", "count", "list"]) == {"text": "x", "count": 1, "list": [1]}
    for key in ("text", "count", "list"):
        assert store.touch(key, 1) is True
    now.seconds += 2
    assert store.get_many(["text", "count", "list"]) == {}
    store.set("k", 1, 10)
    assert store.touch("k") is True
    store.touch("k", None)
    now.seconds += 10**8
    assert store.get("k") == 1


def test_incr_adds_and_keeps_the_timeout(now):
    store = cache(clock="python", prefix="p")
    for first, delta, total in [
        (1, 1, 2),
        (5, -7, -2),
        (2**63 - 1, 1, 2**63),
        (-(2**63), -1, -(2**63) - 1),
        (2**70, 5, 2**70 + 5),
        (1, 2**80, 2**80 + 1),
        (True, 1, 2),
        (1, True, 2),
        (1.5, 1, 2.5),
        (1, 0.5, 1.5),
        (decimal.Decimal("0.1"), 1, decimal.Decimal("1.1")),
        ("a", "b", "ab"),
        ([1], [2], [1, 2]),
    ]:
        store.set("k", first, 10)
        got = store.incr("k", delta)
        assert (got, type(got)) == (total, type(total))
        assert (store.get("k"), type(store.get("k"))) == (total, type(total))
        now.seconds += 9.9
        assert store.get("k") == total
        now.seconds += 0.2
        assert store.get("k") is None
    store.set("k", 1)
    assert store.incr("k") == 2


def test_incr_of_what_is_not_there_or_no_number():
    store = cache(prefix="p")
    with pytest.raises(ValueError, match=r"^Key 'p:1:missing' not found$"):
        store.incr("missing")
    with pytest.raises(ValueError, match=r"^Key 'p:3:missing' not found$"):
        store.incr("missing", 2.5, 3)
    for value in (None, "text", {}, b""):
        store.set("k", value)
        with pytest.raises(TypeError):
            store.incr("k")
        assert store.get("k") == value


def test_incr_of_threads_loses_nothing():
    store = cache()
    store.set("whole", 0)
    store.set("half", 0.5)

    def add():
        for _ in range(300):
            store.incr("whole", 2)
            store.incr("half")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (store.get("whole"), store.get("half")) == (2400, 1200.5)


def test_bools_and_numbers_keep_their_types():
    store = cache()
    for value in (True, False, 1, 0, 1.0, 2**63 - 1, -(2**63), 2**63):
        for _ in range(2):
            store.set("k", value)
            got = store.get("k")
            assert (got, type(got)) == (value, type(value))


class Odd:
    def __str__(self):
        return "odd"


@pytest.mark.parametrize(
    ("key", "version", "full"),
    [
        ("k", None, "p:1:k"),
        ("k", 2, "p:2:k"),
        ("k", "v", "p:v:k"),
        ("k", True, "p:True:k"),
        ("k", -5, "p:-5:k"),
        (7, None, "p:1:7"),
        (2**70, None, f"p:1:{2**70}"),
        (1.5, None, "p:1:1.5"),
        (None, None, "p:1:None"),
        (b"x", None, "p:1:b'x'"),
        (("a", 1), None, "p:1:('a', 1)"),
        (Odd(), None, "p:1:odd"),
        ("oʻzbek", None, "p:1:oʻzbek"),
        ("\ud800x", None, "p:1:\ud800x"),
        ("", None, "p:1:"),
    ],
)
def test_keys_are_composed_as_djangos(key, version, full):
    store = cache(prefix="p")
    store.set(key, "x", None, version)
    assert store.get(key, None, version) == "x"
    assert store.explain(key, version)["key"] == full == f"p:{1 if version is None else version}:{key}"
    assert store.keys(None, version) == [str(key)]
    assert store.delete(key, version)


def test_a_key_of_another_prefix_or_version_is_another_key():
    name = f"memory://native-{random.getrandbits(64)}"
    one, two = _native.Cache(name, prefix="a"), _native.Cache(name, prefix="b", version=2)
    one.set("k", "one")
    two.set("k", "two")
    assert (one.get("k"), two.get("k"), one.get("k", None, 2)) == ("one", "two", None)
    assert (one.keys(), two.keys(), two.keys(None, 1)) == (["k"], ["k"], [])
    two.clear_prefix()
    assert (one.get("k"), two.get("k")) == ("one", None)
    two.set("k", "two")
    one.clear()
    assert (one.get("k"), two.get("k")) == (None, None)


def test_a_key_function_makes_the_keys():
    calls = []

    def function(key, prefix, version):
        calls.append((key, prefix, version))
        return f"{version}/{prefix}/{key}"

    store = cache(prefix="p", version=3, key_function=function)
    store.set("k", 1)
    assert store.get("k", None, 4) is None
    assert calls == [("k", "p", 3), ("k", "p", 4)]
    assert store.keys() == ["3/p/k"]
    with pytest.raises(TypeError, match="KEY_FUNCTION must return a str"):
        cache(key_function=lambda *parts: parts).get("k")
    with pytest.raises(ZeroDivisionError):
        cache(key_function=lambda *parts: 1 / 0).get("k")


@pytest.mark.parametrize(
    "key", ["with space", "tab\t", "del\x7f", "x" * 300, "new\nline", "nul\0", "é" * 200]
)
def test_suspicious_keys_are_shown_to_the_check(key):
    seen = []
    store = cache(validate_key=seen.append)
    store.set_many({key: 1, "plain": 2})
    store.get_many([key, "plain"])
    store.delete(key)
    assert seen == [f":1:{key}"] * 3


def test_a_check_that_raises_stops_the_call():
    def refuse(key):
        raise KeyError(key)

    store = cache(validate_key=refuse)
    with pytest.raises(KeyError):
        store.set("a b", 1)
    assert store.keys() == []


def test_a_delta_of_none_is_an_error():
    store = cache()
    store.set("k", 1)
    with pytest.raises(TypeError):
        store.incr("k", None)
    assert store.get("k") == 1


def test_what_cannot_be_stored_leaves_the_old_value():
    store = cache()
    store.set("k", "old")
    for call in (store.set, store.add):
        with pytest.raises((AttributeError, TypeError)):
            call("k", lambda: None)
    assert store.get("k") == "old"


def test_a_value_that_does_not_fit_is_reported_and_the_old_one_gone():
    store = cache(size_bytes=1 << 20)
    large = random.Random(1).randbytes(1 << 20)
    store.set_many({"k": "old", "other": "old"})
    assert store.set_many({"k": large, "fits": 1}) == ["k"]
    assert store.set("other", large) is None
    assert store.get_many(["k", "other", "fits"]) == {"fits": 1}
    assert store.add("new", large) is False


def test_decoded_values_follow_other_caches_of_the_location():
    name = f"memory://native-{random.getrandbits(64)}"
    one, two = _native.Cache(name), _native.Cache(name)
    for old, new in [("text", "new"), ([1], [2]), ("text", 5), ({"a": 1}, None)]:
        one.set("k", old)
        assert (one.get("k"), two.get("k"), one.get("k")) == (old, old, old)
        two.set("k", new)
        assert (one.get("k"), two.get("k")) == (new, new)
        two.delete("k")
        assert (one.get("k", "gone"), two.get("k", "gone")) == ("gone", "gone")
    one.set("k", "text")
    two.clear()
    assert one.get("k") is None


def test_max_entries_and_cull_frequency_are_djangos(now):
    store = cache(max_entries=30, cull_frequency=3)
    for number in range(1, 50):
        store.set(f"cull{number}", "value", 1000)
    assert sum(store.has_key(f"cull{number}") for number in range(1, 50)) == 29
    store = cache(max_entries=30, cull_frequency=0)
    for number in range(1, 50):
        store.set(f"cull{number}", "value", 1000)
    assert sum(store.has_key(f"cull{number}") for number in range(1, 50)) == 19
    store = cache(max_entries=3, cull_frequency=2)
    for key in "abc":
        store.set(key, key)
    assert store.get("a") == "a"
    store.set("d", "d")
    assert sorted(store.keys()) == ["a", "c", "d"]
    store.clear()
    assert store.add("e", 1)
    assert store.keys() == ["e"]


@pytest.mark.parametrize(
    ("text", "parts", "url"),
    [
        ("", ("shared", None, None, None), "shared://"),
        ("shared://", ("shared", None, None, None), "shared://"),
        ("shared://shop?size=8MiB", ("shared", "shop", None, 8 << 20), "shared://shop"),
        ("memory://", ("memory", None, None, None), "memory://"),
        ("memory://x", ("memory", "x", None, None), "memory://x"),
        ("file:///var/cache/x?size=1GiB", ("file", None, "/var/cache/x", 1 << 30), "file:///var/cache/x"),
        ("unique-snowflake", ("shared", "unique-snowflake", None, None), "unique-snowflake"),
        ("shared?size=4MiB", ("shared", "shared", None, 4 << 20), "shared"),
    ],
)
def test_locations_are_taken_apart(text, parts, url):
    assert (
        tuple(_native.parse_location(text)[name] for name in ("scheme", "name", "path", "size_bytes"))
        == parts
    )
    if parts[0] == "memory":
        assert _native.Cache(text).location() == url


@pytest.mark.parametrize(
    "text", ["redis://x", "file://relative", "shared://x?size=much", "shared://../x", "x?sise=1"]
)
def test_a_wrong_location_is_an_error_that_says_what_to_write(text):
    for call in (_native.parse_location, _native.Cache):
        with pytest.raises(ValueError, match=r"LOCATION|size|region name"):
            call(text)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"clock": "sun"}, "'boot', 'wall' or 'python'"),
        ({"size_bytes": 5}, "from 1 MiB"),
        ({"timeout": "5"}, "number of seconds"),
    ],
)
def test_wrong_options_are_errors_that_name_the_fix(options, text):
    with pytest.raises((TypeError, ValueError), match=text):
        _native.Cache("memory://wrong", **options)
    with pytest.raises(ValueError, match="memory:// only"):
        _native.Cache("shared://wrong", clock="python")


def test_explain_tells_the_story_of_a_key(now):
    store = cache(clock="python", timeout=60)
    story = store.explain("k")
    assert (story["found"], story["key"], story["elsewhere"]) == (False, ":1:k", [])
    store.set("k", "x", 60, 2)
    assert store.explain("k")["elsewhere"] == [":2:k"]
    store.set("k", {"a": 1})
    story = store.explain("k")
    assert story["found"]
    assert (story["codec"], story["compressed"], story["decoded_here"]) == ("tagged", None, False)
    assert abs(story["created"] - now.seconds) < 1
    assert abs(story["expires"] - now.seconds - 60) < 1
    store.get("k")
    assert store.explain("k")["decoded_here"]
    store.set("k", 1)
    assert store.explain("k")["codec"] == "count"
    store.set("k", 1j)
    assert store.explain("k")["codec"] == "pickle"
    store.delete("k")
    assert store.explain("k")["reason"] == "deleted"


@pytest.mark.parametrize(
    ("remove", "reason"),
    [
        (lambda store: store.delete("k"), "deleted"),
        (lambda store: store.set("k", 2, 0), "deleted"),
        (lambda store: store.set_many({"k": 2}, -1), "deleted"),
        (lambda store: store.touch("k", 0), "deleted"),
        (lambda store: store.clear(), "its location, prefix or a tag was cleared"),
        (lambda store: (store.set("k", 2, 0.01), time.sleep(0.02)), "expired"),
    ],
)
def test_explain_tells_why_a_key_is_gone(remove, reason):
    store = cache()
    store.set("k", 1)
    remove(store)
    assert store.get("k") is None
    assert store.explain("k")["reason"] == reason


def test_explain_takes_no_key_for_a_deleted_one_because_others_were():
    store = cache(size_bytes=1 << 20)
    for number in range(20_000):
        store.delete(f"other{number}")
    store.delete("k")
    assert store.explain("k")["reason"] == "deleted"
    reasons = {store.explain(f"never{number}")["reason"] for number in range(300)}
    assert reasons == {"deleted, or never set: too many others were deleted since to tell"}


def test_explain_tells_what_was_evicted_from_a_region_that_is_new():
    store = cache(size_bytes=2 << 20)
    for number in range(2_500):
        store.set(f"k{number}", b"x" * 1000)
    gone = [number for number in range(2_500) if not store.has_key(f"k{number}")]
    told = [store.explain(f"k{number}")["reason"] for number in gone]
    assert len(gone) > 500
    assert told.count("evicted for want of room") > len(gone) * 0.8


def test_what_was_just_written_is_there_whatever_the_segments_held_before():
    """Keys that were evicted lately go to the main queue at once. A segment of it that is taken for a spent one must
    not lose what lives in it where there is no room for a copy."""
    store = cache(size_bytes=128 << 20, decoded_bytes=0)
    pages = [random.randbytes(size) for size in (50, 20_480, 100_000, 900, 8_000, 3_800)]
    for page, times in zip(pages, (20_000, 3_000, 1_000, 5_000, 500, 1_200), strict=True):
        store.clear()
        for number in range(times):
            store.set(f"page:{number % 16}", page)
    added = 0
    for page, times in zip(pages, (10_000, 2_000, 1_000, 3_000, 500, 1_000), strict=True):
        store.clear()
        for _ in range(times // 250):
            keys = [f"added:{added + number}" for number in range(250)]
            added += 250
            for key in keys:
                store.add(key, page)
            store.delete_many(keys)
    names = [f"page:{number}" for number in range(100)]
    for page in pages[:2]:
        store.clear()
        store.set_many(dict.fromkeys(names, page))
        assert len(store.get_many(names)) == 100


def test_explain_finds_the_key_under_another_prefix_of_the_location():
    location = f"memory://native-{random.getrandbits(64)}"
    other = _native.Cache(location, prefix="other")
    other.set("k", "x")
    other.set("not k", "x")
    assert _native.Cache(location, prefix="mine").explain("k")["elsewhere"] == ["other:1:k"]
    other.delete("k")
    assert _native.Cache(location, prefix="mine").explain("k")["elsewhere"] == []


def test_explain_tells_a_value_that_was_too_large_from_one_that_was_never_set():
    store = cache(size_bytes=1 << 20)
    store.set("page", b"x" * (1 << 18))
    assert store.explain("page")["reason"] == "its value was too large to be stored"
    assert store.explain("pages")["reason"] == "never set, or long forgotten"


@pytest.mark.parametrize("use", [lambda store: store.has_key("k"), lambda store: store.clear()])
def test_every_operation_tells_what_happened_to_the_region(use, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TEZKOR_SHARED_DIRECTORY", str(tmp_path))
    store = _native.Cache(f"shared://native-{random.getrandbits(64)}", size_bytes=1 << 20)
    store.set("k", 1)
    shutil.rmtree(tmp_path)
    tmp_path.write_text("no folder")
    time.sleep(0.3)
    assert caplog.text == ""
    use(store)
    assert "private memory until it can be used" in caplog.text


def test_stats_count_hits_and_sizes():
    store = cache()
    store.set("k", "x" * 100)
    store.get("k")
    store.get("nothing")
    stats = store.stats()
    assert stats["entries"] == 1
    assert stats["payload_bytes"] >= 100
    assert stats["hits_decoded"] == 1
    assert stats["misses_absent"] == 1
    assert store.is_near()


def test_a_cache_may_be_used_while_its_own_call_runs():
    """str() of a key, a key function or a model's code may use the cache."""
    store = cache()

    class Nosy:
        def __str__(self):
            store.set("inner", ["inner"])
            assert store.get("inner") == ["inner"]
            return "nosy"

    store.set(Nosy(), ["outer"])
    assert store.get(Nosy()) == ["outer"]
    assert store.get_many(["inner", Nosy()])
    assert store.get("nosy") == ["outer"]


def test_what_cannot_be_read_makes_room_for_what_can():
    name = f"memory://native-{random.getrandbits(64)}"
    one, other = _native.Cache(name), _native.Cache(name, pickle=False)
    one.set("k", 1j)
    assert other.get("k") is None
    assert other.add("k", "plain") is True
    assert one.get("k") == "plain"
    one.set("k", 1j)
    with pytest.raises(ValueError, match="not found"):
        other.incr("k")
    assert one.get("k") == 1j, "a process that cannot read it took it from one that can"
    assert one.add("k", 2) is False
    load = other.load("k")
    assert load.is_owner
    assert not load.has_value
    assert load.store("loaded")
    assert one.get("k") == "loaded"


class Moody:
    """Unpickles when it is in the mood."""

    fails = False

    def __setstate__(self, state):
        if Moody.fails:
            raise RuntimeError("not now")
        self.__dict__.update(state)


def test_an_entry_that_cannot_be_unpickled_here_stays_for_others(caplog):
    store = _native.Cache(f"memory://native-{random.getrandbits(64)}", decoded_bytes=0)
    moody = Moody()
    moody.name = "ada"
    store.set("session", moody)
    Moody.fails = True
    try:
        assert store.get("session") is None
        assert store.get_many(["session"]) == {}
        assert "RuntimeError: not now" in caplog.text
        assert "session" in caplog.text
        store.set("another", moody)
        store.get("another")
        assert len(caplog.records) == 1, "what fails in the same way is told once"
    finally:
        Moody.fails = False
    assert store.get("session").name == "ada"


@pytest.mark.parametrize("options", [{}, {"max_entries": 5}], ids=str)
def test_add_writes_where_get_finds_nothing_that_it_can_read(options):
    store = cache(**options)
    moody = Moody()
    moody.name = "ada"
    store.set("session", moody)
    assert not store.add("session", "new")
    Moody.fails = True
    try:
        assert store.get("session") is None
        assert store.add("session", "new")
        assert not store.add("session", "newer")
    finally:
        Moody.fails = False
    assert store.get("session") == "new"


def test_a_cache_on_disk_does_the_same(tmp_path):
    store = _native.Cache(f"file://{tmp_path}?size=8MiB", decoded_bytes=0, compress_min_bytes=1000)
    assert not store.is_near()
    assert store.location() == f"file://{tmp_path}"
    values = {
        "text": "x" * 50,
        "page": "<li>x</li>" * 1000,
        "count": 5,
        "list": [1, {"a": None}],
        "pickled": 1j,
    }
    assert store.set_many(values) == []
    assert store.get_many(values) == values
    assert store.explain("page")["compressed"] == "zstd"
    assert store.incr("count", 2) == 7
    assert store.add("text", 1) is False
    assert store.touch("text", 0) is True
    assert store.delete("list") is True
    assert sorted(store.keys()) == ["count", "page", "pickled"]


def test_forked_counts_generations():
    code = (
        "import os; from tezkor import _native as n; n.Cache('memory://f'); before = n.forked(); pid = os.fork()\n"
        "if pid == 0: os._exit(n.forked() != before + 1)\n"
        "print(os.waitpid(pid, 0)[1], n.forked() == before)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "0 True\n"
