"""Drivers: what runs the body of a load, in a thread or in a task.

A body is a generator that yields effects (call the loader, wait, run this within a limit) and is sent what came of
them, so that one body serves both. A driver never decides what a load does, and never blocks an event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextvars import Context, copy_context
from functools import partial
from types import CoroutineType, GeneratorType
from typing import Any, NamedTuple, TypeAlias

from asgiref.sync import sync_to_async

from tezkor import transactions
from tezkor._native import Load
from tezkor.flights import Flight, give_up

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


class Wait(NamedTuple):
    """Wait for a load that another runs, for so many seconds at most: whether it is over. The flight is the load's, if
    it is of this process."""

    load: Load
    seconds: float
    flight: Flight | None


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


class Away(NamedTuple):
    """Call in a thread: encoding a lazy value (a queryset) asks the database, which Django forbids in an event loop."""

    method: Callable[..., Any]
    arguments: tuple[Any, ...]


class LateError(Exception):
    """A body did not end within the limit."""


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
                return asyncio.run_coroutine_threadsafe(_result_of(value), loop).result()
            if type(value) is CoroutineType:
                value.close()
                name = getattr(loader, "__qualname__", repr(loader))
                raise TypeError(f"{name} is a coroutine: await aget_or_set() or aget_many_or_set()")
            return value
        case Wait(load, seconds, _):
            return load.wait(seconds)
        case Away(method, arguments):
            return method(*arguments)
        case Complete(body, flight, _, seconds, background):
            # Another thread would not see what this one's transaction has written.
            if not effect.is_limited or _is_in_atomic_block():
                return _drive(body, loop)
            if not _threads.submit(body):
                if background:
                    give_up(flight)
                    return None
                return _drive(body, loop)
            if background:
                return None
            if not flight.done.wait(seconds):
                raise LateError
            flight.throw()
            return flight.outcome
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
        case Wait(load, seconds, flight):
            return await _await_load(load, seconds, flight)
        case Away(method, arguments):
            return await sync_to_async(method, thread_sensitive=True)(*arguments)
        case Complete(body, flight, loader, seconds, background):
            # A value is not asked for its class, which loads a lazy one.
            is_plain = callable(loader) and not inspect.iscoroutinefunction(loader)
            if effect.is_limited and is_plain:
                # A plain function would hold up the loop, and the limit with it.
                if _threads.submit(body, asyncio.get_running_loop()):
                    if background:
                        return None
                    if not await _await_flight(flight, seconds):
                        raise LateError
                    flight.throw()
                    return flight.outcome
                if background:
                    give_up(flight)
                    return None
            # A task of its own: whoever waits may be cancelled, the load goes on.
            task = asyncio.ensure_future(arun(body))
            _tasks.add(task)
            task.add_done_callback(partial(_forget_task, flight))
            if background:
                return None
            done, _ = await asyncio.wait([task], timeout=seconds)
            if not done:
                raise LateError
            return task.result()
    raise AssertionError(f"unknown effect {effect!r}")


# Tasks that run loads: a loop keeps only weak references.
_tasks: set[Any] = set()


def _forget_task(flight: Flight, task: asyncio.Future[Any]) -> None:
    _tasks.discard(task)
    if not flight.done.is_set():  # cancelled before it began
        give_up(flight)
    if not task.cancelled():
        task.exception()  # it was told to those who wait


async def _result_of(value: Any) -> Any:
    return await value


async def _await_load(load: Load, seconds: float, flight: Flight | None) -> bool:
    deadline = time.monotonic() + seconds
    pause = SHORTEST_POLL_SECONDS
    load.begin_wait()
    try:
        # The end of a flight of this process wakes the task; that of another's has to be looked for.
        if flight is not None and not await _await_flight(flight, seconds):
            return load.is_over()
        while not load.is_over():
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
            self.jobs.append((copy_context(), body, loop))
            if is_idle:
                self.changed.notify()
            else:
                self.threads += 1
                threading.Thread(target=self._work, name="tezkor-load", daemon=True).start()
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
