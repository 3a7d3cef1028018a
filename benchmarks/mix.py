"""Section `mix`: several processes at once, nine reads for each write of 1 KB strings over 1 000 keys, all present."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from benchmarks.contenders import Contender, Place
from benchmarks.processes import Failed, Worker, ask_all
from benchmarks.table import Spread, figure, shown, spread, table

PROCESSES = (2, 4)


class Round(NamedTuple):
    thousands: float  # operations of all processes, in thousands a second
    p50_us: float
    p99_us: float


Rounds = dict[tuple[str, int], list[Round]]


def measure(contenders: list[Contender], place: Place, rounds: int, seconds: float) -> Rounds:
    """Fresh processes for each contender and round; contenders take turns within a round."""
    found: Rounds = {}
    failed: set[str] = set()
    for processes in PROCESSES:
        for number in range(rounds):
            print(f"mix: {processes} processes, round {number + 1} of {rounds}", flush=True)
            for contender in contenders:
                if contender.name in failed:
                    continue
                try:
                    result = one(contender, place, processes, seconds)
                except Failed as failure:
                    print(f"{contender.name}: left out: {failure}", flush=True)
                    failed.add(contender.name)
                    continue
                found.setdefault((contender.name, processes), []).append(result)
    return found


def one(contender: Contender, place: Place, processes: int, seconds: float) -> Round:
    cpus = sorted(os.sched_getaffinity(0))
    workers: list[Worker] = []
    try:
        for number in range(processes):
            workers.append(Worker(contender, place, cpus[number % len(cpus)]))
        if contender.private:
            ask_all(workers, do="fill")
        else:
            workers[0].ask(do="fill")
            for worker in workers[1:]:
                worker.ask(do="nothing")
        start_ns = time.monotonic_ns() + 100_000_000
        for number, worker in enumerate(workers):
            worker.tell(do="mix", seconds=seconds, seed=number, start_ns=start_ns)
        answers = [worker.answer() for worker in workers]
    finally:
        for worker in workers:
            worker.end()
    samples = sorted(sample for answer in answers for sample in answer["samples_ns"])
    return Round(
        sum(answer["operations"] / answer["seconds"] for answer in answers) / 1000,
        samples[len(samples) // 2] / 1000,
        samples[len(samples) * 99 // 100] / 1000,
    )


def throughput_ratio(rounds: Rounds, processes: int, ours: str, theirs: str) -> Spread | None:
    mine, other = rounds.get((ours, processes)), rounds.get((theirs, processes))
    if not mine or not other:
        return None
    return spread(a.thousands / b.thousands for a, b in zip(mine, other, strict=False))


def p99(rounds: Rounds, processes: int, name: str) -> Spread | None:
    measured = rounds.get((name, processes))
    return spread(one.p99_us for one in measured) if measured else None


def tables(rounds: Rounds) -> list[str]:
    found = []
    for processes in PROCESSES:
        lines = []
        for (name, number), measured in rounds.items():
            if number == processes:
                lines.append(
                    [
                        name,
                        shown(spread(one.thousands for one in measured)),
                        figure(spread(one.p50_us for one in measured).median),
                        shown(spread(one.p99_us for one in measured)),
                    ]
                )
        if lines:
            title = f"{processes} processes, 90/10 get/set of 1 KB strings, median (min-max)"
            found.append(table(title, ["", "thousand a second", "p50 µs", "p99 µs"], lines))
    return found
