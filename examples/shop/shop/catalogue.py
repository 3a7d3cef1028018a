"""What the views ask of the catalogue, through the low-level cache API. Never touches a request."""

import hashlib

from django.core.paginator import Paginator
from django.db.models import Avg, Count, Exists, Max, Min, OuterRef, Q, Sum
from django.utils.functional import cached_property

from .caching import cache, cached
from .models import Film, Person

SORTS = {
    "popular": ("Most reviewed", ["-reviews", "pk"]),
    "score": ("Best score", ["-score", "-reviews", "pk"]),
    "newest": ("Newest", ["-year", "-reviews", "pk"]),
    "price": ("Lowest price", ["price", "-reviews", "pk"]),
}


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
        key = cache.key("count", digest=digest)
        return cache.get_or_set(key, self.object_list.count, "CATALOGUE", tags=["films"])


@cached("CATALOGUE", key="film:{film.pk}:similar", tags=["films"])
def similar(film):
    """Six films with the same people, then of the same genres: a slow query whose answer hardly ever changes."""
    people = {*film.cast.values_list("pk", flat=True), *film.directors.values_list("pk", flat=True)}
    played = Film.cast.through.objects.filter(person_id__in=people).exclude(film_id=film.pk)
    shared = played.values("film_id").annotate(shared=Count("pk")).order_by("-shared", "film_id")[:6]
    pks = [row["film_id"] for row in shared]
    genres = [genre.pk for genre in film.genres.all()]
    alike = Film.objects.filter(genres__in=genres).exclude(pk__in=[film.pk, *pks]).distinct()
    found = [*Film.objects.filter(pk__in=pks), *(alike[: 6 - len(pks)] if len(pks) < 6 else [])]
    return [_link(other) for other in found]


def _link(film):
    return {"pk": film.pk, "title": film.title, "year": film.year, "url": film.get_absolute_url()}


@cached("CATALOGUE", key="genre:{slug}:best", tags=["films"])
def best_of_genre(slug):
    return [_link(film) for film in Film.objects.filter(genres__slug=slug)[:4]]


@cached("CATALOGUE", key="numbers", tags=["films"])
def numbers():
    """Films, score and Oscars by year and by genre."""
    films = Film.objects.order_by()
    shown = {"films": Count("pk"), "average": Avg("score"), "oscar_count": Sum("oscars")}
    by_genre = films.values("genres__name").exclude(genres=None).annotate(**shown)
    return {
        "by_year": list(films.values("year").annotate(**shown).order_by("year")),
        "by_genre": list(by_genre.order_by("-films")),
        "films": films.count(),
        "people": Person.objects.count(),
    }


@cached("CATALOGUE", key="year:{year}", tags=["films"], stale=600)
def year_in_film(year):
    """A year's report; None if there are no films of it."""
    return load_year(year)


def load_year(year):
    """Costs a fifth of a second: who was new in a year is known once the first films of all people are."""
    films = Film.objects.filter(year=year)
    found = films.order_by().aggregate(films=Count("pk"), average=Avg("score"), oscar_count=Sum("oscars"))
    if not found["films"]:
        return None
    genres = films.order_by().values("genres__name").exclude(genres=None)
    people = Person.objects.order_by().annotate(
        first=Min("acted__year"), last=Max("acted__year"), acted_in=Count("acted")
    )
    newcomers = people.filter(first=year).order_by("-acted_in", "name")
    return {
        **found,
        "year": year,
        "best": [{**_link(film), "score": film.score} for film in films.order_by("-score", "-reviews")[:10]],
        "by_genre": list(genres.annotate(films=Count("pk"), average=Avg("score")).order_by("-films")),
        "newcomers": list(newcomers.values("pk", "name", "last", "acted_in")[:20]),
    }


def rows(pks):
    """Title, price and link of the given films as dicts by pk: one look-up, one query for what it lacks."""
    pk_of = {cache.key("row", pk=pk): pk for pk in pks}

    def load(keys):
        films = Film.objects.filter(pk__in=[pk_of[key] for key in keys])
        return {cache.key("row", pk=film.pk): _row(film) for film in films}

    return {pk_of[key]: row for key, row in cache.get_many_or_set(list(pk_of), load, "PRICES").items()}


def _row(film):
    return {"pk": film.pk, "title": str(film), "price": film.price, "url": film.get_absolute_url()}


def count_view(pk):
    """One more look at this film; the counter is forgotten a day after the first."""
    cache.incr(cache.key("looks", pk=pk), default=0, timeout="DAY")


@cached("CATALOGUE", key="trending:candidates", tags=["films"])
def best_known():
    return list(Film.objects.values_list("pk", flat=True)[:100])


def trending(limit=24):
    """The most looked at of the 100 most reviewed films, with their number of looks."""
    key_of = {pk: cache.key("looks", pk=pk) for pk in best_known()}
    found = cache.get_many(list(key_of.values()))
    looks = {pk: found.get(key, 0) for pk, key in key_of.items()}
    ranked = sorted(looks, key=lambda pk: -looks[pk])[:limit]
    return [{**row, "looks": looks[pk]} for pk, row in rows(ranked).items()]
