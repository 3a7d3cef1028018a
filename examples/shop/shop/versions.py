"""Version numbers of what pages show, kept in the cache: raising one makes the pages stored under it unreachable.

A page is stored under the version that was current *before* it was rendered. So a write that overtakes a
rendering leaves that page under the old number, where nobody looks for it. Nothing is deleted here: old pages
leave by their timeout or by eviction.
"""

import time

from django.core.cache import cache


def current(name):
    """The version of `name`. It starts at the clock, so a lost number never comes back as an older one."""
    return cache.get_or_set(f"version:{name}", time.time_ns, None)


def bump(*names):
    for name in names:
        try:
            cache.incr(f"version:{name}")
        except ValueError:
            pass  # no page was stored under it, or its next reader starts it anew
