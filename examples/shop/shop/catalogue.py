"""What the views ask of the catalogue, through the low-level cache API. Never touches a request."""

import hashlib

from django.core.cache import cache
from django.core.paginator import Paginator
from django.db.models import Avg, Count, Exists, OuterRef, Q, Sum
from django.utils.functional import cached_property

from .models import Film, Person

SORTS = {
    "popular": ("Most reviewed", ["-reviews", "pk"]),
    "score": ("Best score", ["-score", "-reviews", "pk"]),
    "newest": ("Newest", ["-year", "-reviews", "pk"]),
    "price": ("Lowest price", ["price", "-reviews", "pk"]),
}
HOUR = 3600


def find(genre="", decade=None, query="", sort="popular"):
    """The films that fit all given filters; `query` looks at titles and at the names of the people."""
    films = Film.objects.order_by(*SORTS[sort][1])
    if genre:
        films = films.filter(genres__slug=genre)
    if decade:
        films = films.filter(year__gte=decade, year__lt=decade + 10)
    for word in query.split()[:5]:
        directors = Person.objects.filter(directed=OuterRef("pk"), name__icontains=word)
        films = films.filter(Q(title__icontains=word) | Exists(directors))
    return films


class CachedCountPaginator(Paginator):
    """Counting the matches of a search reads every film; the number only changes with the catalogue itself."""

    @cached_property
    def count(self):
        sql, params = self.object_list.order_by().values("pk").query.sql_with_params()
        digest = hashlib.sha256(f"{sql}{params}".encode()).hexdigest()[:32]
        return cache.get_or_set(f"count:{digest}", self.object_list.count, 600)


def similar(film):
    """Six films with the same people, then of the same genres: a slow query whose answer hardly ever changes."""

    def load():
        people = {*film.cast.values_list("pk", flat=True), *film.directors.values_list("pk", flat=True)}
        played = Film.cast.through.objects.filter(person_id__in=people).exclude(film_id=film.pk)
        shared = played.values("film_id").annotate(shared=Count("pk")).order_by("-shared", "film_id")[:6]
        pks = [row["film_id"] for row in shared]
        genres = [genre.pk for genre in film.genres.all()]
        alike = Film.objects.filter(genres__in=genres).exclude(pk__in=[film.pk, *pks]).distinct()
        found = [*Film.objects.filter(pk__in=pks), *(alike[: 6 - len(pks)] if len(pks) < 6 else [])]
        return [_link(other) for other in found]

    return cache.get_or_set(f"film:{film.pk}:similar", load, HOUR)


def _link(film):
    return {"pk": film.pk, "title": film.title, "year": film.year, "url": film.get_absolute_url()}


def best_of_genre(slug):
    def load():
        films = Film.objects.filter(genres__slug=slug)[:4]
        return [_link(film) for film in films]

    return cache.get_or_set(f"genre:{slug}:best", load, HOUR)


def numbers():
    """Films, score and Oscars by decade and by genre."""

    def load():
        films = Film.objects.order_by()
        shown = {"films": Count("pk"), "average": Avg("score"), "oscar_count": Sum("oscars")}
        by_year = list(films.values("year").annotate(**shown).order_by("year"))
        by_genre = list(
            films.values("genres__name").exclude(genres=None).annotate(**shown).order_by("-films")
        )
        return {
            "by_year": by_year,
            "by_genre": by_genre,
            "films": films.count(),
            "people": Person.objects.count(),
        }

    return cache.get_or_set("numbers", load, HOUR)


def rows(pks):
    """Title, price and link of the given films as dicts by pk: one `get_many`, one query for what it lacks."""
    keys = {f"film:{pk}:row": pk for pk in pks}
    found = {keys[key]: row for key, row in cache.get_many(list(keys)).items()}
    missing = [pk for pk in keys.values() if pk not in found]
    if missing:
        loaded = {
            film.pk: {"pk": film.pk, "title": str(film), "price": film.price, "url": film.get_absolute_url()}
            for film in Film.objects.filter(pk__in=missing)
        }
        cache.set_many({f"film:{pk}:row": row for pk, row in loaded.items()}, 600)
        found.update(loaded)
    return {pk: found[pk] for pk in pks if pk in found}


def count_view(pk):
    """One more look at this film. Counters that nobody raises for a day are forgotten."""
    key = f"views:{pk}"
    try:
        cache.incr(key)
    except ValueError:
        if not cache.add(key, 1, 24 * HOUR):
            _count_after_race(key)


def _count_after_race(key):
    """Another worker added the counter between our `incr` and our `add` (or this is DummyCache, which forgets)."""
    try:
        cache.incr(key)
    except ValueError:
        pass


def trending(limit=24):
    """The most looked at of the 100 most reviewed films, with their number of looks."""
    best = cache.get_or_set(
        "trending:candidates", lambda: list(Film.objects.values_list("pk", flat=True)[:100]), HOUR
    )
    looks = cache.get_many([f"views:{pk}" for pk in best])
    ranked = sorted(best, key=lambda pk: -looks.get(f"views:{pk}", 0))[:limit]
    return [{**row, "looks": looks.get(f"views:{pk}", 0)} for pk, row in rows(ranked).items()]
