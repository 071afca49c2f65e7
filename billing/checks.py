"""What `manage.py check --deploy` says of selling: keys, prices and webhooks that are missing."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Info, Tags, Warning, register
from django.db import DatabaseError

from billing.gateways.base import GatewayRefused, GatewayUnavailable
from billing.gateways.mercadopago.agreements import COUNTRIES
from billing.gateways.mercadopago.client import TokenRefused
from billing.gateways.mercadopago.gateway import from_settings
from billing.models import Price


@register(Tags.security, deploy=True)
def check_selling(**_kwargs: Any) -> list[CheckMessage]:
    if settings.GATEWAYS:
        return [message for name in settings.GATEWAYS for message in _check_prices(name)]
    return [
        Info(
            "No payment gateway has a key: nobody can buy a plan, and an operator grants them.",
            hint="Set STRIPE_SECRET_KEY or MERCADOPAGO_ACCESS_TOKEN: docs/billing.md says how, step by step.",
            id="tertulia.I001",
        )
    ]


@register(Tags.security, deploy=True)
def check_stripe(**_kwargs: Any) -> list[CheckMessage]:
    if not settings.STRIPE_SECRET_KEY:
        return []
    is_whole = settings.STRIPE_SECRET_KEY.startswith(("sk_test_", "sk_live_", "rk_test_", "rk_live_"))
    is_same_mode = settings.STRIPE_PUBLIC_KEY.startswith("pk_live_" if settings.STRIPE_LIVE_MODE else "pk_test_")
    found = {
        "W010": ("STRIPE_SECRET_KEY is not a secret key of Stripe's.", "It begins with sk_ or rk_.", is_whole),
        "W011": (
            "STRIPE_PUBLISHABLE_KEY is missing, or of the other mode.",
            "Both keys are of the test mode, or both of the live mode.",
            is_same_mode,
        ),
        "W012": (
            "STRIPE_WEBHOOK_SECRET or STRIPE_WEBHOOK_UUID is not set: Stripe's notifications are refused.",
            "Run `manage.py set_up_stripe`, and put what it prints into .env.",
            any(settings.STRIPE_WEBHOOK_SECRETS) and settings.STRIPE_WEBHOOK_UUID,
        ),
        "W013": (
            "SIMULATED_STRIPE_URL is set: payments are not real.",
            "Remove it where others can reach the site.",
            not settings.SIMULATED_STRIPE_URL,
        ),
        "W014": (
            "Real payments need a site that is reached over https.",
            "Set SITE_URL to its https address.",
            not settings.STRIPE_LIVE_MODE or settings.SITE_URL.startswith("https://"),
        ),
    }
    return [
        Warning(what, hint=hint, id=f"tertulia.{name}") for name, (what, hint, is_well) in found.items() if not is_well
    ]


@register(Tags.security, deploy=True)
def check_mercado_pago(**_kwargs: Any) -> list[CheckMessage]:
    """Say what is missing to sell through Mercado Pago; if nothing is, Mercado Pago is asked whose the token is."""
    if not settings.MERCADOPAGO_ACCESS_TOKEN:
        return []
    found = {
        "W020": (
            "MERCADOPAGO_WEBHOOK_SECRET is not set: every notification of a payment is refused.",
            "It is shown where the address of the webhook is entered: see docs/billing.md.",
            any(settings.MERCADOPAGO_WEBHOOK_SECRETS),
        ),
        "W021": (
            "MERCADOPAGO_COUNTRY is not the country of an account: nothing is sold.",
            f"Set it to one of {', '.join(COUNTRIES)}.",
            settings.MERCADOPAGO_COUNTRY in COUNTRIES,
        ),
        "W022": (
            "MERCADOPAGO_MODE is neither test nor live: nothing is sold.",
            "Set it to live, or to test with the access token of a test seller.",
            settings.MERCADOPAGO_MODE in ("test", "live"),
        ),
        "W023": (
            "SIMULATED_MERCADOPAGO_URL is set: payments are not real.",
            "Remove it where others can reach the site.",
            not settings.SIMULATED_MERCADOPAGO_URL,
        ),
        "W024": (
            "Real payments need a site that is reached over https.",
            "Set SITE_URL to its https address.",
            settings.MERCADOPAGO_MODE != "live" or settings.SITE_URL.startswith("https://"),
        ),
    }
    messages: list[CheckMessage] = [
        Warning(what, hint=hint, id=f"tertulia.{name}") for name, (what, hint, is_well) in found.items() if not is_well
    ]
    return messages or _ask_mercado_pago()


def _ask_mercado_pago() -> list[CheckMessage]:
    try:
        return [Warning(mistake, id="tertulia.W025") for mistake in from_settings().find_mistakes()]
    except TokenRefused:
        return [Warning("Mercado Pago refuses MERCADOPAGO_ACCESS_TOKEN.", id="tertulia.W027")]
    except (GatewayUnavailable, GatewayRefused):
        return [Warning("Mercado Pago cannot be asked whose MERCADOPAGO_ACCESS_TOKEN is.", id="tertulia.W026")]


def _check_prices(gateway: str) -> list[CheckMessage]:
    try:
        has_prices = Price.objects.filter(gateway=gateway, is_for_sale=True, plan__isnull=False).exists()
    except DatabaseError:  # not there yet, or not migrated
        return []
    if has_prices:
        return []
    hint = "Add one in /admin/, for a plan, an interval and a currency."
    return [Warning(f"No price is for sale at {gateway}.", hint=hint, id="tertulia.W015")]
