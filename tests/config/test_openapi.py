"""The OpenAPI document: it has every operation of the API, and every site serves it to anybody."""

import json
import re
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings as django_settings
from django.contrib.staticfiles import finders
from django.core.management import call_command
from django.test import Client
from openapi_spec_validator import validate
from pytest_django import Settings
from rest_framework.views import APIView

from accounts.models import ApiKey, User
from config.openapi import documents
from config.static_files import SWAGGER_UI
from tests.fuzz.url_map import list_api_doors

ROOT = Path(django_settings.BASE_DIR)
TYPE = "application/vnd.oai.openapi+json"
OPERATIONS = [(door, method) for door in list_api_doors() for method in door.methods]


@cache
def document() -> Any:
    return json.loads(documents._document("json").body)


def described() -> list[tuple[str, str, Any]]:
    return [(path, method, one) for path, ways in document()["paths"].items() for method, one in ways.items()]


# --- What is in it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("door", "method"), OPERATIONS, ids=lambda value: getattr(value, "route", value))
def test_every_operation_of_the_api_is_described(door: Any, method: str) -> None:
    """One that was forgotten: its view lacks `described` (core/operations.py), or a line for this method."""
    path = door.route % {name: f"{{{name}}}" for name in door.parameters}
    operation = document()["paths"][path][method.lower()]
    assert re.fullmatch(r"[a-z][A-Za-z]+", operation["operationId"])
    assert 5 < len(operation["summary"]) < 120
    assert set(operation["tags"]) <= {tag["name"] for tag in document()["tags"]}
    assert {name for way in operation["security"] for name in way} <= set(document()["components"]["securitySchemes"])
    statuses = set(operation["responses"])
    assert statuses >= {"429", "500", "503"}
    assert any(status.startswith("2") for status in statuses)
    assert ("404" in statuses) >= bool(door.parameters)
    assert ("401" in statuses) >= bool(operation["security"])
    for status, answer in operation["responses"].items():
        if status >= "4":
            assert answer["content"] == {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
            assert re.search(r"`[a-z_]+`", answer["description"])
    for parameter in operation.get("parameters", []):
        assert parameter["schema"]


def test_nothing_else_is_in_it() -> None:
    routes = {(door.route % {name: f"{{{name}}}" for name in door.parameters}, m.lower()) for door, m in OPERATIONS}
    assert {(path, method) for path, method, _operation in described()} == routes


def test_no_two_operations_have_one_name() -> None:
    names = [operation["operationId"] for _path, _method, operation in described()]
    assert len(names) == len(set(names))


def test_the_scope_that_opens_an_operation_to_keys_is_the_views_own() -> None:
    for door, method in OPERATIONS:
        path = door.route % {name: f"{{{name}}}" for name in door.parameters}
        said = document()["paths"][path][method.lower()]["security"]
        scopes = getattr(door.view.cls, "key_scopes", {}).get(method)
        assert any("apiKey" in one for one in said) == (scopes is not None), path
    assert document()["paths"]["/api/v1/turns/{turn_id}"]["get"]["security"][2:] == [
        {"apiKey": [ApiKey.Scope.CHAT]},
        {"apiKey": [ApiKey.Scope.HISTORY]},
    ]
    assert document()["paths"]["/api/v1/auth/login"]["post"]["security"] == []
    assert {} in document()["paths"]["/api/v1/plans"]["get"]["security"]


def test_it_is_valid_and_nothing_had_to_be_guessed() -> None:
    validate(document())
    found = StringIO()
    options = ("--validate", "--fail-on-warn", "--api-version", "v1", "--format", "openapi-json")
    call_command("spectacular", *options, stdout=found)
    assert json.loads(found.getvalue())["openapi"] == document()["openapi"] == "3.1.0"


def test_examples_are_what_their_schemas_say() -> None:
    """But for texts of events: JSON alone can be looked at."""
    jsonschema = pytest.importorskip("jsonschema")
    examples = 0
    for _path, _method, operation in described():
        contents = [operation.get("requestBody", {}), *operation["responses"].values()]
        for media, content in ((m, c) for one in contents for m, c in one.get("content", {}).items()):
            if media == "application/json" and "example" in content:
                schema = {**content["schema"], "components": document()["components"]}
                jsonschema.Draft202012Validator(schema).validate(content["example"])
                examples += 1
    assert examples >= 8


def test_it_is_the_same_on_every_store() -> None:
    """The largest number of a column is the database's, and no promise."""
    assert not re.search(r"\d{10}", json.dumps(document()["components"]["schemas"]).replace("1000000000", ""))


# --- How it is served -------------------------------------------------------------------------------------------------


def test_anybody_may_read_it_and_keep_it(ana: User) -> None:
    member = Client()
    member.force_login(ana)
    for client in (Client(), member):
        answer = client.get("/api/schema/")
        assert (answer.status_code, answer["Content-Type"]) == (200, TYPE)
        assert answer["Cache-Control"] == "public, max-age=300"
        assert answer.json() == document()
        again = client.get("/api/schema/", headers={"If-None-Match": answer["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
    head = Client().head("/api/schema/")
    assert (head.status_code, head.content) == (200, b"")


def test_it_is_compressed_and_may_still_be_asked_for_again() -> None:
    answer = Client().get("/api/schema/", headers={"Accept-Encoding": "gzip"})
    assert answer["Content-Encoding"] == "gzip"
    assert len(answer.content) < len(json.dumps(document())) / 4
    again = Client().get("/api/schema/", headers={"Accept-Encoding": "gzip", "If-None-Match": answer["ETag"]})
    assert again.status_code == 304


def test_there_is_yaml_too() -> None:
    answer = Client().get("/api/schema/?format=yaml")
    assert answer["Content-Type"] == "application/vnd.oai.openapi"
    assert yaml.safe_load(answer.content) == document()


@pytest.mark.parametrize("query", ["?format=html", "?format=%00", "?lang=xx", "?version=9"])
def test_whatever_else_is_asked_for_it_is_json(query: str) -> None:
    assert Client(raise_request_exception=False).get(f"/api/schema/{query}")["Content-Type"] == TYPE


def test_it_is_limited_as_the_api_is(catalog: None, settings: Settings) -> None:
    settings.API_REQUESTS_PER_MINUTE = 1
    assert [Client().get("/api/schema/").status_code for _ in range(2)] == [200, 429]
    assert Client().post("/api/schema/").json()["code"] in ("method_not_allowed", "rate_limited")


def test_a_process_loads_what_makes_it_only_once_somebody_asks() -> None:
    """It brings a test client and more, to every web process."""
    loading = re.compile(r"^(?:from|import) (?:drf_spectacular|config\.openapi\.(?:generation|refusals))", re.MULTILINE)
    apps = ("accounts", "billing", "chat", "config", "core", "history")
    found = [path for app in apps for path in (ROOT / app).rglob("*.py") if loading.search(path.read_text())]
    assert [str(path.relative_to(ROOT)) for path in found] == ["config/openapi/generation.py"]
    assert not APIView.schema.__class__.__module__.startswith("drf_spectacular")


# --- The page ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "title"), [("es", "Referencia de la API"), ("en", "API reference"), ("pt-br", "Referência da API")]
)
def test_a_page_shows_it_in_our_frame(catalog: None, language: str, title: str) -> None:
    answer = Client().get("/api/docs/", headers={"Accept-Language": language})
    assert answer.status_code == 200
    assert f"<h1>{title}</h1>" in answer.text
    assert 'data-api-docs="/api/schema/"' in answer.text
    assert "unsafe" not in answer["Content-Security-Policy"]
    assert not re.search(r"<script(?![^>]*(?: src=|importmap))", answer.text)
    assert 'lang="en"' in answer.text


def test_the_page_of_keys_leads_there(catalog: None, ana: User) -> None:
    client = Client()
    client.force_login(ana)
    assert 'href="/api/docs/"' in client.get("/settings/keys/").text


def test_of_swagger_ui_only_what_the_page_needs_is_served() -> None:
    for name in SWAGGER_UI:
        assert Path(str(finders.find(f"swagger-ui/{name}"))).is_file()
    for name in ("swagger-ui/oauth2-redirect.html", "swagger-ui/../swagger-ui-dist/LICENSE", "swagger-ui/"):
        assert not finders.find(name)
