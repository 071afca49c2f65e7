"""The models on offer, for the operator; and conversations that the staff reads, with their owner's knowledge."""

import datetime as dt
import logging
from decimal import Decimal
from subprocess import SubprocessError
from typing import Any, ClassVar
from uuid import UUID

from asgiref.sync import async_to_sync
from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.utils.formats import number_format
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_safe

from accounts import asking_again
from accounts.http import member_of, peer_of
from billing.spending import SpendingToday
from chat.errors import sentence_for
from chat.llm import spending
from chat.llm.catalog import update_list_prices
from chat.llm.health.error_counts import read_error_counts
from chat.llm.price_list import MICROS_PER_DOLLAR, ListPrice, read_list_prices_in_subprocess
from chat.llm.pricing import price_of
from chat.llm.providers import list_providers, sdk
from chat.llm.providers.base import Provider
from chat.llm.providers.errors import ProviderError
from chat.models import MAX_PRICE_MICROS, PRICE_KINDS, Batch, LanguageModel, ProviderLimit, StaffReading
from chat.provider_registry import BILLING_PROVIDERS
from chat.shown.staff_reading import begin_reading, read_conversation
from core.alerts import list_alerts
from core.errors import NotFound
from core.paging import ReadOnlyAdmin
from history import access

logger = logging.getLogger(__name__)

MAX_MODELS_NAMED = 30
MAX_DOLLARS_A_DAY = 1_000_000


class DollarsField(forms.DecimalField):
    """A price in US dollars a million tokens; the model keeps micro-dollars."""

    def __init__(self, **options: Any) -> None:
        options = {
            "min_value": 0,
            "max_value": MAX_PRICE_MICROS // MICROS_PER_DOLLAR,
            "decimal_places": 6,
            "required": False,
            **options,
        }
        super().__init__(**options)

    def prepare_value(self, value: Any) -> Any:
        return f"{Decimal(value) / MICROS_PER_DOLLAR:f}" if isinstance(value, int) else value

    def clean(self, value: Any) -> int | None:  # micros, as the model wants them
        dollars = super().clean(value)
        return None if dollars is None else round(dollars * MICROS_PER_DOLLAR)

    def has_changed(self, initial: Any, data: Any) -> bool:
        return super().has_changed(self.prepare_value(initial), data)


class LanguageModelForm(forms.ModelForm):  # type: ignore[type-arg]
    input_price = DollarsField(
        label=_("input price"),
        help_text=_(
            "US dollars a million tokens. Each price you write counts instead of the list price, for prompts of any "
            "length; each you leave empty is the list price. Without either the model is not offered."
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
        labels = {"max_tokens_parameter": _("parameter for the longest answer")}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():  # Django does so where a field has no label of its own
            field.label = capfirst(str(field.label))


class RowForm(forms.ModelForm):  # type: ignore[type-arg]
    """A row of the list: each field says what it is, and of which model."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            field.widget.attrs["aria-label"] = f"{capfirst(str(field.label))}, {self.instance.label}"


@admin.register(LanguageModel)
class LanguageModelAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    form = LanguageModelForm
    list_display = ("label", "key", "provider", "tier", "position", "enabled", "offered", "input", "output")
    list_editable = ("position", "enabled")
    list_filter = ("provider", "tier", "enabled")
    search_fields = ("key", "label", "provider_model")
    readonly_fields = ("listed",)
    actions = ("compare_with_provider", "update_prices")

    @admin.action(description=_("Update list prices"), permissions=["change"])
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
        """Show the published prices, with the number of input tokens above which, or the time at which, they change."""
        return _describe(model.list_price) if model.list_price else str(_("unknown"))

    @admin.action(description=_("Compare with what their providers have"))
    def compare_with_provider(self, request: HttpRequest, selected: QuerySet[LanguageModel]) -> None:
        """Say which models of the selected ones' providers are new, and which are gone. Nothing is changed."""
        providers = list_providers()
        for slug in sorted({model.provider for model in selected}):
            provider = providers.get(slug)
            if provider is None or provider.adapter not in sdk.ADAPTERS:
                self.message_user(request, _("%s cannot be asked: it has no key.") % slug, messages.WARNING)
                continue
            ours = set(LanguageModel.objects.filter(provider=slug).values_list("provider_model", flat=True))
            try:
                theirs = set(async_to_sync(_list_models_once)(provider))
            except ProviderError as error:
                self.message_user(request, f"{provider.name}: {sentence_for(error.code)}", messages.ERROR)
                continue
            names = {"provider": provider.name, "new": _join(theirs - ours), "gone": _join(ours - theirs)}
            self.message_user(request, _("%(provider)s. New: %(new)s. Gone: %(gone)s.") % names)

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> Any:
        return super().get_changelist_form(request, **{"form": RowForm, **kwargs})

    def get_urls(self) -> list[Any]:
        page = self.admin_site.admin_view(self.health)
        return [path("health/", page, name="chat_languagemodel_health"), *super().get_urls()]

    def health(self, request: HttpRequest) -> HttpResponse:
        """Show the alerts, the last probes, the errors of each model, and the open breakers."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        counted = read_error_counts()
        error_counts, probes = counted or ([], {})
        page = {
            **self.admin_site.each_context(request),
            "title": _("Health and alerts"),
            "is_away": counted is None,
            "alerts": list_alerts(),
            "probes": [
                {"provider": slug, "at": _moment(probe.at), "keys": probe.keys.items()}
                for slug, probe in sorted(probes.items())
            ],
            "error_counts": error_counts,
        }
        return render(request, "admin/chat/languagemodel/health.html", page)

    @admin.display(description=_("offered"))
    def offered(self, model: LanguageModel) -> str:
        """Show whether people can choose the model, or why not."""
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
    provider = forms.ChoiceField(label=_("provider"), choices=[(slug, slug) for slug in BILLING_PROVIDERS])
    daily_micros = DollarsField(
        label=_("a day"),
        required=True,
        max_value=MAX_DOLLARS_A_DAY,
        help_text=_(
            "US dollars from midnight to midnight, UTC, of what the provider takes, without markup. When it is spent "
            "or promised to answers on their way, its paid models answer no more until tomorrow: at most one answer "
            "goes beyond. You are told at 80% and at 100%."
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
        subtitle = _("A new installation begins with $%s a day for each provider.") % spending.FIRST_DOLLARS_A_DAY
        return super().changelist_view(request, {"subtitle": subtitle, **(extra_context or {})})

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


def _moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


async def _list_models_once(provider: Provider) -> list[str]:
    """Return the provider's models, and close the client: this event loop ends with the request."""
    try:
        return await sdk.list_models(provider)
    finally:
        await sdk.close_clients()


def _join(ids: set[str]) -> str:
    """Return the first of the ids: a list of hundreds would help nobody."""
    more = f" … (+{len(ids) - MAX_MODELS_NAMED})" if len(ids) > MAX_MODELS_NAMED else ""
    return ", ".join(sorted(ids)[:MAX_MODELS_NAMED]) + more or "–"


def _dollars(micros: int | None) -> str:
    return "–" if micros is None else number_format(Decimal(f"{Decimal(micros) / MICROS_PER_DOLLAR:f}"))


def _describe(listed: ListPrice) -> str:
    """Return a list price in dollars a million tokens, in one line for each time it holds."""
    lines = []
    for prices in (listed, *listed.get("later", ())):
        when = [prices["from"]] if "from" in prices else []
        when += ["–".join(hour[:5] for hour in prices["between"]) + " UTC"] if "between" in prices else []
        rates = [f"{name} {_steps(prices[name])}" for name in PRICE_KINDS if name in prices]
        lines.append(", ".join([*when, *rates]))
    return "\n".join([*lines, listed["as_of"]])


def _steps(steps: list[list[int]]) -> str:
    first, *dearer = (f"${_dollars(rate)}" for _above, rate in steps)
    thresholds = (above for above, _rate in steps[1:])
    return " ".join(
        [
            first,
            *(
                f"(> {number_format(above, force_grouping=True)}: {rate})"
                for above, rate in zip(thresholds, dearer, strict=True)
            ),
        ]
    )


@admin.register(Batch)
class BatchAdmin(ReadOnlyAdmin):
    """What becomes of batches: never what is asked, answered, or wrong with a line, nor the addresses of webhooks."""

    list_display = ("id", "owner_id", "status", "error", "total", "completed", "failed", "cost_micros", "created_at")
    list_filter = ("status",)
    search_fields = ("=id", "=owner_id")
    fields = (
        *("id", "owner_id", "status", "error", "size", "total", "completed", "failed"),
        *("estimate_micros", "most_micros", "max_cost_micros", "cost_micros"),
        *("webhook_tries", "webhook_sent_at", "created_at", "started_at", "finished_at"),
    )


class StaffReadingForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = StaffReading
        fields = ("conversation_id", "reason")
        widgets: ClassVar[dict[str, Any]] = {"reason": forms.Textarea(attrs={"rows": 3})}

    def clean_conversation_id(self) -> UUID:
        conversation_id: UUID = self.cleaned_data["conversation_id"]
        if access.find_conversation(conversation_id) is None:
            raise forms.ValidationError(_("There is no such conversation, or it is in the trash."))
        return conversation_id


@admin.register(StaffReading)
class StaffReadingAdmin(ReadOnlyAdmin):
    """Who of the staff could read which conversation, and why. To add one opens a conversation, and tells its owner."""

    form = StaffReadingForm
    list_display = ("conversation_id", "user", "staff_email", "reason", "created_at", "expires_at")
    list_filter = ("staff_email",)
    search_fields = ("user__email", "staff_email", "reason")
    ordering = ("-created_at",)
    fields = ("conversation_id", "reason")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Ask for two fields of a new one; show all of another."""
        return self.fields if obj is None else self.list_display

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("chat.add_staffreading")

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """One button: it opens the conversation, for who has just shown once more who they are."""
        if request.method == "POST":
            asking_again.check(request)
        one_button = {"show_save_and_add_another": False, "show_save_and_continue": False}
        return super().add_view(request, form_url, {**(extra_context or {}), **one_button})

    def save_model(self, request: HttpRequest, obj: StaffReading, form: Any, change: bool) -> None:
        begun = begin_reading(obj.conversation_id, staff=member_of(request), reason=obj.reason, peer=peer_of(request))
        obj.pk = begun.pk

    def response_add(self, request: HttpRequest, obj: StaffReading, *_rest: Any, **_more: Any) -> HttpResponse:
        return redirect("admin:chat_staffreading_read", obj.pk)

    def get_urls(self) -> list[Any]:
        page = self.admin_site.admin_view(require_safe(self.read_view))
        return [path("<uuid:reading_id>/read/", page, name="chat_staffreading_read"), *super().get_urls()]

    def read_view(self, request: HttpRequest, reading_id: UUID) -> HttpResponse:
        """Show the conversation to who has opened it, while its time lasts."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        after = request.GET.get("after", "")
        reading = StaffReading.objects.filter(pk=reading_id).select_related("user").first()
        try:
            if reading is None:
                raise NotFound
            read = read_conversation(
                reading, staff=member_of(request), after=int(after) if after.isdecimal() and len(after) < 10 else 0
            )
        except NotFound as error:
            raise Http404 from error
        page = {
            **self.admin_site.each_context(request),
            "title": read.conversation.title,
            "reading": reading,
            "read": read,
            "opts": self.opts,
        }
        return render(request, "admin/chat/staffreading/read.html", page)
