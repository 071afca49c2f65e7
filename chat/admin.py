"""The models on offer, for the operator."""

import datetime as dt
import logging
from decimal import Decimal
from subprocess import SubprocessError
from typing import Any

from asgiref.sync import async_to_sync
from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.utils.translation import gettext_lazy as _

from billing.spending import SpendingToday
from chat.errors import sentence_for
from chat.llm import health, spending
from chat.llm.alerts import Alert, list_alerts
from chat.llm.catalog import update_list_prices
from chat.llm.price_list import ListPrice, read_list_prices_in_subprocess
from chat.llm.pricing import price_of
from chat.llm.providers import list_providers, sdk
from chat.llm.providers.base import Provider
from chat.llm.providers.errors import ProviderError
from chat.models import MAX_PRICE_MICROS, PAID_PROVIDERS, PRICED, LanguageModel, ProviderLimit

logger = logging.getLogger(__name__)

MICROS = 1_000_000
MAX_NAMED = 30
MAX_DOLLARS_A_DAY = 1_000_000  # dollars


class DollarsField(forms.DecimalField):
    """A price in US dollars a million tokens; the model keeps micro-dollars."""

    def __init__(self, **options: Any) -> None:
        options = {
            "min_value": 0,
            "max_value": MAX_PRICE_MICROS // MICROS,
            "decimal_places": 6,
            "required": False,
            **options,
        }
        super().__init__(**options)

    def prepare_value(self, value: Any) -> Any:
        return f"{Decimal(value) / MICROS:f}" if isinstance(value, int) else value

    def clean(self, value: Any) -> int | None:  # micros, as the model wants them
        dollars = super().clean(value)
        return None if dollars is None else round(dollars * MICROS)

    def has_changed(self, initial: Any, data: Any) -> bool:
        return super().has_changed(self.prepare_value(initial), data)


class LanguageModelForm(forms.ModelForm):  # type: ignore[type-arg]
    input_price = DollarsField(
        label=_("input price"),
        help_text=_(
            "US dollars a million tokens. Each price you write counts instead of the list price, for prompts of any length; "
            "each you leave empty is the list price. Without either the model is not offered."
        ),
    )
    output_price = DollarsField(label=_("output price"), help_text=_("US dollars a million tokens."))
    cache_read_price = DollarsField(
        label=_("cache read price"),
        help_text=_("Of tokens read from the provider's cache. Empty: the list price, or else the input price."),
    )
    cache_write_price = DollarsField(
        label=_("cache write price"),
        help_text=_("Of tokens written to it. Empty: the list price, or else the input price."),
    )

    class Meta:
        model = LanguageModel
        fields = "__all__"  # noqa: DJ007  the operator may edit all of it


@admin.register(LanguageModel)
class LanguageModelAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    form = LanguageModelForm
    list_display = ("label", "key", "provider", "tier", "position", "enabled", "offered", "input", "output")
    list_editable = ("position", "enabled")
    list_filter = ("provider", "tier", "enabled")
    search_fields = ("key", "label", "provider_model")
    readonly_fields = ("listed",)
    actions = ("compare_with_provider", "update_prices")

    @admin.action(description=_("Update list prices"))
    def update_prices(self, request: HttpRequest, selected: QuerySet[LanguageModel]) -> None:
        """Read the published prices again, as the installed package `genai-prices` has them."""
        try:
            changed = update_list_prices(read_list_prices_in_subprocess, selected)
        except SubprocessError:
            logger.exception("List prices could not be read")
            self.message_user(request, _("The list prices could not be read: the log says why."), messages.ERROR)
            return
        names = ", ".join(model.label for model in changed) or "–"
        self.message_user(request, _("New list prices: %s. What you wrote yourself still counts.") % names)

    @admin.display(description=_("list price"))
    def listed(self, model: LanguageModel) -> str:
        """Show the published prices: what each costs, and above how many tokens of input or when it costs more."""
        return _describe(model.list_price) if model.list_price else str(_("unknown"))

    @admin.action(description=_("Compare with what their providers have"))
    def compare_with_provider(self, request: HttpRequest, selected: QuerySet[LanguageModel]) -> None:
        """Say which models of the selected ones' providers are new, and which are gone. Nothing is changed."""
        providers = list_providers()
        for key in sorted({model.provider for model in selected}):
            if key not in providers or providers[key].adapter not in sdk.ADAPTERS:
                self.message_user(request, _("%s cannot be asked: it has no key.") % key, messages.WARNING)
                continue
            known = set(LanguageModel.objects.filter(provider=key).values_list("provider_model", flat=True))
            try:
                found = set(async_to_sync(_list_once)(providers[key]))
            except ProviderError as error:
                self.message_user(request, f"{providers[key].name}: {sentence_for(error.code)}", messages.ERROR)
                continue
            told = {"provider": providers[key].name, "new": _some(found - known), "gone": _some(known - found)}
            self.message_user(request, _("%(provider)s. New: %(new)s. Gone: %(gone)s.") % told)

    def get_urls(self) -> list[Any]:
        page = self.admin_site.admin_view(self.health)
        return [path("health/", page, name="chat_languagemodel_health"), *super().get_urls()]

    def health(self, request: HttpRequest) -> HttpResponse:
        """What went wrong lately: alerts, probes, errors by model, and which breakers are open."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        found = health.causes()
        causes, probes = found or ([], {})
        page = {
            **self.admin_site.each_context(request),
            "title": _("Health and alerts"),
            "is_away": found is None,
            "alerts": [_shown(one) for one in list_alerts()],
            "probes": [
                {"provider": key, "at": _moment(probe.at), "keys": probe.keys.items()}
                for key, probe in sorted(probes.items())
            ],
            "causes": causes,
        }
        return render(request, "admin/chat/languagemodel/health.html", page)

    @admin.display(description=_("offered"))
    def offered(self, model: LanguageModel) -> str:
        """Say whether people can choose it, or why not."""
        if not model.enabled:
            return str(_("no: switched off"))
        if model.provider not in list_providers():
            return str(_("no: its provider has no key"))
        return str(_("yes")) if model.is_priced else str(_("no: its price is unknown"))

    @admin.display(description=_("input, $ a million"))
    def input(self, model: LanguageModel) -> str:
        return _dollars(price_of(model).tiers[0].input if model.is_priced else None)

    @admin.display(description=_("output, $ a million"))
    def output(self, model: LanguageModel) -> str:
        return _dollars(price_of(model).tiers[0].output if model.is_priced else None)


class ProviderLimitForm(forms.ModelForm):  # type: ignore[type-arg]
    provider = forms.ChoiceField(label=_("provider"), choices=[(key, key) for key in (*PAID_PROVIDERS, "compatible")])
    daily_micros = DollarsField(
        label=_("a day"),
        required=True,
        max_value=MAX_DOLLARS_A_DAY,
        help_text=_(
            "US dollars from midnight to midnight, UTC, of what the provider takes, without markup. When it is spent or "
            "promised to answers on their way, its paid models answer no more until tomorrow: at most one answer goes beyond. "
            "You are told at 80 % and at 100 %."
        ),
    )

    class Meta:
        model = ProviderLimit
        fields = ("provider", "daily_micros")


@admin.register(ProviderLimit)
class ProviderLimitAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    form = ProviderLimitForm
    list_display = ("provider", "limit", "spent", "promised", "stopped")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        self.standing = spending.spending_by_provider()  # once a page, not once a cell
        return super().changelist_view(request, extra_context)

    @admin.display(description=_("a day, $"), ordering="daily_micros")
    def limit(self, limit: ProviderLimit) -> str:
        return _dollars(limit.daily_micros)

    @admin.display(description=_("spent today, $"))
    def spent(self, limit: ProviderLimit) -> str:
        return _dollars(self._spent(limit).used_micros)

    @admin.display(description=_("promised to answers on their way, $"))
    def promised(self, limit: ProviderLimit) -> str:
        return _dollars(self._spent(limit).reserved_micros)

    @admin.display(description=_("stopped"), boolean=True)
    def stopped(self, limit: ProviderLimit) -> bool:
        return self._spent(limit).committed_micros >= limit.daily_micros

    def _spent(self, limit: ProviderLimit) -> SpendingToday:
        return self.standing[limit.provider][0] if limit.provider in self.standing else SpendingToday()


def _shown(alert: Alert) -> dict[str, Any]:
    details = ", ".join(f"{name}: {value}" for name, value in sorted(alert.fields.items()))
    return {
        "first": _moment(alert.first_at),
        "last": _moment(alert.last_at),
        "times": alert.times,
        "sentence": alert.sentence,
        "details": details,
    }


def _moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


async def _list_once(provider: Provider) -> list[str]:
    """Return the provider's models, and leave nothing open: this loop ends with the request."""
    try:
        return await sdk.list_models(provider)
    finally:
        await sdk.close_clients()


def _some(ids: set[str]) -> str:
    """Return the first of the ids; a list of hundreds helps nobody."""
    more = f" … (+{len(ids) - MAX_NAMED})" if len(ids) > MAX_NAMED else ""
    return ", ".join(sorted(ids)[:MAX_NAMED]) + more or "–"


def _dollars(micros: int | None) -> str:
    return "–" if micros is None else f"{Decimal(micros) / MICROS:f}"


def _describe(listed: ListPrice) -> str:
    """Return a list price in dollars a million tokens, in one line for each time it holds."""
    lines = []
    for prices in (listed, *listed.get("later", ())):
        when = [prices["from"]] if "from" in prices else []
        when += ["–".join(hour[:5] for hour in prices["between"]) + " UTC"] if "between" in prices else []
        rates = [f"{name} {_steps(prices[name])}" for name in PRICED if name in prices]
        lines.append(", ".join([*when, *rates]))
    return "\n".join([*lines, listed["as_of"]])


def _steps(steps: list[list[int]]) -> str:
    first, *dearer = (f"${_dollars(rate)}" for _above, rate in steps)
    borders = (above for above, _rate in steps[1:])
    return " ".join([first, *(f"(> {above:,}: {rate})" for above, rate in zip(borders, dearer, strict=True))])
