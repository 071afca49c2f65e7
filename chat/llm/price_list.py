"""The prices that providers publish, from the package `genai-prices`.

Importing the package takes half a second and 25 MB, so that no process that serves people does. Commands import it; the
admin runs this module as a program, which reads a list of (provider, model) as JSON and writes a list of their prices.
"""

import datetime as dt
import json
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from chat.provider_registry import genai_prices_id_of

if TYPE_CHECKING:
    from genai_prices.types import ConditionalPrice, ModelPrice, TieredPrices

PRICE_FIELDS = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cache_read": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
}
MICROS = 1_000_000
TIMEOUT_SECONDS = 60

ListPrice = dict[str, Any]
"""`{"input": [[0, 2000000], [272000, 4000000]], "output": …, "cache_read": …, "cache_write": …, "later": […]}`.

Each pair is a number of input tokens and the micro-US-dollars a million tokens that hold above it, for the whole
request. A missing cache price is the input price. `later` are prices of the same shape that replace these `from` a
day on, or `between` two hours (UTC); the last that holds counts.
"""


def read_list_prices(models: Sequence[tuple[str, str]]) -> list[ListPrice | None]:
    """Return what each of the models, (provider, provider's id), costs; None where that is unknown."""
    from genai_prices.data_snapshot import get_snapshot

    snapshot = {provider.id: provider for provider in get_snapshot().providers}
    models_found = [
        snapshot[provider_id].find_model(name) if (provider_id := genai_prices_id_of(slug)) else None
        for slug, name in models
    ]
    return [_list_price(model.prices) if model else None for model in models_found]


def read_list_prices_in_subprocess(models: Sequence[tuple[str, str]]) -> list[ListPrice | None]:
    """Return the same, read by another process. Raises CalledProcessError or TimeoutExpired."""
    command = [sys.executable, "-m", "chat.llm.price_list"]
    finished = subprocess.run(  # noqa: S603  a command of ours
        command, input=json.dumps(models), capture_output=True, text=True, check=True, timeout=TIMEOUT_SECONDS
    )
    prices: list[ListPrice | None] = json.loads(finished.stdout)
    return prices


def _list_price(prices: "ModelPrice | list[ConditionalPrice]") -> ListPrice | None:
    if not isinstance(prices, list):
        return _rates(prices)
    first, *later = prices
    listed = [_rates(one.prices) for one in prices]
    if None in listed:
        return None
    base: ListPrice = {**(listed[0] or {})}
    if later:
        base["later"] = [
            {**_condition(one.constraint), **(rates or {})} for one, rates in zip(later, listed[1:], strict=True)
        ]
    return base


def _condition(constraint: Any) -> dict[str, Any]:
    """Return when prices hold, as a list price says it."""
    if constraint is None:
        return {}
    if hasattr(constraint, "start_date"):
        return {"from": constraint.start_date.isoformat()}
    return {"between": [_utc(constraint.start_time), _utc(constraint.end_time)]}


def _utc(hour: dt.time) -> str:
    aware = hour if hour.tzinfo else hour.replace(tzinfo=dt.UTC)
    return dt.datetime.combine(dt.date(1970, 1, 1), aware).astimezone(dt.UTC).time().isoformat("seconds")


def _rates(prices: "ModelPrice") -> ListPrice | None:
    """Return the prices of text; None where that of input or of output is unknown or zero."""
    named = {name: getattr(prices, key) for name, key in PRICE_FIELDS.items()}
    rates = {name: _steps(price) for name, price in named.items() if price is not None}
    is_known = all(name in rates and all(rate > 0 for _above, rate in rates[name]) for name in ("input", "output"))
    return rates if is_known else None


def _steps(price: "Decimal | TieredPrices") -> list[list[int]]:
    if isinstance(price, Decimal):
        return [[0, _micros(price)]]
    return [[0, _micros(price.base)], *([tier.start, _micros(tier.price)] for tier in price.tiers)]


def _micros(dollars: Decimal) -> int:
    """Return a price in micros, rounded up: no provider has finer prices."""
    return int(-(-dollars * MICROS // 1))


if __name__ == "__main__":
    json.dump(read_list_prices([(provider, name) for provider, name in json.load(sys.stdin)]), sys.stdout)
