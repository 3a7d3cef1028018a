"""What tags and patterns cost: an invalidation however many entries it concerns, a get of an entry that has tags, a
reader beside somebody who deletes patterns. Invalidations are called as a project calls them, on Django's class."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.claims import Claim
from benchmarks.table import Spread, figure, shown, spread, table

KEYS = 100_000
CALLS = 20_000


def measure(place: Any, traces: Path | None, quick: bool) -> dict[str, Any]:
    from tezkor._native import Cache
    from tezkor.backends import TezkorCache

    location = "shared://bench-tags"
    cache = TezkorCache(location, {"TIMEOUT": None, "OPTIONS": {"SIZE": "128MiB"}})
    rounds = 3 if quick else 7
    for number in range(KEYS):
        cache.set(f"key:{number}", "x" * 50, tags=["crowd"])
    cache.set("one", "x" * 50, tags=["alone"])
    cache.set("bare", "x" * 50)
    cache.set("tagged", "x" * 50, tags=[f"tag {number}" for number in range(10)])
    found: dict[str, list[float]] = {
        name: [] for name in ("alone", "crowd", "bare", "tagged", "beside", "quiet")
    }
    for _ in range(rounds):
        found["alone"].append(per_call(lambda: cache.invalidate_tags("alone")))
        found["crowd"].append(per_call(lambda: cache.invalidate_tags("crowd")))
        found["bare"].append(per_call(lambda: cache.get("bare")))
        found["tagged"].append(per_call(lambda: cache.get("tagged")))
        with beside("invalidate", location):
            found["quiet"].append(per_call(lambda: cache.get("bare"), 5))
            found["beside"].append(per_call(lambda: cache.get("tagged"), 5))
    slow: dict[str, list[float]] = {"burn": [], "patterns": []}
    for number in range(KEYS):
        cache.set(f"key:{number}", "x" * 50)
    # Without decoded values, so that every read goes to the region.
    reader = Cache(location, timeout=None, decoded_bytes=0)
    keys = [f"key:{number}" for number in random.Random(1).sample(range(KEYS), KEYS)]
    for _ in range(rounds):
        for what, times in slow.items():
            with beside(what, location):
                times.append(p99(reader.get, keys))
    return {"times": found, "p99": slow}


@contextmanager
def beside(what: str, location: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.beside", what, location], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()


def per_call(call: Callable[[], Any], batches: int = 3) -> float:
    """Microseconds: the best of some batches; beside somebody who disturbs, their mean."""
    times = []
    for _ in range(batches):
        started = time.perf_counter()
        for _ in range(CALLS):
            call()
        times.append((time.perf_counter() - started) / CALLS * 1e6)
    return min(times) if batches == 3 else sum(times) / batches


def p99(get: Callable[[str], Any], keys: list[str]) -> float:
    """Microseconds of a get, the quickest of the slowest hundredth; each key is read once, in any order."""
    times = []
    for key in keys:
        started = time.perf_counter()
        get(key)
        times.append(time.perf_counter() - started)
    return sorted(times)[int(len(times) * 0.99)] * 1e6


def ratio(above: list[float], below: list[float]) -> Spread:
    return spread(one / other for one, other in zip(above, below, strict=True))


def tables(measured: dict[str, Any]) -> list[str]:
    times, slow = measured["times"], measured["p99"]
    lines = [
        [f"invalidate_tags, tag of {name}", shown(spread(times[key]))]
        for key, name in (("alone", "one entry"), ("crowd", "100 000 entries"))
    ]
    lines += [
        ["get, no tags", shown(spread(times["bare"]))],
        ["get, 10 tags", shown(spread(times["tagged"]))],
        ["get, no tags, beside 1 000 invalidations a second", shown(spread(times["quiet"]))],
        ["get, 10 tags, beside 1 000 invalidations a second", shown(spread(times["beside"]))],
        ["p99 of gets of 100 000 keys beside a process that burns its CPU", shown(spread(slow["burn"]))],
        ["p99 of gets of 100 000 keys beside delete_pattern over them", shown(spread(slow["patterns"]))],
    ]
    return [table("Tags and patterns, µs", ["what", "median (min-max)"], lines)]


def claims(measured: dict[str, Any]) -> list[Claim]:
    times, slow = measured["times"], measured["p99"]
    crowd = spread(times["crowd"])
    return [
        Claim("invalidate_tags, 100 000 entries", "5 µs", f"{figure(crowd.median)} µs", crowd.median <= 5),
        at_most("invalidate_tags, 100 000 entries against one", ratio(times["crowd"], times["alone"]), 1.3),
        at_most("get with 10 tags against none", ratio(times["tagged"], times["bare"]), 1.3),
        at_most("the same beside 1 000 invalidations a second", ratio(times["beside"], times["quiet"]), 1.5),
        at_most("p99 beside delete_pattern against a busy CPU", ratio(slow["patterns"], slow["burn"]), 1.5),
    ]


def at_most(what: str, value: Spread, target: float) -> Claim:
    return Claim(what, f"{target} x at most", f"{figure(value.median)} x", value.median <= target)
