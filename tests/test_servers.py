"""Caches on real servers: settings as Django and django-redis spell them, the whole API, outages, secrets."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import request_finished, request_started
from django.test import override_settings
from test_loads import wait_until

import tezkor
from tezkor import server_options, servers
from tezkor.backends import MemcachedCache, PyLibMCCache, RedisCache, TezkorCache
from tezkor.checks import check_settings
from tezkor.test import clear_caches

SHARED = {"TEST": {"SHARED": True}}


@pytest.fixture(autouse=True)
def own_regions(tmp_path_factory: Any, monkeypatch: Any) -> None:
    """What this machine knows of the servers of these tests stays among them."""
    monkeypatch.setenv("TEZKOR_SHARED_DIRECTORY", str(tmp_path_factory.getbasetemp()))


@pytest.fixture
def cache(on_server: Any) -> Any:
    return on_server


def is_redis(cache: Any) -> bool:
    return type(cache) is RedisCache


# Settings


def read(location: Any, **options: Any) -> servers.Settings:
    return servers.read("redis", location, options)


def test_a_settings_file_of_django_redis_runs_as_it_stands_but_for_the_path():
    default = read(
        "redis://127.0.0.1:6379/1",
        CLIENT_CLASS="django_redis.client.DefaultClient",
        PASSWORD="s3cret",
        SOCKET_TIMEOUT=2,
        SOCKET_CONNECT_TIMEOUT=1,
        IGNORE_EXCEPTIONS=False,
        CONNECTION_POOL_KWARGS={"max_connections": 7, "retry_on_timeout": True},
        SERIALIZER="django_redis.serializers.json.JSONSerializer",
        COMPRESSOR="django_redis.compressors.zlib.ZlibCompressor",
    )
    assert default.arguments == {"reply_timeout": 2.0, "connect_timeout": 1.0, "connections": 7}
    assert default.cache == {"strict": True, "compress_min_bytes": 1024}
    assert default.explained.keys() == {
        "CONNECTION_POOL_KWARGS['retry_on_timeout']",
        "SERIALIZER",
        "COMPRESSOR",
    }
    assert "s3cret" not in default.name
    default.open()


@pytest.mark.parametrize(
    ("location", "options", "url"),
    [
        ("redis://h:1/2", {"PASSWORD": "p w"}, "redis://:p%20w@h:1/2"),
        ("redis://u:x@h", {"PASSWORD": "other"}, "redis://u:x@h"),
        ("redis://h", {"db": 3}, "redis://h/3"),
        ("redis://h/4", {"db": 3}, "redis://h/4"),
        ("unix:///a/b.sock", {"DB": 3, "PASSWORD": "p"}, "unix://:p@/a/b.sock?db=3"),
        ("redis://:p/x@h:1", {"DB": 3}, "redis://:p/x@h:1/3"),
    ],
)
def test_user_password_and_database_go_where_the_url_says_nothing(location, options, url):
    settings = read(location, **options)
    assert [settings._with_login(each) for each in settings.locations] == [url]


def test_lists_of_replicas_and_sentinels():
    for location in ("redis://a:1/0,redis://b:2/0", ["redis://a:1/0", "redis://b:2/0"]):
        assert read(location, READ_REPLICAS=True).locations == ["redis://a:1/0", "redis://b:2/0"]
    sentinel = read(
        "redis://mymaster/0",
        CLIENT_CLASS="django_redis.client.SentinelClient",
        SENTINELS=[("10.0.0.1", 26379), "10.0.0.2:26380"],
        SENTINEL_KWARGS={"password": "p"},
    )
    assert sentinel.arguments["sentinels"] == ["redis://:p@10.0.0.1:26379", "redis://10.0.0.2:26380"]
    sentinel.open()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"LOCATION": "redis://h:port/0"}, "port"),
        ({"LOCATION": "http://h"}, "redis://"),
        ({"LOCATION": ""}, "redis://127.0.0.1:6379/0"),
        ({"OPTIONS": {"SOCKET_TIMEOUT": "x"}}, "SOCKET_TIMEOUT.*number of seconds"),
        ({"OPTIONS": {"SOKET_TIMEOUT": 1}}, "SOKET_TIMEOUT.*Did you mean 'SOCKET_TIMEOUT'"),
        ({"OPTIONS": {"CA_FILE": "/no/such/file"}, "LOCATION": "rediss://h"}, "/no/such/file"),
        ({"OPTIONS": {"CLIENT_CLASS": "django_redis.client.ShardClient"}}, "Redis Cluster"),
        ({"OPTIONS": {"CLIENT_CLASS": "django_redis.client.SentinelClient"}}, "SENTINELS"),
        ({"OPTIONS": {"CLIENT_CLASS": 5}}, "CLIENT_CLASS.*dotted path"),
        ({"OPTIONS": {"SENTINELS": []}}, r"SENTINELS'\] names no"),
        ({"OPTIONS": {"SENTINELS": [("a", "port")]}}, "SENTINELS.*26379"),
        (
            {"OPTIONS": {"SENTINELS": [("a", 1)], "SENTINEL_KWARGS": {"password": 5}}},
            "SENTINEL_KWARGS.*texts",
        ),
        ({"OPTIONS": {"SENTINELS": [("a", 1)], "CLUSTER": True}}, "CLUSTER exclude each other"),
        ({"OPTIONS": {"MAX_CONNECTIONS": 10**30}}, "MAX_CONNECTIONS.*above 0"),
        ({"OPTIONS": {"DB": "x"}}, "DB.*number of a database"),
        ({"OPTIONS": {"CA_FILE": 5}, "LOCATION": "rediss://h"}, "CA_FILE.*path of a file"),
        ({"OPTIONS": {"CERT_FILE": "/c"}, "LOCATION": "rediss://h"}, "CERT_FILE.*KEY_FILE"),
    ],
)
def test_wrong_settings_are_told_with_the_fix(entry, said):
    entry = {"BACKEND": "tezkor.backends.RedisCache", "LOCATION": "redis://h", **entry}
    entry["OPTIONS"] = {**SHARED, **entry.get("OPTIONS", {})}
    location = entry.pop("LOCATION")
    plan = RedisCache.read(location, {name: entry[name] for name in ("OPTIONS",)})
    texts = " ".join(mistake.sentence("default") for mistake in plan.mistakes)
    import re

    assert re.search(said, texts), texts


@pytest.mark.parametrize(
    ("backend", "location"),
    [
        ("RedisCache", "http://u:s3cr3t@h"),
        ("RedisCache", "redis//u:s3cr3t@h"),
        ("RedisCache", "u:s3cr3t@h:6379"),
        ("RedisCache", {"redis://u:s3cr3t@h": 1}),
        ("RedisCache", "redis://u:s3cr3t@h:port"),
        ("MemcachedCache", "u:s3cr3t@h:11211"),
        ("MemcachedCache", "redis://u:s3cr3t@h"),
        ("DatabaseCache", "redis://u:s3cr3t@h/0"),
        ("FileBasedCache", "redis://u:s3cr3t@h/0"),
        ("TezkorCache", "sentinel://u:s3cr3t@h"),
        ("TezkorCache", {"redis://u:s3cr3t@h": 1}),
        ("TezkorCache", "redi://u:s3cr3t/x?y@h"),
    ],
)
def test_a_wrong_location_is_told_without_its_password(backend, location):
    with override_settings(
        CACHES={"default": {"BACKEND": f"tezkor.backends.{backend}", "LOCATION": location}}
    ):
        texts = " ".join(f"{message.msg} {message.hint}" for message in check_settings())
    assert "CACHES['default']['LOCATION']" in texts
    assert "s3cr3t" not in texts


def test_options_without_effect_are_explained():
    from django.core.checks import Info

    entry = {
        "BACKEND": "tezkor.backends.RedisCache",
        "LOCATION": "redis://127.0.0.1:1/0",
        "OPTIONS": {**SHARED, "PARSER_CLASS": "redis.connection.HiredisParser", "CLOSE_CONNECTION": True},
    }
    with override_settings(CACHES={"default": entry}):
        found = [message for message in check_settings() if isinstance(message, Info)]
    assert {message.id for message in found} == {"tezkor.I002"}
    assert len(found) == 2


def test_under_a_test_runner_a_server_is_private_memory():
    cache = RedisCache("redis://127.0.0.1:1/0", {})
    cache.set("k", 1)
    assert cache.get("k") == 1
    assert cache.location.startswith("memory://")


# The API


def test_values_of_every_kind_come_back(cache):
    values = {
        "int": 7,
        "negative": -(2**62),
        "big": 2**80,
        "text": "Ünïcode",
        "none": None,
        "false": False,
        "list": [1, {"a": (1, 2)}],
        "bytes": b"\0\xff" * 1000,
        "large": "x" * 500_000,
        "pickled": Path("/tmp"),
    }
    assert cache.set_many(values) == []
    assert cache.get_many(values) == values
    assert {name: cache.get(name) for name in values} == values
    cache.delete_many(["int", "text"])
    assert cache.get_many(["int", "text", "none"]) == {"none": None}


def test_counts_and_conditions(cache):
    assert cache.add("n", 1)
    assert not cache.add("n", 2)
    assert cache.incr("n", 41) == 42
    assert cache.decr("n", 50) == -8
    assert cache.incr("m", default=10, timeout=60) == 11
    with pytest.raises(ValueError, match="not found"):
        cache.incr("missing")
    cache.set("float", 1.5)
    assert cache.incr("float") == 2.5
    cache.set("tagged", 1, tags=["t"])
    assert cache.incr("tagged") == 2
    cache.invalidate_tags("t")
    with pytest.raises(ValueError, match="not found"):
        cache.incr("tagged")


def test_times(cache):
    cache.set("k", 1, 100)
    assert 98 <= cache.ttl("k") <= 102
    assert cache.touch("k", 200)
    assert 198 <= cache.ttl("k") <= 202
    assert cache.persist("k")
    assert cache.ttl("k") is None
    assert cache.expire("k", 0)
    assert cache.get("k") is None
    assert not cache.touch("k")


def test_tags_bind_what_machines_share(cache):
    cache.set_many({"a": 1, "b": 2}, 60, tags=["x", "y"])
    cache.set("c", 3, tags=["z"])
    cache.invalidate_tags("y")
    assert cache.get_many(["a", "b", "c"]) == {"c": 3}
    cache.set("a", 4, tags=["y"])
    assert cache.get("a") == 4


def test_patterns_where_the_server_can_list(cache):
    cache.set_many({"list:1": 1, "list:2": 2, "other": 3})
    if not is_redis(cache):
        with pytest.raises(NotImplementedError, match="cannot list its keys"):
            cache.keys("*")
        with pytest.raises(NotImplementedError, match="cannot list its keys"):
            cache.delete_pattern("list:*")
        return
    assert sorted(cache.keys("list:*")) == ["list:1", "list:2"]
    assert cache.delete_pattern("list:*") == 2
    assert sorted(cache.iter_keys("*")) == ["other"]


def test_one_run_per_load(cache):
    runs = []

    def loader() -> str:
        runs.append(1)
        time.sleep(0.1)
        return "loaded"

    with ThreadPoolExecutor(16) as pool:
        found = [
            each.result(10) for each in [pool.submit(cache.get_or_set, "k", loader, 60) for _ in range(16)]
        ]
    assert found == ["loaded"] * 16
    assert len(runs) == 1
    assert cache.get_or_set("k", loader) == "loaded"
    assert cache.get_many_or_set(["k", "m"], lambda missing: dict.fromkeys(missing, "many")) == {
        "k": "loaded",
        "m": "many",
    }


@pytest.mark.parametrize("change", ["set", "delete", "tag", "clear"])
def test_what_overtakes_a_load_is_not_covered_up(cache, change):
    def loader() -> str:
        {
            "set": lambda: cache.set("k", "newer", 60),
            "delete": lambda: cache.delete("k"),
            "tag": lambda: cache.invalidate_tags("t"),
            "clear": cache.clear,
        }[change]()
        return "too old"

    assert cache.get_or_set("k", loader, 60, tags=["t"]) == "too old"
    assert cache.get("k") == ("newer" if change == "set" else None)
    with cache.load("b") as block:
        assert block.missing
        if change != "tag":
            {
                "set": lambda: TezkorCache.set(cache, "x", 1),
                "delete": lambda: cache.delete("b"),
                "clear": cache.clear,
            }[change]()
        cache.set("b", "of the block", 60, tags=["t"])
    assert cache.get("b") == ("of the block" if change in ("set", "tag") else None)


def test_a_stale_value_is_served_while_one_loads(cache):
    cache.set("k", "old", 0.01, stale=60)
    time.sleep(0.05)
    assert cache.get("k") is None

    def failing() -> None:
        raise RuntimeError

    assert cache.get_or_set("k", failing, 60, stale=60) == "old"
    assert cache.get_or_set("other", lambda: "new", 60, stale=60) == "new"


def test_locks_and_limits(cache):
    with cache.lock("door", timeout=10) as lock:
        assert not cache.lock("door").acquire(blocking=False)
        cache.clear() if is_redis(cache) else None
        assert lock.owned()
        first = lock.token
    with cache.lock("door", timeout=10) as lock:
        assert lock.token > first
    assert [bool(cache.rate_limit("ip", 2, 60)) for _ in range(3)] == [True, True, False]
    assert cache.rate_limit("ip", 5, 3600)


def test_async_forms(cache):
    async def scene() -> Any:
        await cache.aset("k", 1, tags=["t"])
        assert await cache.aincr("k") == 2
        assert await cache.aget_many(["k", "x"]) == {"k": 2}
        await cache.ainvalidate_tags("t")
        return await asyncio.gather(*(cache.aget_or_set("k", lambda: "loaded", 60) for _ in range(8)))

    assert asyncio.run(scene()) == ["loaded"] * 8


def test_prefixes_and_versions_are_apart(redis):
    one = RedisCache(f"unix://{redis}?db=1", {"KEY_PREFIX": "one", "OPTIONS": SHARED})
    two = RedisCache(f"unix://{redis}?db=1", {"KEY_PREFIX": "two", "OPTIONS": SHARED})
    one.set("k", 1)
    two.set("k", 2)
    one.set("k", 3, version=2)
    assert (one.get("k"), two.get("k"), one.get("k", version=2)) == (1, 2, 3)
    one.clear_prefix()
    assert (one.get("k"), two.get("k")) == (None, 2)


# What leaves the machine


def test_an_unsigned_pickle_is_never_read(redis, caplog):
    """Whoever can write to the server could run code here."""
    import redis as client

    cache = RedisCache(f"unix://{redis}?db=1", {"OPTIONS": SHARED})
    clear_caches()
    cache.set("signed", Path("/tmp"))
    cache.set("plain", [1, 2])
    connection = client.Redis(unix_socket_path=redis, db=1)
    [signed] = [name for name in connection.scan_iter() if b"signed" in name]
    for name in list(connection.scan_iter()):
        raw = connection.get(name)
        assert raw is not None
        moved = name.replace(b":1:signed", b":1:moved").replace(b":1:plain", b":1:moved")
        connection.set(moved, raw)
        assert cache.get("moved") is None
    raw = bytearray(connection.get(signed) or b"")
    for place in range(len(raw)):
        changed = bytes(raw[:place]) + bytes([raw[place] ^ 1]) + bytes(raw[place + 1 :])
        connection.set(signed, changed)
        assert cache.get("signed") is None, place
    connection.set(signed, bytes(raw))
    assert cache.get("signed") == Path("/tmp")
    with override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=[]):
        other = RedisCache(f"unix://{redis}?db=1", {"OPTIONS": {**SHARED, "JITTER": 0.1}})
        assert other.get("signed") is None


# From another library


@pytest.mark.parametrize("library", ["django", "django-redis"])
def test_what_another_library_left_is_read_until_it_is_replaced(redis, library):
    """A site that switches during a deploy: old workers go on beside new ones."""
    backend = "django.core.cache.backends.redis" if library == "django" else "django_redis.cache"
    entry = {"BACKEND": f"{backend}.RedisCache", "LOCATION": f"unix://{redis}?db=5", "KEY_PREFIX": "shop"}
    ours = {
        **entry,
        "BACKEND": "tezkor.backends.RedisCache",
        "OPTIONS": {**SHARED, "MIGRATE_FROM": library},
    }
    with override_settings(CACHES={"default": ours, "old": entry}):
        old, new = caches["old"], caches["default"]
        for each in (old, new):
            each.clear()
        old.set_many({"text": "x" * 3000, "number": 7, "list": [1, None], "none": None})
        assert new.get("text") == "x" * 3000
        assert new.get_many(["number", "list", "none", "missing"]) == {
            "number": 7,
            "list": [1, None],
            "none": None,
        }
        assert "list" in new
        assert not new.add("number", 8)
        assert new.incr("number") == 8
        assert old.get("number") is None
        assert new.get_or_set("text", lambda: "loaded") == "x" * 3000
        new.set("text", "ours")
        assert old.get("text") is None
        old.set("text", "of an old worker")
        assert new.get("text") == "ours"
        assert new.delete("list")
        assert old.get("list") is None
        assert new.get("list", "gone") == "gone"
        old.set("t", 1, 5)
        assert new.touch("t", 100)
        assert 90 < new.ttl("t") <= 100
        messages = [message.id for message in check_settings()]
        assert "tezkor.W006" in messages


@pytest.mark.parametrize("name", ["PyMemcacheCache", "PyLibMCCache"])
def test_what_djangos_memcached_backends_left_is_read_until_it_is_replaced(memcached, name):
    pytest.importorskip({"PyMemcacheCache": "pymemcache", "PyLibMCCache": "pylibmc"}[name])
    entry = {
        "BACKEND": f"django.core.cache.backends.memcached.{name}",
        "LOCATION": memcached,
        "KEY_PREFIX": "shop",
    }
    if name == "PyMemcacheCache":
        entry["LOCATION"] = f"unix:{memcached}"
    ours = {**entry, "BACKEND": f"tezkor.backends.{name}", "OPTIONS": {**SHARED, "MIGRATE_FROM": "django"}}
    with override_settings(CACHES={"default": ours, "old": entry}):
        old, new = caches["old"], caches["default"]
        new.clear()
        values = {
            "text": "x" * 3000,
            "number": 7,
            "list": [1, None],
            "none": None,
            "bytes": b"7",
            "true": True,
        }
        assert old.set_many(values) == []
        assert new.get_many([*values, "missing"]) == values
        assert new.get("text") == "x" * 3000
        assert not new.add("number", 8)
        assert new.incr("number") == 8
        assert old.get("number") is None
        new.set("text", "ours")
        assert old.get("text") is None
        assert new.delete("list")
        assert old.get("list") is None
        assert new.get("list", "gone") == "gone"
        assert "tezkor.W006" in [message.id for message in check_settings()]
    other = {**ours, "OPTIONS": {"MIGRATE_FROM": "django-redis"}}
    with override_settings(CACHES={"default": other}):
        assert "tezkor.E002" in [message.id for message in check_settings()]


def test_a_client_of_redis_py_for_what_a_cache_does_not_do(redis):
    entry = {
        "BACKEND": "tezkor.backends.RedisCache",
        "LOCATION": f"unix://{redis}",
        "OPTIONS": {**SHARED, "DB": 6},
    }
    local = {"BACKEND": "tezkor.backends.TezkorCache"}
    with override_settings(CACHES={"default": entry, "local": local}):
        client = tezkor.get_redis_connection()
        client.rpush("a list", 1, 2)
        assert client.llen("a list") == 2
        assert client.connection_pool.connection_kwargs["db"] == 6
        client.delete("a list")
        assert tezkor.get_redis_connection("default") is client
        with pytest.raises(NotImplementedError, match="local"):
            tezkor.get_redis_connection("local")


# Outages


def started(path: Path) -> subprocess.Popen[bytes]:
    options = [
        "--port",
        "0",
        "--unixsocket",
        str(path),
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        str(path.parent),
    ]
    process = subprocess.Popen(
        ["redis-server", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until(path.exists, 10)
    return process


def test_a_server_that_is_killed_is_missed_and_used_again(tmp_path, redis, caplog):
    path = tmp_path / "own.sock"
    process = started(path)
    try:
        cache = RedisCache(f"unix://{path}", {"OPTIONS": SHARED})
        strict = RedisCache(f"unix://{path}", {"OPTIONS": {**SHARED, "STRICT": True}})
        wait_until(lambda: cache.set("k", 1) or cache.get("k") == 1, 5)
        with caplog.at_level(logging.WARNING, "tezkor"):
            process.send_signal(signal.SIGKILL)
            process.wait()
            for _ in range(20):
                assert cache.get("k", "default") == "default"
                assert cache.get_many(["k"]) == {}
                cache.set("k", 2)
                assert cache.delete("k") is False
                assert cache.get_or_set("k", lambda: "loaded") == "loaded"
                cache.invalidate_tags("t")
            for call in (
                lambda: cache.add("a", 1),
                lambda: cache.incr("a"),
                lambda: cache.lock("l").acquire(),
            ):
                with pytest.raises(ConnectionError, match="redis at"):
                    call()
            with pytest.raises(ConnectionError, match="redis at"):
                strict.get("k")
        assert len([record for record in caplog.records if "does without" in record.message]) == 1
        path.unlink(missing_ok=True)
        process = started(path)
        wait_until(lambda: cache.set("k", 3) or cache.get("k") == 3, 2)
    finally:
        process.kill()
        process.wait()


def test_a_wrong_password_says_so_and_is_nowhere_in_what_is_said(tmp_path, caplog):
    path = tmp_path / "secret.sock"
    options = ["--port", "0", "--unixsocket", str(path), "--save", "", "--requirepass", "right"]
    process = subprocess.Popen(
        ["redis-server", *options, "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(path.exists, 10)
        cache = RedisCache(f"unix://:hunter2@{path}", {"OPTIONS": SHARED})
        with caplog.at_level(logging.WARNING, "tezkor"):
            for _ in range(5):
                assert cache.get("k") is None
        assert "password" in caplog.text
        assert "hunter2" not in caplog.text + repr(cache) + cache.location + str(cache.stats())
        good = RedisCache(f"unix://{path}", {"OPTIONS": {**SHARED, "PASSWORD": "right", "STRICT": True}})
        wait_until(lambda: _works(good), 3)
    finally:
        process.kill()
        process.wait()


def _works(cache: Any) -> bool:
    try:
        cache.set("k", 1)
        return bool(cache.get("k") == 1)
    except ConnectionError:
        return False


def test_an_unreachable_host_does_not_hold_up_the_start():
    started = time.monotonic()
    cache = RedisCache("redis://127.0.0.1:1/0", {"OPTIONS": SHARED})
    assert cache.get("k") is None
    assert time.monotonic() - started < 2


def test_placement_of_pylibmc_and_of_pymemcache(memcached):
    for backend, placement in ((MemcachedCache, None), (PyLibMCCache, "modula")):
        plan = backend.read(memcached, {"OPTIONS": SHARED})
        assert plan.server is not None
        assert plan.server.arguments.get("placement") == placement
    with pytest.raises(ImproperlyConfigured, match="PLACEMENT"):
        MemcachedCache(memcached, {"OPTIONS": {**SHARED, "hasher": object()}}).get("k")


def test_a_load_of_another_process_is_waited_for(redis, tmp_path):
    """Another worker of this machine runs the loader, and this one finds what it brought."""
    code = f"""
import os, sys, time
sys.path.insert(0, {str(Path(tezkor.__file__).parent.parent)!r})
from django.conf import settings
entry = {{"BACKEND": "tezkor.backends.RedisCache", "LOCATION": "unix://{redis}?db=1"}}
entry["OPTIONS"] = {{"REGION": "waited"}}
settings.configure(SECRET_KEY={django_settings.SECRET_KEY!r}, CACHES={{"default": entry}}, INSTALLED_APPS=["tezkor"])
import django; django.setup()
from django.core.cache import cache
def slow():
    print("begun", flush=True)
    time.sleep(1)
    return "of the other"
cache.get_or_set("waited", slow, 60)
"""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DJANGO"))}
    other = subprocess.Popen([sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "begun\n"
    cache = RedisCache(f"unix://{redis}?db=1", {"OPTIONS": {**SHARED, "REGION": "waited"}})
    assert cache.get_or_set("waited", lambda: "own", 60) == "of the other"
    other.communicate(timeout=10)
    assert other.returncode == 0


def test_a_request_waits_in_vain_no_longer_than_its_budget(
    redis: str, running: Any, own_regions: None
) -> None:
    """The breaker is not asked: each operation has one of its own."""
    caches_ = [
        RedisCache(f"unix://{redis}?db=3", {"OPTIONS": {**SHARED, "REGION": f"budget{number}"}})
        for number in range(8)
    ]
    for cache in caches_:
        assert cache.get("k") is None
    for process in running.processes:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        waits = []
        for _ in range(2):
            request_started.send(sender=None)
            for cache in caches_:
                start = time.monotonic()
                assert cache.get("k") is None
                waits.append(time.monotonic() - start > 0.05)
            request_finished.send(sender=None)
    finally:
        for process in running.processes:
            os.kill(process.pid, signal.SIGCONT)
    assert waits == [True, True, *[False] * 6, True, True, *[False] * 6]


# What must hold between processes, and be said


LOADS = """
    import os, random, sys, time
    import django
    django.setup()
    from tezkor.backends import TezkorCache
    cache = TezkorCache(sys.argv[1], {"OPTIONS": {"TEST": {"SHARED": True}}})
    end, worst = time.monotonic() + 2, 0.0
    while time.monotonic() < end:
        began = time.monotonic()
        if random.random() < 0.1:
            cache.delete("k")
        else:
            cache.get_or_set("k", lambda: time.sleep(0.003) or 1, 60)
        worst = max(worst, time.monotonic() - began)
    assert worst < 5, worst
"""


@pytest.mark.parametrize("server", ["redis", "memcached"])
def test_processes_that_load_and_delete_the_same_key_never_wait_for_themselves(server, request, project):
    """One that had waited for a load, and looked again, waited for the claim by which others waited for it."""
    path = request.getfixturevalue(server)
    project.write("loads.py", LOADS)
    location = f"unix://{path}?db=7" if server == "redis" else f"memcached://{path}"
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: project.run("loads.py", location), range(3)))


def test_aliases_on_different_databases_or_sentinels_are_different_servers():
    """What the one was not told in an outage was told to the other."""
    names = {
        servers.read("redis", "redis://127.0.0.1:1/0", {}).name,
        servers.read("redis", "redis://127.0.0.1:1", {"DB": 1}).name,
        servers.read("redis", "redis://127.0.0.1:1", {"db": 2}).name,
        servers.read("redis", "redis://127.0.0.1:1/1", {"PASSWORD": "x"}).name.replace("/1", "/3"),
        servers.read("redis", "redis://service/0", {"SENTINELS": [("10.0.0.1", 1)]}).name,
        servers.read("redis", "redis://service/0", {"SENTINELS": [("10.0.0.2", 1)]}).name,
    }
    assert len(names) == 6


def test_no_secret_is_in_what_a_traceback_shows():
    cache = RedisCache(
        "redis://user:urlsecret@127.0.0.1:1/1",
        {
            "OPTIONS": {
                **SHARED,
                "CONNECTION_POOL_KWARGS": {"password": "poolsecret"},
                "SENTINELS": [("127.0.0.1", 1)],
                "SENTINEL_KWARGS": {"password": "sentsecret"},
            }
        },
    )
    shown = repr((cache._plan, cache._plan.server, cache.location, cache.stats(), cache))
    assert "127.0.0.1" in shown
    assert "secret" not in shown
    for url in (
        "redis://:hun#ter2@h",
        "redis://:hun/ter2@h:x",
        "redis://h?pasword=hunter2",
        "redis://:hunter2@h:x/1",
    ):
        with pytest.raises(ImproperlyConfigured) as caught:
            RedisCache(url, {"OPTIONS": SHARED}).get("k")
        assert not any(part in str(caught.value) for part in ("hun", "ter2", "hunter2")), str(caught.value)
    assert "ter2" not in servers.read("redis", "redis://:hun/ter2@h", {}).name


def test_what_redis_py_takes_beyond_ours_is_accepted_and_explained():
    """Django passes its OPTIONS on to redis-py."""
    options = {
        "health_check_interval": 30,
        "retry_on_timeout": True,
        "socket_keepalive": True,
        "client_name": "x",
    }
    found = servers.read("redis", "rediss://h:1/0?protocol=3&health_check_interval=5&db=2", options)
    assert {*options, "?protocol", "?health_check_interval"} <= found.explained.keys()
    assert found.locations == ["rediss://h:1/0?db=2"]
    for location, given in (
        ("rediss://h?ssl_cert_reqs=none", {}),
        ("rediss://h", {"ssl_cert_reqs": None}),
        ("rediss://h", {"CONNECTION_POOL_KWARGS": {"ssl_cert_reqs": None}}),
    ):
        with pytest.raises(server_options.Mistaken, match="nobody verifies"):
            servers.read("redis", location, given)
    with pytest.raises(server_options.Mistaken, match="list of"):
        servers.read("redis", "redis://service/0", {"SENTINELS": [1]})
    with pytest.raises(
        ImproperlyConfigured, match=r"\['OPTIONS'\]\['CA_FILE'\] cannot be used: CA_FILE /nowhere"
    ):
        RedisCache("rediss://h", {"OPTIONS": {**SHARED, "CA_FILE": "/nowhere"}}).get("k")


def test_each_outage_is_said_however_it_begins_and_in_each_process(tmp_path, caplog):
    socket = tmp_path / "said.sock"
    cache = RedisCache(f"unix://{socket}", {"OPTIONS": SHARED})

    def said(part: str) -> int:
        return sum(part in record.message for record in caplog.records)

    with caplog.at_level(logging.WARNING, "tezkor"):
        for outage in (1, 2):
            for _ in range(5):
                cache.set("k", outage)
            assert said("does without") == outage
            process = started(socket)
            try:
                wait_until(lambda: cache.get("k") is None and cache.stats()["breaker"] == "closed")
                cache.set("k", 1)
                assert cache.get("k") == 1
                assert said("sock answers again") == outage
            finally:
                process.kill()
                process.wait()
                socket.unlink(missing_ok=True)


def test_a_value_over_the_servers_limit_is_refused_with_an_event(memcached, caplog):
    cache = MemcachedCache(memcached, {"OPTIONS": SHARED})
    cache.set("k", "small")
    with caplog.at_level(logging.WARNING, "tezkor"):
        cache.set("k", b"x" * (9 << 20))
    assert cache.get("k") is None
    assert "larger than the" in caplog.text


def test_old_values_never_come_back_behind_an_outage_a_clear_or_a_refresh(tmp_path):
    socket = tmp_path / "old.sock"
    entry = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": f"unix://{socket}", "KEY_PREFIX": "p"}
    ours = {
        **entry,
        "BACKEND": "tezkor.backends.RedisCache",
        "OPTIONS": {**SHARED, "MIGRATE_FROM": "django-redis"},
    }
    process = started(socket)
    try:
        with override_settings(CACHES={"default": ours, "old": entry}):
            old, new = caches["old"], caches["default"]
            old.set_many({f"k{number}": f"old{number}" for number in range(9)}, 300)
            old.set("k3", "of another version", version=3)
            assert new.get_many(["k0", "k1"]) == {"k0": "old0", "k1": "old1"}
            assert 290 < new.ttl("k0") <= 300
            process.send_signal(signal.SIGSTOP)
            new.delete("k0")
            new.set("k1", "new1")
            new.delete_many(["k2"])
            process.send_signal(signal.SIGCONT)
            wait_until(lambda: new.get("k3") == "old3")
            assert new.get_many(["k0", "k1", "k2"]) == {}

            @tezkor.cached(300, key="k4", tags=["t"])
            def load() -> str:
                return "fresh"

            assert load() == "old4"
            assert load.refresh() == "fresh"
            new.invalidate_tags("t")
            assert load() == "fresh"
            assert new.delete_pattern("k5*") == 1
            assert new.get("k5") is None
            new.clear_prefix()
            assert new.get("k6") is None
            assert new.get("k3", version=3) is None
            old.client.get_client().set("unrelated", 1)
            new.clear()
            assert old.client.get_client().get("unrelated") == b"1"
            for away in (new.clear, new.clear_prefix, lambda: new.delete_pattern("k7*")):
                old.set("k7", "old7", 300)
                assert new.get("k7") == "old7"
                process.send_signal(signal.SIGSTOP)
                away()
                process.send_signal(signal.SIGCONT)
                new.set("probe", 1)
                wait_until(lambda: new.set("probe", 1) or new.get("probe") == 1)
                assert new.get("k7") is None
            assert old.client.get_client().get("unrelated") == b"1"
    finally:
        process.kill()
        process.wait()


def test_of_several_memcached_one_that_is_away_takes_its_own_keys_and_no_others(running):
    addresses = [running.memcached(tcp=True) for _ in range(3)]
    if None in addresses:
        pytest.skip(running.missing["memcached"])
    cache = MemcachedCache(addresses, {"OPTIONS": SHARED})
    keys = [f"key{number}" for number in range(90)]
    assert cache.set_many(dict.fromkeys(keys, "old")) == []
    cache.set("plain", 1)
    away = running.processes[-1]
    away.send_signal(signal.SIGSTOP)
    try:
        there = {key for key in keys if cache.get(key) == "old"}
        assert 0 < len(there) < 90
        assert set(cache.get_many(keys)) == there
        assert cache.stats()["breaker"] == "closed"
        # The others take what is written; of its own nothing is believed that was not told.
        assert set(cache.set_many(dict.fromkeys(keys, "new"))) == set(keys) - there
        cache.delete_many(keys[:10])
        read = cache.get_many(keys)
        assert read == {key: "new" for key in there if key not in keys[:10]}
        assert cache.stats()["breaker"] == "closed"
        assert cache.stats()["debts"] > 0
    finally:
        away.send_signal(signal.SIGCONT)
    # It is back with what it had before.
    found: list[Any] = []

    def is_told() -> bool:
        found.extend(cache.get(key) for key in keys)
        return cache.stats()["debts"] == 0

    wait_until(is_told)
    assert "old" not in found
    assert not any(cache.get(key) for key in keys[:10])
    assert cache.set_many(dict.fromkeys(keys, "again")) == []
    assert cache.get_many(keys) == dict.fromkeys(keys, "again")
    assert cache.get("plain") == 1
