"""What an answer took, under it and in the API; and what the next question's page reckons with."""

import datetime as dt
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.utils import translation
from redis.asyncio import Redis

from accounts.models import User
from chat.llm.catalog import find_model
from chat.llm.pricing import Stamp, write_stamp
from chat.models import LanguageModel
from chat.shown.costs import estimates_for
from chat.shown.fragments import turn_html
from chat.turns.runner import Runner
from core.threads import in_thread
from history.models import Turn, new_id
from tests.chat.asking import aask, closed

ASKED = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
STAMP = Stamp(
    input=1, output=2, cache_read=1, cache_write=1, above=0, markup_percent=0, as_of="2026-10-02", provider_micros=1
)


def finished(**fields: Any) -> Turn:
    known = {
        "status": "completed",
        "answer": "hola",
        "model": "scripted",
        "input_tokens": 12_345,
        "cache_read_tokens": 12_000,
        "output_tokens": 1_500,
        "reasoning_tokens": 500,
        "usage_source": "provider",
        "cost_micros": 12_345_678,
        "price": write_stamp(STAMP),
        "created_at": ASKED,
        "first_token_at": ASKED + dt.timedelta(milliseconds=1_234),
        "completed_at": ASKED + dt.timedelta(milliseconds=11_234),
    }
    return Turn(pk=new_id(), conversation_id=new_id(), owner_id=1, max_output=1, seq=1, **(known | fields))


def shown(turn: Turn, language: str = "en") -> dict[str, str]:
    """Return what is said under the answer, by name."""
    with translation.override(language):
        html = turn_html(turn)
    return {
        name: re.sub(r"\s+", " ", value).strip()
        for name, value in re.findall(r"<dt>(.*?)</dt>\s*<dd>(.*?)</dd>", html, re.DOTALL)
    }


def test_what_an_answer_took(catalog: None):
    assert shown(finished()) == {
        "Asked": "Nov 24, 2026 12:00",
        "Tokens read": "12,345",
        "Of these, from the cache": "12,000",
        "Tokens written": "1,500",
        "Of these, for thinking": "500",
        "Credits": "12,345.678",
        "Seconds to the first word": "1.2",
        "Tokens a second": "150",
        "Counted by": "the provider",
        "Prices of": "Oct 2, 2026",
    }


def test_figures_are_written_as_the_person_reads_them(catalog: None):
    figures = list(shown(finished(), "es").values())[1:]
    assert [re.sub(r"\s", ".", figure) for figure in figures[:3]] == ["12.345", "12.000", "1.500"]
    assert figures[5] == "1,2"
    assert figures[8] == "02/10/2026"


def test_what_nobody_counted_says_so(catalog: None):
    assert shown(finished(usage_source="estimated"))["Counted by"] == "us: an estimate"


def test_prices_of_the_operator_are_of_the_day_it_was_asked(catalog: None):
    assert shown(finished(price=""))["Prices of"] == "Nov 24, 2026"


def test_what_showed_nothing_has_no_speed(catalog: None):
    found = shown(finished(first_token_at=None, answer=""))
    assert (found["Seconds to the first word"], found["Tokens a second"]) == ("–", "–")


@pytest.mark.parametrize(
    "fields", [{"status": "streaming"}, {"status": "failed", "usage_source": "", "cost_micros": None}]
)
def test_what_took_nothing_yet_says_nothing(catalog: None, fields: dict[str, Any]):
    html = turn_html(finished(**fields))
    assert "Tokens read" not in html
    assert "data-context" not in html


def test_what_the_next_prompt_begins_with_is_there_for_the_estimate(catalog: None):
    """The question and the answer, without the thoughts: those are not sent again."""
    html = turn_html(finished(model='a"><b>'))
    assert 'data-context="13345"' in html
    assert 'data-written="1500"' in html
    assert 'data-by="a&quot;&gt;&lt;b&gt;"' in html


async def test_the_api_says_what_it_took(redis: Redis, runner: Runner, carla: User, api: Callable[..., Any]):
    turn = await closed(await aask(carla, "say:hola usage:12/34"))
    found = await in_thread(lambda: api(carla).get(f"/api/v1/turns/{turn.pk}").json())
    assert found["price"] == {
        "input": 1_000_000,
        "output": 2_000_000,
        "cache_read": 1_000_000,
        "cache_write": 1_000_000,
        "above": 0,
        "markup_percent": 0,
        "as_of": "",
        "provider_micros": 80,
    }
    assert 0 < found["first_token_ms"] < 60_000
    assert found["reasoning_ms"] == 0
    waiting = await aask(carla, "wait:1 say:hola")
    found = await in_thread(lambda: api(carla).get(f"/api/v1/turns/{waiting.pk}").json())
    assert (found["price"], found["first_token_ms"]) == (None, None)
    await closed(waiting)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"error": "overloaded"}, "<bdi>Scripted</bdi>: The provider is overloaded."),
        ({"error": "overloaded", "model": "", "requested_model": "scripted"}, "<bdi>Scripted</bdi>: The provider"),
        ({"error": "queue_timeout", "model": "", "requested_model": "scripted"}, '-error">Too many people were asking'),
        ({"error": "unknown", "model": "", "requested_model": "auto"}, '-error">The provider failed'),
    ],
)
def test_a_failed_turn_names_the_model_that_failed(catalog: None, fields: dict[str, str], named: str):
    with translation.override("en"):
        html = turn_html(finished(**{"status": "failed", "answer": "", "usage_source": "", **fields}))
    assert named in html
    assert ('<span dir="auto">Scripted</span>' in html) == (fields.get("requested_model") != "auto")


def test_a_page_reckons_with_what_people_are_charged(catalog: None):
    luna = find_model("gpt-6-luna")
    luna.markup_percent = 20
    free = LanguageModel(key="free", tier="demo", input_price=0, output_price=0, context_window=9)
    found = estimates_for([luna, free], [luna])
    assert found["unnamed"] == ["gpt-6-luna"]
    assert found["models"]["free"] == {"tier": "demo"}
    assert found["models"]["gpt-6-luna"] == {
        "tier": "cheap",
        "tiers": [
            {"above": 0, "input": 120_000, "output": 600_000, "cache_read": 12_000, "cache_write": 150_000},
            {"above": 272_000, "input": 240_000, "output": 900_000, "cache_read": 24_000, "cache_write": 300_000},
        ],
        "more": 1,
        "window": 1_050_000,
        "typical": 1_000,
    }
