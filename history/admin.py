"""The admin's page of turns: what happened to them, never their text."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import Q
from django.http import HttpRequest

from core.paging import ReadOnlyAdmin
from history.models import Turn


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
