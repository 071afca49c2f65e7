"""`manage.py smoke_payments`: buys, changes, refunds and cancels in Stripe's test mode, and says what went wrong."""

import contextlib
import sys
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.core.management.base import BaseCommand

from billing.gateways.base import GatewayRefused, GatewayUnavailable
from billing.gateways.stripe.gateway import StripeGateway
from billing.gateways.stripe.smoke import walk
from billing.models import BillingAccount


class Command(BaseCommand):
    help = "Buy, change, refund and cancel in Stripe's test mode, with the test key that is set."

    def handle(self, *_args: Any, **_options: Any) -> None:
        if not settings.STRIPE_SECRET_KEY.startswith(("sk_test_", "rk_test_")):
            self.stdout.write("Skipped: STRIPE_SECRET_KEY is no key of Stripe's test mode.")
            return
        account = BillingAccount.objects.create()
        failed = 0
        try:
            for step, is_well in walk(account.pk, f"smoke-{uuid4()}"):
                self.stdout.write(f"{'as expected' if is_well else 'NOT AS EXPECTED'}: {step}")
                failed += not is_well
        finally:
            with contextlib.suppress(GatewayUnavailable, GatewayRefused):
                StripeGateway().forget_customer(account.pk, key="smoke")  # whatever went wrong, nothing stays there
            account.delete()
        if failed:
            sys.exit(1)
