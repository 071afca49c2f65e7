"""`manage.py prepare`: what must be done once before the processes of a release start."""

from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from config.reachability import StoreUnreachableError, check_stores


class Command(BaseCommand):
    help = "Migrate both databases, add the plans and models that are missing, and collect static files (not in DEBUG)."

    def handle(self, *_args: Any, verbosity: int, **_options: Any) -> None:
        try:
            check_stores()
        except StoreUnreachableError as error:
            raise CommandError(str(error)) from None
        call_command("migrate", verbosity=0, interactive=False)
        call_command("migrate", database="history", verbosity=0, interactive=False)
        call_command("load_catalog", verbosity=verbosity, stdout=self.stdout)
        if not settings.DEBUG:
            call_command("collectstatic", verbosity=0, interactive=False)
