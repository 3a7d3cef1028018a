"""Section `hits`: how often access traces hit the real store, against an exact LRU of the same payload bytes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import traces
from benchmarks.claims import Claim
from benchmarks.contenders import Place
from benchmarks.share import MIB, region
from benchmarks.table import table

REGION = 16 * MIB
SHARES = (0.01, 0.10)
# Values are sized so that this part of the region is payload when it holds the wanted number of entries; the exact
# number is counted in the run, and LRU gets that one.
FILL = 0.85
# Points that a trace may lie below LRU, and the traces that must lie above it on average.
TRAPS = ("corda", "loop", "scan")
SLACK, TRAP_SLACK = 0.005, 0.01


def measure(place: Place, directory: Path | None, quick: bool) -> list[dict[str, Any]]:
    """Each trace, size and state of L0 in a fresh process, as many at a time as there are processors."""
    orders = [
        {
            "do": "hits",
            "traces": str(directory.resolve()) if directory else "",
            "trace": name,
            "share": share,
            "size_bytes": REGION,
            "fill": FILL,
            "decoded_bytes": decoded,
        }
        for name in traces.names(directory)
        for share in SHARES
        for decoded in ((None,) if quick else (None, 0))
    ]
    print(f"hits: {len(orders)} runs", flush=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda order: region(**order), orders))


def tables(measured: list[dict[str, Any]]) -> list[str]:
    lines = []
    for one in measured:
        start = [f"{one['trace']} {one['share']:.0%}", "off" if one["decoded_bytes"] == 0 else "on"]
        if "failed" in one:
            lines.append([*start, one["failed"], *["-"] * 6])
            continue
        known = traces.KNOWN_LRU.get(one["trace"])
        reference = f"{known[SHARES.index(one['share'])]:.3f}" if known else "-"
        live = "-".join(str(number) for number in sorted({one["live"][0], one["live"][2]}))
        lines.append(
            [
                *start,
                f"{one['hit_ratio']:.3f}",
                f"{one['lru']:.3f}",
                f"{(one['hit_ratio'] - one['lru']) * 100:+.1f}",
                live,
                f"{one['wanted']} x {one['value_bytes']:,}".replace(",", " "),
                f"{one['lru_wanted']:.3f}",
                reference,
            ]
        )
    head = ["trace", "L0", "tezkor", "LRU", "points", "live", "wanted x bytes", "LRU of wanted", "published"]
    return [table(f"Hit ratio in a region of {REGION // MIB} MiB", head, lines)]


def claims(measured: list[dict[str, Any]]) -> list[Claim]:
    done = [one for one in measured if "failed" not in one]
    real = [one for one in done if one["trace"] in ("orm-busy", "web07", "web12")]
    traps = [one for one in done if one["trace"] in TRAPS]
    made = [one for one in done if one not in real and one not in traps]
    found = []
    for name, group, slack in (
        ("orm-busy, web07, web12", real, SLACK),
        (", ".join(TRAPS), traps, TRAP_SLACK),
        ("generated Zipf", made, SLACK),
    ):
        if group or (name != "generated Zipf" and not made):
            points = [one["hit_ratio"] - one["lru"] for one in group]
            found.append(claim(f"hit ratio of {name} against LRU, worst", points and min(points), -slack))
            if group is not traps:
                mean = sum(points) / len(points) if points else None
                found.append(claim(f"hit ratio of {name} against LRU, mean", mean, 0))
    return found


def claim(what: str, points: Any, least: float) -> Claim:
    if points in (None, []):
        return Claim(what, f"{least * 100:+.1f} points", "-", None)
    return Claim(what, f"{least * 100:+.1f} points", f"{points * 100:+.2f} points", points >= least)
