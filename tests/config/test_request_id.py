"""Every request has a name, in its answer, its errors and its logs."""

import json
import logging
import re

import pytest
from django.test import AsyncClient, Client

from config.logging import JsonFormatter

GIVEN = "a-proxy.gave_this-1"


@pytest.fixture
def visitor():
    return Client()


def id_of(answer) -> str:
    return answer["X-Request-ID"]


def test_a_request_without_a_name_gets_one(visitor):
    assert re.fullmatch(r"[0-9a-f]{32}", id_of(visitor.get("/healthz")))


def test_every_request_gets_another_name(visitor):
    assert id_of(visitor.get("/healthz")) != id_of(visitor.get("/healthz"))


def test_a_name_that_is_well_formed_is_kept(visitor):
    assert id_of(visitor.get("/healthz", HTTP_X_REQUEST_ID=GIVEN)) == GIVEN


@pytest.mark.parametrize(
    "given", ["", "short", "x" * 65, "with spaces in", "ñandúñandú", '{"json": 1}', "a\nb-a\nb-a\nb"]
)
def test_a_name_that_is_malformed_is_replaced(visitor, given):
    assert re.fullmatch(r"[0-9a-f]{32}", id_of(visitor.get("/healthz", HTTP_X_REQUEST_ID=given)))


async def test_a_request_has_a_name_under_asgi_too():
    answer = await AsyncClient().get("/healthz", headers={"X-Request-ID": GIVEN})
    assert id_of(answer) == GIVEN


def test_an_error_carries_the_name(api, catalog):
    answer = api().get("/api/v1/me", HTTP_X_REQUEST_ID=GIVEN)
    assert answer.status_code == 401
    assert answer.json()["request_id"] == id_of(answer) == GIVEN


def test_an_address_that_does_not_exist_carries_the_name(api, catalog):
    answer = api().get("/api/v1/nothing", HTTP_X_REQUEST_ID=GIVEN)
    assert answer.json()["request_id"] == id_of(answer) == GIVEN


def test_a_line_of_the_log_carries_the_name(visitor):
    visitor.get("/healthz", HTTP_X_REQUEST_ID=GIVEN)
    record = logging.getLogger("chat").makeRecord("chat", logging.INFO, "", 0, "Turn closed", (), None)
    record.turn_id = "7"
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["request_id"], line["turn_id"]) == ("Turn closed", GIVEN, "7")
