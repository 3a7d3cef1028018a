"""Locks and rate limits that all processes of a LOCATION share. A lock is free as soon as its process has died.

Neither eviction nor ``clear()`` takes a lock from its holder. The names of redis-py are kept where they exist.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any, NamedTuple

from tezkor import terms

# Between two looks of a task at a lock that another has.
SHORTEST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.001, 0.02


class LockTimeout(TimeoutError):
    """A lock could not be had within ``blocking_timeout``."""


class LockNotOwned(RuntimeError):
    """A lock is not, or no longer, the caller's: its timeout is over, or it was never taken."""


class Lock:
    """A lock by name: ``with cache.lock("report", timeout=60):``, or ``async with``.

    ``timeout``: seconds after which it is lost; None: when it is released, or its process ends. ``blocking_timeout``:
    seconds to wait for it at most; None: for ever. ``token`` is its fencing token while it is held: larger than
    those of all holders before, so that what the lock protects can refuse a holder that slept.
    """

    def __init__(
        self,
        cache: Any,
        name: Any,
        version: Any = None,
        timeout: float | str | None = None,
        blocking: bool = True,
        blocking_timeout: float | None = None,
        **ignored: Any,
    ) -> None:
        if unknown := ignored.keys() - {"sleep", "thread_local", "client", "lock_class"}:
            raise TypeError(f"a lock takes no argument {sorted(unknown)[0]!r}")
        self.cache = cache
        self.name = name
        self.version = version
        self.timeout = self._lasting(timeout)
        self.blocking = blocking
        check_blocking_timeout(blocking_timeout)
        self.blocking_timeout = blocking_timeout
        self.token = 0

    def acquire(self, blocking: bool | None = None, blocking_timeout: float | None = None) -> bool:
        """Takes the lock; False when that cannot be done without waiting, or in time."""
        deadline = self._deadline(blocking, blocking_timeout)
        while not self._try():
            left = deadline - time.monotonic()
            if left <= 0 or not self.cache._await_lock(self.name, min(left, 3600.0), self.version):
                return False
        return True

    async def aacquire(self, blocking: bool | None = None, blocking_timeout: float | None = None) -> bool:
        """The same, without holding up the loop."""
        deadline = self._deadline(blocking, blocking_timeout)
        pause = SHORTEST_POLL_SECONDS
        while not self._try():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 2, LONGEST_POLL_SECONDS)
        return True

    def release(self) -> None:
        """Gives the lock back. Raises LockNotOwned when it was lost before."""
        token, self.token = self.token, 0
        if not token or not self.cache._release(self.name, token, self.version):
            raise LockNotOwned(
                f"the lock {self.name!r} is not this one's: its timeout is over, or it was not acquired"
            )

    async def arelease(self) -> None:
        self.release()

    def extend(self, timeout: float | None) -> None:
        """Has the lock last so many seconds from now on. Raises LockNotOwned when it was lost before."""
        seconds = self._lasting(timeout)
        if not self.token or not self.cache._extend(self.name, self.token, seconds, self.version):
            raise LockNotOwned(
                f"the lock {self.name!r} is not this one's: its timeout is over, or it was not acquired"
            )

    def locked(self) -> bool:
        """Whether anybody has it."""
        return bool(self.cache._is_locked(self.name, self.version))

    def owned(self) -> bool:
        """Whether this object has it. Another process may take it in the next moment if its timeout ends then."""
        return bool(self.token) and self.cache._owns(self.name, self.token, self.version)

    def _lasting(self, timeout: Any) -> Any:
        timeout = self.cache.lasting(timeout)
        terms.limit("timeout")(timeout)
        if timeout == 0:
            raise ValueError("timeout is 0: a lock that is lost at once locks nothing")
        return timeout

    def _try(self) -> bool:
        token = self.cache._acquire(self.name, self.timeout, self.version)
        if token:
            self.token = token
        return bool(token)

    def _deadline(self, blocking: bool | None, blocking_timeout: float | None) -> float:
        check_blocking_timeout(blocking_timeout)
        blocking = self.blocking if blocking is None else blocking
        seconds = self.blocking_timeout if blocking_timeout is None else blocking_timeout
        if not blocking:
            return -math.inf
        return math.inf if seconds is None else time.monotonic() + seconds

    def _or_raise(self, acquired: bool) -> Lock:
        if not acquired:
            waited = f"within {self.blocking_timeout} s" if self.blocking else "at once"
            raise LockTimeout(f"the lock {self.name!r} could not be had {waited}")
        return self

    def __enter__(self) -> Lock:
        return self._or_raise(self.acquire())

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._leave(error)

    async def __aenter__(self) -> Lock:
        return self._or_raise(await self.aacquire())

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._leave(error)

    def _leave(self, error: Any) -> None:
        try:
            self.release()
        except LockNotOwned:
            if error is None:  # what went wrong in the block is told, not what came of it
                raise

    def __repr__(self) -> str:
        return f"<tezkor.locks.Lock {self.name!r}{' held' if self.token else ''}>"


def check_blocking_timeout(given: Any) -> None:
    terms.limit("blocking_timeout")(given)


class RateLimit(NamedTuple):
    """What came of using a rate limit; true while it is kept."""

    allowed: bool
    remaining: int
    retry_after: float

    def __bool__(self) -> bool:
        return self.allowed
