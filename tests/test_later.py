"""What tasks await on real servers: a loop that is never held up, few threads, and no answer to another's question."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction
from django.utils.asyncio import async_unsafe

# The native pool.
MOST_THREADS = 4
CANCELLED, INTERRUPTED = 100_000, 10_000


def threads() -> int:
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return names.count("tezkor")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_tasks_are_answered_as_threads_are(on_server: Any) -> None:
    cache = on_server

    async def tasks() -> None:
        assert await cache.aget("k", "default") == "default"
        assert await cache.aset("k", {"a": [1]}, 60, tags=["t"]) is None
        assert await cache.aget("k") == cache.get("k") == {"a": [1]}
        assert await cache.ahas_key("k")
        assert not await cache.ahas_key("other")
        assert not await cache.aadd("k", 2)
        assert await cache.aadd("added", 2)
        assert await cache.aincr("added") == 3
        assert await cache.adecr("added", 2) == 1
        assert await cache.aset_many({"m": 1, "n": None}, 60) == []
        assert await cache.aget_many(["m", "n", "o"]) == {"m": 1, "n": None}
        assert await cache.aget_many([]) == {}
        assert await cache.atouch("k", 100)
        assert cache.ttl("k") > 60
        await cache.adelete_many(["m", "n"])
        assert await cache.adelete("added")
        assert not await cache.adelete("added")
        assert (
            await cache.aget_or_set("loaded", lambda: 5, 60)
            == await cache.aget_or_set("loaded", int, 60)
            == 5
        )
        await cache.ainvalidate_tags("t")
        assert await cache.aget("k") is None
        # What the server cannot add to by itself.
        await cache.aset("f", 1.5)
        await cache.aset("tagged", 1, tags=["u"])
        assert await cache.aincr("f", 1) == 2.5
        assert await cache.aincr("tagged", 2) == 3
        with pytest.raises(ValueError, match="gone"):
            await cache.aincr("gone")
        with pytest.raises(TypeError, match="stale"):
            await cache.aset("k", 1, stale="soon")

    asyncio.run(tasks())


class Rows:
    """As a queryset that has not run: its pickling asks the database, which Django refuses in a loop's thread."""

    @async_unsafe("not in a loop")
    def __reduce__(self) -> tuple[Any, ...]:
        return (list, ([1, 2],))


def test_what_asks_the_database_to_be_pickled_is_pickled_in_a_thread_of_djangos(on_server: Any) -> None:
    async def tasks() -> Any:
        await on_server.aset("q", Rows())
        assert await on_server.aset_many({"r": Rows()}) == []
        return await on_server.aget_many(["q", "r"])

    assert asyncio.run(tasks()) == {"q": [1, 2], "r": [1, 2]}


def test_what_is_overridden_or_replaced_is_seen_by_tasks(on_server: Any) -> None:
    class Loud(type(on_server)):  # type: ignore[misc]
        def get(self, key: Any, default: Any = None, version: Any = None) -> Any:
            return "overridden"

    loud = Loud(*on_server._settings)
    on_server.set("k", 1)
    assert asyncio.run(loud.aget("k")) == "overridden"
    assert asyncio.run(loud.aget_many(["k"])) == {"k": 1}
    on_server.get = lambda *args: "replaced"
    assert asyncio.run(on_server.aget("k")) == "replaced"


def test_a_server_that_hangs_does_not_hold_up_the_loop(on_server: Any, running: Any) -> None:
    on_server.set("k", 1)

    async def tasks() -> tuple[Any, int]:
        waiting = asyncio.ensure_future(on_server.aget("k"))
        ticks = 0
        while not waiting.done():
            await asyncio.sleep(0.001)
            ticks += 1
        return await waiting, ticks

    assert asyncio.run(tasks())[0] == 1
    for process in running.processes:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        value, ticks = asyncio.run(tasks())
    finally:
        for process in running.processes:
            os.kill(process.pid, signal.SIGCONT)
    # It waits a tenth of a second for the server.
    assert value is None
    assert ticks > 10


def test_tasks_of_many_loops_share_a_few_threads_and_leave_nothing_open(on_server: Any) -> None:
    async def tasks() -> None:
        keys = [f"k{number}" for number in range(200)]
        await asyncio.gather(*(on_server.aset(key, key) for key in keys))
        assert await asyncio.gather(*(on_server.aget(key) for key in keys)) == keys

    asyncio.run(tasks())
    gc.collect()
    before = descriptors()
    for _ in range(50):
        asyncio.run(on_server.aget("k1"))
        assert async_to_sync(on_server.aget)("k2") == "k2"
    asyncio.run(tasks())
    gc.collect()
    assert descriptors() <= before + MOST_THREADS
    assert 1 <= threads() <= MOST_THREADS


def test_cancelled_and_interrupted_operations_leave_no_answer_for_others(on_server: Any) -> None:
    dice = random.Random(7)
    keys = [f"key{number}" for number in range(64)]
    on_server.set_many({key: key for key in keys})
    wrong: list[Any] = []
    ends = {"cancelled": 0, "answered": 0}

    async def ask(key: str) -> None:
        many = dice.random() < 0.1
        found = await (on_server.aget_many([key, keys[0]]) if many else on_server.aget(key))
        ends["answered"] += 1
        if found != ({key: key, keys[0]: keys[0]} if many else key):
            wrong.append((key, found))

    async def tasks() -> None:
        for _ in range(CANCELLED // 100):
            running = [asyncio.ensure_future(ask(dice.choice(keys))) for _ in range(100)]
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
            for task in running:
                if dice.random() < 0.5:
                    ends["cancelled"] += task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    asyncio.run(tasks())
    assert not wrong
    assert min(ends.values()) > CANCELLED // 10, ends

    class Interrupt(BaseException):
        pass

    def interrupt(*args: Any) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    interrupts = 0
    try:
        for _ in range(INTERRUPTED):
            key = dice.choice(keys)
            try:
                signal.setitimer(signal.ITIMER_REAL, dice.uniform(2e-5, 2e-4))
                found = on_server.get(key)
                signal.setitimer(signal.ITIMER_REAL, 0)
                if found != key:
                    wrong.append((key, found))
            except Interrupt:
                interrupts += 1
    finally:
        with contextlib.suppress(Interrupt):
            signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not wrong, (len(wrong), wrong[:3])
    assert interrupts > INTERRUPTED // 1000


def test_a_child_has_threads_of_its_own(on_server: Any) -> None:
    on_server.set("k", 1)
    assert asyncio.run(on_server.aget("k")) == 1
    child = os.fork()
    if child == 0:
        os._exit(0 if asyncio.run(asyncio.wait_for(on_server.aget("k"), 10)) == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert asyncio.run(on_server.aget("k")) == 1


def test_a_coroutine_inside_a_transaction_is_part_of_it(on_server: Any) -> None:
    on_server.set("k", "old")
    with transaction.atomic():
        assert async_to_sync(on_server.adelete)("k")
        # Another worker's load puts it back.
        on_server._set("k", "old")
        assert async_to_sync(on_server.aget)("k") is None
        assert not async_to_sync(on_server.ahas_key)("k")
    assert on_server.get("k") is None


def test_answers_that_come_when_their_loop_is_gone_hurt_nobody(on_server: Any) -> None:
    on_server.set("k", 1)

    async def leave() -> None:
        asyncio.ensure_future(on_server.aget("k"))  # noqa: RUF006 (nobody waits for it)
        await asyncio.sleep(0)

    asyncio.run(leave())
    time.sleep(0.05)
    before = descriptors()
    for _ in range(200):
        asyncio.run(leave())
    time.sleep(0.05)
    assert asyncio.run(on_server.aget("k")) == 1
    gc.collect()
    assert descriptors() <= before + 2, "loops that are gone keep nothing open"
