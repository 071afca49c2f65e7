"""Erases what is left of a user who was deleted, in whatever way. Other apps do their part: `account_closed` is sent.

A row written with the deletion says so until it is done: whatever a process dies on is done again by the sweep.
"""

import datetime as dt
from typing import Any

from allauth.account.internal.stagekit import LOGIN_SESSION_KEY
from django.contrib.admin.models import LogEntry
from django.contrib.auth import SESSION_KEY
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.backends.cache import KEY_PREFIX
from django.core.cache import cache
from django.db import transaction
from django.db.models.signals import pre_delete
from django.dispatch import receiver
from django.utils import timezone
from django.utils.http import int_to_base36

from accounts import limits
from accounts.devices import forget_sessions
from accounts.joining import forget_invitation
from accounts.models import Closure, User
from accounts.signals import access_revoked, account_closed
from core.redis_clients import sync_redis
from core.sweeps import MAX_CLOCK_DIFFERENCE, PAGE_SIZE, PATIENCE_SECONDS, guard, in_portions, iterate_pages

LATECOMERS = dt.timedelta(minutes=5) + MAX_CLOCK_DIFFERENCE
"""For so long a request that began before the deletion may still write something: who shares or copies a conversation
has four minutes (history/share_erasure.py)."""


@receiver(pre_delete, sender=User)
def begin_closure(instance: User, **_signal: Any) -> None:
    """In the transaction of the deletion: note what is to be erased when it is committed."""
    closure = Closure.objects.create(user_id=instance.pk)
    forget_invitation(instance.email)
    transaction.on_commit(lambda: limits.forget_account(instance.email), robust=True)
    transaction.on_commit(lambda: _close(closure), robust=True)


def finish_closures() -> None:
    """Erase once more what is left of users who were deleted."""
    for page in iterate_pages(Closure.objects.all()):
        over = []
        for closure in page:
            with guard("closure", user_id=closure.user_id):
                if _erase_all(closure.user_id) and closure.created_at < timezone.now() - LATECOMERS:
                    over.append(closure)
        if over:  # what latecomers have opened meanwhile is ended once more, in one pass for all
            _end_access({closure.user_id for closure in over})
            # Whoever is told of that may note that it was: that goes last.
            done = [closure.pk for closure in over if _erase_all(closure.user_id)]
            Closure.objects.filter(pk__in=done).delete()


def _close(closure: Closure) -> None:
    _end_access({closure.user_id})
    _erase_all(closure.user_id, patience_seconds=PATIENCE_SECONDS)


def _end_access(user_ids: set[int]) -> None:
    _erase_sessions(user_ids)
    for user_id in user_ids:
        access_revoked.send_robust(Closure, user_id=user_id)


def _erase_all(user_id: int, *, patience_seconds: float = 0) -> bool:
    """Erase what is left of the user; return whether nothing is. If not, it must be called again."""
    _erase_name_from_log(user_id)
    limits.forget_member(user_id)
    answers = account_closed.send_robust(Closure, user_id=user_id, patience_seconds=patience_seconds)
    return all(answer is True for _receiver, answer in answers)


def _erase_sessions(user_ids: set[int]) -> None:
    """End the sessions of these people, which hold their address. Every session is read: what is known of them by owner
    (accounts/devices.py) may have been lost."""
    forget_sessions(user_ids)
    keys: list[str] = []
    prefix = cache.make_key(KEY_PREFIX).encode()
    for key in sync_redis().scan_iter(match=prefix + b"*", count=PAGE_SIZE):
        keys.append(KEY_PREFIX + key.removeprefix(prefix).decode())
    for some in in_portions(keys):
        sessions = {key: data for key, data in cache.get_many(some).items() if isinstance(data, dict)}
        if theirs := [key for key, data in sessions.items() if _is_of(data, user_ids)]:
            cache.delete_many(theirs)


def _is_of(session: dict[str, Any], user_ids: set[int]) -> bool:
    """Return whether one of these people is logged in here, or has begun to."""
    is_in = str(session.get(SESSION_KEY)) in set(map(str, user_ids))
    return is_in or _waits(session) in set(map(int_to_base36, user_ids))


def _waits(session: dict[str, Any]) -> str | None:
    """Return who has begun to log in here, whose second factor is waited for, as allauth writes an id."""
    begun = session.get(LOGIN_SESSION_KEY)
    return begun.get("user_pk") if isinstance(begun, dict) else None


def _erase_name_from_log(user_id: int) -> None:
    """Take the address out of what operators did to the user."""
    of_user = {"content_type": ContentType.objects.get_for_model(User), "object_id": str(user_id)}
    LogEntry.objects.filter(**of_user).exclude(object_repr="").update(object_repr="")
