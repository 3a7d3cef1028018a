"""Flights: the loads that this process runs at the moment, and those who wait for them here.

It never decides who runs a loader and who waits (``loads`` does), nor what is fresh (the native ``Load`` does).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeAlias

from tezkor._native import Load

# Where a key is: the place of its cache, and the full key.
Where: TypeAlias = tuple[Any, ...]


class Flight:
    """One call of a loader in this process: what came of it, for those who wait here."""

    def __init__(self, loads: dict[Where, Load]) -> None:
        self.loads = loads
        self.birth = min(load.birth for load in loads.values())
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.trace: Any = None
        self.values: dict[Where, Any] = {}  # what was not stored
        self.outcome: Any = None  # for the caller whose load it is
        self._wakes: list[Callable[[], None]] = []

    def is_awaited(self) -> bool:
        return any(load.is_awaited() for load in self.loads.values())

    def announce(self) -> None:
        """Has those who wait in this process find it, where they must wait."""
        for where, load in self.loads.items():
            if load.is_owner:
                open_flights[where] = self

    def finish(self) -> None:
        for where in self.loads:
            if open_flights.get(where) is self:
                del open_flights[where]
        with _lock:
            self.done.set()
            wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()

    def listen(self, wake: Callable[[], None]) -> bool:
        """Has `wake` called at the end; False when that has come."""
        with _lock:
            if not self.done.is_set():
                self._wakes.append(wake)
                return True
        return False

    def ignore(self, wake: Callable[[], None]) -> None:
        with _lock:
            if wake in self._wakes:
                self._wakes.remove(wake)

    def fail(self, error: BaseException) -> None:
        self.error, self.trace = error, error.__traceback__

    def throw(self) -> None:
        """Raises what the loader raised, always from where that was: the same object is raised by all who wait."""
        if self.error is not None:
            raise self.error.with_traceback(self.trace)


# Reentrant: a finaliser may run anywhere.
_lock = threading.RLock()
# By where their keys are.
open_flights: dict[Where, Flight] = {}
# The flights that the running thread or task runs, outermost first; tasks inherit those of whoever made them.
holding: ContextVar[tuple[Flight, ...]] = ContextVar("tezkor_loads", default=())


def give_up(flight: Flight) -> None:
    """Ends loads that will not run: the next caller tries again."""
    for load in flight.loads.values():
        load.end()
    flight.finish()


def _after_fork() -> None:
    """Flights of the parent are not the child's."""
    global _lock
    _lock = threading.RLock()
    open_flights.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
