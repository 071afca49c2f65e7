"""What an operator sees and does in the admin: once for each form, with a reason, and with a row that says so."""

import csv
import datetime as dt
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import User
from billing import figures, purchasing, reconciliation, staff
from billing.entitlements import account_of, entitlements_of
from billing.errors import RefundUnderway, UnknownCoupon
from billing.gateways.base import GatewayRefused, GatewayUnavailable, Reference
from billing.gateways.stripe.client import asking
from billing.inbox import note
from billing.models import (
    MAX_ATTEMPTS,
    BillingAccount,
    Coupon,
    ExchangeRate,
    GatewayEvent,
    GatewayTask,
    Letter,
    Payment,
    Plan,
    Price,
    Reversal,
    StaffAct,
    Subscription,
    UsagePeriod,
)
from billing.subscriptions import apply
from core.alerts import Alert
from tests.billing.fake_gateway import bought, change, state
from tests.billing.together import together

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

START = dt.datetime(2027, 1, 31, 9, 30, tzinfo=dt.UTC)
FEBRUARY = dt.datetime(2027, 2, 28, 9, 30, tzinfo=dt.UTC)
HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)


@pytest.fixture
def operator(olga: User) -> Client:
    client = Client(HTTP_ACCEPT_LANGUAGE="en")
    client.force_login(olga)
    return client


@pytest.fixture
def paid(ana: User, prices: Any, at: Any) -> Payment:
    """Ana has paid 20 USD for Premium an hour ago."""
    at(START)
    apply(bought(ana, prices["premium-month"], at=START))
    at(START + HOUR)
    return Payment.objects.get()


def act_url(row: Any, act: str) -> str:
    return f"/admin/billing/{row._meta.model_name}/{row.pk}/act/{act}/"


def form_of(client: Client, row: Any, act: str, **fields: Any) -> dict[str, Any]:
    """Return what the act's page has in its form, and `fields`."""
    answer = client.get(act_url(row, act))
    assert answer.status_code == 200
    form = answer.context["form"]
    return {name: form[name].value() for name in form.fields if form[name].value() is not None} | fields


def send(client: Client, row: Any, act: str, **fields: Any) -> str:
    """Open the act's page, send its form, and return what is said then."""
    answer = client.post(act_url(row, act), form_of(client, row, act, **fields), follow=True)
    assert answer.status_code == 200
    return said_in(answer)


def said_in(answer: Any) -> str:
    return " ".join(str(message) for message in answer.context["messages"])


def calls() -> list[str]:
    return [call[0] for call in state.calls]


def plan(user: Any) -> str:
    return entitlements_of(user.pk).plan


# Money back


def test_a_refund_shows_what_was_used_and_what_is_left(operator: Client, paid: Payment):
    UsagePeriod.objects.filter(kind="paid").update(used_micros=1_234_000)
    page = operator.get(act_url(paid, "refund")).content.decode()
    assert "Credits used since" in page
    assert "1,234" in page
    assert "20.00" in page
    assert "All of it ends the paid time at once" in page


def test_a_full_refund_ends_the_plan_and_is_written_down(operator: Client, paid: Payment, ana: User, olga: User):
    assert send(operator, paid, "refund", reason="It was a mistake.") == "Done."
    paid.refresh_from_db()
    assert (paid.refunded_minor, plan(ana)) == (2_000, "free")
    act = StaffAct.objects.get()
    assert (act.act, act.by, act.reason, act.account) == ("refund", olga, "It was a mistake.", account_of(ana.pk))
    assert act.details == {"payment": paid.pk, "amount_minor": 2_000, "currency": "USD"}


def test_a_partial_refund_changes_nothing_but_the_money(operator: Client, paid: Payment, ana: User):
    send(operator, paid, "refund", reason="A bad day.", amount="5.50")
    paid.refresh_from_db()
    assert (paid.refunded_minor, plan(ana)) == (550, "premium")
    assert operator.get(act_url(paid, "refund")).context["form"]["amount"].value() == 14.5


def test_a_form_that_is_sent_twice_is_one_refund(operator: Client, paid: Payment):
    form = form_of(operator, paid, "refund", reason="Twice.", amount="5")
    answers = [operator.post(act_url(paid, "refund"), form, follow=True) for _ in range(2)]
    assert [said_in(answer) for answer in answers] == ["Done.", "That was done already."]
    assert calls() == ["refund"]
    assert StaffAct.objects.count() == 1


def test_two_at_once_with_the_same_form_are_one_refund(paid: Payment, olga: User):
    once = partial(staff.refund, paid, by=olga, reason="Twice.", amount_minor=500, key="form-1")
    assert all(isinstance(found, bool) for found in together([once] * 4))
    assert (calls(), StaffAct.objects.count()) == (["refund"], 1)


def test_two_operators_at_once_are_one_refund(paid: Payment, olga: User):
    state.error = GatewayUnavailable()  # so that the first one is still on its way
    mine = [partial(staff.refund, paid, by=olga, reason="r", amount_minor=500, key=f"form-{number}") for number in "12"]
    found = together(mine)
    assert sorted(type(one).__name__ for one in found) == ["RefundUnderway", "bool"]
    assert (GatewayTask.objects.count(), StaffAct.objects.count()) == (1, 1)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"amount": "20.01", "reason": "r"}, "amount"),
        ({"amount": "0", "reason": "r"}, "amount"),
        ({"amount": "-1", "reason": "r"}, "amount"),
        ({"amount": "1.005", "reason": "r"}, "amount"),
        ({"amount": "", "reason": "r"}, "amount"),
        ({"amount": "5", "reason": " "}, "reason"),
    ],
)
def test_a_refund_needs_a_reason_and_an_amount_that_is_left(operator: Client, paid: Payment, fields: Any, field: str):
    answer = operator.post(act_url(paid, "refund"), form_of(operator, paid, "refund") | fields)
    assert answer.status_code == 422
    assert field in answer.context["form"].errors
    assert (calls(), StaffAct.objects.count()) == ([], 0)


def test_a_refund_that_is_on_its_way_is_waited_for(operator: Client, paid: Payment, olga: User, at: Any):
    state.error = GatewayUnavailable()
    assert send(operator, paid, "refund", reason="Slow.", amount="5").startswith("Written down.")
    answer = operator.post(act_url(paid, "refund"), form_of(operator, paid, "refund", reason="Again.", amount="5"))
    assert answer.status_code == 422
    assert "on its way" in answer.content.decode()
    with pytest.raises(RefundUnderway):
        staff.refund(paid, by=olga, reason="Again.", amount_minor=500)
    assert StaffAct.objects.count() == 1
    state.error = None
    at(START + 2 * HOUR)
    reconciliation.work_off()
    paid.refresh_from_db()
    assert paid.refunded_minor == 500


def test_what_the_gateway_was_told_since_it_was_asked_is_not_left(paid: Payment, ana: User, at: Any):
    fields = {"gateway": "fake", "act": "refund", "reference": paid.reference, "amount_minor": 500}
    GatewayTask.objects.create(account=account_of(ana.pk), key="k", done_at=timezone.now(), **fields)
    assert staff.refundable_minor(paid) == 1_500
    apply(change("s1"))  # and it says that nothing was given back
    assert staff.refundable_minor(Payment.objects.get()) == 2_000


def test_a_requested_refund_is_refused_and_its_payer_is_mailed_why(operator: Client, paid: Payment, ana: User):
    assert operator.get(act_url(paid, "refuse-refund")).status_code == 302  # nobody has asked
    purchasing.request_refund(ana, paid.pk, "Too slow.")
    page = operator.get(act_url(paid, "refuse-refund")).content.decode()
    assert "Too slow." in page
    assert "is mailed this" in page
    assert send(operator, paid, "refuse-refund", reason="You have used all of it.") == "Done."
    paid.refresh_from_db()
    assert (paid.refund_answer, paid.waits_for_answer, calls()) == ("You have used all of it.", False, [])
    assert [letter.kind for letter in Letter.objects.filter(payment=paid, kind="no_refund")] == ["no_refund"]
    assert operator.get(act_url(paid, "refuse-refund")).status_code == 302  # it was answered
    member = Client()
    member.force_login(ana)
    assert "pagado; reembolso rechazado" in member.get("/billing/").content.decode()


def test_a_refusal_is_mailed(paid: Payment, ana: User, olga: User, monkeypatch: pytest.MonkeyPatch):
    sent: list[Any] = []
    from billing import letters

    monkeypatch.setattr(letters.send_mail, "delay", lambda **mail: sent.append(mail))
    Letter.objects.all().delete()
    purchasing.request_refund(ana, paid.pk, "Too slow.")
    staff.refuse_refund(paid, by=olga, reason="You have used all of it.")
    letters.send_due()
    [mail] = sent
    assert mail["to"] == [ana.email]
    assert "You have used all of it." in mail["body"]
    assert "20,00" in mail["body"]


def test_a_refund_answers_the_request(operator: Client, paid: Payment, ana: User):
    purchasing.request_refund(ana, paid.pk, "Too slow.")
    assert "Refunds asked for" in operator.get("/admin/billing/payment/dashboard/").content.decode()
    listed = operator.get("/admin/billing/payment/?open=refund").content.decode()
    assert "1 payment" in listed
    send(operator, paid, "refund", reason="Yes.")
    assert "0 payments" in operator.get("/admin/billing/payment/?open=refund").content.decode()


# Subscriptions


def test_an_operator_cancels_at_the_end_of_what_is_paid(operator: Client, paid: Payment, ana: User):
    subscription = paid.subscription
    assert send(operator, subscription, "cancel", reason="They asked by phone.") == "Done."
    subscription.refresh_from_db()
    assert (subscription.cancels_at, plan(ana)) == (FEBRUARY, "premium")
    assert operator.get(act_url(subscription, "cancel")).status_code == 302
    assert StaffAct.objects.get().act == "cancel_at_period_end"


def test_an_operator_cancels_at_once(operator: Client, paid: Payment):
    subscription = paid.subscription
    form = form_of(operator, subscription, "cancel-now", reason="Abuse.")
    for _ in range(2):
        operator.post(act_url(subscription, "cancel-now"), form)
    subscription.refresh_from_db()
    assert (subscription.status, calls()) == ("ended", ["cancel_now"])


def test_a_resync_heals_and_says_when_the_gateway_is_silent(operator: Client, paid: Payment, ana: User):
    subscription = paid.subscription
    change("s1", status="ended", cancels_at=START + HOUR)
    state.error = GatewayUnavailable()
    answer = operator.post(act_url(subscription, "resync"), form_of(operator, subscription, "resync", reason="Lost."))
    assert answer.status_code == 422
    assert "does not answer" in answer.content.decode()
    state.error = GatewayRefused("nonsense")
    answer = operator.post(act_url(subscription, "resync"), form_of(operator, subscription, "resync", reason="Lost."))
    assert "refused that" in answer.content.decode()
    state.error = None
    assert send(operator, subscription, "resync", reason="Lost.") == "Done."
    subscription.refresh_from_db()
    assert subscription.status == "ended"
    assert StaffAct.objects.filter(act="resync").count() == 3


def test_a_gateway_the_site_no_longer_has_is_a_sentence(operator: Client, paid: Payment, settings: Any):
    settings.GATEWAYS = {}
    form = form_of(operator, paid.subscription, "resync", reason="Lost.")
    answer = operator.post(act_url(paid.subscription, "resync"), form)
    assert (answer.status_code, "does not answer" in answer.content.decode()) == (422, True)


# Grants


def test_a_plan_is_granted_until_and_taken_back(operator: Client, ana: User, olga: User, prices: Any):
    account, until = account_of(ana.pk), timezone.now() + 30 * DAY
    best = Plan.objects.get(key="enterprise")
    fields = {"plan": best.pk, "until_0": f"{until:%Y-%m-%d}", "until_1": "10:00:00", "reason": "Press."}
    assert send(operator, account, "grant", **fields) == "Done."
    account.refresh_from_db()
    assert (account.plan, account.granted_by, account.grant_reason) == (best, olga, "Press.")
    assert (account.grant_until and account.grant_until.date()) == until.date()
    assert plan(ana) == "enterprise"
    page = operator.get(f"/admin/billing/billingaccount/{account.pk}/change/").content.decode()
    for shown in ("Enterprise (granted)", "Press.", "100,000", "olga@example.com"):
        assert shown in page
    assert send(operator, account, "revoke", reason="Over.") == "Done."
    assert plan(ana) == "free"
    assert list(StaffAct.objects.order_by("pk").values_list("act", flat=True)) == ["grant", "revoke"]


def test_an_old_form_that_comes_again_does_not_undo_what_came_after(ana: User, olga: User, prices: Any):
    account, premium, best = account_of(ana.pk), Plan.objects.get(key="premium"), Plan.objects.get(key="enterprise")
    for granted, key in ((premium, "1"), (best, "2"), (premium, "1")):
        staff.grant_plan(account, granted, by=olga, reason="Press.", key=key)
    assert (plan(ana), StaffAct.objects.count()) == ("enterprise", 2)
    price = prices["premium-month"]
    made = [staff.replace_price(price, 2_500, by=olga, reason="Dearer.", key="3") for _ in range(2)]
    assert made[0] == made[1]
    assert Price.objects.filter(plan=premium, interval="month").count() == 2


def test_a_grant_ends_in_the_future(operator: Client, ana: User, prices: Any):
    account = account_of(ana.pk)
    fields = {"plan": Plan.objects.get(key="premium").pk, "until_0": "2020-01-01", "until_1": "10:00:00"}
    answer = operator.post(act_url(account, "grant"), form_of(operator, account, "grant", reason="r") | fields)
    assert answer.context["form"].errors.keys() == {"until"}
    assert plan(ana) == "free"


def test_somebody_without_an_account_gets_one_and_then_a_plan(operator: Client, ana: User, prices: Any):
    assert not BillingAccount.objects.filter(user=ana).exists()
    assert operator.post("/admin/billing/billingaccount/add/", {"user": ana.email}).status_code == 302
    account = BillingAccount.objects.get(user=ana)
    send(operator, account, "grant", plan=Plan.objects.get(key="premium").pk, reason="Press.")
    assert plan(ana) == "premium"


def test_an_accounts_page_shows_what_is_paid_used_and_overdrawn_and_makes_no_row(
    operator: Client, paid: Payment, ana: User, bo: User
):
    UsagePeriod.objects.filter(kind="paid").update(used_micros=20_500_000)
    page = operator.get(f"/admin/billing/billingaccount/{account_of(ana.pk).pk}/change/").content.decode()
    for shown in ("Premium (paid)", "20,500 used", "of 20,000", '<div class="readonly">500</div>', "Feb 28, 2027"):
        assert shown in page
    operator.get(f"/admin/billing/billingaccount/{account_of(bo.pk).pk}/change/")
    assert not UsagePeriod.objects.filter(account__user=bo).exists()


# What gateways were told and are to be told


def test_what_was_given_up_is_tried_again(operator: Client, paid: Payment, olga: User):
    event = note(Reference("fake", "subscription", "s1"), event_id="evt", event_type="lost")
    GatewayEvent.objects.filter(pk=event.pk).update(done_at=START, error="Silent", attempts=MAX_ATTEMPTS)
    change("s1", status="ended")
    assert "1 gateway" in operator.get("/admin/billing/gatewayevent/?state=given-up").content.decode()
    form = form_of(operator, event, "try-again", reason="It is back.")
    answers = [operator.post(act_url(event, "try-again"), form, follow=True) for _ in range(2)]
    assert [said_in(answer) for answer in answers] == ["Done.", "That was done already."]
    event.refresh_from_db()
    assert (event.error, event.done_at is not None, event.attempts) == ("", True, 1)
    assert Subscription.objects.get().status == "ended"
    act = StaffAct.objects.get()
    assert (act.act, act.account, act.details["error"]) == ("retry_event", None, "Silent")
    assert operator.get(act_url(event, "try-again")).status_code == 302


def test_a_task_that_failed_is_tried_again_and_may_fail_again(operator: Client, paid: Payment):
    state.error = GatewayRefused("no")
    send(operator, paid, "refund", reason="Try.")
    task = GatewayTask.objects.get()
    assert task.error == "refused: no"
    assert send(operator, task, "try-again", reason="Again.").startswith("It did not work")
    state.error = None
    assert send(operator, task, "try-again", reason="Mended.") == "Done."
    paid.refresh_from_db()
    assert paid.refunded_minor == 2_000
    assert [act.act for act in StaffAct.objects.order_by("pk")] == ["refund", "retry_task", "retry_task"]


# Prices


def test_a_price_is_replaced_once_and_who_bought_it_goes_on(operator: Client, paid: Payment, prices: Any):
    old = prices["premium-month"]
    form = form_of(operator, old, "replace", amount_minor=2_500, reason="Inflation.")
    for _ in range(2):
        operator.post(act_url(old, "replace"), form)
    old.refresh_from_db()
    [new] = Price.objects.filter(plan=old.plan, interval="month", is_for_sale=True)
    assert (old.is_for_sale, old.amount_minor, new.amount_minor, new.currency) == (False, 2_000, 2_500, "USD")
    assert paid.subscription.price == old
    assert StaffAct.objects.get().reason == "Inflation."


def test_a_new_price_is_made_at_stripe_at_once(operator: Client, shop: Any, catalog: None):
    premium = Plan.objects.get(key="premium")
    body = {"plan": premium.pk, "gateway": "stripe", "currency": "eur", "amount_minor": 1_900, "interval": "month"}
    body |= {"reference": "premium-eur", "is_for_sale": "on", "pack_credits": 0, "pack_months": 0}
    assert operator.post("/admin/billing/price/add/", body).status_code == 302
    [made] = shop.objects("price")
    assert (made["lookup_key"], made["unit_amount"], made["currency"]) == ("premium-eur", 1_900, "eur")
    price = Price.objects.get()
    send(operator, price, "replace", amount_minor=2_100, reason="Dearer.")
    assert [one["unit_amount"] for one in shop.objects("price")] == [1_900, 2_100]


def test_a_price_that_stripe_does_not_take_is_kept_with_a_word(operator: Client, shop: Any, settings: Any):
    settings.SIMULATED_STRIPE_URL = "http://127.0.0.1:9"
    body = {"plan": Plan.objects.get(key="premium").pk, "gateway": "stripe", "currency": "EUR", "amount_minor": 1_900}
    body |= {"interval": "month", "reference": "p", "is_for_sale": "on", "pack_credits": 0, "pack_months": 0}
    said = said_in(operator.post("/admin/billing/price/add/", body, follow=True))
    assert "Stripe does not have this price yet" in said
    assert Price.objects.count() == 1


def test_rates_are_the_operators(operator: Client):
    body = {"currency": "brl", "since": "2027-01-01", "rate": "0.19"}
    assert operator.post("/admin/billing/exchangerate/add/", body).status_code == 302
    assert (
        operator.post("/admin/billing/exchangerate/add/", body | {"rate": "0", "since": "2027-01-02"}).status_code
        == 200
    )
    assert [(rate.currency, str(rate.rate)) for rate in ExchangeRate.objects.all()] == [("BRL", "0.1900000000")]


# Who may


@pytest.fixture
def clerk(catalog: None) -> User:
    """Somebody who may look at everything of billing, and do nothing."""
    user = User.objects.create_user("clerk@example.com", "una clave larga", locale="en", is_staff=True)
    views = Permission.objects.filter(content_type__app_label="billing", codename__startswith="view_")
    user.user_permissions.set(views)
    return user


ACTS: list[tuple[Callable[[Payment], Any], str]] = [
    (lambda paid: paid, "refund"),
    (lambda paid: paid, "document"),
    (lambda paid: paid.subscription, "cancel-now"),
    (lambda paid: paid.subscription, "resync"),
    (lambda paid: paid.subscription.account, "grant"),
    (lambda paid: paid.price, "replace"),
]


def test_who_may_only_look_can_do_nothing(paid: Payment, clerk: User, ana: User):
    client, member = Client(), Client()
    client.force_login(clerk)
    member.force_login(ana)
    for row_of, act in ACTS:
        row = row_of(paid)
        page = client.get(f"/admin/billing/{row._meta.model_name}/{row.pk}/change/").content.decode()
        assert "/act/" not in page
        assert client.get(act_url(row, act)).status_code == 403
        assert client.post(act_url(row, act), {"reason": "r", "key": "k", "amount": "5"}).status_code == 403
        assert member.post(act_url(row, act), {"reason": "r", "key": "k"}).status_code == 302  # to log in
    assert (calls(), StaffAct.objects.count()) == ([], 0)


@pytest.mark.parametrize("page", ["dashboard", "export"])
def test_the_dashboard_is_for_those_who_may_see_payments(ana: User, clerk: User, page: str):
    client = Client()
    client.force_login(clerk)
    assert client.get(f"/admin/billing/payment/{page}/").status_code == 200
    clerk.user_permissions.clear()
    assert client.get(f"/admin/billing/payment/{page}/").status_code == 403
    client.force_login(ana)
    assert client.get(f"/admin/billing/payment/{page}/").status_code == 302


def test_an_act_that_does_not_exist_is_not_found(operator: Client, paid: Payment):
    assert operator.get(act_url(paid, "nothing")).status_code == 404
    paid.pk = 999_999
    assert operator.get(act_url(paid, "refund")).status_code == 404


# Looking


def test_each_row_can_be_read_and_none_changed_or_deleted(operator: Client, paid: Payment, olga: User):
    staff.cancel_for(paid.subscription, by=olga, reason="r")
    rows: list[Any] = [paid, paid.subscription, paid.subscription.account]
    rows += [UsagePeriod.objects.get(), Letter.objects.first(), StaffAct.objects.get(), GatewayTask.objects.get()]
    for row in rows:
        place = f"/admin/billing/{row._meta.model_name}/{row.pk}"
        assert [operator.get(f"{place}/{page}/").status_code for page in ("change", "history")] == [200, 200]
        assert operator.post(f"{place}/change/", {"reason": "other"}).status_code == 403
        assert operator.post(f"{place}/delete/", {"post": "yes"}).status_code == 403


def test_each_field_has_a_name_in_every_language():
    """A name that was made of the field's own is English everywhere."""
    nameless = []
    for model, page in admin.site._registry.items():
        if model._meta.app_label == "billing":
            shown = {*page.list_display, *(page.fields or ())}
            fields = [field for field in model._meta.concrete_fields if field.name in shown]
            nameless += [str(field) for field in fields if isinstance(field.verbose_name, str)]
    assert nameless == ["billing.Reservation.id"]


def test_credits_are_written_as_the_language_does(operator: Client, paid: Payment, olga: User):
    olga.locale = "pt-br"
    olga.save()
    assert ">20.000<" in operator.get("/admin/billing/usageperiod/").text


TABLES = (
    *("billingaccount", "subscription", "payment", "usageperiod", "usagerecord", "reservation", "gatewayevent"),
    *("gatewaytask", "letter", "staffact"),
)


def test_no_list_counts_a_whole_table_or_asks_for_each_row(operator: Client, paid: Payment, prices: Any):
    def statements(table: str) -> list[str]:
        with CaptureQueriesContext(connection) as captured:
            assert operator.get(f"/admin/billing/{table}/").status_code == 200
        return [one["sql"] for one in captured]

    few = {table: statements(table) for table in TABLES}
    for number in range(8):
        user = User.objects.create_user(f"user{number}@example.com", "una clave larga", locale="en")
        apply(bought(user, prices["premium-month"], f"more{number}", at=START))
    for table in TABLES:
        many, mine = statements(table), f'"billing_{table}"'
        assert len(many) == len(few[table]) <= 12
        counts = [sql for sql in many if "COUNT(" in sql and mine in sql]
        assert counts
        assert all("LIMIT 10000" in sql for sql in counts)
        assert not any("DISTINCT" in sql and mine in sql for sql in many)


def test_rows_are_found_by_whose_they_are_and_by_name(operator: Client, paid: Payment):
    number = str(paid.subscription.account_id)
    for table, names in (
        ("payment", ("ana@", "s1-p1", number)),
        ("subscription", ("ana@", "s1")),
        ("usageperiod", ("ana@",)),
        ("billingaccount", ("ana@", number)),
    ):
        for query in (*names, "bo@"):
            page = operator.get(f"/admin/billing/{table}/", {"q": query}).content.decode()
            assert ("ana@example.com" in page) == (query != "bo@")


@pytest.mark.parametrize(
    ("mode", "words"), [("simulated", "Simulated payments"), ("test", "Test payments"), ("live", "")]
)
def test_a_ribbon_says_on_every_page_that_no_money_moves(
    operator: Client, gateway: Any, monkeypatch: pytest.MonkeyPatch, mode: str, words: str
):
    from tests.billing.fake_gateway import FakeGateway

    monkeypatch.setattr(FakeGateway, "payment_mode", mode)
    for path in ("", "billing/payment/", "billing/payment/dashboard/", "accounts/user/"):
        page = operator.get(f"/admin/{path}").content.decode()
        assert ("payments-ribbon" in page) == bool(words)
        assert words in page


# The dashboard, and the file


def test_the_dashboard_shows_the_month_and_what_is_to_be_done(operator: Client, paid: Payment, at: Any):
    note(Reference("fake", "subscription", "s1"), event_id="evt", event_type="t")
    Payment.objects.update(dispute="open")
    page = operator.get("/admin/billing/payment/dashboard/").content.decode()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)).replace("\N{NO-BREAK SPACE}", " ")
    for shown in ("January 2027 (until now)", "MRR 0.00 USD", "Disputes 1", "Notifications not handled 1", "20.00 USD"):
        assert shown in text
    Payment.objects.update(dispute="")
    at(FEBRUARY)
    page = operator.get("/admin/billing/payment/dashboard/", {"month": "2027-01"}).content.decode()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)).replace("\N{NO-BREAK SPACE}", " ")
    assert "MRR 20.00 USD 0.00 USD when the month began" in text
    assert "until now" not in text


def test_the_dashboard_has_every_alert_about_money(operator: Client, paid: Payment, monkeypatch: pytest.MonkeyPatch):
    subjects = ("both:1:s", "closed:fake:s", "double:fake:s", "ledger", "refund:1", "fake:task:k", "openai:timeout")
    found = [Alert(subject, f"It is {subject}.", 0.0, 0.0) for subject in subjects]
    monkeypatch.setattr("billing.admin.dashboard.list_alerts", lambda: found)
    page = operator.get("/admin/billing/payment/dashboard/").content.decode()
    assert [subject for subject in subjects if f"It is {subject}." in page] == list(subjects[:-1])


@pytest.mark.parametrize("month", ["", "2027-13", "nonsense", "9999-12", "0001-01", "2027-01-01", "\x00"])
def test_a_month_that_cannot_be_is_the_running_one(operator: Client, paid: Payment, month: str):
    answer = operator.get("/admin/billing/payment/dashboard/", {"month": month})
    assert answer.status_code == 200
    assert answer.context["shown_month"] == "January 2027"


def test_the_months_that_can_be_chosen_go_back_to_the_first_payment(operator: Client, paid: Payment, at: Any):
    at(dt.datetime(2027, 3, 2, tzinfo=dt.UTC))
    months = operator.get("/admin/billing/payment/dashboard/").context["months"]
    assert [value for value, _name in months] == ["2027-03", "2027-02", "2027-01"]


def test_the_months_payments_are_a_file_that_no_spreadsheet_runs(operator: Client, paid: Payment, ana: User):
    Payment.objects.update(tax_minor=350, tax_country="AR", tax_id='=HYPERLINK("x")', fiscal_number="+1-2")
    answer = operator.get("/admin/billing/payment/export/", {"month": "2027-01"})
    assert answer["Content-Disposition"] == 'attachment; filename="payments-2027-01.csv"'
    head, row = csv.reader(b"".join(answer).decode().splitlines())
    found = dict(zip(head, row, strict=True))
    assert (found["gross"], found["tax"], found["net"], found["currency"]) == ("20.00", "3.50", "16.50", "USD")
    assert (found["tax_id"], found["fiscal_number"], found["country"]) == ('\'=HYPERLINK("x")', "'+1-2", "AR")
    assert (found["payer"], found["what"], found["reference"]) == (ana.email, "Premium", "s1-p1")
    assert b"".join(operator.get("/admin/billing/payment/export/", {"month": "2026-12"})).count(b"\n") == 1
    Reversal.objects.create(payment=paid, kind="refund", amount_minor=750, at=dt.datetime(2026, 12, 31, tzinfo=dt.UTC))
    answer = operator.get("/admin/billing/payment/export/", {"month": "2026-12"})
    head, row = csv.reader(b"".join(answer).decode().splitlines())
    found = dict(zip(head, row, strict=True))
    assert (found["kind"], found["gross"], found["tax"], found["net"]) == ("refund", "-7.50", "", "")
    assert (found["at"], found["payer"], found["reference"]) == ("2026-12-31T00:00:00+00:00", ana.email, "s1-p1")


def test_a_fiscal_document_is_attached_and_its_payer_sees_it(operator: Client, paid: Payment, ana: User):
    for url in ("javascript:alert(1)", "http://example.com/1"):
        form = form_of(operator, paid, "document", number="A-1", url=url)
        assert operator.post(act_url(paid, "document"), form).status_code == 422
    send(operator, paid, "document", number="A-0001", url="https://example.com/a-1.pdf")
    member = Client()
    member.force_login(ana)
    page = member.get("/billing/").content.decode()
    assert 'href="https://example.com/a-1.pdf"' in page
    assert "A-0001" in page
    assert StaffAct.objects.get().details["number"] == "A-0001"
    purchasing.close_account(ana.pk, account_of(ana.pk))
    paid.refresh_from_db()
    assert (paid.fiscal_number, paid.fiscal_url) == ("A-0001", "")


# Coupons


def test_a_coupon_makes_the_checkout_cheaper_and_counts_in_mrr(operator: Client, shop: Any, ana: User):
    with asking() as client:
        made = client.v1.coupons.create({"percent_off": 50, "duration": "forever"}).id
    body = {"code": " half ", "gateway": "stripe", "reference": made, "is_active": "on"}
    assert operator.post("/admin/billing/coupon/add/", body).status_code == 302
    fields = {"gateway": "stripe", "currency": "USD", "amount_minor": 2_000, "interval": "month"}
    price = Price.objects.create(plan=Plan.objects.get(key="premium"), **fields)
    purchase = purchasing.start_checkout(
        ana, price.pk, "subscription", return_url="https://chat.example.com/", coupon_code="Half"
    )
    shop.control("pay", session=purchase.reference_id, how="ok")
    purchasing.return_from_checkout(ana, purchase.key)
    assert plan(ana) == "premium"
    assert Payment.objects.get().amount_minor == 1_000
    assert figures.standings_at(timezone.now()).monthly == {"USD": 10}


def test_a_code_that_is_not_valid_is_a_sentence_and_nothing_begins(ana: User, prices: Any, gateway: Any):
    Coupon.objects.create(code="OTHER", gateway="stripe", reference="x")
    Coupon.objects.create(code="OLD", gateway="fake", reference="x", is_active=False)
    for code in ("OTHER", "OLD", "NONE", "x" * 50):
        with pytest.raises(UnknownCoupon):
            purchasing.start_checkout(
                ana, prices["premium-month"].pk, "subscription", return_url="https://x.test/", coupon_code=code
            )
    assert state.orders == []


def test_the_checkout_asks_for_a_code_where_there_is_one(ana: User, prices: Any, gateway: Any):
    member, url = Client(), f"/billing/checkout/{prices['premium-month'].pk}/"
    member.force_login(ana)
    assert 'name="coupon"' not in member.get(url).content.decode()
    Coupon.objects.create(code="HALF", gateway="fake", reference="promo_1")
    page = member.get(url)
    assert 'name="coupon"' in page.content.decode()
    nonce = page.context["form"]["nonce"].value()
    form = {"way": page.context["chosen"], "nonce": nonce, "payer_email": "payer@example.com", "coupon": "nothing"}
    assert member.post(url, form).status_code == 422
    assert member.post(url, form | {"coupon": "half"}).status_code == 302
    assert [order.discount_reference for order in state.orders] == ["promo_1"]


def test_codes_are_not_guessed(ana: User, prices: Any, gateway: Any):
    Coupon.objects.create(code="HALF", gateway="fake", reference="promo_1")
    member, url = Client(HTTP_ACCEPT_LANGUAGE="en"), f"/billing/checkout/{prices['premium-month'].pk}/"
    member.force_login(ana)
    form = {"way": member.get(url).context["chosen"], "nonce": "n", "payer_email": "payer@example.com"}
    assert {member.post(url, form | {"coupon": f"guess-{number}"}).status_code for number in range(5)} == {422}
    refused = member.post(url, form | {"coupon": "half"})
    assert (refused.status_code, state.orders) == (429, [])
    assert "in 1 second" in refused.content.decode() or "en 1 segundo" in refused.content.decode()
    assert member.post(url, form | {"coupon": ""}).status_code == 302  # who has no code waits for nothing
