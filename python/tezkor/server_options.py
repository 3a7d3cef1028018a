"""What each option of a server means, as Django, django-redis, redis-py, pymemcache and pylibmc spell it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tezkor.servers import Settings

Reader = Callable[["Settings", Any], None]


class Mistaken(ValueError):
    """A setting is wrong: what is, and what to write instead."""

    def __init__(self, where: str, text: str, hint: str) -> None:
        super().__init__(text, hint)
        self.where = where


def readers_of(kind: str) -> Mapping[str, Reader]:
    """What each option of a kind of server means."""
    return {"redis": OF_REDIS, "database": OF_DATABASE}.get(kind, OF_MEMCACHED)


def apply(settings: Settings, reader: Callable[[Settings, Any], None], name: str, value: Any) -> None:
    try:
        reader(settings, value)
    except Mistaken:
        raise
    except (TypeError, ValueError) as error:
        raise Mistaken(f"['OPTIONS'][{name!r}]", "is not what it should be", str(error)) from None


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
            apply(settings, reader, f"CONNECTION_POOL_KWARGS[{name!r}]", each)


def _cert_reqs(settings: Settings, value: Any) -> None:
    require_verified(value, "['OPTIONS']['ssl_cert_reqs']", "asks")


def require_verified(value: Any, where: str, who: str) -> None:
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
