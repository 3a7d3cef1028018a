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
        "stale prices while prices change": stale(run["changing"]),
        "runs for a cold page, all at once": runs(run["stampede"]),
        "   a dict of locks in each worker": runs(run.get("stampede_with_locks")),
        "   until all have it, s": seconds(run["stampede"]),
    }


def stale(changing):
    return f"{sum(changing['stale'].values())} of {sum(changing['reads'].values())}"


def runs(rounds):
    """Of the loader, on average of the rounds."""
    return f"{sum(found for found, *_ in rounds) / len(rounds):.1f}" if rounds else "-"


def seconds(rounds):
    return f"{median(took for _, took, _ in rounds):.2f}"


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
