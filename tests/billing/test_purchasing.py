"""Buying, changing, cancelling, resuming, and asking for one's money back."""

import datetime as dt
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.utils import timezone

from billing import inbox, outbox, purchasing, reconciliation, staff
from billing.entitlements import account_of, allowance_of, current_period, entitlements_of
from billing.errors import (
    AlreadySubscribed,
    GatewayDeclined,
    GatewaySilent,
    NotForSale,
    NothingToRefund,
    NotSubscribed,
    OtherCurrency,
    PaymentOverdue,
)
from billing.gateways.base import GatewayRefused, GatewayUnavailable, Notification, Reference, deadline
from billing.models import (
    MAX_ATTEMPTS,
    BillingAccount,
    GatewayEvent,
    GatewayTask,
    Payment,
    Plan,
    Price,
    Purchase,
    StaffAct,
    Subscription,
)
from billing.standing import standing_of
from billing.subscriptions import apply, reference_of
from core import alerts
from core.alerts import list_alerts
from core.errors import Conflict, NotFound
from tests.billing.fake_gateway import FakeGateway, bought, change, change_payment, payment, renew, state
from tests.billing.together import together

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

START = dt.datetime(2027, 1, 31, 9, 30, tzinfo=dt.UTC)
FEBRUARY = dt.datetime(2027, 2, 28, 9, 30, tzinfo=dt.UTC)
MARCH = dt.datetime(2027, 3, 31, 9, 30, tzinfo=dt.UTC)
DAY, HOUR, MINUTE = dt.timedelta(days=1), dt.timedelta(hours=1), dt.timedelta(minutes=1)
RETURN = "https://tertulia.test/billing/"


def plan(user: Any) -> str:
    return entitlements_of(user.pk).plan


def checkout(user: Any, price: Price, **fields: Any) -> Purchase:
    return purchasing.start_checkout(user, price.pk, fields.pop("kind", "subscription"), return_url=RETURN, **fields)


def calls() -> list[str]:
    return [call[0] for call in state.calls]


@pytest.fixture
def premium(ana: Any, prices: Any, at: Any) -> Any:
    at(START)
    apply(bought(ana, prices["premium-month"], at=START))
    at(START + HOUR)
    return ana


def test_a_checkout_is_ordered_once_for_each_key(ana: Any, bo: Any, prices: Any):
    first = checkout(ana, prices["premium-month"], key="form-1")
    assert checkout(ana, prices["premium-month"], key="form-1") == first
    [order] = state.orders
    assert (order.amount_minor, order.currency, order.interval, order.kind) == (2_000, "USD", "month", "subscription")
    assert (order.account_id, order.email, first.url) == (account_of(ana.pk).pk, ana.email, "https://pay.test/form-1")
    with pytest.raises(Conflict):
        checkout(bo, prices["premium-month"], key="form-1")


def test_a_checkout_that_somebody_died_on_is_gone_on_with(ana: Any, prices: Any):
    state.error = GatewayUnavailable()
    with pytest.raises(GatewaySilent):
        checkout(ana, prices["premium-month"], key="form-1")
    state.error = None
    assert checkout(ana, prices["premium-month"], key="form-1").url
    assert Purchase.objects.count() == 1


def test_a_new_checkout_ends_the_one_before(ana: Any, prices: Any):
    checkout(ana, prices["premium-month"], key="tab-1")
    checkout(ana, prices["premium-year"], key="tab-2")
    assert state.calls == [("start_checkout", "tab-1"), ("expire_checkout", "tab-1"), ("start_checkout", "tab-2")]
    assert [one.key for one in Purchase.objects.filter(closed_at=None)] == ["tab-2"]


def test_what_a_first_tab_bought_is_seen_before_the_second_one_buys(ana: Any, prices: Any, at: Any):
    at(START)
    checkout(ana, prices["premium-month"], key="tab-1")
    bought(ana, prices["premium-month"], "tab-1", at=START)
    with pytest.raises(AlreadySubscribed):
        checkout(ana, prices["premium-month"], key="tab-2")
    assert plan(ana) == "premium"


def test_a_checkout_is_refused_while_something_is_live_with_the_date_it_ends(premium: Any, prices: Any, at: Any):
    with pytest.raises(AlreadySubscribed) as refused:
        checkout(premium, prices["enterprise-month"])
    assert refused.value.until is None
    apply(change("s1", cancels_at=FEBRUARY))
    with pytest.raises(AlreadySubscribed) as refused:
        checkout(premium, prices["enterprise-month"])
    assert refused.value.until == FEBRUARY
    at(FEBRUARY)
    assert checkout(premium, prices["enterprise-month"]).url


def test_what_is_overdue_is_cancelled_and_voided_before_anything_else_is_bought(premium: Any, prices: Any, at: Any):
    at(FEBRUARY + DAY)
    renew("s1", status="failed")
    apply(change("s1"))
    with pytest.raises(PaymentOverdue):
        checkout(premium, prices["premium-month"])
    assert purchasing.cancel(premium)
    assert calls() == ["cancel_now"]
    assert [one.status for one in Payment.objects.order_by("reference")] == ["paid", "void"]
    assert plan(premium) == "free"
    assert checkout(premium, prices["premium-month"]).url


def test_a_change_of_gateway_begins_when_the_paid_time_ends(premium: Any, prices: Any, at: Any):
    purchase = checkout(premium, prices["premium-month"], replaces=True)
    assert (purchase.starts_at, state.orders[0].starts_at) == (FEBRUARY, FEBRUARY)
    apply(bought(premium, prices["premium-month"], "s2", at=START, anchor=FEBRUARY, payments=()))
    reconciliation.work_off()
    assert state.snapshots["s1"].cancels_at == FEBRUARY
    assert plan(premium) == "premium"
    at(FEBRUARY)
    apply(change("s2", payments=(payment(prices["premium-month"], "s2-p1", FEBRUARY, MARCH),)))
    assert plan(premium) == "premium"
    assert "refund" not in calls()


def test_packs_are_bought_beside_a_subscription(premium: Any, prices: Any):
    assert checkout(premium, prices["pack-5000"], kind="pack").url


def test_what_is_not_for_sale_is_not_sold(ana: Any, prices: Any, settings: Any):
    Price.objects.filter(pk=prices["premium-year"].pk).update(is_for_sale=False)
    for price, kind in ((prices["premium-year"], "subscription"), (prices["pack-5000"], "subscription")):
        with pytest.raises(NotForSale):
            checkout(ana, price, kind=kind)
    with pytest.raises(NotForSale):
        checkout(ana, prices["premium-month"], kind="pack")
    settings.GATEWAYS = {}
    with pytest.raises(NotForSale):
        checkout(ana, prices["premium-month"])
    assert purchasing.list_for_sale() == []


def test_a_customer_keeps_one_currency_at_a_gateway(premium: Any, prices: Any, at: Any):
    at(FEBRUARY + 8 * DAY)
    apply(change("s1", status="ended"))
    fields = {"plan": prices["premium-month"].plan, "gateway": "fake", "interval": "month", "amount_minor": 1}
    with pytest.raises(OtherCurrency):
        checkout(premium, Price.objects.create(currency="EUR", **fields))


@pytest.mark.parametrize("is_verified", [True, False])
def test_a_trial_is_for_a_confirmed_address_that_has_never_subscribed(
    ana: Any, prices: Any, at: Any, is_verified: bool
):
    Plan.objects.filter(key="premium").update(trial_days=14)
    EmailAddress.objects.create(user=ana, email=ana.email, verified=is_verified, primary=True)
    assert checkout(ana, prices["premium-month"]).trial_days == (14 if is_verified else 0)
    at(START)
    apply(bought(ana, prices["premium-month"], at=START, status="ended"))
    at(FEBRUARY + 8 * DAY)
    assert checkout(ana, prices["premium-month"]).trial_days == 0


def test_an_upgrade_is_previewed_and_counts_at_once(premium: Any, prices: Any, at: Any):
    planned = purchasing.preview_change(premium, prices["enterprise-month"].pk)
    assert planned.preview is not None
    purchasing.change(premium, prices["enterprise-month"].pk, planned.preview)
    assert plan(premium) == "enterprise"
    assert calls() == ["change_price"]


def test_a_downgrade_waits_for_the_end_of_what_is_paid(ana: Any, prices: Any, at: Any):
    at(START)
    apply(bought(ana, prices["enterprise-month"], at=START))
    planned = purchasing.preview_change(ana, prices["premium-month"].pk)
    assert (planned.preview, planned.starts_at) == (None, FEBRUARY)
    purchasing.change(ana, prices["premium-month"].pk)
    assert plan(ana) == "enterprise"
    assert calls() == ["change_price_at_period_end"]


def test_changes_are_refused_with_nothing_done(ana: Any, premium: Any, bo: Any, prices: Any, at: Any):
    with pytest.raises(NotSubscribed):
        purchasing.change(bo, prices["premium-month"].pk)
    with pytest.raises(NotForSale):
        purchasing.change(premium, prices["premium-month"].pk)
    state.error = GatewayRefused("no")
    with pytest.raises(GatewayDeclined):
        purchasing.change(premium, prices["enterprise-month"].pk)
    state.error = None
    at(FEBRUARY)
    with pytest.raises(PaymentOverdue):
        purchasing.change(premium, prices["enterprise-month"].pk)
    assert state.calls == []


def test_cancel_keeps_what_is_paid_and_resume_takes_it_back(premium: Any, at: Any):
    assert purchasing.cancel(premium)
    subscription = Subscription.objects.get()
    assert (subscription.cancels_at, subscription.access_until, plan(premium)) == (FEBRUARY, FEBRUARY, "premium")
    with pytest.raises(NotSubscribed):
        purchasing.cancel(premium)
    at(START + 2 * HOUR)
    assert purchasing.resume(premium)
    assert Subscription.objects.get().access_until == FEBRUARY + 7 * DAY
    with pytest.raises(NotSubscribed):
        purchasing.resume(premium)
    at(START + 3 * HOUR)
    assert purchasing.cancel(premium)
    assert calls() == ["cancel_at_period_end", "resume", "cancel_at_period_end"]


def test_a_cancellation_that_another_click_makes_is_seen_by_both(premium: Any, at: Any):
    subscription = Subscription.objects.get()
    key = f"cancel_at_period_end:{subscription.pk}:{subscription.observed_at.timestamp():.6f}"
    about = {"account": account_of(premium.pk), "gateway": "fake", "act": "cancel_at_period_end", "reference": "s1"}
    task = GatewayTask.objects.create(key=key, **about)
    assert task.claim()
    change("s1", cancels_at=FEBRUARY)  # the first click has told the gateway, and not asked it yet
    at(START + HOUR + MINUTE)
    task.finish("")
    assert purchasing.cancel(premium)
    assert Subscription.objects.get().cancels_at == FEBRUARY
    assert calls() == []


def test_who_changes_a_plan_sees_it_also_while_a_worker_is_at_it(premium: Any, prices: Any):
    price, subscription = prices["enterprise-month"], Subscription.objects.get()
    key = f"act:change:{subscription.pk}:{price.pk}:{(START + HOUR).timestamp():.0f}"
    taken = inbox.note(reference_of(subscription), event_id=key, event_type="act")
    assert taken.claim()
    assert purchasing.change(premium, price.pk).price_id == price.pk
    assert GatewayEvent.objects.get().done_at is None  # the worker's to finish


def test_a_planned_change_is_taken_back(ana: Any, prices: Any, at: Any):
    at(START)
    apply(bought(ana, prices["enterprise-month"], at=START, next_price_reference=prices["premium-month"].reference))
    at(START + HOUR)
    assert purchasing.resume(ana)
    assert Subscription.objects.get().next_price is None
    with pytest.raises(NotSubscribed):
        purchasing.resume(ana)


def test_what_waits_for_its_first_payment_can_be_given_up(ana: Any, prices: Any, at: Any):
    at(START)
    price = prices["premium-month"]
    refused = payment(price, "s1-p1", START, FEBRUARY, status="failed", paid_at=None)
    apply(bought(ana, price, at=START, status="pending", payments=(refused,)))
    at(START + HOUR)
    assert purchasing.cancel(ana)
    assert calls() == ["cancel_now"]
    assert Subscription.objects.get().status == "ended"
    with pytest.raises(NotSubscribed):
        purchasing.cancel(ana)


def test_nothing_waits_for_a_voucher_that_has_expired(ana: Any, prices: Any, at: Any):
    at(START)
    price = prices["premium-month"]
    voucher = payment(price, "s1-p1", START, FEBRUARY, status="pending", paid_at=None, action="voucher")
    apply(bought(ana, price, at=START, kind="prepaid", status="pending", payments=(voucher,)))
    assert standing_of(account_of(ana.pk)).status == "waiting"
    at(START + HOUR)
    apply(change("s1", payments=(replace(voucher, status="void"),)))
    assert standing_of(account_of(ana.pk)).status == "default"


def test_a_cancellation_at_a_silent_gateway_is_done_later(premium: Any, at: Any):
    state.error = GatewayUnavailable()
    assert not purchasing.cancel(premium)
    assert not purchasing.cancel(premium)
    state.error = None
    at(START + 2 * HOUR)
    reconciliation.work_off()
    assert calls() == ["cancel_at_period_end"]
    assert Subscription.objects.get().cancels_at == FEBRUARY


def test_a_worker_that_is_killed_leaves_its_task_to_the_next(premium: Any, at: Any, monkeypatch: Any):
    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(outbox, "_finish", die)
        with pytest.raises(KeyboardInterrupt):
            purchasing.cancel(premium)
    reconciliation.work_off()
    assert len(state.calls) == 1  # it is still somebody's
    at(START + HOUR + 2 * MINUTE)
    reconciliation.work_off()
    first, second = state.calls
    assert first == second  # with the same key: nothing more happens
    assert Subscription.objects.get().cancels_at == FEBRUARY


def test_a_task_is_done_by_one_of_many(premium: Any):
    account = account_of(premium.pk)
    task = GatewayTask.objects.create(account=account, gateway="fake", act="cancel_now", reference="s1", key="k")
    together([partial(outbox.do_task, GatewayTask.objects.get(pk=task.pk)) for _ in range(8)])
    assert calls() == ["cancel_now"]


def test_a_task_the_gateway_refuses_is_not_tried_again(premium: Any, at: Any):
    state.error = GatewayRefused("gone")
    with pytest.raises(GatewayDeclined):
        purchasing.cancel(premium)
    state.error = None
    at(START + 5 * DAY)
    reconciliation.work_off()
    assert state.calls == []
    assert GatewayTask.objects.get().error == "refused: gone"


# Notifications


def notification(event_id: str = "evt_1", reference: str = "s1") -> Notification:
    return Notification(event_id, "invoice.paid", Reference("fake", "subscription", reference))


@pytest.mark.parametrize("errand", ["event", "task"])
def test_what_kills_every_worker_is_given_up_and_the_operator_told(
    premium: Any, at: Any, monkeypatch: Any, errand: str
):
    def die(*_args: Any, **_fields: Any) -> None:
        raise SystemExit

    if errand == "event":
        inbox.receive("fake", notification())
        monkeypatch.setattr(inbox, "handle", die)
        do_due, rows = inbox.handle_due, GatewayEvent.objects
    else:
        about = {"account": account_of(premium.pk), "gateway": "fake", "act": "resume", "reference": "s1"}
        GatewayTask.objects.create(key="k", due_at=START, **about)
        monkeypatch.setattr(outbox, "_do", die)
        do_due, rows = outbox.do_due, GatewayTask.objects
    for number in range(MAX_ATTEMPTS):
        at(START + (number + 1) * HOUR)
        with pytest.raises(SystemExit):
            do_due()
    at(START + 100 * HOUR)
    do_due()
    assert rows.get().error == "nobody came to its end"
    alerts._thread.submit(list).result()  # those before are saved
    assert any(alert.subject.startswith(f"fake:{errand}") for alert in list_alerts())


def test_a_notification_is_kept_once_and_handled_once(ana: Any, prices: Any, at: Any):
    at(START)
    bought(ana, prices["premium-month"], at=START)
    together([partial(inbox.receive, "fake", notification()) for _ in range(8)])
    assert GatewayEvent.objects.count() == 1
    inbox.handle_due()
    assert plan(ana) == "premium"
    inbox.handle_due()
    assert GatewayEvent.objects.get().attempts == 1


def test_what_is_of_no_interest_leaves_nothing(ana: Any, gateway: Any):
    inbox.receive("fake", Notification("evt_1", "ping", None))
    assert not GatewayEvent.objects.exists()


def test_a_notification_about_what_a_silent_gateway_has_is_handled_later(ana: Any, prices: Any, at: Any):
    at(START)
    bought(ana, prices["premium-month"], at=START)
    inbox.receive("fake", notification())
    state.error = GatewayUnavailable()
    inbox.handle_due()
    assert "GatewayUnavailable" in GatewayEvent.objects.get().error
    state.error = None
    at(START + HOUR)
    inbox.handle_due()
    assert plan(ana) == "premium"


def test_a_notification_of_an_unknown_price_waits_for_the_operator(ana: Any, prices: Any, at: Any):
    at(START)
    bought(ana, prices["premium-month"], at=START)
    change("s1", price_reference="new")
    inbox.receive("fake", notification())
    inbox.handle_due()
    assert plan(ana) == "free"
    fields = {"gateway": "fake", "currency": "EUR", "amount_minor": 9, "interval": "month"}
    Price.objects.create(plan=prices["premium-month"].plan, reference="new", **fields)
    at(START + HOUR)
    inbox.handle_due()
    assert plan(ana) == "premium"


def test_many_notifications_of_one_thing_are_one_question(ana: Any, prices: Any, at: Any):
    asked = []
    at(START)
    bought(ana, prices["premium-month"], at=START)
    for number in range(20):
        inbox.receive("fake", notification(f"evt_{number}"))
    state.during_fetch = lambda: asked.append(1)
    at(START + MINUTE)
    inbox.handle_due()
    assert len(asked) == 1
    assert not GatewayEvent.objects.filter(done_at=None).exists()


def test_a_slower_answer_that_is_older_changes_nothing(premium: Any, at: Any):
    """Two workers ask; the one that asked first hears last."""
    slow = change("s1")
    at(START + 2 * HOUR)
    apply(change("s1", cancels_at=FEBRUARY))
    together([partial(apply, slow) for _ in range(4)])
    assert Subscription.objects.get().cancels_at == FEBRUARY


def test_a_purchase_that_is_heard_of_by_many_at_once_is_one(ana: Any, prices: Any, at: Any):
    at(START)
    snapshot = bought(ana, prices["premium-month"], at=START)
    account_of(ana.pk)
    answers = together([partial(apply, snapshot)] * 12 + [partial(entitlements_of, ana.pk)] * 4)
    assert not [answer for answer in answers if isinstance(answer, Exception)]
    assert Subscription.objects.count() == Payment.objects.count() == 1
    assert current_period(account_of(ana.pk)).allowance_micros == 20_000_000


def test_of_two_purchases_at_once_one_stays(ana: Any, prices: Any, at: Any):
    at(START)
    snapshots = [bought(ana, prices["premium-month"], name, at=START) for name in ("s1", "s2")]
    together([partial(apply, snapshot) for snapshot in snapshots])
    reconciliation.work_off()
    reconciliation.work_off()
    assert Subscription.objects.filter(is_double=True).count() == 1
    assert sorted(calls()) == ["cancel_now", "refund"]
    assert plan(ana) == "premium"


# What nobody told us


def test_lost_notifications_are_made_up_for(premium: Any, at: Any):
    at(FEBRUARY + HOUR)
    renew("s1")
    reconciliation.ask_about_expected()
    assert Subscription.objects.get().paid_until == MARCH


def test_a_checkout_nobody_came_back_from_is_asked_about(ana: Any, prices: Any, at: Any):
    at(START)
    checkout(ana, prices["premium-month"], key="tab")
    bought(ana, prices["premium-month"], "tab", at=START)
    at(START + HOUR)
    reconciliation.ask_about_expected()
    assert plan(ana) == "premium"
    assert Purchase.objects.get().closed_at is not None


def test_the_return_page_sees_what_was_bought(ana: Any, bo: Any, prices: Any, at: Any):
    at(START)
    checkout(ana, prices["premium-month"], key="tab")
    bought(ana, prices["premium-month"], "tab", at=START)
    assert purchasing.return_from_checkout(ana, "tab").closed_at is not None
    assert plan(ana) == "premium"
    with pytest.raises(NotFound):
        purchasing.return_from_checkout(bo, "tab")


def test_reconciliation_applies_what_is_alive_and_one_that_is_wrong_stops_no_other(
    ana: Any, bo: Any, prices: Any, at: Any
):
    at(START)
    bought(ana, prices["premium-month"], "wrong", at=START)
    change("wrong", price_reference="nobody's")
    bought(bo, prices["premium-month"], at=START)
    reconciliation.reconcile()
    assert (plan(ana), plan(bo)) == ("free", "premium")


def test_a_pack_that_was_refunded_while_the_site_was_away_pays_no_more(
    premium: Any, prices: Any, at: Any, monkeypatch: Any
):
    apply(bought(premium, prices["pack-5000"], "pack", at=START))
    change_payment("pack-p1", refunded_minor=600)
    monkeypatch.setattr(FakeGateway, "list_recent", lambda *_since: iter(()))  # too long ago, and it does not renew
    at(START + 5 * DAY)
    assert len(allowance_of(premium.pk).packs) == 1
    reconciliation.reconcile()
    assert allowance_of(premium.pk).packs == ()


def note_deadlines(monkeypatch: Any) -> list[float]:
    """Return a list of until when the gateway may take, each time it is asked from now on."""
    asked: list[float] = []
    ask = FakeGateway._ask

    def noted(gateway: FakeGateway) -> None:
        asked.append(deadline())
        ask(gateway)

    monkeypatch.setattr(FakeGateway, "_ask", noted)
    return asked


def test_a_request_waits_for_a_slow_gateway_once(premium: Any, prices: Any, at: Any, olga: Any, monkeypatch: Any):
    """All that it asks has one deadline, however much it asks."""
    asked = note_deadlines(monkeypatch)
    journeys = (
        partial(purchasing.change, premium, prices["enterprise-month"].pk),
        partial(purchasing.cancel, premium),
        partial(purchasing.resume, premium),
        partial(staff.cancel_for, Subscription.objects.get(), by=olga, reason="r"),
        partial(staff.refund, Payment.objects.earliest("pk"), by=olga, reason="r"),
    )
    for journey in journeys:
        at(timezone.now() + MINUTE)
        asked.clear()
        journey()
        assert len(asked) > 1
        assert len(set(asked)) == 1


def test_the_end_of_another_checkout_leaves_time_to_begin_one(ana: Any, prices: Any, at: Any, monkeypatch: Any):
    at(START)
    checkout(ana, prices["premium-month"])
    asked = note_deadlines(monkeypatch)
    checkout(ana, prices["premium-year"])
    ended, begun = asked[0], asked[-1]
    assert 4 < begun - ended < 6


def test_what_was_handled_long_ago_is_deleted(premium: Any, at: Any):
    inbox.receive("fake", notification())
    purchasing.cancel(premium)
    reconciliation.work_off()
    reconciliation.prune()
    assert GatewayEvent.objects.exists()
    at(START + 32 * DAY)
    reconciliation.prune()
    assert not GatewayEvent.objects.exists()
    assert not GatewayTask.objects.exists()


def test_what_nothing_is_expected_of_is_not_asked_about(premium: Any, prices: Any, at: Any):
    apply(bought(premium, prices["pack-5000"], "pack", at=START))
    asked: list[int] = []
    state.during_fetch = lambda: asked.append(1)
    at(START + DAY)
    reconciliation.ask_about_expected()
    assert asked == []


def test_a_paused_subscription_can_be_cancelled(premium: Any):
    apply(change("s1", status="paused"))
    assert plan(premium) == "premium"
    assert purchasing.cancel(premium)


# Money back, operators, going away


def test_a_disputed_payment_is_not_refunded_as_well(premium: Any, olga: Any, at: Any):
    apply(change("s1", payments=(replace(state.snapshots["s1"].payments[0], dispute="open"),)))
    paid = Payment.objects.get()
    for refund in (
        partial(staff.refund, paid, by=olga, reason=""),
        partial(purchasing.request_refund, premium, paid.pk, ""),
    ):
        with pytest.raises(NothingToRefund):
            refund()
    assert calls() == []
    apply(change("s1", payments=(replace(state.snapshots["s1"].payments[0], dispute="won"),)))
    assert staff.refund(paid, by=olga, reason="Friendly.")


def test_a_refund_is_asked_for_and_given_by_an_operator(premium: Any, bo: Any, olga: Any, at: Any):
    paid = Payment.objects.get()
    with pytest.raises(NotFound):
        purchasing.request_refund(bo, paid.pk, "mine?")
    purchasing.request_refund(premium, paid.pk, "Not what I expected.")
    paid.refresh_from_db()
    assert (paid.refund_reason, plan(premium)) == ("Not what I expected.", "premium")
    at(START + DAY)
    assert staff.refund(paid, by=olga, reason="Friendly.")
    assert plan(premium) == "free"
    act = StaffAct.objects.get()
    assert (act.act, act.by, act.reason, act.details["amount_minor"]) == ("refund", olga, "Friendly.", 2_000)
    for again in (
        partial(staff.refund, paid, by=olga, reason=""),
        partial(purchasing.request_refund, premium, paid.pk, ""),
    ):
        with pytest.raises(NothingToRefund):
            again()


def test_a_granted_plan_counts_at_once_and_until_its_end(ana: Any, olga: Any, prices: Any, at: Any):
    at(START)
    account = account_of(ana.pk)
    staff.grant_plan(account, prices["premium-month"].plan, by=olga, reason="Press.", until=MARCH)
    assert (plan(ana), current_period(account_of(ana.pk)).allowance_micros) == ("premium", 20_000_000)
    staff.grant_plan(account, prices["enterprise-month"].plan, by=olga, reason="More.", until=MARCH)
    assert current_period(account_of(ana.pk)).allowance_micros == 100_000_000
    staff.grant_plan(account, None, by=olga, reason="Over.")
    assert plan(ana) == "free"
    staff.grant_plan(account, prices["enterprise-month"].plan, by=olga, reason="Again.", until=MARCH)
    assert current_period(account_of(ana.pk)).allowance_micros == 100_000_000
    at(MARCH)
    assert plan(ana) == "free"
    assert [act.act for act in StaffAct.objects.order_by("pk")] == ["grant", "grant", "revoke", "grant"]


def test_who_goes_away_is_charged_no_more_and_is_forgotten(premium: Any, prices: Any):
    Payment.objects.update(tax_id="20-12345678-9", receipt_url="https://pay.test/r")
    checkout(premium, prices["pack-5000"], kind="pack", key="pack")
    account = account_of(premium.pk)
    premium.delete()
    reconciliation.work_off()
    assert calls() == ["start_checkout", "cancel_now", "expire_checkout", "forget_customer"]
    account.refresh_from_db()
    paid = Payment.objects.get()
    assert (account.user, paid.amount_minor, paid.tax_id, paid.receipt_url) == (None, 2_000, "", "")
    assert BillingAccount.objects.filter(pk=account.pk).exists()
