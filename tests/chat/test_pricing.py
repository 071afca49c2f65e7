"""What an answer costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.metering import Usage
from chat.llm.pricing import SETTLE_BYTES_PER_TOKEN, cost_of, estimate_tokens, most_it_can_cost, question_room
from chat.models import LanguageModel

prices = st.none() | st.integers(0, 100_000_000)
tokens = st.integers(0, 1_000_000)


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
    assert most_it_can_cost(free, input_tokens=1_000_000, output_tokens=1_000_000) == 0


def test_the_most_it_can_cost_assumes_the_dearest_input():
    assert most_it_can_cost(model(), input_tokens=100, output_tokens=10) == 120
    assert most_it_can_cost(model(cache_write_price=3_000_000), input_tokens=100, output_tokens=10) == 320


def test_providers_with_shorter_tokens_are_reserved_more_and_sent_less():
    claude, luna = model(), model()
    claude.provider, luna.provider = "anthropic", "openai"
    claude.context_window = luna.context_window = 10_000
    assert most_it_can_cost(luna, input_tokens=100, output_tokens=10) == 120
    assert most_it_can_cost(claude, input_tokens=100, output_tokens=10) == 155
    assert question_room(luna, 1_000) == 9_000
    assert question_room(claude, 1_000) == 6_666


@given(prices, prices, prices, prices, tokens, tokens, st.data())
def test_no_cost_within_the_promise_exceeds_the_reservation(
    input_price: int | None,
    output_price: int | None,
    read_price: int | None,
    write_price: int | None,
    read: int,
    written: int,
    data: st.DataObject,
):
    """As long as reading from the cache is not dearer than not having one."""
    ceiling = max(input_price or 0, write_price or 0)
    priced = model(
        input_price=input_price,
        output_price=output_price,
        cache_read_price=None if read_price is None else min(read_price, ceiling),
        cache_write_price=write_price,
    )
    cached = data.draw(st.integers(0, read))
    usage = Usage(input=read, output=written, cache_read=cached, cache_write=data.draw(st.integers(0, read - cached)))
    assert 0 <= cost_of(priced, usage) <= most_it_can_cost(priced, input_tokens=read, output_tokens=written)


@pytest.mark.parametrize(("text", "tokens"), [("", 8), ("a", 9), ("abc", 9), ("abcd", 10), ("ñandú", 11), ("你好", 10)])
def test_the_careful_estimate_counts_bytes(text: str, tokens: int):
    assert estimate_tokens([text]) == tokens


def test_the_charged_estimate_is_lower_and_adds_up():
    assert estimate_tokens(["x" * 120], bytes_per_token=SETTLE_BYTES_PER_TOKEN) == 38
    assert estimate_tokens(["x" * 120]) == 48
    assert estimate_tokens(["abc", "abc"]) == 18
    assert estimate_tokens([]) == 0
