"""The settings page of API keys, and the mail that tells of a new one."""

import datetime as dt
import re
from typing import Any

import pytest
from django.core import mail
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from accounts.keys import KeyTerms, make_key
from accounts.models import ApiKey, User
from billing.models import Plan
from history.models import new_id

pytestmark = [pytest.mark.stores, pytest.mark.usefixtures("catalog")]

PAGE = "/settings/keys/"
PASSWORD = "una clave larga"


@pytest.fixture
def browser(ana: User) -> Client:
    """Ana's browser, a moment after she wrote her password."""
    client = Client()
    client.post("/accounts/login/", {"login": ana.email, "password": PASSWORD})
    client.post("/accounts/reauthenticate/", {"password": PASSWORD})
    return client


def new_key(**fields: Any) -> dict[str, Any]:
    return {"id": str(new_id()), "name": "Tarea", "scopes": ["chat"], "days": "90", "monthly_credits": "", **fields}


def key_in(page: str) -> str:
    return re.search(r"ttl_[0-9a-f]{8}_[\w-]{43}", page)[0]  # type: ignore[index]


def test_a_key_is_made_and_shown_once(browser: Client, ana: User):
    answer = browser.post(PAGE, new_key(models=["scripted"], monthly_credits="40"))
    assert (answer.status_code, answer["Cache-Control"]) == (201, "no-store")
    secret = key_in(answer.content.decode())
    assert APIClient(headers={"authorization": f"Bearer {secret}"}).get("/api/v1/models").status_code == 200
    key = ApiKey.objects.get()
    assert (key.user, key.name, key.scopes, key.model_ids, key.monthly_credits) == (
        ana,
        "Tarea",
        ["chat"],
        ["scripted"],
        40,
    )
    assert key.expires_at is not None
    assert dt.timedelta(days=89) < key.expires_at - timezone.now() < dt.timedelta(days=91)
    page = browser.get(PAGE).content.decode()
    assert secret not in page
    assert key.prefix in page


def test_a_form_that_is_sent_twice_makes_one_key(browser: Client):
    fields = new_key()
    browser.post(PAGE, fields)
    answer = browser.post(PAGE, fields, follow=True)
    assert answer.status_code == 200
    assert not re.search(r"ttl_[0-9a-f]{8}_", answer.content.decode())
    assert ApiKey.objects.count() == 1


def test_a_key_may_keep_conversations_if_it_asks(browser: Client, ana: User):
    refused = browser.post(PAGE, new_key(scopes=["usage"], keep_conversations="on"))
    assert (refused.status_code, ApiKey.objects.count()) == (400, 0)
    assert "no tiene conversaciones que guardar" in refused.content.decode()
    assert browser.post(PAGE, new_key(keep_conversations="on")).status_code == 201
    assert "guarda las conversaciones" in browser.get(PAGE).content.decode()
    api = APIClient()
    api.force_authenticate(ana)
    wrong = api.post("/api/v1/keys", {"name": "x", "scopes": ["usage"], "keep_conversations": True}, "json")
    assert (wrong.status_code, wrong.json()["code"]) == (400, "nothing_to_keep")
    api.post("/api/v1/keys", {"name": "x", "scopes": ["chat"]}, "json")
    assert [key["keep_conversations"] for key in api.get("/api/v1/keys").json()["results"]] == [False, True]
    kept, other = ApiKey.objects.order_by("created_at")
    assert (kept.keeps_conversations, other.keeps_conversations) == (True, None)


def test_a_key_may_be_of_pages(browser: Client):
    assert browser.post(PAGE, new_key(origins="x")).status_code == 422
    assert not ApiKey.objects.exists()
    assert browser.post(PAGE, new_key(origins="https://App.example.com\nhttps://b.example/")).status_code == 201
    assert ApiKey.objects.get().origins == "https://app.example.com https://b.example"
    assert "https://b.example" in browser.get(PAGE).content.decode()


@pytest.mark.parametrize(
    "fields",
    [{"name": ""}, {"scopes": []}, {"days": "7"}, {"monthly_credits": "0"}, {"models": ["nobody"]}, {"id": "x"}],
)
def test_what_a_key_cannot_have_is_said_in_the_form(browser: Client, fields: dict[str, Any]):
    assert browser.post(PAGE, new_key(**fields)).status_code == 422
    assert not ApiKey.objects.exists()


def test_a_key_is_made_after_the_password_was_written_again(ana: User):
    client = Client()
    client.force_login(ana)
    assert client.get(PAGE).status_code == 200
    answer = client.post(PAGE, new_key())
    assert answer["Location"] == "/accounts/reauthenticate/?next=%2Fsettings%2Fkeys%2F"
    assert not ApiKey.objects.exists()
    answer = client.post(answer["Location"], {"password": PASSWORD, "next": PAGE})
    assert key_in(answer.content.decode())
    assert answer["Cache-Control"] == "no-store"


def test_a_key_is_revoked_after_a_question(browser: Client, ana: User):
    key, secret = make_key(ana, KeyTerms(name="Tarea", scopes=("chat",)), peer="", key_id=new_id())
    address = f"{PAGE}{key.pk}/revoke/"
    assert address in browser.get(PAGE).content.decode()
    assert "Tarea" in browser.get(address).content.decode()
    program = APIClient(headers={"authorization": f"Bearer {secret}"})
    assert program.get("/api/v1/models").status_code == 200
    assert browser.post(address)["Location"] == PAGE
    assert program.get("/api/v1/models").status_code == 401
    assert browser.post(address).status_code == 404


def test_another_members_key_has_no_page(browser: Client, bo: User):
    key, _ = make_key(bo, KeyTerms(name="Tarefa", scopes=("chat",)), peer="", key_id=new_id())
    assert browser.get(f"{PAGE}{key.pk}/revoke/").status_code == 404
    assert browser.post(f"{PAGE}{key.pk}/revoke/").status_code == 404
    assert key.prefix not in browser.get(PAGE).content.decode()


def test_a_plan_without_the_api_offers_no_key(browser: Client):
    for plan in Plan.objects.all():
        plan.has_api = False
        plan.save()
    assert 'name="name"' not in browser.get(PAGE).content.decode()
    assert browser.post(PAGE, new_key()).status_code == 403
    assert not ApiKey.objects.exists()


def test_a_mail_tells_of_a_new_key_and_does_not_hold_it(browser: Client, ana: User):
    secret = key_in(browser.post(PAGE, new_key()).content.decode())
    [sent] = mail.outbox
    prefix = ApiKey.objects.get().prefix
    assert sent.to == [ana.email]
    assert prefix in sent.subject
    assert PAGE in sent.body
    assert secret.removeprefix(prefix) not in sent.subject + sent.body


def test_the_mail_is_in_its_owners_language_whatever_the_program_speaks(bo: User):
    client = APIClient(headers={"accept-language": "en"})
    client.force_authenticate(bo)
    assert client.post("/api/v1/keys", {"name": "Job", "scopes": ["chat"]}, format="json").status_code == 201
    assert "chave de API" in mail.outbox[0].subject


def test_whoever_is_not_logged_in_goes_to_the_log_in(client: Client):
    assert client.get(PAGE)["Location"].startswith("/accounts/login/")
