"""The verbs beyond Django's BaseCache: tags, patterns, times, names, and how they meet Django's own."""

from __future__ import annotations

import asyncio
import time
import warnings
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from django.core.cache import caches as django_caches
from django.test import override_settings

from tezkor import verbs
from tezkor.test import clear_caches

BACKEND = "tezkor.backends.TezkorCache"


@pytest.fixture(autouse=True)
def empty() -> None:
    clear_caches()


@pytest.fixture
def cache() -> Any:
    return django_caches["default"]


def made(**settings: Any) -> Any:
    """A cache with settings of its own."""
    with override_settings(CACHES={"default": {"BACKEND": BACKEND, **settings}}):
        return django_caches["default"]


@pytest.mark.parametrize("verb", ["set", "add", "set_many", "get_or_set", "get_many_or_set"])
def test_tags_of_every_way_to_write(cache: Any, verb: str) -> None:
    write = {
        "set": lambda: cache.set("k", 1, tags=["a", "b"]),
        "add": lambda: cache.add("k", 1, tags=["a", "b"]),
        "set_many": lambda: cache.set_many({"k": 1}, tags=["a", "b"]),
        "get_or_set": lambda: cache.get_or_set("k", lambda: 1, tags=["a", "b"]),
        "get_many_or_set": lambda: cache.get_many_or_set(
            ["k"], lambda keys: dict.fromkeys(keys, 1), tags=["a", "b"]
        ),
    }[verb]
    for tag in ("a", "b"):
        write()
        cache.set("other", 2, tags=["c"])
        assert cache.get("k") == 1
        cache.invalidate_tags("unrelated")
        assert cache.get("k") == 1
        cache.invalidate_tags(tag)
        assert cache.get("k") is None
        assert not cache.has_key("k")
        assert "k" not in cache.get_many(["k"])
        assert cache.get("other") == 2
        assert "cleared" in cache.explain("k")["reason"]


def test_several_tags_at_once_and_async(cache: Any) -> None:
    for number in range(3):
        cache.set(number, number, tags=[f"t{number}"])
    asyncio.run(cache.ainvalidate_tags("t0", "t2"))
    assert cache.get_many(range(3)) == {1: 1}

    async def write() -> None:
        await cache.aset("k", 1, tags=["a"])
        assert await cache.aadd("n", 1, tags=["a"])
        await cache.aset_many({"m": 1}, tags=["a"])

    asyncio.run(write())
    cache.invalidate_tags("a")
    assert cache.get_many(["k", "n", "m"]) == {}


def test_tags_belong_to_the_prefix_and_to_all_its_versions() -> None:
    one, other = made(KEY_PREFIX="one"), made(KEY_PREFIX="other")
    for cache in (one, other):
        cache.set("k", 1, tags=["t"])
        cache.set("k", 2, version=2, tags=["t"])
    one.invalidate_tags("t")
    assert (one.get("k"), one.get("k", version=2)) == (None, None)
    assert (other.get("k"), other.get("k", version=2)) == (1, 2)


def test_decoded_values_follow_their_tags(cache: Any) -> None:
    for value in ("text", ["a list"], {"a": 1}):
        cache.set("k", value, tags=["t"])
        assert [cache.get("k") for _ in range(3)] == [value] * 3
        cache.invalidate_tags("t")
        assert cache.get("k") is None


@pytest.mark.parametrize(
    ("tags", "error", "text"),
    [
        ("product:7", TypeError, r"write \['product:7'\]"),
        ([7], TypeError, r"write str\(7\)"),
        (7, TypeError, "tags must be a list of texts, not int"),
        ([f"t{number}" for number in range(65)], ValueError, "65 tags are more than 64"),
        (["x" * 251], ValueError, "251 bytes is longer than 250: shorten it"),
    ],
)
def test_wrong_tags_are_told_and_lose_nothing(
    cache: Any, tags: Any, error: type[Exception], text: str
) -> None:
    cache.set("k", "old")
    for write in (
        lambda: cache.set("k", "new", tags=tags),
        lambda: cache.add("absent", "new", tags=tags),
        lambda: cache.set_many({"k": "new"}, tags=tags),
    ):
        with pytest.raises(error, match=text):
            write()
    assert cache.get("k") == "old"
    if not isinstance(tags, list) or len(tags) == 1:
        with pytest.raises(error, match=text):
            cache.get_or_set("absent", lambda: 1, tags=tags)
    assert cache.get("absent") is None


def test_64_tags_and_tags_in_all_letters(cache: Any) -> None:
    tags = [f"tag {number} \u00fc" for number in range(64)]
    cache.set("k", 1, tags=[*tags, tags[0]])
    assert cache.explain("k")["tags"] == tags
    cache.invalidate_tags(tags[63])
    assert cache.get("k") is None


def test_patterns(cache: Any) -> None:
    for key in ("list:1", "list:2", "list:10", "detail:1", "a*b", "axb"):
        cache.set(key, key)
    assert sorted(cache.keys("list:*")) == ["list:1", "list:10", "list:2"]
    assert sorted(cache.keys("list:?")) == ["list:1", "list:2"]
    assert sorted(cache.iter_keys("*:[1]")) == ["detail:1", "list:1"]
    assert cache.keys(r"a\*b") == ["a*b"]
    assert len(cache.keys()) == 6
    assert cache.delete_pattern("list:*") == 3
    assert sorted(cache.keys()) == ["a*b", "axb", "detail:1"]
    assert cache.delete_pattern(r"a\*b") == 1
    assert cache.get("axb") == "axb"
    assert asyncio.run(cache.adelete_pattern("*")) == 2
    assert asyncio.run(cache.akeys()) == []


def test_patterns_keep_to_prefix_and_version() -> None:
    one, other = made(KEY_PREFIX="one"), made(KEY_PREFIX="other")
    for cache in (one, other):
        cache.set("k", 1)
        cache.set("k", 2, version=2)
    assert one.delete_pattern("*") == 1
    assert (one.get("k"), one.get("k", version=2), other.get("k")) == (None, 2, 1)
    assert one.delete_pattern("*", version=2) == 1
    assert other.get_many(["k"], version=2) == {"k": 2}


def test_a_prefix_with_letters_of_a_pattern_is_taken_as_it_is() -> None:
    one, other = made(KEY_PREFIX="sh*p"), made(KEY_PREFIX="shop")
    one.set("k", 1)
    other.set("k", 2)
    assert one.keys("k") == ["k"]
    assert one.delete_pattern("*") == 1
    assert other.get("k") == 2


def reversed_key(key: Any, prefix: str, version: Any) -> str:
    return f"{key}|{prefix}|{version}"


def test_patterns_with_a_key_function() -> None:
    cache = made(KEY_PREFIX="p", KEY_FUNCTION=reversed_key)
    for key in ("a1", "a2", "b1"):
        cache.set(key, key)
    assert sorted(cache.keys("a*")) == ["a1|p|1", "a2|p|1"]
    assert cache.delete_pattern("a*") == 2
    assert cache.get_many(["a1", "a2", "b1"]) == {"b1": "b1"}


def test_a_pattern_that_is_too_long_says_so(cache: Any) -> None:
    with pytest.raises(ValueError, match="shorten it"):
        cache.delete_pattern("x" * 10_000)
    with pytest.raises(TypeError):
        cache.delete_pattern(7)


def test_stale_entries_go_with_the_pattern_too(cache: Any) -> None:
    cache.set("list:1", "old", 0.01, stale=60)
    time.sleep(0.02)
    assert cache.delete_pattern("list:*") == 0
    assert cache.get_or_set("list:1", lambda: "new", background=True) == "new"


def test_delete_many_takes_keys_as_they_are_and_says_so_once(cache: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(verbs, "_warned_about_globs", False)
    cache.set_many({"list:1": 1, "a*": 2})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.delete_many(["a*"])
        cache.delete_many(["list:2"])
    assert cache.get_many(["list:1", "a*"]) == {"list:1": 1}
    with pytest.warns(UserWarning, match="use delete_pattern"):
        cache.delete_many(["list:*"])
    assert cache.get("list:1") == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.delete_many(["list:*"])


def test_delete_many_takes_patterns_where_it_is_told_to() -> None:
    cache = made(OPTIONS={"DELETE_MANY_PATTERNS": True})
    cache.set_many({"list:1": 1, "list:2": 2, "detail:1": 3})
    assert cache.delete_many(["list:*", "detail:2"]) is None
    assert cache.keys() == ["detail:1"]


def test_times(cache: Any) -> None:
    cache.set("k", 1, 100)
    cache.set("forever", 1, None)
    assert (cache.ttl("k"), cache.ttl("forever"), cache.ttl("absent")) == (100, None, 0)
    assert 99_000 < cache.pttl("k") <= 100_000
    assert (cache.pttl("forever"), cache.pttl("absent")) == (None, 0)
    assert cache.expire("k", 50)
    assert cache.ttl("k") == 50
    assert cache.pexpire("k", 20_000)
    assert cache.ttl("k") == 20
    assert cache.persist("k")
    assert cache.ttl("k") is None
    assert not cache.persist("k")
    assert not cache.persist("absent")
    assert cache.expire_at("k", datetime.now(timezone.utc) + timedelta(seconds=70))
    assert cache.ttl("k") in (69, 70)
    assert cache.expire_at("k", time.time() + 30)
    assert cache.ttl("k") in (29, 30)
    assert cache.pexpire_at("k", (time.time() + 40) * 1000)
    assert cache.ttl("k") in (39, 40)
    assert cache.expire_at("k", time.time() - 1)
    assert cache.get("k") is None
    assert not cache.expire("absent", 10)
    assert asyncio.run(cache.attl("forever")) is None


def test_jitter_shortens_each_timeout_by_its_own_share() -> None:
    cache = made(OPTIONS={"JITTER": 0.2}, TIMEOUT=1000)
    cache.set_many({str(number): number for number in range(200)})
    left = [cache.pttl(str(number)) for number in range(200)]
    assert all(800_000 <= each <= 1_000_000 for each in left)
    assert max(left) - min(left) > 100_000
    assert len(set(left)) > 100
    cache.touch("0", 500)
    assert cache.ttl("0") == 500
    cache.set("forever", 1, None)
    assert cache.ttl("forever") is None


def test_named_timeouts_and_keys_in_every_call() -> None:
    cache = made(
        OPTIONS={"TIMEOUTS": {"STATIC": 86_400, "FOREVER": None}, "KEYS": {"list": "list:{page}:{category}"}}
    )
    cache.set("k", 1, "STATIC")
    assert cache.ttl("k") == 86_400
    assert cache.touch("k", "FOREVER")
    assert cache.ttl("k") is None
    assert cache.add("n", 1, "STATIC")
    cache.set_many({"m": 1}, "STATIC")
    assert cache.get_or_set("g", lambda: 1, "STATIC") == 1
    assert [cache.ttl(key) for key in "nmg"] == [86_400] * 3
    assert cache.key("list", page=2, category=7) == cache.key("list", category=7, page=2)
    assert cache.key("list", page=2, category=7) != cache.key("list", page=7, category=2)
    for wrong in ({"page": 1}, {"page": 1, "category": 2, "more": 3}):
        with pytest.raises(ValueError, match=r"category|more"):
            cache.key("list", **wrong)
    with pytest.raises(ValueError, match="STATIC"):
        cache.set("k", 2, "STATICS")
    assert cache.get("k") == 1


def test_incr_with_a_default_and_a_timeout(cache: Any) -> None:
    with pytest.raises(ValueError, match="not found"):
        cache.incr("n")
    assert cache.incr("n", default=10, timeout=100) == 11
    assert cache.ttl("n") == 100
    assert cache.incr("n", 5, default=10, timeout=1) == 16
    assert cache.ttl("n") == 100
    assert cache.decr("down", default=0) == -1
    assert asyncio.run(cache.aincr("m", default=0)) == 1


def test_rate_limit(cache: Any) -> None:
    uses = [cache.rate_limit("login:ada", 2, 60) for _ in range(3)]
    assert [bool(use) for use in uses] == [True, True, False]
    assert [use.remaining for use in uses] == [1, 0, 0]
    assert 59 < uses[2].retry_after <= 60
    assert cache.rate_limit("login:bob", 2, 60)
    cache.clear()
    assert not cache.rate_limit("login:ada", 2, 60)
    for limit, period, error, text in (
        (0, 1, ValueError, "limit is 0: write a whole number"),
        (-1, 1, ValueError, "limit is -1: write a whole number"),
        ("5", 1, TypeError, "limit is '5': write a whole number"),
        (2.5, 1, TypeError, "limit is 2.5: write a whole number"),
        (2**70, 1, ValueError, "write a number from 1 to 16777215"),
        (1, 0, ValueError, "period is 0: write a number of seconds"),
        (1, -1, ValueError, "period is -1: write a number of seconds"),
        (1, float("nan"), ValueError, "period is nan: write"),
        (1, float("inf"), ValueError, "period is inf: write"),
        (1, None, ValueError, "period is None: write"),
        (1, [1], ValueError, r"period is \[1\]: write"),
        (1, "HOUR", ValueError, "'HOUR' is not in OPTIONS"),
    ):
        with pytest.raises(error, match=text):
            cache.rate_limit("x", limit, period)
    assert asyncio.run(cache.arate_limit("login:bob", 2, 60)).allowed


def test_periods_and_milliseconds_may_be_names() -> None:
    cache = made(OPTIONS={"TIMEOUTS": {"MINUTE": 60, "FOREVER": None}})
    assert 59 < cache.rate_limit("login", 1, "MINUTE").retry_after <= 60
    with pytest.raises(ValueError, match="period is None"):
        cache.rate_limit("login", 1, "FOREVER")
    cache.set("k", 1)
    assert cache.pexpire("k", "MINUTE")
    assert cache.ttl("k") == 60, "a name is a time, however many milliseconds it has"
    assert cache.pexpire("k", "FOREVER")
    assert cache.ttl("k") is None
    cache.set("k", 1, 10)
    assert asyncio.run(cache.apexpire("k", None))
    assert cache.ttl("k") is None


NO_NUMBER, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda c: c.pexpire("k", "PRICE"), ValueError, "the timeout 'PRICE' is not in OPTIONS"),
        (
            lambda c: c.pexpire("k", [1]),
            ValueError,
            r"timeout is \[1\]: write a number of milliseconds, or None",
        ),
        (lambda c: c.pexpire("k", NO_NUMBER), ValueError, "timeout is nan: write a number of milliseconds"),
        (
            lambda c: c.expire("k", NO_NUMBER),
            ValueError,
            "timeout is nan: write a number of seconds, or None",
        ),
        (lambda c: c.expire("k", INFINITE), ValueError, "timeout is inf: write a number of seconds, or None"),
        (
            lambda c: c.set("k", 2, NO_NUMBER),
            ValueError,
            "timeout is nan: write a number of seconds, or None",
        ),
        (
            lambda c: c.expire_at("k", "tomorrow"),
            ValueError,
            "when is 'tomorrow': write a datetime, or seconds",
        ),
        (
            lambda c: c.expire_at("k", NO_NUMBER),
            ValueError,
            "when is nan: write a datetime, or seconds since 1970",
        ),
        (
            lambda c: c.pexpire_at("k", "x"),
            ValueError,
            "when is 'x': write a datetime, or milliseconds since 1970",
        ),
        (lambda c: c.pexpire_at("k", INFINITE), ValueError, "when is inf"),
        (lambda c: c.delete_pattern(3), TypeError, r"a pattern must be a text such as 'list:\*', not int"),
        (
            lambda c: c.delete_pattern(["a"]),
            TypeError,
            r"a pattern must be a text such as 'list:\*', not list",
        ),
        (lambda c: c.keys(b"a"), TypeError, r"a pattern must be a text such as 'list:\*', not bytes"),
        (lambda c: c.incr("n", default=1, timeout="PRICE"), ValueError, "'PRICE' is not in OPTIONS"),
        (lambda c: c.incr("n", default=1, timeout=NO_NUMBER), ValueError, "timeout is nan"),
        (lambda c: c.incr("n", default=1, timeout=object()), TypeError, "timeout must be a number"),
    ],
)
def test_wrong_arguments_are_named_and_lose_nothing(cache: Any, call: Any, error: Any, text: str) -> None:
    cache.set("k", 1, 100)
    cache.set("n", 5, 100)
    with pytest.raises(error, match=text):
        call(cache)
    assert (cache.get("k"), cache.get("n")) == (1, 5)
    assert 99 <= cache.ttl("k") <= 100


@pytest.mark.parametrize("timeout", [0, -1, "AT_ONCE"])
def test_a_counter_that_expires_at_once_counts_from_its_default(timeout: Any) -> None:
    cache = made(OPTIONS={"TIMEOUTS": {"AT_ONCE": 0}})
    assert cache.incr("n", default=1, timeout=timeout) == 2
    assert cache.decr("n", default=1, timeout=timeout) == 0
    assert not cache.has_key("n")
    cache.set("n", 5)
    assert cache.incr("n", default=1, timeout=timeout) == 6
    at_once = made(TIMEOUT=0)
    assert at_once.incr("other", default=1) == 2
