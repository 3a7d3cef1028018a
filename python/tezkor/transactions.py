"""Invalidation follows the transaction: what is called inside one is done again first thing at its COMMIT.

By default an invalidation acts at once and at each commit, and a set at once. With ``OPTIONS["TRANSACTIONAL"]``
both act at commit only, in order, and not at all when the transaction, or the savepoint they were called in, is
rolled back.

1. A call becomes a ``Change`` in a ``Batch``. An ``Entry`` at the head of each open connection's ``run_on_commit``
   holds the batch, and nothing else does: Django drops it on a rollback, and so the batch learns of it.
2. An intent is written into the region. If this process dies between the COMMIT and the hooks, others carry it out.
3. While a batch is there, reads of this thread ask the ``View`` of the place first: what the transaction has changed
   bypasses the cache, or is what it has set.
4. A load inside a transaction is as old as the transaction's first query, since its snapshot may be: an execute
   wrapper notes the logical times then, in the list of hooks itself, which ends with the transaction.

A TestCase's own atomic blocks count as none. ``set_autocommit(False)`` by hand has no hooks: calls act at once.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from tezkor import _native, atomic
from tezkor.atomic import is_open
from tezkor.births import birth, install, open_births
from tezkor.changes import Change, Pattern, View, Written

__all__ = [
    "Written",
    "birth",
    "install",
    "invalidate",
    "is_open",
    "open_births",
    "open_changes",
    "remember",
    "write",
]

logger = logging.getLogger("tezkor")

# For `drivers`.
_initialised = atomic.connections_here

# Of the table in a region, which has 256 places, or 32 if it is small.
MOST_INTENTS = 32
# What an intent for everything is wider than.
WIDTHS = {"": 0, "prefix": 1, "location": 2}
# What the transactions of a connection have changed, in its dictionary.
CHANGED = "_tezkor_transaction"


def invalidate(
    cache: Any,
    act: Callable[[], Any],
    full_keys: Iterable[str] = (),
    tags: Iterable[str] = (),
    everything: str = "",
    pattern: Pattern | None = None,
) -> None:
    """Acts, as the open transactions of this thread ask for."""
    if not is_open():
        act()
        return
    if not cache.is_transactional:
        act()
    _leave(cache, Change(cache, act, tuple(full_keys), frozenset(tags), everything, pattern))


def write(
    cache: Any,
    act: Callable[[], Any],
    values: Callable[[], Written],
    drop: Callable[[], Any] | None = None,
) -> bool:
    """Defers a set of a transactional alias; False: nothing is open, the caller acts.

    ``drop`` deletes the same keys: that is done at the commits before the last of several databases, and where
    one of them is rolled back.
    """
    if not is_open():
        return False
    written = values()
    _leave(cache, Change(cache, act, tuple(written), written=written, drop=drop))
    return True


def remember(cache: Any, values: Callable[[], Written]) -> None:
    """Has own reads see what was set at once after this transaction had invalidated it."""
    view = view_of(cache)
    if view is not None:
        native = cache._get.__self__
        for full_key, own in values().items():
            if view.is_changed(native, full_key):
                view.set(full_key, own, native)


def has_invalidated(cache: Any, tags: Iterable[str], full_key: str | None = None) -> bool:
    """Whether the open transactions of this thread have changed the key, or invalidated one of the tags."""
    view = view_of(cache)
    if view is None:
        return False
    is_changed = full_key is not None and view.is_changed(cache._get.__self__, full_key)
    return is_changed or view.is_emptied or not view.tags.isdisjoint(tags)


def open_changes() -> int:
    """How many transactions of this process have changed something; the others need not be asked."""
    return _native.open_transactions(0)


def view_of(cache: Any) -> View | None:
    """What the open transactions of this thread have changed in a cache; None: nothing."""
    transaction = current() if open_changes() > 0 else None
    return None if transaction is None else transaction.views.get(cache.location)


def held(cache: Any, full_key: str) -> Any:
    """What the open transactions of this thread have made of a key: what it was set to; False: it is not there; None:
    they have not changed it."""
    view = view_of(cache)
    return None if view is None else view.find(cache._get.__self__, full_key)


class Transaction:
    """What one thread has changed inside the transactions that are open at a time, of one or several databases."""

    def __init__(self) -> None:
        self.blocks: list[tuple[weakref.ref[Any], Any]] = []
        self.batches: list[weakref.ref[Batch]] = []
        # The batches of those whose order does not matter.
        self.unordered: dict[Any, weakref.ref[Batch]] = {}
        self.views: dict[str, View] = {}
        self.unfinished = 0
        self.is_rewound = False
        self.is_counted = True
        _native.set_transaction_hook(_hook)
        _native.open_transactions(1)

    def is_open(self) -> bool:
        for reference, block in self.blocks:
            connection = reference()
            if connection is not None and connection.in_atomic_block and block in connection.atomic_blocks:
                return True
        return False

    def close(self) -> None:
        if self.is_counted:
            self.is_counted = False
            _native.open_transactions(-1)

    def batch(
        self, found: list[tuple[Any, Any]], savepoints: list[tuple[Any, ...]], is_ordered: bool
    ) -> Batch:
        """The batch that the next change belongs to."""
        signature = tuple(
            (id(connection), sids) for (connection, _), sids in zip(found, savepoints, strict=True)
        )
        if is_ordered:
            reference = self.batches[-1] if self.batches else None
        else:
            reference = self.unordered.get(signature)
        batch = reference() if reference is not None else None
        if (
            batch is not None
            and batch.signature == signature
            and batch.is_ordered == is_ordered
            and batch.is_untouched
        ):
            return batch
        batch = Batch(self, signature, is_ordered)
        self.unfinished += 1
        for (connection, block), sids in zip(found, savepoints, strict=True):
            if not any(reference() is connection and block is known for reference, known in self.blocks):
                self.blocks.append((weakref.ref(connection), block))
                connection.__dict__[CHANGED] = weakref.ref(self)
            entry = Entry(batch)
            connection.run_on_commit.insert(
                atomic.place_of_hook(connection, block, Entry), (set(sids), entry.run, False)
            )
        self.batches.append(weakref.ref(batch))
        if not is_ordered:
            self.unordered[signature] = self.batches[-1]
        return batch

    def rewind(self) -> None:
        """A savepoint was rolled back: what is left is what was changed."""
        self.is_rewound = False
        left = [(reference, batch) for reference in self.batches if (batch := reference()) is not None]
        self.batches = [reference for reference, _ in left]
        self.views = {}
        for _, batch in left:
            for change in batch.changes.values():
                self.view(change.place).apply(change)

    def view(self, place: str) -> View:
        view = self.views.get(place)
        if view is None:
            view = self.views[place] = View(place)
        return view


class Batch:
    """Changes that are done, or dropped, together: one after the other under the same savepoints."""

    def __init__(
        self, transaction: Transaction, signature: tuple[tuple[int, tuple[Any, ...]], ...], is_ordered: bool
    ):
        self.transaction = transaction
        self.signature = signature
        self.is_ordered = is_ordered
        # By signature, in the order in which they are done.
        self.changes: dict[Any, Change] = {}
        self.intents: dict[int, Intents] = {}
        self.pending = len(signature)
        self.is_untouched = True
        self.is_torn = False
        self.is_finished = False

    def add(self, change: Change, cache: Any) -> None:
        signature = change.signature()
        if signature not in self.changes:
            intents = self.intents.get(id(change.native))
            if intents is None:
                intents = self.intents[id(change.native)] = Intents(cache)
            intents.add(change)
        elif self.is_ordered:
            # What the earlier one would do is done by this one; it comes after what was set in between.
            del self.changes[signature]
        else:
            return
        self.changes[signature] = change

    def commit(self) -> None:
        is_last = self.pending == 0
        for change in list(self.changes.values()):
            try:
                change.commit(is_last and not self.is_torn)
            except Exception:
                logger.exception(
                    "What a transaction changed in %s could not be done at its commit.", change.place
                )
        if is_last:
            self.finish()

    def drop(self) -> None:
        self.is_torn = True
        self.transaction.is_rewound = True
        if self.pending == 0:
            self.finish()

    def finish(self) -> None:
        for intents in self.intents.values():
            intents.forget()
        if not self.is_finished:
            self.is_finished = True
            self.transaction.unfinished -= 1
            if self.transaction.unfinished == 0:
                self.transaction.close()


class Intents:
    """What is written into the region of what a batch is about to do there.

    The table has room for few, and a batch of many changes leaves one for the whole prefix.
    """

    def __init__(self, cache: Any) -> None:
        self._intend, self._forget = cache._intend, cache._forget
        self.ids: list[int] = []
        self.names: set[tuple[str, str]] = set()
        self.everything = ""

    def add(self, change: Change) -> None:
        everything = change.everything or ("prefix" if change.pattern is not None else "")
        keys = [key for key in change.full_keys if ("key", key) not in self.names]
        tags = [tag for tag in change.tags if ("tag", tag) not in self.names]
        if len(self.names) + len(keys) + len(tags) > MOST_INTENTS:
            everything = everything or "prefix"
        if WIDTHS[everything] > WIDTHS[self.everything]:
            narrower, self.ids = self.ids, self._intend([], [], everything)
            self._forget(narrower)
            self.everything = everything
        elif not self.everything and (keys or tags):
            self.ids += self._intend(keys, tags, "")
            self.names.update(("key", key) for key in keys)
            self.names.update(("tag", tag) for tag in tags)

    def forget(self) -> None:
        self._forget(self.ids)
        self.ids = []


class Entry:
    """A batch in one connection's hooks: called at the commit, else dropped by a rollback."""

    __slots__ = ("batch", "is_run")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.is_run = False

    def run(self) -> None:
        if not self.is_run:
            self.is_run = True
            self.batch.pending -= 1
            self.batch.is_untouched = False
        self.batch.commit()

    def __del__(self) -> None:
        if not self.is_run:
            self.batch.pending -= 1
            self.batch.is_untouched = False
            self.batch.drop()


def _leave(cache: Any, change: Change) -> None:
    found = atomic.open_blocks()
    transaction = _open_transaction() or Transaction()
    if cache.is_transactional:
        savepoints = [tuple(connection.savepoint_ids) for connection, _ in found]
    else:
        # What a savepoint that was rolled back has left is done again for nothing.
        savepoints = [atomic.savepoints_of(connection, block) for connection, block in found]
    transaction.batch(found, savepoints, cache.is_transactional).add(change, cache)
    if not transaction.is_rewound:  # the next read sees to it
        transaction.view(change.place).apply(change)


def current() -> Transaction | None:
    """What the transactions that are open in this thread have changed, if anything."""
    transaction = _open_transaction()
    if transaction is not None and transaction.is_rewound:
        transaction.rewind()
    return transaction


def _open_transaction() -> Transaction | None:
    for connection in atomic.connections_here():
        reference = connection.__dict__.get(CHANGED)
        if reference is None:
            continue
        transaction: Transaction | None = reference()
        if transaction is not None and transaction.is_counted:
            if transaction.is_open():
                return transaction
            # In a TestCase the hooks stay when the block has ended.
            transaction.close()
        connection.__dict__.pop(CHANGED, None)
    return None


def _hook(native: Any, full_key: str) -> Any:
    """Asked about each key while transactions are open that have changed something."""
    transaction = current()
    if transaction is None:
        return None
    view = transaction.views.get(native.location())
    return None if view is None else view.says(native, full_key)
