"""The operator's figures, compared with a small world that was reckoned by hand."""

import datetime as dt
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing import figures
from billing.figures import Exchange, Month
from billing.models import (
    BillingAccount,
    ExchangeRate,
    Payment,
    Plan,
    Price,
    Reservation,
    Reversal,
    Spending,
    Subscription,
    UsagePeriod,
    UsageRecord,
)

pytestmark = [pytest.mark.stores, pytest.mark.django_db]


def day(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(f"2027-{text}T00:00:00+00:00")


MARCH = Month(day("03-01"), day("04-01"))


def person() -> BillingAccount:
    return BillingAccount.objects.create()


def subscribe(account: BillingAccount, price: Price, **fields: Any) -> Subscription:
    said = {"gateway": price.gateway, "reference": uuid4().hex, "kind": "subscription", "status": "active"}
    dates = {"anchor": day("01-01"), "observed_at": day("01-01")}
    return Subscription.objects.create(account=account, price=price, plan=price.plan, **said | dates | fields)


def pay(subscription: Subscription, start: str, end: str, amount: int, **fields: Any) -> Payment:
    price = fields.pop("price", subscription.price)
    said = {"gateway": price.gateway, "reference": uuid4().hex, "price": price, "status": "paid"}
    time = {"period_start": day(start), "period_end": end if isinstance(end, dt.datetime) else day(end)}
    paid = {"paid_at": day(start), "amount_minor": amount, "currency": price.currency}
    back_at = fields.pop("back_at", day(start))
    payment = Payment.objects.create(subscription=subscription, **said | time | paid | fields)
    for kind, amount in (("refund", payment.refunded_minor), ("dispute", payment.lost_minor)):
        if amount:
            Reversal.objects.create(payment=payment, kind=kind, amount_minor=amount, at=back_at)
    return payment


def use(account: BillingAccount, kind: str, plan: Plan | None, *records: tuple[str, int, int]) -> None:
    """Use (model, credits, what the supplier takes in cents), in the middle of March."""
    start = day("03-01")
    period = UsagePeriod.objects.create(
        account=account, kind=kind, plan=plan, period_start=start, period_end=day("04-01")
    )
    at, _is_new = Spending.objects.get_or_create(supplier="openai", day=day("03-15").date())
    for model, used, cents in records:
        reservation = Reservation.objects.create(id=uuid4(), period=period, amount_micros=0, state="settled")
        UsageRecord.objects.create(
            reservation=reservation,
            period=period,
            label=model,
            source="provider",
            cost_micros=used * 1_000,
            spending=at,
            spent_micros=cents * 10_000,
            recorded_at=day("03-15"),
        )
        at.used_micros += cents * 10_000
    at.save()


@pytest.fixture
def plans(catalog: None) -> dict[str, Any]:
    premium, enterprise = Plan.objects.get(key="premium"), Plan.objects.get(key="enterprise")

    def price(plan: Plan | None, gateway: str, currency: str, amount: int, **fields: Any) -> Price:
        return Price.objects.create(plan=plan, gateway=gateway, currency=currency, amount_minor=amount, **fields)

    return {
        "free": Plan.objects.get(key="free"),
        "premium": premium,
        "enterprise": enterprise,
        "month": price(premium, "stripe", "USD", 2_000, interval="month"),
        "more": price(enterprise, "stripe", "USD", 9_900, interval="month"),
        "year": price(premium, "mercadopago", "BRL", 120_000, interval="year"),
        "pack": price(None, "stripe", "USD", 600, pack_credits=5_000, pack_months=12),
    }


@pytest.fixture
def world(plans: dict[str, Any], at: Any) -> dict[str, BillingAccount]:
    """What had happened by April 2nd."""
    at(day("04-02"))
    ExchangeRate.objects.create(currency="BRL", since=day("01-01").date(), rate="0.25")
    ExchangeRate.objects.create(currency="BRL", since=day("03-10").date(), rate="0.2")
    ExchangeRate.objects.create(currency="BRL", since=day("04-01").date(), rate="0.5")
    names = ["ana", "bo", "cy", "dan", "eve", "fay", "gil", "hal", "ida", "jo", "kim", "lost", "zed"]
    people = {name: person() for name in names}
    month = plans["month"]
    pay(subscribe(people["ana"], month), "03-10", "04-10", 2_000)
    year_end = dt.datetime(2028, 1, 1, tzinfo=dt.UTC)
    pay(subscribe(people["bo"], plans["year"]), "01-01", year_end, 120_000, tax_minor=20_000)  # type: ignore[arg-type]
    pay(subscribe(people["cy"], month), "03-16", "04-16", 1_000)  # with a discount of a half
    gone = {"status": "ended", "paid_until": day("03-05"), "access_until": day("03-05"), "ended_at": day("03-05")}
    pay(subscribe(people["dan"], month, **gone), "02-05", "03-05", 2_000)
    pay(subscribe(people["eve"], month), "03-20", "04-20", 2_000, refunded_minor=2_000)
    pay(subscribe(people["fay"], month), "03-02", "04-02", 2_000, refunded_minor=500)
    trial = {"status": "trialing", "trial_start": day("03-25"), "trial_end": day("04-05")}
    pay(subscribe(people["gil"], month, **trial), "03-25", "04-05", 0)
    late = {"status": "past_due", "paid_until": day("03-28"), "access_until": day("04-04")}
    pay(subscribe(people["hal"], month, **late), "02-28", "03-28", 2_000)
    pay(subscribe(people["ida"], month, is_double=True), "03-03", "04-03", 2_000, refunded_minor=2_000)
    upgraded = subscribe(people["jo"], month)
    pay(upgraded, "03-04", "04-03", 2_000)
    pay(upgraded, "03-19", "04-03", 3_950, price=plans["more"], is_proration=True)
    pay(subscribe(people["kim"], month, kind="prepaid"), "03-08", "04-08", 2_000)
    pay(subscribe(people["lost"], month), "03-05", "04-05", 2_000, dispute="lost", refunded_minor=300)
    pay(subscribe(people["ana"], plans["pack"], kind="pack"), "03-12", "03-13", 600, period_start=None, period_end=None)
    use(people["ana"], "paid", plans["premium"], ("a", 2_000, 100), ("b", 2_000, 300))
    use(people["ana"], "pack", None, ("a", 500, 25))
    use(people["cy"], "paid", plans["premium"], ("b", 4_000, 3_000))
    use(people["gil"], "paid", None, ("a", 100, 5))
    use(people["zed"], "month", plans["free"], ("a", 1_000, 50))
    return people


def rounded(amount: Decimal) -> Decimal:
    return amount.quantize(Decimal("0.01"))


def test_mrr_is_what_runs_a_month_without_tax_trials_and_what_does_not_renew(world: Any):
    report = figures.report_month(MARCH)
    # Ana 20, Cy 10, Fay 20, Jo 20 + 39.50 * 30 days / 15 days = 99, and Bo 1,000 BRL / 12 * 0.2.
    assert rounded(report.mrr) == Decimal("165.67")
    # Dan 20, Hal 20, and Bo.
    assert rounded(report.mrr_before) == Decimal("56.67")


def test_who_came_and_went(world: Any):
    movement = figures.report_month(MARCH).movement
    # Ana, Bo, Cy, Fay, Jo, Kim; all but Bo are new; Dan went; Hal is waited for; Gil tries.
    assert (movement.active, movement.new, movement.churned) == (6, 5, 1)
    assert (movement.in_grace, movement.trials) == (1, 1)


def test_who_did_not_come_back_within_the_grace_has_gone(world: Any, at: Any):
    at(day("04-05"))
    movement = figures.report_month(MARCH).movement
    assert (movement.churned, movement.in_grace) == (2, 0)


def test_what_was_received_by_gateway_and_currency(world: Any):
    [stripe] = figures.list_receipts(MARCH)
    # Ana 20 + 6, Cy 10, Eve 20, Fay 20, Ida 20, Jo 20 + 39.50, Kim 20, and 20 that the bank took back.
    assert (stripe.gateway, stripe.currency, stripe.payments, stripe.gross) == ("stripe", "USD", 10, Decimal("195.50"))
    assert (stripe.tax, stripe.refunded, stripe.disputed) == (0, Decimal("48.00"), Decimal("17.00"))
    assert stripe.net == Decimal("130.50")
    [brazil] = figures.list_receipts(Month.containing(day("01-15")))
    assert (brazil.currency, brazil.gross, brazil.tax, brazil.net) == ("BRL", 1_200, 200, 1_000)


def test_what_goes_back_later_counts_in_the_month_it_goes_back(world: Any, plans: Any):
    march = figures.list_receipts(MARCH)
    for fields in ({"refunded_minor": 2_000}, {"refunded_minor": 400, "dispute": "lost"}):
        pay(subscribe(person(), plans["month"]), "02-03", "03-03", 2_000, back_at=day("04-01"), **fields)
    assert figures.list_receipts(MARCH) == march
    [april] = figures.list_receipts(Month.containing(day("04-01")))
    assert (april.payments, april.gross, april.refunded, april.disputed, april.net) == (0, 0, 24, 16, -40)


def test_what_plans_earned_and_cost(world: Any, plans: Any):
    report = figures.report_month(MARCH)
    found = {margin.key: (rounded(margin.earned), rounded(margin.cost)) for margin in report.by_plan}
    # Of its days within March: Ana 20 * 22/31, Bo 1,000 BRL * 31/365 * 0.2, Cy 10 * 16/31, Dan 20 * 4/28,
    # Fay 15 * 30/31, Hal 20 * 27/28, Jo 20 * 28/30, Kim 20 * 24/31; and Jo's upgrade 39.50 * 13/15.
    assert found == {
        plans["premium"].pk: (Decimal("107.15"), Decimal("34.00")),
        plans["enterprise"].pk: (Decimal("34.23"), Decimal("0.00")),
        "packs": (Decimal("6.00"), Decimal("0.25")),
        "trials": (Decimal("0.00"), Decimal("0.05")),
        plans["free"].pk: (Decimal("0.00"), Decimal("0.50")),
    }
    assert (rounded(report.earned), rounded(report.cost)) == (Decimal("147.38"), Decimal("34.80"))
    assert report.suppliers == [("openai", Decimal("34.8"))]


def test_what_models_earned_is_what_their_plans_did_by_the_credits_used(world: Any):
    found = {margin.key: margin for margin in figures.report_month(MARCH).by_model}
    # Of Premium's 8,000 credits, 2,000 went to a and 6,000 to b; all of the packs' to a.
    assert rounded(found["a"].earned) == Decimal("32.79")
    assert rounded(found["b"].earned) == Decimal("80.36")
    assert [(found[key].cost, found[key].answers) for key in "ab"] == [(Decimal("1.8"), 4), (33, 2)]


def test_who_costs_more_than_they_pay(world: Any):
    found = figures.report_month(MARCH).by_person
    assert [margin.key for margin in found] == [world["cy"].pk, world["zed"].pk, world["gil"].pk]
    assert [rounded(margin.left) for margin in found] == [Decimal("-24.84"), Decimal("-0.50"), Decimal("-0.05")]


def test_a_running_month_is_reckoned_up_to_now(world: Any, at: Any):
    at(day("03-11"))
    report = figures.report_month(Month.containing(day("03-11")))
    assert rounded(report.mrr) == Decimal("96.67")  # Ana, Fay, Hal and Jo, 20 each, and Bo, at the rate of the day
    assert report.movement.active == 6  # and Kim
    assert report.cost == Decimal("34.8")  # a day's spending is known by its day alone
    assert report.by_model == []


def test_a_month_is_reckoned_with_the_rates_of_its_last_day(world: Any):
    assert Exchange.on(day("02-28").date()).rates["BRL"] == Decimal("0.25")
    assert Exchange.on(day("03-31").date()).rates["BRL"] == Decimal("0.2")
    assert Exchange.on(dt.date(2026, 1, 1)).rates["BRL"] == Decimal("0.25")  # the first one there is


def test_what_has_no_rate_is_named_and_counts_for_nothing(world: Any):
    ExchangeRate.objects.all().delete()
    report = figures.report_month(MARCH)
    assert report.missing_rates == ["BRL"]
    assert rounded(report.mrr) == Decimal("149.00")


def test_the_site_counts_in_its_own_currency(world: Any, settings: Any):
    settings.SITE_CURRENCY = "BRL"
    ExchangeRate.objects.create(currency="USD", since=day("01-01").date(), rate="5")
    report = figures.report_month(MARCH)
    assert (rounded(report.mrr), rounded(report.cost)) == (Decimal("828.33"), Decimal("174.00"))
    ExchangeRate.objects.filter(currency="USD").delete()
    report = figures.report_month(MARCH)
    assert (report.cost, report.missing_rates) == (0, ["USD"])


def test_a_renewal_that_is_on_its_way_is_no_churn(world: Any, at: Any):
    now = day("04-10") + dt.timedelta(hours=1)  # Ana's month has just ended
    at(now)
    assert world["ana"].pk in figures.standings_at(now).accounts
    assert world["ana"].pk not in figures.standings_at(now + dt.timedelta(hours=2)).accounts


def test_a_report_takes_as_many_statements_for_many_people_as_for_few(world: Any, plans: Any):
    with CaptureQueriesContext(connection) as few:
        figures.report_month(MARCH)
    for _ in range(30):
        account = person()
        pay(subscribe(account, plans["month"]), "03-07", "04-07", 2_000)
        use(account, "paid", plans["premium"], ("a", 10, 1))
    with CaptureQueriesContext(connection) as many:
        figures.report_month(MARCH)
    assert len(many) == len(few) <= 17
