"""From LOCATION and OPTIONS to a server: as Django, django-redis and Tezkor itself spell them.

It never connects. What has no meaning here is accepted and explained by a system check; what would change where data
goes is a mistake.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from tezkor import _native, server_options
from tezkor.server_options import Mistaken

REDIS_SCHEMES = (
    *("redis", "rediss", "unix", "valkey", "valkeys"),
    *("redis+socket", "valkey+socket"),
)


@dataclass(repr=False)
class Settings:
    """What a server is opened with, and what is to be said about it."""

    kind: str
    locations: list[str] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    # Of the cache on it.
    cache: dict[str, Any] = field(default_factory=dict)
    # Option and why it has no effect.
    explained: dict[str, str] = field(default_factory=dict)
    username: str | None = None
    password: str | None = None
    database: int | None = None
    sentinel: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Settings of {self.name}>"  # without a secret

    @property
    def key(self) -> Any:
        """The same for all who open the same server in the same way."""
        login = (self.username, self.password, self.database)
        return self.kind, tuple(self.locations), login, repr(sorted(self.arguments.items()))

    @property
    def name(self) -> str:
        """The same for all who mean the same server, without a secret."""
        locations = self.locations
        if self.kind == "redis":
            locations = [self._with_login(location) for location in locations]
            locations += self.arguments.get("sentinels", [])
        return f"{self.kind} {' '.join(_bare(location) for location in locations)}"

    def open(self) -> Any:
        """The native server. Raises ValueError naming the setting and the fix."""
        if self.kind == "memcached":
            login: dict[str, Any] = {"username": self.username, "password": self.password}
            return _native.Server.memcached(self.locations, **login, **self.arguments)
        if self.kind == "database":
            from tezkor import database

            table = database.own_table(self.locations[0])
            return _native.Server.database(database.Connection(table), table, **self.arguments)
        urls = [self._with_login(url) for url in self.locations]
        return _native.Server.redis(urls, **self.arguments)

    def _with_login(self, url: str) -> str:
        scheme, login, address, query = _parts(url)
        if self.password is not None and not login:
            login = f"{quote(self.username or '', safe='')}:{quote(self.password, safe='')}@"
        if self.database is not None:
            is_socket = scheme == "unix" or scheme.endswith("+socket")
            host, _, path = address.partition("/")
            if is_socket and not re.search(r"(^|&)db=", query):
                query = f"{query}&db={self.database}".lstrip("&")
            elif not is_socket and not path:
                address = f"{host}/{self.database}"
        return f"{scheme}://{login}{address}{'?' if query else ''}{query}"


def _parts(url: str) -> tuple[str, str, str, str]:
    """Scheme, login with its ``@``, address with what follows it, and query, as the engine takes a URL apart: a
    password may have a ``/`` or an ``@`` in it, at which ``urlsplit`` would end it."""
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    login, at, address = place.rpartition("@")
    return scheme, login + at, address, query


def _bare(location: str) -> str:
    """A location without user, password and parameters that may hold one."""
    scheme, has_scheme, rest = location.partition("://")
    if not has_scheme:
        return location
    # A password may well reach over a `/` or a `?`.
    place, _, query = rest.rpartition("@")[2].partition("?")
    query = "&".join(part for part in query.split("&") if part.startswith("db="))
    return f"{scheme}://{place}{'?' if query else ''}{query}"


def shown(location: Any) -> str:
    """A LOCATION in a message, without what nobody should see."""
    if not isinstance(location, str):
        if isinstance(location, (list, tuple)):
            return f"[{', '.join(shown(part) for part in location)}]"
        text = repr(location)
        return (
            text if "@" not in text and not isinstance(location, Mapping) else f"a {type(location).__name__}"
        )
    bare = _bare(location) if "://" in location else location
    return repr(f"***@{bare.rpartition('@')[2]}" if "@" in bare and not os.path.isabs(bare) else bare)


def kind_of(location: Any) -> str | None:
    """The kind of server that TezkorCache's LOCATION names; None for one on this machine."""
    first = location[0] if isinstance(location, (list, tuple)) and location else location
    if not isinstance(first, str):
        return None
    scheme = first.partition("://")[0] if "://" in first else ""
    if scheme in REDIS_SCHEMES:
        return "redis"
    return "memcached" if scheme == "memcached" else None


def read(kind: str, location: Any, options: Mapping[str, Any]) -> Settings:
    """The settings of a server: "redis", "database", "memcached", or "pylibmc" for memcached with that library's ways.
    Takes from ``options`` what concerns it. Raises Mistaken."""
    settings = Settings("memcached" if kind == "pylibmc" else kind)
    settings.locations = _locations(settings.kind, location)
    if kind == "pylibmc":
        settings.arguments["placement"] = "modula"
    readers = server_options.readers_of(kind)
    for name, value in options.items():
        reader = readers.get(name)
        if reader is not None:
            server_options.apply(settings, reader, name, value)
    if kind == "redis":
        settings.locations = [_read_url(settings, location) for location in settings.locations]
        _finish_redis(settings)
    elif settings.kind == "memcached" and (settings.username is None) != (settings.password is None):
        missing = "USERNAME" if settings.username is None else "PASSWORD"
        raise Mistaken(f"['OPTIONS'][{missing!r}]", "is missing", "Name both, or neither of the two.")
    return settings


def _read_url(settings: Settings, location: str) -> str:
    """A URL without the parameters of redis-py that have no meaning here."""
    if "://" not in location:
        raise Mistaken("['LOCATION']", f"is {shown(location)}, no URL", "Write 'redis://host:6379/0'.")
    if "#" in location:
        hint = "In a password, write %23 for it."
        raise Mistaken("['LOCATION']", "has a # in it, where a URL ends", hint)
    url, has_query, query = location.partition("?")
    parts = query.split("&")
    for part in parts:
        name, _, value = part.partition("=")
        if name == "ssl_cert_reqs":
            server_options.require_verified(value, "['LOCATION']", "has ssl_cert_reqs, which asks")
        elif name in server_options.OF_REDIS_PY:
            settings.explained[f"?{name}"] = server_options.OF_REDIS_PY_WHY
    left = [
        part for part in parts if part.partition("=")[0] not in {"ssl_cert_reqs", *server_options.OF_REDIS_PY}
    ]
    return f"{url}?{'&'.join(left)}" if has_query and left else url


def _locations(kind: str, location: Any) -> list[str]:
    parts = location if isinstance(location, (list, tuple)) else [location or ""]
    if not all(isinstance(part, str) for part in parts):
        wrong = next(part for part in parts if not isinstance(part, str))
        raise Mistaken("['LOCATION']", f"has {shown(wrong)} in it", "Write a text, or a list of texts.")
    if kind == "database" and any("://" in part for part in parts):
        hint = "Write the name of a table, or use the backend of that kind of server."
        raise Mistaken("['LOCATION']", "is a URL", hint)
    if isinstance(location, (list, tuple)):
        found = list(location)
    elif isinstance(location, str) and kind == "redis":
        found = [part for part in re.split(r"[;,]\s*(?=[a-z+]+://)", location) if part]
    else:
        found = [location] if location else []
    if not found:
        examples = {"redis": "redis://127.0.0.1:6379/0", "database": "cache_table"}
        hint = f"Write {examples.get(kind, '127.0.0.1:11211')!r}."
        raise Mistaken("['LOCATION']", "is empty", hint)
    return found


def _finish_redis(settings: Settings) -> None:
    sentinel = settings.sentinel
    if sentinel.get("sentinels") and settings.arguments.get("cluster"):
        hint = "Sentinels watch over one master, a cluster over itself: remove one of the two."
        raise Mistaken("['OPTIONS']['SENTINELS']", "and CLUSTER exclude each other", hint)
    if sentinel.get("sentinels"):
        addresses = [_sentinel_url(address, sentinel.get("kwargs", {})) for address in sentinel["sentinels"]]
        settings.arguments["sentinels"] = addresses
    elif "sentinels" in sentinel or sentinel.get("is_wanted"):
        raise Mistaken("['OPTIONS']['SENTINELS']", "names no Sentinel", "Write [('10.0.0.1', 26379), ...].")


def _sentinel_url(address: Any, kwargs: Mapping[str, Any]) -> str:
    if isinstance(address, str):
        return address if "://" in address else f"redis://{address}"
    is_pair = isinstance(address, (list, tuple)) and len(address) == 2
    if not is_pair or not str(address[1]).isdecimal() or not 0 < int(address[1]) < 1 << 16:
        hint = "Write [('10.0.0.1', 26379), ...]."
        raise Mistaken("['OPTIONS']['SENTINELS']", "is not a list of (host, port)", hint)
    host, port = address
    password, username = kwargs.get("password"), kwargs.get("username") or ""
    login = f"{quote(username, safe='')}:{quote(password, safe='')}@" if password else ""
    return f"redis://{login}{f'[{host}]' if ':' in str(host) else host}:{port}"


def get_redis_connection(alias: str = "default", write: bool = True) -> Any:
    """A redis-py client of an alias's server, for what a cache does not do: lists, streams, scripts.

    ``write`` is there for those who come from django-redis and has no effect. Raises NotImplementedError for an alias
    that is not on Redis, ImportError without redis-py.
    """
    from django.core.cache import caches

    settings = caches[alias]._plan.server if hasattr(caches[alias], "_plan") else None
    if settings is None or settings.kind != "redis":
        raise NotImplementedError(f"CACHES[{alias!r}] is not on Redis, so there is no connection to it")
    return _clients.get(settings.key) or _client(settings)


_clients: dict[Any, Any] = {}


def _client(settings: Settings) -> Any:
    import redis
    from redis.sentinel import Sentinel

    urls = [_for_redis_py(settings._with_login(url)) for url in settings.locations]
    times = {
        "socket_timeout": settings.arguments.get("reply_timeout"),
        "socket_connect_timeout": settings.arguments.get("connect_timeout"),
    }
    if urls[0].startswith("rediss://"):
        files = {"ssl_ca_certs": "ca_file", "ssl_certfile": "cert_file", "ssl_keyfile": "key_file"}
        times |= {
            name: settings.arguments[ours] for name, ours in files.items() if settings.arguments.get(ours)
        }
    if "sentinels" in settings.arguments:
        addresses = [urlsplit(url) for url in settings.arguments["sentinels"]]
        sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
            [(each.hostname, each.port or 26379) for each in addresses],
            sentinel_kwargs={"password": addresses[0].password, "username": addresses[0].username},
        )
        service = urlsplit(urls[0])
        login: dict[str, Any] = {"username": service.username, "password": service.password}
        if service.scheme == "rediss":
            login["ssl"] = True
        client = sentinel.master_for(service.hostname, db=int(service.path.strip("/") or 0), **login, **times)
    elif settings.arguments.get("cluster"):
        client = redis.RedisCluster.from_url(urls[0], **times)
    else:
        client = redis.Redis.from_url(urls[0], **times)
    _clients[settings.key] = client
    return client


def _for_redis_py(url: str) -> str:
    scheme, colon, _ = url.partition("://")
    names = {"valkey": "redis", "valkeys": "rediss", "redis+socket": "unix", "valkey+socket": "unix"}
    _, login, address, query = _parts(url)
    user, has_password, password = login.removesuffix("@").partition(":")
    login = (
        ":".join(quote(unquote(part), safe="") for part in (user, password)) if has_password else login[:-1]
    )
    at = "@" if login else ""
    return f"{names.get(scheme, scheme)}{colon}{login}{at}{address}{'?' if query else ''}{query}"
