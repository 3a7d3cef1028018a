"""Bounded waits: what waits for ever when the code is broken makes its test fail, not hang.

Threads are daemons, which neither their test nor the end of the process waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

SOAK = os.environ.get("SOAK") == "1"


class Started:
    """Work in a thread of its own."""

    def __init__(self, work: Callable[..., Any], *args: Any) -> None:
        self.answer: Any = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(work, args), daemon=True)
        self.thread.start()

    def _run(self, work: Callable[..., Any], args: Any) -> None:
        try:
            self.answer = work(*args)
        except BaseException as error:
            self.error = error

    def outcome(self, seconds: float = 20) -> Any:
        """What it returned or raised."""
        self.thread.join(seconds)
        assert not self.thread.is_alive(), f"it still waits after {seconds} s"
        return self.answer if self.error is None else self.error

    def result(self, seconds: float = 20) -> Any:
        self.outcome(seconds)
        if self.error is not None:
            raise self.error
        return self.answer


def in_threads(work: Callable[[], Any], count: int = 8) -> list[Any]:
    """What each thread returns or raises."""
    return [each.outcome() for each in [Started(work) for _ in range(count)]]


def for_each(work: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
    """What the work returns for each argument, in threads."""
    return [each.result() for each in [Started(work, argument) for argument in arguments]]


def in_loop(scene: Coroutine[Any, Any, Any], seconds: float = 20) -> Any:
    """What a coroutine returns in a loop of its own, in a thread."""
    return Started(asyncio.run, scene).result(seconds)


def wait_until(holds: Callable[[], Any], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


@contextlib.contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """Ends the main thread's waiting."""

    def ring(*_: Any) -> None:
        raise AssertionError(f"the test still waits after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
