"""A process beside the one that is measured: it burns its CPU, invalidates tags, or deletes patterns until its end."""

from __future__ import annotations

import sys
import time

from tezkor._native import Cache

KEYS = 100_000


def burn(cache: Cache) -> None:
    while True:
        sum(range(10_000))


def invalidate(cache: Cache) -> None:
    """A thousand unrelated tags a second."""
    number, due = 0, time.perf_counter()
    while True:
        cache.invalidate_tags([f"unrelated:{number}"])
        number, due = number + 1, due + 0.001
        time.sleep(max(0.0, due - time.perf_counter()))


def patterns(cache: Cache) -> None:
    """Looks through all keys again and again, and removes those that were set for it."""
    while True:
        for number in range(100):
            cache.set(f"list:{number}", "x")
        cache.delete_pattern("list:*")


def main() -> None:
    what, location = sys.argv[1:]
    cache = Cache(location, timeout=None)
    print("ready", flush=True)
    {"burn": burn, "invalidate": invalidate, "patterns": patterns}[what](cache)


if __name__ == "__main__":
    main()
