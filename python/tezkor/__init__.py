"""One cache for Django sites: ``from tezkor import cache, caches``.

Importing this package needs neither Django nor its settings; both are asked for at the first use of a name.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tezkor._native import __version__ as __version__
    from tezkor.aliases import cache as cache
    from tezkor.aliases import caches as caches
    from tezkor.decorators import cached as cached
    from tezkor.loads import LoadTimeout as LoadTimeout
    from tezkor.loads import skip as skip
    from tezkor.locks import LockNotOwned as LockNotOwned
    from tezkor.locks import LockTimeout as LockTimeout
    from tezkor.memo import memoize_request as memoize_request
    from tezkor.querysets import InvalidatingManager as InvalidatingManager
    from tezkor.querysets import InvalidatingQuerySet as InvalidatingQuerySet
    from tezkor.servers import get_redis_connection as get_redis_connection
    from tezkor.signals import invalidates as invalidates

# The module that each name is of.
WHERE = {
    "__version__": "_native",
    "cache": "aliases",
    "caches": "aliases",
    "cached": "decorators",
    "get_redis_connection": "servers",
    "memoize_request": "memo",
    "skip": "loads",
    "LoadTimeout": "loads",
    "LockTimeout": "locks",
    "LockNotOwned": "locks",
    "invalidates": "signals",
    "InvalidatingManager": "querysets",
    "InvalidatingQuerySet": "querysets",
}

__all__ = [
    "InvalidatingManager",
    "InvalidatingQuerySet",
    "LoadTimeout",
    "LockNotOwned",
    "LockTimeout",
    "__version__",
    "cache",
    "cached",
    "caches",
    "get_redis_connection",
    "invalidates",
    "memoize_request",
    "skip",
]


def __getattr__(name: str) -> Any:
    if name not in WHERE:
        raise AttributeError(f"module 'tezkor' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"tezkor.{WHERE[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
