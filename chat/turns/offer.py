"""Who may answer a question, what they are sent, and the most that can cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from django.conf import settings

from billing.entitlements import Budget, Entitlements
from billing.spending import SupplierHold
from chat.attachments.binding import Attached
from chat.llm import spending
from chat.llm.difficulty import Route
from chat.llm.health.overview import unavailable_models
from chat.llm.pricing import RESERVE_BYTES_PER_TOKEN, SETTLE_BYTES_PER_TOKEN, estimate_tokens, max_cost
from chat.llm.selection import AUTO, QuestionProfile, Selection, choose, encode_candidates, find_other
from chat.turns import prompts
from chat.turns.asked import Asked
from history import tree
from history.models import Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferRequest:
    """What an offer is made for: the question, which model it names, and what goes with it. `only_free`: the person may
    cost nothing yet. `only` are the keys of the models that may answer; empty: all. `asked` is the whole conversation,
    where a program has sent it, in place of a question with what came before it."""

    model: str
    only_free: bool
    entitlements: Entitlements
    profile: QuestionProfile
    files: Sequence[Attached]
    parent: Turn | None
    instructions: str = ""  # of the folder
    only: frozenset[str] = frozenset()
    asked: Asked | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Who may answer, what they are sent, and the most that can cost.

    `supplier_holds` are what the candidates may take of their providers' daily limits.
    """

    request: OfferRequest
    selection: Selection
    prompt: prompts.Prompt
    prompt_tokens: int
    max_output: int
    max_cost_micros: int
    supplier_holds: tuple[SupplierHold, ...]


def make_offer(request: OfferRequest) -> Offer:
    """Return who may answer and what that can cost; raises what `choose`, `filter_capable` and `build_prompt` do."""
    profile, asked = request.profile, request.asked
    selection = choose(
        request.model,
        request.entitlements,
        profile,
        unavailable=unavailable_models(),
        stopped=spending.stopped_providers(),
        only_free=request.only_free,
        only=request.only,
    )
    if asked is None:
        candidates = prompts.filter_capable(selection.candidates, request.files)
    else:
        candidates = prompts.filter_seeing(selection.candidates, asked)
    max_output = min(profile.answer_tokens, *(candidate.model.max_output for candidate in candidates))
    models = [candidate.model for candidate in candidates]
    if asked is None:
        prompt = prompts.build_prompt(
            models,
            tree.path_to_root(request.parent),
            profile.question,
            request.files,
            max_output=max_output,
            instructions=request.instructions,
        )
    else:
        prompt = prompts.prompt_as_asked(models, asked, max_output=max_output)
    tokens = prompt.tokens()
    return Offer(
        request=request,
        selection=replace(selection, candidates=candidates),
        prompt=prompt,
        prompt_tokens=tokens,
        max_output=max_output,
        max_cost_micros=max(
            max_cost(candidate.model, input_tokens=tokens, output_tokens=max_output) for candidate in candidates
        ),
        supplier_holds=spending.supplier_holds_for(candidates, input_tokens=tokens, output_tokens=max_output),
    )


def make_cheaper_offer(offer: Offer, left_micros: int | None) -> Offer | None:
    """Return an offer for the same question that costs less, for what is left of the allowance.

    None when there is none, or when nobody may choose another model: one was named.
    """
    if offer.selection.route is None:
        return None
    affordable = offer.max_cost_micros - 1
    if left_micros is not None:
        affordable = min(left_micros, affordable)
    profile = replace(offer.request.profile, tokens=offer.prompt_tokens, left_micros=affordable)
    cheaper = make_offer(replace(offer.request, profile=profile))
    return cheaper if cheaper.max_cost_micros < offer.max_cost_micros else None


def make_other_offer(request: OfferRequest) -> Offer | None:
    """Return the offer of another model than the one that was named, which the allowance pays for by the same
    estimate; None when there is none. Raises what `make_offer` does."""
    other = find_other(
        request.model,
        request.entitlements,
        request.profile,
        unavailable=unavailable_models(),
        stopped=spending.stopped_providers(),
        only_free=request.only_free,
    )
    return make_offer(replace(request, model=other.model.key)) if other else None


def profile_question(
    text: str, files: Sequence[Attached], parent: Turn | None, budget: Budget, *, instructions: str = ""
) -> QuestionProfile:
    """Return what matters of a question for who may answer it."""
    text_tokens = estimate_tokens((prompts.add_instructions(prompts.INSTRUCTIONS, instructions), text))
    return QuestionProfile(
        question=text,
        min_tokens=text_tokens + prompts.min_file_tokens(files),
        tokens=text_tokens + prompts.max_file_tokens(files) + _conversation_tokens(parent),
        answer_tokens=min(budget.entitlements.answer_tokens, settings.MAX_TOKENS),
        last_model=parent.model if parent else "",
        has_images=any(file.kind == "image" for file in files),
        has_pdfs=any(file.kind == "pdf" for file in files),
        has_scans=any(map(prompts.is_scan, files)),
        left_micros=budget.left_micros,
    )


def profile_asked(asked: Asked, budget: Budget, *, max_output: int | None) -> QuestionProfile:
    """Return the same of what a program asks, which wants an answer of `max_output` tokens at most."""
    tokens = prompts.Prompt(asked.messages, 0, prompts.asked_file_tokens((), asked), asked.options.texts).tokens()
    allowed = min(budget.entitlements.answer_tokens, settings.MAX_TOKENS)
    return QuestionProfile(
        question=asked.question,
        min_tokens=tokens,
        tokens=tokens,
        answer_tokens=allowed if max_output is None else min(allowed, max_output),
        has_images=asked.has_images,
        left_micros=budget.left_micros,
    )


def selection_fields(requested: str, selection: Selection) -> dict[str, str]:
    """Return the fields of a turn that say what was chosen. With no name and only one model, nobody chose."""
    is_plain = selection.route is None or (selection.route == Route.ONLY_ONE and not requested)
    return {
        "requested_model": requested or (selection.candidates[0].model.key if is_plain else AUTO),
        "candidates": encode_candidates(selection.candidates),
        "route": "" if is_plain or selection.route is None else selection.route.value,
    }


def _conversation_tokens(parent: Turn | None) -> int:
    """Return how long the conversation is, by the careful estimate.

    The turn before knows how many tokens it used. One that failed or came from the cache used none: then the texts are
    added up.
    """
    if parent is None:
        return 0
    if parent.input_tokens:
        used = parent.input_tokens + parent.output_tokens - parent.reasoning_tokens
        return used * SETTLE_BYTES_PER_TOKEN // RESERVE_BYTES_PER_TOKEN
    return estimate_tokens(text for turn in tree.path_to_root(parent) for text in (turn.question, turn.answer))
