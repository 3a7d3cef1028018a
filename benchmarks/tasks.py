"""Section `tasks`: what 50 tasks of one event loop get out of a Redis, each asking again as soon as it is answered.

The same Redis and values for all; nobody is bound to a CPU. Django's own backend has no async driver: its methods run
in a thread.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.claims import Claim, at_least
from benchmarks.contenders import Place
from benchmarks.payloads import text
from benchmarks.table import shown, spread, table

TASKS = 50
SECONDS = 0.5
OURS, PEER, DJANGO = "tezkor Redis", "redis.asyncio", "RedisCache"
PAYLOADS = {"50 B str": 50, "20 KB page": 20_000}

Rates = dict[str, list[float]]  # "contender, operation, payload": thousand operations a second per round


def measure(place: Place, rounds: int) -> Rates:
    """Measured in a process of its own, in which nothing else has been opened."""
    command = [sys.executable, "-m", "benchmarks.tasks", json.dumps(place, default=str), str(rounds)]
    answered = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    rates: Rates = json.loads(answered.stdout)
    return rates


def tables(rates: Rates) -> list[str]:
    columns = [(operation, payload) for operation in ("get", "set") for payload in PAYLOADS]
    lines = [
        [name, *(shown(spread(rates[f"{name}, {operation}, {payload}"])) for operation, payload in columns)]
        for name in (OURS, PEER, DJANGO)
    ]
    head = ["contender", *(f"{operation} {payload}" for operation, payload in columns)]
    return [table(f"{TASKS} tasks, thousand operations a second: median (min-max)", head, lines)]


def claims(rates: Rates) -> list[Claim]:
    return [
        at_least(
            f"{TASKS} tasks: {operation} of {payload} against {PEER}",
            spread(
                ours / theirs
                for ours, theirs in zip(
                    rates[f"{OURS}, {operation}, {payload}"],
                    rates[f"{PEER}, {operation}, {payload}"],
                    strict=True,
                )
            ).median,
            3,
        )
        for operation in ("get", "set")
        for payload in PAYLOADS
    ]


async def rate(ask: Callable[[], Awaitable[Any]]) -> float:
    """Thousand operations a second."""
    count = 0
    end = time.perf_counter() + SECONDS

    async def task() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await ask()
            count += 1

    started = time.perf_counter()
    await asyncio.gather(*(task() for _ in range(TASKS)))
    return count / (time.perf_counter() - started) / 1000


async def ask_all(place: Place, rounds: int) -> Rates:
    import redis.asyncio
    from django.core.cache.backends.redis import RedisCache as DjangosRedisCache

    from tezkor.backends import RedisCache

    path = str(place.redis)
    host, _, port = path.rpartition(":")
    where: dict[str, Any] = {"host": host, "port": int(port)} if host else {"unix_socket_path": path}
    # A connection for each task, as its users have it.
    client = redis.asyncio.Redis(**where, db=4)
    ours = RedisCache(place.redis_url(3), {"OPTIONS": {"REGION": f"bench-{place.run}"}})
    djangos = DjangosRedisCache(place.redis_url(5), {})
    rates: Rates = {}
    for number in range(rounds):
        print(f"tasks: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for payload, size in PAYLOADS.items():
            value = text(size)
            await ours.aset("k", value)
            await djangos.aset("k", value)
            await client.set("k", value)
            asked: dict[str, Callable[[], Awaitable[Any]]] = {
                f"{OURS}, get": lambda: ours.aget("k"),
                f"{PEER}, get": lambda: client.get("k"),
                f"{DJANGO}, get": lambda: djangos.aget("k"),
                f"{OURS}, set": lambda value=value: ours.aset("k", value),
                f"{PEER}, set": lambda value=value: client.set("k", value, ex=300),
                f"{DJANGO}, set": lambda value=value: djangos.aset("k", value),
            }
            for name, ask in asked.items():
                rates.setdefault(f"{name}, {payload}", []).append(await rate(ask))
    await client.aclose()
    return rates


def main() -> None:
    from django.conf import settings

    settings.configure(SECRET_KEY="benchmark")
    place, rounds = Place(*json.loads(sys.argv[1])), int(sys.argv[2])
    print(json.dumps(asyncio.run(ask_all(place, rounds))))


if __name__ == "__main__":
    main()
