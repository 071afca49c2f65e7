"""How many requests to the API a minute: of a person, in their plan; of a key; at an address. Every answer says so."""

import time
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from redis.exceptions import ConnectionError as RedisConnectionError
from rest_framework.test import APIClient

from accounts.api.views import tokens_for
from accounts.keys import KeyTerms, make_key
from accounts.models import User
from billing.models import Plan
from chat.api import views
from chat.pages import views as pages
from core.redis_clients import sync_redis

pytestmark = pytest.mark.usefixtures("catalog")


def program(user: User) -> APIClient:
    return APIClient(headers={"authorization": f"Bearer {tokens_for(user)['access']}"})


def with_key(user: User, **terms: Any) -> APIClient:
    terms = {"name": "Job", "scopes": ("chat", "history"), **terms}
    secret = make_key(user, KeyTerms(**terms), peer="", key_id=uuid4())[1]
    return APIClient(headers={"authorization": f"Bearer {secret}"})


def stand(answer: Any) -> tuple[str, str]:
    assert 0 < int(answer["RateLimit-Reset"]) <= 60
    return answer["RateLimit-Limit"], answer["RateLimit-Remaining"]


def change_plan(key: str, **fields: Any) -> None:
    plan = Plan.objects.get(key=key)
    for name, value in fields.items():
        setattr(plan, name, value)
    plan.save()


def test_every_answer_says_how_many_are_left(ana: User, settings: Any):
    settings.API_REQUESTS_PER_MINUTE = 5
    client = program(ana)
    answers = [client.get(f"/api/v1/{path}") for path in ("me", "models", "plans", f"turns/{uuid4()}", "keys")]
    assert [stand(answer) for answer in answers] == [("5", str(left)) for left in (4, 3, 2, 1, 0)]
    refused = client.get("/api/v1/models")
    assert (refused.status_code, stand(refused)) == (429, ("5", "0"))
    assert int(refused["Retry-After"]) == refused.json()["retry_after"]
    assert stand(client.get("/v1/models")) == ("5", "0")


def test_who_is_nobody_is_told_too(settings: Any):
    settings.API_REQUESTS_PER_MINUTE = 5
    assert stand(APIClient().get("/api/v1/plans")) == ("5", "4")


def test_who_is_refused_at_the_door_counts_too(ana: User, settings: Any):
    settings.API_REQUESTS_PER_MINUTE = 4
    change_plan("free", has_api=False)
    wrong = APIClient(headers={"authorization": "Bearer ttl_00000000_" + "x" * 43})
    assert stand(APIClient().get("/api/v1/me")) == ("4", "3")
    assert stand(wrong.get("/api/v1/keys")) == ("4", "2")
    assert stand(program(ana).get("/api/v1/models")) == ("4", "1")
    assert stand(wrong.get("/v1/models")) == ("4", "0")
    for path in ("/api/v1/me", "/v1/models"):
        refused = wrong.get(path)
        assert (refused.status_code, stand(refused)) == (429, ("4", "0"))


def test_a_plan_has_its_own(ana: User, carla: User):
    change_plan("free", requests_per_minute=3)
    assert stand(program(ana).get("/api/v1/models")) == ("3", "2")
    assert stand(program(carla).get("/api/v1/models"))[0] == "600"


def test_a_key_has_its_own_and_that_of_its_person_counts_too(carla: User, settings: Any):
    settings.API_REQUESTS_PER_MINUTE = 5
    slow, quick = with_key(carla, requests_per_minute=2), with_key(carla)
    assert [stand(slow.get("/api/v1/models")) for _ in range(3)] == [("2", "1"), ("2", "0"), ("2", "0")]
    assert slow.get("/api/v1/models").status_code == 429
    # What was refused is not counted for the person.
    assert [stand(quick.get("/api/v1/models")) for _ in range(3)] == [("5", "2"), ("5", "1"), ("5", "0")]
    assert quick.get("/api/v1/models").status_code == 429


def test_an_address_that_costs_much_has_its_own_and_its_page_is_no_way_around(
    carla: User, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(views.search.cls, "route_limit", ("search", 2))
    monkeypatch.setattr(pages, "SEARCH_LIMIT", ("search", 2))
    client = program(carla)
    assert [client.get("/api/v1/search?q=x").status_code for _ in range(3)] == [200, 200, 429]
    assert client.get("/api/v1/models").status_code == 200
    browser = Client(headers={"HX-Request": "true"})
    browser.force_login(carla)
    assert [browser.get(path).status_code for path in ("/search/?q=x", "/palette/?q=x")] == [429, 429]


def test_a_moment_far_ahead_is_no_lock(ana: User, settings: Any):
    """As after Redis's clock ran ahead, and was set back."""
    settings.API_REQUESTS_PER_MINUTE = 5
    sync_redis().set(f"limit:api:user:{ana.pk}", str(10**18))
    answer = program(ana).get("/api/v1/models")
    assert answer.status_code == 429
    assert int(answer["Retry-After"]) <= 12
    held: Any = sync_redis().get(f"limit:api:user:{ana.pk}")
    assert int(held) <= (time.time() + 60) * 1_000_000  # from there it runs down, and the wait is true


def test_without_redis_the_api_is_closed(ana: User, monkeypatch: pytest.MonkeyPatch):
    client = program(ana)

    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise RedisConnectionError("127.0.0.1:6379 said no")

    monkeypatch.setattr("accounts.limits._COUNT_REQUEST", fail)
    for path in ("/api/v1/models", "/v1/models"):
        answer = client.get(path)
        assert answer.status_code == 503
        assert "6379" not in answer.content.decode()
