"""The admin's pages of turns and of what is shared: what happened to them, never their text."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_http_methods

from core.paging import ReadOnlyAdmin
from history import sharing
from history.models import SharedPage, ShareReport, Turn


class ValuesFilter(admin.AllValuesFieldListFilter):
    """By the values there are: an empty one has a name, too, to be chosen by."""

    def choices(self, changelist: Any) -> Iterator[Any]:
        for choice in super().choices(changelist):
            yield {**choice, "display": choice["display"] or "–"}


@admin.register(Turn)
class TurnAdmin(ReadOnlyAdmin):
    fields = readonly_fields = (
        *("id", "owner_id", "conversation_id", "parent_id", "seq", "status", "gen", "requested_model", "model"),
        *(
            "provider",
            "max_output",
            "max_cost_micros",
            "trimmed_turns",
            "input_tokens",
            "cache_read_tokens",
            "cache_write_tokens",
        ),
        *(
            "output_tokens",
            "reasoning_tokens",
            "usage_source",
            "cost_micros",
            "is_from_cache",
            "finish_reason",
            "error",
        ),
        *("created_at", "started_at", "first_token_at", "completed_at"),
    )
    list_display = (
        "id",
        "owner_id",
        "status",
        "model",
        "input_tokens",
        "output_tokens",
        "cost_micros",
        "error",
        "created_at",
    )
    list_filter = ("status", ("model", ValuesFilter), ("error", ValuesFilter))
    search_fields = ("id", "conversation_id")
    ordering = ("-created_at",)
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).defer("question", "answer", "reasoning", "search_text", "instructions")

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Filter only by what the page shows: `?answer__contains=` would reveal the text, one guess at a time."""
        return lookup.split("__")[0] in self.fields and super().lookup_allowed(lookup, value, request)

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Find by the whole id of a turn or of a conversation: MongoDB cannot search for a part of a UUID."""
        if not search_term:
            return queryset, False
        try:
            wanted = UUID(search_term.strip())
        except ValueError:
            return queryset.none(), False
        return queryset.filter(Q(pk=wanted) | Q(conversation_id=wanted)), False


class TakedownForm(forms.Form):
    reason = forms.CharField(
        label=_("Why"),
        max_length=200,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text=_("Whoever shared it reads this. It is kept for good."),
    )


class PutBackForm(forms.Form):
    reason = forms.CharField(
        label=_("Why"), max_length=200, widget=forms.Textarea(attrs={"rows": 3}), help_text=_("It is kept for good.")
    )


ACTS: dict[str, dict[str, Any]] = {
    "take-down": {
        "name": "take-down",
        "label": _("Take down"),
        "warning": _("Nobody can open the page any more, and its conversation cannot be shared again."),
        "form": TakedownForm,
    },
    "put-back": {"name": "put-back", "label": _("Put back"), "warning": "", "form": PutBackForm},
}


class ReportedFilter(admin.SimpleListFilter):
    title = _("reported")
    parameter_name = "reported"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("Reported"))]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(reported_at__isnull=False) if self.value() == "yes" else queryset


@admin.register(SharedPage)
class ShareAdmin(ReadOnlyAdmin):
    """What people share. Its page is linked only where somebody has reported it: nobody else's is looked at."""

    fields = readonly_fields = (
        *("id", "owner_id", "conversation_id", "turn_count", "is_for_members", "expires_at", "created_at"),
        *("updated_at", "report_count", "reported_at", "reports", "taken_down_at", "takedown_reason"),
    )
    list_display = ("id", "owner_id", "turn_count", "report_count", "reported_at", "taken_down_at", "created_at")
    list_filter = (ReportedFilter,)
    search_fields = ("id",)
    change_form_template = "admin/billing/change_form.html"

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).filter(is_revoked=None)

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Filter only by what the page shows: `?secret__startswith=` would reveal the link, one guess at a time."""
        is_shown = lookup.split("__")[0] in (*self.fields, ReportedFilter.parameter_name)
        return is_shown and super().lookup_allowed(lookup, value, request)

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Find by the whole id of a share or of a conversation, or by the number of an owner."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if term.isascii() and term.isdecimal() and len(term) < 19:
            return queryset.filter(owner_id=int(term)), False
        try:
            wanted = UUID(term)
        except ValueError:
            return queryset.none(), False
        return queryset.filter(Q(pk=wanted) | Q(conversation_id=wanted)), False

    @admin.display(description=_("what was reported"))
    def reports(self, share: SharedPage) -> SafeString | str:
        found = ShareReport.objects.filter(owner_id=share.owner_id, share_id=share.pk).order_by("-created_at")
        if not found:
            return "–"
        lines = ((row.created_at.strftime("%Y-%m-%d %H:%M"), row.get_reason_display(), row.text) for row in found)
        address = reverse("shared", args=[sharing.token_of(share)])
        said = format_html_join("", "<p>{}: {}. {}</p>", lines)
        return format_html('{}<p><a href="{}">{}</a></p>', said, address, _("Open the page"))

    def get_urls(self) -> list[Any]:
        page = self.admin_site.admin_view(require_http_methods(["GET", "POST"])(self.act_view))
        return [path("<path:object_id>/act/<slug:name>/", page, name="history_sharedpage_act"), *super().get_urls()]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        share = self.get_object(request, object_id)
        acts = [ACTS[_act_for(share)]] if share is not None and _may_act(request) else []
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), "acts": acts})

    def act_view(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        """Ask why; POST takes the share down, or puts it back, and leaves a line in the log of the admin."""
        if not _may_act(request):
            raise PermissionDenied
        share = self.get_object(request, object_id)
        if share is None or name not in ACTS:
            raise Http404
        back = reverse("admin:history_sharedpage_change", args=(share.pk,))
        if name != _act_for(share):
            self.message_user(request, _("That was done already."), messages.INFO)
            return redirect(back)
        act = ACTS[name]
        form = act["form"](request.POST or None)
        if form.is_valid():
            reason = form.cleaned_data["reason"]
            is_done = sharing.take_down(share, reason) if name == "take-down" else sharing.put_back(share)
            if is_done:
                self.log_change(request, share, f"{name}: {reason}")
                self.message_user(request, _("Done."), messages.SUCCESS)
            return redirect(back)
        page = {
            **self.admin_site.each_context(request),
            "title": act["label"],
            "act": act,
            "form": form,
            "row": share,
            "opts": self.opts,
            "back": back,
            "media": self.media + form.media,
        }
        return render(request, "admin/billing/act.html", page, status=422 if form.is_bound else 200)


def _act_for(share: SharedPage) -> str:
    return "take-down" if share.taken_down_at is None else "put-back"


def _may_act(request: HttpRequest) -> bool:
    return request.user.has_perm("history.change_sharedpage")
