"""What each API key used, over the API and on the page: revoked ones too, and what no key did."""

from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from rest_framework.test import APIClient

from accounts.keys import KeyTerms, make_key, revoke_key
from accounts.models import ApiKey, User
from billing import metering
from billing.metering import Part, Usage

pytestmark = [pytest.mark.stores, pytest.mark.django_db(databases=["default", "history"])]


@pytest.fixture
def keys(carla: User) -> list[ApiKey]:
    made = [make_key(carla, KeyTerms(name=name, scopes=("usage",)), peer="", key_id=uuid4()) for name in ("One", "Two")]
    return [key for key, _secret in made]


def use(user: User, key: ApiKey | None, cost_micros: int) -> None:
    work = uuid4()
    metering.reserve(user.pk, work, amount_micros=cost_micros, part=Part(str(key.pk)) if key else None)
    metering.settle(work, cost_micros=cost_micros, usage=Usage(input=3, output=5), label="scripted")


def by_key(user: User) -> dict[Any, Any]:
    client = APIClient()
    client.force_authenticate(user)
    found = client.get("/api/v1/usage?group_by=key").json()["results"]
    return {line["key"]: (line["name"], line["answers"], line["output_tokens"], line["credits"]) for line in found}


def test_usage_is_told_by_key(carla: User, ana: User, keys: list[ApiKey]):
    one, two = keys
    for key, cost_micros in ((one, 1_000), (one, 2_000), (two, 5_000), (None, 7_000)):
        use(carla, key, cost_micros)
    use(ana, None, 4_000)
    revoke_key(two, peer="")
    expected = {str(one.pk): ("One", 2, 10, 3.0), str(two.pk): ("Two", 1, 5, 5.0), None: ("", 1, 5, 7.0)}
    assert by_key(carla) == expected
    assert by_key(ana) == {None: ("", 1, 5, 4.0)}


def test_the_page_has_a_table_of_keys_where_one_was_used(carla: User, keys: list[ApiKey]):
    browser = Client()
    browser.force_login(carla)
    use(carla, None, 1_000)
    assert "By API key" not in browser.get("/usage/").content.decode()
    use(carla, keys[0], 1_000)
    page = browser.get("/usage/").content.decode()
    assert "By API key" in page
    assert "Without a key" in page
    assert "One" in page
    assert "Two" not in page
