"""The admin's pages of tables that may have millions of rows, and that nobody changes there."""

from functools import cached_property
from typing import Any, ClassVar

from django.contrib import admin
from django.core.paginator import Paginator
from django.http import HttpRequest

MAX_ROWS = 10_000
"""How many rows are counted: a table that has more shows the first ones, of which somebody is found by searching."""


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Pages of the first MAX_ROWS rows: no more are counted."""

    @cached_property
    def count(self) -> int:
        found: Any = self.object_list
        return int(found.order_by()[:MAX_ROWS].count())


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    paginator = BoundedPaginator
    show_full_result_count = False
    ordering: ClassVar[Any] = ("-pk",)
    list_per_page = 50

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
