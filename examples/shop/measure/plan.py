"""The load: what visitors do, drawn from a seed and sent alike to every cache, slice by slice.

Films are drawn by their number of critics' reviews (`critics`) or by their box office (`audience`), genres by their
number of films. Neither is a count of votes: the data has none. The critics' numbers are complete but flat (the first
1 000 films get a quarter of them); the box office is steep, but known for one film in six. Each slice changes one
price, so that it is certain which price is the last one, and that some are checked however slow the machine is.
"""

import random
import sqlite3

REQUESTS = 150  # of a slice: about two seconds without a cache
STEPS = {  # share of what a visitor does next, in thousandths
    "list": 280, "film": 382, "search": 110, "home": 60, "person": 60,
    "cart": 40, "add": 35, "trending": 20, "numbers": 10, "year": 3,
}  # fmt: skip
WEIGHT = {"get": 1, "add": 3, "price": 7}  # requests of a step


def by_audience(films):
    """A film without a known box office, or with a smaller one, counts like the lowest tenth of the known ones."""
    known = sorted(gross for *_, gross in films if gross)
    lowest = known[len(known) // 10]
    return (max(gross, lowest) for *_, gross in films)


def by_critics(films):
    return (reviews for _, _, reviews, _ in films)


WEIGHTS = {"audience": by_audience, "critics": by_critics}


class Plan:
    def __init__(self, database, seed, popularity):
        self.dice = random.Random(seed)
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as db:
            self.films = db.execute("SELECT id, title, reviews, gross FROM shop_film ORDER BY id").fetchall()
            self.genres = db.execute(
                "SELECT g.slug, count(*) FROM shop_genre g JOIN shop_film_genres l ON l.genre_id = g.id"
                " GROUP BY g.slug ORDER BY g.slug"
            ).fetchall()
            self.years = [
                year for (year,) in db.execute("SELECT DISTINCT year FROM shop_film ORDER BY year DESC")
            ]
            self.people = db.execute(
                "SELECT film_id, person_id FROM shop_film_directors ORDER BY id"
            ).fetchall()
            names = dict(db.execute("SELECT id, name FROM shop_person").fetchall())
        self.weights = list(WEIGHTS[popularity](self.films))
        weight_of = dict(zip((film[0] for film in self.films), self.weights, strict=True))
        self.people_weights = [weight_of[film] for film, _ in self.people]
        self.words = [names[person].split()[-1].lower() for _, person in self.people]

    def slice(self):
        """The next visits, a visit being a list of steps."""
        visits, sent = [[("price", self._film_row()[0], f"{self.dice.randint(300, 3000) / 100:.2f}")]], 0
        while sent < REQUESTS:
            kinds = self.dice.choices(list(STEPS), list(STEPS.values()), k=self.dice.randint(3, 15))
            visit = [step for kind in kinds for step in getattr(self, f"_{kind}")()]
            visits.append(visit)
            sent += sum(WEIGHT[step[0]] for step in visit)
        self.dice.shuffle(visits)
        return visits

    def _film_row(self):
        return self.dice.choices(self.films, self.weights)[0]

    def _home(self):
        return [("get", "/")]

    def _list(self):
        filters, films = [], len(self.films)
        if self.dice.random() < 0.6:
            genre, films = self.dice.choices(self.genres, [count for _, count in self.genres])[0]
            filters.append(f"genre={genre}")
        if self.dice.random() < 0.15:
            films = 1  # one page at least
            filters.append(f"decade={self.dice.choices([2010, 2000, 1990, 1980, 1970], [5, 5, 3, 2, 1])[0]}")
        if self.dice.random() < 0.2:
            filters.append(f"sort={self.dice.choice(['score', 'newest', 'price'])}")
        page = min(int(self.dice.expovariate(0.7)) + 1, 8, -(-films // 24))
        return [
            ("get", "/films/" + ("?" + "&".join([*filters, f"page={page}"]) if filters or page > 1 else ""))
        ]

    def _search(self):
        if self.dice.random() < 0.5:
            word = self.dice.choices(self.words, self.people_weights)[0]
        else:
            word = max(self._film_row()[1].lower().split(), key=len)
        kept = "".join(letter for letter in word if letter.isascii() and letter.isalnum())
        return [("get", f"/films/?q={kept or 'love'}")]

    def _film(self):
        pk = self._film_row()[0]
        return [("get", film_path(pk)), ("get", f"/cover/{pk}.svg")]

    def _person(self):
        return [("get", f"/person/{self.dice.choices(self.people, self.people_weights)[0][1]}/")]

    def _cart(self):
        return [("get", "/cart/")]

    def _add(self):
        return [("add", self._film_row()[0], self.dice.randint(1, 3))]

    def _trending(self):
        return [("get", "/trending/")]

    def _numbers(self):
        return [("get", "/numbers/")]

    def _year(self):
        latest = min(int(self.dice.expovariate(0.3)), len(self.years) - 1)
        return [("get", f"/year/{self.years[latest]}/")]

    def sample(self, slices):
        """Pages to compare between the caches: some of each kind, and every film whose price was changed."""
        changed = sorted(
            {step[1] for visits in slices for visit in visits for step in visit if step[0] == "price"}
        )
        lists = [f"/films/?{query}" for query in ("page=1", "page=2", "genre=drama", "genre=comedy&page=3",
                 "genre=horror&sort=price", "decade=2000&sort=score", "sort=newest", "q=nolan", "q=love")]  # fmt: skip
        films = [film_path(pk) for pk in [*changed[:40], *range(1, 13)]]
        people = [f"/person/{person}/" for _, person in self.people[:3]]
        other = ["/numbers/", "/year/1994/", "/cover/1.svg", "/api/film/1/"]
        return ["/", "/films/", *other, *lists, *films, *people]


def film_path(pk):
    """Any slug leads to the film, so one does for all."""
    return f"/film/{pk}/film/"
