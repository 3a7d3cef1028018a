"""What was promised, what was measured, and whether the one reaches the other. Nothing here fails a test."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks import mix as several
from benchmarks import single as one
from benchmarks.contenders import (
    DISKCACHE,
    LOCMEM,
    POSTGRESQL,
    SQLITE,
    TEZKOR,
    TEZKOR_MEMCACHED,
    TEZKOR_POSTGRESQL,
    TEZKOR_REDIS,
    TEZKOR_SQLITE,
)
from benchmarks.table import figure, table

# The contenders without whom there is no ratio.
ALWAYS = (TEZKOR, LOCMEM)


class Claim(NamedTuple):
    what: str
    target: str
    measured: str
    ok: bool | None  # None: not measured


TIMES_AS_FAST = [
    ("get", "50 B str", LOCMEM, 10),
    ("get", "20 KB page", LOCMEM, 10),
    ("get", "dict of 20", LOCMEM, 3),
    ("get", "200 rows", LOCMEM, 4),
    ("get", "20 models", LOCMEM, 3),
    ("miss", "50 B str", LOCMEM, 4),
    ("set", "50 B str", LOCMEM, 3),
    ("incr", "50 B str", LOCMEM, 3),
    ("get_many", "50 B str", LOCMEM, 10),
    ("get", "50 B str", DISKCACHE, 15),
    ("get", "20 KB page", DISKCACHE, 15),
]


# The same servers, the same values.
ON_SERVERS = [
    (ours, theirs, operation, payload, many if operation.endswith("_many") else target)
    for ours, theirs, target, many in (
        (TEZKOR_REDIS, "RedisCache", 3, 2),
        (TEZKOR_REDIS, "django-redis", 2, 2),
        (TEZKOR_MEMCACHED, "pymemcache", 2, 2),
        (TEZKOR_MEMCACHED, "pylibmc", 1, 1),
    )
    for operation in ("get", "set", "get_many", "set_many")
    for payload in ("50 B str", "20 KB page")
]


# In the same database.
IN_DATABASES = [
    (ours, theirs, operation, payload, target)
    for ours, theirs in ((TEZKOR_SQLITE, SQLITE), (TEZKOR_POSTGRESQL, POSTGRESQL))
    for operation, target in (("get", 1.3), ("set", 2), ("get_many", 5), ("set_many", 5))
    for payload in ("50 B str", "20 KB page")
]


def single(times: one.Times) -> list[Claim]:
    found = []
    measured = {key[0] for key in times}
    for ours, theirs, operation, payload, target in [*ON_SERVERS, *IN_DATABASES]:
        if {ours, theirs} <= measured:
            value = one.ratio(times, operation, payload, ours, theirs)
            name = one.TITLES.get(operation, operation)
            found.append(
                at_least(f"{ours}: {name} of {payload} against {theirs}", value and value.median, target)
            )
    for operation, payload, theirs, target in TIMES_AS_FAST:
        name = one.TITLES.get(operation, operation)
        what = f"{name} of {payload}" if operation not in one.ONCE else name
        value = one.ratio(times, operation, payload, TEZKOR, theirs)
        found.append(at_least(f"{what} against {theirs}", value and value.median, target))
    return found


def mix(rounds: several.Rounds) -> list[Claim]:
    found = []
    for theirs, target in ((DISKCACHE, 20), (LOCMEM, 2)):
        value = several.throughput_ratio(rounds, 4, TEZKOR, theirs)
        name = "four private LocMemCaches" if theirs == LOCMEM else theirs
        found.append(at_least(f"4 processes, throughput against {name}", value and value.median, target))
    ours, other = several.p99(rounds, 4, TEZKOR), several.p99(rounds, 4, DISKCACHE)
    measured = f"{figure(ours.median)} against {figure(other.median)} µs" if ours and other else "-"
    ok = ours.median < other.median if ours and other else None
    found.append(Claim(f"4 processes, p99 against {DISKCACHE}", "lower", measured, ok))
    return found


def at_least(what: str, value: float | None, target: float) -> Claim:
    if value is None:
        return Claim(what, f"{target} x", "-", None)
    return Claim(what, f"{target} x", f"{figure(value)} x", value >= target)


def table_of(found: list[Claim]) -> str:
    marks = {True: "yes", False: "NO", None: "not measured"}
    lines = [[claim.what, claim.target, claim.measured, marks[claim.ok]] for claim in found]
    return table("Promised and measured", ["claim", "target", "measured", "ok"], lines)
