"""Relations: what changes in the rows of a model when a row of another is deleted, of which Django sends no signal.

``on_delete=SET_NULL`` and its like change rows by an update, and rows of a many-to-many table go without a word. So the
rows that refer to what is deleted are asked for before, and looked at again afterwards.

It never asks for rows that went with a signal of their own (``CASCADE``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from django.apps import apps
from django.db import models
from django.db.models.fields.related import lazy_related_operation
from django.db.models.signals import class_prepared, post_delete, pre_delete

# Rows that refer to what is deleted are deleted with a signal, or keep it from being deleted.
SIGNALLED = (models.CASCADE, models.PROTECT, models.RESTRICT)

# From what is deleted, and the database, to a queryset of the rows that refer to it.
Rows = Callable[[Any, Any], Any]


class Ending(Protocol):
    """What is done when the change is there."""

    def end(self) -> None: ...


Begin = Callable[[Any], Ending]


class Relations:
    """The deletes of other models that change rows of a model, until ``disconnect()``."""

    def __init__(self, model: type[models.Model], begin: Begin) -> None:
        self.model = model
        self.begin = begin
        self.is_connected = True
        self.found: list[Relation] = []
        class_prepared.connect(self._prepared, weak=False)
        for each in family(model):
            self._look_at(each)
        for others in list(apps.all_models.values()):
            for other in list(others.values()):
                self._look_back(other)
        # The model's own fields include those of its parents.
        for field in model._meta.fields + model._meta.many_to_many:
            if field.model is not model:
                self._join(model, field)

    def disconnect(self) -> None:
        self.is_connected = False
        class_prepared.disconnect(self._prepared)
        for relation in self.found:
            relation.disconnect()

    def _prepared(self, sender: Any, **kwargs: Any) -> None:
        if issubclass(sender, self.model):
            self._look_at(sender)
        self._look_back(sender)
        for relation in self.found:
            if issubclass(sender, relation.other):
                relation.connect(sender)

    def _look_at(self, model: Any) -> None:
        for field in [*model._meta.local_fields, *model._meta.local_many_to_many]:
            self._join(model, field)

    def _look_back(self, other: Any) -> None:
        """Many-to-many fields of other models that point at the model."""
        for field in other._meta.local_many_to_many:
            # One that is symmetrical has been seen from its own side.
            if not field.remote_field.symmetrical:
                lazy_related_operation(self._joined_back, other, field.remote_field.model, field=field)

    def _joined_back(self, other: Any, model: Any, field: Any) -> None:
        if self.is_connected and issubclass(model, self.model):
            names = lambda: (field.m2m_reverse_field_name(), field.m2m_field_name())  # noqa: E731
            self._add(other, rows_of_table(model, field, names))

    def _join(self, model: Any, field: Any) -> None:
        remote = field.remote_field
        if remote is None or not (field.many_to_many or hasattr(remote, "on_delete")):
            return
        if field.many_to_many or remote.on_delete not in SIGNALLED:
            lazy_related_operation(self._joined, model, remote.model, field=field)

    def _joined(self, model: Any, other: Any, field: Any) -> None:
        if not self.is_connected:
            return
        if field.many_to_many:
            names = lambda: (field.m2m_field_name(), field.m2m_reverse_field_name())  # noqa: E731
            self._add(other, rows_of_table(model, field, names))
        else:
            self._add(other, rows_of_key(model, field))

    def _add(self, other: Any, rows: Rows) -> None:
        self.found.append(Relation(other, rows, self.begin))


class Relation:
    """One way in which rows refer to those of another model."""

    def __init__(self, other: Any, rows: Rows, begin: Begin) -> None:
        self.other = other
        self.rows = rows
        self.begin = begin
        self._kept = f"_tezkor_{id(self)}"
        for each in family(other):
            self.connect(each)

    def connect(self, model: Any) -> None:
        # For these senders alone: a receiver for all models would cost every model its fast deletes.
        pre_delete.connect(self._deleting, sender=model, weak=False)
        post_delete.connect(self._deleted, sender=model, weak=False)

    def disconnect(self) -> None:
        for each in family(self.other):
            pre_delete.disconnect(self._deleting, sender=each)
            post_delete.disconnect(self._deleted, sender=each)

    def _deleting(self, sender: Any, instance: Any, using: Any = None, **kwargs: Any) -> None:
        instance.__dict__[self._kept] = self.begin(self.rows(instance, using))

    def _deleted(self, sender: Any, instance: Any, **kwargs: Any) -> None:
        ending = instance.__dict__.pop(self._kept, None)
        if ending is not None:
            ending.end()


def rows_of_key(model: Any, field: Any) -> Rows:
    """The rows whose foreign key refers to what is deleted."""
    return lambda instance, using: model._base_manager.using(using).filter(**{field.name: instance})


def rows_of_table(model: Any, field: Any, names: Callable[[], tuple[str, str]]) -> Rows:
    """The rows that a many-to-many table links to what is deleted; `names` are its fields, the one of the rows first.

    Asked for when it is needed: the table may be a model that comes later.
    """

    def rows(instance: Any, using: Any) -> Any:
        table = field.remote_field.through
        own, others = names()
        link = table._meta.get_field(own)
        linked = table._base_manager.using(using).filter(**{others: instance}).values(link.attname)
        return model._base_manager.using(using).filter(**{f"{link.target_field.attname}__in": linked})

    return rows


def family(model: Any) -> list[Any]:
    """A model, its proxies and subclasses, as far as they are there."""
    return [model, *(each for child in model.__subclasses__() for each in family(child))]
