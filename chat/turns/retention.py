"""How long conversations are kept: as long as the plan allows and their owner wants, whichever is shorter.

What was not used for so long goes into the trash, and from there as everything else. Nothing goes there before its
owner was told, by mail and on pages, and NOTICE has passed since. Pinned conversations stay.

Every step may be repeated: who dies before a notice is written down has perhaps sent it, and it is sent again; without
that row nothing goes.
"""

import datetime as dt
from dataclasses import dataclass

from django.conf import settings
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone, translation

from accounts.models import User
from billing import entitlements
from chat.models import HistoryNotice
from core.mail import send_mail
from core.sweeps import PAGE_SIZE, guard, while_time
from history import trash
from history.models import Conversation

NOTICE = dt.timedelta(days=30)
INTERVAL = dt.timedelta(days=1)
"""How often each person's history is looked at."""
CLAIM = dt.timedelta(minutes=10)
"""For how long a person's history is nobody else's: whoever dies with it leaves it to the next one."""
SWEEP_SECONDS = 5.0
NO_MAIL = "django.core.mail.backends.dummy.EmailBackend"
"""A site without a mail server drops its mails: there nobody is told, and nothing goes."""
MAX_COUNT = 1_000
"""As many conversations are counted."""


@dataclass(frozen=True, slots=True)
class HistoryLimit:
    """For how many days after their last use a person's conversations are kept, and whether their plan says so."""

    days: int
    is_of_plan: bool


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a person should know of their limit.

    From `goes_at` on conversations go, None while nobody was told; `count` of them, up to MAX_COUNT, go on that day, or
    today if it has come, the first of which are `oldest`.
    """

    limit: HistoryLimit
    goes_at: dt.datetime | None
    is_running: bool
    count: int
    oldest: list[Conversation]


def limit_of(user: User) -> HistoryLimit | None:
    """Return what holds for a person now; None: everything is kept for ever."""
    plans, own = entitlements.history_days_of(user.pk), user.keep_history_days
    if plans is not None and (own is None or plans <= own):
        return HistoryLimit(plans, is_of_plan=True)
    return None if own is None else HistoryLimit(own, is_of_plan=False)


def find_notice(user: User) -> HistoryNotice | None:
    """Return the notice that runs for a person: what it tells of has not begun to go."""
    limit = limit_of(user)
    if limit is None:
        return None
    return HistoryNotice.objects.filter(user=user, days__lte=limit.days, goes_at__gt=timezone.now()).first()


def outlook_of(user: User) -> Outlook | None:
    """Return what a person should know of their limit, None if they have none."""
    limit, now = limit_of(user), timezone.now()
    if limit is None:
        return None
    notice = HistoryNotice.objects.filter(user=user, days__lte=limit.days).order_by("goes_at").first()
    goes_at = notice.goes_at if notice else None
    return _outlook(user, limit, goes_at or now + NOTICE, is_told=notice is not None)


def look_at_due() -> None:
    """Look at whose turn it is, the longest waiting first, for SWEEP_SECONDS: the rest is the next sweep's."""
    due = User.objects.filter(history_due_at__lte=timezone.now()).order_by("history_due_at")
    for user in while_time(due[:PAGE_SIZE], SWEEP_SECONDS):
        with guard("history", user_id=user.pk):
            _look_at(user)


def _look_at(user: User) -> None:
    """Do what is due of one person's history; what is left of it comes after everybody else's."""
    now = timezone.now()
    claimed_until = now + CLAIM
    theirs = User.objects.filter(pk=user.pk, history_due_at__lte=now)
    if not theirs.update(history_due_at=claimed_until):
        return
    user.refresh_from_db(fields=["keep_history_days", "is_active", "email", "locale", "time_zone"])
    has_more = _keep_to_limit(user)
    User.objects.filter(pk=user.pk, history_due_at=claimed_until).update(
        history_due_at=timezone.now() if has_more else now + INTERVAL
    )


def _keep_to_limit(user: User) -> bool:
    """Tell a person of their limit, and put into the trash what they were told of in time; return whether more of that
    may be left.

    While a shorter limit is announced, the longer one that was in force goes on. Who is suspended can do nothing about
    a notice: what they were told is void.
    """
    limit = limit_of(user)
    if limit is None or not user.is_active:
        HistoryNotice.objects.filter(user=user).delete()
        return False
    told = _loosen(user, limit.days)
    is_untold = limit.days not in told and settings.EMAIL_BACKEND != NO_MAIL
    if is_untold and _is_near(user, limit):
        _give_notice(user, limit)
    in_force = [days for days, goes_at in told.items() if goes_at <= timezone.now()]
    return bool(in_force) and trash.trash_unused(user.pk, _unused_since(min(in_force), timezone.now()))


def _loosen(user: User, days: int) -> dict[int, dt.datetime]:
    """Make notices of a shorter limit than `days` notices of that: less goes than they said, and if the limit becomes
    shorter again, that is told again. Return what the person was told: from when on what was not used for so many days
    goes."""
    told = dict(HistoryNotice.objects.filter(user=user).values_list("days", "goes_at"))
    stricter = HistoryNotice.objects.filter(user=user, days__lt=days)
    if not any(fewer < days for fewer in told):
        return told
    first = HistoryNotice.objects.filter(user=user, days__lte=days).earliest("goes_at")
    HistoryNotice.objects.update_or_create(
        user=user, days=days, defaults={"sent_at": first.sent_at, "goes_at": first.goes_at}
    )
    stricter.delete()
    return {more: goes_at for more, goes_at in told.items() if more > days} | {days: first.goes_at}


def _is_near(user: User, limit: HistoryLimit) -> bool:
    """Return whether something of theirs would go when a notice that is given now has run."""
    return bool(trash.list_unused(user.pk, _unused_since(limit.days, timezone.now() + NOTICE), limit=1))


def _give_notice(user: User, limit: HistoryLimit) -> None:
    """Mail it, and write down that it is: in this order, so that nobody who was not told has a row."""
    with translation.override(user.locale), timezone.override(user.zone):
        outlook = _outlook(user, limit, timezone.now() + NOTICE, is_told=True)
        text = render_to_string("chat/mail/history_notice.txt", _context(outlook)).strip()
    subject, _, body = text.partition("\n")
    send_mail(subject=subject.strip(), body=body.strip() + "\n", to=[user.email])
    sent_at = timezone.now()
    HistoryNotice.objects.get_or_create(
        user=user, days=limit.days, defaults={"sent_at": sent_at, "goes_at": sent_at + NOTICE}
    )


def _context(outlook: Outlook) -> dict[str, object]:
    return {
        "site_name": settings.SITE_NAME,
        "outlook": outlook,
        "max_count": MAX_COUNT,
        "trash_days": settings.TRASH_DAYS,
        "history_url": settings.SITE_URL + reverse("keep_history"),
        "pricing_url": settings.SITE_URL + reverse("pricing"),
    }


def _outlook(user: User, limit: HistoryLimit, goes_at: dt.datetime, *, is_told: bool) -> Outlook:
    now = timezone.now()
    found = trash.list_unused(user.pk, _unused_since(limit.days, max(goes_at, now)), limit=MAX_COUNT)
    return Outlook(limit, goes_at if is_told else None, is_told and goes_at <= now, len(found), found[:10])


def _unused_since(days: int, moment: dt.datetime) -> dt.datetime:
    """Return before when something was last used that, at that moment, has not been used for so many days."""
    return moment - dt.timedelta(days=days)
