"""Changes: what a transaction has done to the cache so far, and what its own reads are told of that.

A ``Change`` is one call, to be done at the commit; a ``View`` is what all of them come to. Neither asks a database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tezkor import _native

# Full keys, and the encoded value and tags of each; no value: the key is gone.
Written = dict[str, tuple[bytes | None, Iterable[str] | None]]


class Change:
    """One call inside a transaction: how it is done, and what it changes."""

    __slots__ = (
        "act",
        "drop",
        "everything",
        "fits",
        "full_keys",
        "head",
        "native",
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
        fits: Callable[[str], bool] | None = None,
        written: Written | None = None,
        drop: Callable[[], Any] | None = None,
    ) -> None:
        self.act = act
        self.full_keys = full_keys
        self.tags = tags
        self.everything = everything
        self.fits = fits
        self.written = written
        self.drop = drop
        self.native = cache._get.__self__
        self.place = cache.location
        # What full keys of the prefix begin with; a key function may make them in any way.
        self.head = "" if _has_key_function(cache) else f"{cache.key_prefix}:"

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
        """The same for changes that need to be done once, when each is done at once already."""
        if self.written is not None or self.fits is not None:
            return None
        return (id(self.native), self.full_keys, self.tags, self.everything)


class View:
    """What reads of one LOCATION are told while the transaction is open."""

    def __init__(self, place: str) -> None:
        from tezkor import backends

        # Encoded values and tags that were set; None: deleted.
        self.keys: dict[str, tuple[bytes, frozenset[str], Any] | None] = {}
        self.tags: set[str] = set()
        self.heads: set[str] = set()
        self.patterns: list[Callable[[str], bool]] = []
        self.is_emptied = False
        # Two regions may have a LOCATION of the same name: what is set in one is not to be read in the other.
        self.is_alone = sum(url == place for url, _ in backends._stores) <= 1

    def apply(self, change: Change) -> None:
        if change.written is not None:
            for full_key, (data, tags) in change.written.items():
                self.set(full_key, data, tags, change.native)
            return
        if change.everything == "location" or (change.everything and not change.head):
            self.keys.clear()
            self.is_emptied = True
        elif change.everything:
            self.heads.add(change.head)
        if change.fits is not None:
            self.patterns.append(change.fits)
        self.tags |= change.tags
        for full_key in change.full_keys:
            self.keys[full_key] = None
        if change.everything or change.fits is not None or change.tags:
            for full_key, held in self.keys.items():
                if held is not None and (
                    self._is_changed(full_key, change) or not change.tags.isdisjoint(held[1])
                ):
                    self.keys[full_key] = None

    def _is_changed(self, full_key: str, change: Change) -> bool:
        if change.everything and full_key.startswith(change.head):
            return True
        return change.fits is not None and change.fits(full_key)

    def set(self, full_key: str, data: bytes | None, tags: Iterable[str] | None, native: Any) -> None:
        self.keys[full_key] = None if data is None else (data, frozenset(tags or ()), native)

    def says(self, native: Any, full_key: str) -> Any:
        """What a read of the key is told: ``(value,)``, False to bypass the cache, or None."""
        held: Any = self.keys.get(full_key, self)
        if held is not self:
            if held is None or not (self.is_alone or held[2] is native):
                return False
            return (_native.decode(held[0]),)
        if self.is_emptied:
            return False
        for head in self.heads:
            if full_key.startswith(head):
                return False
        for fits in self.patterns:
            if fits(full_key):
                return False
        return False if self.tags and not self.tags.isdisjoint(native.tags_at(full_key)) else None


def _has_key_function(cache: Any) -> bool:
    from django.core.cache.backends.base import default_key_func

    return cache.key_func is not default_key_func or cache._has_own_keys
