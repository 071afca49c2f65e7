"""Every error of the API has one shape, and none says more than it should."""

import json
import logging

import pytest
from rest_framework.test import APIClient

from chat.models import LanguageModel
from history import access
from history.models import new_id

SHAPE = {"code", "detail", "request_id"}


def assert_error(answer, status: int, code: str) -> dict:
    assert answer.status_code == status
    assert answer["Content-Type"] == "application/json"
    body = answer.json()
    assert set(body) - {"fields", "retry_after"} == SHAPE
    assert body["code"] == code
    assert body["request_id"] == answer["X-Request-ID"]
    assert body["detail"]
    assert "Traceback" not in answer.content.decode()
    return body


def test_400_for_what_is_not_valid_names_the_fields(api, ana):
    body = assert_error(api(ana).patch("/api/v1/me", {"theme": "pink"}, format="json"), 400, "invalid")
    assert list(body["fields"]) == ["theme"]


@pytest.mark.parametrize("sent", [b"{", b"\xff\xfe", b'{"title": NaN}', b""])
def test_400_for_what_is_no_json(api, ana, sent):
    answer = api(ana).post("/api/v1/auth/login", sent, content_type="application/json")
    assert answer.status_code == 400
    assert set(answer.json()) - {"fields"} == SHAPE


HOLLOW = {
    "an array, thousands deep": b"[" * 100_000 + b"]" * 100_000,
    "an object, thousands deep": b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    "a field, hundreds deep": b'{"theme": ' + b"[" * 480 + b"]" * 480 + b"}",
    "a lone surrogate": b'{"theme": "\\ud800"}',
    "a lone surrogate as a name": b'{"\\udfff": 1}',
    "1,001 fields": json.dumps({f"field{number}": 1 for number in range(1_001)}).encode(),
    "a number of 5,000 digits": b'{"theme": ' + b"9" * 5_000 + b"}",
    "UTF-16": '{"theme": "dark"}'.encode("utf-16"),
}


@pytest.mark.parametrize("sent", HOLLOW.values(), ids=HOLLOW)
@pytest.mark.parametrize("path", ["/api/v1/auth/login", "/api/v1/auth/refresh"])
def test_400_for_json_that_would_break_its_reader(api, path, sent):
    assert_error(api().post(path, sent, content_type="application/json"), 400, "parse_error")


def test_json_may_have_so_many_fields_and_levels(api, ana):
    deep = b"[" * 15 + b"1" + b"]" * 15
    for sent in (b'{"theme": "dark", "more": %s}' % deep, json.dumps({f"f{number}": 1 for number in range(1_000)})):
        assert api(ana).patch("/api/v1/me", sent, content_type="application/json").status_code == 200
    deeper = b'{"theme": "dark", "more": [%s]}' % deep
    assert_error(api(ana).patch("/api/v1/me", deeper, content_type="application/json"), 400, "parse_error")


def test_400_for_a_form_of_more_than_a_thousand_fields(api, ana):
    answer = api(ana).post("/api/v1/attachments", {f"field{number}": "x" for number in range(1_001)})
    assert_error(answer, 400, "bad_request")


def test_a_field_that_nobody_asked_for_is_left_out(api, ana):
    answer = api(ana).patch("/api/v1/me", {"theme": "dark", "more": {"a": [{"b": 1}]}}, format="json")
    assert (answer.status_code, answer.json()["theme"]) == (200, "dark")


@pytest.mark.parametrize("sent", ["[]", '"text"', "7", "null"])
def test_400_for_json_that_is_no_object(api, ana, sent):
    answer = api(ana).post("/api/v1/auth/login", sent, content_type="application/json")
    assert_error(answer, 400, "invalid")


def test_401_for_a_visitor_says_how_to_log_in(api, catalog):
    answer = api().get("/api/v1/conversations")
    assert_error(answer, 401, "not_authenticated")
    assert answer["WWW-Authenticate"].startswith("Bearer")


def test_401_for_a_bad_token(api, catalog):
    answer = APIClient().get("/api/v1/me", HTTP_AUTHORIZATION="Bearer nothing")
    assert_error(answer, 401, "token_not_valid")


def test_403_for_a_session_without_its_csrf_token(ana):
    client = APIClient(enforce_csrf_checks=True)
    client.force_login(ana)
    assert client.get("/api/v1/me").status_code == 200
    assert_error(client.patch("/api/v1/me", {"name": "x"}, format="json"), 403, "permission_denied")


def test_403_for_a_model_that_is_not_in_the_plan(api, ana):
    LanguageModel.objects.filter(key="scripted").update(tier="strong")
    answer = api(ana).post(
        f"/api/v1/conversations/{new_id()}/turns", {"text": "hola", "model": "scripted"}, format="json"
    )
    assert_error(answer, 403, "not_in_plan")


def test_404_for_what_does_not_exist(api, ana):
    assert_error(api(ana).get(f"/api/v1/conversations/{new_id()}"), 404, "not_found")


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/api/v1/conversations/7", "/api/v1/me/"])
def test_404_for_an_address_that_does_not_exist(api, ana, path):
    assert_error(api(ana).get(path), 404, "not_found")


def test_405_names_what_is_allowed(api, ana):
    answer = api(ana).put("/api/v1/conversations", {}, format="json")
    assert_error(answer, 405, "method_not_allowed")
    assert {"GET", "POST"} <= set(answer["Allow"].split(", "))


@pytest.mark.parametrize("accept", ["text/event-stream", "text/html", "rubbish"])
def test_what_a_client_accepts_refuses_nothing(api, ana, accept):
    """A browser's EventSource accepts event streams alone."""
    answer = api(ana).get("/api/v1/me", HTTP_ACCEPT=accept)
    assert (answer.status_code, answer["Content-Type"]) == (200, "application/json")


def test_413_for_more_than_we_read(api, ana, settings):
    sent = json.dumps({"title": "x" * settings.DATA_UPLOAD_MAX_MEMORY_SIZE})
    answer = api(ana).post("/api/v1/conversations", sent, content_type="application/json")
    assert_error(answer, 413, "too_large")


def test_413_for_a_visitor_too(api, catalog, settings):
    sent = json.dumps({"email": "x" * settings.DATA_UPLOAD_MAX_MEMORY_SIZE})
    assert_error(api().post("/api/v1/auth/login", sent, content_type="application/json"), 413, "too_large")


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"])
def test_415_for_what_is_not_json(api, ana, content_type):
    answer = api(ana).post("/api/v1/conversations", "title=x", content_type=content_type)
    assert_error(answer, 415, "unsupported_media_type")


def test_500_says_nothing_of_the_reason(api, ana, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RuntimeError("the key is sk-secret")

    monkeypatch.setattr(access, "list_conversations", fail)
    answer = api(ana).get("/api/v1/conversations")
    assert_error(answer, 500, "internal_error")
    assert "secret" not in answer.content.decode()
    assert "RuntimeError" not in answer.content.decode()


def test_500_is_logged_once_with_its_traceback(api, ana, monkeypatch, caplog):
    def fail(*_args, **_kwargs):
        raise RuntimeError

    monkeypatch.setattr(access, "list_conversations", fail)
    with caplog.at_level(logging.ERROR):
        api(ana).get("/api/v1/conversations")
    (record,) = (record for record in caplog.records if record.name == "config.api")
    assert record.exc_info[0] is RuntimeError
    assert record.route == "/api/v1/conversations"
