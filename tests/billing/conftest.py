"""A gateway in memory, prices there, a clock, and simulated gateways."""

import copy
import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone
from pytest_django import Settings

from accounts.models import User
from billing.models import BillingAccount, Price
from billing.seeds import load_prices
from config.embedded.simulated_gateway import SimulatedGateway
from config.embedded.simulated_mercadopago import SimulatedMercadoPago
from config.embedded.simulated_stripe import SimulatedStripe
from tests.billing import fake_gateway, mercadopago, stripe_site
from tests.billing.chaos import ADDRESSES, Deaths, MercadoPagoSite, Site, StripeSite, World, standing_clock


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


@pytest.fixture(scope="session")
def simulations() -> Iterator[dict[str, SimulatedGateway]]:
    """Both simulated gateways, which tell this site, and nothing in them."""
    address = "http://testserver" + ADDRESSES["stripe"].format(uuid=stripe_site.SETTINGS["STRIPE_WEBHOOK_UUID"])
    stripe = SimulatedStripe(notice_url=address, notice_secret=stripe_site.SECRET)
    address = "http://testserver" + ADDRESSES["mercadopago"]
    mercado_pago = SimulatedMercadoPago(notice_url=address, notice_secret=mercadopago.SECRET)
    with stripe.serve(), mercado_pago.serve():
        yield {"stripe": stripe, "mercadopago": mercado_pago}


@pytest.fixture
def sites(simulations: dict[str, SimulatedGateway], settings: Settings, catalog: None) -> dict[str, Site]:
    """Both, with the site's prices, and nobody who bought anything. What they tell waits."""
    for name, value in (stripe_site.SETTINGS | mercadopago.SETTINGS).items():
        setattr(settings, name, value)
    settings.GATEWAYS = stripe_site.SETTINGS["GATEWAYS"] | mercadopago.SETTINGS["GATEWAYS"]
    settings.SIMULATED_STRIPE_URL = simulations["stripe"].url
    settings.SIMULATED_MERCADOPAGO_URL = simulations["mercadopago"].url
    load_prices("stripe", "USD")
    load_prices("mercadopago", "ARS", cents=1_000)
    found: dict[str, Site] = {
        "stripe": StripeSite("stripe", simulations["stripe"]),
        "mercadopago": MercadoPagoSite("mercadopago", simulations["mercadopago"]),
    }
    for site in found.values():
        site.post("/_control/reset", {})
        site.post("/_control/notices", {"mode": "hold"})
    if not sold:
        call_command("set_up_stripe", verbosity=0)
        sold.update(copy.deepcopy(simulations["stripe"].state["objects"]))
    simulations["stripe"].state["objects"] = copy.deepcopy(sold)
    return found


sold: dict[str, Any] = {}
"""What the simulated Stripe has of the site's prices, once that was made."""


@pytest.fixture
def world(sites: dict[str, Site], olga: User, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Somebody who has bought nothing yet, on the last day of a January."""
    with standing_clock(monkeypatch) as clock:
        found = World(sites, clock, Deaths(monkeypatch), operator=olga)
        found.begin(dt.datetime(2027, 1, 31, 12, tzinfo=dt.UTC))
        yield found
