"""What a user may do: their plan, its limits, and the credits that are left. Every surface calls these functions.

Access is a function of local rows and the clock: the default plan, the one an operator granted, or the one that was
paid, whichever of the last two is higher. No gateway is asked, and nothing needs to arrive for a plan to end.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field

from django.db import IntegrityError
from django.utils import timezone

from billing.errors import ApiNotInPlan
from billing.models import BillingAccount, Plan, Subscription, UsagePeriod
from billing.months import anchored_month_of, month_of
from billing.periods import PeriodTerms, find_or_grant
from core import rows
from core.caching import CachedTable
from core.errors import NotFound
from core.money import MICROS_PER_CREDIT

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
    upload_bytes: int | None = None
    has_api: bool = True
    requests_per_minute: int | None = None
    history_days: int | None = None
    has_comparison: bool = False
    has_batches: bool = False

    def largest_file(self, of_site: int) -> int:
        """Return how many bytes a file may have, where the site takes so many."""
        return of_site if self.upload_bytes is None else min(self.upload_bytes, of_site)

    def includes_tier(self, tier: str) -> bool:
        return TIERS.index(tier) <= TIERS.index(self.best_tier)


@dataclass(frozen=True, slots=True)
class Access:
    """The plan that holds, why, and the period that pays under it. `until` None: until something is changed."""

    plan: Plan
    terms: PeriodTerms
    until: dt.datetime | None = None
    subscription: Subscription | None = None
    is_grace: bool = False


@dataclass(frozen=True, slots=True)
class PackCredits:
    """Credits of a pack that are neither used nor reserved."""

    left: float
    expires_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Allowance:
    """Credits in the current period. `allowance` None means unlimited; `reserved` is not in `used`. What was bought
    beside it is in `packs`, the first to expire first."""

    used: float
    reserved: float
    allowance: int | None
    resets_at: dt.datetime
    packs: tuple[PackCredits, ...] = ()

    @property
    def left_in_packs(self) -> float:
        return sum(pack.left for pack in self.packs)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a user may do, and what their work is paid from, as it was when it was read: the period, if it has room,
    else one of the packs, which are in the order in which they expire."""

    entitlements: Entitlements
    period: UsagePeriod
    packs: Sequence[UsagePeriod] = field(default=())

    @property
    def left_micros(self) -> int | None:
        """The most that one piece of work can be paid with: what is neither used nor reserved of the period, or of the
        fullest pack. None means no limit. Negative after work that cost more than was reserved for it."""
        left = [period.left_micros for period in (self.period, *self.packs)]
        return None if None in left else max(micros for micros in left if micros is not None)


def entitlements_of(user_id: int) -> Entitlements:
    return _entitlements(plan_of(account_of(user_id)))


def check_api(user_id: int) -> None:
    """Raise ApiNotInPlan for a user whose plan is without the API. While every plan has it, no row is read."""
    if not all(plan.has_api for plan in _plans.get().values()) and not entitlements_of(user_id).has_api:
        raise ApiNotInPlan


def requests_per_minute_of(user_id: int) -> int | None:
    """Return how many requests a minute the user's plan has; None where it has what the site gives. While no plan says
    anything else, no row is read."""
    if all(plan.requests_per_minute is None for plan in _plans.get().values()):
        return None
    return entitlements_of(user_id).requests_per_minute


def history_days_of(user_id: int) -> int | None:
    """Return for how many days after their last use the user's plan keeps conversations. While no plan has a limit, no
    row is read."""
    if all(plan.history_days is None for plan in _plans.get().values()):
        return None
    return entitlements_of(user_id).history_days


def allowance_of(user_id: int) -> Allowance:
    """Return the user's credits: in the current period, and in packs."""
    return entitlements_and_allowance_of(user_id)[1]


def entitlements_and_allowance_of(user_id: int) -> tuple[Entitlements, Allowance]:
    """Return both, with one reading of the account and its periods."""
    budget = budget_of(user_id)
    return budget.entitlements, _allowance(budget)


def budget_of(user_id: int) -> Budget:
    """Return what the user may do and what pays for it, for `metering.reserve`."""
    account = account_of(user_id)
    access = access_of(account)
    return Budget(_entitlements(access.plan), find_or_grant(account, access.terms), packs_of(account))


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
    """Return the plan that holds now."""
    return access_of(account).plan


def access_of(account: BillingAccount) -> Access:
    """Return the plan that holds now: of what was granted and what was paid the higher one, else the default. Of the
    same plan what is paid, but not its grace, which has a share of a month: a grant has all of it."""
    found = list_access(account)
    return max(found, key=_worth) if found else _default()


def list_access(account: BillingAccount) -> list[Access]:
    """Return what holds now beside the default plan: a grant, and what was paid, else what is in grace. For most people
    that is nothing."""
    now, plans, found = timezone.now(), _plans.get(), list[Access]()
    if account.plan_id in plans and (account.grant_until is None or now < account.grant_until):
        found.append(_granted(plans[account.plan_id], account.grant_until, now))
    if account.subscribed_until is not None and now < account.subscribed_until:
        subscriptions = rows.select(Subscription, {"account": account.pk, "access_until__gt": now})
        paid = [access for one in subscriptions if (access := _paid(one, plans, now)) is not None]
        found += [access for access in paid if not access.is_grace] or paid
    return found


def packs_of(account: BillingAccount) -> list[UsagePeriod]:
    """Return the packs that can pay, the first to expire first."""
    now = timezone.now()
    if account.packs_until is None or now >= account.packs_until:
        return []
    where = {"account": account.pk, "kind": UsagePeriod.Kind.PACK, "period_end__gt": now}
    packs = rows.select(UsagePeriod, where, order_by="period_end")
    return [pack for pack in packs if pack.period_start <= now]


def default_plan() -> Plan:
    """Return the plan of everybody who was granted none: the default one, or the lowest while none is the default."""
    return min(_plans.get().values(), key=lambda plan: (not plan.is_default, plan.rank))


def plan_name_of(key: str) -> str:
    """Return the name that people see for a plan's key."""
    return next((plan.shown_name for plan in _plans.get().values() if plan.key == key), key)


def lowest_plan_name_with(tier: str) -> str:
    """Return the name of the lowest plan whose models include a tier; empty if none does."""
    plans = sorted(_plans.get().values(), key=lambda plan: plan.rank)
    return next((plan.shown_name for plan in plans if _entitlements(plan).includes_tier(tier)), "")


def current_period(account: BillingAccount) -> UsagePeriod:
    """Return the period that contains this moment; creating it, on first use, grants its allowance."""
    return find_or_grant(account, access_of(account).terms)


def credits_of(micros: int) -> float:
    return micros / MICROS_PER_CREDIT


def _worth(access: Access) -> tuple[int, bool, bool]:
    return access.plan.rank, not access.is_grace, access.subscription is not None


def _default() -> Access:
    plan, (start, end) = default_plan(), month_of(timezone.now())
    return Access(plan, PeriodTerms(UsagePeriod.Kind.MONTH, start, end, end, plan.pk, plan.allowance_micros))


def _granted(plan: Plan, until: dt.datetime | None, now: dt.datetime) -> Access:
    """A granted plan gives whole calendar months, the first and the last one too."""
    start, end = month_of(now)
    terms = PeriodTerms(UsagePeriod.Kind.PAID, start, end, end, plan.pk, plan.allowance_micros)
    return Access(plan, terms, until)


def _paid(subscription: Subscription, plans: dict[int, Plan], now: dt.datetime) -> Access | None:
    begins, until = subscription.access_from, subscription.access_until
    if begins is None or until is None or not begins <= now < until:
        return None
    paid_until, trial_end = subscription.paid_until, subscription.trial_end
    if subscription.trial_start and trial_end and now < trial_end and (paid_until is None or paid_until <= trial_end):
        plan = plans.get(subscription.plan_id or 0)
        if plan is None:
            return None
        start, micros = subscription.trial_start, plan.trial_micros
        terms = PeriodTerms(UsagePeriod.Kind.PAID, start, trial_end, trial_end, None, micros)
        return Access(plan, terms, trial_end, subscription)
    is_paid = paid_until is not None and now < paid_until
    plan = plans.get((subscription.plan_id if is_paid else subscription.grace_plan_id) or 0)
    if plan is None:  # made a moment ago, in another process
        return None
    start, full_end = anchored_month_of(subscription.anchor, now)
    end = min(until, full_end)
    terms = PeriodTerms(UsagePeriod.Kind.PAID, start, end, full_end, plan.pk, plan.allowance_micros)
    return Access(plan, terms, until, subscription, is_grace=not is_paid)


def _entitlements(plan: Plan) -> Entitlements:
    return Entitlements(
        plan=plan.key,
        allowance_micros=plan.allowance_micros,
        turns_per_hour=plan.turns_per_hour,
        requests_per_minute=plan.requests_per_minute,
        turns_at_once=plan.turns_at_once,
        question_characters=plan.question_characters,
        answer_tokens=plan.answer_tokens,
        best_tier=plan.best_tier,
        upload_bytes=plan.upload_bytes,
        has_api=plan.has_api,
        history_days=plan.history_days,
        has_comparison=plan.has_comparison,
        has_batches=plan.has_batches,
    )


def _allowance(budget: Budget) -> Allowance:
    period = budget.period
    return Allowance(
        used=round(credits_of(period.used_micros), 3),
        reserved=round(credits_of(period.reserved_micros), 3),
        allowance=None if period.allowance_micros is None else period.allowance_micros // MICROS_PER_CREDIT,
        resets_at=period.period_end,
        packs=tuple(PackCredits(_credits_left(pack), pack.period_end) for pack in budget.packs),
    )


def _credits_left(pack: UsagePeriod) -> float:
    """Return what a pack can still pay, in credits: never negative, whatever its last answer cost."""
    return round(credits_of(max(0, pack.left_micros or 0)), 3)
