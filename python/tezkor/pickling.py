"""Which models a value holds instances of. Asked only about values that are pickled and hold some."""

from __future__ import annotations

import io
import pickle
from typing import Any

from django.db.models import Model


class _Finder(pickle.Pickler):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), 5)
        self.models: dict[type[Any], None] = {}

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Model):
            self.models[type(value)] = None
        return NotImplemented


def models_in(value: Any) -> list[type[Any]]:
    """The classes of all model instances that a pickle of the value holds. The caller has pickled it before."""
    finder = _Finder()
    finder.dump(value)
    return list(finder.models)
