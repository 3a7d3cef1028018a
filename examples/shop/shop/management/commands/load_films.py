"""Fills the shop with the films of `movies.db` from the PyPI package bokeh_sampledata (Wikidata, CC0).

Prices are made up from each film's id, always the same; all else is as the snapshot has it. Its columns for audience
votes are empty: what it knows of a film's popularity is the number of critics' reviews and, for 2 760 films, the
box office.
"""

import sqlite3
import zlib
from datetime import date
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone
from django.utils.text import slugify

from shop.models import Film, Genre, Person

QUERY = """
    SELECT o.imdbID, o.Title, o.Year, o.Released, o.Runtime, o.Rating, o.Country, o.Language, o.Oscars,
           o.Genre, o.Director, o."Cast", t.Meter, coalesce(t.Reviews, 0) AS Reviews,
           coalesce(t.BoxOffice, 0) AS BoxOffice
    FROM omdb o JOIN tomatoes t USING (ID)
    ORDER BY Reviews DESC, o.imdbID LIMIT ?
"""


class Command(BaseCommand):
    help = "Loads the catalogue into an empty database."

    def add_arguments(self, parser):
        parser.add_argument("--limit", type=int, default=-1, help="only the most reviewed films")
        parser.add_argument("--admin-password", help="also make a user 'admin' with this password")

    @transaction.atomic
    def handle(self, *args, limit, admin_password, **options):
        if Film.objects.exists():
            raise CommandError("the shop already has films; remove the database file to load them again")
        with sqlite3.connect(f"file:{movies_path()}?mode=ro", uri=True) as movies:
            movies.row_factory = sqlite3.Row
            rows = movies.execute(QUERY, [limit]).fetchall()

        genres = self._named(Genre, {name for row in rows for name in names(row["Genre"])})
        people = self._named(Person, {n for row in rows for n in names(row["Director"]) + names(row["Cast"])})
        films = Film.objects.bulk_create([film_of(row) for row in rows], batch_size=500)
        self._link(films, rows, "genres", "genre_id", lambda row: names(row["Genre"]), genres)
        self._link(films, rows, "directors", "person_id", lambda row: names(row["Director"]), people)
        self._link(films, rows, "cast", "person_id", lambda row: names(row["Cast"])[:10], people)
        if admin_password:
            get_user_model().objects.create_superuser("admin", "", admin_password)
        if options["verbosity"]:
            self.stdout.write(f"{len(films)} films, {len(genres)} genres, {len(people)} people")

    def _named(self, model, wanted):
        extra = (lambda name: {"slug": slugify(name)}) if model is Genre else (lambda name: {})
        made = [model(name=name, **extra(name)) for name in sorted(wanted)]
        return {row.name: row.pk for row in model.objects.bulk_create(made, batch_size=2000)}

    def _link(self, films, rows, field, column, names_of, pks):
        through = Film._meta.get_field(field).remote_field.through
        links = (
            through(film_id=film.pk, **{column: pks[name]})
            for film, row in zip(films, rows, strict=True)
            for name in names_of(row)
        )
        through.objects.bulk_create(links, batch_size=5000)


def movies_path():
    package = find_spec("bokeh_sampledata")  # found, never imported: the package itself would want pandas
    if package is None:
        raise CommandError(
            "bokeh_sampledata is missing: pip install --no-deps -r scripts/requirements-demo.txt"
        )
    return Path(package.origin).parent / "_data" / "movies.db"


def names(text):
    return list(dict.fromkeys(name.strip()[:200] for name in (text or "").split(",") if name.strip()))


def film_of(row):
    cents = 499 + 100 * (zlib.crc32(row["imdbID"].encode()) % 20) + (500 if row["Year"] >= 2010 else 0)
    try:
        released = date.fromisoformat(row["Released"])
    except (TypeError, ValueError):
        released = None
    return Film(
        title=row["Title"][:300], year=row["Year"], released=released,
        runtime=int(row["Runtime"]) if row["Runtime"] else None, rated=row["Rating"] or "",
        country=(row["Country"] or "")[:300], language=(row["Language"] or "")[:300],
        score=row["Meter"], reviews=row["Reviews"], oscars=row["Oscars"] or 0,
        gross=int(row["BoxOffice"]),
        price=Decimal(cents) / 100, changed=timezone.now(),
    )  # fmt: skip
