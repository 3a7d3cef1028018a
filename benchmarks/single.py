"""Section `single`: what one call costs in one process, all contenders in turn for each cell.

The rounds are interleaved cell by cell, so that a host that changes its speed changes it for everybody, and ratios
are taken within a round.
"""

from __future__ import annotations

from typing import Any

from benchmarks.contenders import LOCMEM, TEZKOR, Contender, Place
from benchmarks.payloads import PAYLOADS
from benchmarks.processes import Failed, Worker
from benchmarks.table import figure, shown, spread, table

SHORT = "50 B str"
OPERATIONS = ("get", "miss", "set", "add", "incr", "get_many", "set_many")
TITLES = {"get": "get hit", "miss": "get miss", "get_many": "get_many(100)", "set_many": "set_many(100)"}
# A miss and a count have no payload.
ONCE = ("miss", "incr")
# Filling 100 files or rows of 100 KB says nothing that a single one does not, and takes minutes.
SLOW = {
    ("DatabaseCache", "set_many"),
    ("DB PostgreSQL", "set_many"),
    ("FileBasedCache", "set_many"),
    ("tezkor FileBased", "set_many"),
}

Times = dict[tuple[str, str, str], list[float]]  # contender, operation, payload: microseconds per round


def cells(only: set[str], quick: bool) -> list[tuple[str, str]]:
    payloads = [name for name in PAYLOADS if not quick or name != "100 KB bytes"]
    chosen = [name for name in OPERATIONS if not only & set(OPERATIONS) or name in only]
    return [
        (operation, payload)
        for operation in chosen
        for payload in ([SHORT] if operation in ONCE else payloads)
        if not (quick and operation in ("add", "set_many") and payload != SHORT)
    ]


def measure(
    contenders: list[Contender], place: Place, cpu: int, rounds: int, only: set[str], quick: bool
) -> Times:
    """All rounds of all cells, in microseconds per call."""
    workers: dict[str, Worker] = {}
    times: Times = {}
    try:
        for contender in contenders:
            workers[contender.name] = Worker(contender, place, cpu, batch_ms=4 if quick else 8)
        for number in range(rounds):
            print(f"single: round {number + 1} of {rounds}", flush=True)
            for operation, payload in cells(only, quick):
                for name in list(workers):
                    if (name, operation) in SLOW and payload == "100 KB bytes":
                        continue
                    try:
                        spent = workers[name].ask(do="cell", operation=operation, payload=payload)
                    except Failed as failure:
                        print(f"{name}: left out after {operation} of {payload}: {failure}", flush=True)
                        workers.pop(name).end()
                        continue
                    times.setdefault((name, operation, payload), []).append(spent / 1000)
    finally:
        for worker in workers.values():
            worker.end()
    return times


def ratio(times: Times, operation: str, payload: str, ours: str, theirs: str) -> Any:
    """How many times as fast ours is, by round; None when one of them was not measured."""
    mine, other = times.get((ours, operation, payload)), times.get((theirs, operation, payload))
    if not mine or not other:
        return None
    return spread(b / a for a, b in zip(mine, other, strict=False))


def tables(times: Times) -> list[str]:
    """One table per operation: contenders down, payloads across, and how many times as fast as LocMemCache."""
    found = []
    for operation in OPERATIONS:
        payloads = [name for name in PAYLOADS if any(key[1:] == (operation, name) for key in times)]
        if not payloads:
            continue
        names = list(dict.fromkeys(key[0] for key in times if key[1] == operation))
        lines = []
        for name in names:
            measured = [times.get((name, operation, payload)) for payload in payloads]
            lines.append([name, *(shown(spread(values)) if values else "-" for values in measured)])
        for theirs in (LOCMEM, "diskcache"):
            ratios = [ratio(times, operation, payload, TEZKOR, theirs) for payload in payloads]
            if any(ratios):
                texts = (f"{figure(value.median)} x" if value else "-" for value in ratios)
                lines.append([f"tezkor / {theirs}", *texts])
        title = f"{TITLES.get(operation, operation)}: µs per call, median (min-max)"
        found.append(table(title, ["", *(payloads if operation not in ONCE else ["any value"])], lines))
    return found
