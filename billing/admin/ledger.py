"""The admin's pages of what was granted, reserved and used: the ledger, which nobody changes."""

import datetime as dt
from itertools import islice
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext_lazy as _

from billing.admin.tables import AccountRowsAdmin, show_credits
from billing.models import Reservation, Spending, UsagePeriod, UsageRecord
from billing.months import month_of, months_back
from core.paging import ReadOnlyAdmin

MONTHS_OFFERED = 12


class MonthFilter(admin.SimpleListFilter):
    """By month (UTC), the last ones: Django's own looks through the table for which there are."""

    title = _("month")
    parameter_name = "month"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        months = islice(months_back(timezone.now()), MONTHS_OFFERED)
        return [(f"{month:%Y-%m}", date_format(month, "YEAR_MONTH_FORMAT")) for month in months]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        if self.value() is None:
            return queryset
        start, end = month_of(dt.datetime.fromisoformat(f"{self.value()}-02T00:00:00+00:00"))
        return queryset.filter(recorded_at__gte=start, recorded_at__lt=end)


@admin.register(UsagePeriod)
class UsagePeriodAdmin(AccountRowsAdmin):
    list_display = ("owner", "kind", "plan", "period_start", "period_end", "allowance", "used", "reserved")
    list_filter = ("kind",)
    list_select_related = ("account__user", "plan")
    fields = list_display

    @admin.display(description=_("allowance, credits"))
    def allowance(self, period: UsagePeriod) -> str:
        return show_credits(period.allowance_micros)

    @admin.display(description=_("used, credits"))
    def used(self, period: UsagePeriod) -> str:
        return show_credits(period.used_micros)

    @admin.display(description=_("reserved, credits"))
    def reserved(self, period: UsagePeriod) -> str:
        return show_credits(period.reserved_micros)


@admin.register(Reservation)
class ReservationAdmin(AccountRowsAdmin):
    owner_path = "period__account"
    exact_fields = ("pk",)
    are_uuids = True
    list_display = ("id", "owner", "state", "amount_micros", "spending_micros", "created_at")
    list_filter = ("state",)
    list_select_related = ("period__account__user",)
    fields = ("id", "owner", "period", "state", "amount_micros", "spending_micros", "created_at")


@admin.register(Spending)
class SpendingAdmin(ReadOnlyAdmin):
    list_display = ("day", "supplier", "used_micros", "reserved_micros")
    list_filter = ("supplier",)
    date_hierarchy = "day"
    ordering = ("-day", "supplier")
    fields = list_display


@admin.register(UsageRecord)
class UsageRecordAdmin(AccountRowsAdmin):
    owner_path = "period__account"
    exact_fields = ("reservation",)
    are_uuids = True
    list_display = (
        *("recorded_at", "owner", "label", "input_tokens", "output_tokens"),
        *("source", "cost_micros", "above_because", "spent_micros"),
    )
    list_filter = ("source", "above_because", MonthFilter)
    list_select_related = ("period__account__user",)
    ordering = ("-recorded_at",)
    fields = (
        *("recorded_at", "owner", "period", "reservation", "label"),
        *("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens"),
        *("source", "cost_micros", "above_because", "spending", "spent_micros"),
    )
