"""What holds for every route of the API, by the URL map, so that a new one cannot be forgotten; and what is private."""

from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.test import Client
from pytest_django import Settings
from redis.exceptions import ConnectionError as RedisConnectionError
from rest_framework.test import APIClient

from accounts import limits
from accounts.models import User
from accounts.tokens import begin_family
from core.redis_clients import sync_redis
from history.models import new_id
from tests.chat.attaching import attached
from tests.fuzz.url_map import list_api_doors

REQUESTS = [(door, method) for door in list_api_doors() for method in door.methods]
PASSWORD = "una clave larga"


@pytest.fixture
def program(ana: User) -> APIClient:
    return APIClient(headers={"authorization": f"Bearer {begin_family(ana).access_token}"})


# --- How often --------------------------------------------------------------------------------------------------------


def test_no_route_of_the_api_is_without_a_limit(program: APIClient, settings: Settings):
    settings.API_REQUESTS_PER_MINUTE = 1
    assert program.get("/api/v1/me").status_code == 200
    logged_out = program.post("/api/v1/auth/logout", {"refresh": "x"}, format="json")
    assert logged_out.status_code == 204  # counted by network, as nobody is asked who they are
    for door, method in REQUESTS:
        answer: Any = program.generic(method, door.route % dict.fromkeys(door.parameters, new_id()))
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited"), f"{method} {door.route}"
        assert answer.json()["retry_after"] == int(answer["Retry-After"]) <= 60


def test_the_limit_is_each_persons_own(program: APIClient, bo: User, settings: Settings):
    settings.API_REQUESTS_PER_MINUTE = 1
    other = APIClient(headers={"authorization": f"Bearer {begin_family(bo).access_token}"})
    assert [program.get("/api/v1/me").status_code for _ in range(2)] == [200, 429]
    assert [other.get("/api/v1/me").status_code for _ in range(2)] == [200, 429]


def test_a_person_has_one_limit_for_all_routes_and_all_ways_in(program: APIClient, ana: User, settings: Settings):
    settings.API_REQUESTS_PER_MINUTE = 3
    page = APIClient()
    page.force_login(ana)
    again = APIClient(headers={"authorization": f"Bearer {begin_family(ana).access_token}"})
    assert [program.get("/api/v1/me").status_code, page.get("/api/v1/models").status_code] == [200, 200]
    assert [again.get("/api/v1/allowance").status_code, program.get("/api/v1/search").status_code] == [200, 429]


def test_counting_a_request_is_one_call_of_redis(program: APIClient):
    program.get("/api/v1/conversations")  # what is loaded once is there

    def calls() -> int:
        return sum(int(one["calls"]) for name, one in sync_redis().info("commandstats").items() if "info" not in name)

    def scripts() -> int:
        return int(sync_redis().info("commandstats")["cmdstat_evalsha"]["calls"])

    before = scripts(), calls()
    assert program.get("/api/v1/conversations").status_code == 200
    inside = 3  # TIME, GET and SET of the script count, too
    assert (scripts() - before[0], calls() - before[1]) == (1, 1 + inside)


def test_where_redis_is_away_the_api_says_so(program: APIClient, monkeypatch: pytest.MonkeyPatch):
    def fail() -> None:
        raise RedisConnectionError

    monkeypatch.setattr(limits, "sync_redis", fail)
    for door, method in REQUESTS:
        answer: Any = program.generic(method, door.route % dict.fromkeys(door.parameters, new_id()))
        assert (answer.status_code, answer.json()["code"], answer["Retry-After"]) == (503, "unavailable", "5")


# --- What is kept -----------------------------------------------------------------------------------------------------


def test_no_answer_of_the_api_may_be_stored(program: APIClient, catalog: None):
    for door, method in REQUESTS:
        path = door.route % dict.fromkeys(door.parameters, new_id())
        for client in (program, APIClient()):
            assert client.generic(method, path)["Cache-Control"] == "no-store", f"{method} {path}"
    assert APIClient().get("/api/v1/nothing")["Cache-Control"] == "no-store"


def test_no_page_of_somebody_who_is_logged_in_may_be_stored(ana: User):
    client = Client()
    file = attached(ana)
    logged_in = client.post("/accounts/login/", {"login": ana.email, "password": PASSWORD})
    assert logged_in["Cache-Control"] == "no-store"
    paths = ("/", "/dashboard/", "/settings/", "/conversations/", "/terms/", "/nothing/", f"/attachments/{file.pk}/")
    for path in (*paths, f"/attachments/{file.pk}/preview/"):
        assert client.get(path)["Cache-Control"] == "no-store", path
    assert client.post("/accounts/logout/")["Cache-Control"] == "no-store"


def test_public_pages_and_static_files_may_be_stored(ana: User):
    styles = Path(django_settings.STATIC_ROOT) / "kept.css"
    styles.write_text("p{}")
    member = Client()
    member.force_login(ana)
    try:
        for client in (Client(), member):
            answer = client.get("/static/kept.css")
            assert (answer.status_code, b"".join(answer)) == (200, b"p{}")
            assert "max-age" in answer["Cache-Control"]
    finally:
        styles.unlink()
    for path in ("/", "/terms/", "/status/", "/nothing/"):
        assert "no-store" not in Client().get(path).get("Cache-Control", ""), path


# --- Addresses that are none ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("path", ["/api/v1/", "/api/v1/nothing", "/api/v1/me/", "/api/v1/turns/1", "/api/v1/<b>"])
@pytest.mark.parametrize("method", ["GET", "POST", "BREW"])
def test_an_address_of_the_api_that_is_none_answers_as_the_api(
    catalog: None, settings: Settings, path: str, method: str, debug: bool
):
    """Django's own page for it, in DEBUG, lists every address there is."""
    settings.DEBUG = debug
    answer: Any = Client(enforce_csrf_checks=True).generic(method, path)
    assert (answer.status_code, answer["Content-Type"], answer.json()["code"]) == (404, "application/json", "not_found")
    assert answer.json()["request_id"] == answer["X-Request-ID"]
