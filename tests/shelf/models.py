import uuid

from django.db import models


class Director(models.Model):
    name = models.CharField(max_length=50)

    class Meta:
        app_label = "shelf"


class Film(models.Model):
    title = models.CharField(max_length=50)
    director = models.ForeignKey(Director, models.CASCADE, null=True, related_name="films")
    code = models.UUIDField(default=uuid.uuid4)
    price = models.DecimalField(max_digits=6, decimal_places=2, default=0)
    released = models.DateField(null=True)
    added = models.DateTimeField(null=True)
    running_time = models.DurationField(null=True)
    extra = models.JSONField(default=dict)
    poster = models.BinaryField(default=b"")

    class Meta:
        app_label = "shelf"


class Poster(models.Model):
    film = models.OneToOneField(Film, models.CASCADE, related_name="sheet")

    class Meta:
        app_label = "shelf"


class LongFilm(Film):
    """A subclass with a table of its own."""

    intermission = models.BooleanField(default=True)

    class Meta:
        app_label = "shelf"


class ProxyFilm(Film):
    class Meta:
        app_label = "shelf"
        proxy = True


class Secretive(models.Model):
    """Pickles itself in a way of its own."""

    name = models.CharField(max_length=50)

    class Meta:
        app_label = "shelf"

    def __getstate__(self):
        return {**super().__getstate__(), "name": "hidden"}


class Loud(models.Model):
    """Its __init__ does what unpickling must not do again."""

    name = models.CharField(max_length=50)
    made = 0

    class Meta:
        app_label = "shelf"

    def __init__(self, *args, **kwargs):
        Loud.made += 1
        super().__init__(*args, **kwargs)
