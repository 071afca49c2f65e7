"""What a plan allows, and where somebody stands."""

import datetime as dt
from dataclasses import replace
from functools import partial
from uuid import uuid4

import pytest
from django.core.cache import cache
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError
from django.utils import timezone

from billing import metering
from billing.entitlements import account_of, allowance_of, current_period, entitlements_of
from billing.metering import Usage
from billing.models import BillingAccount, Plan, UsagePeriod
from billing.months import month_of
from billing.periods import grant_pack
from billing.seeds import load_plans
from core import caching
from tests.billing.together import together

TIERS = ["demo", "cheap", "mid", "strong"]


@pytest.fixture
def premium(catalog):
    return Plan.objects.get(key="premium")


def test_without_a_grant_the_default_plan_holds(ana):
    free = entitlements_of(ana.pk)
    assert (free.plan, free.best_tier) == ("free", "cheap")
    assert (free.allowance_micros, free.turns_per_hour, free.turns_at_once) == (500_000, 20, 1)


def test_a_granted_plan_holds(ana, premium):
    BillingAccount.objects.create(user=ana, plan=premium)
    found = entitlements_of(ana.pk)
    assert (found.plan, found.allowance_micros, found.turns_at_once) == ("premium", 20_000_000, 4)


def test_an_empty_limit_means_no_limit(carla):
    found = entitlements_of(carla.pk)
    assert (found.allowance_micros, found.turns_per_hour, found.turns_at_once) == (None, None, None)


def test_a_grant_that_ends_brings_the_default_plan_back(carla):
    BillingAccount.objects.update(plan=None)
    assert entitlements_of(carla.pk).plan == "free"


def test_a_plan_somebody_has_cannot_be_deleted(carla):
    with pytest.raises(ProtectedError):
        Plan.objects.get(key="open").delete()


def test_there_is_one_default_plan(catalog):
    with pytest.raises(IntegrityError):
        Plan.objects.create(key="other", name="Other", is_default=True)


def test_another_default_plan_is_seen_at_once(ana, premium):
    assert entitlements_of(ana.pk).plan == "free"
    for plan, is_default in ((Plan.objects.get(key="free"), False), (premium, True)):
        plan.is_default = is_default
        plan.save()
    assert entitlements_of(ana.pk).plan == "premium"


def test_an_edited_plan_is_seen_at_once(ana):
    before = entitlements_of(ana.pk)
    free = Plan.objects.get(key="free")
    free.turns_per_hour = 7
    free.save()
    assert entitlements_of(ana.pk) == replace(before, turns_per_hour=7)


def test_plans_are_read_from_the_database_once(ana, django_assert_num_queries):
    account_of(ana.pk)
    entitlements_of(ana.pk)
    with django_assert_num_queries(1):  # the account
        entitlements_of(ana.pk)


def test_an_edit_in_another_process_is_seen_soon(ana, monkeypatch):
    monkeypatch.setattr(caching, "RECHECK_SECONDS", 0)
    entitlements_of(ana.pk)
    Plan.objects.filter(key="free").update(turns_per_hour=7)  # sends no signal here, as another process would not
    cache.set("cached_table:plans", "another process")
    assert entitlements_of(ana.pk).turns_per_hour == 7


@pytest.mark.stores
def test_an_edit_is_seen_by_whoever_looked_before_it_was_committed(ana):
    entitlements_of(ana.pk)  # account and period are made before: a second writer would have to wait
    with transaction.atomic():
        free = Plan.objects.get(key="free")
        free.turns_per_hour = 7
        free.save()
        (seen,) = together([partial(entitlements_of, ana.pk)])
        assert seen.turns_per_hour == 20
    assert entitlements_of(ana.pk).turns_per_hour == 7


@pytest.mark.parametrize("best", TIERS)
def test_a_plan_includes_its_best_tier_and_all_below(ana, best):
    allowed = replace(entitlements_of(ana.pk), best_tier=best)
    assert [tier for tier in TIERS if allowed.includes_tier(tier)] == TIERS[: TIERS.index(best) + 1]


def test_loading_plans_again_leaves_what_the_operator_changed(catalog):
    Plan.objects.filter(key="free").update(credits_per_month=9)
    load_plans()
    assert Plan.objects.get(key="free").credits_per_month == 9


def test_an_account_is_made_on_first_use_and_found_afterwards(ana):
    assert account_of(ana.pk) == account_of(ana.pk) == BillingAccount.objects.get(user=ana)


def test_a_period_is_the_month_that_holds_the_moment(ana, monkeypatch):
    monkeypatch.setattr(timezone, "now", lambda: dt.datetime(2026, 12, 31, 23, 59, 59, tzinfo=dt.UTC))
    period = current_period(account_of(ana.pk))
    assert period.period_start == dt.datetime(2026, 12, 1, tzinfo=dt.UTC)
    assert period.period_end == dt.datetime(2027, 1, 1, tzinfo=dt.UTC)


def test_a_month_begins_at_midnight_utc_wherever_the_moment_was_told():
    lima = dt.timezone(dt.timedelta(hours=-5))
    assert month_of(dt.datetime(2026, 2, 28, 20, tzinfo=lima))[0] == dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


@pytest.mark.stores
def test_a_period_asked_for_by_many_at_once_is_granted_once(ana):
    answers = together([lambda: current_period(account_of(ana.pk))] * 24)
    assert len({period.pk for period in answers}) == 1
    assert UsagePeriod.objects.count() == BillingAccount.objects.count() == 1


def test_a_better_plan_raises_the_allowance_of_the_running_month(ana, premium):
    assert allowance_of(ana.pk).allowance == 500
    account = BillingAccount.objects.get(user=ana)
    account.plan = premium
    account.save()
    assert allowance_of(ana.pk).allowance == 20_000


def test_the_allowance_counts_in_credits(api, ana):
    settled, held = uuid4(), uuid4()
    metering.reserve(ana.pk, settled, amount_micros=50_000)
    metering.settle(settled, cost_micros=12_345, usage=Usage(1, 1), label="scripted")
    metering.reserve(ana.pk, held, amount_micros=7_500)
    assert api(ana).get("/api/v1/allowance").json() == {
        "plan": "free",
        "used": 12.345,
        "reserved": 7.5,
        "allowance": 500,
        "resets_at": month_of(timezone.now())[1].strftime("%Y-%m-%dT%H:%M:%SZ"),
        "packs": [],
    }


def test_packs_that_can_pay_are_part_of_the_allowance(api, ana, at):
    at(dt.datetime(2027, 1, 15, tzinfo=dt.UTC))
    account, now = account_of(ana.pk), timezone.now()
    for micros, used, days in ((5_000_000, 1_234_567, 60), (1_000_000, 1_500_000, 30), (9_000_000, 0, 0)):
        pack = grant_pack(account, micros, now, now + dt.timedelta(days=days, microseconds=10))
        UsagePeriod.objects.filter(pk=pack.pk).update(used_micros=used)
    BillingAccount.objects.update(packs_until=now + dt.timedelta(days=61))
    at(now + dt.timedelta(hours=1))
    answer = api(ana).get("/api/v1/allowance").json()
    assert [pack["left"] for pack in answer["packs"]] == [0, 3_765.433]  # one is over, one was overdrawn
    assert answer["packs"][1]["expires_at"].startswith("2027-03-16T00:00:00")
    assert allowance_of(ana.pk).left_in_packs == 3_765.433


def test_an_unlimited_allowance_is_null(api, carla):
    assert api(carla).get("/api/v1/allowance").json()["allowance"] is None


def test_an_allowance_is_nobody_elses(api, ana, bo):
    metering.reserve(ana.pk, uuid4(), amount_micros=7_500)
    assert api(bo).get("/api/v1/allowance").json()["reserved"] == 0


def test_a_visitor_has_no_allowance(api, catalog):
    assert api().get("/api/v1/allowance").status_code == 401
