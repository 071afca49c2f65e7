"""Which models may answer a question: the one that was named, or the default."""

from django.conf import settings

from billing.entitlements import Entitlements
from billing.errors import NotInPlan
from chat.errors import BadEffort, NoModel, UnknownModel
from chat.llm.catalog import Candidate, list_offered
from chat.models import LanguageModel

AUTO = "auto"


def candidates(requested: str, allowed: Entitlements) -> list[Candidate]:
    """Return who may answer, best first, never empty.

    A named model is never replaced; raises UnknownModel or NotInPlan. Without a name (empty) it is DEFAULT_LLM where
    the plan includes it; else, and for `auto`, whatever the plan includes, the Demo model only when it is alone.
    Raises NoModel.
    """
    offered = list_offered()
    if requested and requested != AUTO:
        return [_named(requested, offered, allowed)]
    usable = [candidate for candidate in offered if allowed.includes_tier(candidate.model.tier)]
    if not usable:
        raise NoModel
    default = [c for c in usable if c.model.key == settings.DEFAULT_LLM and requested != AUTO]
    return default or [c for c in usable if c.model.tier != LanguageModel.Tier.DEMO] or usable


def check_effort(effort: str, requested: str) -> None:
    """Raise BadEffort for a word the named model does not know; without a name, for one that none on offer does."""
    if not effort:
        return
    is_named = requested not in ("", AUTO)
    models = [candidate.model for candidate in list_offered() if not is_named or candidate.model.key == requested]
    if not any(effort in model.effort_levels for model in models):
        raise BadEffort


def _named(key: str, offered: list[Candidate], allowed: Entitlements) -> Candidate:
    for candidate in offered:
        if candidate.model.key == key:
            if not allowed.includes_tier(candidate.model.tier):
                raise NotInPlan
            return candidate
    raise UnknownModel
