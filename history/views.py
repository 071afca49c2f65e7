"""Pages that list, rename and delete conversations. The page that shows one is the chat's."""

from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from accounts.http import member_of
from history import access, deletion
from history.forms import RenameForm
from history.models import Conversation
from history.timeline import continue_groups, group_by_age


@login_required
@require_safe
def conversations(request: HttpRequest) -> HttpResponse:
    """List all conversations, a page at a time; for the sidebar, those that follow its last one."""
    after = request.GET.get("after")
    page = access.list_conversations(member_of(request).pk, after=after)
    if after and is_fragment(request):
        return render(request, "history/_sidebar_rows.html", _following(request, page, after))
    context = {"groups": group_by_age(page.rows), "next": page.next, "is_all": not after and not page.next}
    return render(request, "history/conversations.html", context)


def _following(request: HttpRequest, page: access.Page[Conversation], after: str) -> dict[str, Any]:
    """Return the context of the rows that follow those of a sidebar."""
    moment, _pk = access.read_cursor(after)
    current_url = request.headers.get("HX-Current-URL", "")
    current = next((row.pk for row in page.rows if str(row.pk) in current_url), None)
    return {
        "groups": continue_groups(page.rows, moment),
        "next": page.next,
        "continues": True,
        "conversation_id": current,
    }


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


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def delete(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    conversation = access.access_conversation(member_of(request).pk, conversation_id)
    context = {"conversation": conversation}
    if request.method != "POST":
        template = "history/_delete.html" if is_fragment(request) else "history/delete.html"
        return render(request, template, context)
    current_url = request.headers.get("HX-Current-URL", "")
    deletion.delete_conversation(conversation)
    if not is_fragment(request):
        return redirect("home")
    if str(conversation_id) in current_url:  # the page they are on no longer exists
        return HttpResponse(headers={"HX-Redirect": reverse("home")})
    return render(request, "history/_deleted.html", {"conversation_id": conversation_id})


def is_fragment(request: HttpRequest) -> bool:
    return request.headers.get("HX-Request") == "true"
