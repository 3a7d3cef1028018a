"""Model instances and responses in the cache, against what pickle gives."""

import datetime as dt
import decimal
import pickle
import random
import warnings

import django
import pytest
from django.conf import settings

if not settings.configured:
    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
        USE_TZ=True,
    )
    django.setup()

from django.apps import apps
from django.db import connection, models
from django.db.models import signals
from django.http import HttpResponse, HttpResponseNotFound, JsonResponse
from django.template import engines
from django.template.response import ContentNotRenderedError, SimpleTemplateResponse, TemplateResponse
from django.test.utils import modify_settings
from django.utils.safestring import SafeString, mark_safe

from tezkor import _native

PICKLE, MODEL_PICKLE = 2, 3
TAGGED = 1
UTC = dt.timezone.utc


@pytest.fixture(scope="module", autouse=True)
def shelf():
    """The app, its tables and some films."""
    with modify_settings(INSTALLED_APPS={"append": "shelf"}):
        from shelf import models as shelf

        tables = [shelf.Director, shelf.Film, shelf.Poster, shelf.LongFilm, shelf.Secretive, shelf.Loud]
        with connection.schema_editor() as editor:
            for table in tables:
                editor.create_model(table)
        director = shelf.Director.objects.create(name="Yo‘ldosh A’zamov")
        for number in range(20):
            film = shelf.Film.objects.create(
                title=f"Film {number}",
                director=director if number % 3 else None,
                price=decimal.Decimal(number) / 4,
                released=dt.date(1972, 1, 1 + number),
                added=dt.datetime(2024, 1, 1, 12, number, tzinfo=UTC),
                running_time=dt.timedelta(minutes=90 + number),
                extra={"tags": ["a", number], "more": {"x": None}},
                poster=b"\x89PNG",
            )
            if number % 2:
                shelf.Poster.objects.create(film=film)
        shelf.LongFilm.objects.create(title="Long")
        shelf.Secretive.objects.create(name="secret")
        shelf.Loud.objects.create(name="loud")
        yield shelf
        with connection.schema_editor() as editor:
            for table in reversed(tables):
                editor.delete_model(table)


def cache(**options):
    return _native.Cache(f"memory://models-{random.getrandbits(64)}", **options)


def picture(value, seen=()):
    """What is to be compared: all there is in a value, down to the state of instances."""
    if id(value) in seen:
        return "again"
    seen = (*seen, id(value))
    kind = type(value)
    if isinstance(value, (list, tuple)):
        return kind, [picture(item, seen) for item in value]
    if isinstance(value, dict) and not hasattr(value, "__dict__"):
        return kind, [(picture(key, seen), picture(item, seen)) for key, item in value.items()]
    if isinstance(value, models.QuerySet):
        return kind, picture(list(value), seen)
    if kind.__name__ == "ModelState":
        return kind, sorted((name, repr(picture(item, seen))) for name, item in value.__dict__.items())
    if isinstance(value, dict):
        return (
            kind,
            [(key, picture(item, seen)) for key, item in value.items()],
            picture(value.__dict__, seen),
        )
    if hasattr(value, "__dict__") and not callable(value):
        return kind, sorted((name, repr(picture(item, seen))) for name, item in value.__dict__.items())
    return kind, value


def check(value, codec=TAGGED):
    data = _native.encode(value)
    # A pickle with models in it has a number of its own.
    assert (PICKLE if data[0] == MODEL_PICKLE else data[0]) == codec
    expected = picture(pickle.loads(pickle.dumps(value, 5)))
    assert picture(_native.decode(data)) == expected
    for store in (cache(), cache(decoded_bytes=0)):
        store.set("k", value)
        for _ in range(3):
            assert picture(store.get("k")) == expected
    return _native.decode(data)


def test_instances_come_back_as_from_pickle(shelf):
    films = list(shelf.Film.objects.order_by("pk"))
    loaded = check(films)
    assert loaded == films
    assert loaded[1].director.name == "Yo‘ldosh A’zamov"
    check(films[0])
    check(films[:1])
    check({"film": films[0], "others": films[1:]})
    check((films[0], [films[1]]))


def test_instances_that_were_cached_before_can_be_cached_again(shelf):
    films = list(shelf.Film.objects.all())
    check(pickle.loads(pickle.dumps(films)))
    check(_native.decode(_native.encode(films)))


def test_new_instances_and_other_states(shelf):
    check(shelf.Film(title="not saved"))
    check([shelf.Film(title="not saved"), shelf.Film(title="nor this")])
    film = shelf.Film(title="x")
    film._state.db = "other"
    check([film, shelf.Film(title="y")])
    film._state.mark = 1
    check(film, PICKLE)


def test_deferred_fields_stay_deferred(shelf):
    films = list(shelf.Film.objects.only("title"))
    assert check(films)[0].get_deferred_fields() == films[0].get_deferred_fields() != set()
    check(list(shelf.Film.objects.defer("extra")))
    check([films[0], shelf.Film.objects.first()])


@pytest.mark.skipif(django.VERSION < (6, 1), reason="fetch modes came with Django 6.1")
def test_fetch_modes_come_along(shelf):
    for mode in (models.FETCH_ONE, models.FETCH_PEERS, models.FETCH_RAISE):
        [first, *_] = check(list(shelf.Film.objects.fetch_mode(mode)))
        assert first._state.fetch_mode is mode


def test_annotations_and_other_attributes_come_along(shelf):
    check(list(shelf.Film.objects.annotate(double=models.F("price") * 2)))
    film = shelf.Film.objects.first()
    film.note = {"a": [1]}
    check(film)
    film.note = 2j
    check(film, PICKLE)
    film.note = {1, frozenset()}
    setattr(film, "\udc80", 1)
    check(film, PICKLE)


def test_select_related_instances_come_along(shelf):
    films = list(shelf.Film.objects.select_related("director").order_by("pk"))
    loaded = check(films)
    assert loaded[1]._state.fields_cache["director"] == films[1].director
    assert loaded[0]._state.fields_cache == {"director": None}
    assert loaded[1].director is not loaded[2].director
    # Only some have one: those whose related object was looked at.
    films_seen = list(shelf.Film.objects.order_by("pk"))
    assert films_seen[1].director
    check(films_seen)
    check(films_seen[::-1])
    size = len(_native.encode(films))
    assert size < len(pickle.dumps(films, 5))


def test_instances_that_point_at_each_other_stay_so(shelf):
    [poster] = shelf.Poster.objects.select_related("film")[:1]
    assert poster.film.sheet is poster
    data = _native.encode(poster)
    assert data[0] in (PICKLE, MODEL_PICKLE)
    loaded = _native.decode(data)
    assert loaded.film.sheet is loaded
    # The same related instance for several rows: prefetch_related does that.
    films = list(shelf.Film.objects.prefetch_related("director").order_by("pk"))
    data = _native.encode(films)
    assert data[0] in (PICKLE, MODEL_PICKLE)
    loaded = _native.decode(data)
    assert loaded[1].director is loaded[2].director


def test_prefetched_objects_come_along(shelf):
    directors = list(shelf.Director.objects.prefetch_related("films"))
    store = cache()
    store.set("k", directors)
    for _ in range(2):
        [loaded] = store.get("k")
        assert picture(loaded._prefetched_objects_cache["films"]) == picture(
            pickle.loads(pickle.dumps(directors))[0]._prefetched_objects_cache["films"]
        )


def test_a_queryset_comes_back_as_a_queryset(shelf):
    films = shelf.Film.objects.filter(price__gt=1).order_by("pk")
    store = cache()
    store.set("k", films)
    for _ in range(2):
        loaded = store.get("k")
        assert type(loaded) is models.QuerySet
        assert loaded._result_cache is not None
        assert list(loaded) == list(films)
        assert loaded.filter(price__gt=2).count() == films.filter(price__gt=2).count()


def test_rows_come_back_as_from_pickle(shelf):
    check(list(shelf.Film.objects.values()))
    check(list(shelf.Film.objects.values("pk", "director__name")))
    check(list(shelf.Film.objects.values_list()))
    check(list(shelf.Film.objects.values_list("title", flat=True)))
    named = list(shelf.Film.objects.values_list("pk", "title", named=True))
    assert _native.encode(named)[0] in (PICKLE, MODEL_PICKLE)


def test_subclasses_and_proxies(shelf):
    check(list(shelf.LongFilm.objects.all()))
    check(list(shelf.ProxyFilm.objects.all()))
    mixed = [
        shelf.Film.objects.first(),
        shelf.ProxyFilm.objects.last(),
        shelf.LongFilm.objects.first(),
        shelf.Director.objects.first(),
    ]
    assert [type(item) for item in check(mixed)] == [type(item) for item in mixed]


def test_a_model_that_pickles_itself_does_so(shelf):
    data = _native.encode(shelf.Secretive.objects.first())
    assert data[0] in (PICKLE, MODEL_PICKLE)
    assert _native.decode(data).name == "hidden"


def test_instances_are_made_without_init_and_signals(shelf):
    loud = shelf.Loud.objects.first()
    store = cache()
    heard = []
    store.set("k", [loud])
    before = shelf.Loud.made
    signals.post_init.connect(
        lambda **kwargs: heard.append(kwargs), sender=shelf.Loud, weak=False, dispatch_uid="loud"
    )
    for _ in range(3):
        store.get("k")
    signals.post_init.disconnect(sender=shelf.Loud, dispatch_uid="loud")
    assert shelf.Loud.made == before
    assert heard == []


def test_a_class_that_django_does_not_know_by_name_is_pickled():
    class Stray(models.Model):
        class Meta:
            app_label = "nowhere"

    assert _native.encode(Stray(pk=1))[0] in (PICKLE, MODEL_PICKLE)


def test_instances_in_sets_and_as_keys(shelf):
    film = shelf.Film.objects.first()
    store = cache()
    store.set("k", {film})
    store.set("d", {film: 1})
    for _ in range(2):
        [one] = store.get("k")
        one.title = "changed"
        assert next(iter(store.get("k"))).title == film.title
        [key] = store.get("d")
        key.title = "changed"
        assert next(iter(store.get("d"))).title == film.title


@pytest.mark.parametrize("part", [b"shelf", b"Film", b"\xc4\x10"])
def test_an_entry_of_another_model_or_fingerprint_is_a_miss(shelf, part):
    data = bytearray(_native.encode(shelf.Film.objects.first()))
    data[data.index(part) + len(part) + (1 if part[0] > 127 else -1)] ^= 1
    with pytest.raises(ValueError, match="not a value"):
        _native.decode(bytes(data))


def run(code, *arguments):
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


DEPLOY = """
import sys, types, django
from django.conf import settings
settings.configure(INSTALLED_APPS=["shopfront"], DEFAULT_AUTO_FIELD="django.db.models.AutoField")
module = types.ModuleType("shopfront"); module.__path__ = ["."]; sys.modules["shopfront"] = module
version, fields, action = sys.argv[1:4]
django.__version__ = version
django.setup()
from django.db import models
def field(text):
    name, kind, column = text.split(":")
    options = {"max_length": 9} if kind == "CharField" else {}
    return name, getattr(models, kind)(db_column=column or None, **options)
body = dict(map(field, fields.split(",")))
body.update(__module__="shopfront.models", __qualname__="Film", Meta=type("Meta", (), {"app_label": "shopfront"}))
Film = type("Film", (models.Model,), body)
from tezkor import _native
if action in ("write", "write a pickle"):
    films = [Film(pk=1), Film(pk=2)]
    # A range has no form of its own, so that all is pickled.
    print(_native.encode([films, range(3)] if action == "write a pickle" else [films]).hex())
else:
    try:
        print([film.pk for film in _native.decode(bytes.fromhex(action))[0]])
    except ValueError:
        print("miss")
"""


@pytest.mark.parametrize("action", ["write", "write a pickle"])
@pytest.mark.parametrize(
    ("version", "fields", "answer"),
    [
        ("5.2", "title:CharField:,year:IntegerField:", "[1, 2]"),
        ("5.2", "title:CharField:", "miss"),
        ("5.2", "title:CharField:,year:IntegerField:,more:IntegerField:", "miss"),
        ("5.2", "title:CharField:,year:FloatField:", "miss"),
        ("5.2", "title:CharField:,year:IntegerField:jahr", "miss"),
        ("5.2", "name:CharField:title,year:IntegerField:", "miss"),
        ("6.0", "title:CharField:,year:IntegerField:", "miss"),
    ],
)
def test_after_a_deploy_that_changed_the_model_its_entries_are_misses(version, fields, answer, action):
    data = run(DEPLOY, "5.2", "title:CharField:,year:IntegerField:", action)
    assert run(DEPLOY, version, fields, data) == answer


def test_changing_an_instance_changes_nothing_in_the_cache(shelf):
    films = list(shelf.Film.objects.select_related("director").order_by("pk"))
    for store in (cache(), cache(decoded_bytes=0)):
        store.set("k", films)
        expected = picture(store.get("k"))
        for _ in range(3):
            loaded = store.get("k")
            assert picture(loaded) == expected
            film = loaded[1]
            film.title = "changed"
            film.extra["tags"].append("changed")
            film.director.name = "changed"
            film._state.db = "changed"
            film._state.fields_cache.clear()
            del film.price
            loaded.pop()
        films[1].extra["tags"].append("changed")
        assert picture(store.get("k")) == expected
        films = list(shelf.Film.objects.select_related("director").order_by("pk"))


def responses():
    plain = HttpResponse("<p>salom</p>")
    yield plain
    full = HttpResponse(
        b"\xff\x00", status=404, reason="Gone fishing", content_type="application/x-thing; charset=latin-1"
    )
    full["X-Case-Kept"] = "yes"
    full.headers["x-other"] = "ü"
    yield full
    cookies = HttpResponse("x", charset="koi8-r")
    cookies.set_cookie("a", "b c;d", max_age=10, httponly=True, samesite="Lax")
    cookies.set_cookie("other", expires=dt.datetime(2030, 1, 1, tzinfo=UTC))
    cookies.delete_cookie("gone")
    yield cookies
    pieces = HttpResponse(["one", "two"])
    pieces.write("three")
    pieces.note = ["kept", {"a": 1}]
    yield pieces
    text = HttpResponse("text")
    getattr(text, "text", None)
    yield text
    closed = HttpResponse("closed")
    closed.closed = True
    yield closed
    template = engines["django"].from_string("{{ name }}")
    rendered = SimpleTemplateResponse(template, {"name": "olma"})
    rendered.render()
    yield rendered
    rendered = TemplateResponse(None, template, {"name": "olma"})
    rendered.render()
    yield rendered


@pytest.mark.parametrize(
    "response", list(responses()), ids=lambda response: repr(response.__class__.__name__)
)
def test_a_response_comes_back_as_from_pickle(response):
    loaded = check(response)
    assert loaded.serialize() == response.serialize()
    assert loaded.cookies.output() == response.cookies.output()
    assert loaded.reason_phrase == response.reason_phrase
    check([response, {"other": HttpResponse("x")}])


def test_other_responses_are_pickled():
    for response in (HttpResponseNotFound("x"), JsonResponse({"a": 1})):
        data = _native.encode(response)
        assert data[0] == PICKLE
        assert _native.decode(data).serialize() == response.serialize()
    handled = HttpResponse("x")
    handled._handler_class = HttpResponse
    check(handled, PICKLE)
    unrendered = SimpleTemplateResponse("x.html")
    with pytest.raises(ContentNotRenderedError):
        _native.encode(unrendered)


def test_changing_a_response_changes_nothing_in_the_cache():
    for original in responses():
        store = cache()
        store.set("k", original)
        expected = picture(store.get("k"))
        for _ in range(3):
            loaded = store.get("k")
            assert picture(loaded) == expected
            loaded["X-More"] = "1"
            loaded.set_cookie("more", "1")
            loaded.write("more")
            loaded.status_code = 500
            loaded._resource_closers.append(print)


def test_safe_strings_stay_safe():
    store = cache()
    for text in (mark_safe("<b>o‘zbek</b>"), mark_safe("")):
        check(text)
        check([text, str(text)])
        store.set("k", text)
        for _ in range(2):
            assert type(store.get("k")) is SafeString
        assert store.get("k") is store.get("k")
    check(mark_safe("\ud800"), PICKLE)


def test_lazy_strings_are_pickled():
    from django.utils.translation import gettext_lazy

    data = _native.encode({"title": gettext_lazy("Yes")})
    assert data[0] == PICKLE
    assert str(_native.decode(data)["title"]) == "Yes"


def test_sessions_and_forms_data_need_no_pickle():
    check({"_auth_user_id": "1", "_auth_user_backend": "x", "_auth_user_hash": "y", "cart": {"7": 2}})


def test_django_is_not_needed():
    code = """
import sys
from tezkor import _native
assert _native.decode(_native.encode([1, {"a": object}, 2j])) == [1, {"a": object}, 2j]
assert "django" not in sys.modules
"""
    run(code)


def test_no_warning_is_given_for_what_is_read(shelf):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(list(shelf.Film.objects.all()))
    assert apps.ready
