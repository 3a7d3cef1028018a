"""One run per load: who misses a key runs the loader, or waits for whoever runs it, in this process or another.

One body serves threads and tasks: a generator that yields what has to be done, and two drivers that do it.
Correctness rests on the native ``Load`` alone, which stores nothing that was overtaken; everything here only saves
work.

One key is a batch of one: a flight is one call of a loader, for all the keys that its caller owns.

A value is never handed from one caller to another as the same object: who waited reads it from the cache. What was not
stored (it was overtaken, ``skip``) is handed over as a copy, and only to those whom the Ledger told nothing newer than
the birth of that load when they came: for them it is as fresh as one of their own. So nobody waits for more than two.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from types import CoroutineType, FunctionType, MethodType
from typing import Any, NamedTuple

from django.core.exceptions import ObjectDoesNotExist, PermissionDenied, SynchronousOnlyOperation
from django.http import Http404

from tezkor import _native, flights, transactions
from tezkor._native import Load
from tezkor.drivers import LOOK_SECONDS, Away, Body, Call, Complete, Follow, LateError, Wait, Waited
from tezkor.flights import Flight, Owned, Where
from tezkor.patience import Patience
from tezkor.terms import Adaptive, Terms

# Between two looks at whether somebody waits for what this caller runs, which two callers could do for each other.
SLICE_SECONDS = 0.05


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

    def begin(self, key: Any) -> Body:
        return at(self.cache, begin, self.cache, plain(key), self.version, self.beta)

    def alone(self, key: Any) -> Body:
        return at(self.cache, alone, self.cache, plain(key), self.version)

    def get(self, key: Any) -> Body:
        """What is there, or Unset."""
        return at(self.cache, self.cache._get, plain(key), Unset, self.version)


def at(cache: Any, method: Callable[..., Any], *arguments: Any) -> Body:
    """What a verb of a cache answers. One that may wait for a network does so where it holds up no event loop."""
    return method(*arguments) if cache._near else (yield Away(method, arguments))


class Boxed:
    """A key that no dict takes, such as a list, of which Django makes a text."""

    __slots__ = ("key",)

    def __init__(self, key: Any) -> None:
        self.key = key


def is_hashable(key: Any) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True


def plain(key: Any) -> Any:
    return key.key if type(key) is Boxed else key


class Absent:
    """What a loader of many keys has for one that it leaves out."""


class Unset:
    """What a block has for its key when it ends without a set."""


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
        plan = read(timeout, terms)
    except BaseException:
        load.end()
        close(default)
        raise
    key = key if is_hashable(key) else Boxed(key)
    found = yield from _fetch(Asked(cache, version, Source(default, False), plan, beta), {key: load})
    return found.get(key)


def get_many_or_set(
    cache: Any, keys: Iterable[Any], loader: Any, timeout: Any, version: Any, beta: float = 1.0, **terms: Any
) -> Generator[Any, Any, dict[Any, Any]]:
    """The body of ``get_many_or_set``."""
    plan = read(timeout, terms)
    asked = Asked(cache, version, source_of_many(loader), plan, beta)
    looked: dict[Any, Any] = {}
    try:
        for key in dict.fromkeys(keys):
            looked[key] = yield from asked.begin(key)
    except BaseException:
        _end(looked)
        raise
    wanted = list(looked)
    found = yield from _fetch(asked, looked)
    return {key: found[key] for key in wanted if key in found}


def source_of_many(loader: Any) -> Source:
    if not callable(loader):
        raise TypeError("loader must be a callable that takes the list of missing keys and returns a dict")
    return Source(loader, True)


def refresh(cache: Any, key: Any, default: Any, timeout: Any, version: Any, **terms: Any) -> Body:
    """Runs the loader now, whatever is there, and stores what it returns unless it is overtaken."""
    asked = Asked(cache, version, Source(default, False), read(timeout, terms))
    own = {key: (yield from at(cache, alone, cache, key, version))}
    found = yield from _run(asked, own, Owned(_by_place(cache, own)))
    return found.get(key)


def begin(cache: Any, key: Any, version: Any, beta: float) -> Any:
    """A fresh value, or a load."""
    return cache._load(key, version, transactions.birth(cache), beta)


def alone(cache: Any, key: Any, version: Any) -> Load:
    """A load that the caller runs whoever else does."""
    load: Load = cache._load(key, version, transactions.birth(cache), 0.0, True, True)
    return load


def read(timeout: Any, terms: Mapping[str, Any]) -> Terms:
    """The terms, which were checked, but for tags that may be an iterable to be read once."""
    plan = Terms(timeout, **terms)
    if plan.tags is None:
        return plan
    tags = list(plan.tags)
    _native.check_terms(tags, None)
    return plan._replace(tags=tags)


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
                    busy[key] = load, flights.flight_of(where_of(asked.cache, load), load)
            looked = {}
            # What this caller owns comes first, so that it holds nothing while it waits for others.
            if own:
                is_used = True
                found.update((yield from _owned(asked, own, deadline)))
            over = {}
            try:
                for key, (load, flight) in busy.items():
                    over[key] = yield from wait(asked, key, load, flight, deadline)
            finally:
                # On a server one of the machine waits for all of it: the next look must not wait for that one.
                for load, _ in busy.values():
                    load.end()
            for key, (load, _) in busy.items():
                is_over, flight = over[key]
                if not is_over:
                    looked[key] = yield from asked.alone(key)
                    continue
                # A load that began when this caller had come is as good as one of its own, stored or not.
                theirs = flight if flight is not None and flight.birth >= since[key] else None
                where = where_of(asked.cache, load)
                looked.update((yield from _look_again(asked, key, where, theirs)))
        return found
    except BaseException:
        _end(looked)
        raise
    finally:
        if not is_used:
            close(asked.source.loader)


def _look_again(
    asked: Asked, key: Any, where: Where, theirs: Flight | None
) -> Generator[Any, Any, dict[Any, Any]]:
    """What there is of a key whose load by others is over: a value or a load; nothing if they found none."""
    if theirs is not None:
        if isinstance(theirs.error, Exception):
            theirs.throw()
        value = theirs.values.get(where, Unset)
        if value is not Unset and (value is not Absent or asked.source.is_many):
            # No load is begun, which others would wait for.
            stored = yield from asked.get(key)
            if stored is not Unset:
                return {key: stored}
            if value is Absent or value is skip:
                return {}
            # Who cannot be given a copy runs the loader, and sees the error.
            with contextlib.suppress(Exception):
                return {key: None if value is None else _native.decode(_native.encode(value))}
    return {key: (yield from asked.begin(key))}


def wait(
    asked: Asked, key: Any, load: Load, flight: Flight | None, deadline: float | None
) -> Generator[Any, Any, tuple[bool, Flight | None]]:
    """Waits until the load of others is over: whether it is, False when this caller must not wait for it; and its
    flight, if it is of this process."""
    where = where_of(asked.cache, load)
    patience = Patience()
    while True:
        holding = [held for held in flights.holding.get() if not held.done.is_set()]
        # The caller runs this very load, or somebody waits for one that it runs and may be waited for by this one.
        if any(where in held.places or held.is_awaited() for held in holding):
            return False, flight
        if flight is not None:
            flight.look()
            # Its source rests now, and what it said is for those who had come.
            if not load.is_near and flight.done.is_set() and isinstance(flight.error, Exception):
                return True, flight
        # A flight is announced a little after its load begins: whoever came between looks for it soon.
        seconds = SLICE_SECONDS if holding or flight is None else LOOK_SECONDS
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise _late(asked)
            seconds = min(seconds, left)
        waited = yield Wait(load, seconds, flight, patience)
        if waited is Waited.IN_VAIN:
            return False, flight
        # Where another that waited ran the loader too, there may be a value before the load is over.
        if waited is Waited.OVER:
            return True, flight
        if flight is not None and flight.turns and (yield from asked.get(key)) is not Unset:
            return True, flight
        flight = flight or flights.flight_of(where, load)


def _late(asked: Asked) -> LoadTimeout:
    limit = asked.plan.hard_timeout
    return LoadTimeout(f"the loader {asked.source} took longer than hard_timeout = {limit} s; it goes on")


def _owned(asked: Asked, own: dict[Any, Load], deadline: float | None) -> Generator[Any, Any, dict[Any, Any]]:
    """Runs the loads that this caller owns, within their limits."""
    plan = asked.plan
    owned = Owned(_by_place(asked.cache, own))
    flight = owned.flight
    has_values = all(load.has_value for load in own.values())
    seconds = _left(deadline)
    if has_values and plan.soft_timeout is not None:
        seconds = plan.soft_timeout if seconds is None else min(seconds, plan.soft_timeout)
    background = plan.background and has_values
    stale = {key: load.value for key, load in own.items()} if background else {}
    body = _run(asked, own, owned)
    # At once, and not when the body begins: those who come before that must find it.
    flight.announce()
    try:
        found = yield Complete(body, flight, asked.source.loader, seconds, background)
    except LateError:
        found = (yield from _instead(asked, own)) if has_values else None
        if found is None:  # what there was has been invalidated meanwhile, or there was nothing
            found = yield from _follow(asked, flight, deadline)
    result: dict[Any, Any] = stale if found is None else found
    return result


def _follow(asked: Asked, flight: Flight, deadline: float | None) -> Generator[Any, Any, dict[Any, Any]]:
    """What comes of a load that outlived its ``soft_timeout``, within its ``hard_timeout``."""
    try:
        found: dict[Any, Any] = yield Follow(flight, _left(deadline))
    except LateError:
        raise _late(asked) from None
    return found


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0)


def _instead(asked: Asked, own: Mapping[Any, Load]) -> Generator[Any, Any, dict[Any, Any] | None]:
    """What may be served when the loader does not bring it; None unless there is something for each key.

    It is looked for again: what was invalidated since the load began is never served.
    """
    found = {}
    for key in own:
        born = transactions.birth(asked.cache)
        value = yield from at(
            asked.cache, asked.cache._load, plain(key), asked.version, born, 0.0, False, True
        )
        if type(value) is Load:
            has_value, served = value.has_value, value.value
            yield from at(asked.cache, value.end)
            if not has_value:
                return None
            value = served
        found[key] = value
    return found


def _run(asked: Asked, own: dict[Any, Load], owned: Owned) -> Generator[Any, Any, dict[Any, Any]]:
    """Runs the loader and ends the loads: the one place where that happens."""
    plan, flight = asked.plan, owned.flight
    flight.thread = threading.get_ident()
    adaptive = Adaptive(plan.timeout, list(plan.tags or ()), plan.stale)
    held = flights.holding.set((*flights.holding.get(), flight))
    try:
        try:
            loaded = yield from asked.source.load(list(own), adaptive)
        except Exception as error:
            flight.fail(error)
            for load in own.values():
                yield from at(asked.cache, fail, load, error)
            is_served = not _is_answer(error) and all(load.has_value for load in own.values())
            instead = (yield from _instead(asked, own)) if is_served else None
            if instead is None:
                raise
            flight.error = None
            flight.outcome = instead
            return instead
        found = {}
        for key, load in own.items():
            value = loaded[key] if key in loaded else Absent  # noqa: SIM401 any mapping will do
            is_kept = value is not Absent and value is not skip and (value is not None or plan.cache_none)
            if is_hidden(asked.cache, load, adaptive.tags):
                yield from at(asked.cache, load.end)  # nor handed to those who wait
            else:
                where = where_of(asked.cache, load)
                # Before the load ends, which is when those who wait look for it.
                flight.values[where] = value
                if not is_kept:
                    yield from at(asked.cache, load.end)
                elif (yield from store(asked.cache, load, value, adaptive)):
                    del flight.values[where]
            if value is not Absent and value is not skip:
                found[key] = value
        flight.outcome = found
        return found
    except BaseException as error:
        # What cannot be stored is no failure of the source, which may be asked again at once.
        if flight.error is None:
            flight.fail(error)
        raise
    finally:
        # First of all: whoever asks for the keys later would wait for ever.
        _end(own)
        flight.finish()
        flights.reset(flights.holding, held)


def _is_answer(error: BaseException) -> bool:
    """Whether an exception says what the source has (nothing, or nothing for this user), and not that it fails."""
    return isinstance(error, (Http404, ObjectDoesNotExist, PermissionDenied))


def fail(load: Load, error: BaseException) -> None:
    """Ends a load that raised. Only a source that fails is left alone for a while: who asks for what is not there
    must not make others wait."""
    if _is_answer(error):
        load.end()
    else:
        load.fail()


def is_hidden(cache: Any, load: Load, tags: Any) -> bool:
    """Whether the caller's transaction has changed the key or invalidated a tag: what it sees is not for others yet."""
    return transactions.open_changes() > 0 and transactions.has_invalidated(cache, tags or (), load.full_key)


def store(cache: Any, load: Load, value: Any, terms: Adaptive) -> Generator[Any, Any, bool]:
    """Stores what a load brought; False when it was overtaken, or did not fit."""
    arguments = (value, cache.lasting(terms.timeout), terms.tags or None, terms.stale)
    try:
        if load.is_near:
            return load.store(*arguments)
    except SynchronousOnlyOperation:
        pass
    stored: bool = yield Away(load.store, arguments)
    return stored


def where_of(cache: Any, load: Load) -> Where:
    return (*cache.place, load.full_key)


def _by_place(cache: Any, own: Mapping[Any, Load]) -> dict[Where, Load]:
    return {where_of(cache, load): load for load in own.values()}


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
