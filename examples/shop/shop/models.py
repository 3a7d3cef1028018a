"""Genres, people and films. The genre list is a cached manager query; `signals.py` invalidates it."""

from django.db import models
from django.urls import reverse
from django.utils.text import slugify

from .caching import cache


class GenreManager(models.Manager):
    def with_counts(self):
        """All genres with their number of films, most films first, from the cache when it has them."""
        return cache.get_or_set("genres:counts", self._load_with_counts, "CATALOGUE", tags=["films"])

    def _load_with_counts(self):
        counted = self.annotate(film_count=models.Count("films")).order_by("-film_count", "name")
        return list(counted.values("name", "slug", "film_count"))


class Genre(models.Model):
    name = models.CharField(max_length=40, unique=True)
    slug = models.SlugField(max_length=40, unique=True)

    objects = GenreManager()

    class Meta:
        ordering = ["name"]

    def __str__(self):
        return self.name


class Person(models.Model):
    name = models.CharField(max_length=200, unique=True)

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "people"

    def __str__(self):
        return self.name

    def get_absolute_url(self):
        return reverse("person", args=[self.pk])


class Film(models.Model):
    title = models.CharField(max_length=300)
    year = models.PositiveSmallIntegerField(db_index=True)
    released = models.DateField(null=True, blank=True)
    runtime = models.PositiveSmallIntegerField("minutes", null=True, blank=True)
    rated = models.CharField(max_length=20, blank=True)
    country = models.CharField(max_length=300, blank=True)
    language = models.CharField(max_length=300, blank=True)
    score = models.PositiveSmallIntegerField("critics' score in percent", null=True, blank=True)
    reviews = models.PositiveIntegerField("number of critics' reviews", default=0, db_index=True)
    gross = models.PositiveBigIntegerField("box office in dollars, where known", default=0)
    oscars = models.PositiveSmallIntegerField(default=0)
    price = models.DecimalField(max_digits=6, decimal_places=2)
    changed = models.DateTimeField(auto_now=True)
    genres = models.ManyToManyField(Genre, related_name="films", blank=True)
    directors = models.ManyToManyField(Person, related_name="directed", blank=True)
    cast = models.ManyToManyField(Person, related_name="acted", blank=True)

    class Meta:
        ordering = ["-reviews", "pk"]

    def __str__(self):
        return f"{self.title} ({self.year})"

    def get_absolute_url(self):
        return reverse("film", args=[self.pk, slugify(self.title) or "film"])

    def change_price(self, price):
        """Saves the price alone; the cache hears of it by a signal (see `signals.py`)."""
        self.price = price
        self.save(update_fields=["price", "changed"])
