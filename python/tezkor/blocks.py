"""Blocks: a hand-written get and set, protected as a loader is (``with cache.load(key):``).

They never store what an invalidation or a set has overtaken since the block began.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Generator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from tezkor import flights, loads, patience, transactions
from tezkor._native import Load
from tezkor.drivers import arun, run
from tezkor.flights import Owned
from tezkor.terms import Adaptive, Terms, check_terms

# The blocks that are open in this process, by their ids: while there are none, a set asks no further.
open_blocks: set[int] = set()
# A context may live on when a block has gone without an end.
_blocks: ContextVar[tuple[weakref.ref[Bracket], ...]] = ContextVar("tezkor_blocks", default=())


@dataclass
class Bracket:
    """``with cache.load(key):`` protects the get and set of the key in the block as ``get_or_set`` protects a loader.

    Whoever comes while another is in such a block of the key waits at its beginning, and then finds the value.
    """

    cache: Any
    key: Any
    version: Any = None
    # What was found at the beginning; None where it is missing. A later get may miss it.
    value: Any = None
    _load: Load | None = field(default=None, repr=False)
    _owned: Owned | None = field(default=None, repr=False)
    # Of a block on a server that began with a value: it knows what was there, of which the server keeps no track.
    _late: Load | None = field(default=None, repr=False)
    _birth: int = field(default=0, repr=False)
    _full_key: str = field(default="", repr=False)
    _tokens: list[tuple[ContextVar[Any], Any]] = field(default_factory=list, repr=False)

    @property
    def missing(self) -> bool:
        """Whether there is no fresh value, so that the block is to set one."""
        return self._load is not None

    def __enter__(self) -> Bracket:
        return self._enter(run(self._begin()))

    async def __aenter__(self) -> Bracket:
        return self._enter(await arun(self._begin()))

    def _begin(self) -> Generator[Any, Any, Load | None]:
        asked = loads.Asked(self.cache, self.version, loads.Source(None, False), Terms())
        waits = True
        while True:
            found = yield from asked.begin(self.key)
            if type(found) is not Load:
                self.value = found
                if not self.cache._near:
                    self._late = yield from asked.alone(self.key)
                return None
            if not found.is_busy:
                return found
            where = loads.where_of(self.cache, found)
            flight = flights.open_flights.get(where)
            is_over = False
            if waits:
                try:
                    is_over, flight = yield from loads.wait(asked, self.key, found, flight, None)
                finally:
                    found.end()
            if not is_over:
                alone: Load = yield from asked.alone(self.key)
                return alone
            # Blocks that set nothing would otherwise run one after the other, for as many as there are.
            waits = flight is None or flight.values.get(where) is not loads.Unset

    def _enter(self, load: Load | None) -> Bracket:
        self._load = load
        open_blocks.add(id(self))
        self._tokens = [(_blocks, _blocks.set((*_blocks.get(), weakref.ref(self))))]
        if load is None:
            # What is there may be gone when the block looks for it, and what the block sets then has a birth too.
            birth = transactions.birth(self.cache)
            self._birth = self.cache._sequence() if birth is None else birth
            self._full_key = self.cache._make_full_key(self.key, self.version)
        else:
            self._full_key = load.full_key
            self._owned = Owned({loads.where_of(self.cache, load): load})
            flight = self._owned.flight
            flight.values = dict.fromkeys(flight.places, loads.Unset)  # until it is set
            flight.thread = threading.get_ident()
            flight.loop = asyncio._get_running_loop()
            flight.home = None if flight.loop is None else patience.home()
            flight.announce()
            self._tokens.append((flights.holding, flights.holding.set((*flights.holding.get(), flight))))
        return self

    def set(self, value: Any, timeout: Any = DEFAULT_TIMEOUT, tags: Any = None, stale: Any = None) -> bool:
        """Stores the value; False when an invalidation or a set has overtaken the block, or it was set before.

        Where the block began with a value, invalidations alone overtake it; on a server, sets do too.
        """
        check_terms(self.cache.lasting(timeout), {"tags": tags, "stale": stale})
        if not self.is_open:
            return False
        load = self._load
        if load is None:
            load = self._late or self.cache._load(self.key, self.version, self._birth, 0.0, True, True)
        if self._owned is not None:
            self._owned.flight.values = {}
        if loads.is_hidden(self.cache, load, tags):
            load.end()
            return False
        try:
            return bool(run(loads.store(self.cache, load, value, Adaptive(timeout, tags, stale))))
        finally:
            if self._load is None:
                load.end()
                if self._late is not None:  # for the next one
                    self._late = self.cache._load(self.key, self.version, self._birth, 0.0, True, True)

    @property
    def is_open(self) -> bool:
        return id(self) in open_blocks

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if not self.is_open:
            return
        # First of all: whoever asks for the key later would wait for ever.
        if self._load is not None and isinstance(error, Exception):
            loads.fail(self._load, error)
        if self._owned is not None:
            self._owned.flight.give_up()
        if self._late is not None:
            self._late.end()
        open_blocks.discard(id(self))
        while self._tokens:
            flights.reset(*self._tokens.pop())

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.__exit__(kind, error, trace)

    def __del__(self) -> None:
        """A generator that nobody closes, or an exception that hits between two lines, leaves a block open."""
        open_blocks.discard(id(self))  # its loads end when nobody has them


class NoBracket:
    """A block where nothing is kept: it protects nothing, and there is never a value."""

    missing = True
    value = None

    def __init__(self, cache: Any, key: Any, version: Any = None) -> None:
        self.cache, self.key, self.version = cache, key, version

    def set(self, value: Any, timeout: Any = DEFAULT_TIMEOUT, tags: Any = None, stale: Any = None) -> bool:
        self.cache.set(self.key, value, timeout, self.version, tags=tags, stale=stale)
        return False

    def __enter__(self) -> NoBracket:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    async def __aenter__(self) -> NoBracket:
        return self

    async def __aexit__(self, *error: Any) -> None:
        pass


def block_of(cache: Any, key: Any, version: Any) -> Bracket | None:
    """The innermost open block of the key, of the running thread or task."""
    blocks = _blocks.get()
    if not blocks:
        return None
    full_key = cache._make_full_key(key, version)
    for reference in reversed(blocks):
        block = reference()
        if (
            block is not None
            and block.is_open
            and block.cache.place == cache.place
            and block._full_key == full_key
        ):
            return block
    return None
