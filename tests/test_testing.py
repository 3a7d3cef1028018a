"""Empty caches between the tests of others: the TestCase mixin and the pytest plugin."""

from __future__ import annotations

import time
import unittest
from unittest import mock

import freezegun
import pytest
from django.core.cache import cache, caches
from django.test import SimpleTestCase, override_settings

from tezkor import cache as ours
from tezkor.backends import LocMemCache, TezkorCache
from tezkor.test import ClearCaches, clear_caches

FILLED = (
    "{'default': {'BACKEND': 'tezkor.backends.TezkorCache'}, 'm': {'BACKEND': 'tezkor.backends.LocMemCache'}}"
)


def test_clear_caches_empties_every_location_of_the_process(tezkor_cache):
    made = [TezkorCache("", {}), TezkorCache("x", {"KEY_PREFIX": "p"}), LocMemCache("y", {}), ours]
    for each in made:
        each.set("a", 1)
    clear_caches()
    assert [each.get("a") for each in made] == [None] * 4


def test_the_mixin_clears_before_and_after_without_setup_calling_super(tezkor_cache):
    class Tests(ClearCaches, SimpleTestCase):
        def setUp(self):
            pass

        def test_one(self):
            assert cache.get("a") is None
            caches["other"].set("a", 1)
            cache.set("a", 1)

        test_two = test_one

        def test_failing(self):
            cache.set("a", 1)
            self.fail()

    result = unittest.TestResult()
    for name in ("test_one", "test_two", "test_failing"):
        cache.set("a", "before")
        unittest.TestSuite([Tests(name)]).run(result)
    assert (result.testsRun, len(result.failures), result.errors) == (3, 1, [])
    assert cache.get("a") is None
    assert caches["other"].get("a") is None


PLUGIN_TESTS = """
    from django.core.cache import cache

    def test_one():
        assert cache.get("a") is None
        cache.set("a", 1)

    def test_two():
        assert cache.get("a") == {expected}
    """


def run_pytest(project, **kwargs):
    return project.run("-m", "pytest", "-q", "-p", "tezkor.pytest_plugin", "-p", "no:cacheprovider", **kwargs)


@pytest.mark.parametrize("clear", ["true", "false"])
def test_the_ini_option_empties_caches_before_each_test(project, clear):
    project.write("pytest.ini", f"[pytest]\ntezkor_clear = {clear}\naddopts = -p no:tezkor\n")
    project.write("test_it.py", PLUGIN_TESTS.format(expected={"true": None, "false": 1}[clear]))
    assert "2 passed" in run_pytest(project)


def test_the_fixture_gives_an_empty_cache_and_leaves_one(project):
    project.write(
        "test_it.py",
        """
        from tezkor import cache

        def test_fill():
            cache.set("a", 1)

        def test_fixture(tezkor_cache):
            assert tezkor_cache is cache
            assert cache.get("a") is None
            cache.set("a", 2)

        def test_after():
            assert cache.get("a") is None
        """,
    )
    project.write("pytest.ini", "[pytest]\naddopts = -p no:tezkor\n")
    assert "3 passed" in run_pytest(project)


def test_the_plugin_does_nothing_in_projects_without_django(project):
    project.write("test_it.py", "import sys\ndef test_it():\n    assert 'django' not in sys.modules\n")
    project.write("pytest.ini", "[pytest]\ntezkor_clear = true\naddopts = -p no:tezkor -p no:django\n")
    assert "1 passed" in run_pytest(project, settings="")


def test_private_caches_follow_a_turned_clock(tezkor_cache):
    """What clock-freezing tools do: they replace ``time.time``."""
    now = time.time()
    for each in (cache, caches["locmem"], ours):
        with mock.patch("time.time", return_value=now):
            each.set("a", 1, 60)
            each.set("forever", 1, None)
        with mock.patch("time.time", return_value=now + 59):
            assert each.get("a") == 1
        with mock.patch("time.time", return_value=now + 61):
            assert each.get("a") is None
            assert each.get("forever") == 1


def test_freezegun_is_followed(tezkor_cache):
    with freezegun.freeze_time("2026-01-01") as frozen:
        cache.set("a", 1, 3600)
        frozen.tick(3599)
        assert cache.get("a") == 1
        assert cache.touch("a", 10) is True
        frozen.tick(11)
        assert cache.get("a") is None


def test_overridden_settings_of_one_test_do_not_reach_the_next(tezkor_cache):
    for _ in range(2):
        with override_settings(
            CACHES={"default": {"BACKEND": "tezkor.backends.TezkorCache", "LOCATION": "one-test"}}
        ):
            assert cache.get("a") is None
            cache.set("a", 1)
        clear_caches()
