"""A call as a text: the same for equal calls, another for different ones, whatever the order of keywords.

It never uses a repr: what has no stable identity is a TypeError, at the call, that says what to do.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from typing import Any

from tezkor import names

# Keys stay well below the 250 letters that Django warns of, prefix and version included.
LONGEST_TEXT = 180


class Signature:
    """How calls of one function are written."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.signature = inspect.signature(function)
        self.name = f"{function.__module__}.{function.__qualname__}".replace(".<locals>.", ".")

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name, defaults included."""
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)

    def text(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """``shop.views.price(product=shop.Product#7,currency=usd)``; a long one ends in a digest."""
        parts = []
        for name, value in self.bind(args, kwargs).items():
            try:
                parts.append(f"{name}={names.text(value)}")
            except TypeError as error:
                raise TypeError(
                    f"{self.name}(): the argument {name!r} cannot be part of a key: {error}; "
                    "pass key= to the decorator"
                ) from None
        return shortened(f"{self.name}({','.join(parts)})")


def shortened(text: str) -> str:
    """A key that is not too long, without spaces: its beginning and a digest stand for the rest."""
    if len(text) <= LONGEST_TEXT and text.isascii() and " " not in text and text.isprintable():
        return text
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    head = "".join(
        letter if letter.isascii() and letter.isprintable() and letter != " " else "_" for letter in text
    )
    return f"{head[: LONGEST_TEXT - 40]}#{digest}"
