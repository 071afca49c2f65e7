"""The pages of sharing: the owner's, under their settings, and those that whoever has a link may open."""

from collections.abc import Callable
from functools import wraps
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import limits
from accounts.http import member_of, peer_of
from accounts.limits import Act
from chat.pages.share_forms import ReportForm, ShareForm
from chat.pages.shared_page import shared_context, shown_shares
from chat.shown.fragments import description_of
from core.errors import DomainError
from core.http import is_fragment
from history import access, share_copies, sharing
from history.errors import ShareGone
from history.models import Conversation, SharedPage, new_id

HEADERS = {
    "Cache-Control": "private, no-store",
    "X-Robots-Tag": "noindex, nofollow, noarchive",
    # The address is the key: no other site learns it. (“no-referrer” would take the origin from our own forms, too.)
    "Referrer-Policy": "same-origin",
}

# --- The owner's ------------------------------------------------------------------------------------------------------


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def share_conversation(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    """The links to a conversation, and the form of a new one."""
    conversation = access.access_conversation(member_of(request).pk, conversation_id)
    if request.method != "POST":
        return _share_page(request, conversation, _form_of(request))
    form = _form_of(request)
    if not form.is_valid():
        return _share_page(request, conversation, form, status=422)
    try:
        limits.count_of_member(Act.SHARE, conversation.owner_id)
        sharing.create_share(conversation, form.terms(), description_of, share_id=form.cleaned_data["id"])
    except DomainError as error:
        form.add_error(None, str(error.message))
        return _share_page(request, conversation, form, status=error.status)
    if not is_fragment(request):
        return redirect("share", conversation.pk)
    return _share_page(request, conversation, _fresh_form(request), is_done=True)


@login_required
@require_safe
def share_up_to_turn(request: HttpRequest, turn_id: UUID) -> HttpResponse:
    """The form of a link to a conversation up to one of its turns."""
    turn, conversation = access.access_stored_turn(member_of(request).pk, turn_id)
    return _share_page(request, conversation, _fresh_form(request, until=turn.pk))


@login_required
@require_safe
def list_own_shares(request: HttpRequest) -> HttpResponse:
    """Everything a member shares."""
    return render(request, "chat/shares.html", {"shares": shown_shares(member_of(request).pk)})


@login_required
@require_POST
def update_own_share(request: HttpRequest, share_id: UUID) -> HttpResponse:
    """Show the conversation as it is now, under the same link."""
    found = sharing.access_share(member_of(request).pk, share_id)
    limits.count_of_member(Act.SHARE, found.owner_id)
    sharing.update_share(found, description_of)
    return _after_change(request, found, _("The link shows the conversation as it is now."))


@login_required
@require_POST
def stop_own_share(request: HttpRequest, share_id: UUID) -> HttpResponse:
    """Stop sharing."""
    found = sharing.access_share(member_of(request).pk, share_id)
    sharing.revoke_share(found)
    return _after_change(request, found, _("The link leads nowhere any more."))


def _share_page(
    request: HttpRequest, conversation: Conversation, form: ShareForm, *, status: int = 200, is_done: bool = False
) -> HttpResponse:
    context = {
        "conversation": conversation,
        "form": form,
        "until": form["until"].value(),
        "shares": shown_shares(conversation.owner_id, conversation_id=conversation.pk),
        "is_done": is_done,
    }
    template = "chat/_share.html" if is_fragment(request) else "chat/share.html"
    return render(request, template, context, status=status)


def _form_of(request: HttpRequest) -> ShareForm:
    return ShareForm(request.POST or None, name=member_of(request).name)


def _fresh_form(request: HttpRequest, until: UUID | None = None) -> ShareForm:
    return ShareForm(name=member_of(request).name, until=until)


def _after_change(request: HttpRequest, changed: SharedPage, sentence: str) -> HttpResponse:
    """Return to where the button was: the dialog of the conversation, its page, or the list of all."""
    if is_fragment(request):
        conversation = access.access_conversation(changed.owner_id, changed.conversation_id)
        return _share_page(request, conversation, _fresh_form(request), is_done=True)
    messages.success(request, sentence)
    if "conversation" in request.POST:
        return redirect("share", changed.conversation_id)
    return redirect("shares")


# --- Whoever has the link ---------------------------------------------------------------------------------------------


View = Callable[[HttpRequest, SharedPage, str], HttpResponseBase]


def of_share(view: View) -> Callable[[HttpRequest, str], HttpResponseBase]:
    """Give a view the share that a link leads to, or say that it leads nowhere. No answer is stored or indexed.

    It counts as a request to the API: whoever guesses links, or has long answers rendered, is soon refused."""

    @wraps(view)
    def handle(request: HttpRequest, token: str) -> HttpResponseBase:
        user_id = member_of(request).pk if request.user.is_authenticated else None
        limits.count_request(user_id=user_id, peer=peer_of(request))
        try:
            found = sharing.open_share(token)
            if found.is_for_members and not request.user.is_authenticated:
                response: HttpResponseBase = redirect_to_login(request.get_full_path())
            else:
                response = view(request, found, token)
        except ShareGone as error:
            response = render(request, "chat/share_gone.html", {"sentence": str(error.message)}, status=error.status)
        for name, value in HEADERS.items():
            response[name] = value
        return response

    return handle


@require_safe
@of_share
def open_shared_page(request: HttpRequest, found: SharedPage, token: str) -> HttpResponse:
    """A shared conversation, as it was."""
    return render(request, "chat/shared.html", shared_context(found, token, request))


@require_http_methods(["GET", "HEAD", "POST"])
@of_share
def report_shared_page(request: HttpRequest, found: SharedPage, token: str) -> HttpResponse:
    """Say what is wrong with a shared page, to the operators."""
    form = ReportForm(request.POST or None, initial={"id": new_id()})
    if form.is_valid():
        try:
            limits.count(Act.REPORT, peer=peer_of(request))
        except DomainError as error:
            form.add_error(None, str(error.message))
    context: dict[str, Any] = {"form": form, "token": token}
    if not form.is_valid():
        return render(request, "chat/report_share.html", context, status=422 if form.is_bound else 200)
    fields = form.cleaned_data
    sharing.report_share(found, fields["reason"], fields["text"], report_id=fields["id"])
    messages.success(request, _("Thank you. We look at it."))
    return redirect("shared", token)


@require_http_methods(["GET", "HEAD", "POST"])
@of_share
def copy_shared_page(request: HttpRequest, found: SharedPage, token: str) -> HttpResponseBase:
    """Copy what is shared into the reader's conversations. Whoever has logged in for it is asked once more, by the
    page: no link of another site fills somebody's account."""
    if not request.user.is_authenticated:
        return redirect_to_login(request.get_full_path())
    if request.method != "POST":
        return redirect("shared", token)
    member = member_of(request)
    limits.count_of_member(Act.SHARE, member.pk)
    copied = share_copies.copy_share(found, member.pk, _copy_id(request))
    return redirect("conversation", copied.pk)


def _copy_id(request: HttpRequest) -> UUID:
    try:
        return UUID(request.POST.get("id", ""))
    except ValueError:
        return new_id()
