"""Fills the cache before visitors come: asks for the pages that most of them see first.

It helps the workers only when they share a cache with this command, as with Tezkor: LocMemCache belongs to one
process, and here that process is this command.
"""

from django.core.management.base import BaseCommand, CommandError
from django.test import Client
from django.urls import reverse

from shop.caching import cache
from shop.models import Film, Genre


class Command(BaseCommand):
    help = "Fills the cache with the home page, the first lists of each genre and the most reviewed films."

    def add_arguments(self, parser):
        parser.add_argument("--films", type=int, default=100, help="how many product pages")
        parser.add_argument(
            "--host", default="localhost", help="host that visitors use, since it is part of the key"
        )

    def handle(self, *args, **options):
        lock = cache.lock("warm")  # one warming at a time is enough
        if not lock.acquire(blocking=False):
            raise CommandError("the cache is being warmed by another process")
        try:
            self.warm(**options)
        finally:
            lock.release()

    def warm(self, films, host, **options):
        visitor = Client(SERVER_NAME=host.partition(":")[0], SERVER_PORT=host.partition(":")[2] or "80")
        pages = [reverse("home"), reverse("numbers"), reverse("films"), f"{reverse('films')}?page=2"]
        pages += [f"{reverse('films')}?genre={genre['slug']}" for genre in Genre.objects.with_counts()]
        pages += [film.get_absolute_url() for film in Film.objects.all()[:films]]
        failed = [page for page in pages if visitor.get(page).status_code != 200]
        for page in failed:
            self.stderr.write(f"{page} could not be fetched")
        if options["verbosity"]:
            self.stdout.write(f"{len(pages) - len(failed)} pages are warm")
