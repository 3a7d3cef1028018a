"""Values that Django's own backends and django-redis left on a server, read for ``OPTIONS["MIGRATE_FROM"]``.

It never writes, and it reads only what it is handed: a backend asks for the old name of a key, which is what
``make_key`` gives, after its own name was a miss. What cannot be read is a miss too.

    redis      raw bytes: the text of an integer, or what the serializer wrote, compressed or not
    memcached  raw bytes and flags: 1 pickle, 2 and 4 integer, 8 zlib, 16 text, none of them bytes

These are the old library's formats: pickles are unsigned, so they are safe to read only as long as nobody else can
write to the server.
"""

from __future__ import annotations

import json
import logging
import pickle
import zlib
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from django.utils.module_loading import import_string

logger = logging.getLogger("tezkor")

# What `read` gives for bytes that are no value. None is one.
MISS: Any = object()
LIBRARIES = ("django", "django-redis")
# As for values of our own: what a store takes at most.
LARGEST_BYTES = 64 << 20

# The flags of pymemcache and of pylibmc, which took them from python-memcached.
FLAG_PICKLE, FLAG_INTEGER, FLAG_LONG, FLAG_ZLIB, FLAG_TEXT = 1, 2, 4, 8, 16
FLAGS = FLAG_PICKLE | FLAG_INTEGER | FLAG_LONG | FLAG_ZLIB | FLAG_TEXT


class Compression(NamedTuple):
    """How what a compressor wrote begins, and what makes a decompressor, in the first of the modules that is there."""

    magic: bytes
    modules: tuple[str, ...]
    maker: str
    arguments: Mapping[str, Any] = {}


# By the module of django-redis' compressor.
COMPRESSIONS = {
    "zlib": Compression(b"x", ("zlib",), "decompressobj"),
    "gzip": Compression(b"\x1f\x8b", ("zlib",), "decompressobj", {"wbits": 31}),
    "lzma": Compression(b"\xfd7zXZ\0", ("lzma",), "LZMADecompressor"),
    "lz4": Compression(b"\x04\x22\x4d\x18", ("lz4.frame",), "LZ4FrameDecompressor"),
    "zstd": Compression(
        b"\x28\xb5\x2f\xfd", ("compression.zstd", "backports.zstd", "pyzstd"), "ZstdDecompressor"
    ),
}

Loads = Callable[[bytes], Any]


class TooLarge(ValueError):
    """The value unpacks to more than any store takes."""


class PickleRefused(ValueError):
    """The value is a pickle, and ``OPTIONS["PICKLE"]`` is False."""


class Foreign:
    """Reads the values of one library, with the settings that it wrote them with."""

    def __init__(self, library: str, decode: Callable[[str, bytes, int], Any]) -> None:
        self.library = library
        self._decode = decode
        self._told: set[str] = set()

    def read(self, name: str, raw: bytes, flags: int = 0) -> Any:
        """The value under an old name, or `MISS`. The flags are memcached's."""
        try:
            return self._decode(name, raw, flags)
        except Exception as error:  # whatever unpickling raises
            self._tell(type(error).__name__)
            return MISS

    def _tell(self, kind: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            logger.warning("a value that %s wrote is a miss: reading it raised %s", self.library, kind)


def library(value: Any) -> str:
    """The option ``MIGRATE_FROM``."""
    if value not in LIBRARIES:
        raise ValueError("Write 'django' or 'django-redis', or remove it.")
    return str(value)


def on_redis(library: str, options: Mapping[str, Any]) -> Foreign:
    """Reads what the library wrote to Redis. OPTIONS are those that it had. Raises ValueError that names the fix."""
    loads = _django_serializer(options) if library == "django" else _django_redis_serializer(options)
    return Foreign(library, lambda name, raw, flags: loads(raw))


def on_memcached(options: Mapping[str, Any]) -> Foreign:
    """Reads what Django's PyMemcacheCache and PyLibMCCache wrote to memcached: their flags mean the same."""
    own = _own_deserializer(options)
    if own is not None:
        return Foreign("django", own)
    unpickle = _unpickle(options)

    def decode(name: str, raw: bytes, flags: int) -> Any:
        if flags & ~FLAGS:
            raise ValueError("flags of another client")
        if flags & FLAG_ZLIB:
            raw = _unpack(zlib.decompressobj(), raw)
        if flags & FLAG_TEXT:
            return raw.decode()
        if flags & (FLAG_INTEGER | FLAG_LONG):
            return int(raw)
        return unpickle(raw) if flags & FLAG_PICKLE else raw

    return Foreign("django", decode)


def _own_deserializer(options: Mapping[str, Any]) -> Callable[[str, bytes, int], Any] | None:
    """What the settings told pymemcache to use instead of its own. Its own gives None for a pickle that is damaged."""
    if "serde" not in options:
        return None
    serde = options["serde"]
    if serde is None:
        return options.get("deserializer") or (lambda name, raw, flags: raw)
    is_usual = type(serde).__module__ == "pymemcache.serde"
    if is_usual and getattr(serde, "_decompress", zlib.decompress) is zlib.decompress:
        return None
    deserialize: Callable[[str, bytes, int], Any] = serde.deserialize
    return deserialize


def _django_serializer(options: Mapping[str, Any]) -> Loads:
    serializer: Callable[[], Any] | Any = options.get("serializer")
    if serializer is None:
        return _integer_or(_unpickle(options))
    if isinstance(serializer, str):
        serializer = _imported("serializer", serializer)
    made = serializer() if callable(serializer) else serializer
    loads: Loads = made.loads
    return loads


def _django_redis_serializer(options: Mapping[str, Any]) -> Loads:
    unpack = _compressor(options)
    path = options.get("SERIALIZER") or "django_redis.serializers.pickle.PickleSerializer"
    loads: Loads
    match _module_of(path, "django_redis.serializers."):
        case "pickle":
            loads = _unpickle(options)
        case "json":
            loads = lambda raw: json.loads(raw.decode())  # noqa: E731
        case "msgpack":
            msgpack = _first_of(("msgpack",), "SERIALIZER", path)
            loads = lambda raw: msgpack.loads(raw, raw=False)  # noqa: E731
        case _:
            loads = _imported("SERIALIZER", path)(options=options).loads
    return _integer_or(lambda raw: loads(unpack(raw)))


def _compressor(options: Mapping[str, Any]) -> Callable[[bytes], bytes]:
    path = options.get("COMPRESSOR") or "django_redis.compressors.identity.IdentityCompressor"
    module = _module_of(path, "django_redis.compressors.")
    if module == "identity":
        return lambda raw: raw
    if module in COMPRESSIONS:
        return _known_compression(COMPRESSIONS[module], path)
    decompress = _imported("COMPRESSOR", path)(options=options).decompress

    def unpack(raw: bytes) -> bytes:
        try:
            unpacked: bytes = decompress(raw)
        except Exception:  # small values were left as they are
            return raw
        return unpacked

    return unpack


def _known_compression(compression: Compression, path: str) -> Callable[[bytes], bytes]:
    """Small values were left as they are. None of them begins as what is compressed does, so what does is damaged if
    it does not unpack: to MessagePack the rest of it might mean something."""
    make = getattr(_first_of(compression.modules, "COMPRESSOR", path), compression.maker)
    magic = compression.magic

    def unpack(raw: bytes) -> bytes:
        if raw[: len(magic)] != magic[: len(raw)]:
            return raw
        return _unpack(make(**compression.arguments), raw)

    return unpack


def _unpack(decompressor: Any, raw: bytes) -> bytes:
    """Never more than `LARGEST_BYTES`, however much the bytes unpack to."""
    unpacked: bytes = decompressor.decompress(raw, LARGEST_BYTES + 1)
    if len(unpacked) > LARGEST_BYTES:
        raise TooLarge
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("the compressed value is damaged")
    return unpacked


def _integer_or(loads: Loads) -> Loads:
    """Both libraries leave integers as text, for Redis to count with."""

    def read(raw: bytes) -> Any:
        try:
            return int(raw)
        except ValueError:
            return loads(raw)

    return read


def _unpickle(options: Mapping[str, Any]) -> Loads:
    def refuse(raw: bytes) -> Any:
        raise PickleRefused

    return pickle.loads if options.get("PICKLE", True) else refuse


def _module_of(path: str, package: str) -> str | None:
    """``json`` of ``django_redis.serializers.json.JSONSerializer``; None for classes from elsewhere."""
    return path.removeprefix(package).partition(".")[0] if path.startswith(package) else None


def _first_of(modules: tuple[str, ...], option: str, path: str) -> Any:
    for module in modules:
        try:
            return import_module(module)
        except ImportError:
            continue
    wanted = modules[-1].partition(".")[0]
    raise ValueError(
        f"OPTIONS[{option!r}] is {path!r}, and its values need {wanted}; "
        f"pip install {wanted}, or leave MIGRATE_FROM out"
    )


def _imported(option: str, path: str) -> Any:
    try:
        return import_string(path)
    except ImportError as error:
        raise ValueError(
            f"OPTIONS[{option!r}] is {path!r}, which cannot be imported ({error}); "
            "install it, or leave MIGRATE_FROM out"
        ) from error
