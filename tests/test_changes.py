"""Random transactions against a model: every read agrees with it, inside and for others."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_transactions import Wrong, made, query

from tezkor import _native, births

EXAMPLES = 3000 if os.environ.get("SOAK") == "1" else 200
KEYS = ["a1", "a2", "b1"]
VERSIONS = [1, 2]
PLACES = [(key, version) for version in VERSIONS for key in KEYS]
TAGS = ["s", "t"]
DEFAULT_SECONDS = 300
# How much of a timeout may have passed when it is looked at.
SLOWEST_SECONDS = 100

places = st.sampled_from(PLACES)
values = st.integers(0, 99)
tags = st.lists(st.sampled_from(TAGS), max_size=2)
timeouts = st.sampled_from([None, 1000, 5000, DEFAULT_SECONDS])
timeouts_or_none = st.one_of(timeouts, st.just(0))
stales = st.sampled_from([None, 50.0])
shared_calls = [
    st.tuples(st.just("set"), places, values, timeouts_or_none, tags, stales),
    st.tuples(
        st.just("many"), st.lists(st.sampled_from(KEYS)), st.sampled_from(VERSIONS), values, timeouts_or_none
    ),
    st.tuples(st.just("delete"), places),
    st.tuples(st.just("tags"), st.lists(st.sampled_from(TAGS), min_size=1)),
    st.tuples(st.just("pattern"), st.sampled_from(["a*", "*1", "?2", "[!a]*"]), st.sampled_from(VERSIONS)),
    st.tuples(st.just("clear")),
    st.tuples(st.just("prefix")),
    st.tuples(st.just("query")),
    st.tuples(st.just("fill"), places, tags),
    st.tuples(st.just("load"), places, values, timeouts_or_none, tags, stales),
]
late_calls = [
    *shared_calls,
    st.tuples(st.just("add"), places, values, timeouts),
    st.tuples(st.just("touch"), places, timeouts),
    st.tuples(st.just("persist"), places),
    st.tuples(st.just("incr"), places),
    st.tuples(st.just("move"), places),
]
FITS = {
    "a*": lambda key: key[0] == "a",
    "*1": lambda key: key[1] == "1",
    "?2": lambda key: key[1] == "2",
    "[!a]*": lambda key: key[0] != "a",
}


def blocks_of(calls):
    """Calls, and blocks of them: whether each fails, and whether it has a savepoint."""

    def block_of(inner):
        return st.tuples(st.just("block"), st.booleans(), st.booleans(), inner)

    def items_of(inner, most):
        is_block = st.sampled_from([True, False, False])
        return st.lists(is_block.flatmap(lambda each: block_of(inner) if each else calls), max_size=most)

    inside = items_of(items_of(st.lists(calls, max_size=4), 5), 6)
    # What comes first may be there for others already.
    return st.tuples(
        st.lists(calls, max_size=3), block_of(inside), st.lists(block_of(inside), max_size=1)
    ).map(lambda parts: [*parts[0], parts[1], *parts[2]])


class Entry(NamedTuple):
    """What the model knows of an entry."""

    value: Any
    tags: frozenset[str] = frozenset()
    timeout: float | None = DEFAULT_SECONDS
    stale: float = 0.0


def made_of(value, timeout=DEFAULT_SECONDS, tags=(), stale=None):
    """The entry that a set makes; None: it makes none."""
    return None if timeout == 0 else Entry(value, frozenset(tags), timeout, stale or 0.0)


def do(cache, call):
    """Does a call; what it returned."""
    match call:
        case ("set", (key, version), value, timeout, tags, stale):
            return cache.set(key, value, timeout, version, tags=tags, stale=stale)
        case ("many", keys, version, value, timeout):
            return cache.set_many(dict.fromkeys(keys, value), timeout, version)
        case ("add", (key, version), value, timeout):
            return cache.add(key, value, timeout, version)
        case ("touch", (key, version), timeout):
            return cache.touch(key, timeout, version)
        case ("persist", (key, version)):
            return cache.persist(key, version)
        case ("incr", (key, version)):
            try:
                return cache.incr(key, 1, version)
            except (ValueError, TypeError) as error:
                return type(error)
        case ("move", (key, version)):
            try:
                return cache.incr_version(key, 3 - 2 * version, version)
            except ValueError as error:
                return type(error)
        case ("delete", (key, version)):
            return cache.delete(key, version)
        case ("tags", tags):
            return cache.invalidate_tags(*tags)
        case ("pattern", pattern, version):
            return cache.delete_pattern(pattern, version)
        case ("clear",):
            return cache.clear()
        case ("prefix",):
            return cache.clear_prefix()
        case ("query",):
            return query()
        case ("fill", (key, version), tags):
            return cache.get_or_set(key, "loaded", version=version, tags=tags)
        case ("load", (key, version), value, timeout, tags, stale):
            with cache.load(key, version) as load:
                cache.set(key, value, timeout, version, tags=tags, stale=stale)
                return None if load.missing else load.value
    raise AssertionError(call)


def is_about(call, place, tags=frozenset()):
    """Whether a call changes what is at a place, if that has these tags."""
    match call:
        case ("set" | "add" | "touch" | "persist" | "incr" | "load", other, *_):
            return place == other
        case ("many", keys, version, *_):
            return place[0] in keys and place[1] == version
        case ("move", (key, _)):
            return place[0] == key
    return invalidates(call, place, tags)


def invalidates(call, place, tags=frozenset()):
    match call:
        case ("delete", other):
            return place == other
        case ("tags", names):
            return not tags.isdisjoint(names)
        case ("pattern", pattern, version):
            return place[1] == version and FITS[pattern](place[0])
        case ("clear",) | ("prefix",):
            return True
        case ("move", other):
            return place == other
    return False


def removes(call, place, tags=frozenset()):
    """Whether what a block has set at a place before is older than the call."""
    expires = call[0] in ("set", "many", "load") and call[4 if call[0] == "many" else 3] == 0
    # A load is overtaken by any pattern of its prefix.
    return call[0] == "pattern" or invalidates(call, place, tags) or (expires and is_about(call, place))


def after(entries, call):
    """The entries, by place, after a call that was done."""
    before = entries
    entries = {place: entry for place, entry in entries.items() if not invalidates(call, place, entry.tags)}
    made = {}
    match call:
        case ("set" | "load", place, value, timeout, tags, stale, *_):
            made = {place: made_of(value, timeout, tags, stale)}
        case ("many", keys, version, value, timeout):
            made = {(key, version): made_of(value, timeout) for key in keys}
        case ("add", place, value, timeout) if place not in entries:
            made = {place: made_of(value, timeout)}
        case ("touch", place, timeout) if place in entries:
            made = {place: entries[place]._replace(timeout=timeout)}
        case ("persist", place) if place in entries:
            made = {place: entries[place]._replace(timeout=None)}
        case ("incr", place) if place in entries and entries[place].value != "loaded":
            made = {place: entries[place]._replace(value=entries[place].value + 1)}
        case ("move", (key, version)) if (key, version) in before:
            made = {(key, 3 - version): before[key, version]._replace(timeout=DEFAULT_SECONDS)}
    entries.update(made)
    return {place: entry for place, entry in entries.items() if entry is not None}


def returned(entries, call):
    """What a call returns to who sees these entries."""
    match call:
        case ("many", *_):
            return []
        case ("add", place, *_):
            return place not in entries
        case ("touch" | "delete", place, *_):
            return place in entries
        case ("persist", place):
            return place in entries and entries[place].timeout is not None
        case ("incr", place):
            if place not in entries:
                return ValueError
            value = entries[place].value
            return TypeError if value == "loaded" else value + 1
        case ("move", (key, version)):
            return 3 - version if (key, version) in entries else ValueError
        case ("pattern", *_):
            return sum(invalidates(call, place) for place in entries)
        case ("fill", place, *_):
            return entries[place].value if place in entries else "loaded"
        case ("load", place, *_):
            return entries[place].value if place in entries else None
    return None


def read(cache):
    """What is there, as every read tells it."""
    found = {}
    for key, version in PLACES:
        value = cache.get(key, found, version)
        left = cache.ttl(key, version)
        story = cache.explain(key, version)
        is_there = value is not found
        assert (cache.has_key(key, version), left != 0, story["found"]) == (is_there,) * 3
        assert cache.get_many([key], version) == ({key: value} if is_there else {})
        if is_there:
            found[key, version] = Entry(value, frozenset(story["tags"]), left, story["stale"])
    for version in VERSIONS:
        assert sorted(cache.keys("*", version)) == sorted(key for key, other in found if other == version)
    return found


def is_same(found, expected):
    """Whether entries are what the model has, but for the time that has passed."""
    for place, entry in expected.items():
        left = found[place].timeout if place in found else None
        if place not in found or found[place] != entry._replace(timeout=left):
            return False
        if entry.timeout is None or left is None:
            if entry.timeout is not left:
                return False
        elif not entry.timeout - SLOWEST_SECONDS <= left <= entry.timeout:
            return False
    return found.keys() == expected.keys()


class Run:
    """Runs calls and blocks on a cache, and on a model beside it."""

    def __init__(self, cache, other):
        self.cache = cache
        self.other = other
        self.depth = 0

    def run(self, calls):
        for call in calls:
            if call[0] == "block":
                self.block(*call[1:])
            else:
                self.call(call)
            self.check()

    def block(self, fails, has_savepoint, calls):
        mark = self.mark()
        outermost = self.depth == 0
        try:
            with transaction.atomic(savepoint=has_savepoint or outermost or fails):
                self.depth += 1
                self.check()
                self.run(calls)
                if fails:
                    raise Wrong
        except Wrong:
            pass
        self.depth -= 1
        self.left(mark, fails)

    def others(self):
        return self.other.submit(read, self.cache).result()


class LateRun(Run):
    """TRANSACTIONAL: exactly what the model says, inside and outside."""

    calls = st.one_of(late_calls)
    options = {"TRANSACTIONAL": True}

    def __init__(self, cache, other):
        super().__init__(cache, other)
        self.shared = {}  # what others see
        self.changes = []  # what waits for the commit

    def own(self):
        entries = self.shared
        for change in self.changes:
            entries = after(entries, change)
        return entries

    def is_changed(self, place):
        # An entry that was invalidated has tags too: what is loaded in its place may depend on them.
        tags = frozenset(self.cache._tags_at(f":{place[1]}:{place[0]}"))
        return any(is_about(change, place, tags) for change in self.changes)

    def call(self, call):
        own = self.own()
        if call[0] == "fill":
            self.fill(own, *call[1:])
        elif not self.depth or (
            call[0] in ("add", "touch", "persist", "incr") and not self.is_changed(call[1])
        ):
            self.shared = after(self.shared, call)
        elif call[0] not in ("add", "move") or (call[1] in own) == (call[0] == "move"):
            # What a block sets whose key the transaction has removed before is not kept.
            is_lost = call[0] == "load" and call[1] not in own and self.is_changed(call[1])
            self.changes.append((*call, "lost") if is_lost else call)
        assert do(self.cache, call) == returned(own, call), call

    def fill(self, own, place, tags):
        """Others see what is loaded inside, unless the transaction has changed the key or invalidated a tag."""
        is_hidden = any(invalidates(change, place, frozenset(tags)) for change in self.changes)
        if place not in own and not self.is_changed(place) and not is_hidden:
            self.shared = {**self.shared, place: made_of("loaded", tags=tags)}

    def mark(self):
        return len(self.changes)

    def left(self, mark, fails):
        if fails:
            del self.changes[mark:]
        if not self.depth:
            done = []
            for change in self.changes:
                if change[0] == "load":
                    # What was removed at this commit is younger than the block.
                    tags = frozenset(change[4])
                    if change[-1] == "lost" or any(removes(before, change[1], tags) for before in done):
                        change = ("delete", change[1])
                elif change[0] == "move" and change[1] not in self.shared:
                    change = ("delete", (change[1][0], 3 - change[1][1]))
                self.shared = after(self.shared, change)
                done.append(change)
            self.changes = []

    def check(self):
        assert is_same(read(self.cache), self.own())
        assert is_same(self.others(), self.shared)


class EarlyRun(Run):
    """By default: others put the old value back after each call; it is never read inside, nor after the commit."""

    calls = st.one_of(shared_calls)
    options = {}

    def __init__(self, cache, other):
        super().__init__(cache, other)
        self.dirty = []
        self.mine = {}  # what the transaction has set after it had invalidated it

    def call(self, call):
        if self.depth:
            before = self.mine
            self.mine = {
                place: entry for place, entry in before.items() if not invalidates(call, place, entry.tags)
            }
            if call[0] in ("set", "many", "load"):
                for place in PLACES:
                    entry = after({}, call).get(place)
                    # A block that begins with a clean key is like any other load.
                    tags = {"s"} if call[0] == "load" else entry.tags if entry else frozenset()
                    if is_about(call, place) and (place in before or self.is_dirty(place, tags)):
                        self.mine[place] = entry
                self.mine = {place: entry for place, entry in self.mine.items() if entry is not None}
            elif call[0] not in ("query", "fill"):
                self.dirty.append(call)
        if call[0] == "fill":
            self.fill(*call[1:])
        else:
            do(self.cache, call)
        self.other.submit(self.put_back).result()

    def put_back(self):
        for key, version in PLACES:
            self.cache.set(key, "old", version=version, tags=["s"])

    def fill(self, place, tags):
        if self.depth and place not in self.mine and self.is_dirty(place, frozenset(tags)):
            key, version = place
            self.other.submit(self.cache.delete, key, version).result()
            assert self.cache.get_or_set(key, "loaded", version=version, tags=tags) == "loaded"
            assert self.other.submit(self.cache.get, key, None, version).result() is None

    def is_dirty(self, place, tags):
        return any(invalidates(call, place, frozenset(tags)) for call in self.dirty)

    def mark(self):
        return None

    def left(self, mark, fails):
        if not self.depth:
            if not fails:
                assert not [place for place in self.others() if self.is_dirty(place, {"s"})]
            self.dirty, self.mine = [], {}

    def check(self):
        if self.depth:
            found = read(self.cache)
            assert is_same({place: found[place] for place in self.mine if place in found}, self.mine)
            assert not [
                place for place in found if found[place].value == "old" and self.is_dirty(place, {"s"})
            ]


@pytest.mark.parametrize("kind", [LateRun, EarlyRun])
def test_random_transactions_do_what_the_model_does(kind):
    cache = made(**kind.options)
    with ThreadPoolExecutor(1) as other:

        @settings(
            max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None
        )
        @given(blocks_of(kind.calls))
        def check(calls):
            cache.clear()
            kind(cache, other).run(calls)
            assert _native.open_transactions(0) == 0
            assert not births.open_births

        check()
