"""Django's cache backends on the native engine: ``BACKEND = "tezkor.backends.TezkorCache"`` and the drop-ins.

Django makes an instance per thread and per asyncio task, so an instance is nothing but a dictionary of bound native
methods, copied from a table of the process; the store behind it is opened once per settings and never closed.

    cache.get("k")  ->  TezkorCache.get  ->  native get, found in the instance's __dict__
"""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache, default_key_func
from django.core.cache.backends.dummy import DummyCache as DjangoDummyCache
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import request_finished, request_started

from tezkor import _native, blocks, checks, isolation, names, options, servers, transactions, versions
from tezkor.changes import story
from tezkor.database import InDatabase
from tezkor.migration import Migration
from tezkor.terms import listed
from tezkor.twins import has_glob
from tezkor.verbs import Silent, Verbs, warn_about_globs

__all__ = [
    "DatabaseCache",
    "DummyCache",
    "FileBasedCache",
    "LocMemCache",
    "MemcachedCache",
    "PyLibMCCache",
    "PyMemcacheCache",
    "RedisCache",
    "TezkorCache",
]

KEY_METHODS = ("make_key", "validate_key", "make_and_validate_key")
# Attributes that decide what a key or a timeout means: an instance on which one changes gets another native cache.
DECIDING = {
    "key_prefix",
    "version",
    "key_func",
    "default_timeout",
    "_max_entries",
    "_cull_frequency",
    *KEY_METHODS,
}
# The tables are emptied when they grow past this: settings are few, but attributes may follow the request.
TABLE_LIMIT = 512
_instances: dict[tuple[Any, ...], tuple[Any, dict[str, Any]]] = {}
_natives: dict[tuple[Any, ...], Any] = {}
# One native cache for each LOCATION that this process opened, and those among them that a test run may empty.
_stores: dict[tuple[str, str | None], Any] = {}
_of_tests: set[tuple[str, str | None]] = set()
# One for all caches on the same server.
_servers: dict[Any, Any] = {}

# BaseCache's own warnings; it does not look at the instance. The native cache calls this for suspicious keys only.
_warn_about_key = partial(BaseCache.validate_key, None)


class TezkorCache(Verbs):
    """One cache for all processes of the project on this machine."""

    to_url: Callable[[Any], str] = staticmethod(options.region_url)
    # The kind of server that a LOCATION names; None for a place on this machine.
    kind_of: Callable[[Any], str | None] = staticmethod(servers.kind_of)
    # Whether MAX_ENTRIES and CULL_FREQUENCY bound this backend, exactly as Django's; the others are bounded in bytes.
    bounded_by_entries = False
    is_folder = False

    _get: Callable[..., Any]
    _get_many: Callable[..., dict[Any, Any]]
    _set: Callable[..., None]
    _set_many: Callable[..., list[Any]]
    _add: Callable[..., bool]
    _touch: Callable[..., bool]
    _delete: Callable[..., bool]
    _delete_many: Callable[..., None]
    _has_key: Callable[..., bool]
    _incr: Callable[..., Any]
    _clear: Callable[..., None]
    _clear_prefix: Callable[..., None]
    _keys: Callable[..., list[str]]
    _delete_pattern: Callable[..., int]
    _matches: Callable[..., bool]
    _load: Callable[..., Any]
    _invalidate_tags: Callable[..., None]
    _ttl_ms: Callable[..., int | None]
    _acquire: Callable[..., int]
    _release: Callable[..., bool]
    _extend: Callable[..., bool]
    _await_lock: Callable[..., bool]
    _is_locked: Callable[..., bool]
    _owns: Callable[..., bool]
    _rate: Callable[..., tuple[bool, int, float]]
    _sequence: Callable[..., int]
    _make_full_key: Callable[..., str]
    _tags_at: Callable[..., list[str]]
    _intend: Callable[..., list[int]]
    _forget: Callable[..., None]
    _explain: Callable[..., dict[str, Any]]
    _stats: Callable[..., dict[str, Any]]
    _location: Callable[..., str]
    _plan: options.Plan
    place: tuple[str, str | None]
    is_transactional: bool
    delete_many_patterns: bool

    def __init__(self, location: Any, params: Mapping[str, Any]) -> None:
        # What an option holds may be unhashable. The table keeps the params alive, so that no address in a text is
        # used again for something else.
        key = (type(self), isolation.under_test_runner(), repr(location), repr(params))
        known = _instances.get(key)
        if known is None:
            if len(_instances) >= TABLE_LIMIT:
                _instances.clear()
            known = _instances[key] = (params, self._first(location, params))
        self.__dict__.update(known[1])
        if self._has_own_keys:
            self._bind()

    def get(self, key: Any, default: Any = None, version: Any = None) -> Any:
        return self._get(key, default, version)

    def get_many(self, keys: Iterable[Any], version: Any = None) -> dict[Any, Any]:
        return self._get_many(keys, version)

    def set(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        *,
        tags: Iterable[str] | None = None,
        stale: float | None = None,
    ) -> None:
        """Store a value: ``tags`` are names it depends on, ``stale`` seconds after the timeout it may serve while
        it is loaded."""
        if blocks.open_blocks or self.is_transactional or transactions.open_changes() > 0:
            return self._set_within(key, value, timeout, version, tags, stale)
        if tags is None and stale is None:
            return self._set(key, value, timeout, version)
        return self._set(key, value, timeout, version, tags, stale)

    def set_many(
        self,
        data: Mapping[Any, Any],
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        *,
        tags: Iterable[str] | None = None,
        stale: float | None = None,
    ) -> list[Any]:
        tags = listed(tags)
        if self.is_transactional and self._defer(data, timeout, version, tags, stale):
            return []
        failed = self._set_many(data, timeout, version, tags, stale)
        self._remember(data, timeout, version, tags, stale)
        return failed

    def add(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        *,
        tags: Iterable[str] | None = None,
        stale: float | None = None,
    ) -> bool:
        held = self._held(key, version)
        if held is None:
            return self._add(key, value, timeout, version, tags, stale)
        if self.is_transactional:
            if not held:
                self.set(key, value, timeout, version, tags=tags, stale=stale)
            return not held
        tags = listed(tags)
        added = self._add(key, value, timeout, version, tags, stale)
        if added:
            self._remember({key: value}, timeout, version, tags, stale)
        return added

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None) -> bool:
        held = self._held(key, version)
        if held is None:
            return self._touch(key, timeout, version)
        there = bool(held) if self.is_transactional else self._touch(key, timeout, version)
        if held:
            since = held.since if self.is_transactional else time.monotonic()
            own = held._replace(timeout=self._seconds(timeout), since=since)
            own = None if self._is_removal(timeout) else own
            self._change_own(key, version, own, partial(self._touch, key, timeout, version))
        return there

    def delete(self, key: Any, version: Any = None) -> bool:
        if transactions.is_open():
            there = self.has_key(key, version)
            keys = [self._make_full_key(key, version)]
            transactions.invalidate(self, partial(self._delete, key, version), keys)
            return there
        return self._delete(key, version)

    def delete_many(self, keys: Iterable[Any], version: Any = None) -> None:
        keys = list(keys)
        if self.delete_many_patterns:
            for key in keys:
                if has_glob(key):
                    self.delete_pattern(key, version)
                else:
                    self.delete(key, version)
            return None
        warn_about_globs(self, keys, version)
        if transactions.is_open():
            full_keys = [self._make_full_key(key, version) for key in keys]
            transactions.invalidate(self, partial(self._delete_many, keys, version), full_keys)
            return None
        return self._delete_many(keys, version)

    def has_key(self, key: Any, version: Any = None) -> bool:
        return self._has_key(key, version)

    def incr(
        self,
        key: Any,
        delta: Any = 1,
        version: Any = None,
        *,
        default: Any = None,
        timeout: Any = DEFAULT_TIMEOUT,
    ) -> Any:
        """Add to a number and keep its time to live; atomic between processes. Where there is none, ``default``
        is added to, and stored for ``timeout`` seconds."""
        if default is None:
            return self._incr_own(key, delta, version)
        ends_at_once = self.ends_at_once(timeout)
        for _ in range(100):
            try:
                return self._incr_own(key, delta, version)
            except ValueError:
                if ends_at_once:
                    return default + delta
                self.add(key, default, timeout, version)
        return self._incr_own(key, delta, version)

    def _incr_own(self, key: Any, delta: Any, version: Any) -> Any:
        held = self._held(key, version)
        if held is None or not (held or self.is_transactional):
            return self._incr(key, delta, version)
        if not held:
            raise ValueError(f"Key '{key}' not found")
        value = (
            _native.decode(held.data) + delta if self.is_transactional else self._incr(key, delta, version)
        )

        def again() -> None:
            try:
                self._incr(key, delta, version)
            except ValueError:
                pass  # it was evicted, or invalidated by others

        self._change_own(key, version, held._replace(data=_native.encode(value)), again)
        return value

    def decr(
        self,
        key: Any,
        delta: Any = 1,
        version: Any = None,
        *,
        default: Any = None,
        timeout: Any = DEFAULT_TIMEOUT,
    ) -> Any:
        return self.incr(key, -delta, version, default=default, timeout=timeout)

    def incr_version(self, key: Any, delta: int = 1, version: Any = None) -> Any:
        """Move the entry to another version, with its tags and stale time; it gets the alias's TIMEOUT."""
        return versions.move(self, key, delta, version)

    def clear(self) -> None:
        """Empty the LOCATION: all prefixes and versions, all aliases that share it, all processes."""
        transactions.invalidate(self, self._clear, everything="location")

    def close(self, **kwargs: Any) -> None:
        """Django calls this after each request; mappings and decoded values stay as they are."""

    def clear_prefix(self) -> None:
        """Remove what this alias's KEY_PREFIX owns in the LOCATION, in all versions."""
        transactions.invalidate(self, self._clear_prefix, everything="prefix")

    def explain(self, key: Any, version: Any = None) -> dict[str, Any]:
        """Where the key is, since when, until when, its size and writer; or why it is not there."""
        own = self._held(key, version)
        if own is None:
            return self._explain(key, version)
        return story(self._make_full_key(key, version), own)

    def stats(self) -> dict[str, Any]:
        """What all processes did with the LOCATION, and how full it is."""
        return self._stats()

    @property
    def location(self) -> str:
        """The LOCATION as a URL."""
        return self._location()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in DECIDING:
            self._bind()

    @classmethod
    def read(cls, location: Any, params: Mapping[str, Any]) -> options.Plan:
        """What these settings mean, and what is wrong about them; opens nothing."""
        return options.plan(cls.to_url, location, params, cls.kind_of(location))

    def _first(self, location: Any, params: Mapping[str, Any]) -> dict[str, Any]:
        """What every instance with these settings starts from."""
        plan = self.read(location, params)
        base = dict.fromkeys(("default_timeout", "key_prefix", "version", "key_func"))
        if not plan.mistakes:
            base = BaseCache(params).__dict__
        given = {*params, *(() if plan.mistakes else params.get("OPTIONS", ()))}
        cls = type(self)
        self.__dict__.update(
            base,
            _plan=plan,
            _settings=(location, params),
            _is_bounded=self.bounded_by_entries and bool(given & {"MAX_ENTRIES", "max_entries"}),
            _has_own_keys=any(getattr(cls, name) is not getattr(BaseCache, name) for name in KEY_METHODS),
        )
        self._bind()
        return self.__dict__.copy()

    def _bind(self) -> None:
        """Puts the native methods that fit the attributes of this instance in place."""
        mine = self.__dict__
        plan: options.Plan = mine["_plan"]
        if not plan.mistakes:
            try:
                native = self._native()
            except (TypeError, ValueError) as error:
                plan.wrong("tezkor.E001", "['LOCATION']", f"cannot be opened: {error}", options.LOCATION_HINT)
        if plan.mistakes:
            refuse = partial(_refuse, plan, *mine["_settings"])
            mine.update({f"_{name}": refuse for name in NATIVE_METHODS})
            if not (apps.ready and apps.is_installed("tezkor")):
                refuse()  # nobody runs our checks
            return
        mine["_near"] = native.is_near()
        mine["place"] = _place(plan.url, plan.arguments)
        mine["is_transactional"] = plan.transactional
        mine["delete_many_patterns"] = plan.delete_many_patterns
        mine.update({f"_{name}": getattr(native, name) for name in NATIVE_METHODS})
        if plan.older is not None:
            migration = Migration(native, plan.older)
            mine.update({f"_{name}": getattr(migration, name) for name in Migration.VERBS})
        mine["_left"] = {}
        if plan.timeouts:
            for name, place in TIMEOUT_AT.items():
                mine[f"_{name}"] = names.with_timeouts(plan.timeouts, mine[f"_{name}"], place)
        if plan.server is not None and plan.server.kind != "database" and plan.older is None:
            cls = type(self)
            mine["_left"] = {
                name: mine[f"_{LEFT_TO.get(name, name)}"]
                for name, own in LEFT.items()
                if getattr(cls, name) is own
            }

    def _native(self) -> Any:
        mine = self.__dict__
        plan: options.Plan = mine["_plan"]
        if plan.is_of_tests:
            _of_tests.add(_place(plan.url, plan.arguments))
        arguments = {
            **plan.arguments,
            "prefix": str(self.key_prefix),
            "timeout": self.default_timeout,
        }
        if mine["_is_bounded"]:
            arguments.update(max_entries=max(self._max_entries, 0), cull_frequency=self._cull_frequency)
        if mine["_has_own_keys"] or not mine.keys().isdisjoint(KEY_METHODS):
            arguments.update(version=self.version, key_function=_asking(weakref.ref(self)))
            return _open(plan, arguments)
        arguments.update(version=self.version, validate_key=_warn_about_key)
        if self.key_func is not default_key_func:
            arguments["key_function"] = self.key_func
        server = plan.server and (plan.server.key, repr(sorted(plan.server.cache.items())))
        key = (plan.url, server, type(self.version), *arguments.items())
        native = _natives.get(key)
        if native is None:
            if len(_natives) >= TABLE_LIMIT:
                _natives.clear()
            native = _natives[key] = _open(plan, arguments)
        return native


# Where each native method takes its timeout, which may be a name.
TIMEOUT_AT = {"set": 2, "add": 2, "set_many": 1, "touch": 1}
# What a loop may leave to the pool, as long as nobody has overridden it.
LEFT = {
    name: TezkorCache.__dict__[name]
    for name in (
        "get",
        "get_many",
        "set",
        "set_many",
        "add",
        "touch",
        "delete",
        "delete_many",
        "has_key",
        "incr",
        "decr",
    )
}
# The native method that does it, where that has another name.
LEFT_TO = {"decr": "incr"}
NATIVE_METHODS = tuple(
    name[1:]
    for name in TezkorCache.__annotations__
    if name[0] == "_" and name != "_plan" and name != "_settings"
)


class LocMemCache(TezkorCache):
    """Django's LocMemCache: private to the process. MAX_ENTRIES is kept exactly when it is given."""

    to_url = staticmethod(options.memory_url)
    kind_of = staticmethod(lambda location: None)
    bounded_by_entries = True


class FileBasedCache(TezkorCache):
    """Django's FileBasedCache: LOCATION is a folder, and what is in it survives a reboot."""

    to_url = staticmethod(options.file_url)
    kind_of = staticmethod(lambda location: None)
    is_folder = True


class RedisCache(TezkorCache):
    """Django's RedisCache and django-redis' RedisCache: LOCATION and OPTIONS as either spells them."""

    kind_of = staticmethod(lambda location: "redis")


class MemcachedCache(TezkorCache):
    """Django's memcached backends: LOCATION is a server or several, which share the keys as pymemcache has it."""

    kind_of = staticmethod(lambda location: "memcached")


class PyMemcacheCache(MemcachedCache):
    """Django's PyMemcacheCache."""


class PyLibMCCache(MemcachedCache):
    """Django's PyLibMCCache: the servers share the keys as pylibmc has it."""

    kind_of = staticmethod(lambda location: "pylibmc")


class DatabaseCache(InDatabase, TezkorCache):
    """Django's DatabaseCache: LOCATION is its table; ours has another name. ``manage.py createcachetable`` makes it."""

    kind_of = staticmethod(lambda location: "database")

    def _first(self, location: Any, params: Mapping[str, Any]) -> dict[str, Any]:
        self._table = str(location)
        return super()._first(location, params)


class DummyCache(Silent, DjangoDummyCache):  # type: ignore[misc]
    """Django's DummyCache, inline in async code too. It checks keys, and ignores LOCATION and OPTIONS."""

    location = "dummy://"


checks.register()
transactions.install()


def clear_opened() -> None:
    """Empties every LOCATION that this process has opened in a test run: what tests do between each other."""
    leave_live_caches()
    for place in _of_tests & _stores.keys():
        # A SimpleTestCase forbids the queries of a cache in a database, and cannot read it either.
        with suppress(AssertionError):
            _stores[place].reset()


def leave_live_caches() -> None:
    """Has caches that were made before a test run began be private from here on, as those are that are made in it.

    An ``AppConfig.ready()`` may have made one, or a module that keeps it. They are not listed anywhere, which would
    cost at each request: the garbage collector knows them.
    """
    live = _stores.keys() - _of_tests
    if not live or not isolation.under_test_runner():
        return
    _natives.clear()
    for each in gc.get_objects():
        if issubclass(type(each), TezkorCache):
            mine = each.__dict__
            if "_plan" in mine and not mine["_plan"].is_of_tests:
                mine["_plan"] = each.read(*mine["_settings"])
                each._bind()
    for place in live - _of_tests:
        del _stores[place]


def _open(plan: options.Plan, arguments: Mapping[str, Any]) -> Any:
    if plan.server is None:
        native = _native.Cache(plan.url, default_timeout=DEFAULT_TIMEOUT, **arguments)
    else:
        native = _open_far(plan.server, arguments)
    _stores.setdefault(_place(plan.url, arguments), native)
    return native


def _open_far(settings: servers.Settings, arguments: Mapping[str, Any]) -> Any:
    """A cache on a server; the machine keeps what it knows of it in the project's own region."""
    server = _servers.get(settings.key)
    if server is None:
        request_started.connect(_begin_request, dispatch_uid="tezkor")
        request_finished.connect(_end_request, dispatch_uid="tezkor")
        server = _servers[settings.key] = settings.open()
    rest = {name: value for name, value in arguments.items() if name != "region"}
    machine = _native.Cache("servers", region=arguments.get("region"))
    keys = [key for key in (django_settings.SECRET_KEY, *django_settings.SECRET_KEY_FALLBACKS) if key]
    return _native.FarCache(
        server,
        machine,
        name=settings.name,
        keys=keys,
        default_timeout=DEFAULT_TIMEOUT,
        **{**rest, **settings.cache},
    )


def _begin_request(**kwargs: Any) -> None:
    _native.begin_request()


def _end_request(**kwargs: Any) -> None:
    _native.end_request()


def _place(url: str, arguments: Mapping[str, Any]) -> tuple[str, str | None]:
    return url.partition("?")[0], arguments.get("region")


def _asking(reference: weakref.ref[TezkorCache]) -> Callable[[Any, str, Any], str]:
    """A key function that asks the instance, for classes that make or check keys in their own way.

    It holds no reference to the instance, which holds the native cache that holds this.
    """

    def key_function(key: Any, prefix: str, version: Any) -> str:
        instance = reference()
        if instance is None:
            raise ReferenceError("this cache is gone; keep the cache, not only its methods")
        full: str = instance.make_and_validate_key(key, version=version)
        return full

    return key_function


def _refuse(plan: options.Plan, location: Any, params: Mapping[str, Any], *args: Any) -> Any:
    alias = options.alias_of(location, params)
    raise ImproperlyConfigured("\n".join(mistake.sentence(alias) for mistake in plan.mistakes))
