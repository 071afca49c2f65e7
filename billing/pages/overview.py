"""What `/billing/` shows of somebody's plan and payments."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import Q, QuerySet
from django.utils import timezone

from billing.gateways import get_gateway, list_gateways
from billing.models import AllowanceNotice, BillingAccount, Payment, Price, Subscription, UsagePeriod
from billing.pages.words import ShownPrice, describe, describe_status, show_price, title_of
from billing.purchasing import list_for_sale
from billing.standing import Standing, may_begin_when_it_ends
from core.money import format_money

PAYMENTS_SHOWN = 12
OPEN_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ShownPayment:
    payment: Payment
    what: str
    amount: str
    refunded: str
    status: str
    gateway: str

    @property
    def may_ask_for_refund(self) -> bool:
        payment = self.payment
        return payment.may_be_refunded and payment.refund_requested_at is None


@dataclass(frozen=True, slots=True)
class Choices:
    """What the present subscription can become: another price at its gateway, or what begins when it ends."""

    changes: list[ShownPrice]
    replacements: list[ShownPrice]


def list_choices(account: BillingAccount, standing: Standing) -> Choices:
    """Return what may be chosen now. Nothing while a payment is overdue or disputed."""
    subscription, prices = standing.subscription, list_for_sale()
    if subscription is None or standing.status not in ("active", "trial", "cancelled", "prepaid"):
        return Choices([], [])
    is_changeable = subscription.renews and subscription.gateway in list_gateways()
    changes = [show_price(one) for one in prices if is_changeable and _is_change(subscription, one)]
    replacements = []
    if standing.later is None and may_begin_when_it_ends(account):
        replacements = [
            show_price(one)
            for one in prices
            if one.plan_id is not None and not (subscription.renews and one.gateway == subscription.gateway)
        ]
    return Choices(changes, replacements)


def find_change(account: BillingAccount, standing: Standing, price: Price) -> Price | None:
    """Return the price that the present subscription can change to for the same plan and interval, at its gateway."""
    what = (price.plan_id, price.interval)
    changes = [shown.price for shown in list_choices(account, standing).changes]
    return next((one for one in changes if (one.plan_id, one.interval) == what), None)


def list_payments(account: BillingAccount, *, before: int | None = None) -> tuple[list[ShownPayment], int | None]:
    """Return the payments, the latest first, PAYMENTS_SHOWN of them that are older than the one named, and what to
    name for those before them."""
    found = _payments_of(account).exclude(Q(status__in=["pending", "void"], paid_at=None)).order_by("-pk")
    page = list((found.filter(pk__lt=before) if before else found)[: PAYMENTS_SHOWN + 1])
    shown = [show_payment(payment) for payment in page[:PAYMENTS_SHOWN]]
    return shown, shown[-1].payment.pk if len(page) > PAYMENTS_SHOWN else None


def list_to_pay(account: BillingAccount) -> list[ShownPayment]:
    """Return the payments that wait for their payer: for the bank's confirmation, a voucher, another card."""
    is_alive = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
    waiting = _payments_of(account).filter(is_alive, status__in=["pending", "failed"]).exclude(action="")
    waiting = waiting.exclude(subscription__status=Subscription.Status.ENDED).order_by("-pk")
    return [show_payment(payment) for payment in waiting[:OPEN_SHOWN]]


def list_notices(period: UsagePeriod) -> Sequence[AllowanceNotice]:
    """Return what was not seen yet of how much of the period is used: the last notice."""
    return list(period.notices.filter(seen_at=None).order_by("-percent")[:1])


def show_payment(payment: Payment) -> ShownPayment:
    return ShownPayment(
        payment,
        describe(payment.price),
        format_money(payment.amount_minor, payment.currency),
        format_money(payment.refunded_minor, payment.currency) if payment.refunded_minor else "",
        describe_status(payment),
        title_of(payment.gateway),
    )


def _is_change(subscription: Subscription, price: Price) -> bool:
    if price.plan_id is None or price.pk in (subscription.price_id, subscription.next_price_id):
        return False
    if (price.gateway, price.currency) != (subscription.gateway, subscription.price.currency):
        return False
    return get_gateway(price.gateway).changes_interval or price.interval == subscription.price.interval


def _payments_of(account: BillingAccount) -> QuerySet[Payment]:
    return Payment.objects.filter(subscription__account=account).select_related("price__plan", "subscription")
