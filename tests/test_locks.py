"""Locks that processes share: one holder, free at its death, known by its token."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from bounded import SOAK, Started, alarm, wait_until
from test_processes import PROCESSES, SPAWN, cache_in, say, together

import tezkor
from tezkor.backends import TezkorCache
from tezkor.test import clear_caches


@pytest.fixture(autouse=True)
def bounded() -> Any:
    with alarm(600 if SOAK else 120):
        yield


@pytest.fixture
def cache() -> Any:
    clear_caches()
    return TezkorCache("", {"OPTIONS": {"TIMEOUTS": {"LONG": 100, "EVER": None, "NEVER": 0}}})


def test_a_lock_is_held_by_one_and_given_back(cache):
    lock, other = cache.lock("report"), cache.lock("report")
    with lock as held:
        assert held is lock
        assert lock.owned()
        assert lock.locked()
        assert not other.acquire(blocking=False)
        assert not other.owned()
        assert cache.lock("another").acquire(blocking=False)
    assert not lock.locked()
    first = lock.token
    with lock:
        assert lock.token > first
        assert cache.lock("report", version=2).acquire(blocking=False)


def test_a_lock_that_is_not_ours_is_not_given_back(cache):
    lock = cache.lock("report")
    with pytest.raises(tezkor.LockNotOwned, match="report"):
        lock.release()
    with cache.lock("report"), pytest.raises(tezkor.LockNotOwned):
        lock.release()
    with pytest.raises(tezkor.LockNotOwned), cache.lock("brief", timeout=0.02):
        time.sleep(0.03)
    with pytest.raises(ZeroDivisionError), cache.lock("brief", timeout=0.02):
        time.sleep(0.03)
        raise ZeroDivisionError


def test_a_lock_can_be_extended(cache):
    lock = cache.lock("report", timeout=0.05)
    assert lock.acquire()
    lock.extend(60)
    time.sleep(0.07)
    assert lock.owned()
    lock.extend(None)
    lock.release()
    with pytest.raises(tezkor.LockNotOwned):
        lock.extend(1)


def test_waiting_for_a_lock_ends_with_it_or_in_time(cache):
    held = cache.lock("report")
    assert held.acquire()
    started = time.monotonic()
    with pytest.raises(tezkor.LockTimeout, match="'report' could not be had within"):
        cache.lock("report", blocking_timeout=0.1).__enter__()
    assert 0.09 < time.monotonic() - started < 1
    with pytest.raises(tezkor.LockTimeout, match="at once"):
        cache.lock("report", blocking=False).__enter__()
    threading.Timer(0.1, cache._release, ("report", held.token)).start()
    with cache.lock("report", blocking_timeout=5):
        pass


def test_tasks_wait_for_a_lock_without_holding_up_the_loop(cache):
    inside, most = 0, 0

    async def work():
        nonlocal inside, most
        async with cache.lock("report"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    async def scene():
        ticks = 0
        works = [asyncio.ensure_future(work()) for _ in range(8)]
        while not all(each.done() for each in works):
            await asyncio.sleep(0.002)
            ticks += 1
        return ticks

    assert asyncio.run(scene()) > 10
    assert most == 1


def test_neither_clear_nor_eviction_takes_a_lock_away(cache):
    with cache.lock("report") as lock:
        cache.clear()
        cache.clear_prefix()
        cache.delete_pattern("*")
        assert lock.owned()
        assert not cache.lock("report").acquire(blocking=False)


@pytest.mark.parametrize(
    ("terms", "error", "text"),
    [
        ({"timeout": "x"}, ValueError, r"the timeout 'x' is not in OPTIONS\['TIMEOUTS'\]"),
        ({"timeout": [1]}, ValueError, r"timeout is \[1\]: write a number of seconds, or None"),
        ({"timeout": -1}, ValueError, "timeout is -1"),
        ({"timeout": float("nan")}, ValueError, "timeout is nan"),
        ({"timeout": float("inf")}, ValueError, "timeout is inf"),
        ({"timeout": 0}, ValueError, "locks nothing"),
        ({"timeout": "NEVER"}, ValueError, "locks nothing"),
        (
            {"blocking_timeout": "x"},
            ValueError,
            "blocking_timeout is 'x': write a number of seconds, or None",
        ),
        ({"tiemout": 1}, TypeError, "tiemout"),
    ],
)
def test_wrong_arguments_are_told(cache, terms, error, text):
    with pytest.raises(error, match=text):
        cache.lock("report", **terms)


def test_wrong_arguments_of_its_verbs_are_told(cache):
    lock = cache.lock("report")
    for call in (lock.acquire, lock.aacquire):
        with pytest.raises(ValueError, match="blocking_timeout is 'x': write a number of seconds"):
            call(blocking_timeout="x")
    assert not lock.locked()
    with lock:
        for timeout, text in (
            ("x", "the timeout 'x' is not in"),
            (0, "locks nothing"),
            (-1, "timeout is -1"),
        ):
            with pytest.raises(ValueError, match=text):
                lock.extend(timeout)
        assert lock.owned()


def test_timeouts_of_locks_may_be_names(cache):
    lock = cache.lock("report", timeout="LONG")
    assert lock.timeout == 100
    assert cache.lock("report", timeout="EVER").timeout is None
    with lock:
        lock.extend("LONG")
        lock.extend("EVER")


# Who owns a lock: the thread or the task that took it


def test_a_lock_that_another_thread_took_through_the_same_object_is_not_given_back(cache):
    """The first one's time was over, the second one took the lock, and the first one's release freed it."""
    lock = cache.lock("report", timeout=0.05)
    assert lock.acquire()
    token = lock.token
    time.sleep(0.06)

    def second():
        lock.timeout = 60
        assert lock.token == 0
        assert lock.acquire(blocking_timeout=5)
        taken.set()
        released.wait(10)
        assert lock.owned()
        lock.release()
        return lock.token

    taken, released = threading.Event(), threading.Event()
    other = Started(second)
    assert taken.wait(5)
    assert lock.token == token
    assert not lock.owned()
    with pytest.raises(tezkor.LockNotOwned, match="thread_local=False"):
        lock.release()
    assert lock.locked()
    released.set()
    assert other.result() == 0
    assert not lock.locked()


def test_one_lock_object_serves_many_threads_and_tasks(cache):
    lock = cache.lock("report", timeout=60, blocking_timeout=20)
    inside: list[int] = []

    def work():
        for _ in range(20):
            with lock as held:
                inside.append(held.token)
                assert lock.owned()
                time.sleep(0.0005)

    async def awork():
        async with lock as held:
            inside.append(held.token)
            await asyncio.sleep(0.001)
            assert lock.owned()

    async def scene():
        await asyncio.gather(*(awork() for _ in range(20)))

    for each in [Started(work), Started(work), Started(asyncio.run, scene())]:
        each.result(30)
    assert inside == sorted(set(inside))
    assert len(inside) == 60
    assert not lock.locked()


def test_a_lock_is_the_callers_where_another_task_awaits_it(cache):
    """As asyncio.wait_for does before Python 3.12, and shield and gather always do."""

    async def scene():
        lock = cache.lock("report")
        assert await asyncio.shield(asyncio.ensure_future(lock.aacquire()))
        assert lock.owned()
        assert not await asyncio.ensure_future(ask(lock))
        await asyncio.ensure_future(lock.arelease())
        assert not lock.locked()

    async def ask(lock):
        with pytest.raises(tezkor.LockNotOwned):
            lock.release()
        return lock.owned()

    asyncio.run(scene())


def test_a_block_may_be_left_by_another_task_than_it_was_entered_by(cache):
    """Fixtures of asynchronous tests do so, and what has a time limit."""
    lock = cache.lock("report")

    async def made():
        async with lock:
            yield

    async def scene():
        block = made()
        await asyncio.ensure_future(block.__anext__())
        assert lock.locked()
        await block.aclose()

    asyncio.run(scene())
    assert not lock.locked()


def test_those_who_share_a_lock_own_it_together(cache):
    lock = cache.lock("report", thread_local=False)
    assert lock.acquire()
    token = lock.token

    def heartbeat():
        lock.extend(60)
        return lock.owned(), lock.token

    assert Started(heartbeat).result() == (True, token)
    Started(lock.release).result()
    assert not lock.locked()
    with pytest.raises(tezkor.LockNotOwned):
        lock.release()


def test_a_forked_child_owns_nothing(cache):
    """Its release freed the parent's lock, and so did leaving the block that the fork was in."""
    lock, within = cache.lock("report"), cache.lock("within")
    assert lock.acquire()

    def child() -> str:
        said = []
        for call in (lock.release, lambda: lock.extend(5)):
            try:
                call()
            except tezkor.LockNotOwned:
                said.append("not owned")
        return f"{said} {lock.owned()} {lock.token}"

    reads, writes = os.pipe()
    with within:
        pid = os.fork()
        if pid == 0:
            try:
                within.__exit__(None, None, None)
                os.write(writes, child().encode())
            finally:
                os._exit(0)
        os.close(writes)
        os.waitpid(pid, 0)
        assert within.owned()
    assert os.read(reads, 1000).decode() == "['not owned', 'not owned'] False 0"
    os.close(reads)
    assert lock.owned()
    lock.release()


def test_who_is_cancelled_while_it_waits_for_a_lock_does_not_take_it(cache):
    async def scene():
        held = cache.lock("report")
        assert held.acquire()

        async def wait():
            async with cache.lock("report"):
                raise AssertionError

        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        held.release()
        await asyncio.sleep(0.1)
        assert not held.locked()

    asyncio.run(scene())


def count_up(folder: str, number: int, barrier: Any) -> None:
    """Reads and writes a number without any atomicity but the lock's."""
    cache = cache_in(folder)
    file = Path(folder, "number")
    tokens = []
    barrier.wait(60)
    for _ in range(150):
        with cache.lock("number", timeout=60) as lock:
            tokens.append(lock.token)
            file.write_text(str(int(file.read_text() or 0) + 1) if file.exists() else "1")
    assert tokens == sorted(set(tokens))
    say(folder, number, tokens)


def test_processes_take_turns(tmp_path):
    tokens = together(count_up, tmp_path, SPAWN.Barrier(PROCESSES))
    assert (tmp_path / "number").read_text() == str(150 * PROCESSES)
    assert len({token for each in tokens for token in each}) == 150 * PROCESSES


def hold(folder: str) -> None:
    cache = cache_in(folder)
    cache.lock("report").acquire()
    Path(folder, "held").write_text("")
    time.sleep(60)


def test_a_lock_of_a_killed_process_is_free_at_once(tmp_path):
    cache = cache_in(str(tmp_path))
    holder = SPAWN.Process(target=hold, args=(str(tmp_path),), daemon=True)
    holder.start()
    wait_until(lambda: (tmp_path / "held").exists(), 30)
    lock = cache.lock("report", blocking_timeout=10)
    assert not lock.acquire(blocking=False)
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    started = time.monotonic()
    with lock:
        assert time.monotonic() - started < 1


def spend(folder: str, number: int, barrier: Any) -> None:
    cache = cache_in(folder)
    barrier.wait(60)
    say(folder, number, sum(bool(cache.rate_limit("login", 500, 600)) for _ in range(400)))


def test_a_rate_limit_is_exact_across_processes(tmp_path):
    assert sum(together(spend, tmp_path, SPAWN.Barrier(PROCESSES))) == 500
