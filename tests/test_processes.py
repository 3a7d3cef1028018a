"""What several processes see through Django's class, decoded values included."""

from __future__ import annotations

import contextlib
import ctypes
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

SECONDS = 60 if os.environ.get("SOAK") == "1" else 2
PROCESSES = 4
KEYS = 6
SPAWN = multiprocessing.get_context("spawn")


def cache_in(folder: str, **options: Any) -> Any:
    """Django's class on a region that all processes of the test share."""
    os.environ["TEZKOR_SHARED_DIRECTORY"] = folder
    os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
    import django

    django.setup()
    from tezkor.backends import TezkorCache

    return TezkorCache(
        f"shared://{Path(folder).name[-60:]}",
        {"TIMEOUT": None, "OPTIONS": {"TEST": {"SHARED": True}, **options}},
    )


def together(work: Any, folder: Path, *shared: Any) -> list[Any]:
    """Runs the work in several processes; each returns something by a file of its own."""
    processes = [
        SPAWN.Process(target=work, args=(str(folder), number, *shared), daemon=True)
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(PROCESSES)]


def say(folder: str, number: int, answer: Any) -> None:
    (Path(folder) / f"{number}.json").write_text(json.dumps(answer))


def change(cache: Any, key: int, version: int) -> None:
    """Replaces what is there or removes it, in each way that there is."""
    # Of all kinds: handed out as it is, and copied.
    value = [version, {"of": key}] if key % 2 else f"{version}"
    ways: list[Any] = [
        lambda: cache.delete(key),
        lambda: cache.delete_many([key]),
        lambda: cache.touch(key, 0),
        lambda: cache.set(key, value, 0),
        lambda: cache.invalidate_tags(f"key {key}"),
        lambda: cache.set_many({key: value}, tags=[f"key {key}"]),
    ]
    if version % 2:
        ways[version // 2 % len(ways)]()
    else:
        cache.set(key, value, tags=[f"key {key}"])


def read_and_write(folder: str, number: int, latest: Any, floors: Any, locks: Any) -> None:
    """Versions grow; once a set or delete has returned the floor is raised: nobody may read less afterwards."""
    cache = cache_in(folder)
    reads, stale, end = 0, 0, time.monotonic() + SECONDS
    turn = number
    while time.monotonic() < end:
        turn += 1
        key = turn * 7 % KEYS
        if turn % 10 == number:
            with locks[key]:
                latest[key] += 1
                version = latest[key]
                change(cache, key, version)
                floors[key] = version
            continue
        if turn % 1_009 == number:
            with contextlib.ExitStack() as all_keys:
                for lock in locks:
                    all_keys.enter_context(lock)
                cache.clear()
                for each in range(KEYS):
                    latest[each] += 1
                    floors[each] = latest[each]
            continue
        floor = floors[key]
        value = cache.get(key)
        reads += 1
        if value is not None:
            seen = value[0] if key % 2 else int(value)
            stale += seen < floor
    say(folder, number, [reads, stale, cache.stats()["hits_decoded"]])


def test_nobody_reads_an_older_value_once_a_set_or_delete_has_returned(tmp_path):
    latest, floors = (SPAWN.Array(ctypes.c_int64, KEYS, lock=False) for _ in range(2))
    locks = [SPAWN.Lock() for _ in range(KEYS)]
    answers = together(read_and_write, tmp_path, latest, floors, locks)
    assert sum(reads for reads, _, _ in answers) > 10_000
    assert answers[0][2] > 1_000, "decoded values were hardly used"
    assert [stale for _, stale, _ in answers] == [0] * PROCESSES


ADDITIONS = 30_000 if os.environ.get("SOAK") == "1" else 1_500
START = {"float": 0.5, "large": 2**70, "decimal": "0.25"}


def add_up(folder: str, number: int, ready: Any) -> None:
    from decimal import Decimal

    cache = cache_in(folder)
    deltas = {"float": 1, "large": 3, "decimal": Decimal("0.25")}
    for name, start in START.items():
        cache.add(name, Decimal(start) if name == "decimal" else start)
    ready.wait()
    for _ in range(ADDITIONS):
        for name, delta in deltas.items():
            cache.incr(name, delta)
    say(folder, number, None)


def test_numbers_that_are_no_plain_counts_add_up_exactly(tmp_path):
    from decimal import Decimal

    together(add_up, tmp_path, SPAWN.Barrier(PROCESSES))
    cache = cache_in(str(tmp_path))
    total = PROCESSES * ADDITIONS
    assert cache.get("float") == 0.5 + total
    assert cache.get("large") == 2**70 + 3 * total
    assert cache.get("decimal") == Decimal("0.25") * (total + 1)
