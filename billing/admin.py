"""The admin's pages of plans and usage. What was metered can be read, never changed."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from billing.gateways.stripe import admin as stripe_admin
from billing.models import BillingAccount, Plan, Spending, UsagePeriod, UsageRecord

stripe_admin.register()


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Plan)
class PlanAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = (
        "name",
        "key",
        "rank",
        "is_default",
        "credits_per_month",
        "turns_per_hour",
        "turns_at_once",
        "best_tier",
    )

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """The default plan stays: everybody who was granted none has it."""
        return (obj is None or not obj.is_default) and super().has_delete_permission(request, obj)


@admin.register(BillingAccount)
class BillingAccountAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("owner", "plan", "created_at")
    list_select_related = ("user", "plan")
    search_fields = ("user__email",)
    raw_id_fields = ("user",)

    @admin.display(description=_("user"))
    def owner(self, account: BillingAccount) -> str:
        return _name_of(account)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """An account stays its user's: what somebody used never becomes somebody else's."""
        return ("user",) if obj else ()

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """It stays with its ledger, also when its user is deleted."""
        return False


@admin.register(UsagePeriod)
class UsagePeriodAdmin(ReadOnlyAdmin):
    list_display = (
        "user",
        "kind",
        "period_start",
        "period_end",
        "allowance_micros",
        "used_micros",
        "reserved_micros",
    )
    list_filter = ("kind",)
    list_select_related = ("account__user",)
    search_fields = ("account__user__email",)
    date_hierarchy = "period_start"

    @admin.display(description=_("user"))
    def user(self, period: UsagePeriod) -> str:
        return _name_of(period.account)


@admin.register(Spending)
class SpendingAdmin(ReadOnlyAdmin):
    list_display = ("day", "supplier", "used_micros", "reserved_micros")
    list_filter = ("supplier",)
    date_hierarchy = "day"


@admin.register(UsageRecord)
class UsageRecordAdmin(ReadOnlyAdmin):
    list_display = (
        "recorded_at",
        "user",
        "label",
        "input_tokens",
        "output_tokens",
        "source",
        "cost_micros",
        "above_because",
        "spent_micros",
    )
    list_filter = ("source", "above_because", "label")
    list_select_related = ("period__account__user",)
    search_fields = ("period__account__user__email", "=reservation__id")
    date_hierarchy = "recorded_at"

    @admin.display(description=_("user"))
    def user(self, record: UsageRecord) -> str:
        return _name_of(record.period.account)


def _name_of(account: BillingAccount) -> str:
    """Return the owner's address; of an account whose owner was deleted, that, and its number."""
    if account.user is None:
        return gettext("deleted, account %(number)s") % {"number": account.pk}
    return str(account.user)
