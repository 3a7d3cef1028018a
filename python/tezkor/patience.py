"""Patience: how long a thread waits for a load of its own process before it runs the loader itself.

What a thread waits for may wait for that thread: a task for the event loop that the thread holds up, an async loader
for the one thread in which asgiref runs what is thread-sensitive (each async call of the ORM), a loader for a thread of
its own that asks for the same key. Nothing tells for sure, and a thread that waited for ever would freeze its worker.
So it loses patience, the sooner the likelier that is. It never does where a loader is merely slow, as far as that can
be seen.

The value is as right either way: only work is done twice.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from types import FrameType
from typing import Any

from asgiref.sync import AsyncToSync, SyncToAsync

from tezkor.flights import Flight

# In the thread in which the load's own task would have its thread-sensitive code run.
SHORT_SECONDS = 0.5
# In another thread, where the load is a task's, or the thread that runs it waits for something of this process. Of all
# that wait for a load, one loses patience in each such time: a slow source must not be asked by all of them at once.
LONG_SECONDS = 5.0

# Where a thread is that waits for another thread or a task.
WAITING_MODULES = {"threading", "queue", "concurrent", "asgiref", "asyncio", "multiprocessing"}


class Patience:
    """That of one wait."""

    __slots__ = ("seen", "since")

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.seen: Any = None  # where the thread that runs the load waited at the last look

    def is_lost(self, flight: Flight | None) -> bool:
        """Whether the thread that asks is to run the loader itself. The flight is the load's, if it is of this
        process."""
        if asyncio._get_running_loop() is not None:
            return True  # all tasks of the loop would wait, whatever they are
        if flight is None or flight.done.is_set():
            return False
        waited = time.monotonic() - self.since
        if flight.loop is not None and waited >= SHORT_SECONDS and is_at_home(flight.home):
            return flight.take_turn(0)
        if waited < LONG_SECONDS or (flight.loop is None and not self._sees_no_progress(flight.thread)):
            return False
        return flight.take_turn(LONG_SECONDS)

    def _sees_no_progress(self, thread: int) -> bool:
        """Whether a thread waits where it did at the last look: one that works may take a lock now and then."""
        before, self.seen = self.seen, waits_at(thread)
        return self.seen is not None and self.seen == before


def home() -> Any:
    """What asgiref would run the thread-sensitive code of this task with, or what stands for it until it is made."""
    try:
        return (
            getattr(AsyncToSync.executors, "current", None)
            or SyncToAsync.thread_sensitive_context.get(None)
            or AsyncToSync.loop_thread_executors.get(asyncio.get_running_loop())
            or SyncToAsync.single_thread_executor
        )
    except AttributeError:  # another asgiref
        return None


def is_at_home(executor: Any) -> bool:
    """Whether the running thread is the one in which that executor runs what it is given."""
    here = threading.current_thread()
    made = getattr(SyncToAsync, "context_to_thread_executor", {})
    with_threads = (
        made.get(executor, executor) if type(executor).__name__ == "ThreadSensitiveContext" else executor
    )
    if here in getattr(with_threads, "_threads", ()):
        return True
    while executor is not None:  # those of the threads above, where one is done
        if getattr(executor, "_work_thread", None) is here:
            return True
        executor = getattr(executor, "_old_executor", None)
    return False


def waits_at(thread: int) -> Any:
    """Where a thread waits for another thread, a task or a process, as far as its Python code shows; None if it does
    not. One that has ended waits for ever."""
    frame = sys._current_frames().get(thread)
    while (
        frame is not None and _module(frame) == "selectors"
    ):  # those of event loops, and of database drivers
        frame = frame.f_back
    if frame is None:
        return ()
    return (frame.f_code, frame.f_lasti) if _module(frame) in WAITING_MODULES else None


def _module(frame: FrameType) -> str:
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0]
