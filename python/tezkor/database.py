"""The database as a place for a cache: statements of the engine on Django's own connections.

    engine  ->  Connection.read, .write, .tidy  ->  router  ->  a cursor of django.db.connections[alias]

It opens no connection of its own: routers, test databases and transactions behave as in all of Django, and what a
transaction has written goes with it when it is rolled back.

A statement of the cache never spoils the caller's transaction. PostgreSQL refuses everything after an error until the
transaction, or a savepoint, is rolled back: so inside of one each call has a savepoint around it. Other databases undo
only the statement that failed. Where a database gives up the whole transaction by itself (a deadlock in MySQL), the
error is raised: to hide it would be to lose what the caller has written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import lru_cache
from struct import pack
from typing import Any
from weakref import WeakSet

from django.core.cache.backends.db import Options
from django.db import (
    DEFAULT_DB_ALIAS,
    Error,
    InterfaceError,
    OperationalError,
    connections,
    router,
    transaction,
)
from django.db.backends.base.base import BaseDatabaseWrapper

from tezkor import _native

logger = logging.getLogger("tezkor")

# Text, parameters, and whether it answers with rows.
Statement = tuple[str, tuple[Any, ...], bool]
# The rows, how many were changed, and MySQL's last id.
Outcome = tuple[Sequence[Sequence[Any]], int, int]

# What a statement may hold where the database has no limit of its own; half of it is the largest value.
MOST_BYTES = 64 << 20
MOST_PARAMETERS = 60_000
# Two that wait for each other: one of them has done nothing, and may try again.
DEADLOCKS = {"40P01", "40001", 1213}
MISSING_TABLES = {"42P01", 1146}
TRIES = 4
# What our table's name ends in: Django's own table of that LOCATION stays as it is, for workers that still use it.
OWN = "_tezkor"


class InDatabase:
    """A backend whose entries are in a table of a database; `createcachetable` makes it."""

    # The LOCATION, which is also what Django's own backend calls its table.
    _table: str

    @property
    def own_table(self) -> str:
        """The name of our table."""
        return own_table(self._table)


def own_table(location: str) -> str:
    """The name of our table for a LOCATION; a quoted one stays quoted."""
    quote = location[-1:] if location[-1:] in ('"', "`") else ""
    return location[: len(location) - len(quote)] + OWN + quote


def routed(table: str) -> Any:
    """What routers are asked about: a class like a model, with Django's own app label for cache tables."""
    return type("CacheEntry", (), {"_meta": Options(table)})


class Connection:
    """Carries out statements for one table. An answer is a text where the database refused: it says why."""

    def __init__(self, table: str) -> None:
        self.table = table
        self.model = routed(table)

    def title(self) -> str:
        return f'database "{router.db_for_write(self.model)}"'

    def dialect(self) -> tuple[str, bool, int, int] | str:
        alias = router.db_for_write(self.model)
        try:
            return dialect(connections[alias])
        except Error as error:
            return self._said(alias, error)

    def read(self, statements: Sequence[Statement]) -> Sequence[Outcome] | str:
        return self._run(router.db_for_read(self.model), statements)

    def write(self, statements: Sequence[Statement]) -> Sequence[Outcome] | str:
        return self._run(router.db_for_write(self.model), statements)

    def tidy(self, statements: Sequence[Statement]) -> Sequence[Outcome] | str:
        """As `write`, but not inside a transaction, which would keep its locks to its end."""
        alias = router.db_for_write(self.model)
        return () if is_open(connections[alias]) else self._run(alias, statements)

    def is_lasting(self) -> bool:
        """Whether what is written now stays written."""
        return not is_open(connections[router.db_for_write(self.model)])

    def _run(self, alias: str, statements: Sequence[Statement]) -> Sequence[Outcome] | str:
        connection = connections[alias]
        for tried in range(1, TRIES + 1):
            inside = is_open(connection)
            try:
                whole = len(statements) > 1 or (inside and connection.vendor == "postgresql")
                with transaction.atomic(using=alias) if whole else nullcontext():
                    return execute(connection, statements)
            except Error as error:
                if inside and gave_up(connection, error):
                    connection.needs_rollback = True
                    raise
                if not inside and tried == 1 and is_missing_table(error) and self._make_table(alias):
                    continue
                if not inside and isinstance(error, (OperationalError, InterfaceError)):
                    # A connection that has died would stay so until the request ends, and elsewhere for ever.
                    connection.close_if_unusable_or_obsolete()
                    if codes(error) & DEADLOCKS and tried < TRIES:
                        continue
                said = self._said(alias, error)
                # A transaction that an earlier error has broken answers nothing: the database is not away.
                return Unasked(said) if inside and is_broken(connection, error) else said
        raise AssertionError("the last try returns")

    def _make_table(self, alias: str) -> bool:
        """Makes the table where `createcachetable` did not: without our app that is Django's own, which makes none for
        us. Whether to try again; several may come at once."""
        if not router.allow_migrate_model(alias, self.model):
            return False
        connection = connections[alias]
        try:
            with transaction.atomic(using=alias), connection.cursor() as cursor:
                for statement in _native.create_table_statements(dialect(connection), self.table):
                    cursor.execute(statement)
        except Error:
            return self.table.strip('"`') in connection.introspection.table_names()
        logger.warning('table %s was missing in database "%s", and has been made', self.table, alias)
        return True

    def _said(self, alias: str, error: Error) -> str:
        said = str(error.args[-1] if error.args else type(error).__name__).strip().partition("\n")[0][:200]
        fix = ""
        if is_missing_table(error):
            fix = '; run "manage.py createcachetable"'
        return f'table {self.table} in database "{alias}": {said}{fix}'


def is_open(connection: Any) -> bool:
    """Whether the caller has a transaction open on it."""
    if connection.in_atomic_block:
        return True
    return not (
        connection.settings_dict["AUTOCOMMIT"] if connection.connection is None else connection.autocommit
    )


def gave_up(connection: Any, error: Error) -> bool:
    """Whether the database has rolled back the caller's transaction by itself."""
    if connection.vendor == "sqlite":
        return connection.connection is not None and not connection.connection.in_transaction
    return connection.vendor == "mysql" and not DEADLOCKS.isdisjoint(codes(error))


def is_broken(connection: Any, error: Error) -> bool:
    return connection.needs_rollback or "25P02" in codes(error)


class Unasked(str):
    """Why the database was not asked."""

    __slots__ = ()


def is_missing_table(error: Error) -> bool:
    return bool(codes(error) & MISSING_TABLES) or str(error).startswith("no such table")


def codes(error: Error) -> set[Any]:
    """The database's own letters and numbers for what went wrong; each driver has them elsewhere."""
    cause = error.__cause__
    return {getattr(cause, "sqlstate", None), getattr(cause, "pgcode", None), *error.args[:1]}


def execute(connection: Any, statements: Sequence[Statement]) -> list[Outcome]:
    """Carries the statements out, without Django's cursor around the driver's where nobody would miss it: that costs
    more than a read itself. It is used inside transactions, for queries that are logged, counted or watched, and for
    backends that are not Django's own."""
    run = None if connection.in_atomic_block else direct(connection)
    if run is not None:
        connection.close_if_health_check_failed()
        connection.ensure_connection()
        connection.validate_thread_sharing()
        with connection.wrap_database_errors:
            return [run(connection.connection, statement) for statement in statements]
    outcomes: list[Outcome] = []
    has_last_id = connection.vendor == "mysql"
    with connection.cursor() as cursor:
        for text, parameters, has_rows in statements:
            cursor.execute(text, parameters)
            rows = cursor.fetchall() if has_rows else ()
            outcomes.append((rows, cursor.rowcount, cursor.lastrowid or 0 if has_last_id else 0))
    return outcomes


def direct(connection: Any) -> Callable[[Any, Statement], Outcome] | None:
    """How to use the driver's connection itself; None where that is not to be done."""
    # Tests forbid queries, and tools watch them, by a `cursor` of their own. Our own wrapper is for transactions only.
    if connection.queries_logged or "cursor" in connection.__dict__:
        return None
    if any(getattr(each, "__module__", "") != "tezkor.transactions" for each in connection.execute_wrappers):
        return None
    kind = type(connection)
    if kind not in _directly:
        _directly[kind] = None
        module = getattr(kind.create_cursor, "__module__", None)
        if kind.cursor is BaseDatabaseWrapper.cursor and kind._cursor is BaseDatabaseWrapper._cursor:
            if module == "django.db.backends.sqlite3.base":
                _directly[kind] = run_on_sqlite
            if module == "django.db.backends.postgresql.base" and kind.Database.__name__ == "psycopg":
                _directly[kind] = run_on_psycopg
    return _directly[kind]


_directly: dict[type, Callable[[Any, Statement], Outcome] | None] = {}


def run_on_sqlite(raw: Any, statement: Statement) -> Outcome:
    text, parameters, has_rows = statement
    cursor = raw.execute(with_question_marks(text), parameters)
    rows = cursor.fetchall() if has_rows else ()
    return rows, cursor.rowcount, 0


@lru_cache(512)
def with_question_marks(text: str) -> str:
    return text.replace("%s", "?").replace("%%", "%")


def run_on_psycopg(raw: Any, statement: Statement) -> Outcome:
    """Values go to the server beside the statement, not quoted in its text, and come back as they are."""
    from psycopg import Cursor

    text, parameters, has_rows = statement
    if parameters and type(parameters[0]) is list:
        parameters = (packed(raw, parameters[0]), *parameters[1:])
    # Prepared only where the settings ask for it (`prepare_threshold`): poolers between may not bear it.
    cursor = Cursor(raw)
    cursor.execute(text, parameters, binary=True)
    rows = cursor.fetchall() if has_rows else ()
    return rows, cursor.rowcount, 0


class Packed(bytes):
    """An array of bytes as PostgreSQL has it. psycopg's own packing takes longer than the query."""


def packed(raw: Any, values: Sequence[bytes]) -> Packed:
    if raw not in _packing:
        from psycopg.adapt import Dumper
        from psycopg.pq import Format

        class PackedDumper(Dumper):
            format = Format.BINARY
            oid = 1001  # bytea[]

            def dump(self, obj: Packed) -> bytes:
                return obj

        raw.adapters.register_dumper(Packed, PackedDumper)
        _packing.add(raw)
    # Dimensions, no NULL, bytea; length of the dimension, its first index; then each with its length.
    parts = [pack(">iiiii", 1, 0, 17, len(values), 1)]
    for value in values:
        parts += pack(">i", len(value)), value
    return Packed(b"".join(parts))


_packing: WeakSet[Any] = WeakSet()


def dialect(connection: Any) -> tuple[str, bool, int, int]:
    """Vendor, whether changes answer with rows, the most parameters and the most bytes of a statement."""
    vendor: str = connection.vendor
    most = connection.features.max_query_params or MOST_PARAMETERS
    if vendor == "sqlite":
        return vendor, connection.Database.sqlite_version_info >= (3, 35), most, MOST_BYTES
    if vendor == "mysql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT @@max_allowed_packet")
            [[packet]] = cursor.fetchall()
        if connection.mysql_is_mariadb and connection.mysql_version >= (10, 5):
            vendor = "mariadb"
        return vendor, False, most, min(int(packet), MOST_BYTES)
    return vendor, True, most, MOST_BYTES


def rows_of_django(
    connection: Any, table: str, batch: int = 500
) -> Iterator[list[tuple[str, Any, float | None]]]:
    """Key, value and seconds left of what lives in a table made by Django's own backend, in batches."""
    import base64
    import pickle
    from datetime import datetime, timezone

    from django.db import models

    expression = models.Expression(output_field=models.DateTimeField())
    converters = connection.ops.get_db_converters(expression) + expression.get_db_converters(connection)
    quoted = connection.ops.quote_name
    key, value, expires = map(quoted, ("cache_key", "value", "expires"))
    last = ""
    while True:
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {key}, {value}, {expires} FROM {quoted(table)} "
                f"WHERE {key} > %s ORDER BY {key} LIMIT {batch}",
                [last],
            )
            rows = cursor.fetchall()
        if not rows:
            return
        last = rows[-1][0]
        now = datetime.now(timezone.utc)
        found: list[tuple[str, Any, float | None]] = []
        for name, text, when in rows:
            for converter in converters:
                when = converter(when, expression, connection)
            left: float | None = None
            # What never expires, Django keeps until the year 9999.
            if when.year < 9999:
                # Without USE_TZ it is local time.
                left = (when.astimezone() - now).total_seconds()
                if left <= 0:
                    continue
            text = connection.ops.process_clob(text)
            try:
                found.append((name, pickle.loads(base64.b64decode(text.encode())), left))
            except Exception:
                continue  # of a class that is gone: a miss here as it would be there
        yield found


def copy_from_django(cache: Any, table: str, database: str = DEFAULT_DB_ALIAS) -> int:
    """Copies what lives in a table made by Django's own backend into a cache of the same prefix, where it has no entry
    yet; how many entries that were."""
    import warnings

    from django.core.cache.backends.base import CacheKeyWarning, default_key_func

    prefix = f"{cache.key_prefix}:" if cache.key_func is default_key_func else ""
    cache.key_func = lambda key, prefix, version: key
    copied = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheKeyWarning)
        for rows in rows_of_django(connections[database], table):
            for full_key, value, left in rows:
                if full_key.startswith(prefix):
                    copied += cache.add(full_key, value, left)
    return copied
