"""Processes that die in the middle of money's work, and several that do the same at once: it is done once, whole."""

import copy
import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from pytest_django import Settings

from billing import inbox, outbox, purchasing, reconciliation, staff
from billing.entitlements import access_of, account_of
from billing.gateways import get_gateway
from billing.models import GatewayEvent, GatewayTask, Payment, StaffAct, Subscription, UsagePeriod
from billing.subscriptions import add_task
from tests.billing.chaos import RETURN, World
from tests.billing.together import together

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

CLAIM = dt.timedelta(seconds=61)
"""After this, what somebody died with is anybody's."""

at_each_gateway = pytest.mark.parametrize("gateway", ["stripe", "mercadopago"])


def plan(world: World) -> str:
    return access_of(account_of(world.user.pk)).plan.key


def buy(world: World, gateway: str) -> None:
    assert world.open_checkout(gateway, "premium", "month")
    world.pay_tab(0)
    world.deliver(gateway, "all")
    reconciliation.work_off()
    assert plan(world) == "premium"


def die_again_and_again(world: World, act: Callable[[], Any], *, step: int, first: int = 0) -> int:
    """Do it until nobody dies of it: the first time at the first point, then always further on. Return how often
    somebody died."""
    deaths, points = 0, first
    while True:
        before = world.deaths.count
        with world.deaths.after(points):
            act()
        if world.deaths.count == before:
            return deaths
        deaths, points = deaths + 1, points + step
        assert deaths < 400
        world.pass_time(CLAIM)


@at_each_gateway
def test_a_worker_that_dies_at_any_point_of_a_notification_leaves_it_to_the_next(world: World, gateway: str) -> None:
    """Between the answer and what is written of it, between a row and its commit: everything is done once."""
    world.open_checkout(gateway, "premium", "month")
    world.pay_tab(0)
    world.deliver(gateway, "all")
    deaths = die_again_and_again(world, reconciliation.work_off, step=5)
    assert deaths > 5
    assert plan(world) == "premium"
    assert (Subscription.objects.count(), Payment.objects.count()) == (1, 1)
    assert [period.allowance_micros for period in UsagePeriod.objects.filter(kind="paid")] == [20_000_000]
    world.settle()
    world.judge()


@at_each_gateway
def test_whoever_dies_between_the_answer_and_the_row_has_written_nothing(
    world: World, gateway: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    buy(world, gateway)
    world.refund(0, 100, at_the_gateway=True)
    world.deliver(gateway, "all")
    before = Subscription.objects.get().observed_at
    apply = "billing.subscriptions.apply"
    with monkeypatch.context() as dying:
        dying.setattr(apply, lambda _snapshot: world.deaths.die())
        with world.deaths.after(None):
            reconciliation.work_off()
    assert world.deaths.count == 1
    assert Subscription.objects.get().observed_at == before
    assert GatewayEvent.objects.filter(done_at=None).exists()
    assert plan(world) == "premium"
    world.pass_time(CLAIM)
    reconciliation.work_off()
    assert plan(world) == "free"


@at_each_gateway
@pytest.mark.parametrize("what", ["cancel", "refund"])
def test_whoever_dies_between_the_gateways_change_and_our_row_changes_it_once(
    world: World, gateway: str, what: str
) -> None:
    buy(world, gateway)
    payment = Payment.objects.get()
    if what == "cancel":
        die_again_and_again(world, world.cancel, step=4)
    else:
        with world.deaths.after(40):  # the row that says what is to be done is there, with the act of who wanted it
            staff.refund(payment, by=world.operator, reason="asked", amount_minor=500)
        assert StaffAct.objects.count() == GatewayTask.objects.filter(act="refund").count() == 1
    die_again_and_again(world, reconciliation.work_off, step=4)
    world.settle()
    if what == "cancel":
        assert [one.renews for one in world.history().contracts] == [False]
    else:
        payment.refresh_from_db()
        assert payment.refunded_minor == 500
    world.judge()


def things_at(world: World, gateway: str) -> Any:
    """Return what the gateway has, without what it tells."""
    state = copy.deepcopy(world.sites[gateway].server.state)
    for name in ("notices", "keys", "answers", "last", "clock"):
        state.pop(name, None)
    state.get("objects", {}).pop("event", None)
    return state


@pytest.mark.parametrize(
    ("gateway", "act"),
    [
        (gateway, act)
        for gateway in ("stripe", "mercadopago")
        for act in GatewayTask.Act.values
        if gateway == "stripe" or act not in ("resume", "return_credit")  # there is no such thing there
    ],
)
def test_what_the_gateway_did_and_nobody_noted_is_not_done_again(
    world: World, gateway: str, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever did it died before the row that says so."""
    account, about = account_of(world.user.pk), {}
    if act == "expire_checkout":
        assert world.open_checkout(gateway, "premium", "month")
        purchase = account.purchases.get()
        about = {"reference": purchase.reference_id, "reference_type": purchase.reference_type}
    else:
        buy(world, gateway)
        about = {"reference": Subscription.objects.get().reference}
    if act in ("refund", "return_credit"):
        about = {"reference": Payment.objects.get().reference, "amount_minor": 500}
    if act == "resume":
        world.cancel()
    task = add_task(account, gateway, GatewayTask.Act(act), key="one", **about)
    with monkeypatch.context() as dying:
        dying.setattr(outbox, "_finish", lambda *_given: world.deaths.die())
        with world.deaths.after(None):
            outbox.do_task(task)
    assert world.deaths.count == 1
    world.pass_time(CLAIM)
    before = things_at(world, gateway)
    reconciliation.work_off()
    task.refresh_from_db()
    assert (task.done_at is not None, task.error) == (True, "")
    assert things_at(world, gateway) == before


@at_each_gateway
def test_a_gateway_that_is_slower_than_a_claim_refunds_once(
    world: World, gateway: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it makes up its mind, the next worker asks the same."""
    buy(world, gateway)
    payment, askers = Payment.objects.get(), []
    kind = type(get_gateway(gateway))
    refund = kind.refund

    def refund_slowly(asked: Any, *given: Any, **terms: Any) -> None:
        askers.append(asked)
        if len(askers) == 1:
            world.pass_time(CLAIM)
            reconciliation.work_off()
        refund(asked, *given, **terms)

    monkeypatch.setattr(kind, "refund", refund_slowly)
    staff.refund(payment, by=world.operator, reason="asked", amount_minor=500)
    world.settle()
    payment.refresh_from_db()
    assert (len(askers), payment.refunded_minor) == (2, 500)


@at_each_gateway
def test_what_a_revoked_key_kept_from_being_done_is_done_with_the_next(
    world: World, gateway: str, settings: Settings
) -> None:
    buy(world, gateway)
    name = {"stripe": "STRIPE_SECRET_KEY", "mercadopago": "MERCADOPAGO_ACCESS_TOKEN"}[gateway]
    good = getattr(settings, name)
    setattr(settings, name, "revoked")
    assert not purchasing.cancel(world.user)
    world.pass_time(CLAIM)
    setattr(settings, name, good)
    world.settle()
    assert [one.renews for one in world.history().contracts] == [False]


@at_each_gateway
def test_a_second_purchase_is_refunded_once_whoever_dies_of_it(world: World, gateway: str) -> None:
    buy(world, gateway)
    world.open_unguarded_checkout(gateway, "premium", "month")
    world.pay_tab(0)
    world.deliver(gateway, "all")
    assert die_again_and_again(world, reconciliation.work_off, step=7) > 5
    world.settle()
    world.judge()
    double = Subscription.objects.get(is_double=True).payments.get()
    assert double.refunded_minor == double.amount_minor


@at_each_gateway
def test_a_checkout_whose_process_dies_anywhere_can_be_begun_again(world: World, gateway: str) -> None:
    price = world.price(gateway, "premium", "month")
    opened = []

    def begin() -> None:
        opened.append(purchasing.start_checkout(world.user, price.pk, "subscription", return_url=RETURN, key="one"))

    assert die_again_and_again(world, begin, step=6) > 2
    world.tabs = [(gateway, opened[-1].url)]
    world.pay_tab(0)
    world.settle()
    world.judge()
    assert plan(world) == "premium"
    assert Subscription.objects.count() == 1


@at_each_gateway
def test_the_same_purchase_from_two_tabs_is_one(world: World, gateway: str) -> None:
    """Both are begun at once; whatever can be paid is paid; one is kept, and what was paid twice comes back."""
    price = world.price(gateway, "premium", "month")

    def begin(key: str) -> Callable[[], Any]:
        return lambda: purchasing.start_checkout(world.user, price.pk, "subscription", return_url=RETURN, key=key)

    opened = [found for found in together([begin("one"), begin("two")]) if not isinstance(found, Exception)]
    assert opened
    for purchase in opened:
        world.tabs.append((gateway, purchase.url))
        world.pay_tab(0)
    world.settle()
    world.judge()
    kept = [one for one in world.history().contracts if one.charges and not one.is_given_back]
    assert (len(kept), plan(world)) == (1, "premium")


@at_each_gateway
def test_return_page_notifications_workers_and_reconciliation_at_once_make_one_purchase(
    world: World, gateway: str
) -> None:
    """Two workers handle the same rows while others come in, and while everything is compared."""
    world.open_checkout(gateway, "premium", "month")
    world.pay_tab(0)
    world.deliver(gateway, "half")
    key = account_of(world.user.pk).purchases.get().key
    events = list(GatewayEvent.objects.all())
    calls: list[Callable[[], Any]] = [
        lambda: purchasing.return_from_checkout(world.user, key),
        lambda: purchasing.return_from_checkout(world.user, key),
        lambda: world.deliver(gateway, "all"),
        reconciliation.reconcile,
        reconciliation.reconcile,
        reconciliation.work_off,
        *(lambda event=event: inbox.handle_event(event) for event in events[:2] * 2),  # type: ignore[misc]
    ]
    assert not [error for error in together(calls) if isinstance(error, Exception)]
    world.settle()
    assert (Subscription.objects.count(), Payment.objects.count()) == (1, 1)
    assert UsagePeriod.objects.filter(kind="paid").count() == 1
    world.judge()
