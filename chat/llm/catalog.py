"""The models on offer: the operator's rows whose provider is configured and whose price is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from chat.llm import price_list
from chat.llm.price_list import MICROS_PER_DOLLAR, ListPrice
from chat.llm.providers import list_providers
from chat.llm.providers.base import Provider
from chat.models import LanguageModel
from chat.provider_registry import COMPATIBLE, PAID_PROVIDERS
from core.caching import CachedTable

Tier = LanguageModel.Tier
NEW = LanguageModel.MaxTokensParameter.NEW

# Reviewed 2026-11-24. Models with a published price have none here: the list price counts (chat/llm/price_list.py).
SEED: tuple[dict[str, Any], ...] = (
    {
        "key": "gpt-6-luna",
        "provider": "openai",
        "label": "GPT-6 Luna",
        "tier": Tier.CHEAP,
        "position": 10,
        "context_window": 1_050_000,
        "max_output": 65_536,
        "max_tokens_parameter": NEW,
        "reasons": True,
        "sees_images": True,
        "reads_pdfs": True,
        "efforts": "low medium high",
    },
    {
        "key": "gpt-6.1-terra",
        "provider": "openai",
        "label": "GPT-6.1 Terra",
        "tier": Tier.MID,
        "position": 30,
        "context_window": 1_050_000,
        "max_output": 65_536,
        "max_tokens_parameter": NEW,
        "reasons": True,
        "sees_images": True,
        "reads_pdfs": True,
        "efforts": "low medium high",
    },
    {
        "key": "gpt-6.1-sol",
        "provider": "openai",
        "label": "GPT-6.1 Sol",
        "tier": Tier.STRONG,
        "position": 50,
        "context_window": 1_050_000,
        "max_output": 65_536,
        "max_tokens_parameter": NEW,
        "reasons": True,
        "sees_images": True,
        "reads_pdfs": True,
        "efforts": "low medium high",
    },
    {
        "key": "claude-haiku-5-5",
        "provider": "anthropic",
        "label": "Claude Haiku 5.5",
        "tier": Tier.CHEAP,
        "position": 12,
        "context_window": 1_000_000,
        "max_output": 64_000,
        "reasons": True,
        "sees_images": True,
        "reads_pdfs": True,
        "efforts": "low medium high",
    },
    {
        "key": "claude-sonnet-5-5",
        "provider": "anthropic",
        "label": "Claude Sonnet 5.5",
        "tier": Tier.MID,
        "position": 32,
        "context_window": 1_000_000,
        "max_output": 64_000,
        "reasons": True,
        "sees_images": True,
        "reads_pdfs": True,
        "efforts": "low medium high",
    },
    {
        "key": "claude-opus-5-5",
        "provider": "anthropic",
        "label": "Claude Opus 5.5",
        "tier": Tier.STRONG,
        "position": 52,
        "context_window": 1_000_000,
        "max_output": 64_000,
        "reasons": True,
        "sees_images": True,
        "reads_pdfs": True,
        "efforts": "low medium high",
    },
    {
        "key": "gemini-3.5-flash-lite",
        "provider": "gemini",
        "label": "Gemini 3.5 Flash-Lite",
        "tier": Tier.CHEAP,
        "position": 14,
        "context_window": 1_000_000,
        "max_output": 65_536,
        "reasons": True,
        "sees_images": True,
        "reads_pdfs": True,
        "efforts": "low medium high",
    },
    {
        "key": "gemini-3.8-flash",
        "provider": "gemini",
        "label": "Gemini 3.8 Flash",
        "tier": Tier.MID,
        "position": 34,
        "context_window": 1_000_000,
        "max_output": 65_536,
        "reasons": True,
        "sees_images": True,
        "reads_pdfs": True,
        "efforts": "low medium high",
    },
    {
        "key": "gemini-4-argon",
        "provider": "gemini",
        "label": "Gemini 4 Argon",
        "tier": Tier.STRONG,
        "position": 54,
        "context_window": 1_048_576,
        "max_output": 65_536,
        "reasons": True,
        "sees_images": True,
        "reads_pdfs": True,
        "efforts": "low medium high",
    },
    {
        "key": "deepseek-flash",
        "provider": "deepseek",
        "label": "DeepSeek Flash",
        "tier": Tier.CHEAP,
        "position": 20,
        "context_window": 1_000_000,
        "max_output": 65_536,
        "reasons": True,
        "sees_images": True,
        "efforts": "none high",
    },
    {
        "key": "demo",
        "provider": "demo",
        "provider_model": "smollm2",
        "label": "Demo",
        "tier": Tier.DEMO,
        "position": 1_000,
        "context_window": 2_048,
        "max_output": 256,
        "input_price": 0,
        "output_price": 0,
    },
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model on offer, and who serves it."""

    model: LanguageModel
    provider: Provider


RECORDED = Candidate(
    LanguageModel(
        key="recorded",
        provider="recorded",
        label=_("Recorded example"),  # type: ignore[misc]  # translated where it is shown
        tier=Tier.DEMO,
        context_window=1_000_000,
        max_output=8_192,
        input_price=0,
        output_price=0,
    ),
    Provider("recorded", "", "", ""),
)
"""Who answers recorded examples (chat/llm/recordings.py). It is never on offer, has no row, and is never asked: its
answers are played as the answer cache's are."""


def list_offered() -> list[Candidate]:
    """Return what may be chosen, in the operator's order."""
    providers = list_providers()
    return [
        Candidate(model, providers[model.provider])
        for model in _models.get()
        if model.enabled and model.is_priced and model.provider in providers
    ]


def find_model(key: str) -> LanguageModel | None:
    """Return a model, on offer or not, as its past answers must still be charged; None if there is no such row."""
    if key == RECORDED.model.key:
        return RECORDED.model
    return next((model for model in _models.get() if model.key == key), None)


def load_catalog() -> None:
    """Add the models that are missing, follow the environment with its own, and update the list prices.

    What an operator changed stays. For commands: it imports what no process that serves people should.
    """
    for fields in SEED:
        LanguageModel.objects.get_or_create(key=fields["key"], defaults={"provider_model": fields["key"], **fields})
    names = settings.OPENAI_COMPATIBLE_MODELS
    for name in names:
        LanguageModel.objects.update_or_create(
            provider=COMPATIBLE, provider_model=name, defaults={"enabled": True}, create_defaults=_compatible(name)
        )
    LanguageModel.objects.filter(provider=COMPATIBLE).exclude(provider_model__in=names).update(enabled=False)
    update_list_prices(price_list.read_list_prices)
    _models.changed()


def update_list_prices(
    read: Callable[[Sequence[tuple[str, str]]], Sequence[ListPrice | None]],
    among: QuerySet[LanguageModel] | None = None,
) -> list[LanguageModel]:
    """Save the prices that `read` returns for the paid models; return the models whose price has changed.

    A price that is no longer published stays.
    """
    models = list((LanguageModel.objects.all() if among is None else among).filter(provider__in=PAID_PROVIDERS))
    changed = []
    for model, price in zip(models, read([(model.provider, model.provider_model) for model in models]), strict=True):
        before = {name: value for name, value in (model.list_price or {}).items() if name != "as_of"}
        if price is not None and price != before:
            model.list_price = {**price, "as_of": timezone.now().date().isoformat()}
            model.save(update_fields=["list_price"])
            changed.append(model)
    return changed


def _compatible(name: str) -> dict[str, Any]:
    """Return the fields of a model named in the environment: free unless priced there."""
    window = settings.OPENAI_COMPATIBLE_CONTEXT
    return {
        "key": name,
        "provider": COMPATIBLE,
        "provider_model": name,
        "label": name,
        "tier": Tier.CHEAP,
        "position": 40,
        "context_window": window,
        "max_output": window // 2,
        "input_price": round(settings.OPENAI_COMPATIBLE_INPUT_PRICE * MICROS_PER_DOLLAR),
        "output_price": round(settings.OPENAI_COMPATIBLE_OUTPUT_PRICE * MICROS_PER_DOLLAR),
    }


def _load() -> list[LanguageModel]:
    return list(LanguageModel.objects.all())


_models = CachedTable("models", _load, LanguageModel)
