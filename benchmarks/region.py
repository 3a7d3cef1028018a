"""One process with one region of its own: how much of it is payload, and how often a trace hits it.

It speaks to the native cache directly, since only the store is measured here and not Django's class.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks import lru, traces

MIB = 1 << 20
LIVE_SAMPLES = 16
# A cyclic scan of large values misses always; after so many bytes more of the same tells nothing.
WRITTEN_BYTES_AT_MOST = 24 << 30


def opened(size_bytes: int, decoded_bytes: int | None) -> Any:
    from tezkor._native import Cache

    options = {} if decoded_bytes is None else {"decoded_bytes": decoded_bytes}
    location = f"memory://bench-{os.getpid()}"
    return Cache(location, timeout=None, size_bytes=size_bytes, **options)


def payload_share(order: dict[str, Any]) -> dict[str, Any]:
    """Fills the region with four times what it holds, in values of one size, and counts what is left by reading."""
    size, value_bytes = order["size_bytes"], order["value_bytes"]
    cache = opened(size, 0)
    value = random.Random(1).randbytes(value_bytes)
    written = size * 4 // value_bytes
    for number in range(written):
        cache.set(f"key:{number}", value)
    live = sum(cache.has_key(f"key:{number}") for number in range(written))
    return order | {"live": live, "share": live * value_bytes / size}


def hits(order: dict[str, Any]) -> dict[str, Any]:
    """Reads a trace through the store: get, and set on a miss; then lets LRU have as many entries as the store had."""
    directory = Path(order["traces"]) if order["traces"] else None
    accesses = traces.load(directory, order["trace"])
    unique = len(set(accesses))
    wanted = max(1, round(unique * order["share"]))
    value_bytes = max(64, int(order["size_bytes"] * order["fill"] / wanted))
    if order["trace"] in traces.CYCLIC:
        accesses = accesses[: WRITTEN_BYTES_AT_MOST // value_bytes]
    cache = opened(order["size_bytes"], order["decoded_bytes"])
    value = random.Random(1).randbytes(value_bytes)
    get, put = cache.get, cache.set
    found = 0
    live = []
    started = time.perf_counter()
    rest = iter(accesses)
    step = len(accesses) // LIVE_SAMPLES + 1
    for sample in range(LIVE_SAMPLES):
        for key in islice(rest, step):
            name = f"key:{key}"
            if get(name) is None:
                put(name, value)
            else:
                found += 1
        if sample >= LIVE_SAMPLES // 2 - 1:
            live.append(len(cache.keys()))
    seconds = time.perf_counter() - started
    capacity = round(sum(live) / len(live))
    return order | {
        "unique": unique,
        "requests": len(accesses),
        "value_bytes": value_bytes,
        "wanted": wanted,
        "live": [min(live), capacity, max(live)],
        "hit_ratio": found / len(accesses),
        "lru": lru.hit_ratio(accesses, capacity),
        "lru_wanted": lru.hit_ratio(accesses, wanted),
        "seconds": seconds,
    }


def main() -> None:
    order = json.loads(sys.argv[1])
    print(json.dumps({"share": payload_share, "hits": hits}[order["do"]](order)))


if __name__ == "__main__":
    main()
