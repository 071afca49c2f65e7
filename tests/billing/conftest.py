"""What the tests of the gateways share."""

from collections.abc import Iterator
from typing import Any

import pytest

from accounts.models import User
from billing.models import BillingAccount
from tests.billing import stripe_site


@pytest.fixture(scope="session")
def simulated_stripe() -> Iterator[str]:
    yield from stripe_site.serve()


@pytest.fixture
def shop(simulated_stripe: str, settings: Any, ana: User) -> stripe_site.Shop:
    """An empty simulated Stripe, which nobody is told of, and Ana, who buys."""
    settings.SIMULATED_STRIPE_URL = simulated_stripe
    for name, value in stripe_site.SETTINGS.items():
        setattr(settings, name, value)
    account, _is_new = BillingAccount.objects.get_or_create(user=ana)
    found = stripe_site.Shop(simulated_stripe, account.pk)
    found.control("reset")
    return found
