"""Which other sites' pages may use the API from a browser, and with what."""

from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings as django_settings
from django.test import AsyncClient, RequestFactory
from rest_framework.test import APIClient

from accounts.keys import KeyTerms, make_key, revoke_key
from accounts.models import ApiKey, User
from accounts.origins import parse_origins
from config.cors import read_origins
from core.origins import parse_origin
from core.threads import in_thread

pytestmark = pytest.mark.usefixtures("catalog")

APP, OTHER = "https://app.example.com", "https://other.example.com"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
ALLOWED = "Access-Control-Allow-Origin"


def key_of(user: User, *origins: str) -> str:
    terms = KeyTerms(name="Page", scopes=("chat",), origins=parse_origins(origins))
    return make_key(user, terms, peer="", key_id=uuid4())[1]


async def preflight(path: str, origin: str) -> Any:
    return await AsyncClient().options(path, headers={"Origin": origin, **PREFLIGHT})


def models(secret: str, origin: str, path: str = "/v1/models") -> Any:
    return APIClient(headers={"authorization": f"Bearer {secret}", "origin": origin}).get(path)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/v1/models"])
async def test_other_sites_are_kept_out_by_themselves(path: str):
    answer = await preflight(path, APP)
    assert ALLOWED not in answer


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/v1/models"])
async def test_an_operator_lets_a_site_in(settings: Any, path: str):
    settings.CORS_ALLOWED_ORIGINS = [APP]
    answer = await preflight(path, APP)
    assert (answer.status_code, answer[ALLOWED]) == (200, APP)
    assert "authorization" in answer["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in answer
    assert ALLOWED not in await preflight(path, OTHER)


@pytest.mark.parametrize("path", ["/", "/settings/", "/accounts/login/", "/admin/", "/healthz", "/stripe/webhook/x"])
async def test_pages_are_read_by_no_other_site(settings: Any, path: str):
    settings.CORS_ALLOWED_ORIGINS = [APP]
    assert ALLOWED not in await AsyncClient().get(path, headers={"Origin": APP})


@pytest.mark.parametrize("path", ["/", "/static/x", "/v1/models", "/api/v1/models"])
def test_keys_are_asked_for_the_api_alone(path: str, rf: RequestFactory):
    request = rf.get(path, headers={"Origin": APP})
    read_origins(request)
    assert hasattr(request, "origins_of_keys") == (path in ("/v1/models", "/api/v1/models"))


async def test_a_key_lets_its_sites_in_until_it_is_revoked(carla: User):
    secret = await in_thread(key_of, carla, APP)
    assert (await preflight("/v1/chat/completions", APP))[ALLOWED] == APP
    assert ALLOWED not in await preflight("/v1/chat/completions", OTHER)
    answer = await in_thread(models, secret, APP)
    assert (answer.status_code, answer[ALLOWED]) == (200, APP)
    await in_thread(lambda: revoke_key(ApiKey.objects.get(), peer=""))
    assert ALLOWED not in await preflight("/v1/chat/completions", APP)


@pytest.mark.parametrize("change", [{"is_active": False}, {"password": "another-long-word"}])
async def test_a_key_lets_its_sites_in_until_its_owner_has_no_keys(carla: User, change: dict[str, Any]):
    def end_keys() -> None:
        carla.is_active = change.get("is_active", True)
        if "password" in change:
            carla.set_password(change["password"])
        carla.save()

    await in_thread(key_of, carla, APP)
    assert (await preflight("/v1/chat/completions", APP))[ALLOWED] == APP
    await in_thread(end_keys)
    assert ALLOWED not in await preflight("/v1/chat/completions", APP)


def test_a_key_that_a_process_of_the_release_before_made_is_for_every_site(carla: User):
    secret = key_of(carla)
    ApiKey.objects.update(origins=None)  # it does not know the field
    assert models(secret, OTHER).status_code == 200
    client = APIClient()
    client.force_login(carla)
    [shown] = client.get("/api/v1/keys").data["results"]
    assert shown["origins"] == []


def test_a_key_of_a_site_is_of_no_other(carla: User, settings: Any):
    settings.CORS_ALLOWED_ORIGINS = [OTHER]
    secret = key_of(carla, APP)
    for path in ("/v1/models", "/api/v1/models"):
        answer = models(secret, OTHER, path)
        assert answer.status_code == 403
        assert b"origin_not_allowed" in answer.content
        assert models(secret, "http://testserver", path).status_code == 200  # a page of this site
        assert APIClient(headers={"authorization": f"Bearer {secret}"}).get(path).status_code == 200  # no page
    assert models(key_of(carla), OTHER).status_code == 200


def test_no_cookie_is_taken_from_another_site(carla: User, settings: Any):
    settings.CORS_ALLOWED_ORIGINS = [APP]
    client = APIClient(enforce_csrf_checks=True, headers={"origin": APP})
    client.force_login(carla)
    answer = client.get("/api/v1/me")
    assert "Access-Control-Allow-Credentials" not in answer
    assert client.post("/api/v1/conversations", {}, format="json").status_code == 403


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://App.Example.com/", "https://app.example.com"),
        ("https://example.com:443", "https://example.com"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("https://cañón.example", "https://xn--can-8mak.example"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_an_origin_is_as_browsers_send_it(text: str, origin: str):
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        "null",
        "app.example.com",
        "ftp://a.example",
        "https://a.example/path",
        "https://a.example?x",
        "https://*",
    ]
    + ["https://u:p@a.example", "https://a b.example", "javascript:alert(1)", "https://a.example:99999", "https://"],
)
def test_what_is_no_origin_is_refused(carla: User, text: str):
    with pytest.raises(ValueError):
        parse_origin(text)
    client = APIClient()
    client.force_authenticate(carla)
    answer = client.post("/api/v1/keys", {"name": "x", "scopes": ["chat"], "origins": [text]}, format="json")
    assert (answer.status_code, list(answer.json()["fields"])) == (400, ["origins"])


def test_a_key_says_its_origins_and_its_requests(carla: User):
    client = APIClient()
    client.force_authenticate(carla)
    asked = {"name": "x", "scopes": ["chat"], "origins": [APP, APP + "/", OTHER], "requests_per_minute": 7}
    made = client.post("/api/v1/keys", asked, format="json").json()
    assert (made["origins"], made["requests_per_minute"]) == ([APP, OTHER], 7)


def test_settings_are_closed_by_themselves():
    assert django_settings.CORS_ALLOWED_ORIGINS == []
    assert not django_settings.CORS_ALLOW_CREDENTIALS
