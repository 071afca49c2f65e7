"""Which models may answer a question: the one that was named, the default, or those that Auto chooses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

from django.conf import settings
from django.utils.translation import gettext_lazy as _

from billing.entitlements import Entitlements
from billing.errors import NotInPlan, SpendLimitReached
from billing.spending import seconds_left_today
from chat.errors import BadEffort, ContextExceeded, NoModel, NoPdfText, NoVision, UnknownModel
from chat.llm.catalog import Candidate, list_offered
from chat.llm.difficulty import Difficulty, Route, judge
from chat.llm.pricing import most_it_can_cost, question_room
from chat.models import LanguageModel

AUTO = "auto"
TIERS = tuple(LanguageModel.Tier.values)
"""From the least to the best."""
MAX_CANDIDATES = 3
"""As many models as dispatch has attempts."""
SIMILAR_COST = 5
"""What stands in may cost this many times the first choice: the reservation is the dearest's."""
SAVING_COST = 2
"""The same, when credits run low."""
COMFORT_ANSWERS = 3
"""Auto saves when the credits left pay fewer answers than this, each as long and dear as it can be: some fifteen of usual
length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionProfile:
    """What matters of a question for who may answer it.

    `least_tokens` must be sent whatever happens, `tokens` with all of the conversation; both by the careful estimate.
    `answer_tokens` is the longest answer that plan and site allow, `last_model` who answered before, and `left_micros`
    what is not used or reserved of the allowance; None means no limit.
    """

    question: str
    least_tokens: int
    tokens: int
    answer_tokens: int
    last_model: str = ""
    has_images: bool = False
    has_pdfs: bool = False
    has_scans: bool = False  # PDFs without text, which can only be looked at
    left_micros: int | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """Who may answer, best first, never empty; `route` is why, or None where nobody had to choose."""

    candidates: list[Candidate]
    route: Route | None = None


def choose(
    requested: str,
    allowed: Entitlements,
    asked: QuestionProfile,
    *,
    resting: frozenset[str] = frozenset(),
    stopped: frozenset[str] = frozenset(),
) -> Selection:
    """Return who may answer. A named model is never replaced; raises UnknownModel, NotInPlan, NoModel or
    SpendLimitReached.

    Without a name (empty) it is DEFAULT_LLM where the plan includes it and it takes what is attached; else, and for
    `auto`, it is up to Auto. `resting` are keys of models that fail at the moment, `stopped` those of providers whose spend limit is reached.
    """
    offered = list_offered()
    if requested and requested != AUTO:
        named = _named(requested, offered, allowed)
        if _is_stopped(named, stopped):
            raise SpendLimitReached(retry_after=seconds_left_today())
        return Selection([named])
    default = _default(requested, offered, allowed)
    if default and not _is_stopped(default, stopped) and _takes(default, asked):
        return Selection([default])
    return route(offered, allowed, asked, resting=resting, stopped=stopped)


def route(
    offered: Sequence[Candidate],
    allowed: Entitlements,
    asked: QuestionProfile,
    *,
    resting: frozenset[str] = frozenset(),
    stopped: frozenset[str] = frozenset(),
) -> Selection:
    """Return whom Auto chooses of `offered`, which is in the operator's order.

    First who cannot answer goes, then who should not, then the question's difficulty says the tier. When the allowance
    pays for nobody, the cheapest is returned: the ledger refuses it, or room was made meanwhile. Raises NoModel,
    NotInPlan or ContextExceeded.
    """
    usable = _usable(offered, allowed, asked, stopped)
    field = _Field(usable, asked)
    field.narrow(lambda candidate: candidate.model.key not in resting)
    field.narrow(lambda candidate: _room(candidate, asked) >= asked.tokens)
    first, why = _first(field, judge(asked.question, has_images=asked.has_images))
    if len(usable) == 1:
        why = Route.ONLY_ONE
    return Selection([first, *_stand_ins(field, first)], why)


def candidates_for(requested: str, allowed: Entitlements) -> list[Candidate]:
    """Return everybody who might answer, best first, never empty: for a question nobody has chosen for.

    Raises what `choose` raises.
    """
    offered = list_offered()
    if requested and requested != AUTO:
        return [_named(requested, offered, allowed)]
    default = _default(requested, offered, allowed)
    return [default] if default else _included(offered, allowed)


def encode_candidates(chosen: Sequence[Candidate]) -> str:
    """Return the keys of `chosen` as a turn keeps them: best first, separated by spaces."""
    return " ".join(quote(candidate.model.key, safe="/:@+,") for candidate in chosen)


def decode_candidates(keys: str, allowed: Entitlements) -> list[Candidate]:
    """Return those of `keys` that are still on offer and in the plan; raises NoModel when none is."""
    offered = {candidate.model.key: candidate for candidate in list_offered()}
    found = [offered[key] for key in map(unquote, keys.split(" ")) if key in offered]
    if not (included := [candidate for candidate in found if allowed.includes_tier(candidate.model.tier)]):
        raise NoModel
    return included


def check_effort(effort: str, requested: str) -> None:
    """Raise BadEffort for a word the named model does not know; without a name, for one that none on offer does."""
    if not effort:
        return
    is_named = requested not in ("", AUTO)
    models = [candidate.model for candidate in list_offered() if not is_named or candidate.model.key == requested]
    if not any(effort in model.effort_levels for model in models):
        raise BadEffort


def _named(key: str, offered: Sequence[Candidate], allowed: Entitlements) -> Candidate:
    for candidate in offered:
        if candidate.model.key == key:
            if not allowed.includes_tier(candidate.model.tier):
                raise NotInPlan
            return candidate
    raise UnknownModel


def _default(requested: str, offered: Sequence[Candidate], allowed: Entitlements) -> Candidate | None:
    """Return DEFAULT_LLM where it is wanted and the plan includes it."""
    for candidate in offered:
        if candidate.model.key == settings.DEFAULT_LLM and requested != AUTO:
            return candidate if allowed.includes_tier(candidate.model.tier) else None
    return None


def _included(offered: Sequence[Candidate], allowed: Entitlements) -> list[Candidate]:
    """Return what the plan includes, the Demo model only when it is alone; raises NoModel."""
    included = [candidate for candidate in offered if allowed.includes_tier(candidate.model.tier)]
    if not included:
        raise NoModel
    return [c for c in included if c.model.tier != LanguageModel.Tier.DEMO] or included


def _is_stopped(candidate: Candidate, stopped: frozenset[str]) -> bool:
    """Return whether its provider's spend limit stops it; what is free spends nothing."""
    return candidate.provider.key in stopped and not candidate.model.is_free


def _usable(
    offered: Sequence[Candidate], allowed: Entitlements, asked: QuestionProfile, stopped: frozenset[str]
) -> list[Candidate]:
    """Return who can answer at all; raises what says why nobody can."""
    usable = _included(offered, allowed)
    if asked.has_images:
        usable = [candidate for candidate in usable if candidate.model.sees_images]
        if not usable and any(candidate.model.sees_images for candidate in offered):
            raise NotInPlan(_("None of the models in your plan sees images. Please send the question without them."))
        if not usable:
            raise NoVision(_("No model here sees images. Please send the question without them."))
    if asked.has_scans:
        usable = [candidate for candidate in usable if candidate.model.reads_pdfs]
        if not usable:
            raise NoPdfText
    usable = [candidate for candidate in usable if not _is_stopped(candidate, stopped)]
    if not usable:
        raise SpendLimitReached(retry_after=seconds_left_today())
    usable = [candidate for candidate in usable if _room(candidate, asked) >= asked.least_tokens]
    if not usable:
        raise ContextExceeded
    return usable


def _takes(candidate: Candidate, asked: QuestionProfile) -> bool:
    """Return whether it can be shown what is attached."""
    model = candidate.model
    return (model.sees_images or not asked.has_images) and (model.reads_pdfs or not asked.has_scans)


def _room(candidate: Candidate, asked: QuestionProfile) -> int:
    return question_room(candidate.model, min(asked.answer_tokens, candidate.model.max_output))


class _Field:
    """Who is left to choose from, and what each would cost at most, in micros."""

    def __init__(self, candidates: list[Candidate], asked: QuestionProfile) -> None:
        self.last_model = asked.last_model
        self.answer_tokens = asked.answer_tokens
        self.left = asked.left_micros
        self._dearness = {one.model.key: _most(one, asked, asked.answer_tokens) for one in candidates}
        self._costs = {one.model.key: _most(one, asked, self.longest(one)) for one in candidates}
        # The best of a tier is the cheapest, or whoever takes a PDF as it is; among equals the operator's first.
        self.candidates = sorted(
            candidates, key=lambda one: (asked.has_pdfs and not one.model.reads_pdfs, self.dearness(one))
        )

    def longest(self, candidate: Candidate) -> int:
        return min(self.answer_tokens, candidate.model.max_output)

    def dearness(self, candidate: Candidate) -> int:
        """Return what an answer as long as anybody's would cost: a model is not cheap for being terse."""
        return self._dearness[candidate.model.key]

    def narrow(self, test: Callable[[Candidate], bool]) -> None:
        """Keep those who pass, unless that would leave nobody, or only those the allowance does not pay."""
        kept = [candidate for candidate in self.candidates if test(candidate)]
        if kept and (any(map(self.pays, kept)) or not any(map(self.pays, self.candidates))):
            self.candidates = kept

    def pays(self, candidate: Candidate, answers: int = 1) -> bool:
        """Return whether the allowance pays this many answers."""
        return self.left is None or self.left >= answers * self._costs[candidate.model.key]

    def nearest(self, tier: str) -> list[Candidate]:
        """Return the candidates of `tier`; without any, of the next below, or else above."""
        wanted = TIERS.index(tier)
        order = [*TIERS[wanted::-1], *TIERS[wanted + 1 :]]
        return next(found for tier in order if (found := [c for c in self.candidates if c.model.tier == tier]))

    def below(self, candidate: Candidate) -> list[Candidate]:
        """Return who is both of a lower tier and cheaper, best tier first."""
        cheaper = [
            c for c in self.candidates if _rank(c) < _rank(candidate) and self.dearness(c) < self.dearness(candidate)
        ]
        return sorted(cheaper, key=_rank, reverse=True)


def _first(field: _Field, verdict: Difficulty) -> tuple[Candidate, Route]:
    """Return the best candidate, and why it is."""
    before = next((c for c in field.candidates if c.model.key == field.last_model), None)
    if before and _rank(before) >= TIERS.index(verdict.tier) and field.pays(before, COMFORT_ANSWERS):
        return before, Route.FOLLOW_UP
    wanted = field.nearest(verdict.tier)
    best = next(filter(field.pays, wanted), wanted[0])
    below = list(filter(field.pays, field.below(best)))
    if field.pays(best, COMFORT_ANSWERS) or (field.pays(best) and not below):
        return best, verdict.route
    if field.pays(best):
        return below[0], Route.LOW_CREDITS
    least = _least(field)
    return least, Route.LAST_CREDITS if _rank(least) < _rank(best) else verdict.route


def _least(field: _Field) -> Candidate:
    """Return the cheapest of the lowest tier that the allowance pays; of all, when it pays nobody."""
    if payable := list(filter(field.pays, field.candidates)):
        return min(payable, key=lambda candidate: (_rank(candidate), field.dearness(candidate)))
    return min(field.candidates, key=field.dearness)


def _stand_ins(field: _Field, first: Candidate) -> list[Candidate]:
    """Return who may answer if `first` fails: near its tier, of another provider if possible, and at a similar cost.

    When nobody is that cheap, it is whoever is cheapest, if the allowance is ample.
    """
    least = field.longest(first) / 2
    others = [c for c in field.candidates if c is not first and field.longest(c) >= least and field.pays(c)]
    ample = [c for c in others if field.pays(c, COMFORT_ANSWERS)]
    similar = [
        c for c in others if field.dearness(c) <= (SIMILAR_COST if c in ample else SAVING_COST) * field.dearness(first)
    ]
    if not similar:
        return sorted(ample, key=field.dearness)[:1]

    def distance(candidate: Candidate) -> tuple[int, int]:
        is_beside = candidate.provider.key == first.provider.key  # and likely to fail with it
        return abs(_rank(candidate) - _rank(first)) + is_beside, field.dearness(candidate)

    return sorted(similar, key=distance)[: MAX_CANDIDATES - 1]


def _rank(candidate: Candidate) -> int:
    return TIERS.index(candidate.model.tier)


def _most(candidate: Candidate, asked: QuestionProfile, answer_tokens: int) -> int:
    """Return the most an answer can cost, in micros; what does not fit the window is not sent."""
    input_tokens = min(asked.tokens, _room(candidate, asked))
    return most_it_can_cost(candidate.model, input_tokens=input_tokens, output_tokens=answer_tokens)
