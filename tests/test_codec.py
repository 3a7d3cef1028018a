"""The codec against pickle: whatever is encoded comes back as pickle would have given it."""

import collections
import datetime as dt
import decimal
import enum
import functools
import math
import os
import pickle
import random
import sys
import uuid
import zoneinfo

import pytest
from django.contrib.auth import models as auth
from django.contrib.contenttypes import models as contenttypes
from django.http import HttpResponse
from django.utils.safestring import SafeString
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tezkor import _native

PICKLE, MODEL_PICKLE = 2, 3
TAGGED = 1
STORE = _native.Cache("memory://codec-mutated", size_bytes=1 << 20)


def same(one, other):
    """Equal, of equal types, all the way down, NaN and the order of dicts included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return math.copysign(1, one) == math.copysign(1, other) and (one == other or one != one != other)
    if isinstance(one, decimal.Decimal):
        return one.as_tuple() == other.as_tuple()
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one), list(other)) and same(list(one.values()), list(other.values()))
    if isinstance(one, (set, frozenset)):
        return one == other and sorted(map(str, map(type, one))) == sorted(map(str, map(type, other)))
    if isinstance(one, (dt.datetime, dt.time)):
        return one.replace(tzinfo=None) == other.replace(tzinfo=None) and (one.fold, repr(one.tzinfo)) == (
            other.fold,
            repr(other.tzinfo),
        )
    return one == other


def check(value, codec=TAGGED):
    data = _native.encode(value)
    assert data[0] == codec, f"{value!r} has codec {data[0]}"
    expected = pickle.loads(pickle.dumps(value, 5))
    decoded = _native.decode(data)
    assert same(decoded, expected), f"{decoded!r} is not {expected!r}"
    return decoded


UTC = dt.timezone.utc
TASHKENT = zoneinfo.ZoneInfo("Asia/Tashkent")
ODD_OFFSET = dt.timezone(-dt.timedelta(hours=4, minutes=56, seconds=2, microseconds=7))

LEAVES = [
    None,
    True,
    False,
    *(
        sign * 2**bits + delta
        for sign in (1, -1)
        for bits in (0, 4, 5, 7, 8, 15, 16, 31, 32, 63, 64, 65, 200, 5000)
        for delta in (-1, 0, 1)
    ),
    0.0,
    -0.0,
    1.5,
    math.inf,
    -math.inf,
    math.nan,
    5e-324,
    "",
    "plain",
    "oʻzbek 🎬",
    "nul \0 inside",
    "\ud800",
    "pair \ud83d\ude00 apart",
    *("x" * length for length in (31, 32, 255, 256, 65535, 65536)),
    b"",
    b"\x00\xff",
    *(b"y" * length for length in (255, 256, 65535, 65536)),
    dt.date(1, 1, 1),
    dt.date(9999, 12, 31),
    dt.date(2024, 2, 29),
    dt.time(0),
    dt.time(23, 59, 59, 999999, fold=1),
    dt.time(12, tzinfo=UTC),
    dt.time(12, tzinfo=TASHKENT),
    dt.datetime(1, 1, 1),
    dt.datetime(9999, 12, 31, 23, 59, 59, 999999),
    dt.datetime(2024, 10, 27, 2, 30, fold=1),
    dt.datetime(2024, 10, 27, 2, 30, tzinfo=UTC, fold=1),
    dt.datetime(2024, 10, 27, 2, 30, tzinfo=dt.timezone(dt.timedelta(hours=5))),
    dt.datetime(2024, 10, 27, 2, 30, tzinfo=ODD_OFFSET),
    dt.datetime(2024, 10, 27, 2, 30, tzinfo=TASHKENT),
    dt.datetime(2024, 10, 27, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=1),
    dt.timedelta(0),
    dt.timedelta.max,
    dt.timedelta.min,
    dt.timedelta(days=-3, microseconds=1),
    *map(
        decimal.Decimal,
        [
            "0",
            "-0",
            "1.50",
            "1E+6144",
            "-1E-6176",
            "NaN",
            "-NaN",
            "sNaN12",
            "Infinity",
            "-Infinity",
            "9" * 60,
        ],
    ),
    uuid.UUID(int=0),
    uuid.UUID(int=2**128 - 1),
    uuid.uuid4(),
]

CONTAINERS = [
    [],
    (),
    {},
    set(),
    frozenset(),
    [[], {}, ()],
    [()],
    ((),),
    {1, "a", None, (1, 2), frozenset({3})},
    frozenset({b"x", 2.5}),
    {1: "int", "1": "str", b"1": "bytes", None: 0, (1, (2,)): [], 1.5: 2, frozenset({1}): 3},
    {"z": 1, "a": 2, "m": 3},
    {f"k{number}": number for number in range(70000)},
    list(range(70000)),
    tuple(range(300)),
    [{"id": 1, "name": "a"}, {"id": 2, "name": None}],
    [{"id": 1, "name": "a"}, {"name": None, "id": 2}],
    [{"id": 1}, {"id": 2, "more": 3}],
    [{"id": 1}, {"id": 2}, 3],
    [{}, {}],
    [{1: 2}, {1: 3}],
    [{"\ud800": 1}, {"\ud800": 2}],
    [(1, 2), (3, 4)],
    [(1, 2), (3,)],
    [(), ()],
    [(1, [2]), (3, [4])],
    [[1], [2]],
    [{"rows": [{"id": 1}, {"id": 2}]}, {"rows": []}],
    {"when": dt.datetime(2024, 1, 1, tzinfo=UTC), "tags": {"a", "b"}, "price": decimal.Decimal("1.20")},
]


@pytest.mark.parametrize("value", LEAVES, ids=lambda value: repr(value)[:40])
def test_a_leaf_comes_back_as_from_pickle(value):
    check(value)
    check([value])
    check({"key": value})


@pytest.mark.parametrize("value", CONTAINERS, ids=lambda value: repr(value)[:40])
def test_a_container_comes_back_as_from_pickle(value):
    check(value)


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    pass


class Number(int):
    pass


class Items(list):
    pass


Point = collections.namedtuple("Point", "x y")

FOREIGN = [
    Colour.RED,
    Text("x"),
    Number(5),
    Items([1]),
    Point(1, 2),
    collections.OrderedDict(a=1),
    collections.defaultdict(int, a=1),
    bytearray(b"x"),
    1 + 2j,
    range(3),
    dt.timezone.utc,
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=5), "named")),
    zoneinfo.ZoneInfo.no_cache("Asia/Tashkent"),
    Exception,
    len,
]


@pytest.mark.parametrize("value", FOREIGN, ids=lambda value: repr(value)[:40])
def test_what_has_no_tag_is_pickled_with_all_around_it(value):
    for wrapped in (value, [value], {"a": (1, [value])}, (value,)):
        data = _native.encode(wrapped)
        assert data[0] == PICKLE
        assert pickle.dumps(_native.decode(data), 5) == pickle.dumps(
            pickle.loads(pickle.dumps(wrapped, 5)), 5
        )


def test_a_subclass_is_never_taken_for_its_base():
    data = _native.encode([True, 1, Colour.RED])
    assert [type(item) for item in _native.decode(data)] == [bool, int, Colour]


SHARED = [1]


@pytest.mark.parametrize(
    "value",
    [
        [SHARED, SHARED],
        {"a": SHARED, "b": [SHARED]},
        (SHARED, SHARED),
        [{"a": 1}] * 2,
        [(SHARED,)] * 2,
        [{"a": SHARED}, {"a": SHARED}],
        [{1}] * 2,
        {"a": {"x": SHARED}, "b": (SHARED,)},
        # What is shared here is a tuple, and through it a list that only the tuple holds.
        [([1],)] * 2,
        (([1],),) * 2,
        dict.fromkeys("ab", ({1},)),
        [{"a": ((), ([1],))}] * 1 + [{"a": pair} for pair in [([1],)] * 2],
    ],
    ids=repr,
)
def test_what_is_shared_in_a_value_stays_shared(value):
    data = _native.encode(value)
    assert data[0] == PICKLE
    assert pickle.dumps(_native.decode(data), 5) == pickle.dumps(value, 5)
    store = cache()
    store.set("k", value)
    for _ in range(3):
        assert pickle.dumps(store.get("k"), 5) == pickle.dumps(value, 5)


def test_what_is_shared_and_cannot_change_needs_no_pickle():
    pair = (1, "a")
    check([pair, pair, pair])
    check({"a": pair, "b": [pair], "c": frozenset([pair])})
    text = "x" * 50
    check([{"a": text}, {"a": text}])


def test_a_value_that_holds_itself_is_pickled():
    value = [1]
    value.append(value)
    decoded = _native.decode(_native.encode(value))
    assert decoded[1] is decoded
    mapping = {}
    mapping["self"] = (mapping,)
    decoded = _native.decode(_native.encode(mapping))
    assert decoded["self"][0] is decoded


def nested(levels):
    value = None
    for _ in range(levels):
        value = [value]
    return value


def test_deep_values_are_pickled():
    check(nested(64), TAGGED)
    check(nested(65), PICKLE)
    with pytest.raises(RecursionError):
        _native.encode(nested(sys.getrecursionlimit() * 20))


def test_pickling_errors_are_pythons_own():
    with pytest.raises((pickle.PicklingError, AttributeError), match=r"lambda|local object"):
        _native.encode([1, lambda: None])


def cache(**options):
    return _native.Cache(f"memory://codec-{random.getrandbits(64)}", **options)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Text("x"), "value is test_codec.Text"),
        ([1, {"a": (2, Colour.RED)}], "value[1]['a'][1] is test_codec.Colour"),
        ([{"id": 1, "x": 1j}, {"id": 2, "x": 2j}], "value[0]['x'] is complex"),
        ([(1, 2), (3, 4j)], "value[1][1] is complex"),
        ({1j: 1}, "value key 1j is complex"),
        ([SHARED, SHARED], "value[1] is reached in two ways"),
        (nested(65), "is nested too deep"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_without_pickle_the_error_names_the_path(value, path):
    with pytest.raises(TypeError) as caught:
        cache(pickle=False).set("k", value)
    assert path in str(caught.value)
    assert "PICKLE" in str(caught.value)


def test_without_pickle_a_stored_pickle_is_a_miss():
    name = f"memory://codec-{random.getrandbits(64)}"
    _native.Cache(name).set("k", Text("x"))
    assert _native.Cache(name).get("k") == "x"
    assert _native.Cache(name, pickle=False).get("k") is None


class Canary:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


def test_without_pickle_no_stored_pickle_is_run():
    name = f"memory://codec-{random.getrandbits(64)}"
    _native.Cache(name).set("k", Canary())
    assert _native.Cache(name, pickle=False).get("k") is None
    assert _native.Cache(name, pickle=False).get_many(["k"]) == {}


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(codec=None, categories=None), max_size=20),
    st.binary(max_size=20),
    st.dates(),
    st.times(timezones=st.none() | st.just(UTC)),
    st.datetimes(timezones=st.none() | st.timezones() | st.just(UTC)),
    st.timedeltas(),
    st.decimals(),
    st.uuids(),
)


def is_nan(value):
    return (
        math.isnan(value)
        if isinstance(value, float)
        else isinstance(value, decimal.Decimal) and value.is_nan()
    )


# A NaN is no member of the set that it is in, and a signalling one cannot be hashed.
hashable_leaves = leaves.filter(lambda value: not is_nan(value))
hashable = st.recursive(
    hashable_leaves, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4
)
rows = st.lists(st.text(max_size=3), min_size=1, max_size=4, unique=True).flatmap(
    lambda names: st.lists(st.fixed_dictionaries(dict.fromkeys(names, leaves)), min_size=2, max_size=5)
)
values = st.recursive(
    leaves | rows,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.sets(hashable, max_size=4)
        | st.lists(st.tuples(inner, inner), max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(values)
def test_random_values_come_back_as_from_pickle(value):
    data = _native.encode(value)
    assert same(_native.decode(data), pickle.loads(pickle.dumps(value, 5)))


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(values)
def test_random_values_come_back_from_a_cache_each_time(value):
    store = cache()
    store.set("k", value)
    expected = pickle.loads(pickle.dumps(value, 5))
    for _ in range(3):
        assert same(store.get("k"), expected)


def examples():
    for value in [*LEAVES, *CONTAINERS]:
        data = _native.encode(value)
        if len(data) < 300:
            yield data


def harmless(data):
    """Decodes anything or raises ValueError; nothing else may happen."""
    try:
        _native.decode(data)
    except ValueError:
        pass


def test_cut_bytes_are_refused():
    for data in examples():
        for end in range(len(data)):
            with pytest.raises(ValueError, match="not a value"):
                _native.decode(data[:end])


def test_changed_bytes_never_crash():
    chance = random.Random(1)
    for data in examples():
        for position in range(1, len(data)):
            changed = bytearray(data)
            changed[position] ^= 1 << chance.randrange(8)
            harmless(bytes(changed))


@settings(max_examples=2000, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([TAGGED, TAGGED | 0x40, TAGGED | 0x80, TAGGED | 0xC0, 3, 0]))
def test_hostile_bytes_never_crash(payload, codec):
    harmless(bytes([codec]) + payload)


SEED_BYTES_MAX = 8 << 10
# What a length or count in the format begins with, and numbers that overflow something.
HOSTILE = [
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff",
    b"\xc6\x7f\xff\xff\xff",
    b"\x00" * 9,
]
HOSTILE += [b"\x91" * 80, b"\xcf" + b"\xff" * 8, b"\xd3\x80" + b"\x00" * 7, b"\xff" * 8]


@functools.cache
def seeds():
    """Encodings of everything that the format has a tag for, of up to a few KiB; none is a pickle that would be run."""
    kinds = [contenttypes.ContentType(pk=number, app_label="a", model=f"m{number}") for number in range(200)]
    groups = [auth.Group(pk=number, name="g" * number) for number in range(3)]
    may = [
        auth.Permission(pk=number, name="p", codename="c", content_type=kinds[number]) for number in range(60)
    ]
    users = [
        auth.User(pk=number, username=f"u{number}", last_login=dt.datetime(2024, 1, 1, tzinfo=UTC))
        for number in range(30)
    ]
    response = HttpResponse("<p>Solaris</p>" * 20, headers={"Vary": "Cookie", "X-Length": "20"}, status=203)
    response.set_cookie("theme", "dark", max_age=60)
    rows = [
        {"id": n, "name": f"n{n}", "when": dt.datetime(2024, 1, 1, tzinfo=TASHKENT), "in": (n, [n])}
        for n in range(60)
    ]
    models = [kinds, groups[0], may, [may[0], groups[0]], users, {"user": users[0], "may": may[:5]}]
    texts = [response, HttpResponse(b""), SafeString("<b>" * 50), [SafeString("x")], "page " * 1500]
    values = [*LEAVES, *CONTAINERS, *models, *texts, rows, [(n, str(n), None) for n in range(200)]]
    encoded = [data for data in map(_native.encode, values) if len(data) <= SEED_BYTES_MAX]
    assert {data[0] for data in encoded} == {TAGGED}
    assert sum(len(data) > 1000 for data in encoded) >= 6
    packed = [
        bytes([TAGGED | flag]) + (len(data) - 1).to_bytes(4, "little") + pack(data[1:])
        for flag, pack in ((64, lz4), (128, zstd))
        for data in encoded
        if 300 < len(data) < 3000
    ]
    assert packed
    return encoded + packed


@st.composite
def mutated(draw):
    """An encoding with some bits flipped, parts cut out, or parts of other encodings and hostile lengths put in."""
    data = bytearray(draw(st.sampled_from(seeds())))
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["flip", "flip", "cut", "splice", "hostile", "end"]))
        # The first byte names the codec, and must not come to name a pickle: it would be run.
        at = draw(st.integers(1, max(1, len(data) - 1)))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 40))]
        elif kind == "splice":
            other = draw(st.sampled_from(seeds()))
            start = draw(st.integers(1, len(other)))
            part = other[start : start + draw(st.integers(1, 400))]
            data[at : at + draw(st.sampled_from([0, len(part)]))] = part
        elif kind == "hostile":
            part = draw(st.sampled_from(HOSTILE))
            data[at : at + draw(st.sampled_from([0, len(part)]))] = part
        elif kind == "end":
            del data[at:]
    return bytes(data)


@settings(
    max_examples=50_000 if os.environ.get("SOAK") == "1" else 3000,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(mutated())
def test_mutated_encodings_never_crash(data):
    """What they come to can be stored and copied, or raises what its class raises: a response without what Django's
    pickling looks for, say. A panic is no Exception."""
    try:
        value = _native.decode(data)
    except ValueError:
        return
    try:
        STORE.set("mutated", value)
    except Exception:
        return
    for _ in range(2):
        STORE.get("mutated")


def test_mutated_heads_of_pickled_models_never_crash():
    """Only what stands before the pickle is changed: a changed pickle might do anything."""
    data = _native.encode([auth.Group(pk=1, name="g"), range(3)])
    assert data[0] == MODEL_PICKLE
    assert _native.decode(data)[0].name == "g"
    head = data.index(b"\x80\x05")
    for position in range(1, head):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            try:
                value = _native.decode(bytes(changed))
            except ValueError:
                continue
            # Django finds a model by its name in capitals, too.
            assert (value[0].name, bit) == ("g", 5)
    for end in range(1, head + 1):
        with pytest.raises(ValueError, match="not a value"):
            _native.decode(data[:end])


def test_hostile_nesting_and_sizes_are_refused():
    for payload in (
        b"\x91" * 1_000_000,
        b"\xc9\xff\xff\xff\xff\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\x7f\xff\xff\xff",
    ):
        with pytest.raises(ValueError, match="not a value"):
            _native.decode(b"\x01" + payload)


@pytest.mark.parametrize("codec", [0x41, 0x81])
def test_a_small_input_cannot_unpack_to_much(codec):
    for size in (0xFFFFFFFF, 64 << 20, (64 << 20) + 1):
        with pytest.raises(ValueError, match="not a value"):
            _native.decode(bytes([codec]) + size.to_bytes(4, "little") + b"\x00" * 40)


def test_values_are_compressed_above_the_threshold_only():
    store = cache(compress_min_bytes=1000)
    page = "<li>Solaris (1972)</li>" * 1000
    noise = random.Random(2).randbytes(5000)
    store.set("page", page)
    store.set("short", page[:500])
    store.set("noise", noise)
    store.set("pickled", Items([page]))
    assert store.explain("page")["compressed"] == "lz4"
    assert store.explain("page")["size_bytes"] < 2000
    assert store.explain("pickled")["compressed"] == "lz4"
    assert store.explain("short")["compressed"] is None
    assert store.explain("noise")["compressed"] is None
    assert store.get_many(["page", "noise", "pickled"]) == {"page": page, "noise": noise, "pickled": [page]}


# Nothing that a caller can change may be shared: not between two gets, not with the object that was set.


def changes():
    yield [1, 2], lambda value: value.append(3)
    yield {"a": 1}, lambda value: value.update(a=2)
    yield {1, 2}, lambda value: value.add(3)
    yield [{"id": 1}, {"id": 2}], lambda value: value[1].update(id=3)
    yield [{"id": [1]}, {"id": [2]}], lambda value: value[1]["id"].append(3)
    yield ([1], 2), lambda value: value[0].append(3)
    yield {"a": {"b": [{"c": {1}}]}}, lambda value: value["a"]["b"][0]["c"].add(2)
    yield [(1, [2]), (3, [4])], lambda value: value[0][1].append(5)
    yield Items([1]), lambda value: value.append(2)
    yield bytearray(b"x"), lambda value: value.append(1)
    yield [collections.OrderedDict(a=[1])], lambda value: value[0]["a"].append(2)


@pytest.mark.parametrize(("value", "change"), list(changes()), ids=lambda value: repr(value)[:30])
def test_changing_what_was_got_or_set_changes_nothing_in_the_cache(value, change):
    expected = pickle.loads(pickle.dumps(value, 5))
    for store in (cache(), cache(decoded_bytes=0)):
        given_value = pickle.loads(pickle.dumps(value, 5))
        store.set("k", given_value)
        change(given_value)
        for _ in range(3):
            got = store.get("k")
            assert same(got, expected)
            change(got)
            [many] = store.get_many(["k"]).values()
            assert same(many, expected)
            change(many)


def test_what_cannot_change_is_decoded_once():
    store = cache()
    for value in [
        "text" * 20,
        b"bytes",
        (1, ("a", None)),
        dt.datetime(2024, 1, 1, tzinfo=UTC),
        decimal.Decimal("1.5"),
        frozenset({1}),
    ]:
        store.set("k", value)
        assert store.get("k") is store.get("k")
    before = store.stats()["decoded_entries"]
    assert before == 1
    store.set("k", 5)
    assert store.get("k") == 5
    assert store.stats()["decoded_entries"] == 0


def test_decoded_values_stay_within_their_bytes():
    store = cache(decoded_bytes=1 << 20)
    for number in range(3000):
        store.set(f"k{number}", "x" * 2000)
        store.get(f"k{number // 2}")
    stats = store.stats()
    assert 500_000 < stats["decoded_bytes"] <= 1 << 20


# -------------------------------------------------------------------------------------------------------- compression


def lz4(payload):
    """A block of literals alone, as the format's description has it."""
    extra, rest = divmod(len(payload) - 15, 255)
    return b"\xf0" + b"\xff" * extra + bytes([rest]) + payload


def zstd(payload):
    """A frame with its size in one segment, and one raw block."""
    header = b"\x28\xb5\x2f\xfd" + b"\x60" + (len(payload) - 256).to_bytes(2, "little")
    return header + (len(payload) << 3 | 1).to_bytes(3, "little") + payload


@pytest.mark.parametrize(("flag", "pack"), [(64, lz4), (128, zstd)], ids=["lz4", "zstd"])
def test_compressed_bytes_that_are_cut_or_claim_another_size_are_unreadable(flag, pack):
    value = "<li>Solaris (1972)</li>" * 20
    plain = _native.encode(value)
    payload = plain[1:]

    def packed(claim, body):
        return bytes([plain[0] | flag]) + claim.to_bytes(4, "little") + body

    body = pack(payload)
    assert _native.decode(packed(len(payload), body)) == value
    for claim in (0, 1, len(payload) - 1, len(payload) + 1, 100_000, 1 << 30, (1 << 32) - 1):
        with pytest.raises(ValueError, match="not a value"):
            _native.decode(packed(claim, body))
    for end in range(len(body)):
        with pytest.raises(ValueError, match="not a value"):
            _native.decode(packed(len(payload), body[:end]))


class Season(dt.tzinfo):
    """A zone that its owner may change."""

    hours = 1

    def utcoffset(self, when):
        return dt.timedelta(hours=self.hours)

    def dst(self, when):
        return None


def test_a_zone_that_may_change_is_not_shared():
    store = _native.Cache("memory://zones")
    store.set("when", dt.datetime(2024, 1, 1, tzinfo=Season()))
    one, other = store.get("when"), store.get("when")
    assert one == other
    assert one.tzinfo is not other.tzinfo
    one.tzinfo.hours = 5
    assert store.get("when").tzinfo.hours == 1
