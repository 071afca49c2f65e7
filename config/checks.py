"""System checks of our own settings, for `manage.py check --deploy`."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from billing.gateways.base import GatewayRefused, GatewayUnavailable
from billing.gateways.mercadopago.agreements import COUNTRIES
from billing.gateways.mercadopago.gateway import from_settings


@register(Tags.security, deploy=True)
def check_mail(**_kwargs: Any) -> list[CheckMessage]:
    if settings.HAS_MAIL_SERVER:
        return []
    return [
        Warning(
            "EMAIL_URL is not set: nobody can reset a password or confirm an address, as who signs up must.",
            hint="Set it to your mail server, such as smtp+tls://user:password@mail.example.com:587",
            id="tertulia.W001",
        )
    ]


@register(Tags.security, deploy=True)
def check_mercado_pago(**_kwargs: Any) -> list[CheckMessage]:
    """Say what is missing to sell through Mercado Pago; with a token, Mercado Pago is asked whose it is."""
    if not settings.MERCADOPAGO_ACCESS_TOKEN:
        return []
    found: list[CheckMessage] = []
    if settings.SIMULATED_MERCADOPAGO_URL:
        found.append(Error("SIMULATED_MERCADOPAGO_URL is set: what is sold is not paid.", id="tertulia.E010"))
    if not any(settings.MERCADOPAGO_WEBHOOK_SECRETS):
        hint = "It is shown where the address of the webhook is entered; see docs/billing.md."
        sentence = "MERCADOPAGO_WEBHOOK_SECRET is not set: every notification of a payment is refused."
        found.append(Error(sentence, hint=hint, id="tertulia.E011"))
    if settings.MERCADOPAGO_COUNTRY not in COUNTRIES:
        hint = f"One of {', '.join(COUNTRIES)}: the country of the account."
        found.append(Error("MERCADOPAGO_COUNTRY is not set: nothing is sold.", hint=hint, id="tertulia.E012"))
    if settings.MERCADOPAGO_MODE not in ("test", "live"):
        found.append(Error("MERCADOPAGO_MODE is neither test nor live: nothing is sold.", id="tertulia.E013"))
    return found or _ask_mercado_pago()


def _ask_mercado_pago() -> list[CheckMessage]:
    found: list[CheckMessage] = []
    try:
        found += [Error(mistake, id="tertulia.E014") for mistake in from_settings().find_mistakes()]
    except GatewayUnavailable:
        found.append(Warning("Mercado Pago cannot be asked whose MERCADOPAGO_ACCESS_TOKEN is.", id="tertulia.W010"))
    except GatewayRefused:
        found.append(Error("Mercado Pago refuses MERCADOPAGO_ACCESS_TOKEN.", id="tertulia.E015"))
    if settings.MERCADOPAGO_MODE == "test":
        found.append(Warning("MERCADOPAGO_MODE is test: nobody really pays.", id="tertulia.W011"))
    return found
