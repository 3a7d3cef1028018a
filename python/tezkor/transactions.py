"""Invalidation follows the transaction: what is called inside one is done again first thing at its COMMIT.

By default an invalidation acts at once and at each commit, and a set at once. With ``OPTIONS["TRANSACTIONAL"]``
both act at commit only, in order, and not at all when the transaction, or the savepoint they were called in, is
rolled back.

1. A call leaves an ``Action`` at the head of ``connection.run_on_commit``: Django drops it on a rollback, and
   nothing else refers to it, so that its end is seen.
2. It writes an intent into the region. If this process dies between the COMMIT and the hooks, others carry it out.
3. While it is there, reads of this thread ask it first: what the transaction has changed bypasses the cache.
4. A load inside a transaction is as old as the transaction's first query, since its snapshot may be: an execute
   wrapper notes the logical time then.

A TestCase's own atomic blocks count as none. ``set_autocommit(False)`` by hand has no hooks: calls act at once.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.signals import connection_created

from tezkor import _native

STATE = "_tezkor_first_query"

# How many transactions have had their first query, in all threads; some may have ended since.
open_births = 0


def invalidate(
    cache: Any,
    act: Callable[[], Any],
    full_keys: Iterable[str] = (),
    tags: Iterable[str] = (),
    everything: str = "",
    fits: Callable[[str], bool] | None = None,
) -> None:
    """Acts, as the open transactions of this thread ask for; ``fits`` says which full keys a pattern is about."""
    found = _open()
    if not found:
        act()
        return
    if not cache.is_transactional:
        act()
    _leave(found, cache, act, list(full_keys), tuple(tags), everything, fits)


def is_open() -> bool:
    """Whether this thread is in a transaction, of any database."""
    return bool(_open())


def write(cache: Any, act: Callable[[], Any], values: Callable[[], dict[str, tuple[Any, Any]]]) -> bool:
    """Defers a set of a transactional alias; ``values`` are the encoded values and tags by full key. False:
    nothing is open, the caller acts."""
    found = _open()
    if not found:
        return False
    written = values()
    _leave(found, cache, act, list(written), (), "", None, written)
    return True


def has_invalidated(cache: Any, tags: Iterable[str]) -> bool:
    """Whether an open transaction of this thread has invalidated one of the tags."""
    if _native.open_transactions(0) <= 0:
        return False
    place = cache.location
    wanted = set(tags)
    return any(
        action.place == place and (action.everything or not wanted.isdisjoint(action.tags))
        for action in _actions()
    )


def birth(cache: Any) -> int | None:
    """The logical time of the oldest snapshot that a load of this thread may read from; None: now."""
    if not open_births:
        return None
    births = []
    for connection in _initialised():
        state = _state_of(connection)
        if state is not None:
            # A cache that was opened since: nobody knows what was invalidated before.
            births.append(state.births.get(cache.location, 0))
    return min(births, default=None)


def install() -> None:
    """Has the first query of each transaction noted; done once, when the backends are imported."""
    connection_created.connect(_watch, dispatch_uid="tezkor.transactions")


class Action:
    """One call inside a transaction: to be done at its commit, and to be asked about by reads until then."""

    def __init__(
        self,
        connection: Any,
        cache: Any,
        act: Callable[[], Any],
        full_keys: list[str],
        tags: tuple[str, ...],
        everything: str,
        fits: Callable[[str], bool] | None,
        written: dict[str, tuple[Any, Any]] | None,
        commits: list[int],
    ) -> None:
        self.block = _block_of(connection)
        self.act = act
        self.place = cache.location
        self.full_keys = frozenset(full_keys)
        self.tags = frozenset(tags)
        self.everything = everything
        self.fits = fits
        self.written = written
        self.commits = commits
        self.forget = cache._forget
        self.is_open = True
        _native.open_transactions(1)
        pattern = "prefix" if fits is not None else ""
        self.intents = cache._intend(full_keys, tags, everything or pattern)

    def __call__(self) -> None:
        """The transaction is committed."""
        self.commits[0] -= 1
        # What was set is set when the last of several databases has committed; invalidations come with each.
        if self.written is None or self.commits[0] == 0:
            self.act()
        self.end()

    def end(self) -> None:
        if self.is_open:
            self.is_open = False
            _native.open_transactions(-1)
            self.forget(self.intents)

    def __del__(self) -> None:
        self.end()

    def says(self, native: Any, full_key: str, tags: frozenset[str]) -> Any:
        """What a read of the key is told: a value, False to bypass the cache, or None."""
        if self.written is not None:
            if full_key not in self.written:
                return None
            data, own_tags = self.written[full_key]
            return False if data is None else (_native.decode(data), own_tags)
        is_meant = (
            full_key in self.full_keys
            or bool(self.everything)
            or not tags.isdisjoint(self.tags)
            or (self.fits is not None and self.fits(full_key))
        )
        return False if is_meant else None


def _leave(
    found: list[Any],
    cache: Any,
    act: Callable[[], Any],
    full_keys: list[str],
    tags: tuple[str, ...],
    everything: str,
    fits: Callable[[str], bool] | None,
    written: dict[str, tuple[Any, Any]] | None = None,
) -> None:
    _native.set_transaction_hook(_hook)
    commits = [len(found)]
    for connection in found:
        action = Action(connection, cache, act, full_keys, tags, everything, fits, written, commits)
        # By default what is left of a savepoint that was rolled back is done again for nothing.
        savepoints = set(connection.savepoint_ids) if cache.is_transactional else set()
        hooks = connection.run_on_commit
        ahead = next((place for place, hook in enumerate(hooks) if type(hook[1]) is not Action), len(hooks))
        if any(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks):
            ahead = len(hooks)  # captureOnCommitCallbacks() counts from the end
        hooks.insert(ahead, (savepoints, action, False))


def _hook(native: Any, full_key: str) -> Any:
    """Asked about each key while transactions are open that have changed something."""
    tags: frozenset[str] | None = None
    place = native.location()
    overlay: Any = None
    for action in _actions():
        if action.place != place:
            continue
        if tags is None:
            tags = frozenset(native.tags_at(full_key)) if overlay is None else frozenset(overlay[1] or ())
        said = action.says(native, full_key, tags)
        if said is False:
            overlay, tags = False, frozenset()
        elif said is not None:
            overlay, tags = said, frozenset(said[1] or ())
    if overlay is None or overlay is False:
        return overlay
    return (overlay[0],)


def _actions() -> list[Action]:
    """What the open transactions of this thread have left, in order."""
    return [
        hook[1]
        for connection in _open()
        for hook in connection.run_on_commit
        if type(hook[1]) is Action and any(hook[1].block is block for block in connection.atomic_blocks)
    ]


# The connections that each thread has made, as weak references: Django's own look-up takes microseconds.
_mine = threading.local()


def _initialised() -> list[Any]:
    """The connections of this thread."""
    try:
        references = _mine.references
    except AttributeError:
        # Those that were made before the backends were imported.
        try:
            known = list(connections.all(initialized_only=True))
        except ImproperlyConfigured:
            known = []  # no settings: no databases
        references = _mine.references = [weakref.ref(connection) for connection in known]
        for connection in known:
            _note_queries_of(connection)
    return [connection for reference in references if (connection := reference()) is not None]


def _open() -> list[Any]:
    """The connections of this thread that are in a transaction."""
    return [
        connection for connection in _initialised() if connection.in_atomic_block and _block_of(connection)
    ]


def _block_of(connection: Any) -> Any:
    """The outermost atomic block that is not a TestCase's own."""
    for block in connection.atomic_blocks:
        if not getattr(block, "_from_testcase", False):
            return block
    return None


class FirstQuery:
    """The logical times at a transaction's first query, and how it is known to be that transaction.

    Django replaces the list of hooks at each commit and rollback. It does so too when a savepoint is rolled back: that
    statement is seen before, and one change is let pass. A mistake makes a load older than it is, never younger.
    """

    def __init__(self, connection: Any, block: Any) -> None:
        from tezkor import backends

        self.block = block
        self.hooks = connection.run_on_commit
        self.survives = False
        self.births = {native.location(): native.sequence() for native in list(backends._stores.values())}

    def is_of(self, connection: Any, block: Any) -> bool:
        if self.block is not block:
            return False
        if self.hooks is not connection.run_on_commit:
            if not self.survives:
                return False
            self.hooks, self.survives = connection.run_on_commit, False
        return True


def _state_of(connection: Any) -> FirstQuery | None:
    """What is known of the transaction that is open; what is known of an earlier one is forgotten."""
    global open_births
    state: FirstQuery | None = connection.__dict__.get(STATE)
    if state is None:
        return None
    block = _block_of(connection) if connection.in_atomic_block else None
    if block is not None and state.is_of(connection, block):
        return state
    del connection.__dict__[STATE]
    open_births -= 1
    return None


def _watch(*, connection: Any, **kwargs: Any) -> None:
    """Called whenever a connection is made, in the thread that uses it."""
    _note_queries_of(connection)
    known = _initialised()
    if not any(connection is each for each in known):
        _mine.references = [weakref.ref(each) for each in (*known, connection)]


def _note_queries_of(connection: Any) -> None:
    if _note not in connection.execute_wrappers:
        connection.execute_wrappers.insert(0, _note)


def _note(execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
    connection = context["connection"]
    if connection.in_atomic_block or STATE in connection.__dict__:
        _see(connection, sql)
    return execute(sql, params, many, context)


def _see(connection: Any, sql: Any) -> None:
    global open_births
    state = _state_of(connection)
    block = _block_of(connection)
    if state is None and block is not None:
        state = connection.__dict__[STATE] = FirstQuery(connection, block)
        open_births += 1
    if state is not None and isinstance(sql, str) and sql.startswith("ROLLBACK TO SAVEPOINT"):
        state.survives = True
