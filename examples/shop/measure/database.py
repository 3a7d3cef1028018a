"""The shop's database, built once from the films and copied for each run, so that no run sees another's writes."""

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

SHOP = Path(__file__).resolve().parent.parent
CACHE_DIR = SHOP.parent.parent / ".cache" / "shop"
SOURCES = ["shop/models.py", "shop/migrations/0001_initial.py", "shop/management/commands/load_films.py"]
ADMIN_PASSWORD = "films"  # of the demo's own database, reachable from this machine alone


def prepared(say):
    """Path of the untouched database; built now if it is absent or made by other code."""
    CACHE_DIR.mkdir(parents=True, exist_ok=True)
    films, stamp = CACHE_DIR / "films.sqlite3", CACHE_DIR / "films.stamp"
    digest = hashlib.sha256(b"".join((SHOP / source).read_bytes() for source in SOURCES)).hexdigest()
    if films.exists() and stamp.exists() and stamp.read_text() == digest:
        return films
    say("loading 17 472 films into SQLite, once (about 15 s)")
    building = CACHE_DIR / f"building-{os.getpid()}.sqlite3"
    try:
        manage("migrate", "-v0", database=building)
        manage("load_films", "--admin-password", ADMIN_PASSWORD, database=building)
        with closing(sqlite3.connect(building)) as db:
            db.execute(
                "PRAGMA journal_mode=DELETE"
            )  # one file to copy; the shop turns write-ahead logging on
        building.replace(films)
    finally:
        for rest in CACHE_DIR.glob(f"{building.name}*"):
            rest.unlink()
    stamp.write_text(digest)
    return films


def copied(films, to):
    shutil.copyfile(films, to)
    return to


def manage(*args, database, cache="dummy", settings="project.settings", **extra):
    environ = environment(database, cache, settings, **extra)
    subprocess.run([sys.executable, "manage.py", *args], cwd=SHOP, env=environ, check=True)


def environment(database, cache, settings, **extra):
    """Environment of any process of the shop; finds Tezkor in the checkout when it is not installed."""
    paths = [str(SHOP), str(SHOP.parent.parent / "python"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "DJANGO_SETTINGS_MODULE": settings,
        "SHOP_DB": str(database), "SHOP_CACHE": cache, **extra,
    }  # fmt: skip
