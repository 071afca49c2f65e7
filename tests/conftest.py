"""The cast, and the guards every test runs under."""

import copy
import functools
import shutil
import socket
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connections, transaction
from django.db.models import Model
from django.test import TransactionTestCase
from django.utils import timezone, translation
from rest_framework.test import APIClient

from accounts import timing
from accounts.models import User
from billing.models import BillingAccount, Plan
from billing.seeds import load_plans
from chat.llm.catalog import load_catalog
from chat.models import LanguageModel
from core import caching
from core.redis_clients import sync_redis
from tests.services import STORES, migrated_databases

hypothesis.settings.register_profile("tests", deadline=None)  # how long it takes says how busy the machine is
hypothesis.settings.load_profile("tests")

# The files that take longest, longest first: of several workers none is left alone with one of them at the end.
LONG = [
    "deploy/test_behind_nginx.py",
    *("e2e/test_pages.py", "processes/test_failover.py", "e2e/test_chat.py", "e2e/test_picker.py"),
    *("e2e/test_admin.py", "e2e/test_keyboard.py", "e2e/test_answers.py", "e2e/test_weight.py", "e2e/test_buying.py"),
    *("processes/test_bad_nights.py", "e2e/test_attachments.py", "e2e/test_bad_networks.py", "e2e/test_hostile.py"),
    *("e2e/test_first_impression.py", "processes/test_hostile_crowd.py", "processes/test_crowds_at_the_door.py"),
    *("processes/test_openai_clients.py", "processes/test_batches.py"),
    *("processes/test_load_soak.py", "processes/test_journey.py", "e2e/test_other_ways.py", "e2e/test_refusals.py"),
    *("e2e/test_costs.py", "e2e/test_titles.py", "e2e/test_order.py", "e2e/test_long.py", "e2e/test_journey.py"),
    *("e2e/test_sharing.py", "e2e/test_branches.py", "e2e/test_taking_along.py", "e2e/test_search.py"),
    *("e2e/test_second_factor.py", "e2e/test_leaving.py", "e2e/test_api_docs.py", "fuzz/test_contract.py"),
    *("e2e/test_batches.py", "chat/test_batches.py"),
    *("history/test_large_imports.py", "fuzz/test_requests.py"),
    *("processes/test_bad_networks.py", "chat/test_bad_providers.py", "chat/test_dialects.py", "chat/test_runner.py"),
    "chat/test_attachments.py",
]
PLACES = {f"tests/{file}": place for place, file in enumerate(LONG)}
LOOPBACK = ("127.", "::1", "localhost")
MIGRATED = {"django_content_type", "auth_permission"}  # rows that migrations make, and nothing changes
SCRIPTED: dict[str, Any] = {
    "key": "scripted",
    "provider": "scripted",
    "provider_model": "scripted",
    "label": "Scripted",
    "tier": "cheap",
    "context_window": 8_000,
    "max_output": 1_000,
    "input_price": 1_000_000,
    "output_price": 2_000_000,
}
installation: list[Model] = []  # the rows of a new installation, once they were made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The users of the tests need both databases, and real transactions: other threads work beside the loop."""
    if STORES == "mongodb":  # it holds the history alone: these would run on SQLite once more
        items[:] = [item for item in items if not item.nodeid.startswith(("tests/billing/", "tests/accounts/"))]
    for item in items:
        if "catalog" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.django_db(transaction=True, databases=["default", "history"]), append=False)
    items.sort(key=lambda item: PLACES.get(item.nodeid.partition("::")[0], len(PLACES)))


def empty_tables(self: TransactionTestCase) -> None:
    """Delete what a test left. Django's own way, which empties every table and creates MIGRATED again, takes 30 ms."""
    for alias in self._databases_names(include_mirrors=False):
        connection = connections[alias]
        if connection.vendor not in ("sqlite", "postgresql"):
            call_command("flush", verbosity=0, interactive=False, database=alias, inhibit_post_migrate=True)
            continue
        with transaction.atomic(using=alias), connection.cursor() as cursor:
            cursor.execute(used_tables_query(alias))
            for (table,) in cursor.fetchall():  # foreign keys are checked at the end of the transaction
                cursor.execute(f"DELETE FROM {connection.ops.quote_name(table)}")


@functools.cache
def used_tables_query(alias: str) -> str:
    """Return a query for the names of the tables that have rows."""
    connection = connections[alias]
    names = connection.introspection.django_table_names(only_existing=True, include_views=False)
    return " UNION ALL ".join(
        f"SELECT '{name}' WHERE EXISTS (SELECT 1 FROM {connection.ops.quote_name(name)})"
        for name in sorted(set(names) - MIGRATED)
    )


TransactionTestCase._fixture_teardown = empty_tables


@pytest.fixture(scope="session")
def django_db_keepdb() -> bool:
    """Databases that are there are not made anew: those of SQLite begin as copies, and the others have names of the
    run's own, by which tests/services.py drops them."""
    return True


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> None:
    for alias, name in (("default", "tertulia.sqlite3"), ("history", "history.sqlite3")):
        if connections[alias].vendor == "sqlite":
            shutil.copy(migrated_databases() / name, settings.DATABASES[alias]["TEST"]["NAME"])


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
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody here measures whether an address is known, but for the tests of that."""
    monkeypatch.setattr(timing, "SECONDS", 0.0)


@pytest.fixture(autouse=True)
def no_members_locale() -> None:
    """A request that a test made itself leaves its member's language and time zone to the thread. The site's own begin
    with a new context, and reset both."""
    timezone.deactivate()
    translation.deactivate()


@pytest.fixture(autouse=True)
def fresh_redis() -> Iterator[None]:
    """Every test begins with an empty Redis, and nothing kept in the process."""
    sync_redis().flushall()
    caching.forget_everything()
    yield
    caching.forget_everything()


def install() -> None:
    """Make the rows of a new installation; from the second time on, as copies of the first ones."""
    if installation and not settings.OPENAI_COMPATIBLE_MODELS:
        rows = [copy.copy(row) for row in installation]
        for row in rows:
            row.pk = None
        for model in (Plan, LanguageModel):
            model.objects.bulk_create([row for row in rows if isinstance(row, model)])
        return
    load_plans()
    load_catalog()
    if not settings.OPENAI_COMPATIBLE_MODELS:
        installation[:] = [*Plan.objects.all(), *LanguageModel.objects.all()]


@pytest.fixture
def catalog(db: None) -> None:
    """The plans and models of a new installation, and one scripted model."""
    install()
    LanguageModel.objects.create(**SCRIPTED)


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
