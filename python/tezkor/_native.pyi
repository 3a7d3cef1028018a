"""The engine of Tezkor and its codec, in Rust. Use ``tezkor.backends`` unless there is no Django."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

__version__: str
SMALLEST_REGION_BYTES: int
LARGEST_REGION_BYTES: int

@final
class Cache:
    """A cache: one alias of the settings. Safe across threads and tasks."""

    def __new__(
        cls,
        location: str,
        /,
        *,
        prefix: str = "",
        version: Any = 1,
        timeout: float | None = 300,
        default_timeout: object = None,
        key_function: Callable[[Any, str, Any], str] | None = None,
        validate_key: Callable[[str], None] | None = None,
        size_bytes: int | None = None,
        decoded_bytes: int = 16777216,
        pickle: bool = True,
        compress_min_bytes: int = 0,
        max_entries: int | None = None,
        cull_frequency: int = 3,
        clock: str = "boot",
        region: str | None = None,
    ) -> Cache: ...
    def get(self, key: Any, default: Any = None, version: Any = None, /) -> Any:
        """The value of a key, or the default."""

    def get_many(self, keys: Iterable[Any], version: Any = None, /) -> dict[Any, Any]:
        """The values of those keys that are there."""

    def set(self, key: Any, value: Any, timeout: Any = ..., version: Any = None, /) -> None:
        """Stores a value."""

    def set_many(self, data: Mapping[Any, Any], timeout: Any = ..., version: Any = None, /) -> list[Any]:
        """Stores several values; returns the keys of those that could not be stored."""

    def add(self, key: Any, value: Any, timeout: Any = ..., version: Any = None, /) -> bool:
        """Stores a value where there is none; whether it did."""

    def touch(self, key: Any, timeout: Any = ..., version: Any = None, /) -> bool:
        """Gives an entry another timeout; whether there is one."""

    def delete(self, key: Any, version: Any = None, /) -> bool:
        """Removes an entry; whether there was one."""

    def delete_many(self, keys: Iterable[Any], version: Any = None, /) -> None:
        """Removes several entries."""

    def has_key(self, key: Any, version: Any = None, /) -> bool:
        """Whether there is an entry."""

    def incr(self, key: Any, delta: Any = 1, version: Any = None, /) -> Any:
        """Adds to a number and returns the sum; its timeout stays as it is."""

    def clear(self, /) -> None:
        """Empties the location: all prefixes and versions, for all processes."""

    def clear_prefix(self, /) -> None:
        """Removes what has this prefix, in all versions."""

    def keys(self, version: Any = None, /) -> list[str]:
        """The keys of this prefix and version, as they were given (with a key function of its own: the full keys)."""

    def explain(self, key: Any, version: Any = None, /) -> dict[str, Any]:
        """The story of one key."""

    def stats(self, /) -> dict[str, Any]:
        """Sizes and counters, summed over all processes."""

    def location(self, /) -> str:
        """Where the cache is, as a URL."""

    def is_near(self, /) -> bool:
        """Whether an operation never waits for a network, a database or a disk."""

def encode(value: Any, /) -> bytes:
    """A value as bytes: the number of the codec, then its payload. A number is never a counter here."""

def decode(data: bytes, /) -> Any:
    """The value of bytes that `encode` made. Raises ValueError for others."""

def parse_location(location: str, /) -> dict[str, Any]:
    """Takes a LOCATION apart: scheme, name, path, size_bytes. Raises ValueError naming the fix."""

def forked() -> int:
    """How many forks lie between the first process and this one."""
