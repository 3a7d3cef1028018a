"""``from tezkor import cache, caches``: the aliases of the settings, without Django's look-up per thread."""

from __future__ import annotations

import asyncio
import threading
from unittest import mock

import pytest
from django.core.cache import InvalidCacheBackendError
from django.core.cache import cache as django_cache
from django.core.cache import caches as django_caches
from django.core.cache.backends.base import BaseCache
from django.test import override_settings

from tezkor import cache, caches
from tezkor.backends import DummyCache, LocMemCache, TezkorCache

pytestmark = pytest.mark.usefixtures("tezkor_cache")


def test_aliases_are_the_same_store_as_djangos():
    cache.set("a", 1)
    assert django_cache.get("a") == 1
    django_caches["other"].set("b", 2)
    assert caches["other"].get("b") == 2
    assert caches["default"] is cache
    assert caches["other"] is caches["other"]
    assert "default" in caches
    assert list(caches) == list(django_caches)
    assert caches["other"].key_prefix == "p"
    assert caches["other"].version == 3


def test_an_alias_is_an_instance_of_its_backend_once_it_was_used():
    cache.get("a")
    assert type(cache) is TezkorCache
    assert isinstance(cache, BaseCache)
    assert cache.get.__func__ is TezkorCache.get
    assert caches["locmem"].get("a") is None
    assert type(caches["locmem"]) is LocMemCache
    assert caches["dummy"].get("a") is None
    assert type(caches["dummy"]) is DummyCache


def test_unknown_aliases_are_djangos_error():
    with pytest.raises(InvalidCacheBackendError, match="The connection 'absent' doesn't exist"):
        caches["absent"]


def test_containment_and_every_kind_of_access_work_on_an_alias_that_was_not_used():
    for use in (
        lambda alias: "a" in alias,
        lambda alias: alias.get("a"),
        lambda alias: asyncio.run(alias.aget("a")),
        lambda alias: setattr(alias, "key_prefix", ""),
        lambda alias: mock.patch.object(alias, "get").__enter__(),
    ):
        with override_settings(CACHES={"default": {"BACKEND": "tezkor.backends.TezkorCache"}}):
            use(cache)
            assert type(cache) is TezkorCache


def test_backends_of_others_are_asked_through_djangos_handler():
    foreign = caches["django"]
    foreign.set("a", 1)
    assert django_caches["django"].get("a") == 1
    assert "a" in foreign
    foreign.key_prefix = "q"
    assert django_caches["django"].key_prefix == "q"
    foreign.key_prefix = ""
    seen = []

    def look():
        seen.append(foreign._cache is django_caches["django"]._cache)
        seen.append(foreign.key_prefix)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [True, ""]


def test_override_settings_is_followed_there_and_back():
    cache.set("a", "before")
    with override_settings(
        CACHES={"default": {"BACKEND": "tezkor.backends.TezkorCache", "KEY_PREFIX": "over"}}
    ):
        assert cache.get("a") is None
        assert cache.key_prefix == "over"
        with pytest.raises(InvalidCacheBackendError):
            caches["other"]
        with override_settings(
            CACHES={"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
        ):
            cache.set("a", 1)
            assert cache.get("a") is None
        cache.set("a", "over")
    assert cache.get("a") == "before"


def test_an_alias_made_by_a_subclass_keeps_its_own_keys():
    with override_settings(CACHES={"default": {"BACKEND": "test_backends.Shouting"}}):
        cache.set("a", 1)
        assert cache.get("A") == 1
        cache.version = 2
        assert cache.get("a") is None


def test_threads_and_tasks_share_one_object():
    cache.set("n", 0)
    seen = set()
    start = threading.Barrier(8)

    def work():
        start.wait()
        for _ in range(500):
            cache.incr("n")
        seen.add(id(cache._get.__self__))

    async def tasks():
        async def one():
            for _ in range(100):
                await cache.aincr("n")

        await asyncio.gather(*(one() for _ in range(5)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(tasks())
    assert cache.get("n") == 8 * 500 + 5 * 100
    assert len(seen) == 1


def test_threads_may_race_for_the_first_use():
    for _ in range(50):
        with override_settings(CACHES={"default": {"BACKEND": "tezkor.backends.TezkorCache"}}):
            errors = []
            start = threading.Barrier(6)

            def work(start=start, errors=errors):
                start.wait()
                try:
                    cache.set("a", 1)
                    assert cache.get("a") == 1
                    assert "a" in cache
                except BaseException as error:
                    errors.append(error)

            threads = [threading.Thread(target=work) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert errors == []


def test_methods_patched_on_the_class_or_the_alias_are_seen():
    with mock.patch("tezkor.backends.TezkorCache.get", return_value="class"):
        assert cache.get("a") == "class"
    with mock.patch.object(cache, "get", return_value="alias"):
        assert cache.get("a") == "alias"
    assert cache.get("a") is None


def test_the_package_needs_neither_django_nor_settings_to_be_imported(project):
    project.write("django/__init__.py", "raise ImportError('no Django here')")
    code = "import sys, tezkor, tezkor.isolation, tezkor.test; print(tezkor.__version__, 'django' in sys.modules)"
    assert project.python(code).split()[1] == "False"
    code = "from tezkor import cache, caches; print(type(cache).__name__)"
    (project.folder / "django" / "__init__.py").unlink()
    (project.folder / "django").rmdir()
    assert project.python(code, settings="") == "Unbound"


def test_attributes_of_the_package_are_few():
    import tezkor

    assert dir(tezkor) == sorted(tezkor.__all__)
    assert all(hasattr(tezkor, name) for name in tezkor.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        tezkor.nonsense  # noqa: B018
