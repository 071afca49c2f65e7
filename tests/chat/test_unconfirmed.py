"""Where addresses must be confirmed, whoever has not done so costs the site nothing: free credits cannot be farmed."""

import pytest
from allauth.account.models import EmailAddress
from django.core import mail
from django.test import Client
from pytest_django import Settings
from rest_framework.test import APIClient

from accounts.models import User
from accounts.tokens import begin_family
from chat.errors import EmailUnconfirmed
from chat.models import LanguageModel
from chat.turns.closing import close_turn
from history.models import Turn, new_id
from history.progress import Outcome
from tests.accounts.doors import links_in, log_in_by_page, sign_up_by_page
from tests.chat.asking import ask
from tests.chat.live import page_of

CODE = "email_unconfirmed"


@pytest.fixture(autouse=True)
def must_confirm(catalog: None, settings: Settings) -> None:
    settings.REQUIRE_VERIFIED_EMAIL = True


@pytest.fixture
def free(catalog: None) -> LanguageModel:
    """Another model, which costs nothing."""
    prices = {"input_price": 0, "output_price": 0}
    return LanguageModel.objects.create(
        key="free", provider="scripted", provider_model="free", label="Free", tier="cheap", context_window=8_000,
        max_output=1_000, **prices
    )  # fmt: skip


@pytest.fixture
def demo(catalog: None, settings: Settings) -> None:
    settings.DEMO_MODEL_URL = "http://127.0.0.1:9/v1"


def confirm(user: User) -> None:
    EmailAddress.objects.update_or_create(user=user, email=user.email, defaults={"verified": True, "primary": True})


@pytest.mark.stores
@pytest.mark.parametrize("model", ["scripted", "auto", ""])
def test_nobody_asks_a_model_with_a_price_before_their_address_is_confirmed(ana: User, demo: None, model: str):
    with pytest.raises(EmailUnconfirmed):
        ask(ana, model=model)
    assert not Turn.objects.exists()
    confirm(ana)
    assert ask(ana, model=model).model in ("", "scripted")


def test_neither_an_address_that_is_pending_nor_one_they_had_before_counts(ana: User):
    EmailAddress.objects.create(user=ana, email=ana.email, verified=False)
    EmailAddress.objects.create(user=ana, email="before@example.com", verified=True)
    with pytest.raises(EmailUnconfirmed):
        ask(ana)


def test_nor_does_one_that_somebody_else_confirmed(ana: User, bo: User):
    confirm(bo)
    with pytest.raises(EmailUnconfirmed):
        ask(ana)


def test_without_the_setting_nobody_has_to_confirm(ana: User, settings: Settings):
    settings.REQUIRE_VERIFIED_EMAIL = False
    assert ask(ana).requested_model == "scripted"


def test_what_is_free_may_be_asked_before(ana: User, free: LanguageModel, demo: None):
    close_turn(ask(ana, model="demo"), Outcome(Turn.Status.STOPPED))
    assert ask(ana, model="free").max_cost_micros == 0


@pytest.mark.parametrize("model", ["auto", ""])
def test_auto_takes_only_what_is_free(ana: User, free: LanguageModel, demo: None, settings: Settings, model: str):
    settings.DEFAULT_LLM = "scripted"
    assert ask(ana, model=model).candidates == "free"


def test_where_there_is_nothing_but_the_demo_model_it_answers_everybody(ana: User, demo: None):
    LanguageModel.objects.filter(key="scripted").update(enabled=False)
    assert ask(ana, model="auto").candidates == "demo"


def test_a_free_model_with_a_price_for_its_cache_is_not_free(ana: User, free: LanguageModel):
    free.cache_read_price = 1
    free.save()
    with pytest.raises(EmailUnconfirmed):
        ask(ana, model="free")


# --- Every surface ----------------------------------------------------------------------------------------------------


def test_the_api_says_so(ana: User):
    client = APIClient(headers={"Authorization": f"Bearer {begin_family(ana).access_token}"})
    body = {"text": "Hola", "model": "scripted"}
    answer = client.post(f"/api/v1/conversations/{new_id()}/turns", body, format="json", HTTP_ACCEPT_LANGUAGE="en")
    assert (answer.status_code, answer.json()["code"]) == (403, CODE)
    assert "E-mail address" in answer.json()["detail"]


def test_the_page_says_so_keeps_the_question_and_leads_to_the_mail_and_to_what_is_free(ana: User, free: LanguageModel):
    browser = Client()
    browser.force_login(ana)
    page = browser.post(f"/c/{new_id()}/", {"text": "Una pregunta", "model": "scripted"})
    assert page.status_code == 403
    ways = page.text.split("data-ways>")[1].split("</div>")[0]
    assert 'href="/accounts/email/"' in ways
    assert 'name="with" value="free"' in ways
    assert "Una pregunta</textarea>" in page.text
    home = browser.get("/")
    assert "data-ways></div>" in home.text
    assert home.context["estimates"]["unnamed"] == ["free"]


async def test_the_socket_says_so(ana: User):
    async with page_of(ana) as page:
        await page.start("Hola", model="scripted")
        assert (await page.next("turn.rejected"))["code"] == CODE


# --- Whom it meets ----------------------------------------------------------------------------------------------------


def test_who_signs_up_while_it_is_on_has_confirmed_when_they_get_in():
    sign_up_by_page("eva@example.com")
    link = links_in(mail.outbox[0])[0]
    browser = log_in_by_page("eva@example.com", next=link).client
    browser.post(link)
    assert ask(User.objects.get(email="eva@example.com")).pk


@pytest.mark.parametrize("made_by", ["sign-up before it was on", "operator"])
def test_an_account_from_before_and_one_of_an_operators_making_confirm_on_the_page_of_the_address(
    settings: Settings, made_by: str
):
    if made_by == "operator":
        user = User.objects.create_user("eva@example.com", "una clave larga")
    else:
        settings.REQUIRE_VERIFIED_EMAIL = False
        sign_up_by_page("eva@example.com")
        settings.REQUIRE_VERIFIED_EMAIL = True
        user = User.objects.get(email="eva@example.com")
    browser = Client()
    browser.force_login(user)
    mail.outbox.clear()
    assert 'name="action_send"' in browser.get("/accounts/email/").text
    browser.post("/accounts/email/", {"email": user.email, "action_send": ""})
    with pytest.raises(EmailUnconfirmed):
        ask(user)
    browser.post(links_in(mail.outbox[0])[0])
    assert ask(user).pk


def test_a_pending_change_of_address_does_not_hide_the_way(ana: User):
    for email in (ana.email, "new@example.com"):
        EmailAddress.objects.create(user=ana, email=email)
    browser = Client()
    browser.force_login(ana)
    page = browser.get("/accounts/email/").text
    assert page.count('name="action_send"') == 2
    assert f'name="email" value="{ana.email}"' in page


def test_mails_to_ones_own_address_are_counted_from_the_first(ana: User):
    browser = Client()
    browser.force_login(ana)
    statuses = [browser.post("/accounts/email/", {"email": ana.email, "action_send": ""}).status_code for _ in range(4)]
    assert statuses == [302, 302, 302, 429]
    assert len(mail.outbox) == 3


def test_an_operator_is_not_excepted(ana: User):
    User.objects.filter(pk=ana.pk).update(is_staff=True, is_superuser=True)
    with pytest.raises(EmailUnconfirmed):
        ask(ana)
