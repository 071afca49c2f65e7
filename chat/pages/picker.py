"""The lines of the model picker: who serves a model, what an answer costs, and who may choose it."""

from dataclasses import dataclass
from decimal import Decimal

from django.template.defaultfilters import floatformat
from django.utils.translation import gettext, ngettext

from billing import entitlements
from billing.entitlements import Entitlements, credits_of
from billing.metering import Usage
from chat.llm.catalog import list_offered
from chat.llm.pricing import cost_of
from chat.models import LanguageModel
from chat.shown.words import EFFORTS

USUAL = Usage(input=1_000, output=500)
"""The tokens of the answer whose price the picker shows."""


@dataclass(frozen=True, slots=True)
class ModelOption:
    """One line. `locked` says why it cannot be chosen; empty when it can. `is_unavailable`: it has failed just now."""

    model: LanguageModel
    provider: str
    locked: str = ""
    is_unavailable: bool = False

    @property
    def is_included(self) -> bool:
        return not self.locked

    @property
    def price(self) -> str:
        """Return what a usual answer costs; empty where it costs nothing."""
        credits = Decimal(f"{credits_of(cost_of(self.model, USUAL)):.2g}").normalize()
        if not credits:
            return ""
        shown = floatformat(credits, f"{max(0, -int(credits.as_tuple().exponent))}g")
        return ngettext("≈ %(credits)s credit", "≈ %(credits)s credits", 1 if credits == 1 else 2) % {"credits": shown}


def list_model_options(allowed: Entitlements, *, unavailable: frozenset[str] = frozenset()) -> list[ModelOption]:
    """Return every model on offer; those above the plan can be seen and not chosen. `unavailable` are the keys of models
    that do not answer at the moment."""
    return [
        ModelOption(
            candidate.model,
            candidate.provider.name,
            "" if allowed.includes_tier(candidate.model.tier) else _reason(candidate.model.tier),
            candidate.model.key in unavailable,
        )
        for candidate in list_offered()
    ]


def by_tier(choices: list[ModelOption]) -> list[tuple[str, list[ModelOption]]]:
    """Return the choices under the names of their tiers, in the operator's order."""
    groups: dict[str, list[ModelOption]] = {}
    for choice in choices:
        groups.setdefault(choice.model.get_tier_display(), []).append(choice)
    return list(groups.items())


def efforts_of(choices: list[ModelOption], key: str) -> list[tuple[str, str]]:
    """Return how hard the model called `key` can be told to think, and what people call that."""
    levels = next((choice.model.efforts for choice in choices if choice.model.key == key), "")
    return [(level, str(EFFORTS.get(level, level))) for level in levels.split()]


def _reason(tier: str) -> str:
    plan = entitlements.least_plan_with(tier)
    return gettext("Not in your plan: %(plan)s has it.") % {"plan": plan} if plan else gettext("Not in your plan.")
