"""The admin's pages of plans, prices, purchases and usage. What was paid and metered can be read, never changed."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db import transaction
from django.http import HttpRequest
from django.utils.functional import lazy
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from billing.gateways import mode_of_payments
from billing.gateways.stripe import admin as stripe_admin
from billing.models import (
    BillingAccount,
    GatewayEvent,
    GatewayTask,
    Payment,
    Plan,
    Price,
    Spending,
    StaffAct,
    Subscription,
    UsagePeriod,
    UsageRecord,
)
from billing.periods import raise_to_plan
from billing.staff import grant_plan
from core.money import format_money

stripe_admin.register()


def _header() -> str:
    """Return what stands above every page of the admin: where payments are not real, that too."""
    words = {
        "simulated": gettext("Simulated payments: no money moves."),
        "test": gettext("Test payments: no money moves."),
    }
    return " · ".join(filter(None, (gettext("Administration"), words.get(mode_of_payments(), ""))))


admin.site.site_header = lazy(_header, str)()


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

    def save_model(self, request: HttpRequest, obj: Plan, form: Any, change: bool) -> None:
        """What a plan gives more counts at once; what it gives less, from the next period on."""
        with transaction.atomic():
            super().save_model(request, obj, form, change)
            raise_to_plan(obj)


@admin.register(Price)
class PriceAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("name", "gateway", "price", "interval", "is_for_sale", "reference")
    list_filter = ("is_for_sale", "gateway", "plan", "currency")
    list_select_related = ("plan",)
    fields = (
        *("plan", "gateway", "currency", "amount_minor", "interval", "pack_credits", "pack_months"),
        *("reference", "is_for_sale"),
    )

    @admin.display(description=_("what for"))
    def name(self, price: Price) -> str:
        if price.plan is not None:
            return price.plan.name
        return gettext("%(credits)s credits") % {"credits": price.pack_credits}

    @admin.display(description=_("price"))
    def price(self, price: Price) -> str:
        return format_money(price.amount_minor, price.currency)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Who bought it goes on paying it: another price is a new row."""
        return tuple(sorted(Price.FIXED)) if obj else ()

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class GrantForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = BillingAccount
        fields = ("user", "plan", "grant_until", "grant_reason")

    def clean(self) -> dict[str, Any]:
        """A plan is granted, and taken away, for a reason."""
        found: dict[str, Any] = super().clean() or {}
        if {"plan", "grant_until"}.intersection(self.changed_data) and not found.get("grant_reason"):
            self.add_error("grant_reason", _("Say why."))
        return found


@admin.register(BillingAccount)
class BillingAccountAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    form = GrantForm
    list_display = ("owner", "plan", "grant_until", "created_at")
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

    def save_model(self, request: HttpRequest, obj: BillingAccount, form: Any, change: bool) -> None:
        """A grant counts at once, and is written down with who made it."""
        with transaction.atomic():
            if not change:
                obj.save()
            if {"plan", "grant_until", "grant_reason"}.intersection(form.changed_data):
                by: Any = request.user
                grant_plan(obj, obj.plan, by=by, reason=obj.grant_reason, until=obj.grant_until)


@admin.register(Subscription)
class SubscriptionAdmin(ReadOnlyAdmin):
    list_display = ("owner", "gateway", "kind", "status", "price", "paid_until", "access_until", "cancels_at")
    list_filter = ("status", "kind", "gateway", "is_frozen", "is_double")
    list_select_related = ("account__user", "price")
    search_fields = ("account__user__email", "=reference")

    @admin.display(description=_("user"))
    def owner(self, subscription: Subscription) -> str:
        return _name_of(subscription.account)


@admin.register(Payment)
class PaymentAdmin(ReadOnlyAdmin):
    list_display = (
        "paid_at",
        "owner",
        "gateway",
        "amount",
        "status",
        "refunded_minor",
        "dispute",
        "refund_requested_at",
    )
    list_filter = ("status", "dispute", "gateway", "currency")
    list_select_related = ("subscription__account__user",)
    search_fields = ("subscription__account__user__email", "=reference")

    @admin.display(description=_("user"))
    def owner(self, payment: Payment) -> str:
        return _name_of(payment.subscription.account)

    @admin.display(description=_("amount"))
    def amount(self, payment: Payment) -> str:
        return format_money(payment.amount_minor, payment.currency)


@admin.register(GatewayEvent)
class GatewayEventAdmin(ReadOnlyAdmin):
    list_display = (
        "created_at",
        "gateway",
        "event_type",
        "reference_type",
        "reference_id",
        "attempts",
        "done_at",
        "error",
    )
    list_filter = ("gateway", "event_type")
    search_fields = ("=event_id", "=reference_id")


@admin.register(GatewayTask)
class GatewayTaskAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "gateway", "act", "reference", "attempts", "due_at", "done_at", "error")
    list_filter = ("gateway", "act")
    search_fields = ("=reference", "=key")


@admin.register(StaffAct)
class StaffActAdmin(ReadOnlyAdmin):
    list_display = ("at", "by", "act", "owner", "reason", "details")
    list_filter = ("act",)
    list_select_related = ("by", "account__user")
    search_fields = ("account__user__email", "by__email")

    @admin.display(description=_("user"))
    def owner(self, act: StaffAct) -> str:
        return _name_of(act.account)


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
