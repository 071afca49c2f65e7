"""What an answer costs, and about how many tokens a text is. Integers only: micro-US-dollars, rounded up once."""

import datetime as dt
from collections.abc import Iterable
from math import ceil
from typing import Annotated, Any

import msgspec
from django.utils import timezone

from billing.metering import Usage
from chat.llm.providers.base import TokenUsage
from chat.models import PRICE_KINDS, LanguageModel
from chat.provider_registry import token_factor_of

RESERVE_BYTES_PER_TOKEN = 3
"""The careful estimate, for what may not be exceeded: too high for English and Spanish, and safe for code."""
SETTLE_BYTES_PER_TOKEN = 4
"""The usual average, for what is charged when the provider reported nothing: stopping an answer is no penalty."""
TOKENS_PER_MESSAGE = 8
TOKENS_PER_MILLION = 1_000_000


class Rates(msgspec.Struct, frozen=True):
    """Micro-US-dollars a million tokens, for an answer whose input has more than `above` tokens."""

    above: int
    input: int
    output: int
    cache_read: int
    cache_write: int


class ModelPrice(msgspec.Struct, frozen=True):
    """What a model costs at one moment: its rates, those of the shortest input first, and the markup.

    `as_of` is the day its list price was read, empty where the operator's own prices hold.
    """

    tiers: tuple[Rates, ...]
    markup_percent: int = 0
    as_of: str = ""

    def rates_for(self, input_tokens: int) -> Rates:
        return next((rates for rates in reversed(self.tiers) if input_tokens > rates.above), self.tiers[0])


class Stamp(msgspec.Struct, frozen=True):
    """How a cost was computed, as a turn stores it: the rates that held, the markup, and what the provider charges."""

    input: int
    output: int
    cache_read: int
    cache_write: int
    above: int
    markup_percent: int
    as_of: str
    provider_micros: Annotated[int, msgspec.Meta(ge=0, le=10**15)]  # as much as a turn may cost


class Cost(msgspec.Struct, frozen=True):
    """What an answer costs: `cost_micros` is charged, with the markup; `stamp` says how it was computed."""

    cost_micros: int
    stamp: Stamp


def estimate_tokens(texts: Iterable[str], *, bytes_per_token: int = RESERVE_BYTES_PER_TOKEN) -> int:
    """Return about how many tokens a list of messages is. A tokenizer would take 130 µs instead of 1, and 150 MB."""
    return sum(ceil(len(text.encode()) / bytes_per_token) + TOKENS_PER_MESSAGE for text in texts)


def question_room(model: LanguageModel, max_output: int) -> int:
    """Return how many tokens, by the careful estimate, may be sent beside an answer of `max_output`."""
    return int((model.context_window - max_output) / token_factor_of(model.provider))


def price_of(model: LanguageModel, moment: dt.datetime | None = None) -> ModelPrice:
    """Return what a model costs at a moment, by default now.

    Each price of the operator's comes before the one of the list. An unknown cache price is the input price.
    """
    list_price: dict[str, Any] = model.list_price or {}
    listed = _in_force(list_price, moment)
    own = {name: getattr(model, f"{name}_price") for name in PRICE_KINDS}
    steps = {name: listed.get(name, ()) if price is None else ((0, price),) for name, price in own.items()}
    thresholds = {above for pairs in steps.values() for above, _rate in pairs} | {0}
    is_listed = any(price is None and name in listed for name, price in own.items())
    return ModelPrice(
        tuple(_rates_above(above, steps) for above in sorted(thresholds)),
        model.markup_percent,
        list_price.get("as_of", "") if is_listed else "",
    )


def rates_with_markup(model: LanguageModel, moment: dt.datetime | None = None) -> tuple[Rates, ...]:
    """Return what people pay for a million tokens, with the markup, each rounded up: for pages that show it."""
    price = price_of(model, moment)
    factor = 100 + price.markup_percent
    return tuple(
        Rates(rates.above, *(_divide_up(getattr(rates, name) * factor, 100) for name in PRICE_KINDS))
        for rates in price.tiers
    )


def compute_cost(price: ModelPrice, usage: Usage) -> Cost:
    """Return the cost of `usage` at `price`. The length of the whole input decides the tier, for all of it."""
    rates = price.rates_for(usage.input)
    provider_total = (
        max(0, usage.input - usage.cache_read - usage.cache_write) * rates.input
        + usage.cache_read * rates.cache_read
        + usage.cache_write * rates.cache_write
        + usage.output * rates.output
    )
    stamp = Stamp(
        input=rates.input,
        output=rates.output,
        cache_read=rates.cache_read,
        cache_write=rates.cache_write,
        above=rates.above,
        markup_percent=price.markup_percent,
        as_of=price.as_of,
        provider_micros=_divide_up(provider_total, TOKENS_PER_MILLION),
    )
    return Cost(_with_markup(provider_total, price.markup_percent), stamp)


def metered_usage(reported: TokenUsage) -> Usage:
    """Return what a provider reported as the ledger counts it: reasoning is output like any other."""
    return Usage(reported.input, reported.output, reported.cache_read, reported.cache_write)


def cost_of(model: LanguageModel, usage: Usage, moment: dt.datetime | None = None) -> int:
    """Return what a person pays for `usage`, in micros."""
    return compute_cost(price_of(model, moment), usage).cost_micros


def max_cost(model: LanguageModel, *, input_tokens: int, output_tokens: int, moment: dt.datetime | None = None) -> int:
    """Return the most that a person may pay, in micros: for the longest answer, with all input of the dearest kind.

    `input_tokens` is the careful estimate.
    """
    return _with_markup(_max_total(model, input_tokens, output_tokens, moment), model.markup_percent)


def max_provider_cost(
    model: LanguageModel, *, input_tokens: int, output_tokens: int, moment: dt.datetime | None = None
) -> int:
    """Return the same without the markup: the most that the provider may charge."""
    return _divide_up(_max_total(model, input_tokens, output_tokens, moment), TOKENS_PER_MILLION)


def write_stamp(stamp: Stamp) -> str:
    return msgspec.json.encode(stamp).decode()


def read_stamp(text: str) -> Stamp | None:
    """Return the stamp of a turn; None for one that has none, or none that can be read: the turn is shown without."""
    try:
        return msgspec.json.decode(text, type=Stamp) if text else None
    except msgspec.MsgspecError:
        return None


def write_price(price: ModelPrice) -> str:
    return msgspec.json.encode(price).decode()


def read_price(text: str) -> ModelPrice:
    return msgspec.json.decode(text, type=ModelPrice)


def _max_total(model: LanguageModel, input_tokens: int, output_tokens: int, moment: dt.datetime | None) -> int:
    """Return the most the provider may charge, in micros times a million, over all tiers the input may fall into."""
    tiers = price_of(model, moment).tiers
    max_input = ceil(input_tokens * token_factor_of(model.provider))
    tier_ends = (*(rates.above for rates in tiers[1:]), max_input)
    return max(
        min(max_input, end) * max(rates.input, rates.cache_read, rates.cache_write) + output_tokens * rates.output
        for rates, end in zip(tiers, tier_ends, strict=True)
        if max_input > rates.above or rates is tiers[0]
    )


def _in_force(listed: dict[str, Any], moment: dt.datetime | None) -> dict[str, Any]:
    """Return the prices that hold at a moment: the last whose first day has come, and whose hours these are."""
    if later := listed.get("later"):
        at = (moment or timezone.now()).astimezone(dt.UTC)
        day, hour = at.date().isoformat(), at.time().isoformat("seconds")
        for prices in reversed(later):
            if day >= prices.get("from", "") and _is_between(hour, *prices.get("between", ("", "~"))):
                in_force: dict[str, Any] = prices
                return in_force
    return listed


def _is_between(hour: str, start: str, end: str) -> bool:
    return start <= hour < end if start <= end else (hour >= start or hour < end)


def _rates_above(above: int, steps: dict[str, Any]) -> Rates:
    rates = {name: [rate for start, rate in pairs if start <= above][-1] for name, pairs in steps.items() if pairs}
    input_rate = rates.get("input", 0)
    return Rates(
        above=above,
        input=input_rate,
        output=rates.get("output", 0),
        cache_read=rates.get("cache_read", input_rate),
        cache_write=rates.get("cache_write", input_rate),
    )


def _with_markup(provider_total: int, markup_percent: int) -> int:
    """Return what a person pays, in micros, for a sum of tokens times rates: the markup, then rounded up once."""
    return _divide_up(provider_total * (100 + markup_percent), 100 * TOKENS_PER_MILLION)


def _divide_up(number: int, divisor: int) -> int:
    return -(-number // divisor)
