"""A cache on a Redis Cluster, and on what Sentinel watches, by settings as a site writes them.

The driver's own tests, with slots that move and nodes that die under load, are in Rust.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from typing import Any

import pytest
from servers import Servers
from test_loads import wait_until

from tezkor.backends import RedisCache
from tezkor.test import clear_caches

SHARED = {"TEST": {"SHARED": True}}


@pytest.fixture(autouse=True)
def own_regions(tmp_path_factory: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("TEZKOR_SHARED_DIRECTORY", str(tmp_path_factory.getbasetemp()))


def made(location: Any, **options: Any) -> RedisCache:
    cache = RedisCache(location, {"OPTIONS": SHARED | options})
    clear_caches()
    return cache


def test_the_whole_api_on_a_cluster(running: Servers) -> None:
    nodes = running.redis_cluster()
    if nodes is None:
        pytest.skip(running.missing["redis-server"])
    # One node is enough to find the others.
    cache = made(f"redis://{nodes[0]}", CLUSTER=True)
    keys = [f"key{number}" for number in range(200)]
    assert cache.set_many({key: key for key in keys}, 60, tags=["all"]) == []
    assert cache.get_many(keys) == {key: key for key in keys}
    assert sorted(cache.keys("key*")) == sorted(keys)
    assert asyncio.run(cache.aget_many(keys)) == {key: key for key in keys}
    cache.invalidate_tags("all")
    assert cache.get_many(keys) == {}
    assert cache.get_or_set("loaded", lambda: "value", 60, tags=["all"]) == "value"
    assert cache.get_or_set("loaded", lambda: "again", 60) == "value"
    assert cache.add("n", 1)
    assert [cache.incr("n"), cache.incr("n", 5), cache.decr("n")] == [2, 7, 6]
    with cache.lock("l") as lock:
        assert lock.locked()
    assert [bool(cache.rate_limit("r", 2, 60)) for _ in range(3)] == [True, True, False]
    assert cache.delete_pattern("*") == 2 + 200  # invalidated ones are counted too
    assert cache.keys() == []


def test_a_failover_of_sentinel_raises_in_no_read_and_is_followed(running: Servers) -> None:
    primary = running.redis(tcp=True)
    if primary is None:
        pytest.skip(running.missing["redis-server"])
    killed = running.processes[-1]
    replica = running.redis_replica(primary)
    sentinel = running.sentinel(primary)
    assert replica is not None
    assert sentinel is not None
    cache = made("redis://service/0", SENTINELS=[sentinel.split(":")])
    cache.set_many({f"key{number}": f"key{number}" for number in range(50)})
    # The replica has them too.
    copy = RedisCache(f"redis://{replica}/0", {"OPTIONS": SHARED | {"REGION": "copy"}})
    wait_until(lambda: len(copy.get_many([f"key{number}" for number in range(50)])) == 50)
    stop = threading.Event()
    wrong: list[Any] = []

    def read(number: int) -> None:
        while not stop.is_set():
            for key in (f"key{number}", f"key{number + 10}"):
                try:
                    found = cache.get(key)
                    cache.set(f"set{number}", number)
                except BaseException as error:
                    wrong.append(error)
                    return
                if found not in (None, key):
                    wrong.append((key, found))

    readers = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for reader in readers:
        reader.start()
    time.sleep(0.3)
    killed.send_signal(signal.SIGKILL)
    try:
        wait_until(lambda: cache.get("key7") is None, 5)
        wait_until(lambda: cache.get("key7") == "key7", 20)
        cache.set("after", 1)
        assert cache.get("after") == 1
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert not wrong, wrong[:3]
    assert len(cache.get_many([f"key{number}" for number in range(50)])) == 50
