"""`manage.py load_catalog`: plans and models that are missing are added; what an operator changed stays."""

from typing import Any

from django.core.management.base import BaseCommand

from billing.seeds import load_plans
from chat.llm.catalog import load_catalog


class Command(BaseCommand):
    help = "Add the plans and models that are missing."

    def handle(self, *_args: Any, **_options: Any) -> None:
        load_plans()
        load_catalog()
