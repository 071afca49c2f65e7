"""What the page of a conversation shows: its turns, the list of conversations, the form of the next question."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import get_language
from redis.exceptions import RedisError

from accounts.confirmation import must_confirm_email
from billing import entitlements
from billing.entitlements import Entitlements
from chat.errors import file_sentence_for
from chat.llm import recordings
from chat.llm.selection import AUTO, list_for_unnamed
from chat.models import LanguageModel
from chat.pages.picker import group_by_tier, list_efforts, list_model_options
from chat.pages.question_form import RefusedQuestion
from chat.pages.words import SCRIPT_SENTENCES
from chat.shown.costs import estimates_for
from chat.shown.fragments import turn_html
from chat.turns.log import read_log_sync, replay
from core.redis_clients import sync_redis
from history import tree
from history.models import Conversation, Folder, Turn, new_id
from history.views import sidebar_context

TURNS_SHOWN = 30


@dataclass(frozen=True, slots=True)
class ShownTurn:
    """A turn and its HTML."""

    turn: Turn
    html: SafeString


def chat_context(
    owner_id: int,
    conversation_id: UUID,
    conversation: Conversation | None,
    *,
    before: Turn | None = None,
    refusal: RefusedQuestion | None = None,
    folder: Folder | None = None,
) -> dict[str, Any]:
    """Return the context of `chat/chat.html`. `conversation` is None for one that its first question will
    begin, in `folder`."""
    allowed, allowance = entitlements.entitlements_and_allowance_of(owner_id)
    turns = turns_context(conversation, before=before) if conversation else {"turns": [], "earlier_than": None}
    last = turns["turns"][-1].turn if turns["turns"] else None
    return {
        **turns,
        **sidebar_context(owner_id, conversation_id),
        "conversation": conversation,
        "allowance": allowance,
        "reload_address": _reload_address(last),
        "words": _script_sentences(allowed),
        "starters": [] if turns["turns"] else recordings.list_questions(get_language() or settings.LANGUAGE_CODE),
        "folder": folder,
        **_composer_context(owner_id, allowed, last, refusal, folder),
    }


def turns_context(conversation: Conversation, *, before: Turn | None = None) -> dict[str, Any]:
    """Return the context of `chat/_turns.html`: the last turns of the conversation, or those `before` one."""
    path = tree.list_branch(conversation, before=before, limit=TURNS_SHOWN)
    shown = [
        ShownTurn(turn, current_html(turn, earlier_answers=path.earlier_answers.get(turn.pk, ())))
        for turn in path.turns
    ]
    return {"turns": shown, "earlier_than": path.turns[0] if path.has_earlier else None}


def current_html(turn: Turn, *, earlier_answers: Iterable[Turn] = ()) -> SafeString:
    """Return the HTML of a turn, with what an open one has written so far."""
    return turn_html(turn, text=_text_so_far(turn), earlier_answers=earlier_answers)


def turn_address(turn: Turn) -> str:
    """Return where a turn is shown: its place in the page of its conversation."""
    return f"{reverse('conversation', args=[turn.conversation_id])}#turn-{turn.pk}"


def _composer_context(
    owner_id: int, allowed: Entitlements, last: Turn | None, refusal: RefusedQuestion | None, folder: Folder | None
) -> dict[str, Any]:
    """Return what the form of the next question needs: filled in as the last turn was asked, or as it was refused."""
    options = list_model_options(allowed)
    chosen = refusal.model if refusal else _requested_model(last)
    if folder and not refusal and any(option.model.key == folder.model for option in options if option.is_included):
        chosen = folder.model
    unnamed = list_for_unnamed(allowed, only_free=must_confirm_email(owner_id))
    return {
        "turn_id": new_id(),
        "question_characters": allowed.question_characters,
        "tiers": group_by_tier(options),
        "chosen_model": chosen,
        "efforts": list_efforts(options, chosen),
        "effort": refusal.effort if refusal else (last.effort if last else ""),
        "refusal": refusal,
        "estimates": estimates_for(
            (option.model for option in options if option.is_included),
            (candidate.model for candidate in unnamed),
            instructions=folder.instructions if folder else "",
        ),
        "max_files": settings.ATTACHMENTS_PER_QUESTION,
        "max_file_bytes": allowed.largest_file(settings.ATTACHMENT_BYTES),
        "has_only_demo": all(option.model.tier == LanguageModel.Tier.DEMO for option in options if option.is_included),
    }


def _requested_model(last: Turn | None) -> str:
    """Return the model the last turn asked for; empty for Auto. A recorded example's is not in the list, which is the
    same."""
    return "" if last is None or last.requested_model == AUTO else last.requested_model


def _text_so_far(turn: Turn) -> str:
    """Return what an open turn has written. Nothing while Redis is away: a page that follows the turn asks again."""
    if turn.status != Turn.Status.STREAMING:
        return ""
    try:
        return replay(read_log_sync(sync_redis(), turn.pk)).text
    except (RedisError, OSError):
        return ""


def _reload_address(last: Turn | None) -> str:
    """Return what a page without JavaScript reloads while its last turn is open; empty when it need not.

    The query differs each time: at the same address, with a fragment, a browser would only scroll.
    """
    return f"?t={time.time_ns()}#turn-{last.pk}" if last is not None and last.is_open else ""


def _script_sentences(allowed: Entitlements) -> dict[str, str]:
    sentences = {name: str(sentence) for name, sentence in SCRIPT_SENTENCES.items()}
    most_bytes = allowed.largest_file(settings.ATTACHMENT_BYTES)
    return sentences | {"file_too_large": file_sentence_for("file_too_large", most_bytes=most_bytes)}
