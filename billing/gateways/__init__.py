"""The gateways this site has: `settings.GATEWAYS` names them."""

from typing import cast

from django.conf import settings
from django.utils.module_loading import import_string

from billing.gateways.base import Gateway


def get_gateway(name: str) -> Gateway:
    """Return the gateway; raises KeyError for one that the site does not have."""
    return cast("Gateway", import_string(settings.GATEWAYS[name])())


def list_gateways() -> list[str]:
    return list(settings.GATEWAYS)


def mode_of_payments() -> str:
    """Return `simulated` or `test` if no, or not every, gateway takes real money; else an empty string."""
    modes = {get_gateway(name).payment_mode for name in list_gateways()}
    return next((mode for mode in ("simulated", "test") if mode in modes), "")
