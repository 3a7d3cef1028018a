"""Locks and rate limits that all processes of a LOCATION share. A lock is free as soon as its process has died.

Neither eviction nor ``clear()`` takes a lock from its holder. The names of redis-py are kept where they exist.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
import weakref
from collections.abc import Coroutine
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from asgiref.sync import markcoroutinefunction

from tezkor import _native, terms

# Between two looks of a task at a lock that another has.
SHORTEST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.001, 0.02


class LockTimeout(TimeoutError):
    """A lock could not be had within ``blocking_timeout``."""


class LockNotOwned(RuntimeError):
    """A lock is not, or no longer, the caller's: its timeout is over, or it was never taken."""


class Held(NamedTuple):
    """What a thread or a task has of a lock: its token, in the process that took it."""

    token: int
    forks: int

    @property
    def is_of_this_process(self) -> bool:
        return self.forks == _native.forked()


class Lock:
    """A lock by name: ``with cache.lock("report", timeout=60):``, or ``async with``.

    ``timeout``: seconds after which it is lost, or a name of TIMEOUTS; None: when it is released, or its process ends.
    ``blocking_timeout``: seconds to wait for it at most; None: for ever. ``token`` is the fencing token while it is
    held: larger than those of all holders before, so that what the lock protects can refuse a holder that slept.

    It is the thread's or the task's that acquired it: another that has this object, or a forked child, owns nothing.
    With ``thread_local=False`` all threads and tasks of the process that have this object own it together.
    """

    def __init__(
        self,
        cache: Any,
        name: Any,
        version: Any = None,
        timeout: float | str | None = None,
        blocking: bool = True,
        blocking_timeout: float | None = None,
        thread_local: bool = True,
        **ignored: Any,
    ) -> None:
        if unknown := ignored.keys() - {"sleep", "client", "lock_class"}:
            raise TypeError(f"a lock takes no argument {sorted(unknown)[0]!r}")
        self.cache = cache
        self.name = name
        self.version = version
        self.timeout = self._lasting(timeout)
        self.blocking = blocking
        check_blocking_timeout(blocking_timeout)
        self.blocking_timeout = blocking_timeout
        self.thread_local = thread_local
        # By thread and task, or under this lock itself where they share it.
        self._held: WeakKeyDictionary[Any, Held] = WeakKeyDictionary()
        # What was taken by ``with``, and by which thread or task.
        self._entered: list[tuple[weakref.ref[Any], Held]] = []

    @property
    def token(self) -> int:
        """The fencing token; 0 while the caller does not hold the lock."""
        held = self._held.get(self._holder())
        return held.token if held is not None and held.is_of_this_process else 0

    def acquire(self, blocking: bool | None = None, blocking_timeout: float | None = None) -> bool:
        """Takes the lock; False when that cannot be done without waiting, or in time."""
        return self._take(self._deadline(blocking, blocking_timeout), self._holder()) is not None

    @markcoroutinefunction
    def aacquire(
        self, blocking: bool | None = None, blocking_timeout: float | None = None
    ) -> Coroutine[Any, Any, bool]:
        """The same, without holding up the loop.

        The lock is the caller's, also where another task awaits this, as ``asyncio.wait_for`` may.
        """
        return self._acquired(self._atake(self._deadline(blocking, blocking_timeout), self._holder()))

    async def _acquired(self, taking: Coroutine[Any, Any, Held | None]) -> bool:
        return await taking is not None

    def release(self) -> None:
        """Gives the lock back. Raises LockNotOwned when it was lost before, or is another's."""
        self._give_back(self._held.pop(self._holder(), None))

    @markcoroutinefunction
    def arelease(self) -> Coroutine[Any, Any, None]:
        return self._released(self._held.pop(self._holder(), None))

    async def _released(self, held: Held | None) -> None:
        self._give_back(held)

    def extend(self, timeout: float | str | None) -> None:
        """Has the lock last so many seconds from now on. Raises LockNotOwned when it was lost before."""
        token, seconds = self.token, self._lasting(timeout)
        if not token or not self.cache._extend(self.name, token, seconds, self.version):
            raise self._not_owned()

    def locked(self) -> bool:
        """Whether anybody has it."""
        return bool(self.cache._is_locked(self.name, self.version)) or self.owned()

    def owned(self) -> bool:
        """Whether the caller has it. Another process may take it in the next moment if its timeout ends then."""
        token = self.token
        return bool(token) and bool(self.cache._owns(self.name, token, self.version))

    def _lasting(self, timeout: Any) -> Any:
        timeout = self.cache.lasting(timeout)
        terms.limit("timeout")(timeout)
        if timeout == 0:
            raise ValueError("timeout is 0: a lock that is lost at once locks nothing")
        return timeout

    def _holder(self) -> Any:
        """Who owns what the caller acquires."""
        return caller() if self.thread_local else self

    def _take(self, deadline: float, holder: Any) -> Held | None:
        while (held := self._try(holder)) is None:
            left = deadline - time.monotonic()
            if left <= 0 or not self.cache._await_lock(self.name, min(left, 3600.0), self.version):
                return None
        return held

    async def _atake(self, deadline: float, holder: Any) -> Held | None:
        pause = SHORTEST_POLL_SECONDS
        while (held := self._try(holder)) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 2, LONGEST_POLL_SECONDS)
        return held

    def _try(self, holder: Any) -> Held | None:
        token = self.cache._acquire(self.name, self.timeout, self.version)
        if not token:
            return None
        held = self._held[holder] = Held(token, _native.forked())
        return held

    def _give_back(self, held: Held | None) -> None:
        is_ours = held is not None and held.is_of_this_process
        if held is None or not is_ours or not self.cache._release(self.name, held.token, self.version):
            raise self._not_owned()

    def _not_owned(self) -> LockNotOwned:
        said = "its timeout is over, or it was not acquired by this thread or task"
        hint = "; with thread_local=False those that have the object share it" if self.thread_local else ""
        return LockNotOwned(f"the lock {self.name!r} is not this one's: {said}{hint}")

    def _deadline(self, blocking: bool | None, blocking_timeout: float | None) -> float:
        check_blocking_timeout(blocking_timeout)
        blocking = self.blocking if blocking is None else blocking
        seconds = self.blocking_timeout if blocking_timeout is None else blocking_timeout
        if not blocking:
            return -math.inf
        return math.inf if seconds is None else time.monotonic() + seconds

    def _enter(self, held: Held | None) -> Lock:
        if held is None:
            waited = f"within {self.blocking_timeout} s" if self.blocking else "at once"
            raise LockTimeout(f"the lock {self.name!r} could not be had {waited}")
        self._entered.append((weakref.ref(caller()), held))
        return self

    def _leave(self, error: Any) -> None:
        held = self._left()
        if held is not None and not held.is_of_this_process:
            return  # the parent leaves the block too
        if held is not None and self._held.get(self._holder()) is held:
            del self._held[self._holder()]
        try:
            self._give_back(held)
        except LockNotOwned:
            if error is None:  # what went wrong in the block is told, not what came of it
                raise

    def _left(self) -> Held | None:
        """What the caller took when it entered the block that it leaves. A generator may be left by another task than
        it was entered by, which then is gone or has the only block."""
        here = caller()
        blocks = list(self._entered)
        mine = [block for block in blocks if block[0]() is here]
        mine = (
            mine
            or [block for block in blocks if has_ended(block[0]())]
            or (blocks if len(blocks) == 1 else [])
        )
        if not mine:
            return None
        self._entered.remove(mine[-1])
        return mine[-1][1]

    def __enter__(self) -> Lock:
        return self._enter(self._take(self._deadline(None, None), self._holder()))

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._leave(error)

    async def __aenter__(self) -> Lock:
        return self._enter(await self._atake(self._deadline(None, None), self._holder()))

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._leave(error)

    def __repr__(self) -> str:
        return f"<tezkor.locks.Lock {self.name!r}{' held' if self.token else ''}>"


def caller() -> Any:
    """The running task or thread."""
    task = asyncio.current_task() if asyncio._get_running_loop() is not None else None
    return task or threading.current_thread()


def has_ended(one: Any) -> bool:
    return one is None or (one.done() if isinstance(one, asyncio.Future) else not one.is_alive())


def check_blocking_timeout(given: Any) -> None:
    terms.limit("blocking_timeout")(given)


class RateLimit(NamedTuple):
    """What came of using a rate limit; true while it is kept."""

    allowed: bool
    remaining: int
    retry_after: float

    def __bool__(self) -> bool:
        return self.allowed
