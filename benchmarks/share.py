"""Section `share`: how much of a region is payload after it was filled several times over."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.claims import Claim
from benchmarks.contenders import Place
from benchmarks.table import table

MIB = 1 << 20
SIZES = (64, 256, 1024, 4096, 20 * 1024, 100 * 1024)
REGIONS = (16 * MIB, 128 * MIB)
PROMISED = (1024, 0.80)


def region(**order: Any) -> dict[str, Any]:
    """Runs benchmarks.region in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.region", json.dumps(order)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"]
        return order | {"failed": lines[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(place: Place, directory: Path | None, quick: bool) -> list[dict[str, Any]]:
    print("share: filling regions", flush=True)
    sizes = SIZES[2:3] if quick else SIZES
    regions = REGIONS[:1] if quick else REGIONS
    return [region(do="share", size_bytes=size, value_bytes=value) for size in regions for value in sizes]


def tables(measured: list[dict[str, Any]]) -> list[str]:
    lines = []
    for one in measured:
        share = one.get("failed") or f"{one['share']:.1%}"
        live = str(one.get("live", "-"))
        lines.append(
            [f"{one['size_bytes'] // MIB} MiB", f"{one['value_bytes']:,} B".replace(",", " "), live, share]
        )
    return [
        table("Payload share of a full region", ["region", "values of", "live entries", "payload"], lines)
    ]


def claims(measured: list[dict[str, Any]]) -> list[Claim]:
    size, target = PROMISED
    found = []
    for region in REGIONS:
        shares = [
            one["share"]
            for one in measured
            if (one["size_bytes"], one["value_bytes"]) == (region, size) and "share" in one
        ]
        shown = f"{shares[0]:.1%}" if shares else "-"
        ok = shares[0] >= target if shares else None
        found.append(
            Claim(f"payload share of {region // MIB} MiB at 1 KiB values", f"{target:.0%}", shown, ok)
        )
    return found
