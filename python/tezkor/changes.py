"""Changes: what a transaction has done to the cache so far, and what its own reads are told of that.

A ``Change`` is one call, to be done at the commit; a ``View`` is what all of them come to. Neither asks a database.

A read of a key that the transaction has not touched costs a lookup in a dictionary: whether one of its patterns fits is
found once for each key. A set or an invalidation costs the same however many there were before.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

from tezkor import _native

# For so many keys it is remembered which patterns fit.
MOST_VERDICTS = 10_000
SPECIAL = frozenset("*?[\\")


class Own(NamedTuple):
    """What a transaction has set a key to."""

    data: bytes
    tags: frozenset[str]
    # Seconds; None for ever.
    timeout: float | None
    stale: float | None
    # When it was set, if it was set at once; None: its time begins at the commit.
    since: float | None

    def left_ms(self) -> int | None:
        """Milliseconds until it expires; None for never."""
        if self.timeout is None or math.isinf(self.timeout):
            return None
        passed = 0.0 if self.since is None else time.monotonic() - self.since
        return max(math.ceil((self.timeout - passed) * 1000), 0)

    def is_expired(self) -> bool:
        return self.since is not None and self.left_ms() == 0


# What full keys were set to; None: the key is gone.
Written = dict[str, Own | None]


class Pattern:
    """The keys that a glob is about, of one alias and version."""

    __slots__ = ("_matches", "beginning", "head", "native", "signature", "text", "version")

    def __init__(self, cache: Any, text: str, version: Any) -> None:
        self.text = text
        self.version = version
        self.native = cache._get.__self__
        self.signature = (id(self.native), text, str(version))
        self._matches = cache._matches
        # What precedes the key as it was given; no key fits that begins otherwise than `beginning`.
        self.head = self.beginning = ""
        if not has_key_function(cache):
            self.head = f"{cache.key_prefix}:{cache.version if version is None else version}:"
            plain = (at for at, letter in enumerate(text) if letter in SPECIAL or not letter.isascii())
            self.beginning = self.head + text[: next(plain, len(text))]

    def fits(self, full_key: str) -> bool:
        return full_key.startswith(self.beginning) and bool(self._matches(self.text, full_key, self.version))


class Change:
    """One call inside a transaction: how it is done, and what it changes."""

    __slots__ = (
        "act",
        "drop",
        "everything",
        "full_keys",
        "head",
        "native",
        "pattern",
        "place",
        "tags",
        "written",
    )

    def __init__(
        self,
        cache: Any,
        act: Callable[[], Any],
        full_keys: tuple[str, ...],
        tags: frozenset[str] = frozenset(),
        everything: str = "",
        pattern: Pattern | None = None,
        written: Written | None = None,
        drop: Callable[[], Any] | None = None,
    ) -> None:
        self.act = act
        self.full_keys = full_keys
        self.tags = tags
        self.everything = everything
        self.pattern = pattern
        self.written = written
        self.drop = drop
        self.native = cache._get.__self__
        self.place = cache.location
        # What full keys of the prefix begin with; a key function may make them in any way.
        self.head = "" if has_key_function(cache) else f"{cache.key_prefix}:"

    def commit(self, is_whole: bool) -> None:
        """Does it. Where not all databases have committed, what was set is not true as a whole: it is deleted."""
        if self.written is None:
            self.act()
            return
        if is_whole:
            try:
                self.act()
                return
            except Exception:
                # What was there before is not to be served for what could not be stored.
                self._drop()
                raise
        self._drop()

    def _drop(self) -> None:
        if self.drop is not None:
            self.drop()
        else:
            for full_key in self.full_keys:
                self._delete(full_key)

    def _delete(self, full_key: str) -> None:
        # Where a version ends nobody knows, and it makes no difference: the parts give the same full key again.
        version, colon, key = full_key.removeprefix(self.head).partition(":")
        if self.head and colon:
            self.native.delete(key, version)
        else:
            self.native.clear_prefix()

    def signature(self) -> Any:
        """The same for invalidations of the same: of several, one after all the others does."""
        if self.written is not None:
            return self
        pattern = None if self.pattern is None else self.pattern.signature
        return (id(self.native), self.full_keys, self.tags, self.everything, pattern)


class Held(NamedTuple):
    """An own value, the cache that it was set in, and how many invalidations of many keys had come before."""

    own: Own
    native: Any
    serial: int


class View:
    """What reads of one LOCATION are told while the transaction is open."""

    def __init__(self, place: str) -> None:
        from tezkor import backends

        # None: deleted.
        self.keys: dict[str, Held | None] = {}
        # Own keys that were set with a tag; some may have been set without it since.
        self.by_tag: dict[str, set[str]] = {}
        self.tags: set[str] = set()
        # Counts invalidations of patterns and prefixes: what was set after one is not concerned by it.
        self.serial = 0
        self.heads: dict[str, int] = {}
        self.patterns: list[Pattern] = []
        # The places in that list, by signature and by what their keys begin with; how long such beginnings are.
        self.places: dict[Any, int] = {}
        self.beginnings: dict[str, list[int]] = {}
        self.lengths: set[int] = set()
        # The serial of the last use of each.
        self.serials: list[int] = []
        # For keys that were read: how many patterns were looked at, and the places of those that fit.
        self.verdicts: dict[str, tuple[int, list[int]]] = {}
        self.is_emptied = False
        # Two regions may have a LOCATION of the same name: what is set in one is not to be read in the other.
        self.is_alone = sum(url == place for url, _ in backends._stores) <= 1

    def apply(self, change: Change) -> None:
        if change.written is not None:
            for full_key, own in change.written.items():
                self.set(full_key, own, change.native)
            return
        if change.everything == "location" or (change.everything and not change.head):
            self.keys.clear()
            self.by_tag.clear()
            self.is_emptied = True
        elif change.everything:
            self.serial += 1
            self.heads[change.head] = self.serial
        if change.pattern is not None:
            self._add(change.pattern)
        self.tags |= change.tags
        for tag in change.tags:
            for full_key in self.by_tag.pop(tag, ()):
                held = self.keys.get(full_key)
                if held is not None and tag in held.own.tags:
                    self.keys[full_key] = None
        for full_key in change.full_keys:
            self.keys[full_key] = None

    def _add(self, pattern: Pattern) -> None:
        self.serial += 1
        place = self.places.setdefault(pattern.signature, len(self.patterns))
        if place == len(self.patterns):
            self.patterns.append(pattern)
            self.serials.append(self.serial)
            self.beginnings.setdefault(pattern.beginning, []).append(place)
            self.lengths.add(len(pattern.beginning))
        self.serials[place] = self.serial

    def set(self, full_key: str, own: Own | None, native: Any) -> None:
        if own is None:
            self.keys[full_key] = None
            return
        self.keys[full_key] = Held(own, native, self.serial)
        for tag in own.tags:
            self.by_tag.setdefault(tag, set()).add(full_key)

    def find(self, native: Any, full_key: str) -> Own | bool | None:
        """What was made of a key: what it was set to; False: it is not there; None: it was not changed."""
        held: Any = self.keys.get(full_key, self)
        if held is self:
            return False if self._hides(native, full_key) else None
        if held is None:
            return False
        if self._invalidated_at(full_key) > held.serial or held.own.is_expired():
            self.keys[full_key] = None
            return False
        own: Own = held.own
        return own if self.is_alone or held.native is native else False

    def says(self, native: Any, full_key: str) -> Any:
        """What a read of the key is told: ``(value,)``, False to bypass the cache, or None."""
        own = self.find(native, full_key)
        return (_native.decode(own.data),) if isinstance(own, Own) else own

    def is_changed(self, native: Any, full_key: str) -> bool:
        return self.find(native, full_key) is not None

    def hides_all_of(self, pattern: Pattern) -> bool:
        """Whether it is certain that only own keys are there of those that fit."""
        return self.is_emptied or pattern.signature in self.places

    def keys_of(self, pattern: Pattern, found: Iterable[str]) -> list[str]:
        """The keys that fit, of which `found` are in the cache."""
        own, head = pattern.native, pattern.head
        seen = [key for key in found if self.find(own, head + key) is not False]
        known = set(seen)
        for full_key, held in list(self.keys.items()):
            if held is not None and pattern.fits(full_key) and self.find(own, full_key):
                key = full_key.removeprefix(head)
                if key not in known:
                    seen.append(key)
        return seen

    def _hides(self, native: Any, full_key: str) -> bool:
        if self.is_emptied or self._invalidated_at(full_key):
            return True
        return bool(self.tags) and not self.tags.isdisjoint(native.tags_at(full_key))

    def _invalidated_at(self, full_key: str) -> int:
        """The serial of the last invalidation of a pattern or a prefix that was about the key; 0: there was none."""
        last = 0
        for head, serial in self.heads.items():
            if serial > last and full_key.startswith(head):
                last = serial
        if self.patterns:
            for place in self._fitting(full_key):
                last = max(last, self.serials[place])
        return last

    def _fitting(self, full_key: str) -> list[int]:
        """The places of the patterns that fit; each is looked at once."""
        seen, fitting = self.verdicts.get(full_key, (0, []))
        if seen < len(self.patterns):
            for length in self.lengths:
                places = self.beginnings.get(full_key[:length], [])
                for place in places[bisect_left(places, seen) :]:
                    if self.patterns[place].fits(full_key):
                        fitting.append(place)
            if len(self.verdicts) >= MOST_VERDICTS:
                self.verdicts.clear()
            self.verdicts[full_key] = (len(self.patterns), fitting)
        return fitting


def story(full_key: str, own: Own | Literal[False]) -> dict[str, Any]:
    """What `explain` tells of a key that a transaction has changed."""
    answer: dict[str, Any] = {"key": full_key, "found": bool(own), "store": "transaction"}
    if not own:
        return {**answer, "reason": "this transaction has deleted or invalidated it"}
    left_ms = own.left_ms()
    expires = None if left_ms is None else time.time() + left_ms / 1000
    return {
        **answer,
        "expires": expires,
        "stale": own.stale or 0.0,
        "size_bytes": len(own.data),
        "tags": sorted(own.tags),
    }


def has_key_function(cache: Any) -> bool:
    from django.core.cache.backends.base import default_key_func

    return cache.key_func is not default_key_func or cache._has_own_keys
