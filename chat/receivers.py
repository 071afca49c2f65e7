"""What follows from changes elsewhere, such as a title, a deletion or a suspension.

A person's open tabs are notified, their cached answers are dropped, and files are erased with what they belong to.
"""

from collections.abc import Callable
from typing import Any

from asgiref.sync import async_to_sync
from django.db import transaction
from django.db.models import Q
from django.db.models.signals import post_delete, post_save, pre_delete
from django.dispatch import receiver

from accounts.models import User
from accounts.signals import access_revoked
from chat.attachments import erasing
from chat.turns import answer_cache, notices
from history.models import Conversation


@receiver(access_revoked)
def close_sockets_and_forget_answers(user_id: int, **_signal: Any) -> None:
    _notify_when_committed("default", user_id, "revoked")
    _when_committed("default", lambda: answer_cache.forget_answers(user_id))


@receiver(post_delete, sender=User)
def forget_answers_of_owner(instance: User, **_signal: Any) -> None:
    user_id = instance.pk  # Django takes it away before the transaction ends
    _when_committed("default", lambda: answer_cache.forget_answers(user_id))


@receiver(post_save, sender=Conversation)
def notify_of_title(instance: Conversation, update_fields: frozenset[str] | None, **_signal: Any) -> None:
    if update_fields and "title" in update_fields:  # a new conversation comes with its first turn
        notify_of_change(instance)


@receiver(post_delete, sender=Conversation)
def notify_of_deletion(instance: Conversation, **_signal: Any) -> None:
    """Notify the tabs, and drop all cached answers of the person.

    Which of them came from this conversation is not stored: asking a model again costs less than storing that.
    """
    notify_of_change(instance)
    _when_committed("history", lambda: answer_cache.forget_answers(instance.owner_id))


@receiver(pre_delete, sender=Conversation)
def hide_files_of_conversation(instance: Conversation, **_signal: Any) -> None:
    """Before the conversation is deleted: if this process dies in between, the sweep knows which files to erase."""
    erasing.hide_files(Q(conversation_id=instance.pk))


@receiver(post_delete, sender=Conversation)
def erase_files_of_conversation(instance: Conversation, **_signal: Any) -> None:
    conversation_id = instance.pk  # Django takes it away when the deletion is over
    transaction.on_commit(lambda: erasing.erase_of_conversation(conversation_id), using="history", robust=True)


@receiver(post_delete, sender=User)
def erase_files_of_owner(instance: User, **_signal: Any) -> None:
    owner_id = instance.pk  # Django takes it away when the deletion is over
    transaction.on_commit(lambda: erasing.erase_of_owner(owner_id), robust=True)


def notify_of_change(conversation: Conversation) -> None:
    _notify_when_committed("history", conversation.owner_id, "conversation", conversation_id=str(conversation.pk))


def _notify_when_committed(using: str, user_id: int, event: str, **fields: Any) -> None:
    def notify() -> None:
        async_to_sync(notices.send_notice)(user_id, event, **fields)

    _when_committed(using, notify)


def _when_committed(using: str, follow: Callable[[], None]) -> None:
    transaction.on_commit(follow, using=using, robust=True)  # robust: a failure here must not undo the change
