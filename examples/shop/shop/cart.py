"""The cart: film pks and their numbers in the session, and a cookie with the total for the badge on cached pages."""

from decimal import Decimal

from . import catalogue

BADGE_COOKIE = "cart_items"
MOST_OF_ONE = 99


class Cart:
    def __init__(self, request):
        self.session = request.session
        self.items = dict(self.session.get("cart", {}))  # JSON sessions: keys are text

    def add(self, pk, quantity):
        self.items[str(pk)] = min(self.items.get(str(pk), 0) + quantity, MOST_OF_ONE)

    def remove(self, pk):
        self.items.pop(str(pk), None)

    def lines(self):
        found = catalogue.rows([int(pk) for pk in self.items])
        return [
            {**row, "quantity": self.items[str(pk)], "total": row["price"] * self.items[str(pk)]}
            for pk, row in found.items()
        ]

    def save(self, response):
        self.session["cart"] = self.items
        response.set_cookie(BADGE_COOKIE, sum(self.items.values()), samesite="Lax", max_age=14 * 24 * 3600)
        return response


def total(lines):
    return sum((line["total"] for line in lines), Decimal(0))
