"""Costs worked out by hand from what providers publish, and the same by the package that publishes it.

Dollars a million tokens are micro-dollars a token, so the sums need no factors. The published prices, as reviewed on
2026-11-24 (input / output / cache read / cache write):

    gpt-6-luna             0.10 / 0.50 / 0.01 / 0.125      above 272,000:  0.20 / 0.75 / 0.02 / 0.25
    gpt-6.1-terra          1 / 5 / 0.05 / 1.25             above 272,000:  2 / 7.50 / 0.10 / 2.50
    gpt-6.1-sol            2 / 10 / 0.10 / 2.50            above 272,000:  4 / 15 / 0.20 / 5
    claude-haiku-5-5       0.10 / 0.50 / 0.01 / 0.125      above 100,000:  0.50 / 2.50 / 0.05 / 0.625
    claude-sonnet-5-5      2 / 10 / 0.10 / 2.50
    claude-opus-5-5        4 / 20 / 0.20 / 5
    gemini-3.5-flash-lite  0.30 / 2.50 / 0.03
    gemini-3.8-flash       0.75 / 3.75 / 0.075             from 2027-01-01:  1.50 / 7.50 / 0.15
    gemini-4-argon         2 / 10 / 0.10                   from 2026-12-01:  4 / 20 / 0.20
    deepseek-flash         0.15 / 0.60 / 0.003             01:00 to 04:00 and 06:00 to 10:00 UTC:  0.30 / 1.20 / 0.006

The tier is chosen by the whole input, what came from a cache included, and holds for the whole answer. What was thought
is output; an image and a page of a PDF are as many tokens of input as the provider counts.
"""

import datetime as dt
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import pytest

from billing.metering import Usage
from chat.llm import price_list
from chat.llm.pricing import compute_cost, cost_of, price_of
from chat.models import LanguageModel
from chat.provider_registry import genai_prices_id_of

NOON = "2026-11-24T12:00:00"
NIGHT = "2026-11-24T02:00:00"
DECEMBER = "2026-12-01T00:00:00"
JANUARY = "2027-01-01T00:00:00"


@dataclass(frozen=True)
class Case:
    """`of` is input (all of it), of it read from and written to a cache, and output. `micros` is `sum`, rounded up."""

    model: str
    of: tuple[int, int, int, int]
    sum: str
    micros: int
    markup: int = 0
    at: str = NOON


CASES = {
    # --- OpenAI
    "a short question": Case("gpt-6-luna", (1_200, 0, 0, 300), "1200*0.10 + 300*0.50", 270),
    "one token": Case("gpt-6-luna", (1, 0, 0, 0), "1*0.10", 1),
    "cached": Case("gpt-6-luna", (10_000, 8_000, 0, 500), "2000*0.10 + 8000*0.01 + 500*0.50", 530),
    "written to the cache": Case("gpt-6-luna", (5_000, 0, 4_000, 100), "1000*0.10 + 4000*0.125 + 100*0.50", 650),
    "2,000 of the output thought": Case("gpt-6-luna", (800, 0, 0, 2_500), "800*0.10 + (500 + 2000)*0.50", 1_330),
    "as long as the first tier": Case("gpt-6-luna", (272_000, 0, 0, 1_000), "272000*0.10 + 1000*0.50", 27_700),
    "one token longer": Case("gpt-6-luna", (272_001, 0, 0, 1_000), "272001*0.20 + 1000*0.75", 55_151),
    "the second tier, cached": Case(
        "gpt-6-luna",
        (300_000, 250_000, 40_000, 2_000),
        "10000*0.20 + 250000*0.02 + 40000*0.25 + 2000*0.75",
        18_500,
    ),
    "a model in the middle": Case("gpt-6.1-terra", (3_333, 0, 0, 777), "3333*1 + 777*5", 7_218),
    "an image of 1,105 tokens": Case("gpt-6.1-terra", (1_255, 0, 0, 420), "(150 + 1105)*1 + 420*5", 3_355),
    "most of it cached": Case("gpt-6.1-terra", (50_000, 48_000, 0, 900), "2000*1 + 48000*0.05 + 900*5", 8_900),
    "long, and 6,000 thought": Case("gpt-6.1-sol", (400_000, 0, 0, 8_192), "400000*4 + (2192 + 6000)*15", 1_722_880),
    "a fifth more": Case("gpt-6.1-sol", (1_000, 0, 0, 1_000), "(1000*2 + 1000*10) * 1.20", 14_400, markup=20),
    "all kinds, and 15 % more": Case(
        "gpt-6.1-sol",
        (20_001, 15_000, 5_000, 333),
        "(1*2 + 15000*0.10 + 5000*2.50 + 333*10) * 1.15",
        19_932,
        markup=15,
    ),
    "rounded after the markup, not before": Case("gpt-6-luna", (11, 0, 0, 0), "11*0.10 * 1.50", 2, markup=50),
    # --- Anthropic
    "Haiku": Case("claude-haiku-5-5", (2_000, 0, 0, 400), "2000*0.10 + 400*0.50", 400),
    "Haiku's first tier": Case("claude-haiku-5-5", (100_000, 0, 0, 1_000), "100000*0.10 + 1000*0.50", 10_500),
    "Haiku's second": Case("claude-haiku-5-5", (100_001, 0, 0, 1_000), "100001*0.50 + 1000*2.50", 52_501),
    "Haiku's second, cached": Case(
        "claude-haiku-5-5",
        (120_000, 110_000, 5_000, 700),
        "5000*0.50 + 110000*0.05 + 5000*0.625 + 700*2.50",
        12_875,
    ),
    "an image of 1,334 tokens": Case("claude-sonnet-5-5", (1_400, 0, 0, 250), "(66 + 1334)*2 + 250*10", 5_300),
    "a PDF of five pages": Case("claude-sonnet-5-5", (12_540, 0, 0, 600), "(40 + 5*2500)*2 + 600*10", 31_080),
    "a prefix read and grown": Case(
        "claude-sonnet-5-5",
        (30_000, 28_000, 1_500, 1_200),
        "500*2 + 28000*0.10 + 1500*2.50 + 1200*10",
        19_550,
    ),
    "10,000 thought": Case("claude-opus-5-5", (5_000, 0, 0, 12_000), "5000*4 + (2000 + 10000)*20", 260_000),
    "long, without tiers": Case("claude-opus-5-5", (900_000, 0, 0, 100), "900000*4 + 100*20", 3_602_000),
    "twice as much": Case("claude-opus-5-5", (7, 0, 0, 3), "(7*4 + 3*20) * 2", 176, markup=100),
    # --- Google
    "Flash-Lite": Case("gemini-3.5-flash-lite", (1_001, 0, 0, 33), "1001*0.30 + 33*2.50", 383),
    "Flash-Lite, cached": Case(
        "gemini-3.5-flash-lite", (60_000, 59_000, 0, 10), "1000*0.30 + 59000*0.03 + 10*2.50", 2_095
    ),
    "an image of six tiles": Case("gemini-3.8-flash", (1_648, 0, 0, 512), "(100 + 6*258)*0.75 + 512*3.75", 3_156),
    "the same next year": Case(
        "gemini-3.8-flash", (1_648, 0, 0, 512), "(100 + 6*258)*1.50 + 512*7.50", 6_312, at=JANUARY
    ),
    "Argon": Case("gemini-4-argon", (10_000, 9_000, 0, 1_000), "1000*2 + 9000*0.10 + 1000*10", 12_900),
    "the same in December": Case(
        "gemini-4-argon", (10_000, 9_000, 0, 1_000), "1000*4 + 9000*0.20 + 1000*20", 25_800, at=DECEMBER
    ),
    # --- DeepSeek
    "in quiet hours": Case("deepseek-flash", (10_000, 0, 0, 1_000), "10000*0.15 + 1000*0.60", 2_100),
    "in busy hours": Case("deepseek-flash", (10_000, 0, 0, 1_000), "10000*0.30 + 1000*1.20", 4_200, at=NIGHT),
    "the last busy second": Case(
        "deepseek-flash",
        (40_001, 40_000, 0, 1),
        "1*0.30 + 40000*0.006 + 1*1.20",
        242,
        at="2026-11-24T09:59:59",
    ),
    "the first quiet one": Case(
        "deepseek-flash",
        (40_001, 40_000, 0, 1),
        "1*0.15 + 40000*0.003 + 1*0.60",
        121,
        at="2026-11-24T10:00:00",
    ),
}
PROVIDERS = {"gpt": "openai", "claude": "anthropic", "gemini": "gemini", "deepseek": "deepseek"}


def model_of(case: Case, **fields: object) -> LanguageModel:
    """Return the model as a new installation has it."""
    provider = PROVIDERS[case.model.split("-")[0]]
    [listed] = price_list.read_list_prices([(provider, case.model)])
    return LanguageModel(
        key=case.model,
        provider=provider,
        list_price={**(listed or {}), "as_of": "2026-11-24"},
        markup_percent=case.markup,
        **fields,
    )


def usage_of(case: Case) -> Usage:
    whole, read, written, output = case.of
    return Usage(input=whole, output=output, cache_read=read, cache_write=written)


def moment_of(case: Case) -> dt.datetime:
    return dt.datetime.fromisoformat(case.at).replace(tzinfo=dt.UTC)


def worked_out(sum_: str) -> Fraction:
    """Return what a sum of the table comes to, exactly."""
    exact = [f"Fraction('{part}')" if part[0].isdigit() else part for part in tokens_of(sum_)]
    return Fraction(eval("".join(exact), {"__builtins__": {}, "Fraction": Fraction}))


def tokens_of(sum_: str) -> list[str]:
    for sign in "()+*":
        sum_ = sum_.replace(sign, f" {sign} ")
    return sum_.split()


def test_there_are_thirty_of_every_kind():
    assert len(CASES) >= 30
    assert {case.model.split("-")[0] for case in CASES.values()} == set(PROVIDERS)


@pytest.mark.parametrize("name", CASES)
def test_a_cost_worked_out_by_hand_is_ours(name: str):
    case = CASES[name]
    assert ceil(worked_out(case.sum)) == case.micros, "the table itself"
    assert cost_of(model_of(case), usage_of(case), moment_of(case)) == case.micros


@pytest.mark.parametrize("name", CASES)
def test_the_package_that_publishes_prices_agrees(name: str):
    import genai_prices

    case = CASES[name]
    whole, read, written, output = case.of
    usage = genai_prices.Usage(
        input_tokens=whole, cache_read_tokens=read, cache_write_tokens=written, output_tokens=output
    )
    theirs = genai_prices.calc_price(
        usage,
        case.model,
        provider_id=genai_prices_id_of(model_of(case).provider),
        genai_request_timestamp=moment_of(case),
    )
    exact = Fraction(theirs.total_price) * 1_000_000
    assert ceil(exact * (100 + case.markup) / 100) == case.micros
    stamp = compute_cost(price_of(model_of(case), moment_of(case)), usage_of(case)).stamp
    assert stamp.provider_micros == ceil(exact)


def test_the_operators_price_counts_for_itself_alone():
    """1000*3 + 100*0.50: the input is the operator's, the output the list's."""
    own = model_of(CASES["a short question"], input_price=3_000_000)
    assert cost_of(own, Usage(input=1_000, output=100)) == 3_050
    assert price_of(own).as_of == "2026-11-24"


def test_the_operators_price_holds_at_any_length():
    """300000*3 + 1000*0.75: the input has no tiers any more, the output is the second tier's."""
    own = model_of(CASES["a short question"], input_price=3_000_000)
    assert cost_of(own, Usage(input=300_000, output=1_000)) == 900_750


def test_prices_that_are_all_the_operators_have_no_date():
    prices = {"input_price": 1, "output_price": 1, "cache_read_price": 1, "cache_write_price": 1}
    assert price_of(model_of(CASES["a short question"], **prices)).as_of == ""
