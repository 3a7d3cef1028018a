"""What a database write invalidates, here by two lines of Tezkor; `receivers.py` does it by hand.

| tag         | is on what shows                                            |
|-------------|-------------------------------------------------------------|
| films       | which films there are, and their genres                     |
| prices      | the price of any film                                       |
| film:7      | the price of this film                                      |
| genre:drama | the price of a film of this genre, or the genre itself      |

`QuerySet.update()` sends no signals: change prices with `Film.change_price`, as the admin's action does.
"""

from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from .caching import HAS_TAGS, cache
from .models import Film, Genre


def film_tags(film):
    genres = film.genres.values_list("slug", flat=True)
    return ["prices", f"film:{film.pk}", *(f"genre:{slug}" for slug in genres)]


def film_keys(film):
    return [cache.key("row", pk=film.pk)]


def genre_tags(genre):
    return ["films", f"genre:{genre.slug}"]


if HAS_TAGS:
    import tezkor

    tezkor.invalidates(Film, tags=film_tags, keys=film_keys)
    tezkor.invalidates(Genre, tags=genre_tags)
else:
    from . import receivers  # noqa: F401  (connects them)


@receiver([post_save, post_delete], sender=Film)
def film_comes_or_goes(created=True, **kwargs):
    if created:  # a change of a film leaves them as they are
        cache.invalidate_tags("films")
