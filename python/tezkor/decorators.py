"""``@tezkor.cached(60)``: a function whose results are cached, under a key made of its name and arguments.

    price_of(product, currency="EUR")   ->  shop.prices.price_of(product=shop.Product#7,currency=EUR)

The arguments are bound as the function itself would bind them, so that defaults and the order of keywords are of no
account. What stands for a value is in `tezkor.names`; an argument that nothing stands for is an error of the call.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, Protocol, TypeVar, cast, overload

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT

from tezkor import names

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
F = TypeVar("F", bound="Keyed[..., Any]")

# Django warns of full keys beyond 250 characters; prefix and version are part of them.
LONGEST_KEY = 200
DIGEST_BYTES = 16

Key = str | Callable[..., str] | None
Tags = Iterable[str] | Callable[..., Iterable[str]] | None


class CacheInfo(NamedTuple):
    """What a decorated function did in this process. A call is a hit unless it ran the function."""

    hits: int
    misses: int
    loads: int


class Calls:
    """The calls of one function: their arguments by name, and the key of each."""

    def __init__(self, function: Callable[..., Any], key: Key) -> None:
        self.function = function
        self.name = f"{function.__module__}.{function.__qualname__}"
        signature = inspect.signature(function)
        self.names = tuple(signature.parameters)
        self.title = f"{function.__qualname__}{signature}"
        self._labels = tuple(f"{name}=" for name in self.names)
        self._bind = _binder(function, signature)
        self._key = key
        self._template = self.template(key, "key") if isinstance(key, str) and "{" in key else None
        self.is_automatic = key is None
        if key is not None and not (isinstance(key, str) and key) and not callable(key):
            raise TypeError(f"key is {key!r}: write a text, or a function of the arguments that returns one")

    def template(self, source: str, what: str) -> names.Template:
        try:
            made = names.Template(source)
        except ValueError as error:
            raise ValueError(f"{what} {source!r} of {self.title}: {error}") from None
        self.check_fields(made.fields, f"{what} {source!r}")
        return made

    def check_fields(self, fields: Iterable[str], what: str) -> None:
        unknown = sorted(set(fields).difference(self.names))
        if unknown:
            raise ValueError(f"{what} names {', '.join(unknown)}, which {self.title} does not take")

    def arguments(self, args: Any, kwargs: Any) -> dict[str, Any]:
        return dict(zip(self.names, self._bind(*args, **kwargs), strict=True))

    def key(self, args: Any, kwargs: Any, templates: Callable[[], Mapping[str, names.Template]]) -> str:
        if self._key is None:
            return shortened(self.text(args, kwargs))
        if not isinstance(self._key, str):
            made = self._key(*args, **kwargs)
            if not isinstance(made, str):
                raise TypeError(f"key of {self.title} returned {made!r}, not a text")
            return made
        template = self._template
        if template is None:
            if not self.names and self._key not in templates():
                return self._key  # nothing to tell apart
            template = names.find(templates(), self._key)
            self.check_fields(template.fields, f"key {self._key!r}, which is {template.source!r},")
        arguments = self.arguments(args, kwargs)
        try:
            return template.format(arguments)
        except TypeError as error:
            raise TypeError(f"{self.title}: {error}. Name an attribute in key, such as '{{x.pk}}'.") from None

    def text(self, args: Any, kwargs: Any) -> str:
        """The name of the function and its arguments, of any length."""
        values = self._bind(*args, **kwargs)
        try:
            parts = [label + names.text(value) for label, value in zip(self._labels, values, strict=True)]
        except (TypeError, RecursionError):
            raise self._wrong(values) from None
        return f"{self.name}({','.join(parts)})"

    def _wrong(self, values: Iterable[Any]) -> TypeError:
        for name, value in zip(self.names, values, strict=True):
            try:
                names.text(value)
            except TypeError as error:
                why = str(error)
            except RecursionError:
                why = "it contains itself, or is too deep"
            else:
                continue
            return TypeError(
                f"{self.title}: the argument {name} cannot be part of a key: {why}. Pass key=..., a function of the "
                "arguments or a text with fields such as 'price:{product.pk}'."
            )
        return TypeError(f"{self.title}: the arguments cannot be part of a key; pass key=...")


def shortened(text: str) -> str:
    """A text that is too long for a key: its beginning, and a digest of the whole."""
    if len(text) <= LONGEST_KEY:
        return text
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).hexdigest()
    return f"{text[: LONGEST_KEY - 2 * DIGEST_BYTES - 1]}~{digest}"


def _binder(function: Callable[..., Any], signature: inspect.Signature) -> Callable[..., tuple[Any, ...]]:
    """A function with the same parameters that returns its arguments: Python binds far faster than ``bind``."""
    parameters = signature.parameters.values()
    bare = [part.replace(annotation=part.empty, default=part.empty) for part in parameters]
    source = ",".join(f"{part.name}" for part in bare)
    plain = [part for part in parameters if part.kind in (part.POSITIONAL_ONLY, part.POSITIONAL_OR_KEYWORD)]
    signature = inspect.Signature(bare)
    made: Any = eval(f"lambda {str(signature)[1:-1]}: ({source}{',' if source else ''})", {})
    made.__name__, made.__qualname__ = function.__name__, function.__qualname__
    made.__defaults__ = tuple(part.default for part in plain if part.default is not part.empty)
    made.__kwdefaults__ = {
        part.name: part.default
        for part in parameters
        if part.kind is part.KEYWORD_ONLY and part.default is not part.empty
    }
    return cast("Callable[..., tuple[Any, ...]]", made)


def _check_name(function: Callable[..., Any]) -> None:
    """Functions that share a name would share their results."""
    name = function.__qualname__
    inner = getattr(inspect.unwrap(function), "__code__", None)
    free = set(getattr(inner, "co_freevars", ())) - {"__class__"}
    if "<lambda>" in name:
        raise TypeError("a lambda has no name of its own: pass key=..., or use def")
    if "<locals>" in name and free:
        raise TypeError(
            f"{name} uses {', '.join(sorted(free))} of the function around it, so that its name may mean several: "
            "pass key=..., or make it an argument"
        )


async def _coroutine(*args: Any, **kwargs: Any) -> None: ...


def mark_coroutine_function(target: Any) -> None:
    """Has ``inspect`` and ``asyncio`` take an object for a coroutine function, which Django's handlers ask for.

    Pythons that cannot be told take whatever has the attributes of a function for one, and look at its flags.
    """
    if hasattr(inspect, "markcoroutinefunction"):
        inspect.markcoroutinefunction(target)
        return
    target.__code__ = _coroutine.__code__
    target.__defaults__ = target.__kwdefaults__ = None
    for name, value in (("__name__", type(target).__name__), ("__annotations__", {})):
        if not hasattr(target, name):
            setattr(target, name, value)


class Keyed(Generic[P, R_co]):
    """A function whose calls have keys. It looks like the function; as a method it is bound like one."""

    # What takes the arguments of the function, and so the instance of a bound method.
    takes_arguments: frozenset[str] = frozenset({"key"})
    __wrapped__: Callable[..., Any]
    __name__: str
    __qualname__: str

    def __init__(self, function: Callable[P, R_co], key: Key) -> None:
        functools.update_wrapper(cast("Any", self), function)
        self._kind: type = types.FunctionType
        self._calls = Calls(function, key)
        self.is_async = iscoroutinefunction(function)
        if self.is_async:
            self.__annotations__ = getattr(function, "__annotations__", {})
            mark_coroutine_function(self)

    def key(self, /, *args: Any, **kwargs: Any) -> str:
        """The key of a call with these arguments."""
        return self._calls.key(args, kwargs, self._templates)

    def _templates(self) -> Mapping[str, names.Template]:
        return {}

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        raise NotImplementedError

    @overload
    def __get__(self: F, instance: None, owner: Any = None) -> F: ...
    @overload
    def __get__(self: Keyed[Concatenate[Any, Q], R], instance: object, owner: Any = None) -> Bound[Q, R]: ...
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if self._kind is staticmethod:
            return self
        if self._kind is classmethod:
            return Bound(self, owner if owner is not None else type(instance))
        return self if instance is None else Bound(self, instance)

    def __reduce__(self) -> str:
        return self.__qualname__

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lower()} {self._calls.name}>"


class Bound(Generic[P, R_co]):
    """A decorated function as a method of an instance or a class: the same verbs, without the first argument."""

    __slots__ = ("__func__", "__self__", "__weakref__")

    def __init__(self, function: Keyed[..., R_co], instance: Any) -> None:
        self.__func__ = function
        self.__self__ = instance

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        return self.__func__(self.__self__, *args, **kwargs)

    @property
    def __wrapped__(self) -> Any:
        return types.MethodType(self.__func__.__wrapped__, self.__self__)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.__func__, name)
        return functools.partial(found, self.__self__) if name in self.__func__.takes_arguments else found

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bound):
            return NotImplemented
        return self.__func__ is other.__func__ and self.__self__ is other.__self__

    def __hash__(self) -> int:
        return hash((id(self.__func__), id(self.__self__)))

    def __repr__(self) -> str:
        return f"<{self.__func__!r} of {self.__self__!r}>"


class KeyedProperty(property):
    """A property that is computed by a decorated function: ``Product.price.invalidate(product)``."""

    def __init__(self, fget: Any = None, fset: Any = None, fdel: Any = None, doc: str | None = None) -> None:
        super().__init__(fget, fset, fdel, doc)
        self.__doc__ = doc if doc is not None else getattr(fget, "__doc__", None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.fget, name)


def decorate(target: Any, make: Callable[[Any], Keyed[..., Any]]) -> Any:
    """Decorates a function, or the one inside of a property, a classmethod or a staticmethod."""
    if isinstance(target, property):
        return KeyedProperty(decorate(target.fget, make), target.fset, target.fdel, target.__doc__)
    if isinstance(target, (classmethod, staticmethod)):
        made = decorate(target.__func__, make)
        made._kind = type(target)
        return made
    if hasattr(target, "__set_name__") and not callable(target):
        raise TypeError(
            f"a {type(target).__name__} keeps its value by itself: decorate a property or a method"
        )
    if not callable(target) or isinstance(target, type) or not hasattr(target, "__qualname__"):
        raise TypeError(f"{target!r} is no function with a name: decorate functions, methods and properties")
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise TypeError(f"{target.__qualname__} is a generator, which can be read only once: return a list")
    return make(target)


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
            _check_name(function)
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
    return lambda target: decorate(target, make)
