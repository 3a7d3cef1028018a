"""Atomic blocks: which database connections of the running thread are in one, and where in their hooks ours belong.

It never opens a connection, and runs no query.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

# The connections of a thread, by alias: Django's handler keeps them in a threading.local, and takes microseconds to
# list them. Inside an event loop it keeps them elsewhere, and leaves a mark here.
_storage = getattr(connections._connections, "_storage", None)
_is_plain = type(_storage) is threading.local


def connections_here() -> Iterable[Any]:
    """The connections that the running thread has made so far."""
    mine = _storage.__dict__ if _is_plain else None
    if mine is not None and "cvar" not in mine:
        return mine.values()
    try:
        found: list[Any] = connections.all(initialized_only=True)
    except ImproperlyConfigured:
        return ()  # no settings: no databases
    return found


def is_open() -> bool:
    """Whether this thread is in a transaction, of any database."""
    for connection in connections_here():  # noqa: SIM110 (a generator would cost as much again)
        if connection.in_atomic_block and block_of(connection) is not None:
            return True
    return False


def open_blocks() -> list[tuple[Any, Any]]:
    """The connections that are in a transaction, each with its outermost block."""
    return [
        (connection, block)
        for connection in connections_here()
        if connection.in_atomic_block and (block := block_of(connection)) is not None
    ]


def block_of(connection: Any) -> Any:
    """The outermost atomic block that is not a TestCase's own."""
    for block in connection.atomic_blocks:
        if not block._from_testcase:
            return block
    return None


def savepoints_of(connection: Any, block: Any) -> tuple[Any, ...]:
    """The savepoints that the block lies in, its own included: a TestCase's blocks make it one."""
    blocks, savepoints = connection.atomic_blocks, connection.savepoint_ids
    # The outermost block of a connection is a transaction and has none.
    return tuple(savepoints[: blocks.index(block) + 1 - (len(blocks) - len(savepoints))])


def place_of_hook(connection: Any, block: Any, ours: type) -> int:
    """The place in the hooks that comes before those of others, and after those that are methods of `ours`."""
    hooks = connection.run_on_commit
    savepoints = savepoints_of(connection, block)
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
        if type(getattr(hooks[middle][1], "__self__", None)) is ours:
            low = middle + 1
        else:
            high = middle
    return low
