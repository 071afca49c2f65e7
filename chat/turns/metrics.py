"""What is counted of turns, once each: nothing here is called for a token."""

from prometheus_client import Counter, Gauge, Histogram

from history.models import Turn
from history.progress import Outcome

RUNNING = Gauge("tertulia_turns_running", "Turns that this runner has in hand.")
ENDED = Counter(
    "tertulia_turns_ended",
    "Turns that this process has closed, by model, outcome, and the code of their error.",
    ["model", "outcome", "code"],
)
FIRST_TOKEN = Histogram(
    "tertulia_first_token_seconds",
    "From a question to the first word of its answer, as its person waits for it.",
    ["model"],
    buckets=(0.1, 0.25, 0.5, 1, 1.5, 2, 3, 5, 8, 13, 20, 30, 60, 120),
)
TOKENS = Counter("tertulia_tokens", "Tokens that were counted for answers.", ["model", "kind"])
COST = Counter("tertulia_cost_micros", "What answers cost their people, in micro-US-dollars.", ["model"])

KINDS = {
    "input": "input_tokens",
    "output": "output_tokens",
    "reasoning": "reasoning_tokens",
    "cache_read": "cache_read_tokens",
    "cache_write": "cache_write_tokens",
}


def count_end(turn: Turn, outcome: Outcome) -> None:
    """Count a turn that was closed with this outcome."""
    model = outcome.model
    ENDED.labels(model, outcome.status, outcome.error).inc()
    if outcome.first_token_at is not None and turn.created_at is not None:
        FIRST_TOKEN.labels(model).observe(max(0.0, (outcome.first_token_at - turn.created_at).total_seconds()))
    if outcome.is_from_cache or outcome.cost_micros is None:
        return
    COST.labels(model).inc(max(0.0, outcome.cost_micros))
    for kind, field in KINDS.items():
        if tokens := getattr(outcome, field):
            TOKENS.labels(model, kind).inc(max(0, tokens))
