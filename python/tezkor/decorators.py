"""``@cached(300)``: what a function, method, property or coroutine returns, kept under a key made of its call.

Nothing is looked up when the decorator is applied: settings are read at the first call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial, update_wrapper
from threading import Lock
from typing import Any, NamedTuple

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from tezkor import loads, names
from tezkor.aliases import caches
from tezkor.signatures import Signature, shortened


class CacheInfo(NamedTuple):
    """What calls in this process came to."""

    hits: int
    misses: int
    loads: int


def cached(
    timeout: Any = DEFAULT_TIMEOUT,
    key: str | Callable[..., str] | None = None,
    tags: Iterable[str] | Callable[..., Iterable[str]] | None = None,
    stale: float | None = None,
    *,
    cache: str = "default",
    version: Any = None,
    background: bool = False,
    beta: float = 1.0,
    soft_timeout: float | None = None,
    hard_timeout: float | None = None,
    cache_none: bool = True,
) -> Callable[[Any], Any]:
    """Keeps what a function returns; one run for all who call it at the same time, on the whole machine.

    ``timeout``: seconds, None for ever, or a name of OPTIONS["TIMEOUTS"]. ``key``: a name of OPTIONS["KEYS"], a
    template with the names of arguments (``"price:{product.pk}"``), or a callable that gets the arguments;
    without it the key is made of the function's name and all arguments. ``tags``: names, which may have fields
    of arguments too, or a callable. The other arguments are those of ``get_or_set``; ``cache`` is the alias.

    The function gets ``invalidate(*args)``, ``refresh(*args)``, ``key(*args)``, ``cache_info()``, and the async twins
    ``ainvalidate`` and ``arefresh``.

        @cached(300, tags=["product:{product.pk}"])
        def price(product, currency="usd"): ...

        price(product)             # loads once
        price.invalidate(product)  # loads again at the next call
    """
    if callable(timeout):
        raise TypeError("cached takes arguments: write @cached(300), or @cached() for the alias's TIMEOUT")
    if isinstance(tags, str):
        raise TypeError(f"tags must be a list of texts, not one text: write [{tags!r}]")
    terms = {
        "stale": stale,
        "background": background,
        "beta": beta,
        "soft_timeout": soft_timeout,
        "hard_timeout": hard_timeout,
        "cache_none": cache_none,
    }
    plan = Plan(timeout, key, tags, cache, version, terms)

    def decorate(function: Any) -> Any:
        if isinstance(function, property):
            if function.fget is None:
                raise TypeError("cached takes a property that can be read")
            return property(Cached(function.fget, plan), function.fset, function.fdel, function.__doc__)
        if isinstance(function, (classmethod, staticmethod)):
            return type(function)(Cached(function.__func__, plan))
        if not callable(function):
            raise TypeError(f"cached takes a function, method or property, not {type(function).__name__}")
        return Cached(function, plan)

    return decorate


class Plan(NamedTuple):
    """The arguments of the decorator."""

    timeout: Any
    key: Any
    tags: Any
    alias: str
    version: Any
    terms: dict[str, Any]


class Cached:
    """A function whose results are cached; bound to an instance it is a method."""

    def __init__(self, function: Callable[..., Any], plan: Plan) -> None:
        update_wrapper(self, function)
        self._function = function
        self._plan = plan
        self._signature = Signature(function)
        self._is_async = inspect.iscoroutinefunction(function)
        if self._is_async:
            inspect_mark(self)
        self._template = None
        if isinstance(plan.key, str) and "{" in plan.key:
            self._template = self._checked(plan.key)
        self._tags = None
        if plan.tags is not None and not callable(plan.tags):
            self._tags = [self._checked(tag) if "{" in tag else tag for tag in plan.tags]
        self._counts = [0, 0, 0]
        self._lock = Lock()

    def _checked(self, source: str) -> names.Template:
        """A template whose fields are arguments of the function."""
        template = names.Template(source)
        unknown = template.fields - self._signature.signature.parameters.keys()
        if unknown:
            raise ValueError(
                f"{self._signature.name}() has no argument {sorted(unknown)[0]!r}, which {source!r} names; "
                f"there are {', '.join(self._signature.signature.parameters) or 'none'}"
            )
        return template

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._is_async:
            return self._acall(args, kwargs)
        cache, key = caches[self._plan.alias], self.key(*args, **kwargs)
        ran = [False]
        value = cache.get_or_set(
            key,
            self._loader(ran, args, kwargs),
            self._plan.timeout,
            self._plan.version,
            tags=self._tags_of(args, kwargs),
            **self._plan.terms,
        )
        self._count(ran)
        return value

    async def _acall(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        cache, key = caches[self._plan.alias], self.key(*args, **kwargs)
        ran = [False]
        value = await cache.aget_or_set(
            key,
            self._loader(ran, args, kwargs),
            self._plan.timeout,
            self._plan.version,
            tags=self._tags_of(args, kwargs),
            **self._plan.terms,
        )
        self._count(ran)
        return value

    def _loader(self, ran: list[bool], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
        def loader() -> Any:
            ran[0] = True
            return self._function(*args, **kwargs)

        loader.__qualname__ = self._signature.name
        return loader

    def _count(self, ran: list[bool]) -> None:
        with self._lock:
            self._counts[1 if ran[0] else 0] += 1
            self._counts[2] += ran[0]

    def key(self, *args: Any, **kwargs: Any) -> str:
        """The key of a call."""
        plan = self._plan
        if self._template is not None:
            return shortened(self._template.format(self._signature.bind(args, kwargs)))
        if callable(plan.key):
            made = plan.key(*args, **kwargs)
            if not isinstance(made, str) or not made:
                raise TypeError(f"key= of {self._signature.name}() returned {made!r}: it must return a text")
            return made
        if plan.key is not None:
            fields = self._signature.bind(args, kwargs)
            template = names.find(caches[plan.alias]._plan.keys, plan.key)
            return shortened(
                names.key(
                    {plan.key: template},
                    plan.key,
                    {name: fields[name] for name in template.fields & fields.keys()},
                )
            )
        return self._signature.text(args, kwargs)

    def _tags_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str] | None:
        if callable(self._plan.tags):
            return list(self._plan.tags(*args, **kwargs))
        if not self._tags:
            return None
        bound = self._signature.bind(args, kwargs)
        return [tag if isinstance(tag, str) else tag.format(bound) for tag in self._tags]

    def invalidate(self, *args: Any, **kwargs: Any) -> bool:
        """Forgets what a call returned, and overtakes loads of it under way; whether there was something."""
        forgotten: bool = caches[self._plan.alias].delete(self.key(*args, **kwargs), self._plan.version)
        return forgotten

    async def ainvalidate(self, *args: Any, **kwargs: Any) -> bool:
        forgotten: bool = await caches[self._plan.alias].adelete(
            self.key(*args, **kwargs), self._plan.version
        )
        return forgotten

    def refresh(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function now, stores what it returns unless that is overtaken, and returns it."""
        return loads.run(self._refreshing(args, kwargs))

    async def arefresh(self, *args: Any, **kwargs: Any) -> Any:
        return await loads.arun(self._refreshing(args, kwargs))

    def _refreshing(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        cache = caches[self._plan.alias]
        terms = {
            name: value for name, value in self._plan.terms.items() if name not in ("beta", "background")
        }
        loader = partial(self._function, *args, **kwargs)
        tags = self._tags_of(args, kwargs)
        if not hasattr(cache, "_load"):  # nothing is kept
            return loads.only(loader)
        return loads.refresh(
            cache,
            self.key(*args, **kwargs),
            loader,
            self._plan.timeout,
            self._plan.version,
            tags=tags,
            **terms,
        )

    def cache_info(self) -> CacheInfo:
        """Calls that were answered from the cache, those that were not, and runs of the function; in this process."""
        with self._lock:
            return CacheInfo(*self._counts)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else Bound(self, instance)

    def __repr__(self) -> str:
        return f"<cached {self._signature.name}>"


class Bound:
    """A cached method of an instance (or class)."""

    def __init__(self, cached: Cached, instance: Any) -> None:
        self.__wrapped__ = cached._function.__get__(instance)
        self.__self__ = instance
        self.__func__ = cached
        self.__name__ = cached._function.__name__
        self.__doc__ = cached._function.__doc__
        self._cached = cached
        if cached._is_async:
            inspect_mark(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._cached(self.__self__, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in ("key", "invalidate", "ainvalidate", "refresh", "arefresh"):
            return partial(getattr(self._cached, name), self.__self__)
        return getattr(self._cached, name)

    def __repr__(self) -> str:
        return f"<bound {self._cached!r} of {self.__self__!r}>"


def inspect_mark(function: Any) -> None:
    """Has ``asyncio`` and ``inspect`` take an object for a coroutine function, as Django's middleware and views
    ask."""
    import asyncio

    if hasattr(inspect, "markcoroutinefunction"):
        inspect.markcoroutinefunction(function)
    else:
        function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]


__all__ = ["CacheInfo", "cached"]
