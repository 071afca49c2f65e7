"""Turns, for the operator: what happened, never what was said."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from history.models import Turn


@admin.register(Turn)
class TurnAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    fields = readonly_fields = (
        *("id", "owner_id", "conversation_id", "parent_id", "seq", "status", "gen", "requested_model", "model"),
        *("provider", "max_output", "trimmed_turns", "input_tokens", "cache_read_tokens", "cache_write_tokens"),
        *("output_tokens", "reasoning_tokens", "usage_source", "cost_micros", "finish_reason", "error"),
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
    list_filter = ("status", "model", "error")
    search_fields = ("=id", "=conversation_id")
    ordering = ("-created_at",)
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).defer("question", "answer", "reasoning", "search_text")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
