"""Flights: the loads that this process runs at the moment, and those who wait for them here.

It never decides who runs a loader and who waits (``loads`` does), nor what is fresh (the native ``Load`` does).

Who runs a flight holds its loads, and nobody else does: those who wait, and the contexts that tasks inherit, know the
flight alone. So loads that are dropped without an end (a generator that nobody closes, a thread that an exception of
another hit between two lines) end, and the next caller tries again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from typing import Any, TypeAlias

from tezkor._native import Load

# Where a key is: the place of its cache, and the full key.
Where: TypeAlias = tuple[Any, ...]


class Owned(dict[Where, Load]):
    """The loads of a flight, for whoever runs it."""

    __slots__ = ("__weakref__", "flight")

    def __init__(self, loads: Mapping[Where, Load]) -> None:
        super().__init__(loads)
        self.flight = Flight(self)

    def end(self) -> None:
        for load in self.values():
            load.end()

    def __del__(self) -> None:
        flight = getattr(self, "flight", None)
        if flight is None or not flight.is_finished:
            self.end()
        if flight is not None and not flight.is_finished:
            flight.finish()


class Flight:
    """One call of a loader in this process: what came of it, for those who wait here."""

    def __init__(self, owned: Owned) -> None:
        self.places = tuple(owned)
        self.birth = min(load.birth for load in owned.values())
        self.is_far = any(not load.is_near for load in owned.values())
        self.done = threading.Event()
        self.ended_at = math.inf
        self.is_finished = False  # to the last line
        self.error: BaseException | None = None
        self.trace: Any = None
        self.values: dict[Where, Any] = {}  # what was not stored
        self.outcome: Any = None  # for the caller whose load it is
        # What runs it: a task of this loop, whose thread-sensitive code runs at this place (patience), or this thread.
        self.loop: asyncio.AbstractEventLoop | None = None
        self.home: Any = None
        self.thread = 0
        # How many of those who waited ran the loader themselves, and when the last did.
        self.turns = 0
        self._turn_at = -math.inf
        self._owned = weakref.ref(owned)
        self._wakes: list[Callable[[], None]] = []

    def is_awaited(self) -> bool:
        owned = self._owned()
        return owned is not None and any(load.is_awaited() for load in owned.values())

    def announce(self) -> None:
        """Has those who wait in this process find it, where they must wait."""
        for where, load in (self._owned() or {}).items():
            if load.is_owner:
                open_flights[where] = self

    def finish(self) -> None:
        with _lock:
            self.ended_at = time.monotonic()
            self.done.set()
            for where in self.places:
                if open_flights.get(where) is self:
                    del open_flights[where]
                    if self.is_far:
                        _keep(where, self)
            wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()
        self.is_finished = True

    def give_up(self) -> None:
        """Ends loads that will not run: the next caller tries again."""
        owned = self._owned()
        if owned is not None:
            owned.end()
        self.finish()

    def look(self) -> None:
        """Gives it up if it cannot end: a loop that is closed runs its tasks no more."""
        if self.loop is not None and self.loop.is_closed():
            self.give_up()

    def take_turn(self, seconds: float) -> bool:
        """Whether the caller may run the loader too, which one may in each such time."""
        with _lock:
            now = time.monotonic()
            if now - self._turn_at < seconds:
                return False
            self._turn_at = now
            self.turns += 1
        return True

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

    def result(self) -> Any:
        """What came of it, for the caller whose load it is."""
        self.throw()
        if self.outcome is None:
            raise RuntimeError(
                "the load was given up: the thread or the event loop that was to run it has ended"
            )
        return self.outcome


# Reentrant: a finaliser may run anywhere.
_lock = threading.RLock()
# By where their keys are.
open_flights: dict[Where, Flight] = {}
# Those of caches on servers that ended a short while ago: who asked the server before that may look for them after it.
_ended: dict[Where, Flight] = {}
MOST_ENDED, ENDED_SECONDS = 64, 2.0
# The flights that the running thread or task runs, outermost first; tasks inherit those of whoever made them.
holding: ContextVar[tuple[Flight, ...]] = ContextVar("tezkor_loads", default=())


def flight_of(where: Where, load: Load) -> Flight | None:
    """The flight that somebody who has begun to ask for a key as long ago as this load may wait for."""
    flight = open_flights.get(where)
    if flight is None and not load.is_near and (ended := _ended.get(where)) is not None:
        return ended if time.monotonic() - ended.ended_at <= load.age else None
    return flight


def _keep(where: Where, flight: Flight) -> None:
    _ended.pop(where, None)
    _ended[where] = flight
    for oldest in list(_ended):
        if len(_ended) <= MOST_ENDED and flight.ended_at - _ended[oldest].ended_at < ENDED_SECONDS:
            break
        del _ended[oldest]


def reset(variable: ContextVar[Any], token: Token[Any]) -> None:
    """Has a variable be what it was before, where that can be done.

    What is begun in one context may end in another: a generator that is closed by its finaliser or by another task.
    """
    with contextlib.suppress(ValueError):
        variable.reset(token)


def _after_fork() -> None:
    """Flights of the parent are not the child's."""
    global _lock
    _lock = threading.RLock()
    open_flights.clear()
    _ended.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
