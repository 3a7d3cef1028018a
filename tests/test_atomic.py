"""Atomic blocks as coroutines see them: what `async_to_sync` runs inside a block belongs to its transaction."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import TestCase
from test_transactions import Wrong, elsewhere, made, query

from tezkor import _native, atomic, births


@pytest.fixture(params=[False, True], ids=["at once", "late"])
def cache(request):
    cache = made(TRANSACTIONAL=True) if request.param else made()
    cache.set("user:1", "old", tags=["users"])
    return cache


@pytest.fixture(autouse=True)
def nothing_is_left_open():
    before = _native.open_transactions(0)
    yield
    assert _native.open_transactions(0) == before
    assert not births.open_births


def in_this_thread(coroutine):
    """`async_to_sync` called in a plain thread: the coroutine runs in a loop of its own, in another thread."""
    with transaction.atomic():
        async_to_sync(coroutine)()


def in_the_thread_of_a_request(coroutine):
    """A plain view under ASGI: it has a thread, and what it calls with `async_to_sync` runs in the server's loop."""

    def view():
        try:
            with transaction.atomic():
                async_to_sync(coroutine)()
        finally:
            BaseDatabaseWrapper.close(connections["default"])  # its own close() keeps databases in memory

    asyncio.run(sync_to_async(view)())


CALLERS = [in_this_thread, in_the_thread_of_a_request]


async def called(cache, name, *args):
    """The plain verb, called in the coroutine."""
    getattr(cache, name[1:])(*args)


async def awaited(cache, name, *args):
    await getattr(cache, name)(*args)


async def awaited_in_a_task(cache, name, *args):
    await asyncio.gather(asyncio.create_task(awaited(cache, name, *args)))


async def awaited_in_a_task_of_its_own(cache, name, *args):
    """A task that has not inherited who waits."""
    loop = asyncio.get_running_loop()
    await contextvars.Context().run(loop.create_task, awaited(cache, name, *args))


@pytest.mark.parametrize(
    ("caller", "how"),
    [
        *((caller, how) for caller in CALLERS for how in (called, awaited, awaited_in_a_task)),
        # In the server's loop nobody, the ORM included, could tell whose such a task is.
        (in_this_thread, awaited_in_a_task_of_its_own),
    ],
)
@pytest.mark.parametrize(
    "call",
    [
        ("adelete", "user:1"),
        ("adelete_many", ["user:1"]),
        ("adelete_pattern", "user:*"),
        ("ainvalidate_tags", "users"),
        ("aclear",),
        ("aclear_prefix",),
    ],
)
def test_what_a_coroutine_invalidates_is_invalidated_again_at_the_commit(cache, call, how, caller):
    """A view in a transaction called a coroutine that saved a price and deleted its key. The ORM went back to the
    view's thread; the deletion did not, and was not repeated at the COMMIT: who loaded the old price in between kept
    it.
    """

    async def change():
        await how(cache, *call)
        assert elsewhere(cache.get, "user:1") == ("old" if cache.is_transactional else None)
        elsewhere(lambda: cache.set("user:1", "old", tags=["users"]))
        assert await cache.aget("user:1") is None
        assert await cache.aget_or_set("user:1", lambda: "new", tags=["users"]) == "new"
        assert elsewhere(cache.get, "user:1") == "old"  # what was loaded inside is not stored for others

    caller(change)
    assert cache.get("user:1") is None


@pytest.mark.parametrize("caller", CALLERS)
def test_what_a_coroutine_sets_is_set_at_the_commit_or_not_at_all(caller):
    late = made(TRANSACTIONAL=True)

    async def change():
        await late.aset("k", 1)
        await late.aset_many({"l": 2})
        assert await late.aget_many(["k", "l"]) == {"k": 1, "l": 2}
        assert elsewhere(late.get_many, ["k", "l"]) == {}

    async def fail():
        await late.aset("m", 1)
        raise Wrong

    caller(change)
    with pytest.raises(Wrong):
        caller(fail)
    assert late.get_many(["k", "l", "m"]) == {"k": 1, "l": 2}


def test_a_load_of_a_coroutine_is_as_old_as_the_first_query_of_the_block(cache):
    async def load():
        await cache.aget_or_set("loaded", lambda: "old")

    with transaction.atomic():
        query()
        elsewhere(cache.delete, "loaded")
        async_to_sync(load)()
    assert cache.get("loaded") is None


def test_a_coroutine_of_another_thread_is_not_concerned(cache):
    """While some thread is in a transaction, coroutines that are not act at once."""

    async def change():
        await cache.adelete("user:1")
        return cache.get("user:1")

    with transaction.atomic():
        query()
        assert elsewhere(async_to_sync(change)) is None
        assert elsewhere(lambda: asyncio.run(change())) is None
        assert connection.run_on_commit == []


def test_a_task_that_outlives_the_block_is_not_in_it(cache):
    """It was made inside, and goes on in the server's loop while the thread is in another transaction."""
    tasks = []
    ended, again = threading.Event(), threading.Event()

    async def later():
        while not ended.is_set():
            await asyncio.sleep(0.001)
        await cache.adelete("user:1")
        again.set()

    async def change():
        tasks.append(asyncio.create_task(later()))

    def view():
        with transaction.atomic():
            async_to_sync(change)()
        with transaction.atomic():
            query()
            ended.set()
            assert again.wait(10)
            assert connection.run_on_commit == []
            assert cache.get("user:1") is None
        BaseDatabaseWrapper.close(connections["default"])

    async def main():
        await sync_to_async(view)()
        await tasks[0]

    asyncio.run(main())


def test_without_a_transaction_a_coroutine_asks_for_no_connections():
    class Refused:
        def __getattr__(self, name):
            raise AssertionError("it cost something")

    async def change():
        executors, atomic.AsyncToSync = atomic.AsyncToSync, Refused()
        try:
            assert list(atomic.connections_here()) == []
        finally:
            atomic.AsyncToSync = executors

    async_to_sync(change)()


class InTestCase(TestCase):
    """Its own blocks count as none in coroutines too."""

    async def test_a_coroutine_of_a_test_acts_at_once(self):
        late = made(TRANSACTIONAL=True)
        await late.aset("k", 1)
        assert elsewhere(late.get, "k") == 1
        await sync_to_async(query)()
        await late.adelete("k")
        assert elsewhere(late.get, "k") is None
