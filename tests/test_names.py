"""Named timeouts, key templates, and the texts of values: no two of them look the same."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import ipaddress
import pathlib
import re
import uuid
import zoneinfo
from itertools import combinations
from pathlib import Path

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core.cache import caches as django_caches
from django.http import HttpRequest, QueryDict
from django.test import override_settings
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st

import tezkor
from tezkor import names
from tezkor.backends import TezkorCache


class Size(enum.Enum):
    L = 1
    LARGE = 1  # noqa: PIE796 - another name of the same
    XL = 2


class Level(enum.IntEnum):
    LOW = 1


class Right(enum.Flag):
    READ = 1
    WRITE = 2


Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Filter:
    brand: str
    pages: list[int]
    seen: object = dataclasses.field(default=None, compare=False)


class Narrowed(Filter):
    """No dataclass itself: what it adds is no field."""

    def __init__(self, brand, pages, extra):
        super().__init__(brand, pages)
        self.extra = extra


class Renamed(Filter):
    @functools.cached_property
    def made_of_the_rest(self):
        return self.brand * 2


class Pinned(Filter):
    __slots__ = ("pin",)


@dataclasses.dataclass
class Widened(Filter):
    extra: int = 0

    def __post_init__(self):
        self.note = "made of the rest"


class Slotted(str):
    __slots__ = ("more",)


class Moment(datetime.datetime):
    pass


def user(pk, **fields):
    made = User(pk=pk, **fields)
    made._state.adding = False
    return made


BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
NOON = datetime.datetime(2024, 10, 27, 2, 30)

# Values that are pairwise different, however alike they look.
DIFFERENT = [
    *(None, "None", "none", True, "True", False, 0, 1, "1", 1.0, -0.0, 0.0, "1.0", 1j, ..., "Ellipsis"),
    *(float("nan"), "nan", float("inf"), float("-inf"), "inf", 10**5000, 10**5000 + 1),
    *("", " ", "a", "A", "a b", "a%20b", "'a'", "a'b", "a:b", "a,b", "(a)", "a\nb", "*", "[a]", "\\", "\ud800", "é"),
    *(b"", b"a", bytearray(b"a"), b"\x00", b"'", b"%00", mark_safe("a")),
    *([], (), {}, set(), frozenset(), [1], (1,), ["1"], {1}, frozenset({1}), [[1]], [1, 2], [2, 1], ["1,2"]),
    *({"a": 1}, {"a": "1"}, {"a": None}, {1: "a"}, {"a": 1, "b": 2}, {"a:1,b": 2}, [("a", 1)]),
    *(collections.OrderedDict(a=1, b=2), collections.OrderedDict(b=2, a=1), collections.Counter("a")),
    *(collections.deque([1]), collections.defaultdict(list, a=1), range(3), range(0, 3, 2)),
    *(NOON, NOON.replace(fold=1), NOON.replace(tzinfo=BERLIN), NOON.replace(tzinfo=BERLIN, fold=1)),
    *(NOON.replace(tzinfo=datetime.timezone.utc), NOON.replace(tzinfo=zoneinfo.ZoneInfo("Europe/Rome"))),
    *(NOON.date(), NOON.time(), str(NOON.date()), datetime.timedelta(1), datetime.timedelta(seconds=1), BERLIN),
    *(datetime.timezone(datetime.timedelta(hours=1), "X"), datetime.timezone(datetime.timedelta(hours=2), "X")),
    *(Moment(2024, 1, 1), datetime.datetime(2024, 1, 1)),
    *(decimal.Decimal("1"), decimal.Decimal("1.0"), fractions.Fraction(1, 2), uuid.UUID(int=1), str(uuid.UUID(int=1))),
    *(pathlib.PurePosixPath("/a"), pathlib.PureWindowsPath("/a"), ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
    *(Size.L, Size.XL, Level.LOW, Right.READ, Right.READ | Right.WRITE, Size, Level, int, "Size.L", "Size(L)"),
    *(Point(1, 2), (1, 2), Point(2, 1), Filter("a", [1]), Filter("a", [2]), Filter("1", []), Filter(1, [])),
    *(Renamed("a", [1]), Widened("a", [1]), Widened("a", [1], extra=1)),
    *(user(1), user(2), user("1"), User, AnonymousUser(), "AnonymousUser", "auth.User#1"),
    *(gettext_lazy("a"),),
]  # fmt: skip


def test_different_values_have_different_texts():
    texts = [names.text(value) for value in DIFFERENT]
    for (one, first), (other, second) in combinations(zip(DIFFERENT, texts, strict=True), 2):
        assert first != second, (one, other)


def test_texts_fit_into_keys():
    for value in DIFFERENT:
        assert not re.search(r"[\x00-\x20\x7f*?\[\]\\]", names.text(value))
        names.text(value).encode()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"x", "y", "z", "w"}, {"w", "z", "y", "x"}),
        (Size.L, Size.LARGE),
        (Filter("a", [1], seen=1), Filter("a", [1], seen=object())),
        (user(1, username="a"), user(1, username="b")),
        (SimpleLazyObject(lambda: user(1)), user(1)),
        (gettext_lazy("a"), gettext_lazy("a")),
    ],
    ids=str,
)
def test_equal_values_have_one_text(one, other):
    assert names.text(one) == names.text(other)


def test_what_a_property_keeps_is_no_part_of_a_value():
    value = Renamed("a", [1])
    before = names.text(value)
    assert value.made_of_the_rest == "aa"
    assert names.text(value) == before


def local():
    class Local(str):
        pass

    return Local


REFUSED = [
    (object(), "which one it is"),
    (len, "a function"),
    (lambda: 1, "a function"),
    ("".join, "a function"),
    (iter([]), "only once"),
    ((each for each in ()), "only once"),
    (User.objects.all(), "a queryset"),
    (HttpRequest(), "a request"),
    (QueryDict("a=1"), "urlencode"),
    (User(pk=1), "auth.User that is not saved"),
    (User(), "auth.User that is not saved"),
    (Slotted("a"), "Slotted"),
    (Narrowed("a", [1], 2), "holds extra, which is no field: decorate it with @dataclass too"),
    (Pinned("a", [1]), "holds pin, which is no field"),
    (local()("a"), "inside of a function"),
    (local(), "inside of a function"),
    ([1, {"a": object()}], "which one it is"),
    (type("Stateful", (list,), {})(), None),
]


@pytest.mark.parametrize(
    ("value", "says"), REFUSED, ids=lambda part: part if isinstance(part, str) else type(part).__name__
)
def test_what_has_no_identity_is_refused(value, says):
    if says is None:  # a subclass with attributes of its own
        names.text(value)
        value.more = 1
        says = "Stateful"
    with pytest.raises(TypeError, match=re.escape(says)):
        names.text(value)


ATOMS = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    st.text("a1%',:()=_#<>- NoneTrue.", max_size=6),
    *(st.binary(max_size=3), st.decimals(allow_nan=False), st.uuids(), st.dates(), st.datetimes()),
)
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=2), inner, max_size=2),
    ),
    max_leaves=6,
)


def exact(value):
    """Equality that tells types apart, which Python's does not."""
    if isinstance(value, (list, tuple)):
        return type(value), tuple(map(exact, value))
    if isinstance(value, dict):
        return dict, frozenset((name, exact(part)) for name, part in value.items())
    return type(value), repr(value)


@given(VALUES, VALUES)
def test_texts_are_equal_exactly_when_values_are(one, other):
    assert (names.text(one) == names.text(other)) == (exact(one) == exact(other))


SEPARATORS = st.text(":/_-.,|xyz'% ()", min_size=1, max_size=2).filter(lambda text: text[0] not in "%'")
FIELDS = st.tuples(*[st.one_of(ATOMS, st.text(":/_-.,|xyz' ()%", max_size=5))] * 3)


@given(st.tuples(SEPARATORS, SEPARATORS), FIELDS, FIELDS)
def test_a_template_never_makes_one_key_of_two_lists_of_fields(separators, one, other):
    template = names.Template(f"p{{a}}{separators[0]}{{b}}{separators[1]}{{c}}")
    made = [template.format(dict(zip("abc", fields, strict=True))) for fields in (one, other)]
    assert (made[0] == made[1]) == (exact(one) == exact(other))


PRODUCT_LIST = "product:list:page:{page}:category:{cat_id}"


@pytest.mark.parametrize(
    ("source", "fields", "key"),
    [
        (PRODUCT_LIST, {"page": 1, "cat_id": 7}, "product:list:page:1:category:7"),
        (PRODUCT_LIST, {"page": 1, "cat_id": "shoes"}, "product:list:page:1:category:shoes"),
        (PRODUCT_LIST, {"page": "1", "cat_id": None}, "product:list:page:'1':category:None"),
        (PRODUCT_LIST, {"page": 1, "cat_id": "a:b"}, "product:list:page:1:category:'a%3Ab'"),
        ("{a}_{b}", {"a": "x_y", "b": "z_z"}, "x%5Fy_z%5Fz"),
        ("user:{user.pk}:{user.username}", {"user": user(7, username="ann")}, "user:7:ann"),
        ("{point[0]}", {"point": Point(1, 2)}, "1"),
        ("front", {}, "front"),
        ("{{{a}}}", {"a": 1}, "{1}"),
    ],
)
def test_templates(source, fields, key):
    assert names.Template(source).format(fields) == key


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{}", "'{page}', not '{}'"),
        ("{0}:{1}", "'{page}', not '{}'"),
        ("{a}{b}", "between '{a}' and the field behind it"),
        ("{a}5{b}", "not '5', behind '{a}'"),
        ("{a}%{b}", "not '%'"),
        ("k:{a}'{b}", "another mark, not \"'\", behind '{a}'"),
        ("{a:>5}", "without a format"),
        ("{a!r}", "without a format"),
        ("{a", "double a brace"),
        ("{a-b}", "'a-b' is no name"),
        ("{a.b()}", "is no name"),
        ("", "Write a text"),
        (5, "Write a text"),
    ],
)
def test_templates_that_could_mix_keys_up_are_refused(source, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        names.Template(source)


TEMPLATES = {"product_list": names.Template(PRODUCT_LIST), "user": names.Template("user:{pk}")}


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("product_list", {"page": 1}, "lacks cat_id; it is 'product:list"),
        ("product_list", {}, "lacks cat_id, page"),
        ("user", {"pk": 1, "page": 1, "a": 1}, "has no a, page"),
        ("user", {"id": 1}, "lacks pk and has no id"),
        ("product_lst", {}, "Did you mean 'product_list'?"),
        ("zzz", {}, "There are 'product_list', 'user'."),
        (5, {}, "There are"),
    ],
)
def test_wrong_fields_and_names_are_reported_at_once(name, fields, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        names.key(TEMPLATES, name, fields)


def test_a_field_without_identity_is_named():
    with pytest.raises(TypeError, match="the key 'user': pk: nothing of a builtins"):
        names.key(TEMPLATES, "user", {"pk": object()})


TIMEOUTS = {"STATIC": 86400, "EVER": None, "NEVER": 0}


@pytest.mark.parametrize("given", [None, 0, 5, 2.5, object()], ids=str)
def test_what_is_no_name_stays_as_it_is(given):
    assert names.timeout(TIMEOUTS, given) is given


def test_named_timeouts():
    assert [names.timeout(TIMEOUTS, name) for name in TIMEOUTS] == [86400, None, 0]
    with pytest.raises(ValueError, match=r"'STATC' is not in OPTIONS\['TIMEOUTS'\]\. Did you mean 'STATIC'"):
        names.timeout(TIMEOUTS, "STATC")
    with pytest.raises(ValueError, match="There are none"):
        names.timeout({}, "STATIC")


@pytest.mark.parametrize("value", ["5", True, -1, float("nan"), float("inf"), [5]], ids=str)
def test_a_timeout_is_a_number_or_none(value):
    with pytest.raises(ValueError, match="None for ever"):
        names.seconds(value)


WITH_NAMES = {
    "default": {
        "BACKEND": "tezkor.backends.TezkorCache",
        "LOCATION": "memory://names",
        "OPTIONS": {"TIMEOUTS": {"STATIC": 100, "EVER": None}, "KEYS": {"product_list": PRODUCT_LIST}},
    }
}


@override_settings(CACHES=WITH_NAMES)
def test_every_verb_takes_the_name_of_a_timeout():
    cache = django_caches["default"]
    cache.set("set", 1, "STATIC")
    cache.set_many({"set_many": 1}, "STATIC")
    assert cache.add("add", 1, "STATIC")
    cache.get_or_set("get_or_set", lambda: 1, "STATIC")
    cache.get_many_or_set(["many"], lambda keys: dict.fromkeys(keys, 1), "STATIC")
    cache.set("touch", 1, None)
    assert cache.touch("touch", "STATIC")
    cache.set("expire", 1, None)
    assert cache.expire("expire", "STATIC")
    cache.incr("incr", default=1, timeout="STATIC")
    for key in ("set", "set_many", "add", "get_or_set", "many", "touch", "expire", "incr"):
        assert cache.ttl(key) == 100, key
    cache.set("ever", 1, "EVER")
    assert cache.ttl("ever") is None
    for call in (lambda: cache.set("k", 1, "STATC"), lambda: cache.get_or_set("k", 1, "STATC")):
        with pytest.raises(ValueError, match="Did you mean 'STATIC'"):
            call()
    assert cache.get("k") is None


@override_settings(CACHES=WITH_NAMES)
def test_keys_by_template():
    cache = django_caches["default"]
    assert cache.key("product_list", page=1, cat_id=7) == "product:list:page:1:category:7"
    with pytest.raises(ValueError, match="lacks cat_id"):
        cache.key("product_list", page=1)
    # What is too long for a key ends in a digest of the whole.
    one, other = (cache.key("product_list", page="p" * 500, cat_id=category) for category in (7, 8))
    assert one != other
    assert one.startswith("product:list:page:ppp")
    assert len(one) == len(other) == names.LONGEST_KEY


@pytest.mark.parametrize("page", ["api", "coming-from"])
def test_names_in_the_documentation_are_there(page):
    text = (Path(__file__).resolve().parent.parent / "docs" / f"{page}.md").read_text()
    methods = set(re.findall(r"\bcache\.(\w+)\(", text))
    exported = set(re.findall(r"\btezkor\.([A-Za-z]\w*)", text)) - {"backends"}
    assert methods
    assert exported
    assert [name for name in methods if not hasattr(TezkorCache, name)] == []
    assert exported <= set(tezkor.__all__)


def test_texts_of_the_documentation():
    """The table of values in keys."""
    text = (Path(__file__).resolve().parent.parent / "docs" / "api.md").read_text()
    told = {
        "shoes": "shoes",
        "ann@example.org": "ann@example.org",
        "'7'": "7",
        "'a%20b'": "a b",
        "(1,a)": (1, "a"),
        "list(1)": [1],
        "dict(b:1)": {"b": 1},
        "Decimal(1.50)": decimal.Decimal("1.50"),
        "date(2024-02-29)": datetime.date(2024, 2, 29),
    }
    for made, value in told.items():
        assert f"`{made}`" in text
        assert names.text(value) == made
