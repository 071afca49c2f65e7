"""Turns what a gateway says into rows: `apply` is the one writer of subscriptions, payments and what they grant.

Webhook, return page, reconciliation and the admin's "resync" all go the same way: a reference is fetched, and the
snapshot applied. What was fetched is a fact about a moment (`observed_at`); an older one never replaces a newer one,
and the same one again changes nothing. Whatever follows at a gateway (a refund, a cancellation) is a row of the outbox,
written in the same transaction.
"""

import datetime as dt
from dataclasses import replace

from django.db import IntegrityError, transaction
from django.db.models import Max, Sum
from django.utils import timezone
from django.utils.translation import gettext_noop

from billing import letters, paid_times, periods
from billing.entitlements import Access, list_access
from billing.errors import UnknownPrice, WrongAccount
from billing.gateways import get_gateway
from billing.gateways.base import PaymentSnapshot, Reference, Snapshot
from billing.models import BillingAccount, GatewayTask, Payment, Price, Reversal, Subscription, UsagePeriod
from billing.months import add_months
from core.alerts import alert

CLOCK_TOLERANCE = dt.timedelta(minutes=1)
"""Gateways round the moments they are told, and the clocks of two machines are apart."""
LIVE = (Subscription.Status.TRIALING, Subscription.Status.ACTIVE, Subscription.Status.PAST_DUE)
UNPAID = (Payment.Status.PENDING, Payment.Status.FAILED)


def handle(reference: Reference) -> Subscription | None:
    """Ask the gateway what the reference belongs to, and apply that; return None where it is nothing we sell.

    The caller holds no transaction. Raises what the gateway and `apply` do.
    """
    snapshot = get_gateway(reference.gateway).fetch(reference)
    return apply(snapshot) if snapshot else None


def apply(snapshot: Snapshot) -> Subscription:
    """Make our rows say what the snapshot says, and return the subscription.

    Raises UnknownPrice or WrongAccount, with an alert and nothing written.
    """
    try:
        prices = _known_prices(snapshot)
        with transaction.atomic():
            return _apply(snapshot, prices)
    except (UnknownPrice, WrongAccount) as error:
        sentence = gettext_noop("What %(gateway)s says of a payment is not believed: nothing was granted.")
        alert(
            f"{snapshot.gateway}:{snapshot.reference}:{type(error).__name__}",
            sentence,
            gateway=snapshot.gateway,
            reference=snapshot.reference,
            error=f"{type(error).__name__}: {error}",
        )
        raise


def reference_of(subscription: Subscription) -> Reference:
    """Return what to ask the gateway about."""
    renews = subscription.kind == Subscription.Kind.SUBSCRIPTION
    return Reference(subscription.gateway, "subscription" if renews else "purchase", subscription.reference)


def lock_account(account_id: int) -> BillingAccount:
    """Return the account, locked until the end of the transaction; rows that point to it can still be written."""
    return BillingAccount.objects.select_for_update(no_key=True).get(pk=account_id)


def write_access(account: BillingAccount) -> None:
    """Write what follows of the account's subscriptions and its grant: until when to look, and the running periods.

    The caller holds the account's lock.
    """
    subscriptions = list(account.subscriptions.exclude(kind=Subscription.Kind.PACK))
    ends = [one.access_until for one in subscriptions if one.access_until is not None]
    account.subscribed_until = max(ends, default=None)
    account.save(update_fields=["subscribed_until"])
    held = list_access(account)
    _write_periods(account, held)
    _check_paid_once(account, held)


def add_task(
    account: BillingAccount,
    gateway: str,
    act: GatewayTask.Act,
    reference: str = "",
    *,
    key: str,
    amount_minor: int = 0,
    reference_type: str = "",
) -> GatewayTask:
    """Write down what is to be done at a gateway, once for each key."""
    fields = {"account": account, "gateway": gateway, "act": act, "reference": reference}
    task, _ = GatewayTask.objects.get_or_create(
        key=key[:64], defaults={**fields, "amount_minor": amount_minor, "reference_type": reference_type}
    )
    return task


def add_refund(account: BillingAccount, payment: Payment, *, key: str, amount_minor: int | None = None) -> GatewayTask:
    """Write down that a payment is to be refunded; without an amount, what is left of it."""
    left = payment.amount_minor - payment.refunded_minor
    act, amount = GatewayTask.Act.REFUND, left if amount_minor is None else min(left, amount_minor)
    return add_task(account, payment.gateway, act, payment.reference, key=key, amount_minor=amount)


def _known_prices(snapshot: Snapshot) -> dict[str, Price]:
    """Return the prices the snapshot names; raises UnknownPrice when one of them is not ours, or costs something else's
    currency."""
    names = {snapshot.price_reference, *(payment.price_reference for payment in snapshot.payments)}
    names |= {snapshot.next_price_reference} - {""}
    found = Price.objects.select_related("plan").filter(gateway=snapshot.gateway, reference__in=names)
    prices = {price.reference: price for price in found}
    if unknown := sorted(names - prices.keys()):
        raise UnknownPrice(snapshot.gateway, unknown[0])
    is_pack = snapshot.kind == "pack"
    for price in prices.values():
        if (price.plan is None) != is_pack:
            raise UnknownPrice(snapshot.gateway, f"{price.reference} is no {snapshot.kind}")
    for payment in snapshot.payments:
        if payment.currency.upper() != prices[payment.price_reference].currency:
            raise UnknownPrice(snapshot.gateway, f"{payment.price_reference} in {payment.currency}")
    return prices


def _apply(snapshot: Snapshot, prices: dict[str, Price]) -> Subscription:
    try:
        account = lock_account(snapshot.account_id)
    except BillingAccount.DoesNotExist as error:
        raise WrongAccount(f"{snapshot.account_id} does not exist") from error
    same = Subscription.objects.filter(gateway=snapshot.gateway, reference=snapshot.reference).first()
    if same is not None and same.account_id != account.pk:
        raise WrongAccount(f"{snapshot.account_id} instead of {same.account_id}")
    if same is not None and snapshot.observed_at < same.observed_at <= timezone.now() + CLOCK_TOLERANCE:
        return same  # one from the future is of a clock that was wrong: it would keep out whatever is true until then
    subscription = same or Subscription(gateway=snapshot.gateway, reference=snapshot.reference)
    subscription.account = account
    _copy(snapshot, subscription, prices[snapshot.price_reference])
    subscription.next_price = prices.get(snapshot.next_price_reference)
    paid_before = set(subscription.payments.filter(status=Payment.Status.PAID).values_list("reference", flat=True))
    payments = _save_payments(subscription, snapshot, prices)
    if account.user_id is None:
        _serve_nobody(account, subscription, [one for one in payments if one.reference not in paid_before])
    if subscription.kind == Subscription.Kind.PACK:
        _follow_packs(account, subscription, payments)
    else:
        _judge(account, subscription, payments)
        _derive(subscription, payments)
    subscription.save()
    _close_purchases(account, subscription, payments)
    write_access(account)
    letters.note_purchase(subscription, payments)
    return subscription


def _copy(snapshot: Snapshot, subscription: Subscription, price: Price) -> None:
    subscription.kind = Subscription.Kind(snapshot.kind)
    subscription.status = Subscription.Status(snapshot.status)
    subscription.price = price
    subscription.anchor = snapshot.anchor
    subscription.cancels_at = snapshot.cancels_at
    subscription.trial_end = snapshot.trial_end
    subscription.card_fingerprint = snapshot.card_fingerprint or subscription.card_fingerprint
    subscription.observed_at = snapshot.observed_at
    if snapshot.status != "ended":
        subscription.ended_at = None
    elif subscription.ended_at is None:
        subscription.ended_at = snapshot.observed_at
    if subscription._state.adding:
        subscription.save()


def _save_payments(subscription: Subscription, snapshot: Snapshot, prices: dict[str, Price]) -> list[Payment]:
    """Save the payments, and return all of the subscription's, in the order in which they were paid."""
    known = {payment.reference: payment for payment in subscription.payments.select_related("price__plan")}
    for told in snapshot.payments:
        payment = known.setdefault(told.reference, Payment(subscription=subscription, reference=told.reference))
        _copy_payment(told, payment, subscription.gateway, prices[told.price_reference])
        if subscription.account.user_id is None:
            _make_nameless(payment)
    told_of = {told.reference for told in snapshot.payments}
    for payment in known.values():
        if payment.reference not in told_of and payment.status in UNPAID:
            # A gateway gave the payment another name, as Stripe does when somebody pays at a checkout.
            payment.status, payment.action, payment.action_url = Payment.Status.VOID, "", ""
    payments = sorted(known.values(), key=lambda payment: (payment.paid_at or payment.created_at, payment.reference))
    if subscription.kind != Subscription.Kind.PACK:
        says_nothing = {told.reference for told in snapshot.payments if told.period_end is None}
        subscription.anchor = paid_times.reckon_times(
            subscription.anchor, [payment for payment in payments if payment.reference in says_nothing]
        )
    for payment in payments:
        _save_payment(payment)
    _note_reversals(payments, snapshot.observed_at)
    return payments


def _copy_payment(told: PaymentSnapshot, payment: Payment, gateway: str, price: Price) -> None:
    payment.gateway, payment.price = gateway, price
    payment.status, payment.dispute = Payment.Status(told.status), told.dispute
    payment.amount_minor, payment.currency = told.amount_minor, told.currency.upper()
    payment.refunded_minor, payment.credit_minor = told.refunded_minor, told.credit_minor
    payment.tax_minor = told.tax_minor
    payment.is_proration, payment.paid_at = told.is_proration, told.paid_at
    payment.period_start, payment.period_end = told.period_start, told.period_end
    payment.tax_country, payment.tax_id = told.tax_country, told.tax_id
    payment.receipt_url, payment.action_url = told.receipt_url, told.action_url
    payment.action, payment.action_code, payment.expires_at = told.action, told.action_code, told.expires_at


def _make_nameless(payment: Payment) -> None:
    """Keep nothing that names a person who went away, also where the gateway tells it again."""
    for name in Payment.PERSONAL_TOLD:
        setattr(payment, name, "")


def _save_payment(payment: Payment) -> None:
    try:
        with transaction.atomic():
            payment.save()
    except IntegrityError as error:
        raise WrongAccount(f"payment {payment.reference} is another subscription's") from error


def _note_reversals(payments: list[Payment], at: dt.datetime) -> None:
    """Write down what went back of the payments since they were looked at last: a month keeps what it received."""
    known = Reversal.objects.filter(payment__in=payments).values_list("payment_id", "kind")
    sums = {(pk, kind): amount for pk, kind, amount in known.annotate(amount=Sum("amount_minor")).order_by()}
    for payment in payments:
        for kind, amount in (
            (Reversal.Kind.REFUND, payment.refunded_minor),
            (Reversal.Kind.DISPUTE, payment.lost_minor),
        ):
            if more := amount - sums.get((payment.pk, kind), 0):
                Reversal.objects.create(payment=payment, kind=kind, amount_minor=more, at=at)


def _serve_nobody(account: BillingAccount, subscription: Subscription, news: list[Payment]) -> None:
    """Whoever closed their account pays nothing more: what lives is ended, and what was paid since is given back."""
    gateway, reference = subscription.gateway, subscription.reference
    if subscription.kind == Subscription.Kind.SUBSCRIPTION and subscription.status != Subscription.Status.ENDED:
        add_task(account, gateway, GatewayTask.Act.CANCEL_NOW, reference, key=f"closed:{subscription.pk}")
    paid = [payment for payment in news if payment.counts and payment.amount_minor > 0]
    for payment in paid:
        add_refund(account, payment, key=f"undo-payment:{payment.pk}")
    if paid:
        sentence = gettext_noop("Somebody paid after closing their account. It is cancelled and refunded.")
        fields = {"gateway": gateway, "reference": reference, "account": account.pk}
        transaction.on_commit(lambda: alert(f"closed:{gateway}:{reference}", sentence, **fields))


def _follow_packs(account: BillingAccount, subscription: Subscription, payments: list[Payment]) -> None:
    """Give each paid pack its period, once, and let it pay for as long as its own payment counts."""
    now = timezone.now()
    for payment in payments:
        if payment.paid_at is None:
            continue
        expires_at = add_months(payment.paid_at, payment.price.months)
        gives = payment.counts and payment.dispute != Payment.Dispute.OPEN
        if payment.usage_period is None and gives:
            micros = payment.price.pack_micros
            payment.usage_period = periods.grant_pack(account, micros, payment.paid_at, expires_at)
            payment.save(update_fields=["usage_period"])
        if payment.usage_period is not None:
            payment.usage_period.period_end = expires_at
            periods.close_period(payment.usage_period, expires_at if gives else now)
    packs = account.periods.filter(kind=UsagePeriod.Kind.PACK)
    account.packs_until = packs.aggregate(until=Max("period_end"))["until"]
    account.save(update_fields=["packs_until"])
    subscription.is_frozen = any(payment.dispute == Payment.Dispute.OPEN for payment in payments)


def _judge(account: BillingAccount, subscription: Subscription, payments: list[Payment]) -> None:
    """Decide, while it has given nothing yet, whether it was bought twice, and whether it has a trial."""
    is_trying = subscription.status == Subscription.Status.TRIALING and not subscription.is_trial
    if is_trying and _is_trial_of_ours(account, subscription) and _had_trial(account, subscription):
        key = f"trial:{subscription.pk}"
        add_task(account, subscription.gateway, GatewayTask.Act.CANCEL_NOW, subscription.reference, key=key)
        return
    is_bought = subscription.status in LIVE or any(payment.counts for payment in payments)
    if is_bought and subscription.access_from is None and not subscription.is_double:
        others = account.subscriptions.exclude(pk=subscription.pk)
        judgements = [_is_double_beside(other, subscription, account) for other in others]
        subscription.is_double = any(judgements)
    if subscription.is_double:
        _undo(account, subscription, payments)
    elif is_trying and _is_trial_of_ours(account, subscription):
        subscription.trial_start = account.trial_at = subscription.observed_at
        account.save(update_fields=["trial_at"])


def _is_double_beside(other: Subscription, subscription: Subscription, account: BillingAccount) -> bool:
    """Return whether nobody should have both. What is not paid gives way to what is; what begins when the other one's
    paid time ends takes its place."""
    now = timezone.now()
    if not other.is_live(now):
        return False
    paid_until = max(filter(None, (other.paid_until, other.trial_end if other.is_trial else None)), default=None)
    if other.is_frozen or (paid_until is not None and now < paid_until):
        if paid_until is None or subscription.anchor < paid_until - CLOCK_TOLERANCE:
            return True
        if other.renews:
            act = GatewayTask.Act.CANCEL_AT_PERIOD_END
            key = f"replaced:{other.pk}:{subscription.pk}"
            add_task(account, other.gateway, act, other.reference, key=key)
    else:
        key = f"unpaid:{other.pk}:{subscription.pk}"
        add_task(account, other.gateway, GatewayTask.Act.CANCEL_NOW, other.reference, key=key)
    return False


def _undo(account: BillingAccount, subscription: Subscription, payments: list[Payment]) -> None:
    """End what was bought twice, and give the money back."""
    gateway, reference = subscription.gateway, subscription.reference
    if subscription.status != Subscription.Status.ENDED:
        is_once = subscription.kind != Subscription.Kind.SUBSCRIPTION
        act = GatewayTask.Act.EXPIRE_CHECKOUT if is_once else GatewayTask.Act.CANCEL_NOW  # other vouchers of it
        reference_type = reference_of(subscription).type
        add_task(account, gateway, act, reference, key=f"double:{subscription.pk}", reference_type=reference_type)
    for payment in payments:
        if payment.counts and payment.amount_minor > 0:
            add_refund(account, payment, key=f"undo-payment:{payment.pk}")
        if payment.status == Payment.Status.PAID and payment.credit_minor > 0:
            act, amount = GatewayTask.Act.RETURN_CREDIT, payment.credit_minor
            add_task(account, gateway, act, payment.reference, key=f"undo-credit:{payment.pk}", amount_minor=amount)
    sentence = gettext_noop("Somebody bought a subscription twice. The second one is cancelled and refunded.")
    fields = {"gateway": gateway, "reference": reference, "account": account.pk}
    transaction.on_commit(lambda: alert(f"double:{gateway}:{reference}", sentence, **fields))


def _is_trial_of_ours(account: BillingAccount, subscription: Subscription) -> bool:
    """Whether the checkout offered a trial. A gateway also says that something is in one when it only begins later."""
    return account.purchases.filter(price__gateway=subscription.gateway, trial_days__gt=0).exists()


def _had_trial(account: BillingAccount, subscription: Subscription) -> bool:
    """Whether the account had its one trial, or the card, where that is known."""
    of_card = Subscription.objects.exclude(card_fingerprint="").filter(
        gateway=subscription.gateway, card_fingerprint=subscription.card_fingerprint, trial_start__isnull=False
    )
    return account.trial_at is not None or of_card.exists()


def _derive(subscription: Subscription, payments: list[Payment]) -> None:
    """Work out from the payments what the subscription gives, and until when."""
    disputes = {payment.dispute for payment in payments}
    subscription.is_frozen = Payment.Dispute.OPEN in disputes
    counting = paid_times.list_counting(subscription, payments)
    regular = [payment for payment in counting if not payment.is_proration]
    paid_until = paid_times.find_end(regular)
    subscription.paid_until = paid_until
    # A trial stays one of the plan it began with: a gateway may change the price before it ends.
    tried = subscription.plan if subscription.is_trial else None
    subscription.plan = paid_times.plan_paid_at(counting, timezone.now()) or tried or subscription.price.plan
    subscription.grace_plan = paid_times.lower_plan(subscription.plan, subscription.price.plan)
    subscription.access_from = min((paid_times.start_of(payment) for payment in regular), default=None)
    subscription.access_until = paid_until
    if paid_until is not None and subscription.renews and not paid_times.was_taken_back(payments, paid_until):
        subscription.access_until = paid_until + paid_times.grace()
    _add_trial(subscription)
    if subscription.is_double or subscription.is_frozen or Payment.Dispute.LOST in disputes:
        subscription.access_until = None
    _answer_disputes(subscription, payments)
    _answer_refund(subscription, payments)


def _add_trial(subscription: Subscription) -> None:
    """Let it have its trial, to its end also when it was cancelled: some gateways cancel at once."""
    if subscription.trial_start is None or subscription.trial_end is None:
        return
    subscription.access_from = subscription.trial_start
    ends = (subscription.access_until, subscription.trial_end)
    subscription.access_until = max(end for end in ends if end is not None)


def _answer_disputes(subscription: Subscription, payments: list[Payment]) -> None:
    """While a payment is disputed nothing more is charged; when the dispute is lost, the subscription is over."""
    if not subscription.renews:
        return
    acts = {"open": GatewayTask.Act.CANCEL_AT_PERIOD_END, "lost": GatewayTask.Act.CANCEL_NOW}
    for payment in payments:
        if act := acts.get(payment.dispute):
            key = f"dispute-{payment.dispute}:{payment.pk}"
            add_task(subscription.account, subscription.gateway, act, subscription.reference, key=key)


def _answer_refund(subscription: Subscription, payments: list[Payment]) -> None:
    """Who was given back the time that was paid last is not charged for the next one. That is the time that begins
    last, of those that money was taken for: a month that took a year's place ends before it."""
    charged = [one for one in payments if one.status == Payment.Status.PAID and one.amount_minor > 0]
    paid = [one for one in charged if one.period_start is not None and not one.is_proration]
    last = max(paid, key=paid_times.start_of, default=None)
    if subscription.renews and last is not None and last.is_refunded:
        key = f"refunded:{last.pk}"
        act = GatewayTask.Act.CANCEL_NOW
        add_task(subscription.account, subscription.gateway, act, subscription.reference, key=key)


def _close_purchases(account: BillingAccount, subscription: Subscription, payments: list[Payment]) -> None:
    """The checkout it came from is over."""
    if subscription.status != Subscription.Status.PENDING or any(payment.counts for payment in payments):
        begun = account.purchases.filter(price__gateway=subscription.gateway, kind=subscription.kind, closed_at=None)
        if subscription.kind == Subscription.Kind.PACK:  # of which several may be bought beside each other
            begun = begun.filter(reference_id=subscription.reference)
        begun.update(closed_at=timezone.now())


def _write_periods(account: BillingAccount, held: list[Access]) -> None:
    """Close running periods that nothing stands behind any more, and make those that something does say what it gives.

    A period that another one takes the place of ends where that begins.
    """
    now = timezone.now()
    by_start = {access.terms.start: access for access in sorted(held, key=lambda access: access.plan.rank)}
    running = account.periods.select_for_update(no_key=True).filter(kind=UsagePeriod.Kind.PAID, period_end__gt=now)
    for period in running:
        if period.period_start not in by_start:
            began = [start for start in by_start if period.period_start < start <= now]
            periods.close_period(period, min(began, default=now))
    for access in by_start.values():
        if access.subscription is None:
            period = periods.find_or_grant(account, access.terms)
            changed_at = access.terms.start
        else:
            period, changed_at = _find_paid_period(account, access, access.subscription)
        locked = UsagePeriod.objects.select_for_update(no_key=True).get(pk=period.pk)
        periods.follow(locked, access.terms, changed_at=changed_at)


def _check_paid_once(account: BillingAccount, held: list[Access]) -> None:
    """Tell the operator when two subscriptions are paid for the same time, which nothing here may have undone: one was
    charged before it heard that it had ended."""
    soon = timezone.now() + CLOCK_TOLERANCE
    paid = [one for one in held if one.subscription and not one.is_grace and one.until and one.until > soon]
    if len(paid) > 1:
        sentence = gettext_noop("Somebody pays two subscriptions for the same time. Refund one of them.")
        references = sorted(str(one.subscription) for one in paid)
        fields = {"account": account.pk, "subscriptions": ", ".join(references)}
        transaction.on_commit(lambda: alert(f"both:{account.pk}:{references[-1]}", sentence, **fields))


def _find_paid_period(
    account: BillingAccount, access: Access, subscription: Subscription
) -> tuple[UsagePeriod, dt.datetime]:
    """Return the period, and since when its plan holds. One that is made only now begins with the plan that was paid
    when it began."""
    now = timezone.now()
    terms = access.terms
    if terms.plan_id is None or subscription.paid_until is None or now >= subscription.paid_until:
        return periods.find_or_grant(account, terms), terms.start
    payments = list(subscription.payments.select_related("price__plan"))
    counting = paid_times.list_counting(subscription, payments)
    begun = [payment for payment in counting if paid_times.start_of(payment) <= now]
    first_plan, changed_at = paid_times.plan_paid_at(counting, terms.start), terms.start
    for payment, before in zip(reversed(begun), [*reversed(begun[:-1]), None], strict=True):
        changed_at = paid_times.start_of(payment)
        if before is None or before.price.plan_id != terms.plan_id:
            break
    first_terms = terms
    if first_plan is not None and first_plan.pk != terms.plan_id:
        first_terms = replace(terms, plan_id=first_plan.pk, plan_micros=first_plan.allowance_micros)
    period = periods.find_or_grant(account, first_terms)
    is_lower = period.plan_micros is not None and (terms.plan_micros or 0) < period.plan_micros
    if is_lower and paid_times.was_plan_paid(payments, period, now):
        changed_at = now
    return period, changed_at
