"""What `manage.py check --deploy` says of selling."""

from collections.abc import Iterator
from typing import Any

import pytest

from billing.checks import check_mercado_pago, check_selling, check_stripe
from billing.gateways.mercadopago import gateway
from billing.seeds import load_prices
from tests.billing.mercadopago import SECRET, Simulation, simulated_mercado_pago


@pytest.fixture(scope="module")
def server() -> Iterator[Simulation]:
    with simulated_mercado_pago() as simulation:
        yield simulation


@pytest.fixture
def mercado_pago(server: Simulation, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Settings of a site that sells through a real account, which answers here."""
    server.control("reset")
    server.control("seller", is_test=False)
    monkeypatch.setattr(gateway, "API", server.url)
    gateway._accounts.clear()
    settings.MERCADOPAGO_ACCESS_TOKEN = "APP_USR-token"
    settings.MERCADOPAGO_WEBHOOK_SECRETS = [SECRET]
    settings.MERCADOPAGO_COUNTRY, settings.MERCADOPAGO_MODE = "AR", "live"
    settings.SIMULATED_MERCADOPAGO_URL = ""
    settings.SITE_URL = "https://chat.example.com"
    return settings


def found() -> list[str | None]:
    return [message.id for message in check_mercado_pago()]


def test_a_site_that_sells_through_mercado_pago_has_nothing_to_hear(mercado_pago: Any):
    assert found() == []


def test_a_site_that_does_not_is_told_nothing(settings: Any):
    settings.MERCADOPAGO_ACCESS_TOKEN = ""
    assert found() == []


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("SIMULATED_MERCADOPAGO_URL", "http://127.0.0.1:1", ["tertulia.W023"]),
        ("MERCADOPAGO_WEBHOOK_SECRETS", [], ["tertulia.W020"]),
        ("MERCADOPAGO_WEBHOOK_SECRETS", [""], ["tertulia.W020"]),
        ("MERCADOPAGO_COUNTRY", "", ["tertulia.W021"]),
        ("MERCADOPAGO_COUNTRY", "US", ["tertulia.W021"]),
        ("MERCADOPAGO_MODE", "", ["tertulia.W022"]),
        ("MERCADOPAGO_COUNTRY", "BR", ["tertulia.W025"]),
        ("MERCADOPAGO_MODE", "test", ["tertulia.W025"]),
        ("SITE_URL", "http://chat.example.com", ["tertulia.W024"]),
        ("MERCADOPAGO_ACCESS_TOKEN", "nonsense", ["tertulia.W027"]),
    ],
)
def test_what_is_missing_or_contradicts_is_named(mercado_pago: Any, name: str, value: object, told: list[str]):
    setattr(mercado_pago, name, value)
    assert found() == told


def test_a_mercado_pago_that_does_not_answer_is_a_warning(mercado_pago: Any, server: Simulation):
    server.control("faults", kind="cut", path="/users/me")
    assert found() == ["tertulia.W026"]


# --- Stripe --------------------------------------------------------------------------------------------------------


@pytest.fixture
def stripe_keys(settings: Any) -> Any:
    """Settings of a site that sells through Stripe."""
    settings.GATEWAYS = {"stripe": "billing.gateways.stripe.gateway.StripeGateway"}
    settings.STRIPE_SECRET_KEY, settings.STRIPE_PUBLIC_KEY = "sk_live_0123456789", "pk_live_0123456789"
    settings.STRIPE_LIVE_MODE = True
    settings.STRIPE_WEBHOOK_SECRETS, settings.STRIPE_WEBHOOK_UUID = ["whsec_1"], "7f9f0a4e-33a5-4d2a-9f3c-5a8b8e1d2c3b"
    settings.SIMULATED_STRIPE_URL = ""
    settings.SITE_URL = "https://chat.example.com"
    return settings


def test_a_site_that_sells_through_stripe_has_nothing_to_hear(stripe_keys: Any):
    assert check_stripe() == []


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("STRIPE_SECRET_KEY", "pk_live_0123456789", "tertulia.W010"),
        ("STRIPE_PUBLIC_KEY", "", "tertulia.W011"),
        ("STRIPE_PUBLIC_KEY", "pk_test_0123456789", "tertulia.W011"),
        ("STRIPE_WEBHOOK_SECRETS", [], "tertulia.W012"),
        ("STRIPE_WEBHOOK_UUID", "", "tertulia.W012"),
        ("SIMULATED_STRIPE_URL", "http://127.0.0.1:1", "tertulia.W013"),
        ("SITE_URL", "http://chat.example.com", "tertulia.W014"),
    ],
)
def test_what_is_missing_for_stripe_is_named(stripe_keys: Any, name: str, value: object, told: str):
    setattr(stripe_keys, name, value)
    assert [message.id for message in check_stripe()] == [told]


def test_without_a_key_nothing_is_missing_but_a_gateway(settings: Any):
    settings.STRIPE_SECRET_KEY, settings.GATEWAYS = "", {}
    assert check_stripe() == []
    assert [message.id for message in check_selling()] == ["tertulia.I001"]


def test_a_gateway_without_prices_is_named(stripe_keys: Any, catalog: None):
    assert [message.id for message in check_selling()] == ["tertulia.W015"]
    prices = load_prices("stripe", "USD")
    assert check_selling() == []
    for price in prices:
        price.is_for_sale = False
        price.save()
    assert [message.id for message in check_selling()] == ["tertulia.W015"]
