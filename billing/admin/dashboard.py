"""The operator's dashboard of a month, and its payments and refunds as a file for the bookkeeper."""

import csv
import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import takewhile
from typing import Any

from django.conf import settings
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.utils import timezone
from django.utils.formats import date_format, number_format
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_safe

from billing import figures
from billing.admin.tables import name_of, show_credits
from billing.figures import Margin, Month
from billing.gateways import list_gateways
from billing.models import BillingAccount, GatewayEvent, GatewayTask, Payment, Plan, Subscription
from billing.months import month_of, months_back
from billing.pages.usage_chart import safe_cell
from billing.pages.words import describe, title_of
from core.alerts import Alert, list_alerts
from core.money import exponent_of, format_money, to_decimal

FIRST_YEAR = 2020
SUBJECTS = ("both", "closed", "double", "ledger", "refund")
"""What alerts about money begin with, beside the names of gateways."""
MOST_COUNTED = 1_000
"""Above this, what waits is "more than"."""
COLUMNS = (
    *("at", "kind", "gateway", "reference", "account", "payer", "what", "currency", "gross", "tax", "net"),
    *("country", "tax_id", "fiscal_number", "fiscal_url"),
)


@dataclass(frozen=True, slots=True)
class ShownMargin:
    name: str
    account: int | None
    answers: int
    credits: str
    earned: str
    cost: str
    left: str
    is_loss: bool


@dataclass(frozen=True, slots=True)
class ToDo:
    """Something that waits for the operator: how much of it, and where it is."""

    name: str
    count: str
    url: str
    is_open: bool


def urls(site: AdminSite) -> list[Any]:
    pages = (("dashboard", dashboard), ("export", export))
    return [path(f"{name}/", _page(site, view), name=f"billing_payment_{name}") for name, view in pages]


def dashboard(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """What was earned and spent in a month, who came and went, and what is to be done."""
    if not request.user.has_perms(("billing.view_payment", "billing.view_usagerecord")):
        raise PermissionDenied
    month = _month_of(request)
    report = figures.report_month(month)
    context = {
        **site.each_context(request),
        "title": _("Dashboard"),
        "month": month,
        "months": _list_months(),
        "shown_month": date_format(month.start, "YEAR_MONTH_FORMAT"),
        "is_running": month.end > timezone.now(),
        "report": report,
        "currency": settings.SITE_CURRENCY,
        "figures": _figures(report),
        "receipts": [_show_receipts(one) for one in report.receipts],
        "received": _show(report.received),
        "margins": [
            (_("By plan"), _("Plan"), _show_margins(report.by_plan, _plan_names())),
            (_("By model"), _("Model"), _show_margins(report.by_model)),
            (_("People who cost more than they pay"), _("Person"), _show_people(report.by_person)),
        ],
        "suppliers": [(name, _show(cost)) for name, cost in report.suppliers],
        "cost": _show(report.cost),
        "own_cost": _show(report.own_cost),
        "to_do": _list_to_do(),
        "alerts": _list_alerts(),
    }
    return render(request, "admin/billing/payment/dashboard.html", context)


def export(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """The month's payments, and what went back in it, as CSV, in English and with points: for programs."""
    if not request.user.has_perm("billing.view_payment"):
        raise PermissionDenied
    month = _month_of(request)
    answer = HttpResponse(_write_csv(month), content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="payments-{month.start:%Y-%m}.csv"'
    return answer


def _page(site: AdminSite, view: Any) -> Any:
    def page(request: HttpRequest) -> Any:
        return view(request, site)

    return site.admin_view(require_safe(page))


def _month_of(request: HttpRequest) -> Month:
    """Return the month that is asked for, the running one by default: none that is to come."""
    now = timezone.now()
    try:
        asked = dt.datetime.strptime(request.GET.get("month", ""), "%Y-%m").replace(tzinfo=dt.UTC)
    except ValueError:
        asked = now
    return Month.containing(asked if asked < now and asked.year >= FIRST_YEAR else now)


def _list_months() -> list[tuple[str, str]]:
    """Return the months that can be chosen, the running one first, back to the first payment."""
    first = Payment.objects.exclude(paid_at=None).order_by("paid_at").values_list("paid_at", flat=True).first()
    now = timezone.now()
    oldest, _end = month_of(max(first or now, dt.datetime(FIRST_YEAR, 1, 1, tzinfo=dt.UTC)))
    months = takewhile(lambda month: month >= oldest, months_back(now))
    return [(f"{month:%Y-%m}", date_format(month, "YEAR_MONTH_FORMAT")) for month in months]


# --- What is shown ----------------------------------------------------------------------------------------------------


def _figures(report: figures.MonthReport) -> list[tuple[str, str, str]]:
    """Return the figures of the first table: what, how much, and what it means."""
    movement = report.movement
    before = gettext("%(amount)s when the month began") % {"amount": _show(report.mrr_before)}
    return [
        (gettext("MRR"), _show(report.mrr), before),
        (gettext("Subscribed"), _number(movement.active), gettext("paid for now, or for the end of the month")),
        (gettext("New"), _number(movement.new), gettext("who were not when the month began")),
        (gettext("Churned"), _number(movement.churned), gettext("who were when it began, and are no more")),
        (gettext("Past due"), _number(movement.in_grace), gettext("their renewal is not paid yet")),
        (gettext("Trials"), _number(movement.trials), gettext("not in MRR")),
        (gettext("Earned"), _show(report.earned), gettext("for the days of the month, without tax and refunds")),
        (gettext("Cost"), _show(report.cost), gettext("what suppliers take")),
        (gettext("Margin"), _show(report.left), _percent(report.left, report.earned)),
    ]


def _show(amount: Decimal) -> str:
    digits = exponent_of(settings.SITE_CURRENCY)
    return format_money(int(amount.scaleb(digits).to_integral_value()), settings.SITE_CURRENCY)


def _number(number: int) -> str:
    return number_format(number, force_grouping=True)


def _percent(part: Decimal, whole: Decimal) -> str:
    return gettext("%(percent)s%%") % {"percent": round(100 * part / whole)} if whole else ""


def _show_receipts(one: figures.Receipts) -> tuple[str, str, int, list[str]]:
    amounts = (one.gross, one.tax, one.refunded, one.disputed, one.net)
    digits = exponent_of(one.currency)
    shown = [format_money(int(amount.scaleb(digits)), one.currency) for amount in amounts]
    return title_of(one.gateway), one.currency, one.payments, shown


def _show_margins(margins: Iterable[Margin], names: dict[Any, str] | None = None) -> list[ShownMargin]:
    return [_show_margin(margin, (names or {}).get(margin.key, str(margin.key))) for margin in margins]


def _show_people(margins: list[Margin]) -> list[ShownMargin]:
    accounts = BillingAccount.objects.select_related("user").in_bulk([margin.key for margin in margins])
    return [_show_margin(one, name_of(accounts[int(one.key)]), account=int(one.key)) for one in margins]


def _show_margin(margin: Margin, name: str, *, account: int | None = None) -> ShownMargin:
    return ShownMargin(
        name,
        account,
        margin.answers,
        show_credits(margin.used_micros),
        _show(margin.earned),
        _show(margin.cost),
        _show(margin.left),
        margin.left < 0,
    )


def _plan_names() -> dict[Any, str]:
    beside = {figures.PACKS: gettext("Packs of credits"), figures.TRIALS: gettext("Trials")}
    return {**{plan.pk: plan.shown_name for plan in Plan.objects.all()}, **beside}


def _list_to_do() -> list[ToDo]:
    """Return what waits for the operator now, whatever month is looked at."""
    payments = Payment.objects.all()
    asked = payments.filter(refund_requested_at__isnull=False, refund_answered_at=None)
    doubles = Subscription.objects.filter(is_double=True, ended_at=None)
    return [
        _to_do(_("Refunds asked for"), asked, "payment", "open=refund"),
        _to_do(_("Disputes"), payments.filter(dispute=Payment.Dispute.OPEN), "payment", "open=dispute"),
        _to_do(_("Bought twice, not ended yet"), doubles, "subscription", "is_double__exact=1"),
        _to_do(_("Notifications not handled"), GatewayEvent.objects.due(), "gatewayevent", "state=waiting"),
        _to_do(_("Notifications with errors"), _failing(GatewayEvent), "gatewayevent", "state=failing"),
        _to_do(_("Tasks at gateways with errors"), _failing(GatewayTask), "gatewaytask", "state=failing"),
    ]


def _failing(model: Any) -> "QuerySet[Any]":
    return model.objects.exclude(error="")  # type: ignore[no-any-return]


def _to_do(name: Any, found: "QuerySet[Any]", table: str, query: str) -> ToDo:
    count = found.order_by()[: MOST_COUNTED + 1].count()
    shown = gettext("more than %(number)s") % {"number": _number(MOST_COUNTED)} if count > MOST_COUNTED else str(count)
    return ToDo(str(name), shown, f"../../{table}/?{query}", count > 0)


def _list_alerts() -> list[Alert]:
    """Return the alerts about money."""
    return [alert for alert in list_alerts() if alert.subject.partition(":")[0] in (*SUBJECTS, *list_gateways())]


# --- The file ---------------------------------------------------------------------------------------------------------


class _Echo:
    """A file that gives back what is written to it."""

    def write(self, text: str) -> str:
        return text


def _write_csv(month: Month) -> Iterator[str]:
    writer = csv.writer(_Echo())
    yield writer.writerow(COLUMNS)
    paid = figures.payments_of(month).select_related("subscription__account__user", "price__plan")
    for payment in paid.order_by("paid_at", "pk").iterator(chunk_size=500):
        amounts = (payment.amount_minor, payment.tax_minor, payment.amount_minor - payment.tax_minor)
        yield writer.writerow(_row_of(payment, "payment", payment.paid_at, amounts))
    back = figures.reversals_of(month).select_related("payment__subscription__account__user", "payment__price__plan")
    for one in back.order_by("at", "pk").iterator(chunk_size=500):
        # How much of it is tax no gateway says.
        yield writer.writerow(_row_of(one.payment, one.kind, one.at, (-one.amount_minor, None, None)))


def _row_of(payment: Payment, kind: str, at: dt.datetime | None, amounts: Sequence[int | None]) -> list[str]:
    """Return a line about a payment; `amounts` are its gross, tax and net, in the currency's minor unit."""
    account, currency = payment.subscription.account, payment.currency
    assert at is not None
    texts = (
        *(at.astimezone(dt.UTC).isoformat(), kind, payment.gateway, payment.reference, str(account.pk)),
        *(account.email, describe(payment.price), currency),
        *(payment.tax_country, payment.tax_id, payment.fiscal_number, payment.fiscal_url),
    )
    cells = [safe_cell(text) for text in texts]
    # No formula: a number below nothing begins with its sign.
    cells[8:8] = ["" if amount is None else str(to_decimal(amount, currency)) for amount in amounts]
    return cells
