"""Django's ``createcachetable``, for the tables of our DatabaseCache aliases too; those of others stay Django's."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.db import BaseDatabaseCache
from django.core.management.base import CommandError, CommandParser
from django.core.management.commands.createcachetable import Command as DjangoCommand
from django.db import DatabaseError, connections, router, transaction

from tezkor import _native
from tezkor.database import InDatabase, copy_from_django, dialect, own_table, routed


class Command(DjangoCommand):  # type: ignore[misc]
    help = "Creates the tables of caches that are kept in a database."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--migrate",
            action="store_true",
            help="Then copies what lives in the tables that Django's own backend made for the same LOCATION.",
        )

    def handle(self, *tablenames: str, **options: Any) -> None:
        self.verbosity = options["verbosity"]
        database, dry_run = options["database"], options["dry_run"]
        ours = {alias: cache for alias in settings.CACHES if isinstance(cache := caches[alias], InDatabase)}
        our_tables = {name for cache in ours.values() for name in (cache._table, cache.own_table)}
        django_tables = [
            cache._table for alias in settings.CACHES if isinstance(cache := caches[alias], BaseDatabaseCache)
        ]
        for table in tablenames or django_tables:
            if table not in our_tables:
                self.create_table(database, table, dry_run)
        for alias, cache in ours.items():
            if tablenames and not {cache._table, cache.own_table} & set(tablenames):
                continue
            self.create_own_table(database, cache.own_table, dry_run)
            if options["migrate"]:
                self.migrate(database, alias, cache._table, dry_run)

    def create_own_table(self, database: str, table: str, dry_run: bool) -> None:
        connection = connections[database]
        if not router.allow_migrate_model(database, routed(table)):
            return
        if table.strip('"`') in connection.introspection.table_names():
            if self.verbosity > 0:
                self.stdout.write(f"Cache table '{table}' already exists.")
            return
        statements = _native.create_table_statements(dialect(connection), table)
        if dry_run:
            for statement in statements:
                self.stdout.write(f"{statement};")
            return
        with transaction.atomic(using=database, savepoint=connection.features.can_rollback_ddl):
            with connection.cursor() as cursor:
                try:
                    for statement in statements:
                        cursor.execute(statement)
                except DatabaseError as error:
                    raise CommandError(
                        f"Cache table '{table}' could not be created.\nThe error was: {error}."
                    ) from error
        if self.verbosity > 0:
            self.stdout.write(f"Cache table '{table}' created.")

    def migrate(self, database: str, alias: str, table: str, dry_run: bool) -> None:
        if table not in connections[database].introspection.table_names():
            self.stdout.write(f"There is no table '{table}' made by Django's backend.")
        elif dry_run:
            self.stdout.write(f"What lives in '{table}' would be copied into '{own_table(table)}'.")
        else:
            # An instance of its own: copying changes how it makes keys.
            copied = copy_from_django(caches.create_connection(alias), table, database)
            self.stdout.write(f"Cache '{alias}': {copied} entries copied from '{table}'.")
