"""Runs the sections side by side and closes with what was promised against what was measured."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import claims, hit_ratio, mix, python_build, share, single, tags, tasks
from benchmarks.contenders import CONTENDERS, ON_POSTGRESQL, Place, missing

ROOT = Path(__file__).resolve().parent.parent
SECTIONS = ("single", "mix", "tasks", "tags", "share", "hits")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument(
        "--only",
        default="",
        metavar="NAMES",
        help="comma separated: sections (single, mix, tasks, tags, share, hits), operations (get, miss, set, add, "
        "incr, get_many, set_many), contenders (tezkor and LocMemCache stay: the ratios need them)",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, payloads and accesses")
    parser.add_argument(
        "--tcp", action="store_true", help="reach the servers by TCP instead of sockets in the file system"
    )
    parser.add_argument("--rounds", type=int, help="interleaved rounds of each section")
    parser.add_argument("--traces", type=Path, help="a directory of access traces for the section hits")
    return parser.parse_args()


def bind(pid: int, cpus: set[int]) -> None:
    """Binds all threads of a process: memcached has had its own since before."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), cpus)


def main() -> int:
    chosen = options()
    only = {name.strip() for name in chosen.only.split(",") if name.strip()}
    names = {contender.name for contender in CONTENDERS}
    unknown = only - set(SECTIONS) - set(single.OPERATIONS) - names
    if unknown:
        print(
            f"bench: nothing is called {', '.join(sorted(unknown))}; contenders are {', '.join(sorted(names))}"
        )
        return 2
    if chosen.traces and not chosen.traces.is_dir():
        print(f"bench: {chosen.traces} is not a directory of traces")
        return 2
    sections = only & set(SECTIONS) or ({"single"} if only & set(single.OPERATIONS) else set(SECTIONS))

    sys.path.insert(0, str(ROOT / "scripts"))
    from servers import Servers

    started = time.monotonic()
    # The files of all contenders lie in memory, so that nobody is slowed by a disk.
    memory = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="tezkor-bench-", dir=memory))
    # The regions too, so that they are gone with the directory.
    os.environ["TEZKOR_SHARED_DIRECTORY"] = str(directory)
    cpu = max(os.sched_getaffinity(0))
    results: dict[str, Any] = {
        "python": python_build.described(),
        "cpus": os.cpu_count(),
        "quick": chosen.quick,
    }
    print(f"{python_build.described()}; {os.cpu_count()} CPUs; one process and its server share CPU {cpu}\n")
    try:
        with Servers() as servers:
            place = Place(
                directory,
                str(os.getpid()),
                servers.redis(chosen.tcp),
                servers.memcached(chosen.tcp),
                servers.postgresql() if not only & names or only & set(ON_POSTGRESQL) else None,
            )
            contenders = []
            for contender in CONTENDERS:
                if only & names and contender.name not in only | set(claims.ALWAYS):
                    continue
                reason = missing(contender, place, servers.missing)
                if reason:
                    print(f"not measured: {reason}")
                else:
                    contenders.append(contender)
            if "single" in sections:
                for process in servers.processes:
                    bind(process.pid, {cpu})
                rounds = chosen.rounds or (3 if chosen.quick else 5)
                times = single.measure(contenders, place, cpu, rounds, only, chosen.quick)
                results["single"] = [[*key, values] for key, values in times.items()]
                print("\n" + "\n\n".join(single.tables(times)) + "\n", flush=True)
                results["claims"] = claims.single(times)
            if "mix" in sections:
                for process in servers.processes:
                    bind(process.pid, os.sched_getaffinity(0))
                rounds = chosen.rounds or (2 if chosen.quick else 5)
                mixed = mix.measure(contenders, place, rounds, 0.5 if chosen.quick else 1.5)
                results["mix"] = [[*key, values] for key, values in mixed.items()]
                print("\n" + "\n\n".join(mix.tables(mixed)) + "\n", flush=True)
                results["claims"] = results.get("claims", []) + claims.mix(mixed)
            if "tasks" in sections and place.redis is not None:
                asked = tasks.measure(place, chosen.rounds or (3 if chosen.quick else 5))
                results["tasks"] = asked
                print("\n" + "\n\n".join(tasks.tables(asked)) + "\n", flush=True)
                results["claims"] = results.get("claims", []) + tasks.claims(asked)
        for name, section in (("tags", tags), ("share", share), ("hits", hit_ratio)):
            if name in sections:
                measured = section.measure(place, chosen.traces, chosen.quick)
                results[name] = measured
                print("\n" + "\n\n".join(section.tables(measured)) + "\n", flush=True)
                results["claims"] = results.get("claims", []) + section.claims(measured)
    except KeyboardInterrupt:
        print("\nbench: stopped")
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(claims.table_of(results.get("claims", [])))
    file = ROOT / ".cache" / "bench" / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1))
    print(f"\n{time.monotonic() - started:.0f} s; all figures are in {file.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
