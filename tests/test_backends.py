"""The classes that Django makes: what they answer, what they cost, and how they follow those who change them."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import pickle
import re
import threading
import time
import warnings
from unittest import mock

import pytest
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache, CacheKeyWarning
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from tezkor import _native, backends
from tezkor.backends import DummyCache, FileBasedCache, LocMemCache, TezkorCache


@pytest.fixture
def cache(tezkor_cache):
    return TezkorCache("", {})


KINDS = {
    "tezkor": lambda folder: TezkorCache("", {}),
    "locmem": lambda folder: LocMemCache("x", {}),
    "locmem with a limit": lambda folder: LocMemCache("limited", {"OPTIONS": {"MAX_ENTRIES": 50}}),
    "file": lambda folder: TezkorCache(
        f"file://{folder}", {"OPTIONS": {"TEST": {"SHARED": True}, "SIZE": "1MiB"}}
    ),
    "filebased": lambda folder: FileBasedCache(
        folder, {"OPTIONS": {"TEST": {"SHARED": True}, "SIZE": "1MiB"}}
    ),
}


@pytest.fixture(params=KINDS)
def any_cache(request, tmp_path, tezkor_cache):
    made = KINDS[request.param](tmp_path)
    made.clear()
    return made


def test_an_entry_keeps_its_tags_and_stale_time_when_its_version_is_raised(any_cache):
    """It was set anew, without tags: what was invalidated afterwards was served until it expired."""
    cache = any_cache
    cache.set("k", [1], 60, tags=["t", "u"], stale=30)
    assert cache.incr_version("k") == 2
    assert cache.get("k") is None
    story = cache.explain("k", version=2)
    assert (sorted(story["tags"]), story["stale"]) == (["t", "u"], 30)
    assert cache.ttl("k", version=2) == 300  # the alias's TIMEOUT, as in Django
    assert cache.decr_version("k", version=2) == 1
    assert cache.get("k") == [1]
    cache.invalidate_tags("t")
    assert cache.get("k") is None
    with pytest.raises(ValueError, match="Key 'k' not found"):
        cache.incr_version("k")


def test_what_is_invalidated_while_a_version_is_stored_is_invalidated(cache):
    cache.set("k", "old", tags=["t"])
    load = cache._load

    def begin(*args):
        TezkorCache("", {}).invalidate_tags("t")
        return load(*args)

    cache._load = begin
    assert cache.incr_version("k") == 2
    assert (cache.get("k"), cache.get("k", version=2)) == (None, None)


@pytest.mark.parametrize("outdate", ["invalidate_tags", "delete_pattern", "clear", "set"])
def test_what_changes_while_a_version_is_raised_is_not_lost(cache, outdate):
    """The entry is as old as the moment before it was read, and is read with its tags."""
    cache.set("k", "old", tags=["t"])
    get, calls = cache._get, []

    def read(key, *args):
        value = get(key, *args)
        calls.append(key)
        if len(calls) == 2:  # its tags have been asked for
            other = TezkorCache("", {})
            arguments = {"invalidate_tags": ["t"], "delete_pattern": ["k*"], "clear": [], "set": ["k", "new"]}
            getattr(other, outdate)(*arguments[outdate])
            value = get(key, *args) if outdate == "set" else value
        return value

    cache._get = read
    if outdate == "set":
        assert cache.incr_version("k") == 2
        assert cache.explain("k", version=2)["tags"] == []  # those of the value that was moved
        assert cache.get("k", version=2) == "new"
    else:
        with pytest.raises(ValueError, match="Key 'k' not found"):
            cache.incr_version("k")
        assert cache.get("k", version=2) is None


def test_every_backend_answers_as_django_does(any_cache):
    cache = any_cache
    assert cache.get("a") is None
    assert cache.get("a", 1) == 1
    assert cache.set("a", "x") is None
    assert cache.get("a", default=1, version=None) == "x"
    assert cache.add("a", "y") is False
    assert cache.add("b", None) is True
    assert cache.get("b", "default") is None
    assert cache.get_many(iter(["a", "b", "c"])) == {"a": "x", "b": None}
    assert cache.set_many({}) == []
    assert cache.set_many({"n": 1, "m": 2}, timeout=None) == []
    assert cache.incr("n") == 2
    assert cache.incr("n", delta=-5) == -3
    assert cache.decr("n", 2) == -5
    assert cache.touch("n", 10) is True
    assert cache.touch("absent") is False
    assert cache.has_key("n") is True
    assert "n" in cache
    assert "absent" not in cache
    assert cache.incr_version("m") == 2
    assert cache.get("m") is None
    assert cache.get("m", version=2) == 2
    assert cache.decr_version("m", version=2) == 1
    assert cache.delete("n") is True
    assert cache.delete("n") is False
    assert cache.delete_many([]) is None
    assert cache.delete_many(iter(["a", "absent"])) is None
    assert cache.close() is None
    assert cache.get("m") == 2
    cache.clear()
    assert "m" not in cache


def test_timeouts_of_zero_and_less_remove(any_cache):
    cache = any_cache
    for timeout in (0, -1, 0.0, -0.5):
        cache.set("a", 1)
        assert cache.set("a", 2, timeout) is None
        assert "a" not in cache
        assert cache.add("a", 1, timeout) is True
        assert "a" not in cache
        cache.set("a", 1)
        assert cache.touch("a", timeout) is True
        assert "a" not in cache
        cache.set("a", 1)
        assert cache.set_many({"a": 2}, timeout) == []
        assert "a" not in cache


def test_half_a_second_is_a_timeout(any_cache):
    any_cache.set("a", 1, 0.05)
    assert any_cache.get("a") == 1
    time.sleep(0.1)
    assert any_cache.get("a") is None


def test_a_missing_key_is_an_error_for_arithmetic_only(any_cache):
    for method in ("incr", "decr", "incr_version", "decr_version"):
        with pytest.raises(ValueError, match=r"Key '.*absent' not found"):
            getattr(any_cache, method)("absent")


@pytest.mark.parametrize("value", [None, "text", [1], {}])
def test_what_is_no_number_cannot_be_counted(any_cache, value):
    any_cache.set("a", value)
    with pytest.raises(TypeError):
        any_cache.incr("a")
    assert any_cache.get("a", "gone") == value


def test_counting_keeps_type_and_size(any_cache):
    for value, expected in [(True, 2), (1.5, 2.5), (2**63 - 1, 2**63), (2**100, 2**100 + 1)]:
        any_cache.set("a", value)
        assert any_cache.incr("a") == expected
        assert any_cache.get("a") == expected


def test_values_that_callers_change_are_not_changed_in_the_cache(any_cache):
    any_cache.set("a", {"list": [1, 2]})
    any_cache.get("a")["list"].append(3)
    assert any_cache.get("a") == {"list": [1, 2]}


def test_unpicklable_values_raise_and_leave_the_old_value(any_cache):
    any_cache.set("a", 1)
    for write in (any_cache.set, lambda key, value: any_cache.set_many({key: value})):
        with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
            write("a", threading.Lock())
    assert any_cache.get("a") == 1


def test_aliases_of_one_location_differ_by_prefix_and_version_alone(tezkor_cache):
    plain = TezkorCache("", {})
    prefixed = TezkorCache("", {"KEY_PREFIX": "p"})
    second = TezkorCache("", {"VERSION": 2})
    elsewhere = TezkorCache("elsewhere", {})
    for number, each in enumerate((plain, prefixed, second, elsewhere)):
        each.set("a", number)
    assert [each.get("a") for each in (plain, prefixed, second, elsewhere)] == [0, 1, 2, 3]
    assert plain.get("a", version=2) == 2
    plain.clear()
    assert [each.get("a") for each in (plain, prefixed, second, elsewhere)] == [None, None, None, 3]


def test_locations_never_meet_in_tests_either(tezkor_cache):
    places = [
        "",
        "x",
        "memory://x",
        "shared://x",
        "memory://own",
        "own",
        "test.x",
        "memory://test.x",
        "file:///tmp/x",
    ]
    made = [TezkorCache(place, {}) for place in places]
    for place, each in zip(places, made, strict=True):
        assert each.get("a") is None
        each.set("a", place)
    assert [each.get("a") for each in made] == places
    assert TezkorCache("shared://", {}).get("a") == ""


def test_clear_prefix_leaves_the_other_prefixes(tezkor_cache):
    one, other = TezkorCache("", {"KEY_PREFIX": "one"}), TezkorCache("", {"KEY_PREFIX": "other"})
    one.set("a", 1)
    one.set("a", 1, version=7)
    other.set("a", 2)
    one.clear_prefix()
    assert (one.get("a"), one.get("a", version=7), other.get("a")) == (None, None, 2)


def test_keys_are_those_of_the_prefix_and_version(tezkor_cache):
    cache = TezkorCache("", {"KEY_PREFIX": "p"})
    cache.set_many({"a": 1, "b:c": 2, "ö": 3})
    cache.set("later", 1, version=2)
    TezkorCache("", {}).set("foreign", 1)
    assert sorted(cache.keys()) == ["a", "b:c", "ö"]
    assert cache.keys(version=2) == ["later"]


def test_location_explain_and_stats_say_where_things_are(cache):
    cache.set("a", "value", 60)
    assert cache.location.startswith("memory://")
    assert cache.stats()
    story = cache.explain("a")
    assert story
    assert cache.explain("absent") != story


# ------------------------------------------------------------------------------------------- what an instance costs


def test_instances_share_one_native_cache_and_are_made_without_reading_settings(cache):
    """Django makes an instance per thread and per task; the second one must find everything ready."""
    params = {"TIMEOUT": 60, "OPTIONS": {"SIZE": "2MiB"}, "KEY_PREFIX": "cost"}
    first = TezkorCache("cost", copy.deepcopy(params))
    with (
        mock.patch.object(_native, "parse_location", side_effect=AssertionError),
        mock.patch.object(backends, "_open", side_effect=AssertionError),
        mock.patch.object(BaseCache, "__init__", side_effect=AssertionError),
    ):
        others = [TezkorCache("cost", copy.deepcopy(params)) for _ in range(100)]
    assert {id(other._get.__self__) for other in others} == {id(first._get.__self__)}


def test_settings_that_differ_in_type_alone_are_not_mixed_up(tezkor_cache):
    assert TezkorCache("", {"VERSION": 1}).make_key("a") == ":1:a"
    assert TezkorCache("", {"VERSION": 1.0}).make_key("a") == ":1.0:a"
    TezkorCache("", {"VERSION": 1.0}).set("a", "float")
    assert TezkorCache("", {"VERSION": 1}).get("a") is None
    assert TezkorCache("", {"VERSION": "1.0"}).get("a") == "float"


def test_tables_do_not_grow_with_every_tenant(cache):
    for number in range(3 * backends.TABLE_LIMIT):
        cache.key_prefix = f"tenant{number}"
    TezkorCache("", {"KEY_PREFIX": "x"})
    assert len(backends._natives) <= backends.TABLE_LIMIT
    cache.set("a", 1)
    cache.key_prefix = "tenant0"
    assert cache.get("a") is None
    cache.key_prefix = f"tenant{number}"
    assert cache.get("a") == 1


# ---------------------------------------------------------------------------------------- who changes them, and how


def test_changed_attributes_are_honoured(cache):
    cache.key_prefix = "other"
    cache.set("a", 1)
    assert TezkorCache("", {"KEY_PREFIX": "other"}).get("a") == 1
    cache.version = 5
    assert cache.get("a") is None
    cache.set("a", 5)
    assert TezkorCache("", {"KEY_PREFIX": "other", "VERSION": 5}).get("a") == 5
    cache.key_func = lambda key, prefix, version: f"{key}/{prefix}/{version}"
    assert cache.get("a") is None
    cache.default_timeout = 0
    cache.set("b", 1)
    assert "b" not in cache
    cache.default_timeout = None
    cache.set("b", 1)
    assert cache.get("b") == 1


def test_a_change_on_one_instance_leaves_the_others_alone(cache):
    TezkorCache("", {}).key_prefix = "other"
    cache.set("a", 1)
    assert TezkorCache("", {}).get("a") == 1


def test_garbage_and_lower_case_timeouts_are_read_as_django_reads_them(tezkor_cache):
    assert TezkorCache("", {"TIMEOUT": "garbage"}).default_timeout == 300
    assert TezkorCache("", {"TIMEOUT": "60"}).default_timeout == 60
    assert TezkorCache("", {"timeout": 5}).default_timeout == 5
    assert TezkorCache("", {"TIMEOUT": None}).default_timeout is None


class Shouting(TezkorCache):
    def make_key(self, key, version=None):
        return super().make_key(key.upper(), version)


class Strict(TezkorCache):
    def validate_key(self, key):
        if "!" in key:
            raise ValueError(f"no {key}")


class Liberal(TezkorCache):
    def validate_key(self, key):
        pass


def test_subclasses_make_and_check_keys_in_their_own_way(tezkor_cache):
    Shouting("", {}).set("a", 1)
    assert TezkorCache("", {}).get("A") == 1
    assert Shouting("", {}).get("a") == 1
    with pytest.raises(ValueError, match=r"no :1:a!"):
        Strict("", {}).get("a!")
    Liberal("", {}).set("with spaces" * 30, 1)
    assert Liberal("", {}).get("with spaces" * 30) == 1


def test_key_methods_can_be_patched_on_an_instance(cache):
    with mock.patch.object(cache, "make_key", lambda key, version=None: f"patched:{key}"):
        cache.set("a", 1)
        assert cache.get("a") == 1
    assert cache.get("a") is None
    with mock.patch.object(cache, "validate_key", side_effect=ValueError("checked")):
        with pytest.raises(ValueError, match="checked"):
            cache.get("a")
    assert cache.get("a") is None


def test_methods_can_be_patched_on_the_class(cache):
    cache.set("a", 1)
    with mock.patch("tezkor.backends.TezkorCache.get", return_value="patched") as patched:
        assert cache.get("a") == "patched"
        assert cache.has_key("a") is True
        patched.assert_called_once_with("a")
    assert cache.get("a") == 1
    with mock.patch("tezkor.backends.TezkorCache.add", return_value=False):
        assert cache.get_or_set("b", "default") == "default"


def test_a_subclass_may_count_calls_and_call_super(tezkor_cache):
    class Counting(TezkorCache):
        calls = 0

        def get(self, key, default=None, version=None):
            self.calls += 1
            return super().get(key, default, version)

    counting = Counting("", {})
    counting.get("a")
    asyncio.run(counting.aget("a"))
    assert counting.calls == 2


def test_a_toolbar_may_put_its_own_functions_over_the_methods(cache):
    """django-debug-toolbar sets instance attributes, and Django 6.1 asks methods for ``__func__``."""
    seen = []

    def over(name):
        original = getattr(cache, name)

        def recorded(*args, **kwargs):
            seen.append(name)
            return original(*args, **kwargs)

        setattr(cache, name, recorded)

    for name in (
        "get",
        "set",
        "add",
        "get_many",
        "set_many",
        "delete_many",
        "has_key",
        "incr",
        "incr_version",
    ):
        over(name)
    cache.set("a", 1)
    assert cache.get("a") == 1
    assert cache.incr("a") == 2
    assert seen == ["set", "get", "incr"]


@pytest.mark.parametrize("kind", [TezkorCache, LocMemCache, FileBasedCache, DummyCache])
def test_methods_are_python_functions_and_every_async_twin_is_our_own(kind):
    names = [name for name in vars(BaseCache) if name.startswith("a") and f"{name[1:]}" in dir(BaseCache)]
    assert len(names) >= 16
    for name in names:
        assert getattr(kind, name) is not getattr(BaseCache, name), name
        assert (
            getattr(kind, name).__code__.co_varnames[1:3]
            == getattr(BaseCache, name).__code__.co_varnames[1:3]
        )
    instance = kind("/tmp/never-opened" if kind is FileBasedCache else "", {})
    for name in (
        "get_many",
        "set_many",
        "delete_many",
        "get_or_set",
        "has_key",
        "incr",
        "incr_version",
        "close",
    ):
        assert getattr(instance, name).__func__


# --------------------------------------------------------------------------------------------------- keys, warnings


@pytest.mark.parametrize("kind", [TezkorCache, LocMemCache, DummyCache])
@pytest.mark.parametrize("key", ["with space", "a" * 251, "new\nline", "\x7f"])
def test_keys_that_memcached_refuses_bring_djangos_warning(kind, key, tezkor_cache):
    cache = kind("", {})
    with pytest.warns(CacheKeyWarning, match="will cause errors if used with memcached") as caught:
        cache.get(key)
    with warnings.catch_warnings(record=True) as expected:
        warnings.simplefilter("always")
        caches["django"].get(key)
    assert [str(warning.message) for warning in caught] == [str(warning.message) for warning in expected]
    for call in (
        lambda: cache.set(key, 1),
        lambda: cache.get_many([key]),
        lambda: cache.set_many({key: 1}),
        lambda: cache.delete_many([key]),
        lambda: cache.touch(key),
        lambda: cache.has_key(key),
    ):
        with pytest.warns(CacheKeyWarning):
            call()


@pytest.mark.parametrize("key", [1, None, 1.5, b"bytes", ("a", 1), dt.date(2026, 1, 1), "ö", "\ud800"])
def test_keys_of_any_type_are_formatted_as_django_formats_them(cache, key):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheKeyWarning)
        cache.set(key, "value")
        assert cache.get(key) == "value"
        assert cache.get(str(key)) == "value"
        assert cache.get_many([key]) == {key: "value"}


def test_a_key_function_may_be_named_or_given(tezkor_cache):
    named = TezkorCache("", {"KEY_FUNCTION": "test_backends.key_function", "KEY_PREFIX": "p"})
    given = TezkorCache("", {"KEY_FUNCTION": key_function, "KEY_PREFIX": "p"})
    named.set("a", 1)
    assert given.get("a") == 1
    given.key_func = lambda key, prefix, version: f"own-{prefix}-{version}-{key}"
    assert given.get("a") == 1


def key_function(key, prefix, version):
    return f"own-{prefix}-{version}-{key}"


# ------------------------------------------------------------------------------------------------------ the drop-ins


def test_locmem_keeps_max_entries_exactly_when_given(tezkor_cache):
    cache = LocMemCache("entries", {"OPTIONS": {"MAX_ENTRIES": 30, "CULL_FREQUENCY": 3}})
    for number in range(1, 50):
        cache.set(f"a{number}", number)
    assert sum(f"a{number}" in cache for number in range(1, 50)) == 29
    unbounded = LocMemCache("unbounded", {})
    unbounded.set_many({str(number): number for number in range(1000)})
    assert len(unbounded.get_many([str(number) for number in range(1000)])) == 1000


def test_clear_through_an_alias_without_max_entries_frees_the_place_of_one_that_has_it(tezkor_cache):
    limited = LocMemCache("cleared", {"OPTIONS": {"MAX_ENTRIES": 30, "CULL_FREQUENCY": 3}})
    limited.set_many({f"a{number}": number for number in range(30)})
    LocMemCache("cleared", {}).clear()
    limited.set_many({f"b{number}": number for number in range(30)})
    assert len(limited.get_many([f"b{number}" for number in range(30)])) == 30


def test_a_negative_limit_is_none_left(tezkor_cache):
    """Django's own takes it, and culls at each write."""
    cache = LocMemCache("negative", {"max_entries": -5})
    cache.set("a", 1)
    cache.set("b", 2)
    assert cache.get("b") == 2


def test_keys_of_any_length_are_told_apart(cache):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheKeyWarning)
        keys = ["k" * 9000 + end for end in ("", "1", "2")] + [
            "\u00e9" * length for length in range(4050, 4105)
        ]
        cache.set_many({key: number for number, key in enumerate(keys)}, 60)
        assert cache.get_many(keys) == {key: number for number, key in enumerate(keys)}
        assert cache.incr(keys[0], 5) == 5
        assert cache.delete(keys[1])
        assert cache.get(keys[1]) is None
        assert len(cache.keys()) == len(keys) - 1
        with pytest.raises(ValueError, match="Key ':1:kkk"):
            cache.incr("k" * 20_000)
        with pytest.raises(ValueError, match="Key ':1:\ud800' not found"):
            cache.incr("\ud800")


def test_locmem_locations_are_names_of_any_kind(tezkor_cache):
    for name in ("", "unique-snowflake", "with space/and?size=1MiB", "ö"):
        LocMemCache(name, {}).set("a", name)
    for name in ("", "unique-snowflake", "with space/and?size=1MiB", "ö"):
        assert LocMemCache(name, {}).get("a") == name
    assert TezkorCache("unique-snowflake", {}).get("a") is None
    assert TezkorCache("memory://unique-snowflake", {}).get("a") is None


def test_any_name_of_a_locmem_cache_is_private_memory():
    cache = LocMemCache("redis://127.0.0.1:1/0", {})
    cache.set("k", 1)
    assert cache.get("k") == 1
    assert cache.location.startswith("memory://")


def test_filebased_keeps_to_a_folder_beneath_its_own(tmp_path):
    params = {"OPTIONS": {"TEST": {"SHARED": True}, "SIZE": "1MiB"}}
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "mine.txt").write_text("mine")
    for location in (tmp_path / "cache", str(tmp_path / "cache")):
        cache = FileBasedCache(location, params)
        cache.set("a", 1)
        cache.clear()
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["mine.txt", "tezkor"]
    assert (tmp_path / "cache" / "tezkor").stat().st_mode & 0o777 == 0o700


def test_dummy_forgets_everything_and_ignores_settings(tezkor_cache):
    cache = DummyCache("redis://whatever", {"OPTIONS": {"CLIENT_CLASS": "x"}, "TIMEOUT": 5})
    cache.set("a", 1)
    assert cache.get("a", 2) == 2
    assert cache.add("a", 1) is True
    assert (cache.keys(), cache.stats(), cache.clear_prefix()) == ([], {}, None)
    assert cache.explain("a")["found"] is False


# --------------------------------------------------------------------------------------------------------- mistakes


def test_mistakes_name_setting_alias_and_fix_at_the_first_use():
    with override_settings(
        CACHES={
            "default": {"BACKEND": "tezkor.backends.TezkorCache", "OPTIONS": {"SIZ": "1MiB", "PICKLE": 1}}
        }
    ):
        from django.core.cache import cache

        with pytest.raises(ImproperlyConfigured) as caught:
            cache.get("a")
    assert "CACHES['default']['OPTIONS']['SIZ'] is not an option" in str(caught.value)
    assert "Did you mean 'SIZE'?" in str(caught.value)
    assert "CACHES['default']['OPTIONS']['PICKLE'] is 1. Write True or False." in str(caught.value)


def test_what_is_refused_is_logged_once(caplog, tezkor_cache):
    cache = TezkorCache("memory://refused?size=1MiB", {})
    cache.set("a", "old")
    for _ in range(3):
        cache.set("a", "x" * 300_000)
        assert cache.get("a") is None
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("tezkor", "WARNING")
    assert re.search(
        r"a value of \d+ bytes was not stored: the largest is \d+; set a larger SIZE", record.message
    )


def test_what_happens_to_a_region_at_run_time_is_logged(caplog, tmp_path, monkeypatch):
    monkeypatch.setenv("TEZKOR_SHARED_DIRECTORY", str(tmp_path))
    cache = TezkorCache("shared://replaced", {"OPTIONS": {"TEST": {"SHARED": True}, "SIZE": "1MiB"}})
    cache.set("a", 1)
    (folder,) = tmp_path.iterdir()
    (folder / "replaced.region").unlink()
    (folder / "replaced.region").mkdir()
    deadline = time.monotonic() + 20
    while cache.stats()["store"] == "shared" and time.monotonic() < deadline:
        cache.set("a", 1)
        time.sleep(0.05)
    cache.set("a", 2)
    assert cache.get("a") == 2
    assert ["private memory until it can be used" in record.message for record in caplog.records] == [True]
    (folder / "replaced.region").rmdir()
    while cache.stats()["store"] != "shared" and time.monotonic() < deadline:
        cache.get("a")
        time.sleep(0.05)
    cache.set("a", 3)
    assert "can be used again" in caplog.records[-1].message
