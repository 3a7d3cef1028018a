"""Prices that change while they are read: how many answers show an older one than was committed before the request.

One writer raises the prices of a few films in turn. A price counts as committed once the shop has answered the write;
a reader notes those prices, then asks for a film's page, for its row, or for the list that all the films are on, and
compares. Prices only rise, so whatever is lower than the noted one is stale.
"""

import json
import random
import re
import threading
import time
from collections import Counter

from .load import CLIENTS, Visitor
from .plan import film_path

FILMS = 8
PAUSE_SECONDS = 0.05  # between two writes
FIRST_CENTS = 10_000  # above all prices of the catalogue
PAGE_PRICE = re.compile(rb'class="price">\$([0-9.]+)<')
CARD = re.compile(rb'<li class="card"><a href="/film/(\d+)/.*?class="price">\$([0-9.]+)<', re.DOTALL)


class Trial:
    def __init__(self, port, films, price_token):
        self.port, self.films, self.price_token = port, films, price_token
        self.committed = dict.fromkeys(films, 0)
        self.reads, self.stale, self.failures, self.hits = Counter(), Counter(), [], 0
        self.over, self.lock = threading.Event(), threading.Lock()

    def run(self, seconds):
        threads = [threading.Thread(target=self.guarded, args=[self.write])]
        threads += [threading.Thread(target=self.guarded, args=[self.read, seed]) for seed in range(CLIENTS)]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self.over.set()
        for thread in threads:
            thread.join()
        return {
            "reads": dict(self.reads), "stale": dict(self.stale), "hits": self.hits, "failures": self.failures,
        }  # fmt: skip

    def guarded(self, act, *args):
        try:
            act(*args)
        except (OSError, ValueError, IndexError, TypeError) as problem:
            self.failures.append(f"no proper answer while prices changed: {problem!r}")

    def write(self):
        visitor, cents = Visitor(self.port), FIRST_CENTS
        while not self.over.wait(PAUSE_SECONDS):
            pk = self.films[cents % len(self.films)]
            cents += 1
            headers = f"X-Price-Token: {self.price_token}\r\n"
            visitor.send("POST", f"/api/price/{pk}/", f"price={cents / 100:.2f}", headers)
            self.committed[pk] = cents
        self.failures += visitor.failures

    def read(self, seed):
        dice, visitor = random.Random(seed), Visitor(self.port)
        while not self.over.is_set():
            kind, pk = dice.choice(["page", "row", "list"]), dice.choice(self.films)
            committed = dict(self.committed)
            shown = getattr(self, f"shown_in_{kind}")(visitor, pk)
            stale = any(cents < committed[film] for film, cents in shown.items())
            with self.lock:
                self.reads[kind] += 1
                self.stale[kind] += stale
        with self.lock:
            self.hits += visitor.meters[2]
        self.failures += visitor.failures

    def shown_in_page(self, visitor, pk):
        return {pk: cents_of(PAGE_PRICE.search(visitor.send("GET", film_path(pk)))[1])}

    def shown_in_row(self, visitor, pk):
        return {pk: cents_of(json.loads(visitor.send("GET", f"/api/film/{pk}/"))["price"])}

    def shown_in_list(self, visitor, pk):
        cards = CARD.findall(visitor.send("GET", "/films/"))
        shown = {int(film): cents_of(price) for film, price in cards if int(film) in self.committed}
        if len(shown) != len(self.films):
            raise ValueError(f"the list shows {len(shown)} of {len(self.films)} films")
        return shown


def cents_of(price):
    return round(float(price) * 100)
