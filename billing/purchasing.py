"""What somebody does with their subscription: buy, change, cancel, resume, ask for their money back.

Each function checks under the account's lock, writes down what is to be done, and only then, without a transaction,
tells the gateway. What came of it is what the gateway says afterwards. However much is asked for that, somebody waits
for the page, and so all of it takes as long as one gateway is waited for (`one_wait`).
"""

import datetime as dt
from dataclasses import dataclass
from typing import Literal, cast
from uuid import uuid4

from allauth.account.models import EmailAddress
from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext, gettext_noop

from accounts.models import User
from billing import inbox, outbox
from billing.entitlements import account_of
from billing.errors import (
    AlreadySubscribed,
    GatewayDeclined,
    GatewaySilent,
    NotForSale,
    NothingToRefund,
    NotSubscribed,
    OtherCurrency,
    PaymentOverdue,
    UnknownCoupon,
)
from billing.gateways import get_gateway, list_gateways
from billing.gateways.base import (
    SECONDS,
    ChangePreview,
    GatewayRefused,
    GatewayUnavailable,
    Kind,
    Order,
    Reference,
    one_wait,
)
from billing.models import BillingAccount, Coupon, GatewayTask, Payment, Plan, Price, Purchase, Subscription
from billing.subscriptions import add_task, lock_account, reference_of
from core.alerts import alert
from core.errors import Conflict, NotFound

WAITED_FOR = dt.timedelta(days=7)
"""For how long a first payment is waited for: a voucher has expired by then, and a checkout was left."""


@dataclass(frozen=True, slots=True)
class Change:
    """What another price would mean. `preview` is what an upgrade costs now; without one, it begins at `starts_at`."""

    price: Price
    starts_at: dt.datetime
    preview: ChangePreview | None


def list_live(account: BillingAccount) -> list[Subscription]:
    """Return what is live, the one that counts first: what gives something now, what renews, what gives most."""
    now = timezone.now()
    live = account.subscriptions.select_related("plan", "price__plan", "next_price__plan").live(now)
    rank = {one.pk: one.plan.rank if one.plan else -1 for one in live}
    return sorted(live, key=lambda one: (one.gives(now), one.renews, rank[one.pk], one.pk), reverse=True)


def find_live(account: BillingAccount) -> Subscription | None:
    """Return the subscription that is live, the one that counts if there should be two."""
    return next(iter(list_live(account)), None)


def find_free_moment(account: BillingAccount) -> dt.datetime | None:
    """Return when all that is live is over, so that something else may begin; None where that cannot be told, because
    nothing is paid yet, or it is overdue or disputed."""
    live = list_live(account)
    ends = [one.paid_until for one in live if not (one.is_frozen or is_overdue(one))]
    known = [end for end in ends if end is not None]
    return max(known) if live and len(known) == len(live) else None


def find_waiting(account: BillingAccount) -> Subscription | None:
    """Return what was bought last and waits for its first payment. What is paid once waits while it can be paid: a
    voucher that has expired leaves nothing to wait for."""
    since = timezone.now() - WAITED_FOR
    begun = account.subscriptions.filter(
        status=Subscription.Status.PENDING, ended_at=None, is_double=False, anchor__gt=since
    )
    can_be_paid = Q(kind=Subscription.Kind.SUBSCRIPTION) | Q(payments__status=Payment.Status.PENDING)
    begun = begun.exclude(kind=Subscription.Kind.PACK).filter(can_be_paid)
    return begun.select_related("plan", "price__plan").order_by("-pk").first()


def is_overdue(subscription: Subscription) -> bool:
    """Whether it would renew, and what was paid, or tried, is over."""
    return subscription.renews and subscription.held_until is not None and subscription.held_until <= timezone.now()


def list_for_sale() -> list[Price]:
    """Return the prices that can be paid now, at the gateways this site has."""
    found = Price.objects.filter(is_for_sale=True, gateway__in=list_gateways()).select_related("plan")
    return list(found.order_by("plan__rank", "pack_credits", "currency", "interval"))


def has_tried(account: BillingAccount) -> bool:
    """Whether they had their trial, or a plan before: there is no trial then."""
    return account.trial_at is not None or account.subscriptions.exclude(kind=Subscription.Kind.PACK).exists()


def may_try(account: BillingAccount, user: User) -> bool:
    """Whether they may have a trial: once, with an address that is confirmed, before they ever paid."""
    if has_tried(account):
        return False
    return bool(EmailAddress.objects.filter(user=user, email__iexact=user.email, verified=True).exists())


@one_wait()
def start_checkout(
    user: User,
    price_id: int,
    kind: Kind,
    *,
    return_url: str,
    key: str = "",
    payer_email: str = "",
    coupon_code: str = "",
    replaces: bool = False,
) -> Purchase:
    """Begin a checkout, and return it with the address where it is paid. The same key again returns the same one.

    With `replaces`, what is bought begins when the paid time of the live subscription ends, which is cancelled for
    then as soon as this one is bought. Raises AlreadySubscribed, PaymentOverdue, NotForSale, OtherCurrency,
    UnknownCoupon, GatewaySilent, GatewayDeclined, and Conflict for a key of somebody else.
    """
    price = _get_for_sale(price_id, kind)
    coupon = _get_coupon(coupon_code, price)
    account = account_of(user.pk)
    key = key or uuid4().hex
    known = Purchase.objects.filter(key=key).first()
    if known is not None and known.account_id != account.pk:
        raise Conflict
    if known is not None and known.url:
        return known
    with one_wait(SECONDS / 2):  # the other gateway may be the silent one
        _end_open_checkouts(account, kind, but=key)
    purchase = known or _write_purchase(account, user, price, kind, key, payer_email, coupon, replaces=replaces)
    return _begin_at_gateway(purchase, user, return_url)


def preview_change(user: User, price_id: int) -> Change:
    """Return what changing to another price means. Raises NotSubscribed, PaymentOverdue, NotForSale, OtherCurrency,
    GatewaySilent and GatewayDeclined."""
    subscription = _get_changeable(account_of(user.pk))
    price = _get_for_sale(price_id, "subscription")
    if price.gateway != subscription.gateway or price.pk == subscription.price_id:
        raise NotForSale
    if price.currency != subscription.price.currency:
        raise OtherCurrency
    starts_at = subscription.held_until or timezone.now()
    gateway = get_gateway(subscription.gateway)
    if not _counts_at_once(subscription, price):
        return Change(price, starts_at, None)
    try:
        preview = gateway.preview_change(subscription.reference, price.reference)
    except GatewayUnavailable as error:
        raise GatewaySilent from error
    except GatewayRefused as error:
        raise GatewayDeclined from error
    return Change(price, timezone.now(), preview)


@one_wait()
def change(user: User, price_id: int, preview: ChangePreview | None = None) -> Subscription:
    """Change to another price: an upgrade at once, for what its preview says; anything else at the end of what is paid.

    Raises what `preview_change` does.
    """
    planned = preview_change(user, price_id) if preview is None else None
    subscription = _get_changeable(account_of(user.pk))
    price = _get_for_sale(price_id, "subscription")
    preview = preview or (planned.preview if planned else None)
    gateway = get_gateway(subscription.gateway)
    try:
        if preview is not None and _counts_at_once(subscription, price):
            key = f"change:{subscription.pk}:{price.pk}:{preview.proration_date.timestamp():.0f}"
            gateway.change_price(subscription.reference, price.reference, preview, key=key)
        else:
            key = f"change:{subscription.pk}:{price.pk}:{_moment(subscription)}"
            gateway.change_price_at_period_end(subscription.reference, price.reference, key=key)
    except GatewayUnavailable as error:
        _ask_again(subscription, f"{key}:silent")
        raise GatewaySilent from error
    except GatewayRefused as error:
        raise GatewayDeclined from error
    _ask_again(subscription, key)
    subscription.refresh_from_db()
    return subscription


@one_wait()
def cancel(user: User) -> bool:
    """Cancel whatever would be charged again, or waits for its first payment: at the end of what is paid, and at once
    what is overdue or was to begin later; open invoices of it are void. Return whether it is done: if not, it will be.
    Raises NotSubscribed, and GatewayDeclined."""
    account = account_of(user.pk)
    with transaction.atomic():
        account = lock_account(account.pk)
        found = [one for one in list_live(account) if one.renews or one.status == Subscription.Status.PAUSED]
        found = found or [one for one in [find_waiting(account)] if one is not None]
        if not found:
            raise NotSubscribed
        tasks = [(_add_task_about(account, one, _how_to_cancel(one)), one) for one in found]
    try:
        done = [_carry_out(task, one) for task, one in tasks]
    except GatewayDeclined:
        if any(one.renews for one in list_live(account)):
            raise
        return True  # it had ended there already, and we had not heard
    return all(done)


@one_wait()
def resume(user: User) -> bool:
    """Take a cancellation or a planned change back, while what was paid lasts. Return whether it is done: if not, it
    will be. Raises NotSubscribed, GatewayDeclined, and AlreadySubscribed if something else was bought that begins
    then: both would be charged."""
    account = account_of(user.pk)
    with transaction.atomic():
        account = lock_account(account.pk)
        subscription = find_live(account)
        if (
            subscription is None
            or (subscription.cancels_at is None and subscription.next_price_id is None)
            or subscription.kind != Subscription.Kind.SUBSCRIPTION
            or subscription.status == Subscription.Status.ENDED
            or subscription.is_frozen
        ):
            raise NotSubscribed
        if any(one.renews or not one.is_frozen for one in list_live(account) if one.pk != subscription.pk):
            raise AlreadySubscribed
        task = _add_task_about(account, subscription, GatewayTask.Act.RESUME)
    return _carry_out(task, subscription)


def request_refund(user: User, payment_id: int, reason: str) -> Payment:
    """Ask the operator for the money back. Raises NotFound or NothingToRefund."""
    payments = Payment.objects.filter(subscription__account__user=user, pk=payment_id)
    payment = payments.first()
    if payment is None:
        raise NotFound
    if not payment.may_be_refunded:
        raise NothingToRefund
    if payments.filter(refund_requested_at=None).update(refund_requested_at=timezone.now(), refund_reason=reason[:500]):
        alert(f"refund:{payment.pk}", gettext_noop("Somebody asks for their money back."), payment=payment.pk)
    payment.refresh_from_db()
    return payment


def payment_method_url(user: User, return_url: str) -> str:
    """Return the page of the gateway where the payer changes how they pay. Raises NotSubscribed, GatewaySilent and
    GatewayDeclined."""
    account = account_of(user.pk)
    subscription = find_live(account)
    if subscription is None:
        raise NotSubscribed
    try:
        return get_gateway(subscription.gateway).payment_method_url(account.pk, subscription.reference, return_url)
    except (GatewayUnavailable, KeyError) as error:  # or one that the site has no more
        raise GatewaySilent from error
    except GatewayRefused as error:
        raise GatewayDeclined from error


def return_from_checkout(user: User, key: str) -> Purchase:
    """Ask the gateway what came of a checkout, and return it as it is then; one that is silent is asked again by a
    worker. Raises NotFound."""
    purchase = Purchase.objects.filter(account__user=user, key=key).first()
    if purchase is None:
        raise NotFound
    if purchase.reference_id and purchase.closed_at is None:
        about = Reference(purchase.price.gateway, purchase.reference_type, purchase.reference_id)
        moment = f"{timezone.now():%Y%m%d%H%M%S}"
        inbox.handle_event(
            inbox.note(about, event_id=f"return:{key}:{moment}", event_type="return"), is_waited_for=True
        )
        purchase.refresh_from_db()
    return purchase


def stop_renewals(account: BillingAccount) -> None:
    """Write down that nothing renews for somebody who is about to go: what is paid goes on to its end, what waits for
    its payment or is overdue ends, and open checkouts do. To do it twice is to do it once."""
    with transaction.atomic():
        account = lock_account(account.pk)
        found = [one for one in list_live(account) if one.renews or one.status == Subscription.Status.PAUSED]
        for subscription in found or [one for one in [find_waiting(account)] if one is not None]:
            _add_task_about(account, subscription, _how_to_cancel(subscription))
        _close_checkouts(account)


def close_account(user_id: int, account: BillingAccount) -> None:
    """Write down that everything of somebody who goes away ends at the gateways, and that they forget them. Their
    payments stay, without what names a person."""
    with transaction.atomic():
        account = lock_account(account.pk)
        for subscription in account.subscriptions.exclude(status=Subscription.Status.ENDED):
            if subscription.kind == Subscription.Kind.SUBSCRIPTION:
                act, key = GatewayTask.Act.CANCEL_NOW, f"closed:{subscription.pk}"
                add_task(account, subscription.gateway, act, subscription.reference, key=key)
        _close_checkouts(account)
        # Also a gateway where a checkout was begun and never paid, of which no row is left: it has the address.
        for gateway in {*list_gateways(), *account.subscriptions.values_list("gateway", flat=True)}:
            key = f"forget:{account.pk}:{user_id}:{gateway}"
            add_task(account, gateway, GatewayTask.Act.FORGET_CUSTOMER, key=key)
        account.purchases.update(payer_email="", url="", closed_at=timezone.now())
        Payment.objects.filter(subscription__account=account).update(**dict.fromkeys(Payment.PERSONAL, ""))


def _close_checkouts(account: BillingAccount) -> None:
    """Write down that what was begun at a gateway can be paid no more. One that is being begun is found when it is."""
    for purchase in account.purchases.filter(closed_at=None).exclude(reference_id="").select_related("price"):
        _add_expiry(account, purchase)
        Purchase.objects.filter(pk=purchase.pk).update(closed_at=timezone.now())


def _get_for_sale(price_id: int, kind: Kind) -> Price:
    price = Price.objects.select_related("plan").filter(pk=price_id, is_for_sale=True).first()
    if price is None or price.gateway not in list_gateways() or (price.plan is None) != (kind == "pack"):
        raise NotForSale
    return price


def _get_coupon(code: str, price: Price) -> Coupon | None:
    """Return the coupon with a code, None without one. Raises UnknownCoupon, also where it is another gateway's."""
    if not code.strip():
        return None
    usable = Coupon.objects.filter(code=code.strip().upper()[:40], gateway=price.gateway, is_active=True)
    coupon = usable.first()
    if coupon is None:
        raise UnknownCoupon
    return coupon


def _get_changeable(account: BillingAccount) -> Subscription:
    subscription = find_live(account)
    if subscription is None or not subscription.renews or subscription.is_frozen:
        raise NotSubscribed
    if is_overdue(subscription):
        raise PaymentOverdue
    return subscription


def _is_upgrade(old: Price, new: Price) -> bool:
    """Whether it gives more: a higher plan, or the same one for longer."""
    assert old.plan is not None
    assert new.plan is not None
    return (new.plan.rank, new.months) > (old.plan.rank, old.months)


def _counts_at_once(subscription: Subscription, price: Price) -> bool:
    """Whether a change is an upgrade that is paid now. A trial goes on as what it is: nothing is paid for more."""
    has_prorations = get_gateway(subscription.gateway).has_prorations
    is_trial = subscription.status == Subscription.Status.TRIALING
    return has_prorations and not is_trial and _is_upgrade(subscription.price, price)


def _end_open_checkouts(account: BillingAccount, kind: Kind, *, but: str) -> None:
    """End the checkouts that were begun before: only one can be paid. What came of one that is over is seen, too. What
    cannot be ended now is left to a worker: nobody waits twice for a silent gateway."""
    if kind == "pack":
        return
    is_silent = False
    for purchase in account.purchases.filter(closed_at=None).exclude(key=but).exclude(kind="pack"):
        if purchase.reference_id and not is_silent:
            task = _add_expiry(account, purchase)
            outbox.do_task(task)
            task.refresh_from_db(fields=["done_at"])
            is_silent = task.done_at is None
        elif purchase.reference_id:
            _add_expiry(account, purchase)
        Purchase.objects.filter(pk=purchase.pk).update(closed_at=timezone.now())


def _add_expiry(account: BillingAccount, purchase: Purchase) -> GatewayTask:
    return add_task(
        account,
        purchase.price.gateway,
        GatewayTask.Act.EXPIRE_CHECKOUT,
        purchase.reference_id,
        key=f"expire:{purchase.key}",
        reference_type=purchase.reference_type,
    )


def _write_purchase(
    account: BillingAccount,
    user: User,
    price: Price,
    kind: Kind,
    key: str,
    payer_email: str,
    coupon: Coupon | None,
    *,
    replaces: bool,
) -> Purchase:
    with transaction.atomic():
        account = lock_account(account.pk)
        _check_currency(account, price)
        starts_at = None if kind == "pack" else _check_nothing_live(account, replaces=replaces)
        trial_days = 0
        if kind == "subscription" and starts_at is None and may_try(account, user):
            trial_days = price.plan.trial_days if price.plan else 0
        purchase, _ = Purchase.objects.get_or_create(
            key=key,
            defaults={
                "account": account,
                "price": price,
                "kind": kind,
                "starts_at": starts_at,
                "trial_days": trial_days,
                "payer_email": payer_email,
                "coupon": coupon,
                "created_at": timezone.now(),
            },
        )
    return purchase


def _check_currency(account: BillingAccount, price: Price) -> None:
    """A gateway lets a customer have but one currency."""
    paid = Payment.objects.filter(subscription__account=account, gateway=price.gateway, paid_at__isnull=False)
    if paid.exclude(currency=price.currency).exists():
        raise OtherCurrency


def _check_nothing_live(account: BillingAccount, *, replaces: bool) -> dt.datetime | None:
    """Return when a purchase would begin if it takes the place of the live subscription, None where nothing is live."""
    live = list_live(account)
    if not live:
        return None
    if any(map(is_overdue, live)):
        raise PaymentOverdue
    begins = find_free_moment(account)
    if not replaces or begins is None:
        ends = [one.access_until for one in live if one.access_until is not None]
        raise AlreadySubscribed(until=None if any(one.renews for one in live) else max(ends, default=None))
    return begins


def _begin_at_gateway(purchase: Purchase, user: User, return_url: str) -> Purchase:
    price = purchase.price
    order = Order(
        key=purchase.key,
        account_id=purchase.account_id,
        email=user.email,
        kind=cast("Kind", purchase.kind),
        price_reference=price.reference,
        description=_describe(price),
        amount_minor=price.amount_minor,
        currency=price.currency,
        interval=cast('Literal["month", "year", ""]', price.interval),
        return_url=return_url,
        locale=user.locale,
        starts_at=purchase.starts_at,
        trial_days=purchase.trial_days,
        payer_email=purchase.payer_email,
        discount_reference=purchase.coupon.reference if purchase.coupon else "",
    )
    try:
        checkout = get_gateway(price.gateway).start_checkout(order)
    except GatewayUnavailable as error:
        raise GatewaySilent from error
    except GatewayRefused as error:
        Purchase.objects.filter(pk=purchase.pk).update(closed_at=timezone.now())
        raise GatewayDeclined from error
    purchase.reference_type, purchase.reference_id = checkout.reference.type, checkout.reference.id
    purchase.url = checkout.url
    purchase.save(update_fields=["reference_type", "reference_id", "url"])
    return purchase


def _describe(price: Price) -> str:
    """Return what the gateway writes on its page and on receipts."""
    if price.plan is None:
        return gettext("%(credits)s credits") % {"credits": price.pack_credits}
    plan: Plan = price.plan
    return plan.name


def _how_to_cancel(subscription: Subscription) -> GatewayTask.Act:
    held_until = subscription.held_until
    is_held = held_until is not None and timezone.now() < held_until
    return GatewayTask.Act.CANCEL_AT_PERIOD_END if is_held else GatewayTask.Act.CANCEL_NOW


def _add_task_about(account: BillingAccount, subscription: Subscription, act: GatewayTask.Act) -> GatewayTask:
    """Write down a task, once for as long as the gateway was not heard of since."""
    key = f"{act}:{subscription.pk}:{_moment(subscription)}"
    return add_task(account, subscription.gateway, act, subscription.reference, key=key)


def _carry_out(task: GatewayTask, subscription: Subscription) -> bool:
    """Do a task and see what came of it; return whether it is done. Somebody else may do it at the same time, as with
    a click made twice, and not have looked yet: the page that follows must not show how things were before.

    Raises GatewayDeclined if the gateway said no, which the operator hears.
    """
    is_done = outbox.do_task(task)
    task.refresh_from_db(fields=["done_at", "error"])
    if task.done_at is not None and task.error:
        raise GatewayDeclined
    subscription.refresh_from_db(fields=["observed_at"])
    if is_done and task.done_at is not None and subscription.observed_at < task.done_at:
        _ask_again(subscription, f"seen:{uuid4().hex}")
    return is_done


def _moment(subscription: Subscription) -> str:
    return f"{subscription.observed_at.timestamp():.6f}"


def _ask_again(subscription: Subscription, key: str) -> None:
    """See what came of it, now or by a worker."""
    event = inbox.note(reference_of(subscription), event_id=f"act:{key}"[:150], event_type="act")
    inbox.handle_event(event, is_waited_for=True)
