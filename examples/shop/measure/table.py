"""The table that the demo prints: a row for each figure, a column for each cache."""

from statistics import median


def rows(run):
    latencies, requests = sorted(run["latencies"]), len(run["latencies"])
    return {
        "median latency, ms": f"{median(latencies) * 1000:.1f}",
        "95th percentile, ms": f"{latencies[int(requests * 0.95)] * 1000:.1f}",
        "requests per second": f"{requests / run['seconds']:.0f}",
        "database queries per request": f"{run['queries'] / requests:.2f}",
        "CPU seconds per 1 000 requests": f"{run['cpu'] / requests * 1000:.2f}",
        "cache hit ratio": f"{run['hits'] / max(run['lookups'], 1):.1%}",
        "loader runs": f"{run['loads']}",
        "hit ratio after a reload": f"{run['hits_after_reload']:.1%}",
        "old price right after a write": f"{run['old_prices']} of {run['price_reads']}",
    }


def table(runs):
    """`runs` maps the title of each column to its run."""
    columns = {title: rows(run) for title, run in runs.items()}
    names = list(next(iter(columns.values())))
    first = max(map(len, names))
    widths = {title: max(len(title), *map(len, column.values())) + 3 for title, column in columns.items()}
    lines = [" " * first + "".join(title.rjust(widths[title]) for title in columns)]
    lines.append("-" * len(lines[0]))
    for name in names:
        lines.append(
            name.ljust(first) + "".join(columns[title][name].rjust(widths[title]) for title in columns)
        )
    return "\n".join(lines)
