"""The one model whose rows and instances are cached in the measurements."""

from __future__ import annotations

from django.db import models


class Product(models.Model):
    title = models.CharField(max_length=100)
    slug = models.SlugField()
    price = models.DecimalField(max_digits=8, decimal_places=2)
    stock = models.IntegerField()
    active = models.BooleanField()
    created = models.DateTimeField()
    summary = models.CharField(max_length=200)

    def __str__(self) -> str:
        return self.title
