"""What Stripe said, to be read: in place of dj-stripe's own pages, which ask Stripe, and break on an invoice.

Nothing is there without a key.
"""

import json
from typing import Any, ClassVar

from django.apps import apps
from django.conf import settings
from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from djstripe import models

from billing.gateways.stripe.client import Data
from core.money import format_money
from core.paging import ReadOnlyAdmin


class MirrorAdmin(ReadOnlyAdmin):
    """Rows of one type of Stripe's objects."""

    list_display: Any = ("id", "created", "livemode")
    fields: ClassVar[Any] = ("id", "created", "livemode", "sent")
    readonly_fields: ClassVar[Any] = ("sent",)
    search_fields: ClassVar[Any] = ("id",)

    @admin.display(description=_("what Stripe sent"))
    def sent(self, row: Any) -> str:
        return json.dumps(row.stripe_data, indent=2, ensure_ascii=False)

    @admin.display(description=_("status"))
    def status(self, row: Any) -> str:
        return str(row.stripe_data.get("status", ""))

    @admin.display(description=_("amount"))
    def amount(self, row: Any) -> str:
        sent: Data = row.stripe_data
        return format_money(sent.get("total", sent.get("amount", sent.get("unit_amount"))) or 0, sent["currency"])

    def has_module_permission(self, request: HttpRequest) -> bool:
        return bool(settings.STRIPE_SECRET_KEY) and super().has_module_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(settings.STRIPE_SECRET_KEY) and super().has_view_permission(request, obj)


class CustomerAdmin(MirrorAdmin):
    list_display = ("id", "email", "subscriber", "created", "livemode")
    fields = ("id", "email", "subscriber", "created", "livemode", "sent")
    search_fields = ("id", "email")


class OwnedAdmin(MirrorAdmin):
    list_display: Any = ("id", "customer", "status", "created", "livemode")
    list_select_related = ("customer",)
    search_fields = ("id", "customer__id", "customer__email")


class PaidAdmin(OwnedAdmin):
    list_display = ("id", "customer", "status", "amount", "created", "livemode")


ADMINS: dict[type[Model], tuple[type[MirrorAdmin], Any, Any]] = {
    models.Customer: (CustomerAdmin, _("customer"), _("customers")),
    models.Subscription: (OwnedAdmin, _("subscription"), _("subscriptions")),
    models.Invoice: (PaidAdmin, _("invoice"), _("invoices")),
    models.Charge: (PaidAdmin, _("charge"), _("charges")),
}
"""What tells of somebody's money, and its names. What else is mirrored the operator has in plans and prices."""


def register() -> None:
    for model in apps.get_app_config("djstripe").get_models():
        if admin.site.is_registered(model):
            admin.site.unregister(model)
    for model, (model_admin, name, names) in ADMINS.items():
        model._meta.verbose_name, model._meta.verbose_name_plural = name, names
        # Its own names of rows guess amounts (2000 cents are "$2,000.00"), or fail.
        model.__str__ = lambda row: str(row.id)  # type: ignore[method-assign,attr-defined]
        admin.site.register(model, model_admin)
