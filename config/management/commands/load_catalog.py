"""`manage.py load_catalog`: plans, models and roles that are missing are added; what an operator changed stays."""

from typing import Any

from django.core.management.base import BaseCommand

from billing.seeds import load_plans
from chat.llm.catalog import load_catalog
from chat.llm.spending import FIRST_DOLLARS_A_DAY, load_first_limits
from config.roles import load_roles

FIRST_LIMITS = (
    f"In this new installation each provider may take US${FIRST_DOLLARS_A_DAY} a day (UTC), and then its paid models "
    "stop. To change that: /admin/, “Daily limits of providers”."
)


class Command(BaseCommand):
    help = "Add the plans, models and roles that are missing; in a new installation, daily limits of providers too."

    def handle(self, *_args: Any, verbosity: int, **_options: Any) -> None:
        load_plans()
        load_roles()
        if load_first_limits() and verbosity:
            self.stdout.write(FIRST_LIMITS)
        load_catalog()
