"""What a task asks of a Redis or a memcached: threads of the native pool wait for it, and its loop learns of the end.

Each loop has one native ``Later``, which goes with it: loops come and go with ``async_to_sync``. A method that cannot
be left to them is answered with NotImplemented, and runs in a thread as Django's own would. So does everything inside
a transaction, which is of that thread, and what somebody has overridden or replaced.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, _get_running_loop
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakKeyDictionary

from tezkor import _native, blocks, transactions

_loops: WeakKeyDictionary[AbstractEventLoop, _native.Later] = WeakKeyDictionary()


def call(method: Callable[..., Any], *args: Any) -> Awaitable[Any]:
    """What a native method of a cache on a server returns; called in a task."""
    loop = _get_running_loop()
    assert loop is not None
    later = _loops.get(loop)
    if later is None or not later.is_own():
        _let_go()
        later = _native.Later()
        loop.add_reader(later.fileno(), later.drain)
        _loops[loop] = later
    return later.call(loop, method, *args)


def _let_go() -> None:
    """Forgets loops that were closed before all answers had come: the futures of these would keep them for ever."""
    for reference in _loops.keyrefs():
        loop = reference()
        if loop is not None and loop.is_closed():
            later = _loops.pop(loop, None)
            if later is not None:
                later.close()


def may_write(cache: Any) -> bool:
    """Whether no transaction and no block has a say in what the running task writes."""
    return not (
        cache.is_transactional
        or blocks.open_blocks
        or transactions.open_changes() > 0
        or transactions.is_open()
    )
