"""What `invalidates` does at saves, deletes, many-to-many changes and bulk operations."""

from __future__ import annotations

import uuid
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


class Shop(models.Model):
    class Meta:
        app_label = "auth"


class Category(models.Model):
    shop = models.ForeignKey(Shop, models.CASCADE, null=True)

    class Meta:
        app_label = "auth"


class Special(Category):
    class Meta:
        app_label = "auth"
        proxy = True


class Label(models.Model):
    class Meta:
        app_label = "auth"


class Product(models.Model):
    name = models.CharField(max_length=50, default="p")
    category = models.ForeignKey(Category, models.SET_NULL, null=True)
    brand = models.ForeignKey("auth.Brand", models.SET_DEFAULT, default=1, related_name="+")
    origin = models.ForeignKey("auth.Origin", models.SET(None), null=True, db_constraint=False)
    labels = models.ManyToManyField(Label)
    similar = models.ManyToManyField("self")

    objects = tezkor.InvalidatingManager()

    class Meta:
        app_label = "auth"
        base_manager_name = "objects"


class Brand(models.Model):
    class Meta:
        app_label = "auth"


class Origin(models.Model):
    class Meta:
        app_label = "auth"


class Basket(models.Model):
    """A model whose many-to-many field points at the products."""

    products = models.ManyToManyField(Product, related_name="+")

    class Meta:
        app_label = "auth"


class Token(models.Model):
    """A model whose primary key has a default: Django never looks for a row before it saves an instance."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)

    class Meta:
        app_label = "auth"


class Note(models.Model):
    """Its rows stay when what they refer to is gone."""

    shop = models.ForeignKey(Shop, models.DO_NOTHING, db_constraint=False)

    class Meta:
        app_label = "auth"


SHOP = [Shop, Category, Label, Brand, Origin, Product, Basket, Token, Note]


@pytest.fixture(scope="module", autouse=True)
def tables():
    made = [ContentType, Permission, Group, User, *SHOP]
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
    for model in (User, Group, Permission, ContentType, *reversed(SHOP)):
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


def by_relations(cache, **terms):
    """What a product names: all that it is linked to."""
    return tezkor.invalidates(
        Product,
        tags=lambda product: [
            f"category-{product.category_id}",
            f"brand-{product.brand_id}",
            f"origin-{product.origin_id}",
            *[f"label-{label.pk}" for label in product.labels.all()],
            *[f"similar-{other.pk}" for other in product.similar.all()],
            *[f"basket-{basket.pk}" for basket in Basket.objects.filter(products=product)],
        ],
        cache=cache._alias,
        **terms,
    )


@pytest.fixture
def invalidated(cache):
    """What a call invalidated, of all that products name, in order."""
    names = [
        f"{kind}-{number}"
        for kind in ("category", "brand", "origin", "label", "similar", "basket")
        for number in (None, 1, 2, 3)
    ]

    def invalidated(change):
        fill(cache, *names)
        change()
        return sorted(gone(cache, *names)[0])

    return invalidated


PLAIN = ["brand-1", "category-None", "origin-None"]


def a_product(**fields):
    for model in (Category, Brand, Origin, Label):
        for pk in (1, 2):
            model.objects.get_or_create(pk=pk)
    return Product.objects.create(pk=1, **fields)


def test_a_save_by_primary_key_invalidates_what_the_row_named(cache, invalidated):
    """An instance that was not fetched, saved over a row, left the page of the old category stale."""
    by_relations(cache)
    a_product(category_id=1)
    changed = Product(pk=1, category_id=2, brand_id=1)
    assert invalidated(changed.save) == ["brand-1", "category-1", "category-2", "origin-None"]


def test_a_new_instance_asks_the_database_for_no_row_before(cache):
    tezkor.invalidates(Token, tags=lambda token: [], cache=cache._alias)
    tezkor.invalidates(Shop, tags=lambda shop: [], cache=cache._alias)
    with connection.execute_wrapper(
        lambda *args: pytest.fail("a query") if args[1][:6] == "SELECT" else args[0](*args[1:])
    ):
        Shop().save()
        Token().save()


def test_tags_that_come_from_a_relation_are_asked_for_before_it_changes(cache, invalidated):
    """They were computed after the removal: the page of the label that was taken off stayed as it was."""
    by_relations(cache)
    product = a_product()
    one, two = Label.objects.order_by("pk")
    both = ["brand-1", "category-None", "label-1", "label-2", "origin-None"]
    assert invalidated(lambda: product.labels.add(one)) == sorted([*PLAIN, "label-1"])
    assert invalidated(lambda: product.labels.set([two])) == both
    assert invalidated(lambda: product.labels.remove(two)) == sorted([*PLAIN, "label-2"])
    product.labels.add(one)
    assert invalidated(lambda: product.labels.set([])) == sorted([*PLAIN, "label-1"])
    product.labels.add(one)
    assert invalidated(lambda: product.labels.clear()) == sorted([*PLAIN, "label-1"])
    # From the other side.
    assert invalidated(lambda: two.product_set.add(product)) == sorted([*PLAIN, "label-2"])
    assert invalidated(lambda: two.product_set.remove(product)) == sorted([*PLAIN, "label-2"])
    two.product_set.add(product)
    assert invalidated(lambda: two.product_set.set([])) == sorted([*PLAIN, "label-2"])
    two.product_set.add(product)
    assert invalidated(lambda: two.product_set.clear()) == sorted([*PLAIN, "label-2"])
    basket = Basket.objects.create(pk=1)
    assert invalidated(lambda: basket.products.add(product)) == sorted([*PLAIN, "basket-1"])
    assert invalidated(lambda: basket.products.clear()) == sorted([*PLAIN, "basket-1"])
    assert not [name for name in (*product.__dict__, *two.__dict__, *basket.__dict__) if "tezkor" in name]


@pytest.mark.parametrize(
    "delete", [lambda row: row.delete(), lambda row: type(row).objects.filter(pk=1).delete()]
)
def test_a_delete_of_what_a_row_refers_to_invalidates_it(cache, invalidated, delete):
    """Django sends no signal for the rows that SET_NULL and its like change, nor for rows of many-to-many tables."""
    by_relations(cache)
    product = a_product(category_id=1, brand_id=1, origin_id=1)
    other = Product.objects.create(pk=2, brand_id=2)
    product.labels.add(1)
    product.similar.add(other)
    basket = Basket.objects.create(pk=1)
    basket.products.add(product)
    rest = ["brand-1", "category-1", "label-1", "origin-1", "similar-2"]
    assert invalidated(lambda: delete(basket)) == sorted([*rest, "basket-1"])
    assert invalidated(lambda: delete(Origin.objects.get(pk=1))) == sorted([*rest, "origin-None"])
    rest.remove("origin-1")
    assert invalidated(lambda: delete(Label.objects.get(pk=1))) == sorted([*rest, "origin-None"])
    rest.remove("label-1")
    assert invalidated(lambda: delete(Category.objects.get(pk=1))) == sorted(
        [*rest, "category-None", "origin-None"]
    )
    rest.remove("category-1")
    Product.objects.filter(pk=1).update(brand_id=2)
    assert Product._meta.get_field("brand").get_default() == 1
    assert invalidated(lambda: Brand.objects.get(pk=2).delete()) == [
        "brand-1",
        "brand-2",
        "category-None",
        "origin-None",
        "similar-1",
        "similar-2",
    ]
    assert invalidated(lambda: delete(Product.objects.get(pk=1))) == sorted(
        [*PLAIN, "similar-1", "similar-2"]
    )
    assert other.similar.count() == 0


def test_deletes_that_lead_to_such_a_delete_count_too(cache, invalidated):
    by_relations(cache)
    shop = Shop.objects.create()
    product = a_product(category_id=1)
    Category.objects.filter(pk=1).update(shop=shop)
    assert invalidated(shop.delete) == ["brand-1", "category-1", "category-None", "origin-None"]
    product.category_id = 2
    product.save()
    assert invalidated(Special.objects.get(pk=2).delete) == [
        "brand-1",
        "category-2",
        "category-None",
        "origin-None",
    ]


def test_rows_that_are_left_alone_by_a_delete_count_too(cache):
    tezkor.invalidates(Note, tags=lambda note: [f"note-{note.pk}"], cache=cache._alias)
    shop = Shop.objects.create()
    note = Note.objects.create(shop=shop)
    fill(cache, f"note-{note.pk}")
    shop.delete()
    assert gone(cache, f"note-{note.pk}")[0] == {f"note-{note.pk}"}


def test_what_refers_to_a_deleted_row_is_not_fetched_where_nothing_depends_on_it(cache):
    queries = []

    def note(execute, sql, *args):
        if "auth_product" in sql:
            queries.append(sql.split()[0])
        return execute(sql, *args)

    by_relations(cache, bulk_tags=["products"])
    static = tezkor.invalidates(Product, tags=["all"], cache=cache._alias)
    a_product(category_id=1).labels.add(1)
    fill(cache, "products", "all")
    with connection.execute_wrapper(note):
        Category.objects.get(pk=1).delete()
        Label.objects.get(pk=1).delete()
    assert "SELECT" not in queries
    assert gone(cache, "products", "all")[0] == {"products", "all"}
    static.disconnect()


def test_related_managers_go_through_the_base_manager(cache, invalidated):
    """`category.product_set.add(product)` updates the row with the base manager of the model."""
    by_relations(cache)
    product = a_product(category_id=1)
    two = Category.objects.get(pk=2)
    rest = ["brand-1", "origin-None"]
    assert invalidated(lambda: two.product_set.add(product)) == sorted([*rest, "category-1", "category-2"])
    assert invalidated(lambda: two.product_set.remove(product)) == sorted(
        [*rest, "category-2", "category-None"]
    )
    two.product_set.add(product)
    assert invalidated(lambda: two.product_set.clear()) == sorted([*rest, "category-2", "category-None"])
    two.product_set.add(product)
    assert invalidated(lambda: two.product_set.set([])) == sorted([*rest, "category-2", "category-None"])
    assert invalidated(lambda: two.product_set.update(name="q")) == []


def test_relations_that_come_later_count(cache):
    """Models may refer to others that are not there yet."""
    meta = type("Meta", (), {"app_label": "auth"})
    number = next(numbers)

    def model(name, **fields):
        return type(f"{name}{number}", (models.Model,), {"Meta": meta, "__module__": __name__, **fields})

    Early = model("Early", late=models.ForeignKey(f"auth.Late{number}", models.SET_NULL, null=True))
    handle = tezkor.invalidates(Early, tags=lambda early: [f"{early.late_id}"], cache=cache._alias)
    Late = model("Late")
    Linked = model("Linked", early=models.ManyToManyField(f"auth.Early{number}"))
    Under = type(
        f"Under{number}", (Late,), {"Meta": type("Meta", (meta,), {"proxy": True}), "__module__": __name__}
    )
    with connection.schema_editor() as editor:
        for each in (Late, Early, Linked):
            editor.create_model(each)
    try:
        Late.objects.create(pk=1)
        early = Early.objects.create(late_id=1)
        linked = Linked.objects.create()
        linked.early.add(early)
        fill(cache, "1", "None")
        linked.delete()
        assert gone(cache, "1", "None")[0] == {"1"}
        fill(cache, "1", "None")
        Under.objects.get().delete()
        assert gone(cache, "1", "None")[0] == {"1", "None"}
        handle.disconnect()
        assert not [each for each in (Late, Linked) if signals.pre_delete.has_listeners(each)]
    finally:
        with connection.schema_editor() as editor:
            for each in (Linked, Early, Late):
                editor.delete_model(each)


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
    assert not signals.post_delete.has_listeners(Shop)
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
