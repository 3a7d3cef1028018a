"""The engine of Tezkor and its codec, in Rust. Use ``tezkor.backends`` unless there is no Django."""

from asyncio import AbstractEventLoop, Future
from collections.abc import Callable, Iterable, Mapping, Sequence
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
        jitter: float = 0.0,
    ) -> Cache: ...
    def get(self, key: Any, default: Any = None, version: Any = None, /) -> Any:
        """The value of a key, or the default."""

    def get_many(self, keys: Iterable[Any], version: Any = None, /) -> dict[Any, Any]:
        """The values of those keys that are there."""

    def set(
        self,
        key: Any,
        value: Any,
        timeout: Any = ...,
        version: Any = None,
        tags: Iterable[str] | None = None,
        stale: float | None = None,
        /,
    ) -> None:
        """Stores a value."""

    def set_many(
        self,
        data: Mapping[Any, Any],
        timeout: Any = ...,
        version: Any = None,
        tags: Iterable[str] | None = None,
        stale: float | None = None,
        /,
    ) -> list[Any]:
        """Stores several values; returns the keys of those that could not be stored."""

    def add(
        self,
        key: Any,
        value: Any,
        timeout: Any = ...,
        version: Any = None,
        tags: Iterable[str] | None = None,
        stale: float | None = None,
        /,
    ) -> bool:
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

    def reset(self, /) -> None:
        """Empties the location, and gives back all locks, loads and rate limits of its region, whoever
        has them: for tests, between which nothing is to be left."""

    def clear_prefix(self, /) -> None:
        """Removes what has this prefix, in all versions."""

    def keys(self, pattern: str | None = None, version: Any = None, /) -> list[str]:
        """The keys of this prefix and version that fit the pattern, as they were given (with a key function of
        its own: the full keys). Reads the whole location."""

    def matches(self, pattern: str, full_key: str, version: Any = None, /) -> bool:
        """Whether a full key is one that the pattern stands for."""

    def delete_pattern(self, pattern: str, version: Any = None, /) -> int:
        """Removes the entries of this prefix and version whose key fits the pattern; how many there were."""

    def load(
        self,
        key: Any,
        version: Any = None,
        birth: int | None = None,
        beta: float = 1.0,
        refresh: bool = False,
        alone: bool = False,
        /,
    ) -> Any | Load:
        """A fresh value that is not due for an early refresh; else a Load. Its birth is the logical time of
        the snapshot that the loader reads from, if that is older than the present. With `refresh` what is
        there is loaded anew. With `alone` it is run whoever else does."""

    def invalidate_tags(self, tags: Iterable[str], /) -> None:
        """Invalidates all entries of this prefix that depend on one of the tags, in all versions; at constant
        cost."""

    def ttl_ms(self, key: Any, version: Any = None, /) -> int | None:
        """How long an entry lives on, in milliseconds: None for ever, -1 when there is none."""

    def acquire(self, name: Any, seconds: float | None, version: Any = None, /) -> int:
        """Takes a lock until it is released, these seconds at most, or until the process ends: its fencing
        token; 0 when somebody has it. Raises RuntimeError when the table of locks is full."""

    def release(self, name: Any, token: int, version: Any = None, /) -> bool:
        """Gives a lock back; whether it was still the caller's."""

    def extend(self, name: Any, token: int, seconds: float | None, version: Any = None, /) -> bool:
        """Has a lock last these seconds from now on; whether it still is the caller's."""

    def await_lock(self, name: Any, seconds: float, version: Any = None, /) -> bool:
        """Waits until a lock is free, or the seconds are over; whether it is."""

    def owns(self, name: Any, token: int, version: Any = None, /) -> bool:
        """Whether a lock is the caller's at this moment."""

    def is_locked(self, name: Any, version: Any = None, /) -> bool:
        """Whether somebody has a lock."""

    def rate(self, key: Any, limit: int, period: float, version: Any = None, /) -> tuple[bool, int, float]:
        """Uses a rate limit once: whether that is allowed, how many more are, and in how many seconds the
        window ends."""

    def sequence(self, /) -> int:
        """The logical time of invalidations: the birth of a load that begins now."""

    def make_full_key(self, key: Any, version: Any = None, /) -> str:
        """The full key, checked."""

    def tags_at(self, full_key: str, /) -> list[str]:
        """The tags of the entry at a full key."""

    def intend(self, full_keys: list[str], tags: Iterable[str], everything: str, /) -> list[int]:
        """Writes down what a transaction invalidates, so that others complete it if this process dies after
        the COMMIT. To be forgotten, by the ids that are returned, when the transaction has ended.
        `everything` is "", "prefix" or "location"."""

    def forget(self, ids: list[int], /) -> None:
        """Forgets what `intend` wrote down."""

    def explain(self, key: Any, version: Any = None, /) -> dict[str, Any]:
        """The story of one key."""

    def stats(self, /) -> dict[str, Any]:
        """Sizes and counters, summed over all processes."""

    def location(self, /) -> str:
        """Where the cache is, as a URL."""

    def is_near(self, /) -> bool:
        """Whether an operation never waits for a network, a database or a disk."""

@final
class Later:
    """The operations on servers that the tasks of one event loop await."""

    def __new__(cls) -> Later: ...
    def fileno(self, /) -> int:
        """What the loop has to watch for reading; then it calls `drain`."""

    def is_own(self, /) -> bool:
        """Whether it was made by this process, not by one that it was forked from."""

    def close(self, /) -> None:
        """The loop is gone: what comes back for it is nobody's."""

    def drain(self, /) -> None:
        """Ends the futures of the operations that have come back."""

    def call(self, loop: AbstractEventLoop, method: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Calls a method of a cache on a server without waiting for what it does there; a future of what it returns.
        The loop is the running one, and this its own."""

@final
class FarCache:
    """A cache on a server: one alias of the settings."""

    def __new__(
        cls,
        server: Server,
        machine: Cache,
        /,
        *,
        name: str,
        prefix: str = "",
        version: Any = 1,
        timeout: float | None = 300,
        default_timeout: object = None,
        key_function: Callable[[Any, str, Any], str] | None = None,
        validate_key: Callable[[str], None] | None = None,
        pickle: bool = True,
        compress_min_bytes: int = 0,
        keys: Sequence[str | bytes] = [],
        encrypt: bool = False,
        jitter: float = 0.0,
        strict: bool = False,
        request_budget: float | None = None,
    ) -> FarCache: ...
    def get(self, key: Any, default: Any = None, version: Any = None, /) -> Any:
        """The value of a key, or the default."""

    def get_many(self, keys: Iterable[Any], version: Any = None, /) -> dict[Any, Any]:
        """The values of those keys that are there, in one round trip."""

    def set(
        self,
        key: Any,
        value: Any,
        timeout: Any = ...,
        version: Any = None,
        tags: Iterable[str] | None = None,
        stale: float | None = None,
        /,
    ) -> None:
        """Stores a value."""

    def set_many(
        self,
        data: Mapping[Any, Any],
        timeout: Any = ...,
        version: Any = None,
        tags: Iterable[str] | None = None,
        stale: float | None = None,
        /,
    ) -> list[Any]:
        """Stores several values in one round trip; returns the keys of those that could not be stored."""

    def add(
        self,
        key: Any,
        value: Any,
        timeout: Any = ...,
        version: Any = None,
        tags: Iterable[str] | None = None,
        stale: float | None = None,
        /,
    ) -> bool:
        """Stores a value where there is none; whether it did."""

    def touch(self, key: Any, timeout: Any = ..., version: Any = None, /) -> bool:
        """Gives an entry another timeout; whether there is one."""

    def delete(self, key: Any, version: Any = None, /) -> bool:
        """Removes an entry; whether there was one."""

    def delete_many(self, keys: Iterable[Any], version: Any = None, /) -> None:
        """Removes several entries in one round trip."""

    def has_key(self, key: Any, version: Any = None, /) -> bool:
        """Whether there is an entry."""

    def incr(self, key: Any, delta: Any = 1, version: Any = None, /) -> Any:
        """Adds to a number and returns the sum; its timeout stays as it is."""

    def clear(self, /) -> None:
        """Removes all that is the cache's on the server: all prefixes and versions."""

    def reset(self, /) -> None:
        """Empties the location, and gives back what the machine keeps of it: for tests."""

    def clear_prefix(self, /) -> None:
        """Removes what has this prefix, in all versions."""

    def keys(self, pattern: str | None = None, version: Any = None, /) -> list[str]:
        """The keys of this prefix and version that fit the pattern, as they were given."""

    def matches(self, pattern: str, full_key: str, version: Any = None, /) -> bool:
        """Whether a full key is one that the pattern stands for."""

    def delete_pattern(self, pattern: str, version: Any = None, /) -> int:
        """Removes the entries of this prefix and version whose key fits the pattern; how many there were."""

    def load(
        self,
        key: Any,
        version: Any = None,
        birth: int | None = None,
        beta: float = 1.0,
        refresh: bool = False,
        alone: bool = False,
        /,
    ) -> Any | Load:
        """A fresh value that is not due for an early refresh; else a Load."""

    def invalidate_tags(self, tags: Iterable[str], /) -> None:
        """Invalidates all entries of this prefix that depend on one of the tags, in all versions."""

    def ttl_ms(self, key: Any, version: Any = None, /) -> int | None:
        """How long an entry lives on, in milliseconds: None for ever, -1 when there is none."""

    def acquire(self, name: Any, seconds: float | None, version: Any = None, /) -> int:
        """Takes a lock until it is released, and these seconds at most: its fencing token; 0 when somebody has it."""

    def release(self, name: Any, token: int, version: Any = None, /) -> bool:
        """Gives a lock back; whether it was still the caller's."""

    def extend(self, name: Any, token: int, seconds: float | None, version: Any = None, /) -> bool:
        """Has a lock last these seconds from now on; whether it still is the caller's."""

    def await_lock(self, name: Any, seconds: float, version: Any = None, /) -> bool:
        """Waits until a lock is free, or the seconds are over; whether it is."""

    def owns(self, name: Any, token: int, version: Any = None, /) -> bool:
        """Whether a lock is the caller's at this moment."""

    def is_locked(self, name: Any, version: Any = None, /) -> bool:
        """Whether somebody has a lock."""

    def rate(self, key: Any, limit: int, period: float, version: Any = None, /) -> tuple[bool, int, float]:
        """Uses a rate limit once: whether that is allowed, how many more are, and in how many seconds the
        window ends."""

    def sequence(self, /) -> int:
        """The last number of the sequence of invalidations that this process has seen: it may be behind, and then what
        is loaded since is taken for older than it is."""

    def make_full_key(self, key: Any, version: Any = None, /) -> str:
        """The full key, checked."""

    def tags_at(self, full_key: str, /) -> list[str]:
        """The tags of the entry at a full key."""

    def intend(self, full_keys: list[str], tags: Iterable[str], everything: str, /) -> list[int]:
        """Writes down in the region of the machine what a transaction invalidates, so that others complete it if this
        process dies after the COMMIT. To be forgotten, by the ids that are returned, when the transaction has ended.
        `everything` is "", "prefix" or "location"."""

    def forget(self, ids: list[int], /) -> None:
        """Forgets what `intend` wrote down."""

    def explain(self, key: Any, version: Any = None, /) -> dict[str, Any]:
        """What there is to say of one key."""

    def raw(self, names: Sequence[str], /) -> list[tuple[bytes, int] | None]:
        """What is on the server under these very names, which another library gave, with memcached's flags."""

    def remove_raw(self, names: Sequence[str], /) -> int:
        """Removes what is under these very names; how many there were."""

    def remove_raw_all(self, pattern: str | None = None, version: Any = None, /) -> int:
        """Removes what another library left under names of this prefix: those that a pattern fits, or all of any
        version that is a number; how many there were. Nothing where a server cannot list its names, or a key function
        makes them."""

    def raw_seconds(self, key: Any, version: Any = None, /) -> float | None:
        """How many seconds what is under a full key as its very name lives on: None for ever."""

    def stats(self, /) -> dict[str, Any]:
        """What the machine knows of the server."""

    def location(self, /) -> str:
        """The server, without any secret."""

    def is_near(self, /) -> bool:
        """Whether an operation never waits for a network, a database or a disk."""

@final
class Server:
    """A server that caches are on: one for each set of settings in a process."""

    @staticmethod
    def redis(
        urls: Sequence[str],
        /,
        *,
        sentinels: Sequence[str] | None = None,
        cluster: bool = False,
        connect_timeout: float | None = None,
        reply_timeout: float | None = None,
        connections: int | None = None,
        read_replicas: bool = False,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
    ) -> Server:
        """Redis or Valkey: the URL of a primary and those of its replicas; with ``sentinels``, one URL that
        names the service; with ``cluster``, those of some nodes."""

    @staticmethod
    def database(connection: Any, table: str, /, *, max_entries: int | None = None) -> Server:
        """A table of a database; ``connection`` is a ``tezkor.database.Connection``. Rows beyond
        ``max_entries`` are removed in small batches."""

    @staticmethod
    def memcached(
        locations: Sequence[str],
        /,
        *,
        placement: str = "rendezvous",
        username: str | None = None,
        password: str | None = None,
        connect_timeout: float | None = None,
        reply_timeout: float | None = None,
        tls: bool = False,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
    ) -> Server:
        """Memcached, one or several that share the keys; ``placement`` is "rendezvous" (as pymemcache),
        "ketama", "ketama-weighted" or "modula" (as pylibmc)."""

@final
class Load:
    """A load. Dropping one that its caller runs ends it, so that nobody waits for ever."""

    @property
    def is_owner(self) -> bool:
        """Whether the caller runs the loader, for all who wait."""

    @property
    def is_busy(self) -> bool:
        """Whether another runs it, or failed a short while ago."""

    @property
    def has_value(self) -> bool:
        """Whether there is a value that may be served instead."""

    @property
    def is_early(self) -> bool:
        """Whether that value is still fresh, and only due for an early refresh."""

    @property
    def value(self) -> Any:
        """The value that may be served instead; None without one."""

    @property
    def birth(self) -> int:
        """The logical time at which it began; what is invalidated later overtakes it."""

    @property
    def is_near(self) -> bool:
        """Whether its verbs never wait for a network."""

    @property
    def age(self) -> float:
        """How many seconds ago a server was asked first; 0 where none is."""

    @property
    def full_key(self) -> str:
        """The full key."""

    def store(
        self,
        value: Any,
        timeout: Any = ...,
        tags: Iterable[str] | None = None,
        stale: float | None = None,
        /,
    ) -> bool:
        """Stores what the loader returned and ends the load. False: it was overtaken by an invalidation or a
        set, or did not fit."""

    def fail(self, /) -> None:
        """Ends the load; processes that wait try one at a time, after a while."""

    def end(self, /) -> None:
        """Ends the load without storing anything."""

    def wait(self, seconds: float, /) -> bool:
        """Waits until a load that another runs is over, or the seconds are; whether it is over."""

    def is_over(self, /) -> bool:
        """Whether a load that another runs is over."""

    def begin_wait(self, /) -> None:
        """Counts the caller among those who wait."""

    def end_wait(self, /) -> None:
        """Counts the caller no longer."""

    def is_awaited(self, /) -> bool:
        """Whether anybody, in any process of this machine, waits for a load that the caller runs."""

@final
class Seal:
    """A value as the bytes that a far store holds of it, and back. The first key seals, all keys open.

    Pickles are signed; with ``encrypt`` every value is encrypted. Without keys pickles are refused.
    """

    def __new__(
        cls,
        keys: Sequence[str | bytes],
        /,
        *,
        encrypt: bool = False,
        pickle: bool = True,
        compress_min_bytes: int = 0,
    ) -> Seal: ...
    def seal(self, full_key: bytes, value: Any, /, header: bytes = b"") -> bytes:
        """The codec byte and the payload, for this key and this header only."""

    def unseal(self, full_key: bytes, data: bytes, /, header: bytes = b"") -> Any:
        """The value. Raises ValueError for what was not sealed for this key and this header."""

def encode(value: Any, /) -> bytes:
    """A value as bytes: the number of the codec, then its payload. A number is never a counter here."""

def decode(data: bytes, /) -> Any:
    """The value of bytes that `encode` made. Raises ValueError for others."""

def create_table_statements(dialect: tuple[str, bool, int, int], table: str, /) -> list[str]:
    """The statements that make a table, and its index: what `createcachetable` runs or prints."""

def parse_location(location: str, /) -> dict[str, Any]:
    """Takes a LOCATION apart: scheme, name, path, size_bytes. Raises ValueError naming the fix."""

def check_terms(tags: Iterable[str] | None, stale: float | None, /) -> None:
    """Checks tags and stale seconds as a write does, before a loader runs."""

def are_plain_terms(terms: dict[str, Any], /) -> bool:
    """Whether all arguments of a load beside its timeout are known and plainly right."""

def check_timeout(timeout: Any, /) -> None:
    """Checks a timeout as a write does."""

def forked() -> int:
    """How many forks lie between the first process and this one."""

def open_transactions(delta: int, /) -> int:
    """Adds to the number of transactions that have changed something; the sum."""

def begin_request() -> None:
    """The running thread begins a request, which may lose so much time to servers that do not answer, and no more."""

def end_request() -> None:
    """It has ended."""

def set_transaction_hook(hook: Callable[[Cache, str], Any] | None, /) -> None:
    """Sets what is asked about a key while such transactions are open; None for nothing."""
