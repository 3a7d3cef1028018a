"""Who is measured: for each contender its Django settings, and what it needs to be there."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# Large enough that nobody culls while being measured.
NO_CULLING = {"MAX_ENTRIES": 10_000_000}


class Place(NamedTuple):
    """Where one run keeps its files and finds its servers."""

    directory: Path
    run: str
    # Paths of sockets, or addresses.
    redis: str | None
    memcached: str | None
    # The directory of its socket.
    postgresql: str | None = None

    def redis_url(self, db: int) -> str:
        path = str(self.redis)
        return f"unix://{path}?db={db}" if path.startswith("/") else f"redis://{path}/{db}"


class Contender(NamedTuple):
    name: str
    modules: tuple[str, ...]  # what must be importable
    server: str | None  # the field of Place that must be set
    settings: Callable[[Place], dict[str, Any]]
    private: bool = False  # each process has a cache of its own


TEZKOR = "tezkor"
LOCMEM = "LocMemCache"
DISKCACHE = "diskcache"
TEZKOR_REDIS = "tezkor Redis"
TEZKOR_MEMCACHED = "tezkor Memcached"
TEZKOR_SQLITE, SQLITE = "tezkor Database", "DatabaseCache"
TEZKOR_POSTGRESQL, POSTGRESQL = "tezkor PostgreSQL", "DB PostgreSQL"

CONTENDERS = [
    Contender(
        TEZKOR,
        ("tezkor._native",),
        None,
        lambda place: {
            "BACKEND": "tezkor.backends.TezkorCache",
            "LOCATION": f"shared://bench-{place.run}?size=256MiB",
        },
    ),
    Contender(
        "tezkor LocMem",
        ("tezkor._native",),
        None,
        lambda place: {
            "BACKEND": "tezkor.backends.LocMemCache",
            "LOCATION": "bench",
            "OPTIONS": NO_CULLING,
        },
        private=True,
    ),
    Contender(
        "tezkor FileBased",
        ("tezkor._native",),
        None,
        lambda place: {
            "BACKEND": "tezkor.backends.FileBasedCache",
            "LOCATION": str(place.directory / "tezkor-files"),
            "OPTIONS": NO_CULLING,
        },
    ),
    Contender(
        LOCMEM,
        (),
        None,
        lambda place: {
            "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
            "LOCATION": "bench",
            "OPTIONS": NO_CULLING,
        },
        private=True,
    ),
    Contender(
        DISKCACHE,
        ("diskcache",),
        None,
        lambda place: {
            "BACKEND": "diskcache.DjangoCache",
            "LOCATION": str(place.directory / "diskcache"),
            "OPTIONS": {"size_limit": 2**30},
        },
    ),
    Contender(
        TEZKOR_REDIS,
        ("tezkor._native",),
        "redis",
        lambda place: {
            "BACKEND": "tezkor.backends.RedisCache",
            "LOCATION": place.redis_url(2),
            "OPTIONS": {"REGION": f"bench-servers-{place.run}"},
        },
    ),
    Contender(
        TEZKOR_MEMCACHED,
        ("tezkor._native",),
        "memcached",
        lambda place: {
            "BACKEND": "tezkor.backends.MemcachedCache",
            "LOCATION": place.memcached,
            "OPTIONS": {"REGION": f"bench-servers-{place.run}"},
        },
    ),
    Contender(
        "pylibmc",
        ("pylibmc",),
        "memcached",
        lambda place: {
            "BACKEND": "django.core.cache.backends.memcached.PyLibMCCache",
            "LOCATION": place.memcached,
        },
    ),
    Contender(
        "pymemcache",
        ("pymemcache",),
        "memcached",
        lambda place: {
            "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
            "LOCATION": f"unix:{place.memcached}"
            if str(place.memcached).startswith("/")
            else place.memcached,
        },
    ),
    Contender(
        "django-redis",
        ("django_redis", "hiredis"),
        "redis",
        lambda place: {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": place.redis_url(0)},
    ),
    Contender(
        "RedisCache",
        ("redis", "hiredis"),
        "redis",
        lambda place: {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": place.redis_url(1),
        },
    ),
    Contender(
        "FileBasedCache",
        (),
        None,
        lambda place: {
            "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
            "LOCATION": str(place.directory / "files"),
            "OPTIONS": NO_CULLING,
        },
    ),
    *(
        Contender(
            name,
            modules,
            server,
            lambda place, backend=backend: {
                "BACKEND": backend,
                "LOCATION": "cache_entries",
                "OPTIONS": NO_CULLING,
            },
        )
        for name, modules, server, backend in (
            (SQLITE, (), None, "django.core.cache.backends.db.DatabaseCache"),
            (TEZKOR_SQLITE, ("tezkor._native",), None, "tezkor.backends.DatabaseCache"),
            (POSTGRESQL, ("psycopg",), "postgresql", "django.core.cache.backends.db.DatabaseCache"),
            (TEZKOR_POSTGRESQL, ("tezkor._native", "psycopg"), "postgresql", "tezkor.backends.DatabaseCache"),
        )
    ),
]
# Those whose table is in PostgreSQL, and all that have one.
ON_POSTGRESQL = (POSTGRESQL, TEZKOR_POSTGRESQL)
IN_DATABASES = (SQLITE, TEZKOR_SQLITE, *ON_POSTGRESQL)


def missing(contender: Contender, place: Place, servers_missing: dict[str, str]) -> str | None:
    """One line that says why the contender cannot be measured, or None."""
    for module in contender.modules:
        try:
            found = importlib.util.find_spec(module)
        except ImportError:
            found = None
        if found is None:
            return f"{contender.name}: the module {module} is not installed"
    if contender.server and getattr(place, contender.server) is None:
        server = {"redis": "redis-server"}.get(contender.server, contender.server)
        return f"{contender.name}: {servers_missing.get(server, 'its server was not started')}"
    return None


def named(name: str) -> Contender:
    return next(contender for contender in CONTENDERS if contender.name == name)
