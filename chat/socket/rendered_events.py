"""Events with HTML and sentences, in the language and the time zone of the person who gets them.

All but `render_rejected` read from databases: the consumer calls them in a thread.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.utils import timezone, translation
from django.utils.translation import ngettext

from accounts.models import User
from billing import entitlements
from chat.shown.events import ended_event, started_event
from chat.shown.fragments import turn_html
from chat.shown.ways_on import ways_on_html
from chat.socket.vocabulary import allowance_event, conversation_event, notice_event, rejected_event
from chat.turns.opening import OpenedTurn, Question
from core.errors import DomainError
from history import access, branches
from history.fragments import conversation_html
from history.models import Conversation, Turn
from history.temporary import is_temporary

SocketEvent = dict[str, Any]


@contextmanager
def localized_for(user: User) -> Iterator[None]:
    """Activate the person's language and time zone."""
    with translation.override(user.locale), timezone.override(user.zone):
        yield


def render_opened(user: User, opened: OpenedTurn) -> list[SocketEvent]:
    """Return the events for the page that asked; of a turn that was known already, only its start."""
    with localized_for(user):
        events = [_started_event(opened.turn)]
        if opened.conversation is not None:
            events += _line_events(opened.conversation)
            if opened.turn.trimmed_turns:
                events.append(notice_event("info", _trimmed_sentence(opened.turn.trimmed_turns)))
    return events


def render_started(user: User, turn_id: UUID) -> tuple[Turn, list[SocketEvent]]:
    """Return a turn that another page asked for, and the events of its start; raises NotFound."""
    turn, conversation = access.access_turn_in_conversation(user.pk, turn_id)
    with localized_for(user):
        return turn, [_started_event(turn), *_line_events(conversation)]


def render_ended(user: User, turn_id: UUID) -> list[SocketEvent]:
    """Return the events of a turn's end, read from the saved turn; raises NotFound."""
    turn = access.access_turn(user.pk, turn_id)
    with localized_for(user):
        ended = ended_event(turn, turn_html(turn, siblings=branches.find_siblings(turn)))
    return [ended, allowance_event(entitlements.allowance_of(user.pk))]


def render_conversation(user: User, conversation_id: UUID) -> SocketEvent:
    """Return the event with the conversation's line of the sidebar; with none, if the person does not have it."""
    conversation = access.find_conversation(conversation_id)
    if conversation is None or conversation.owner_id != user.pk:
        return conversation_event(conversation_id, "")
    with localized_for(user):
        return _conversation_event(conversation)


def render_rejected(user: User, turn_id: UUID | None, error: DomainError) -> SocketEvent:
    """Return why a command was refused."""
    with localized_for(user):
        return rejected_event(turn_id, error.code, str(error.message), error.retry_after)


def render_refused(user: User, question: Question, error: DomainError) -> SocketEvent:
    """Return why a question was refused, and the ways on."""
    with localized_for(user):
        html = ways_on_html(user.pk, question, error.code)
        return {**render_rejected(user, question.turn_id, error), "html": html}


def _started_event(turn: Turn) -> SocketEvent:
    return started_event(turn, turn_html(turn, siblings=branches.find_siblings(turn, is_latest=True)))


def _line_events(conversation: Conversation) -> list[SocketEvent]:
    """Return the event with the conversation's line of the sidebar; none for a temporary one, which has none."""
    return [] if is_temporary(conversation.pk) else [_conversation_event(conversation)]


def _conversation_event(conversation: Conversation) -> SocketEvent:
    return conversation_event(conversation.pk, conversation_html(conversation), conversation.leaf_id)


def _trimmed_sentence(count: int) -> str:
    return ngettext(
        "The conversation is longer than the model can read: its oldest question was left out.",
        "The conversation is longer than the model can read: its %(count)d oldest questions were left out.",
        count,
    ) % {"count": count}
