"""Counts, for each request, database queries, cache look-ups and loader runs, and says so in a response header.

The same counting for every cache, around its public methods: it never asks a backend for its own figures.
"""

import threading

from django.conf import settings
from django.db import connection
from django.utils.module_loading import import_string

HEADER = "X-Shop-Meters"
METERS = ("queries", "lookups", "hits", "loads")
CHEAP = "version:"  # keys whose loader only reads the clock: no load worth counting
_ABSENT = object()


class Counts(threading.local):
    queries = lookups = hits = loads = 0

    def reset(self):
        self.queries = self.lookups = self.hits = self.loads = 0


counts = Counts()


class MeteredCache(import_string(settings.METERED_BACKEND)):
    """The backend under test; `get_or_set` is one look-up, whatever it calls, and each run of its loader is a load."""

    def get(self, key, default=None, version=None):
        value = super().get(key, _ABSENT, version)
        counts.lookups += 1
        if value is _ABSENT:
            return default
        counts.hits += 1
        return value

    def get_many(self, keys, version=None):
        keys = list(keys)
        lookups, hits = counts.lookups, counts.hits
        found = super().get_many(keys, version)
        counts.lookups, counts.hits = lookups + len(keys), hits + len(found)
        return found

    def get_or_set(self, key, default, *args, **kwargs):
        loaded = False

        def load():
            nonlocal loaded
            loaded = True
            outer = counts.lookups, counts.hits
            value = default() if callable(default) else default
            inner.extend((counts.lookups - outer[0], counts.hits - outer[1]))
            return value

        inner = []
        lookups, hits = counts.lookups, counts.hits
        value = super().get_or_set(key, load, *args, **kwargs)
        counts.lookups = lookups + 1 + sum(inner[0::2])
        counts.hits = hits + (not loaded) + sum(inner[1::2])
        counts.loads += loaded and not key.startswith(CHEAP)
        return value


def meters(get_response):
    """Outermost middleware: what it adds to a response is never part of a cached page."""

    def count_query(execute, sql, params, many, context):
        counts.queries += 1
        return execute(sql, params, many, context)

    def middleware(request):
        counts.reset()
        with connection.execute_wrapper(count_query):
            response = get_response(request)
        response.headers[HEADER] = " ".join(str(getattr(counts, meter)) for meter in METERS)
        return response

    return middleware
