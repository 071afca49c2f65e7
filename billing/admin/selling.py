"""The admin's pages of what is sold: plans, prices, and the rates that make one currency of many."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db import transaction
from django.http import HttpRequest
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from billing import staff
from billing.admin.acts import ActForm, ActsAdmin, OperatorAct
from billing.gateways import list_gateways
from billing.gateways.base import GatewayRefused, GatewayUnavailable
from billing.gateways.stripe import catalogue
from billing.models import Coupon, ExchangeRate, Plan, Price
from billing.periods import raise_to_plan
from core.money import format_money

GATEWAYS = ("stripe", "mercadopago")
NOT_THERE = _("Stripe does not have this price yet: the first checkout makes it, or `manage.py set_up_stripe`.")


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


class NewAmountForm(ActForm):
    amount_minor = forms.IntegerField(
        label=_("New amount"), min_value=0, help_text=Price._meta.get_field("amount_minor").help_text
    )
    field_order = ("amount_minor", "reason", "key")

    @property
    def facts(self) -> list[tuple[str, str]]:
        return [(gettext("Amount now"), format_money(self.row.amount_minor, self.row.currency))]


@admin.register(Price)
class PriceAdmin(ActsAdmin):
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

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "gateway":
            names = dict.fromkeys((*GATEWAYS, *list_gateways()))
            return forms.ChoiceField(label=db_field.verbose_name, choices=[(name, name) for name in names])
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Who bought it goes on paying it: another price is a new row."""
        return tuple(sorted(Price.FIXED)) if obj else ()

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Price, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if obj.is_for_sale:
            transaction.on_commit(lambda: self._publish(request, obj))

    acts = (
        OperatorAct(
            "replace",
            _("Sell it for another amount"),
            lambda price, by, sent: publish_price(staff.replace_price(price, sent.pop("amount_minor"), by=by, **sent)),
            is_offered=lambda price: price.is_for_sale,
            form=NewAmountForm,
            later=NOT_THERE,
            warning=_(
                "This price is withdrawn, and another one takes its place. Whoever bought it goes on paying the old "
                "one."
            ),
        ),
    )

    def _publish(self, request: HttpRequest, price: Price) -> None:
        if not publish_price(price):
            self.message_user(request, NOT_THERE, messages.WARNING)


def publish_price(price: Price) -> bool:
    """Make the price at its gateway, where that has a catalogue; return whether it is there. Mercado Pago has none."""
    if price.gateway != "stripe" or price.gateway not in list_gateways():
        return True
    try:
        catalogue.publish(price)
    except (GatewayUnavailable, GatewayRefused):
        return False
    return True


@admin.register(Coupon)
class CouponAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("code", "gateway", "reference", "is_active")

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Mercado Pago has no discounts."""
        if db_field.name == "gateway":
            names = [name for name in dict.fromkeys(("stripe", *list_gateways())) if name != "mercadopago"]
            return forms.ChoiceField(label=db_field.verbose_name, choices=[(name, name) for name in names])
        return super().formfield_for_dbfield(db_field, request, **kwargs)


@admin.register(ExchangeRate)
class ExchangeRateAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("currency", "since", "rate")
    list_filter = ("currency",)
