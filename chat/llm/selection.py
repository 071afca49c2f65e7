"""Which models may answer a question: the one that was named, the default, or those that Auto chooses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

from django.conf import settings
from django.utils.translation import gettext_lazy as _

from billing.entitlements import Entitlements
from billing.errors import NotInPlan, SpendLimitReached
from billing.spending import seconds_left_today
from chat.errors import (
    BadEffort,
    ContextExceeded,
    EmailUnconfirmed,
    ModelNotInKey,
    NoModel,
    NoPdfText,
    NoVision,
    UnknownModel,
)
from chat.llm import recordings
from chat.llm.catalog import RECORDED, Candidate, list_offered
from chat.llm.difficulty import Difficulty, Route, judge
from chat.llm.pricing import max_cost, question_room
from chat.models import LanguageModel
from core.errors import DomainError

AUTO = "auto"
TIERS = tuple(LanguageModel.Tier.values)
"""From the simplest to the best."""
MAX_CANDIDATES = 3
"""As many models as dispatch has attempts."""
FALLBACK_COST_FACTOR = 5
"""A fallback may cost this many times the best candidate: the reservation is for the dearest of them."""
SAVING_FALLBACK_COST_FACTOR = 2
"""The same for a fallback that leaves few credits."""
COMFORTABLE_ANSWERS = 3
"""Auto saves when the credits left pay for fewer answers than this, each as long and dear as it can be. That is about
fifteen answers of usual length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionProfile:
    """What the choice of a model depends on.

    `min_tokens` is the prompt without the conversation before it, `tokens` with all of it; both by the careful
    estimate. `answer_tokens` is the longest answer that plan and site allow, `last_model` who answered before, and
    `left_micros` what is neither used nor reserved of the allowance; None means no limit.
    """

    question: str
    min_tokens: int
    tokens: int
    answer_tokens: int
    last_model: str = ""
    has_images: bool = False
    has_pdfs: bool = False
    has_scans: bool = False  # PDFs without text, which can only be looked at
    left_micros: int | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """Who may answer, best first, never empty; `route` is why, None where Auto did not choose."""

    candidates: list[Candidate]
    route: Route | None = None


def choose(
    requested: str,
    allowed: Entitlements,
    profile: QuestionProfile,
    *,
    unavailable: frozenset[str] = frozenset(),
    stopped: frozenset[str] = frozenset(),
    only_free: bool = False,
    only: frozenset[str] = frozenset(),
) -> Selection:
    """Return who may answer. A named model is never replaced; raises UnknownModel, NotInPlan, NoModel,
    SpendLimitReached or, where `only_free` leaves nobody, EmailUnconfirmed. Where `only` has keys of models, no other
    is chosen, and naming another raises ModelNotInKey.

    Without a name (empty) it is DEFAULT_LLM if the plan includes it and it takes the attached files; else, and for
    `auto`, Auto chooses. `unavailable` are keys of models that fail at the moment, `stopped` slugs of providers whose
    daily limit is reached.
    """
    if requested and requested != AUTO:
        if only and requested not in only:
            raise ModelNotInKey
        named = get_named(requested, allowed)
        if named is RECORDED:
            recordings.get_answer(profile.question)
        if only_free and not named.model.is_free:
            raise EmailUnconfirmed
        if _is_stopped(named, stopped):
            raise SpendLimitReached(retry_after=seconds_left_today())
        return Selection([named])
    offered = [candidate for candidate in list_offered() if not only or candidate.model.key in only]
    default = _find_default(requested, offered, allowed)
    is_barred = default and ((only_free and not default.model.is_free) or _is_stopped(default, stopped))
    if default and not is_barred and _takes_files(default, profile):
        return Selection([default])
    return route(offered, allowed, profile, unavailable=unavailable, stopped=stopped, only_free=only_free)


def route(
    offered: Sequence[Candidate],
    allowed: Entitlements,
    profile: QuestionProfile,
    *,
    unavailable: frozenset[str] = frozenset(),
    stopped: frozenset[str] = frozenset(),
    only_free: bool = False,
) -> Selection:
    """Return whom Auto chooses from `offered`, which is in the operator's order.

    First the models that cannot answer are left out, then, if possible, those that should not; the question's
    difficulty decides the tier. When the allowance pays for none, the cheapest is returned: the ledger refuses it,
    unless a reservation was released meanwhile. Raises NoModel, NotInPlan, EmailUnconfirmed, NoVision, NoPdfText,
    SpendLimitReached or ContextExceeded.
    """
    usable = _list_usable(offered, allowed, profile, stopped, only_free=only_free)
    pool = _Pool(usable, profile)
    pool.prefer(lambda candidate: candidate.model.key not in unavailable)
    pool.prefer(lambda candidate: _max_prompt_tokens(candidate, profile) >= profile.tokens)
    best, why = _choose_best(pool, judge(profile.question, has_images=profile.has_images))
    if len(usable) == 1:
        why = Route.ONLY_ONE
    return Selection([best, *_choose_fallbacks(pool, best)], why)


def list_for_unnamed(allowed: Entitlements, *, only_free: bool = False) -> list[Candidate]:
    """Return whom a question without a name may go to: the default, or those that Auto chooses from."""
    offered = list_offered()
    default = _find_default("", offered, allowed)
    if default and (default.model.is_free or not only_free):
        return [default]
    try:
        included = _list_included(offered, allowed)
    except NoModel:
        return []
    return [candidate for candidate in included if candidate.model.is_free or not only_free]


def find_other(
    requested: str,
    allowed: Entitlements,
    profile: QuestionProfile,
    *,
    unavailable: frozenset[str] = frozenset(),
    stopped: frozenset[str] = frozenset(),
    only_free: bool = False,
) -> Candidate | None:
    """Return who can answer a question that was refused for `requested`: of the best tier that the allowance pays for,
    the cheapest; where it pays for none, one that is free. None when there is nobody."""
    others = [candidate for candidate in list_offered() if candidate.model.key not in {requested, *unavailable}]
    for offered in (others, [candidate for candidate in others if candidate.model.is_free]):
        try:
            pool = _Pool(_list_usable(offered, allowed, profile, stopped, only_free=only_free), profile)
        except DomainError:
            continue
        pool.candidates = [one for one in pool.candidates if _max_prompt_tokens(one, profile) >= profile.tokens]
        if payable := list(filter(pool.can_pay, pool.candidates)):
            return max(payable, key=_rank)
    return None


def get_named(key: str, allowed: Entitlements) -> Candidate:
    """Return the model that is called `key`; raises UnknownModel or NotInPlan. Everybody has the recorded examples."""
    if key == RECORDED.model.key:
        return RECORDED
    for candidate in list_offered():
        if candidate.model.key == key:
            if not allowed.includes_tier(candidate.model.tier):
                raise NotInPlan
            return candidate
    raise UnknownModel


def encode_candidates(chosen: Sequence[Candidate]) -> str:
    """Return the keys of `chosen` as a turn stores them: best first, separated by spaces."""
    return " ".join(quote(candidate.model.key, safe="/:@+,") for candidate in chosen)


def decode_candidates(keys: str, allowed: Entitlements) -> list[Candidate]:
    """Return those of `keys` that are still on offer and in the plan; raises NoModel when none is."""
    offered = {candidate.model.key: candidate for candidate in list_offered()}
    found = [offered[key] for key in decode_keys(keys) if key in offered]
    if not (included := [candidate for candidate in found if allowed.includes_tier(candidate.model.tier)]):
        raise NoModel
    return included


def decode_keys(keys: str) -> list[str]:
    """Return the keys that `encode_candidates` wrote."""
    return [unquote(key) for key in keys.split()]


def check_effort(effort: str, requested: str) -> None:
    """Raise BadEffort for a level the named model does not have; without a name, for one that no model on offer has."""
    if not effort:
        return
    is_named = requested not in ("", AUTO)
    models = [candidate.model for candidate in list_offered() if not is_named or candidate.model.key == requested]
    if not any(effort in model.effort_levels for model in models):
        raise BadEffort


def _find_default(requested: str, offered: Sequence[Candidate], allowed: Entitlements) -> Candidate | None:
    """Return DEFAULT_LLM if Auto was not asked for and the plan includes it."""
    for candidate in offered:
        if candidate.model.key == settings.DEFAULT_LLM and requested != AUTO:
            return candidate if allowed.includes_tier(candidate.model.tier) else None
    return None


def _list_included(offered: Sequence[Candidate], allowed: Entitlements) -> list[Candidate]:
    """Return what the plan includes, the Demo model only if there is nothing else; raises NoModel."""
    included = [candidate for candidate in offered if allowed.includes_tier(candidate.model.tier)]
    if not included:
        raise NoModel
    return [c for c in included if c.model.tier != LanguageModel.Tier.DEMO] or included


def _is_stopped(candidate: Candidate, stopped: frozenset[str]) -> bool:
    """Return whether its provider's daily limit stops it; a free model is never stopped."""
    return candidate.provider.slug in stopped and not candidate.model.is_free


def _list_usable(
    offered: Sequence[Candidate],
    allowed: Entitlements,
    profile: QuestionProfile,
    stopped: frozenset[str],
    *,
    only_free: bool,
) -> list[Candidate]:
    """Return the candidates that can answer at all; raises the reason when none can."""
    usable = _list_included(offered, allowed)
    if only_free:  # the Demo model does not stand in for better ones: nobody would know why
        usable = [candidate for candidate in usable if candidate.model.is_free]
        if not usable:
            raise EmailUnconfirmed
    if profile.has_images:
        usable = [candidate for candidate in usable if candidate.model.sees_images]
        if not usable and any(candidate.model.sees_images for candidate in offered):
            raise NotInPlan(_("None of the models in your plan sees images. Please send the question without them."))
        if not usable:
            raise NoVision(_("No model here sees images. Please send the question without them."))
    if profile.has_scans:
        usable = [candidate for candidate in usable if candidate.model.reads_pdfs]
        if not usable:
            raise NoPdfText
    usable = [candidate for candidate in usable if not _is_stopped(candidate, stopped)]
    if not usable:
        raise SpendLimitReached(retry_after=seconds_left_today())
    usable = [candidate for candidate in usable if _max_prompt_tokens(candidate, profile) >= profile.min_tokens]
    if not usable:
        raise ContextExceeded
    return usable


def _takes_files(candidate: Candidate, profile: QuestionProfile) -> bool:
    """Return whether it takes the kinds of files that are attached."""
    model = candidate.model
    return (model.sees_images or not profile.has_images) and (model.reads_pdfs or not profile.has_scans)


def _max_prompt_tokens(candidate: Candidate, profile: QuestionProfile) -> int:
    return question_room(candidate.model, min(profile.answer_tokens, candidate.model.max_output))


class _Pool:
    """The candidates that are left, and the most that an answer of each can cost, in micros."""

    def __init__(self, candidates: list[Candidate], profile: QuestionProfile) -> None:
        self.last_model = profile.last_model
        self.left_micros = profile.left_micros
        self._answer_tokens = profile.answer_tokens
        self._comparable_costs = {
            one.model.key: _max_cost(one, profile, output_tokens=profile.answer_tokens) for one in candidates
        }
        self._max_costs = {
            one.model.key: _max_cost(one, profile, output_tokens=self.max_answer_tokens(one)) for one in candidates
        }
        # The best of a tier is the cheapest, or one that reads PDFs as they are; among equals the operator's first.
        self.candidates = sorted(
            candidates, key=lambda one: (profile.has_pdfs and not one.model.reads_pdfs, self.comparable_cost(one))
        )

    def max_answer_tokens(self, candidate: Candidate) -> int:
        return min(self._answer_tokens, candidate.model.max_output)

    def comparable_cost(self, candidate: Candidate) -> int:
        """Return what an answer of the same length for all would cost: a model is not cheap for being terse."""
        return self._comparable_costs[candidate.model.key]

    def prefer(self, test: Callable[[Candidate], bool]) -> None:
        """Keep the candidates that pass, unless none does, or the allowance pays only for others."""
        passing = [candidate for candidate in self.candidates if test(candidate)]
        if passing and (any(map(self.can_pay, passing)) or not any(map(self.can_pay, self.candidates))):
            self.candidates = passing

    def can_pay(self, candidate: Candidate, answers: int = 1) -> bool:
        """Return whether the allowance pays for this many answers."""
        return self.left_micros is None or self.left_micros >= answers * self._max_costs[candidate.model.key]

    def in_nearest_tier(self, tier: str) -> list[Candidate]:
        """Return the candidates of `tier`; without any, of the next tier below, or else above."""
        wanted = TIERS.index(tier)
        order = [*TIERS[wanted::-1], *TIERS[wanted + 1 :]]
        by_tier = ([c for c in self.candidates if c.model.tier == tier] for tier in order)
        return next(filter(None, by_tier))

    def below(self, candidate: Candidate) -> list[Candidate]:
        """Return the candidates that are both of a lower tier and cheaper, best tier first."""
        cost = self.comparable_cost(candidate)
        lower = [c for c in self.candidates if _rank(c) < _rank(candidate) and self.comparable_cost(c) < cost]
        return sorted(lower, key=_rank, reverse=True)


def _choose_best(pool: _Pool, difficulty: Difficulty) -> tuple[Candidate, Route]:
    """Return the best candidate, and why it is."""
    previous = next((c for c in pool.candidates if c.model.key == pool.last_model), None)
    if previous and _rank(previous) >= TIERS.index(difficulty.tier) and pool.can_pay(previous, COMFORTABLE_ANSWERS):
        return previous, Route.FOLLOW_UP
    in_tier = pool.in_nearest_tier(difficulty.tier)
    best = next(filter(pool.can_pay, in_tier), in_tier[0])
    below = list(filter(pool.can_pay, pool.below(best)))
    if pool.can_pay(best, COMFORTABLE_ANSWERS) or (pool.can_pay(best) and not below):
        return best, difficulty.route
    if pool.can_pay(best):
        return below[0], Route.LOW_CREDITS
    cheapest = _choose_cheapest(pool)
    return cheapest, Route.LAST_CREDITS if _rank(cheapest) < _rank(best) else difficulty.route


def _choose_cheapest(pool: _Pool) -> Candidate:
    """Return the cheapest of the lowest tier that the allowance pays for; of all, when it pays for none."""
    if payable := list(filter(pool.can_pay, pool.candidates)):
        return min(payable, key=lambda candidate: (_rank(candidate), pool.comparable_cost(candidate)))
    return min(pool.candidates, key=pool.comparable_cost)


def _choose_fallbacks(pool: _Pool, best: Candidate) -> list[Candidate]:
    """Return who may answer if `best` fails: near its tier, of another provider if possible, and at a similar cost.

    When nobody is that cheap, it is the cheapest that the allowance pays for several times.
    """
    min_answer_tokens = pool.max_answer_tokens(best) / 2
    others = [
        c
        for c in pool.candidates
        if c is not best and pool.max_answer_tokens(c) >= min_answer_tokens and pool.can_pay(c)
    ]
    comfortable = [c for c in others if pool.can_pay(c, COMFORTABLE_ANSWERS)]

    def is_similar(candidate: Candidate) -> bool:
        factor = FALLBACK_COST_FACTOR if candidate in comfortable else SAVING_FALLBACK_COST_FACTOR
        return pool.comparable_cost(candidate) <= factor * pool.comparable_cost(best)

    def distance(candidate: Candidate) -> tuple[int, int]:
        has_same_provider = candidate.provider.slug == best.provider.slug  # and likely to fail with it
        return abs(_rank(candidate) - _rank(best)) + has_same_provider, pool.comparable_cost(candidate)

    if similar := list(filter(is_similar, others)):
        return sorted(similar, key=distance)[: MAX_CANDIDATES - 1]
    return sorted(comfortable, key=pool.comparable_cost)[:1]


def _rank(candidate: Candidate) -> int:
    return TIERS.index(candidate.model.tier)


def _max_cost(candidate: Candidate, profile: QuestionProfile, *, output_tokens: int) -> int:
    """Return the most an answer can cost, in micros; what does not fit the window is not sent."""
    input_tokens = min(profile.tokens, _max_prompt_tokens(candidate, profile))
    return max_cost(candidate.model, input_tokens=input_tokens, output_tokens=output_tokens)
