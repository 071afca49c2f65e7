"""What a refused question leads on to: another model by the same estimate, credits, a plan."""

import re

import pytest
from django.test import Client

from accounts.models import User
from billing.models import BillingAccount, Plan
from core.threads import in_thread
from history.models import Turn, new_id
from tests.chat.conftest import Offer
from tests.chat.live import page_of

POOR = {"input_price": 50_000, "output_price": 200_000}
DEAR = {"input_price": 50_000_000, "output_price": 200_000_000}


@pytest.fixture
def browser(ana: User) -> Client:
    """Ana's, in English. Her plan has one credit a month, and every model but the best."""
    User.objects.filter(pk=ana.pk).update(locale="en")
    plan = Plan.objects.create(key="tiny", name="Tiny", best_tier="mid", rank=5, credits_per_month=1)
    BillingAccount.objects.create(user=ana, plan=plan)
    client = Client()
    client.force_login(ana)
    return client


def ways(browser: Client, **fields: str) -> tuple[int, list[tuple[str, str]], list[str]]:
    """Ask; return the status, the models that are offered instead with what is said of them, and where links lead."""
    answer = browser.post(f"/c/{new_id()}/", {"text": "Hi", **fields})
    html = answer.text.split("data-ways>")[1].split("</div>")[0]
    buttons = [(key, text.strip()) for key, text in re.findall(r'name="with" value="([^"]+)">([^<]+)<', html)]
    return answer.status_code, buttons, re.findall(r'href="([^"]+)"', html)


def test_what_is_too_dear_can_be_asked_of_a_model_that_the_credits_pay_for(browser: Client, offer: Offer):
    offer("poor", tier="mid", label="Poor", **POOR)
    offer("poorer", input_price=1, output_price=1)  # of a lower tier
    offer("dear", tier="mid", **DEAR)
    offer("best", tier="strong", **POOR)  # of a higher plan
    assert ways(browser, model="scripted") == (
        402, [("poor", "Ask Poor instead: at most 0.3 credits")], ["/pricing/", "/billing/"]
    )  # fmt: skip
    answer = browser.post(f"/c/{new_id()}/", {"text": "Hi", "model": "scripted", "effort": "high", "with": "poor"})
    assert answer.status_code == 302
    turn = Turn.objects.get()
    assert (turn.requested_model, turn.question, turn.effort) == ("poor", "Hi", "")


def test_without_credits_only_what_is_free_is_named(browser: Client, offer: Offer):
    offer("dear", tier="mid", **DEAR)
    assert ways(browser, model="scripted") == (402, [], ["/pricing/", "/billing/"])
    assert ways(browser, model="") == (402, [], ["/pricing/", "/billing/"])
    offer("free", tier="demo", label="Free one", input_price=0, output_price=0)
    assert ways(browser, model="")[1] == [("free", "Ask Free one instead, free of charge")]


def test_other_refusals_lead_on_too(browser: Client, offer: Offer):
    offer("poor", label="Poor", context_window=100_000, **POOR)
    offer("best", tier="strong", **POOR)
    instead = [("poor", "Ask Poor instead: at most 0.3 credits")]
    assert ways(browser, model="best") == (403, instead, ["/pricing/"])
    assert ways(browser, model="gone") == (404, instead, [])
    status, [(key, _words)], links = ways(browser, model="scripted", text="x " * 15_000)
    assert (status, key, links) == (413, "poor", ["/"])
    assert ways(browser, text="  ") == (400, [], [])


async def test_the_socket_sends_them_in_the_persons_language(browser: Client, ana: User, offer: Offer):
    await in_thread(lambda: offer("poor", label="Poor", **POOR))
    await User.objects.filter(pk=ana.pk).aupdate(locale="es")
    async with page_of(ana) as page:
        await page.start("Hola", model="scripted")
        rejected = await page.next("turn.rejected")
    assert rejected["code"] == "allowance_used_up"
    assert "a Poor: como máximo 0,3 créditos" in rejected["html"]
    assert 'href="/billing/"' in rejected["html"]
