"""``invalidates(Product, tags=...)``: one line in place of receivers for save, delete and many-to-many changes.

Bulk operations send no signals: a model whose manager is an ``InvalidatingManager`` invalidates for them too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

from django.core.exceptions import ObjectDoesNotExist
from django.db import models
from django.db.models.signals import class_prepared, m2m_changed, post_delete, post_save, pre_delete, pre_save

from tezkor import _native
from tezkor.aliases import caches

logger = logging.getLogger("tezkor")

# So many objects of a bulk operation are asked for in one query: SQLite takes no more than 999 parameters.
BATCH = 500

# The handles of each model.
_handles: dict[type[models.Model], list[Invalidation]] = {}

Names = Callable[[Any], Iterable[str]] | Iterable[str] | None


def invalidates(
    model: Any = None,
    *,
    tags: Names = None,
    keys: Names = None,
    bulk_tags: Iterable[str] | None = None,
    cache: str = "default",
) -> Any:
    """Invalidates tags and deletes keys whenever an instance of the model changes.

    ``tags`` and ``keys`` are lists, or callables that get the instance and return one. When an instance is
    saved, what they named for the row before is invalidated as well: a product that moves to another category
    leaves the old one's pages. Proxies and subclasses of the model are covered. Returns a handle with
    ``disconnect()``; without a model, a decorator for one.

    ``bulk_tags`` are invalidated by bulk operations of an ``InvalidatingManager``, in place of what each object
    names, which then need not be fetched.

        invalidates(Product, tags=lambda product: [f"product:{product.pk}", f"category:{product.category_id}"])
    """
    if tags is None and keys is None:
        raise TypeError("invalidates needs tags= or keys=: what is to be invalidated")
    for name, given in (("tags", tags), ("keys", keys), ("bulk_tags", bulk_tags)):
        _check(name, given)
    if cache not in caches:
        raise ValueError(
            f"invalidates(cache={cache!r}): CACHES has no such alias; it has {', '.join(caches)}"
        )
    if model is None:
        return lambda model: Invalidation(_checked(model), tags, keys, bulk_tags, cache).model
    return Invalidation(_checked(model), tags, keys, bulk_tags, cache)


def _checked(model: Any) -> type[models.Model]:
    if not (isinstance(model, type) and issubclass(model, models.Model)):
        raise TypeError(f"invalidates takes a model class, not {model!r}")
    if model._meta.abstract:  # type: ignore[attr-defined]
        raise TypeError(
            f"invalidates takes a model that has rows; {model.__name__} is abstract: name its subclasses"
        )
    return model


def _check(name: str, given: Any) -> None:
    if isinstance(given, str):
        raise TypeError(f"{name} must be a list of texts or a callable, not one text: write [{given!r}]")
    if name == "bulk_tags" and callable(given):
        raise TypeError(
            "bulk_tags must be a list of texts: there is no instance that a callable could be given"
        )
    if given is not None and not callable(given) and not isinstance(given, (list, tuple, set, frozenset)):
        raise TypeError(f"{name} must be a list of texts or a callable, not {type(given).__name__}")
    if given is not None and not callable(given) and name != "keys":
        for tag in given:
            _native.check_terms((tag,), None)


class Invalidation:
    """What changes of a model's instances invalidate, until ``disconnect()``."""

    def __init__(
        self, model: type[models.Model], tags: Names, keys: Names, bulk_tags: Iterable[str] | None, cache: str
    ) -> None:
        self.model = model
        self.tags = tags
        self.keys = keys
        self.bulk_tags = None if bulk_tags is None else list(bulk_tags)
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
        # Before, since afterwards many-to-many rows are gone; and after, when a load no longer finds the row.
        pre_delete.connect(self._deleting, sender=model, weak=False)
        post_delete.connect(self._changed, sender=model, weak=False)

    def _prepared(self, sender: Any, **kwargs: Any) -> None:
        if self._is_ours(sender):
            self._connect(sender)

    def disconnect(self) -> None:
        """Invalidates no more."""
        for each in _family(self.model):
            pre_save.disconnect(self._saving, sender=each)
            post_save.disconnect(self._changed, sender=each)
            pre_delete.disconnect(self._deleting, sender=each)
            post_delete.disconnect(self._changed, sender=each)
        class_prepared.disconnect(self._prepared)
        m2m_changed.disconnect(self._related)
        if self in _handles.get(self.model, []):
            _handles[self.model].remove(self)

    def of(self, instances: Iterable[Any]) -> None:
        """Invalidates what these instances name, and what they named before they were saved."""
        names = Found()
        for instance in instances:
            names.add(instance.__dict__.pop(self._before, ((), ())))
            names.add(self.named(instance))
        self.invalidate(names)

    def named(self, instance: Any) -> tuple[Sequence[str], Sequence[str]]:
        """The tags and keys of an instance as it is now."""
        return _names(self.tags, instance), _names(self.keys, instance)

    def invalidate(self, names: Found) -> None:
        """Invalidates what was found."""
        cache = caches[self.cache]
        # A backend without tags, such as Django's in a project's test settings, holds nothing that has any.
        invalidate_tags = getattr(cache, "invalidate_tags", None)
        if names.tags and invalidate_tags is not None:
            invalidate_tags(*names.tags)
        if names.keys:
            cache.delete_many(list(names.keys))

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

    def _deleting(self, sender: Any, instance: Any, **kwargs: Any) -> None:
        instance.__dict__[self._before] = self.named(instance)

    def _changed(self, sender: Any, instance: Any, raw: bool = False, **kwargs: Any) -> None:
        try:
            self.of([instance])
        except ObjectDoesNotExist as error:
            if not raw:
                raise
            # loaddata: what the instance refers to may come later in the fixture.
            logger.warning(
                "%r could not tell what %s %r names: %s", self, sender.__name__, instance.pk, error
            )

    def _related(
        self,
        sender: Any,
        instance: Any,
        action: str,
        model: Any,
        pk_set: Any = None,
        using: Any = None,
        **kwargs: Any,
    ) -> None:
        if action not in ("post_add", "post_remove", "pre_clear", "post_clear"):
            return
        if self._is_ours(type(instance)):
            self.of([instance])
        if self._is_ours(model):
            if action == "pre_clear":
                # Afterwards nobody knows which they were. Django clears in a transaction, whose commit repeats it.
                self.of(_on_the_other_side(sender, instance))
            for batch in _batches(pk_set or ()):
                self.of(model._base_manager.using(using).filter(pk__in=batch))

    def __repr__(self) -> str:
        return f"<invalidates {self.model.__name__}>"


class Found:
    """Tags and keys, each once."""

    def __init__(self, tags: Iterable[str] = ()) -> None:
        self.tags: dict[str, None] = dict.fromkeys(tags)
        self.keys: dict[Any, None] = {}

    def add(self, names: tuple[Sequence[str], Sequence[str]]) -> None:
        self.tags.update(dict.fromkeys(names[0]))
        self.keys.update(dict.fromkeys(names[1]))


def _on_the_other_side(through: Any, instance: Any) -> Iterable[Any]:
    for field in instance._meta.get_fields(include_hidden=True):
        if field.many_to_many and (field if field.auto_created else field.remote_field).through is through:
            name = field.get_accessor_name() if field.auto_created else field.name
            yield from getattr(instance, name).all()
            return


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


def _batches(values: Iterable[Any]) -> Iterable[list[Any]]:
    left = iter(values)
    while batch := list(islice(left, BATCH)):
        yield batch


class InvalidatingQuerySet(models.QuerySet):  # type: ignore[misc]
    """A queryset whose bulk operations invalidate what ``invalidates(model, ...)`` names for each object.

    ``update`` fetches the objects before and after, ``bulk_create`` knows them. ``bulk_update`` and the async twins
    go through these, and for ``delete`` Django sends a signal for each object. What rows named before a
    ``bulk_create(update_conflicts=True)`` is not known; ``_raw_delete`` and raw SQL are not seen.
    """

    def update(self, **values: Any) -> int:
        handles = _of_model(self.model)
        if not handles or self.query.is_sliced:  # Django refuses these
            return int(super().update(**values))
        self._for_write = True  # what is fetched comes from where it is written
        found = {handle: Found(handle.bulk_tags or ()) for handle in handles}
        pks: list[Any] = []
        if any(handle.bulk_tags is None for handle in handles):
            pks = list(self.order_by().values_list("pk", flat=True))
        self._find(found, pks)
        count = int(super().update(**values))
        self._find(found, pks)
        for handle, names in found.items():
            handle.invalidate(names)
        return count

    update.alters_data = True  # type: ignore[attr-defined]

    def bulk_create(self, objs: Iterable[Any], *args: Any, **kwargs: Any) -> list[Any]:
        created: list[Any] = super().bulk_create(objs, *args, **kwargs)
        for handle in _of_model(self.model):
            if handle.bulk_tags is None:
                handle.of(created)
            else:
                handle.invalidate(Found(handle.bulk_tags))
        return created

    bulk_create.alters_data = True  # type: ignore[attr-defined]

    def _find(self, found: dict[Invalidation, Found], pks: list[Any]) -> None:
        for batch in _batches(pks):
            for instance in self.model._base_manager.using(self.db).filter(pk__in=batch):
                for handle, names in found.items():
                    if handle.bulk_tags is None:
                        names.add(handle.named(instance))


def _of_model(model: type[models.Model]) -> list[Invalidation]:
    return [handle for owner, handles in _handles.items() if issubclass(model, owner) for handle in handles]


InvalidatingManager = models.Manager.from_queryset(InvalidatingQuerySet, "InvalidatingManager")
