"""From one entry of ``CACHES`` to the arguments of the native cache, or to the list of what is wrong with it.

It never opens a store: the system checks read the settings through it, and so do the backends.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from django.core.cache.backends.base import get_key_func

from tezkor import _native, foreign, isolation, names, server_options, servers


@dataclass(frozen=True)
class Mistake:
    """One wrong setting: where it is in ``CACHES[alias]``, what is wrong, and what to write instead."""

    id: str
    where: str
    text: str
    hint: str

    def sentence(self, alias: str) -> str:
        return f"CACHES[{alias!r}]{self.where} {self.text}. {self.hint}"


@dataclass
class Plan:
    """What is fixed about a native cache once its settings are read.

    ``url`` is the LOCATION it opens, ``region`` the place of the bytes, which several LOCATIONs may be in. What is
    of tests was read under a test runner: it is private, or shared because the settings say so.
    """

    url: str = ""
    region: str = ""
    is_private: bool = False
    is_of_tests: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)
    delete_many_patterns: bool = False
    transactional: bool = False
    timeouts: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, names.Template] = field(default_factory=dict)
    # The library whose values are read on a miss.
    migrate_from: str | None = None
    older: foreign.Foreign | None = None
    # What a cache that is not on this machine is on.
    server: servers.Settings | None = None
    mistakes: list[Mistake] = field(default_factory=list)

    def wrong(self, id: str, where: str, text: str, hint: str) -> None:
        self.mistakes.append(Mistake(id, where, text, hint))


def plan(
    to_url: Callable[[Any], str], location: Any, params: Mapping[str, Any], kind: str | None = None
) -> Plan:
    """Reads LOCATION and OPTIONS of one alias. ``to_url`` is the backend's reading of LOCATION, ``kind`` the kind of
    server that it names; None for a place on this machine."""
    result = Plan()
    options = _options(result, params, server_options.readers_of(kind) if kind else {})
    test = options.pop("TEST", {})
    region = options.pop("REGION", None)
    size_bytes = options.pop("SIZE", None)
    result.delete_many_patterns = options.pop("DELETE_MANY_PATTERNS", False)
    result.transactional = options.pop("TRANSACTIONAL", False)
    result.timeouts = options.pop("TIMEOUTS", {})
    result.keys = options.pop("KEYS", {})
    result.migrate_from = options.pop("MIGRATE_FROM", None)
    result.arguments = {ARGUMENTS[name]: value for name, value in options.items() if name in ARGUMENTS}
    if kind is not None:
        _server(result, kind, location, params)
        _key_function(result, params)
        _times_and_names(result, params)
        _privacy(result, test, region)
        return result
    try:
        url = to_url(location)
        parsed = _native.parse_location(url)
    except (TypeError, ValueError) as error:
        text, hint = (
            error.args if len(error.args) == 2 else (f"is {servers.shown(location)}: {error}", LOCATION_HINT)
        )
        result.wrong("tezkor.E001", "['LOCATION']", text, hint)
        return result
    if parsed["path"] and os.path.exists(parsed["path"]) and not os.path.isdir(parsed["path"]):
        text = f"is {location!r}, and {parsed['path']} is no folder"
        result.wrong("tezkor.E001", "['LOCATION']", text, "Write the absolute path of a folder.")
    if parsed["size_bytes"] is not None:
        if not _is_region_size(parsed["size_bytes"]):
            result.wrong("tezkor.E001", "['LOCATION']", f"asks for {parsed['size_bytes']} bytes", SIZE_HINT)
        if size_bytes not in (None, parsed["size_bytes"]):
            result.wrong(
                "tezkor.E002",
                "['OPTIONS']['SIZE']",
                f"is {size_bytes} bytes, but LOCATION says {parsed['size_bytes']}",
                "Keep one of the two.",
            )
        size_bytes = parsed["size_bytes"]
    if size_bytes is not None:
        result.arguments["size_bytes"] = size_bytes
    _key_function(result, params)
    _times_and_names(result, params)
    place = url.partition("?")[0]
    is_own = place == "shared://" or "://" not in place
    result.region = f"own {region}" if is_own else place
    result.url = url
    _privacy(result, test, region)
    return result


def _privacy(result: Plan, test: Mapping[str, bool], region: str | None) -> None:
    """Under a test runner every LOCATION is private memory, unless the settings say otherwise."""
    result.is_of_tests = isolation.under_test_runner()
    result.is_private = result.is_of_tests and not test.get("SHARED", False)
    if result.is_private:
        result.url = "memory://" + private_name(result.url)
        result.arguments["clock"] = "python"
        result.server = result.older = None
    else:
        result.arguments["region"] = region or isolation.own_region()


def _server(result: Plan, kind: str, location: Any, params: Mapping[str, Any]) -> None:
    options = params.get("OPTIONS", {})
    try:
        settings = servers.read(kind, location, options if isinstance(options, Mapping) else {})
        settings.open()  # reads files, and connects to nothing
    except server_options.Mistaken as mistake:
        text, hint = mistake.args
        result.wrong("tezkor.E007", mistake.where, text, hint)
        return
    except ValueError as error:
        text, where = str(error), "['LOCATION']"
        for theirs, ours in server_options.OPTION_OF.items():
            if theirs in text and options.keys() & server_options.OPTION_OF.values():
                text = text.replace(theirs, ours)
                where = f"['OPTIONS'][{ours!r}]" if ours in options else where
        result.wrong("tezkor.E007", where, f"cannot be used: {text}", "See docs/servers.md.")
        return
    for name in ("SIZE", "DECODED_SIZE"):
        if name in options:
            settings.explained[name] = "the server has a size of its own"
    result.arguments.pop("decoded_bytes", None)
    if result.migrate_from is not None and (
        kind == "redis" or (settings.kind, result.migrate_from) == ("memcached", "django")
    ):
        try:
            on_memcached = settings.kind == "memcached"
            result.older = (
                foreign.on_memcached(options)
                if on_memcached
                else foreign.on_redis(result.migrate_from, options)
            )
        except ValueError as error:
            result.wrong("tezkor.E002", "['OPTIONS']['MIGRATE_FROM']", "cannot be followed", str(error))
    elif result.migrate_from is not None:
        hint = "It works with Redis, and 'django' with memcached too."
        result.wrong("tezkor.E002", "['OPTIONS']['MIGRATE_FROM']", f"is not there for {kind}", hint)
    result.server = settings
    result.url = result.region = settings.name


LOCATION_HINT = (
    "Write '' for the project's own region, 'shared://name', 'memory://name' or 'file:///absolute/folder', "
    "each with ?size=128MiB if you like."
)


SIZE_HINT = "A region has from 1MiB to 128GiB."


def _is_region_size(size_bytes: int) -> bool:
    return _native.SMALLEST_REGION_BYTES <= size_bytes <= _native.LARGEST_REGION_BYTES


def private_name(url: str) -> str:
    """The name of the private memory that stands for a LOCATION: another one for each, in letters that fit."""
    scheme, is_url, place = url.partition("?")[0].rpartition("://")
    if not place and scheme in ("", "shared"):
        return "own"
    return f"{scheme if is_url else 'own'}.{quote(place, safe='').replace('%', '=')}"


def _options(result: Plan, params: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    given = params.get("OPTIONS", {})
    if not isinstance(given, Mapping):
        result.wrong(
            "tezkor.E003", "['OPTIONS']", f"is {given!r}, not a dictionary", "Write OPTIONS = {...}."
        )
        return {}
    read = {}
    for name, value in given.items():
        where = f"['OPTIONS'][{name!r}]"
        if name not in READERS:
            if name not in others:
                hint = _nearest(str(name), {*READERS, *others})
                result.wrong("tezkor.E003", where, "is not an option of this backend", hint)
            continue
        try:
            read[name] = READERS[name](value)
        except ValueError as error:
            result.wrong("tezkor.E002", where, f"is {value!r}", str(error))
    return read


def _nearest(name: str, known: set[str]) -> str:
    if name.upper() in ("TIMEOUT", "KEY_PREFIX", "VERSION", "KEY_FUNCTION", "LOCATION", "BACKEND"):
        return f"Write {name.upper()!r} next to OPTIONS, not in it."
    near = difflib.get_close_matches(name.upper(), known, 1, 0.5)
    everything = ", ".join(sorted(each for each in known if each.isupper()))
    return (
        f"Did you mean {near[0]!r}? There are {everything}."
        if near
        else f"Remove it. There are {everything}."
    )


def _key_function(result: Plan, params: Mapping[str, Any]) -> None:
    try:
        function = get_key_func(params.get("KEY_FUNCTION"))
        if not callable(function):
            raise ValueError(f"{function!r} cannot be called")
    except (ImportError, AttributeError, ValueError) as error:
        result.wrong(
            "tezkor.E004",
            "['KEY_FUNCTION']",
            f"is {params.get('KEY_FUNCTION')!r}: {error}",
            "Write a function, or the dotted path of one, that takes (key, key_prefix, version).",
        )


def _times_and_names(result: Plan, params: Mapping[str, Any]) -> None:
    """What Django passes on unread, and what would fail at the first use."""
    timeout = params.get("TIMEOUT", params.get("timeout"))
    if isinstance(timeout, float) and not math.isfinite(timeout):
        result.wrong(
            "tezkor.E005", "['TIMEOUT']", f"is {timeout!r}", "Write a number of seconds, or None for ever."
        )
    for name in ("KEY_PREFIX", "VERSION"):
        value = params.get(name)
        try:
            hash(value)
            str(value).encode()
        except (TypeError, ValueError) as error:
            result.wrong("tezkor.E006", f"[{name!r}]", f"is {value!r}: {error}", "Write a text or a number.")


def _region_size(value: Any) -> int:
    size_bytes = _size(value)
    if not _is_region_size(size_bytes):
        raise ValueError(SIZE_HINT)
    return size_bytes


def _size(value: Any) -> int:
    hint = "Write a number of bytes or a text such as '128MiB' (B, KiB, MiB, GiB)."
    if isinstance(value, str):
        try:
            parsed: int = _native.parse_location(f"memory://?size={value}")["size_bytes"]
        except ValueError:
            raise ValueError(hint) from None
        return parsed
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 63:
        raise ValueError(hint)
    return value


def _size_or_nothing(value: Any) -> int:
    return 0 if value in (0, "0") and not isinstance(value, bool) else _size(value)


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("Write True or False.")
    return value


def _count(value: Any) -> int:
    """Django takes whatever ``int()`` takes, environment variables for example."""
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = -1
    if count < 0:
        raise ValueError("Write a number, 0 or larger.")
    return count


def _region(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        raise ValueError("Write a name of up to 64 letters, digits, '.', '-' and '_'.")
    return value


def _test(value: Any) -> dict[str, bool]:
    if (
        not isinstance(value, Mapping)
        or set(value) - {"SHARED"}
        or not isinstance(value.get("SHARED", True), bool)
    ):
        raise ValueError("Write {'SHARED': True} to share under a test runner, or leave TEST out.")
    return dict(value)


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError("Write a share of the timeout, from 0 to less than 1, such as 0.1.")
    return float(value)


def _named(reader: Callable[[Any], Any], example: str) -> Callable[[Any], dict[str, Any]]:
    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) and name for name in value):
            raise ValueError(f"Write a dictionary from name to {example}.")
        made = {}
        for name, each in value.items():
            if "{" in name or "}" in name:  # it would be taken for a template
                raise ValueError(f"{name!r}: Write a name without braces.")
            try:
                made[name] = reader(each)
            except ValueError as error:
                raise ValueError(f"{name!r}: {error}") from None
        return made

    return read


READERS: dict[str, Callable[[Any], Any]] = {
    "SIZE": _region_size,
    "DECODED_SIZE": _size_or_nothing,
    "COMPRESS_MIN_BYTES": _size_or_nothing,
    "PICKLE": _yes_or_no,
    "REGION": _region,
    "TEST": _test,
    "MAX_ENTRIES": _count,
    "CULL_FREQUENCY": _count,
    "JITTER": _share,
    "DELETE_MANY_PATTERNS": _yes_or_no,
    "TRANSACTIONAL": _yes_or_no,
    "TIMEOUTS": _named(names.seconds, "seconds, such as {'STATIC': 86400}"),
    "MIGRATE_FROM": foreign.library,
    "KEYS": _named(names.Template, "template, such as {'product': 'product:{pk}'}"),
}

# The native cache's argument for each option that is passed on as it is.
ARGUMENTS = {
    "DECODED_SIZE": "decoded_bytes",
    "COMPRESS_MIN_BYTES": "compress_min_bytes",
    "PICKLE": "pickle",
    "JITTER": "jitter",
}


def region_url(location: Any) -> str:
    """TezkorCache's LOCATION: a URL, or any other text, which is a name space of its own in the project's region."""
    if location is None or location == "":
        return ""
    if not isinstance(location, str):
        raise ValueError(f"is {servers.shown(location)}, not a text", LOCATION_HINT)
    scheme, colon, rest = location.partition(":")
    if scheme in ("shared", "memory", "file") and colon and not rest.startswith("//"):
        root = "/" if scheme == "file" else ""
        raise ValueError(f"is {location!r}", f"Write '{scheme}://{root}{rest.lstrip('/')}'.")
    if scheme in servers.REDIS_SCHEMES and colon and not rest.startswith("//"):
        raise ValueError("is no URL of a server", f"Write '{scheme}://host:6379/0'.")
    if re.fullmatch(r"[\w.-]+:\d{2,5}", location):
        hint = f"Write 'redis://{location}/0' or 'memcached://{location}'."
        raise ValueError(f"is {location!r}, which looks like a server", hint)
    if os.path.isabs(location):
        raise ValueError(f"is the path {location!r}", f"Write 'file://{location}' to cache in that folder.")
    return location


def memory_url(location: Any) -> str:
    """LocMemCache's LOCATION: any text is a name."""
    return "memory://" + quote(f"locmem.{location or ''}", safe="").replace("%", "=")


def file_url(location: Any) -> str:
    """FileBasedCache's LOCATION: a folder, of which Tezkor keeps to ``tezkor`` beneath it."""
    if not location or not isinstance(location, (str, os.PathLike)):
        raise ValueError(
            f"is {servers.shown(location)}, not a folder", "Write the absolute path of a folder."
        )
    if "://" in str(location):
        hint = "Write the absolute path of a folder, or use TezkorCache for URLs."
        raise ValueError(f"is {servers.shown(location)}, and FileBasedCache takes a path", hint)
    folder = os.path.abspath(os.fspath(location))
    if "?" in folder or "\0" in folder:
        raise ValueError(f"is {folder!r}", "Choose a folder without '?' and without NUL in its path.")
    return f"file://{folder}"


def alias_of(location: Any, params: Mapping[str, Any]) -> str:
    """The alias whose settings these are; backends are not told theirs."""
    from django.conf import settings

    for alias, entry in settings.CACHES.items():
        rest = {name: value for name, value in entry.items() if name not in ("BACKEND", "LOCATION")}
        if entry.get("LOCATION", "") == location and rest == params:
            return str(alias)
    return "..."
