"""`tezkor.invalidates` by hand: a receiver for each kind of write, which acts once the write is committed.

Between the COMMIT and that moment the old values are served, and they stay if the process dies in between.
"""

from django.db import transaction
from django.db.models.signals import m2m_changed, post_save, pre_delete
from django.dispatch import receiver

from . import signals
from .caching import cache
from .models import Film, Genre

BEFORE_AND_AFTER = {"pre_remove", "pre_clear", "post_add", "post_remove"}


def forget_film(film):
    keys = signals.film_keys(film)
    transaction.on_commit(lambda: cache.delete_many(keys))
    cache.invalidate_tags(*signals.film_tags(film))


@receiver(post_save, sender=Film)
def film_saved(instance, raw, **kwargs):
    if not raw:
        forget_film(instance)


@receiver(pre_delete, sender=Film)
def film_deleted(instance, **kwargs):
    forget_film(instance)


@receiver(m2m_changed, sender=Film.genres.through)
def film_genres_changed(instance, action, reverse, **kwargs):
    if action in BEFORE_AND_AFTER:
        for film in instance.films.all() if reverse else [instance]:
            forget_film(film)
        cache.invalidate_tags("films")


@receiver([post_save, pre_delete], sender=Genre)
def genre_changed(instance, **kwargs):
    cache.invalidate_tags(*signals.genre_tags(instance))
