"""A plan without the API: programs are refused and can see why; the site's pages go on."""

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from accounts.models import User
from accounts.tokens import begin_family
from billing.entitlements import account_of
from billing.models import Plan

pytestmark = [pytest.mark.stores, pytest.mark.django_db(databases=["default", "history"])]

SOME = "0193a1b0-0000-7000-8000-000000000001"
CLOSED = (
    ("get", "models"),
    ("get", "conversations"),
    ("post", f"conversations/{SOME}/turns"),
    ("get", f"turns/{SOME}"),
    ("post", "attachments"),
    ("get", "search?q=hola"),
    ("post", "socket-tickets"),
)
OPEN = ("plans", "subscription", "usage", "allowance", "me")


def program_of(user: User) -> APIClient:
    return APIClient(headers={"authorization": f"Bearer {begin_family(user).access_token}"})


def set_api(*, is_in_plan: bool) -> None:
    free = Plan.objects.get(key="free")
    free.has_api = is_in_plan
    free.save()


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_a_program_is_refused_with_a_code_and_a_sentence(ana: User, method: str, path: str):
    set_api(is_in_plan=False)
    answer = getattr(program_of(ana), method)(f"/api/v1/{path}")
    assert (answer.status_code, answer.json()["code"]) == (403, "api_not_in_plan")
    assert "API" in answer.json()["detail"]


@pytest.mark.parametrize("path", OPEN)
def test_a_program_sees_why(ana: User, path: str):
    set_api(is_in_plan=False)
    assert program_of(ana).get(f"/api/v1/{path}").status_code == 200


def test_a_program_logs_in_and_out(ana: User):
    set_api(is_in_plan=False)
    found = APIClient().post("/api/v1/auth/login", {"email": ana.email, "password": "una clave larga"}, format="json")
    assert found.status_code == 200
    assert program_of(ana).post("/api/v1/auth/logout-everywhere").status_code == 204


def test_the_sites_own_pages_go_on(ana: User):
    set_api(is_in_plan=False)
    browser = Client()
    browser.force_login(ana)
    assert browser.get("/api/v1/conversations").status_code == 200
    assert browser.get("/").status_code == 200


def test_a_visitor_is_asked_who_they_are_first(catalog: None):
    set_api(is_in_plan=False)
    assert APIClient().get("/api/v1/conversations").status_code == 401


def test_a_change_of_plan_counts_from_the_next_request(ana: User):
    program = program_of(ana)
    account = account_of(ana.pk)
    for is_granted, status in ((True, 200), (False, 403), (True, 200)):
        set_api(is_in_plan=False)
        account.plan = Plan.objects.get(key="premium") if is_granted else None
        account.save()
        assert program.get("/api/v1/conversations").status_code == status


def test_where_every_plan_has_the_api_no_row_is_read_for_it(ana: User):
    program = program_of(ana)
    program.get("/api/v1/conversations")
    with CaptureQueriesContext(connection) as found:
        program.get("/api/v1/conversations")
    assert not [query for query in found.captured_queries if "billing_" in query["sql"]]
