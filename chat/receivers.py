"""What follows from changes elsewhere, such as a title, a deletion, the trash or a log-out.

A person's open tabs are notified, their cached answers are dropped, and files are erased with what they belong to.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q
from django.dispatch import receiver
from redis.exceptions import RedisError

from accounts.signals import access_revoked, account_closed, key_revoked
from chat.attachments import erasing
from chat.models import StaffReading
from chat.turns import answer_cache, erasure, notices
from chat.turns.guests import announce_revocation
from chat.turns.stopping import stop_what_nobody_may_ask
from history.deletion import end_temporaries
from history.models import Conversation
from history.signals import branch_chosen, conversation_deleted, conversations_changed, conversations_trashed
from history.temporary import is_temporary

logger = logging.getLogger(__name__)

MAX_NOTICES = 5
"""Of one change of many conversations; above, tabs read their list again."""


@receiver(access_revoked)
def ask_guests_and_forget(user_id: int, **_signal: Any) -> None:
    """Ask who is still here, and forget what is kept for a while: cached answers and temporary conversations."""
    _when_committed("default", lambda: _try_to_ask_guests(user_id))
    _when_committed("default", lambda: _try_to_forget_answers(user_id))
    _when_committed("default", lambda: _try_to_end_temporaries(user_id))
    _when_committed("default", lambda: _try_to_stop(user_id))


@receiver(key_revoked)
def ask_guests_and_stop(user_id: int, **_signal: Any) -> None:
    _when_committed("default", lambda: _try_to_ask_guests(user_id))
    _when_committed("default", lambda: _try_to_stop(user_id))


@receiver(branch_chosen)
def notify_of_branch(conversation: Conversation, **_signal: Any) -> None:
    notify_of_change(conversation)


@receiver(conversations_trashed)
def follow_into_trash(owner_id: int, conversation_ids: Sequence[UUID], **_signal: Any) -> None:
    """Notify the tabs, stop the turns, and drop all cached answers of the person, as a deletion does."""
    notify_of_changes(owner_id, conversation_ids)
    erasure.stop_in_trash(owner_id, conversation_ids)
    _try_to_forget_answers(owner_id)


@receiver(conversations_changed)
def notify_of_changes(owner_id: int, conversation_ids: Sequence[UUID], **_signal: Any) -> None:
    """Notify the tabs of each conversation; where they are many, or a folder is another, that the whole list is."""
    changed = conversation_ids if 0 < len(conversation_ids) <= MAX_NOTICES else [notices.WHOLE_LIST]
    for conversation_id in changed:
        _when_committed("history", partial(notices.send_notice, owner_id, conversation_id))


@receiver(conversation_deleted)
def erase_with_conversation(
    conversation: Conversation, turn_ids: Sequence[UUID], patience_seconds: float, **_signal: Any
) -> bool:
    """Notify the tabs, stop and settle the turns, erase the files, and drop all cached answers of the person.

    Which of them came from this conversation is not stored: asking a model again costs less than storing that.
    """
    notify_of_change(conversation)
    erasing.hide_files(Q(conversation_id=conversation.pk))
    if not erasure.stop_and_settle(turn_ids, patience_seconds=patience_seconds):
        return False
    # After an error the sweep erases hidden files: a storage that is away must not keep the text.
    _when_committed("history", lambda: erasing.erase_of_conversation(conversation.pk))
    if not is_temporary(conversation.pk):  # of a temporary one none was kept
        answer_cache.forget_answers(conversation.owner_id)
    return True


@receiver(account_closed)
def erase_with_account(user_id: int, patience_seconds: float, **_signal: Any) -> bool:
    is_erased = erasure.erase_history(user_id, patience_seconds=patience_seconds)
    erasing.erase_of_owner(user_id)
    # Of the staff, who has left is nobody's; members keep what was read and why.
    StaffReading.objects.filter(staff=None).exclude(staff_email="").update(staff_email="")
    return is_erased


def notify_of_change(conversation: Conversation) -> None:
    _when_committed("history", lambda: notices.send_notice(conversation.owner_id, conversation.pk))


def _try_to_ask_guests(user_id: int) -> None:
    try:
        announce_revocation(user_id)
    except (RedisError, OSError):  # they are asked within RECHECK_SECONDS anyway
        logger.warning("Guests not told", extra={"user_id": user_id})


def _try_to_forget_answers(user_id: int) -> None:
    try:
        answer_cache.forget_answers(user_id)
    except (RedisError, OSError):  # they live on for CACHE_TTL, for their owner alone (docs/adr/0012)
        logger.warning("Cached answers not forgotten", extra={"user_id": user_id})


def _try_to_stop(user_id: int) -> None:
    try:
        stop_what_nobody_may_ask(user_id)
    except (RedisError, OSError):  # they are paid to their end
        logger.warning("Turns not stopped", extra={"user_id": user_id})


def _try_to_end_temporaries(user_id: int) -> None:
    try:
        end_temporaries(user_id)
    except (RedisError, OSError):  # they are gone within the hour
        logger.warning("Temporary conversations not ended", extra={"user_id": user_id})


def _when_committed(using: str, follow: Callable[[], None]) -> None:
    transaction.on_commit(follow, using=using, robust=True)  # robust: a failure here must not undo the change
