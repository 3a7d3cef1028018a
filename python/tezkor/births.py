"""Births: the logical time of each transaction's first query, before which no load inside it can be.

A load reads from the transaction's snapshot, which may be as old as that query. It never says that a load is younger
than it is.

An execute wrapper notes the times, in the list of the connection's hooks itself, which ends with the transaction.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterable
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.transaction import Atomic

from tezkor.atomic import block_of, connections_here, know

# True while some transaction of this process has had its first query.
open_births: dict[int, None] = {}

# Births that outlive the rollback of a savepoint, in the dictionary of their connection.
KEPT = "_tezkor_births"


def birth(cache: Any) -> int | None:
    """The logical time of the oldest snapshot that a load of this thread may read from; None: now."""
    if not open_births:
        return None
    oldest = None
    for connection in connections_here():
        if not connection.in_atomic_block:
            # What a savepoint that was rolled back by hand has left.
            connection.__dict__.pop(KEPT, None)
            continue
        births = _births_of(connection)
        if births is not None:
            # A cache that was opened since: nobody knows what was invalidated before.
            time = births.times.get(cache.place, 0)
            oldest = time if oldest is None else min(oldest, time)
    return oldest


def install() -> None:
    """Has the first query of each transaction noted; done once, when the backends are imported."""
    connection_created.connect(_watch, dispatch_uid="tezkor.transactions")
    made: Iterable[Any] = connections_here()
    if threading.active_count() > 1:
        # Other threads may keep connections that they have made before; only the garbage collector knows them.
        made = [each for each in gc.get_objects() if issubclass(type(each), BaseDatabaseWrapper)]
    for connection in made:
        _watch(connection=connection)


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
    know(connection)
    if _note in connection.execute_wrappers:
        return
    connection.execute_wrappers.insert(0, _note)
    block = block_of(connection) if connection.in_atomic_block else None
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
    from tezkor import backends, transactions

    births = _births_of(connection)
    if births is None:
        block = block_of(connection)
        if block is None:
            transactions.current()  # sees that it is over
        else:
            births = Births(
                block, {place: native.sequence() for place, native in list(backends._stores.items())}
            )
            _keep(connection, births)
    return births
