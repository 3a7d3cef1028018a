"""What another library left on the same server, read on a miss: ``OPTIONS["MIGRATE_FROM"]``.

It never writes under an old name: a set or a delete removes what is there, so that workers of before and of after never
serve what the others have replaced. Old values are read anew each time, and end as their library has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tezkor._native import Load
from tezkor.foreign import MISS, Foreign

# What `ttl_ms` says of a key that there is none of.
ABSENT = -1


class Migration:
    """The verbs of a native cache that look under old names too."""

    VERBS = (
        *("get", "get_many", "has_key", "set", "set_many", "add", "incr", "touch"),
        *("delete", "delete_many", "load", "clear", "clear_prefix", "delete_pattern", "ttl_ms"),
    )

    def __init__(self, native: Any, foreign: Foreign) -> None:
        self.native = native
        self.foreign = foreign

    def _old(self, keys: Iterable[Any], version: Any) -> dict[Any, Any]:
        """The old values of keys."""
        names = {key: self.native.make_full_key(key, version) for key in keys}
        found = {}
        for (key, name), raw in zip(names.items(), self.native.raw(list(names.values())), strict=True):
            value = MISS if raw is None else self.foreign.read(name, *raw)
            if value is not MISS:
                found[key] = value
        return found

    def _forget(self, keys: Iterable[Any], version: Any) -> int:
        removed: int = self.native.remove_raw([self.native.make_full_key(key, version) for key in keys])
        return removed

    def _adopt(self, key: Any, version: Any) -> bool:
        """Takes an old value over, for verbs that change what is there."""
        found = self._old([key], version)
        if key not in found or not self.native.add(
            key, found[key], self.native.raw_seconds(key, version), version
        ):
            return False
        self._forget([key], version)
        return True

    def get(self, key: Any, default: Any = None, version: Any = None) -> Any:
        value = self.native.get(key, MISS, version)
        return self._old([key], version).get(key, default) if value is MISS else value

    def get_many(self, keys: Iterable[Any], version: Any = None) -> dict[Any, Any]:
        keys = list(keys)
        found: dict[Any, Any] = self.native.get_many(keys, version)
        missing = [key for key in keys if key not in found]
        return {**found, **self._old(missing, version)} if missing else found

    def has_key(self, key: Any, version: Any = None) -> bool:
        return bool(self.native.has_key(key, version)) or key in self._old([key], version)

    def set(self, key: Any, value: Any, timeout: Any = ..., version: Any = None, *terms: Any) -> None:
        self.native.set(key, value, timeout, version, *terms)
        self._forget([key], version)

    def set_many(
        self, data: Mapping[Any, Any], timeout: Any = ..., version: Any = None, *terms: Any
    ) -> list[Any]:
        failed: list[Any] = self.native.set_many(data, timeout, version, *terms)
        self._forget(data, version)
        return failed

    def add(self, key: Any, value: Any, timeout: Any = ..., version: Any = None, *terms: Any) -> bool:
        if key in self._old([key], version):
            return False
        return bool(self.native.add(key, value, timeout, version, *terms))

    def incr(self, key: Any, delta: Any = 1, version: Any = None) -> Any:
        try:
            return self.native.incr(key, delta, version)
        except ValueError:
            if not self._adopt(key, version):
                raise
            return self.native.incr(key, delta, version)

    def touch(self, key: Any, timeout: Any = ..., version: Any = None) -> bool:
        if self.native.touch(key, timeout, version):
            return True
        return self._adopt(key, version) and bool(self.native.touch(key, timeout, version))

    def delete(self, key: Any, version: Any = None) -> bool:
        removed = bool(self.native.delete(key, version))
        return self._forget([key], version) > 0 or removed

    def delete_many(self, keys: Iterable[Any], version: Any = None) -> None:
        keys = list(keys)
        self.native.delete_many(keys, version)
        self._forget(keys, version)

    def load(self, key: Any, version: Any = None, *how: Any) -> Any:
        found = self.native.load(key, version, *how)
        # What is to be loaded anew is.
        if type(found) is not Load or not found.is_owner or found.has_value:
            return found
        if any(how[2:]):
            # What it brings replaces the old value, and what overtakes it has not seen that.
            self._forget([key], version)
            return found
        old = self._old([key], version)
        if key not in old:
            return found
        found.end()
        return old[key]

    def clear(self) -> None:
        self.native.clear()
        self.native.remove_raw_all()

    def clear_prefix(self) -> None:
        self.native.clear_prefix()
        self.native.remove_raw_all()

    def delete_pattern(self, pattern: str, version: Any = None) -> int:
        removed: int = self.native.delete_pattern(pattern, version)
        old: int = self.native.remove_raw_all(pattern, version)
        return removed + old

    def ttl_ms(self, key: Any, version: Any = None) -> Any:
        left = self.native.ttl_ms(key, version)
        if left != ABSENT or key not in self._old([key], version):
            return left
        seconds = self.native.raw_seconds(key, version)
        return None if seconds is None else round(seconds * 1000)
