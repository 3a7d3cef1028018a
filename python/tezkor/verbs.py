"""What a Tezkor cache offers beyond Django's BaseCache: tags, patterns, times, one run per load, locks, rate limits.

Each verb has an async twin. Where a store is near, twins answer inline; loads and locks wait without blocking
the loop.
"""

# Django is not typed: what BaseCache returns is Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from tezkor import _native, blocks, drivers, later, loads, names, transactions
from tezkor._native import Load
from tezkor.changes import Own, Pattern, Written
from tezkor.locks import Lock, RateLimit
from tezkor.silent import Silent
from tezkor.terms import check_terms, milliseconds, moment, period_of, whole
from tezkor.twins import MISSING, AsyncTwins, away

# Keys with a glob character for which the warning was given.
_warned_about_globs = False


class Verbs(AsyncTwins):
    """The verbs, over native methods that the backend puts into the instance."""

    _load: Callable[..., Any]
    _keys: Callable[..., list[str]]
    _delete_pattern: Callable[..., int]
    _invalidate_tags: Callable[..., None]
    _ttl_ms: Callable[..., int | None]
    _rate: Callable[..., tuple[bool, int, float]]
    _plan: Any

    is_transactional = False

    def lasting(self, timeout: Any) -> Any:
        """A timeout that may be a name of ``OPTIONS["TIMEOUTS"]``."""
        return names.timeout(self._plan.timeouts, timeout) if isinstance(timeout, str) else timeout

    def ends_at_once(self, timeout: Any) -> bool:
        """Whether what is stored with this timeout, which is checked, expires at once."""
        seconds = self.default_timeout if timeout is DEFAULT_TIMEOUT else self.lasting(timeout)
        check_terms(seconds, {})
        return seconds is not None and seconds <= 0

    def _set_within(
        self, key: Any, value: Any, timeout: Any, version: Any, tags: Any = None, stale: float | None = None
    ) -> None:
        """A set amid something: in a block of ``cache.load(key)``, or for a transactional alias."""
        # A removal is not overtaken.
        block = None if self._is_removal(timeout) else blocks.block_of(self, key, version)
        if self.is_transactional and self._defer({key: value}, timeout, version, tags, stale, block):
            return
        tags = tags and list(tags)
        if block is None:
            self._set(key, value, timeout, version, tags, stale)
        elif self._held(key, version) is None:
            block.set(value, timeout, tags, stale)
        # Else this transaction has changed the key: what the block computed is for own reads alone.
        self._remember({key: value}, timeout, version, tags, stale)

    def _defer(
        self,
        data: Mapping[Any, Any],
        timeout: Any,
        version: Any,
        tags: Any,
        stale: float | None,
        block: blocks.Bracket | None = None,
    ) -> bool:
        """Leaves a set to the commit of the transaction that this thread is in; False when it is in none.

        What is set in a block is then no younger than the block.
        """
        if not transactions.is_open():
            return False
        birth = None if block is None else _birth_of(block)
        kept = None if tags is None else list(tags)
        _native.check_terms(kept, stale)
        timeout = self.lasting(timeout)
        encoded = {key: _native.encode(value) for key, value in data.items()}

        def act() -> None:
            values = {key: _native.decode(data) for key, data in encoded.items()}
            if block is None:
                self._set_many(values, timeout, version, kept, stale)
                return
            for key, value in values.items():
                if birth is None:
                    self._delete(key, version)
                else:
                    self._set_born(birth, key, value, timeout, version, kept, stale)

        return transactions.write(
            self,
            act,
            lambda: self._written(encoded, timeout, version, kept, stale, None),
            lambda: self._delete_many(list(encoded), version),
        )

    def _set_born(
        self, birth: int, key: Any, value: Any, timeout: Any, version: Any, tags: Any, stale: float | None
    ) -> None:
        """A set of what was known at a logical time: if it was invalidated since, there is nothing afterwards."""
        load = self._load(key, version, birth, 0.0, True, True)
        if type(load) is not Load or not load.store(value, self.lasting(timeout), tags, stale):
            self._delete(key, version)

    def _remember(
        self, data: Mapping[Any, Any], timeout: Any, version: Any, tags: Any, stale: float | None
    ) -> None:
        """Own reads of what this transaction had invalidated see what it has set since."""
        if transactions.open_changes() <= 0:
            return

        def written() -> Written:
            encoded = {key: _native.encode(value) for key, value in data.items()}
            return self._written(encoded, timeout, version, tags, stale, time.monotonic())

        transactions.remember(self, written)

    def _written(
        self,
        encoded: Mapping[Any, bytes],
        timeout: Any,
        version: Any,
        tags: Any,
        stale: float | None,
        since: float | None,
    ) -> Written:
        is_gone, seconds, named = self._is_removal(timeout), self._seconds(timeout), frozenset(tags or ())
        return {
            self._make_full_key(key, version): None if is_gone else Own(data, named, seconds, stale, since)
            for key, data in encoded.items()
        }

    def _seconds(self, timeout: Any) -> float | None:
        seconds: float | None = self.lasting(timeout)
        return self.default_timeout if seconds is DEFAULT_TIMEOUT else seconds

    def _is_removal(self, timeout: Any) -> bool:
        """Whether what is stored for so long expires at once."""
        seconds: Any = self._seconds(timeout)
        try:
            return seconds is not None and bool(seconds <= 0)
        except TypeError:
            kind = type(seconds).__name__
            raise TypeError(f"timeout must be a number of seconds, or None for ever, not {kind}") from None

    def _held(self, key: Any, version: Any) -> Any:
        """What this transaction has made of a key: an ``Own``; False: it is not there; None: it has not changed it."""
        if transactions.open_changes() <= 0:
            return None
        return transactions.held(self, self._make_full_key(key, version))

    def _change_own(self, key: Any, version: Any, own: Own | None, act: Callable[[], Any]) -> None:
        """Has own reads see what `add`, `touch` or `incr` did to a key that this transaction had changed.

        A transactional alias does it at the commit, after what was called before; others have done it.
        """
        written = {self._make_full_key(key, version): own}
        if not self.is_transactional:
            transactions.remember(self, lambda: written)
        else:
            transactions.write(self, act, lambda: written, partial(self._delete, key, version))

    async def _answer(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs) if self._near else await away(method, *args, **kwargs)

    # One run per load

    def get_or_set(
        self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None, **terms: Any
    ) -> Any:
        """The value of a key; on a miss, what ``default`` returns, which one caller of the machine runs for all.

        ``default`` is a value or a callable. Further arguments: ``tags``, ``stale`` (seconds during which the
        old value may be served while one caller refreshes it), ``background`` (refresh stale values behind the
        caller's back), ``beta`` (eagerness of early refresh, 0 for none), ``soft_timeout`` and ``hard_timeout``
        (seconds for the loader), ``cache_none`` (False: a None is returned and not stored).
        """
        beta = 1.0
        if terms or not (timeout is DEFAULT_TIMEOUT or timeout is None or type(timeout) is int):
            check_terms(self.lasting(timeout) if type(timeout) is str else timeout, terms)
            beta = terms.get("beta", 1.0)
        found = self._load(key, version, transactions.birth(self) if transactions.open_births else None, beta)
        if type(found) is not Load:
            return found
        return drivers.run(loads.get_or_set(self, key, default, timeout, version, found, **terms))

    async def _already(self, key: Any, version: Any, beta: float) -> Any:
        """What is there and need not be loaded, or MISSING."""
        if self._later("get") is None or transactions.open_births:
            return await self.aget(key, MISSING, version)
        value = await later.call(self._load, key, version, None, beta)
        return MISSING if value is NotImplemented else value

    async def aget_or_set(
        self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None, **terms: Any
    ) -> Any:
        """Like ``get_or_set``; a coroutine function as default, or anything awaitable, is awaited on a miss."""
        try:
            check_terms(self.lasting(timeout), terms)
        except BaseException:
            loads.close(default)
            raise
        if not self._near:
            value = await self._already(key, version, terms.get("beta", 1.0))
            if value is not MISSING:
                loads.close(default)
                return value
        found = await self._answer(loads.begin, self, key, version, terms.get("beta", 1.0))
        if type(found) is not Load:
            loads.close(default)
            return found
        return await drivers.arun(loads.get_or_set(self, key, default, timeout, version, found, **terms))

    def get_many_or_set(
        self,
        keys: Iterable[Any],
        loader: Callable[[list[Any]], Mapping[Any, Any]],
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        **terms: Any,
    ) -> dict[Any, Any]:
        """The values of the keys; ``loader`` is called once, with the list of those that are missing, and returns a
        dict."""
        check_terms(self.lasting(timeout), terms)
        return drivers.run(loads.get_many_or_set(self, keys, loader, timeout, version, **terms))

    async def aget_many_or_set(
        self,
        keys: Iterable[Any],
        loader: Callable[[list[Any]], Any],
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        **terms: Any,
    ) -> dict[Any, Any]:
        """Like ``get_many_or_set``; the loader may be a coroutine function."""
        check_terms(self.lasting(timeout), terms)
        return await drivers.arun(loads.get_many_or_set(self, keys, loader, timeout, version, **terms))

    def load(self, key: Any, version: Any = None) -> Any:
        """Brackets a hand-written get and set, which then are protected as ``get_or_set`` is: ``with
        cache.load(key):``."""
        return blocks.Bracket(self, key, version)

    # Tags and patterns

    def invalidate_tags(self, *tags: str) -> None:
        """Invalidates all entries that depend on one of the tags, and loads of them under way; at constant cost."""
        self._check_tags(tags)
        transactions.invalidate(self, lambda: self._invalidate_tags(tags), tags=tags)

    def _check_tags(self, tags: tuple[str, ...]) -> None:
        """Wrong ones are told now, not at the commit."""
        for tag in tags:
            _native.check_terms((tag,), None)

    async def ainvalidate_tags(self, *tags: str) -> None:
        await self._answer(self.invalidate_tags, *tags)

    def keys(self, pattern: str = "*", version: Any = None) -> list[str]:
        """The keys that fit the pattern (``* ? [abc]``, a backslash escapes), as they were given to ``set``.

        Reads the whole LOCATION. With a KEY_FUNCTION they are the full keys.
        """
        found = self._keys(pattern, version)
        view = transactions.view_of(self)
        return found if view is None else view.keys_of(Pattern(self, pattern, version), found)

    def iter_keys(
        self, pattern: str = "*", version: Any = None, itersize: int | None = None
    ) -> Iterator[str]:
        """An iterator over ``keys``; ``itersize`` is accepted and has no effect."""
        return iter(self.keys(pattern, version))

    def delete_pattern(self, pattern: str, version: Any = None, itersize: int | None = None) -> int:
        """Removes the entries whose key fits; how many there were. Loads under way do not bring them back."""
        if not transactions.is_open():
            return self._delete_pattern(pattern, version)
        self._matches(pattern, "", version)  # a wrong pattern is told now, not at the commit
        which = Pattern(self, pattern, version)
        found = self._count(which) if self.is_transactional else 0

        def act() -> None:
            nonlocal found
            found = self._delete_pattern(pattern, version)

        transactions.invalidate(self, act, pattern=which)
        return found

    def _count(self, which: Pattern) -> int:
        """How many keys fit, as this transaction sees it."""
        view = transactions.view_of(self)
        if view is not None and view.hides_all_of(which):
            return len(view.keys_of(which, []))
        return len(self.keys(which.text, which.version))

    async def adelete_pattern(self, pattern: str, version: Any = None, itersize: int | None = None) -> int:
        return await self._answer(self.delete_pattern, pattern, version)

    # Times

    def ttl(self, key: Any, version: Any = None) -> int | None:
        """Seconds until the entry expires, rounded up: None for never, 0 when there is none."""
        left = self.pttl(key, version)
        return left if left is None else -(-left // 1000)

    async def attl(self, key: Any, version: Any = None) -> int | None:
        return await self._answer(self.ttl, key, version)

    def pttl(self, key: Any, version: Any = None) -> int | None:
        """Milliseconds until the entry expires: None for never, 0 when there is none."""
        own = self._held(key, version)
        left = self._ttl_ms(key, version) if own is None else own.left_ms() if own else 0
        return left if left is None else max(left, 0)

    async def apttl(self, key: Any, version: Any = None) -> int | None:
        return await self._answer(self.pttl, key, version)

    def expire(self, key: Any, timeout: Any, version: Any = None) -> bool:
        """Has the entry expire in so many seconds from now; whether there is one."""
        return self.touch(key, timeout, version)

    async def aexpire(self, key: Any, timeout: Any, version: Any = None) -> bool:
        return await self._answer(self.expire, key, timeout, version)

    def pexpire(self, key: Any, timeout: Any, version: Any = None) -> bool:
        """Has the entry expire in so many milliseconds from now; whether there is one.

        A name of TIMEOUTS stands for the time that it is, which is written in seconds.
        """
        is_name = isinstance(timeout, str)
        return self.touch(key, self.lasting(timeout) if is_name else milliseconds(timeout), version)

    async def apexpire(self, key: Any, timeout: Any, version: Any = None) -> bool:
        return await self._answer(self.pexpire, key, timeout, version)

    def expire_at(self, key: Any, when: datetime | float, version: Any = None) -> bool:
        """Has the entry expire at a time: a datetime, or seconds since 1970."""
        return self.touch(key, max(moment(when, "seconds") - time.time(), 0), version)

    async def aexpire_at(self, key: Any, when: datetime | float, version: Any = None) -> bool:
        return await self._answer(self.expire_at, key, when, version)

    def pexpire_at(self, key: Any, when: datetime | float, version: Any = None) -> bool:
        """The same with milliseconds since 1970."""
        return self.expire_at(
            key, when if isinstance(when, datetime) else moment(when, "milliseconds") / 1000, version
        )

    async def apexpire_at(self, key: Any, when: datetime | float, version: Any = None) -> bool:
        return await self._answer(self.pexpire_at, key, when, version)

    def persist(self, key: Any, version: Any = None) -> bool:
        """Has the entry never expire; whether there is one that would have."""
        return bool(self.pttl(key, version)) and self.touch(key, None, version)

    async def apersist(self, key: Any, version: Any = None) -> bool:
        return await self._answer(self.persist, key, version)

    # Names from settings

    def key(self, name: str, /, **fields: Any) -> str:
        """The key that a template in ``OPTIONS["KEYS"]`` makes of the fields."""
        return names.key(self._plan.keys, name, fields)

    # Locks and rate limits

    def lock(self, name: Any, version: Any = None, timeout: float | str | None = None, **terms: Any) -> Lock:
        """A lock that all processes of the LOCATION share: a context manager, sync and async.

        ``timeout``: seconds after which it is lost, or a name; None: when it is released, or its process ends.
        ``blocking_timeout``: seconds to wait for it at most. ``thread_local``: whether it is the thread's or the
        task's that acquired it (the default), or is shared by those that have the object.
        """
        return Lock(self, name, version=version, timeout=timeout, **terms)

    def rate_limit(self, key: Any, limit: int, period: float | str, version: Any = None) -> RateLimit:
        """Uses a limit of so many uses in each period (seconds, or a name) once; true while it is kept. Exact across
        processes."""
        return RateLimit(*self._rate(key, whole("limit", limit), period_of(self.lasting(period)), version))

    async def arate_limit(self, key: Any, limit: int, period: float | str, version: Any = None) -> RateLimit:
        return await self._answer(self.rate_limit, key, limit, period, version)


def _birth_of(block: blocks.Bracket) -> int | None:
    """The logical time of a block; None when its key was one that the transaction had removed, which nobody loads for
    others."""
    load = block._load
    if load is None:
        return block._birth
    return load.birth if load.is_owner or load.is_busy or load.birth else None


def warn_about_globs(cache: Any, keys: list[Any], version: Any) -> None:
    """``delete_many`` takes keys as they are: says so, once, to whoever means patterns."""
    global _warned_about_globs
    if _warned_about_globs:
        return
    for key in keys:
        if (
            isinstance(key, str)
            and ("*" in key or "?" in key or "[" in key)
            and not cache.has_key(key, version)
        ):
            _warned_about_globs = True
            warnings.warn(
                f"delete_many() takes keys as they are, and there is no key {key!r}: use delete_pattern(), or set "
                "OPTIONS['DELETE_MANY_PATTERNS'] to True.",
                stacklevel=3,
            )
            return


__all__ = ["Load", "Silent", "Verbs"]
