"""`manage.py set_up_stripe`: makes at Stripe what must be there before anything is sold. Harmless to repeat."""

from typing import Any
from uuid import uuid4

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing.gateways.base import GatewayRefused, GatewayUnavailable
from billing.gateways.stripe import catalogue, mirror
from billing.gateways.stripe.client import asking
from billing.models import Price

SETUP_SECONDS = 60.0


class Command(BaseCommand):
    help = "Make the prices, the portal's configuration and the webhook at Stripe."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--new-webhook", action="store_true", help="make another endpoint, to change its secret")

    def handle(self, *_args: Any, **options: Any) -> None:
        if not settings.STRIPE_SECRET_KEY:
            raise CommandError("STRIPE_SECRET_KEY is not set: see docs/billing.md.")
        try:
            self._make_prices()
            self._make_portal()
            if not settings.SIMULATED_STRIPE_URL:  # which was told when it started
                self._make_webhook(is_new_wanted=options["new_webhook"])
        except (GatewayRefused, GatewayUnavailable) as error:
            raise CommandError(f"Stripe: {error}") from error

    def _make_prices(self) -> None:
        for price in Price.objects.filter(gateway="stripe", is_for_sale=True).select_related("plan"):
            found = catalogue.publish(price, SETUP_SECONDS)
            self.stdout.write(f"Price {price.reference}: {found}")

    def _make_portal(self) -> None:
        with asking() as client:
            configuration = catalogue.ensure_portal(client, f"{settings.SITE_URL}/billing/")
        self.stdout.write(f"Portal: {configuration}")

    def _make_webhook(self, *, is_new_wanted: bool) -> None:
        uuid = settings.STRIPE_WEBHOOK_UUID or str(uuid4())
        url = f"{settings.SITE_URL}/stripe/webhook/{uuid}/"
        with asking() as client:
            known = catalogue.find_webhook(client, url)
            if known and not is_new_wanted:
                secrets = settings.STRIPE_WEBHOOK_SECRETS
                mirror.write_webhook_endpoint(known, uuid=uuid, secret=secrets[0] if secrets else "")
                self.stdout.write(f"Webhook: {known['id']} at {url}")
                return
            made, secret = catalogue.make_webhook(client, url)
        mirror.write_webhook_endpoint(made, uuid=uuid, secret=secret)
        both = ",".join([secret, *settings.STRIPE_WEBHOOK_SECRETS])
        self.stdout.write(f"Webhook: {made['id']} at {url}. Put this into .env, and start the site again:")
        self.stdout.write(f"STRIPE_WEBHOOK_UUID={uuid}")
        self.stdout.write(f"STRIPE_WEBHOOK_SECRET={both}")
