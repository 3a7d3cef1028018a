"""``@tezkor.memoize_request``: what a function returned is kept until the request ends, in this request alone.

Nothing is copied: every caller of the request gets the same object. Outside of a request the function is called.
The keys of calls are those of ``@tezkor.cached``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar, cast, overload

from django.core.signals import request_finished, request_started

from tezkor import isolation
from tezkor.calls import Key
from tezkor.decorators import Decorator
from tezkor.keyed import Keyed, KeyedProperty, decorate, mark_coroutine_function

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Memo:
    """What one request remembers; its threads and tasks share it through their context.

    One that outlives the request finds it closed.
    """

    __slots__ = ("is_open", "values")

    def __init__(self) -> None:
        self.is_open = True
        self.values: dict[tuple[Any, str], Any] = {}

    def close(self) -> None:
        self.is_open = False
        self.values.clear()


_memo: ContextVar[Memo | None] = ContextVar("tezkor_memo", default=None)


def _current() -> Memo | None:
    memo = _memo.get()
    return memo if memo is not None and memo.is_open else None


class Memoized(Keyed[P, R_co]):
    """A function whose results last for a request. Exceptions are not kept."""

    takes_arguments = frozenset({"key", "forget"})

    def __init__(self, function: Callable[P, R_co], key: Key) -> None:
        super().__init__(function, key)
        _listen()

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        memo = _current()
        if memo is None:
            return cast("R_co", self.__wrapped__(*args, **kwargs))
        place = self._place(args, kwargs)
        if self.is_async:
            return cast("R_co", self._acall(memo, place, args, kwargs))
        try:
            return cast("R_co", memo.values[place])
        except KeyError:
            pass
        value = self.__wrapped__(*args, **kwargs)
        # Of two threads that called at once both get the value of one.
        return cast("R_co", memo.values.setdefault(place, value) if memo.is_open else value)

    def forget(self, /, *args: Any, **kwargs: Any) -> None:
        """Has the next call with these arguments run the function again."""
        memo = _current()
        if memo is not None:
            memo.values.pop(self._place(args, kwargs), None)

    def _place(self, args: Any, kwargs: Any) -> tuple[Any, str]:
        if self._calls.is_automatic:
            return self, self._calls.text(args, kwargs)  # of any length, nobody sees it
        return self, self.key(*args, **kwargs)

    async def _acall(self, memo: Memo, place: Any, args: Any, kwargs: Any) -> Any:
        while True:
            running = memo.values.get(place)
            if running is None:
                return await self._run(memo, place, args, kwargs)
            if running.done():
                return running.result()
            if running.get_loop() is not asyncio.get_running_loop():
                return await self.__wrapped__(*args, **kwargs)
            await asyncio.wait([running])
            if not running.cancelled():
                return running.result()
            # Whoever ran it was cancelled, which is no concern of those who wait: one of them runs it.

    async def _run(self, memo: Memo, place: Any, args: Any, kwargs: Any) -> Any:
        running = memo.values[place] = asyncio.get_running_loop().create_future()
        try:
            value = await self.__wrapped__(*args, **kwargs)
        except BaseException as error:
            if memo.values.get(place) is running:
                del memo.values[place]
            if isinstance(error, Exception):
                running.set_exception(error)
                running.exception()  # somebody has it: the caller
            else:
                running.cancel()
            raise
        running.set_result(value)
        return value


@overload
def memoize_request(function: property, /) -> KeyedProperty: ...
@overload
def memoize_request(function: Callable[P, R], /) -> Memoized[P, R]: ...
@overload
def memoize_request(function: None = None, *, key: Key = None) -> Decorator: ...
def memoize_request(function: Any = None, *, key: Key = None) -> Any:
    """Calls the function once in a request for the same arguments.

    ``key``: a text with arguments as fields (``"{product.pk}"``) or a function of the arguments. The function gets
    ``forget`` and ``key``. A coroutine function runs once for all who await it.
    """

    def make(target: Callable[P, R]) -> Memoized[P, R]:
        return Memoized(target, key)

    if function is not None:
        return decorate(function, make)
    return lambda target: decorate(target, make)


def _begin(**kwargs: Any) -> None:
    _memo.set(Memo())


def _end(**kwargs: Any) -> None:
    memo = _memo.get()
    if memo is not None:
        memo.close()
        _memo.set(None)


class _AsyncBegin:
    """A receiver of asynchronous requests, which Django calls in the task of the request.

    Receivers that are functions run in a task of their own in Django 5, and what they set is not seen by the request.
    What this returns is awaited there; the memo is made before that.
    """

    def __init__(self) -> None:
        mark_coroutine_function(self)

    def __call__(self, **kwargs: Any) -> Any:
        _begin()
        return _nothing()


async def _nothing() -> None: ...


def _begin_or_learn(*, sender: Any, **kwargs: Any) -> None:
    """A synchronous receiver for all senders; an asynchronous one is connected to each handler that sends a scope.

    To ask one of every request would start an event loop in each that is synchronous.
    """
    if "scope" not in kwargs:
        _begin()
    elif sender not in _learned:
        _learn(sender)
        _begin()


_learned: set[Any] = set()
_async_begin = _AsyncBegin()
_listens = False


def _learn(sender: Any) -> None:
    _learned.add(sender)
    request_started.connect(
        cast("Any", _async_begin), sender=sender, weak=False, dispatch_uid=("tezkor", sender)
    )


def _listen() -> None:
    """Connects to the signals, once there is anything to remember."""
    global _listens
    if _listens:
        return
    _listens = True
    request_started.connect(_begin_or_learn, dispatch_uid="tezkor.memo")
    request_finished.connect(_end, dispatch_uid="tezkor.memo")
    for sender in _handlers():
        _learn(sender)


def _handlers() -> Iterator[Any]:
    from django.core.handlers.asgi import ASGIHandler

    yield ASGIHandler
    yield from ASGIHandler.__subclasses__()
    if isolation.under_test_runner():
        from django.test.client import AsyncClientHandler

        yield AsyncClientHandler
