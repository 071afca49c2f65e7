"""Pages that list, rename and delete conversations, and put them in order. The page that shows one is the chat's."""

import datetime as dt
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.dateparse import parse_datetime
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.http import member_of
from core.errors import NotFound
from core.http import is_fragment
from history import access, folders, order, trash
from history.forms import RenameForm
from history.models import Conversation
from history.sidebar import read_sidebar
from history.timeline import continue_groups, group_by_age
from history.words import sentence_of

SIDEBAR_SHOWN = 20
"""Conversations that come with the page: as many as a screen shows. More come when the reader gets to the last one."""


@login_required
@require_safe
def conversations(request: HttpRequest) -> HttpResponse:
    """List all conversations, a page at a time; for the sidebar, those that follow its last one."""
    after = request.GET.get("after")
    owner_id = member_of(request).pk
    if after and is_fragment(request):
        page = access.list_loose(owner_id, after=after)
        return render(request, "history/_sidebar_rows.html", _following(request, page, after))
    return _list(request, access.list_conversations(owner_id, after=after), "list")


@login_required
@require_safe
def sidebar(request: HttpRequest) -> HttpResponse:
    """The list of the sidebar, for a page whose list has changed in more than one place; else, all conversations."""
    if not is_fragment(request):
        return redirect("conversations")
    current = _current_in(request)
    return render(request, "history/_sidebar.html", sidebar_context(member_of(request).pk, current))


@login_required
@require_safe
def archive(request: HttpRequest) -> HttpResponse:
    """List what is archived."""
    after = request.GET.get("after")
    return _list(request, access.list_conversations(member_of(request).pk, "archive", after=after), "archive")


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def trash_page(request: HttpRequest) -> HttpResponse:
    """List what is in the trash, last put there first; POST empties it of what was in it when the page was shown."""
    owner_id = member_of(request).pk
    if request.method == "POST":
        count = trash.empty_trash(owner_id, until=_read_moment(request.POST.get("until", "")))
        messages.success(request, sentence_of("erase", count))
        return redirect("trash")
    after = request.GET.get("after")
    page = access.list_conversations(owner_id, "trash", after=after)
    context = {
        "conversations": page.rows,
        "next": page.next,
        "is_all": not after and not page.next,
        "until": page.rows[0].trashed_at if page.rows and not after else None,
        "days": settings.TRASH_DAYS,
    }
    return render(request, "history/trash.html", context)


@login_required
@require_POST
def change(request: HttpRequest) -> HttpResponse:
    """Do something to conversations: to the one a button names, or to those a form has chosen.

    Answers with the page one was on and a way to undo it; the sidebar's script gets the lines as they are now.
    """
    owner_id = member_of(request).pk
    act, places = _read_act(request.POST)
    done = order.do(owner_id, act, places)
    sentence = sentence_of(act, len(done.ids))
    if is_fragment(request):
        still = {row.pk: row for row in access.list_there(owner_id, done.ids)}
        context = {
            "sentence": sentence,
            "undo": done.undo,
            "changed": list(still.values()),
            "gone": [pk for pk in done.ids if pk not in still],
        }
        return render(request, "history/_done.html", context)
    messages.success(request, render_to_string("history/_undo.html", {"sentence": sentence, "undo": done.undo}))
    return HttpResponseRedirect(_back(request, act, done.ids))


@login_required
@require_http_methods(["GET", "HEAD"])
def move(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    """Ask for the folder a conversation is to be in."""
    owner_id = member_of(request).pk
    conversation = access.access_conversation(owner_id, conversation_id)
    context = {"conversation": conversation, "folders": folders.list_folders(owner_id)}
    return render(request, "history/_move.html" if is_fragment(request) else "history/move.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def rename(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    conversation = access.access_conversation(member_of(request).pk, conversation_id)
    form = RenameForm(request.POST or None, initial={"title": conversation.title})
    context = {"conversation": conversation, "form": form}
    if not form.is_valid():
        template = "history/_rename.html" if is_fragment(request) else "history/rename.html"
        return render(request, template, context, status=422 if form.is_bound else 200)
    access.rename_conversation(conversation, form.cleaned_data["title"])
    if is_fragment(request):
        return render(request, "history/_renamed.html", context)
    return redirect("conversation", conversation.pk)


def list_page(request: HttpRequest, page: access.Page[Conversation], **context: Any) -> HttpResponse:
    """Return a page of conversations to choose from."""
    context = {
        "groups": group_by_age(page.rows),
        "next": page.next,
        "is_all": not request.GET.get("after") and not page.next,
        "folders": folders.list_folders(member_of(request).pk),
        **context,
    }
    return render(request, "history/conversations.html", context)


def sidebar_context(owner_id: int, conversation_id: UUID | None) -> dict[str, Any]:
    """Return the context of `history/_sidebar.html`; `conversation_id` is that of the page it stands on."""
    found = read_sidebar(owner_id, limit=SIDEBAR_SHOWN)
    return {
        "pinned": found.pinned,
        "folders": found.folders,
        "groups": group_by_age(found.loose.rows),
        "next": found.loose.next,
        "conversation_id": conversation_id,
    }


def _list(request: HttpRequest, page: access.Page[Conversation], place: access.Place) -> HttpResponse:
    return list_page(request, page, place=place)


def _current_in(request: HttpRequest) -> UUID | None:
    """Return the conversation whose page sent a fragment's request."""
    parts = request.headers.get("HX-Current-URL", "").partition("/c/")
    try:
        return UUID(str(parts[2][:36]))
    except ValueError:
        return None


def _following(request: HttpRequest, page: access.Page[Conversation], after: str) -> dict[str, Any]:
    """Return the context of the rows that follow those of a sidebar."""
    moment, _pk = access.read_cursor(after)
    return {
        "groups": continue_groups(page.rows, moment),
        "next": page.next,
        "continues": True,
        "conversation_id": _current_in(request),
    }


def _read_act(fields: QueryDict) -> tuple[str, dict[UUID, UUID | None]]:
    """Return what a form asks for, and of which conversations: its button names them, or they are chosen in it. Raises
    NotFound if it cannot be read."""
    act, places = order.read_act(fields.get("do", ""))
    try:
        folder = fields.get("folder")
        folder_id = UUID(str(folder)) if folder else None
        chosen = {UUID(pk): folder_id for pk in fields.getlist("conversation")[: order.MAX_AT_ONCE]}
    except ValueError as error:
        raise NotFound from error
    return act, places or chosen


def _read_moment(text: str) -> dt.datetime:
    try:
        moment = parse_datetime(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise NotFound
    return moment


def _back(request: HttpRequest, act: str, ids: list[UUID]) -> str:
    """Return where somebody is sent after an act: where they were, unless that is a page they have just deleted."""
    came_from = request.headers.get("Referer", "")
    if not url_has_allowed_host_and_scheme(came_from, allowed_hosts={request.get_host()}):
        return reverse("conversations")
    if act == "trash" and any(str(pk) in came_from for pk in ids):
        return reverse("home")
    parts = urlsplit(came_from)
    path = f"/{parts.path.lstrip('/')}"  # `//` would lead to another site
    return f"{path}?{parts.query}" if parts.query else path
