"""What Django's own backends and django-redis wrote to real servers is read as they would read it."""

import datetime as dt
import json
import logging
import lzma
import pickle
import socket
import subprocess
import sys
import zlib
from contextlib import closing
from pathlib import Path

import pymemcache.serde
import pytest
import redis
from django.core.cache.backends.memcached import PyLibMCCache, PyMemcacheCache
from django.core.cache.backends.redis import RedisCache
from django.utils.safestring import SafeString, mark_safe
from django_redis.cache import RedisCache as DjangoRedisCache
from django_redis.compressors.base import BaseCompressor
from django_redis.exceptions import CompressorError
from django_redis.serializers.base import BaseSerializer

from tezkor import foreign
from tezkor.backends import TezkorCache
from tezkor.foreign import MISS

ROOT = Path(__file__).resolve().parent.parent
from servers import Servers, install  # noqa: E402

PLAIN = [None, True, False, 1.5, "text", "12", "", "ünï", [1, [2, "x"]], {"a": {"b": [None]}}, "ran " * 5000]
NUMBERS = [0, 1, -5, 2**62, 2**70]
PICKLED = [b"bytes", b"12", (1, 2), {3}, dt.datetime(2024, 2, 29, 12, 30), mark_safe("<b>")]

PICKLE = "django_redis.serializers.pickle.PickleSerializer"
JSON = "django_redis.serializers.json.JSONSerializer"
MSGPACK = "django_redis.serializers.msgpack.MSGPackSerializer"
SERIALIZERS = {None: PLAIN + PICKLED, PICKLE: PLAIN + PICKLED, JSON: PLAIN, MSGPACK: [*PLAIN, b"bytes"]}
COMPRESSORS = [
    None,
    "django_redis.compressors.identity.IdentityCompressor",
    "django_redis.compressors.zlib.ZlibCompressor",
    "django_redis.compressors.gzip.GzipCompressor",
    "django_redis.compressors.lzma.LzmaCompressor",
    "django_redis.compressors.lz4.Lz4Compressor",
    "django_redis.compressors.zstd.ZStdCompressor",
]
COMPRESSING = COMPRESSORS[2:]


@pytest.fixture(scope="module")
def servers():
    with Servers() as running:
        yield running


@pytest.fixture(scope="module")
def redis_url(servers):
    path = servers.redis()
    if path is None:
        pytest.skip(servers.missing["redis-server"])
    return f"unix://{path}?db=0"


@pytest.fixture(scope="module")
def raw_redis(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture(scope="module")
def memcached(servers):
    path = servers.memcached()
    if path is None:
        pytest.skip(servers.missing["memcached"])
    return path


@pytest.fixture(scope="module")
def pylibmc():
    """It is built from source, which takes libmemcached's headers."""
    try:
        import pylibmc
    except ImportError:
        reason = install("libmemcached-dev")
        if reason:
            pytest.skip(reason)
        packages = [ROOT / "scripts" / "packages", "scripts/requirements-pylibmc.txt", sys.prefix]
        subprocess.run(packages, check=True, capture_output=True)
        import pylibmc
    return pylibmc


def same(read, written):
    return type(read) is type(written) and read == written


def options(serializer=None, compressor=None):
    given = {"SERIALIZER": serializer, "COMPRESSOR": compressor}
    return {name: path for name, path in given.items() if path is not None}


def test_everything_that_django_wrote_to_redis_is_read(redis_url, raw_redis):
    cache = RedisCache(redis_url, {"KEY_PREFIX": "shop", "VERSION": 3})
    reader = foreign.on_redis("django", {})
    for number, value in enumerate(PLAIN + NUMBERS[:-1] + PICKLED):
        name = cache.make_key(f"django-{number}")
        cache.set(f"django-{number}", value, None)
        assert same(reader.read(name, raw_redis.get(name)), cache.get(f"django-{number}"))
        assert same(cache.get(f"django-{number}"), value)
    cache.set("counter", 41)
    cache.incr("counter")
    assert reader.read("", raw_redis.get(cache.make_key("counter"))) == 42


class Backwards:
    """A serializer of the site's own, for Django."""

    def dumps(self, value):
        return json.dumps(value)[::-1].encode()

    def loads(self, raw):
        return json.loads(raw.decode()[::-1])


@pytest.mark.parametrize("serializer", [f"{__name__}.Backwards", Backwards, Backwards()], ids=repr)
def test_djangos_redis_cache_may_have_a_serializer_of_its_own(redis_url, raw_redis, serializer):
    cache = RedisCache(redis_url, {"OPTIONS": {"serializer": serializer}})
    cache.set("own", {"a": [1, None]})
    reader = foreign.on_redis("django", {"serializer": serializer})
    assert reader.read("", raw_redis.get(cache.make_key("own"))) == {"a": [1, None]}


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_everything_that_django_redis_wrote_is_read(redis_url, raw_redis, serializer, compressor):
    given = options(serializer, compressor)
    cache = DjangoRedisCache(redis_url, {"KEY_PREFIX": "shop", "VERSION": 3, "OPTIONS": given})
    reader = foreign.on_redis("django-redis", given)
    for number, value in enumerate(SERIALIZERS[serializer] + NUMBERS):
        name = cache.make_key(f"django-redis-{number}")
        cache.set(f"django-redis-{number}", value, None)
        raw = raw_redis.get(name)
        assert same(reader.read(name, raw), cache.get(f"django-redis-{number}"))
        assert same(reader.read(name, raw), value)
        if compressor in COMPRESSING and value == "ran " * 5000:
            assert len(raw) < 1000


@pytest.mark.parametrize("compressor", COMPRESSING)
def test_django_redis_need_not_be_installed_any_more(redis_url, raw_redis, compressor, monkeypatch):
    given = options(JSON, compressor)
    cache = DjangoRedisCache(redis_url, {"OPTIONS": given})
    cache.set("left", ["behind"] * 100)
    raw = raw_redis.get(cache.make_key("left"))
    for module in [name for name in sys.modules if name.partition(".")[0] == "django_redis"]:
        monkeypatch.setitem(sys.modules, module, None)
    assert foreign.on_redis("django-redis", given).read("", raw) == ["behind"] * 100


class Reversed(BaseSerializer):
    def dumps(self, value):
        return json.dumps(value).encode()[::-1]

    def loads(self, value):
        return json.loads(value[::-1])


class Marked(BaseCompressor):
    def compress(self, value):
        return b"!" + value if len(value) > 10 else value

    def decompress(self, value):
        if not value.startswith(b"!"):
            raise CompressorError
        return value[1:]


def test_django_redis_may_have_a_serializer_and_a_compressor_of_its_own(redis_url, raw_redis):
    given = options(f"{__name__}.Reversed", f"{__name__}.Marked")
    cache = DjangoRedisCache(redis_url, {"OPTIONS": given})
    reader = foreign.on_redis("django-redis", given)
    for value in ("small", "larger than ten"):
        cache.set("own", value)
        assert reader.read("", raw_redis.get(cache.make_key("own"))) == value


def key_function(key, prefix, version):
    return f"{version}/{prefix}/{key}"


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"KEY_PREFIX": "shop", "VERSION": 3},
        {"KEY_PREFIX": "shop", "KEY_FUNCTION": key_function},
        {"KEY_FUNCTION": f"{__name__}.key_function"},
    ],
    ids=str,
)
def test_the_old_name_is_what_make_key_gives(redis_url, memcached, pylibmc, params):
    ours = TezkorCache("", params)
    for theirs in (
        RedisCache(redis_url, params),
        DjangoRedisCache(redis_url, params),
        PyMemcacheCache(f"unix:{memcached}", params),
        PyLibMCCache(memcached, params),
    ):
        for key, version in [("k", None), ("k", 7), ("ünï:x", None)]:
            assert ours.make_key(key, version) == str(theirs.make_key(key, version))


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("serializer", [PICKLE, JSON, MSGPACK])
def test_a_value_that_was_cut_is_a_miss(redis_url, raw_redis, serializer, compressor):
    given = options(serializer, compressor)
    cache = DjangoRedisCache(redis_url, {"OPTIONS": given})
    cache.set("cut", {"name": "Ada", "list": ["x" * 200, None, 1.5]})
    raw = raw_redis.get(cache.make_key("cut"))
    reader = foreign.on_redis("django-redis", given)
    assert reader.read("", raw) == {"name": "Ada", "list": ["x" * 200, None, 1.5]}
    for length in range(len(raw)):
        assert reader.read("", raw[:length]) is MISS, length


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_a_damaged_value_never_raises(redis_url, raw_redis, compressor):
    given = options(JSON, compressor)
    cache = DjangoRedisCache(redis_url, {"OPTIONS": given})
    value = {"name": "Ada", "list": ["x" * 200, None, 1.5]}
    cache.set("damaged", value)
    raw = raw_redis.get(cache.make_key("damaged"))
    reader = foreign.on_redis("django-redis", given)
    reads = []
    for at in range(len(raw)):
        for bit in range(8):
            changed = bytearray(raw)
            changed[at] ^= 1 << bit
            reads.append(reader.read("", bytes(changed)))
    assert MISS in reads
    # These have checksums; only the time and the system in gzip's own header are not under them.
    if compressor and compressor.rpartition(".")[2] in ("ZlibCompressor", "LzmaCompressor", "GzipCompressor"):
        assert all(read is MISS or read == value for read in reads)


@pytest.mark.parametrize("compressor", COMPRESSING)
def test_a_value_that_unpacks_to_too_much_is_a_miss(compressor):
    from django.utils.module_loading import import_string

    reader = foreign.on_redis("django-redis", options(JSON, compressor))
    pack = import_string(compressor)(options={})
    pack.preset = 1
    assert reader.read("", pack.compress(b" " * foreign.LARGEST_BYTES + b"1")) is MISS
    assert reader.read("", pack.compress(b" " * (foreign.LARGEST_BYTES - 1) + b"1")) == 1


def test_without_pickle_only_other_values_are_read():
    given = {"PICKLE": False}
    for reader in (foreign.on_redis("django", given), foreign.on_redis("django-redis", given)):
        assert reader.read("", b"12") == 12
        assert reader.read("", pickle.dumps("x")) is MISS
    assert foreign.on_redis("django-redis", given | options(JSON)).read("", b'"x"') == "x"
    memcached = foreign.on_memcached(given)
    assert memcached.read("", b"x", foreign.FLAG_TEXT) == "x"
    assert memcached.read("", pickle.dumps("x"), foreign.FLAG_PICKLE) is MISS


@pytest.mark.parametrize(
    ("given", "missing", "words"),
    [
        (options(MSGPACK), ["msgpack"], ["'SERIALIZER'", "pip install msgpack"]),
        (options(None, COMPRESSORS[5]), ["lz4.frame"], ["'COMPRESSOR'", "pip install lz4"]),
        (
            options(None, COMPRESSORS[6]),
            ["compression.zstd", "backports.zstd", "pyzstd"],
            ["pip install pyzstd"],
        ),
        (options("shop.Serializer"), [], ["'SERIALIZER'", "'shop.Serializer'", "No module named 'shop'"]),
        (options(None, "shop.Compressor"), [], ["'COMPRESSOR'", "'shop.Compressor'"]),
    ],
    ids=str,
)
def test_what_is_missing_is_named(given, missing, words, monkeypatch):
    for module in missing:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match="leave MIGRATE_FROM out") as caught:
        foreign.on_redis("django-redis", given)
    for word in words:
        assert word in str(caught.value)


def test_a_serializer_of_django_that_is_missing_is_named():
    with pytest.raises(ValueError, match=r"OPTIONS\['serializer'\] is 'shop.Serializer'"):
        foreign.on_redis("django", {"serializer": "shop.Serializer"})


class Interrupting:
    def __reduce__(self):
        return interrupt, ()


def interrupt():
    raise KeyboardInterrupt


def test_an_interrupt_is_no_miss():
    with pytest.raises(KeyboardInterrupt):
        foreign.on_redis("django", {}).read("", pickle.dumps(Interrupting()))


def test_a_kind_of_failure_is_told_once_and_without_the_content(caplog):
    reader = foreign.on_redis("django-redis", options(JSON))
    with caplog.at_level(logging.WARNING, "tezkor"):
        for raw in (b"hush", b"hush!", b"{hush", b"\xffhush"):
            assert reader.read("shop:1:k", raw) is MISS
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "a value that django-redis wrote is a miss: reading it raised JSONDecodeError"),
        ("WARNING", "a value that django-redis wrote is a miss: reading it raised UnicodeDecodeError"),
    ]


def fetch(path, name):
    """What is really under a name, and its flags."""
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rwb") as stream:
        connection.settimeout(10)
        connection.connect(path)
        stream.write(b"mg %s v f\r\n" % str(name).encode())
        stream.flush()
        answer, size_bytes, flags = stream.readline().split()
        assert answer == b"VA"
        return stream.read(int(size_bytes)), int(flags[1:])


MEMCACHED_VALUES = PLAIN + NUMBERS + PICKLED


@pytest.mark.parametrize(
    "given", [{}, {"serde": pymemcache.serde.compressed_serde}], ids=["usual", "compressed"]
)
def test_everything_that_pymemcache_wrote_is_read(memcached, given):
    params = {"KEY_PREFIX": "shop", "OPTIONS": given}
    reader = foreign.on_memcached(given)
    with closing(PyMemcacheCache(f"unix:{memcached}", params)) as cache:
        for number, value in enumerate(MEMCACHED_VALUES):
            cache.set(f"pymemcache-{number}", value)
            name = cache.make_key(f"pymemcache-{number}")
            raw, flags = fetch(memcached, name)
            assert same(reader.read(name, raw, flags), cache.get(f"pymemcache-{number}"))
            assert same(reader.read(name, raw, flags), value)
            if given and value == "ran " * 5000:
                assert flags == foreign.FLAG_ZLIB | foreign.FLAG_TEXT
                assert len(raw) < 1000


def exclaim(name, raw, flags):
    return f"{raw.decode()}!" if flags == 9 else MISS


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"serde": pymemcache.serde.CompressedSerde(lzma.compress, lzma.decompress, min_compress_len=2)},
            "text",
        ),
        ({"serde": None, "serializer": lambda name, value: (value, 9), "deserializer": exclaim}, "text!"),
        ({"serde": None}, b"text"),
        ({"deserializer": exclaim}, "text"),
    ],
    ids=["serde", "deserializer", "nothing", "deserializer that a serde hides"],
)
def test_pymemcache_may_have_a_serde_of_its_own(memcached, given, expected):
    with closing(PyMemcacheCache(f"unix:{memcached}", {"OPTIONS": given})) as cache:
        cache.set("own", "text")
        name = cache.make_key("own")
        assert cache.get("own") == expected
        assert foreign.on_memcached(given).read(name, *fetch(memcached, name)) == expected


@pytest.mark.parametrize("binary", [False, True])
def test_everything_that_pylibmc_wrote_is_read(memcached, pylibmc, binary):
    cache = PyLibMCCache(f"unix:{memcached}", {"KEY_PREFIX": "shop", "OPTIONS": {"binary": binary}})
    reader = foreign.on_memcached({"binary": binary})
    for least in (0, 10):
        for number, value in enumerate(MEMCACHED_VALUES):
            name = cache.make_key(f"pylibmc-{number}")
            assert cache._cache.set(name, value, min_compress_len=least)
            read = reader.read(name, *fetch(memcached, name))
            assert same(read, cache.get(f"pylibmc-{number}"))
            assert read == value
    raw, flags = fetch(memcached, cache.make_key(f"pylibmc-{PLAIN.index('ran ' * 5000)}"))
    assert flags == foreign.FLAG_ZLIB | foreign.FLAG_TEXT
    assert len(raw) < 1000


def test_a_number_that_memcached_counted_down_is_read(memcached):
    with closing(PyMemcacheCache(f"unix:{memcached}", {})) as cache:
        cache.set("count", 10)
        cache.decr("count")
        raw, flags = fetch(memcached, cache.make_key("count"))
    assert raw == b"9 "
    assert foreign.on_memcached({}).read("", raw, flags) == 9


def test_what_memcached_holds_damaged_is_a_miss():
    reader = foreign.on_memcached({})
    pickled = pickle.dumps({"name": "Ada"}, 5)
    for length in range(len(pickled)):
        assert reader.read("", pickled[:length], foreign.FLAG_PICKLE) is MISS
    packed = zlib.compress(b"text " * 100)
    for length in range(len(packed)):
        assert reader.read("", packed[:length], foreign.FLAG_ZLIB) is MISS
    assert reader.read("", packed, foreign.FLAG_ZLIB) == b"text " * 100
    assert reader.read("", zlib.compress(b" " * (foreign.LARGEST_BYTES + 1)), foreign.FLAG_ZLIB) is MISS
    for raw, flags in [
        (b"\xff", foreign.FLAG_TEXT),
        (b"12x", foreign.FLAG_INTEGER),
        (b"", foreign.FLAG_LONG),
        (b"text", 32),
        (b"text", 1 << 16 | foreign.FLAG_TEXT),
    ]:
        assert reader.read("", raw, flags) is MISS


def test_safe_strings_stay_safe(redis_url, raw_redis):
    cache = RedisCache(redis_url, {})
    cache.set("safe", mark_safe("<b>"))
    read = foreign.on_redis("django", {}).read("", raw_redis.get(cache.make_key("safe")))
    assert type(read) is SafeString
