"""Names from the settings, and texts in keys: what ``"STATIC"`` and ``key("product_list", page=1)`` mean.

Two different lists of fields never make the same key of a template, and two different values never the same text:

    None True 7 2.5 shoes      as they are; a text only if it begins with a letter and has nothing else of this table
    '7' 'None' 'a%20b'         any other text, in quotes
    (1,2) list(1,2) dict(a:1)  containers; the order of a dict or a set is of no account
    Decimal(1.50) date(...)    values of the standard library
    shop.Product#7             a model instance: its label and primary key
    shop.models.Size(L)        enums, dataclasses, named tuples, by the name of their class
    <shop.models.Size>         a class

It never uses a repr, which may be an address or say too little: what is not in the table is a TypeError.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import difflib
import enum
import fractions
import functools
import hashlib
import inspect
import ipaddress
import math
import pathlib
import re
import string
import types
import uuid
import zoneinfo
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from django.utils.functional import LazyObject, Promise, cached_property, empty

# Django warns of full keys beyond 250 characters; prefix and version are part of them.
LONGEST_KEY = 200
DIGEST_BYTES = 16

# ---- named timeouts -------------------------------------------------------------------------------------------------


def timeout(timeouts: Mapping[str, Any], given: Any) -> Any:
    """The seconds that a name stands for; anything but a text is returned as it is."""
    if not isinstance(given, str):
        return given
    try:
        return timeouts[given]
    except KeyError:
        raise ValueError(f"the timeout {given!r} {_unknown(given, timeouts, 'TIMEOUTS')}") from None


def with_timeouts(timeouts: Mapping[str, Any], method: Callable[..., Any], place: int) -> Callable[..., Any]:
    """A method whose timeout, the argument at this place, may be a name."""

    def call(*arguments: Any) -> Any:
        if len(arguments) > place and isinstance(arguments[place], str):
            arguments = (*arguments[:place], timeout(timeouts, arguments[place]), *arguments[place + 1 :])
        return method(*arguments)

    return call


def seconds(value: Any) -> Any:
    """Reads what a name of TIMEOUTS stands for."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (is_number and math.isfinite(value) and value >= 0):
        raise ValueError("Write a number of seconds, or None for ever.")
    return value


def _unknown(name: str, names: Iterable[str], option: str) -> str:
    known = sorted(names)
    near = difflib.get_close_matches(name, known, 1, 0.5)
    if near:
        return f"is not in OPTIONS[{option!r}]. Did you mean {near[0]!r}?"
    return f"is not in OPTIONS[{option!r}]. There are {', '.join(map(repr, known)) or 'none'}."


# ---- key templates --------------------------------------------------------------------------------------------------


def key(templates: Mapping[str, Template], name: str, fields: Mapping[str, Any]) -> str:
    """The key that a template of KEYS makes of exactly its fields."""
    template = find(templates, name)
    if fields.keys() != template.fields:
        missing, extra = template.fields - fields.keys(), fields.keys() - template.fields
        said = [
            f"{what} {', '.join(sorted(names))}"
            for what, names in (("lacks", missing), ("has no", extra))
            if names
        ]
        raise ValueError(f"the key {name!r} {' and '.join(said)}; it is {template.source!r}")
    try:
        return shortened(template.format(fields))
    except TypeError as error:
        raise TypeError(f"the key {name!r}: {error}") from None


def shortened(text: str) -> str:
    """A text that is too long for a key: its beginning, and a digest of the whole."""
    if len(text) <= LONGEST_KEY:
        return text
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).hexdigest()
    return f"{text[: LONGEST_KEY - 2 * DIGEST_BYTES - 1]}~{digest}"


def find(templates: Mapping[str, Template], name: str) -> Template:
    try:
        return templates[name]
    except (KeyError, TypeError):
        raise ValueError(f"the key {name!r} {_unknown(str(name), templates, 'KEYS')}") from None


class Template:
    """``"product:{product.pk}:page:{page}"``: texts around fields, which are named, never numbered.

    What ends a field (the first character of the text behind it) is escaped in all values, so that a key can be read
    back in one way only.
    """

    __slots__ = ("_ends", "_parts", "fields", "source")

    def __init__(self, source: str) -> None:
        if not isinstance(source, str) or not source:
            raise ValueError("Write a text such as 'product:{pk}:page:{page}'.")
        try:
            parts = list(string.Formatter().parse(source))
        except ValueError as error:
            raise ValueError(f"{str(error).capitalize()}; double a brace that is meant as one.") from None
        self.source = source
        self._parts: list[tuple[str, str | None]] = []
        ends = set()
        for literal, path, spec, conversion in parts:
            if self._parts and self._parts[-1][1] is not None:
                ends.add(_end(self._parts[-1][1], literal))
            if path is not None:
                _check_field(path, spec, conversion)
            self._parts.append((literal, path))
        self.fields: frozenset[str] = frozenset(root(path) for _, path in self._parts if path is not None)
        self._ends = re.compile(f"[{re.escape(''.join(sorted(ends)))}]") if ends else None

    def format(self, arguments: Mapping[str, Any]) -> str:
        """The text with the fields filled in; there may be more arguments than fields."""
        written = []
        for literal, path in self._parts:
            written.append(literal)
            if path is not None:
                value = arguments[path] if path in arguments else FORMATTER.get_field(path, (), arguments)[0]
                try:
                    made = text(value)
                except TypeError as error:
                    raise TypeError(f"{path}: {error}") from None
                written.append(self._ends.sub(_percent, made) if self._ends else made)
        return "".join(written)

    def __repr__(self) -> str:
        return f"Template({self.source!r})"


FORMATTER = string.Formatter()
FIELD = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*|\[[^\[\]{}]+\])*")


def _check_field(path: str, spec: str | None, conversion: str | None) -> None:
    if not path or path[0].isdigit():
        raise ValueError("Give every field a name: '{page}', not '{}' or '{0}'.")
    if not FIELD.fullmatch(path):
        raise ValueError(f"The field {path!r} is no name; write '{{name}}' or '{{name.attribute}}'.")
    if spec or conversion:
        raise ValueError(
            f"Write {'{' + path + '}'!r} without a format: it could make two values look the same."
        )


def _end(path: str, literal: str) -> str:
    """What ends a field. An escape is ``%`` and two of these digits, so none of them can be an end; nor can a quote,
    which says of a text that it is no number."""
    if not literal:
        raise ValueError(f"Write something between '{{{path}}}' and the field behind it, ':' for example.")
    if literal[0] in "'%0123456789ABCDEF":
        raise ValueError(f"Write ':' or another mark, not {literal[0]!r}, behind '{{{path}}}'.")
    return literal[0]


def root(path: str) -> str:
    return re.split(r"[.\[]", path, maxsplit=1)[0]


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass"))


# ---- texts of values ------------------------------------------------------------------------------------------------


def text(value: Any) -> str:
    """The text of a value in a key. A TypeError says why there is none."""
    write = EXACT.get(type(value))
    return write(value) if write is not None else _other(value)


BARE = re.compile(r"[^\W\d][\w.\-/@]*")
# They would be taken for another value, or warn, or be taken for a pattern.
UNSAFE = re.compile(r"[\x00-\x20\x7f%'*?\[\]\\\ud800-\udfff]")
RESERVED = {"None", "True", "False", "Ellipsis", "nan", "inf"}


def _str(value: str) -> str:
    value = str.__str__(value)
    if BARE.fullmatch(value) and value not in RESERVED:
        return value
    return f"'{UNSAFE.sub(_percent, value)}'"


def _int(value: int) -> str:
    """Python refuses to write very long numbers in decimal."""
    return int.__repr__(value) if value.bit_length() < 4096 else int.__format__(value, "#x")


def _bytes(value: bytes | bytearray) -> str:
    return f"b'{UNSAFE.sub(_percent, value.decode('latin-1'))}'"


def _items(values: Iterable[Any]) -> str:
    return ",".join([text(value) for value in values])


def _dict(value: dict[Any, Any]) -> str:
    return f"dict({','.join(sorted(_pairs(value)))})"


def _pairs(value: dict[Any, Any]) -> list[str]:
    return [f"{text(name)}:{text(part)}" for name, part in dict.items(value)]


def _set(value: set[Any]) -> str:
    return f"set({','.join(sorted(text(part) for part in set.__iter__(value)))})"


def _frozenset(value: frozenset[Any]) -> str:
    return f"frozenset({','.join(sorted(text(part) for part in frozenset.__iter__(value)))})"


def _datetime(value: datetime.datetime) -> str:
    return f"datetime({datetime.datetime.isoformat(value)}{_zone(value)})"


def _time(value: datetime.time) -> str:
    return f"time({datetime.time.isoformat(value)}{_zone(value)})"


def _zone(value: datetime.datetime | datetime.time) -> str:
    """The offset alone does not tell what a day later is, nor the hour alone which of two it is."""
    zone = "" if value.tzinfo is None else f",{_timezone(value.tzinfo)}"
    return f"{zone},fold" if value.fold else zone


def _timezone(zone: datetime.tzinfo) -> str:
    if isinstance(zone, datetime.timezone):
        return _str(str(zone))
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)  # zoneinfo, pytz
    if not isinstance(name, str):
        raise TypeError(f"the time zone {zone!r} has no name")
    return _str(name)


def _named(kind: type) -> str:
    if "<locals>" in kind.__qualname__:
        raise TypeError(
            f"the class {kind.__qualname__} is made inside of a function, so that its name may mean several"
        )
    return f"{kind.__module__}.{kind.__qualname__}"


EXACT: dict[type, Callable[[Any], str]] = {
    type(None): lambda value: "None",
    bool: bool.__repr__,
    type(...): lambda value: "Ellipsis",
    int: _int,
    float: float.__repr__,
    complex: lambda value: f"complex({complex.__repr__(value).strip('()')})",
    str: _str,
    bytes: _bytes,
    bytearray: lambda value: f"bytearray({_bytes(value)})",
    tuple: lambda value: f"({_items(tuple.__iter__(value))})",
    list: lambda value: f"list({_items(list.__iter__(value))})",
    set: _set,
    frozenset: _frozenset,
    dict: _dict,
    collections.OrderedDict: lambda value: f"OrderedDict({','.join(_pairs(value))})",
    collections.defaultdict: lambda value: f"defaultdict({','.join(sorted(_pairs(value)))})",
    collections.deque: lambda value: f"deque({_items(value)})",
    range: lambda value: f"range({value.start},{value.stop},{value.step})",
    datetime.date: lambda value: f"date({datetime.date.isoformat(value)})",
    datetime.datetime: _datetime,
    datetime.time: _time,
    datetime.timedelta: lambda value: f"timedelta({value.days},{value.seconds},{value.microseconds})",
    datetime.timezone: lambda value: f"timezone({_timezone(value)},{text(value.utcoffset(None))})",
    zoneinfo.ZoneInfo: lambda value: f"ZoneInfo({_timezone(value)})",
    decimal.Decimal: lambda value: f"Decimal({decimal.Decimal.__str__(value)})",
    fractions.Fraction: lambda value: f"Fraction({value.numerator}/{value.denominator})",
    uuid.UUID: lambda value: f"UUID({uuid.UUID.__str__(value)})",
}
for _kind in (
    *(pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath),
    *(ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network),
):
    EXACT[_kind] = lambda value: f"{type(value).__name__}({_str(str(value))})"

FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType)


def _other(value: Any) -> str:
    kind = type(value)
    if issubclass(kind, LazyObject):  # request.user
        if value._wrapped is empty:
            value._setup()
        return text(value._wrapped)
    if issubclass(kind, Promise):  # a translation: the same for one language
        return f"lazy({_str(str(value))})"
    if issubclass(kind, type):
        return f"<{_named(value)}>"
    if issubclass(kind, enum.Enum):
        return f"{_named(kind)}({value.name or text(value.value)})"
    if hasattr(kind, "_meta") and hasattr(value, "_state"):
        return _model(value)
    if dataclasses.is_dataclass(kind):
        _check_fields(value)
        parts = [f"{part.name}={text(getattr(value, part.name))}" for part in _fields(kind)]
        return f"{_named(kind)}({','.join(parts)})"
    if kind.__name__ == "AnonymousUser" and kind.__module__ == "django.contrib.auth.models":
        return "AnonymousUser()"
    for base in kind.__mro__[1:]:
        if base in EXACT and not _has_more(value, base):
            return f"{_named(kind)}({EXACT[base](value)})"
    raise TypeError(_why_not(kind))


def _fields(kind: Any) -> list[dataclasses.Field[Any]]:
    """A field that is left out of comparisons is no part of what the value is."""
    return [part for part in dataclasses.fields(kind) if part.compare]


def _check_fields(value: Any) -> None:
    """A subclass of a dataclass that is none itself may hold more than its fields."""
    kind = type(value)
    if "__dataclass_fields__" in kind.__dict__:
        return
    known = {part.name for part in dataclasses.fields(kind)}
    held = set(getattr(value, "__dict__", ()))
    for base in kind.__mro__[: kind.__mro__.index(_dataclass_of(kind))]:
        slots = base.__dict__.get("__slots__", ())
        held.update((slots,) if isinstance(slots, str) else slots)
    # What a cached property keeps is made of the rest.
    more = {name for name in held - known if not isinstance(_attribute(kind, name), CACHED)}
    more -= {"__dict__", "__weakref__"}
    if more:
        raise TypeError(
            f"a {_named(kind)} holds {', '.join(sorted(more))}, which is no field: decorate it with @dataclass too"
        )


def _dataclass_of(kind: type) -> type:
    return next(base for base in kind.__mro__ if "__dataclass_fields__" in base.__dict__)


def _attribute(kind: type, name: str) -> Any:
    return inspect.getattr_static(kind, name, None)


CACHED = (functools.cached_property, cached_property)


def _model(value: Any) -> str:
    label = value._meta.label
    if value.pk is None or value._state.adding:
        raise TypeError(f"an instance of {label} that is not saved has no identity; save it first")
    return f"{label}#{text(value.pk)}"


def _has_more(value: Any, base: type) -> bool:
    """Whether an instance of a subclass holds anything that the base class does not write.

    Attributes are in its dictionary, or in memory of its own: slots, fields of an extension type.
    """
    kind = type(value)
    if getattr(value, "__dict__", None):
        return True
    words = 0
    if base.__dictoffset__ == 0 and kind.__dictoffset__ not in (
        0,
        -1,
    ):  # -1: ahead of the object, not in its size
        words += 1
    if base.__weakrefoffset__ == 0 and kind.__weakrefoffset__ > 0:
        words += 1
    return kind.__basicsize__ - base.__basicsize__ > words * POINTER_BYTES


POINTER_BYTES = type("Slot", (), {"__slots__": ("a",)}).__basicsize__ - object.__basicsize__


def _why_not(kind: type) -> str:
    parents = {base.__name__ for base in kind.__mro__}
    if "QuerySet" in parents:
        return "a queryset may give other rows each time"
    if "HttpRequest" in parents:
        return "a request is another one each time; take what matters of it"
    if "QueryDict" in parents:
        return "a QueryDict holds more than its items; take its urlencode()"
    if issubclass(kind, FUNCTIONS):
        return "a function has no name that is its own"
    if hasattr(kind, "__next__") or hasattr(kind, "__anext__"):
        return f"a {kind.__name__} can be read only once"
    return f"nothing of a {kind.__module__}.{kind.__qualname__} says for sure which one it is"
