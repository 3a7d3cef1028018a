"""What is called inside a transaction, of one or several databases, in threads, and in tests."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpResponse
from django.test import Client, TestCase, TransactionTestCase, override_settings
from django.urls import path

from tezkor import _native, births, transactions
from tezkor.backends import TezkorCache


class Wrong(Exception):
    """What a block is left with to have it rolled back."""


def made(**options):
    made = TezkorCache("transactions", {"OPTIONS": options} if options else {})
    made.clear()
    return made


@pytest.fixture
def cache():
    return made()


@pytest.fixture
def late():
    """A cache on which everything acts at commit."""
    return made(TRANSACTIONAL=True)


@pytest.fixture(autouse=True)
def nothing_is_left_open():
    before = _native.open_transactions(0)
    yield
    assert _native.open_transactions(0) == before
    transactions.birth(made())
    assert not transactions.open_births


@pytest.fixture
def databases(tmp_path):
    """Two more databases, in files."""
    names = ("first", "second")
    for name in names:
        connections.settings[name] = {**connections.settings["default"], "NAME": tmp_path / name}
        with connections[name].cursor() as cursor:
            cursor.execute("create table row (n integer)")
    yield names
    for name in names:
        connections[name].close()
        del connections[name]
        del connections.settings[name]


def elsewhere(function, *args):
    """What a thread sees, which is in no transaction."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function(*args)))
    thread.start()
    thread.join()
    return found[0]


def query(using="default"):
    with connections[using].cursor() as cursor:
        cursor.execute("select 1")


def first_change():
    """The first change of the first batch that waits for the commit."""
    return next(iter(connection.run_on_commit[0][1].__self__.batch.changes.values()))


# By default: at once, and again at the commit


def test_an_invalidation_is_done_at_once_and_again_at_the_commit(cache):
    cache.set("k", 1)
    cache.set("tagged", 1, tags=["t"])
    with transaction.atomic():
        assert cache.delete("k") is True
        cache.invalidate_tags("t")
        assert elsewhere(cache.get_many, ["k", "tagged"]) == {}
        # What others load now is what was there before the transaction.
        elsewhere(lambda: [cache.set("k", "old"), cache.set("tagged", "old", tags=["t"])])
        assert cache.get("k") is None
        assert cache.get("tagged") is None
        assert "k" not in cache
        assert cache.get_many(["k", "tagged"]) == {}
    assert cache.get("k") is None
    assert cache.get("tagged") is None


@pytest.mark.parametrize(
    "act",
    [
        lambda cache: cache.delete("user:1"),
        lambda cache: cache.delete_many(["user:1", "user:2"]),
        lambda cache: cache.delete_pattern("user:[0-9]"),
        lambda cache: cache.invalidate_tags("users"),
        lambda cache: cache.clear(),
        lambda cache: cache.clear_prefix(),
    ],
)
@pytest.mark.parametrize("is_late", [False, True])
def test_every_kind_of_invalidation_follows_the_transaction(act, is_late):
    cache = made(TRANSACTIONAL=True) if is_late else made()
    cache.set("user:1", "old", tags=["users"])
    with transaction.atomic():
        act(cache)
        assert elsewhere(cache.get, "user:1") == ("old" if is_late else None)
        elsewhere(lambda: cache.set("user:1", "old", tags=["users"]))
        assert cache.get("user:1") is None
        assert cache.get_or_set("user:1", "new", tags=["users"]) == "new"
        assert elsewhere(cache.get, "user:1") == "old"  # what was loaded inside is not stored for others
    assert cache.get("user:1") is None


def test_what_is_not_touched_is_read_from_the_cache(cache):
    cache.set("k", 1)
    cache.set("other", 2, tags=["u"])
    with transaction.atomic():
        cache.delete("k")
        cache.invalidate_tags("t")
        cache.delete_pattern("x*")
        assert cache.get("other") == 2
        assert elsewhere(cache.get, "other") == 2


def test_our_hooks_run_before_those_that_were_there(cache):
    seen = []
    with transaction.atomic():
        transaction.on_commit(lambda: seen.append(cache.get("k")))
        cache.delete("k")
        with transaction.atomic():
            cache.delete("l")
        elsewhere(cache.set, "k", "old")
        elsewhere(cache.set, "l", "old")
        transaction.on_commit(lambda: seen.append(cache.get("l")))
    assert seen == [None, None]


def test_a_hook_that_cannot_do_its_work_keeps_nobody_from_theirs(cache, monkeypatch, caplog):
    seen = []
    with transaction.atomic():
        cache.delete("k")
        elsewhere(cache.set, "l", "old")
        cache.delete("l")
        transaction.on_commit(lambda: seen.append(1))
        first_change().act = lambda: 1 / 0
    assert seen == [1]
    assert cache.get("l") is None
    assert "could not be done at its commit" in caplog.text


def test_a_thread_is_not_concerned_by_the_transaction_of_another(cache):
    cache.set("k", 1)
    with transaction.atomic():
        cache.delete("k")
        assert elsewhere(cache.get_or_set, "k", 2) == 2
        assert elsewhere(cache.get, "k") == 2


@pytest.mark.parametrize("is_late", [False, True])
def test_a_rollback_is_seen_at_once(is_late):
    cache = made(TRANSACTIONAL=True) if is_late else made()
    cache.set("k", 1)
    with pytest.raises(Wrong), transaction.atomic():
        query()
        cache.delete("k")
        assert _native.open_transactions(0) == 1
        raise Wrong
    # No query comes after it.
    assert _native.open_transactions(0) == 0
    assert not transactions.open_births
    assert cache.get("k") == (1 if is_late else None)


# TRANSACTIONAL: at the commit, in order


def test_changes_wait_for_the_commit_and_own_reads_see_them(late):
    late.set("k", 1)
    with transaction.atomic():
        late.set("k", [2], tags=["t"])
        late.set_many({"l": 3})
        late.delete("m")
        assert elsewhere(late.get_many, ["k", "l"]) == {"k": 1}
        late.get("k").append("mine")
        assert late.get("k") == [2]
        assert late.get_many(["k", "l", "m"]) == {"k": [2], "l": 3}
        assert "k" in late
        assert late.get_or_set("k", 9) == [2]
        late.invalidate_tags("t")
        assert late.get("k") is None
        late.set("k", 4)
        assert late.get("k") == 4
        late.set("k", 5, timeout=0)
        assert late.get("k") is None
        late.set("k", 6)
    assert elsewhere(late.get_many, ["k", "l"]) == {"k": 6, "l": 3}


def test_a_rollback_invalidates_nothing(late):
    late.set("k", 1, tags=["t"])
    before = (late.stats()["deletes"], late._sequence())
    for _ in range(3):
        with pytest.raises(Wrong), transaction.atomic():
            late.delete("k")
            late.invalidate_tags("t")
            late.delete_pattern("*")
            late.set("k", 2)
            late.clear()
            raise Wrong
    assert (late.stats()["deletes"], late._sequence()) == before
    assert late.get("k") == 1


def test_a_set_that_fails_at_the_commit_leaves_nothing_of_before(late, caplog):
    late.set("k", "old")
    with transaction.atomic():
        late.set("k", "new")
        first_change().act = lambda: 1 / 0
    assert late.get("k") is None
    assert "could not be done at its commit" in caplog.text


def test_a_savepoint_that_is_rolled_back_takes_its_changes_with_it(late):
    with transaction.atomic():
        late.set("k", 1)
        with pytest.raises(Wrong), transaction.atomic():
            late.set("k", 2)
            with transaction.atomic():
                late.set("l", 2)
            assert late.get_many(["k", "l"]) == {"k": 2, "l": 2}
            raise Wrong
        assert late.get_many(["k", "l"]) == {"k": 1}
        with transaction.atomic():
            late.set("m", 3)
    assert late.get_many(["k", "l", "m"]) == {"k": 1, "m": 3}


def test_a_savepoint_by_hand_drops_nothing(late):
    """As with Django's own on_commit, which knows the savepoints of blocks alone."""
    with transaction.atomic():
        sid = transaction.savepoint()
        late.set("k", 1)
        transaction.savepoint_rollback(sid)
        assert late.get("k") == 1
    assert late.get("k") == 1
    assert late.get_or_set("l", 1) == 1
    assert not births.open_births  # the next load forgets how old the transaction was


def test_by_default_a_savepoint_that_is_rolled_back_keeps_its_invalidations(cache):
    with transaction.atomic():
        with pytest.raises(Wrong), transaction.atomic():
            cache.delete("k")
            raise Wrong
        elsewhere(cache.set, "k", "old")
        assert cache.get("k") is None
    assert cache.get("k") is None


def test_many_changes_are_one_hook(cache, late):
    with transaction.atomic():
        for number in range(2000):
            cache.delete(f"k{number}")
            cache.delete(f"k{number}")
        assert len(connection.run_on_commit) == 1
        for number in range(2000):
            late.set(f"k{number}", number)
        assert len(connection.run_on_commit) == 2
        assert [late.get(f"k{number}") for number in range(2000)] == list(range(2000))


def test_all_own_reads_agree_with_get(late):
    """`get` saw what the transaction had changed; `ttl`, `keys`, `persist`, `delete_pattern` and `explain` told of what
    was there before: a key that was set and persisted in one transaction expired all the same."""
    late.set_many({"k": 1, "l": 1, "m": 1}, 60)
    late.set("tagged", 1, tags=["t"])
    with transaction.atomic():
        late.set("k", 2, 77, tags=["a", "b"])
        assert (late.ttl("k"), late.pttl("k")) == (77, 77_000)
        assert late.expire("k", 50)
        assert late.ttl("k") == 50
        assert late.pexpire("k", 1500)
        assert late.pttl("k") == 1500
        assert late.persist("k")
        assert late.ttl("k") is None
        assert not late.persist("k")
        story = late.explain("k")
        assert (story["key"], story["found"], story["store"]) == (":1:k", True, "transaction")
        assert (story["tags"], story["expires"]) == (["a", "b"], None)

        late.delete("l")
        assert (late.ttl("l"), late.pttl("l"), late.has_key("l")) == (0, 0, False)
        assert not late.persist("l")
        assert not late.expire("l", 5)
        assert not late.touch("l")
        story = late.explain("l")
        assert not story["found"]
        assert "transaction" in story["reason"]

        late.set("new", 1, 60)
        late.invalidate_tags("t")
        assert sorted(late.keys()) == sorted(late.iter_keys()) == ["k", "m", "new"]
        assert late.keys("?e*") == ["new"]
        assert late.keys("*", version=2) == []
        assert late.ttl("m") == 60
        assert late.explain("m")["store"] == "memory"
        assert late.delete_pattern("[a-m]") == 2
        assert late.delete_pattern("[a-m]") == 0
        late.set("l", 3)
        assert late.delete_pattern("[a-m]") == 1
        assert late.keys() == ["new"]
        late.set("m", 4, version=2)
        assert late.keys("*", version=2) == ["m"]
    assert late.keys() == ["new"]
    assert late.get("m", version=2) == 4


def test_what_is_persisted_in_its_transaction_does_not_expire(late):
    with transaction.atomic():
        late.set("k", 1, 60)
        assert late.persist("k")
        late.set("l", 1, None)
        assert late.expire("l", 60)
    assert late.ttl("k") is None
    assert 55 <= late.ttl("l") <= 60


def test_the_time_of_a_deferred_set_begins_at_the_commit(late):
    with transaction.atomic():
        late.set("k", 1, 0.2)
        late.set("l", 1)
        time.sleep(0.3)
        assert late.get("k") == 1
        assert late.pttl("k") == 200
        assert late.ttl("l") == 300  # the alias's TIMEOUT
    assert late.get("k") == 1
    assert 0 < late.pttl("k") <= 200


def test_by_default_the_time_of_a_set_begins_at_once(cache):
    with transaction.atomic():
        cache.delete("k")
        cache.set("k", 1, 0.1)
        assert 0 < cache.pttl("k") <= 100
        assert cache.keys() == ["k"]
        time.sleep(0.15)
        assert (cache.get("k"), cache.pttl("k"), cache.keys(), "k" in cache) == (None, 0, [], False)


def test_by_default_own_reads_do_not_see_what_others_have_put_back(cache):
    cache.set("kept", 1)
    with transaction.atomic():
        cache.delete("k")
        elsewhere(cache.set, "k", "old")
        assert (cache.ttl("k"), cache.keys(), cache.persist("k")) == (0, ["kept"], False)
        assert cache.explain("k")["found"] is False


def test_a_key_function_does_not_keep_own_reads_apart(monkeypatch):
    late = TezkorCache("functions", {"KEY_FUNCTION": upside_down, "OPTIONS": {"TRANSACTIONAL": True}})
    late.clear()
    late.set_many({"a": 1, "b": 1})
    with transaction.atomic():
        late.delete("a")
        late.set("c", 1, 60)
        assert sorted(late.keys()) == ["b/1", "c/1"]
        assert late.keys("c*") == ["c/1"]
        assert late.ttl("c") == 60
        assert late.delete_pattern("[bc]") == 2
        assert late.keys() == []
    assert late.keys() == []


def upside_down(key, prefix, version):
    return f"{key}/{version}"


def counted(cache, name):
    """A list that grows with each call of a native method."""
    calls = []
    method = getattr(cache, name)

    def call(*args):
        calls.append(args)
        return method(*args)

    setattr(cache, name, call)
    return calls


def test_a_pattern_that_is_deleted_again_and_again_is_deleted_once_at_the_commit(cache, late):
    """Each call read the whole LOCATION twice, and each was done again at the commit: 200 of them in one transaction,
    with 100 000 keys there, took a minute."""
    cache.set("user:1", 1)
    for each, at_once in ((cache, 3), (late, 0)):
        scans, deletions = counted(each, "_keys"), counted(each, "_delete_pattern")
        with transaction.atomic():
            for _ in range(3):
                each.delete_pattern("user:*")
            assert len(deletions) == at_once
            assert len(scans) == (0 if at_once else 1)  # how many there are is asked once
        assert len(deletions) == at_once + 1


def test_what_is_invalidated_again_after_it_was_set_is_gone_after_the_commit(late):
    for invalidate in (
        lambda: late.delete("k"),
        lambda: late.delete_pattern("k*"),
        lambda: late.invalidate_tags("t"),
        late.clear,
        late.clear_prefix,
    ):
        with transaction.atomic():
            invalidate()
            late.set("k", 1, tags=["t"])
            assert late.get("k") == 1
            invalidate()
            assert late.get("k") is None
        assert late.get("k") is None


def test_a_key_is_matched_with_each_pattern_once(late):
    """With 1000 patterns each read of another key took 4 ms."""
    late.set("k2", 1)
    matched = counted(late, "_matches")
    with transaction.atomic():
        late.set("k1", 1)
        for number in range(100):
            late.delete_pattern(f"other{number}*")
        late.delete_pattern("*1")
        late.delete_pattern("k?x")
        del matched[:]
        for _ in range(3):
            assert late.get_many(["k1", "k2", "k3"]) == {"k2": 1}
        # Those that begin otherwise are not looked at.
        assert sorted(args[:2] for args in matched) == sorted(
            (pattern, f":1:k{number}") for pattern in ("*1", "k?x") for number in (1, 2, 3)
        )
        late.set("k1", 2)
        late.delete_pattern("k1")
        assert late.get("k1") is None
        late.set("k1", 3)
        assert late.get("k1") == 3


def test_what_a_transaction_does_costs_the_same_however_much_it_has_done(late):
    """Each invalidation of a tag walked over all own keys: 1600 sets with as many invalidations took 125 us each."""

    def work(calls):
        started = time.thread_time()
        with transaction.atomic():
            for number in range(calls):
                late.set(f"k{number}", number, tags=[f"t{number}"])
                late.invalidate_tags(f"u{number}")
                late.delete_pattern(f"x{number}*")
                late.get("other")
        return (time.thread_time() - started) / calls

    late.clear()
    few = min(work(100) for _ in range(5))
    assert work(1600) < 4 * few


def test_add_touch_and_incr_go_on_from_what_the_transaction_has_changed(late):
    late.set_many({"k": 1, "l": 1})
    with transaction.atomic():
        assert late.add("new", 1)  # at once: it was not changed here
        assert elsewhere(late.get, "new") == 1
        late.delete("k")
        assert late.add("k", 5)
        assert not late.add("k", 6)
        assert late.incr("k", 2) == 7
        assert late.decr("k") == 6
        assert late.incr("counter", default=10) == 11
        assert late.get("k") == 6
        assert late.touch("k", 100)
        assert elsewhere(late.get_many, ["k", "counter"]) == {"k": 1, "counter": 11}
        late.set("l", 2)
        assert late.touch("l", 0)
        assert late.get("l") is None
        assert not late.touch("l")
        with pytest.raises(ValueError, match="Key 'l' not found"):
            late.incr("l")
    assert late.get_many(["k", "l", "counter"]) == {"k": 6, "counter": 11}
    assert 95 <= late.ttl("k") <= 100


def test_by_default_own_reads_see_what_was_set_after_an_invalidation(cache):
    with transaction.atomic():
        cache.delete_many(["k", "l", "m", "n"])
        cache.set("k", [1], tags=(tag for tag in "t"))
        assert elsewhere(cache.get, "k") == [1]
        assert cache.get("k") == [1]
        cache.set_many({"l": 2})
        assert cache.add("m", 3)
        assert cache.get_many(["k", "l", "m", "n"]) == {"k": [1], "l": 2, "m": 3}
        assert cache.incr("m") == 4
        assert cache.get("m") == 4
        assert cache.touch("m", 0)
        assert cache.get("m") is None
        cache.invalidate_tags("t")
        assert cache.get("k") is None
        cache.set("k", 5, timeout=0)
        assert cache.get("k") is None
    assert cache.get_many(["k", "l", "m", "n"]) == {}


def test_a_version_is_raised_in_a_transaction(cache, late):
    for each in (cache, late):
        each.clear()
        each.set("k", 1, 60, tags=["t"], stale=5)
        with transaction.atomic():
            assert each.incr_version("k") == 2
            assert (each.get("k"), each.get("k", version=2), each.ttl("k", version=2)) == (None, 1, 300)
            assert elsewhere(each.get, "k") == (1 if each is late else None)
            elsewhere(each.set, "k", "old")
            assert each.get("k") is None
            with pytest.raises(ValueError, match="Key 'k' not found"):
                each.incr_version("k")
        assert each.get("k") is None
        if each is cache:
            assert each.get("k", version=2) == 1
        else:
            # It is moved at the commit, and so is what was put back until then.
            assert each.get("k", version=2) == "old"
        each.set("k", 1, tags=["t"], stale=5)
        with transaction.atomic():
            each.delete("k")
            each.set("k", 2, tags=["t"], stale=7)
            assert each.incr_version("k") == 2
            assert each.get("k", version=2) == 2
            each.invalidate_tags("t")
            assert each.get("k", version=2) is None
        assert each.get("k", version=2) is None


def test_a_version_that_is_raised_in_a_transaction_that_is_rolled_back_stays(late):
    late.set("k", 1, tags=["t"])
    with pytest.raises(Wrong), transaction.atomic():
        late.incr_version("k")
        raise Wrong
    assert (late.get("k"), late.get("k", version=2)) == (1, None)


def test_tags_of_a_deferred_set_may_be_any_iterable(late):
    with transaction.atomic():
        late.set("k", 1, tags=(tag for tag in "t"))
    late.invalidate_tags("t")
    assert late.get("k") is None


def test_a_set_in_a_block_of_cache_load_waits_for_the_commit(late):
    """It was stored at once, and stayed there when the transaction was rolled back."""
    late.set("found", "old")
    with transaction.atomic():
        for key in ("missing", "found"):
            with late.load(key):
                late.set(key, "new", 60, tags=["t"])
                assert late.get(key) == "new"
            assert late.get(key) == "new"
        assert elsewhere(late.get_many, ["missing", "found"]) == {"found": "old"}
    assert late.get_many(["missing", "found"]) == {"missing": "new", "found": "new"}
    assert 55 <= late.ttl("missing") <= 60
    late.invalidate_tags("t")
    assert late.get_many(["missing", "found"]) == {}
    with pytest.raises(Wrong), transaction.atomic():
        with late.load("missing"):
            late.set("missing", "wrong")
        raise Wrong
    assert late.get("missing") is None


@pytest.mark.parametrize("found", [False, True])
@pytest.mark.parametrize("outdate", ["delete", "tags", "pattern"])
def test_a_set_in_a_block_of_cache_load_is_overtaken_until_the_commit(late, found, outdate):
    """What the block computed is as old as the block, though it is stored at the commit."""
    if found:
        late.set("k", "found", tags=["t"])
    with transaction.atomic():
        with late.load("k"):
            late.set("k", "computed", tags=["t"])
        elsewhere(
            {
                "delete": lambda: late.delete("k"),
                "tags": lambda: late.invalidate_tags("t"),
                "pattern": lambda: late.delete_pattern("k*"),
            }[outdate]
        )
        assert late.get("k") == "computed"
    assert late.get("k") is None


def test_a_deferred_set_keeps_all_that_it_was_called_with(late):
    """Timeout, version, tags and stale time, of a set, of several, and of one in a block."""

    def in_a_block(key, value, timeout, version, **terms):
        with late.load(key, version):
            late.set(key, value, timeout, version, **terms)

    def several(key, value, timeout, version, **terms):
        late.set_many({key: value}, timeout, version, **terms)

    calls = {"one": late.set, "several": several, "block": in_a_block}
    with transaction.atomic():
        for key, call in calls.items():
            call(key, 1, 1000, 2, tags=["t"], stale=50)
        late.set("persisted", 1, 1000)
        assert late.persist("persisted")
    for key in calls:
        assert late.get(key) is None
        story = late.explain(key, version=2)
        assert (story["found"], story["tags"], story["stale"]) == (True, ["t"], 50)
        assert 900 <= late.ttl(key, version=2) <= 1000
    assert late.ttl("persisted") is None


def test_a_set_in_a_block_of_a_key_that_the_transaction_has_invalidated_is_not_kept(late):
    """The block is older than that invalidation, which is done at the commit. Own reads see the set until then."""
    with transaction.atomic():
        late.delete("k")
        with late.load("k") as load:
            assert load.missing
            late.set("k", 1)
        assert late.get("k") == 1
    assert late.get("k") is None


def test_by_default_a_set_in_a_block_of_a_key_that_was_invalidated_is_kept_from_others(cache):
    with transaction.atomic():
        cache.delete("k")
        cache.invalidate_tags("t")
        for key, tags in (("k", []), ("l", ["t"])):
            with cache.load(key) as load:
                assert load.missing
                cache.set(key, 1, tags=tags)
            assert elsewhere(cache.get, key) is None
    assert cache.get_many(["k", "l"]) == {}


def test_logical_time_may_not_have_begun_yet():
    """Nothing was ever invalidated in the LOCATION."""
    late = TezkorCache("untouched", {"OPTIONS": {"TRANSACTIONAL": True}})
    assert late._sequence() == 0
    with transaction.atomic():
        with late.load("k"):
            late.set("k", 1)
    assert late.get("k") == 1
    assert late.incr_version("k") == 2
    assert late.get("k", version=2) == 1


def test_what_a_loader_deletes_is_not_stored_afterwards(late):
    def loader():
        late.delete("k")
        return 1

    with transaction.atomic():
        assert late.get_or_set("k", loader) == 1
        assert elsewhere(late.get, "k") is None


# Births


def fill(cache, key="k", tags=()):
    return cache.get_or_set(key, "loaded", tags=list(tags))


def test_a_load_is_as_old_as_the_first_query_of_its_transaction(cache):
    for outdate, tags in ((lambda: cache.delete("k"), []), (lambda: cache.invalidate_tags("t"), ["t"])):
        with transaction.atomic():
            query()  # its snapshot is from here
            elsewhere(outdate)
            assert fill(cache, tags=tags) == "loaded"
        assert cache.get("k") is None
        with transaction.atomic():
            elsewhere(outdate)
            query()
            assert fill(cache, tags=tags) == "loaded"
        assert cache.get("k") == "loaded"
        cache.delete("k")


def test_a_savepoint_that_is_rolled_back_makes_no_load_younger(cache):
    with transaction.atomic():
        query()
        elsewhere(cache.delete, "k")
        with pytest.raises(Wrong), transaction.atomic():
            raise Wrong
        fill(cache)
        sid = connection.savepoint()
        connection.savepoint_rollback(sid)
        fill(cache)
    assert cache.get("k") is None


def test_a_block_that_is_used_again_is_another_transaction(cache):
    @transaction.atomic
    def view():
        query()
        fill(cache)

    view()
    assert cache.get("k") == "loaded"
    cache.delete("k")
    view()
    assert cache.get("k") == "loaded"


@pytest.mark.parametrize("older", ["first", "second"])
def test_the_oldest_of_several_snapshots_counts(cache, databases, older):
    with transaction.atomic("first"), transaction.atomic("second"):
        query(older)
        elsewhere(cache.delete, "k")
        query("first")
        query("second")
        fill(cache)
    assert cache.get("k") is None


def test_the_wrapper_that_notes_first_queries_is_installed_once(databases):
    for _ in range(3):
        transactions.install()
        connections["first"].close()
        query("first")
    assert connections["first"].execute_wrappers.count(births._note) == 1


def test_a_transaction_that_was_under_way_before_the_wrapper_came_is_as_old_as_can_be(cache):
    cache.delete("k")
    with transaction.atomic():
        query()
        connection.execute_wrappers.remove(births._note)
        connection.run_on_commit = []
        elsewhere(transactions.install)
        fill(cache)
        query()
        fill(cache)
    assert cache.get("k") is None
    with transaction.atomic():
        query()
        fill(cache)
    assert cache.get("k") == "loaded"


def test_a_load_with_a_tag_that_its_transaction_has_invalidated_is_not_stored(cache):
    with transaction.atomic():
        cache.invalidate_tags("t")
        query()  # younger than the invalidation
        assert fill(cache, tags=["t"]) == "loaded"
        assert elsewhere(cache.get, "k") is None


# Several databases


def test_with_several_databases_invalidations_come_with_each_commit_and_sets_with_the_last(late, databases):
    late.set("k", "old")
    late.set("l", "old")
    with transaction.atomic("first"):
        with transaction.atomic("second"):
            late.set("k", "new")
            late.delete("l")
            late.set("m", "new")
        # What the one that has committed changed is not what was cached.
        assert elsewhere(late.get_many, ["k", "l", "m"]) == {}
        assert late.get("k") == "new"
        elsewhere(late.set, "l", "old")
    assert late.get_many(["k", "l", "m"]) == {"k": "new", "m": "new"}


def test_what_was_set_is_deleted_where_one_of_several_databases_is_rolled_back(late, databases):
    late.set("k", "old")
    with transaction.atomic("first"):
        with pytest.raises(Wrong), transaction.atomic("second"):
            late.set("k", "new")
            raise Wrong
        assert elsewhere(late.get, "k") == "old"
    assert late.get("k") is None
    with pytest.raises(Wrong), transaction.atomic("first"):
        with transaction.atomic("second"):
            late.set("k", "new")
        raise Wrong
    assert late.get("k") is None


def test_by_default_an_invalidation_is_repeated_at_each_commit(cache, databases):
    with transaction.atomic("first"):
        with transaction.atomic("second"):
            cache.delete("k")
            elsewhere(cache.set, "k", "old")
        assert elsewhere(cache.get, "k") is None
        elsewhere(cache.set, "k", "old")
        with transaction.atomic("second"):
            cache.delete("l")
            elsewhere(cache.set, "l", "old")
        assert elsewhere(cache.get, "l") is None
        elsewhere(cache.set, "l", "old")
    assert cache.get_many(["k", "l"]) == {}


# Where the blocks come from


class InTestCase(TestCase):
    """Its own blocks count as none."""

    def setUp(self):
        self.cache = made()
        self.late = made(TRANSACTIONAL=True)

    def test_outside_of_a_block_of_the_test_calls_act_at_once(self):
        self.late.set("k", 1)
        self.assertEqual(elsewhere(self.late.get, "k"), 1)
        self.late.delete("k")
        self.cache.delete("k")
        self.assertEqual(connection.run_on_commit, [])
        self.assertFalse(transactions.is_open())
        query()
        self.assertFalse(transactions.open_births)
        self.assertEqual(fill(self.cache), "loaded")
        self.assertEqual(self.cache.get("k"), "loaded")

    def test_queries_alone_leave_no_hooks(self):
        with self.captureOnCommitCallbacks() as hooks, transaction.atomic():
            query()
        self.assertEqual(hooks, [])

    def test_hooks_that_are_captured_do_the_work(self):
        order = []
        transaction.on_commit(lambda: order.append("before the capture"))
        with self.captureOnCommitCallbacks(execute=True) as hooks:
            with transaction.atomic():
                transaction.on_commit(lambda: order.append(self.late.get("k")))
                self.late.set("k", 1)
            self.assertIsNone(self.late.get("k"))
        self.assertEqual(self.late.get("k"), 1)
        self.assertEqual(order, [1])
        self.assertEqual(len(hooks), 2)

    def test_a_block_that_has_ended_says_no_more_what_is_read(self):
        block = transaction.atomic()  # as a decorator uses the same one for each call
        with block:
            self.cache.delete("k")
        elsewhere(self.cache.set, "k", 1)
        with block:
            self.assertEqual(self.cache.get("k"), 1)
        self.assertEqual(self.cache.get("k"), 1)
        self.assertEqual(_native.open_transactions(0), 0)

    def test_a_rollback_inside_the_test_is_one(self):
        with self.captureOnCommitCallbacks(execute=True) as hooks:
            with self.assertRaises(Wrong), transaction.atomic():
                self.late.set("k", 1)
                self.cache.delete("k")
                raise Wrong
        self.assertEqual(hooks, [])
        self.assertIsNone(self.late.get("k"))
        self.assertEqual(_native.open_transactions(0), 0)

    def test_births_follow_the_blocks_of_the_test(self):
        query()
        elsewhere(self.cache.delete, "k")
        with transaction.atomic():
            query()
            fill(self.cache)
        self.assertEqual(self.cache.get("k"), "loaded")


class InTransactionTestCase(TransactionTestCase):
    """It has no blocks of its own: those of the test are transactions."""

    available_apps = ()

    def test_blocks_commit(self):
        late = made(TRANSACTIONAL=True)
        with transaction.atomic():
            late.set("k", 1)
            self.assertIsNone(elsewhere(late.get, "k"))
        self.assertEqual(late.get("k"), 1)


def test_durable_blocks_and_blocks_without_savepoints(late):
    with transaction.atomic(durable=True):
        late.set("k", 1)
        with transaction.atomic(savepoint=False):
            late.set("l", 2)
            assert late.get_many(["k", "l"]) == {"k": 1, "l": 2}
    assert late.get_many(["k", "l"]) == {"k": 1, "l": 2}
    with pytest.raises(Wrong), transaction.atomic():
        with transaction.atomic(savepoint=False):
            late.set("k", 3)
            raise Wrong
    assert late.get("k") == 1


def change(request):
    cache = TezkorCache("transactions", {"OPTIONS": {"TRANSACTIONAL": True}})
    cache.set("k", "new")
    assert cache.get("k") == "new"
    assert elsewhere(cache.get, "k") is None
    if "fail" in request.GET:
        raise Wrong
    return HttpResponse("done")


urlpatterns = [path("change", change)]


def test_a_request_that_is_a_transaction_commits_its_changes_or_none(late, monkeypatch):
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    with override_settings(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], MIDDLEWARE=[]):
        with pytest.raises(Wrong):
            Client().get("/change?fail=1")
        assert late.get("k") is None
        assert Client().get("/change").content == b"done"
        assert late.get("k") == "new"


def test_transactions_in_threads_of_async_code(late):
    def change(number, fails):
        try:
            with transaction.atomic():
                late.set(f"k{number}", number)
                assert late.get(f"k{number}") == number
                if fails:
                    raise Wrong
        except Wrong:
            pass
        BaseDatabaseWrapper.close(connections["default"])  # its own close() keeps databases in memory

    async def main():
        tasks = [
            sync_to_async(change, thread_sensitive=number % 3 == 0)(number, number % 2)
            for number in range(12)
        ]
        await asyncio.gather(*tasks)
        return await late.aget_many([f"k{number}" for number in range(12)])

    assert asyncio.run(main()) == {f"k{number}": number for number in range(0, 12, 2)}


def test_without_autocommit_calls_act_at_once(late, databases):
    connections["first"].set_autocommit(False)
    late.set("k", 1)
    assert elsewhere(late.get, "k") == 1
    connections["first"].rollback()
    connections["first"].set_autocommit(True)


def test_a_connection_that_is_closed_inside_a_block_drops_its_changes(late, databases):
    with pytest.raises(Wrong), transaction.atomic("first"):
        late.set("k", 1)
        connections["first"].close()
        assert _native.open_transactions(0) == 0
        raise Wrong
    assert late.get("k") is None
