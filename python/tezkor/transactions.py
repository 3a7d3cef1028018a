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

A TestCase's own atomic blocks count as none. ``set_autocommit(False)`` by hand has no hooks: calls act at once. So do
calls of a coroutine that ``async_to_sync`` runs inside a block: its thread has connections of its own.
"""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.transaction import Atomic

from tezkor import _native

logger = logging.getLogger("tezkor")

# Full keys, and the encoded value and tags of each; no value: the key is gone.
Written = dict[str, tuple[bytes | None, Iterable[str] | None]]

# True while some transaction of this process has had its first query.
open_births: dict[int, None] = {}

# Births that outlive the rollback of a savepoint, in the dictionary of their connection.
KEPT = "_tezkor_births"

_here = threading.local()


def is_open() -> bool:
    """Whether this thread is in a transaction, of any database."""
    for connection in _initialised():  # noqa: SIM110 (a generator would cost as much again)
        if connection.in_atomic_block and _block_of(connection) is not None:
            return True
    return False


def invalidate(
    cache: Any,
    act: Callable[[], Any],
    full_keys: Iterable[str] = (),
    tags: Iterable[str] = (),
    everything: str = "",
    fits: Callable[[str], bool] | None = None,
) -> None:
    """Acts, as the open transactions of this thread ask for; ``fits`` says which full keys a pattern is about."""
    if not is_open():
        act()
        return
    if not cache.is_transactional:
        act()
    _leave(cache, Change(cache, act, tuple(full_keys), frozenset(tags), everything, fits))


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
    transaction = _transaction()
    view = transaction.views.get(cache.location) if transaction is not None else None
    if view is not None:
        native = cache._get.__self__
        for full_key, (data, tags) in values().items():
            if view.says(native, full_key) is not None:
                view.set(full_key, data, tags, native)


def has_invalidated(cache: Any, tags: Iterable[str], full_key: str | None = None) -> bool:
    """Whether the open transactions of this thread have changed the key, or invalidated one of the tags."""
    if _native.open_transactions(0) <= 0:
        return False
    transaction = _transaction()
    view = transaction.views.get(cache.location) if transaction is not None else None
    if view is None:
        return False
    is_changed = full_key is not None and view.says(cache._get.__self__, full_key) is not None
    return is_changed or view.is_emptied or not view.tags.isdisjoint(tags)


def open_changes() -> int:
    """How many transactions of this process have changed something; the others need not be asked."""
    return _native.open_transactions(0)


def held(cache: Any, full_key: str) -> Any:
    """What own reads are told of a key that the open transactions of this thread have changed: the encoded value
    and the tags; False: that it is not there; None: they have not changed it."""
    transaction = _transaction() if open_changes() > 0 else None
    view = transaction.views.get(cache.location) if transaction is not None else None
    said = None if view is None else view.says(cache._get.__self__, full_key)
    return said if view is None or not said else view.keys[full_key][:2]  # type: ignore[index]


def birth(cache: Any) -> int | None:
    """The logical time of the oldest snapshot that a load of this thread may read from; None: now."""
    if not open_births:
        return None
    oldest = None
    for connection in _initialised():
        births = _births_of(connection) if connection.in_atomic_block else None
        if births is not None:
            # A cache that was opened since: nobody knows what was invalidated before.
            time = births.times.get(cache.place, 0)
            oldest = time if oldest is None else min(oldest, time)
    return oldest


def install() -> None:
    """Has the first query of each transaction noted; done once, when the backends are imported."""
    connection_created.connect(_watch, dispatch_uid="tezkor.transactions")
    made: Iterable[Any] = _initialised()
    if threading.active_count() > 1:
        # Other threads may keep connections that they have made before; only the garbage collector knows them.
        made = [each for each in gc.get_objects() if issubclass(type(each), BaseDatabaseWrapper)]
    for connection in made:
        _watch(connection=connection)


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


class Transaction:
    """What one thread has changed inside the transactions that are open at a time, of one or several databases."""

    def __init__(self) -> None:
        self.blocks: list[tuple[weakref.ref[Any], Any]] = []
        self.batches: list[weakref.ref[Batch]] = []
        # The batches of those whose order does not matter.
        self.unordered: dict[Any, weakref.ref[Batch]] = {}
        self.views: dict[str, View] = {}
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
        for (connection, block), sids in zip(found, savepoints, strict=True):
            if not any(reference() is connection and block is known for reference, known in self.blocks):
                self.blocks.append((weakref.ref(connection), block))
            entry = Entry(batch)
            connection.run_on_commit.insert(_after_ours(connection, block), (set(sids), entry.run, False))
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
            for change in batch.changes:
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
        self.changes: list[Change] = []
        self.known: set[Any] = set()
        self.intents: list[tuple[Any, list[int]]] = []
        self.pending = len(signature)
        self.is_untouched = True
        self.is_torn = False

    def add(self, change: Change, cache: Any) -> None:
        signature = change.signature()
        if signature is not None and signature in self.known:
            if not self.is_ordered:
                return
        else:
            pattern = "prefix" if change.fits is not None else ""
            intents = cache._intend(list(change.full_keys), list(change.tags), change.everything or pattern)
            self.intents.append((cache._forget, intents))
            self.known.add(signature)
        self.changes.append(change)

    def commit(self) -> None:
        is_last = self.pending == 0
        for change in self.changes:
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
        for forget, intents in self.intents:
            forget(intents)
        self.intents = []
        batches = [reference() for reference in self.transaction.batches]
        if not any(batch is not None and batch.pending for batch in batches):
            self.transaction.close()


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
    found = [
        (connection, block)
        for connection in _initialised()
        if connection.in_atomic_block and (block := _block_of(connection)) is not None
    ]
    transaction = _transaction()
    if transaction is None:
        transaction = Transaction()
        _here.transaction = weakref.ref(transaction)
    if cache.is_transactional:
        savepoints = [tuple(connection.savepoint_ids) for connection, _ in found]
    else:
        # What a savepoint that was rolled back has left is done again for nothing.
        savepoints = [_savepoints_of(connection, block) for connection, block in found]
    transaction.batch(found, savepoints, cache.is_transactional).add(change, cache)
    transaction.view(change.place).apply(change)


def _transaction() -> Transaction | None:
    """What the transactions that are open in this thread have changed, if anything."""
    reference = getattr(_here, "transaction", None)
    if reference is None:
        return None
    transaction: Transaction | None = reference()
    if transaction is not None and transaction.is_counted:
        if transaction.is_open():
            if transaction.is_rewound:
                transaction.rewind()
            return transaction
        # In a TestCase the hooks stay when the block has ended.
        transaction.close()
    _here.transaction = None
    return None


def _hook(native: Any, full_key: str) -> Any:
    """Asked about each key while transactions are open that have changed something."""
    transaction = _transaction()
    if transaction is None:
        return None
    view = transaction.views.get(native.location())
    return None if view is None else view.says(native, full_key)


def _has_key_function(cache: Any) -> bool:
    from django.core.cache.backends.base import default_key_func

    return cache.key_func is not default_key_func or cache._has_own_keys


# The connections of a thread, by alias: Django's handler keeps them in a threading.local, and takes microseconds to
# list them. Inside an event loop it keeps them elsewhere, and leaves a mark here.
_storage = getattr(connections._connections, "_storage", None)
_is_plain = type(_storage) is threading.local


def _initialised() -> Iterable[Any]:
    mine = _storage.__dict__ if _is_plain else None
    if mine is not None and "cvar" not in mine:
        return mine.values()
    try:
        found: list[Any] = connections.all(initialized_only=True)
    except ImproperlyConfigured:
        return ()  # no settings: no databases
    return found


def _block_of(connection: Any) -> Any:
    """The outermost atomic block that is not a TestCase's own."""
    for block in connection.atomic_blocks:
        if not block._from_testcase:
            return block
    return None


def _savepoints_of(connection: Any, block: Any) -> tuple[Any, ...]:
    """The savepoints that the block lies in, its own included: a TestCase's blocks make it one."""
    blocks, savepoints = connection.atomic_blocks, connection.savepoint_ids
    # The outermost block of a connection is a transaction and has none.
    return tuple(savepoints[: blocks.index(block) + 1 - (len(blocks) - len(savepoints))])


def _after_ours(connection: Any, block: Any) -> int:
    """The place in the hooks that comes before those of others, and after our own."""
    hooks = connection.run_on_commit
    savepoints = _savepoints_of(connection, block)
    low = 0
    if savepoints:
        # What was there before the block is somebody else's, and counted by captureOnCommitCallbacks().
        own = savepoints[-1]
        low = next(
            (place for place, hook in enumerate(hooks) if own is not None and own in hook[0]), len(hooks)
        )
    high = len(hooks)
    while low < high:
        middle = (low + high) // 2
        if type(getattr(hooks[middle][1], "__self__", None)) is Entry:
            low = middle + 1
        else:
            high = middle
    return low


class Births:
    """The logical times of all places at a transaction's first query; ``block`` is its outermost atomic block."""

    __slots__ = ("block", "times")

    def __init__(self, block: Atomic, times: dict[Any, int]) -> None:
        self.block = block
        self.times = times
        open_births[id(self)] = None

    def __del__(self) -> None:
        open_births.pop(id(self), None)


class Hooks(list[Any]):
    """A connection's ``run_on_commit``, which Django replaces when the transaction ends."""

    __slots__ = ("births",)
    births: Births | None


def _births_of(connection: Any) -> Births | None:
    """What is known of the transaction that is open.

    Django replaces the hooks when a savepoint is rolled back too: what was kept then is taken over. A mistake makes a
    load older than it is, never younger.
    """
    hooks = connection.run_on_commit
    if type(hooks) is Hooks:
        births = hooks.births
        if births is not None and births.block in connection.atomic_blocks:
            return births
        hooks.births = None
    kept: Births | None = connection.__dict__.pop(KEPT, None)
    if kept is not None and kept.block in connection.atomic_blocks:
        _keep(connection, kept)
        return kept
    return None


def _keep(connection: Any, births: Births) -> None:
    hooks = connection.run_on_commit
    if type(hooks) is not Hooks:
        hooks = connection.run_on_commit = Hooks(hooks)
    hooks.births = births


def _watch(*, connection: Any, **kwargs: Any) -> None:
    if _note in connection.execute_wrappers:
        return
    connection.execute_wrappers.insert(0, _note)
    block = _block_of(connection) if connection.in_atomic_block else None
    if block is not None:
        # Its first query has gone by unseen. The hooks are left alone: this may not be the connection's thread.
        connection.__dict__[KEPT] = Births(block, {})


def _note(execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
    connection = context["connection"]
    if connection.in_atomic_block:
        hooks = connection.run_on_commit
        births = hooks.births if type(hooks) is Hooks else None
        if births is None or births.block not in connection.atomic_blocks:
            births = _begin(connection)
        if births is not None and type(sql) is str and sql.startswith("ROLLBACK TO"):
            connection.__dict__[KEPT] = births
    return execute(sql, params, many, context)


def _begin(connection: Any) -> Births | None:
    births = _births_of(connection)
    if births is None:
        block = _block_of(connection)
        if block is None:
            _transaction()  # sees that it is over
        else:
            from tezkor import backends

            births = Births(
                block, {place: native.sequence() for place, native in list(backends._stores.items())}
            )
            _keep(connection, births)
    return births
