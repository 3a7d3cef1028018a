"""Threads that what they wait for may wait for: they run the loader themselves, and others do not."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import selectors
import socket
import threading
import time
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from bounded import Started, alarm, in_loop

import tezkor
from tezkor import blocks, flights, patience
from tezkor.backends import TezkorCache
from tezkor.test import clear_caches


@pytest.fixture(autouse=True)
def empty(monkeypatch) -> Any:
    clear_caches()
    monkeypatch.setattr(patience, "SHORT_SECONDS", 0.3)
    with alarm(60):
        yield
    assert not flights.open_flights
    assert not blocks.open_blocks


@pytest.fixture
def cache() -> Any:
    return TezkorCache("", {})


@pytest.fixture
def closing() -> Any:
    with contextlib.ExitStack() as stack:
        yield stack


def test_sync_code_in_a_loop_never_waits_for_a_task_of_that_loop(cache):
    """It froze the worker: the task could not go on while the thread of its loop waited for it."""

    @tezkor.cached(60, cache=cache)
    def decorated(n):
        return "sync"

    async def slow():
        await asyncio.sleep(0.2)
        return "task"

    async def scene():
        for key, call in (
            ("k", lambda: cache.get_or_set("k", lambda: "sync")),
            ("many", lambda: cache.get_many_or_set(["many"], lambda keys: {"many": "sync"})["many"]),
            (decorated.key(1), lambda: decorated(1)),
        ):
            task = asyncio.ensure_future(cache.aget_or_set(key, slow))
            await asyncio.sleep(0.02)
            started = time.monotonic()
            assert call() == "sync"
            assert time.monotonic() - started < 0.1
            assert await task == "task"
        async with cache.load("block"):
            with cache.load("block") as inner:
                assert inner.missing

    in_loop(scene(), 10)


async def aload():
    """Like every async call of the ORM."""
    await asyncio.sleep(0.05)
    return await sync_to_async(lambda: "task")()


def test_a_view_in_the_thread_that_an_async_loader_needs_runs_it_itself(cache):
    """The loader waited for the thread-sensitive thread, in which the view waited for the loader."""
    runs = []

    def view():
        time.sleep(0.02)
        # The end of the process waits for asgiref's thread, and this for no longer than that.
        return cache.get_or_set("k", lambda: runs.append(1) or "view", hard_timeout=15)

    async def scene():
        return await asyncio.gather(cache.aget_or_set("k", aload), sync_to_async(view)())

    async def in_a_context():
        async with ThreadSensitiveContext():  # as Django's handler has one for each request
            return await scene()

    for made in (scene, in_a_context):
        cache.delete("k")
        started = time.monotonic()
        assert in_loop(made(), 10) == ["task", "view"]
        assert time.monotonic() - started < patience.LONG_SECONDS
    # In sync code the thread is that which called async_to_sync.
    cache.delete("k")
    assert Started(async_to_sync(scene)).result(10) == ["task", "view"]
    assert len(runs) == 3


def test_a_view_in_a_thread_that_the_loader_does_not_need_shares_its_run(cache):
    runs = []

    async def slow():
        runs.append(1)
        await asyncio.sleep(2.5 * patience.SHORT_SECONDS)
        return await sync_to_async(lambda: "task")()

    def view():
        return cache.get_or_set("k", lambda: runs.append(2))

    async def request(work):
        async with ThreadSensitiveContext():
            return await work()

    async def scene():
        loading = asyncio.ensure_future(request(lambda: cache.aget_or_set("k", slow)))
        await asyncio.sleep(0.02)
        thread = Started(view)
        assert await request(sync_to_async(view)) == "task"
        return await loading, thread.result()

    assert in_loop(scene(), 10) == ("task", "task")
    assert runs == [1]


def test_a_loader_whose_own_threads_ask_for_its_key_ends(cache, monkeypatch):
    monkeypatch.setattr(patience, "LONG_SECONDS", 0.3)
    runs = []

    def inner():
        return cache.get_or_set("k", lambda: runs.append(1) or "inner")

    def loader():
        return [each.result() for each in [Started(inner) for _ in range(4)]]

    assert Started(cache.get_or_set, "k", loader).result(10) == ["inner"] * 4
    assert len(runs) == 1, "one of the threads ran it, the others found what that stored"

    async def aloader():
        started = Started(inner)
        while started.thread.is_alive():
            await asyncio.sleep(0.01)
        return started.result()

    cache.delete("k")
    assert in_loop(cache.aget_or_set("k", aloader), 10) == "inner"
    assert len(runs) == 2


def test_those_who_wait_for_a_block_lose_patience_too(cache, monkeypatch):
    monkeypatch.setattr(patience, "LONG_SECONDS", 0.3)

    def inner():
        with cache.load("k") as block:
            block.set("inner")
        return block.missing

    def outer():
        with cache.load("k"):
            return Started(inner).result()

    assert Started(outer).result(10)


def test_patience_is_not_lost_with_a_loader_that_is_slow(cache, monkeypatch):
    """It was asked for each of those who waited long: a herd on a slow source."""
    monkeypatch.setattr(patience, "LONG_SECONDS", 0.1)
    runs = []
    begun = threading.Event()

    def slow():
        runs.append(1)
        begun.set()
        time.sleep(0.8)
        return "loaded"

    loading = Started(cache.get_or_set, "k", slow)
    assert begun.wait(5)
    waiting = [Started(cache.get_or_set, "k", slow) for _ in range(4)]
    assert [each.result() for each in [loading, *waiting]] == ["loaded"] * 5
    assert len(runs) == 1


def test_a_thread_waits_for_others_of_its_process_or_for_something_else(closing):
    ends = threading.Event()
    ours, theirs = (closing.enter_context(each) for each in socket.socketpair())

    def select():
        with selectors.DefaultSelector() as selector:
            selector.register(ours, selectors.EVENT_READ)
            selector.select(10)

    async def sleep():
        while not ends.is_set():
            await asyncio.sleep(0.5)

    def compute():
        # Event.is_set() is of the module where threads wait.
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            pass

    for work, waits in (
        (lambda: ends.wait(10), True),
        (lambda: asyncio.run(sleep()), True),
        (lambda: ours.recv(1), False),  # a server
        (select, False),  # a database driver
        (compute, False),
    ):
        started = Started(work)
        time.sleep(0.1)
        assert (patience.waits_at(started.thread.ident) is not None) is waits, work
        assert patience.waits_at(started.thread.ident) == patience.waits_at(started.thread.ident)
        ends.set()
        theirs.send(b".")
        started.result()
        ends.clear()
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            ours.recv(10)
        ours.setblocking(True)
    assert patience.waits_at(0) is not None, "it has ended"


def test_a_loader_that_takes_locks_now_and_then_is_no_loader_that_waits(cache, monkeypatch):
    monkeypatch.setattr(patience, "LONG_SECONDS", 0.05)
    places = iter([("a", 1), ("b", 2), None, ("b", 2), ("c", 3)] * 2)
    monkeypatch.setattr(patience, "waits_at", lambda thread: next(places, None))
    begun = threading.Event()

    def slow():
        begun.set()
        time.sleep(2)
        return "loaded"

    loading = Started(cache.get_or_set, "k", slow)
    assert begun.wait(5)
    assert cache.get_or_set("k", lambda: "its own") == "loaded"
    assert loading.result() == "loaded"


def test_of_those_who_lose_patience_one_at_a_time_runs_the_loader(cache, monkeypatch):
    monkeypatch.setattr(patience, "LONG_SECONDS", 0.4)
    own, go_on = [], threading.Event()

    async def slow():
        await asyncio.to_thread(go_on.wait, 5)
        return "task"

    def skipping():
        own.append(time.monotonic())
        return tezkor.skip

    loading = Started(asyncio.run, cache.aget_or_set("k", slow))
    while not flights.open_flights:
        time.sleep(0.01)
    waiting = [Started(cache.get_or_set, "k", skipping) for _ in range(4)]
    time.sleep(1.5)
    go_on.set()
    loading.result()
    for each in waiting:
        each.result()
    assert 1 <= len(own) <= 3
    assert all(later - sooner > 0.35 for sooner, later in itertools.pairwise(own))
