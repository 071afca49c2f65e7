"""What the page of a conversation shows: its turns, the list of conversations, the form of the next question."""

import time
from dataclasses import dataclass
from math import ceil
from typing import Any
from uuid import UUID

from django.conf import settings
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import get_language
from redis.exceptions import RedisError

from accounts.confirmation import must_confirm_email
from billing import entitlements
from billing.entitlements import Entitlements
from chat.errors import file_sentence_for
from chat.llm import recordings
from chat.llm.catalog import RECORDED
from chat.llm.selection import AUTO, list_for_unnamed
from chat.models import LanguageModel
from chat.pages.picker import group_by_tier, list_efforts, list_model_options
from chat.pages.question_form import RefusedQuestion
from chat.pages.words import SCRIPT_SENTENCES
from chat.shown.costs import estimates_for
from chat.shown.fragments import siblings_html, turn_html
from chat.turns.log import read_log_sync, replay
from core.redis_clients import sync_redis
from history import branches
from history.branches import Siblings
from history.models import Conversation, Folder, Turn, new_id
from history.rendering import RenderingBudget
from history.temporary import KEPT, gone_at, new_turn_id
from history.views import sidebar_context

TURNS_SHOWN = 30


@dataclass(frozen=True, slots=True)
class ShownTurn:
    """A turn and its HTML."""

    turn: Turn
    html: SafeString


@dataclass(frozen=True, slots=True)
class Window:
    """What is shown of the chosen branch: its last turns, those before a turn, those after one, or those around one."""

    before: Turn | None = None
    after: Turn | None = None
    at: Turn | None = None


LAST_TURNS = Window()


def chat_context(
    owner_id: int,
    conversation_id: UUID,
    conversation: Conversation | None,
    *,
    window: Window = LAST_TURNS,
    refusal: RefusedQuestion | None = None,
    folder: Folder | None = None,
) -> dict[str, Any]:
    """Return the context of `chat/chat.html`. `conversation` is None for one that its first question will
    begin, in `folder`."""
    allowed, allowance = entitlements.entitlements_and_allowance_of(owner_id)
    turns = turns_context(conversation, window) if conversation else {"turns": []}
    last = turns["turns"][-1].turn if turns["turns"] else None
    return {
        **turns,
        **sidebar_context(owner_id, conversation_id),
        "conversation": conversation,
        "forks": new_id(),
        "allowance": allowance,
        "reload_address": _reload_address([shown.turn for shown in turns.get("pair") or turns["turns"][-1:]]),
        "words": _script_sentences(allowed),
        "starters": [] if turns["turns"] else recordings.list_questions(get_language() or settings.LANGUAGE_CODE),
        "folder": folder,
        **_composer_context(owner_id, allowed, last, refusal, folder),
        "turn_id": new_turn_id(conversation_id),
        **_temporary_context(conversation),
    }


def turns_context(conversation: Conversation, window: Window = LAST_TURNS) -> dict[str, Any]:
    """Return the context of `chat/_turns.html`. `pair` are the two turns that stand in the place of the last one, where
    that was asked beside another."""
    branch = branches.list_branch(
        conversation, limit=TURNS_SHOWN, before=window.before, after=window.after, at=window.at
    )
    budget = RenderingBudget()
    shown = [_show(turn, budget, branch.siblings.get(turn.pk)) for turn in branch.turns]
    last = shown[-1] if shown else None
    others = branch.siblings.get(last.turn.pk) if last else None
    return {
        "turns": shown,
        "pair": [last if last and turn.pk == last.turn.pk else _show(turn, budget) for turn in branch.pair or ()],
        "last": last,
        "last_siblings": siblings_html(others) if others else "",
        "earlier_than": branch.turns[0] if branch.turns and branch.has_earlier else None,
        "later_than": branch.turns[-1] if branch.turns and branch.has_later else None,
    }


def current_html(turn: Turn, siblings: Siblings | None = None, budget: RenderingBudget | None = None) -> SafeString:
    """Return the HTML of a turn, with what an open one has written so far."""
    return turn_html(turn, text=_text_so_far(turn), siblings=siblings, budget=budget)


def turn_address(turn: Turn) -> str:
    """Return where a turn is shown: its place in the page of its conversation, on its branch, which is the chosen one
    from then on."""
    return f"{reverse('conversation', args=[turn.conversation_id])}?turn={turn.pk}#turn-{turn.pk}"


def requested_model(turn: Turn) -> str:
    """Return the model a turn asked for, as a form has it; empty for Auto, and for a recorded example: nothing else is
    answered so."""
    return "" if turn.requested_model in (AUTO, RECORDED.model.key) else turn.requested_model


def _show(turn: Turn, budget: RenderingBudget, siblings: Siblings | None = None) -> ShownTurn:
    return ShownTurn(turn, current_html(turn, siblings, budget))


def _temporary_context(conversation: Conversation | None) -> dict[str, Any]:
    """Return what the page of a temporary conversation says and leaves out; nothing for another."""
    moment = gone_at(conversation) if conversation else None
    if moment is None:
        return {}
    left = moment - timezone.now()
    return {
        "gone_at": moment,
        "left_seconds": max(0, ceil(left.total_seconds())),
        "kept_seconds": round(KEPT.total_seconds()),
        "may_compare": False,
    }


def _composer_context(
    owner_id: int, allowed: Entitlements, last: Turn | None, refusal: RefusedQuestion | None, folder: Folder | None
) -> dict[str, Any]:
    """Return what the form of the next question needs: filled in as the last turn was asked, or as it was refused."""
    options = list_model_options(allowed)
    chosen = refusal.model if refusal else (requested_model(last) if last else "")
    if folder and not refusal and any(option.model.key == folder.model for option in options if option.is_included):
        chosen = folder.model
    unnamed = list_for_unnamed(allowed, only_free=must_confirm_email(owner_id))
    return {
        "question_characters": allowed.question_characters,
        "may_compare": allowed.has_comparison,
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


def _text_so_far(turn: Turn) -> str:
    """Return what an open turn has written. Nothing while Redis is away: a page that follows the turn asks again."""
    if turn.status != Turn.Status.STREAMING:
        return ""
    try:
        return replay(read_log_sync(sync_redis(), turn.pk)).text
    except (RedisError, OSError):
        return ""


def _reload_address(last: list[Turn]) -> str:
    """Return what a page without JavaScript reloads while its last turn, or one of the last pair, is open; empty when
    it need not.

    The query differs each time: at the same address, with a fragment, a browser would only scroll.
    """
    return f"?t={time.time_ns()}#turn-{last[-1].pk}" if any(turn.is_open for turn in last) else ""


def _script_sentences(allowed: Entitlements) -> dict[str, str]:
    sentences = {name: str(sentence) for name, sentence in SCRIPT_SENTENCES.items()}
    most_bytes = allowed.largest_file(settings.ATTACHMENT_BYTES)
    return sentences | {"file_too_large": file_sentence_for("file_too_large", most_bytes=most_bytes)}
