"""Pytest's side of Tezkor: caches are private memory in tests, and empty where a test asks for it.

It imports neither Django nor the engine until a test uses them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tezkor import isolation


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("tezkor_clear", "empty all Tezkor caches before each test", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    isolation.pytest_runs = True


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if "tezkor.backends" in sys.modules and item.config.getini("tezkor_clear"):
        from tezkor.test import clear_caches

        clear_caches()


@pytest.fixture
def tezkor_cache() -> Iterator[Any]:
    """The default cache; all Tezkor caches are empty when the test starts, and when it has ended."""
    from tezkor import cache
    from tezkor.test import clear_caches

    clear_caches()
    yield cache
    clear_caches()
