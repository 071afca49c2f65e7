"""What plans, payments and gateways are called on pages."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from django.conf import settings
from django.contrib.humanize.templatetags.humanize import intcomma
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from billing.gateways import get_gateway, list_gateways
from billing.models import Payment, Plan, Price
from core.money import format_money, to_decimal
from core.sizes import readable_size

TIERS = {
    Plan.Tier.DEMO: _("The Demo model"),
    Plan.Tier.CHEAP: _("The quick models"),
    Plan.Tier.MID: _("Quick and balanced models"),
    Plan.Tier.STRONG: _("Every model, the strongest too"),
}


@dataclass(frozen=True, slots=True)
class ShownPrice:
    """A price as people read it. `monthly` is what a year comes to a month, empty for the rest."""

    price: Price
    amount: str
    gateway: str
    monthly: str = ""


def show_price(price: Price) -> ShownPrice:
    monthly = ""
    if price.interval == Price.Interval.YEAR:
        monthly = format_money(round(price.amount_minor / 12), price.currency)
    return ShownPrice(price, format_money(price.amount_minor, price.currency), title_of(price.gateway), monthly)


def title_of(gateway: str) -> str:
    """Return what people call a gateway, also one the site no longer has."""
    return get_gateway(gateway).title if gateway in list_gateways() else gateway.capitalize()


def list_allowed(plan: Plan) -> list[str]:
    """Return what a plan allows, a sentence each."""
    found = [_credits(plan), str(TIERS[Plan.Tier(plan.best_tier)])]
    if plan.turns_per_hour is not None:
        found.append(
            ngettext("%(shown)s question an hour", "%(shown)s questions an hour", plan.turns_per_hour)
            % {"shown": intcomma(plan.turns_per_hour)}
        )
    if plan.turns_at_once is not None:
        found.append(
            ngettext("%(shown)s answer at once", "%(shown)s answers at once", plan.turns_at_once)
            % {"shown": intcomma(plan.turns_at_once)}
        )
    found.append(gettext("Questions of up to %(shown)s characters") % {"shown": intcomma(plan.question_characters)})
    upload_bytes = min(plan.upload_bytes or settings.ATTACHMENT_BYTES, settings.ATTACHMENT_BYTES)
    found.append(gettext("Files of up to %(size)s each") % {"size": readable_size(upload_bytes)})
    if plan.history_days is not None:
        found.append(
            ngettext(
                "Conversations are kept for %(shown)s day after their last use",
                "Conversations are kept for %(shown)s days after their last use",
                plan.history_days,
            )
            % {"shown": intcomma(plan.history_days)}
        )
    found.append(gettext("With the API, for programs of yours") if plan.has_api else gettext("Without the API"))
    if plan.has_comparison:
        found.append(gettext("Two models side by side on the same question"))
    if plan.has_batches:
        found.append(gettext("Batches: files of many requests, answered one after the other"))
    return found


def describe(price: Price) -> str:
    """Return what a price is for."""
    if price.plan is None:
        return ngettext("%(shown)s credit", "%(shown)s credits", price.pack_credits) % {
            "shown": intcomma(price.pack_credits)
        }
    return price.plan.shown_name


def saved_percent(prices: Iterable[Price]) -> int:
    """Return how much the year saves over twelve months, of the plan where it saves most; 0 where it saves nothing."""
    months: dict[tuple[int, str], Decimal] = {}
    years: dict[tuple[int, str], Decimal] = {}
    for price in prices:
        if price.plan_id is not None:
            found = months if price.interval == Price.Interval.MONTH else years
            found.setdefault((price.plan_id, price.currency), to_decimal(price.amount_minor, price.currency))
    saved = [Decimal(1) - years[key] / (12 * months[key]) for key in months.keys() & years.keys() if months[key]]
    return int(max([*saved, Decimal()]) * 100)


def describe_status(payment: Payment) -> str:
    """Return how a payment stands: what happened last to it."""
    if payment.dispute:
        return str(payment.get_dispute_display())
    if payment.refunded_minor:
        is_whole = payment.refunded_minor >= payment.amount_minor
        return gettext("refunded") if is_whole else gettext("refunded in part")
    if payment.refund_answer:
        return gettext("paid; refund refused")
    if payment.waits_for_answer:
        return gettext("refund asked for")
    return str(payment.get_status_display())


def _credits(plan: Plan) -> str:
    if plan.credits_per_month is None:
        return gettext("Credits without a limit")
    return ngettext("%(shown)s credit a month", "%(shown)s credits a month", plan.credits_per_month) % {
        "shown": intcomma(plan.credits_per_month)
    }
