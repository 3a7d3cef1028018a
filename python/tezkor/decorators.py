"""``@tezkor.cached(60)``: a function whose results are cached, under a key made of its name and arguments.

    price_of(product, currency="EUR")   ->  shop.prices.price_of(product=shop.Product#7,currency=EUR)

How arguments become a key is in `tezkor.calls`, what stands for a value in `tezkor.names`.
"""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar, cast, overload

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT

from tezkor import names
from tezkor.calls import Calls, Key, check_name
from tezkor.keyed import Keyed, KeyedProperty, decorate
from tezkor.terms import check_terms

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
F = TypeVar("F", bound="Keyed[..., Any]")

Tags = Iterable[str] | Callable[..., Iterable[str]] | None


class CacheInfo(NamedTuple):
    """What a decorated function did in this process. A call is a hit unless it ran the function."""

    hits: int
    misses: int
    loads: int


class Cached(Keyed[P, R_co]):
    """A function whose results are cached."""

    takes_arguments = frozenset({"key", "invalidate", "refresh", "ainvalidate", "arefresh"})

    def __init__(
        self,
        function: Callable[P, R_co],
        key: Key,
        cache: Any,
        timeout: Any,
        version: Any,
        tags: Tags,
        terms: Any,
    ) -> None:
        if key is None:
            check_name(function)
        super().__init__(function, key)
        self._alias = cache
        self._cache: Any = None
        self._timeout = timeout
        self._version = version
        self._tags = _tags_of(self._calls, tags)
        self._terms: dict[str, Any] = terms
        self._forget()
        _decorated.add(self)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        cache = self._cache or self._open()
        key = self._calls.key(args, kwargs, self._templates)
        self._asked += 1
        run = Run(self, args, kwargs)
        get_or_set, load = (cache.aget_or_set, run.aload) if self.is_async else (cache.get_or_set, run.load)
        made = get_or_set(key, load, self._seconds(), self._version, **run.terms())
        return cast("R_co", made)

    def invalidate(self, /, *args: Any, **kwargs: Any) -> bool:
        """Removes the result of these arguments; loads of it under way do not bring it back."""
        return bool((self._cache or self._open()).delete(self.key(*args, **kwargs), self._version))

    async def ainvalidate(self, /, *args: Any, **kwargs: Any) -> bool:
        return bool(await (self._cache or self._open()).adelete(self.key(*args, **kwargs), self._version))

    def refresh(self, /, *args: Any, **kwargs: Any) -> Any:
        """Runs the function now and caches what it returns; until then, the old result is served.

        It is protected as any load: what is invalidated meanwhile is not covered up.
        """
        if self.is_async:
            raise TypeError(f"{self.__qualname__} is a coroutine function: await arefresh()")
        from tezkor import drivers

        run = Run(self, args, kwargs)
        return run.checked(drivers.run(self._refreshing(run, run.load)))

    async def arefresh(self, /, *args: Any, **kwargs: Any) -> Any:
        """Like ``refresh``; a function that is no coroutine function runs in a thread."""
        from tezkor import drivers

        run = Run(self, args, kwargs)
        return run.checked(await drivers.arun(self._refreshing(run, run.aload)))

    def _refreshing(self, run: Run, load: Callable[[], Any]) -> Any:
        from tezkor import loads

        cache = self._cache or self._open()
        key = self._calls.key(run.args, run.kwargs, self._templates)
        if hasattr(cache, "_load"):
            terms = {
                name: part for name, part in run.terms().items() if name in ("tags", "stale", "cache_none")
            }
            return loads.refresh(cache, key, load, self._seconds(), self._version, **terms)
        return self._refreshing_foreign(cache, key, load)

    def _refreshing_foreign(self, cache: Any, key: str, load: Callable[[], Any]) -> Any:
        """The caches of others protect nothing."""
        from tezkor import drivers, loads

        value = yield drivers.Call(load, ())
        if value is loads.skip or (value is None and not self._terms.get("cache_none", True)):
            return None
        verb = cache.aset if iscoroutinefunction(load) else cache.set
        yield drivers.Call(verb, (key, value, self._seconds(), self._version))
        return value

    def cache_info(self) -> CacheInfo:
        """Hits, misses and runs of the function in this process; a call under way counts as a hit until it runs."""
        return CacheInfo(max(self._asked - self._missed, 0), self._missed, self._loaded)

    def _forget(self) -> None:
        self._asked = self._missed = self._loaded = 0

    def _open(self) -> Any:
        """The cache, at the first use: an alias may be defined later than a function that names it."""
        if isinstance(self._alias, str):
            from tezkor.aliases import caches

            self._cache = caches[self._alias]
        else:
            self._cache = self._alias
        return self._cache

    def _seconds(self) -> Any:
        if not isinstance(self._timeout, str):
            return self._timeout
        return names.timeout(self._names()[0], self._timeout)

    def _templates(self) -> Mapping[str, names.Template]:
        return self._names()[1]

    def _names(self) -> tuple[Mapping[str, Any], Mapping[str, names.Template]]:
        """TIMEOUTS and KEYS; those of an alias that is no Tezkor cache (a DummyCache in development) count too."""
        plan = getattr(self._cache or self._open(), "_plan", None)
        if plan is not None:
            return plan.timeouts, plan.keys
        from django.conf import settings

        options = settings.CACHES.get(self._alias, {}) if isinstance(self._alias, str) else {}
        options = options.get("OPTIONS") or {}
        keys = options.get("KEYS", {}).items()
        return options.get("TIMEOUTS", {}), {name: _template(source) for name, source in keys}


_template = functools.lru_cache(names.Template)


class Run:
    """One call of a cached function: what its load does, and what came of it."""

    __slots__ = ("_named", "args", "cached", "error", "kwargs")

    def __init__(self, cached: Cached[..., Any], args: Any, kwargs: Any) -> None:
        self.cached = cached
        self.args = args
        self.kwargs = kwargs
        self.error: Exception | None = None
        self._named: list[str] | None = None

    def terms(self) -> dict[str, Any]:
        """What the load is run and stored with. The tags are made when they are asked for, which no hit does."""
        tags = self.cached._tags
        return {**self.cached._terms, "tags": self} if tags is not None else self.cached._terms

    def __iter__(self) -> Iterator[str]:
        if self._named is None:
            assert self.cached._tags is not None
            self._named = self.cached._tags(self.args, self.kwargs)
        return iter(self._named)

    def load(self) -> Any:
        self._count()
        try:
            return self.cached.__wrapped__(*self.args, **self.kwargs)
        except Exception as error:
            self.error = error
            raise

    async def aload(self) -> Any:
        self._count()
        function = self.cached.__wrapped__
        if not self.cached.is_async:
            function = sync_to_async(function)
        try:
            return await function(*self.args, **self.kwargs)
        except Exception as error:
            self.error = error
            raise

    def _count(self) -> None:
        self.cached._loaded += 1
        self.cached._missed += 1

    def checked(self, value: Any) -> Any:
        """What a refresh returns: a load that failed would hand out the old value. It was nobody's miss."""
        self.cached._missed -= 1
        if self.error is not None:
            raise self.error
        return value


def _tags_of(calls: Calls, tags: Tags) -> Callable[[Any, Any], list[str]] | None:
    """The tags of a call. Their fields are written as ``str.format`` does, to be the tags that others write by hand."""
    if tags is None:
        return None
    if isinstance(tags, (str, bytes)):
        raise TypeError(f"tags is {tags!r}: write a list of texts, such as ['product:{{product.pk}}']")
    if callable(tags):
        make = tags

        def called(args: Any, kwargs: Any) -> list[str]:
            made = make(*args, **kwargs)
            if isinstance(made, (str, bytes)):
                raise TypeError(f"tags of {calls.title} returned {made!r}, not a list")
            return list(made)

        return called
    sources = list(tags)
    for source in sources:
        _check_tag(calls, source)
    if not any("{" in source or "}" in source for source in sources):
        return lambda args, kwargs: sources
    return lambda args, kwargs: _formatted(sources, calls.arguments(args, kwargs))


def _formatted(sources: list[str], arguments: Mapping[str, Any]) -> list[str]:
    return [source.format_map(arguments) for source in sources]


def _check_tag(calls: Calls, source: Any) -> None:
    if not isinstance(source, str):
        raise TypeError(f"tags of {calls.title} hold {source!r}, which is no text")
    fields = [path for _, path, _, _ in names.FORMATTER.parse(source) if path is not None]
    if any(not path or path[0].isdigit() for path in fields):
        raise ValueError(f"tag {source!r} of {calls.title}: name its fields, such as '{{pk}}'")
    calls.check_fields(map(names.root, fields), f"tag {source!r}")


_decorated: weakref.WeakSet[Cached[..., Any]] = weakref.WeakSet()


def _after_fork() -> None:
    """What the parent counted is not the child's."""
    for cached in _decorated:
        cached._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Decorator(Protocol):
    """What ``cached(...)`` returns."""

    @overload
    def __call__(self, target: property, /) -> KeyedProperty: ...
    @overload
    def __call__(self, target: Callable[P, R], /) -> Cached[P, R]: ...
    @overload
    def __call__(self, target: Any, /) -> Cached[..., Any]: ...


@overload
def cached(timeout: property, /) -> KeyedProperty: ...
@overload
def cached(timeout: Callable[P, R], /) -> Cached[P, R]: ...
@overload
def cached(
    timeout: float | str | None = ...,
    key: Key = ...,
    tags: Tags = ...,
    stale: float | None = ...,
    cache: Any = ...,
    version: Any = ...,
    background: bool = ...,
    beta: float = ...,
    soft_timeout: float | None = ...,
    hard_timeout: float | None = ...,
    cache_none: bool = ...,
) -> Decorator: ...
def cached(
    timeout: Any = DEFAULT_TIMEOUT,
    key: Key = None,
    tags: Tags = None,
    stale: float | None = None,
    cache: Any = "default",
    version: Any = None,
    background: bool = False,
    beta: float = 1.0,
    soft_timeout: float | None = None,
    hard_timeout: float | None = None,
    cache_none: bool = True,
) -> Any:
    """Caches what a function returns. For functions, methods, properties, and coroutine functions.

    ``timeout``: seconds, None for ever, or a name of ``OPTIONS["TIMEOUTS"]``. ``key``: a name of ``OPTIONS["KEYS"]``, a
    text with arguments as fields (``"price:{product.pk}"``) or a function of the arguments. ``tags``: texts with
    fields, or a function of the arguments. ``cache``: an alias. The others are those of ``get_or_set``.

    The function gets ``invalidate``, ``refresh``, ``key`` (all with its arguments), ``cache_info``, ``ainvalidate`` and
    ``arefresh``.
    """
    given = {
        "stale": (stale, None),
        "background": (background, False),
        "beta": (beta, 1.0),
        "soft_timeout": (soft_timeout, None),
        "hard_timeout": (hard_timeout, None),
        "cache_none": (cache_none, True),
    }
    # The caches of others take none of these.
    terms = {name: value for name, (value, usual) in given.items() if value != usual}

    def make(function: Callable[P, R]) -> Cached[P, R]:
        return Cached(function, key, cache, seconds, version, tags, terms)

    seconds = timeout
    if callable(timeout) or isinstance(timeout, (property, classmethod, staticmethod)):  # without parentheses
        seconds = DEFAULT_TIMEOUT
        return decorate(timeout, make)
    check_terms(DEFAULT_TIMEOUT if isinstance(seconds, str) else seconds, terms)
    return lambda target: decorate(target, make)
