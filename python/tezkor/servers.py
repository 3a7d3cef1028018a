"""From LOCATION and OPTIONS to a server: as Django, django-redis and Tezkor itself spell them.

It never connects. What has no meaning here is accepted and explained by a system check; what would change where data
goes is a mistake.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from tezkor import _native

Reader = Callable[["Settings", Any], None]

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


class Mistaken(ValueError):
    """A setting is wrong: what is, and what to write instead."""

    def __init__(self, where: str, text: str, hint: str) -> None:
        super().__init__(text, hint)
        self.where = where


def readers_of(kind: str) -> Mapping[str, Reader]:
    """What each option of a kind of server means."""
    return {"redis": OF_REDIS, "database": OF_DATABASE}.get(kind, OF_MEMCACHED)


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
    readers = readers_of(kind)
    for name, value in options.items():
        reader = readers.get(name)
        if reader is not None:
            _apply(settings, reader, name, value)
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
            _require_verified(value, "['LOCATION']", "has ssl_cert_reqs, which asks")
        elif name in OF_REDIS_PY:
            settings.explained[f"?{name}"] = OF_REDIS_PY_WHY
    left = [part for part in parts if part.partition("=")[0] not in {"ssl_cert_reqs", *OF_REDIS_PY}]
    return f"{url}?{'&'.join(left)}" if has_query and left else url


def _apply(settings: Settings, reader: Callable[[Settings, Any], None], name: str, value: Any) -> None:
    try:
        reader(settings, value)
    except Mistaken:
        raise
    except (TypeError, ValueError) as error:
        raise Mistaken(f"['OPTIONS'][{name!r}]", "is not what it should be", str(error)) from None


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


# Readers of options


def _argument(name: str, convert: Callable[[Any], Any]) -> Reader:
    def read(settings: Settings, value: Any) -> None:
        settings.arguments[name] = convert(value)

    return read


def _cache(name: str, convert: Callable[[Any], Any]) -> Reader:
    def read(settings: Settings, value: Any) -> None:
        settings.cache[name] = convert(value)

    return read


def _explained(name: str, why: str) -> Reader:
    def read(settings: Settings, value: Any) -> None:
        settings.explained[name] = why

    return read


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 3600:
        raise ValueError("Write a number of seconds above 0, such as 0.1.")
    return float(value)


def _count(value: Any) -> int:
    return _number(value, 1, "Write a number above 0.")


def _number(value: Any, least: int, hint: str) -> int:
    is_number = isinstance(value, int) or (isinstance(value, str) and value.isdecimal())
    if isinstance(value, bool) or not is_number or not least <= int(value) < 1 << 31:
        raise ValueError(hint)
    return int(value)


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("Write True or False.")
    return value


def _path(value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError("Write the path of a file.")
    return str(os.fspath(value))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("Write a text.")
    return value


def _username(settings: Settings, value: Any) -> None:
    settings.username = None if value is None else _text(value)


def _password(settings: Settings, value: Any) -> None:
    settings.password = None if value is None else _text(value)


def _database(settings: Settings, value: Any) -> None:
    settings.database = _number(value, 0, "Write the number of a database, such as 1.")


def _pool(settings: Settings, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise ValueError("Write a dictionary.")
    for name, each in value.items():
        reader = OF_POOL.get(name)
        if name == "ssl_cert_reqs":
            _cert_reqs(settings, each)
        elif reader is None:
            settings.explained[f"CONNECTION_POOL_KWARGS[{name!r}]"] = "connections are Tezkor's own"
        else:
            _apply(settings, reader, f"CONNECTION_POOL_KWARGS[{name!r}]", each)


def _cert_reqs(settings: Settings, value: Any) -> None:
    _require_verified(value, "['OPTIONS']['ssl_cert_reqs']", "asks")


def _require_verified(value: Any, where: str, who: str) -> None:
    """Certificates are always verified."""
    if str(value).lower() not in ("required", "2", "cert_required", "verifymode.cert_required"):
        raise Mistaken(
            where,
            f"{who} for certificates that nobody verifies",
            "Remove it, and name the authority that signed the server's by 'CA_FILE'.",
        )


def _client_class(settings: Settings, value: Any) -> None:
    if not isinstance(value, (str, type)):
        raise ValueError("Write the dotted path of a class.")
    name = value if isinstance(value, str) else f"{value.__module__}.{value.__qualname__}"
    kind = name.rpartition(".")[2]
    if kind in ("ShardClient", "HerdClient") and kind == "ShardClient":
        raise Mistaken(
            "['OPTIONS']['CLIENT_CLASS']",
            f"is {name}, which spreads keys over servers that do not know of each other",
            "Use a Redis Cluster and 'CLUSTER': True.",
        )
    if kind == "SentinelClient":
        settings.sentinel["is_wanted"] = True
    elif kind == "HerdClient":
        settings.explained["CLIENT_CLASS"] = (
            "get_or_set() and cached() run a loader once, which is what it was for"
        )
    elif not name.startswith("django_redis.client."):
        settings.explained["CLIENT_CLASS"] = "Tezkor speaks to the server itself"


def _factory(settings: Settings, value: Any) -> None:
    name = value if isinstance(value, str) else getattr(value, "__qualname__", str(value))
    if "Sentinel" in name:
        settings.sentinel["is_wanted"] = True
    else:
        settings.explained["CONNECTION_FACTORY"] = "connections are Tezkor's own"


def _sentinels(settings: Settings, value: Any) -> None:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError("Write a list of (host, port).")
    settings.sentinel["sentinels"] = list(value)


def _sentinel_kwargs(settings: Settings, value: Any) -> None:
    login = [value.get(name) for name in ("username", "password")] if isinstance(value, Mapping) else [0]
    if not all(isinstance(each, str) or each is None for each in login):
        raise ValueError("Write a dictionary of texts such as {'password': ...}.")
    settings.sentinel["kwargs"] = value


def _ignore_exceptions(settings: Settings, value: Any) -> None:
    settings.cache["strict"] = not _yes_or_no(value)


def _compressor(settings: Settings, value: Any) -> None:
    name = "identity" if value is None else str(value).lower()
    settings.cache["compress_min_bytes"] = 0 if "identity" in name else 1024
    if "identity" not in name and "zstd" not in name:
        settings.explained["COMPRESSOR"] = (
            "values of a KiB and more are compressed by zstd (COMPRESS_MIN_BYTES)"
        )


# How the engine calls what an option gives.
OPTION_OF = {
    "ssl_ca_certs": "CA_FILE",
    "ssl_certfile": "CERT_FILE",
    "ssl_keyfile": "KEY_FILE",
    "PLACEMENT": "PLACEMENT",
}
CODEC_NOTE = "values are kept in Tezkor's own format, which has all types that it had"

COMMON: dict[str, Reader] = {
    "CONNECT_TIMEOUT": _argument("connect_timeout", _seconds),
    "REPLY_TIMEOUT": _argument("reply_timeout", _seconds),
    "CA_FILE": _argument("ca_file", _path),
    "CERT_FILE": _argument("cert_file", _path),
    "KEY_FILE": _argument("key_file", _path),
    "USERNAME": _username,
    "PASSWORD": _password,
    "STRICT": _cache("strict", _yes_or_no),
    "REQUEST_BUDGET": _cache("request_budget", _seconds),
    "ENCRYPT": _cache("encrypt", _yes_or_no),
}

# What redis-py's pools and connections take.
OF_POOL: dict[str, Reader] = {
    "max_connections": _argument("connections", _count),
    "socket_timeout": _argument("reply_timeout", _seconds),
    "socket_connect_timeout": _argument("connect_timeout", _seconds),
    "ssl_ca_certs": _argument("ca_file", _path),
    "ssl_certfile": _argument("cert_file", _path),
    "ssl_keyfile": _argument("key_file", _path),
    "username": _username,
    "password": _password,
    "db": _database,
}

# What else redis-py's connections take, which Django's RedisCache passes on.
OF_REDIS_PY_WHY = "connections are Tezkor's own"
OF_REDIS_PY = (
    *("client_name", "command_packer", "credential_provider", "decode_responses", "driver_info", "encoding"),
    *(
        "encoding_errors",
        "health_check_interval",
        "lib_name",
        "lib_version",
        "protocol",
        "redis_connect_func",
    ),
    *("retry", "retry_on_error", "retry_on_timeout", "socket_keepalive", "socket_keepalive_options"),
    *(
        "socket_read_size",
        "socket_type",
        "ssl_ca_path",
        "ssl_check_hostname",
        "ssl_ciphers",
        "ssl_min_version",
    ),
    *("timeout",),
)

OF_REDIS: dict[str, Reader] = {
    **{name: _explained(name, OF_REDIS_PY_WHY) for name in OF_REDIS_PY},
    **COMMON,
    **OF_POOL,
    "ssl_cert_reqs": _cert_reqs,
    "MAX_CONNECTIONS": _argument("connections", _count),
    "READ_REPLICAS": _argument("read_replicas", _yes_or_no),
    "CLUSTER": _argument("cluster", _yes_or_no),
    "DB": _database,
    "SENTINELS": _sentinels,
    "SENTINEL_KWARGS": _sentinel_kwargs,
    # Of Django's RedisCache.
    "parser_class": _explained("parser_class", "replies are read by Tezkor itself"),
    "pool_class": _explained("pool_class", "connections are Tezkor's own"),
    "serializer": _explained("serializer", CODEC_NOTE),
    # Of django-redis.
    "CLIENT_CLASS": _client_class,
    "CLIENT_KWARGS": _explained("CLIENT_KWARGS", "Tezkor speaks to the server itself"),
    "CONNECTION_FACTORY": _factory,
    "CONNECTION_POOL_CLASS": _explained("CONNECTION_POOL_CLASS", "connections are Tezkor's own"),
    "CONNECTION_POOL_CLASS_KWARGS": _explained(
        "CONNECTION_POOL_CLASS_KWARGS", "connections are Tezkor's own"
    ),
    "CONNECTION_POOL_KWARGS": _pool,
    "REDIS_CLIENT_CLASS": _explained("REDIS_CLIENT_CLASS", "Tezkor speaks to the server itself"),
    "REDIS_CLIENT_KWARGS": _explained("REDIS_CLIENT_KWARGS", "Tezkor speaks to the server itself"),
    "PARSER_CLASS": _explained("PARSER_CLASS", "replies are read by Tezkor itself"),
    "SOCKET_TIMEOUT": _argument("reply_timeout", _seconds),
    "SOCKET_CONNECT_TIMEOUT": _argument("connect_timeout", _seconds),
    "IGNORE_EXCEPTIONS": _ignore_exceptions,
    "LOG_IGNORED_EXCEPTIONS": _explained(
        "LOG_IGNORED_EXCEPTIONS", "outages are logged by the logger 'tezkor'"
    ),
    "SERIALIZER": _explained("SERIALIZER", CODEC_NOTE),
    "COMPRESSOR": _compressor,
    "PICKLE_VERSION": _explained("PICKLE_VERSION", "what has to be pickled is pickled by protocol 5"),
    "REVERSE_KEY_FUNCTION": _explained("REVERSE_KEY_FUNCTION", "keys() gives the keys as they were given"),
    "CLOSE_CONNECTION": _explained("CLOSE_CONNECTION", "connections stay open between requests"),
    "ITERSIZE": _explained("ITERSIZE", "keys are listed 1000 at a time"),
}

# Of Django's memcached backends: what pymemcache's HashClient and pylibmc take.
PYMEMCACHE = (
    *("serde", "serializer", "deserializer", "no_delay", "ignore_exc", "use_pooling", "max_pool_size"),
    *("pool_idle_timeout", "retry_attempts", "retry_timeout", "dead_timeout", "default_noreply", "encoding"),
    *("allow_unicode_keys", "key_prefix", "lock_generator", "hasher", "binary", "behaviors"),
    "socket_keepalive",
)


def _behaviors(settings: Settings, value: Any) -> None:
    """pylibmc's, which decide where keys are."""
    if not isinstance(value, Mapping):
        raise ValueError("Write a dictionary, as pylibmc takes it.")
    if value.get("ketama_weighted"):
        settings.arguments["placement"] = "ketama-weighted"
    elif value.get("ketama"):
        settings.arguments["placement"] = "ketama"
    else:
        for name in ("hash", "distribution"):
            if value.get(name) not in (None, "default", "modula"):
                raise ValueError(
                    f"{name!r} would put keys elsewhere; there are 'ketama' and 'ketama_weighted'."
                )
    settings.explained["behaviors"] = "only ketama and ketama_weighted matter: they decide where keys are"


def _tls_context(settings: Settings, value: Any) -> None:
    if value is not None:
        hint = "Remove it, and write 'CA_FILE', 'CERT_FILE' and 'KEY_FILE'."
        raise Mistaken("['OPTIONS']['tls_context']", "is Python's, and connections are Tezkor's own", hint)


def _hasher(settings: Settings, value: Any) -> None:
    raise Mistaken(
        "['OPTIONS']['hasher']",
        "is a way of your own to place keys",
        "Use 'PLACEMENT': 'rendezvous', 'ketama', 'ketama-weighted' or 'modula'.",
    )


OF_MEMCACHED: dict[str, Reader] = {
    **COMMON,
    **{name: _explained(name, "Tezkor speaks to the servers itself") for name in PYMEMCACHE},
    "PLACEMENT": _argument("placement", _text),
    "TLS": _argument("tls", _yes_or_no),
    "timeout": _argument("reply_timeout", _seconds),
    "connect_timeout": _argument("connect_timeout", _seconds),
    "username": _username,
    "password": _password,
    "behaviors": _behaviors,
    "hasher": _hasher,
    "tls_context": _tls_context,
}

# Of Django's DatabaseCache.
OF_DATABASE: dict[str, Reader] = {
    "STRICT": COMMON["STRICT"],
    "REQUEST_BUDGET": COMMON["REQUEST_BUDGET"],
    "ENCRYPT": COMMON["ENCRYPT"],
    "MAX_ENTRIES": _argument("max_entries", _count),
    "CULL_FREQUENCY": _explained("CULL_FREQUENCY", "rows beyond MAX_ENTRIES go in small batches"),
}
