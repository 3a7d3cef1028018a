"""Aligned text tables and the numbers in them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """The median of some rounds, with the smallest and the largest."""

    median: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    numbers = list(values)
    return Spread(statistics.median(numbers), min(numbers), max(numbers))


def figure(number: float) -> str:
    """Three digits that count: 0.123, 1.23, 12.3, 123, 12 345."""
    if number >= 100:
        return f"{number:,.0f}".replace(",", " ")
    if number >= 10:
        return f"{number:.1f}"
    return f"{number:.2f}" if number >= 0.995 else f"{number:.3f}"


def shown(values: Spread) -> str:
    return f"{figure(values.median)} ({figure(values.low)}-{figure(values.high)})"


def table(title: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """The first column on the left, all others on the right."""
    cells = [list(head), *(list(line) for line in lines)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    rows = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    rows.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([title, *rows])
