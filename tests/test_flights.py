"""Loads whose runner goes away: nobody waits for what cannot end, in this process or another."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import threading
from typing import Any

import pytest
from bounded import Started, alarm, in_loop
from django.core.cache import caches

from tezkor import blocks, drivers, flights
from tezkor.backends import TezkorCache
from tezkor.test import clear_caches


@pytest.fixture(autouse=True)
def empty() -> Any:
    clear_caches()
    with alarm(90):
        yield
    gc.collect()
    assert not flights.open_flights, "a flight was left behind"
    assert not blocks.open_blocks


@pytest.fixture
def cache() -> Any:
    return TezkorCache("", {})


def is_free(cache: Any, key: str = "k") -> bool:
    """Whether a load of the key runs at once."""
    return Started(cache.get_or_set, key, lambda: "at once").result(5) == "at once"


def claimed(cache: Any) -> int:
    """How many loads others would wait for, in all processes."""
    return cache.stats()["loads_claimed"]


# A block that is entered in one context and left in another


def test_a_block_may_end_in_another_task_than_it_began_in(cache):
    """Leaving it raised a ValueError about contexts before the load had ended: its key was dead for all processes."""

    async def block():
        async with cache.load("k"):
            yield 1
            yield 2

    async def scene():
        made = block()
        # What has a time limit may run in a task of its own, as asyncio.wait_for does before Python 3.12.
        await asyncio.ensure_future(made.__anext__())
        await made.aclose()

    in_loop(scene())
    assert claimed(cache) == 0
    assert is_free(cache)


def test_a_block_may_end_in_another_context_than_it_began_in(cache):
    def block():
        with cache.load("k"):
            yield

    made = block()
    contextvars.copy_context().run(next, made)
    made.close()
    assert claimed(cache) == 0
    assert is_free(cache)


def test_a_block_that_ended_elsewhere_takes_no_set_of_those_behind_it(cache):
    """A set of its key is the block's while it is open, and nobody's when it is not."""
    made = cache.load("k")
    made.__enter__()
    Started(made.__exit__, None, None, None).result()
    with cache.load("another"):
        cache.set("k", "behind it")
    assert cache.get("k") == "behind it"


def test_a_block_that_nobody_leaves_ends_when_nobody_has_it(cache):
    cache.load("k").__enter__()
    gc.collect()
    assert claimed(cache) == 0
    assert is_free(cache)
    assert not blocks.open_blocks


def test_a_block_is_protected_where_others_open_and_close_at_the_same_time(cache):
    """They were counted by a number that threads added to at once, which lost some: with too few counted, a set in a
    block went by it."""

    def many():
        for number in range(300):
            with cache.load(f"{threading.get_ident()}:{number}"):
                pass

    for each in [Started(many) for _ in range(4)]:
        each.result()
    assert not blocks.open_blocks


# Loops that are closed


def closed_amid_a_load(cache: Any, key: str) -> None:
    """A loop that is closed while one of its tasks loads, as asyncio.run never does."""

    async def forever():
        await asyncio.sleep(1000)

    async def begin():
        kept.append(loop.create_task(cache.aget_or_set(key, forever)))
        await asyncio.sleep(0.05)

    kept: list[Any] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    loop.close()


@pytest.fixture
def quiet() -> Any:
    """asyncio says of the tasks, when they go, that they were pending."""
    with contextlib.ExitStack() as left:
        left.callback(gc.collect)
        yield


def test_a_load_of_a_loop_that_was_closed_is_taken_over(cache, quiet):
    """Its task was kept alive for ever, and with it the key."""
    closed_amid_a_load(cache, "k")
    assert claimed(cache) == 1
    assert is_free(cache)
    assert claimed(cache) == 0
    closed_amid_a_load(cache, "a")

    async def loader():
        return "at once"

    assert in_loop(cache.aget_or_set("a", loader), 5) == "at once"
    assert not drivers._tasks


def test_any_later_load_frees_the_keys_of_closed_loops_for_other_processes(cache, quiet):
    closed_amid_a_load(cache, "k")
    assert is_free(cache, "another")
    assert claimed(cache) == 0


def test_a_loop_that_is_closed_amid_a_block_leaves_its_key(cache, quiet):
    async def block():
        async with cache.load("k"):
            await asyncio.sleep(1000)

    async def begin():
        kept.append(loop.create_task(block()))
        await asyncio.sleep(0.05)

    kept: list[Any] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    loop.close()
    assert is_free(cache)
    kept.clear()


def test_who_waits_already_when_the_loop_is_closed_takes_over(cache, quiet):
    begun = threading.Event()

    async def forever():
        begun.set()
        await asyncio.sleep(1000)

    async def begin():
        kept.append(loop.create_task(cache.aget_or_set("k", forever)))
        await asyncio.sleep(0.3)

    async def loader():
        return "taken over"

    kept: list[Any] = []
    loop = asyncio.new_event_loop()
    running = Started(loop.run_until_complete, begin())
    assert begun.wait(5)
    threads = [Started(cache.get_or_set, "k", lambda: "taken over") for _ in range(3)]
    tasks = Started(asyncio.run, cache.aget_or_set("k", loader))
    running.result()
    loop.close()
    assert [each.result(5) for each in [*threads, tasks]] == ["taken over"] * 4


def test_a_thread_that_needs_a_loop_which_is_closed_gives_up(cache, quiet):
    """What a plain function returned was awaited in the loop of its caller, for ever."""
    begun = threading.Event()

    async def forever():
        begun.set()
        await asyncio.sleep(1000)

    async def begin():
        kept.append(loop.create_task(cache.aget_or_set("k", lambda: forever(), hard_timeout=100)))
        while not begun.is_set():
            await asyncio.sleep(0.01)

    kept: list[Any] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    loop.close()
    assert is_free(cache)


# Exceptions between two lines: of signal handlers, or of other threads


class Interrupt(BaseException):
    pass


@pytest.mark.parametrize("where", ["announce", "finish"])
def test_an_exception_between_two_lines_leaves_no_key_behind(cache, monkeypatch, where):
    whole = getattr(flights.Flight, where)

    def interrupted(self):
        if where == "announce":
            whole(self)
        monkeypatch.undo()
        raise Interrupt

    for work in (
        lambda: cache.get_or_set("k", lambda: 1),
        lambda: cache.load("k").__enter__().__exit__(None, None, None),
    ):
        monkeypatch.setattr(flights.Flight, where, interrupted)
        with contextlib.suppress(Interrupt):
            work()
        gc.collect()
        assert claimed(cache) == 0
        cache.clear()
        assert is_free(cache)
        cache.clear()


HAMMERED = """
    import django; django.setup()
    import contextlib, ctypes, gc, random, threading, time
    from django.core.cache import caches
    cache, keys, end = caches["default"], ["a", "b", "c"], time.monotonic() + 1.5

    class Interrupt(BaseException):
        pass

    def load():
        cache.get_or_set(random.choice(keys), lambda: time.sleep(0.001), 0.001, stale=0.01)

    def block():
        with cache.load(random.choice(keys)):
            cache.set("a", 1, 0.001)

    def work(once):
        while time.monotonic() < end:
            with contextlib.suppress(Interrupt):
                while time.monotonic() < end:
                    once()

    threading.excepthook = lambda hook: None  # one may hit between two of the lines above
    threads = [threading.Thread(target=work, args=[once], daemon=True) for once in (load, load, load, block)]
    for each in threads:
        each.start()
    while time.monotonic() < end - 0.2:
        identity = ctypes.c_ulong(random.choice(threads).ident)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(identity, ctypes.py_object(Interrupt))
        time.sleep(0.003)
    for each in threads:
        each.join(10)
    gc.collect()
    free = []
    for key in keys:
        each = threading.Thread(target=lambda: free.append(cache.get_or_set(key, lambda: 1, 0)), daemon=True)
        each.start()
        each.join(5)
    print("stuck", [each.is_alive() for each in threads].count(True), "free", len(free))
"""


def test_interrupts_at_any_moment_leave_no_key_behind(project):
    assert "stuck 0 free 3" in project.python(HAMMERED).splitlines()


def test_where_the_system_has_no_further_thread_a_load_runs_in_the_callers(cache, monkeypatch):
    """The load stayed in the queue of a thread that never began."""
    monkeypatch.setattr(drivers, "_threads", drivers.Threads())

    class NoThread(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(drivers.threading, "Thread", NoThread)
        assert cache.get_or_set("k", threading.get_ident, hard_timeout=5) == threading.get_ident()
    assert cache.get_or_set("other", threading.get_ident, hard_timeout=5) != threading.get_ident()


def test_a_flight_that_was_given_up_is_no_value():
    cache = caches["default"]
    owned = flights.Owned({("somewhere",): cache._load("k", None, None, 0.0, True, True)})
    flight = owned.flight
    del owned
    assert flight.done.is_set()
    with pytest.raises(RuntimeError, match="given up"):
        flight.result()
