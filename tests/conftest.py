"""The cast, and the guards every test runs under."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
from rest_framework.test import APIClient

from accounts.models import User
from billing.entitlements import load_plans
from billing.models import BillingAccount, Plan
from chat.llm.catalog import load_catalog
from chat.models import LanguageModel
from core import caching
from core.redis_clients import sync_redis

hypothesis.settings.register_profile("tests", deadline=None)  # how long it takes says how busy the machine is
hypothesis.settings.load_profile("tests")

LOOPBACK = ("127.", "::1", "localhost")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The users of the tests need both databases, and real transactions: other threads work beside the loop."""
    for item in items:
        if "catalog" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.django_db(transaction=True, databases=["default", "history"]), append=False)


@pytest.fixture(autouse=True)
def no_outside_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that would leave this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(LOOPBACK):
            raise AssertionError(f"A test wanted to reach {address[0]}.")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def fresh_redis() -> Iterator[None]:
    """Every test begins with an empty Redis, and nothing kept in the process."""
    sync_redis().flushall()
    caching.forget_everything()
    yield
    caching.forget_everything()


@pytest.fixture
def catalog(db: None) -> None:
    """The plans and models of a new installation, and one scripted model."""
    load_plans()
    load_catalog()
    LanguageModel.objects.create(
        key="scripted",
        provider="scripted",
        provider_model="scripted",
        label="Scripted",
        tier="cheap",
        context_window=8_000,
        max_output=1_000,
        input_price=1_000_000,
        output_price=2_000_000,
    )


@pytest.fixture
def ana(catalog: None) -> User:
    """A member on Free."""
    return User.objects.create_user("ana@example.com", "una clave larga", locale="es")


@pytest.fixture
def bo(catalog: None) -> User:
    """Another member on Free: whatever is Ana's does not exist for Bo."""
    return User.objects.create_user("bo@example.com", "uma senha longa", locale="pt-br")


@pytest.fixture
def carla(catalog: None) -> User:
    """A member on a plan without limits but the longest question."""
    plan = Plan.objects.create(key="open", name="Open", best_tier="strong", rank=9)
    user = User.objects.create_user("carla@example.com", "una clave larga", locale="en")
    BillingAccount.objects.create(user=user, plan=plan)
    return user


@pytest.fixture
def olga(catalog: None) -> User:
    """The operator."""
    return User.objects.create_superuser("olga@example.com", "una clave larga", locale="en")


@pytest.fixture
def api() -> Callable[[User | None], APIClient]:
    """Return an API client that is logged in as somebody, or as nobody."""

    def client(user: User | None = None) -> APIClient:
        found = APIClient()
        if user is not None:
            found.force_authenticate(user)
        return found

    return client
