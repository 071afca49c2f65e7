"""The pages of the chat. With JavaScript they follow turns over the socket, without it by forms and reloading."""

from typing import Any
from uuid import UUID, uuid5

from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import limits
from accounts.http import member_of, peer_of
from accounts.models import User
from billing import entitlements
from chat.llm.catalog import list_offered
from chat.llm.health.overview import silent_models
from chat.llm.providers import list_providers
from chat.pages.chat_page import (
    LAST_TURNS,
    Window,
    chat_context,
    current_html,
    requested_model,
    turn_address,
    turns_context,
)
from chat.pages.palette import list_pages
from chat.pages.picker import group_by_tier, list_model_options
from chat.pages.question_form import RefusedQuestion, open_beside_from_form, open_turn_from_form, parse_id
from chat.pages.search_page import results_context, shortest
from chat.provider_registry import DEMO
from chat.shown.files import file_response
from chat.shown.finding import SEARCH_LIMIT, find_in_history, find_titles
from chat.turns import forking
from chat.turns.stopping import stop_turn
from core.errors import NotFound, RateLimited
from core.http import is_fragment
from core.loopback import comes_from_this_machine
from history import access, branches, deletion
from history.errors import BadFilter, ForkTooLarge, ParentNotFinished, TooManyTemporary
from history.folders import find_folder
from history.models import Conversation, Turn, new_id
from history.temporary import begin_conversation, is_temporary, new_turn_id

RECENT_SHOWN = 6
"""Conversations on the dashboard."""
PALETTE_SHOWN = 10
"""Conversations in the palette, by title, and half as many turns."""


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """A new chat, with `folder` in that folder; for a visitor, the landing page."""
    if not request.user.is_authenticated:
        models = [candidate.model for candidate in list_offered()]
        context = {"free": entitlements.default_plan(), "models": models, "silent": silent_models()}
        return render(request, "pages/landing.html", context)
    owner_id = member_of(request).pk
    page = chat_context(owner_id, new_id(), None, folder=find_folder(owner_id, parse_id(request.GET.get("folder", ""))))
    return render(request, "chat/chat.html", {**page, "needs_key_card": _needs_key_card(request)})


@login_required
@require_POST
def close_key_card(request: HttpRequest) -> HttpResponse:
    """Never again tell this member how to add a provider's key."""
    User.objects.filter(pk=member_of(request).pk).update(has_closed_key_card=True)
    return redirect("home")


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def conversation(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    """The last turns of a conversation's chosen branch, or with `turn` those around that one; POST asks, and begins the
    conversation if the id is new. A fragment is the turns alone.

    Who opens a turn of another branch goes on from what they see: it is chosen by that, though this is a GET.
    """
    owner_id = member_of(request).pk
    if request.method == "POST":
        opened = open_turn_from_form(owner_id, conversation_id, request.POST, request.FILES.getlist("files"))
        if isinstance(opened, RefusedQuestion):
            page = chat_context(owner_id, conversation_id, opened.conversation, refusal=opened, folder=opened.folder)
            return render(request, "chat/chat.html", page, status=opened.status)
        if refused := open_beside_from_form(owner_id, opened, request.POST):
            messages.warning(request, str(refused.message))
        return HttpResponseRedirect(turn_address(opened))
    conversation = access.access_even_temporary(owner_id, conversation_id)
    window = LAST_TURNS
    if wanted := request.GET.get("turn"):
        window = Window(at=_choose_branch_of(conversation, wanted))
    return _render_turns(request, conversation, window)


@login_required
@require_POST
def begin_temporary(request: HttpRequest) -> HttpResponse:
    """A new chat that is kept nowhere but in Redis, for an hour after its last question."""
    try:
        begun = begin_conversation(member_of(request).pk)
    except TooManyTemporary as error:
        messages.error(request, str(error.message))
        return redirect("home")
    return redirect("conversation", begun.pk)


@login_required
@require_POST
def end_temporary(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    """End a temporary chat at once: nothing of it is left."""
    conversation = access.access_even_temporary(member_of(request).pk, conversation_id)
    if not is_temporary(conversation.pk):
        raise NotFound
    deletion.delete_conversation(conversation)
    messages.success(request, _("The temporary chat is gone."))
    return redirect("home")


@login_required
@require_POST
def branch(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    """Choose the branch that `turn` is on; answers as its page does."""
    conversation = access.access_conversation(member_of(request).pk, conversation_id)
    turn = _choose_branch_of(conversation, request.POST.get("turn", ""))
    if is_fragment(request):
        return _render_turns(request, conversation, Window(at=turn))
    return HttpResponseRedirect(turn_address(turn))


@login_required
@require_POST
def fork(request: HttpRequest, turn_id: UUID) -> HttpResponse:
    """A new conversation that begins as this one did, up to a turn. Sent again by the same page it is the same."""
    try:
        conversation_id = uuid5(UUID(request.POST.get("forks", "")), str(turn_id))
    except ValueError:
        conversation_id = new_id()
    try:
        copy = forking.fork(member_of(request).pk, turn_id, conversation_id)
    except (ForkTooLarge, ParentNotFinished, RateLimited) as error:
        messages.error(request, str(error.message))
        return HttpResponseRedirect(turn_address(access.access_turn(member_of(request).pk, turn_id)))
    return redirect("conversation", copy.pk)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def edit(request: HttpRequest, turn_id: UUID) -> HttpResponse:
    """The form of a question in the place of a turn's: a fragment, or a page of its own; POST asks it."""
    turn = access.access_turn(member_of(request).pk, turn_id)
    turn_id = new_turn_id(turn.conversation_id)
    context: dict[str, Any] = {"turn": turn, "turn_id": turn_id, "model": requested_model(turn)}
    if request.method != "POST":
        return render(request, "chat/_edit.html" if is_fragment(request) else "chat/edit.html", context)
    opened = open_turn_from_form(turn.owner_id, turn.conversation_id, request.POST, ())
    if isinstance(opened, RefusedQuestion):
        return render(request, "chat/edit.html", {**context, "refusal": opened}, status=opened.status)
    return HttpResponseRedirect(turn_address(opened))


@login_required
@require_safe
def earlier(request: HttpRequest, turn_id: UUID) -> HttpResponse:
    """The turns before one that is shown: a fragment, or a page of its own."""
    turn, conversation = access.access_turn_in_conversation(member_of(request).pk, turn_id)
    return _render_turns(request, conversation, Window(before=turn))


@login_required
@require_safe
def later(request: HttpRequest, turn_id: UUID) -> HttpResponse:
    """The turns after one that is shown: a fragment, or a page of its own."""
    turn, conversation = access.access_turn_in_conversation(member_of(request).pk, turn_id)
    return _render_turns(request, conversation, Window(after=turn))


@login_required
@require_safe
def turn(request: HttpRequest, turn_id: UUID) -> HttpResponse:
    """One turn as it is now, for a page whose socket does not come up; without htmx, its place in its page."""
    turn = access.access_turn(member_of(request).pk, turn_id)
    if is_fragment(request):
        return HttpResponse(current_html(turn, branches.find_siblings(turn)))
    return HttpResponseRedirect(turn_address(turn))


@login_required
@require_safe
def picker(request: HttpRequest) -> HttpResponse:
    """The models to choose from, for who opens the picker; without htmx, a page that has them in a list."""
    if not is_fragment(request):
        return redirect("home")
    allowed = entitlements.entitlements_of(member_of(request).pk)
    return render(request, "chat/_picker_options.html", {"tiers": group_by_tier(list_model_options(allowed))})


@login_required
@require_safe
def search(request: HttpRequest) -> HttpResponse:
    """What was found in one's history, as one types or a page at a time; `in=titles`: conversations alone. It counts as
    a request to the API, as the same there does."""
    limits.count_request(user_id=member_of(request).pk, peer=peer_of(request), route=SEARCH_LIMIT)
    page = results_context(
        member_of(request),
        request.GET.get("q", ""),
        after=request.GET.get("after") or None,
        is_titles=request.GET.get("in") == "titles",
    )
    if is_fragment(request):
        return render(request, "chat/_results.html", page | {"is_fragment": True})
    offered = list_offered()
    page["example_model"] = offered[0].model.key if offered else "gpt"
    return render(request, "chat/search.html", page)


@login_required
@require_safe
def palette(request: HttpRequest) -> HttpResponse:
    """Where to go from anywhere: conversations, models and pages; with `q`, the conversations and turns that have its
    words. Without htmx, the page of the search."""
    if not is_fragment(request):
        return redirect("search")
    limits.count_request(user_id=member_of(request).pk, peer=peer_of(request), route=SEARCH_LIMIT)
    member, words = member_of(request), request.GET.get("q", "")
    if words.strip():
        return render(request, "chat/_palette_conversations.html", _found_for_palette(member, words))
    context: dict[str, Any] = {"conversations": find_titles(member, "", limit=PALETTE_SHOWN).rows}
    if "q" in request.GET:
        return render(request, "chat/_palette_conversations.html", context)
    context["options"] = list_model_options(entitlements.entitlements_of(member.pk))
    context["pages"] = list_pages(is_staff=member.is_staff)
    return render(request, "chat/_palette_options.html", context)


@login_required
@require_safe
def shortcuts(request: HttpRequest) -> HttpResponse:
    """What the keyboard does."""
    return render(request, "chat/_shortcuts.html" if is_fragment(request) else "chat/shortcuts.html")


@login_required
@require_POST
def stop(request: HttpRequest, turn_id: UUID) -> HttpResponse:
    turn = access.access_turn(member_of(request).pk, turn_id)
    async_to_sync(stop_turn)(turn)
    return HttpResponseRedirect(turn_address(turn))


@login_required
@require_safe
def attachment(request: HttpRequest, attachment_id: UUID) -> HttpResponse:
    """A file its owner attached."""
    return file_response(member_of(request).pk, attachment_id)


@login_required
@require_safe
def preview(request: HttpRequest, attachment_id: UUID) -> HttpResponse:
    """The small version of an attached image."""
    return file_response(member_of(request).pk, attachment_id, preview=True)


@login_required
@require_safe
def dashboard(request: HttpRequest) -> HttpResponse:
    """Allowance, recent conversations and models."""
    owner_id = member_of(request).pk
    allowed, allowance = entitlements.entitlements_and_allowance_of(owner_id)
    context = {
        "allowance": allowance,
        "plan_name": entitlements.plan_name_of(allowed.plan),
        "allowed": allowed,
        "recent": access.list_conversations(owner_id, limit=RECENT_SHOWN).rows,
        "options": list_model_options(allowed),
    }
    return render(request, "chat/dashboard.html", context)


def _found_for_palette(member: User, words: str) -> dict[str, Any]:
    """Return the context of what the palette found; of a filter that is not written to its end, nothing."""
    try:
        found = find_in_history(member, words, limit=PALETTE_SHOWN // 2, titles=PALETTE_SHOWN)
    except BadFilter:
        return {"q": words}
    has_more = found.turns.next is not None
    return {"q": words, "conversations": found.titles.rows, "turns": shortest(found), "has_more": has_more}


def _needs_key_card(request: HttpRequest) -> bool:
    """Return whether to say how to add a provider's key: to operators, and to whoever tries the site on their own
    machine, until they close the card."""
    member = member_of(request)
    may_add = member.is_staff or (settings.DEBUG and comes_from_this_machine(request))
    return may_add and not member.has_closed_key_card and list_providers().keys() <= {DEMO}


def _choose_branch_of(conversation: Conversation, turn_id: str) -> Turn:
    """Choose the branch that a turn is on, and return the turn; raises NotFound."""
    turn = branches.get_turn(conversation, turn_id)
    branches.choose_branch(conversation, turn)
    return turn


def _render_turns(request: HttpRequest, conversation: Conversation, window: Window) -> HttpResponse:
    """Return the turns: a fragment, or a page of their own."""
    if is_fragment(request):
        return render(request, "chat/_turns.html", turns_context(conversation, window))
    page = chat_context(conversation.owner_id, conversation.pk, conversation, window=window)
    return render(request, "chat/chat.html", page)
