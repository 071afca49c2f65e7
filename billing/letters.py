"""Mails about money: a row for each, written with the fact it is about or by the clock, and sent by a worker, once.

`note_purchase` is called in the transaction that writes the fact. What is no longer true when its turn comes is not
sent.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence

from django.conf import settings
from django.db.models import Q
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone, translation

from billing import usage
from billing.entitlements import default_plan
from billing.models import BillingAccount, Letter, Payment, Subscription, UsagePeriod
from billing.months import month_of
from core.mail import send_mail
from core.money import format_money
from core.sweeps import PAGE_SIZE, guard, iterate_pages

TRIAL_NOTICE = dt.timedelta(days=3)
"""How long before its end people are told of it."""
HISTORY = dt.timedelta(days=7)
"""What was paid so long before we heard of the purchase is history, and nobody is told of it."""
STATEMENT_DAYS = 7
"""Up to this day of a month, the statement of the month before is written."""

Kind = Letter.Kind


def note_purchase(subscription: Subscription, payments: Sequence[Payment]) -> None:
    """Write down which mails follow of a purchase as it is now. The caller holds the account's lock."""
    about: list[Letter] = []
    for payment in payments:
        if payment.paid_at is None or payment.paid_at >= subscription.created_at - HISTORY:
            about += _about_payment(subscription, payment)
    if payments and subscription.status != Subscription.Status.ENDED:
        about += _about_unpaid(subscription, max(payments, key=_moment_of))
    known = set(Letter.objects.filter(subscription=subscription).values_list("key", flat=True))
    if not any(key.startswith(f"{Kind.CANCELLED}:") for key in known) or subscription.status != "ended":
        about += _about_cancellation(subscription)
    _write([letter for letter in about if letter.key not in known])


def note_refusal(payment: Payment) -> None:
    """Write down that the payer is told why they do not get their money back."""
    _write([_letter(Kind.NO_REFUND, payment.subscription, f"{payment.pk}", payment)])


def note_due() -> None:
    """Write down what follows of the clock: trials that are about to end, renewals that are not paid yet."""
    now = timezone.now()
    live = Subscription.objects.filter(ended_at=None, cancels_at=None, is_double=False, is_frozen=False)
    trials = live.filter(status="trialing", trial_start__isnull=False, trial_end__range=(now, now + TRIAL_NOTICE))
    about = [_letter(Kind.TRIAL_ENDS, one, f"{one.pk}:{one.trial_end:%Y%m%d}") for one in trials[:PAGE_SIZE]]
    for one in live.filter(paid_until__lte=now, access_until__gt=now)[:PAGE_SIZE]:
        if stage := _stage_of_grace(one, now):
            about.append(_letter(Kind.GRACE, one, f"{one.pk}:{one.paid_until:%Y%m%d}:{stage}"))
    _write(about)


def note_statements() -> None:
    """Write down, in the first days of a month, a statement of the month before for whoever paid for some of it."""
    now = timezone.now()
    if now.day > STATEMENT_DAYS:
        return
    start, end = month_of(now - dt.timedelta(days=STATEMENT_DAYS))
    paid = UsagePeriod.objects.exclude(kind=UsagePeriod.Kind.MONTH).filter(
        period_start__lt=end, period_end__gt=start, account__user__isnull=False
    )
    for page in iterate_pages(BillingAccount.objects.filter(pk__in=paid.values("account")).only("pk", "created_at")):
        _write(
            Letter(key=f"{Kind.STATEMENT}:{one.pk}:{start:%Y-%m}", account=one, kind=Kind.STATEMENT, month=start)
            for one in page
        )


def send_due() -> None:
    """Send what was written down and not sent yet, the oldest first."""
    waiting = Letter.objects.due().select_related("account__user", "payment__price__plan", "subscription__price__plan")
    for letter in waiting[:PAGE_SIZE]:
        with guard("letter", letter=letter.pk):
            if letter.claim():
                if _is_true(letter):
                    _send(letter)
                letter.finish()


def _about_payment(subscription: Subscription, payment: Payment) -> Iterator[Letter]:
    if payment.status == Payment.Status.PAID and payment.amount_minor > 0:
        yield _letter(Kind.RECEIPT, subscription, f"{payment.pk}", payment)
    if payment.refunded_minor > 0:
        yield _letter(Kind.REFUNDED, subscription, f"{payment.pk}:{payment.refunded_minor}", payment)


def _about_unpaid(subscription: Subscription, last: Payment) -> Iterator[Letter]:
    """What is to be done about the last payment, if it is not paid. Attempts at one renewal are one matter."""
    if last.status not in (Payment.Status.PENDING, Payment.Status.FAILED):
        return
    if last.action == Payment.Action.VOUCHER:
        yield _letter(Kind.VOUCHER, subscription, f"{last.pk}", last)
    elif last.action == Payment.Action.CONFIRM:
        yield _letter(Kind.CONFIRM, subscription, f"{last.pk}", last)
    elif last.status == Payment.Status.FAILED:
        since = f"{subscription.paid_until:%Y%m%d}" if subscription.paid_until else "first"
        yield _letter(Kind.FAILED, subscription, f"{subscription.pk}:{since}", last)


def _about_cancellation(subscription: Subscription) -> Iterator[Letter]:
    until, is_over = subscription.access_until, subscription.status == Subscription.Status.ENDED
    if subscription.kind != Subscription.Kind.SUBSCRIPTION or subscription.is_double:
        return
    if until is not None and until > subscription.created_at and (is_over or subscription.cancels_at):
        yield _letter(Kind.CANCELLED, subscription, f"{subscription.pk}:{until:%Y%m%d}")


def _stage_of_grace(subscription: Subscription, now: dt.datetime) -> str:
    """Return how far the grace has come: half of it, or its last day; empty before."""
    begun, ends = subscription.paid_until, subscription.access_until
    assert begun is not None
    assert ends is not None
    if now >= ends - dt.timedelta(days=1):
        return "last"
    return "half" if now >= begun + (ends - begun) / 2 else ""


def _moment_of(payment: Payment) -> dt.datetime:
    return payment.period_start or payment.paid_at or payment.created_at


def _letter(kind: Letter.Kind, subscription: Subscription, about: str, payment: Payment | None = None) -> Letter:
    return Letter(
        key=f"{kind}:{about}",
        account_id=subscription.account_id,
        kind=kind,
        payment=payment,
        subscription=subscription,
    )


def _write(about: Iterable[Letter]) -> None:
    """Save the mails that were not written down before."""
    Letter.objects.bulk_create(list(about), ignore_conflicts=True)


def _is_true(letter: Letter) -> bool:
    """Return whether there is still somebody to tell, and still something to do about it."""
    payment, subscription = letter.payment, letter.subscription
    if letter.account.user is None:
        return False
    if letter.kind in (Kind.CONFIRM, Kind.VOUCHER, Kind.FAILED):
        return payment is not None and payment.status in (Payment.Status.PENDING, Payment.Status.FAILED)
    if letter.kind == Kind.TRIAL_ENDS:
        return subscription is not None and subscription.renews
    if letter.kind == Kind.GRACE:
        paid_until = subscription.paid_until if subscription is not None and subscription.renews else None
        return paid_until is not None and paid_until <= timezone.now()
    if letter.kind == Kind.CANCELLED:
        return subscription is not None and not subscription.renews
    return True


def _send(letter: Letter) -> None:
    user = letter.account.user
    assert user is not None
    with translation.override(user.locale), timezone.override(user.zone):
        text = render_to_string(f"billing/mail/{letter.kind}.txt", _context(letter)).strip()
    subject, _, body = text.partition("\n")
    send_mail.delay(subject=subject.strip(), body=body.strip() + "\n", to=[user.email])


def _context(letter: Letter) -> dict[str, object]:
    payment, subscription = letter.payment, letter.subscription
    bought = payment or subscription
    context: dict[str, object] = {
        "site_name": settings.SITE_NAME,
        "billing_url": settings.SITE_URL + reverse("billing"),
        "usage_url": settings.SITE_URL + reverse("usage"),
        "payment": payment,
        "subscription": subscription,
        "price": bought.price if bought else None,
        "days_after": default_plan().history_days,
    }
    if payment is not None:
        context["amount"] = format_money(payment.amount_minor, payment.currency)
        context["refunded"] = format_money(payment.refunded_minor, payment.currency)
    elif subscription is not None:
        context["amount"] = format_money(subscription.price.amount_minor, subscription.price.currency)
    if letter.month is not None:
        context |= _statement(letter.account, letter.month)
    return context


def _statement(account: BillingAccount, month: dt.datetime) -> dict[str, object]:
    start, end = month_of(month)
    first, last = start.date(), end.date() - dt.timedelta(days=1)
    lines = usage.list_usage(account, first, last, "model")
    is_of_month = Q(paid_at__gte=start, paid_at__lt=end)
    payments = Payment.objects.filter(is_of_month, subscription__account=account, amount_minor__gt=0)
    return {
        "month": first,
        "total": usage.sum_up(lines),
        "lines": usage.group(lines, "model"),
        "payments": [(format_money(one.amount_minor, one.currency), one) for one in payments.order_by("paid_at")],
    }
