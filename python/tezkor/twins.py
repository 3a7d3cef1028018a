"""The async twin of every cache method.

Near stores answer inline, in the event loop: they never wait. On a server the usual ones are left to a pool, see
`later`; the others run in a thread, as Django's own do.
A twin calls the sync method of its instance, so that whoever replaces or overrides that one is seen by both.
"""

# Django is not typed: what BaseCache returns is Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.core.exceptions import SynchronousOnlyOperation

from tezkor import later

MISSING = object()
GLOBS = frozenset("*?[")


def has_glob(key: Any) -> bool:
    return isinstance(key, str) and not GLOBS.isdisjoint(key)


async def away(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return await sync_to_async(method, thread_sensitive=True)(*args, **kwargs)


class AsyncTwins(BaseCache):  # type: ignore[misc]
    """BaseCache whose async methods answer inline where ``_near`` says that this never waits."""

    _near = True
    # The native methods of a cache on a server that its loop need not wait for in a thread of Django's, by name.
    _left: Mapping[str, Callable[..., Any]] = {}

    def _later(self, name: str) -> Callable[..., Any] | None:
        """The native method of that name, unless somebody has put another one before it."""
        return None if name in self.__dict__ else self._left.get(name)

    def _later_write(self, name: str) -> Callable[..., Any] | None:
        native = self._later(name)
        return native if native is not None and later.may_write(self) else None

    async def _write(self, method: Callable[..., Any], *args: Any, **terms: Any) -> Any:
        """Pickling a queryset that has not run asks the database, which Django allows in a thread only."""
        try:
            if self._near:
                return method(*args, **terms)
            if (native := self._later_write(method.__name__)) is not None:
                return await later.call(native, *args, *terms.values())
        except SynchronousOnlyOperation:
            pass
        return await away(method, *args, **terms)

    async def aget(self, key: Any, default: Any = None, version: Any = None) -> Any:
        if self._near:
            return self.get(key, default, version)
        if (native := self._later("get")) is not None:
            return await later.call(native, key, default, version)
        return await away(self.get, key, default, version)

    async def aget_many(self, keys: Iterable[Any], version: Any = None) -> dict[Any, Any]:
        if self._near:
            return self.get_many(keys, version)
        if (native := self._later("get_many")) is not None:
            return await later.call(native, keys, version)
        return await away(self.get_many, keys, version)

    async def aset(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        *,
        tags: Iterable[str] | None = None,
        stale: float | None = None,
    ) -> None:
        return await self._write(self.set, key, value, timeout, version, tags=tags, stale=stale)

    async def aset_many(
        self,
        data: Mapping[Any, Any],
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        *,
        tags: Iterable[str] | None = None,
        stale: float | None = None,
    ) -> list[Any]:
        return await self._write(self.set_many, data, timeout, version, tags=tags, stale=stale)

    async def aadd(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        *,
        tags: Iterable[str] | None = None,
        stale: float | None = None,
    ) -> bool:
        return await self._write(self.add, key, value, timeout, version, tags=tags, stale=stale)

    async def atouch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None) -> bool:
        if self._near:
            return self.touch(key, timeout, version)
        if (native := self._later_write("touch")) is not None:
            return await later.call(native, key, timeout, version)
        return await away(self.touch, key, timeout, version)

    async def adelete(self, key: Any, version: Any = None) -> bool:
        if self._near:
            return self.delete(key, version)
        if (native := self._later_write("delete")) is not None:
            return await later.call(native, key, version)
        return await away(self.delete, key, version)

    async def adelete_many(self, keys: Iterable[Any], version: Any = None) -> None:
        if self._near:
            return self.delete_many(keys, version)
        keys = list(keys)
        if (native := self._later_write("delete_many")) is not None and not any(map(has_glob, keys)):
            return await later.call(native, keys, version)
        return await away(self.delete_many, keys, version)

    async def ahas_key(self, key: Any, version: Any = None) -> bool:
        if self._near:
            return self.has_key(key, version)
        if (native := self._later("has_key")) is not None:
            return await later.call(native, key, version)
        return await away(self.has_key, key, version)

    async def aincr(
        self,
        key: Any,
        delta: Any = 1,
        version: Any = None,
        *,
        default: Any = None,
        timeout: Any = DEFAULT_TIMEOUT,
    ) -> Any:
        if self._near:
            return self.incr(key, delta, version, default=default, timeout=timeout)
        if default is None and (native := self._later_write("incr")) is not None:
            value = await later.call(native, key, delta, version)
            if value is not NotImplemented:
                return value
        return await away(self.incr, key, delta, version, default=default, timeout=timeout)

    async def adecr(
        self,
        key: Any,
        delta: Any = 1,
        version: Any = None,
        *,
        default: Any = None,
        timeout: Any = DEFAULT_TIMEOUT,
    ) -> Any:
        if self._near:
            return self.decr(key, delta, version, default=default, timeout=timeout)
        if self._later("decr") is not None:
            return await self.aincr(key, -delta, version, default=default, timeout=timeout)
        return await away(self.decr, key, delta, version, default=default, timeout=timeout)

    async def aincr_version(self, key: Any, delta: int = 1, version: Any = None) -> int:
        return (
            self.incr_version(key, delta, version)
            if self._near
            else await away(self.incr_version, key, delta, version)
        )

    async def adecr_version(self, key: Any, delta: int = 1, version: Any = None) -> int:
        return (
            self.decr_version(key, delta, version)
            if self._near
            else await away(self.decr_version, key, delta, version)
        )

    async def aclear(self) -> None:
        return self.clear() if self._near else await away(self.clear)

    async def aclear_prefix(self) -> None:
        return self.clear_prefix() if self._near else await away(self.clear_prefix)

    async def akeys(self, pattern: str = "*", version: Any = None) -> list[str]:
        return self.keys(pattern, version) if self._near else await away(self.keys, pattern, version)

    async def aexplain(self, key: Any, version: Any = None) -> dict[str, Any]:
        return self.explain(key, version) if self._near else await away(self.explain, key, version)

    async def astats(self) -> dict[str, Any]:
        return self.stats() if self._near else await away(self.stats)

    async def aclose(self, **kwargs: Any) -> None:
        self.close(**kwargs)
