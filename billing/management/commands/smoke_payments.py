"""`manage.py smoke_payments`: tries Stripe and Mercado Pago in their test modes, and says what went wrong."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.core.management.base import BaseCommand

from billing.gateways.base import GatewayRefused, GatewayUnavailable
from billing.gateways.mercadopago import gateway as mercadopago
from billing.gateways.mercadopago.smoke import SmokeFailure, try_out
from billing.gateways.stripe.gateway import StripeGateway
from billing.gateways.stripe.smoke import walk
from billing.models import BillingAccount


class Command(BaseCommand):
    help = "Try the gateways whose test keys are set: buy, change, refund and cancel at Stripe; begin at Mercado Pago."

    def handle(self, *_args: Any, **_options: Any) -> None:
        failed = 0
        for step, is_well in (*self._try_stripe(), *self._try_mercado_pago()):
            self.stdout.write(f"{'as expected' if is_well else 'NOT AS EXPECTED'}: {step}")
            failed += not is_well
        if failed:
            sys.exit(1)

    def _try_stripe(self) -> Iterator[tuple[str, bool]]:
        if not settings.STRIPE_SECRET_KEY.startswith(("sk_test_", "rk_test_")):
            self.stdout.write("Skipped: STRIPE_SECRET_KEY is no key of Stripe's test mode.")
            return
        account = BillingAccount.objects.create()
        try:
            yield from walk(account.pk, f"smoke-{uuid4()}")
        finally:
            with contextlib.suppress(GatewayUnavailable, GatewayRefused):
                StripeGateway().forget_customer(account.pk, key="smoke")  # whatever went wrong, nothing stays there
            account.delete()

    def _try_mercado_pago(self) -> Iterator[tuple[str, bool]]:
        if not (settings.MERCADOPAGO_ACCESS_TOKEN and settings.MERCADOPAGO_TEST_PAYER):
            self.stdout.write("Skipped: MERCADOPAGO_ACCESS_TOKEN or MERCADOPAGO_TEST_PAYER is not set.")
            return
        country, payer = settings.MERCADOPAGO_COUNTRY, settings.MERCADOPAGO_TEST_PAYER
        try:
            for sentence in try_out(mercadopago.from_settings(), country, payer):
                yield sentence, True
        except (SmokeFailure, GatewayUnavailable, GatewayRefused) as error:
            yield f"Mercado Pago: {type(error).__name__}: {error}", False
