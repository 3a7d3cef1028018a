"""Terms: how a load is run and stored, and what else callers give in numbers. A wrong one is told, with the fix.

Names of ``OPTIONS["TIMEOUTS"]`` are read elsewhere (``names``); nothing here knows a cache.
"""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, cast

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from tezkor import _native


class Terms(NamedTuple):
    """How a load is run and stored."""

    timeout: Any = DEFAULT_TIMEOUT
    tags: Iterable[str] | None = None
    stale: float | None = None
    background: bool = False
    soft_timeout: float | None = None
    hard_timeout: float | None = None
    cache_none: bool = True


@dataclass(slots=True)
class Adaptive:
    """What a loader that takes an argument is given: it may decide how long what it returns lives."""

    timeout: Any
    tags: list[str]
    stale: float | None


def check_terms(timeout: Any, terms: dict[str, Any]) -> None:
    """Checks what a load is given, a timeout that is no name among it. Reads no tags that could be read only once."""
    if timeout is not DEFAULT_TIMEOUT and timeout is not None and type(timeout) is not int:
        _native.check_timeout(timeout)
    if _native.are_plain_terms(terms):
        return
    for name, given in terms.items():
        known = CHECKS.get(name)
        if known is not None:
            known(given)
        elif name not in CHECKS:
            raise TypeError(_unknown(name))


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, CHECKS, 1, 0.5)
    meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(CHECKS)}"
    return f"there is no argument {name!r}; {meant}"


# 31 years: what waits takes no more than 292.
LARGEST = 1e9
# What is made anew for each call, and made when it is needed, is not read by a check.
KEPT = {list, tuple, set, frozenset, str, bytes}


def _tags(given: Any) -> None:
    if given is not None and (type(given) in KEPT or not hasattr(type(given), "__iter__")):
        _native.check_terms(given, None)


def listed(tags: Any) -> Any:
    """Tags that can be read more than once."""
    if tags is None or type(tags) is list:
        return tags
    if isinstance(tags, (str, bytes)) or not hasattr(tags, "__iter__"):
        _native.check_terms(cast("Any", tags), None)  # it says what they are instead of a list
    return list(tags)


def _stale(given: Any) -> None:
    _native.check_terms(None, given)


def limit(name: str) -> Callable[[Any], None]:
    """A check of seconds that may be None."""

    def check_limit(given: Any) -> None:
        if given is not None:
            number(name, given, "write a number of seconds, or None for no limit")

    return check_limit


def number(name: str, given: Any, fix: str) -> float:
    """A number that is not below 0, nor without an end."""
    if isinstance(given, (int, float)) and 0 <= given <= LARGEST:
        return given
    raise ValueError(f"{name} is {given!r}: {fix}")


CHECKS: dict[str, Callable[[Any], Any] | None] = {
    "tags": _tags,
    "stale": _stale,
    "background": None,
    "beta": lambda given: number(
        "beta", given, "write 1 for the usual eagerness of early refresh, 0 for none"
    ),
    "soft_timeout": limit("soft_timeout"),
    "hard_timeout": limit("hard_timeout"),
    "cache_none": None,
}


def whole(name: str, given: Any) -> int:
    """A whole number above 0, of which the largest is told where it is used."""
    fix = f"{name} is {given!r}: write a whole number, 1 or more"
    try:
        value = operator.index(given)
    except TypeError:
        raise TypeError(fix) from None
    if value < 1:
        raise ValueError(fix)
    return min(value, 2**63)


def period_of(given: Any) -> float:
    value = number("period", given, "write a number of seconds")
    if not value:
        raise ValueError("period is 0: write a number of seconds, 0.001 or more")
    return value


def milliseconds(given: Any) -> Any:
    """The timeout that milliseconds are; None is for ever."""
    if given is None:
        return given
    if isinstance(given, (int, float)) and abs(given) < math.inf:
        return given / 1000
    raise ValueError(f"timeout is {given!r}: write a number of milliseconds, or None for ever")


def moment(given: Any, unit: str) -> float:
    """A time as seconds, or whatever the unit is, since 1970."""
    if isinstance(given, datetime):
        return given.timestamp()
    if isinstance(given, (int, float)) and abs(given) < math.inf:
        return given
    raise ValueError(f"when is {given!r}: write a datetime, or {unit} since 1970")
