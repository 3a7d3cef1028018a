"""A catalogue of 60 made-up films for the tests."""

from decimal import Decimal

from django.core.cache import cache
from django.test import TestCase

from shop.models import Film, Genre, Person


class ShopTestCase(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.drama = Genre.objects.create(name="Drama", slug="drama")
        cls.war = Genre.objects.create(name="War", slug="war")
        cls.jane = Person.objects.create(name="Jane Doe")
        cls.films = [
            Film.objects.create(
                title=f"Film number {n}", year=1960 + n % 50, reviews=100 - n, score=n, price=Decimal(10) + n
            )
            for n in range(60)
        ]
        cls.drama.films.set(cls.films[:40])
        cls.war.films.set(cls.films[30:])
        cls.jane.directed.set(cls.films[:7])

    def setUp(self):
        cache.clear()

    def page(self, path, status=200, **data):
        response = self.client.get(path, data)
        self.assertEqual(response.status_code, status, path)
        return response.content.decode()

    def price(self, film, price, token="secret"):
        """Changes a price over HTTP, with what waits for the commit carried out as at a real one."""
        with self.captureOnCommitCallbacks(execute=True), self.settings(PRICE_TOKEN="secret"):
            return self.client.post(
                f"/api/price/{film.pk}/", {"price": price}, headers={"X-Price-Token": token}
            )
