"""One run per load: who misses a key runs the loader, or waits for whoever runs it, in this process or another.

One body serves threads and tasks: a generator that yields what has to be done (an `Effect`), and two drivers
that do it. Correctness rests on the native ``Load`` alone, which stores nothing that was overtaken; everything
here only saves work.

A value is never handed from one caller to another as the same object: who waited reads it from the cache. What was not
stored (it was overtaken, ``skip``) is handed over as a copy, and only to those who began to wait before that
load began: for them it is as fresh as one of their own. So nobody waits for more than two loads.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from types import CoroutineType, GeneratorType
from typing import Any, NamedTuple

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.exceptions import ObjectDoesNotExist, PermissionDenied, SynchronousOnlyOperation
from django.http import Http404

from tezkor import _native, transactions
from tezkor._native import Load

# Between two looks at whether somebody waits for what this caller runs, which two callers could do for each other.
SLICE_SECONDS = 0.05
# Between two looks of a task at a load that another process runs.
SHORTEST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.001, 0.02
MOST_THREADS = 4


class LoadTimeout(TimeoutError):
    """A loader took longer than its ``hard_timeout``. It goes on, and stores what it brings."""


class Skip:
    """What a loader returns so that nothing is stored; the caller gets None."""

    def __repr__(self) -> str:
        return "tezkor.skip"

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> str:
        return "skip"


skip = Skip()


@dataclass
class Adaptive:
    """What a loader that takes an argument is given: it may decide how long what it returns lives."""

    timeout: Any
    tags: list[str]
    stale: float | None


class Terms(NamedTuple):
    """How a load is run and stored."""

    timeout: Any = DEFAULT_TIMEOUT
    tags: Iterable[str] | None = None
    stale: float | None = None
    background: bool = False
    soft_timeout: float | None = None
    hard_timeout: float | None = None
    cache_none: bool = True


class Flight:
    """A load that somebody in this process runs: what came of it, for those who wait here."""

    def __init__(self, load: Load | None) -> None:
        self.load = load
        self.birth = load.birth if load is not None else 0
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.value: Any = None
        self.has_value = False
        self.outcome: Any = None  # for the caller whose load it is

    def is_awaited(self) -> bool:
        return not self.done.is_set() and self.load is not None and self.load.is_awaited()


_flights: dict[tuple[Any, ...], Flight] = {}
# The flights that the running thread or task runs, outermost first; tasks inherit those of whoever made them.
_holding: ContextVar[tuple[tuple[tuple[Any, ...], Flight], ...]] = ContextVar("tezkor_loads", default=())


# Effects


class Call(NamedTuple):
    """Call the loader."""

    loader: Any
    arguments: tuple[Any, ...]


class Wait(NamedTuple):
    """Wait for a load that another runs, for so many seconds at most: whether it is over."""

    load: Load
    seconds: float


class Complete(NamedTuple):
    """Run a body that ends a flight, within the limits, or behind the caller's back."""

    body: Generator[Any, Any, Any]
    flight: Flight
    seconds: float | None
    background: bool


class Away(NamedTuple):
    """Call in a thread: encoding a lazy value (a queryset) asks the database, which Django forbids in an event loop."""

    method: Callable[..., Any]
    arguments: tuple[Any, ...]


class LateError(Exception):
    """A body did not end within the limit."""


# Verbs


def get_or_set(
    cache: Any,
    key: Any,
    default: Any,
    timeout: Any,
    version: Any,
    load: Load,
    beta: float = 1.0,
    **terms: Any,
) -> Generator[Any, Any, Any]:
    """The body of ``get_or_set`` once ``begin`` has found no fresh value."""
    plan = Terms(timeout, **terms)
    try:
        _check(plan)
        cache.lasting(timeout)
    except BaseException:
        load.end()
        close(default)
        raise
    return (yield from _load(cache, key, version, load, default, plan, beta))


def refresh(
    cache: Any, key: Any, default: Any, timeout: Any, version: Any, **terms: Any
) -> Generator[Any, Any, Any]:
    """Runs the loader now, whatever is there, and stores what it returns unless it is overtaken."""
    plan = Terms(timeout, **terms)
    _check(plan)
    found = cache._load(key, version, transactions.birth(cache), 0.0, True, True)
    if type(found) is not Load:
        return found
    return (yield from _run(cache, found, default, plan, None))


def begin(cache: Any, key: Any, version: Any, beta: float) -> Any:
    """A fresh value, or a load."""
    return cache._load(key, version, transactions.birth(cache), beta)


def _check(plan: Terms) -> None:
    """A wrong argument is told before a loader runs."""
    _native.check_terms(plan.tags, plan.stale)
    for name in ("soft_timeout", "hard_timeout"):
        seconds = getattr(plan, name)
        if seconds is not None and not (isinstance(seconds, (int, float)) and seconds >= 0):
            raise ValueError(f"{name} is {seconds!r}: write a number of seconds, or None for no limit")


def close(default: Any) -> None:
    """A coroutine that nobody will await: Python would warn."""
    if type(default) is CoroutineType:
        default.close()


def _load(
    cache: Any, key: Any, version: Any, load: Load, default: Any, plan: Terms, beta: float
) -> Generator[Any, Any, Any]:
    where = _where(cache, load)
    since = load.birth
    while load.is_busy:
        if load.has_value:
            close(default)
            return load.value
        flight = _flights.get(where)
        holding = [(at, held) for at, held in _holding.get() if not held.done.is_set()]
        over = False
        # The caller runs this very load, or somebody waits for one that it runs and may be waiting for by this one.
        while not any(at == where or held.is_awaited() for at, held in holding):
            over = yield Wait(load, SLICE_SECONDS if holding else 3600.0)
            if over:
                break
        if not over:
            load = cache._load(key, version, transactions.birth(cache), 0.0, True, True)
            return (yield from _run(cache, load, default, plan, None))
        # A load that began when this caller already waited is as good as one of its own, stored or not.
        theirs = flight if flight is not None and flight.birth >= since else None
        if theirs is not None and theirs.error is not None:
            close(default)
            raise theirs.error.with_traceback(None)
        found = begin(cache, key, version, beta)
        if theirs is not None and theirs.has_value and type(found) is Load and not found.is_busy:
            copied, value = _copy(theirs.value)
            if copied:
                found.end()
                found = value
        if type(found) is not Load:
            close(default)
            return found
        load = found
    return (yield from _owned(cache, load, default, plan, where if load.is_owner else None))


def _owned(
    cache: Any, load: Load, default: Any, plan: Terms, where: tuple[Any, ...] | None
) -> Generator[Any, Any, Any]:
    """Runs a load within its limits."""
    has_value, value = load.has_value, load.value
    seconds = plan.hard_timeout
    if has_value and plan.soft_timeout is not None:
        seconds = plan.soft_timeout if seconds is None else min(seconds, plan.soft_timeout)
    flight = Flight(load)
    background = plan.background and has_value
    body = _run(cache, load, default, plan, where, flight)
    try:
        return (yield Complete(body, flight, seconds, background))
    except LateError:
        if has_value:
            return value
        name = getattr(default, "__qualname__", repr(default))
        raise LoadTimeout(
            f"the loader {name} took longer than hard_timeout = {seconds} s; it goes on"
        ) from None


def _run(
    cache: Any,
    load: Load,
    default: Any,
    plan: Terms,
    where: tuple[Any, ...] | None,
    flight: Flight | None = None,
) -> Generator[Any, Any, Any]:
    """Runs the loader and ends the load: the one place where that happens."""
    flight = flight or Flight(load)
    if where is not None:
        _flights[where] = flight
    adaptive = Adaptive(plan.timeout, list(plan.tags or ()), plan.stale)
    held = _holding.set((*_holding.get(), (where or (), flight)))
    try:
        try:
            arguments = (adaptive,) if _takes_an_argument(default) else ()
            value = yield Call(default, arguments)
            if value is skip or (value is None and not plan.cache_none):
                flight.value, flight.has_value = None, True
                load.end()
                return None
            flight.value, flight.has_value = value, True
            stored = yield from _store(cache, load, value, adaptive.timeout, adaptive.tags, adaptive.stale)
            if stored:
                flight.value, flight.has_value = None, False  # those who wait read it
            flight.outcome = value
            return value
        except BaseException as error:
            flight.error = error
            if isinstance(error, Exception):
                _fail(load, error)
                if load.has_value and not _is_answer(error):
                    flight.error, flight.outcome = None, load.value
                    return load.value
            else:
                load.end()
            raise
    finally:
        _holding.reset(held)
        if where is not None and _flights.get(where) is flight:
            del _flights[where]
        flight.done.set()


def _is_answer(error: BaseException) -> bool:
    """Whether an exception says what the source has (nothing, or nothing for this user), and not that it fails."""
    return isinstance(error, (Http404, ObjectDoesNotExist, PermissionDenied))


def _fail(load: Load, error: BaseException) -> None:
    """Ends a load that raised. Only a source that fails is left alone for a while: who asks for what is not there
    must not make others wait."""
    if _is_answer(error):
        load.end()
    else:
        load.fail()


def _store(
    cache: Any, load: Load, value: Any, timeout: Any, tags: Any, stale: Any
) -> Generator[Any, Any, bool]:
    """Stores what a load brought, unless the caller's transaction has changed the key or invalidated a tag."""
    if transactions.open_changes() > 0 and transactions.has_invalidated(cache, tags or (), load.full_key):
        load.end()
        return False
    arguments = (value, cache.lasting(timeout), tags or None, stale)
    try:
        return load.store(*arguments)
    except SynchronousOnlyOperation:
        stored: bool = yield Away(load.store, arguments)
        return stored


def get_many_or_set(
    cache: Any, keys: Iterable[Any], loader: Any, timeout: Any, version: Any, beta: float = 1.0, **terms: Any
) -> Generator[Any, Any, dict[Any, Any]]:
    """The body of ``get_many_or_set``."""
    plan = Terms(timeout, **terms)
    _check(plan)
    if not callable(loader):
        raise TypeError("loader must be a callable that takes the list of missing keys and returns a dict")
    wanted = list(dict.fromkeys(keys))
    found: dict[Any, Any] = {}
    missing = wanted
    while missing:
        own: dict[Any, Load] = {}
        busy: dict[Any, Load] = {}
        try:
            for key in missing:
                value = begin(cache, key, version, beta)
                if type(value) is not Load:
                    found[key] = value
                elif value.is_busy and value.has_value:
                    found[key] = value.value
                else:
                    (busy if value.is_busy and not _is_held(cache, value) else own)[key] = value
            if own:
                found.update((yield from _run_many(cache, own, loader, plan)))
        except BaseException:
            for load in own.values():
                load.end()
            raise
        for load in busy.values():
            yield Wait(load, SLICE_SECONDS if _is_awaited() else 3600.0)
        missing = list(busy)
    return {key: found[key] for key in wanted if key in found}


def _is_held(cache: Any, load: Load) -> bool:
    """Whether this caller must not wait for it: it runs it, or others wait for what it runs."""
    where = _where(cache, load)
    return any(not held.done.is_set() and (at == where or held.is_awaited()) for at, held in _holding.get())


def _is_awaited() -> bool:
    return any(not held.done.is_set() for _, held in _holding.get())


def _run_many(
    cache: Any, own: dict[Any, Load], loader: Any, plan: Terms
) -> Generator[Any, Any, dict[Any, Any]]:
    flights = {key: Flight(load) for key, load in own.items()}
    places = {key: _where(cache, load) for key, load in own.items()}
    for key, flight in flights.items():
        if own[key].is_owner:
            _flights[places[key]] = flight
    held = _holding.set((*_holding.get(), *((places[key], flight) for key, flight in flights.items())))
    try:
        try:
            loaded = yield Call(loader, (list(own),))
            if not hasattr(loaded, "keys"):
                raise TypeError(
                    f"the loader returned {type(loaded).__name__}: it must return a dict from key to value"
                )
            result = {}
            for key, load in own.items():
                if key not in loaded or loaded[key] is skip or (loaded[key] is None and not plan.cache_none):
                    load.end()
                    continue
                yield from _store(cache, load, loaded[key], plan.timeout, plan.tags, plan.stale)
                result[key] = loaded[key]
            return result
        except BaseException as error:
            stale = {}
            for key, load in own.items():
                flights[key].error = error
                if isinstance(error, Exception):
                    _fail(load, error)
                    if load.has_value and not _is_answer(error):
                        flights[key].error = None
                        stale[key] = load.value
                else:
                    load.end()
            if isinstance(error, Exception) and len(stale) == len(own):
                return stale
            raise
    finally:
        _holding.reset(held)
        for key, flight in flights.items():
            if _flights.get(places[key]) is flight:
                del _flights[places[key]]
            flight.done.set()


def _where(cache: Any, load: Load) -> tuple[Any, ...]:
    return (*cache.place, load.full_key)


def _copy(value: Any) -> tuple[bool, Any]:
    """A copy for another caller; whether there can be one."""
    if value is None:
        return True, None
    try:
        return True, _native.decode(_native.encode(value))
    except Exception:
        return False, None  # who cannot be given one runs the loader, and sees the error


def only(loader: Any) -> Generator[Any, Any, Any]:
    """A body that runs a loader and keeps nothing."""
    value = yield Call(loader, ())
    return None if value is skip else value


def call(default: Any, timeout: Any, terms: dict[str, Any]) -> Any:
    """What a loader returns where nothing is kept."""
    if not callable(default):
        return default
    adaptive = Adaptive(timeout, list(terms.get("tags") or ()), terms.get("stale"))
    return default(adaptive) if _takes_an_argument(default) else default()


def _takes_an_argument(loader: Any) -> bool:
    if not callable(loader) or isinstance(loader, type):
        return False
    try:
        parameters = inspect.signature(loader).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(
        part.default is part.empty and part.kind in (part.POSITIONAL_ONLY, part.POSITIONAL_OR_KEYWORD)
        for part in parameters
    )


# Drivers


def run(body: Generator[Any, Any, Any]) -> Any:
    """Drives a body in a thread."""
    return _drive(body, _do)


def _drive(body: Generator[Any, Any, Any], do: Callable[[Any], Any]) -> Any:
    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            effect = body.throw(error) if error is not None else body.send(answer)
        except StopIteration as end:
            return end.value
        answer = error = None
        try:
            answer = do(effect)
        except BaseException as raised:
            error = raised


def _do(effect: Any) -> Any:
    match effect:
        case Call(loader, arguments):
            return loader(*arguments) if callable(loader) else loader
        case Wait(load, seconds):
            return load.wait(seconds)
        case Away(method, arguments):
            return method(*arguments)
        case Complete(body, flight, None, False):
            return run(body)
        case Complete(body, flight, seconds, background):
            _threads.submit(body)
            if background:
                return flight.load.value if flight.load is not None else None
            if not flight.done.wait(seconds):
                raise LateError
            return _result(flight)
    raise AssertionError(f"unknown effect {effect!r}")


def _result(flight: Flight) -> Any:
    if flight.error is not None:
        raise flight.error
    return flight.outcome


async def arun(body: Generator[Any, Any, Any]) -> Any:
    """Drives a body in a task."""
    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            effect = body.throw(error) if error is not None else body.send(answer)
        except StopIteration as end:
            return end.value
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
        case Wait(load, seconds):
            return await _await_load(load, seconds)
        case Away(method, arguments):
            return await sync_to_async(method, thread_sensitive=True)(*arguments)
        case Complete(body, flight, seconds, background):
            # A task of its own: whoever waits may be cancelled, the load goes on.
            task = asyncio.ensure_future(arun(body))
            _tasks.add(task)
            task.add_done_callback(_forget_task)
            if background:
                return flight.load.value if flight.load is not None else None
            done, _ = await asyncio.wait([task], timeout=seconds)
            if not done:
                raise LateError
            return task.result()
    raise AssertionError(f"unknown effect {effect!r}")


# Tasks that run loads: a loop keeps only weak references.
_tasks: set[Any] = set()


def _forget_task(task: asyncio.Future[Any]) -> None:
    _tasks.discard(task)
    if not task.cancelled():
        task.exception()  # it was told to those who wait


async def _await_load(load: Load, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    pause = SHORTEST_POLL_SECONDS
    load.begin_wait()
    try:
        while not load.is_over():
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_POLL_SECONDS)
        return True
    finally:
        load.end_wait()


def is_awaitable(value: Any) -> bool:
    """``inspect.isawaitable`` asks ``value.__class__``, which a lazy object answers by loading what it stands for."""
    if type(value) is GeneratorType:
        return bool(value.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE)
    return hasattr(type(value), "__await__")


class Threads:
    """A few daemon threads for loads that nobody waits for; none before the first, and none that a fork has copied."""

    def __init__(self) -> None:
        self.jobs: deque[tuple[Context, Generator[Any, Any, Any]]] = deque()
        self.changed = threading.Condition()
        self.threads = 0
        self.idle = 0

    def submit(self, body: Generator[Any, Any, Any]) -> None:
        with self.changed:
            self.jobs.append((copy_context(), body))
            if self.idle:
                self.changed.notify()
            elif self.threads < MOST_THREADS:
                self.threads += 1
                threading.Thread(target=self._work, name="tezkor-load", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self.changed:
                while not self.jobs:
                    self.idle += 1
                    self.changed.wait()
                    self.idle -= 1
                context, body = self.jobs.popleft()
            try:
                context.run(run, body)
            except BaseException:
                pass  # its flight has it, for whoever waits
            finally:
                _close_connections()


def _close_connections() -> None:
    from django.db import connections

    connections.close_all()


_threads = Threads()


def _after_fork() -> None:
    """Flights and threads of the parent are not the child's."""
    global _threads
    _threads = Threads()
    _flights.clear()
    _tasks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# A hand-written get and set

# How many blocks are open in this process: while there are none, a set asks no further.
open_blocks = 0
_blocks: ContextVar[tuple[Bracket, ...]] = ContextVar("tezkor_blocks", default=())


@dataclass
class Bracket:
    """``with cache.load(key):`` protects the get and set of the key in the block as ``get_or_set`` protects a loader.

    Whoever comes while another is in such a block of the key waits at its beginning, and then finds the value.
    """

    cache: Any
    key: Any
    version: Any = None
    # What was found at the beginning; None where it is missing. A later get may miss it.
    value: Any = None
    _load: Load | None = field(default=None, repr=False)
    _flight: Flight | None = field(default=None, repr=False)
    _tokens: tuple[Any, Any] | None = field(default=None, repr=False)

    @property
    def missing(self) -> bool:
        """Whether there is no fresh value, so that the block is to set one."""
        return self._load is not None

    def __enter__(self) -> Bracket:
        return self._enter(run(self._begin()))

    async def __aenter__(self) -> Bracket:
        return self._enter(await arun(self._begin()))

    def _begin(self) -> Generator[Any, Any, Any]:
        while True:
            found = begin(self.cache, self.key, self.version, 1.0)
            if type(found) is not Load:
                self.value = found
                return None
            if not found.is_busy:
                return found
            if _is_held(self.cache, found):
                return self.cache._load(
                    self.key, self.version, transactions.birth(self.cache), 0.0, True, True
                )
            yield Wait(found, SLICE_SECONDS if _is_awaited() else 3600.0)

    def _enter(self, load: Load | None) -> Bracket:
        global open_blocks
        self._load = load
        if load is not None:
            self._flight = Flight(load)
            place = (_where(self.cache, load), self._flight)
            self._tokens = (_blocks.set((*_blocks.get(), self)), _holding.set((*_holding.get(), place)))
            open_blocks += 1
        return self

    def set(self, value: Any, timeout: Any = DEFAULT_TIMEOUT, tags: Any = None, stale: Any = None) -> bool:
        """Stores the value; False when an invalidation or a set has overtaken the block, or it was set before."""
        _native.check_terms(tags, stale)
        return self._load is not None and run(_store(self.cache, self._load, value, timeout, tags, stale))

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        global open_blocks
        if self._load is None or self._tokens is None or self._flight is None:
            return
        open_blocks -= 1
        self._flight.done.set()
        _blocks.reset(self._tokens[0])
        _holding.reset(self._tokens[1])
        if error is not None and isinstance(error, Exception):
            _fail(self._load, error)
        else:
            self._load.end()

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.__exit__(kind, error, trace)


class NoBracket:
    """A block that protects nothing, where nothing is kept."""

    missing = True
    value = None
    token = 1

    def set(self, value: Any, *terms: Any, **more: Any) -> bool:
        return False

    def acquire(self, *terms: Any, **more: Any) -> bool:
        return True

    def release(self) -> None:
        pass

    def __enter__(self) -> NoBracket:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    async def __aenter__(self) -> NoBracket:
        return self

    async def __aexit__(self, *error: Any) -> None:
        pass


def block_of(cache: Any, key: Any, version: Any) -> Bracket | None:
    """The innermost open block of the key, of the running thread or task."""
    blocks = _blocks.get()
    if not blocks:
        return None
    full_key = cache._make_full_key(key, version)
    for block in reversed(blocks):
        if block.cache.place == cache.place and block._load is not None and block._load.full_key == full_key:
            return block
    return None
