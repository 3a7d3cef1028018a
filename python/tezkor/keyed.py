"""Functions whose calls have keys, and the same as methods and properties. They look like what they wrap.

What is done with a key is another's: ``decorators`` caches under it, ``memo`` remembers within a request.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from asgiref.sync import iscoroutinefunction

from tezkor import names
from tezkor.calls import Calls, Key

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
F = TypeVar("F", bound="Keyed[..., Any]")


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
