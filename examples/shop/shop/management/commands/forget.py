"""Removes what was cached under keys that fit a pattern.

After a template has changed, `manage.py forget "page:*"` has all pages with prices made anew.
"""

from django.core.management.base import BaseCommand, CommandError

from shop.caching import HAS_TAGS, cache


class Command(BaseCommand):
    help = "Removes the entries whose key fits the pattern: * any text, ? one character, [abc] one of these."

    def add_arguments(self, parser):
        parser.add_argument("pattern")

    def handle(self, *args, pattern, **options):
        if not HAS_TAGS:
            raise CommandError("this cache does not know its keys: it can only be emptied as a whole")
        self.stdout.write(f"{cache.delete_pattern(pattern)} entries are forgotten")
