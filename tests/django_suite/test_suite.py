"""Django's own tests, unmodified, on the chosen backend.

Three ways: the mixin of Django's cache tests with our class as BACKEND; the same mixin through the async methods; and
tests that name one of Django's classes by its dotted path, where ours stands in its place.
"""

from __future__ import annotations

import importlib
import inspect
import unittest
from typing import Any
from unittest import mock

from asgiref.sync import async_to_sync
from backends import CHOSEN
from django.test import TestCase, override_settings
from django.utils.module_loading import import_string

OURS = import_string(CHOSEN.dotted)
IN_PLACE = CHOSEN.dotted.startswith("tezkor.")


def url(location: Any) -> Any:
    """The same place for the chosen backend: a LOCATION of Django's tests, in the store that was chosen."""
    if CHOSEN.replaces != "locmem" or not CHOSEN.location:
        return location
    base, question, query = CHOSEN.location.partition("?")
    return f"{base}{'-' + str(location) if location else ''}{question}{query}"


class InPlace(OURS):  # type: ignore[misc, valid-type]
    """Our class where Django's tests name Django's; it fills in the options of the chosen backend."""

    # LocMemCacheTests hands these from alias to alias; ours share by LOCATION.
    _cache = _expire_info = None

    def __init__(self, location: Any, params: dict[str, Any]) -> None:
        options = {**CHOSEN.options, **params.get("OPTIONS", {})}
        super().__init__(url(location), {**params, "OPTIONS": options})


if IN_PLACE and CHOSEN.replaces != "server":
    module = importlib.import_module(f"django.core.cache.backends.{CHOSEN.replaces}")
    name = {"locmem": "LocMemCache", "filebased": "FileBasedCache", "dummy": "DummyCache"}[CHOSEN.replaces]
    setattr(module, name, InPlace)

# These name the classes, and must see ours.
from cache import tests as django_tests  # noqa: E402
from cache import tests_async as django_async  # noqa: E402
from sessions_tests import tests as session_tests  # noqa: E402
from template_tests.syntax_tests import test_cache as template_tests  # noqa: E402


class Through:
    """A cache whose sync calls go through the async methods of the real one."""

    def __init__(self, cache: Any) -> None:
        self.__dict__["_cache"] = cache

    def __getattr__(self, name: str) -> Any:
        twin = getattr(self._cache, f"a{name}", None)
        if not inspect.iscoroutinefunction(twin):
            return getattr(self._cache, name)
        return async_to_sync(twin)  # what needs a thread comes back to this one, where the test's database is

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._cache, name, value)

    def __contains__(self, key: Any) -> bool:
        return key in self._cache


class ThroughAll:
    def __getitem__(self, alias: str) -> Through:
        return Through(self.caches[alias])

    caches = django_tests.caches


@override_settings(CACHES=django_tests.caches_setting_for_tests(base=CHOSEN.entry(), exclude=CHOSEN.excluded))
class BaseTests(django_tests.BaseCacheTests, TestCase):  # type: ignore[misc]
    if CHOSEN.replaces == "dummy":
        __unittest_skip__ = True


class AsyncTests(BaseTests):
    """Those tests that are async themselves ran above."""

    def run(self, result: Any = None) -> Any:
        with (
            mock.patch.object(django_tests, "cache", Through(django_tests.cache)),
            mock.patch.object(django_tests, "caches", ThroughAll()),
        ):
            return super().run(result)


for attribute, value in vars(django_tests.BaseCacheTests).items():
    if inspect.iscoroutinefunction(value):
        setattr(AsyncTests, attribute, None)


def classes() -> dict[str, Any]:
    """Django's test classes that the chosen backend runs as they are."""
    cache_tests = {
        "locmem": "CacheHEADTest CacheI18nTest PrefixedCacheI18nTest CacheMiddlewareTest CacheUtils PrefixedCacheUtils "
        "TestWithTemplateResponse CustomCacheKeyValidationTests CacheClosingTests CacheHandlerTest",
        "filebased": "FileBasedCacheTests FileBasedCachePathLibTests",
        "dummy": "DummyCacheTests",
        "server": "CacheClosingTests",
    }[CHOSEN.replaces].split()
    if CHOSEN.name in ("django-locmem", "locmem"):
        cache_tests += ["LocMemCacheTests", "DefaultNonExpiringCacheKeyTests"]
    found = {name: getattr(django_tests, name) for name in cache_tests}
    if CHOSEN.replaces == "dummy":
        return found | {"AsyncDummyCacheTests": django_async.AsyncDummyCacheTests}
    if CHOSEN.name == "database":  # the others forbid queries
        return {
            name: getattr(session_tests, name)
            for name in ("CacheDBSessionTests", "CacheDBSessionWithTimeZoneTests")
        }
    for name in ("CacheSessionTests", "CacheDBSessionTests", "CacheDBSessionWithTimeZoneTests"):
        found[name] = getattr(session_tests, name)
    return found | {"CacheTagTests": template_tests.CacheTagTests, "CacheTests": template_tests.CacheTests}


def load_tests(loader: unittest.TestLoader, *_: Any) -> unittest.TestSuite:
    suite = unittest.TestSuite()
    ours = {} if CHOSEN.replaces == "dummy" else {"BaseTests": BaseTests, "AsyncTests": AsyncTests}
    known = set()
    for name, test_class in (ours | classes()).items():
        for skipped, reason in CHOSEN.skips.items():
            of_class, _, method = skipped.partition(".")
            if of_class == name:
                setattr(test_class, method, unittest.skip(reason)(getattr(test_class, method)))
                known.add(skipped)
        suite.addTests(loader.loadTestsFromTestCase(test_class))
    if unknown := set(CHOSEN.skips) - known:
        raise LookupError(f"no such test to skip: {', '.join(sorted(unknown))}")
    return suite
