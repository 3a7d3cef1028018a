"""The reference: an exact LRU over keys of one size, which evicts the least recently used key when it is full."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable


def hit_ratio(accesses: Iterable[int], capacity: int) -> float:
    """The share of the accesses that find their key among the `capacity` most recently used ones."""
    kept: OrderedDict[int, None] = OrderedDict()
    hits = total = 0
    move, drop = kept.move_to_end, kept.popitem
    for key in accesses:
        total += 1
        if key in kept:
            hits += 1
            move(key)
        else:
            kept[key] = None
            if len(kept) > capacity:
                drop(last=False)
    return hits / total if total else 0.0
