"""What the shop needs where Tezkor is not: tags, named keys and the rest, by hand on Django's own cache API.

A tag is a version number (see `versions.py`). A value is stored under the numbers that its tags had before it was
loaded, so raising one makes it unreachable. What this cannot do: reach a cache of another process, have one of many
callers load for all, free a lock whose holder was killed.
"""

import inspect
from functools import wraps

from django.conf import settings
from django.core.cache import cache as chosen
from django.db import transaction
from django.views.decorators.cache import cache_page

from . import versions

LOCK_SECONDS = 600  # after which a lock is free although nobody released it


class Cache:
    """Django's cache, with the verbs that the shop uses of Tezkor's."""

    def __getattr__(self, name):
        return getattr(chosen, name)

    def key(self, name, **fields):
        return settings.KEYS[name].format(**fields)

    def get_or_set(self, key, load, timeout, tags=()):
        return chosen.get_or_set(f"{key}.{versions.current(*tags)}", load, settings.TIMEOUTS[timeout])

    def get_many_or_set(self, keys, load, timeout):
        found = chosen.get_many(keys)
        missing = [key for key in keys if key not in found]
        if missing:
            loaded = load(missing)
            chosen.set_many(loaded, settings.TIMEOUTS[timeout])
            found.update(loaded)
        return {key: found[key] for key in keys if key in found}

    def incr(self, key, *, default, timeout):
        for _ in range(2):
            try:
                return chosen.incr(key)
            except ValueError:
                if chosen.add(key, default + 1, settings.TIMEOUTS[timeout]):
                    break  # another worker may have added it between our `incr` and our `add`
        return default + 1

    def invalidate_tags(self, *tags):
        transaction.on_commit(lambda: versions.bump(*tags))

    def lock(self, name):
        return Lock(f"lock:{name}")


class Lock:
    def __init__(self, key):
        self.key = key

    def acquire(self, blocking):
        return chosen.add(self.key, 1, LOCK_SECONDS)

    def release(self):
        chosen.delete(self.key)


cache = Cache()


def cached(timeout, key, tags=(), stale=None):
    """A function whose results are kept; `stale` says nothing here."""

    def decorate(function):
        signature = inspect.signature(function)

        @wraps(function)
        def call(*args, **kwargs):
            fields = signature.bind(*args, **kwargs).arguments
            return cache.get_or_set(key.format(**fields), lambda: function(*args, **kwargs), timeout, tags)

        return call

    return decorate


def page_with_tags(tags_of, timeout):
    """`cache_page` under the versions that the page's tags had before it was rendered."""

    def decorate(view):
        @wraps(view)
        def call(request, *args, **kwargs):
            prefix = versions.current(*tags_of(request, *args, **kwargs))
            page = cache_page(settings.TIMEOUTS[timeout], key_prefix=prefix)(view)(request, *args, **kwargs)
            if hasattr(page, "render"):
                page = page.render()  # a template response is stored when it is rendered, not before
            page.headers.pop("Expires", None)
            return page

        return call

    return decorate
