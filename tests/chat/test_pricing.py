"""What an answer costs."""

import datetime as dt
import os
import subprocess
import sys
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.metering import Usage
from chat.llm import price_list
from chat.llm.pricing import (
    SETTLE_BYTES_PER_TOKEN,
    compute_cost,
    cost_of,
    estimate_tokens,
    max_cost,
    max_provider_cost,
    price_of,
    question_room,
    rates_with_markup,
    read_price,
    read_stamp,
    write_price,
    write_stamp,
)
from chat.models import PRICE_KINDS, LanguageModel
from chat.provider_registry import token_factor_of

prices = st.none() | st.integers(0, 100_000_000)
tokens = st.integers(0, 1_000_000)
BEGIN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def model(**fields: int | None) -> LanguageModel:
    return LanguageModel(**({"input_price": 1_000_000, "output_price": 2_000_000} | fields))


def test_input_and_output_have_their_own_price():
    assert cost_of(model(), Usage(input=10, output=20)) == 10 + 40


def test_a_fraction_of_a_micro_is_rounded_up_once():
    assert cost_of(model(input_price=1, output_price=1), Usage(input=1, output=1)) == 1
    assert cost_of(model(input_price=500_000, output_price=500_000), Usage(input=1, output=1)) == 1
    assert cost_of(model(input_price=500_000, output_price=500_001), Usage(input=1, output=1)) == 2


def test_cached_tokens_are_part_of_the_input():
    priced = model(cache_read_price=100_000, cache_write_price=1_250_000)
    assert cost_of(priced, Usage(input=100, output=0, cache_read=40, cache_write=20)) == 40 + 4 + 25


def test_a_cache_price_that_is_unknown_is_the_input_price():
    assert cost_of(model(), Usage(input=100, output=0, cache_read=40, cache_write=20)) == 100


def test_a_cache_price_of_zero_is_zero():
    free_reads = model(cache_read_price=0)
    assert cost_of(free_reads, Usage(input=100, output=0, cache_read=100)) == 0


def test_a_provider_that_counts_more_cached_than_input_cannot_make_it_cheaper():
    assert cost_of(model(cache_read_price=0), Usage(input=10, output=5, cache_read=50)) == 10


def test_a_free_model_costs_nothing():
    free = model(input_price=0, output_price=0)
    assert cost_of(free, Usage(input=1_000_000, output=1_000_000)) == 0
    assert max_cost(free, input_tokens=1_000_000, output_tokens=1_000_000) == 0


def test_the_most_it_can_cost_assumes_the_dearest_input():
    assert max_cost(model(), input_tokens=100, output_tokens=10) == 120
    assert max_cost(model(cache_write_price=3_000_000), input_tokens=100, output_tokens=10) == 320


def test_providers_with_shorter_tokens_are_reserved_more_and_sent_less():
    claude, luna = model(), model()
    claude.provider, luna.provider = "anthropic", "openai"
    claude.context_window = luna.context_window = 10_000
    assert max_cost(luna, input_tokens=100, output_tokens=10) == 120
    assert max_cost(claude, input_tokens=100, output_tokens=10) == 155
    assert question_room(luna, 1_000) == 9_000
    assert question_room(claude, 1_000) == 6_666


@st.composite
def list_prices(draw: st.DrawFn) -> dict[str, Any]:
    """Any list price with tiers, hours and days; the tiers may get cheaper, and begin elsewhere for each kind."""
    rates = st.integers(1, 50_000_000)

    def listed() -> dict[str, Any]:
        names = ["input", "output", *draw(st.sets(st.sampled_from(["cache_read", "cache_write"])))]
        return {
            name: [
                [0, draw(rates)],
                *([above, draw(rates)] for above in sorted(draw(st.sets(st.integers(1, 900_000), max_size=3)))),
            ]
            for name in names
        }

    hours = st.times().map(lambda hour: hour.isoformat("seconds"))
    conditions = st.one_of(
        st.fixed_dictionaries({"from": st.dates(dt.date(2026, 1, 1), dt.date(2027, 1, 1)).map(dt.date.isoformat)}),
        st.fixed_dictionaries({"between": st.tuples(hours, hours).map(list)}),
    )
    later = [{**draw(conditions), **listed()} for _ in range(draw(st.integers(0, 3)))]
    return {**listed(), "later": later, "as_of": "2026-11-24"}


@given(
    st.none() | list_prices(),
    st.fixed_dictionaries({f"{name}_price": prices for name in PRICE_KINDS}),
    st.integers(0, 1_000),
    st.sampled_from(["openai", "anthropic", "deepseek"]),
    tokens,
    tokens,
    st.integers(0, 500 * 24 * 3600).map(lambda seconds: BEGIN + dt.timedelta(seconds=seconds)),
    st.data(),
)
def test_no_cost_within_the_promise_exceeds_the_reservation(
    listed: dict[str, Any] | None,
    own: dict[str, int | None],
    markup: int,
    provider: str,
    promised: int,
    written: int,
    moment: dt.datetime,
    data: st.DataObject,
):
    """Whichever tier the input falls into, however much of it is cached."""
    priced = LanguageModel(list_price=listed, markup_percent=markup, provider=provider, **own)
    read = data.draw(st.integers(0, ceil(promised * token_factor_of(provider))))
    cached = data.draw(st.integers(0, read))
    usage = Usage(
        input=read,
        output=data.draw(st.integers(0, written)),
        cache_read=cached,
        cache_write=data.draw(st.integers(0, read - cached)),
    )
    most = {"input_tokens": promised, "output_tokens": written, "moment": moment}
    reckoning = compute_cost(price_of(priced, moment), usage)
    assert 0 <= reckoning.cost_micros <= max_cost(priced, **most)
    assert 0 <= reckoning.stamp.provider_micros <= max_provider_cost(priced, **most)
    assert reckoning.stamp.provider_micros <= reckoning.cost_micros
    assert compute_cost(read_price(write_price(price_of(priced, moment))), usage) == reckoning
    assert read_stamp(write_stamp(reckoning.stamp)) == reckoning.stamp


def test_a_cheaper_tier_does_not_lower_the_promise():
    """A prompt that turns out just short of the border costs more than one that reaches it."""
    listed = {"input": [[0, 9_000_000], [100, 1_000_000]], "output": [[0, 1]]}
    assert max_cost(LanguageModel(list_price=listed), input_tokens=200, output_tokens=0) == 900


def test_the_markup_is_added_before_rounding_up():
    assert cost_of(model(input_price=100_000, markup_percent=50), Usage(input=11, output=0)) == 2
    assert cost_of(model(markup_percent=20), Usage(input=10, output=20)) == 60
    assert [rates.input for rates in rates_with_markup(model(markup_percent=20))] == [1_200_000]


def test_hours_around_midnight():
    listed = {
        "input": [[0, 1]],
        "output": [[0, 1]],
        "later": [{"between": ["23:00:00", "01:00:00"], "input": [[0, 2]]}],
    }
    found = [
        price_of(LanguageModel(list_price=listed), dt.datetime(2026, 1, 1, hour, tzinfo=dt.UTC)).tiers[0].input
        for hour in (22, 23, 0, 1)
    ]
    assert found == [1, 2, 2, 1]


def test_the_package_of_prices_is_not_imported_by_those_who_answer():
    """It takes 25 MB and half a second. The site, a runner and the worker import what this imports."""
    code = (
        "import django, sys; django.setup();"
        "import config.asgi, config.celery, chat.tasks, chat.admin, chat.turns.runner;"
        "sys.exit('genai_prices' in sys.modules)"
    )
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "config.settings_test"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=120).returncode == 0


def test_what_nobody_publishes_is_unknown_and_never_nothing():
    asked = [("openai", "gpt-6.2-sol"), ("openai", "no-such"), ("compatible", "gpt-6-luna"), ("demo", "smollm2")]
    assert price_list.read_list_prices(asked) == [None] * 4
    assert not LanguageModel(provider="openai").is_priced


def test_another_process_reads_the_same():
    asked = [("openai", "gpt-6-luna"), ("openai", "no-such"), ("deepseek", "deepseek-flash")]
    assert price_list.read_list_prices_in_subprocess(asked) == price_list.read_list_prices(asked)


@pytest.mark.parametrize(("text", "tokens"), [("", 8), ("a", 9), ("abc", 9), ("abcd", 10), ("ñandú", 11), ("你好", 10)])
def test_the_careful_estimate_counts_bytes(text: str, tokens: int):
    assert estimate_tokens([text]) == tokens


def test_the_charged_estimate_is_lower_and_adds_up():
    assert estimate_tokens(["x" * 120], bytes_per_token=SETTLE_BYTES_PER_TOKEN) == 38
    assert estimate_tokens(["x" * 120]) == 48
    assert estimate_tokens(["abc", "abc"]) == 18
    assert estimate_tokens([]) == 0
