"""What the operator earns and spends in a month (UTC): for the dashboard, in a bounded number of statements.

What a payment earns is its amount without tax and refunds, spread evenly over the time it pays for; a pack's, when it
is paid. MRR (monthly recurring revenue) is what the times that run at one moment cost a month, without tax: as they
were paid, and so with their discounts, a year's as a twelfth. Trials earn nothing.

Sums of a currency are Decimals in its own unit; `Exchange` makes them sums in the site's. All that suppliers take is in
micro-US-dollars until then.
"""

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from django.conf import settings
from django.db.models import Count, F, Q, QuerySet, Sum
from django.utils import timezone

from billing.models import ExchangeRate, Payment, Plan, Reversal, Spending, Subscription, UsageRecord
from billing.months import month_of
from core.money import to_decimal

RENEWAL = dt.timedelta(hours=2)
"""How long after a time has ended its renewal may be on its way: Stripe charges about an hour later."""
LONGEST = dt.timedelta(days=367)
"""The longest time that a payment pays for."""
MAX_SPENDERS = 500
"""Among how many of those whose answers cost most the unprofitable people are looked for."""
PEOPLE_SHOWN = 20

ZERO = Decimal(0)
Sums = Mapping[str, Decimal]
"""Amounts by currency."""


@dataclass(frozen=True, slots=True)
class Month:
    """A calendar month (UTC); `end` is the first instant of the next, `until` where it is looked at so far."""

    start: dt.datetime
    end: dt.datetime

    @classmethod
    def containing(cls, moment: dt.datetime) -> "Month":
        return cls(*month_of(moment))

    @property
    def until(self) -> dt.datetime:
        return min(self.end, timezone.now())


@dataclass(slots=True)
class Exchange:
    """The rates that hold on a day; `missing` are the currencies that have none, and count for nothing."""

    rates: dict[str, Decimal]
    missing: set[str] = field(default_factory=set)

    @classmethod
    def on(cls, day: dt.date) -> "Exchange":
        """Return the latest rates up to the day, or the first ones after it."""
        rates: dict[str, Decimal] = {}
        for rate in ExchangeRate.objects.order_by("since"):
            if rate.since <= day or rate.currency not in rates:
                rates[rate.currency] = rate.rate
        return cls(rates | {settings.SITE_CURRENCY: Decimal(1)})

    def convert(self, sums: Sums) -> Decimal:
        total = ZERO
        for currency, amount in sums.items():
            if amount and currency not in self.rates:
                self.missing.add(currency)
            total += amount * self.rates.get(currency, ZERO)
        return total

    def convert_micros(self, micros_usd: int) -> Decimal:
        return self.convert({"USD": Decimal(micros_usd).scaleb(-6)})


@dataclass(frozen=True, slots=True)
class Standings:
    """Who paid for the moment `at`, and what that is a month."""

    accounts: frozenset[int]
    monthly: Sums


@dataclass(frozen=True, slots=True)
class Receipts:
    """What was paid in a month through one gateway in one currency. `refunded` is what was given back in it, and
    `disputed` what banks took back, whenever that had been paid."""

    gateway: str
    currency: str
    payments: int
    gross: Decimal
    tax: Decimal
    refunded: Decimal
    disputed: Decimal

    @property
    def net(self) -> Decimal:
        return self.gross - self.tax - self.refunded - self.disputed


@dataclass(frozen=True, slots=True)
class Margin:
    """What a plan, a model or a person earned and cost, in the site's currency, and what was used of credits."""

    key: int | str
    answers: int
    used_micros: int
    earned: Decimal
    cost: Decimal

    @property
    def left(self) -> Decimal:
        return self.earned - self.cost


@dataclass(frozen=True, slots=True)
class Movement:
    """How many people subscribed at the end of a month, or do now, and how that came about.

    `in_grace` are those whose renewal is not paid yet: neither subscribed nor gone.
    """

    active: int
    new: int
    churned: int
    in_grace: int
    trials: int


@dataclass(frozen=True, slots=True)
class MonthReport:
    """A month. Decimals are in the site's currency."""

    month: Month
    mrr_before: Decimal
    mrr: Decimal
    movement: Movement
    receipts: list[Receipts]
    received: Decimal
    earned: Decimal
    cost: Decimal
    suppliers: list[tuple[str, Decimal]]
    by_plan: list[Margin]
    by_model: list[Margin]
    by_person: list[Margin]
    missing_rates: list[str]

    @property
    def left(self) -> Decimal:
        return self.earned - self.cost

    @property
    def own_cost(self) -> Decimal:
        """What suppliers took for nobody's answer: titles, and requests that gave none."""
        return self.cost - sum((margin.cost for margin in self.by_plan), ZERO)


PACKS, TRIALS = "packs", "trials"
"""What is used and earned beside the plans."""


def report_month(month: Month) -> MonthReport:
    """Return the figures of a month, up to now if it is running."""
    exchange = Exchange.on((month.until - dt.timedelta(microseconds=1)).date())
    before, now = standings_at(month.start), standings_at(month.until)
    earnings = list(_list_earnings(month))
    usage = _list_usage(month)
    receipts = list_receipts(month)
    by_plan = _margins_by_plan(earnings, usage, exchange)
    suppliers = _cost_by_supplier(month, exchange)
    return MonthReport(
        month=month,
        mrr_before=exchange.convert(before.monthly),
        mrr=exchange.convert(now.monthly),
        movement=_movement(before, now, month.until),
        receipts=receipts,
        received=sum((exchange.convert({one.currency: one.net}) for one in receipts), ZERO),
        earned=sum((margin.earned for margin in by_plan), ZERO),
        cost=sum((cost for _name, cost in suppliers), ZERO),
        suppliers=suppliers,
        by_plan=by_plan,
        by_model=_margins_by_model(by_plan, usage, exchange),
        by_person=_list_unprofitable(month, earnings, exchange),
        missing_rates=sorted(exchange.missing),
    )


def standings_at(moment: dt.datetime) -> Standings:
    """Return who had paid for a moment. Of a subscription the last time that had begun counts, with its upgrades."""
    times = _times_paid().filter(
        period_start__lte=moment, period_end__gt=moment - RENEWAL, period_end__lte=moment + LONGEST
    )
    bases: dict[int, _Time] = {}
    upgrades: list[_Time] = []
    for time in _read(times):
        if time.is_proration:
            upgrades.append(time)
        elif time.subscription not in bases or time.start > bases[time.subscription].start:
            bases[time.subscription] = time
    monthly: dict[str, Decimal] = defaultdict(Decimal)
    for base in bases.values():
        if base.renews:
            monthly[base.currency] += base.net / base.months
    for upgrade in upgrades:
        found = bases.get(upgrade.subscription)
        if found is not None and found.renews and found.start <= upgrade.start < found.end:
            whole = upgrade.net * _part(found.end - found.start, upgrade.end - upgrade.start)
            monthly[upgrade.currency] += whole / found.months
    return Standings(frozenset(base.account for base in bases.values()), dict(monthly))


def payments_of(month: Month) -> QuerySet[Payment]:
    """Return what was paid in a month; an invoice over nothing is no payment."""
    paid = Payment.objects.filter(status=Payment.Status.PAID, amount_minor__gt=0)
    return paid.filter(paid_at__gte=month.start, paid_at__lt=month.until)


def reversals_of(month: Month) -> QuerySet[Reversal]:
    """Return what went back in a month, whenever it had been paid."""
    return Reversal.objects.filter(at__gte=month.start, at__lt=month.until)


def list_receipts(month: Month) -> list[Receipts]:
    """Return what was paid in a month, and what went back in it, by gateway and currency."""
    paid = payments_of(month).values_list("gateway", "currency")
    sums = paid.annotate(number=Count("pk"), gross=Sum("amount_minor"), tax=Sum("tax_minor"))
    back = reversals_of(month).values_list("payment__gateway", "payment__currency", "kind")
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for gateway, currency, number, gross, tax in sums.order_by():
        found[gateway, currency].update(payments=number, gross=gross, tax=tax)
    for gateway, currency, kind, amount in back.annotate(amount=Sum("amount_minor")).order_by():
        found[gateway, currency][kind] += amount
    return [_receipts(gateway, currency, sums) for (gateway, currency), sums in sorted(found.items())]


def _receipts(gateway: str, currency: str, sums: Counter[str]) -> Receipts:
    names = ("gross", "tax", Reversal.Kind.REFUND, Reversal.Kind.DISPUTE)
    return Receipts(gateway, currency, sums["payments"], *(to_decimal(sums[name], currency) for name in names))


# --- Payments as times ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Time:
    """What one payment pays for. `net` is without tax, and without what was given back if that was asked for."""

    account: int
    subscription: int
    plan: int
    currency: str
    net: Decimal
    months: int
    start: dt.datetime
    end: dt.datetime
    is_proration: bool
    renews: bool


_COUNTS = Q(status=Payment.Status.PAID, dispute__in=("", Payment.Dispute.WON), subscription__is_double=False)
_IS_REFUNDED = Q(amount_minor__gt=0, refunded_minor__gte=F("amount_minor"))
_IS_OF_TRIAL = Q(amount_minor=0, subscription__trial_end__isnull=False, period_end__lte=F("subscription__trial_end"))
_MONTHS = {"month": 1, "year": 12}


def _times_paid() -> QuerySet[Payment]:
    """Return the payments that pay for a time of a plan: what `subscriptions` counts, and nothing that is disputed."""
    plans = Payment.objects.filter(_COUNTS, price__plan__isnull=False, period_start__isnull=False)
    return plans.exclude(_IS_REFUNDED).exclude(_IS_OF_TRIAL)


def _read(payments: QuerySet[Payment], *, is_after_refunds: bool = False) -> Iterator[_Time]:
    rows = payments.values_list(
        *("subscription__account_id", "subscription_id", "price__plan_id", "currency", "amount_minor", "tax_minor"),
        *("refunded_minor", "price__interval", "period_start", "period_end", "is_proration", "subscription__kind"),
    )
    for account, subscription, plan, currency, amount, tax, refunded, interval, start, end, is_proration, kind in rows:
        net = to_decimal(amount - tax, currency)
        if is_after_refunds and refunded:
            net *= Decimal(amount - refunded) / amount
        renews = kind == Subscription.Kind.SUBSCRIPTION
        months = _MONTHS[interval]
        yield _Time(account, subscription, plan, currency, net, months, start, end, is_proration, renews)


def _part(time: dt.timedelta, length: dt.timedelta) -> Decimal:
    """Return a time as a multiple of a length."""
    microsecond = dt.timedelta(microseconds=1)
    return Decimal(time // microsecond) / (length // microsecond)


# --- Earned and spent -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Earning:
    account: int
    plan: int | str
    currency: str
    amount: Decimal


@dataclass(frozen=True, slots=True)
class _Usage:
    plan: int | str
    model: str
    answers: int
    used_micros: int
    spent_micros: int


def _list_earnings(month: Month) -> Iterator[_Earning]:
    """Yield what each payment earned in the month: of its time, the part that lies within."""
    times = _times_paid().filter(
        period_end__gt=month.start, period_start__lt=month.until, period_end__lt=month.until + LONGEST
    )
    for time in _read(times, is_after_refunds=True):
        within = min(time.end, month.until) - max(time.start, month.start)
        yield _Earning(time.account, time.plan, time.currency, time.net * _part(within, time.end - time.start))
    packs = Payment.objects.filter(_COUNTS, price__plan=None, paid_at__gte=month.start, paid_at__lt=month.until)
    rows = packs.values_list("subscription__account_id", "currency", "amount_minor", "tax_minor", "refunded_minor")
    for account, currency, amount, tax, refunded in rows:
        if amount:
            net = to_decimal(amount - tax, currency) * Decimal(amount - refunded) / amount
            yield _Earning(account, PACKS, currency, net)


def _list_usage(month: Month) -> list[_Usage]:
    sums = (
        _records_of(month)
        .values("period__kind", "period__plan_id", "label")
        .annotate(answers=Count("pk"), used=Sum("cost_micros"), spent=Sum("spent_micros"))
        .order_by()
    )
    default = Plan.objects.filter(is_default=True).values_list("pk", flat=True).first()
    beside = {"pack": PACKS, "paid": TRIALS, "month": default or TRIALS}
    return [
        _Usage(
            one["period__plan_id"] or beside[one["period__kind"]],
            one["label"],
            one["answers"],
            one["used"],
            one["spent"],
        )
        for one in sums
    ]


def _records_of(month: Month) -> QuerySet[UsageRecord]:
    return UsageRecord.objects.filter(recorded_at__gte=month.start, recorded_at__lt=month.until)


def _cost_by_supplier(month: Month, exchange: Exchange) -> list[tuple[str, Decimal]]:
    days = Spending.objects.filter(day__gte=month.start.date(), day__lt=month.end.date())
    sums = days.values_list("supplier").annotate(spent=Sum("used_micros")).order_by("-spent", "supplier")
    return [(supplier, exchange.convert_micros(spent)) for supplier, spent in sums]


def _margins_by_plan(earnings: list[_Earning], usage: list[_Usage], exchange: Exchange) -> list[Margin]:
    earned: dict[int | str, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for earning in earnings:
        earned[earning.plan][earning.currency] += earning.amount
    used: dict[int | str, list[_Usage]] = defaultdict(list)
    for one in usage:
        used[one.plan].append(one)
    margins = [_margin(key, used[key], exchange.convert(earned[key]), exchange) for key in {*earned, *used}]
    return sorted(margins, key=lambda margin: (-margin.left, str(margin.key)))


def _margins_by_model(by_plan: list[Margin], usage: list[_Usage], exchange: Exchange) -> list[Margin]:
    """Share out what each plan earned among the models, by the credits that were used of them."""
    earned: dict[str, Decimal] = defaultdict(Decimal)
    used: dict[str, list[_Usage]] = defaultdict(list)
    of_plan = {margin.key: margin for margin in by_plan}
    for one in usage:
        used[one.model].append(one)
        plan = of_plan[one.plan]
        if plan.used_micros:
            earned[one.model] += plan.earned * one.used_micros / plan.used_micros
    margins = [_margin(model, lines, earned[model], exchange) for model, lines in used.items()]
    return sorted(margins, key=lambda margin: (-margin.left, str(margin.key)))


def _margin(key: int | str, usage: Iterable[_Usage], earned: Decimal, exchange: Exchange) -> Margin:
    lines = list(usage)
    cost = exchange.convert_micros(sum(line.spent_micros for line in lines))
    used_micros = sum(line.used_micros for line in lines)
    return Margin(key, sum(line.answers for line in lines), used_micros, earned, cost)


def _list_unprofitable(month: Month, earnings: list[_Earning], exchange: Exchange) -> list[Margin]:
    """Return the people, by their account's number, who cost more than they pay: the worst first."""
    spenders = (
        _records_of(month)
        .values("period__account_id")
        .annotate(answers=Count("pk"), used=Sum("cost_micros"), spent=Sum("spent_micros"))
        .filter(spent__gt=0)
        .order_by("-spent", "period__account_id")[:MAX_SPENDERS]
    )
    earned: dict[int, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for earning in earnings:
        earned[earning.account][earning.currency] += earning.amount
    margins = []
    for one in spenders:
        account = one["period__account_id"]
        paid, cost = exchange.convert(earned[account]), exchange.convert_micros(one["spent"])
        margins.append(Margin(account, one["answers"], one["used"], paid, cost))
    losses = [margin for margin in margins if margin.left < 0]
    return sorted(losses, key=lambda margin: margin.left)[:PEOPLE_SHOWN]


def _movement(before: Standings, now: Standings, moment: dt.datetime) -> Movement:
    """Who is in grace is known of the present alone: of a month that is over, those who still are."""
    present = timezone.now()
    waited_for = Subscription.objects.filter(
        paid_until__lte=moment, access_until__gt=present, cancels_at=None, is_double=False
    ).exclude(kind=Subscription.Kind.PACK)
    in_grace = set(waited_for.values_list("account_id", flat=True)) - now.accounts
    trials = Subscription.objects.filter(
        Q(ended_at=None) | Q(ended_at__gt=moment), trial_start__lte=moment, trial_end__gt=moment, is_double=False
    )
    return Movement(
        active=len(now.accounts),
        new=len(now.accounts - before.accounts),
        churned=len(before.accounts - now.accounts - in_grace),
        in_grace=len(in_grace),
        trials=len(set(trials.values_list("account_id", flat=True)) - now.accounts),
    )
