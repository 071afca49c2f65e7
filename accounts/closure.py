"""Erases what is left of a user who was deleted, in whatever way. Other apps do their part: `account_closed` is sent.

A row written with the deletion says so until it is done: whatever a process dies on is done again by the sweep.
"""

import datetime as dt
from typing import Any

from django.contrib.admin.models import LogEntry
from django.contrib.auth import SESSION_KEY
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.backends.cache import KEY_PREFIX
from django.core.cache import cache
from django.db import transaction
from django.db.models.signals import pre_delete
from django.dispatch import receiver
from django.utils import timezone
from rest_framework_simplejwt.token_blacklist.models import OutstandingToken

from accounts.models import Closure, User
from accounts.signals import account_closed
from core.redis_clients import sync_redis
from core.sweeps import guard, iterate_pages

LATECOMERS = dt.timedelta(minutes=2)
"""For so long a request that began before the deletion may still write something."""
PATIENCE_SECONDS = 3.0
"""How long whoever deletes a user waits until open answers are stopped: 0.2 s while their runner lives."""
MAX_KEYS_READ = 500


@receiver(pre_delete, sender=User)
def begin_closure(instance: User, **_signal: Any) -> None:
    """In the transaction of the deletion: note what is to be erased when it is committed, and end the tokens, which
    would only lose their owner."""
    closure = Closure.objects.create(user_id=instance.pk)
    OutstandingToken.objects.filter(user=instance).delete()
    transaction.on_commit(lambda: _close(closure, patience_seconds=PATIENCE_SECONDS), robust=True)


def finish_closures() -> None:
    """Erase once more what is left of users who were deleted."""
    for page in iterate_pages(Closure.objects.all()):
        for closure in page:
            with guard("closure", user_id=closure.user_id):
                _close(closure)


def _close(closure: Closure, *, patience_seconds: float = 0) -> None:
    is_late = closure.created_at < timezone.now() - LATECOMERS
    _erase_sessions(closure.user_id)
    _erase_name_from_log(closure.user_id)
    answers = account_closed.send_robust(Closure, user_id=closure.user_id, patience_seconds=patience_seconds)
    if is_late and all(answer is True for _receiver, answer in answers):
        closure.delete()


def _erase_sessions(user_id: int) -> None:
    """End the person's sessions, which hold their address. None is found by its owner: every session is read."""
    keys: list[str] = []
    prefix = cache.make_key(KEY_PREFIX).encode()
    for key in sync_redis().scan_iter(match=prefix + b"*", count=MAX_KEYS_READ):
        keys.append(KEY_PREFIX + key.removeprefix(prefix).decode())
    for start in range(0, len(keys), MAX_KEYS_READ):
        sessions = cache.get_many(keys[start : start + MAX_KEYS_READ])
        if theirs := [key for key, data in sessions.items() if data.get(SESSION_KEY) == str(user_id)]:
            cache.delete_many(theirs)


def _erase_name_from_log(user_id: int) -> None:
    """Take the address out of what operators did to the user."""
    of_user = {"content_type": ContentType.objects.get_for_model(User), "object_id": str(user_id)}
    LogEntry.objects.filter(**of_user).exclude(object_repr="").update(object_repr="")
