#!/usr/bin/env python
"""Runs the shop with no cache, with LocMemCache and with Tezkor under the same load, and prints one table.

1. The database is built once, and copied for each run.
2. A short try without a cache says how many requests fit into the time.
3. For each cache: three gunicorn workers, the load, then a look at sample pages; the workers are reloaded, and the
   same pages are looked at again.
4. The pages must be the same with every cache, and no old price may be seen where the cache promises none.

Takes less than two minutes; leaves nothing behind but the built database in .cache/shop.
"""

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import database, pages
from measure.plan import WEIGHTS, Plan
from measure.server import WORKERS, Server
from measure.table import table

TITLES = {"dummy": "DummyCache", "locmem": "LocMemCache", "tezkor": "Tezkor"}
SECONDS_WITHOUT_CACHE = 18  # the longest of the three runs: the others are quicker
FEWEST, MOST = 400, 8000
SEED = 1895
MEMORY = "/dev/shm"


class Demo:
    def __init__(self, work, shared, say, popularity):
        self.work, self.shared, self.say, self.popularity = Path(work), shared, say, popularity
        self.token = secrets.token_hex(8)
        self.films = database.prepared(say)

    def run(self, caches):
        requests = self.how_many()
        plan = Plan(self.films, SEED, self.popularity)
        clients = plan.clients(requests)
        sample = plan.sample(clients)
        runs = {cache: self.one(cache, clients, sample) for cache in caches}
        return runs, self.problems(runs)

    def how_many(self):
        """As many requests as an uncached shop answers in the time that is set aside for it."""
        self.say("trying how fast this machine is")
        clients = Plan(self.films, SEED + 1, self.popularity).clients(100)
        with self.server("dummy", "try") as server:
            self.send(server, clients, "try")  # the first requests of a process are slow ones
            tried = self.send(server, clients, "try")
        speed = len(tried["latencies"]) / tried["seconds"]
        return int(min(max(speed * SECONDS_WITHOUT_CACHE, FEWEST), MOST))

    def one(self, cache, clients, sample):
        title = TITLES[cache]
        self.say(f"{title}: starting {WORKERS} workers")
        with self.server(cache, cache) as server:
            cpu = server.cpu_seconds()
            run = self.send(server, clients, title)
            run["cpu"] = server.cpu_seconds() - cpu
            self.say(f"{title}: {len(run['latencies'])} requests in {run['seconds']:.1f} s; comparing pages")
            run["seen"], _ = pages.looked_at(server.port, sample, times=4)
            server.reload()
            run["seen_after_reload"], run["hits_after_reload"] = pages.looked_at(server.port, sample, times=1)
        return run

    def server(self, cache, name):
        run_dir = self.work / name
        run_dir.mkdir()
        return Server(
            cache, database.copied(self.films, run_dir / "shop.sqlite3"), run_dir, settings="measure.settings",
            log=run_dir / "gunicorn.log", SHOP_PRICE_TOKEN=self.token, TEZKOR_SHARED_DIRECTORY=self.shared,
        )  # fmt: skip

    def send(self, server, clients, title):
        """Runs the load in a process of its own and shows how far it is."""
        plan, result = self.work / "plan.json", self.work / "result.json"
        plan.write_text(json.dumps({"clients": clients, "price_token": self.token}))
        command = [sys.executable, "-m", "measure.load", str(server.port), str(plan), str(result)]
        said = time.monotonic()
        with subprocess.Popen(command, cwd=database.SHOP, stdout=subprocess.PIPE, text=True) as load:
            try:
                for done in load.stdout:
                    if time.monotonic() - said > 5:
                        said = time.monotonic()
                        self.say(f"{title}: {done.strip()} requests answered")
            except BaseException:
                load.kill()
                raise
        if load.returncode:
            raise RuntimeError(f"the load ended with code {load.returncode}")
        return json.loads(result.read_text())

    def problems(self, runs):
        """What must not be: failed requests, pages that differ, old prices where the cache promises none."""
        first, *_ = runs
        reference, found = runs[first]["seen"], []
        for cache, run in runs.items():
            found += [f"{TITLES[cache]}: {failure}" for failure in run["failures"][:3]]
            private = cache == "locmem"  # other workers learn of a new price when their own entry expires
            looks = [run["seen_after_reload"]] if private else [run["seen"], run["seen_after_reload"]]
            for seen in looks:
                differing = pages.different(seen, reference)[:3]
                found += [f"{TITLES[cache]}: {path} is not as in {TITLES[first]}" for path in differing]
            if run["old_prices"] and not private:
                found.append(f"{TITLES[cache]}: {run['old_prices']} old prices after a write")
        return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--caches", default=",".join(TITLES), help="which caches, separated by commas")
    parser.add_argument("--popularity", default="critics", choices=WEIGHTS, help="by what films are drawn")
    asked = parser.parse_args()
    caches = asked.caches.split(",")
    if unknown := set(caches) - set(TITLES):
        parser.error(f"unknown cache {', '.join(unknown)}; choose from {', '.join(TITLES)}")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stops the servers, removes the files
    start = time.monotonic()

    def say(text):
        print(f"[{time.monotonic() - start:5.1f} s] {text}", flush=True)

    tmpfs = MEMORY if os.access(MEMORY, os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix="tezkor-shop-") as work,
        tempfile.TemporaryDirectory(
            prefix="tezkor-shop-", dir=tmpfs
        ) as shared,  # for the region of this demo
    ):
        try:
            runs, problems = Demo(work, shared, say, asked.popularity).run(caches)
        except RuntimeError as problem:
            sys.exit(f"demo: {problem}")

    requests = len(next(iter(runs.values()))["latencies"])
    print(f"\nThe same {requests} requests from 4 clients, each cache cold at first, {WORKERS} workers:\n")
    print(table({TITLES[cache]: run for cache, run in runs.items()}))
    if problems:
        sys.exit("\n".join(["", "demo: the shop is not the same with every cache", *problems]))
    sample = len(next(iter(runs.values()))["seen"])
    seconds = time.monotonic() - start
    print(f"\nAll {sample} sample pages are the same with every cache. Done in {seconds:.0f} s.")


if __name__ == "__main__":
    main()
