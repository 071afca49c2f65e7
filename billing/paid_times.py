"""What the payments of a subscription pay for: from when to when, and which plan. Nothing here writes a row.

A payment counts that was made, and neither given back in full nor taken back by the bank; the rules are those of
docs/adr/0017-subscriptions.md.
"""

import datetime as dt
from collections.abc import Iterable

from django.conf import settings

from billing.models import Payment, Plan, Subscription, UsagePeriod
from billing.months import add_months
from billing.periods import share


def reckon_times(anchor: dt.datetime, payments: list[Payment]) -> dt.datetime:
    """Give payments whose gateway does not say for what time they are the months they pay for; return their anchor.

    The first one's begin when it was paid, or at the anchor if that is later. Each of the others goes on where the one
    before ended; after a gap longer than the grace, the months begin anew when it was paid.
    """
    begin = end = None
    months = 0
    for payment in payments:
        if payment.is_proration or payment.paid_at is None:
            continue
        if begin is None or end is None:
            begin = end = max(payment.paid_at, anchor)
        elif payment.paid_at > end + grace():
            begin, end, months = payment.paid_at, payment.paid_at, 0
        months += payment.price.months
        payment.period_start, payment.period_end = end, add_months(begin, months)
        end = payment.period_end
    return begin or anchor


def list_counting(subscription: Subscription, payments: Iterable[Payment]) -> list[Payment]:
    """Return the payments that give something, in the order of their times. That of an upgrade gives something while
    the payment of the time it is in does, and so does what was paid with a credit for the rest of another time; an
    invoice over nothing, for a trial, pays for nothing."""
    timed = [one for one in payments if one.period_start is not None and one.period_end is not None]
    taken_back = [one for one in timed if one.status == Payment.Status.PAID and not one.counts]
    counting = [one for one in timed if one.counts and not _is_paid_with(one, taken_back)]
    regular = [
        one
        for one in counting
        if not one.is_proration
        and not (one.amount_minor == 0 and subscription.trial_end and end_of(one) <= subscription.trial_end)
    ]
    prorations = [
        one
        for one in counting
        if one.is_proration and any(start_of(base) <= start_of(one) < end_of(base) for base in regular)
    ]
    return sorted(regular + prorations, key=lambda one: (start_of(one), one.paid_at or one.created_at, one.created_at))


def _is_paid_with(payment: Payment, taken_back: list[Payment]) -> bool:
    """Whether nothing was charged for it, since the rest of a time was credited that was given back afterwards."""
    if payment.amount_minor > 0 or payment.is_proration:
        return False
    return any(start_of(one) <= start_of(payment) < end_of(one) for one in taken_back if not one.is_proration)


def credited_minor(payment: Payment) -> int:
    """Return what of a payment was made good in another one, which took the place of the rest of its time."""
    subscription = payment.subscription
    payments = subscription.payments.select_related("price__plan")
    regular = [one for one in list_counting(subscription, payments) if not one.is_proration]
    if payment not in regular:
        return 0
    begins = min(map(start_of, regular[regular.index(payment) + 1 :]), default=end_of(payment))
    rest = max(dt.timedelta(), end_of(payment) - begins)
    return share(payment.amount_minor, rest, end_of(payment) - start_of(payment)) or 0


def find_end(regular: list[Payment]) -> dt.datetime | None:
    """Return the end of what was paid, in the order of its times. A payment that begins in the middle of another one's
    time took its place, and the rest of that was made good in it: who goes from a year of one plan to a month of
    another has paid for that month."""
    ends = [
        min([end_of(one), *(start_of(other) for other in regular[place + 1 :])]) for place, one in enumerate(regular)
    ]
    return max(ends, default=None)


def plan_paid_at(counting: list[Payment], at: dt.datetime) -> Plan | None:
    """Return the plan of the latest payment whose time has begun, or of the first."""
    begun = [payment for payment in counting if start_of(payment) <= at] or counting[:1]
    return begun[-1].price.plan if begun else None


def lower_plan(plan: Plan | None, other: Plan | None) -> Plan | None:
    """Return the lower plan: what is not paid yet is neither the one that was nor a better one."""
    return min((one for one in (plan, other) if one is not None), key=lambda one: one.rank, default=None)


def was_taken_back(payments: list[Payment], paid_until: dt.datetime) -> bool:
    """Whether a later time was paid and refunded: then there is nothing to wait for."""
    return any(
        payment.status == Payment.Status.PAID
        and not payment.counts
        and payment.period_end is not None
        and payment.period_end > paid_until
        for payment in payments
    )


def was_plan_paid(payments: Iterable[Payment], period: UsagePeriod, now: dt.datetime) -> bool:
    """Whether the period's plan was ever paid for within it: if not, it was only waited for."""
    return any(
        payment.price.plan_id == period.plan_id
        and payment.paid_at is not None
        and payment.period_start is not None
        and payment.period_end is not None
        and payment.period_start <= now
        and payment.period_end > period.period_start
        for payment in payments
    )


def start_of(payment: Payment) -> dt.datetime:
    assert payment.period_start is not None
    return payment.period_start


def end_of(payment: Payment) -> dt.datetime:
    assert payment.period_end is not None
    return payment.period_end


def grace() -> dt.timedelta:
    return dt.timedelta(days=settings.GRACE_DAYS)
