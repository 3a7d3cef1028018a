"""The tables of the shop."""

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Genre",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=40, unique=True)),
                ("slug", models.SlugField(max_length=40, unique=True)),
            ],
            options={
                "ordering": ["name"],
            },
        ),
        migrations.CreateModel(
            name="Person",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=200, unique=True)),
            ],
            options={
                "verbose_name_plural": "people",
                "ordering": ["name"],
            },
        ),
        migrations.CreateModel(
            name="Film",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("title", models.CharField(max_length=300)),
                ("year", models.PositiveSmallIntegerField(db_index=True)),
                ("released", models.DateField(blank=True, null=True)),
                ("runtime", models.PositiveSmallIntegerField(blank=True, null=True, verbose_name="minutes")),
                ("rated", models.CharField(blank=True, max_length=20)),
                ("country", models.CharField(blank=True, max_length=300)),
                ("language", models.CharField(blank=True, max_length=300)),
                (
                    "score",
                    models.PositiveSmallIntegerField(
                        blank=True, null=True, verbose_name="critics' score in percent"
                    ),
                ),
                (
                    "reviews",
                    models.PositiveIntegerField(
                        db_index=True, default=0, verbose_name="number of critics' reviews"
                    ),
                ),
                (
                    "gross",
                    models.PositiveBigIntegerField(
                        default=0, verbose_name="box office in dollars, where known"
                    ),
                ),
                ("oscars", models.PositiveSmallIntegerField(default=0)),
                ("price", models.DecimalField(decimal_places=2, max_digits=6)),
                ("changed", models.DateTimeField(auto_now=True)),
                ("genres", models.ManyToManyField(blank=True, related_name="films", to="shop.genre")),
                ("cast", models.ManyToManyField(blank=True, related_name="acted", to="shop.person")),
                ("directors", models.ManyToManyField(blank=True, related_name="directed", to="shop.person")),
            ],
            options={
                "ordering": ["-reviews", "pk"],
            },
        ),
    ]
