"""The async twin of every cache method.

Near stores answer inline, in the event loop: they never wait. The others run in a thread, as Django's own do.
A twin calls the sync method of its instance, so that whoever replaces or overrides that one is seen by both.
"""

# Django is not typed: what BaseCache returns is Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from inspect import CO_ITERABLE_COROUTINE
from types import CoroutineType, GeneratorType
from typing import Any

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.core.exceptions import SynchronousOnlyOperation

MISSING = object()


async def _away(method: Callable[..., Any], *args: Any) -> Any:
    return await sync_to_async(method, thread_sensitive=True)(*args)


def _is_awaitable(value: Any) -> bool:
    """``inspect.isawaitable`` asks ``value.__class__``, which a lazy object answers by loading what it stands for."""
    if type(value) is GeneratorType:
        return bool(value.gi_code.co_flags & CO_ITERABLE_COROUTINE)
    return hasattr(type(value), "__await__")


class AsyncTwins(BaseCache):  # type: ignore[misc]
    """BaseCache whose async methods answer inline where ``_near`` says that this never waits."""

    _near = True

    async def _write(self, method: Callable[..., Any], *args: Any) -> Any:
        """Pickling a queryset that has not run asks the database, which Django allows in a thread only."""
        if self._near:
            try:
                return method(*args)
            except SynchronousOnlyOperation:
                pass
        return await _away(method, *args)

    async def aget(self, key: Any, default: Any = None, version: Any = None) -> Any:
        return self.get(key, default, version) if self._near else await _away(self.get, key, default, version)

    async def aget_many(self, keys: Iterable[Any], version: Any = None) -> dict[Any, Any]:
        return self.get_many(keys, version) if self._near else await _away(self.get_many, keys, version)

    async def aset(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None) -> None:
        return await self._write(self.set, key, value, timeout, version)

    async def aset_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: Any = None
    ) -> list[Any]:
        return await self._write(self.set_many, data, timeout, version)

    async def aadd(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None) -> bool:
        return await self._write(self.add, key, value, timeout, version)

    async def atouch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None) -> bool:
        return (
            self.touch(key, timeout, version)
            if self._near
            else await _away(self.touch, key, timeout, version)
        )

    async def adelete(self, key: Any, version: Any = None) -> bool:
        return self.delete(key, version) if self._near else await _away(self.delete, key, version)

    async def adelete_many(self, keys: Iterable[Any], version: Any = None) -> None:
        return self.delete_many(keys, version) if self._near else await _away(self.delete_many, keys, version)

    async def ahas_key(self, key: Any, version: Any = None) -> bool:
        return self.has_key(key, version) if self._near else await _away(self.has_key, key, version)

    async def aincr(self, key: Any, delta: Any = 1, version: Any = None) -> Any:
        return self.incr(key, delta, version) if self._near else await _away(self.incr, key, delta, version)

    async def adecr(self, key: Any, delta: Any = 1, version: Any = None) -> Any:
        return self.decr(key, delta, version) if self._near else await _away(self.decr, key, delta, version)

    async def aincr_version(self, key: Any, delta: int = 1, version: Any = None) -> int:
        return (
            self.incr_version(key, delta, version)
            if self._near
            else await _away(self.incr_version, key, delta, version)
        )

    async def adecr_version(self, key: Any, delta: int = 1, version: Any = None) -> int:
        return (
            self.decr_version(key, delta, version)
            if self._near
            else await _away(self.decr_version, key, delta, version)
        )

    async def aclear(self) -> None:
        return self.clear() if self._near else await _away(self.clear)

    async def aclear_prefix(self) -> None:
        return self.clear_prefix() if self._near else await _away(self.clear_prefix)

    async def akeys(self, version: Any = None) -> list[str]:
        return self.keys(version) if self._near else await _away(self.keys, version)

    async def aexplain(self, key: Any, version: Any = None) -> dict[str, Any]:
        return self.explain(key, version) if self._near else await _away(self.explain, key, version)

    async def astats(self) -> dict[str, Any]:
        return self.stats() if self._near else await _away(self.stats)

    async def aclose(self, **kwargs: Any) -> None:
        self.close(**kwargs)

    async def aget_or_set(
        self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None
    ) -> Any:
        """Like ``get_or_set``; a coroutine function as default, or anything awaitable, is awaited on a miss."""
        value = await self.aget(key, MISSING, version)
        if value is not MISSING:
            if type(default) is CoroutineType:
                default.close()  # nobody will await it, and Python would warn
            return value
        if callable(default):
            default = default()
        if _is_awaitable(default):
            default = await default
        await self.aadd(key, default, timeout, version)
        return await self.aget(key, default, version)
