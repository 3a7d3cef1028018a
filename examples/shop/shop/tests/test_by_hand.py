"""What is made by hand where the cache is not Tezkor: it hears of a write at the commit."""

from io import StringIO
from unittest import skipIf

from django.core.management import CommandError, call_command

from shop import versions
from shop.by_hand import cache
from shop.caching import HAS_TAGS

from .catalogue import ShopTestCase
from .test_caching import needs_a_cache


@skipIf(HAS_TAGS, "Tezkor needs nothing by hand")
class ByHand(ShopTestCase):
    @needs_a_cache
    def test_cache_hears_of_a_price_at_the_commit_and_not_before(self):
        film = self.films[3]
        before = versions.current(f"film:{film.pk}")
        with self.captureOnCommitCallbacks(execute=True):
            film.change_price(1)
            self.assertEqual(versions.current(f"film:{film.pk}"), before)
        self.assertNotEqual(versions.current(f"film:{film.pk}"), before)

    def test_bumping_what_nobody_read_does_nothing(self):
        versions.bump("never-read")
        self.assertIsNone(cache.get("version:never-read"))

    def test_keys_are_not_known(self):
        with self.assertRaisesMessage(CommandError, "emptied as a whole"):
            call_command("forget", "page:*", stdout=StringIO())
