"""What beat sends: what was told and is to be done, what nobody told us, notices of allowances, and proofs."""

import datetime as dt
from contextlib import suppress

import msgspec
from django.db.models import Q, QuerySet
from django.utils import timezone, translation
from django.utils.translation import gettext, gettext_noop, ngettext
from redis.exceptions import RedisError

from billing import inbox, letters, outbox, periods, spending
from billing.entitlements import packs_of
from billing.gateways import get_gateway, list_gateways
from billing.gateways.base import GatewayRefused, GatewayUnavailable, Reference
from billing.metering import list_unbalanced_accounts, list_unbalanced_parts, list_unbalanced_periods
from billing.models import AllowanceNotice, GatewayEvent, GatewayTask, Plan, Purchase, Subscription, UsagePeriod
from billing.subscriptions import apply, handle, reference_of
from core.alerts import alert
from core.mail import send_mail
from core.redis_clients import sync_redis
from core.sweeps import PAGE_SIZE, guard, while_time

PROVED = "ledger:proved"
"""Where Redis has what the last proof found: when, and how many rows of each kind."""
ASK_AGAIN = dt.timedelta(minutes=30)
"""How long after a subscription was asked about it is asked about again, while something is expected of it."""
ASKING_SECONDS = 120.0
"""How long a round of asking goes on while gateways are slow."""
LOOK_BACK = dt.timedelta(days=3)
"""How far back gateways are asked for what changed. Whatever was not heard of for so long is asked about by itself."""
KEEP = dt.timedelta(days=30)
"""For how long it is kept what gateways told, and what was done there."""


def work_off() -> None:
    """Do what is due: notifications, tasks at gateways, mails."""
    inbox.handle_due()
    outbox.do_due()
    mail_notices()
    letters.send_due()


def ask_about_expected() -> None:
    """Ask about subscriptions that should have been renewed, and about checkouts that are not over: their
    notifications may be lost."""
    now = timezone.now()
    is_over = Q(paid_until__lte=now) | Q(paid_until=None)
    renews = Q(kind=Subscription.Kind.SUBSCRIPTION) & ~Q(status=Subscription.Status.PENDING)
    is_awaited = Q(status=Subscription.Status.PENDING, created_at__gt=now - KEEP)
    waiting = Subscription.objects.filter(is_over, renews | is_awaited, ended_at=None, observed_at__lt=now - ASK_AGAIN)
    for subscription in while_time(waiting.order_by("observed_at")[:PAGE_SIZE], ASKING_SECONDS):
        with guard("subscription", subscription=subscription.pk):
            _ask(reference_of(subscription))
    begun = Purchase.objects.filter(closed_at=None, created_at__lt=now - ASK_AGAIN).exclude(reference_id="")
    for purchase in while_time(begun.select_related("price").order_by("created_at")[:PAGE_SIZE], ASKING_SECONDS):
        with guard("purchase", purchase=purchase.pk):
            if purchase.created_at < now - KEEP:
                Purchase.objects.filter(pk=purchase.pk).update(closed_at=now)
                continue
            _ask(Reference(purchase.price.gateway, purchase.reference_type, purchase.reference_id))


def reconcile() -> None:
    """Apply everything that is alive at a gateway, or changed lately, and what gives something here and is neither: it
    ended, or was refunded, while this site was away. What is wrong with one does not stop the next."""
    since = timezone.now() - LOOK_BACK
    for name in list_gateways():
        with guard("gateway", gateway=name):
            for snapshot in get_gateway(name).list_recent(since):
                with guard("purchase", gateway=name, reference=snapshot.reference):
                    apply(snapshot)
            for subscription in _list_unheard_of(name, since):
                with guard("subscription", subscription=subscription.pk):
                    _ask(reference_of(subscription))


def prove() -> int:
    """Compare every counter with the rows it counts; tell the operator of those that differ, and return how many."""
    wrong = {
        "periods": list(list_unbalanced_periods().values_list("pk", flat=True)[:PAGE_SIZE]),
        "accounts": list(list_unbalanced_accounts().values_list("pk", flat=True)[:PAGE_SIZE]),
        "parts": list(list_unbalanced_parts().values_list("pk", flat=True)[:PAGE_SIZE]),
        "days": list(spending.list_unbalanced_days().values_list("pk", flat=True)[:PAGE_SIZE]),
    }
    with suppress(RedisError):
        counts = {name: len(ids) for name, ids in wrong.items()}
        sync_redis().set(PROVED, msgspec.json.encode({"at": timezone.now().timestamp(), **counts}))
    count = sum(map(len, wrong.values()))
    if count:
        sentence = gettext_noop("The ledger does not add up: counters differ from the rows they count.")
        alert("ledger", sentence, **{name: str(ids[:10]) for name, ids in wrong.items()})
    return count


def follow_plans() -> None:
    """Let running periods have what their plans give more since: an edit may have come from outside of the admin, or
    while a process still knew the plan as it was."""
    for plan in Plan.objects.all():
        periods.raise_to_plan(plan)


def prune() -> None:
    """Delete what was handled and done long ago."""
    before = timezone.now() - KEEP
    for model in (GatewayEvent, GatewayTask):
        model.objects.filter(done_at__lt=before).delete()
    Purchase.objects.filter(closed_at__lt=before, trial_days=0).delete()


def mail_notices() -> None:
    """Tell people how much of their allowance is used: each notice once, and nobody who went away."""
    waiting = AllowanceNotice.objects.due().select_related("period__account__user")
    for notice in waiting[:PAGE_SIZE]:
        with guard("notice", notice=notice.pk):
            if notice.claim():
                _mail(notice)
                notice.finish()


def _mail(notice: AllowanceNotice) -> None:
    period = notice.period
    user, resets_at = period.account.user, period.period_end
    if user is None or resets_at <= timezone.now() or period.kind == UsagePeriod.Kind.PACK:  # nothing new comes of it
        return
    days = max(1, round((resets_at - timezone.now()) / dt.timedelta(days=1)))
    with translation.override(user.locale):
        if notice.percent >= 100 and packs_of(period.account):
            sentence = gettext("The credits of your plan are used up: your packs pay from now on.")
        elif notice.percent >= 100:
            sentence = gettext("Your credits are used up.")
        else:
            sentence = gettext("%(percent)s%% of your credits are used.") % {"percent": notice.percent}
        until = ngettext("You get new ones tomorrow.", "You get new ones in %(days)s days.", days) % {"days": days}
        send_mail.delay(subject=sentence, body=f"{sentence} {until}\n", to=[user.email])


def _list_unheard_of(gateway: str, since: dt.datetime) -> QuerySet[Subscription]:
    """Return what gives something, is frozen or goes on, as far as we know, and was not asked about since."""
    now = timezone.now()
    is_pack = Q(kind=Subscription.Kind.PACK, account__packs_until__gt=now)
    goes_on = Q(kind=Subscription.Kind.SUBSCRIPTION, ended_at=None)
    counts = Q(access_until__gt=now) | Q(is_frozen=True) | goes_on | is_pack
    return Subscription.objects.filter(counts, gateway=gateway, observed_at__lt=since).order_by("observed_at")


def _ask(about: Reference) -> None:
    """Ask now; a gateway that is silent, or that the site has no more, is asked with the next round."""
    if about.gateway in list_gateways():
        with suppress(GatewayUnavailable, GatewayRefused):
            handle(about)
