"""One process of one contender: does what it is told on standard input and answers with one line of JSON each.

It knows nothing of the other contenders, so that none of them can warm or slow another one's process.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from array import array
from pathlib import Path
from typing import Any

from benchmarks.contenders import IN_DATABASES, ON_POSTGRESQL, Place, named
from benchmarks.payloads import PAYLOADS, fill_database, text

KEYS = 16  # so many keys take turns in reads and writes
MANY = 100
REPEATS = 3
CALLS_AT_MOST = 20_000
MIX_KEYS = 1000
SAMPLE_EVERY = 8  # the latency of every eighth operation is taken: a clock at each would slow the quick ones


class CacheRouter:
    """Sends the table of DatabaseCache to a file, which all processes share; the products stay in memory."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return "cache" if model._meta.app_label == "django_cache" else None

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return (app_label == "django_cache") == (db == "cache")


def set_up(name: str, place: Place) -> Any:
    """Configures Django with the contender as its only cache and returns the backend object."""
    import django
    from django.conf import settings

    sqlite = "django.db.backends.sqlite3"
    # The setting without which SQLite refuses most writes of several processes.
    options = {"timeout": 20, "transaction_mode": "IMMEDIATE"}
    database: dict[str, Any] = {
        "ENGINE": sqlite,
        "NAME": str(place.directory / "cache.sqlite3"),
        "OPTIONS": options,
    }
    if name in ON_POSTGRESQL:
        postgresql = "django.db.backends.postgresql"
        database = {"ENGINE": postgresql, "NAME": "postgres", "USER": "postgres", "HOST": place.postgresql}
    settings.configure(
        INSTALLED_APPS=["benchmarks"],
        DATABASES={
            "default": {"ENGINE": sqlite, "NAME": ":memory:"},
            "cache": database,
        },
        DATABASE_ROUTERS=["benchmarks.worker.CacheRouter"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        CACHES={"default": named(name).settings(place) | {"TIMEOUT": 300}},
        USE_TZ=True,
        SECRET_KEY="benchmark",
    )
    django.setup()
    from django.core.cache import caches
    from django.core.management import call_command

    if name in IN_DATABASES:
        call_command("createcachetable", database="cache", verbosity=0)
    return caches["default"]


class Cells:
    """Times one operation on one payload, in batches of about `batch_ms`."""

    def __init__(self, cache: Any, batch_ms: float) -> None:
        self.cache = cache
        self.batch_ns = batch_ms * 1e6
        self.calls: dict[tuple[str, str], int] = {}
        self.fresh = 0
        self.prepared: tuple[str, str] | None = None
        self.values: dict[str, Any] = {}

    def value(self, payload: str) -> Any:
        if not self.values:
            fill_database()
        if payload not in self.values:
            self.values[payload] = PAYLOADS[payload]()
        return self.values[payload]

    def measure(self, operation: str, payload: str) -> float:
        """Nanoseconds per call, with as many calls as fit the batch."""
        cell = (operation, payload)
        value = self.value(payload)
        batch = getattr(self, operation)
        self.cache.clear()
        self.prepare(operation, value)
        if cell not in self.calls:
            batch(1, value)
            calls = 1
            while (spent := batch(calls, value)) < self.batch_ns / 4 and calls < CALLS_AT_MOST:
                calls = min(CALLS_AT_MOST, max(calls * 2, int(calls * self.batch_ns / 4 / max(spent, 1))))
            self.calls[cell] = max(1, min(CALLS_AT_MOST, int(calls * self.batch_ns / max(spent, 1))))
        else:
            batch(min(self.calls[cell], 4 * KEYS), value)
        gc.collect()
        spent = []
        # The best of three short batches: another process that takes the CPU for a moment rarely meets all of them.
        for _ in range(REPEATS):
            spent.append(batch(self.calls[cell], value) / self.calls[cell])
            if spent[0] * self.calls[cell] > 4 * self.batch_ns:
                break
        return min(spent)

    def prepare(self, operation: str, value: Any) -> None:
        for number in range(KEYS if operation in ("get", "set") else 0):
            self.cache.set(f"page:{number}", value)
        if operation in ("get_many", "set_many"):
            self.cache.set_many({f"page:{number}": value for number in range(MANY)})
        if operation == "incr":
            self.cache.set("count", 1)

    def keys(self, calls: int, name: str) -> list[str]:
        """Key strings made anew, as a view would make them."""
        return [f"{name}:{number % KEYS}" for number in range(calls)]

    def get(self, calls: int, value: Any) -> int:
        cache, keys = self.cache, self.keys(calls, "page")
        started = time.perf_counter_ns()
        for key in keys:
            cache.get(key)
        spent = time.perf_counter_ns() - started
        if type(cache.get("page:0")) is not type(value):
            raise SystemExit("a get did not give back what was set")
        return spent

    def miss(self, calls: int, value: Any) -> int:
        cache, keys = self.cache, self.keys(calls, "absent")
        started = time.perf_counter_ns()
        for key in keys:
            cache.get(key)
        return time.perf_counter_ns() - started

    def set(self, calls: int, value: Any) -> int:
        cache, keys = self.cache, self.keys(calls, "page")
        started = time.perf_counter_ns()
        for key in keys:
            cache.set(key, value)
        return time.perf_counter_ns() - started

    def add(self, calls: int, value: Any) -> int:
        """Adds keys that are absent, each once, and removes them outside of the measured time."""
        cache, spent = self.cache, 0
        while calls > 0:
            keys = [f"added:{self.fresh + number}" for number in range(min(calls, 256))]
            self.fresh += len(keys)
            calls -= len(keys)
            started = time.perf_counter_ns()
            for key in keys:
                cache.add(key, value)
            spent += time.perf_counter_ns() - started
            cache.delete_many(keys)
        return spent

    def incr(self, calls: int, value: Any) -> int:
        cache, keys = self.cache, ["count"] * calls
        started = time.perf_counter_ns()
        for key in keys:
            cache.incr(key)
        return time.perf_counter_ns() - started

    def get_many(self, calls: int, value: Any) -> int:
        cache, keys = self.cache, [f"page:{number}" for number in range(MANY)]
        started = time.perf_counter_ns()
        for _ in range(calls):
            found = cache.get_many(keys)
        spent = time.perf_counter_ns() - started
        if len(found) != MANY:
            raise SystemExit(f"get_many found {len(found)} of {MANY} keys")
        return spent

    def set_many(self, calls: int, value: Any) -> int:
        cache, data = self.cache, {f"page:{number}": value for number in range(MANY)}
        started = time.perf_counter_ns()
        for _ in range(calls):
            cache.set_many(data)
        return time.perf_counter_ns() - started


def mix(cache: Any, seconds: float, seed: int, start_ns: int) -> dict[str, Any]:
    """Nine reads for each write of 1 KB strings until the time is over; throughput and sampled latencies."""
    import random

    chance = random.Random(seed)
    value = text(1024, seed)
    plan = [(f"mix:{chance.randrange(MIX_KEYS)}", chance.random() < 0.1) for _ in range(20_000)]
    samples = array("q")
    clock = time.perf_counter_ns
    while time.monotonic_ns() < start_ns:
        time.sleep(0.001)
    done, position = 0, 0
    started = clock()
    end = started + int(seconds * 1e9)
    while (before := clock()) < end:
        key, write = plan[position]
        if write:
            cache.set(key, value)
        else:
            cache.get(key)
        samples.append(clock() - before)
        for key, write in plan[position + 1 : position + SAMPLE_EVERY]:
            if write:
                cache.set(key, value)
            else:
                cache.get(key)
        position += SAMPLE_EVERY
        done += SAMPLE_EVERY
        if position >= len(plan):
            position = 0
    return {
        "operations": done,
        "seconds": (clock() - started) / 1e9,
        "samples_ns": samples[-20_000:].tolist(),
    }


def main() -> None:
    order = json.loads(sys.argv[1])
    place = Place(**(order["place"] | {"directory": Path(order["place"]["directory"])}))
    if order.get("cpu") is not None:
        os.sched_setaffinity(0, {order["cpu"]})
    cache = set_up(order["contender"], place)
    cells = Cells(cache, order["batch_ms"])
    for line in sys.stdin:
        task = json.loads(line)
        answer: Any = None
        if task["do"] == "cell":
            answer = cells.measure(task["operation"], task["payload"])
        elif task["do"] == "fill":
            cache.clear()
            for number in range(MIX_KEYS):
                cache.set(f"mix:{number}", text(1024))
        elif task["do"] == "mix":
            answer = mix(cache, task["seconds"], task["seed"], task["start_ns"])
        elif task["do"] == "end":
            break
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
