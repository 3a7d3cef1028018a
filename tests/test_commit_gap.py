"""A worker dies amid its COMMIT, or after it and before the hooks.

On SQLite and on PostgreSQL, with the cache on this machine, on Redis and on memcached.
"""

from __future__ import annotations

import os
import textwrap

import pytest

SOAK = os.environ.get("SOAK") == "1"

# Each kill has a region of its own: what a dead worker's intent holds up for seconds would hide what the next one
# leaves stale.
GAP = """
    import os, signal, sys, time
    from pathlib import Path
    from threading import Thread

    import django
    django.setup()
    from django.db import connection, connections, transaction
    from tezkor.backends import TezkorCache

    IS_AMID, LOCATION, STALE_SECONDS = sys.argv[1] == "amid", sys.argv[2], 1.0
    # How long a COMMIT goes on without its worker; others look for dead ones every quarter of a second.
    AMID_SECONDS = 0.6
    INVALIDATIONS = {
        "a key": lambda cache: cache.delete("n"),
        "keys": lambda cache: cache.delete_many(["m", "n"]),
        "many keys": lambda cache: [cache.delete(f"m{each}") for each in range(100)] and cache.delete("n"),
        "a pattern": lambda cache: cache.delete_pattern("[a-n]"),
        "a tag": lambda cache: cache.invalidate_tags("stock"),
        "a prefix": lambda cache: cache.clear_prefix(),
        "a location": lambda cache: cache.clear(),
    }
    SETS = {
        "a set": lambda cache: cache.set("n", "new", 3600),
        "sets": lambda cache: cache.set_many({"m": 1, "n": "new"}),
        "a set in a block": lambda cache: bracket(cache),
        "a version": lambda cache: cache.incr_version("n"),
    }
    CASES = [(False, name, act) for name, act in INVALIDATIONS.items()]
    CASES += [(True, name, act) for name, act in (INVALIDATIONS | SETS).items()]

    def bracket(cache):
        with cache.load("n"):
            cache.set("n", "new", 3600)

    def execute(sql, *args):
        with connection.cursor() as cursor:
            cursor.execute(sql, args)
            return cursor.fetchone()[0] if sql.startswith("select") else None

    def committed():
        return execute("select n from stock")

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def elsewhere(function, *args):
        found = []
        thread = Thread(target=lambda: found.append(function(*args)))
        thread.start()
        thread.join()
        return found[0]

    def change(cache, act, number):
        with transaction.atomic():
            execute("update stock set n = %s", number)
            act(cache)
            # The reader puts the old value back.
            end = time.monotonic() + 20
            while elsewhere(cache.get, "n") != number - 1:
                if time.monotonic() > end:
                    os._exit(2)
                time.sleep(0.001)
            if not IS_AMID:
                connection.run_on_commit.insert(0, (set(), die, False))

    execute("drop table if exists stock")
    execute("create table stock (n integer)")
    execute("insert into stock values (0)")
    if IS_AMID:
        import psycopg
        # A COMMIT waits for a lock, before anybody sees what it commits.
        execute("create or replace function wait() returns trigger language plpgsql as "
                "$$ begin perform pg_advisory_xact_lock(1); return null; end $$")
        execute("create constraint trigger wait after update on stock deferrable initially deferred "
                "for each row execute function wait()")
        settings = connection.settings_dict
        holder = psycopg.connect(
            host=settings["HOST"], user=settings["USER"], dbname=settings["NAME"], autocommit=True
        )
        waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"

    number, slowest = 0, 0.0
    if "memcached" in LOCATION:  # it cannot list its keys
        CASES = [case for case in CASES if case[1] not in ("a pattern", "a prefix")]
    for is_late, name, act in CASES:
        number += 1
        what = (number, "late" if is_late else "at once", name)
        region = f"gap{os.getpid()}x{number}"
        options = {"REGION": region, "SIZE": "2MiB"}
        reader = TezkorCache(LOCATION, {"KEY_PREFIX": region, "OPTIONS": options})
        writer = TezkorCache(LOCATION, {"KEY_PREFIX": region, "OPTIONS": {**options, "TRANSACTIONAL": is_late}})

        def served():
            return reader.get_or_set("n", committed, 3600, tags=["stock"])

        assert served() == number - 1
        connections.close_all()
        if IS_AMID:
            holder.execute("select pg_advisory_lock(1)")
        child = os.fork()
        if child == 0:
            change(writer, act, number)
            os._exit(3)
        end = time.monotonic() + 30
        if IS_AMID:
            while not execute(waiting):
                served()
                assert time.monotonic() < end, what
            assert reader.get("n") == number - 1, ("the old value is not cached", what)
            os.kill(child, signal.SIGKILL)
            killed = time.monotonic()
            while time.monotonic() < killed + AMID_SECONDS:
                served()
            holder.execute("select pg_advisory_unlock(1)")
        while committed() != number:
            served()
            assert time.monotonic() < end, what
        visible = time.monotonic()
        while served() != number:
            assert time.monotonic() < visible + STALE_SECONDS, ("stale", what, served())
        slowest = max(slowest, time.monotonic() - visible)
        for _ in range(100):
            assert served() == number, ("stale again", what)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), (status, what)  # it was killed, and did not come to its hooks
    if IS_AMID:
        holder.close()
    print(f"{number} kills: stale for {slowest * 1000:.0f} ms at most")
"""


def write_project(project, database):
    project.settings("shop")
    text = (project.folder / "shop.py").read_text()
    project.write("shop.py", text + f"DATABASES = {{'default': {database!r}}}\n")
    project.write("gap.py", GAP)
    return project


@pytest.fixture
def on_sqlite(project):
    name = str(project.folder / "db")
    options = {"transaction_mode": "IMMEDIATE"}
    return write_project(project, {"ENGINE": "django.db.backends.sqlite3", "NAME": name, "OPTIONS": options})


@pytest.fixture
def on_postgresql(project, postgresql):
    database = {"HOST": postgresql, "NAME": "postgres", "USER": "postgres"}
    return write_project(project, {"ENGINE": "django.db.backends.postgresql", **database})


def kill(project, when, location=""):
    for _ in range(12 if SOAK else 1):
        print(project.run("gap.py", when, location))


def located(server, request):
    path = request.getfixturevalue(server)
    return f"unix://{path}" if server == "redis" else f"memcached://{path}"


def test_a_worker_killed_after_its_commit_leaves_nothing_stale_on_sqlite(on_sqlite):
    kill(on_sqlite, "after")


def test_a_worker_killed_after_its_commit_leaves_nothing_stale_on_postgresql(on_postgresql):
    kill(on_postgresql, "after")


def test_a_worker_killed_amid_its_commit_leaves_nothing_stale_on_postgresql(on_postgresql):
    kill(on_postgresql, "amid")


@pytest.mark.parametrize("server", ["redis", "memcached"])
def test_a_worker_killed_after_its_commit_leaves_nothing_stale_on_a_server(on_sqlite, server, request):
    kill(on_sqlite, "after", located(server, request))


@pytest.mark.parametrize("server", ["redis", "memcached"])
def test_a_worker_killed_amid_its_commit_leaves_nothing_stale_on_a_server(on_postgresql, server, request):
    kill(on_postgresql, "amid", located(server, request))


@pytest.mark.parametrize("server", ["redis", "memcached"])
def test_what_another_machine_put_back_meanwhile_goes_a_few_seconds_later(on_sqlite, server, request):
    code = """
        import os, signal, sys, time
        import django
        django.setup()
        from django.db import transaction
        from tezkor.backends import TezkorCache
        # A region is a machine.
        here, there = (TezkorCache(sys.argv[1], {"OPTIONS": {"REGION": name}}) for name in ("here", "there"))
        child = os.fork()
        if child == 0:
            with transaction.atomic():
                here.delete("n")
                here.invalidate_tags("stock")
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        for seconds in (1, 8):
            there.set("n", "old", 3600)
            there.set("m", "old", 3600, tags=["stock"])
            end = time.monotonic() + seconds
            while there.get_many(["n", "m"]):
                here.get("n")
                assert time.monotonic() < end, (seconds, there.get_many(["n", "m"]))
                time.sleep(0.01)
        there.set("n", "new")
        time.sleep(1)
        assert here.get("n") == "new"
    """
    on_sqlite.write("there.py", textwrap.dedent(code))
    on_sqlite.run("there.py", located(server, request))


def test_a_worker_killed_after_a_rollback_invalidates_nothing(on_sqlite):
    code = """
        import os, signal, time
        import django
        django.setup()
        from django.db import transaction
        from tezkor.backends import TezkorCache
        late = TezkorCache("", {"OPTIONS": {"TRANSACTIONAL": True}})
        late.set("n", 1, 3600, tags=["stock"])
        child = os.fork()
        if child == 0:
            try:
                with transaction.atomic():
                    late.delete("n")
                    late.invalidate_tags("stock")
                    late.set("n", 2)
                    raise KeyError
            except KeyError:
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        for _ in range(60):
            assert late.get("n") == 1
            time.sleep(0.01)
        print("kept", late._sequence())
    """
    assert on_sqlite.python(textwrap.dedent(code)).startswith("kept")


def test_a_worker_of_a_repeatable_read_keeps_nothing_that_was_overtaken(on_postgresql):
    code = """
        import django
        django.setup()
        from django.db import connection, connections, transaction
        from threading import Thread
        from tezkor import cache
        with connection.cursor() as cursor:
            cursor.execute("drop table if exists goods")
            cursor.execute("create table goods (n integer)")
            cursor.execute("insert into goods values (1)")

        def read():
            with connection.cursor() as cursor:
                cursor.execute("select n from goods")
                return cursor.fetchone()[0]

        def change():
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("update goods set n = 2")
                cache.invalidate_tags("goods")
            connections.close_all()

        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("set transaction isolation level repeatable read")
            assert read() == 1
            thread = Thread(target=change)
            thread.start()
            thread.join()
            assert cache.get_or_set("n", read, 60, tags=["goods"]) == 1
        print(cache.get_or_set("n", read, 60, tags=["goods"]))
    """
    assert on_postgresql.python(textwrap.dedent(code)) == "2"
