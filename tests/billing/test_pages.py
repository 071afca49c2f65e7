"""The pages of money, as a browser without JavaScript has them."""

import datetime as dt
import re
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from allauth.account.models import EmailAddress
from django.test import Client
from django.utils import timezone, translation
from django.utils.formats import date_format

from accounts.models import User
from billing import metering, outbox
from billing.entitlements import account_of, current_period, entitlements_of
from billing.gateways.base import GatewayUnavailable
from billing.metering import Usage
from billing.models import AllowanceNotice, BillingAccount, GatewayTask, Payment, Plan, Price, Purchase, Subscription
from billing.pages.usage_chart import safe_cell
from billing.subscriptions import apply
from tests.billing.fake_gateway import FakeGateway, bought, change, payment, renew, state

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

DAY = dt.timedelta(days=1)


@pytest.fixture
def browser(ana: User) -> Client:
    """Ana's, in English."""
    return browser_of(ana)


def browser_of(user: User) -> Client:
    user.locale = "en"
    user.save()
    client = Client()
    client.force_login(user)
    return client


def text_of(answer: Any) -> str:
    """Return what the page says, without its tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", answer.text.partition("<main")[2]))


def filled(browser: Client, price: Price, kind: str = "subscription", **fields: str) -> dict[str, str]:
    """Return the checkout's form, filled in."""
    page = browser.get(f"/billing/checkout/{price.pk}/")
    nonce = re.search(r'name="nonce" value="([^"]+)"', page.text)
    assert nonce, text_of(page)
    return {"way": f"{price.pk}:{kind}", "payer_email": "payer@example.com", "nonce": nonce[1]} | fields


def subscribe(user: User, price: Price, **fields: Any) -> Subscription:
    return apply(bought(user, price, at=fields.pop("at", timezone.now()), **fields))


# --- Prices -----------------------------------------------------------------------------------------------------------


def test_a_visitor_reads_what_each_plan_costs_and_allows(prices: Any):
    page = Client().get("/pricing/", headers={"Accept-Language": "en"})
    assert page.status_code == 200
    words = text_of(page)
    assert "Premium" in words
    assert "20.00 USD" in words.replace("\xa0", " ")
    assert "20,000 credits a month" in words
    assert "Simulated payments: no money moves." in words
    assert f'href="/billing/checkout/{prices["premium-month"].pk}/"' in page.text


def test_the_prices_of_a_year_are_a_link_away(prices: Any):
    page = Client().get("/pricing/", headers={"Accept-Language": "en"})
    assert 'href="?every=year&amp;currency=USD"' in page.text
    yearly = Client().get("/pricing/?every=year&currency=USD", headers={"Accept-Language": "en"})
    words = text_of(yearly).replace("\xa0", " ")
    assert "200.00 USD" in words
    assert "That is 16.67 USD a month." in words
    assert "up to 16% less" in words


@pytest.mark.parametrize(
    ("language", "said"), [("es", ("Planes y precios", "Empresas")), ("pt-br", ("Planos e preços", "Empresas"))]
)
def test_prices_are_in_the_visitor_s_language(prices: Any, language: str, said: tuple[str, str]):
    page = text_of(Client().get("/pricing/", headers={"Accept-Language": language}))
    assert all(words in page for words in said)
    assert "Enterprise" not in page


@pytest.mark.parametrize(("language", "free"), [("es", "Gratis"), ("en", "Free"), ("pt-br", "Grátis")])
def test_a_plan_is_called_as_in_the_readers_language_and_as_the_operator_called_it(language: str, free: str):
    with translation.override(language):
        assert Plan(name="Free").shown_name == free
        assert Plan(name="Our café").shown_name == "Our café"


def test_portuguese_writes_months_without_a_capital():
    with translation.override("pt-br"):
        assert date_format(dt.date(2026, 12, 2), "DATE_FORMAT") == "2 de dezembro de 2026"


def test_only_currencies_with_a_price_for_sale_are_offered(prices: Any):
    plan = Plan.objects.get(key="premium")
    for currency, is_for_sale in (("ARS", True), ("BRL", False)):
        Price.objects.create(
            plan=plan, gateway="fake", currency=currency, amount_minor=1, interval="month", is_for_sale=is_for_sale
        )
    page = Client().get("/pricing/?currency=BRL", headers={"Accept-Language": "en"})
    assert re.findall(r">([A-Z]{3})</a>", page.text) == ["ARS", "USD"]


def test_a_site_that_sells_nothing_says_so(catalog: None, settings: Any):
    settings.GATEWAYS = {}
    page = Client().get("/pricing/", headers={"Accept-Language": "en"})
    assert "Nothing is sold on this site." in text_of(page)


def test_the_admin_says_that_payments_are_not_real(prices: Any, olga: User, settings: Any):
    operator = browser_of(olga)
    assert "Simulated payments: no money moves." in operator.get("/admin/").text
    settings.GATEWAYS = {}
    assert "no money moves" not in operator.get("/admin/").text


# --- Checkout ---------------------------------------------------------------------------------------------------------


def test_a_visitor_signs_up_and_comes_back_to_the_checkout(prices: Any, settings: Any):
    settings.REQUIRE_VERIFIED_EMAIL = False
    visitor, wanted = Client(), f"/billing/checkout/{prices['premium-month'].pk}/"
    sent = visitor.get(wanted)
    assert sent.headers["Location"].startswith("/accounts/signup/?next=")
    form = {"email": "new@example.com", "password1": "una clave larga", "terms": "on", "next": wanted}
    assert visitor.post("/accounts/signup/", form).headers["Location"] == wanted
    assert visitor.get(wanted).status_code == 200


def test_what_was_wanted_survives_a_sign_up_by_mail(prices: Any, ana: User):
    visitor, wanted = Client(), f"/billing/checkout/{prices['premium-month'].pk}/"
    visitor.get(wanted)
    login = {"login": ana.email, "password": "una clave larga"}
    assert visitor.post("/accounts/login/", login).headers["Location"] == wanted  # the form knows of no `next`
    visitor.get(wanted)
    visitor.post("/accounts/logout/")
    assert visitor.post("/accounts/login/", login).headers["Location"] == "/"


def test_a_checkout_leads_to_the_gateway_s_page(browser: Client, prices: Any, ana: User):
    price = prices["premium-month"]
    sent = browser.post(f"/billing/checkout/{price.pk}/", filled(browser, price))
    purchase = Purchase.objects.get()
    assert sent.headers["Location"] == f"/billing/pay/{purchase.key}/"
    page = browser.get(sent.headers["Location"])
    assert page.headers["Refresh"] == f"0; url=https://pay.test/{purchase.key}"
    assert f'href="https://pay.test/{purchase.key}"' in page.text
    (order,) = state.orders
    assert (order.payer_email, order.kind) == ("payer@example.com", "subscription")
    assert order.return_url == f"http://localhost:8000/billing/return/{purchase.key}/"
    assert entitlements_of(ana.pk).plan == "free"


def test_pix_is_named_where_there_is_pix(browser: Client, prices: Any):
    price = prices["premium-month"]
    assert "Once, with Fake Pay: cash, bank or card" in text_of(browser.get(f"/billing/checkout/{price.pk}/"))
    real = Price.objects.create(
        plan=price.plan, gateway="fake", currency="BRL", interval="month", amount_minor=9_900, reference="reais"
    )
    assert "Once, with Fake Pay: Pix, boleto or card" in text_of(browser.get(f"/billing/checkout/{real.pk}/"))


def test_a_trial_is_told_of_to_whoever_may_have_it(browser: Client, prices: Any, ana: User):
    price = prices["premium-month"]
    Plan.objects.filter(key="premium").update(trial_days=14)

    def told() -> tuple[str, str]:
        return text_of(browser.get("/pricing/")), text_of(browser.get(f"/billing/checkout/{price.pk}/"))

    offer, checkout = told()
    assert "Try Premium for 14 days" in offer
    assert "To try it for 14 days first, confirm your e-mail address" in checkout
    EmailAddress.objects.create(user=ana, email=ana.email, verified=True, primary=True)
    assert "the first 14 days are free and have 1,000 credits" in told()[1]
    apply(bought(ana, price, at=timezone.now() - 60 * DAY, status="ended"))
    offer, checkout = told()
    assert "Choose Premium" in offer
    assert "14 days" not in checkout


def test_a_form_that_is_sent_twice_begins_one_checkout(browser: Client, prices: Any):
    price = prices["premium-month"]
    form = filled(browser, price)
    first, second = (browser.post(f"/billing/checkout/{price.pk}/", form) for _ in range(2))
    assert first.headers["Location"] == second.headers["Location"]
    assert Purchase.objects.count() == 1


def test_the_same_form_with_another_choice_is_another_checkout(browser: Client, prices: Any):
    price = prices["premium-month"]
    form = filled(browser, price)
    browser.post(f"/billing/checkout/{price.pk}/", form)
    browser.post(f"/billing/checkout/{price.pk}/", form | {"way": f"{price.pk}:prepaid"})
    kinds = [(purchase.kind, purchase.closed_at is None) for purchase in Purchase.objects.order_by("pk")]
    assert kinds == [("subscription", False), ("prepaid", True)]


def test_the_payer_s_own_address_is_asked_for(browser: Client, prices: Any):
    price = prices["premium-month"]
    refused = browser.post(f"/billing/checkout/{price.pk}/", filled(browser, price, payer_email=""))
    assert refused.status_code == 422
    assert "Write the address of your account there." in text_of(refused)
    assert not Purchase.objects.exists()
    once = browser.post(f"/billing/checkout/{price.pk}/", filled(browser, price, "prepaid", payer_email=""))
    assert once.status_code == 302


def test_a_checkout_says_until_when_the_running_plan_is_paid(browser: Client, prices: Any, ana: User):
    subscription = subscribe(ana, prices["premium-month"])
    page = browser.get(f"/billing/checkout/{prices['enterprise-month'].pk}/")
    words = text_of(page)
    assert "You have a plan already" in words
    assert subscription.paid_until is not None
    with translation.override("en"):
        when = date_format(subscription.paid_until, "DATE_FORMAT")
    assert f"Premium is paid until {when}" in words
    form = {"way": f"{prices['enterprise-month'].pk}:subscription", "payer_email": "a@b.example", "nonce": "n"}
    refused = browser.post(f"/billing/checkout/{prices['enterprise-month'].pk}/", form)
    assert refused.status_code == 409
    assert "You have a subscription already" in text_of(refused)


def test_a_checkout_of_another_plan_leads_to_the_change_that_counts_now(browser: Client, prices: Any, ana: User):
    subscribe(ana, prices["premium-month"])
    page = browser.get(f"/billing/checkout/{prices['enterprise-month'].pk}/").text
    assert f'href="/billing/change/{prices["enterprise-month"].pk}/"' in page
    assert "/billing/change/" not in browser.get(f"/billing/checkout/{prices['premium-month'].pk}/").text


def test_another_plan_can_begin_when_the_running_one_ends(browser: Client, prices: Any, ana: User):
    subscription = subscribe(ana, prices["premium-month"])
    price = prices["enterprise-month"]
    page = browser.get(f"/billing/checkout/{price.pk}/?replaces=1")
    assert "if it renews, you are charged then; if it is paid once, you pay now" in text_of(page)
    form = {"way": f"{price.pk}:subscription", "payer_email": "a@b.example", "nonce": "n"}
    assert browser.post(f"/billing/checkout/{price.pk}/?replaces=1", form).status_code == 302
    assert state.orders[0].starts_at == subscription.paid_until


def test_what_is_paid_now_and_begins_later_is_not_called_unpaid(browser: Client, prices: Any, ana: User):
    begins = subscribe(ana, prices["premium-month"]).paid_until
    assert begins
    price = prices["enterprise-month"]
    form = {"way": f"{price.pk}:prepaid", "payer_email": "", "nonce": "n"}
    browser.post(f"/billing/checkout/{price.pk}/?replaces=1", form)
    key = Purchase.objects.get().key
    paid = payment(price, "s2-p1", begins, begins + 30 * DAY, paid_at=timezone.now())
    fields: Any = {"kind": "prepaid", "anchor": begins, "payments": (paid,), "cancels_at": begins + 30 * DAY}
    state.snapshots[key] = bought(ana, price, "s2", at=timezone.now(), **fields)
    words = text_of(browser.get(f"/billing/return/{key}/"))
    assert "It is paid: Enterprise begins on" in words
    assert "Nothing is paid yet" not in words


def test_a_gateway_that_is_silent_is_a_sentence(browser: Client, prices: Any):
    price = prices["premium-month"]
    form = filled(browser, price)
    state.error = GatewayUnavailable("away")
    refused = browser.post(f"/billing/checkout/{price.pk}/", form)
    assert refused.status_code == 503
    assert "The payment service does not answer. Nothing was changed." in text_of(refused)


def test_what_is_not_for_sale_cannot_be_bought(browser: Client, prices: Any):
    price = prices["premium-month"]
    Price.objects.filter(pk=price.pk).update(is_for_sale=False)
    assert browser.get(f"/billing/checkout/{price.pk}/").status_code == 404
    assert browser.get("/billing/checkout/999999/").status_code == 404


# --- Coming back ------------------------------------------------------------------------------------------------------


def begun(browser: Client, price: Price, kind: str = "subscription") -> Purchase:
    browser.post(f"/billing/checkout/{price.pk}/", filled(browser, price, kind))
    return Purchase.objects.latest("pk")


def test_coming_back_unpaid_grants_nothing(browser: Client, prices: Any, ana: User):
    purchase = begun(browser, prices["premium-month"])
    page = browser.get(f"/billing/return/{purchase.key}/")
    words = text_of(page)
    assert "Nothing is paid yet" in words
    assert "to an hour" in words
    assert f'hx-get="/billing/return/{purchase.key}/?tries=1"' in page.text
    assert f'href="/billing/pay/{purchase.key}/"' in page.text
    assert entitlements_of(ana.pk).plan == "free"


def test_coming_back_asks_the_gateway_and_shows_the_plan(browser: Client, prices: Any, ana: User):
    purchase = begun(browser, prices["premium-month"])
    state.snapshots[purchase.key] = bought(ana, prices["premium-month"], at=timezone.now())
    page = browser.get(f"/billing/return/{purchase.key}/")
    assert "You have Premium now" in text_of(page)
    assert "hx-get" not in page.text.partition('id="outcome"')[2]
    assert entitlements_of(ana.pk).plan == "premium"


def test_the_page_waits_longer_each_time_and_stops_after_an_hour(browser: Client, prices: Any):
    purchase = begun(browser, prices["premium-month"])

    def waits(tries: int) -> str:
        fragment = browser.get(f"/billing/return/{purchase.key}/?tries={tries}", headers={"HX-Request": "true"})
        assert "<html" not in fragment.text
        found = re.search(r"load delay:(\d+)s", fragment.text)
        return found[1] if found else ""

    assert [waits(tries) for tries in (0, 5, 20, 70)] == ["2", "15", "60", ""]


@pytest.mark.parametrize(
    ("action", "said"),
    [("confirm", "Your bank wants you to confirm the payment"), ("voucher", "One step is left: pay the voucher")],
)
def test_a_payment_that_waits_says_what_is_to_be_done(browser: Client, prices: Any, ana: User, action: Any, said: str):
    price = prices["premium-month"]
    purchase = begun(browser, price)
    now = timezone.now()
    waiting = payment(
        *(price, "s1-p1", now, now + 30 * DAY),
        status="pending",
        paid_at=None,
        action=action,
        action_url="https://pay.test/act",
        action_code="00020126-pix" if action == "voucher" else "",
        expires_at=now + 3 * DAY,
    )
    state.snapshots[purchase.key] = bought(ana, price, at=now, status="pending", payments=(waiting,))
    for address in (f"/billing/return/{purchase.key}/", "/billing/"):
        page = browser.get(address)
        assert 'href="https://pay.test/act"' in page.text
        assert "To be paid by" in text_of(page)
        assert ("00020126-pix" in page.text) == (action == "voucher")
    page = browser.get(f"/billing/return/{purchase.key}/")
    assert said in text_of(page)
    assert "See your plan" in text_of(page)
    assert entitlements_of(ana.pk).plan == "free"


def test_a_second_purchase_says_that_it_is_given_back(browser: Client, prices: Any, ana: User):
    purchase = begun(browser, prices["premium-month"])
    subscribe(ana, prices["premium-month"], reference="other")
    Purchase.objects.filter(pk=purchase.pk).update(closed_at=None)
    state.snapshots[purchase.key] = bought(ana, prices["enterprise-month"], "s2", at=timezone.now())
    Purchase.objects.filter(pk=purchase.pk).update(price=prices["enterprise-month"])
    page = browser.get(f"/billing/return/{purchase.key}/")
    assert "You had a plan already" in text_of(page)


def test_another_member_s_pages_do_not_exist(browser: Client, prices: Any, ana: User, bo: User):
    purchase = begun(browser, prices["premium-month"])
    subscribe(ana, prices["premium-month"])
    paid = Payment.objects.get()
    other = browser_of(bo)
    for address in (
        f"/billing/pay/{purchase.key}/",
        f"/billing/return/{purchase.key}/",
        f"/billing/refund/{paid.pk}/",
    ):
        assert other.get(address).status_code == 404, address
    assert other.post(f"/billing/refund/{paid.pk}/", {"reason": "mine"}).status_code == 404
    assert "20.00" not in text_of(other.get("/billing/payments/"))


@pytest.mark.parametrize("address", ["/billing/", "/usage/", "/usage/csv/", "/billing/payments/", "/billing/cancel/"])
def test_a_visitor_logs_in_first(catalog: None, address: str):
    assert Client().get(address).headers["Location"].startswith("/accounts/login/?next=")


# --- One's own plan ---------------------------------------------------------------------------------------------------


def test_a_member_on_free_is_shown_where_more_is(browser: Client, prices: Any):
    page = browser.get("/billing/")
    assert "The plan everybody has." in text_of(page)
    assert 'href="/pricing/"' in page.text


def test_a_subscriber_sees_the_next_payment_and_what_was_paid(browser: Client, prices: Any, ana: User):
    subscribe(ana, prices["premium-month"])
    words = text_of(browser.get("/billing/")).replace("\xa0", " ")
    assert "Next payment" in words
    assert words.count("20.00 USD") == 2  # the next one, and the one that was made
    assert "These are receipts, not fiscal invoices." in words
    assert "Change to Enterprise" in words


def test_cancelling_keeps_the_plan_to_the_end_of_what_is_paid(browser: Client, prices: Any, ana: User):
    subscribe(ana, prices["premium-month"])
    assert "You keep Premium until" in text_of(browser.get("/billing/cancel/"))
    page = browser.post("/billing/cancel/", follow=True)
    assert "Cancelled. You are charged nothing more." in text_of(page)
    assert "You keep Premium until" in text_of(page)
    assert entitlements_of(ana.pk).plan == "premium"
    resumed = browser.post("/billing/resume/", follow=True)
    assert "Your subscription goes on." in text_of(resumed)
    assert account_of(ana.pk).subscriptions.get().renews


def test_a_cancellation_that_the_gateway_does_not_know_yet_is_one(browser: Client, prices: Any, ana: User):
    subscribe(ana, prices["premium-month"])
    state.error = GatewayUnavailable("away")
    page = text_of(browser.post("/billing/cancel/", follow=True))
    assert "Cancelled. The payment service has not confirmed it yet" in page
    assert "You keep Premium until" in page
    assert "Next payment" not in page
    assert browser.get("/billing/cancel/").status_code == 302  # there is nothing left to cancel
    assert not browser.get("/api/v1/subscription").json()["renews"]
    state.error = None
    task = GatewayTask.objects.get()
    task.reopen()
    assert outbox.do_task(task)
    assert "Resume" in text_of(browser.get("/billing/"))


def test_cancelling_twice_is_no_error_of_ours(browser: Client, prices: Any, ana: User):
    subscribe(ana, prices["premium-month"])
    browser.post("/billing/cancel/")
    again = browser.post("/billing/cancel/", follow=True)
    assert again.redirect_chain == [("/billing/", 302)]
    assert "Nothing more is charged." in text_of(again)
    assert [call[0] for call in state.calls].count("cancel_at_period_end") == 1


def test_an_upgrade_shows_what_it_costs_and_charges_that(browser: Client, prices: Any, ana: User):
    subscribe(ana, prices["premium-month"], at=timezone.now() - 3 * DAY)
    address = f"/billing/change/{prices['enterprise-month'].pk}/"
    yearly = text_of(browser.get(f"/billing/change/{prices['premium-year'].pk}/"))
    assert "a new period begins then" in yearly
    page = browser.get(address)
    assert "for the rest of the running period" in text_of(page)
    assert "7.00 USD" in text_of(page).replace("\xa0", " ")
    assert entitlements_of(ana.pk).plan == "premium"
    form = signed(page)
    assert "Changed. It counts from now on." in text_of(browser.post(address, form, follow=True))
    assert entitlements_of(ana.pk).plan == "enterprise"
    browser.post(address, form)
    assert browser.get(address).headers["Location"] == "/billing/"  # the way back in the browser
    assert [call[0] for call in state.calls] == ["change_price"]


def signed(page: Any) -> dict[str, str]:
    found = re.search(r'name="signed" value="([^"]+)"', page.text)
    assert found
    return {"signed": found[1]}


def test_a_change_that_could_not_be_looked_at_in_time_is_not_said_to_wait(
    browser: Client, prices: Any, ana: User, monkeypatch: pytest.MonkeyPatch
):
    subscribe(ana, prices["premium-month"])
    address = f"/billing/change/{prices['enterprise-month'].pk}/"
    form = signed(browser.get(address))

    def silent(*_asked: Any) -> None:
        raise GatewayUnavailable("slow")

    monkeypatch.setattr(FakeGateway, "fetch", silent)
    page = browser.post(address, form, follow=True)
    assert "The payment service is slow." in text_of(page)


def test_nobody_chooses_what_a_change_costs(browser: Client, prices: Any, ana: User, bo: User):
    subscribe(ana, prices["premium-month"])
    subscribe(bo, prices["premium-month"], reference="s2")
    address = f"/billing/change/{prices['enterprise-month'].pk}/"
    of_ana, of_bo = signed(browser.get(address)), signed(browser_of(bo).get(address))
    for form in (of_bo, {"signed": of_ana["signed"][:-1]}, {}):
        assert browser.post(address, form).headers["Location"] == address
    yearly = f"/billing/change/{prices['premium-year'].pk}/"
    assert browser.post(yearly, of_ana).headers["Location"] == yearly
    assert state.calls == []


def test_a_downgrade_waits_for_the_end_of_what_is_paid(browser: Client, prices: Any, ana: User):
    subscribe(ana, prices["enterprise-month"])
    address = f"/billing/change/{prices['premium-month'].pk}/"
    page = browser.get(address)
    assert "Nothing is charged before." in text_of(page)
    assert "Planned. It changes on" in text_of(browser.post(address, signed(page), follow=True))
    assert entitlements_of(ana.pk).plan == "enterprise"
    assert [call[0] for call in state.calls] == ["change_price_at_period_end"]


def test_a_planned_change_is_shown_and_not_offered_again(browser: Client, prices: Any, ana: User):
    subscribe(ana, prices["enterprise-month"], next_price_reference=prices["premium-month"].reference)
    words = text_of(browser.get("/billing/"))
    assert "It changes to Premium on" in words
    assert f"/billing/change/{prices['premium-month'].pk}/" not in browser.get("/billing/").text
    assert "Keep Enterprise" in words
    words = text_of(browser.post("/billing/resume/", follow=True))
    assert "Your subscription goes on." in words
    assert "It changes to" not in words


def test_what_cannot_be_done_to_a_subscription_is_said_on_the_page_of_the_plan(browser: Client, prices: Any, ana: User):
    for address in ("/billing/resume/", "/billing/payment-method/", f"/billing/change/{prices['premium-month'].pk}/"):
        answer = browser.post(address, follow=True)
        assert answer.redirect_chain[-1] == ("/billing/", 302)
        assert "You have no subscription that could be changed." in text_of(answer)
    subscribe(ana, prices["premium-month"])
    state.error = GatewayUnavailable()
    answer = browser.get(f"/billing/change/{prices['enterprise-month'].pk}/", follow=True)
    assert "The payment service does not answer. Nothing was changed." in text_of(answer)


def test_a_subscription_that_is_paused_or_not_paid_yet_can_be_cancelled(browser: Client, prices: Any, ana: User):
    price = prices["premium-month"]
    apply(bought(ana, price, at=timezone.now(), status="pending", payments=()))
    assert "Cancel the purchase" in text_of(browser.get("/billing/"))
    assert "Cancel the purchase? Nothing is paid yet" in text_of(browser.get("/billing/cancel/"))
    subscribe(ana, price)
    apply(change("s1", status="paused"))
    assert 'href="/billing/cancel/"' in browser.get("/billing/").text
    assert "Nothing more is charged. What you paid for" in text_of(browser.get("/billing/cancel/"))


def test_a_payment_that_is_on_its_way_is_told_of_before_another_is_begun(browser: Client, prices: Any, ana: User):
    price, now = prices["premium-month"], timezone.now()
    voucher = payment(price, "s1-p1", now, now + 30 * DAY, status="pending", paid_at=None, action="voucher")
    address = f"/billing/checkout/{price.pk}/"
    assert "is still waiting" not in text_of(browser.get(address))
    apply(bought(ana, price, at=now, kind="prepaid", status="pending", payments=(voucher,)))
    assert "A payment for Premium is still waiting." in text_of(browser.get(address))


def test_only_what_was_paid_has_a_receipt(browser: Client, prices: Any, ana: User):
    price, now = prices["premium-month"], timezone.now()
    periods = [(now - 31 * DAY, now - DAY), (now - DAY, now + 29 * DAY)]
    paid, failed = (payment(price, f"s1-p{n}", *period) for n, period in enumerate(periods))
    failed = replace(failed, status="failed", paid_at=None, receipt_url="https://pay.test/invoice")
    apply(bought(ana, price, at=periods[0][0], payments=(replace(paid, receipt_url="https://pay.test/r"), failed)))
    page = browser.get("/billing/payments/").text
    assert "https://pay.test/r" in page
    assert "https://pay.test/invoice" not in page


def test_an_overdue_payment_says_what_to_do_and_until_when(browser: Client, prices: Any, ana: User, at: Any):
    begun_at = timezone.now() - 31 * DAY
    subscribe(ana, prices["premium-month"], at=begun_at)
    renew("s1", status="failed")
    snapshot = state.snapshots["s1"]
    unpaid = snapshot.payments[-1]
    due = replace(unpaid, action="pay", action_url="https://pay.test/invoice")
    apply(change("s1", payments=(*snapshot.payments[:-1], due)))
    page = browser.get("/billing/")
    words = text_of(page)
    assert "The last renewal is not paid. You keep your plan until" in words
    assert "Pay now" in words
    assert 'href="https://pay.test/invoice"' in page.text
    assert "/billing/change/" not in page.text
    assert "Due since" in words
    assert "Next payment" not in words


def test_a_disputed_payment_freezes_the_plan_and_says_so(browser: Client, prices: Any, ana: User):
    price = prices["premium-month"]
    now = timezone.now()
    disputed = payment(price, "s1-p1", now, now + 30 * DAY, dispute="open")
    apply(bought(ana, price, at=now, payments=(disputed,)))
    page = browser.get("/billing/")
    assert "A payment is disputed with your bank." in text_of(page)
    assert '<span class="badge badge-danger">disputed' in page.text
    assert "/billing/refund/" not in page.text


def test_a_granted_plan_says_who_gave_it(browser: Client, prices: Any, ana: User):
    BillingAccount.objects.update_or_create(user=ana, defaults={"plan": Plan.objects.get(key="enterprise")})
    assert "Whoever runs this site gave it to you." in text_of(browser.get("/billing/"))


def test_the_page_to_change_how_one_pays_is_the_gateway_s(browser: Client, prices: Any, ana: User):
    subscribe(ana, prices["premium-month"])
    assert browser.post("/billing/payment-method/").headers["Refresh"] == "0; url=https://pay.test/method/s1"


def test_a_refund_is_asked_for_once_with_a_reason(browser: Client, prices: Any, ana: User):
    subscribe(ana, prices["premium-month"])
    paid = Payment.objects.get()
    assert browser.post(f"/billing/refund/{paid.pk}/", {"reason": ""}).status_code == 422
    browser.post(f"/billing/refund/{paid.pk}/", {"reason": "It was a mistake."})
    browser.post(f"/billing/refund/{paid.pk}/", {"reason": "Another one."})
    paid.refresh_from_db()
    assert (paid.refund_reason, paid.refunded_minor) == ("It was a mistake.", 0)
    assert "refund asked for" in text_of(browser.get("/billing/"))


def test_packs_are_listed_with_what_is_left_and_until_when(browser: Client, prices: Any, ana: User):
    pack = prices["pack-5000"]
    purchase = begun(browser, pack, "pack")
    state.snapshots[purchase.key] = bought(ana, pack, at=timezone.now())
    assert "Your credits are here" in text_of(browser.get(f"/billing/return/{purchase.key}/"))
    words = text_of(browser.get("/billing/"))
    assert "5,000 credits left" in words
    assert "Good until" in words
    assert "And 5,000 in packs" in browser.get("/").content.decode()


def test_a_notice_of_the_allowance_is_shown_until_it_was_seen(browser: Client, ana: User):
    AllowanceNotice.objects.create(period=current_period(account_of(ana.pk)), percent=80)
    assert "80% of your credits are used." in text_of(browser.get("/billing/"))
    assert "80%" not in text_of(browser.post("/billing/seen/", follow=True))


def test_payments_are_listed_a_page_at_a_time(browser: Client, prices: Any, ana: User):
    price = prices["premium-month"]
    start = timezone.now() - 400 * DAY
    times = [(start + n * 28 * DAY, start + (n + 1) * 28 * DAY) for n in range(14)]
    many = tuple(payment(price, f"s1-p{n}", *time) for n, time in enumerate(times))
    apply(bought(ana, price, at=start, payments=many))
    first = browser.get("/billing/payments/")
    older = re.search(r"\?before=(\d+)", first.text)
    assert older
    second = browser.get(f"/billing/payments/?before={older[1]}")
    assert [page.text.count('class="row payment"') for page in (first, second)] == [12, 2]
    assert browser.get("/billing/payments/?before=nonsense").status_code == 200


# --- Usage ------------------------------------------------------------------------------------------------------------


def use(user: User, micros: int, label: str = "scripted") -> None:
    key = uuid4()
    metering.reserve(user.pk, key, amount_micros=micros)
    metering.settle(key, cost_micros=micros, usage=Usage(100, 20), label=label)


def test_usage_is_shown_by_day_and_by_model(browser: Client, ana: User):
    use(ana, 1_500)
    use(ana, 2_500, "other-model")
    page = browser.get("/usage/")
    words = text_of(page)
    assert "Credits 4 " in words
    assert words.index("other-model") < words.index("scripted")  # what cost most stands first
    assert page.text.count('class="usage-bar"') == 1
    assert "Credits by day. The highest bar is 4." in words


def test_usage_of_another_is_not_shown(browser: Client, bo: User):
    use(bo, 1_500)
    assert "Nothing was used in this month." in text_of(browser.get("/usage/"))


def test_a_month_there_is_not_is_this_month(browser: Client):
    for month in ("1999-01", "nonsense", "2026-13", ""):
        assert browser.get(f"/usage/?month={month}").status_code == 200


def test_usage_can_be_downloaded_and_is_no_formula(browser: Client, ana: User):
    use(ana, 1_500, "=HYPERLINK(1)")
    answer = browser.get("/usage/csv/")
    today = timezone.now().date().isoformat()
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.text.splitlines()[1:] == [f"{today},'=HYPERLINK(1),1,100,20,1.500"]


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\ta", "\ra"])
def test_no_cell_is_a_formula(text: str):
    assert safe_cell(text) == f"'{text}"
    assert safe_cell("gpt") == "gpt"


# --- A way on ---------------------------------------------------------------------------------------------------------


def test_credits_that_are_used_up_lead_to_plans_and_packs(browser: Client, ana: User):
    use(ana, 500_000)
    refused = browser.post(f"/c/{uuid4()}/", {"text": "Hello", "turn_id": str(uuid4()), "model": "scripted"})
    assert refused.status_code == 402
    ways = r'data-ways>[^<]*<a[^>]* href="/pricing/"'
    assert re.search(ways, refused.text)
    assert not re.search(ways, browser.get("/").text)


# --- The API ----------------------------------------------------------------------------------------------------------


def test_the_api_lists_plans_with_their_prices_for_anybody(prices: Any, api: Any):
    found = api().get("/api/v1/plans").json()
    assert [plan["key"] for plan in found["results"]] == ["free", "premium", "enterprise"]
    assert [price["interval"] for price in found["results"][1]["prices"]] == ["month", "year"]
    assert [pack["credits"] for pack in found["packs"]] == [5_000, 20_000]


def test_the_api_says_how_one_stands(prices: Any, api: Any, ana: User):
    assert api(ana).get("/api/v1/subscription").json()["status"] == "default"
    subscription = subscribe(ana, prices["premium-month"])
    found = api(ana).get("/api/v1/subscription").json()
    assert (found["plan"], found["status"], found["renews"]) == ("premium", "active", True)
    assert found["next_price"]["amount_minor"] == 2_000
    assert subscription.paid_until is not None
    assert dt.datetime.fromisoformat(found["paid_until"]) == subscription.paid_until
    assert api().get("/api/v1/subscription").status_code == 401


def test_the_api_sums_up_usage_by_day_or_by_model(api: Any, ana: User):
    use(ana, 1_500)
    use(ana, 2_500, "other-model")
    today = timezone.now().date().isoformat()
    (day,) = api(ana).get("/api/v1/usage").json()["results"]
    assert (day["day"], day["answers"], day["credits"]) == (today, 2, 4.0)
    models = api(ana).get(f"/api/v1/usage?group_by=model&from={today}&to={today}").json()["results"]
    assert [(model["model"], model["cost_micros"]) for model in models] == [("other-model", 2_500), ("scripted", 1_500)]


@pytest.mark.parametrize(
    "query", ["from=2020-01-01&to=2026-01-01", "from=x", "group_by=part", "from=2026-02-02&to=2026-02-01"]
)
def test_the_api_refuses_questions_that_are_too_long_or_mean_nothing(api: Any, ana: User, query: str):
    refused = api(ana).get(f"/api/v1/usage?{query}")
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid")


LONG_ID = "9" * 30


@pytest.mark.parametrize(
    "address",
    [
        "/billing/pay/a%00b/",
        "/billing/return/a%00b/",
        f"/billing/refund/{LONG_ID}/",
        f"/billing/change/{LONG_ID}/",
        f"/billing/checkout/{LONG_ID}/",
    ],
)
def test_an_address_that_no_row_can_have_is_not_found(browser: Client, address: str):
    """PostgreSQL takes no NUL in a text, SQLite no number of more than 64 bits, and both say so with an error."""
    assert browser.get(address).status_code == 404
    assert browser.post(address).status_code in (404, 405)


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/Los_Angeles"])
@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
def test_nothing_was_used_on_the_first_and_the_last_day_there_is(api: Any, ana: User, zone: str, day: str):
    User.objects.filter(pk=ana.pk).update(time_zone=zone)
    answered = api(ana).get(f"/api/v1/usage?from={day}&to={day}")
    assert (answered.status_code, answered.json()["results"]) == (200, [])
