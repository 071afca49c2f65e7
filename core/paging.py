"""Pages of tables that may have millions of rows."""

from functools import cached_property
from typing import Any

from django.core.paginator import Paginator

MAX_ROWS = 10_000
"""How many rows are counted: a table that has more shows the first ones, of which somebody is found by searching."""


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Pages of the first MAX_ROWS rows: no more are counted."""

    @cached_property
    def count(self) -> int:
        found: Any = self.object_list
        return int(found.order_by()[:MAX_ROWS].count())
