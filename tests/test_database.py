"""The database as a server: its rules on real databases, and what it leaves of the caller's transaction."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.core.cache import caches
from django.core.cache.backends.db import DatabaseCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.management import CommandError, call_command
from django.db import Error, OperationalError, connections, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from servers import Servers

from tezkor import _native, backends, database
from tezkor.backends import DatabaseCache as OurDatabaseCache
from tezkor.backends import TezkorCache

MINUTE = 60_000
# Each way in which the store speaks to a database: the alias, and what is changed about its dialect.
WAYS = {
    "sqlite": ("sqlite", {}),
    "sqlite without RETURNING": ("sqlite", {1: False}),
    "sqlite with few parameters": ("sqlite", {2: 50}),
    "postgresql": ("postgresql", {}),
    "mariadb": ("mariadb", {}),
    # MySQL's dialect is the part of MariaDB's that MySQL knows too.
    "mysql": ("mariadb", {0: "mysql"}),
}


class Router:
    """Sends caches to the database that a test runs on, reads to another where it says so."""

    write = "default"
    read: str | None = None
    may_migrate = True

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return (self.read or self.write) if model._meta.app_label == "django_cache" else None

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        return self.write if model._meta.app_label == "django_cache" else None

    def allow_migrate(self, alias: str, app_label: str, **hints: Any) -> bool:
        return self.may_migrate


class Altered(database.Connection):
    """Changes a dialect, and has threads that are not Python's borrow one that is, with its open connections."""

    altered: dict[int, Any] = {}
    threads: Threads

    def dialect(self) -> Any:
        parts = list(super().dialect())
        for place, part in self.altered.items():
            parts[place] = part
        return tuple(parts)

    def _run(self, alias: str, statements: Any) -> Any:
        if isinstance(threading.current_thread(), threading._DummyThread):
            return self.threads.pool.submit(super()._run, alias, statements).result()
        return super()._run(alias, statements)


class Threads:
    """Four of Python's threads."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(4)

    def close(self, alias: str) -> None:
        all_of_them = threading.Barrier(4)

        def close() -> None:
            connections[alias].close()
            all_of_them.wait()

        for closing in [self.pool.submit(close) for _ in range(4)]:
            closing.result()
        self.pool.shutdown()


class Way(NamedTuple):
    alias: str
    connection: database.Connection
    server: Any
    table: str

    @property
    def django(self) -> Any:
        return connections[self.alias]

    def count(self) -> int:
        with self.django.cursor() as cursor:
            cursor.execute(f"SELECT COUNT(*) FROM {self.django.ops.quote_name(self.table)}")
            return cursor.fetchone()[0]


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Adds databases to Django's; the reasons for those that are missing."""
    before = dict(connections.settings)
    with Servers() as servers:
        file = tmp_path_factory.mktemp("sqlite") / "cache.sqlite3"
        # As the servers, it syncs nothing to the disk.
        options = {"timeout": 20, "init_command": "PRAGMA synchronous=OFF"}
        added: dict[str, Any] = {
            "sqlite": {"ENGINE": "django.db.backends.sqlite3", "NAME": file, "OPTIONS": options}
        }
        if (folder := servers.postgresql()) is not None:
            added["postgresql"] = {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": "postgres",
                "USER": "postgres",
                "HOST": folder,
            }
        if (socket := servers.mariadb()) is not None:
            import pymysql

            pymysql.install_as_MySQLdb()
            with (
                pymysql.connect(unix_socket=socket, user="root") as connection,
                connection.cursor() as cursor,
            ):
                cursor.execute("CREATE DATABASE IF NOT EXISTS test")
            added["mariadb"] = {
                "ENGINE": "django.db.backends.mysql",
                "NAME": "test",
                "USER": "root",
                "HOST": socket,
            }
        connections.settings.update(connections.configure_settings({"default": before["default"], **added}))
        yield servers.missing
        for alias in added:
            connections[alias].close()
            del connections[alias]
            del connections.settings[alias]


@pytest.fixture
def router() -> Iterator[Router]:
    router = Router()
    with override_settings(DATABASE_ROUTERS=[router]):
        yield router


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, databases: dict[str, str], router: Router) -> Iterator[Way]:
    alias, altered = WAYS[request.param]
    if alias not in connections.settings:
        pytest.skip(f"not run: {databases.get(alias) or databases.get(f'{alias}-server')}")
    router.write = alias
    table = "".join(re.findall("[a-z]+", f"t{request.param}"))
    threads = Threads()
    made = type("Changed", (Altered,), {"altered": altered, "threads": threads})(table)
    with connections[alias].cursor() as cursor:
        for statement in _native.create_table_statements(database.dialect(connections[alias]), table):
            cursor.execute(statement)
    yield Way(alias, made, _native._DatabaseServer(made, table), table)
    threads.close(alias)
    with connections[alias].cursor() as cursor:
        cursor.execute(f"DROP TABLE {connections[alias].ops.quote_name(table)}")


@pytest.fixture
def postgresql(databases: dict[str, str], router: Router) -> Any:
    if "postgresql" not in connections.settings:
        pytest.skip(f"not run: {databases['postgresql']}")
    router.write = "postgresql"
    return connections["postgresql"]


def value(server: Any, name: bytes) -> bytes | None:
    [held] = server.get([name])
    return held and held[0]


def test_a_database_keeps_the_rules_of_servers(way: Way) -> None:
    way.server.check("contract", 100)


def test_a_batch_is_one_statement(way: Way) -> None:
    names = [b"k%d" % number for number in range(30)]
    items = [(name, b"value", MINUTE) for name in names]
    way.server.get(names)
    several = {"set": 1, "add": 1, "get": 1, "touch": 1, "remove": 1, "raise": 1}
    if not way.connection.dialect()[1]:  # without RETURNING, a transaction of two
        several["touch"] = 4
        if way.connection.dialect()[0] != "mariadb":
            several |= {"add": 4, "remove": 4}
    if len(names) * 6 > way.connection.dialect()[2]:
        several |= {"set": 7, "add": 7, "raise": 7}

    def asked(act: Any, *arguments: Any) -> int:
        with CaptureQueriesContext(way.django) as queries:
            act(*arguments)
        return len(
            [query for query in queries if "expires <= " not in query["sql"] or "INSERT" in query["sql"]]
        )

    counted = {
        "set": asked(way.server.set, items),
        "add": asked(way.server.add, items),
        "get": asked(way.server.get, names),
        "touch": asked(way.server.touch, names, MINUTE),
        "remove": asked(way.server.remove, names),
        "raise": asked(way.server.raise_to, [(name, 1, MINUTE) for name in names]),
    }
    assert counted == several


def test_a_name_twice_in_a_batch_is_written_in_order(way: Way) -> None:
    items = [(b"a", b"1", MINUTE), (b"b", b"2", MINUTE), (b"a", b"3", MINUTE)]
    assert way.server.set(items) == ["done"] * 3
    assert value(way.server, b"a") == b"3"
    assert way.server.remove([b"a", b"b", b"a"]) == [True, True, False]
    assert way.server.add(items) == ["done", "done", "held"]
    assert value(way.server, b"a") == b"1"
    assert [held and held[0] for held in way.server.get([b"a", b"?", b"b", b"a"])] == [b"1", None, b"2", b"1"]
    way.server.raise_to([(b"n", 5, MINUTE), (b"n", 3, MINUTE)])
    assert value(way.server, b"n") == b"5"


def test_long_names_are_listed_whole_and_in_batches(way: Way) -> None:
    names = {bytes([65 + number % 3]) * 240 + b"%06d" % number * (1 + number % 5) for number in range(1300)}
    way.server.set([(name, b"1", MINUTE) for name in names])
    assert sorted(way.server.scan(b"")) == sorted(names)
    beginning = b"B" * 240 + b"0000"
    assert sorted(way.server.scan(beginning)) == sorted(n for n in names if n.startswith(beginning))
    assert way.server.scan(b"\xff\xff") == []


def test_expired_rows_go_in_small_batches_while_others_are_written(way: Way) -> None:
    way.server.set([(b"old%d" % number, b"x", 1) for number in range(300)])
    threading.Event().wait(0.05)
    for number in range(300):
        way.server.set([(b"new%d" % number, b"x", MINUTE)])
    assert way.count() == 300


def test_a_table_with_a_limit_stays_near_it(way: Way) -> None:
    server = _native._DatabaseServer(way.connection, way.table, 500)
    server.set([(b"lock", b"x", 30_000)])
    for start in range(0, 2000, 50):
        server.set(
            [(b"k%d" % number, b"x", MINUTE * (1 + number)) for number in range(start + 1, start + 51)]
        )
    assert 500 <= way.count() <= 600
    assert value(server, b"lock") == b"x", "what ends within the minute goes by itself"
    assert value(server, b"k2000") == b"x"


def test_what_a_transaction_wrote_goes_with_it(way: Way) -> None:
    way.server.set([(b"a", b"before", MINUTE)])
    with pytest.raises(KeyError), transaction.atomic(using=way.alias):
        way.server.set([(b"a", b"within", MINUTE), (b"b", b"within", MINUTE)])
        assert value(way.server, b"a") == b"within"
        assert way.server.add([(b"c", b"within", MINUTE), (b"b", b"other", MINUTE)]) == ["done", "held"]
        raise KeyError
    assert [held and held[0] for held in way.server.get([b"a", b"b", b"c"])] == [b"before", None, None]


def test_a_missing_table_leaves_the_transaction_as_it_was(way: Way) -> None:
    server = _native._DatabaseServer(type(way.connection)("nowhere"), "nowhere")
    with transaction.atomic(using=way.alias):
        way.server.set([(b"kept", b"1", MINUTE)])
        for ask in (
            lambda: server.get([b"a"]),
            lambda: server.set([(b"a", b"1", MINUTE)]),
            lambda: server.add([(b"a", b"1", MINUTE), (b"b", b"1", MINUTE)]),
            lambda: server.incr(b"a", 1),
            lambda: server.scan(b""),
        ):
            with pytest.raises(RuntimeError, match=r'nowhere in database ".*createcachetable'):
                ask()
        with way.django.cursor() as cursor:
            cursor.execute("SELECT 1 + 1")
            assert cursor.fetchone() == (2,)
        way.server.set([(b"kept too", b"2", MINUTE)])
    assert value(way.server, b"kept") == b"1"
    assert value(way.server, b"kept too") == b"2"


def test_a_broken_transaction_of_one_caller_is_no_outage_for_others(
    site: Any, monkeypatch: Any, tmp_path_factory: Any
) -> None:
    monkeypatch.setenv("TEZKOR_SHARED_DIRECTORY", str(tmp_path_factory.getbasetemp()))
    # A server of its own for each vendor, as a process has one for each table.
    options = {
        "TEST": {"SHARED": True},
        "REGION": f"broken{site.alias}",
        "MAX_ENTRIES": 9_000 + len(site.alias),
    }
    cache = OurDatabaseCache("pages", {"OPTIONS": options})
    cache.set("k", 1)
    assert cache.get("k") == 1
    with suppress(Exception), transaction.atomic(using=site.alias):
        with suppress(Error), site.cursor() as cursor:
            cursor.execute("SELECT nonsense FROM nowhere_at_all")
        for _ in range(5):
            cache.get("k")
    with suppress(Exception), transaction.atomic(using=site.alias):
        transaction.set_rollback(True, using=site.alias)
        for _ in range(5):
            cache.get("k")
            cache.set("k", 2)
    assert cache.stats()["breaker"] == "closed"
    assert cache.get("k") == 1
    # Its database goes with this module.
    backends._stores.pop(cache.place)


def test_a_transaction_that_waits_for_its_rollback_is_not_asked(postgresql: Any) -> None:
    server = _native._DatabaseServer(database.Connection("nowhere"), "nowhere")
    with transaction.atomic(using="postgresql"):
        transaction.set_rollback(True, using="postgresql")
        with pytest.raises(RuntimeError, match="until the end of the 'atomic' block"):
            server.get([b"a"])
        assert transaction.get_rollback(using="postgresql")


@pytest.mark.parametrize("way", ["mariadb"], indirect=True)
def test_a_transaction_lost_to_a_deadlock_is_said_so(way: Way) -> None:
    """InnoDB rolls back all of a transaction that it chooses; the rest of it would otherwise be committed alone."""
    way.server.set([(b"a", b"0", MINUTE), (b"b", b"0", MINUTE)])
    first, second = threading.Event(), threading.Event()

    def other() -> None:
        try:
            with transaction.atomic(using=way.alias):
                # The one that has changed less is chosen.
                way.server.set([(b"much%d" % number, b"x" * 500, MINUTE) for number in range(200)])
                way.server.set([(b"b", b"2", MINUTE)])
                second.set()
                first.wait(10)
                way.server.set([(b"a", b"2", MINUTE)])
        finally:
            connections[way.alias].close()

    thread = threading.Thread(target=other)
    with pytest.raises(OperationalError, match=r"[Dd]eadlock"), transaction.atomic(using=way.alias):
        way.server.set([(b"a", b"1", MINUTE)])
        thread.start()
        second.wait(10)
        first.set()
        way.server.set([(b"b", b"1", MINUTE)])
    thread.join()
    assert value(way.server, b"a") == b"2"


def test_nothing_is_tidied_up_inside_a_transaction(way: Way) -> None:
    # It lives on while this very write may tidy up, and is over when the others could.
    way.server.set([(b"old", b"x", 500)])
    threading.Event().wait(0.6)
    with transaction.atomic(using=way.alias):
        for number in range(250):
            way.server.set([(b"k%d" % number, b"x", MINUTE)])
    assert way.count() == 251


def test_reads_and_writes_go_where_the_router_says(
    databases: dict[str, str], router: Router, tmp_path: Path
) -> None:
    added = {"replica": {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "replica.sqlite3"}}
    connections.settings.update(
        connections.configure_settings({"default": connections.settings["default"], **added})
    )
    router.write, router.read = "sqlite", "replica"
    try:
        for alias in ("sqlite", "replica"):
            with connections[alias].cursor() as cursor:
                for statement in _native.create_table_statements(
                    database.dialect(connections[alias]), "routed"
                ):
                    cursor.execute(statement)
        server = _native._DatabaseServer(database.Connection("routed"), "routed")
        server.set([(b"a", b"1", MINUTE)])
        assert value(server, b"a") is None
        router.read = None
        assert value(server, b"a") == b"1"
        assert server.title() == 'table routed in database "sqlite"'
    finally:
        with connections["sqlite"].cursor() as cursor:
            cursor.execute("DROP TABLE routed")
        connections["replica"].close()
        del connections["replica"]
        del connections.settings["replica"]


def test_a_database_that_comes_back_is_found_again(postgresql: Any) -> None:
    """Outside of a request nobody else closes a connection that has died."""
    with postgresql.cursor() as cursor:
        for statement in _native.create_table_statements(database.dialect(postgresql), "lost"):
            cursor.execute(statement)
    server = _native._DatabaseServer(database.Connection("lost"), "lost")
    try:
        server.set([(b"a", b"1", MINUTE)])
        with postgresql.cursor() as cursor, pytest.raises(Error):
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        with pytest.raises(RuntimeError, match='table lost in database "postgresql"'):
            server.get([b"a"])
        assert value(server, b"a") == b"1"
    finally:
        with postgresql.cursor() as cursor:
            cursor.execute("DROP TABLE lost")


def test_what_is_no_error_of_a_database_is_raised_as_it_is(way: Way) -> None:
    class Stopped(BaseException):
        pass

    def stop(*arguments: Any) -> Any:
        raise Stopped

    with way.django.execute_wrapper(stop), pytest.raises(Stopped):
        way.server.get([b"a"])
    assert value(way.server, b"a") is None


def test_a_test_that_forbids_queries_forbids_those_of_the_cache(way: Way) -> None:
    def forbidden() -> Any:
        raise AssertionError("no queries here")

    way.server.get([b"a"])
    way.django.cursor = forbidden
    try:
        with pytest.raises(AssertionError, match="no queries here"):
            way.server.get([b"a"])
    finally:
        del way.django.cursor


class InMemory(database.InDatabase, TezkorCache):
    """What the command sees of a cache in a database, over memory."""

    def __init__(self, location: str, params: Any) -> None:
        super().__init__("memory://" + location, params)
        self.__dict__["_table"] = location


SETTINGS = {
    "default": {"BACKEND": f"{__name__}.InMemory", "LOCATION": "pages", "KEY_PREFIX": "p", "VERSION": 2},
    "django": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "theirs"},
    "plain": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
}


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def site(request: pytest.FixtureRequest, databases: dict[str, str], router: Router) -> Iterator[Any]:
    """A site with a cache of ours and one of Django's on an empty database."""
    alias = router.write = request.param
    if alias not in connections.settings:
        pytest.skip(f"not run: {databases.get(alias) or databases.get(f'{alias}-server')}")
    with override_settings(CACHES=SETTINGS):
        yield connections[alias]
        caches["default"].clear()
    with connections[alias].cursor() as cursor:
        for table in {"pages", "pages_tezkor", "theirs", "elsewhere"} & set(
            connections[alias].introspection.table_names()
        ):
            cursor.execute(f"DROP TABLE {table}")


def command(site: Any, *arguments: str) -> str:
    out = io.StringIO()
    call_command("createcachetable", *arguments, database=site.alias, stdout=out)
    return out.getvalue()


def tables(site: Any) -> set[str]:
    return {
        name
        for name in site.introspection.table_names()
        if name in {"pages", "pages_tezkor", "theirs", "elsewhere"}
    }


def test_createcachetable_makes_each_table_once(site: Any) -> None:
    said = command(site, "--dry-run")
    assert tables(site) == set()
    assert "pages_tezkor" in said
    assert "theirs" in said
    assert "Cache table 'pages_tezkor' created." in command(site)
    assert tables(site) == {"pages_tezkor", "theirs"}
    assert "Cache table 'pages_tezkor' already exists." in command(site)


def test_a_table_that_is_missing_is_made_where_it_may_be(site: Any, router: Router, caplog: Any) -> None:
    """Whoever changes the dotted path alone has Django's own createcachetable, which makes none for us."""
    server = _native._DatabaseServer(database.Connection("pages_tezkor"), "pages_tezkor")
    with transaction.atomic(using=site.alias), pytest.raises(RuntimeError, match="createcachetable"):
        server.set([(b"k", b"1", MINUTE)])
    router.may_migrate = False
    with pytest.raises(RuntimeError, match="createcachetable"):
        server.set([(b"k", b"1", MINUTE)])
    assert tables(site) == set()
    router.may_migrate = True
    all_at_once = threading.Barrier(4)

    def work(number: int) -> Any:
        all_at_once.wait(10)
        name = b"k%d" % number
        server.set([(name, name, MINUTE)])
        found = value(server, name)
        connections[site.alias].close()
        return found

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [b"k0", b"k1", b"k2", b"k3"]
    assert tables(site) == {"pages_tezkor"}
    assert "has been made" in caplog.text


@pytest.mark.parametrize(
    ("argument", "made"),
    [
        ("pages", "pages_tezkor"),
        ("pages_tezkor", "pages_tezkor"),
        ("theirs", "theirs"),
        ("elsewhere", "elsewhere"),
    ],
)
def test_createcachetable_makes_only_the_tables_that_are_named(site: Any, argument: str, made: str) -> None:
    command(site, argument)
    assert tables(site) == {made}


def test_a_table_that_cannot_be_made_is_said(site: Any) -> None:
    with site.cursor() as cursor:
        cursor.execute("CREATE VIEW pages_tezkor AS SELECT 1 AS one")
    try:
        with pytest.raises(CommandError, match="'pages_tezkor' could not be created"):
            command(site)
    finally:
        with site.cursor() as cursor:
            cursor.execute("DROP VIEW pages_tezkor")


@pytest.mark.parametrize("use_tz", [True, False])
def test_entries_of_djangos_backend_are_copied(site: Any, use_tz: bool) -> None:
    with override_settings(USE_TZ=use_tz):
        call_command("createcachetable", "elsewhere", database=site.alias, stdout=io.StringIO())
        with site.cursor() as cursor:
            cursor.execute("ALTER TABLE elsewhere RENAME TO pages")
        params = {"KEY_PREFIX": "p", "VERSION": 2, "OPTIONS": {"MAX_ENTRIES": 10_000}}
        theirs = DatabaseCache("pages", params)
        theirs.set_many({f"k{number}": {"number": number} for number in range(600)}, timeout=500)
        theirs.set("for-ever", "and ever", timeout=None)
        theirs.set("gone", 1, timeout=-5)
        theirs.set("other-version", 7, version=3)
        theirs.set("newer", "theirs")
        DatabaseCache("pages", params | {"KEY_PREFIX": "other"}).set("foreign", 1)
        cache = caches["default"]
        cache.set("newer", "ours")
        assert "copied from" not in command(site, "--migrate", "--dry-run")
        assert "Cache 'default': 602 entries copied from 'pages'." in command(site, "--migrate")
        assert cache.get_many(["k0", "k599"]) == {"k0": {"number": 0}, "k599": {"number": 599}}
        assert 400 < cache.ttl("k0") <= 500
        assert cache.ttl("for-ever") is None
        assert cache.get("for-ever") == "and ever"
        assert cache.get("other-version", version=3) == 7
        assert cache.get("newer") == "ours"
        assert cache.get("gone") is None
        assert cache.get("foreign") is None
        assert "0 entries copied" in command(site, "--migrate")
        assert isinstance(caches["plain"], LocMemCache)
