"""What Tezkor does for the shop and nothing made by hand can: transactions, one run for all, patterns."""

import threading
import time
from io import StringIO
from unittest import mock, skipUnless

from django.core.management import call_command
from django.db import transaction

from shop import catalogue
from shop.caching import HAS_TAGS, cache

from .catalogue import ShopTestCase

CALLERS = 8


@skipUnless(HAS_TAGS, "Tezkor alone can")
class Tezkor(ShopTestCase):
    def test_price_that_is_rolled_back_is_seen_by_its_transaction_alone(self):
        film = self.films[3]
        path = film.get_absolute_url()
        self.assertIn("$13.00", self.page(path))
        with self.assertRaises(InterruptedError), transaction.atomic():
            film.change_price(1)
            self.assertIn("$1.00", self.page(path))
            raise InterruptedError
        self.assertIn("$13.00", self.page(path))

    def test_report_is_made_once_for_all_who_ask_at_once(self):
        def load(year):
            time.sleep(0.2)
            return {"year": year}

        found, start = [], threading.Barrier(CALLERS)

        def ask():
            start.wait()
            found.append(catalogue.year_in_film(1994))

        with mock.patch.object(catalogue, "load_year", side_effect=load) as loads:
            threads = [threading.Thread(target=ask) for _ in range(CALLERS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.assertEqual(loads.call_count, 1)
        self.assertEqual(found, [{"year": 1994}] * CALLERS)

    def test_pages_are_forgotten_by_pattern_and_nothing_else_is(self):
        pages = ["/films/", self.films[3].get_absolute_url()]
        for path in pages:
            self.page(path)
        kept = [key for key in cache.keys("*") if not key.startswith("page:")]
        said = StringIO()
        call_command("forget", "page:*", stdout=said)
        self.assertEqual(said.getvalue(), "2 entries are forgotten\n")
        self.assertEqual(sorted(cache.keys()), sorted(kept))
        self.assertTrue(kept)
        with mock.patch.object(catalogue, "similar", return_value=[]) as rendered:
            self.page(pages[1])
        self.assertEqual(rendered.call_count, 1)

    def test_price_write_leaves_what_shows_no_price(self):
        catalogue.numbers()
        self.page(self.films[3].get_absolute_url())
        self.price(self.films[3], "77.77")
        with self.assertNumQueries(0):
            catalogue.numbers()
            catalogue.similar(self.films[3])
