"""``from tezkor import cache, caches``: Django's aliases without its proxy and its look-up per thread.

An alias starts as an unbound object and becomes, at its first use, an instance of the backend's class that all threads
and tasks share. Nothing stands between it and the backend then: ``cache.get`` is the backend's own method.
When a test changes ``CACHES`` it goes back to unbound. Backends of others, which may not be safe between threads, are
asked through Django's handler at each use.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.cache import DEFAULT_CACHE_ALIAS, InvalidCacheBackendError
from django.core.cache import caches as django_caches
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from tezkor.backends import DummyCache, TezkorCache


class Unbound:
    """An alias that nobody has used since the settings were read; ``_alias`` in its dictionary is its name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return getattr(_bind(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_bind(self), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(_bind(self), name)

    def __contains__(self, key: Any) -> bool:
        return key in _bind(self)


class Foreign:
    """An alias whose backend is not ours: Django's instance of the running thread or task answers."""

    def __getattr__(self, name: str) -> Any:
        return getattr(django_caches[self.__dict__["_alias"]], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(django_caches[self.__dict__["_alias"]], name, value)

    def __delattr__(self, name: str) -> None:
        delattr(django_caches[self.__dict__["_alias"]], name)

    def __contains__(self, key: Any) -> bool:
        return key in django_caches[self.__dict__["_alias"]]


def _bind(alias: Any) -> Any:
    """Turns the alias into what its settings say, and returns it. Two threads may both do it: the result is the same.

    The backend is made here and not by Django's handler, which debugging tools replace.
    """
    if type(alias) is Unbound:
        name = alias.__dict__["_alias"]
        params = dict(_entry(name))
        backend = import_string(params.pop("BACKEND"))
        if isinstance(backend, type) and issubclass(backend, (TezkorCache, DummyCache)):
            instance = backend(params.pop("LOCATION", ""), params)
            # It keeps its own dictionary, which the alias shares, and stays alive in it: key functions point to it.
            instance.__dict__.update(_alias=name, _instance=instance)
            # The dictionary first: a thread that comes between the two finds an unbound alias, and binds it again.
            object.__setattr__(alias, "__dict__", instance.__dict__)
            object.__setattr__(alias, "__class__", backend)
        else:
            object.__setattr__(alias, "__class__", Foreign)
    return alias


def _entry(alias: str) -> dict[str, Any]:
    try:
        entry: dict[str, Any] = django_caches.settings[alias]
    except KeyError:
        raise InvalidCacheBackendError(f"The connection '{alias}' doesn't exist.") from None
    return entry


class Aliases:
    """``caches["alias"]``: the same object for every thread and task, for as long as the process lives."""

    def __init__(self) -> None:
        self._aliases: dict[str, Any] = {}

    def __getitem__(self, alias: str) -> Any:
        _entry(alias)
        return self.alias(alias)

    def __iter__(self) -> Iterator[str]:
        return iter(django_caches.settings)

    def __contains__(self, alias: object) -> bool:
        return alias in django_caches.settings

    def all(self) -> list[Any]:
        return [self[alias] for alias in self]

    def alias(self, name: str) -> Any:
        """The object of this alias, which need not be in the settings yet."""
        known = self._aliases.get(name)
        if known is None:
            made = Unbound()
            made.__dict__["_alias"] = name
            known = self._aliases.setdefault(name, made)
        return known

    def _settings_changed(self, *, setting: str, **kwargs: Any) -> None:
        if setting == "CACHES":
            for name, alias in self._aliases.items():
                object.__setattr__(alias, "__class__", Unbound)
                object.__setattr__(alias, "__dict__", {"_alias": name})


caches = Aliases()
cache = caches.alias(DEFAULT_CACHE_ALIAS)
setting_changed.connect(caches._settings_changed)
