"""API keys: made by a member, shown once, good for what their scopes say, and over within a second."""

import datetime as dt
import logging
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone
from rest_framework.test import APIClient

from accounts import keys
from accounts.models import ApiKey, User
from accounts.tokens import begin_family
from billing.models import Plan

pytestmark = [pytest.mark.stores, pytest.mark.django_db(databases=["default", "history"])]

SOME = "0193a1b0-0000-7000-8000-000000000001"
Api = Callable[[User | None], APIClient]
CLOSED = (
    *(("get", "keys"), ("post", "keys"), ("get", "me"), ("patch", "me"), ("post", "auth/logout-everywhere")),
    *(("post", "socket-tickets"), ("post", "folders"), ("patch", f"folders/{SOME}"), ("delete", f"folders/{SOME}")),
    *(("patch", f"conversations/{SOME}"), ("delete", f"conversations/{SOME}"), ("get", "shares"), ("get", "exports")),
    *(("post", f"conversations/{SOME}/restore"), ("post", f"conversations/{SOME}/shares"), ("post", "imports")),
    *(("post", f"turns/{SOME}/fork"), ("delete", f"keys/{SOME}"), ("options", "models")),
)
BY_SCOPE = (
    *(("chat", "get", "models"), ("chat", "post", f"conversations/{SOME}/turns"), ("chat", "post", "conversations")),
    *(("chat", "post", "attachments"), ("chat", "get", f"attachments/{SOME}")),
    *(("history", "get", "conversations"), ("history", "get", f"conversations/{SOME}"), ("history", "get", "folders")),
    *(("history", "get", f"conversations/{SOME}/turns"), ("history", "get", "search?q=hola")),
    *(("history", "get", f"conversations/{SOME}/export"), ("history", "get", f"attachments/{SOME}/content")),
    *(("usage", "get", "usage"), ("usage", "get", "allowance"), ("usage", "get", "subscription")),
)
SCOPES = ["chat", "history", "usage"]


def make(client: APIClient, **fields: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/keys", {"name": "Job", "scopes": SCOPES, **fields}, format="json")
    assert answer.status_code == 201, answer.content
    found: dict[str, Any] = answer.json()
    return found


def program(key: str) -> APIClient:
    return APIClient(headers={"authorization": f"Bearer {key}"})


def call(client: APIClient, method: str, path: str) -> tuple[int, str]:
    answer = getattr(client, method)(f"/api/v1/{path}", format="json")
    return answer.status_code, answer.json().get("code", "") if answer.content else ""


def test_a_key_is_shown_once(api: Api, ana: User):
    made = make(api(ana), monthly_credits=50)
    assert made["key"].startswith(made["prefix"] + "_")
    assert len(made["key"]) == len("ttl_") + 8 + 1 + 43
    listed = api(ana).get("/api/v1/keys").json()
    assert listed == {"results": [{name: value for name, value in made.items() if name != "key"}], "next": None}
    assert api(ana).get(f"/api/v1/keys/{made['id']}").json() == listed["results"][0]
    assert (made["scopes"], made["models"], made["monthly_credits"]) == (SCOPES, [], 50)


def test_a_key_lets_its_owner_in(api: Api, ana: User, bo: User):
    conversation = api(ana).post("/api/v1/conversations", {"title": "Hola"}, format="json").json()
    make(api(bo))
    found = program(make(api(ana))["key"]).get("/api/v1/conversations").json()["results"]
    assert [row["id"] for row in found] == [conversation["id"]]


def test_a_key_is_in_no_row_and_no_log(api: Api, ana: User, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.DEBUG):
        key = make(api(ana))["key"]
        program(key).get("/api/v1/models")
        program(key + "x").get("/api/v1/models")
    secret = key.rpartition("ttl_")[2].partition("_")[2]
    assert "api_key_made" in str([record.__dict__ for record in caplog.records])
    assert secret not in str([record.__dict__ for record in caplog.records])
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            assert secret not in str(cursor.fetchall()), table


@pytest.mark.parametrize(
    "change", [lambda key: key[:-1], lambda key: key + "A", lambda key: "ttl_", lambda key: "ttl_é"]
)
def test_what_is_no_key_of_ours_lets_nobody_in(api: Api, ana: User, change: Callable[[str], str]):
    answer = program(change(make(api(ana))["key"])).get("/api/v1/models")
    assert (answer.status_code, answer.json()["code"]) == (401, "key_not_valid")
    assert answer["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(("scope", "method", "path"), BY_SCOPE)
def test_a_scope_opens_its_addresses_alone(api: Api, ana: User, scope: str, method: str, path: str):
    others = [name for name in SCOPES if name != scope]
    assert call(program(make(api(ana), scopes=others)["key"]), method, path) == (403, "key_not_allowed")
    status, code = call(program(make(api(ana), scopes=[scope])["key"]), method, path)
    assert (status == 401, code == "key_not_allowed") == (False, False)


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_what_only_a_member_does_is_closed_to_every_key(api: Api, ana: User, method: str, path: str):
    assert call(program(make(api(ana))["key"]), method, path) == (403, "key_not_allowed")


def test_no_address_is_open_to_keys_by_accident():
    opened = {path for path, scopes in api_addresses("", get_resolver()) if scopes}
    assert opened == {
        *("models", "attachments", "search", "conversations", "folders", "plans", "allowance", "subscription", "usage"),
        *("conversations/<uuid:conversation_id>", "conversations/<uuid:conversation_id>/turns"),
        *("conversations/<uuid:conversation_id>/export", "folders/<uuid:folder_id>"),
        *("turns/<uuid:turn_id>", "turns/<uuid:turn_id>/events", "turns/<uuid:turn_id>/stop"),
        *("attachments/<uuid:attachment_id>", "attachments/<uuid:attachment_id>/content"),
        *("batches", "batches/<uuid:batch_id>", "batches/<uuid:batch_id>/start", "batches/<uuid:batch_id>/cancel"),
        "batches/<uuid:batch_id>/results",
    }


def api_addresses(before: str, resolver: URLResolver) -> list[tuple[str, dict[str, str]]]:
    found = []
    for pattern in resolver.url_patterns:
        path = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            found += api_addresses(path, pattern)
        elif isinstance(pattern, URLPattern) and path.startswith("api/v1/"):
            view = getattr(pattern.callback, "cls", None)
            found.append((path.removeprefix("api/v1/"), getattr(view, "key_scopes", {})))
    return found


def test_a_revoked_key_is_over(api: Api, ana: User):
    made = make(api(ana))
    assert api(ana).delete(f"/api/v1/keys/{made['id']}").status_code == 204
    assert call(program(made["key"]), "get", "models") == (401, "key_not_valid")
    assert api(ana).get("/api/v1/keys").json()["results"] == []
    assert call(api(ana), "delete", f"keys/{made['id']}") == (404, "not_found")


def test_another_members_key_is_not_found(api: Api, ana: User, bo: User):
    made = make(api(ana))
    assert call(api(bo), "get", f"keys/{made['id']}") == (404, "not_found")
    assert call(api(bo), "delete", f"keys/{made['id']}") == (404, "not_found")
    assert call(program(made["key"]), "get", "models")[0] == 200


def test_a_key_expires(api: Api, ana: User):
    made = make(api(ana), expires_at=(timezone.now() + dt.timedelta(minutes=5)).isoformat())
    assert call(program(made["key"]), "get", "models")[0] == 200
    ApiKey.objects.update(expires_at=timezone.now())
    assert call(program(made["key"]), "get", "models") == (401, "key_not_valid")


def test_its_last_use_is_noted_once_a_minute(api: Api, ana: User):
    made = make(api(ana))
    assert made["last_used_at"] is None
    program(made["key"]).get("/api/v1/models")
    first = ApiKey.objects.get().last_used_at
    assert first is not None
    program(made["key"]).get("/api/v1/models")
    assert ApiKey.objects.get().last_used_at == first
    ApiKey.objects.update(last_used_at=first - dt.timedelta(minutes=2))
    program(made["key"]).get("/api/v1/models")
    assert ApiKey.objects.get().last_used_at > first


def test_a_new_password_ends_every_key(api: Api, ana: User, bo: User):
    made, other = make(api(ana)), make(api(bo))
    ana.set_password("otra clave larga")
    ana.save()
    assert call(program(made["key"]), "get", "models") == (401, "key_not_valid")
    assert call(program(other["key"]), "get", "models")[0] == 200


def test_a_suspension_ends_every_key_for_good(api: Api, ana: User):
    made = make(api(ana))
    ana.is_active = False
    ana.save()
    assert call(program(made["key"]), "get", "models") == (401, "key_not_valid")
    ana.is_active = True
    ana.save()
    assert call(program(made["key"]), "get", "models") == (401, "key_not_valid")


def test_who_is_suspended_without_a_word_is_out(api: Api, ana: User):
    made = make(api(ana))
    User.objects.filter(pk=ana.pk).update(is_active=False)
    assert call(program(made["key"]), "get", "models") == (401, "key_not_valid")


def test_a_log_out_everywhere_leaves_keys(api: Api, ana: User):
    made = make(api(ana))
    ana.end_access()
    assert call(program(made["key"]), "get", "models")[0] == 200


def test_nobody_makes_a_key_with_what_has_just_ended(ana: User):
    stale = User.objects.get(pk=ana.pk)
    ana.set_password("otra clave larga")
    ana.save()
    api = APIClient()
    api.force_authenticate(stale)
    assert call_make(api) == (404, "not_found")
    assert not ApiKey.objects.exists()


def test_a_member_makes_keys_by_token_too(ana: User):
    make(program(str(begin_family(ana).access_token)))


def test_keys_are_made_where_the_plan_has_the_api(api: Api, ana: User):
    made = make(api(ana))
    for plan in Plan.objects.all():
        plan.has_api = False
        plan.save()
    assert call_make(api(ana)) == (403, "api_not_in_plan")
    assert call(program(made["key"]), "get", "models") == (403, "api_not_in_plan")
    assert call(program(made["key"]), "get", "allowance")[0] == 200
    assert api(ana).delete(f"/api/v1/keys/{made['id']}").status_code == 204


@pytest.mark.parametrize(
    "fields",
    [
        *({"name": ""}, {"name": "x" * 101}, {"scopes": []}, {"scopes": ["all"]}, {"models": ["nobody"]}),
        *({"monthly_credits": 0}, {"monthly_credits": -1}, {"monthly_credits": 2**40}, {"id": "x"}),
        {"expires_at": "2020-01-01T00:00:00Z"},
    ],
)
def test_what_a_key_cannot_have_is_refused(api: Api, ana: User, fields: dict[str, Any]):
    assert call_make(api(ana), **fields) == (400, "invalid")
    assert not ApiKey.objects.exists()


def test_the_same_id_is_one_key(api: Api, ana: User):
    make(api(ana), id=SOME)
    assert call_make(api(ana), id=SOME) == (409, "conflict")


def test_there_are_only_so_many(api: Api, ana: User, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keys, "MAX_KEYS", 2)
    first = make(api(ana))
    make(api(ana))
    assert call_make(api(ana)) == (409, "too_many_keys")
    api(ana).delete(f"/api/v1/keys/{first['id']}")
    make(api(ana))


def test_nobody_makes_keys_without_end(api: Api, ana: User):
    assert [call_make(api(ana))[0] for _ in range(21)] == [201] * 20 + [429]


def test_who_closes_the_account_takes_the_keys_along(api: Api, ana: User, bo: User):
    made = make(api(ana))
    make(api(bo))
    ana.delete()
    assert call(program(made["key"]), "get", "models") == (401, "key_not_valid")
    assert [key.user for key in ApiKey.objects.all()] == [bo]


def call_make(client: APIClient, **fields: Any) -> tuple[int, str]:
    answer = client.post("/api/v1/keys", {"name": "Job", "scopes": SCOPES, **fields}, format="json")
    return answer.status_code, answer.json().get("code", "")
