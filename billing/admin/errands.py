"""The admin's pages of what gateways told and are to be told, of mails, and of what operators did."""

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from billing import staff
from billing.admin.acts import ActsAdmin, OperatorAct
from billing.admin.tables import AccountRowsAdmin, GatewayFilter
from billing.models import GatewayEvent, GatewayTask, Letter, StaffAct
from core.paging import ReadOnlyAdmin


class ErrandFilter(admin.SimpleListFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("waiting", _("waiting")), ("failing", _("with an error")), ("given-up", _("given up"))]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        wanted = {
            "waiting": Q(done_at=None),
            "failing": ~Q(error=""),
            "given-up": ~Q(error="") & Q(done_at__isnull=False),
        }
        return queryset.filter(wanted.get(self.value() or "", Q()))


TRY_AGAIN = OperatorAct(
    "try-again",
    _("Try again"),
    lambda errand, by, sent: staff.try_again(errand, by=by, **sent),
    is_offered=lambda errand: errand.done_at is None or bool(errand.error),
    warning=_("It is done now, and is harmless to do twice."),
    later=_("It did not work: the error says why."),
)


@admin.register(GatewayEvent)
class GatewayEventAdmin(ActsAdmin, ReadOnlyAdmin):
    list_display = (
        *("created_at", "gateway", "event_type", "reference_type", "reference_id"),
        *("attempts", "done_at", "error"),
    )
    list_filter = (ErrandFilter, GatewayFilter)
    search_fields = ("=event_id", "=reference_id")
    fields = (*list_display, "event_id", "due_at")
    acts = (TRY_AGAIN,)


@admin.register(GatewayTask)
class GatewayTaskAdmin(ActsAdmin, AccountRowsAdmin):
    exact_fields = ("reference", "key")
    list_display = ("created_at", "owner", "gateway", "act", "reference", "attempts", "due_at", "done_at", "error")
    list_filter = (ErrandFilter, GatewayFilter, "act")
    list_select_related = ("account__user",)
    fields = (*list_display, "amount_minor", "key")
    acts = (TRY_AGAIN,)


@admin.register(Letter)
class LetterAdmin(AccountRowsAdmin):
    exact_fields = ("key",)
    list_display = ("created_at", "owner", "kind", "attempts", "due_at", "done_at", "error")
    list_filter = (ErrandFilter, "kind")
    list_select_related = ("account__user",)
    fields = (*list_display, "payment", "subscription")


@admin.register(StaffAct)
class StaffActAdmin(AccountRowsAdmin):
    list_display = ("at", "by", "act", "owner", "reason", "details")
    list_filter = ("act",)
    list_select_related = ("by", "account__user")
    fields = list_display

    def get_search_results(
        self, request: HttpRequest, queryset: "QuerySet[Any]", search_term: str
    ) -> tuple["QuerySet[Any]", bool]:
        """Find what was done to somebody, and what an operator did."""
        found, _may_repeat = super().get_search_results(request, queryset, search_term)
        by = queryset.filter(by__email__iexact=search_term.strip()) if search_term else queryset.none()
        return found | by, False
