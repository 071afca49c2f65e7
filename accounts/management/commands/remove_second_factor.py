"""`manage.py remove_second_factor ADDRESS`: for an operator who lost their phone and their recovery codes."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import events
from accounts.models import User, normalise_email
from accounts.second_factor import remove_all


class Command(BaseCommand):
    help = "Remove whatever second factor somebody has: their password alone lets them in again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("address")

    def handle(self, *_args: Any, **options: Any) -> None:
        user = User.objects.filter(email=normalise_email(options["address"])).first()
        if user is None:
            raise CommandError("Nobody has that address.")
        if not remove_all(user):
            raise CommandError("They have no second factor.")
        events.record("second_factor_removed", peer=None, user_id=user.pk, kind="all")
        self.stdout.write("Removed.")
