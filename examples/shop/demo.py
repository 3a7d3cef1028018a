#!/usr/bin/env python
"""Runs the shop with no cache, with LocMemCache and with Tezkor under the same load, and prints one table.

1. The database is built once, and copied for each cache. Three shops are started, each with three gunicorn workers.
2. The load is sent in slices: each slice to one shop after the other, so that whatever else the machine does meets all
   three alike. There are as many slices as fit into the time.
3. Sample pages are looked at; the workers are reloaded, and the same pages are looked at again. They must be the same
   with every cache, and no old price may be seen where the cache promises none.
4. Each cache once more, with four threads in each worker: all of them at once are asked for a cold, expensive page,
   and prices are changed while they are read.

Takes less than two minutes; leaves nothing behind but the built database in .cache/shop.
"""

import argparse
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from measure import consistency, database, pages, stampede
from measure.load import CLIENTS
from measure.plan import WEIGHTS, Plan
from measure.server import WORKERS, Server
from measure.table import table

TITLES = {"dummy": "DummyCache", "locmem": "LocMemCache", "tezkor": "Tezkor"}
SECONDS = 50  # after which no further slice is sent; what follows takes about 40 s
MOST_SLICES = 200
SEED = 1895
MEMORY = "/dev/shm"
LOCKS = "measure.locks.LocMemCacheWithLocks"
CALLERS = WORKERS * stampede.THREADS
STAMPEDE_SECONDS = 5  # after which no further round is begun
CHANGING_SECONDS = 4


class Demo:
    """The three shops. Used as a context manager: all of it is gone when the block is left, however it is left."""

    def __init__(self, caches, say):
        self.caches, self.say = caches, say
        self.token = secrets.token_hex(8)
        self.servers, self.runs = {}, {cache: {} for cache in caches}

    def __enter__(self):
        self.films = database.prepared(self.say)
        with ExitStack() as stack:
            tmpfs = MEMORY if os.access(MEMORY, os.W_OK) else None
            work, shared = (
                Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tezkor-shop-", dir=place)))
                for place in (None, tmpfs)
            )
            for cache in self.caches:
                self.say(f"{TITLES[cache]}: starting {WORKERS} workers")
                self.servers[cache] = stack.enter_context(self.server(cache, work / cache, shared))
            self.work, self.shared, self.stack = work, shared, stack.pop_all()
        return self

    def __exit__(self, *exc):
        self.stack.close()

    def server(self, cache, run_dir, shared, **environ):
        run_dir.mkdir()
        shared.mkdir(exist_ok=True)
        return Server(
            cache,
            database.copied(self.films, run_dir / "shop.sqlite3"),
            run_dir,
            settings="measure.settings",
            log=run_dir / "gunicorn.log",
            SHOP_PRICE_TOKEN=self.token,
            TEZKOR_SHARED_DIRECTORY=str(shared),  # a region for this demo alone
            **environ,
        )

    def run(self, popularity, until):
        """Sends slices until the time is up, then compares pages."""
        plan, slices, said = Plan(self.films, SEED, popularity), [], 0
        cpu = {cache: server.cpu_seconds() for cache, server in self.servers.items()}
        took = 0
        while len(slices) < MOST_SLICES and (len(slices) < 2 or time.monotonic() + took < until):
            begun = time.monotonic()
            slices.append(plan.slice())
            for cache in self.shifted(len(slices)):
                self.add(cache, self.send(cache, slices[-1]))
            took = time.monotonic() - begun
            if time.monotonic() - said > 5:
                said = time.monotonic()
                self.say(f"{self.sent()} requests to each shop")
        for cache, server in self.servers.items():
            self.runs[cache]["cpu"] = server.cpu_seconds() - cpu[cache]
        self.compare(plan.sample(slices))
        for server in self.servers.values():
            server.stop()
        best_known = sorted(plan.films, key=lambda film: (-film[2], film[0]))  # as the list shows them
        films = [pk for pk, *_ in best_known[: consistency.FILMS]]
        years = random.Random(SEED).sample(plan.years, stampede.ROUNDS)
        for cache in self.caches:
            self.rush(cache, years, films)

    def rush(self, cache, years, films):
        """All at once: a cold page, then prices that change."""
        self.say(f"{TITLES[cache]}: {CALLERS} at once ask for a cold page, then prices change under readers")
        run = self.runs[cache]
        if cache == "dummy":
            years = years[:1]  # without a cache all rounds are alike
        with self.threaded(cache, cache) as server:
            run["stampede"] = self.stampede(server, years)
            trial = consistency.Trial(server.port, films, self.token)
            run["changing"] = trial.run(CHANGING_SECONDS)
        if cache == "locmem":
            with self.threaded(cache, "locks", SHOP_BACKEND=LOCKS) as server:
                run["stampede_with_locks"] = self.stampede(server, years)

    def stampede(self, server, years):
        until = time.monotonic() + STAMPEDE_SECONDS
        return stampede.rounds(server.port, server.runs_file, CALLERS, years, until)

    def threaded(self, cache, name, **environ):
        run_dir, runs_file = self.work / f"threaded-{name}", self.work / f"runs-{name}"
        threads = {"SHOP_THREADS": str(stampede.THREADS), "SHOP_RUNS_FILE": str(runs_file)}
        server = self.server(cache, run_dir, self.shared / "threaded", **threads, **environ)
        server.runs_file = runs_file
        return server

    def shifted(self, turn):
        """The caches, another one first at each turn."""
        first = turn % len(self.caches)
        return self.caches[first:] + self.caches[:first]

    def sent(self):
        return len(next(iter(self.runs.values()))["latencies"])

    def send(self, cache, visits):
        command = [sys.executable, "-m", "measure.load", str(self.servers[cache].port)]
        asked = json.dumps({"visits": visits, "price_token": self.token})
        answer = subprocess.run(
            command, cwd=database.SHOP, input=asked, stdout=subprocess.PIPE, text=True, check=False
        )
        if answer.returncode:
            raise RuntimeError(f"the load ended with code {answer.returncode}")
        return json.loads(answer.stdout)

    def add(self, cache, figures):
        """All figures add up: numbers as sums, latencies and failures as longer lists."""
        run = self.runs[cache]
        for name, figure in figures.items():
            run[name] = run[name] + figure if name in run else figure

    def compare(self, sample):
        self.say(f"looking at {len(sample)} pages of each shop, before and after a reload of its workers")
        for cache, server in self.servers.items():
            run = self.runs[cache]
            run["seen"], _ = pages.looked_at(server.port, sample, times=4 if cache == "tezkor" else 2)
            server.reload()
            run["seen_after_reload"], run["hits_after_reload"] = pages.looked_at(server.port, sample, times=1)

    def problems(self):
        """What must not be: failed requests, pages that differ, old prices where the cache promises none."""
        first = self.caches[0]
        reference, found = self.runs[first]["seen"], []
        for cache, run in self.runs.items():
            found += [f"{TITLES[cache]}: {failure}" for failure in run["failures"][:3]]
            private = cache == "locmem"  # other workers learn of a new price when their own entry expires
            looks = [run["seen_after_reload"]] if private else [run["seen"], run["seen_after_reload"]]
            for seen in looks:
                differing = pages.different(seen, reference)[:3]
                found += [f"{TITLES[cache]}: {path} is not as with {TITLES[first]}" for path in differing]
            if run["old_prices"] and not private:
                found.append(f"{TITLES[cache]}: {run['old_prices']} old prices after a write")
            if not run["price_reads"]:
                found.append(f"{TITLES[cache]}: no price was checked")
            changing = run["changing"]
            stale = sum(changing["stale"].values())
            found += [f"{TITLES[cache]}: {failure}" for failure in changing["failures"][:3]]
            if stale and not private:
                found.append(f"{TITLES[cache]}: {stale} stale prices while prices changed")
            if not sum(changing["reads"].values()):
                found.append(f"{TITLES[cache]}: no price was read while prices changed")
            if cache == "tezkor" and any(runs != 1 for runs, *_ in run["stampede"]):
                found.append(f"{TITLES[cache]}: a cold report was made {run['stampede']} times")
        return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--caches", default=",".join(TITLES), help="which caches, separated by commas")
    parser.add_argument("--popularity", default="critics", choices=WEIGHTS, help="by what films are drawn")
    parser.add_argument("--seconds", default=SECONDS, type=float, help="after how long no more load is sent")
    asked = parser.parse_args()
    caches = asked.caches.split(",")
    if unknown := set(caches) - set(TITLES):
        parser.error(f"unknown cache {', '.join(unknown)}; choose from {', '.join(TITLES)}")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stops the servers, removes the files
    start = time.monotonic()

    def say(text):
        print(f"[{time.monotonic() - start:5.1f} s] {text}", flush=True)

    try:
        with Demo(caches, say) as demo:
            demo.run(asked.popularity, until=start + asked.seconds)
    except (RuntimeError, subprocess.CalledProcessError) as problem:
        sys.exit(f"demo: {problem}")
    except KeyboardInterrupt:
        sys.exit("demo: interrupted")

    print(
        f"\nThe same {demo.sent()} requests from {CLIENTS} clients, {WORKERS} workers, caches empty at first:\n"
    )
    print(table({TITLES[cache]: run for cache, run in demo.runs.items()}))
    if problems := demo.problems():
        sys.exit("\n".join(["", "demo: the shop is not what it must be with every cache", *problems]))
    sample, seconds = len(demo.runs[caches[0]]["seen"]), time.monotonic() - start
    print(f"\nAll {sample} sample pages are the same with every cache. Done in {seconds:.0f} s.")


if __name__ == "__main__":
    main()
