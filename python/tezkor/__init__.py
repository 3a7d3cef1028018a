"""One cache for Django sites: ``from tezkor import cache, caches``.

Importing this package needs neither Django nor its settings; both are asked for at the first use of an alias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tezkor.aliases import cache as cache
    from tezkor.aliases import caches as caches

__all__ = ["__version__", "cache", "caches"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from tezkor._native import __version__

        return __version__
    if name in ("cache", "caches"):
        from tezkor import aliases

        globals().update(cache=aliases.cache, caches=aliases.caches)
        return globals()[name]
    raise AttributeError(f"module 'tezkor' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
