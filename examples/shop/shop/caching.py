"""The verbs that the shop caches with: Tezkor's, or the same ones made by hand for any other cache.

The demo compares caches, so the shop has to run on all of them. A shop that uses Tezkor has no such file: it writes
`from tezkor import cache, cached`, and no `by_hand.py`, `versions.py` and `receivers.py` either.
"""

from django.core.cache import cache as chosen

HAS_TAGS = hasattr(chosen, "invalidate_tags")

if HAS_TAGS:
    from tezkor import cache, cached
else:
    from .by_hand import cache, cached

__all__ = ["HAS_TAGS", "cache", "cached"]
