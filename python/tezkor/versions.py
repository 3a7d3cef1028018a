"""Versions: ``incr_version`` moves an entry to another version of its key, with its tags and its stale time.

What is moved is as old as the moment before it was read: an invalidation that comes meanwhile is never lost. It gets
the alias's TIMEOUT, as in Django.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any, NamedTuple

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from tezkor import _native, transactions
from tezkor.changes import Own

# How often an entry is read again that others change while it is read.
MOST_READS = 100
MISSING = object()


class Found(NamedTuple):
    """An entry that is to be moved; without a birth it is one that the transaction has set."""

    value: Any
    tags: list[str]
    stale: float | None
    birth: int | None

    def own(self, cache: Any, since: float | None) -> Own:
        timeout = cache.default_timeout
        return Own(_native.encode(self.value), frozenset(self.tags), timeout, self.stale, since)


def move(cache: Any, key: Any, delta: int, version: Any) -> Any:
    """Moves the entry; its new version. Raises ValueError when there is none."""
    version = cache.version if version is None else version
    target = version + delta
    found = _find(cache, key, version)
    if transactions.is_open() and cache.is_transactional:
        written = {
            cache._make_full_key(key, target): found.own(cache, None),
            cache._make_full_key(key, version): None,
        }
        transactions.write(
            cache,
            partial(_move_at_commit, cache, key, version, target),
            lambda: written,
            lambda: [cache._delete(key, each) for each in (target, version)],
        )
        return target
    _store(cache, key, target, found)
    if transactions.open_changes() > 0:
        transactions.remember(
            cache, lambda: {cache._make_full_key(key, target): found.own(cache, time.monotonic())}
        )
    cache.delete(key, version)
    return target


def _move_at_commit(cache: Any, key: Any, version: Any, target: Any) -> None:
    """Moves what is there by then: it may have been invalidated, or set anew."""
    try:
        found = _read(cache, key, version)
    except ValueError:
        cache._delete(key, target)
        return
    _store(cache, key, target, found)
    cache._delete(key, version)


def _find(cache: Any, key: Any, version: Any) -> Found:
    own = cache._held(key, version)
    if own is None:
        return _read(cache, key, version)
    if own is False:
        raise _missing(key)
    return Found(_native.decode(own.data), list(own.tags), own.stale, None)


def _read(cache: Any, key: Any, version: Any) -> Found:
    """The entry as it is: a value, and the tags and stale time that belong to it."""
    for _ in range(MOST_READS):
        birth = cache._sequence()
        # First, since the story of a key that is missing takes long.
        if cache._get(key, MISSING, version) is MISSING:
            raise _missing(key)
        story = _story(cache, key, version)
        value = cache._get(key, MISSING, version)
        if value is not MISSING and _story(cache, key, version) == story:
            return Found(value, story[0], story[1] or None, birth)
    raise RuntimeError(f"Key {key!r} is written all the time: its version could not be changed")


def _story(cache: Any, key: Any, version: Any) -> tuple[list[str], float, Any]:
    story = cache._explain(key, version)
    return story.get("tags", []), story.get("stale", 0.0), story.get("created")


def _store(cache: Any, key: Any, version: Any, found: Found) -> None:
    terms = (found.value, DEFAULT_TIMEOUT, version, found.tags or None, found.stale)
    if found.birth is None:
        cache._set(key, *terms)
    else:
        cache._set_born(found.birth, key, *terms)


def _missing(key: Any) -> ValueError:
    return ValueError(f"Key '{key}' not found")
