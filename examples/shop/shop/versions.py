"""Version numbers of what pages show, kept in the cache: tags by hand (see `by_hand.py`).

What is stored under the numbers that were current *before* it was loaded is out of reach once one of them is raised,
even if that happened during the load. Nothing is deleted: old values leave by their timeout or by eviction.
"""

import time

from django.core.cache import cache


def current(*names):
    """The versions of these names, as a part of a key. They start at the clock, so a lost one is never an old one."""
    numbers = [cache.get_or_set(f"version:{name}", time.time_ns, None) for name in names]
    return ".".join(f"{name}={number}" for name, number in zip(names, numbers, strict=True))


def bump(*names):
    for name in names:
        try:
            cache.incr(f"version:{name}")
        except ValueError:
            pass  # nothing was stored under it, or its next reader starts it anew
