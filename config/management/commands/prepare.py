"""`manage.py prepare`: what must be done once before the processes of a release start."""

import io
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from billing.gateways.mercadopago.agreements import COUNTRIES
from billing.seeds import load_prices
from config.embedded.data_dir_lock import one_at_a_time
from config.reachability import StoreUnreachableError, check_stores
from core.half_restored import require_whole
from core.preparation import mark_prepared

US_CENT = {"ARS": 1_000, "BRL": 5, "CLP": 10, "COP": 4_000, "MXN": 20, "PEN": 4, "UYU": 40}
"""About how many minor units of a currency a US cent is worth: what is simulated should look like prices."""


class Command(BaseCommand):
    help = (
        "Migrate both databases, add the plans and models that are missing, and their prices where a gateway is "
        "simulated, and collect static files."
    )

    def handle(self, *_args: Any, verbosity: int, **_options: Any) -> None:
        try:
            check_stores()
            require_whole()
        except StoreUnreachableError as error:
            raise CommandError(str(error)) from None
        with one_at_a_time(settings.DATA_DIR, "prepare"):  # two at once would make the same table
            self._prepare(verbosity)

    def _prepare(self, verbosity: int) -> None:
        call_command("migrate", verbosity=0, interactive=False)
        call_command("migrate", "history", database="history", verbosity=0, interactive=False)  # no other app is there
        call_command("load_catalog", verbosity=verbosity, stdout=self.stdout)
        if settings.SIMULATED_STRIPE_URL:
            load_prices("stripe", "USD")
            call_command("set_up_stripe", stdout=io.StringIO())
        if settings.SIMULATED_MERCADOPAGO_URL:
            currency = COUNTRIES[settings.MERCADOPAGO_COUNTRY].currency
            load_prices("mercadopago", currency, cents=US_CENT[currency])
        call_command("collectstatic", verbosity=0, interactive=False)
        mark_prepared()
