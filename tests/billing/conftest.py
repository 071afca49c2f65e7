"""A gateway in memory, prices there, a clock, and simulated gateways."""

import datetime as dt
from collections.abc import Callable, Iterator

import pytest
from django.utils import timezone
from pytest_django import Settings

from accounts.models import User
from billing.models import BillingAccount, Price
from billing.seeds import load_prices
from tests.billing import fake_gateway, stripe_site


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[dt.datetime], None]:
    """Return how to set the clock."""

    def set_clock(moment: dt.datetime) -> None:
        monkeypatch.setattr(timezone, "now", lambda: moment)

    return set_clock


@pytest.fixture
def gateway(settings: Settings, catalog: None) -> fake_gateway.State:
    """The state of the fake gateway, which sells the seeded plans."""
    settings.GATEWAYS = {"fake": "tests.billing.fake_gateway.FakeGateway"}
    fake_gateway.state.__init__()  # type: ignore[misc]  # as new
    load_prices("fake", "USD")
    return fake_gateway.state


@pytest.fixture
def prices(gateway: fake_gateway.State) -> dict[str, Price]:
    """The prices by their references without the currency: `premium-month`."""
    return {price.reference.removesuffix("-usd"): price for price in Price.objects.select_related("plan")}


@pytest.fixture(scope="session")
def simulated_stripe() -> Iterator[str]:
    yield from stripe_site.serve()


@pytest.fixture
def shop(simulated_stripe: str, settings: Settings, ana: User) -> stripe_site.Shop:
    """An empty simulated Stripe, which tells nobody, and Ana, who buys."""
    settings.SIMULATED_STRIPE_URL = simulated_stripe
    for name, value in stripe_site.SETTINGS.items():
        setattr(settings, name, value)
    account, _is_new = BillingAccount.objects.get_or_create(user=ana)
    found = stripe_site.Shop(simulated_stripe, account.pk)
    found.control("reset")
    return found
