"""The options of the model picker: who serves a model, what an answer costs, and whether the plan has it."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from django.template.defaultfilters import floatformat
from django.utils.translation import gettext, ngettext

from billing import entitlements
from billing.entitlements import Entitlements, credits_of
from billing.metering import Usage
from chat.llm.catalog import list_offered
from chat.llm.health.overview import silent_models
from chat.llm.pricing import cost_of
from chat.models import LanguageModel
from chat.pages.words import EFFORT_NAMES

USUAL_ANSWER = Usage(input=1_000, output=500)
"""The tokens of the answer whose price the picker shows."""


@dataclass(frozen=True, slots=True)
class ModelOption:
    """One model. `locked` is the sentence that says why it cannot be chosen, empty when it can; `is_silent`,
    whether it answers nobody at the moment, as the status page says."""

    model: LanguageModel
    provider: str
    locked: str = ""
    is_silent: bool = False

    @property
    def is_included(self) -> bool:
        return not self.locked

    @property
    def price(self) -> str:
        """Return what a usual answer costs; empty where it costs nothing."""
        credits = Decimal(f"{credits_of(cost_of(self.model, USUAL_ANSWER)):.2g}").normalize()
        if not credits:
            return ""
        figure = floatformat(credits, f"{max(0, -int(credits.as_tuple().exponent))}g")
        plural = ngettext("≈ %(credits)s credit", "≈ %(credits)s credits", 1 if credits == 1 else 2)
        return plural % {"credits": figure}


def list_model_options(allowed: Entitlements) -> list[ModelOption]:
    """Return every model on offer; those the plan does not have are shown and locked."""
    silent = silent_models()
    return [
        ModelOption(
            candidate.model,
            candidate.provider.name,
            "" if allowed.includes_tier(candidate.model.tier) else _not_in_plan(candidate.model.tier),
            candidate.model.key in silent,
        )
        for candidate in list_offered()
    ]


def group_by_tier(options: Iterable[ModelOption]) -> list[tuple[str, list[ModelOption]]]:
    """Return the options under the names of their tiers, in the operator's order."""
    groups: dict[str, list[ModelOption]] = {}
    for option in options:
        groups.setdefault(option.model.get_tier_display(), []).append(option)
    return list(groups.items())


def list_efforts(options: Iterable[ModelOption], key: str) -> list[tuple[str, str]]:
    """Return the effort levels of the model called `key`, each with its name; none for a model without levels."""
    levels = next((option.model.efforts for option in options if option.model.key == key), "")
    return [(level, str(EFFORT_NAMES.get(level, level))) for level in levels.split()]


def _not_in_plan(tier: str) -> str:
    plan = entitlements.lowest_plan_name_with(tier)
    return gettext("Not in your plan: %(plan)s has it.") % {"plan": plan} if plan else gettext("Not in your plan.")
