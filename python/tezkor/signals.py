"""``invalidates(Product, tags=...)``: one line in place of receivers for save, delete and many-to-many changes.

Bulk operations send no signals: a model whose manager is an ``InvalidatingManager`` invalidates for them too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from django.db import models
from django.db.models.signals import class_prepared, m2m_changed, post_delete, post_save, pre_save

from tezkor.aliases import caches

# More objects than this are not looked at one by one in a bulk operation: what each names is invalidated in batches.
BATCH = 500

# The handles of each model.
_handles: dict[type[models.Model], list[Invalidation]] = {}

Names = Callable[[Any], Iterable[str]] | Iterable[str] | None


def invalidates(
    model: Any, *, tags: Names = None, keys: Names = None, cache: str = "default"
) -> Invalidation:
    """Invalidates tags and deletes keys whenever an instance of the model changes.

    ``tags`` and ``keys`` are lists, or callables that get the instance and return one. When an instance is
    saved, what they named for the row before is invalidated as well: a product that moves to another category
    leaves the old one's pages. Proxies and subclasses of the model are covered. Returns a handle with
    ``disconnect()``.

        invalidates(Product, tags=lambda product: [f"product:{product.pk}", f"category:{product.category_id}"])
    """
    if not (isinstance(model, type) and issubclass(model, models.Model)):
        raise TypeError(f"invalidates takes a model class, not {model!r}")
    if tags is None and keys is None:
        raise TypeError("invalidates needs tags= or keys=: what is to be invalidated")
    for name, given in (("tags", tags), ("keys", keys)):
        if isinstance(given, str):
            raise TypeError(f"{name} must be a list of texts or a callable, not one text: write [{given!r}]")
        if given is not None and not callable(given) and not isinstance(given, (list, tuple, set, frozenset)):
            raise TypeError(f"{name} must be a list of texts or a callable, not {type(given).__name__}")
    return Invalidation(model, tags, keys, cache)


class Invalidation:
    """What changes of a model's instances invalidate, until ``disconnect()``."""

    def __init__(self, model: type[models.Model], tags: Names, keys: Names, cache: str) -> None:
        self.model = model
        self.tags = tags
        self.keys = keys
        self.cache = cache
        self._before = f"_tezkor_{id(self)}"
        _handles.setdefault(model, []).append(self)
        for each in _family(model):
            self._connect(each)
        class_prepared.connect(self._prepared, weak=False)
        m2m_changed.connect(self._related, weak=False)

    def _connect(self, model: type[models.Model]) -> None:
        # For these senders alone: a receiver for all models would cost every model its fast deletes.
        pre_save.connect(self._saving, sender=model, weak=False)
        post_save.connect(self._changed, sender=model, weak=False)
        post_delete.connect(self._changed, sender=model, weak=False)

    def _prepared(self, sender: Any, **kwargs: Any) -> None:
        if issubclass(sender, self.model):
            self._connect(sender)

    def disconnect(self) -> None:
        """Invalidates no more."""
        for each in _family(self.model):
            pre_save.disconnect(self._saving, sender=each)
            post_save.disconnect(self._changed, sender=each)
            post_delete.disconnect(self._changed, sender=each)
        class_prepared.disconnect(self._prepared)
        m2m_changed.disconnect(self._related)
        if self in _handles.get(self.model, []):
            _handles[self.model].remove(self)

    def of(self, instances: Iterable[Any]) -> None:
        """Invalidates what these instances name, and what they named before."""
        tags: dict[str, None] = {}
        keys: dict[Any, None] = {}
        for instance in instances:
            for found, names in zip((tags, keys), instance.__dict__.pop(self._before, ((), ())), strict=True):
                found.update(dict.fromkeys(names))
            for found, names in zip((tags, keys), self.named(instance), strict=True):
                found.update(dict.fromkeys(names))
        self._invalidate(list(tags), list(keys))

    def named(self, instance: Any) -> tuple[Sequence[str], Sequence[str]]:
        """The tags and keys of an instance as it is now."""
        return _names(self.tags, instance), _names(self.keys, instance)

    def _invalidate(self, tags: list[str], keys: list[Any]) -> None:
        cache = caches[self.cache]
        if tags:
            cache.invalidate_tags(*tags)
        if keys:
            cache.delete_many(keys)

    def _is_ours(self, sender: Any) -> bool:
        return isinstance(sender, type) and issubclass(sender, self.model)

    def _saving(
        self, sender: Any, instance: Any, raw: bool = False, using: Any = None, **kwargs: Any
    ) -> None:
        """What the row named before is asked of the database: one query for each save, and none for each load."""
        if raw or instance._state.adding or not (callable(self.tags) or callable(self.keys)):
            return
        before = sender._base_manager.using(using).filter(pk=instance.pk).first()
        if before is not None:
            instance.__dict__[self._before] = self.named(before)

    def _changed(self, sender: Any, instance: Any, **kwargs: Any) -> None:
        self.of([instance])

    def _related(
        self, sender: Any, instance: Any, action: str, model: Any, pk_set: Any = None, **kwargs: Any
    ) -> None:
        if action not in ("post_add", "post_remove", "pre_clear", "post_clear"):
            return
        if self._is_ours(type(instance)):
            self.of([instance])
        if self._is_ours(model):
            if pk_set:
                self.of(model._base_manager.filter(pk__in=pk_set))
            elif action == "pre_clear":
                # Afterwards nobody knows which they were.
                for field in (*instance._meta.many_to_many, *instance._meta.related_objects):
                    through = (
                        getattr(field, "remote_field", field)
                        if field in instance._meta.many_to_many
                        else field
                    )
                    if getattr(through, "through", None) is sender:
                        name = (
                            field.name if field in instance._meta.many_to_many else field.get_accessor_name()
                        )
                        self.of(getattr(instance, name).all())

    def __repr__(self) -> str:
        return f"<invalidates {self.model.__name__}>"


def _family(model: type[models.Model]) -> list[type[models.Model]]:
    """A model, its proxies and subclasses, as far as they are there."""
    return [model, *(each for child in model.__subclasses__() for each in _family(child))]


def _names(given: Names, instance: Any) -> Sequence[str]:
    if given is None:
        return ()
    if not callable(given):
        return tuple(given)
    found = given(instance)
    if isinstance(found, str):
        raise TypeError(
            f"tags and keys of invalidates() return lists of texts, not one text: return [{found!r}]"
        )
    return tuple(found)


def _of_model(model: type[models.Model]) -> list[Invalidation]:
    return [handle for owner, handles in _handles.items() if issubclass(model, owner) for handle in handles]


class InvalidatingQuerySet(models.QuerySet):  # type: ignore[misc]
    """A queryset whose bulk operations invalidate what ``invalidates(model, ...)`` names for each object.

    ``update`` and ``delete`` fetch the objects before; ``bulk_create`` and ``bulk_update`` know them.
    ``_raw_delete`` and raw SQL are not seen.
    """

    def update(self, **values: Any) -> int:
        handles = _of_model(self.model)
        if not handles or self.query.is_sliced:
            return int(super().update(**values))
        before = list(self._fetched())
        count = super().update(**values)
        _invalidate(handles, before)
        again = self.model._base_manager.using(self.db)
        for start in range(0, len(before), BATCH):
            pks = [instance.pk for instance in before[start : start + BATCH]]
            _invalidate(handles, again.filter(pk__in=pks))
        return int(count)

    update.alters_data = True  # type: ignore[attr-defined]

    async def aupdate(self, **values: Any) -> int:
        from asgiref.sync import sync_to_async

        return await sync_to_async(self.update)(**values)

    aupdate.alters_data = True  # type: ignore[attr-defined]

    def bulk_create(self, objs: Iterable[Any], *args: Any, **kwargs: Any) -> list[Any]:
        created: list[Any] = super().bulk_create(objs, *args, **kwargs)
        _invalidate(_of_model(self.model), created)
        return created

    def bulk_update(self, objs: Iterable[Any], fields: Any, *args: Any, **kwargs: Any) -> int:
        changed = list(objs)
        count: int = super().bulk_update(changed, fields, *args, **kwargs)
        _invalidate(_of_model(self.model), changed)
        return count

    bulk_update.alters_data = True  # type: ignore[attr-defined]

    def _fetched(self) -> Any:
        return self._chain().order_by()


def _invalidate(handles: list[Invalidation], instances: Iterable[Any]) -> None:
    found = list(instances)
    for handle in handles:
        handle.of(found)


InvalidatingManager = models.Manager.from_queryset(InvalidatingQuerySet, "InvalidatingManager")
