"""Lets somebody of the staff read one conversation, where a member needs help or a report must be looked into.

Nobody of the staff sees what people write otherwise. It takes a reason, lasts for half an hour, and the member is told
at once: by mail, and on the page of their history.
"""

import datetime as dt
from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.core.mail import EmailMessage
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone, translation

from accounts import events
from accounts.models import User
from chat.models import StaffReading
from core.errors import NotFound
from core.mail import send_or_queue
from history import access
from history.models import Conversation, Turn

MAY_READ_FOR = dt.timedelta(minutes=30)
MAX_SHOWN = 20
"""Of the latest, on the member's page."""


@dataclass(frozen=True, slots=True)
class ReadConversation:
    """What is shown of it: a page of its turns, in the order they were asked, of all branches."""

    conversation: Conversation
    turns: list[Turn]
    next: str | None


def begin_reading(conversation_id: UUID, *, staff: User, reason: str, peer: str) -> StaffReading:
    """Note that the conversation will be read, and tell its owner. Raises NotFound."""
    conversation = access.find_conversation(conversation_id)
    if conversation is None:
        raise NotFound
    owner = User.objects.filter(pk=conversation.owner_id).first()
    if owner is None:
        raise NotFound
    now = timezone.now()
    reading = StaffReading.objects.create(
        user=owner,
        conversation_id=conversation_id,
        staff=staff,
        staff_email=staff.email,
        reason=reason,
        created_at=now,
        expires_at=now + MAY_READ_FOR,
    )
    events.record("staff_reading_begun", peer=peer, user_id=staff.pk, reading_id=str(reading.pk))
    _tell_owner(reading, owner, conversation)
    return reading


def read_conversation(reading: StaffReading, *, staff: User, after: int = 0) -> ReadConversation:
    """Return a page of it. Raises NotFound for anybody else, after its time, and when it is not there any more."""
    if reading.staff_id != staff.pk or reading.expires_at <= timezone.now():
        raise NotFound
    conversation = access.access_conversation(reading.user_id, reading.conversation_id)
    page = access.list_turns(conversation, after=after)
    return ReadConversation(conversation, page.rows, page.next)


def list_readings(user_id: int) -> list[StaffReading]:
    """Return when somebody of the staff could read conversations of the member, the latest first."""
    return list(StaffReading.objects.filter(user_id=user_id).order_by("-created_at")[:MAX_SHOWN])


def _tell_owner(reading: StaffReading, owner: User, conversation: Conversation) -> None:
    with translation.override(owner.locale), timezone.override(owner.zone):
        context = {
            "reading": reading,
            "title": conversation.title,
            "site_name": settings.SITE_NAME,
            "page": settings.SITE_URL + reverse("keep_history"),
        }
        text = render_to_string("chat/mail/staff_reading.txt", context).strip()
    subject, _line, body = text.partition("\n")
    send_or_queue(EmailMessage(subject.strip(), body.strip() + "\n", settings.DEFAULT_FROM_EMAIL, [owner.email]))
