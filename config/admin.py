"""The admin's front: who gets in, and what an operator looks for first comes first, whatever app it belongs to."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from allauth.account.decorators import secure_admin_login
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from django.conf import settings
from django.contrib.admin import AdminSite, ModelAdmin
from django.core.exceptions import PermissionDenied
from django.db.models.base import ModelBase
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path, reverse
from django.utils.decorators import method_decorator
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from accounts import second_factor
from accounts.http import member_of
from config.version import VERSION


@dataclass(frozen=True, slots=True)
class FrontPage:
    """A page that is no table. Who may see it has all of `permissions`."""

    name: Promise
    address: str
    permissions: tuple[str, ...]


DASHBOARD = FrontPage(
    _("Dashboard"), "admin:billing_payment_dashboard", ("billing.view_payment", "billing.view_usagerecord")
)
LIVE = FrontPage(_("What happens now"), "admin:live", ("chat.view_languagemodel", "billing.view_usagerecord"))
HEALTH = FrontPage(_("Health and alerts"), "admin:chat_languagemodel_health", ("chat.view_languagemodel",))

SECTIONS: tuple[tuple[Promise, tuple[FrontPage | str, ...]], ...] = (
    (_("Business"), (DASHBOARD, "billing.payment", "billing.subscription", "billing.billingaccount")),
    (_("People"), ("accounts.user", "accounts.invitation", "auth.group", "history.sharedpage", "chat.staffreading")),
    (_("What is sold"), ("billing.plan", "billing.price", "billing.coupon", "billing.exchangerate")),
    (_("Models and answers"), (LIVE, HEALTH, "chat.languagemodel", "chat.providerlimit", "chat.batch", "history.turn")),
    (_("What was used"), ("billing.usageperiod", "billing.usagerecord", "billing.reservation", "billing.spending")),
    (_("What was done"), ("billing.staffact", "billing.letter", "billing.gatewayevent", "billing.gatewaytask")),
    (_("As Stripe has it"), ("djstripe.customer", "djstripe.subscription", "djstripe.invoice", "djstripe.charge")),
)
"""What the first page and the bar beside every page lead to. A table that is in none of them comes last."""
HIDDEN = (EmailAddress, Authenticator, SocialAccount, SocialApp, SocialToken)
"""Tables of libraries: what an operator needs of them is on the pages of users."""


class OperatorSite(AdminSite):
    site_header = site_title = index_title = _("Administration")

    def has_permission(self, request: HttpRequest) -> bool:
        return super().has_permission(request) and not _lacks_second_factor(request)

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        return {**super().each_context(request), "version": VERSION}

    @method_decorator(secure_admin_login)
    def login(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Send an operator, who is logged in already, on: one log-in. Django's own would check passwords without our
        limits. Who has no second factor is led to set one up, who has not shown theirs in this session is asked."""
        if not _lacks_second_factor(request):
            return redirect("admin:index")
        if second_factor.has_second_factor(member_of(request).pk):
            return redirect(reverse("mfa_reauthenticate") + "?next=" + reverse("admin:index"))
        return render(request, "accounts/admin_needs_second_factor.html", status=403)

    def get_urls(self) -> list[Any]:
        from config.live import (
            live,  # here: the tables of the admin, which it shows figures of, are registered with this
        )

        page = self.admin_view(partial(live, site=self))
        return [path("live/", page, name="live"), *super().get_urls()]

    def register(self, model_or_iterable: Any, admin_class: Any = None, **options: Any) -> None:
        found = [model_or_iterable] if isinstance(model_or_iterable, ModelBase) else model_or_iterable
        options = {"history_view": _closed_history_of(admin_class or ModelAdmin), **options}
        super().register([model for model in found if model not in HIDDEN], admin_class, **options)

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        if app_label is not None:
            return super().get_app_list(request, app_label)
        tables = {
            table["model"]._meta.label_lower: table
            for app in self._build_app_dict(request).values()
            for table in app["models"]
        }
        sections: list[dict[str, Any]] = [
            {"name": name, "app_label": f"section-{number}", "models": list(_list_rows(request, tables, entries))}
            for number, (name, entries) in enumerate(SECTIONS)
        ]
        sections.append({"name": _("Other"), "app_label": "section-other", "models": list(tables.values())})
        rows = [row for section in sections for row in section["models"]]
        around = [row for row in rows if row["admin_url"] and request.path.startswith(row["admin_url"])]
        if around:  # the nearest: the dashboard's address begins with that of the payments
            max(around, key=lambda row: len(row["admin_url"]))["is_current"] = True
        return [section for section in sections if section["models"]]


def _list_rows(request: HttpRequest, tables: dict[str, Any], entries: tuple[FrontPage | str, ...]) -> Iterator[Any]:
    """Yield what of a section the operator may see; its tables are taken out of `tables`."""
    for entry in entries:
        if isinstance(entry, str):
            if entry in tables:
                yield tables.pop(entry)
        elif request.user.has_perms(entry.permissions):
            address = reverse(entry.address)
            yield {"name": entry.name, "object_name": entry.address.rpartition("_")[2], "admin_url": address}


def _closed_history_of(admin_class: Any) -> Callable[..., HttpResponse]:
    """Return the page of what was done to a row. Django's own looks for the row before it asks for the right, and so
    says to all of the staff whether there is one."""

    def history_view(self: Any, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        response: HttpResponse = admin_class.history_view(self, request, object_id, extra_context)
        return response

    return history_view


def _lacks_second_factor(request: HttpRequest) -> bool:
    return settings.ADMIN_REQUIRES_SECOND_FACTOR and not second_factor.was_shown(request)
