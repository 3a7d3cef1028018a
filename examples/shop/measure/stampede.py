"""A cold, expensive page for which all workers are asked at once: how often its report is made in each round.

Each round is another year, which no worker has seen. The runs are counted by the report itself, in a file.
"""

import os
import threading
import time

from .load import Visitor

THREADS = 4  # of each worker
ROUNDS = 6


def rounds(port, runs_file, callers, years, until):
    """(runs, seconds until the last caller had the page, workers that answered) of each round."""
    found = []
    for year in years:
        if len(found) > 1 and time.monotonic() > until:
            break
        found.append(one_round(port, runs_file, callers, f"/year/{year}/"))
    return found


def one_round(port, runs_file, callers, path):
    visitors = [Visitor(port) for _ in range(callers)]
    start = threading.Barrier(callers)

    def ask(visitor):
        start.wait()
        try:
            visitor.send("GET", path)
        except (OSError, ValueError) as problem:
            visitor.failures.append(f"no proper answer: {problem!r}")

    before = size(runs_file)
    threads = [threading.Thread(target=ask, args=[visitor]) for visitor in visitors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for visitor in visitors:
        if visitor.failures:
            raise RuntimeError(f"the shop did not answer: {visitor.failures[0]}")
    workers = {visitor.worker for visitor in visitors}
    return size(runs_file) - before, max(visitor.latencies[0] for visitor in visitors), len(workers)


def size(path):
    return os.path.getsize(path) if os.path.exists(path) else 0
