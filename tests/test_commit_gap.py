"""A worker dies while its COMMIT is on the way, or before the hooks: on a real PostgreSQL, whose COMMIT may be slow."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from test_processes import SPAWN, cache_in

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from servers import Servers

KILLS = 200 if os.environ.get("SOAK") == "1" else 6
COMMIT_SECONDS = 0.3


@pytest.fixture(scope="module")
def postgresql() -> Any:
    """The directory of its socket."""
    with Servers() as servers:
        folder = servers.postgresql()
        if folder is None:
            pytest.skip(f"not run: {servers.missing['postgresql']}")
        import psycopg

        with psycopg.connect(host=folder, user="postgres", dbname="postgres", autocommit=True) as connection:
            connection.execute("create table product (price integer, slow boolean default false)")
            connection.execute("insert into product values (0)")
            connection.execute(
                "create function dawdle() returns trigger language plpgsql as $$ begin "
                f"if new.slow then perform pg_sleep({COMMIT_SECONDS}); end if; return null; end $$"
            )
            connection.execute(
                "create constraint trigger slow_commit after update on product deferrable initially deferred "
                "for each row execute function dawdle()"
            )
        yield folder


def change_and_die(folder: str, host: str, number: int, slow: bool) -> None:
    """Changes the price and dies: in the middle of a slow COMMIT, or after a quick one and before the hooks."""
    cache = cache_in(folder)
    from django.db import connections, transaction

    connections.settings["default"].update(
        ENGINE="django.db.backends.postgresql", NAME="postgres", USER="postgres", HOST=host
    )
    del connections["default"]
    connection = connections["default"]

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("update product set price = %s, slow = %s", [number, slow])
        cache.invalidate_tags("product") if number % 2 else cache.delete("price")
        if slow:
            threading.Timer(COMMIT_SECONDS / 3, die).start()
        else:
            connection.run_on_commit.insert(0, (set(), die, False))
        Path(folder, "committing").write_text("")


def test_nothing_is_stale_a_second_after_the_commit_became_visible(postgresql, tmp_path):
    import psycopg

    cache = cache_in(str(tmp_path))
    worst = 0.0
    with psycopg.connect(host=postgresql, user="postgres", dbname="postgres", autocommit=True) as connection:

        def price() -> int:
            row = connection.execute("select price from product").fetchone()
            assert row is not None
            return int(row[0])

        for number in range(1, KILLS + 1):
            cache.set("price", price(), None, tags=["product"])
            slow = number % 3 == 0
            arguments = (str(tmp_path), postgresql, number, slow)
            worker = SPAWN.Process(target=change_and_die, args=arguments, daemon=True)
            worker.start()
            visible, end = None, time.monotonic() + 30
            while True:
                # A reader that never rests, and keeps what it loads.
                served = cache.get_or_set("price", price, None, tags=["product"])
                now = time.monotonic()
                assert now < end, "the change never came"
                if visible is None and price() == number:
                    visible = now
                if visible is not None and served == number:
                    break
            worst = max(worst, time.monotonic() - visible)
            worker.join()
            assert worker.exitcode == -signal.SIGKILL
            # And it stays so.
            for _ in range(100):
                assert cache.get_or_set("price", price, None, tags=["product"]) == number
    print(f"stale for {worst * 1000:.0f} ms at most after {KILLS} kills (bound 1000)")
    assert worst < 1
