"""What visitors see: lists, filters, search, pages, products, people, covers, the cart, the admin."""

import re

from django.contrib.auth import get_user_model

from .catalogue import ShopTestCase

TITLE = re.compile(r'class="name">([^<]+)<')


class Pages(ShopTestCase):
    def test_list_is_in_pages_of_24(self):
        self.assertEqual(len(TITLE.findall(self.page("/films/"))), 24)
        last = self.page("/films/", page=3)
        self.assertEqual(len(TITLE.findall(last)), 12)
        self.assertIn("Page 3 of 3", last)
        self.page("/films/", page=4, status=404)

    def test_most_reviewed_film_comes_first_and_sorting_changes_it(self):
        self.assertEqual(TITLE.findall(self.page("/films/"))[0], "Film number 0")
        self.assertEqual(TITLE.findall(self.page("/films/", sort="score"))[0], "Film number 59")
        self.assertEqual(TITLE.findall(self.page("/films/", sort="price"))[0], "Film number 0")

    def test_genre_and_decade_filter_together(self):
        found = TITLE.findall(self.page("/films/", genre="war", decade="1960"))
        self.assertEqual(found, [f"Film number {n}" for n in range(50, 60)])

    def test_search_finds_titles_and_directors(self):
        self.assertEqual(TITLE.findall(self.page("/films/", q="number 42")), ["Film number 42"])
        self.assertEqual(len(TITLE.findall(self.page("/films/", q="jane"))), 7)
        self.assertIn("No film fits", self.page("/films/", q="no such film"))

    def test_odd_filters_are_ignored_or_escaped(self):
        for odd in (
            {"decade": "abcd"},
            {"decade": "²²²²"},
            {"sort": "x"},
            {"genre": "a b'\"<>"},
            {"q": "%_\\"},
        ):
            self.page("/films/", **odd)
        self.assertIn("&lt;script&gt;", self.page("/films/", q="<script>"))

    def test_other_pages_answer(self):
        film = self.films[0]
        self.assertIn("Jane Doe", self.page(film.get_absolute_url()))
        self.assertIn("Film number 6", self.page(self.jane.get_absolute_url()))
        self.assertIn("Drama", self.page("/"))
        self.assertIn("60 films", self.page("/numbers/"))
        report = self.page("/year/1960/")  # of films 0 and 50
        self.assertIn("2 films, 0 Oscars, 25 % positive reviews", report)
        self.assertLess(report.index("Film number 50"), report.index("Film number 0<"))
        self.assertIn("Film number 0", self.page("/trending/"))
        self.assertEqual(self.page(f"/cover/{film.pk}.svg"), self.page(f"/cover/{film.pk}.svg"))
        for absent in ("/film/999999/x/", "/cover/999999.svg", "/person/999999/", "/cart/add/999999/",
                       "/year/1900/", "/api/film/999999/"):  # fmt: skip
            self.page(absent, status=404)

    def test_cart_adds_up_and_sets_the_badge(self):
        for film, quantity in ((self.films[1], 2), (self.films[2], 1), (self.films[1], 1)):
            self.client.post(f"/cart/add/{film.pk}/", {"quantity": quantity})
        self.assertIn("$45.00", self.page("/cart/"))  # 3 × 11 + 12
        self.assertEqual(self.client.cookies["cart_items"].value, "4")
        self.client.post(f"/cart/remove/{self.films[1].pk}/")
        self.assertNotIn("Film number 1 ", self.page("/cart/"))
        self.assertEqual(self.client.cookies["cart_items"].value, "1")

    def test_cart_refuses_numbers_that_are_none(self):
        for quantity in ("0", "-1", "100", "x", "", "²", "9" * 400):
            answer = self.client.post(f"/cart/add/{self.films[1].pk}/", {"quantity": quantity})
            self.assertEqual(answer.status_code, 400, quantity)

    def test_admin_lists_films_and_reduces_prices(self):
        self.client.force_login(get_user_model().objects.create_superuser("boss", "", "secret"))
        for path in ("/admin/", "/admin/shop/film/", f"/admin/shop/film/{self.films[0].pk}/change/"):
            self.page(path)
        before = self.page(self.films[5].get_absolute_url())
        self.assertIn("$15.00", before)
        with self.captureOnCommitCallbacks(execute=True):
            action = {"action": "reduce_by_a_tenth", "_selected_action": [self.films[5].pk]}
            self.client.post("/admin/shop/film/", action)
        self.assertIn("$13.50", self.page(self.films[5].get_absolute_url()))
