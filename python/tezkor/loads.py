"""One run per load: who misses a key runs the loader, or waits for whoever runs it, in this process or another.

One body serves threads and tasks: a generator that yields what has to be done (an `Effect`), and two drivers
that do it. Correctness rests on the native ``Load`` alone, which stores nothing that was overtaken; everything
here only saves work.

One key is a batch of one: a flight is one call of a loader, for all the keys that its caller owns.

A value is never handed from one caller to another as the same object: who waited reads it from the cache. What was not
stored (it was overtaken, ``skip``) is handed over as a copy, and only to those whom the Ledger told nothing newer than
the birth of that load when they came: for them it is as fresh as one of their own. So nobody waits for more than two.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from functools import partial
from types import CoroutineType, FunctionType, GeneratorType, MethodType
from typing import Any, NamedTuple, TypeAlias

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
# Where nobody has to look: a wait ends by itself.
LONGEST_SECONDS = 3600.0
# For loads with limits, and in the background. One that outlives its limit keeps its thread: a slow source must leave
# some for the others.
MOST_THREADS = 32

# Where a key is: the place of its cache, and the full key.
Where: TypeAlias = tuple[Any, ...]
Body: TypeAlias = Generator[Any, Any, Any]


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


class Source(NamedTuple):
    """Where missing values come from: a loader of one value, or one that takes the list of missing keys."""

    loader: Any
    is_many: bool

    def load(self, keys: list[Any], adaptive: Adaptive) -> Generator[Any, Any, Mapping[Any, Any]]:
        if not self.is_many:
            arguments = (adaptive,) if _takes_an_argument(self.loader) else ()
            return {keys[0]: (yield Call(self.loader, arguments))}
        loaded = yield Call(self.loader, (keys,))
        if not hasattr(loaded, "keys"):
            raise TypeError(
                f"the loader returned {type(loaded).__name__}: it must return a dict from key to value"
            )
        result: Mapping[Any, Any] = loaded
        return result

    def __str__(self) -> str:
        return getattr(self.loader, "__qualname__", None) or repr(self.loader)


class Asked(NamedTuple):
    """What a caller asked for."""

    cache: Any
    version: Any
    source: Source
    plan: Terms
    beta: float = 1.0

    def begin(self, key: Any) -> Any:
        return begin(self.cache, key, self.version, self.beta)


class Absent:
    """What a loader of many keys has for one that it leaves out."""


class Unset:
    """What a block has for its key when it ends without a set."""


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
                _flights[where] = self

    def finish(self) -> None:
        for where in self.loads:
            if _flights.get(where) is self:
                del _flights[where]
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
_flights: dict[Where, Flight] = {}
# The flights that the running thread or task runs, outermost first; tasks inherit those of whoever made them.
_holding: ContextVar[tuple[Flight, ...]] = ContextVar("tezkor_loads", default=())


# Effects


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
) -> Body:
    """The body of ``get_or_set`` once ``begin`` has found no fresh value."""
    try:
        plan = Terms(timeout, **terms)
        _check(cache, plan)
    except BaseException:
        load.end()
        close(default)
        raise
    found = yield from _fetch(Asked(cache, version, Source(default, False), plan, beta), {key: load})
    return found.get(key)


def get_many_or_set(
    cache: Any, keys: Iterable[Any], loader: Any, timeout: Any, version: Any, beta: float = 1.0, **terms: Any
) -> Generator[Any, Any, dict[Any, Any]]:
    """The body of ``get_many_or_set``."""
    plan = Terms(timeout, **terms)
    _check(cache, plan)
    if not callable(loader):
        raise TypeError("loader must be a callable that takes the list of missing keys and returns a dict")
    asked = Asked(cache, version, Source(loader, True), plan, beta)
    looked: dict[Any, Any] = {}
    try:
        for key in dict.fromkeys(keys):
            looked[key] = asked.begin(key)
    except BaseException:
        _end(looked)
        raise
    wanted = list(looked)
    found = yield from _fetch(asked, looked)
    return {key: found[key] for key in wanted if key in found}


def refresh(cache: Any, key: Any, default: Any, timeout: Any, version: Any, **terms: Any) -> Body:
    """Runs the loader now, whatever is there, and stores what it returns unless it is overtaken."""
    plan = Terms(timeout, **terms)
    _check(cache, plan)
    asked = Asked(cache, version, Source(default, False), plan)
    own = {key: _alone(cache, key, version)}
    found = yield from _run(asked, own, Flight(_by_place(cache, own)))
    return found.get(key)


def begin(cache: Any, key: Any, version: Any, beta: float) -> Any:
    """A fresh value, or a load."""
    return cache._load(key, version, transactions.birth(cache), beta)


def _alone(cache: Any, key: Any, version: Any) -> Load:
    """A load that the caller runs whoever else does."""
    load: Load = cache._load(key, version, transactions.birth(cache), 0.0, True, True)
    return load


def _check(cache: Any, plan: Terms) -> None:
    """A wrong argument is told before a loader runs."""
    _native.check_terms(plan.tags, plan.stale)
    cache.lasting(plan.timeout)
    for name in ("soft_timeout", "hard_timeout"):
        seconds = getattr(plan, name)
        if seconds is not None and not (isinstance(seconds, (int, float)) and seconds >= 0):
            raise ValueError(f"{name} is {seconds!r}: write a number of seconds, or None for no limit")


def close(default: Any) -> None:
    """A coroutine that nobody will await: Python would warn."""
    if type(default) is CoroutineType and inspect.getcoroutinestate(default) == inspect.CORO_CREATED:
        default.close()


def _end(looked: Mapping[Any, Any]) -> None:
    for load in looked.values():
        if type(load) is Load:
            load.end()


def _fetch(asked: Asked, looked: dict[Any, Any]) -> Generator[Any, Any, dict[Any, Any]]:
    """The values of the keys, of which `looked` has what `begin` found."""
    hard = asked.plan.hard_timeout
    deadline = None if hard is None else time.monotonic() + hard
    found: dict[Any, Any] = {}
    since: dict[Any, int] = {}
    is_used = False
    try:
        while looked:
            own: dict[Any, Load] = {}
            busy: dict[Any, tuple[Load, Flight | None]] = {}
            for key, load in looked.items():
                if type(load) is not Load:
                    found[key] = load
                elif not load.is_busy:
                    own[key] = load
                elif load.has_value:
                    found[key] = load.value
                else:
                    since.setdefault(key, load.birth)
                    busy[key] = load, _flights.get(_where(asked.cache, load))
            looked = {}
            # What this caller owns comes first, so that it holds nothing while it waits for others.
            if own:
                is_used = True
                found.update((yield from _owned(asked, own, deadline)))
            over = {}
            for key, (load, flight) in busy.items():
                over[key] = yield from _await(asked, load, flight, deadline)
            for key, (load, flight) in busy.items():
                if not over[key]:
                    looked[key] = _alone(asked.cache, key, asked.version)
                    continue
                # A load that began when this caller had come is as good as one of its own, stored or not.
                theirs = flight if flight is not None and flight.birth >= since[key] else None
                looked.update(_look_again(asked, key, _where(asked.cache, load), theirs))
        return found
    except BaseException:
        _end(looked)
        raise
    finally:
        if not is_used:
            close(asked.source.loader)


def _look_again(asked: Asked, key: Any, where: Where, theirs: Flight | None) -> dict[Any, Any]:
    """What there is of a key whose load by others is over: a value or a load; nothing if they found none."""
    if theirs is not None:
        if isinstance(theirs.error, Exception):
            theirs.throw()
        value = theirs.values.get(where, Unset)
        if value is not Unset and (value is not Absent or asked.source.is_many):
            # No load is begun, which others would wait for.
            stored = asked.cache._get(key, Unset, asked.version)
            if stored is not Unset:
                return {key: stored}
            if value is Absent or value is skip:
                return {}
            # Who cannot be given a copy runs the loader, and sees the error.
            with contextlib.suppress(Exception):
                return {key: None if value is None else _native.decode(_native.encode(value))}
    return {key: asked.begin(key)}


def _await(
    asked: Asked, load: Load, flight: Flight | None, deadline: float | None
) -> Generator[Any, Any, bool]:
    """Waits until the load of others is over. False when this caller must not wait for it."""
    where = _where(asked.cache, load)
    while True:
        holding = [held for held in _holding.get() if not held.done.is_set()]
        # The caller runs this very load, or somebody waits for one that it runs and may be waited for by this one.
        if any(where in held.loads or held.is_awaited() for held in holding):
            return False
        seconds = SLICE_SECONDS if holding else LONGEST_SECONDS
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise _late(asked)
            seconds = min(seconds, left)
        if (yield Wait(load, seconds, flight)):
            return True


def _late(asked: Asked) -> LoadTimeout:
    limit = asked.plan.hard_timeout
    return LoadTimeout(f"the loader {asked.source} took longer than hard_timeout = {limit} s; it goes on")


def _owned(asked: Asked, own: dict[Any, Load], deadline: float | None) -> Generator[Any, Any, dict[Any, Any]]:
    """Runs the loads that this caller owns, within their limits."""
    plan = asked.plan
    flight = Flight(_by_place(asked.cache, own))
    has_values = all(load.has_value for load in own.values())
    seconds = None if deadline is None else max(deadline - time.monotonic(), 0)
    if has_values and plan.soft_timeout is not None:
        seconds = plan.soft_timeout if seconds is None else min(seconds, plan.soft_timeout)
    background = plan.background and has_values
    stale = {key: load.value for key, load in own.items()} if background else {}
    body = _run(asked, own, flight)
    # At once, and not when the body begins: those who come before that must find it.
    flight.announce()
    try:
        found = yield Complete(body, flight, asked.source.loader, seconds, background)
    except LateError:
        found = _instead(asked, own) if has_values else None
        if found is None:
            raise _late(asked) from None
    result: dict[Any, Any] = stale if found is None else found
    return result


def _instead(asked: Asked, own: Mapping[Any, Load]) -> dict[Any, Any] | None:
    """What may be served when the loader does not bring it; None unless there is something for each key.

    It is looked for again: what was invalidated since the load began is never served.
    """
    found = {}
    for key in own:
        value = asked.cache._load(key, asked.version, transactions.birth(asked.cache), 0.0, False, True)
        if type(value) is Load:
            has_value, served = value.has_value, value.value
            value.end()
            if not has_value:
                return None
            value = served
        found[key] = value
    return found


def _run(asked: Asked, own: dict[Any, Load], flight: Flight) -> Generator[Any, Any, dict[Any, Any]]:
    """Runs the loader and ends the loads: the one place where that happens."""
    plan = asked.plan
    adaptive = Adaptive(plan.timeout, list(plan.tags or ()), plan.stale)
    held = _holding.set((*_holding.get(), flight))
    try:
        try:
            loaded = yield from asked.source.load(list(own), adaptive)
        except Exception as error:
            flight.fail(error)
            for load in own.values():
                _fail(load, error)
            is_served = not _is_answer(error) and all(load.has_value for load in own.values())
            instead = _instead(asked, own) if is_served else None
            if instead is None:
                raise
            flight.error = None
            flight.outcome = instead
            return instead
        found = {}
        for key, load in own.items():
            value = loaded[key] if key in loaded else Absent  # noqa: SIM401 any mapping will do
            if value is None and asked.source.is_many and not plan.cache_none:
                value = skip
            is_kept = value is not Absent and value is not skip and (value is not None or plan.cache_none)
            if _is_hidden(asked.cache, load, adaptive.tags):
                load.end()  # nor handed to those who wait
            else:
                where = _where(asked.cache, load)
                # Before the load ends, which is when those who wait look for it.
                flight.values[where] = value
                if not is_kept:
                    load.end()
                elif (yield from _store(asked.cache, load, value, adaptive)):
                    del flight.values[where]
            if value is not Absent and value is not skip:
                found[key] = value
        flight.outcome = found
        return found
    except BaseException as error:
        # What cannot be stored is no failure of the source, which may be asked again at once.
        if flight.error is None:
            flight.fail(error)
        _end(own)
        raise
    finally:
        _holding.reset(held)
        flight.finish()


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


def _is_hidden(cache: Any, load: Load, tags: Any) -> bool:
    """Whether the caller's transaction has changed the key or invalidated a tag: what it sees is not for others yet."""
    return transactions.open_changes() > 0 and transactions.has_invalidated(cache, tags or (), load.full_key)


def _store(cache: Any, load: Load, value: Any, terms: Adaptive) -> Generator[Any, Any, bool]:
    """Stores what a load brought; False when it was overtaken, or did not fit."""
    arguments = (value, cache.lasting(terms.timeout), terms.tags or None, terms.stale)
    try:
        return load.store(*arguments)
    except SynchronousOnlyOperation:
        stored: bool = yield Away(load.store, arguments)
        return stored


def _where(cache: Any, load: Load) -> Where:
    return (*cache.place, load.full_key)


def _by_place(cache: Any, own: Mapping[Any, Load]) -> dict[Where, Load]:
    return {_where(cache, load): load for load in own.values()}


def only(loader: Any) -> Body:
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
    # Asking for a signature takes as long as all the rest of a load.
    function = loader.__func__ if type(loader) is MethodType else loader
    if type(function) is FunctionType and not function.__dict__:
        bound = len(function.__defaults__ or ()) + (function is not loader)
        return function.__code__.co_argcount > bound
    try:
        parameters = inspect.signature(loader).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(
        part.default is part.empty and part.kind in (part.POSITIONAL_ONLY, part.POSITIONAL_OR_KEYWORD)
        for part in parameters
    )


# Drivers


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
                    _give_up(flight)
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
                    _give_up(flight)
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
        _give_up(flight)
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


def _give_up(flight: Flight) -> None:
    """Ends loads that will not run: the next caller tries again."""
    for load in flight.loads.values():
        load.end()
    flight.finish()


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
    """Flights and threads of the parent are not the child's."""
    global _threads, _lock
    _threads = Threads()
    _lock = threading.RLock()
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
    _birth: int = field(default=0, repr=False)
    _full_key: str = field(default="", repr=False)
    _tokens: list[tuple[ContextVar[Any], Any]] = field(default_factory=list, repr=False)

    @property
    def missing(self) -> bool:
        """Whether there is no fresh value, so that the block is to set one."""
        return self._load is not None

    def __enter__(self) -> Bracket:
        return self._enter(run(self._begin()))

    async def __aenter__(self) -> Bracket:
        return self._enter(await arun(self._begin()))

    def _begin(self) -> Generator[Any, Any, Load | None]:
        asked = Asked(self.cache, self.version, Source(None, False), Terms())
        waits = True
        while True:
            found = asked.begin(self.key)
            if type(found) is not Load:
                self.value = found
                return None
            if not found.is_busy:
                return found
            where = _where(self.cache, found)
            flight = _flights.get(where)
            if not waits or not (yield from _await(asked, found, flight, None)):
                return _alone(self.cache, self.key, self.version)
            # Blocks that set nothing would otherwise run one after the other, for as many as there are.
            waits = flight is None or flight.values.get(where) is not Unset

    def _enter(self, load: Load | None) -> Bracket:
        global open_blocks
        self._load = load
        self._tokens = [(_blocks, _blocks.set((*_blocks.get(), self)))]
        if load is None:
            # What is there may be gone when the block looks for it, and what the block sets then has a birth too.
            birth = transactions.birth(self.cache)
            self._birth = self.cache._sequence() if birth is None else birth
            self._full_key = self.cache._make_full_key(self.key, self.version)
        else:
            self._full_key = load.full_key
            self._flight = Flight({_where(self.cache, load): load})
            self._flight.values = dict.fromkeys(self._flight.loads, Unset)  # until it is set
            self._flight.announce()
            self._tokens.append((_holding, _holding.set((*_holding.get(), self._flight))))
        open_blocks += 1
        return self

    def set(self, value: Any, timeout: Any = DEFAULT_TIMEOUT, tags: Any = None, stale: Any = None) -> bool:
        """Stores the value; False when an invalidation or a set has overtaken the block, or it was set before.

        Where the block began with a value, invalidations alone overtake it.
        """
        _native.check_terms(tags, stale)
        if not self._tokens:
            return False
        load = self._load
        if load is None:
            load = self.cache._load(self.key, self.version, self._birth, 0.0, True, True)
        if self._flight is not None:
            self._flight.values = {}
        if _is_hidden(self.cache, load, tags):
            load.end()
            return False
        try:
            return bool(run(_store(self.cache, load, value, Adaptive(timeout, tags, stale))))
        finally:
            if self._load is None:
                load.end()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        global open_blocks
        if not self._tokens:
            return
        open_blocks -= 1
        while self._tokens:
            variable, token = self._tokens.pop()
            variable.reset(token)
        if self._load is None or self._flight is None:
            return
        if error is not None and isinstance(error, Exception):
            _fail(self._load, error)
        else:
            self._load.end()
        self._flight.finish()

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
        if block.cache.place == cache.place and block._full_key == full_key:
            return block
    return None
