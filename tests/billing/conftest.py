"""A gateway in memory, prices there, and a clock."""

import datetime as dt
from collections.abc import Callable

import pytest
from django.utils import timezone
from pytest_django import Settings

from billing.models import Price
from billing.seeds import load_prices
from tests.billing import fake_gateway


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
