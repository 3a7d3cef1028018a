"""What `invalidates` does at saves, deletes, many-to-many changes and bulk operations."""

from __future__ import annotations

from itertools import count

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.core import serializers
from django.db import connection, models, transaction
from django.test import override_settings

import tezkor
from tezkor import caches, signals

numbers = count()


class Team(Group):
    """A group with a manager that invalidates."""

    objects = tezkor.InvalidatingManager()

    class Meta:
        app_label = "auth"
        proxy = True


@pytest.fixture(scope="module", autouse=True)
def tables():
    made = [ContentType, Permission, Group, User]
    with connection.schema_editor() as editor:
        for model in made:
            editor.create_model(model)
    yield
    with connection.schema_editor() as editor:
        for model in reversed(made):
            editor.delete_model(model)


@pytest.fixture(params=["default", "late"])
def cache(request):
    """A cache whose entries are read again after each change, with and without TRANSACTIONAL."""
    backend = "tezkor.backends.TezkorCache"
    settings = {
        "default": {"BACKEND": backend, "LOCATION": "signals"},
        "late": {"BACKEND": backend, "LOCATION": "signals", "OPTIONS": {"TRANSACTIONAL": True}},
        "django": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "signals"},
    }
    with override_settings(CACHES=settings):
        caches[request.param].clear()
        yield caches[request.param]


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    for handles in list(signals._handles.values()):
        for handle in list(handles):
            handle.disconnect()
    assert not any(signals._handles.values())
    for model in (User, Group, Permission, ContentType):
        model.objects.all().delete()


def made(name=None):
    return Group.objects.create(name=name or f"group {next(numbers)}")


def fill(cache, *tags):
    """An entry for each tag, and one under the key of the same name."""
    for tag in tags:
        cache.set(f"tagged:{tag}", 1, tags=[tag])
        cache.set(f"key:{tag}", 1)


def gone(cache, *tags):
    """The tags that were invalidated, and the keys that were deleted."""
    return (
        {tag for tag in tags if f"tagged:{tag}" not in cache},
        {tag for tag in tags if f"key:{tag}" not in cache},
    )


def by_name(cache, model=Group, **terms):
    return tezkor.invalidates(
        model,
        tags=lambda group: [group.name],
        keys=lambda group: [f"key:{group.name}"],
        cache=cache._alias,
        **terms,
    )


def test_saves_and_deletes_invalidate_what_the_instance_names(cache):
    by_name(cache)
    fill(cache, "a", "b", "c")
    group = made("a")
    assert gone(cache, "a", "b", "c") == ({"a"}, {"a"})
    fill(cache, "a")
    group.save()
    assert gone(cache, "a", "b", "c") == ({"a"}, {"a"})
    fill(cache, "a")
    group.delete()
    assert gone(cache, "a", "b", "c") == ({"a"}, {"a"})


def test_a_save_invalidates_what_the_row_named_before(cache):
    by_name(cache)
    group = made("a")
    fill(cache, "a", "b", "c")
    group.name = "b"
    group.save()
    assert gone(cache, "a", "b", "c") == ({"a", "b"}, {"a", "b"})
    assert not [name for name in group.__dict__ if "tezkor" in name]


def test_lists_do_for_all_instances_and_ask_the_database_nothing(cache):
    tezkor.invalidates(Group, tags=["a"], keys=("key:b",), cache=cache._alias)
    group = made()
    fill(cache, "a", "b")
    with connection.execute_wrapper(
        lambda *args: pytest.fail("a query") if args[1][:6] == "SELECT" else args[0](*args[1:])
    ):
        group.save()
    assert gone(cache, "a", "b") == ({"a"}, {"b"})


def test_many_to_many_changes_invalidate_both_sides(cache):
    tezkor.invalidates(User, tags=lambda user: [user.username], cache=cache._alias)
    by_name(cache)
    user, group, other = User.objects.create(username="u"), made("g"), made("h")
    names = ("u", "g", "h")

    def after(change):
        fill(cache, *names)
        change()
        return "".join(sorted(gone(cache, *names)[0]))

    assert after(lambda: user.groups.add(group)) == "gu"
    assert after(lambda: user.groups.add(group)) == "u"  # it was there
    assert after(lambda: user.groups.set([other])) == "ghu"
    assert after(lambda: user.groups.remove(other)) == "hu"
    assert after(lambda: group.user_set.add(user)) == "gu"
    assert after(lambda: group.user_set.clear()) == "gu"
    assert after(lambda: user.groups.set([group, other])) == "ghu"
    assert after(lambda: user.groups.clear()) == "ghu"


def test_many_to_many_rows_are_asked_for_before_a_delete(cache):
    tezkor.invalidates(
        User,
        tags=lambda user: [group.name for group in user.groups.all()] if user.pk else [],
        cache=cache._alias,
    )
    for delete in (lambda user: user.delete(), lambda user: User.objects.filter(pk=user.pk).delete()):
        user, group = User.objects.create(username="u"), made(f"g{id(delete)}")
        user.groups.add(group)
        fill(cache, group.name)
        delete(user)
        assert gone(cache, group.name)[0], "what it was linked to is still served"


def test_a_cascade_invalidates_too(cache):
    permissions = tezkor.invalidates(
        Permission, tags=lambda permission: [permission.codename], cache=cache._alias
    )
    kind = ContentType.objects.create(app_label="x", model="y")
    Permission.objects.create(name="p", codename="p", content_type=kind)
    fill(cache, "p")
    kind.delete()
    assert gone(cache, "p")[0] == {"p"}
    permissions.disconnect()


def test_bulk_operations_of_an_invalidating_manager(cache):
    by_name(cache)
    names = ("a", "b", "c", "d")

    def after(change):
        fill(cache, *names)
        change()
        tags, keys = gone(cache, *names)
        assert tags == keys
        return "".join(sorted(tags))

    assert after(lambda: Team.objects.bulk_create([Team(name="a"), Team(name="b")])) == "ab"
    assert after(lambda: Team.objects.filter(name="a").update(name="c")) == "ac"
    assert (
        after(lambda: Team.objects.filter(name="c").values("name").order_by("name").update(name="a")) == "ac"
    )
    assert after(lambda: Team.objects.filter(name="nobody").update(name="c")) == ""

    def rename():
        team = Team.objects.get(name="a")
        team.name = "d"
        Team.objects.bulk_update([team], ["name"])

    assert after(rename) == "ad"
    assert after(lambda: Team.objects.filter(name="d").delete()) == "d"
    assert after(lambda: Group.objects.filter(name="b").update(name="c")) == ""  # not its manager


def test_async_twins_of_bulk_operations(cache):
    by_name(cache)

    async def main():
        fill(cache, "a", "b")
        await Team.objects.abulk_create([Team(name="a")])
        assert gone(cache, "a", "b")[0] == {"a"}
        fill(cache, "a", "b")
        await Team.objects.filter(name="a").aupdate(name="b")
        assert gone(cache, "a", "b")[0] == {"a", "b"}
        fill(cache, "a", "b")
        await Team.objects.filter(name="b").adelete()
        assert gone(cache, "a", "b")[0] == {"b"}

    async_to_sync(main)()  # in this thread, which has the database


def test_more_objects_than_a_query_takes(cache):
    by_name(cache)
    Team.objects.bulk_create([Team(name=f"n{number}") for number in range(1200)])
    fill(cache, "n0", "n1199", "all")
    assert Team.objects.update(name=models.functions.Concat("name", models.Value("x"))) == 1200
    assert gone(cache, "n0", "n1199", "all")[0] == {"n0", "n1199"}


def test_bulk_tags_stand_for_all_objects(cache):
    by_name(cache, bulk_tags=["all"])
    queries = []

    def note(execute, sql, *args):
        queries.append(sql.split()[0])
        return execute(sql, *args)

    Team.objects.bulk_create([Team(name="a"), Team(name="b")])
    fill(cache, "a", "all")
    with connection.execute_wrapper(note):
        Team.objects.filter(name="a").update(name="c")
    assert queries == ["UPDATE"]
    assert gone(cache, "a", "all") == ({"all"}, set())
    fill(cache, "all")
    Team.objects.bulk_create([Team(name="d")])
    assert gone(cache, "all")[0] == {"all"}
    fill(cache, "all", "c")
    Team.objects.get(name="c").save()
    assert gone(cache, "all", "c")[0] == {"c"}


def test_what_is_invalidated_is_so_after_the_change(cache):
    """An entry that was loaded amid the change, from what was there before, does not stay."""
    by_name(cache)
    made("a")

    def reload(execute, sql, *args):
        if sql.startswith("UPDATE"):
            fill(cache, "a")
        return execute(sql, *args)

    with connection.execute_wrapper(reload):
        Team.objects.filter(name="a").update(name="b")
        assert gone(cache, "a")[0] == {"a"}
        team = Team.objects.get(name="b")
        team.name = "a"
        team.save()
        assert gone(cache, "a")[0] == {"a"}


def test_it_costs_other_models_nothing(cache):
    """A receiver for all models would make Django fetch what it deletes."""
    by_name(cache)
    assert not signals.post_delete.has_listeners(User)
    assert not models.signals.post_init.has_listeners(Group)


def test_it_follows_the_transaction(cache):
    by_name(cache)
    late = cache.is_transactional
    fill(cache, "a")
    with pytest.raises(KeyError), transaction.atomic():
        made("a")
        raise KeyError
    assert gone(cache, "a")[0] == (set() if late else {"a"})
    fill(cache, "a")
    with transaction.atomic():
        made("a")
        if not late:
            fill(cache, "a")
    assert gone(cache, "a")[0] == {"a"}


def test_a_handle_that_is_disconnected_does_nothing(cache):
    handle = by_name(cache)
    assert repr(handle) == "<invalidates Group>"
    handle.disconnect()
    handle.disconnect()
    fill(cache, "a")
    made("a").delete()
    Team.objects.bulk_create([Team(name="a")])
    user = User.objects.create(username="u")
    user.groups.add(Team.objects.get())
    assert gone(cache, "a") == (set(), set())


def test_proxies_count_and_so_do_those_that_come_later(cache):
    by_name(cache)
    fill(cache, "a", "b")
    Team.objects.create(name="a")

    meta = type("Meta", (), {"app_label": "auth", "proxy": True})
    Crew = type(f"Crew{next(numbers)}", (Group,), {"Meta": meta, "__module__": __name__})
    Crew.objects.create(name="b")
    assert gone(cache, "a", "b")[0] == {"a", "b"}


def test_it_decorates_a_model(cache):
    decorate = tezkor.invalidates(tags=lambda group: [group.name], cache=cache._alias)
    assert decorate(Group) is Group
    fill(cache, "a")
    made("a")
    assert gone(cache, "a")[0] == {"a"}


def test_a_fixture_whose_relations_come_later_loads(cache, caplog):
    tezkor.invalidates(
        Permission, tags=lambda permission: [permission.content_type.model], cache=cache._alias
    )
    text = '[{"model": "auth.permission", "pk": 1, "fields": {"name": "p", "codename": "p", "content_type": 9999}}]'
    with transaction.atomic():
        for each in serializers.deserialize("json", text):
            each.save()
        assert "could not tell what" in caplog.text
        with pytest.raises(ContentType.DoesNotExist):
            Permission(pk=2, name="q", codename="q", content_type_id=9999).save()
        transaction.set_rollback(True)


def test_a_backend_without_tags_has_its_keys_deleted():
    settings = {
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "signals"}
    }
    with override_settings(CACHES=settings):
        tezkor.invalidates(Group, tags=["t"], keys=["k"])
        caches["default"].set("k", 1)
        made()
        assert caches["default"].get("k") is None


@pytest.mark.parametrize(
    ("model", "terms", "said"),
    [
        ("auth.Group", {"tags": ["t"]}, "takes a model class"),
        (models.Manager, {"tags": ["t"]}, "takes a model class"),
        (Group, {}, "needs tags= or keys="),
        (Group, {"bulk_tags": ["t"]}, "needs tags= or keys="),
        (Group, {"tags": "t"}, r"write \['t'\]"),
        (Group, {"keys": "t"}, r"write \['t'\]"),
        (Group, {"tags": 5}, "must be a list of texts or a callable, not int"),
        (Group, {"tags": [5]}, "tag"),
        (Group, {"tags": ["t" * 100_000]}, "long"),
        (Group, {"tags": ["t"], "bulk_tags": list}, "bulk_tags must be a list of texts"),
        (Group, {"tags": ["t"], "cache": "nowhere"}, "no such alias; it has default"),
    ],
)
def test_wrong_arguments_are_told_at_once(model, terms, said):
    with pytest.raises((TypeError, ValueError), match=said):
        tezkor.invalidates(model, **terms)


def test_a_callable_that_returns_one_text_is_told(cache):
    tezkor.invalidates(Group, tags=lambda group: group.name, cache=cache._alias)
    with pytest.raises(TypeError, match=r"return \['a'\]"):
        made("a")
