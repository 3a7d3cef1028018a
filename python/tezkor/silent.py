"""The verbs of a Tezkor cache where nothing is kept: loaders run, everybody gets a lock, no limit is reached.

Wrong arguments are told as they are where something is kept, so that what works here works there. KEYS and TIMEOUTS
count where the alias has them; without them any name will do.
"""

# Django is not typed: what BaseCache returns is Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from tezkor import _native, blocks, drivers, loads, names
from tezkor.locks import Lock, RateLimit
from tezkor.terms import Adaptive, check_terms, milliseconds, moment, period_of, whole
from tezkor.twins import AsyncTwins

_tokens = itertools.count(1)
_template = lru_cache(names.Template)


class Silent(AsyncTwins):
    """For a mixin with Django's DummyCache, which checks keys."""

    location = "dummy://"

    def __init__(self, host: Any, params: Mapping[str, Any]) -> None:
        super().__init__(host, params)
        self._options: Mapping[str, Any] = params.get("OPTIONS") or {}

    # Names from settings

    def lasting(self, timeout: Any) -> Any:
        if not isinstance(timeout, str):
            return timeout
        timeouts = self._options.get("TIMEOUTS")
        return names.timeout(timeouts, timeout) if timeouts else None

    def key(self, name: str, /, **fields: Any) -> str:
        keys = self._options.get("KEYS")
        if not keys:
            return f"{name}:{sorted(fields.items())}"
        return names.key({each: _template(source) for each, source in keys.items()}, name, fields)

    def _check(self, timeout: Any, tags: Any, stale: Any) -> None:
        check_terms(self.lasting(timeout), {"tags": tags, "stale": stale})

    # One run per load

    def get_or_set(
        self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None, **terms: Any
    ) -> Any:
        return drivers.run(self._loaded(key, default, timeout, version, terms))

    async def aget_or_set(
        self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None, **terms: Any
    ) -> Any:
        return await drivers.arun(self._loaded(key, default, timeout, version, terms))

    def _loaded(
        self, key: Any, default: Any, timeout: Any, version: Any, terms: dict[str, Any]
    ) -> Generator[Any, Any, Any]:
        try:
            self.make_and_validate_key(key, version=version)
            check_terms(self.lasting(timeout), terms)
            adaptive = Adaptive(timeout, list(terms.get("tags") or ()), terms.get("stale"))
        except BaseException:
            loads.close(default)
            raise
        found = yield from loads.Source(default, False).load([None], adaptive)
        self._check(adaptive.timeout, adaptive.tags, adaptive.stale)
        return None if found[None] is loads.skip else found[None]

    def get_many_or_set(
        self,
        keys: Iterable[Any],
        loader: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        **terms: Any,
    ) -> dict[Any, Any]:
        return drivers.run(self._loaded_many(keys, loader, timeout, version, terms))

    async def aget_many_or_set(
        self,
        keys: Iterable[Any],
        loader: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        **terms: Any,
    ) -> dict[Any, Any]:
        return await drivers.arun(self._loaded_many(keys, loader, timeout, version, terms))

    def _loaded_many(
        self, keys: Iterable[Any], loader: Any, timeout: Any, version: Any, terms: dict[str, Any]
    ) -> Generator[Any, Any, dict[Any, Any]]:
        check_terms(self.lasting(timeout), terms)
        source = loads.source_of_many(loader)
        wanted = list(dict.fromkeys(keys))
        for key in wanted:
            self.make_and_validate_key(key, version=version)
        if not wanted:
            return {}
        loaded = yield from source.load(wanted, Adaptive(timeout, [], None))
        return {key: loaded[key] for key in wanted if key in loaded and loaded[key] is not loads.skip}

    def load(self, key: Any, version: Any = None) -> blocks.NoBracket:
        self.make_and_validate_key(key, version=version)
        return blocks.NoBracket(self, key, version)

    # Django's own

    def set(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        *,
        tags: Iterable[str] | None = None,
        stale: float | None = None,
    ) -> None:
        self._check(timeout, tags, stale)
        super().set(key, value, timeout, version)

    def add(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        *,
        tags: Iterable[str] | None = None,
        stale: float | None = None,
    ) -> bool:
        self._check(timeout, tags, stale)
        return super().add(key, value, timeout, version)

    def set_many(
        self,
        data: Mapping[Any, Any],
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        *,
        tags: Iterable[str] | None = None,
        stale: float | None = None,
    ) -> list[Any]:
        self._check(timeout, tags, stale)
        return super().set_many(data, timeout, version)

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None) -> bool:
        self._check(timeout, None, None)
        return super().touch(key, timeout, version)

    def incr(
        self,
        key: Any,
        delta: Any = 1,
        version: Any = None,
        *,
        default: Any = None,
        timeout: Any = DEFAULT_TIMEOUT,
    ) -> Any:
        self._check(timeout, None, None)
        return super().incr(key, delta, version) if default is None else default + delta

    def decr(
        self,
        key: Any,
        delta: Any = 1,
        version: Any = None,
        *,
        default: Any = None,
        timeout: Any = DEFAULT_TIMEOUT,
    ) -> Any:
        return self.incr(key, -delta, version, default=default, timeout=timeout)

    # Tags and patterns

    def invalidate_tags(self, *tags: str) -> None:
        for tag in tags:
            _native.check_terms((tag,), None)

    async def ainvalidate_tags(self, *tags: str) -> None:
        self.invalidate_tags(*tags)

    def keys(self, pattern: str = "*", version: Any = None) -> list[str]:
        return []

    def iter_keys(
        self, pattern: str = "*", version: Any = None, itersize: int | None = None
    ) -> Iterator[str]:
        return iter(())

    def delete_pattern(self, pattern: str, version: Any = None, itersize: int | None = None) -> int:
        return 0

    async def adelete_pattern(self, pattern: str, version: Any = None, itersize: int | None = None) -> int:
        return 0

    def clear_prefix(self) -> None:
        pass

    # Times

    def ttl(self, key: Any, version: Any = None) -> int:
        return 0

    async def attl(self, key: Any, version: Any = None) -> int:
        return 0

    pttl, apttl = ttl, attl

    def expire(self, key: Any, timeout: Any, version: Any = None) -> bool:
        return self.touch(key, timeout, version)

    async def aexpire(self, key: Any, timeout: Any, version: Any = None) -> bool:
        return self.expire(key, timeout, version)

    def pexpire(self, key: Any, timeout: Any, version: Any = None) -> bool:
        is_name = isinstance(timeout, str)
        return self.touch(key, timeout if is_name else milliseconds(timeout), version)

    async def apexpire(self, key: Any, timeout: Any, version: Any = None) -> bool:
        return self.pexpire(key, timeout, version)

    def expire_at(self, key: Any, when: Any, version: Any = None) -> bool:
        return self.touch(key, moment(when, "seconds"), version)

    async def aexpire_at(self, key: Any, when: Any, version: Any = None) -> bool:
        return self.expire_at(key, when, version)

    def pexpire_at(self, key: Any, when: Any, version: Any = None) -> bool:
        return self.touch(key, moment(when, "milliseconds"), version)

    async def apexpire_at(self, key: Any, when: Any, version: Any = None) -> bool:
        return self.pexpire_at(key, when, version)

    def persist(self, key: Any, version: Any = None) -> bool:
        return self.touch(key, None, version)

    async def apersist(self, key: Any, version: Any = None) -> bool:
        return self.persist(key, version)

    # Locks and rate limits

    def lock(self, name: Any, version: Any = None, timeout: float | str | None = None, **terms: Any) -> Lock:
        """A lock that is never another's."""
        return Lock(self, name, version=version, timeout=timeout, **terms)

    def _acquire(self, name: Any, seconds: Any, version: Any) -> int:
        return next(_tokens)

    def _yes(self, *args: Any) -> bool:
        return True

    _release: Callable[..., bool] = _yes
    _extend: Callable[..., bool] = _yes
    _owns: Callable[..., bool] = _yes
    _await_lock: Callable[..., bool] = _yes

    def _is_locked(self, name: Any, version: Any) -> bool:
        return False

    def rate_limit(self, key: Any, limit: int, period: float | str, version: Any = None) -> RateLimit:
        seconds = self.lasting(period)
        if not isinstance(period, str) or seconds is not None:
            period_of(seconds)
        return RateLimit(True, whole("limit", limit) - 1, 0.0)

    async def arate_limit(self, key: Any, limit: int, period: float | str, version: Any = None) -> RateLimit:
        return self.rate_limit(key, limit, period, version)

    # What there is

    def explain(self, key: Any, version: Any = None) -> dict[str, Any]:
        return {"key": self.make_and_validate_key(key, version=version), "found": False, "reason": "dummy"}

    def stats(self) -> dict[str, Any]:
        return {}
