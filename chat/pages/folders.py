"""The pages of folders: made, changed, deleted, and what is in one. Their models are the chat's."""

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_safe

from accounts.http import member_of
from billing import entitlements
from chat.pages.picker import group_by_tier, list_model_options
from core.http import is_fragment
from history import access, folders
from history.folders import TooManyFolders
from history.models import Folder
from history.views import list_page


class FolderForm(forms.Form):
    name = forms.CharField(label=gettext_lazy("Name"), max_length=100)
    model = forms.ChoiceField(
        label=gettext_lazy("Model"),
        required=False,
        help_text=gettext_lazy("New chats in this folder begin with it."),
    )
    instructions = forms.CharField(
        label=gettext_lazy("Instructions"),
        required=False,
        max_length=Folder.MAX_INSTRUCTIONS,
        widget=forms.Textarea({"rows": 5, "dir": "auto"}),
        help_text=gettext_lazy(
            "The model gets them with every question asked in this folder; they count as part of the question."
        ),
    )

    def __init__(self, owner_id: int, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        options = list_model_options(entitlements.entitlements_of(owner_id))
        tiers = group_by_tier(option for option in options if option.is_included)
        choices = [(tier, [(option.model.key, option.model.label) for option in of_tier]) for tier, of_tier in tiers]
        self.fields["model"].choices = [("", _("Automatic")), *choices]  # type: ignore[attr-defined]  # a ChoiceField

    def clean_instructions(self) -> str:
        text: str = self.cleaned_data["instructions"]
        return text.replace("\r\n", "\n")


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def new_folder(request: HttpRequest) -> HttpResponse:
    owner_id = member_of(request).pk
    form = FolderForm(owner_id, request.POST or None)
    if form.is_valid():
        try:
            folder = folders.create_folder(owner_id, **form.cleaned_data)
        except TooManyFolders as error:
            form.add_error(None, str(error.message))
        else:
            return redirect("folder", folder.pk)
    return _form_page(request, form, None)


@login_required
@require_safe
def folder(request: HttpRequest, folder_id: UUID) -> HttpResponse:
    """What is in a folder: a page of its own; in the sidebar, its first lines."""
    owner_id, after = member_of(request).pk, request.GET.get("after")
    found = folders.access_folder(owner_id, folder_id)
    page = access.list_conversations(owner_id, folder_id=folder_id, after=after)
    if is_fragment(request):
        rows = [row for row in page.rows if not row.is_pinned]  # those are above
        return render(request, "history/_folder_rows.html", {"folder": found, "conversations": rows, "next": page.next})
    return list_page(request, page, place="folder", folder=found)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def edit_folder(request: HttpRequest, folder_id: UUID) -> HttpResponse:
    owner_id = member_of(request).pk
    found = folders.access_folder(owner_id, folder_id)
    initial = {"name": found.name, "model": found.model, "instructions": found.instructions}
    form = FolderForm(owner_id, request.POST or None, initial=initial)
    if not form.is_valid():
        return _form_page(request, form, found)
    folders.change_folder(found, **form.cleaned_data)
    return redirect("folder", found.pk)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def remove_folder(request: HttpRequest, folder_id: UUID) -> HttpResponse:
    """Ask whether the conversations go into the trash too; POST deletes the folder."""
    found = folders.access_folder(member_of(request).pk, folder_id)
    if request.method != "POST":
        return render(request, "chat/delete_folder.html", {"folder": found})
    folders.delete_folder(found, with_conversations=request.POST.get("conversations") == "trash")
    messages.success(request, _("The folder “%(name)s” is deleted.") % {"name": found.name})
    return HttpResponseRedirect("/conversations/")


def _form_page(request: HttpRequest, form: FolderForm, found: Folder | None) -> HttpResponse:
    context = {"form": form, "folder": found}
    return render(request, "chat/folder_form.html", context, status=422 if form.is_bound else 200)
