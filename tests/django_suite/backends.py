"""The backends that run Django's tests, and each test that one of them leaves out, with the reason."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

# One folder per run, which the runner removes; it gives the run a directory for shared regions of its own, too.
FOLDER = os.environ.get("TEZKOR_SUITE_FOLDER", "")
# The sockets of servers that the runner has started.
REDIS = os.environ.get("TEZKOR_SUITE_REDIS", "")
MEMCACHED = os.environ.get("TEZKOR_SUITE_MEMCACHED", "")

CULLING = {"cull", "zero_cull"}
BOUNDED_IN_BYTES = "MAX_ENTRIES has no effect on a backend that is bounded in bytes"
NO_DICTIONARIES = "looks into the private dictionaries and the lock of Django's LocMemCache"
NO_CLOCK = "turns the clock of Django's module; the same test runs with a real clock in BaseTests"
FILE_TESTS = "FileBasedCacheTests FileBasedCachePathLibTests"
NO_FILES = "looks into Django's own file of one entry; Tezkor keeps all entries in one file"


@dataclass(frozen=True)
class Backend:
    """``replaces`` is the module of the Django class whose hard-coded tests this backend runs in its place."""

    name: str
    dotted: str
    location: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    replaces: str = "locmem"
    excluded: frozenset[str] = frozenset()
    skips: dict[str, str] = field(default_factory=dict)
    # The server that has to run.
    server: str | None = None

    def entry(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"BACKEND": self.dotted, "LOCATION": self.location}
        if self.options:
            entry["OPTIONS"] = self.options
        return entry


def skips(reason: str, tests: dict[str, str]) -> dict[str, str]:
    """``{"SomeTests OtherTests": "test_this test_that"}`` as one entry per test."""
    return {
        f"{test_class}.{test}": reason
        for classes, names in tests.items()
        for test_class in classes.split()
        for test in names.split()
    }


CULLS = "test_cull test_zero_cull test_cull_delete_when_store_empty"


def tezkor(name: str, location: str, **options: Any) -> Backend:
    return Backend(
        name,
        "tezkor.backends.TezkorCache",
        location,
        {"TEST": {"SHARED": True}, **options},
        excluded=frozenset(CULLING),
        skips=skips(BOUNDED_IN_BYTES, {"BaseTests AsyncTests": CULLS}),
    )


# Django's session backend asks its cache in a sync way in async code, where queries are forbidden.
ASKED_IN_LOOP = (
    "test_actual_expiry_async test_cycle_async test_cycle_with_no_session_cache_async test_delete_async "
    "test_flush_async test_invalid_key_async test_save_async test_save_doesnt_clear_data_async "
    "test_session_asave_does_not_resurrect_session_logged_out_in_other_context"
)
DATABASE_SESSIONS = "CacheDBSessionTests CacheDBSessionWithTimeZoneTests"
DATABASE_SKIPS = skips(
    "asks the cache synchronously in async code, where no database may be asked",
    {DATABASE_SESSIONS: ASKED_IN_LOOP},
) | skips(
    "counts queries, and each look into this cache is one",
    {DATABASE_SESSIONS: "test_exists_searches_cache_first"},
)


def far(server: str | None, dotted: str, location: str) -> Backend:
    return Backend(
        server or "database",
        dotted,
        location,
        {"TEST": {"SHARED": True}},
        replaces="server",
        excluded=frozenset(CULLING),
        skips=skips(BOUNDED_IN_BYTES, {"BaseTests AsyncTests": CULLS}) | ({} if server else DATABASE_SKIPS),
        server=server,
    )


BACKENDS = {
    backend.name: backend
    for backend in (
        # Proves the harness: Django's own class must pass everything.
        Backend("django-locmem", "django.core.cache.backends.locmem.LocMemCache"),
        tezkor("own-region", ""),
        tezkor("shared", "shared://suite?size=16MiB"),
        tezkor("memory", "memory://suite"),
        tezkor("file", f"file://{FOLDER}/store"),
        Backend(
            "locmem",
            "tezkor.backends.LocMemCache",
            skips=skips(
                NO_DICTIONARIES,
                {
                    "LocMemCacheTests": "test_incr_decr_timeout test_locking_on_pickle",
                    "DefaultNonExpiringCacheKeyTests": "test_caches_with_unset_timeout_set_expiring_key "
                    "test_caches_set_with_timeout_as_none_set_non_expiring_key",
                },
            ),
        ),
        Backend(
            "filebased",
            "tezkor.backends.FileBasedCache",
            f"{FOLDER}/filebased",
            {"TEST": {"SHARED": True}},
            replaces="filebased",
            excluded=frozenset(CULLING),
            skips=skips(
                BOUNDED_IN_BYTES,
                {"BaseTests AsyncTests": CULLS, FILE_TESTS: "test_cull test_zero_cull"},
            )
            | skips(
                NO_FILES,
                {
                    FILE_TESTS: "test_get_ignores_enoent test_has_key_race_handling "
                    "test_empty_cache_file_considered_expired test_get_does_not_ignore_non_filenotfound_exceptions"
                },
            )
            | skips(NO_CLOCK, {FILE_TESTS: "test_touch"}),
        ),
        Backend("dummy", "tezkor.backends.DummyCache", replaces="dummy"),
        far("redis", "tezkor.backends.RedisCache", f"unix://{REDIS}?db=1"),
        far("memcached", "tezkor.backends.MemcachedCache", MEMCACHED),
        far(None, "tezkor.backends.DatabaseCache", "suite_cache"),
    )
}
CHOSEN = BACKENDS[os.environ.get("TEZKOR_SUITE", "django-locmem")]
