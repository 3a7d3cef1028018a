"""DummyCache has the verbs of the cache that it stands for: what works here works there, and what is wrong is told."""

from __future__ import annotations

import asyncio
import inspect
import warnings
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

import tezkor
from tezkor.backends import DummyCache, TezkorCache
from tezkor.test import clear_caches

NAMES = {"TIMEOUTS": {"PRICE": 60}, "KEYS": {"product_list": "product:{page}:{category}"}}


@pytest.fixture
def cache() -> Any:
    return DummyCache("", {})


@pytest.fixture
def named() -> Any:
    return DummyCache("", {"OPTIONS": NAMES})


def public(kind: type) -> dict[str, Any]:
    return {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}


# What the instances of the class itself are about.
OF_TEZKOR = {
    "kind_of",
    "read",
    "to_url",
    "bounded_by_entries",
    "is_folder",
    "is_transactional",
    "ends_at_once",
}


def test_it_has_all_public_methods_with_their_arguments():
    """A lock of it had no owned(), and production code that asked failed in development."""
    real, silent = public(TezkorCache), public(DummyCache)
    assert real.keys() - silent.keys() - OF_TEZKOR == set()
    for name, method in real.items():
        if name in OF_TEZKOR or not inspect.isfunction(method):
            continue
        assert inspect.iscoroutinefunction(method) == inspect.iscoroutinefunction(silent[name]), name
        wanted, given = (inspect.signature(each).parameters for each in (method, silent[name]))
        assert set(wanted) <= set(given), name


def test_locks_are_had_at_once_and_are_what_locks_are(cache):
    lock, other = cache.lock("report", timeout=60), cache.lock("report")
    with lock as held:
        assert held is lock
        assert lock.owned()
        assert lock.locked()
        lock.extend(60)
        assert other.acquire(blocking=False)
        assert other.token > lock.token > 0
    assert not lock.owned()
    assert not lock.locked()
    with pytest.raises(tezkor.LockNotOwned):
        lock.release()

    async def scene():
        async with cache.lock("report") as held:
            assert held.owned()
        lock = cache.lock("report", version=2, blocking_timeout=1)
        assert await lock.aacquire()
        await lock.arelease()

    asyncio.run(scene())
    with pytest.raises(TypeError, match="tiemout"):
        cache.lock("report", tiemout=1)


def test_keys_and_timeouts_are_those_of_the_settings(named, cache):
    assert named.key("product_list", page=1, category=2) == "product:1:2"
    with pytest.raises(ValueError, match="lacks category"):
        named.key("product_list", page=1)
    with pytest.raises(ValueError, match="Did you mean 'product_list'"):
        named.key("product_lst", page=1, category=2)
    named.set("k", 1, "PRICE")
    assert named.get_or_set("k", lambda: 1, "PRICE") == 1
    assert named.lock("report", timeout="PRICE").timeout == 60
    assert named.rate_limit("login", 5, "PRICE")
    for call in (lambda: named.set("k", 1, "PRICES"), lambda: named.get_or_set("k", lambda: 1, "PRICES")):
        with pytest.raises(ValueError, match="Did you mean 'PRICE'"):
            call()
    # Settings for development may have none.
    assert cache.key("product_list", page=1) != cache.key("product_list", page=2)
    cache.set("k", 1, "PRICE")
    assert cache.rate_limit("login", 5, "PRICE")
    with cache.lock("report", timeout="PRICE"):
        pass


CALLS = [
    lambda c, **terms: c.get_or_set("k", lambda: 1, **terms),
    lambda c, **terms: c.get_many_or_set(["k"], lambda keys: {}, **terms),
    lambda c, **terms: asyncio.run(c.aget_or_set("k", lambda: 1, **terms)),
    lambda c, **terms: asyncio.run(c.aget_many_or_set(["k"], lambda keys: {}, **terms)),
    lambda c, **terms: c.set("k", 1, **terms),
    lambda c, **terms: asyncio.run(c.aset("k", 1, **terms)),
    lambda c, **terms: c.add("k", 1, **terms),
    lambda c, **terms: c.set_many({"k": 1}, **terms),
    lambda c, **terms: c.load("k").set(1, **terms),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "terms", [{"tags": "x"}, {"tags": [7]}, {"stale": "x"}, {"timeout": object()}, {"tag": ["x"]}], ids=str
)
def test_what_is_wrong_there_is_wrong_here(call, terms, cache):
    clear_caches()
    with pytest.raises((TypeError, ValueError)) as there:
        call(TezkorCache("", {}), **terms)
    with pytest.raises(type(there.value)) as here:
        call(cache, **terms)
    assert str(here.value) == str(there.value) or "unexpected keyword" in str(there.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.invalidate_tags(7),
        lambda c: c.rate_limit("k", 0, 1),
        lambda c: c.rate_limit("k", 1, -1),
        lambda c: c.pexpire("k", [1]),
        lambda c: c.expire_at("k", "tomorrow"),
        lambda c: c.touch("k", object()),
        lambda c: c.get_many_or_set(["k"], None),
        lambda c: c.get_many_or_set(["k"], lambda keys: 7),
        lambda c: c.incr("k", default=1, timeout=object()),
    ],
)
def test_other_wrong_arguments_too(call, cache):
    for each in (TezkorCache("", {}), cache):
        with pytest.raises((TypeError, ValueError)):
            call(each)


def test_loaders_run_each_time_and_are_given_what_they_take(cache):
    def adaptive(terms):
        terms.timeout = 5
        terms.tags.append("more")
        return "made"

    async def aloader():
        return "awaited"

    assert cache.get_or_set("k", adaptive, 60, tags=["t"]) == "made"
    assert cache.get_or_set("k", lambda: tezkor.skip) is None
    assert asyncio.run(cache.aget_or_set("k", aloader)) == "awaited"
    assert asyncio.run(cache.aget_or_set("k", aloader())) == "awaited"
    assert cache.get_many_or_set([1, 2, 3], lambda keys: {1: "a", 2: tezkor.skip}) == {1: "a"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TypeError, match="aget_or_set"):
            cache.get_or_set("k", aloader)
        with pytest.raises(TypeError):
            asyncio.run(cache.aget_or_set("k", aloader(), tags="x"))

    def misspells(terms):
        terms.timeot = 5

    with pytest.raises(AttributeError, match="timeot"):
        cache.get_or_set("k", misspells)


def test_wrong_settings_are_those_of_checks():
    with pytest.raises((ImproperlyConfigured, ValueError), match="between"):
        DummyCache("", {"OPTIONS": {"KEYS": {"k": "{a}{b}"}}}).key("k", a=1, b=2)
