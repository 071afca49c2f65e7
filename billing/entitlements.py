"""What a user may do: their plan, its limits, and the credits that are left. Every surface calls these functions."""

import datetime as dt
from dataclasses import dataclass

from django.db import IntegrityError
from django.utils import timezone

from billing.models import MICROS_PER_CREDIT, BillingAccount, Plan, UsagePeriod, month_of
from core import rows
from core.caching import CachedTable
from core.errors import NotFound

_plans = CachedTable("plans", lambda: Plan.objects.in_bulk(), Plan)

TIERS = tuple(Plan.Tier.values)
"""From the cheapest to the strongest."""


@dataclass(frozen=True, slots=True)
class Entitlements:
    """What a plan allows, as plain values. None means no limit."""

    plan: str
    allowance_micros: int | None
    turns_per_hour: int | None
    turns_at_once: int | None
    question_characters: int
    answer_tokens: int
    best_tier: str

    def includes_tier(self, tier: str) -> bool:
        return TIERS.index(tier) <= TIERS.index(self.best_tier)


@dataclass(frozen=True, slots=True)
class Allowance:
    """Credits in the current period. `allowance` None means unlimited; `reserved` is not in `used`."""

    used: float
    reserved: float
    allowance: int | None
    resets_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Budget:
    """What a user may do, and the period their work is paid from, as it was when it was read."""

    entitlements: Entitlements
    period: UsagePeriod

    @property
    def left_micros(self) -> int | None:
        """What is neither used nor reserved; None means no limit. Negative after work that cost more than was reserved
        for it."""
        return self.period.left_micros


def entitlements_of(user_id: int) -> Entitlements:
    return _entitlements(plan_of(account_of(user_id)))


def allowance_of(user_id: int) -> Allowance:
    """Return the user's credits in the current period."""
    return _allowance(period_of(user_id))


def entitlements_and_allowance_of(user_id: int) -> tuple[Entitlements, Allowance]:
    """Return both, with one reading of the period."""
    period = period_of(user_id)
    return _entitlements(plan_of(period.account)), _allowance(period)


def budget_of(user_id: int) -> Budget:
    """Return what the user may do and the period that pays for it, for `metering.reserve`."""
    period = period_of(user_id)
    return Budget(_entitlements(plan_of(period.account)), period)


def period_of(user_id: int) -> UsagePeriod:
    """Return the user's current period, with its account; both are created on first use."""
    return current_period(account_of(user_id))


def account_of(user_id: int) -> BillingAccount:
    """Return the user's account, created on first use; raises NotFound for a user who was deleted."""
    try:
        return rows.find(BillingAccount, user_id=user_id) or BillingAccount.objects.get_or_create(user_id=user_id)[0]
    except IntegrityError as error:  # of the foreign key
        raise NotFound from error


def plan_of(account: BillingAccount) -> Plan:
    """Return the plan the account was granted, else the default one."""
    plans = _plans.get()
    return plans[account.plan_id] if account.plan_id in plans else default_plan()


def default_plan() -> Plan:
    """Return the plan of everybody who was granted none: the default one, or the lowest while none is the default."""
    return min(_plans.get().values(), key=lambda plan: (not plan.is_default, plan.rank))


def plan_name_of(key: str) -> str:
    """Return the name that people see for a plan's key."""
    return next((plan.name for plan in _plans.get().values() if plan.key == key), key)


def lowest_plan_name_with(tier: str) -> str:
    """Return the name of the lowest plan whose models include a tier; empty if none does."""
    plans = sorted(_plans.get().values(), key=lambda plan: plan.rank)
    return next((plan.name for plan in plans if _entitlements(plan).includes_tier(tier)), "")


def current_period(account: BillingAccount) -> UsagePeriod:
    """Return the period that contains this moment; creating it, on first use, grants its allowance."""
    start, end = month_of(timezone.now())
    period = rows.find(UsagePeriod, account=account.pk, period_start=start)
    if period is None:
        defaults = {"period_end": end, "allowance_micros": plan_of(account).allowance_micros}
        period, _ = UsagePeriod.objects.get_or_create(account=account, period_start=start, defaults=defaults)
    period.account = account
    return _follow_plan(period)


def credits_of(micros: int) -> float:
    return micros / MICROS_PER_CREDIT


def load_plans() -> None:
    """Create the plans that do not exist; what an operator changed stays."""
    free = {"name": "Free", "is_default": True, "credits_per_month": 500, "turns_per_hour": 20, "turns_at_once": 1}
    Plan.objects.get_or_create(key="free", defaults=free)


def _follow_plan(period: UsagePeriod) -> UsagePeriod:
    """Give the period the allowance its plan has now, and return it; what was used stays used."""
    allowance = plan_of(period.account).allowance_micros
    if period.allowance_micros != allowance:
        period.allowance_micros = allowance
        period.save(update_fields=["allowance_micros"])
    return period


def _entitlements(plan: Plan) -> Entitlements:
    return Entitlements(
        plan=plan.key,
        allowance_micros=plan.allowance_micros,
        turns_per_hour=plan.turns_per_hour,
        turns_at_once=plan.turns_at_once,
        question_characters=plan.question_characters,
        answer_tokens=plan.answer_tokens,
        best_tier=plan.best_tier,
    )


def _allowance(period: UsagePeriod) -> Allowance:
    return Allowance(
        used=round(credits_of(period.used_micros), 3),
        reserved=round(credits_of(period.reserved_micros), 3),
        allowance=None if period.allowance_micros is None else period.allowance_micros // MICROS_PER_CREDIT,
        resets_at=period.period_end,
    )
