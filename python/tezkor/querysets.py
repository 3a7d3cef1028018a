"""Querysets whose bulk operations invalidate what ``invalidates`` names: Django sends no signals for these."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db import models

from tezkor.signals import Found, handles_of


class InvalidatingQuerySet(models.QuerySet):  # type: ignore[misc]
    """A queryset whose bulk operations invalidate what ``invalidates(model, ...)`` names for each object.

    ``update`` fetches the objects before and after, ``bulk_create`` knows them. ``bulk_update`` and the async twins
    go through these, and for ``delete`` Django sends a signal for each object. What rows named before a
    ``bulk_create(update_conflicts=True)`` is not known; ``_raw_delete`` and raw SQL are not seen.
    """

    def update(self, **values: Any) -> int:
        handles = handles_of(self.model)
        if not handles or self.query.is_sliced:  # Django refuses these
            return int(super().update(**values))
        self._for_write = True  # what is fetched comes from where it is written
        changing = [handle.begin(self.order_by()) for handle in handles]
        count = int(super().update(**values))
        for each in changing:
            each.end()
        return count

    update.alters_data = True  # type: ignore[attr-defined]

    def bulk_create(self, objs: Iterable[Any], *args: Any, **kwargs: Any) -> list[Any]:
        created: list[Any] = super().bulk_create(objs, *args, **kwargs)
        for handle in handles_of(self.model):
            if handle.bulk_tags is None:
                handle.of(created)
            else:
                handle.invalidate(Found(handle.bulk_tags))
        return created

    bulk_create.alters_data = True  # type: ignore[attr-defined]


InvalidatingManager = models.Manager.from_queryset(InvalidatingQuerySet, "InvalidatingManager")
