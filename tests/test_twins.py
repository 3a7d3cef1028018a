"""The async methods: same answers as the sync ones, inline where the store is near."""

from __future__ import annotations

import asyncio
import inspect
import threading
import warnings
from unittest import mock

import pytest
from django.contrib.auth.models import User
from django.core.cache.backends.base import CacheKeyWarning
from django.db import connection
from django.utils.asyncio import async_unsafe
from django.utils.functional import SimpleLazyObject

from tezkor.backends import DummyCache, FileBasedCache, LocMemCache, TezkorCache


@pytest.fixture(params=["tezkor", "locmem", "file"])
def cache(request, tmp_path, tezkor_cache):
    made = {
        "tezkor": lambda: TezkorCache("", {}),
        "locmem": lambda: LocMemCache("", {}),
        "file": lambda: FileBasedCache(tmp_path, {"OPTIONS": {"TEST": {"SHARED": True}, "SIZE": "1MiB"}}),
    }[request.param]()
    made.clear()
    return made


def test_every_twin_answers_as_the_sync_method(cache):
    async def check():
        assert await cache.aset("a", "x") is None
        assert await cache.aget("a") == "x"
        assert await cache.aget("absent", default=7) == 7
        assert await cache.aadd("a", 1) is False
        assert await cache.aset_many({"n": 1, "m": 2}, timeout=10) == []
        assert await cache.aget_many(iter(["n", "m", "absent"])) == {"n": 1, "m": 2}
        assert await cache.aincr("n") == 2
        assert await cache.adecr("n", 3) == -1
        assert await cache.atouch("n", 5) is True
        assert await cache.ahas_key("n") is True
        assert await cache.aincr_version("m") == 2
        assert await cache.adecr_version("m", version=2) == 1
        assert sorted(await cache.akeys()) == ["a", "m", "n"]
        assert await cache.aexplain("a")
        assert await cache.astats()
        assert await cache.adelete("n") is True
        assert await cache.adelete_many(["a"]) is None
        assert await cache.aclear_prefix() is None
        assert await cache.aget("m") is None
        assert await cache.aclear() is None
        assert await cache.aclose() is None
        with pytest.raises(ValueError, match="absent"):
            await cache.aincr("absent")
        with pytest.raises(ValueError, match="absent"):
            await cache.aincr_version("absent")
        with pytest.warns(CacheKeyWarning):
            await cache.aget("with space")

    asyncio.run(check())


def test_near_stores_answer_in_the_event_loop_and_folders_in_a_thread(cache, tmp_path):
    threads = []
    original = cache.get

    def get(*args):
        threads.append(threading.get_ident())
        return original(*args)

    cache.get = get
    asyncio.run(cache.aget("a"))
    assert (threads == [threading.get_ident()]) is not isinstance(cache, FileBasedCache)


def test_a_near_get_never_lets_another_task_run(tezkor_cache):
    cache = TezkorCache("", {})
    call = cache.aget("a", 1)
    with pytest.raises(StopIteration) as ended:  # ends without a single wait
        call.send(None)
    assert ended.value.value == 1


def test_get_or_set_awaits_what_is_awaitable(cache):
    async def check():
        runs = []

        async def load():
            runs.append(1)
            return "loaded"

        assert await cache.aget_or_set("a", load) == "loaded"
        assert await cache.aget_or_set("a", load) == "loaded"
        assert len(runs) == 1
        assert await cache.aget_or_set("b", lambda: "called") == "called"
        assert await cache.aget_or_set("c", "plain") == "plain"
        assert await cache.aget_or_set("d", asyncio.sleep(0, "awaited")) == "awaited"
        assert await cache.aget_or_set("d", asyncio.sleep(0, "never run")) == "awaited"
        assert await cache.aget_or_set("none", lambda: None) is None
        assert await cache.aget("none", "default") is None
        assert await cache.aget_or_set("v", 2, version=2) == 2
        assert await cache.aget("v") is None

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(check())


def test_get_or_set_returns_the_value_when_nothing_could_be_stored(cache):
    with mock.patch.object(type(cache), "add", return_value=False):
        assert asyncio.run(cache.aget_or_set("a", "default")) == "default"


def test_a_queryset_that_has_not_run_is_pickled_in_a_thread(tezkor_cache):
    """Pickling it asks the database, which Django refuses in an event loop."""
    with connection.schema_editor() as editor:
        editor.create_model(User)
    try:
        from asgiref.sync import async_to_sync

        cache = TezkorCache("", {})
        async_to_sync(cache.aset)("users", User.objects.all())
        assert list(cache.get("users")) == []
        assert async_to_sync(cache.aadd)("more", User.objects.all()) is True
        assert async_to_sync(cache.aset_many)({"most": User.objects.all()}) == []
    finally:
        with connection.schema_editor() as editor:
            editor.delete_model(User)


def test_tasks_count_together(tezkor_cache):
    async def check():
        cache = TezkorCache("", {})
        await cache.aset("n", 0)
        await asyncio.gather(*(cache.aincr("n") for _ in range(500)))
        return await cache.aget("n")

    assert asyncio.run(check()) == 500


def test_a_toolbar_sees_async_calls_too(tezkor_cache):
    cache = TezkorCache("", {})
    seen = []
    original = cache.get_many
    cache.get_many = lambda *args, **kwargs: seen.append(args) or original(*args, **kwargs)
    assert asyncio.run(cache.aget_many(["a"])) == {}
    assert seen


def test_dummy_is_inline_and_checks_keys():
    cache = DummyCache("", {})

    async def check():
        assert await cache.aadd("a", 1) is True
        assert await cache.aget("a") is None
        assert await cache.aget_or_set("a", lambda: 5) == 5
        assert await cache.aget_many(["a"]) == {}
        with pytest.warns(CacheKeyWarning):
            await cache.aset("with space", 1)

    asyncio.run(check())


def test_signatures_of_twins_are_those_of_the_sync_methods():
    for name in (
        "get",
        "set",
        "add",
        "touch",
        "delete",
        "incr",
        "get_many",
        "set_many",
        "delete_many",
        "has_key",
    ):
        sync, twin = (inspect.signature(getattr(TezkorCache, each)) for each in (name, f"a{name}"))
        assert list(sync.parameters.values()) == list(twin.parameters.values()), name


def test_a_lazy_object_is_no_awaitable_and_is_not_loaded_in_the_event_loop():
    """What ``request.user`` is: asking it for its class would ask the database."""
    loaded = []

    @async_unsafe("in the event loop")
    def load():
        loaded.append(1)
        return {"name": "Ada"}

    async def run():
        cache = TezkorCache("memory://lazy", {})
        return await cache.aget_or_set("user", SimpleLazyObject(load))

    assert asyncio.run(run()) == {"name": "Ada"}
    assert loaded
