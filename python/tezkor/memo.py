"""``@memoize_request``: what a function returned, for the rest of the request. Nothing leaves the request, so
nothing is stale for longer than it; outside of a request the function is simply called.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from functools import update_wrapper
from typing import Any

from django.core.signals import request_finished, request_started

from tezkor.decorators import inspect_mark
from tezkor.signatures import Signature

# What the running request has called: shared by its threads and tasks, which get a copy of the context.
_calls: ContextVar[dict[tuple[Any, str], Any] | None] = ContextVar("tezkor_request", default=None)


def _begin(**kwargs: Any) -> None:
    _calls.set({})


def _end(**kwargs: Any) -> None:
    calls = _calls.get()
    if calls is not None:
        calls.clear()
    _calls.set(None)


request_started.connect(_begin, dispatch_uid="tezkor.memo")
request_finished.connect(_end, dispatch_uid="tezkor.memo")


def memoize_request(function: Callable[..., Any]) -> Any:
    """Calls the function once in a request for the same arguments. An exception is not kept.

    The function gets ``forget(*args)``. A coroutine function runs once for all tasks of the request that await it.
    """
    if not callable(function):
        raise TypeError(f"memoize_request takes a function, not {type(function).__name__}")
    return Memoized(function)


class Memoized:
    """A function whose results last for the request."""

    def __init__(self, function: Callable[..., Any]) -> None:
        update_wrapper(self, function)
        self._function = function
        self._signature = Signature(function)
        self._is_async = inspect.iscoroutinefunction(function)
        if self._is_async:
            inspect_mark(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        calls = _calls.get()
        if calls is None:
            return self._function(*args, **kwargs)
        at = (self, self._signature.text(args, kwargs))
        if self._is_async:
            return self._acall(calls, at, args, kwargs)
        if at not in calls:
            calls[at] = self._function(*args, **kwargs)
        return calls[at]

    async def _acall(
        self, calls: dict[Any, Any], at: tuple[Any, str], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        task = calls.get(at)
        if task is None:
            task = calls[at] = asyncio.ensure_future(self._function(*args, **kwargs))
        try:
            return await asyncio.shield(task)
        except BaseException:
            if task.done() and calls.get(at) is task:
                del calls[at]
            raise

    def forget(self, *args: Any, **kwargs: Any) -> None:
        """Has the next call with these arguments run the function again."""
        calls = _calls.get()
        if calls is not None:
            calls.pop((self, self._signature.text(args, kwargs)), None)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else MemoizedMethod(self, instance)

    def __repr__(self) -> str:
        return f"<memoized {self._signature.name}>"


class MemoizedMethod:
    """The same, of an instance."""

    def __init__(self, memoized: Memoized, instance: Any) -> None:
        self.__wrapped__ = memoized._function.__get__(instance)
        self.__self__ = instance
        self._memoized = memoized
        if memoized._is_async:
            inspect_mark(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._memoized(self.__self__, *args, **kwargs)

    def forget(self, *args: Any, **kwargs: Any) -> None:
        self._memoized.forget(self.__self__, *args, **kwargs)
