"""System checks of the aliases in ``CACHES`` that use Tezkor. Each message says what to write instead."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Tags, Warning
from django.core.checks import register as django_register
from django.utils.module_loading import import_string

ENTRY = {"BACKEND", "LOCATION", "TIMEOUT", "OPTIONS", "KEY_PREFIX", "VERSION", "KEY_FUNCTION"}


def register() -> None:
    django_register(check_settings, Tags.caches)
    django_register(check_folders_not_exposed, Tags.caches, deploy=True)


def _aliases() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Alias, backend class and entry of each alias that uses Tezkor."""
    from tezkor.backends import TezkorCache

    for alias, entry in settings.CACHES.items():
        try:
            backend = import_string(entry.get("BACKEND", ""))
        except ImportError:
            continue  # Django says so at the first use
        if isinstance(backend, type) and issubclass(backend, TezkorCache):
            yield alias, backend, entry


def _params(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in ("BACKEND", "LOCATION")}


def check_settings(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    from tezkor.backends import leave_live_caches

    leave_live_caches()  # Django's test runner runs the checks before the first test
    messages = [message for alias, backend, entry in _aliases() for message in _check(alias, backend, entry)]
    return messages + list(_check_sizes())


def _check(alias: str, backend: Any, entry: dict[str, Any]) -> Iterator[CheckMessage]:
    location = entry.get("LOCATION", "")
    for mistake in backend.read(location, _params(entry)).mistakes:
        yield Error(f"CACHES[{alias!r}]{mistake.where} {mistake.text}.", hint=mistake.hint, id=mistake.id)
    yield from _check_names(alias, entry)
    yield from _check_explained(alias, backend, entry)
    yield from _check_migration(alias, backend, entry)
    timeout = entry.get("TIMEOUT", 300)
    is_nan = isinstance(timeout, float) and timeout != timeout  # an error of its own
    if timeout is not None and not is_nan and not _is_number(timeout):
        yield Warning(
            f"CACHES[{alias!r}]['TIMEOUT'] is {timeout!r}; Django takes 300 seconds instead.",
            hint="Write a number of seconds, or None for entries that never expire.",
            id="tezkor.W004",
        )
    yield from _check_entries(alias, backend, entry)
    is_path = isinstance(location, (str, os.PathLike))
    is_url = "://" in str(location)  # an error of its own
    if backend.is_folder and location and is_path and not is_url and not Path(location).is_absolute():
        yield Warning(
            f"CACHES[{alias!r}]['LOCATION'] is the relative path {str(location)!r}.",
            hint="Write an absolute path: processes that start elsewhere would use another folder.",
            id="tezkor.W003",
        )


def _check_sizes() -> Iterator[CheckMessage]:
    """A region has one size: that of whoever makes it."""
    sizes: dict[str, dict[str, int | None]] = {}
    for alias, backend, entry in _aliases():
        plan = backend.read(entry.get("LOCATION", ""), _params(entry))
        if not plan.mistakes:
            sizes.setdefault(plan.region, {})[alias] = plan.arguments.get("size_bytes")
    for aliases in sizes.values():
        if len(set(aliases.values())) > 1:
            said = ", ".join(f"{alias!r}: {size or 'not given'}" for alias, size in aliases.items())
            yield Warning(
                f"CACHES: {len(aliases)} aliases are in one region, but their sizes differ ({said}).",
                hint="Give them the same SIZE: the first one that is opened decides for all.",
                id="tezkor.W005",
            )


def _check_names(alias: str, entry: dict[str, Any]) -> Iterator[CheckMessage]:
    """Django ignores a misspelt name, and so would everybody."""
    from tezkor.options import READERS

    for name in entry.keys() - ENTRY:
        if str(name).upper() in READERS:
            yield Warning(
                f"CACHES[{alias!r}][{name!r}] has no effect: it is an option.",
                hint=f"Move it into OPTIONS: 'OPTIONS': {{{str(name).upper()!r}: {entry[name]!r}}}.",
                id="tezkor.W001",
            )
            continue
        near = difflib.get_close_matches(str(name).upper(), ENTRY, 1, 0.7)
        if near:
            yield Warning(
                f"CACHES[{alias!r}][{name!r}] is not a setting of a cache.",
                hint=f"Did you mean {near[0]!r}?",
                id="tezkor.W001",
            )


def _check_explained(alias: str, backend: Any, entry: dict[str, Any]) -> Iterator[CheckMessage]:
    """Options of other libraries that have no meaning here."""
    server = backend.read(entry.get("LOCATION", ""), _params(entry)).server
    if server is not None:
        for name, why in server.explained.items():
            yield Info(
                f"CACHES[{alias!r}]['OPTIONS'][{name!r}] does not do what it does elsewhere: {why}.",
                hint="It may stay.",
                id="tezkor.I002",
            )


def _check_migration(alias: str, backend: Any, entry: dict[str, Any]) -> Iterator[CheckMessage]:
    """Our own pickles are signed; those of other libraries are not."""
    library = backend.read(entry.get("LOCATION", ""), _params(entry)).migrate_from
    if library is not None:
        yield Warning(
            f"CACHES[{alias!r}]['OPTIONS']['MIGRATE_FROM'] is {library!r}: on a miss, what {library} wrote is read "
            "although nobody signed it, so whoever can write to the server can run code here.",
            hint="Remove it once the old entries have expired: after the longest timeout that they have.",
            id="tezkor.W006",
        )


def _check_entries(alias: str, backend: Any, entry: dict[str, Any]) -> Iterator[CheckMessage]:
    options = entry.get("OPTIONS", {})
    names = [
        name for name in ("MAX_ENTRIES", "CULL_FREQUENCY") if isinstance(options, Mapping) and name in options
    ]
    if names and not backend.bounded_by_entries and backend.kind_of("") != "database":
        on_server = backend.kind_of(entry.get("LOCATION", "")) is not None
        whose = "whose server has a size of its own" if on_server else "which is bounded in bytes"
        yield Info(
            f"CACHES[{alias!r}]['OPTIONS']: {' and '.join(names)} has no effect with {backend.__name__}, "
            f"{whose} and removes what is used least.",
            hint="It may stay."
            if on_server
            else "Remove it, and write SIZE if the default of 128MiB is not what you want.",
            id="tezkor.I001",
        )


def _is_number(value: Any) -> bool:
    try:
        int(value)
    except (TypeError, ValueError):
        return False
    except OverflowError:
        pass  # an infinite one, which is an error of its own
    return True


def check_folders_not_exposed(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """What Django's caches.W002 says of its own FileBasedCache."""
    return [
        Warning(
            f"CACHES[{alias!r}]['LOCATION'] {relation} {name}: the web server may hand out what is cached.",
            hint="Choose a folder that is not served.",
            id="tezkor.W002",
        )
        for alias, folder in _folders()
        for name, served in _served()
        if (relation := _relation(folder, served))
    ]


def _folders() -> Iterator[tuple[str, Path]]:
    from tezkor import _native

    for alias, backend, entry in _aliases():
        try:
            if backend.kind_of(entry.get("LOCATION", "")) is not None:
                continue
            path = _native.parse_location(backend.to_url(entry.get("LOCATION", "")))["path"]
        except (TypeError, ValueError):
            continue
        if path:
            yield alias, Path(path).resolve()


def _served() -> Iterator[tuple[str, Path]]:
    for name in ("MEDIA_ROOT", "STATIC_ROOT"):
        if folder := getattr(settings, name, None):
            yield name, Path(folder).resolve()
    for folder in getattr(settings, "STATICFILES_DIRS", None) or ():
        if isinstance(folder, (list, tuple)):
            folder = folder[1]
        yield "STATICFILES_DIRS", Path(folder).resolve()


def _relation(folder: Path, served: Path) -> str:
    if folder == served:
        return "matches"
    if served in folder.parents:
        return "is inside"
    return "contains" if folder in served.parents else ""
