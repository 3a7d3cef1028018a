"""``invalidates(Model, ...)``: saves, deletes, many-to-many changes and bulk operations."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection, models

import tezkor
from tezkor import cache
from tezkor.signals import InvalidatingManager, invalidates
from tezkor.test import clear_caches


class Shelf(models.Model):
    name = models.CharField(max_length=20)

    objects = InvalidatingManager()

    class Meta:
        app_label = "contenttypes"


class Book(models.Model):
    title = models.CharField(max_length=20)
    shelf = models.ForeignKey(Shelf, models.CASCADE, null=True)
    themes = models.ManyToManyField("contenttypes.Theme", related_name="books")

    objects = InvalidatingManager()

    class Meta:
        app_label = "contenttypes"


class Theme(models.Model):
    name = models.CharField(max_length=20)

    class Meta:
        app_label = "contenttypes"


class ProxyBook(Book):
    class Meta:
        app_label = "contenttypes"
        proxy = True


def tags_of(book: Any) -> list[str]:
    return [f"book:{book.pk}", f"shelf:{book.shelf_id}"]


@pytest.fixture
def handle() -> Any:
    clear_caches()
    with connection.schema_editor() as editor:
        for model in (Shelf, Theme, Book):
            editor.create_model(model)
    made = invalidates(Book, tags=tags_of, keys=lambda book: [f"title:{book.pk}"])
    yield made
    made.disconnect()
    with connection.schema_editor() as editor:
        for model in (Book, Theme, Shelf):
            editor.delete_model(model)


def watch(*tags: str) -> None:
    for tag in tags:
        cache.set(tag, "kept", tags=[tag])


def gone(*tags: str) -> list[bool]:
    return [cache.get(tag) is None for tag in tags]


def test_saves_deletes_and_what_was_named_before(handle):
    one, two = Shelf.objects.create(name="one"), Shelf.objects.create(name="two")
    watch(f"shelf:{one.pk}", f"shelf:{two.pk}")
    book = Book.objects.create(title="a", shelf=one)
    assert gone(f"shelf:{one.pk}", f"shelf:{two.pk}") == [True, False]

    watch(f"book:{book.pk}", f"shelf:{one.pk}", f"shelf:{two.pk}", "book:999")
    cache.set(f"title:{book.pk}", "a")
    book.shelf = two
    book.save()
    assert gone(f"book:{book.pk}", f"shelf:{one.pk}", f"shelf:{two.pk}", "book:999") == [
        True,
        True,
        True,
        False,
    ]
    assert cache.get(f"title:{book.pk}") is None

    tags = f"book:{book.pk}", f"shelf:{two.pk}"
    watch(*tags)
    book.delete()
    assert gone(*tags) == [True, True]


def test_proxies_are_covered_and_a_handle_ends(handle):
    book = ProxyBook.objects.create(title="a")
    watch(f"book:{book.pk}")
    book.title = "b"
    book.save()
    assert gone(f"book:{book.pk}") == [True]
    watch(f"book:{book.pk}")
    handle.disconnect()
    book.save()
    Book.objects.update(title="c")
    assert gone(f"book:{book.pk}") == [False]


def test_many_to_many_changes_from_both_sides(handle):
    book, other, theme = (
        Book.objects.create(title="a"),
        Book.objects.create(title="b"),
        Theme.objects.create(name="t"),
    )
    tags = f"book:{book.pk}", f"book:{other.pk}"
    for change, expected in (
        (lambda: book.themes.add(theme), [True, False]),
        (lambda: book.themes.remove(theme), [True, False]),
        (lambda: theme.books.add(book, other), [True, True]),
        (lambda: theme.books.remove(other), [False, True]),
        (lambda: theme.books.clear(), [True, False]),
        (lambda: book.themes.set([theme]), [True, False]),
        (lambda: book.themes.clear(), [True, False]),
    ):
        watch(*tags)
        change()
        assert gone(*tags) == expected


def test_bulk_operations(handle):
    one, two = Shelf.objects.create(name="one"), Shelf.objects.create(name="two")
    watch(f"shelf:{one.pk}")
    books = Book.objects.bulk_create([Book(title=str(number), shelf=one) for number in range(3)])
    assert gone(f"shelf:{one.pk}") == [True]

    tags = [f"book:{book.pk}" for book in books]
    watch(*tags, f"shelf:{one.pk}", f"shelf:{two.pk}")
    assert Book.objects.filter(pk__in=[books[0].pk, books[1].pk]).update(shelf=two) == 2
    assert gone(*tags, f"shelf:{one.pk}", f"shelf:{two.pk}") == [True, True, False, True, True]

    watch(*tags)
    books[2].title = "changed"
    Book.objects.bulk_update([books[2]], ["title"])
    assert gone(*tags) == [False, False, True]

    watch(*tags)
    Book.objects.filter(pk=books[0].pk).delete()
    assert gone(*tags) == [True, False, False]


def test_it_costs_other_models_nothing(handle):
    """A receiver for all models would make Django fetch what it deletes."""
    from django.db.models.signals import post_delete, post_init

    assert not post_delete.has_listeners(Theme)
    assert not post_init.has_listeners(Book)


@pytest.mark.parametrize(
    ("arguments", "terms", "text"),
    [
        ((Book,), {}, "needs tags= or keys="),
        (("Book",), {"tags": ["t"]}, "takes a model class"),
        ((Book,), {"tags": "t"}, r"write \['t'\]"),
        ((Book,), {"keys": 7}, "keys must be a list"),
    ],
)
def test_wrong_arguments_are_told_at_once(arguments, terms, text):
    with pytest.raises(TypeError, match=text):
        tezkor.invalidates(*arguments, **terms)
