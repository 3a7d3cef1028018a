"""Access traces: read from a directory, or generated when there is none.

Formats by name: *.trace.xz holds big-endian u32 keys, corda*.trace.gz big-endian u64 keys, every other *.trace.gz
an integer per line, where `*` and blank lines mean nothing.
"""

from __future__ import annotations

import gzip
import lzma
import random
import sys
from array import array
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

Keys = Sequence[int]

# Published hit ratios of an exact LRU at 1 % and 10 % of the unique keys, to check the reference with.
KNOWN_LRU = {
    "orm-busy": (0.770, 0.880),
    "web12": (0.397, 0.685),
    "web07": (0.392, 0.557),
    "corda": (0.333, 0.333),
}
CYCLIC = ("loop", "scan")


def integers(data: bytes, typecode: str) -> Keys:
    keys = array(typecode)
    keys.frombytes(data[: len(data) // keys.itemsize * keys.itemsize])
    if sys.byteorder == "little":
        keys.byteswap()
    return keys


def read(path: Path) -> Keys:
    if path.suffix == ".xz":
        return integers(lzma.decompress(path.read_bytes()), "I")
    data = gzip.decompress(path.read_bytes())
    if path.name.startswith("corda"):
        return integers(data, "Q")
    return [int(line) for line in data.split() if line != b"*"]


def names(directory: Path | None) -> list[str]:
    """The traces that there are, as `load` takes them."""
    if directory is None:
        return ["zipf 0.8", "zipf 1.0", "zipf 1.0 with scans"]
    found = sorted(directory.glob("*.trace.xz")) + sorted(directory.glob("*.trace.gz"))
    return [path.name.split(".")[0] for path in found]


def load(directory: Path | None, name: str) -> Keys:
    if directory is None:
        return generated(name)
    return read(next(path for path in directory.glob(f"{name}.trace.*") if path.suffix in (".xz", ".gz")))


def generated(name: str, keys: int = 20_000, requests: int = 400_000) -> Keys:
    """Zipf's law over `keys` keys; with scans, a fifth of the accesses walk through keys that are read once."""
    chance = random.Random(name)
    exponent = float(name.split()[1])
    weights = list(accumulate(1 / rank**exponent for rank in range(1, keys + 1)))
    chosen = chance.choices(range(keys), cum_weights=weights, k=requests)
    if "scans" not in name:
        return chosen
    for start in range(0, requests - 500, 2500):
        chosen[start : start + 500] = range(keys + start, keys + start + 500)
    return chosen
