"""``invalidates(Product, tags=...)``: one line in place of receivers for save, delete and many-to-many changes.

What rows name is asked for before a change and after it, and invalidated afterwards. Bulk operations send no signals: a
model whose manager is an ``InvalidatingManager`` (querysets.py) invalidates for them too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

from django.core.exceptions import ObjectDoesNotExist
from django.db import models
from django.db.models import NOT_PROVIDED
from django.db.models.signals import class_prepared, m2m_changed, post_delete, post_save, pre_delete, pre_save

from tezkor import _native
from tezkor.aliases import caches
from tezkor.relations import Relations, family

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
        self.is_dynamic = callable(tags) or callable(keys)
        _handles.setdefault(model, []).append(self)
        for each in family(model):
            self._connect(each)
        self._relations = Relations(model, self.begin)
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
        for each in family(self.model):
            pre_save.disconnect(self._saving, sender=each)
            post_save.disconnect(self._changed, sender=each)
            pre_delete.disconnect(self._deleting, sender=each)
            post_delete.disconnect(self._changed, sender=each)
        class_prepared.disconnect(self._prepared)
        m2m_changed.disconnect(self._related)
        self._relations.disconnect()
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

    def begin(self, rows: Any) -> Changing:
        """Rows of a queryset are about to change, all at once."""
        names = Found(self.bulk_tags or ())
        if self.bulk_tags is not None:
            return Changing(self, rows.model, rows.db, (), names)
        if not self.is_dynamic:
            names.add(self.named(None))
        pks = list(rows.values_list("pk", flat=True)) if self.is_dynamic else ()
        return Changing(self, rows.model, rows.db, pks, names)

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
        """What the row named before is asked of the database: one query for each save, and none for each load.

        An instance that was not fetched may be saved over a row too.
        """
        if raw or not self.is_dynamic or _is_certainly_new(instance):
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
        is_ours = self._is_ours(type(instance))
        if not is_ours and not self._is_ours(model):
            return
        kept = f"{self._before}_m2m"
        if action.startswith("pre_"):
            pks: Iterable[Any] = ()
            if self._is_ours(model) and self.is_dynamic:
                pks = pk_set if pk_set is not None else _pks_on_the_other_side(sender, instance)
            names = Found()
            if is_ours or not self.is_dynamic:
                names.add(self.named(instance))
            instance.__dict__[kept] = Changing(self, model, using, list(pks), names)
            return
        changing = instance.__dict__.pop(kept, None)
        if changing is not None:
            if is_ours:
                changing.names.add(self.named(instance))
            changing.end()

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


class Changing:
    """Rows that are about to change: what they name before and after is invalidated at the end."""

    def __init__(
        self, handle: Invalidation, model: Any, using: Any, pks: Sequence[Any], names: Found
    ) -> None:
        self.handle = handle
        self.model = model
        self.using = using
        self.pks = pks
        self.names = names
        self._look()

    def end(self) -> None:
        self._look()
        self.handle.invalidate(self.names)

    def _look(self) -> None:
        for batch in batches(self.pks):
            for row in self.model._base_manager.using(self.using).filter(pk__in=batch):
                self.names.add(self.handle.named(row))


def _is_certainly_new(instance: Any) -> bool:
    """Whether there can be no row yet: Django only inserts an instance whose key it has made itself."""
    if not instance._is_pk_set():
        return True
    key = instance._meta.pk
    has_default = key.default is not NOT_PROVIDED or key.db_default is not NOT_PROVIDED
    return bool(instance._state.adding) and has_default


def _pks_on_the_other_side(through: Any, instance: Any) -> Iterable[Any]:
    for field in instance._meta.get_fields(include_hidden=True):
        if field.many_to_many and (field if field.auto_created else field.remote_field).through is through:
            name = field.get_accessor_name() if field.auto_created else field.name
            yield from getattr(instance, name).values_list("pk", flat=True)
            return


def handles_of(model: type[models.Model]) -> list[Invalidation]:
    """The handles that a model's rows concern."""
    return [handle for owner, handles in _handles.items() if issubclass(model, owner) for handle in handles]


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


def batches(values: Iterable[Any]) -> Iterable[list[Any]]:
    """As many at a time as one query takes."""
    left = iter(values)
    while batch := list(islice(left, BATCH)):
        yield batch
