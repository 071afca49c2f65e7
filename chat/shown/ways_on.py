"""What a person may do instead of a question that was refused, as HTML: buttons and links under the reason."""

import math

from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from billing.entitlements import credits_of
from chat.turns.offer import Offer
from chat.turns.opening import Question, find_other_offer
from core.errors import STORES_AWAY

CODES_WITH_WAYS_ON = frozenset(
    (
        *("allowance_used_up", "not_in_plan", "unknown_model", "spend_limit", "email_unconfirmed"),
        "comparison_not_in_plan",
        *("context_exceeded", "no_vision", "no_pdf_text"),
    )
)
"""The codes of refusals that another model may lift, or what a link leads to."""


def ways_on_html(owner_id: int, question: Question, code: str) -> SafeString:
    """Return the ways on from a refusal, in the active language; empty where there is none."""
    may_help = code in CODES_WITH_WAYS_ON and question.beside_id is None
    offer = _find_other_offer(owner_id, question) if may_help else None
    credits = math.ceil(credits_of(offer.max_cost_micros) * 10) / 10 if offer else 0.0
    context = {
        "code": code,
        "model": offer.selection.candidates[0].model if offer else None,
        "credits": credits,
        "plural": 1 if credits == 1 else 2,
    }
    return render_to_string("chat/_ways_on.html", context)


def _find_other_offer(owner_id: int, question: Question) -> Offer | None:
    try:
        return find_other_offer(owner_id, question)
    except STORES_AWAY:  # the reason is told all the same
        return None
