"""Buying on a page: the plans on offer, the ways to pay, and what came of a checkout."""

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from django.conf import settings
from django.urls import reverse
from django.utils import timezone

from billing.entitlements import default_plan
from billing.gateways import get_gateway, list_gateways
from billing.gateways.base import Kind
from billing.models import BillingAccount, Coupon, Payment, Plan, Price, Purchase, Subscription
from billing.pages.words import ShownPrice, list_allowed, show_price
from billing.purchasing import list_for_sale

POLL_SECONDS = (2, 2, 3, 5, 8, 15, 30)
"""How long the return page waits before it looks again, each time; then a minute each time."""
MAX_POLLS = 70
"""For a little longer than an hour."""

State = Literal["done", "later", "double", "confirm", "voucher", "failed", "over", "waiting"]


@dataclass(frozen=True, slots=True)
class PlanOffer:
    """A plan, and what it costs; without a price for the plan of everybody."""

    plan: Plan
    allowed: list[str]
    price: ShownPrice | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """One way to pay: a price at a gateway, that renews or is paid once."""

    price: ShownPrice
    kind: Kind
    wants_payer_email: bool

    @property
    def key(self) -> str:
        return f"{self.price.price.pk}:{self.kind}"


@dataclass(frozen=True, slots=True)
class PurchaseOutcome:
    """What came of a checkout. `later`: it begins when the present plan ends; `double`: there was a plan already, and
    it is given back; `over`: the checkout has ended without a payment."""

    state: State
    subscription: Subscription | None = None
    payment: Payment | None = None


def list_offers(prices: Sequence[Price], currency: str, interval: str) -> list[PlanOffer]:
    """Return the plan of everybody, and those that are for sale in the currency by the interval, each with one price:
    where several gateways sell it, the checkout asks."""
    chosen: dict[int, Price] = {}
    for price in prices:
        if price.plan is not None and (price.currency, price.interval) == (currency, interval):
            cheapest = min(chosen.get(price.plan.pk, price), price, key=lambda one: one.amount_minor)
            chosen[price.plan.pk] = cheapest
    free = default_plan()
    offers = [PlanOffer(free, list_allowed(free))]
    for price in sorted(chosen.values(), key=lambda one: one.plan.rank if one.plan else 0):
        assert price.plan is not None
        offers.append(PlanOffer(price.plan, list_allowed(price.plan), show_price(price)))
    return offers


def list_packs(prices: Sequence[Price], currency: str) -> list[ShownPrice]:
    """Return the packs that are for sale in the currency, each with its cheapest price."""
    chosen: dict[tuple[int, int], Price] = {}
    for price in prices:
        if price.plan is None and price.currency == currency:
            what = (price.pack_credits, price.pack_months)
            chosen[what] = min(chosen.get(what, price), price, key=lambda one: one.amount_minor)
    return [show_price(chosen[what]) for what in sorted(chosen)]


def choose_currency(prices: Sequence[Price], asked: str, account: BillingAccount | None) -> str:
    """Return the currency to show: the one that was asked for, else the one the person has paid in, else the one of a
    gateway that takes cash, the country's own; else the first. Empty if nothing is for sale."""
    currencies = sorted({price.currency for price in prices})
    if asked in currencies:
        return asked
    paid = Payment.objects.filter(subscription__account=account, paid_at__isnull=False) if account else None
    last = paid.order_by("-paid_at").values_list("currency", flat=True).first() if paid is not None else None
    local = [price.currency for price in prices if "prepaid" in get_gateway(price.gateway).kinds]
    return next((one for one in (last, *local) if one in currencies), currencies[0] if currencies else "")


def list_ways(price: Price) -> list[Way]:
    """Return the ways to pay for what a price is for: at its own gateway first."""
    what = ("plan_id", "interval", "pack_credits", "pack_months")
    same = [one for one in list_for_sale() if all(getattr(one, name) == getattr(price, name) for name in what)]
    ways = []
    for one in sorted(same, key=lambda one: (one.pk != price.pk, one.currency != price.currency, one.gateway)):
        gateway = get_gateway(one.gateway)
        for kind in gateway.kinds:
            if (kind == "pack") == (one.plan_id is None):
                ways.append(Way(show_price(one), kind, gateway.wants_payer_email and kind == "subscription"))
    return ways


def new_nonce() -> str:
    """Return what a form is told apart by: sent twice, it begins one checkout."""
    return secrets.token_urlsafe(16)


def purchase_key(user_id: int, nonce: str, way: Way, payer_email: str, coupon: str, *, replaces: bool) -> str:
    """Return the key of the checkout that a form begins. The same form with another choice is another checkout, and so
    is one whose checkout is over."""
    what = f"{user_id}:{nonce}:{way.key}:{payer_email}:{coupon}:{replaces}"
    key = hashlib.blake2b(what.encode(), digest_size=16).hexdigest()
    is_over = Purchase.objects.filter(key=key, closed_at__isnull=False).exists()
    return secrets.token_hex(16) if is_over else key


def takes_coupons(ways: Iterable[Way]) -> bool:
    """Whether there is a coupon for one of the ways to pay."""
    gateways = {way.price.price.gateway for way in ways}
    return Coupon.objects.filter(gateway__in=gateways, is_active=True).exists()


def return_url(key: str) -> str:
    """Return where a gateway sends people back to."""
    return f"{settings.SITE_URL}{reverse('billing_return', args=[key])}"


def outcome_of(purchase: Purchase) -> PurchaseOutcome:
    """Return what came of a checkout, as our rows have it."""
    subscription = _find_bought(purchase)
    if subscription is None:
        return PurchaseOutcome("over" if purchase.closed_at else "waiting")
    payments = subscription.payments.order_by("created_at", "pk")
    if subscription.is_double:
        return PurchaseOutcome("double", subscription)
    if _gives(subscription, payments):
        return PurchaseOutcome("done", subscription)
    if subscription.renews and subscription.anchor > timezone.now():
        return PurchaseOutcome("later", subscription)
    last = payments.last()
    if last is not None and last.status != Payment.Status.VOID:
        if last.action in (Payment.Action.CONFIRM, Payment.Action.VOUCHER):
            return PurchaseOutcome(
                "confirm" if last.action == Payment.Action.CONFIRM else "voucher", subscription, last
            )
        if last.status == Payment.Status.FAILED:
            return PurchaseOutcome("failed", subscription, last)
    return PurchaseOutcome(
        "over" if subscription.status == Subscription.Status.ENDED else "waiting", subscription, last
    )


def takes_an_hour(purchase: Purchase) -> bool:
    """Whether the first payment comes within an hour, and not at once."""
    gateway = purchase.price.gateway
    return purchase.kind == "subscription" and gateway in list_gateways() and get_gateway(gateway).wants_payer_email


def poll_after(tries: int) -> int | None:
    """Return the seconds until the page looks again after so many times; None when it stops."""
    if tries >= MAX_POLLS:
        return None
    return POLL_SECONDS[tries] if tries < len(POLL_SECONDS) else 60


def _find_bought(purchase: Purchase) -> Subscription | None:
    """Return what the checkout became: by the gateway's name for it, else the first of its kind that came after."""
    found = Subscription.objects.filter(
        account=purchase.account_id, gateway=purchase.price.gateway, kind=purchase.kind
    ).select_related("plan", "price__plan")
    same = found.filter(reference=purchase.reference_id).first()
    return same or found.filter(created_at__gte=purchase.created_at, price=purchase.price_id).order_by("pk").first()


def _gives(subscription: Subscription, payments: Iterable[Payment]) -> bool:
    if subscription.kind == Subscription.Kind.PACK:
        return any(payment.counts for payment in payments)
    return subscription.gives(timezone.now())
