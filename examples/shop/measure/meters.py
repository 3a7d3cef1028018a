"""Counts, for each request, database queries, cache look-ups and loader runs, and says so in a response header.

The same counting for every cache, around its public methods: it never asks a backend for its own figures. Runs of the
year report are counted in a file that all workers append to.
"""

import os
import threading

from django.conf import settings
from django.db import connection
from django.utils.module_loading import import_string

HEADER = "X-Shop-Meters"
WORKER_HEADER = "X-Shop-Worker"
METERS = ("queries", "lookups", "hits", "loads")
VERSIONS = "version:"  # tags by hand: what no other cache looks up is not counted
PAGES = "page:"  # the others keep whole pages by cache_page, where making one is no loader run
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
        counted = not key.startswith(VERSIONS)
        counts.lookups = lookups + counted + sum(inner[0::2])
        counts.hits = hits + (counted and not loaded) + sum(inner[1::2])
        counts.loads += loaded and not key.startswith((VERSIONS, PAGES))
        return value

    def get_many_or_set(self, keys, loader, *args, **kwargs):
        """Tezkor alone has it; elsewhere the shop calls `get_many`."""
        missing = []

        def load(absent):
            missing.extend(absent)
            return loader(absent)

        found = super().get_many_or_set(keys, load, *args, **kwargs)
        counts.lookups += len(keys)
        counts.hits += len(keys) - len(missing)
        return found


def count_runs(path):
    """Has each run of the year report append a byte to a file, whatever cache keeps the reports."""
    from shop import catalogue  # the settings, of which this module is a part, are there by now

    file, load_year = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), catalogue.load_year

    def counted(year):
        os.write(file, b".")
        return load_year(year)

    catalogue.load_year = counted


def meters(get_response):
    """Outermost middleware: what it adds to a response is never part of a cached page."""
    if path := os.environ.get("SHOP_RUNS_FILE"):
        count_runs(path)

    def count_query(execute, sql, params, many, context):
        counts.queries += 1
        return execute(sql, params, many, context)

    def middleware(request):
        counts.reset()
        with connection.execute_wrapper(count_query):
            response = get_response(request)
        response.headers[HEADER] = " ".join(str(getattr(counts, meter)) for meter in METERS)
        response.headers[WORKER_HEADER] = str(os.getpid())
        return response

    return middleware
