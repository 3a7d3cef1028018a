"""What the cache must do to the pages: keep them, renew them after a write, and never mix visitors up."""

import os
from io import StringIO
from unittest import mock, skipIf

from django.core.management import CommandError, call_command
from django.middleware.cache import FetchFromCacheMiddleware
from django.test import Client

from shop import catalogue
from shop.caching import HAS_TAGS, cache
from shop.models import Film, Genre

from .catalogue import ShopTestCase

needs_a_cache = skipIf(os.environ.get("SHOP_CACHE") == "dummy", "DummyCache keeps nothing")


class Invalidation(ShopTestCase):
    def test_price_write_renews_product_lists_and_cart(self):
        film = self.films[3]
        self.client.post(f"/cart/add/{film.pk}/", {"quantity": 1})
        paths = [film.get_absolute_url(), "/films/", "/films/?genre=drama", "/films/?q=number+3", "/cart/"]
        for path in paths:
            self.assertIn("$13.00", self.page(path), path)
        self.assertEqual(self.price(film, "77.77").status_code, 200)
        for path in paths:
            page = self.page(path)
            self.assertIn("$77.77", page, path)
            self.assertNotIn("$13.00", page, path)

    def test_price_write_needs_token_and_a_price(self):
        film = self.films[3]
        self.assertEqual(self.price(film, "5", token="wrong").status_code, 403)
        for price in ("", "x", "-1", "0", "NaN", "Infinity", "1e9", "9999.999", "1e400"):
            self.assertEqual(self.price(film, price).status_code, 400, price)
        with self.settings(PRICE_TOKEN=""):
            self.assertEqual(self.client.post(f"/api/price/{film.pk}/", {"price": "5"}).status_code, 403)

    def test_new_and_deleted_films_change_the_counted_genres(self):
        counts = lambda: {row["slug"]: row["film_count"] for row in Genre.objects.with_counts()}  # noqa: E731
        self.assertEqual(counts(), {"drama": 40, "war": 30})
        with self.captureOnCommitCallbacks(execute=True):
            Film.objects.create(title="One more", year=2000, price=1).genres.add(self.war)
        self.assertEqual(counts()["war"], 31)
        with self.captureOnCommitCallbacks(execute=True):
            self.films[0].delete()
        self.assertEqual(counts()["drama"], 39)

    def test_deleted_film_leaves_the_lists_and_its_page(self):
        self.assertIn("Film number 0", self.page("/films/"))
        path = self.films[0].get_absolute_url()
        self.page(path)
        with self.captureOnCommitCallbacks(execute=True):
            self.films[0].delete()
        self.assertNotIn("Film number 0<", self.page("/films/"))
        self.page(path, status=404)

    def test_deleted_film_leaves_the_lists_of_its_genres(self):
        self.assertIn("Film number 0<", self.page("/films/", genre="drama"))
        with self.captureOnCommitCallbacks(execute=True):
            self.films[0].delete()
        self.assertNotIn("Film number 0<", self.page("/films/", genre="drama"))

    def test_film_that_leaves_a_genre_leaves_its_list(self):
        self.assertIn("Film number 0<", self.page("/films/", genre="drama"))
        with self.captureOnCommitCallbacks(execute=True):
            self.films[0].genres.remove(self.drama)
        self.assertNotIn("Film number 0<", self.page("/films/", genre="drama"))
        with self.captureOnCommitCallbacks(execute=True):
            self.drama.films.clear()
        self.assertNotIn("Film number 1<", self.page("/films/", genre="drama"))

    def test_new_film_is_found_counted_and_reported(self):
        self.assertIn("<small>60</small>", self.page("/films/", q="film"))
        self.assertIn("60 films", self.page("/numbers/"))
        year = self.films[0].year
        before = catalogue.year_in_film(year)["films"]
        with self.captureOnCommitCallbacks(execute=True):
            Film.objects.create(title="Another film", year=year, price=1)
        self.assertIn("<small>61</small>", self.page("/films/", q="film"))
        self.assertEqual(catalogue.numbers()["films"], 61)
        self.assertEqual(catalogue.year_in_film(year)["films"], before + 1)

    def test_deleted_film_is_similar_to_none(self):
        other = catalogue.similar(self.films[0])[0]["pk"]
        with self.captureOnCommitCallbacks(execute=True):
            Film.objects.get(pk=other).delete()
        self.assertNotIn(other, [film["pk"] for film in catalogue.similar(self.films[0])])

    def test_price_write_renews_the_row_of_other_programs(self):
        path = f"/api/film/{self.films[3].pk}/"
        self.assertEqual(self.client.get(path).json()["price"], "13.00")
        self.price(self.films[3], "77.77")
        self.assertEqual(self.client.get(path).json()["price"], "77.77")

    def test_absent_film_is_found_once_it_is_there(self):
        for _ in range(2):
            self.page("/film/999/film/", status=404)
            self.page("/api/film/999/", status=404)
        with self.captureOnCommitCallbacks(execute=True):
            Film.objects.create(pk=999, title="Late", year=2000, price=1)
        self.assertIn("Late", self.page("/film/999/film/"))
        self.assertIn("Late", self.page("/api/film/999/"))

    def test_renamed_genre_and_new_links_show_in_the_sidebar(self):
        self.assertIn(">Drama</a> <small>40</small>", self.page("/films/"))
        with self.captureOnCommitCallbacks(execute=True):
            self.drama.name = "Theatre"
            self.drama.save()
        self.assertIn(">Theatre</a> <small>40</small>", self.page("/films/"))
        with self.captureOnCommitCallbacks(execute=True):
            self.films[50].genres.add(self.drama)
        self.assertIn(">Theatre</a> <small>41</small>", self.page("/films/"))
        self.assertIn("Film number 50<", self.page("/films/", genre="drama", page=2))

    @needs_a_cache
    def test_write_that_overtakes_a_rendering_leaves_no_old_page(self):
        film = self.films[3]
        path, load = film.get_absolute_url(), catalogue.similar

        def slow(other):  # the price changes while the page, which has read the old one, is being made
            self.price(film, "77.77")
            return load(other)

        catalogue.similar = slow
        try:
            self.assertIn("$13.00", self.page(path))
        finally:
            catalogue.similar = load
        self.assertIn("$77.77", self.page(path))


class Keeping(ShopTestCase):
    @needs_a_cache
    def test_second_look_asks_the_database_nothing(self):
        film = self.films[3]
        for path in ("/", "/films/?genre=war", film.get_absolute_url(), f"/cover/{film.pk}.svg", "/numbers/",
                     self.jane.get_absolute_url()):  # fmt: skip
            first = self.page(path)
            with self.assertNumQueries(0):
                self.assertEqual(self.page(path), first)

    @needs_a_cache
    def test_counted_genres_are_queried_once(self):
        with self.assertNumQueries(1):
            self.assertEqual(Genre.objects.with_counts(), Genre.objects.with_counts())

    def test_site_cache_does_not_look_for_what_it_must_not_keep(self):
        # Made by hand, pages with prices have a cache_page of their own, which looks once.
        once = set() if HAS_TAGS else {"/films/", self.films[0].get_absolute_url()}
        with mock.patch.object(FetchFromCacheMiddleware, "process_request", return_value=None) as look:
            for path in ("/", *once, "/cart/", "/trending/"):
                look.reset_mock()
                self.page(path)
                self.assertEqual(look.call_count, path == "/" or path in once, path)

    @needs_a_cache
    def test_looks_at_cached_pages_count_for_trending(self):
        for _ in range(3):
            self.page(self.films[40].get_absolute_url())
        self.assertEqual(catalogue.trending(1)[0]["looks"], 3)

    @needs_a_cache
    def test_cart_rows_come_by_one_get_many_and_one_query(self):
        pks = [film.pk for film in self.films[:5]]
        with self.assertNumQueries(1):
            first = catalogue.rows(pks)
        with self.assertNumQueries(0):
            self.assertEqual(catalogue.rows(pks), first)

    @needs_a_cache
    def test_report_of_a_year_without_films_is_made_once_too(self):
        with mock.patch.object(catalogue, "load_year", wraps=catalogue.load_year) as load:
            for _ in range(3):
                self.page("/year/1900/", status=404)
        self.assertEqual(load.call_count, 1)

    def test_pages_answer_to_head_and_to_nothing_that_writes(self):
        for path in ("/films/", self.films[1].get_absolute_url()):
            for _ in range(2):
                self.assertEqual(self.client.head(path).status_code, 200)
                self.assertEqual(self.client.post(path).status_code, 405)
                self.assertEqual(self.client.get(path).status_code, 200)

    def test_long_search_is_answered_twice(self):
        for word in ("x" * 300, "y" * 300, "x" * 300):
            self.assertIn(word[:80], self.page("/films/", q=word))

    @needs_a_cache
    def test_only_one_process_warms(self):
        lock = cache.lock("warm")
        self.assertTrue(lock.acquire(blocking=False))
        with self.assertRaisesMessage(CommandError, "by another process"):
            call_command("warm", "--films", "1", stdout=StringIO())
        lock.release()
        for _ in range(2):
            call_command("warm", "--films", "1", stdout=StringIO())

    @needs_a_cache
    def test_warming_makes_the_first_visit_a_hit(self):
        said = StringIO()
        call_command("warm", "--films", "5", stdout=said)
        self.assertEqual(said.getvalue(), "11 pages are warm\n")
        with self.assertNumQueries(0):
            for path in ("/", "/films/", "/films/?genre=war", self.films[4].get_absolute_url()):
                self.client.get(path, SERVER_NAME="localhost")

    def test_cached_pages_are_the_same_for_everybody(self):
        shopper, other = Client(), Client()
        shopper.post(f"/cart/add/{self.films[1].pk}/", {"quantity": 2})
        for path in ("/", "/films/", self.films[1].get_absolute_url(), "/numbers/"):
            mine, theirs = shopper.get(path), other.get(path)
            self.assertEqual(mine.content, theirs.content, path)
            self.assertFalse(theirs.has_header("Set-Cookie") or theirs.has_header("Vary"), path)
            self.assertNotIn("csrfmiddlewaretoken", theirs.content.decode())
        self.assertIn("It is empty", other.get("/cart/").content.decode())

    def test_pages_with_prices_are_kept_by_no_browser(self):
        for path in ("/films/", self.films[1].get_absolute_url()):
            for _ in range(2):
                self.assertEqual(self.client.get(path)["Cache-Control"], "private, no-cache")
