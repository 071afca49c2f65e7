"""What is written of money beside subscriptions: prices, notices, proofs, and what a migration makes of old rows."""

import datetime as dt
from typing import Any
from uuid import uuid4

import pytest
from django.core import mail
from django.db import IntegrityError, connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone, translation

from billing import metering, reconciliation
from billing.entitlements import account_of, current_period
from billing.metering import Usage
from billing.models import AllowanceNotice, BillingAccount, Plan, Price, UsagePeriod
from billing.months import add_months, anchored_month_of
from billing.periods import grant_pack, raise_to_plan
from billing.seeds import load_prices
from core.alerts import _thread, list_alerts
from core.money import format_money, to_decimal, to_minor

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]


def use(user: Any, micros: int) -> None:
    key = uuid4()
    metering.reserve(user.pk, key, amount_micros=micros)
    metering.settle(key, cost_micros=micros, usage=Usage(1, 1), label="scripted")


@pytest.fixture
def mails(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(reconciliation.send_mail, "delay", reconciliation.send_mail)
    mail.outbox.clear()
    return mail.outbox


def test_people_are_told_once_at_80_and_at_100_percent(ana: Any, mails: list[Any]):
    use(ana, 390_000)
    reconciliation.mail_notices()
    assert mails == []
    use(ana, 10_000)
    use(ana, 10_000)
    for _ in range(2):
        reconciliation.mail_notices()
    assert [message.subject for message in mails] == ["Has usado el 80 % de tus créditos."]
    use(ana, 90_000)
    reconciliation.mail_notices()
    assert len(mails) == 2
    assert mails[1].to == [ana.email]
    assert list(AllowanceNotice.objects.order_by("percent").values_list("percent", flat=True)) == [80, 100]


def test_what_is_used_at_once_is_one_notice(ana: Any, mails: list[Any]):
    use(ana, 500_000)
    reconciliation.mail_notices()
    assert len(mails) == 1


def test_who_has_packs_is_told_that_they_pay_and_nothing_of_new_credits_in_a_year(ana: Any, mails: list[Any]):
    account, now = account_of(ana.pk), timezone.now()
    grant_pack(account, 1_000_000, now, now + dt.timedelta(days=300))
    BillingAccount.objects.update(packs_until=now + dt.timedelta(days=300))
    use(ana, 500_000)
    reconciliation.mail_notices()
    assert "tus paquetes" in mails[0].subject
    use(ana, 900_000)
    assert AllowanceNotice.objects.filter(period__kind="pack").exists()
    reconciliation.mail_notices()
    assert len(mails) == 1


def test_a_ledger_that_does_not_add_up_is_alarmed(ana: Any):
    use(ana, 10_000)
    assert reconciliation.prove() == 0
    UsagePeriod.objects.update(used_micros=9_999)
    BillingAccount.objects.update(holds=2)
    assert reconciliation.prove() == 2
    _thread.submit(lambda: None).result()
    assert [alert.subject for alert in list_alerts()] == ["ledger"]


def test_an_edited_plan_counts_at_once_upward_and_once(ana: Any):
    free = Plan.objects.get(key="free")
    current_period(account_of(ana.pk))
    for micros, credits in ((700_000, 700), (700_000, 300), (800_000, 800), (None, None), (None, 100)):
        free.credits_per_month = credits
        free.save()
        for _ in range(2):
            reconciliation.follow_plans()
        assert current_period(account_of(ana.pk)).allowance_micros == micros


def test_a_share_of_a_month_is_raised_by_its_share(ana: Any):
    plan, start = Plan.objects.get(key="premium"), timezone.now()
    account = account_of(ana.pk)
    period = UsagePeriod.objects.create(
        account=account,
        kind="paid",
        plan=plan,
        period_start=start,
        period_end=start + dt.timedelta(days=7),
        granted_until=start + dt.timedelta(days=7),
        full_end=start + dt.timedelta(days=28),
        plan_micros=20_000_000,
        allowance_micros=5_000_000,
    )
    plan.credits_per_month = 40_000
    plan.save()
    for _ in range(2):
        raise_to_plan(plan)
    period.refresh_from_db()
    assert (period.allowance_micros, period.plan_micros) == (10_000_000, 40_000_000)


def test_a_period_is_unique_by_account_kind_and_start(ana: Any):
    period = current_period(account_of(ana.pk))
    fields = {"account": period.account, "period_start": period.period_start, "period_end": period.period_end}
    UsagePeriod.objects.create(kind="paid", **fields)
    with pytest.raises(IntegrityError):
        UsagePeriod.objects.create(kind="month", **fields)


@pytest.mark.parametrize(
    ("anchor", "months", "expected"),
    [
        ("2027-01-31", 1, "2027-02-28"),
        ("2027-01-31", 2, "2027-03-31"),
        ("2028-01-31", 1, "2028-02-29"),
        ("2027-12-15", 1, "2028-01-15"),
        ("2028-02-29", 12, "2029-02-28"),
        ("2027-03-31", -1, "2027-02-28"),
    ],
)
def test_months_are_added_to_the_anchor(anchor: str, months: int, expected: str):
    begin = dt.datetime.fromisoformat(f"{anchor}T09:30:00+00:00")
    assert add_months(begin, months) == dt.datetime.fromisoformat(f"{expected}T09:30:00+00:00")


def test_every_moment_is_in_one_month_of_any_anchor():
    for day in range(1, 32):
        anchor, previous = dt.datetime(2027, 1, day, 23, 59, tzinfo=dt.UTC), None
        for hours in range(0, 24 * 400, 7):
            moment = anchor + dt.timedelta(hours=hours)
            start, end = anchored_month_of(anchor, moment)
            assert start <= moment < end
            assert previous in (None, (start, end)) or previous[1] == start
            previous = (start, end)


def test_prices_for_trying_out_are_made_once(catalog: Any):
    assert len(load_prices("fake", "USD")) == len(load_prices("fake", "USD")) == 6
    load_prices("fake", "ARS", cents=1_500)
    assert Price.objects.get(plan__key="premium", currency="ARS", interval="month").amount_minor == 3_000_000


@pytest.mark.parametrize(
    ("language", "minor", "currency", "expected"),
    [
        ("en", 123_456, "USD", "1,234.56 USD"),
        ("pt-br", 123_456, "BRL", "1.234,56 BRL"),
        ("es", 5, "MXN", "0,05 MXN"),
        ("en", 19_990, "CLP", "19,990 CLP"),
        ("en", 2_000, "XOF", "2,000 XOF"),
        ("en", 2_000, "JOD", "2.000 JOD"),
    ],
)
def test_money_is_written_in_the_readers_language(language: str, minor: int, currency: str, expected: str):
    with translation.override(language):
        assert format_money(minor, currency).replace("\xa0", " ") == expected


def test_money_goes_to_the_minor_unit_and_back():
    for currency in ("USD", "CLP", "KWD"):
        assert to_minor(to_decimal(12_345, currency), currency) == 12_345
    with pytest.raises(ValueError, match="more digits"):
        to_minor(to_decimal(1, "USD"), "CLP")


def test_the_migration_counts_holds_and_leaves_grants_their_month(ana: Any, carla: Any):
    """Carla was granted a plan: her running month goes on as it is. Both hold something."""
    for user in (ana, carla):
        metering.reserve(user.pk, uuid4(), amount_micros=1_000)
        use_of = current_period(account_of(user.pk))
        UsagePeriod.objects.filter(pk=use_of.pk).update(kind="month", plan=None, full_end=None, granted_until=None)
    BillingAccount.objects.update(holds=0)
    executor = MigrationExecutor(connection)
    state = executor.loader.project_state([("billing", "0007_holds_and_running_periods")])
    migration = executor.loader.get_migration("billing", "0007_holds_and_running_periods")
    for operation in migration.operations:
        operation.code(state.apps, None)  # type: ignore[attr-defined]
    assert not metering.list_unbalanced_accounts().exists()
    assert not metering.list_unbalanced_periods().exists()
    kinds = dict(UsagePeriod.objects.values_list("account__user__email", "kind"))
    assert kinds == {"ana@example.com": "month", "carla@example.com": "paid"}
    for user in (ana, carla):
        assert current_period(account_of(user.pk)).reserved_micros == 1_000
    assert UsagePeriod.objects.count() == 2
