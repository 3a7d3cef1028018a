"""Tells the cache what a database write changed, once the write is committed.

`QuerySet.update()` sends no signals: change prices with `Film.change_price`, as the admin's action does.
"""

from django.core.cache import cache
from django.core.cache.utils import make_template_fragment_key
from django.db import transaction
from django.db.models.signals import m2m_changed, post_save, pre_delete
from django.dispatch import receiver

from . import versions
from .models import Film, Genre


def film_versions(film):
    """Names of the versions of all pages that show this film's price."""
    genres = film.genres.values_list("slug", flat=True)
    return [f"film:{film.pk}", "catalogue", *(f"genre:{slug}" for slug in genres)]


def forget_film(film):
    names, row = film_versions(film), f"film:{film.pk}:row"

    def act():
        cache.delete(row)
        versions.bump(*names)

    transaction.on_commit(act)


def forget_genres():
    """The counted genres, the fragment that lists them on each page of films, and those pages."""

    def act():
        slugs = list(Genre.objects.values_list("slug", flat=True))
        fragments = [make_template_fragment_key("genre_nav", [slug]) for slug in ["", *slugs]]
        cache.delete_many([Genre.objects.CACHE_KEY, *fragments])
        versions.bump("catalogue", *(f"genre:{slug}" for slug in slugs))

    transaction.on_commit(act)


@receiver(post_save, sender=Film)
def film_saved(instance, created, raw, **kwargs):
    if raw:
        return
    forget_film(instance)
    if created:
        forget_genres()


@receiver(pre_delete, sender=Film)
def film_deleted(instance, **kwargs):
    forget_film(instance)
    forget_genres()


@receiver(m2m_changed, sender=Film.genres.through)
def film_genres_changed(instance, action, reverse, **kwargs):
    if action not in {"pre_remove", "pre_clear", "post_add", "post_remove"}:
        return
    for film in instance.films.all() if reverse else [instance]:
        forget_film(film)
    forget_genres()


@receiver([post_save, pre_delete], sender=Genre)
def genre_changed(**kwargs):
    forget_genres()
