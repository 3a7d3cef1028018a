"""Atomic blocks: which database connections of the running thread are in one, and where in their hooks ours belong.

A coroutine that ``async_to_sync`` runs has those of the thread that waits for it, since that is where the ORM goes back
to. It never opens a connection, and runs no query.
"""

from __future__ import annotations

import threading
import weakref
from asyncio import _get_running_loop
from collections.abc import Iterable
from typing import Any

from asgiref.sync import AsyncToSync, SyncToAsync
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

# The connections of a thread, by alias: Django's handler keeps them in a threading.local, and takes microseconds to
# list them. Inside an event loop it keeps them elsewhere, and leaves a mark here.
_storage = getattr(connections._connections, "_storage", None)
_is_plain = type(_storage) is threading.local

# The connections of all threads, by their id.
_known: dict[int, weakref.ref[Any]] = {}


def know(connection: Any) -> None:
    """Has coroutines find a connection that was opened."""
    place = id(connection)

    def forget(reference: weakref.ref[Any]) -> None:
        if _known.get(place) is reference:
            del _known[place]

    _known[place] = weakref.ref(connection, forget)


def connections_here() -> Iterable[Any]:
    """The connections that the running thread has made so far; in a coroutine, those that its transaction is on."""
    # That nobody is in a transaction at all is seen first: asgiref takes microseconds to say who waits.
    if _get_running_loop() is not None and is_any_open() and (theirs := _connections_of_who_waits()):
        return theirs
    mine = _storage.__dict__ if _is_plain else None
    if mine is not None and "cvar" not in mine:
        return mine.values()
    try:
        found: list[Any] = connections.all(initialized_only=True)
    except ImproperlyConfigured:
        return ()  # no settings: no databases
    return found


def is_any_open() -> bool:
    """Whether any thread is in a transaction, a TestCase's own included."""
    for reference in tuple(_known.values()):
        connection = reference()
        if connection is not None and connection.in_atomic_block:
            return True
    return False


def _connections_of_who_waits() -> list[Any]:
    """Those of the thread that waits for the running coroutine, if one of them is in a transaction."""
    thread = _who_waits()
    known = [reference() for reference in tuple(_known.values())]
    theirs = [
        connection for connection in known if connection is not None and connection._thread_ident == thread
    ]
    return theirs if any(connection.in_atomic_block for connection in theirs) else []


def _who_waits() -> int | None:
    """The thread that called the running coroutine by ``async_to_sync``; that of ``SyncToAsync.__call__``."""
    executor = getattr(AsyncToSync.executors, "current", None)
    if executor is None and SyncToAsync.thread_sensitive_context.get(None) is None:
        executor = AsyncToSync.loop_thread_executors.get(_get_running_loop())  # type: ignore[arg-type]
    # One that has returned waits no more: the task has outlived its caller.
    while executor is not None and getattr(executor, "_broken", False):
        executor = getattr(executor, "_old_executor", None)
    thread = getattr(executor, "_work_thread", None)
    return None if thread is None else thread.ident


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
