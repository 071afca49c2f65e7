"""`manage.py embed_turns`: embeds all turns at once, which the worker would do little by little."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from history import embeddings

REPORTED_SECONDS = 10.0


class Command(BaseCommand):
    help = "Embed every turn that is not yet, for search by meaning, with one core. It may be broken off and repeated."

    def handle(self, **_options: Any) -> None:
        if not embeddings.is_on():
            raise CommandError("SEARCH_BY_MEANING is not set, or its package is missing: see “manage.py check”.")
        total = 0
        while count := embeddings.embed_missing(REPORTED_SECONDS):
            total += count
            self.stdout.write(f"{total} turns are embedded.")
