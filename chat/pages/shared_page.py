"""What a shared page shows, and what its owner sees of their shares."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.http import HttpRequest
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.safestring import SafeString

from chat.pages.words import SCRIPT_SENTENCES
from chat.shown.links import link_of
from core.compiled_fragments import CompiledFragment
from core.errors import NotFound
from history import sharing
from history.models import SharedPage, SharedTurn, new_id
from history.rendering import RenderingBudget, render_markdown
from history.trash import list_trashed_among

SENTENCES = ("copy", "copied", "not_copied", "wrap", "download", "table", "diagram", "source", "code", "code_in")
MOST_DIGITS = 5

_turn = CompiledFragment(
    "chat/_shared_turn.html", "shown", "number", "question", "files", "answer", "model", "time", "asked_at"
)


@dataclass(frozen=True, slots=True)
class ShownShare:
    """A share and its link, for its owner. While its conversation is in the trash, nobody can open it."""

    share: SharedPage
    link: str
    is_in_trash: bool


def shown_shares(owner_id: int, *, conversation_id: UUID | None = None) -> list[ShownShare]:
    """Return what a person shares, the latest first, without what has expired."""
    found = sharing.list_shares(owner_id, conversation_id=conversation_id)
    shares = [share for share in found if not sharing.is_expired(share)]
    trashed = list_trashed_among({share.conversation_id for share in shares})
    return [ShownShare(share, link_of(share), share.conversation_id in trashed) for share in shares]


def shared_context(share: SharedPage, token: str, request: HttpRequest) -> dict[str, Any]:
    """Return the context of `chat/shared.html`; raises NotFound for a page that is none, ShareGone if it
    was revoked meanwhile."""
    number = _number_of(request.GET.get("page", "1"))
    pages = max(1, -(-share.turn_count // sharing.PAGE_SIZE))
    if not 1 <= number <= pages:
        raise NotFound
    start = (number - 1) * sharing.PAGE_SIZE
    turns = sharing.list_shared_turns(share, start=start)
    if len(turns) < min(share.turn_count - start, sharing.PAGE_SIZE):
        current = sharing.open_share(token)
        if current.edition != share.edition:  # it has taken the place of this one, which is erased
            return shared_context(current, token, request)
    budget = RenderingBudget()
    return {
        "share": share,
        "token": token,
        "turns": [_turn_html(turn, budget) for turn in turns],
        "page": number,
        "pages": pages,
        "before": number - 1,
        "after": number + 1 if number < pages else 0,
        "copy_id": new_id(),
        "is_own": request.user.pk == share.owner_id,
        "words": {name: str(SCRIPT_SENTENCES[name]) for name in SENTENCES},
    }


def _number_of(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS else 0


def _turn_html(turn: SharedTurn, budget: RenderingBudget) -> SafeString:
    number, asked_at = str(turn.position + 1), timezone.localtime(turn.asked_at)
    values = {
        "number": number,
        "question": turn.question,
        "files": ", ".join(sharing.file_names_of(turn)),
        "answer": render_markdown(turn.answer, f"shared-{number}", budget),
        "model": turn.model,
        "time": date_format(asked_at, "SHORT_DATETIME_FORMAT"),
        "asked_at": asked_at.isoformat(),
    }
    return _turn.fill(values, {"is_cut": bool(turn.is_cut)})
