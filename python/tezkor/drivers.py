"""Drivers: what runs the body of a load, in a thread or in a task.

A body is a generator that yields effects (call the loader, wait, run this within a limit) and is sent what came of
them, so that one body serves both. A driver never decides what a load does. That of a task never blocks its event loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import enum
import inspect
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextvars import Context, copy_context
from types import CoroutineType, GeneratorType
from typing import Any, NamedTuple, TypeAlias

from asgiref.sync import sync_to_async

from tezkor import patience, transactions
from tezkor._native import Load
from tezkor.flights import Flight
from tezkor.patience import Patience

# Between two looks at whether what is waited for can still end.
LOOK_SECONDS = 0.25
# Between two looks of a task at a load that another process runs.
SHORTEST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.001, 0.02
# For loads with limits, and in the background. One that outlives its limit keeps its thread: a slow source must leave
# some for the others.
MOST_THREADS = 32

Body: TypeAlias = Generator[Any, Any, Any]


class Call(NamedTuple):
    """Call the loader."""

    loader: Any
    arguments: tuple[Any, ...]


class Waited(enum.Enum):
    """What a wait for the load of another came to."""

    OVER = 1
    GOES_ON = 2
    IN_VAIN = 3  # the load may wait for this thread


class Wait(NamedTuple):
    """Wait for a load that another runs, for so many seconds at most. The flight is the load's, if it is of this
    process."""

    load: Load
    seconds: float
    flight: Flight | None
    patience: Patience


class Complete(NamedTuple):
    """Run a body that ends a flight, within the limit, or behind the caller's back: what came of it, or None."""

    body: Body
    flight: Flight
    loader: Any
    seconds: float | None
    background: bool

    @property
    def is_limited(self) -> bool:
        return self.background or self.seconds is not None


class Follow(NamedTuple):
    """Wait on for a body that did not end within its limit: what came of it."""

    flight: Flight
    seconds: float | None


class Away(NamedTuple):
    """Call in a thread: encoding a lazy value (a queryset) asks the database, which Django forbids in an event loop."""

    method: Callable[..., Any]
    arguments: tuple[Any, ...]


class LateError(Exception):
    """A body did not end within the limit."""


class LoopClosedError(BaseException):
    """The loop in which the loader was awaited is closed: no failure of the source, and nothing for those who wait."""


class StoppedError(Exception):
    """A loader raised StopIteration, which no generator lets through."""

    def __init__(self, stop: StopIteration) -> None:
        self.stop = stop


def run(body: Body) -> Any:
    """Drives a body in a thread."""
    try:
        return _drive(body)
    except StoppedError as stopped:
        raise stopped.stop from None


def _drive(body: Body, loop: asyncio.AbstractEventLoop | None = None) -> Any:
    """Drives a body in a thread. With a loop, what the loader returns may be awaited there."""
    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            effect = body.throw(error) if error is not None else body.send(answer)
        except StopIteration as end:
            return end.value
        answer = error = None
        try:
            answer = _do(effect, loop)
        except BaseException as raised:
            error = raised


def _do(effect: Any, loop: asyncio.AbstractEventLoop | None) -> Any:
    match effect:
        case Call(loader, arguments):
            try:
                value = loader(*arguments) if callable(loader) else loader
            except StopIteration as stop:
                raise StoppedError(stop) from None
            if loop is not None and is_awaitable(value):
                return _result_in(loop, value)
            if type(value) is CoroutineType:
                value.close()
                name = getattr(loader, "__qualname__", repr(loader))
                raise TypeError(f"{name} is a coroutine: await aget_or_set() or aget_many_or_set()")
            return value
        case Wait(load, seconds, flight, patience):
            if patience.is_lost(flight):
                return Waited.IN_VAIN
            return Waited.OVER if load.wait(seconds) else Waited.GOES_ON
        case Follow(flight, seconds):
            if not flight.done.wait(seconds):
                raise LateError
            return flight.result()
        case Away(method, arguments):
            return method(*arguments)
        case Complete(body, flight, _, seconds, background):
            if _tasks:
                leave_closed_loops()
            # Another thread would not see what this one's transaction has written.
            if not effect.is_limited or _is_in_atomic_block():
                return _drive(body, loop)
            if not _threads.submit(body):
                if background:
                    flight.give_up()
                    return None
                return _drive(body, loop)
            if background:
                return None
            if not flight.done.wait(seconds):
                raise LateError
            return flight.result()
    raise AssertionError(f"unknown effect {effect!r}")


def _is_in_atomic_block() -> bool:
    """Whether a connection of this thread is in a transaction, a TestCase's own included."""
    return any(connection.in_atomic_block for connection in transactions._initialised())


async def arun(body: Body) -> Any:
    """Drives a body in a task."""
    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            effect = body.throw(error) if error is not None else body.send(answer)
        except StopIteration as end:
            return end.value
        except StoppedError as stopped:
            raise RuntimeError("the loader raised StopIteration") from stopped.stop
        answer = error = None
        try:
            answer = await _ado(effect)
        except BaseException as raised:
            error = raised


async def _ado(effect: Any) -> Any:
    match effect:
        case Call(loader, arguments):
            value = loader(*arguments) if callable(loader) else loader
            return await value if is_awaitable(value) else value
        case Wait(load, seconds, flight, _):
            return Waited.OVER if await _await_load(load, seconds, flight) else Waited.GOES_ON
        case Follow(flight, seconds):
            if not await _await_flight(flight, seconds):
                raise LateError
            return flight.result()
        case Away(method, arguments):
            return await sync_to_async(method, thread_sensitive=True)(*arguments)
        case Complete(body, flight, loader, seconds, background):
            leave_closed_loops()
            # A value is not asked for its class, which loads a lazy one.
            is_plain = callable(loader) and not inspect.iscoroutinefunction(loader)
            if effect.is_limited and is_plain:
                # A plain function would hold up the loop, and the limit with it.
                if _threads.submit(body, asyncio.get_running_loop()):
                    if background:
                        return None
                    if not await _await_flight(flight, seconds):
                        raise LateError
                    return flight.result()
                if background:
                    flight.give_up()
                    return None
            # A task of its own: whoever waits may be cancelled, the load goes on.
            flight.loop, flight.home = asyncio.get_running_loop(), patience.home()
            task = flight.loop.create_task(arun(body))
            _tasks.setdefault(flight.loop, {})[task] = flight
            task.add_done_callback(_forget_task)
            if background:
                return None
            done, _ = await asyncio.wait([task], timeout=seconds)
            if not done:
                raise LateError
            return task.result()
    raise AssertionError(f"unknown effect {effect!r}")


# Tasks that run loads, by their loops, which keep only weak references.
_tasks: dict[asyncio.AbstractEventLoop, dict[asyncio.Future[Any], Flight]] = {}


def _forget_task(task: asyncio.Future[Any]) -> None:
    loop = task.get_loop()
    tasks = _tasks.get(loop, {})
    flight = tasks.pop(task, None)
    if not tasks:
        _tasks.pop(loop, None)
    if flight is not None and not flight.done.is_set():  # cancelled before it began
        flight.give_up()
    if not task.cancelled():
        task.exception()  # it was told to those who wait


def leave_closed_loops() -> None:
    """Gives up the loads of loops that were closed before their tasks had ended: nobody else can, in any process."""
    for loop in list(_tasks):
        if loop.is_closed():
            for flight in _tasks.pop(loop, {}).values():
                flight.give_up()


def _result_in(loop: asyncio.AbstractEventLoop, value: Any) -> Any:
    """What comes of something awaitable in a loop of another thread."""
    future = asyncio.run_coroutine_threadsafe(_result_of(value), loop)
    while not concurrent.futures.wait([future], LOOK_SECONDS).done:
        if loop.is_closed():
            raise LoopClosedError
    return future.result()


async def _result_of(value: Any) -> Any:
    return await value


async def _is_over(load: Load) -> bool:
    return load.is_over() if load.is_near else await sync_to_async(load.is_over, thread_sensitive=True)()


async def _await_load(load: Load, seconds: float, flight: Flight | None) -> bool:
    deadline = time.monotonic() + seconds
    pause = SHORTEST_POLL_SECONDS
    load.begin_wait()
    try:
        # The end of a flight of this process wakes the task; that of another's has to be looked for.
        if flight is not None and not await _await_flight(flight, seconds):
            return await _is_over(load)
        while not await _is_over(load):
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_POLL_SECONDS)
        return True
    finally:
        load.end_wait()


async def _await_flight(flight: Flight, seconds: float | None) -> bool:
    """Whether it is done within the seconds."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(_resolve, future)

    timer = None if seconds is None else loop.call_later(seconds, _resolve, future)
    try:
        if flight.listen(wake):
            await future
    finally:
        if timer is not None:
            timer.cancel()
        flight.ignore(wake)
    return flight.done.is_set()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def is_awaitable(value: Any) -> bool:
    """``inspect.isawaitable`` asks ``value.__class__``, which a lazy object answers by loading what it stands for."""
    if type(value) is GeneratorType:
        return bool(value.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE)
    return hasattr(type(value), "__await__")


class Threads:
    """A few daemon threads for loads that somebody may stop waiting for.

    None before the first, and none that a fork has copied.
    """

    def __init__(self) -> None:
        self.jobs: deque[tuple[Context, Body, asyncio.AbstractEventLoop | None]] = deque()
        self.changed = threading.Condition()
        self.threads = 0
        self.idle = 0

    def submit(self, body: Body, loop: asyncio.AbstractEventLoop | None = None) -> bool:
        """Has a thread run a body at once; False when all are at work.

        Nothing waits for a thread: it might be one that waits for what is to be run.
        """
        with self.changed:
            # Who was notified counts as idle until it runs.
            is_idle = self.idle > len(self.jobs)
            if not is_idle and self.threads >= MOST_THREADS:
                return False
            if not is_idle:
                try:
                    threading.Thread(target=self._work, name="tezkor-load", daemon=True).start()
                except RuntimeError:  # the system has no further thread
                    return False
                self.threads += 1
            self.jobs.append((copy_context(), body, loop))
            if is_idle:
                self.changed.notify()
        return True

    def _work(self) -> None:
        while True:
            with self.changed:
                while not self.jobs:
                    self.idle += 1
                    self.changed.wait()
                    self.idle -= 1
                context, body, loop = self.jobs.popleft()
            try:
                context.run(_drive, body, loop)
            except BaseException:
                pass  # its flight has it, for whoever waits
            finally:
                del context, body, loop
                _close_connections()


def _close_connections() -> None:
    from django.db import connections

    connections.close_all()


_threads = Threads()


def _after_fork() -> None:
    """Threads and tasks of the parent are not the child's."""
    global _threads
    _threads = Threads()
    _tasks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
