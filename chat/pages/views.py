"""The pages of the chat. With JavaScript they follow turns over the socket; without, forms and reloading do the same."""

import time
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from redis.exceptions import RedisError

from accounts.http import member_of
from billing import entitlements
from chat.attachments import uploads
from chat.attachments.binding import decode_attached
from chat.attachments.reading import read_later
from chat.errors import BadFile, FileNotReady, TooManyFiles, file_sentence_for
from chat.llm.catalog import find_model, list_offered
from chat.llm.health.overview import unavailable_models
from chat.llm.selection import AUTO
from chat.models import Attachment, LanguageModel
from chat.pages.picker import by_tier, efforts_of, list_model_options
from chat.shown.costs import estimates_for
from chat.shown.files import file_response
from chat.shown.fragments import show_turn, turn_html
from chat.shown.words import WORDS
from chat.turns.limits import count_upload
from chat.turns.log import read_log_sync, replay
from chat.turns.opening import LATEST, Question, open_turn
from chat.turns.stopping import stop_turn
from core.errors import DomainError, NotFound
from core.redis_clients import sync_redis
from history import access, tree
from history.models import Conversation, Turn, new_id
from history.timeline import by_age

TURNS_SHOWN = 30
SIDEBAR_SHOWN = 40
RECENT_SHOWN = 6
READING_SECONDS = 25
"""How long a page without JavaScript waits until the files it sent are read."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a question was not taken, and the question."""

    sentence: str
    text: str
    model: str
    effort: str
    files: list[Attachment]  # what was sent with it, and is kept for the next try


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """A new chat; for a visitor, what this is."""
    if not request.user.is_authenticated:
        free = entitlements.default_plan()
        return render(request, "pages/landing.html", {"free": free, "models": [c.model for c in list_offered()]})
    return chat_page(request, None, conversation_id=new_id())


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def conversation(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    """A conversation's last turns; POST asks, and begins the conversation if the id is new."""
    owner_id = member_of(request).pk
    if request.method == "POST":
        return ask(request, conversation_id)
    found = access.access_conversation(owner_id, conversation_id)
    return chat_page(request, found, conversation_id=conversation_id)


def ask(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    owner_id = member_of(request).pk
    question = question_of(request, conversation_id)
    sent: list[Attachment] = []
    try:
        if not request.POST.keys() & {"again", "instead"}:
            sent = list_sent(request)
            question = replace(question, attachments=tuple(file.pk for file in take_files(request, sent)))
        opened = open_turn(owner_id, question)
    except DomainError as error:
        found = access.find_conversation(conversation_id)
        if found is not None and found.owner_id != owner_id:
            raise
        kept = [file for file in sent if file.status == Attachment.Status.READY or uploads.is_waiting(file)]
        effort = request.POST.get("effort", "")
        refusal = Refusal(str(error.message), question.text, question.model, effort, kept)
        return chat_page(request, found, conversation_id=conversation_id, refusal=refusal, status=error.status)
    return to_turn(opened.turn)


@login_required
@require_safe
def earlier(request: HttpRequest, turn_id: UUID) -> HttpResponse:
    """The turns before one that is shown: a fragment, or a page of its own."""
    turn = access.access_turn(member_of(request).pk, turn_id)
    found = access.access_conversation(turn.owner_id, turn.conversation_id)
    if request.headers.get("HX-Request") == "true":
        return render(request, "chat/_turns.html", shown_turns(found, before=turn))
    return chat_page(request, found, conversation_id=found.pk, before=turn)


@login_required
@require_safe
def turn(request: HttpRequest, turn_id: UUID) -> HttpResponse:
    """One turn as it is now: what a page asks for while its socket does not come up. Else its place in its page."""
    found = access.access_turn(member_of(request).pk, turn_id)
    if request.headers.get("HX-Request") == "true":
        return HttpResponse(turn_html(found, text=text_so_far(found)))
    return to_turn(found)


@login_required
@require_POST
def stop(request: HttpRequest, turn_id: UUID) -> HttpResponse:
    found = access.access_turn(member_of(request).pk, turn_id)
    async_to_sync(stop_turn)(found)
    return to_turn(found)


@login_required
@require_safe
def attachment(request: HttpRequest, attachment_id: UUID) -> HttpResponse:
    """A file its owner attached."""
    return file_response(member_of(request).pk, attachment_id)


@login_required
@require_safe
def preview(request: HttpRequest, attachment_id: UUID) -> HttpResponse:
    """The small image of an attached one."""
    return file_response(member_of(request).pk, attachment_id, preview=True)


@login_required
@require_safe
def dashboard(request: HttpRequest) -> HttpResponse:
    """Allowance, recent conversations and models."""
    user = member_of(request)
    allowed, allowance = entitlements.standing_of(user.pk)
    context = {
        "allowance": allowance,
        "plan_name": entitlements.plan_name_of(allowed.plan),
        "allowed": allowed,
        "recent": access.list_conversations(user.pk, limit=RECENT_SHOWN).rows,
        "choices": list_model_options(allowed),
    }
    return render(request, "chat/dashboard.html", context)


def chat_page(
    request: HttpRequest,
    found: Conversation | None,
    *,
    conversation_id: UUID,
    before: Turn | None = None,
    refusal: Refusal | None = None,
    status: int = 200,
) -> HttpResponse:
    """Render the page of a conversation, or of one that its first question will begin."""
    user = member_of(request)
    allowed, allowance = entitlements.standing_of(user.pk)
    page = access.list_conversations(user.pk, limit=SIDEBAR_SHOWN)
    turns = shown_turns(found, before=before) if found else {"turns": [], "earlier": None}
    choices = list_model_options(allowed, unavailable=unavailable_models())
    chosen = refusal.model if refusal else _last_model(turns["turns"])
    context: dict[str, Any] = {
        **turns,
        "conversation": found,
        "conversation_id": conversation_id,
        "turn_id": new_id(),
        "groups": by_age(page.rows),
        "next": page.next,
        "allowance": allowance,
        "question_characters": allowed.question_characters,
        "choices": choices,
        "tiers": by_tier(choices),
        "chosen": chosen,
        "efforts": efforts_of(choices, chosen),
        "effort": refusal.effort if refusal else _last_effort(turns["turns"]),
        "refusal": refusal,
        "estimate": estimates_for(choice.model for choice in choices if choice.is_included),
        "most_files": settings.ATTACHMENTS_PER_QUESTION,
        "most_file_bytes": settings.ATTACHMENT_BYTES,
        "words": {name: str(word) for name, word in WORDS.items()}
        | {"file_too_large": file_sentence_for("file_too_large")},
        "reload": reload_of(turns["turns"][-1].turn) if turns["turns"] else "",
        "only_demo": all(choice.model.tier == LanguageModel.Tier.DEMO for choice in choices),
    }
    return render(request, "chat/chat.html", context, status=status)


def question_of(request: HttpRequest, conversation_id: UUID) -> Question:
    """Return what the form asks: its text; `instead`, what a button asks for; or a turn's question `again`."""
    form = request.POST
    if again := form.get("again"):
        earlier_turn = access.access_turn(member_of(request).pk, parse_id(again))
        return Question(
            turn_id=parse_id(form.get("turn_id", "")),
            conversation_id=earlier_turn.conversation_id,
            text=earlier_turn.question,
            model=form.get("model", ""),
            effort=effort_of(form),
            parent_id=earlier_turn.parent_id,
            attachments=tuple(file.id for file in decode_attached(earlier_turn.attachments)),
        )
    return Question(
        turn_id=parse_id(form.get("turn_id", "")),
        conversation_id=conversation_id,
        text=(form.get("instead") or form.get("text", "")).replace("\r\n", "\n"),  # as forms send it
        model=form.get("model", ""),
        effort=effort_of(form),
        parent_id=LATEST,
    )


def effort_of(form: QueryDict) -> str:
    """Return how hard the form says to think. Without scripts the levels it offers may be another model's: not followed."""
    effort, model = form.get("effort", ""), find_model(form.get("model", ""))
    return effort if model and effort in model.effort_levels else ""


def list_sent(request: HttpRequest) -> list[Attachment]:
    """Return the files a form names that are there: uploaded by a script, or with a try that was refused."""
    found = []
    for text in request.POST.getlist("attachments")[: settings.ATTACHMENTS_PER_QUESTION]:
        try:
            found.append(uploads.access_attachment(member_of(request).pk, UUID(text)))
        except (ValueError, NotFound):  # removed meanwhile: the person sees what is left
            pass
    return found


def take_files(request: HttpRequest, sent: list[Attachment]) -> list[Attachment]:
    """Keep the files a form brings, and wait until they are read; `sent` has them then. Raises DomainError."""
    brought = request.FILES.getlist("files")
    if len(brought) + len(sent) > settings.ATTACHMENTS_PER_QUESTION:
        raise TooManyFiles
    for upload in brought:
        try:
            count_upload(member_of(request).pk)
            kept = uploads.keep(member_of(request).pk, upload)
        except BadFile as error:
            raise DomainError(f"{upload.name}: {error.message}", code=error.code) from error
        sent.append(kept)
        read_later(kept.pk)
    sent[:] = uploads.wait_for(sent, seconds=READING_SECONDS)
    for file in sent:
        if file.status == Attachment.Status.REFUSED:
            raise DomainError(f"{file.name}: {file_sentence_for(file.error)}", code=file.error)
        if uploads.is_waiting(file):
            raise FileNotReady
    return sent


def parse_id(text: str) -> UUID:
    """Return the id a form sent; a new one where it sent none."""
    try:
        return UUID(text)
    except ValueError:
        return new_id()


def shown_turns(found: Conversation, *, before: Turn | None = None) -> dict[str, Any]:
    path = tree.list_path(found, before=before, limit=TURNS_SHOWN)
    shown = [show_turn(turn, text=text_so_far(turn), beside=path.beside.get(turn.pk, ())) for turn in path.turns]
    return {"turns": shown, "earlier": path.turns[0] if path.has_earlier else None}


def text_so_far(turn: Turn) -> str:
    """Return what an open turn has written. Nothing while the log is away: a page that follows the turn asks again."""
    if turn.status != Turn.Status.STREAMING:
        return ""
    try:
        return replay(read_log_sync(sync_redis(), turn.pk)).text
    except (RedisError, OSError):
        return ""


def reload_of(turn: Turn) -> str:
    """Return where a page without JavaScript goes on to, while its last turn is open. The same address with the same
    fragment would only scroll."""
    return f"?t={time.time_ns()}#turn-{turn.pk}" if turn.is_open else ""


def to_turn(turn: Turn) -> HttpResponseRedirect:
    return HttpResponseRedirect(f"{reverse('conversation', args=[turn.conversation_id])}#turn-{turn.pk}")


def _last_model(turns: list[Any]) -> str:
    asked = turns[-1].turn.requested_model if turns else ""
    return "" if asked == AUTO else asked


def _last_effort(turns: list[Any]) -> str:
    return turns[-1].turn.effort if turns else ""
