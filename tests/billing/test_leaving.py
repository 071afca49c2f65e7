"""Somebody closes their account: nothing renews while they may still change their mind, and nothing is taken up again
by itself if they do."""

import datetime as dt
from typing import Any

import pytest
from django.utils import timezone

from accounts import leaving
from accounts.models import User
from billing import outbox, purchasing
from billing.entitlements import account_of
from billing.gateways.base import GatewayUnavailable
from billing.models import BillingAccount, GatewayTask, Purchase, Subscription
from billing.subscriptions import apply
from tests.billing.fake_gateway import bought, state

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

START = dt.datetime(2027, 1, 31, 9, 30, tzinfo=dt.UTC)
HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
RETURN = "https://tertulia.test/billing/"


@pytest.fixture
def premium(ana: Any, prices: Any, at: Any) -> Any:
    at(START)
    apply(bought(ana, prices["premium-month"], at=START))
    at(START + HOUR)
    return ana


def close(user: User) -> None:
    leaving.begin_leaving(User.objects.get(pk=user.pk), peer="")


def calls() -> list[str]:
    return [call[0] for call in state.calls]


def test_a_subscription_of_who_leaves_is_cancelled_for_the_end_of_what_is_paid(premium: User):
    close(premium)
    [task] = GatewayTask.objects.all()
    assert (task.act, calls()) == (GatewayTask.Act.CANCEL_AT_PERIOD_END, [])
    leaving.finish_leaving()
    outbox.do_due()
    leaving.finish_leaving()
    outbox.do_due()
    assert calls() == ["cancel_at_period_end"]
    subscription = Subscription.objects.get()
    assert not subscription.renews
    assert subscription.cancels_at == subscription.paid_until

    leaving.keep_account(User.objects.get(pk=premium.pk), peer="")
    outbox.do_due()
    assert not Subscription.objects.get().renews, "It is for them to take it up again."
    assert purchasing.resume(premium)
    leaving.finish_leaving()
    outbox.do_due()
    assert Subscription.objects.get().renews


def test_a_gateway_that_is_silent_is_told_later(premium: User, at: Any):
    state.error = GatewayUnavailable("silent")
    close(premium)
    outbox.do_due()
    assert Subscription.objects.get().renews
    state.error = None
    at(timezone.now() + HOUR)
    outbox.do_due()
    assert not Subscription.objects.get().renews


def test_what_is_bought_in_a_tab_that_was_open_is_stopped_by_the_sweep(ana: User, prices: Any, at: Any):
    at(START)
    price = prices["premium-month"]
    purchasing.start_checkout(ana, price.pk, "subscription", return_url=RETURN, key="before")
    close(ana)
    assert Purchase.objects.get().closed_at is not None
    at(START + HOUR)
    apply(bought(ana, price, at=START))  # it was paid in that moment
    purchasing.start_checkout(ana, prices["pack-5000"].pk, "pack", return_url=RETURN, key="late")
    leaving.finish_leaving()
    outbox.do_due()
    assert sorted(calls()) == [
        *("cancel_at_period_end", "expire_checkout", "expire_checkout", "start_checkout", "start_checkout")
    ]
    assert not Purchase.objects.filter(closed_at=None).exists()


def test_when_the_grace_is_over_the_gateway_forgets_them_and_the_ledger_has_no_name(premium: User, at: Any):
    close(premium)
    outbox.do_due()
    at(START + 15 * DAY)
    account_id = account_of(premium.pk).pk
    leaving.finish_leaving()
    outbox.do_due()
    assert calls() == ["cancel_at_period_end", "cancel_now", "forget_customer"]
    assert BillingAccount.objects.get(pk=account_id).user_id is None
    assert Subscription.objects.get().payments.count() == 1
