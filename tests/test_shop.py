"""The example shop passes its own tests with each of its three caches, each in a process with the shop's settings."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHOP = ROOT / "examples" / "shop"


def manage(*args, cache, **environ):
    path = os.pathsep.join(filter(None, [str(ROOT / "python"), os.environ.get("PYTHONPATH", "")]))
    settings = {
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "SHOP_CACHE": cache,
        "PYTHONPATH": path,
        **environ,
    }
    command = [sys.executable, "-W", "error", "manage.py", *args]
    return subprocess.run(
        command,
        cwd=SHOP,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("cache", ["dummy", "locmem", "tezkor"])
def test_shop_passes_its_tests_with(cache):
    run = manage("test", cache=cache)
    assert run.returncode == 0, run.stderr
    ran = re.search(r"Ran (\d+) tests", run.stderr)
    assert ran, run.stderr
    assert int(ran[1]) >= 20
    # What is about one cache's way of invalidation is skipped with the others; DummyCache keeps nothing to test.
    skipped = re.search(r"skipped=(\d+)", run.stderr)
    assert int(skipped[1] if skipped else 0) <= {"dummy": 13, "locmem": 4, "tezkor": 3}[cache], run.stderr


def test_models_have_their_migration(tmp_path):
    run = manage(
        "makemigrations", "--check", "--dry-run", cache="dummy", SHOP_DB=str(tmp_path / "shop.sqlite3")
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_real_films_load(tmp_path):
    database = {"SHOP_DB": str(tmp_path / "films.sqlite3")}
    assert manage("migrate", "-v0", cache="dummy", **database).returncode == 0
    loaded = manage("load_films", "--limit", "200", cache="dummy", **database)
    assert loaded.stdout.startswith("200 films, "), loaded.stderr
    again = manage("load_films", cache="dummy", **database)
    assert again.returncode == 1
    assert "already has films" in again.stderr
