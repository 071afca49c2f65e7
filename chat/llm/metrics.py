"""What is counted of the requests that providers get."""

from prometheus_client import Counter, Histogram

ATTEMPTS = Counter(
    "tertulia_attempts",
    "Requests to providers that have ended, by model and by the code of their error; ok for none.",
    ["provider", "model", "result"],
)
FAILOVERS = Counter(
    "tertulia_failovers",
    "Answers of another model than the first, by the first and the code of its error.",
    ["model", "code"],
)
PROVIDER_FIRST = Histogram(
    "tertulia_provider_first_seconds",
    "From a request to the first event of its provider's answer.",
    ["provider", "model"],
    buckets=(0.1, 0.25, 0.5, 1, 1.5, 2, 3, 5, 8, 13, 20, 30, 60, 120),
)
TOKEN_RATE = Histogram(
    "tertulia_token_rate",
    "Tokens a second of answers of some length, after their first token.",
    ["provider", "model"],
    buckets=(5, 10, 20, 30, 40, 60, 80, 120, 160, 240, 400, 800),
)
