"""How the providers are: what is counted, the public page, the operator's page."""

import re
from collections.abc import Callable

import pytest
from django.test import Client
from pytest_django import Settings
from redis.asyncio import Redis

from accounts.models import User
from chat.llm.breaker import Report, api_key_digest, breaker_id, breakers
from chat.llm.health import error_counts, overview
from chat.llm.health.counters import Probe, Tally, failure_fields, now_ms, save_probe, success_fields
from chat.llm.health.error_counts import read_error_counts
from chat.llm.health.overview import state_of, unavailable_models
from chat.llm.providers import list_providers
from chat.llm.providers.base import TokenUsage
from chat.models import LanguageModel
from chat.shown.costs import tokens_per_second
from core import caching
from core.threads import in_thread
from tests.chat.asking import aask, closed
from tests.chat.conftest import Offer, running

Count = Callable[..., None]


@pytest.fixture
def model(catalog: None, settings: Settings) -> LanguageModel:
    """The one model on offer, with two keys."""
    settings.SCRIPTED_PROVIDER = False
    settings.OPENAI_API_KEY = "sk-first-secret,sk-second-secret"
    LanguageModel.objects.exclude(key="gpt-6-luna").update(enabled=False)
    return LanguageModel.objects.get(key="gpt-6-luna")


async def count(*reports: Report) -> None:
    for report in reports:
        breakers().report(report)
    await breakers().flush()


def counted(*counts: str) -> Report:
    return Report("openai:00:gpt-6-luna", "neutral", counter_fields=counts)


def read(language: str = "en") -> str:
    caching.forget_everything()
    return Client().get("/status/", headers={"Accept-Language": language}).content.decode()


def state_now(html: str) -> str:
    [shown] = re.findall(r'<p class="badge[^"]*">\s*(.*?)\s*</p>', html, re.DOTALL)
    return str(shown)


def hours(html: str) -> list[str]:
    return re.findall(r'<li class="hour hour-(\w+)">', html)


# --- What numbers mean ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "state"),
    [
        ({}, "unknown"),
        ({"up": 1}, "operational"),
        ({"down": 1}, "unavailable"),
        ({"up": 9, "down": 1}, "degraded"),
        ({"ok": 1, "down": 1}, "degraded"),
        ({"ok": 1}, "operational"),
        ({"ok": 9, "failed:timeout": 1}, "operational"),
        ({"ok": 18, "failed:timeout": 2}, "degraded"),
        ({"ok": 3, "failed:timeout": 1, "failed:overloaded": 2}, "unavailable"),
        ({"ok": 1, "failed:bad_request": 50, "failed:content_filter": 9}, "operational"),
        ({"failed:authentication": 2}, "unavailable"),
    ],
)
def test_what_counts_say(counts: dict[str, int], state: str):
    found = Tally()
    for what, number in counts.items():
        found.add(what, number)
    assert state_of(found) == state


def test_medians_are_right_within_a_tenth():
    model = LanguageModel(key="m", provider="p")
    found = Tally()
    for seconds, tokens in ((0.1, 50), (0.42, 100), (30.0, 1_000)):
        for field in success_fields(model, TokenUsage(1, tokens), seconds, 1.0):
            found.add(field.split("|")[0], 1)
    assert found.first_seconds == pytest.approx(0.42, rel=0.1)
    assert found.tokens_per_second == pytest.approx(100, rel=0.1)


def test_what_is_too_short_has_no_speed():
    model = LanguageModel(key="m", provider="p")
    for usage, wrote in ((None, 1.0), (TokenUsage(1, 19), 1.0), (TokenUsage(1, 100), 0.1)):
        assert not any(field.startswith("speed") for field in success_fields(model, usage, 1.0, wrote))


# --- The page -------------------------------------------------------------------------------------------------------


def test_anybody_reads_it_and_without_data_it_says_so(model: LanguageModel):
    html = read()
    assert "OpenAI" in html
    assert state_now(html) == "No recent data"
    assert hours(html) == ["unknown"] * 24
    assert "Everything works" not in html


async def test_real_turns_are_seen(redis: Redis, carla: User, offer: Offer, catalog: None):
    offered = await in_thread(offer, "fake-40t-10ms")
    async with running():
        turn = await closed(await aask(carla, "hola", model=offered.key))
    html = await in_thread(read)
    [card] = [part for part in html.split("<section")[1:] if "OpenAI-compatible" in part]
    assert hours(card)[-1] == "operational"
    assert state_now(card) == "Operational"
    assert re.search(r"0\.\d s", card)
    speed = int(re.search(r"(\d+) tokens a second", card)[1])
    assert 0.3 < speed / tokens_per_second(turn) < 3  # the turn itself ends a little later: when it is saved


async def test_a_provider_that_fails_is_told_without_its_cause(redis: Redis, model: LanguageModel):
    await count(*[counted("failed:authentication|openai|gpt-6-luna")] * 3)
    html = await in_thread(read)
    assert state_now(html) == "Unavailable"
    assert hours(html)[-1] == "unavailable"
    assert "authentication" not in html


async def test_a_model_whose_every_key_is_skipped_is_named(redis: Redis, model: LanguageModel):
    first, second = (breaker_id(one, model.key) for one in list_providers()["openai"].with_each_api_key())
    await count(Report(first, "unusable", "authentication"))
    caching.forget_everything()
    assert await in_thread(unavailable_models) == frozenset()
    await count(Report(second, "pause", "rate_limited", 60_000))
    caching.forget_everything()
    assert await in_thread(unavailable_models) == {"gpt-6-luna"}
    html = await in_thread(read)
    assert state_now(html) == "Unavailable"
    assert "Not answering now: GPT-6 Luna" in html


@pytest.mark.parametrize("path", ["/", "/picker/", "/dashboard/"])
def test_every_page_says_of_a_model_what_the_status_page_says(model: LanguageModel, carla: User, path: str):
    member = Client()
    member.force_login(carla)
    browsers = [member, Client(headers={"Accept-Language": "en"})] if path == "/" else [member]

    def read_all() -> list[str]:
        caching.forget_everything()
        return [one.get(path, headers={"HX-Request": "true"}).content.decode() for one in browsers]

    assert not any("not answering" in html.lower() for html in read_all())
    save_probe("openai", Probe("connection", now_ms() / 1000))  # no breaker is open: questions are still sent there
    assert "Not answering now: GPT-6 Luna" in read()
    assert all("not answering" in html.lower() for html in read_all())


async def test_a_key_that_was_replaced_makes_nobody_unavailable(redis: Redis, model: LanguageModel, settings: Settings):
    for one in list_providers()["openai"].with_each_api_key():
        await count(Report(breaker_id(one, model.key), "unusable", "authentication"))
    settings.OPENAI_API_KEY = "sk-new"
    caching.forget_everything()
    assert await in_thread(unavailable_models) == frozenset()


def test_what_is_unavailable_is_asked_for_once_a_second(model: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    asked = []
    load = overview._load_unavailable
    monkeypatch.setattr(overview._unavailable, "_load", lambda: (asked.append(1), load())[1])
    for _ in range(20):
        unavailable_models()
    assert len(asked) == 1


def test_probes_tell_who_is_there(model: LanguageModel):
    now = now_ms() / 1000
    save_probe("openai", Probe("", now))
    html = read()
    assert (state_now(html), hours(html)[-1]) == ("Operational", "operational")
    assert "Everything works." in html
    save_probe("openai", Probe("connection", now))
    assert state_now(read()) == "Unavailable"


def test_who_will_not_tell_its_models_is_there(model: LanguageModel):
    save_probe("openai", Probe("permission", now_ms() / 1000))
    assert state_now(read()) == "Operational"


def test_an_old_probe_says_nothing_of_now(model: LanguageModel):
    save_probe("openai", Probe("timeout", now_ms() / 1000 - 3000))
    assert state_now(read()) == "No recent data"


def test_redis_away_is_said(model: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    from redis.exceptions import ConnectionError as Away

    def fail() -> None:
        raise Away

    monkeypatch.setattr(overview, "read_counts", fail)
    monkeypatch.setattr(error_counts, "read_counts", fail)
    assert "We cannot tell right now" in read()
    assert read_error_counts() is None
    monkeypatch.setattr(overview, "read_open_breakers", fail)
    assert unavailable_models() == frozenset()


def test_nothing_on_offer(catalog: None, settings: Settings):
    LanguageModel.objects.update(enabled=False)
    assert "No model is on offer right now." in read()


def test_every_page_leads_to_it(model: LanguageModel):
    assert 'href="/status/"' in Client().get("/terms/").content.decode()


# --- The operator's page --------------------------------------------------------------------------------------------


async def test_the_operator_sees_causes_and_never_a_key(redis: Redis, model: LanguageModel, olga: User):
    first, second = list_providers()["openai"].with_each_api_key()
    await count(
        Report(
            breaker_id(first, model.key),
            "unusable",
            "authentication",
            counter_fields=failure_fields(model, "authentication"),
        ),
        Report(breaker_id(second, model.key), "success", counter_fields=success_fields(model, None, 0.5, 1.0)),
    )

    def look() -> tuple[str, str, int]:
        save_probe("openai", Probe("", 1.8e9, {api_key_digest("sk-first-secret"): "authentication"}))
        client = Client()
        refused = client.get("/admin/chat/languagemodel/health/").status_code
        client.force_login(olga)
        models = client.get("/admin/chat/languagemodel/").content.decode()
        return models, client.get("/admin/chat/languagemodel/health/").content.decode(), refused

    models, html, refused = await in_thread(look)
    assert refused == 302
    assert 'href="/admin/chat/languagemodel/health/"' in models
    assert "authentication: 1" in re.sub(r"\s+", " ", html)
    assert f"<code>{api_key_digest('sk-first-secret')}</code>" in html
    assert api_key_digest("sk-second-secret") not in html
    assert "sk-" not in html
