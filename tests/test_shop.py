"""The example shop passes its own tests with each of its three caches, each in a process with the shop's settings."""

import importlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHOP = ROOT / "examples" / "shop"
LOCKS = "measure.locks.LocMemCacheWithLocks"
LOOKS = """
import django; django.setup()
from django.test import Client
visitor = Client(SERVER_NAME="localhost")
for path in ("/year/2014/", "/year/2014/", "/api/film/1/", "/api/film/1/"):
    print(visitor.get(path).headers["X-Shop-Meters"])
"""


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
    assert skipped, run.stderr
    assert int(skipped[1]) == {"dummy": 13, "locmem": 4, "tezkor": 3}[cache], run.stderr


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


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """So many that the report of a year takes longer than a dozen requests take to arrive."""
    path = tmp_path_factory.mktemp("films") / "films.sqlite3"
    for command in (["migrate", "-v0"], ["load_films", "--limit", "5000"]):
        run = manage(*command, cache="dummy", SHOP_DB=str(path))
        assert run.returncode == 0, run.stderr
    return path


@pytest.fixture
def measure(monkeypatch):
    """The modules of the demo, which need neither Django nor its settings."""
    monkeypatch.syspath_prepend(str(SHOP))
    names = ("consistency", "database", "load", "server", "stampede")
    yield {name: importlib.import_module(f"measure.{name}") for name in names}
    for name in [name for name in sys.modules if name.partition(".")[0] == "measure"]:
        del sys.modules[name]


@pytest.fixture
def serve(measure, films, tmp_path):
    """Runs the metered shop with several threads in each worker."""

    def server(cache, **environ):
        database = measure["database"].copied(films, tmp_path / "shop.sqlite3")
        return measure["server"].Server(
            cache, database, tmp_path, settings="measure.settings", log=tmp_path / "gunicorn.log",
            SHOP_PRICE_TOKEN="secret", TEZKOR_SHARED_DIRECTORY=str(tmp_path),
            SHOP_RUNS_FILE=str(tmp_path / "runs"), SHOP_THREADS=str(measure["stampede"].THREADS), **environ,
        )  # fmt: skip

    return server


def stampede(measure, server, tmp_path):
    callers = measure["server"].WORKERS * measure["stampede"].THREADS
    years = [2014, 2009, 2004]
    return measure["stampede"].rounds(server.port, tmp_path / "runs", callers, years, time.monotonic() + 60)


def test_cold_page_is_made_once_for_all_workers_and_prices_are_never_stale(serve, measure, tmp_path):
    with serve("tezkor") as server:
        assert [(runs, workers) for runs, _, workers in stampede(measure, server, tmp_path)] == [(1, 3)] * 3
        changing = measure["consistency"].Trial(server.port, range(1, 9), "secret").run(2)
    assert changing["failures"] == []
    assert all(changing["reads"].get(kind) for kind in ("page", "row", "list")), changing
    assert changing["hits"] > sum(changing["reads"].values()) / 4, (
        changing
    )  # else there was nothing to be stale
    assert sum(changing["stale"].values()) == 0, changing


def test_demo_sees_stampedes_and_stale_prices_where_there_are_some(serve, measure, tmp_path):
    with serve("locmem") as server:
        assert max(runs for runs, *_ in stampede(measure, server, tmp_path)) > measure["server"].WORKERS
        changing = measure["consistency"].Trial(server.port, range(1, 9), "secret").run(2)
    assert changing["failures"] == []
    assert all(changing["stale"].get(kind) for kind in ("page", "row", "list")), changing


def test_dict_of_locks_has_a_cold_page_made_once_in_each_worker(serve, measure, tmp_path):
    with serve("locmem", SHOP_BACKEND=LOCKS) as server:
        assert [runs for runs, *_ in stampede(measure, server, tmp_path)] == [measure["server"].WORKERS] * 3


def test_absent_film_holds_no_worker_up(serve, measure):
    with serve("tezkor") as server:
        started = time.monotonic()
        for _ in range(40):
            visitor = measure["load"].Visitor(server.port)
            visitor.send("GET", "/film/999999/film/")
            assert visitor.failures == ["GET /film/999999/film/: 404"]
        assert time.monotonic() - started < 5


def test_reader_knows_an_old_price_from_a_fresh_one(measure, monkeypatch):
    trial = measure["consistency"].Trial(0, [7], "secret")
    trial.committed[7] = 1250
    pages = {
        "/film/7/film/": b'<b class="price">$%s</b>',
        "/api/film/7/": b'{"price": "%s"}',
        "/films/": b'<li class="card"><a href="/film/7/seven/">\n<b class="price">$%s</b>',
    }

    class Shop:
        meters, failures = (0, 0, 0, 0), ()

        def __init__(self, port):
            pass

        def send(self, method, path):
            if sum(trial.reads.values()) > 50:
                trial.over.set()
            return pages[path] % price

    monkeypatch.setattr(measure["consistency"], "Visitor", Shop)
    for price, share in ((b"12.49", 1), (b"12.50", 0), (b"12.51", 0)):
        for forgotten in (trial.reads, trial.stale, trial.over):
            forgotten.clear()
        trial.read(seed=1)
        assert set(trial.reads) == {"page", "row", "list"}
        assert sum(trial.stale.values()) == share * sum(trial.reads.values()), price


@pytest.mark.parametrize("cache", ["dummy", "locmem", "tezkor"])
def test_meters_count_alike_for_every_cache(films, tmp_path, cache):
    environ = {"SHOP_DB": str(films), "SHOP_CACHE": cache, "DJANGO_SETTINGS_MODULE": "measure.settings",
               "PYTHONPATH": os.pathsep.join([str(SHOP), str(ROOT / "python")]),
               "TEZKOR_SHARED_DIRECTORY": str(tmp_path), "SHOP_RUNS_FILE": str(tmp_path / "runs")}  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOOKS], cwd=SHOP, env=os.environ | environ,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    seen = [tuple(map(int, line.split())) for line in run.stdout.splitlines()]
    # Queries, look-ups, hits, loader runs: of a report, of the same as a kept page, and of a row, both twice.
    report, kept, row, again = (4, 2, 0, 1), (0, 2, 2, 0), (1, 1, 0, 0), (0, 1, 1, 0)
    assert seen == ([report, report, row, row] if cache == "dummy" else [report, kept, row, again])
    assert (tmp_path / "runs").read_text() == (".." if cache == "dummy" else ".")
