"""The usual cure for a stampede: a dict of locks around LocMemCache. It reaches as far as one process."""

import threading
from collections import defaultdict

from django.core.cache.backends.locmem import LocMemCache


class LocMemCacheWithLocks(LocMemCache):
    locks = defaultdict(
        threading.Lock
    )  # it never shrinks; an attribute of the instance would be one per thread

    def get_or_set(self, key, default, *args, **kwargs):
        with self.locks[key]:
            return super().get_or_set(key, default, *args, **kwargs)
