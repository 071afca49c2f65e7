"""What follows from what a gateway says."""

import datetime as dt
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from billing import metering
from billing.entitlements import account_of, current_period, entitlements_of
from billing.errors import UnknownPrice, WrongAccount
from billing.metering import Usage
from billing.models import BillingAccount, GatewayTask, Payment, Plan, Purchase, Reversal, Subscription, UsagePeriod
from billing.subscriptions import apply
from tests.billing.fake_gateway import bought, change, change_now, change_payment, payment, renew, state

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

START = dt.datetime(2027, 1, 31, 9, 30, tzinfo=dt.UTC)
FEBRUARY = dt.datetime(2027, 2, 28, 9, 30, tzinfo=dt.UTC)
MARCH = dt.datetime(2027, 3, 31, 9, 30, tzinfo=dt.UTC)
SECOND, HOUR, DAY = dt.timedelta(seconds=1), dt.timedelta(hours=1), dt.timedelta(days=1)
FREE, PREMIUM, ENTERPRISE = 500_000, 20_000_000, 100_000_000


def plan(user: Any) -> str:
    return entitlements_of(user.pk).plan


def period(user: Any) -> UsagePeriod:
    return current_period(account_of(user.pk))


def use(user: Any, micros: int) -> None:
    key = uuid4()
    metering.reserve(user.pk, key, amount_micros=micros)
    metering.settle(key, cost_micros=micros, usage=Usage(1, 1), label="scripted")


def tasks() -> list[tuple[str, str]]:
    return list(GatewayTask.objects.order_by("pk").values_list("act", "reference"))


def told(reference: str = "s1") -> Subscription:
    return apply(change(reference))


@pytest.fixture
def premium(ana: Any, prices: Any, at: Any) -> Any:
    """Ana, who bought Premium for a month."""
    at(START)
    apply(bought(ana, prices["premium-month"], at=START))
    return ana


def test_a_paid_invoice_gives_the_plan_and_its_credits(premium: Any):
    assert plan(premium) == "premium"
    now = period(premium)
    assert (now.kind, now.period_start, now.period_end) == ("paid", START, FEBRUARY)
    assert (now.allowance_micros, now.used_micros) == (PREMIUM, 0)


def test_active_is_not_paid(ana: Any, prices: Any, at: Any):
    at(START)
    apply(bought(ana, prices["premium-month"], at=START, payments=()))
    assert plan(ana) == "free"


def test_a_plan_that_is_not_renewed_ends_by_the_clock_after_its_grace(premium: Any, at: Any):
    at(FEBRUARY + 7 * DAY - SECOND)
    assert plan(premium) == "premium"
    at(FEBRUARY + 7 * DAY)
    assert plan(premium) == "free"


def test_a_cancelled_plan_ends_at_paid_through_without_grace(premium: Any, at: Any):
    apply(change("s1", cancels_at=FEBRUARY))
    at(FEBRUARY - SECOND)
    assert plan(premium) == "premium"
    at(FEBRUARY)
    assert plan(premium) == "free"


def test_a_month_in_grace_has_its_share_and_is_filled_up_when_paid(premium: Any, at: Any):
    at(FEBRUARY + HOUR)
    grace = period(premium)
    assert (grace.period_start, grace.period_end) == (FEBRUARY, FEBRUARY + 7 * DAY)
    assert grace.allowance_micros == PREMIUM * 7 // 31
    use(premium, 1_000)
    renew("s1")
    told()
    paid = period(premium)
    assert (paid.pk, paid.period_end, paid.allowance_micros, paid.used_micros) == (grace.pk, MARCH, PREMIUM, 1_000)


def test_months_are_counted_from_the_anchor_and_not_from_each_other(premium: Any, at: Any):
    for day in (dt.datetime(2027, 2, 28, 9, 30, tzinfo=dt.UTC), MARCH):
        at(day)
        renew("s1")
        told()
        assert period(premium).period_start == day


def test_a_year_is_paid_at_once_and_given_month_by_month(ana: Any, prices: Any, at: Any):
    at(START)
    apply(bought(ana, prices["premium-year"], at=START))
    starts = set()
    for month in range(1, 13):
        at(dt.datetime(2027, month, 28, 12, tzinfo=dt.UTC) + 5 * DAY)
        starts.add(period(ana).period_start)
        assert (plan(ana), period(ana).allowance_micros) == ("premium", PREMIUM)
    assert len(starts) == 12
    at(dt.datetime(2028, 1, 31, 9, 30, tzinfo=dt.UTC) + 7 * DAY)
    assert plan(ana) == "free"


def test_an_upgrade_adds_the_share_of_the_time_that_is_left(premium: Any, prices: Any, at: Any):
    use(premium, 5_000)
    moment = START + 14 * DAY
    at(moment)
    change_now("s1", prices["enterprise-month"].reference, at=moment)
    told()
    told()
    now = period(premium)
    assert plan(premium) == "enterprise"
    assert (now.allowance_micros, now.used_micros) == (PREMIUM + (ENTERPRISE - PREMIUM) * 14 // 28, 5_000)


def test_an_upgrade_that_is_not_paid_gives_nothing(premium: Any, prices: Any, at: Any):
    at(START + DAY)
    change_now("s1", prices["enterprise-month"].reference, at=START + DAY, status="pending")
    told()
    assert (plan(premium), period(premium).allowance_micros) == ("premium", PREMIUM)


def test_purchase_and_upgrade_that_are_heard_of_together_give_what_they_give_one_by_one(ana: Any, prices: Any, at: Any):
    moment = START + 14 * DAY
    at(moment + HOUR)
    bought(ana, prices["premium-month"], at=START)
    change_now("s1", prices["enterprise-month"].reference, at=moment)
    told()
    assert period(ana).allowance_micros == PREMIUM + (ENTERPRISE - PREMIUM) * 14 // 28


def test_a_downgrade_counts_from_the_next_payment(ana: Any, prices: Any, at: Any):
    at(START)
    apply(bought(ana, prices["enterprise-month"], at=START))
    state.scheduled["s1"] = prices["premium-month"].reference
    told()
    assert (plan(ana), period(ana).allowance_micros) == ("enterprise", ENTERPRISE)
    at(FEBRUARY)
    renew("s1")
    told()
    assert (plan(ana), period(ana).allowance_micros) == ("premium", PREMIUM)


def test_in_grace_the_lower_of_two_plans_holds(ana: Any, prices: Any, at: Any):
    at(START)
    apply(bought(ana, prices["enterprise-month"], at=START))
    apply(change("s1", price_reference=prices["premium-month"].reference))
    assert plan(ana) == "enterprise"
    at(FEBRUARY + HOUR)
    assert plan(ana) == "premium"


def test_a_month_that_was_waited_for_on_the_higher_plan_has_what_the_lower_one_gives_that_was_paid(
    ana: Any, prices: Any, at: Any
):
    at(START)
    apply(bought(ana, prices["enterprise-month"], at=START))
    at(FEBRUARY + 9 * HOUR)
    assert period(ana).plan_id == prices["enterprise-month"].plan_id  # in its grace, as far as anybody knows
    state.scheduled["s1"] = prices["premium-month"].reference
    renew("s1")
    told()
    assert (plan(ana), period(ana).allowance_micros) == ("premium", PREMIUM)


def test_what_begins_at_the_same_instant_with_a_shorter_month_gives_all_of_it(premium: Any, prices: Any, at: Any):
    at(FEBRUARY + HOUR)
    assert period(premium).allowance_micros == PREMIUM * 7 // 31  # the grace of what is counted from the 31st
    told_of_both = bought(premium, prices["premium-month"], "s2", at=FEBRUARY)
    apply(told_of_both)
    assert (period(premium).period_start, period(premium).allowance_micros) == (FEBRUARY, PREMIUM)
    apply(told_of_both)
    assert period(premium).allowance_micros == PREMIUM


def test_a_new_anchor_closes_the_month_at_that_instant(premium: Any, prices: Any, at: Any):
    use(premium, 7_000)
    before, moment = period(premium), START + 5 * DAY
    at(moment + HOUR)
    yearly = prices["premium-year"]
    year = payment(yearly, "s1-p2", moment, dt.datetime(2028, 2, 5, 9, 30, tzinfo=dt.UTC))
    payments = (*state.snapshots["s1"].payments, year)
    apply(change("s1", anchor=moment, payments=payments, price_reference=yearly.reference))
    before.refresh_from_db()
    now = period(premium)
    assert (before.period_end, before.used_micros) == (moment, 7_000)
    assert (now.period_start, now.allowance_micros, now.used_micros) == (moment, PREMIUM, 0)


def test_an_older_snapshot_changes_nothing(premium: Any, at: Any):
    old = change("s1")
    at(START + HOUR)
    apply(change("s1", cancels_at=FEBRUARY))
    apply(old)
    assert Subscription.objects.get().cancels_at == FEBRUARY


def test_an_unknown_price_is_loud_and_grants_nothing(ana: Any, prices: Any, at: Any):
    at(START)
    snapshot = bought(ana, prices["premium-month"], at=START)
    with pytest.raises(UnknownPrice):
        apply(replace(snapshot, price_reference="somebody-elses"))
    with pytest.raises(UnknownPrice):
        apply(replace(snapshot, payments=(replace(snapshot.payments[0], currency="ARS"),)))
    assert not Subscription.objects.exists()
    assert plan(ana) == "free"


def test_a_subscription_never_becomes_somebody_elses(premium: Any, bo: Any):
    with pytest.raises(WrongAccount):
        apply(change("s1", account_id=account_of(bo.pk).pk))
    with pytest.raises(WrongAccount):
        apply(change("s1", account_id=10**6))
    assert plan(bo) == "free"


def test_a_full_refund_closes_the_paid_period_and_leaves_no_debt(premium: Any, at: Any):
    use(premium, 9_000_000)
    at(START + DAY)
    apply(change_payment("s1-p1", refunded_minor=2_000))
    assert plan(premium) == "free"
    assert UsagePeriod.objects.get(kind="paid").period_end == START + DAY
    assert (period(premium).kind, period(premium).left_micros) == ("month", FREE)


def test_a_partial_refund_changes_nothing(premium: Any):
    apply(change_payment("s1-p1", refunded_minor=1_999))
    assert (plan(premium), period(premium).allowance_micros) == ("premium", PREMIUM)


def test_what_goes_back_is_written_down_when_it_is_heard_of(premium: Any, at: Any):
    for refunded, moment in ((500, START + DAY), (500, START + 2 * DAY), (700, FEBRUARY), (0, FEBRUARY + DAY)):
        at(moment)
        apply(change_payment("s1-p1", refunded_minor=refunded))
    at(FEBRUARY + 2 * DAY)
    apply(change_payment("s1-p1", refunded_minor=100, dispute="lost"))
    found = Reversal.objects.order_by("pk").values_list("kind", "amount_minor", "at")
    assert list(found) == [
        ("refund", 500, START + DAY),
        ("refund", 200, FEBRUARY),
        ("refund", -700, FEBRUARY + DAY),  # it failed
        ("refund", 100, FEBRUARY + 2 * DAY),
        ("dispute", 1_900, FEBRUARY + 2 * DAY),
    ]


def test_a_refund_of_the_second_month_gives_no_grace_of_the_first(premium: Any, at: Any):
    at(FEBRUARY)
    renew("s1")
    told()
    at(FEBRUARY + DAY)
    apply(change_payment("s1-p2", refunded_minor=2_000))
    assert plan(premium) == "free"


def test_a_refunded_upgrade_takes_back_what_is_left_of_it(premium: Any, prices: Any, at: Any):
    moment = START + 7 * DAY
    at(moment)
    change_now("s1", prices["enterprise-month"].reference, at=moment)
    told()
    at(START + 14 * DAY)
    apply(change_payment("s1-p2", refunded_minor=700))
    assert plan(premium) == "premium"
    assert (
        period(premium).allowance_micros
        == PREMIUM + (ENTERPRISE - PREMIUM) * 21 // 28 - (ENTERPRISE - PREMIUM) * 14 // 28
    )


def test_a_dispute_freezes_and_a_won_one_restores(premium: Any, at: Any):
    use(premium, 1_000)
    at(START + DAY)
    apply(change_payment("s1-p1", dispute="open"))
    assert plan(premium) == "free"
    assert tasks() == [("cancel_at_period_end", "s1")]
    change("s1", cancels_at=FEBRUARY)
    at(START + 2 * DAY)
    apply(change_payment("s1-p1", dispute="won"))
    now = period(premium)
    assert (plan(premium), now.allowance_micros, now.used_micros, now.period_end) == (
        "premium",
        PREMIUM,
        1_000,
        FEBRUARY,
    )


def test_a_lost_dispute_ends_the_subscription(premium: Any, at: Any):
    at(START + DAY)
    apply(change_payment("s1-p1", dispute="lost"))
    assert plan(premium) == "free"
    assert tasks() == [("cancel_now", "s1")]


def test_a_second_purchase_is_recorded_cancelled_and_refunded(premium: Any, prices: Any, at: Any):
    at(START + HOUR)
    second = apply(bought(premium, prices["enterprise-month"], "s2", at=START + HOUR))
    apply(change("s2"))
    assert second.is_double
    assert (plan(premium), period(premium).allowance_micros) == ("premium", PREMIUM)
    assert tasks() == [("cancel_now", "s2"), ("refund", "s2-p1")]
    assert GatewayTask.objects.get(act="refund").amount_minor == 9_900


def test_what_is_paid_takes_the_place_of_what_is_not(premium: Any, prices: Any, at: Any):
    at(FEBRUARY + DAY)
    renew("s1", status="failed")
    told()
    second = apply(bought(premium, prices["premium-month"], "s2", at=FEBRUARY + DAY))
    assert not second.is_double
    assert tasks() == [("cancel_now", "s1")]
    assert period(premium).period_start == FEBRUARY + DAY


def test_another_gateway_begins_when_the_paid_time_ends(premium: Any, prices: Any, at: Any):
    at(START + DAY)
    later = apply(bought(premium, prices["premium-month"], "s2", at=START, anchor=FEBRUARY, payments=()))
    assert not later.is_double
    assert tasks() == [("cancel_at_period_end", "s1")]
    apply(change("s1", cancels_at=FEBRUARY))
    at(FEBRUARY)
    assert plan(premium) == "free"
    apply(change("s2", payments=(payment(prices["premium-month"], "s2-p1", FEBRUARY, MARCH),)))
    assert (plan(premium), period(premium).period_start) == ("premium", FEBRUARY)


def test_a_grant_and_a_subscription_are_never_added_up(premium: Any, at: Any):
    BillingAccount.objects.update(plan=Plan.objects.get(key="enterprise"), grant_until=START + 3 * DAY)
    assert (plan(premium), period(premium).allowance_micros) == ("enterprise", ENTERPRISE)
    at(START + 3 * DAY)
    assert (plan(premium), period(premium).allowance_micros) == ("premium", PREMIUM)
    assert UsagePeriod.objects.filter(kind="paid").count() == 2


def test_a_trial_is_given_once_with_its_own_credits(ana: Any, prices: Any, at: Any):
    at(START)
    account, price, end = account_of(ana.pk), prices["premium-month"], START + 14 * DAY
    Purchase.objects.create(key="k", account=account, price=price, kind="subscription", trial_days=14)
    trial = {"status": "trialing", "trial_end": end, "payments": ()}
    apply(bought(ana, price, at=START, anchor=end, **trial))
    assert (plan(ana), period(ana).allowance_micros, period(ana).period_end) == ("premium", 1_000_000, end)
    at(end)
    assert plan(ana) == "free"
    paid = (payment(price, "s1-p1", end, end + 28 * DAY),)
    apply(change("s1", status="active", payments=paid))
    assert (plan(ana), period(ana).period_start, period(ana).allowance_micros) == ("premium", end, PREMIUM)
    apply(change("s1", status="ended"))
    at(end + 40 * DAY)
    apply(bought(ana, price, "s2", at=end + 40 * DAY, **trial | {"trial_end": end + 60 * DAY}))
    assert plan(ana) == "free"
    assert tasks() == [("cancel_now", "s2")]


def test_without_a_checkout_that_offered_it_trialing_is_no_trial(ana: Any, prices: Any, at: Any):
    at(START)
    apply(bought(ana, prices["premium-month"], at=START, status="trialing", trial_end=START + 14 * DAY, payments=()))
    assert plan(ana) == "free"


def test_a_pack_pays_when_the_period_has_no_room(ana: Any, prices: Any, at: Any):
    at(START)
    apply(bought(ana, prices["pack-20000"], "later", at=START - DAY))
    apply(bought(ana, prices["pack-5000"], "sooner", at=START - 2 * DAY))
    use(ana, FREE)
    use(ana, 1_000_000)
    use(ana, 6_000_000)
    used = dict(UsagePeriod.objects.filter(kind="pack").values_list("payment__reference", "used_micros"))
    assert used == {"sooner-p1": 1_000_000, "later-p1": 6_000_000}
    assert period(ana).used_micros == FREE


def test_a_pack_is_granted_once_and_follows_its_own_payment(ana: Any, prices: Any, at: Any):
    at(START)
    for _ in range(2):
        apply(bought(ana, prices["pack-5000"], "pack", at=START))
    pack = UsagePeriod.objects.get(kind="pack")
    assert (pack.allowance_micros, pack.period_end) == (5_000_000, dt.datetime(2028, 1, 31, 9, 30, tzinfo=dt.UTC))
    at(START + DAY)
    apply(change_payment("pack-p1", refunded_minor=600))
    with pytest.raises(Exception, match="allowance_used_up"):
        use(ana, FREE + 1)
    assert Payment.objects.get().usage_period == pack


def test_two_packs_of_the_same_instant_are_two(ana: Any, prices: Any, at: Any):
    at(START)
    for name in ("a", "b"):
        apply(bought(ana, prices["pack-5000"], name, at=START))
    assert UsagePeriod.objects.filter(kind="pack").count() == 2


def test_payments_that_say_no_time_are_reckoned_from_the_first(ana: Any, prices: Any, at: Any):
    price, begin = prices["premium-month"], START + HOUR

    def paid(number: int, moment: dt.datetime) -> Any:
        return replace(payment(price, f"s1-p{number}", moment, moment), period_start=None, period_end=None)

    at(begin)
    first = paid(1, begin)
    apply(bought(ana, price, at=START, payments=(first,)))
    assert period(ana).period_end == FEBRUARY + HOUR
    at(FEBRUARY + 3 * DAY)
    second = paid(2, FEBRUARY + 3 * DAY)
    apply(change("s1", payments=(first, second)))
    assert (period(ana).period_start, period(ana).period_end) == (FEBRUARY + HOUR, MARCH + HOUR)
    late = MARCH + 20 * DAY
    at(late)
    apply(change("s1", payments=(first, second, paid(3, late))))
    assert (plan(ana), period(ana).period_start) == ("premium", late)
