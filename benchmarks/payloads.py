"""What is cached in the measurements: values of the sizes and shapes that Django sites keep in a cache."""

from __future__ import annotations

import datetime
import random
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

ROW_FIELDS = ("id", "title", "price", "created", "active")
LETTERS = "abcdefghijklmnopqrstuvwxyz      "


def text(length: int, seed: int = 1) -> str:
    """ASCII text that does not compress to nothing; the same for the same seed."""
    return "".join(random.Random(seed).choices(LETTERS, k=length))


def short() -> str:
    return text(50)


def page() -> str:
    paragraph = f'<p class="summary">{text(400)}</p>\n'
    return (paragraph * (20 * 1024 // len(paragraph) + 1))[: 20 * 1024]


def blob() -> bytes:
    return random.Random(2).randbytes(100 * 1024)


def record() -> dict[str, Any]:
    """A dict of 20 fields of the types that a view or a serialiser puts together."""
    moment = datetime.datetime(2024, 5, 17, 12, 30, 15, 123456, tzinfo=datetime.timezone.utc)
    return {
        "id": 123456,
        "uuid": uuid.UUID(int=0x1234567890ABCDEF1234567890ABCDEF),
        "title": text(40, 3),
        "slug": text(30, 4).replace(" ", "-"),
        "summary": text(160, 5),
        "price": Decimal("129.90"),
        "discount": Decimal("0.15"),
        "rating": 4.375,
        "votes": 18234,
        "active": True,
        "archived": False,
        "parent": None,
        "created": moment,
        "changed": moment + datetime.timedelta(days=3, seconds=7),
        "released": datetime.date(2023, 11, 2),
        "runtime": datetime.timedelta(minutes=117),
        "tags": ["drama", "history", "award"],
        "stock": {"berlin": 3, "tashkent": 12},
        "currency": "EUR",
        "views": 9876543210,
    }


def fill_database() -> None:
    """Creates the table of products in the in-memory database and 200 of them."""
    from django.db import connection

    from benchmarks.models import Product

    with connection.schema_editor() as editor:
        editor.create_model(Product)
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)
    Product.objects.bulk_create(
        Product(
            title=text(30, number),
            slug=f"product-{number}",
            price=Decimal(number * 37 % 10000) / 100,
            stock=number % 50,
            active=number % 7 != 0,
            created=start + datetime.timedelta(hours=number, microseconds=number),
            summary=text(120, number + 1000),
        )
        for number in range(1, 201)
    )


def rows() -> list[dict[str, Any]]:
    from benchmarks.models import Product

    return list(Product.objects.order_by("id").values(*ROW_FIELDS))


def instances() -> list[Any]:
    from benchmarks.models import Product

    return list(Product.objects.order_by("id")[:20])


# The name in the tables, and how the value is made.
PAYLOADS: dict[str, Callable[[], Any]] = {
    "50 B str": short,
    "20 KB page": page,
    "100 KB bytes": blob,
    "dict of 20": record,
    "200 rows": rows,
    "20 models": instances,
}
