"""Processes that use one cache while its server misbehaves, and what that cost them: exceptions, wrong values, time.

    with Load(django_cache, caches={"default": {...}}) as load:
        summary = load.under(proxy, "stall")
        assert summary.read_errors == {} and summary.wrong == 0

Or for Django's own classes, one line for each fault (any other one by --backend, with {address} in its LOCATION):

    cd tests && python3 -m faults.load redis stall shift
    cd tests && python3 -m faults.load redis --backend '{"BACKEND": "a.b.Cache", "LOCATION": "redis://{address}/0"}'

It goes through three stages: `before`, without a fault, to compare with; `during` the fault, a number of requests in
all; `after` it was cleared, for some seconds. A request is a get, a set after a miss and at times without one, and a
close, as Django does after each request. It never judges: limits are for the tests that call it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

from faults.proxy import Proxy

SPAWN = multiprocessing.get_context("spawn")
PROCESSES = 8
REQUESTS = 2_000
KEYS = [f"key-{number}" for number in range(100)]
VALUE_BYTES = 200
# One request in so many writes although it has read something.
WRITE_EVERY = 5
SLOWEST = 20
START_SECONDS = 120
PROBE_SECONDS = 0.01


class Record(NamedTuple):
    """One operation: in whose process, at what stage, from when on and for how long, and what came of it."""

    process: int
    stage: str
    operation: str
    start: float
    seconds: float
    # `right`, `miss`, `wrong`, `done`, or the name of an exception.
    outcome: str


@dataclass
class Summary:
    """What a fault cost. Times are seconds; operations are counted over all processes of the machine."""

    mode: str
    options: dict[str, Any]
    seed: int
    requests: int
    seconds: float
    read_errors: dict[str, int]
    write_errors: dict[str, int]
    # At all stages: nothing excuses these.
    wrong: int
    reads: dict[str, int]
    median_before: float
    median: float
    # The slowest operations of the machine during the fault, the slowest first.
    slowest: list[float]
    # After `clear`, until the last operation that failed had ended; None when they failed to the end.
    recovery: float | None
    records: list[Record] = field(repr=False)

    def added(self, nth: int) -> float:
        """What the nth slowest operation took longer than a usual one without the fault."""
        return self.slowest[nth - 1] - self.median_before


def django_cache(
    caches: dict[str, Any],
    alias: str = "default",
    environ: dict[str, str] | None = None,
    **settings: Any,
) -> Any:
    """The cache of these CACHES; further settings by keyword."""
    os.environ.update(environ or {})
    import django
    from django.conf import settings as of_django

    of_django.configure(CACHES=caches, **({"SECRET_KEY": "load", "USE_TZ": True} | settings))
    django.setup()
    from django.core.cache import caches as configured

    return configured[alias]


def value_of(key: str, serial: str) -> str:
    text = f"{key}|{serial}|{'x' * VALUE_BYTES}"
    return f"{text}|{zlib.crc32(text.encode()):08x}"


def is_right(key: str, value: Any) -> bool:
    """Whether a value was written for this key and is whole."""
    if not isinstance(value, str) or not value.startswith(f"{key}|"):
        return False
    text, _, checksum = value.rpartition("|")
    return checksum == f"{zlib.crc32(text.encode(errors='replace')):08x}"


class Order(NamedTuple):
    """What a process is to do at a stage: so many requests, or for so many seconds."""

    stage: str
    amount: float


class Worker:
    """One process: does what each order asks for, and writes a line for each operation to the file that all share."""

    def __init__(self, number: int, cache: Any, path: str, stop: Any) -> None:
        self.number = number
        self.cache = cache
        self.random = random.Random(number)
        self.serial = 0
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND)
        self.stop = stop
        self.stage = ""

    def obey(self, order: Order) -> None:
        self.stage = order.stage
        if order.stage == "after":
            self.probe(order.amount)
        else:
            self.request(round(order.amount))

    def request(self, count: int) -> None:
        for turn in range(count):
            if self.stop.is_set():
                return
            key = self.random.choice(KEYS)
            if self.get(key) == "miss" or turn % WRITE_EVERY == 0:
                self.set(key)
            self.close()

    def probe(self, seconds: float) -> None:
        """What was written by this process must be there at once."""
        key = f"probe-{self.number}"
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            written = self.set(key)
            self.get(key, written)
            self.close()
            time.sleep(PROBE_SECONDS)

    def get(self, key: str, written: str | None = None) -> str:
        start = time.monotonic()
        try:
            value = self.cache.get(key)
        except Exception as error:
            return self.say("get", start, type(error).__name__)
        seconds = time.monotonic() - start
        if value is None:
            outcome = "miss"
        elif is_right(key, value):
            outcome = "right" if written in (None, value) else "old"
        else:
            outcome = "wrong"
        return self.say("get", start, outcome, seconds)

    def set(self, key: str) -> str:
        self.serial += 1
        value = value_of(key, f"{self.number}.{self.serial}")
        start = time.monotonic()
        try:
            self.cache.set(key, value)
        except Exception as error:
            self.say("set", start, type(error).__name__)
        else:
            self.say("set", start, "done")
        return value

    def close(self) -> None:
        if hasattr(self.cache, "close"):
            self.cache.close()

    def say(self, operation: str, start: float, outcome: str, seconds: float | None = None) -> str:
        taken = time.monotonic() - start if seconds is None else seconds
        record = Record(self.number, self.stage, operation, start, taken, outcome)
        os.write(self.file, json.dumps(record).encode() + b"\n")
        return outcome


def work(
    number: int, path: str, stop: Any, orders: Any, make: Callable[..., Any], arguments: dict[str, Any]
) -> None:
    worker = Worker(number, make(**arguments), path, stop)
    orders.send("ready")
    while True:
        try:
            order = orders.recv()
        except EOFError:
            return
        worker.obey(order)
        orders.send(order.stage)


class Load:
    """Processes with a cache each, until the end of the block; they keep it from one fault to the next, as a site's do.

    `make` is a function of a module, since each process finds it by its name; it gets the further keywords.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        *,
        processes: int = PROCESSES,
        requests: int = REQUESTS,
        limit_seconds: float = 60,
        after_seconds: float = 3,
        **arguments: Any,
    ) -> None:
        self.requests = requests // processes
        self.limit_seconds = limit_seconds
        self.after_seconds = after_seconds
        self._count = processes
        self._work = (make, arguments)

    def __enter__(self) -> Load:
        self._folder = Path(tempfile.mkdtemp(prefix="faults-load-"))
        self._path = self._folder / "records"
        self._path.touch()
        self._read = 0
        self._stop = SPAWN.Event()
        self._orders = []
        self._workers = []
        try:
            for number in range(self._count):
                mine, theirs = SPAWN.Pipe()
                self._orders.append(mine)
                shared = (number, str(self._path), self._stop, theirs, *self._work)
                worker = SPAWN.Process(target=work, args=shared, daemon=True)
                self._workers.append(worker)
                worker.start()
                theirs.close()
            self._wait(START_SECONDS)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for orders in self._orders:
            orders.close()
        for worker in self._workers:
            worker.join(0 if error else 5)
            if worker.is_alive():
                worker.kill()
                worker.join()
            worker.close()
        shutil.rmtree(self._folder)

    def under(self, proxy: Proxy, mode: str, **options: Any) -> Summary:
        """Makes the requests during this fault of the proxy that the caches reach their server by.

        When they take longer than the limit no further ones are made; the summary says how many there were. What still
        waits then is answered because the fault is cleared.
        """
        self._stop.clear()
        self._tell(Order("before", self.requests))
        self._wait(START_SECONDS)
        try:
            proxy.fault(mode, **options)
            began = time.monotonic()
            self._tell(Order("during", self.requests))
            late = self._wait(self.limit_seconds)
            self._stop.set()
            cleared = time.monotonic()
        finally:
            proxy.clear()
        self._tell(Order("after", self.after_seconds))
        if late:
            self._wait(START_SECONDS, late)
        if self._wait(START_SECONDS):
            raise RuntimeError(f"operations still hang {START_SECONDS} s after {mode} was cleared")
        with self._path.open() as file:
            file.seek(self._read)
            records = [Record(*json.loads(line)) for line in file.readlines()]
            self._read = file.tell()
        return summary_of(records, mode, options, proxy.seed, cleared - began, cleared)

    def _tell(self, order: Order) -> None:
        for orders in self._orders:
            orders.send(order)

    def _wait(self, seconds: float, whom: list[Any] | None = None) -> list[Any]:
        """Waits for an answer of each process; those that have given none when the time is up."""
        waiting = list(self._orders if whom is None else whom)
        deadline = time.monotonic() + seconds
        while waiting and time.monotonic() < deadline:
            answered: list[Any] = connection.wait(waiting, max(0, deadline - time.monotonic()))
            for orders in answered:
                try:
                    orders.recv()
                except EOFError:
                    raise RuntimeError("a process of the load died; its error output says why") from None
                waiting.remove(orders)
        return waiting


def summary_of(
    records: list[Record], mode: str, options: dict[str, Any], seed: int, seconds: float, cleared: float
) -> Summary:
    before, during, after = (
        [record for record in records if record.stage == stage] for stage in ("before", "during", "after")
    )
    reads = Counter(record.outcome for record in during if record.operation == "get")
    writes = Counter(record.outcome for record in during if record.operation == "set")
    known = ("right", "old", "miss", "wrong", "done")
    bad = [record.start + record.seconds for record in after if record.outcome not in ("right", "done")]
    good = [record.start + record.seconds for record in after if record.outcome == "right"]
    recovery: float | None = None
    if good and (not bad or max(bad) < max(good)):
        recovery = max(bad, default=cleared) - cleared
    return Summary(
        mode=mode,
        options=options,
        seed=seed,
        requests=reads.total(),
        seconds=seconds,
        read_errors={name: count for name, count in reads.items() if name not in known},
        write_errors={name: count for name, count in writes.items() if name not in known},
        wrong=sum(record.outcome == "wrong" for record in records),
        reads={name: reads[name] for name in ("right", "miss", "wrong")},
        median_before=statistics.median(record.seconds for record in before),
        median=statistics.median(record.seconds for record in during),
        slowest=sorted((record.seconds for record in during), reverse=True)[:SLOWEST],
        recovery=recovery,
        records=records,
    )


# What a cache should bear, with the peers' timeout of 100 ms in mind: delays below and above it.
FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("refuse", {}),
    ("unreachable", {}),
    ("partial accept", {"every": 2}),
    ("blackhole", {}),
    ("blackhole", {"then": "deliver"}),
    ("stall", {}),
    ("delay", {"seconds": 0.02}),
    ("delay", {"seconds": 0.5}),
    ("drip", {"pause": 0.002}),
    ("reset", {}),
    ("cut", {}),
    ("garbage", {"kind": "random"}),
    ("garbage", {"kind": "type"}),
    ("garbage", {"kind": "flip"}),
    ("garbage", {"kind": "flip", "share": 0.02}),
    ("duplicate", {}),
    ("shift", {}),
    ("shift", {"first": "withheld"}),
    ("swap", {}),
]
BACKENDS: dict[str, dict[str, Any]] = {
    "redis": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": "redis://{address}/0",
        "OPTIONS": {"socket_timeout": 0.1, "socket_connect_timeout": 0.1},
    },
    "memcached": {
        "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
        "LOCATION": "{address}",
        "OPTIONS": {"timeout": 0.1, "connect_timeout": 0.1, "no_delay": True},
    },
}
TITLES = (
    "fault|requests|s|get raised|set raised|wrong|misses|median before|median|slowest|4th slowest|recovery s"
)


def row(summary: Summary) -> str:
    def errors(counts: dict[str, int]) -> str:
        names = ", ".join(f"{name} {count}" for name, count in counts.items())
        return f"{sum(counts.values())}" + (f" ({names})" if names else "")

    options = ", ".join(f"{name}={value}" for name, value in summary.options.items())
    cells = [
        f"{summary.mode} {options}".strip(),
        f"{summary.requests}",
        f"{summary.seconds:.1f}",
        errors(summary.read_errors),
        errors(summary.write_errors),
        f"{summary.wrong}",
        f"{summary.reads['miss']}",
        *(
            f"{seconds * 1000:.2f} ms"
            for seconds in (summary.median_before, summary.median, summary.slowest[0], summary.slowest[3])
        ),
        "never" if summary.recovery is None else f"{summary.recovery:.2f}",
    ]
    return "|".join(cells)


def main() -> int:
    parser = argparse.ArgumentParser(prog="faults.load", description="Puts a cache of Django through faults.")
    parser.add_argument("server", choices=BACKENDS)
    parser.add_argument("modes", nargs="*", help="of the faults; all when none is named")
    parser.add_argument(
        "--backend", type=json.loads, help="a cache as in CACHES, with {address} in its LOCATION"
    )
    parser.add_argument("--settings", type=json.loads, default={}, help="further settings of Django")
    parser.add_argument("--limit", type=float, default=20, help="seconds for each fault")
    arguments = parser.parse_args()
    place = Path(__file__).resolve().parent.parent.parent / "scripts" / "servers.py"
    spec = importlib.util.spec_from_file_location("servers", place)
    assert spec is not None
    assert spec.loader is not None
    servers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(servers)
    with servers.Servers() as running:
        upstream = getattr(running, arguments.server)()
        if upstream is None:
            print(*running.missing.values(), file=sys.stderr)
            return 1
        protocol: Literal["resp", "memcached"] = "resp" if arguments.server == "redis" else "memcached"
        with Proxy(upstream, protocol, seed=1) as proxy:
            cache = dict(arguments.backend or BACKENDS[arguments.server])
            cache["LOCATION"] = cache["LOCATION"].replace("{address}", proxy.address)
            faults = [fault for fault in FAULTS if not arguments.modes or fault[0] in arguments.modes]
            print(TITLES, flush=True)
            while faults:
                with Load(
                    django_cache,
                    limit_seconds=arguments.limit,
                    caches={"default": cache},
                    **arguments.settings,
                ) as load:
                    while faults:
                        mode, options = faults.pop(0)
                        summary = load.under(proxy, mode, **options)
                        print(row(summary), flush=True)
                        if summary.recovery is None:
                            break  # The next fault gets processes that nothing is wrong with.
    return 0


if __name__ == "__main__":
    sys.exit(main())
