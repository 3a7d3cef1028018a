"""``@cached`` and ``@memoize_request``: whose results are kept, under which key, for how long and for whom."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import functools
import inspect
import pickle
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django.contrib.auth.models import User
from django.core.cache import InvalidCacheBackendError
from django.core.signals import request_finished, request_started
from django.http import HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path
from django.utils.functional import cached_property
from hypothesis import given
from hypothesis import strategies as st

import tezkor
from tezkor import caches, decorators, memo, names
from tezkor.test import clear_caches

ran = []  # what the functions below were called with


@pytest.fixture(autouse=True)
def empty():
    clear_caches()
    ran.clear()
    for cached in list(decorators._decorated):
        cached._forget()
    caches["django"].clear()


def user(pk, **fields):
    made = User(pk=pk, **fields)
    made._state.adding = False
    return made


@tezkor.cached(60)
def price(product, currency="EUR", *more, digits=2, **options):
    """What it costs."""
    ran.append((product, currency, more, digits, options))
    return len(ran)


@tezkor.cached(60)
async def aprice(product, currency="EUR"):
    ran.append((product, currency))
    await asyncio.sleep(0)
    return len(ran)


def called(*args, **kwargs):
    return args, kwargs


HEAD = "test_decorators.price("


@pytest.mark.parametrize(
    ("call", "key"),
    [
        (called(1), "product=1,currency=EUR,more=(),digits=2,options=dict()"),
        (called(1, "EUR"), "product=1,currency=EUR,more=(),digits=2,options=dict()"),
        (called(currency="EUR", product=1), "product=1,currency=EUR,more=(),digits=2,options=dict()"),
        (called(digits=2, product=1), "product=1,currency=EUR,more=(),digits=2,options=dict()"),
        (called("1"), "product='1',currency=EUR,more=(),digits=2,options=dict()"),
        (called(1, "USD", 3, 4), "product=1,currency=USD,more=(3,4),digits=2,options=dict()"),
        (called(1, b=2, a=1), "product=1,currency=EUR,more=(),digits=2,options=dict(a:1,b:2)"),
        (called(user(7)), "product=auth.User#7,currency=EUR,more=(),digits=2,options=dict()"),
        (called(self=1, product=2), "product=2,currency=EUR,more=(),digits=2,options=dict(self:1)"),
    ],
)
def test_the_key_of_a_call(call, key):
    args, kwargs = call
    assert price.key(*args, **kwargs) == f"{HEAD}{key})"


def test_a_call_is_run_once_for_equal_arguments():
    calls = [called(1), called(1, "EUR"), called(currency="EUR", product=1), called(1.0), called(True)]
    assert [price(*args, **kwargs) for args, kwargs in calls] == [1, 1, 1, 2, 3]
    assert ran[0] == (1, "EUR", (), 2, {})
    assert price.cache_info() == (2, 3, 3)


def test_a_long_key_ends_in_a_digest_of_the_whole():
    one, other = price.key("a" * 5000 + "b"), price.key("a" * 5000 + "c")
    assert one != other
    assert len(one) == len(other) == names.LONGEST_KEY
    assert one.startswith(f"{HEAD}product=aaa")
    assert re.search(r"~[0-9a-f]{32}$", one)


SMALL = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from(["", "1", "a", "None"]))


@given(st.lists(SMALL, max_size=3), st.dictionaries(st.sampled_from(["currency", "digits", "x"]), SMALL))
def test_keys_are_equal_exactly_when_calls_are(args, kwargs):
    def bound(args, kwargs):
        made = inspect.signature(price).bind(*args, **kwargs)
        made.apply_defaults()
        return [(name, repr(value)) for name, value in made.arguments.items() if name != "options"] + [
            sorted((name, repr(value)) for name, value in made.arguments["options"].items())
        ]

    try:
        expected = bound((1, *args), kwargs)
    except TypeError:
        with pytest.raises(TypeError, match="price"):
            price.key(1, *args, **kwargs)
        return
    key = price.key(1, *args, **kwargs)
    shuffled = dict(reversed(kwargs.items()))
    assert price.key(1, *args, **shuffled) == key
    for other_args, other_kwargs in [((1,), {}), ((1, "a"), {}), ((1,), {"digits": 1}), ((1,), {"x": None})]:
        assert (price.key(*other_args, **other_kwargs) == key) == (
            bound(other_args, other_kwargs) == expected
        )


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        (object(), "nothing of a builtins.object"),
        (lambda: 1, "a function"),
        (User(), "not saved"),
        (User.objects.all(), "a queryset"),
        (iter([]), "only once"),
        (RequestFactory().get("/"), "a request"),
    ],
    ids=["object", "lambda", "unsaved", "queryset", "iterator", "request"],
)
def test_an_argument_without_identity_is_an_error_of_the_call(argument, says):
    with pytest.raises(TypeError, match=r"argument product cannot .*" + says + r".* Pass key="):
        price(argument)
    deep = []
    deep.append(deep)
    with pytest.raises(TypeError, match="contains itself"):
        price(1, deep)
    assert ran == []


def test_wrong_arguments_are_told_as_by_the_function():
    with pytest.raises(TypeError, match=r"price\(\) missing 1 required positional argument: 'product'"):
        price()


def test_invalidate_refresh_and_info():
    assert [price(1), price(1), price(2)] == [1, 1, 2]
    assert price.invalidate(1)
    assert not price.invalidate(1)
    assert [price(product=1), price(2)] == [3, 2]
    assert price.refresh(1) == 4
    assert [price(1), price(2)] == [4, 2]
    assert price.cache_info() == (4, 3, 4)


def test_none_and_other_falsy_values_are_kept():
    for value in (None, 0, "", [], False):
        assert echo(value) == value
        assert echo(value) == value
    assert echo.cache_info() == (5, 5, 5)
    assert few(None) is None
    assert few(None) is None
    assert few(0) == few(0) == 0
    assert few.cache_info() == (1, 3, 3)


@tezkor.cached(60)
def echo(value):
    return value


@tezkor.cached(60, cache_none=False)
def few(value):
    return value


@tezkor.cached(60)
def skips(value):
    ran.append(value)
    return tezkor.skip


def test_what_is_skipped_is_not_kept():
    assert skips(1) is None
    assert skips(1) is None
    assert ran == [1, 1]
    assert skips.refresh(1) is None


@tezkor.cached(60)
def fails(value):
    ran.append(value)
    if len(ran) > 1:
        raise LookupError("no source")
    return len(ran)


def test_a_refresh_that_fails_raises_and_leaves_the_old_value():
    assert fails(1) == 1
    with pytest.raises(LookupError, match="no source"):
        fails.refresh(1)
    assert fails(1) == 1
    assert fails.cache_info() == (1, 1, 2)


@tezkor.cached(60, tags=["data"])
def overtaken():
    ran.append(caches["default"].get(overtaken.key()))
    if len(ran) == 2:
        caches["default"].invalidate_tags("data")
    return len(ran)


def test_a_refresh_serves_the_old_value_and_does_not_cover_an_invalidation():
    assert overtaken() == 1
    assert overtaken.refresh() == 2
    assert ran == [None, 1]  # the old value was there while the new one was loaded
    assert not caches["default"].has_key(overtaken.key())
    assert overtaken() == 3


@tezkor.cached(60)
def slow(value):
    ran.append(value)
    time.sleep(0.05)
    return len(ran)


def test_threads_that_call_at_once_share_one_run():
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(slow, [1] * 8)) == {1}
    assert slow.cache_info() == (7, 1, 1)


def test_coroutine_functions():
    async def use():
        assert [await aprice(1), await aprice(1, "EUR"), await aprice("1")] == [1, 1, 2]
        assert await asyncio.gather(*[aprice(5) for _ in range(5)]) == [3] * 5
        assert await aprice.ainvalidate(1)
        assert await aprice(1) == 4
        assert await aprice.arefresh(1) == 5
        assert await aprice(1) == 5
        assert aprice.invalidate(1)

    asyncio.run(use())
    with pytest.raises(TypeError, match="await arefresh"):
        aprice.refresh(1)
    assert aprice.cache_info().loads == 5


def test_async_twins_of_a_plain_function_run_it_in_a_thread():
    async def use():
        assert await where.arefresh() != threading.get_ident()
        assert await where.ainvalidate()

    asyncio.run(use())


@tezkor.cached(60)
def where():
    return threading.get_ident()


def test_it_looks_like_the_function():
    assert price.__name__ == "price"
    assert price.__doc__ == "What it costs."
    assert price.__module__ == __name__
    assert list(inspect.signature(price).parameters) == ["product", "currency", "more", "digits", "options"]
    assert pickle.loads(pickle.dumps(price)) is price
    assert repr(price) == f"<cached {__name__}.price>"
    for function in (price, Shop().total, Shop.of_class, Shop.of_nobody):
        assert not iscoroutinefunction(function)
        assert not inspect.iscoroutinefunction(function)
    for function in (aprice, Shop().atotal, anumber):
        assert iscoroutinefunction(function)
        assert inspect.iscoroutinefunction(function)
        assert asyncio.iscoroutinefunction(function)
    assert str(inspect.signature(Shop().total)) == str(inspect.signature(Shop().atotal)) == "(tax=0)"
    assert str(inspect.signature(Shop.of_class)) == "(number)"
    assert Shop().total.__name__ == "total"
    shop = Shop(1)
    assert shop.total == shop.total
    assert hash(shop.total) == hash(shop.total)
    assert shop.total != Shop(1).total


@dataclasses.dataclass
class Shop:
    number: int = 1

    @tezkor.cached(60)
    def total(self, tax=0):
        ran.append((self.number, tax))
        return len(ran)

    @tezkor.cached(60)
    async def atotal(self, tax=0):
        ran.append((self.number, tax))
        return len(ran)

    @tezkor.cached(60)
    @classmethod
    def of_class(cls, number):
        ran.append((cls, number))
        return len(ran)

    @classmethod
    @tezkor.cached(60)
    def of_class_below(cls, number):
        ran.append((cls, number))
        return len(ran)

    @tezkor.cached(60)
    @staticmethod
    def of_nobody(number):
        ran.append(number)
        return len(ran)

    @staticmethod
    @tezkor.cached(60)
    def of_nobody_below(number):
        ran.append(number)
        return len(ran)

    @tezkor.cached(60)
    @property
    def sum(self):
        """All of it."""
        ran.append(self.number)
        return len(ran)

    @property
    @tezkor.cached(60)
    def sum_below(self):
        ran.append(self.number)
        return len(ran)

    @cached_property
    @tezkor.cached(60)
    def kept(self):
        ran.append(self.number)
        return len(ran)


class Branch(Shop):
    pass


def test_methods_are_keyed_by_what_the_instance_is():
    one, same, other = Shop(1), Shop(1), Shop(2)
    assert [one.total(), same.total(0), Shop.total(one), other.total(), one.total(tax=1)] == [1, 1, 1, 2, 3]
    assert Branch(1).total() == 4
    assert one.total.key(1) == f"{__name__}.Shop.total(self={__name__}.Shop(number=1),tax=1)"
    assert same.total.invalidate()
    assert one.total() == 5
    assert one.total.refresh() == 6
    assert other.total() == 2
    assert one.total.cache_info() == Shop.total.cache_info() == (3, 5, 6)

    async def use():
        assert [await one.atotal(), await same.atotal(tax=0)] == [7, 7]
        assert await one.atotal.arefresh() == 8
        assert await one.atotal.ainvalidate()

    asyncio.run(use())


@pytest.mark.parametrize("name", ["of_class", "of_class_below"])
def test_class_methods(name):
    assert [getattr(owner, name)(1) for owner in (Shop, Shop(5), Branch, Branch(5))] == [1, 1, 2, 2]
    assert ran == [(Shop, 1), (Branch, 1)]
    if name == "of_class":
        assert Branch.of_class.invalidate(1)
        assert [Shop.of_class(1), Shop(1).of_class(1), Branch.of_class(number=1)] == [1, 1, 3]


@pytest.mark.parametrize("name", ["of_nobody", "of_nobody_below"])
def test_static_methods(name):
    assert [getattr(owner, name)(1) for owner in (Shop, Shop(5), Branch)] == [1, 1, 1]
    assert getattr(Shop(5), name).invalidate(1)
    assert getattr(Shop, name)(number=1) == 2


@pytest.mark.parametrize("name", ["sum", "sum_below"])
def test_properties(name):
    assert [getattr(Shop(number), name) for number in (1, 1, 2)] == [1, 1, 2]
    verbs = Shop.sum if name == "sum" else Shop.sum_below.fget
    assert verbs.invalidate(Shop(1))
    assert [getattr(Shop(number), name) for number in (1, 2)] == [3, 2]
    assert verbs.refresh(Shop(1)) == 4
    assert verbs.cache_info() == (2, 3, 4)


def test_properties_remain_properties():
    assert Shop.sum.__doc__ == "All of it."
    assert isinstance(Shop.sum, property)
    with pytest.raises(AttributeError):
        Shop(1).sum = 5
    assert [Shop(1).kept, Shop(1).kept, len(ran)] == [1, 1, 1]


class Plain:
    @tezkor.cached(60)
    def method(self):
        return 1


def test_an_instance_without_identity_is_an_error():
    with pytest.raises(TypeError, match=r"argument self cannot .*Plain"):
        Plain().method()


def outer(number):
    def inner(value):
        return value * number

    return inner


def local():
    def inner(value):
        return value

    return inner


def wrapped_by(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)

    return inner


@tezkor.cached(60)
@wrapped_by
def behind(value, more=1):
    return value


def test_other_decorators_may_be_below():
    assert behind(1) == 1
    assert behind.key(1) == f"{__name__}.behind(value=1,more=1)"


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (lambda: 1, "a lambda has no name"),
        (outer(2), "uses number of the function around it"),
        (wrapped_by(outer(2)), "uses number of the function around it"),
        (functools.partial(price, 1), "no function with a name"),
        (5, "no function with a name"),
        (Shop, "no function with a name"),
        (cached_property(lambda self: 1), "a cached_property keeps its value by itself"),
        (functools.cached_property(lambda self: 1), "a cached_property keeps its value by itself"),
    ],
    ids=["lambda", "closure", "wrapped", "partial", "number", "class", "cached_property", "functools"],
)
def test_what_cannot_be_told_apart_is_not_decorated(target, says):
    with pytest.raises(TypeError, match=says):
        tezkor.cached(60)(target)


def test_generators_are_not_decorated():
    def generator():
        yield 1

    async def agenerator():
        yield 1

    for function in (generator, agenerator):
        with pytest.raises(TypeError, match="read only once"):
            tezkor.cached(60)(function)


def test_a_key_makes_any_function_distinct():
    double, triple = (tezkor.cached(60, key=f"{number}:{{value}}")(outer(number)) for number in (2, 3))
    assert [double(5), triple(5), double(5)] == [10, 15, 10]
    assert tezkor.cached(60)(local())(5) == 5


@pytest.mark.parametrize(
    ("key", "made"),
    [
        ("price:{product.pk}", "price:7"),
        ("{currency}:{product.username}", "EUR:ann"),
        (lambda product, currency="EUR": f"own:{product.pk}", "own:7"),
    ],
)
def test_keys_of_ones_own(key, made):
    @tezkor.cached(60, key=key)
    def function(product, currency="EUR"):
        return currency

    assert function.key(user(7, username="ann")) == made
    assert function(user(7, username="ann")) == "EUR"
    assert caches["default"].get(made) == "EUR"
    assert function.invalidate(product=user(7, username="ann"))


@pytest.mark.parametrize(
    ("terms", "error", "says"),
    [
        ({"key": "price:{pk}"}, ValueError, "names pk, which price"),
        ({"key": "price:{}"}, ValueError, "Give every field a name"),
        ({"key": "{product}{currency}"}, ValueError, "between '{product}'"),
        ({"key": 5}, TypeError, "key is 5"),
        ({"key": ""}, TypeError, "key is ''"),
        ({"tags": "product"}, TypeError, "write a list"),
        ({"tags": ["product:{pk}"]}, ValueError, "names pk, which price"),
        ({"tags": ["product:{}"]}, ValueError, "name its fields"),
        ({"tags": [5]}, TypeError, "hold 5"),
        ({"stale": "x"}, TypeError, "stale must be a number of seconds"),
        ({"stale": float("nan")}, ValueError, "stale must be a number of seconds"),
        ({"soft_timeout": "x"}, ValueError, "soft_timeout is 'x': write a number of seconds, or None"),
        ({"hard_timeout": -1}, ValueError, "hard_timeout is -1: write a number of seconds, or None"),
        ({"beta": "x"}, ValueError, "beta is 'x': write 1"),
        ({"timeout": float("inf")}, ValueError, "timeout is inf: write a number of seconds, or None"),
        ({"timeout": [60]}, TypeError, "timeout must be a number of seconds, or None"),
    ],
)
def test_wrong_arguments_are_told_when_the_function_is_decorated(terms, error, says):
    with pytest.raises(error, match=re.escape(says)):
        tezkor.cached(**{"timeout": 60, **terms})(price.__wrapped__)


def test_wrong_answers_of_functions_are_told_at_the_call():
    with pytest.raises(TypeError, match="returned 5, not a text"):
        tezkor.cached(60, key=lambda value: 5)(local())(1)
    with pytest.raises(TypeError, match="returned 'a', not a list"):
        tezkor.cached(60, tags=lambda value: "a")(local())(1)
    with pytest.raises(TypeError, match="Name an attribute in key"):
        tezkor.cached(60, key="a:{value}")(local())(object())


@pytest.mark.parametrize(
    ("tags", "invalidates"),
    [
        (["city:{place}", "all"], ["city:New York", "all"]),
        (["city:{place}"], ["city:New York"]),
        (["all"], ["all"]),
        (lambda place: (f"town:{place}",), ["town:New York"]),
    ],
)
def test_tags_are_those_that_one_writes_by_hand(tags, invalidates):
    @tezkor.cached(60, tags=tags)
    def function(place):
        return len(ran)

    for tag in invalidates:
        function("New York")
        cache = caches["default"]
        cache.invalidate_tags("unrelated")
        assert cache.has_key(function.key("New York"))
        cache.invalidate_tags(tag)
        assert not cache.has_key(function.key("New York"))
        function.refresh("New York")
        cache.invalidate_tags(tag)
        assert not cache.has_key(function.key("New York"))


def test_tags_are_made_before_the_function_runs_and_by_no_hit():
    made = []

    def tags(values):
        made.append(list(values))
        return [f"v:{value}" for value in values]

    @tezkor.cached(60, key="fixed:{values}", tags=tags)
    def function(values):
        while values:
            values.pop()
        return 1

    function([1, 2])
    function([1, 2])
    assert made == [[1, 2]]
    caches["default"].invalidate_tags("v:2")
    assert not caches["default"].has_key(function.key([1, 2]))


def test_terms_of_get_or_set():
    clock = [0]

    @tezkor.cached(0.05, stale=60, version=2, cache="other", key="k:{value}")
    def function(value):
        clock[0] += 1
        if clock[0] > 1:
            raise LookupError
        return clock[0]

    assert function(1) == 1
    assert caches["other"].get("k:1", version=2) == 1
    assert caches["default"].get("k:1") is None
    time.sleep(0.1)
    assert function(1) == 1  # stale, since the source fails
    assert clock == [2]
    function.invalidate(1)
    with pytest.raises(LookupError):
        function(1)


NAMES = {"TIMEOUTS": {"STATIC": 100}, "KEYS": {"product_list": "list:{page}:{cat_id}", "front": "front:page"}}
BACKENDS = ["tezkor.backends.TezkorCache", "tezkor.backends.DummyCache"]


def with_names(backend="tezkor.backends.TezkorCache"):
    return override_settings(
        CACHES={"default": {"BACKEND": backend, "LOCATION": "memory://decorators", "OPTIONS": NAMES}}
    )


@tezkor.cached("STATIC", key="product_list")
def product_list(request, page, cat_id=None):
    ran.append((page, cat_id))
    return page


@pytest.mark.parametrize("backend", BACKENDS)
def test_names_of_settings(backend):
    with with_names(backend):
        assert product_list(object(), 1, cat_id=7) == 1
        assert product_list.key(object(), 1, cat_id=7) == "list:1:7"
        if backend == BACKENDS[0]:
            assert caches["default"].ttl("list:1:7") == 100
    with pytest.raises(ValueError, match="'product_list' is not in"):
        product_list(object(), 1)


@with_names()
def test_wrong_names_are_told_at_the_call():
    cases = [
        ({"timeout": "STATC"}, "Did you mean 'STATIC'"),
        ({"key": "product_lst"}, "Did you mean 'product_list'"),
        ({"key": "product_list"}, "names cat_id, page, which"),
        ({"key": "constant"}, "'constant' is not in"),
    ]
    for terms, says in cases:
        with pytest.raises(ValueError, match=says):
            tezkor.cached(**terms)(local())(1)
    for key in ("front", "constant"):
        function = tezkor.cached(60, key=key)(nothing)
        assert function() == 1
        assert function.key() == {"front": "front:page"}.get(key, key)


def nothing():
    return 1


def test_aliases_are_looked_up_at_the_first_call():
    function = tezkor.cached(60, cache="later")(local())
    with pytest.raises(InvalidCacheBackendError):
        function(1)
    with override_settings(
        CACHES={"later": {"BACKEND": "tezkor.backends.TezkorCache", "LOCATION": "memory://l"}}
    ):
        assert function(1) == function(1) == 1
        assert function.cache_info() == (1, 1, 1)
    with pytest.raises(InvalidCacheBackendError):
        function(1)


@pytest.mark.parametrize("alias", ["django", "dummy", "locmem"])
def test_caches_of_others(alias):
    @tezkor.cached(60, cache=alias, key="others:{value}")
    def function(value):
        ran.append(value)
        return len(ran)

    kept = alias != "dummy"
    assert [function(1), function(1)] == ([1, 1] if kept else [1, 2])
    refreshed = function.refresh(1)
    assert function(1) == (refreshed if kept else refreshed + 1)
    assert asyncio.run(function.arefresh(1)) == len(ran)
    assert function.invalidate(1) == kept


def test_without_parentheses():
    assert tezkor.cached(local())(5) == 5
    assert tezkor.cached()(local())(5) == 5


def test_a_fork_starts_to_count_anew(project):
    project.write(
        "shop_functions.py",
        "import tezkor\n@tezkor.cached(60)\ndef f(x):\n    return x\n",
    )
    told = project.python(
        """
        import os, django; django.setup()
        from shop_functions import f
        f(1); f(1)
        if os.fork() == 0:
            f(1)
            print(*f.cache_info(), flush=True)
            os._exit(0)
        os.wait()
        print(*f.cache_info())
        """
    )
    assert told.splitlines() == ["1 0 0", "1 1 1"]


def test_it_is_decorated_before_the_settings_are_there(project):
    project.write("early.py", "import tezkor\n@tezkor.cached('STATIC')\ndef f(x):\n    return x\n")
    told = project.python(
        """
        import early
        from django.conf import settings
        print(settings.configured)
        import django; django.setup()
        try:
            early.f(1)
        except ValueError as error:
            print(error)
        """
    )
    assert told == "False\nthe timeout 'STATIC' is not in OPTIONS['TIMEOUTS']. There are none."


# ---------------------------------------------------------------------------------------------- once in each request


@tezkor.memoize_request
def number(value, more=1):
    ran.append(value)
    return [value]


@tezkor.memoize_request
async def anumber(value):
    ran.append(value)
    await asyncio.sleep(0.01)
    if value == "bad":
        raise LookupError
    return [value]


@tezkor.memoize_request
def faulty():
    ran.append(1)
    raise LookupError


class Cart:
    pk = 1

    @tezkor.memoize_request(key=lambda self: "cart")
    def total(self):
        ran.append(1)
        return 1

    @tezkor.memoize_request(key=lambda self: "sum")
    @property
    def sum(self):
        ran.append(1)
        return 1


@pytest.fixture
def request_open():
    """A request that goes on while the test does."""
    context = contextvars.copy_context()
    context.run(request_started.send, sender=None, environ={})
    yield context.run
    context.run(request_finished.send, sender=None)


def test_outside_of_a_request_nothing_is_kept():
    assert number(1) is not number(1)
    assert number(object())  # and needs no key
    assert ran[:2] == [1, 1]


def test_a_request_keeps_what_was_returned_and_only_that(request_open):
    one = request_open(number, 1)
    assert request_open(number, value=1, more=1) is one
    assert request_open(number, "1") == ["1"]
    assert ran == [1, "1"]
    request_open(number.forget, 1)
    assert request_open(number, 1) is not one
    for _ in range(2):
        with pytest.raises(LookupError):
            request_open(faulty)
    assert ran == [1, "1", 1, 1, 1]
    with pytest.raises(TypeError, match="Pass key="):
        request_open(number, object())
    assert request_open.__self__.run(request_finished.send, sender=None) is not None
    assert request_open(number, 1) is not request_open(number, 1)


def test_methods_and_properties_of_a_request(request_open):
    cart = Cart()
    for _ in range(2):
        request_open(cart.total)
        request_open(lambda: cart.sum)
    assert ran == [1, 1]
    request_open(cart.total.forget)
    request_open(cart.total)
    assert ran == [1, 1, 1]


def test_closures_are_told_apart_without_a_key(request_open):
    double, triple = (tezkor.memoize_request(outer(by)) for by in (2, 3))
    assert [request_open(function, 5) for function in (double, triple, double)] == [10, 15, 10]


def test_threads_of_a_request_share_it_and_others_do_not(request_open):
    one = request_open(number, 1)
    context = request_open(contextvars.copy_context)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(context.run, number, 1).result() is one
        assert pool.submit(number, 1).result() is not one
    request_open(request_finished.send, sender=None)
    assert context.run(number, 1) is not one  # it outlived the request
    assert context.run(number, 1) is not context.run(number, 1)
    assert context.run(number, object())  # and needs no key any more


async def in_request(body):
    memo._begin()
    try:
        return await body()
    finally:
        memo._end()


def test_tasks_that_await_at_once_share_one_run():
    async def body():
        made = await asyncio.gather(*[anumber(1) for _ in range(5)])
        assert all(each is made[0] for each in made)
        assert await anumber(1) is made[0]
        assert ran == [1]
        told = await asyncio.gather(*[anumber("bad") for _ in range(3)], return_exceptions=True)
        assert [type(each) for each in told] == [LookupError] * 3
        assert ran == [1, "bad"]
        with pytest.raises(LookupError):
            await anumber("bad")
        assert ran == [1, "bad", "bad"]
        anumber.forget(1)
        assert await anumber(1) is not made[0]

    asyncio.run(in_request(body))


def test_a_cancelled_run_is_taken_over():
    async def body():
        first = asyncio.ensure_future(anumber(1))
        await asyncio.sleep(0)
        others = [asyncio.ensure_future(anumber(1)) for _ in range(3)]
        await asyncio.sleep(0)
        first.cancel()
        made = await asyncio.gather(*others)
        assert all(each is made[0] for each in made)
        assert ran == [1, 1]

    asyncio.run(in_request(body))


def test_nested_loops_of_a_request_share_it():
    async def body():
        made = await anumber(1)
        assert await sync_to_async(async_to_sync(anumber))(1) is made
        # One that runs in another loop cannot be awaited.
        running = asyncio.ensure_future(anumber(2))
        await asyncio.sleep(0)
        with ThreadPoolExecutor(1) as pool:
            context = contextvars.copy_context()
            other = pool.submit(context.run, asyncio.run, anumber(2))
            assert await running == await asyncio.to_thread(other.result) == [2]

    asyncio.run(in_request(body))


def view(request):
    return HttpResponse(f"{number(1) is number(1)} {len(ran)}")


async def aview(request):
    one = await anumber(1)
    same = await anumber(1) is one
    in_thread = await sync_to_async(lambda: number(1) is number(1))()
    return HttpResponse(f"{same} {in_thread} {len(ran)}")


urlpatterns = [path("view", view), path("aview", aview)]


@pytest.mark.parametrize("debug", [False, True])
@override_settings(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])
def test_requests_of_django(debug):
    with override_settings(DEBUG=debug):
        assert Client().get("/view").content == b"True 1"
        assert Client().get("/view").content == b"True 2"
        assert memo._current() is None

        async def use():
            first = (await AsyncClient().get("/aview")).content
            second = (await AsyncClient().get("/aview")).content
            both = await asyncio.gather(AsyncClient().get("/aview"), AsyncClient().get("/aview"))
            return first, second, len(both)

        assert asyncio.run(use()) == (b"True True 4", b"True True 6", 2)
        assert len(ran) == 10
        assert async_to_sync(AsyncClient().get)("/view").content == b"True 11"


@override_settings(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], DEBUG=True)
def test_handlers_of_ones_own_are_learned():
    from django.core.handlers.asgi import ASGIHandler

    class Own(ASGIHandler):
        pass

    async def get():
        sent = []
        scope = {"type": "http", "method": "GET", "path": "/aview", "headers": [], "query_string": b""}
        asked = iter([{"type": "http.request"}])

        async def receive():
            for message in asked:
                return message
            await asyncio.sleep(60)

        async def send(message):
            sent.append(message.get("body"))

        await Own()(scope, receive, send)
        return sent[1]

    async def use():
        await get()  # under Django 5 the first one of a handler keeps nothing
        ran.clear()
        return await get()

    assert asyncio.run(use()) == b"True True 2"


def test_names_are_exported():
    assert {"cached", "memoize_request", "skip"} <= set(tezkor.__all__)
    assert names.text(1) == "1"
