"""What the tables of billing share: they are read, never changed, and may have millions of rows.

What is counted, listed and searched is bounded: no page counts a whole table, a filter offers what is known without
looking through it, and a search finds people first, and then what is theirs.
"""

from typing import Any, ClassVar
from uuid import UUID

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import floatformat
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from billing.entitlements import credits_of
from billing.gateways import list_gateways
from billing.models import BillingAccount, Price
from core.paging import BoundedPaginator

PEOPLE_FOUND = 100
"""How many people a search finds at most."""


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


class AccountRowsAdmin(ReadOnlyAdmin):
    """Rows of somebody's account, at the end of `owner_path`. They are found by a part of the owner's address, by the
    account's number, or by exactly what is in one of `exact_fields`."""

    owner_path: ClassVar[str] = "account"
    exact_fields: ClassVar[tuple[str, ...]] = ()
    are_uuids: ClassVar[bool] = False
    search_fields: ClassVar[Any] = ("pk",)  # so that there is a box: `get_search_results` looks
    search_help_text: ClassVar[Any] = _("A part of an address, an account's number, or the whole name of one thing.")

    @admin.display(description=_("user"))
    def owner(self, row: Any) -> str:
        for name in filter(None, self.owner_path.split("__")):
            row = getattr(row, name)
        return "–" if row is None else name_of(row)

    def get_search_results(
        self, request: HttpRequest, queryset: "QuerySet[Any]", search_term: str
    ) -> tuple["QuerySet[Any]", bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        people = BillingAccount.objects.filter(user__email__icontains=term).values_list("pk", flat=True)
        accounts = list(people[:PEOPLE_FOUND])
        if term.isdecimal():
            accounts.append(int(term[:18]))
        path = f"{self.owner_path}__in" if self.owner_path else "pk__in"
        found = Q(**{path: accounts})
        if not self.are_uuids or _is_uuid(term):
            for name in self.exact_fields:
                found |= Q(**{name: term})
        return queryset.filter(found), False


class GatewayFilter(admin.SimpleListFilter):
    """By gateway: those of the site, without asking the table which there are."""

    title = _("gateway")
    parameter_name = "gateway"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        names = {*list_gateways(), *Price.objects.order_by().values_list("gateway", flat=True).distinct()}
        return [(name, name) for name in sorted(names)]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        return queryset.filter(gateway=self.value()) if self.value() else queryset


class CurrencyFilter(GatewayFilter):
    title = _("currency")
    parameter_name = "currency"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        names = Price.objects.order_by().values_list("currency", flat=True).distinct()
        return [(name, name) for name in sorted(names)]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        return queryset.filter(currency=self.value()) if self.value() else queryset


def name_of(account: BillingAccount) -> str:
    """Return the owner's address; of an account whose owner was deleted, that, and its number."""
    if account.user is None:
        return gettext("deleted, account %(number)s") % {"number": account.pk}
    return str(account.user)


def show_credits(micros: int | None) -> str:
    """Return micro-US-dollars as credits; None is no limit."""
    return gettext("no limit") if micros is None else floatformat(credits_of(micros), "-3g")


def _is_uuid(term: str) -> bool:
    try:
        UUID(term)
    except ValueError:
        return False
    return True
