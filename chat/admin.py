"""The models on offer, for the operator."""

import datetime as dt
from decimal import Decimal
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

from chat.alerts import Alert, list_alerts
from chat.errors import sentence_for
from chat.llm import health
from chat.llm.providers import list_providers, sdk
from chat.llm.providers.base import Provider
from chat.llm.providers.errors import ProviderError
from chat.models import DEAREST, LanguageModel

MICROS = 1_000_000
MOST_NAMED = 30


class DollarsField(forms.DecimalField):
    """A price in US dollars a million tokens; the model keeps micro-dollars."""

    def __init__(self, **options: Any) -> None:
        options = {"min_value": 0, "max_value": DEAREST // MICROS, "decimal_places": 6, "required": False, **options}
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
        help_text=_("US dollars a million tokens. Empty is unknown: the model is not offered."),
    )
    output_price = DollarsField(label=_("output price"), help_text=_("US dollars a million tokens."))
    cache_read_price = DollarsField(
        label=_("cache read price"),
        help_text=_("Of tokens read from the provider's cache. Empty: the input price."),
    )
    cache_write_price = DollarsField(
        label=_("cache write price"), help_text=_("Of tokens written to it. Empty: the input price.")
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
    actions = ("compare_with_provider",)

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

    @admin.display(description=_("input, $ a million"), ordering="input_price")
    def input(self, model: LanguageModel) -> str:
        return _dollars(model.input_price)

    @admin.display(description=_("output, $ a million"), ordering="output_price")
    def output(self, model: LanguageModel) -> str:
        return _dollars(model.output_price)


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
    more = f" … (+{len(ids) - MOST_NAMED})" if len(ids) > MOST_NAMED else ""
    return ", ".join(sorted(ids)[:MOST_NAMED]) + more or "–"


def _dollars(micros: int | None) -> str:
    return "–" if micros is None else f"{Decimal(micros) / MICROS:f}"
