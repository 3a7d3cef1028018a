"""The calls of a function: their arguments by name, and a key for each.

The arguments are bound as the function itself would bind them, so that defaults and the order of keywords are of no
account. Two calls with different arguments never have one key: what nothing stands for is an error of the call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from tezkor import names

Key = str | Callable[..., str] | None


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
            return names.shortened(self.text(args, kwargs))
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


def check_name(function: Callable[..., Any]) -> None:
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
