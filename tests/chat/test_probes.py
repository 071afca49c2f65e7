"""Once a minute the providers are asked for their models; nothing else is."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from pytest_django import Settings

from chat import tasks
from chat.llm.breaker import api_key_digest
from chat.llm.health import probes
from chat.llm.health.counters import PROBES, Probe
from chat.llm.health.error_counts import read_error_counts
from chat.tasks import probe
from core import alerts
from core.redis_clients import sync_redis
from testbed.provider import FakeProvider


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "PROBE_JITTER_SECONDS", 0)


def found() -> dict[str, Probe]:
    known = read_error_counts()
    assert known is not None
    return known[1]


def test_who_tells_its_models_is_there(catalog: None, provider: FakeProvider, settings: Settings):
    settings.OPENAI_COMPATIBLE_BASE_URL, settings.OPENAI_COMPATIBLE_API_KEY = provider.url, "k1,k2"
    probe()
    assert found()["compatible"].keys == {api_key_digest("k1"): "", api_key_digest("k2"): ""}
    assert not found()["compatible"].is_down
    assert provider.requests == []
    assert "scripted" not in found()


def test_who_is_not_there_is_down_and_the_others_are_asked_too(
    catalog: None, provider: FakeProvider, settings: Settings
):
    settings.OPENAI_API_KEY, settings.OPENAI_BASE_URL = "k", "http://127.0.0.1:9/v1"
    settings.OPENAI_COMPATIBLE_BASE_URL = provider.url
    probe()
    assert (found()["openai"].code, found()["openai"].is_down) == ("connection", True)
    assert found()["compatible"].code == ""


def test_a_key_that_is_refused_is_an_alert(catalog: None, settings: Settings, llmock):
    settings.OPENAI_API_KEY, settings.OPENAI_BASE_URL = "sk-old", llmock.base_url("openai")
    llmock.fail(401, times=None)
    probe()
    assert found()["openai"].code == "authentication"
    alerts._thread.submit(lambda: None).result()
    assert [one.subject for one in alerts.list_alerts()] == [f"openai:authentication:{api_key_digest('sk-old')}"]


class Elsewhere(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", "http://127.0.0.1:9/v1/models")
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        pass


def test_a_provider_that_sends_us_elsewhere_is_down_and_an_alert(catalog: None, settings: Settings):
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        Thread(target=server.serve_forever).start()
        settings.OPENAI_API_KEY, settings.OPENAI_BASE_URL = "sk-old", f"http://127.0.0.1:{server.server_port}/v1"
        probe()
        server.shutdown()
    assert (found()["openai"].code, found()["openai"].is_down) == ("redirected", True)
    alerts._thread.submit(lambda: None).result()
    assert [one.subject for one in alerts.list_alerts()] == [f"openai:redirected:{api_key_digest('sk-old')}"]


def test_one_worker_a_minute_asks(catalog: None, provider: FakeProvider, settings: Settings):
    settings.OPENAI_COMPATIBLE_BASE_URL = provider.url
    probe()
    sync_redis().delete(PROBES)
    probe()
    assert found() == {}


def test_who_does_not_answer_is_not_waited_for(catalog: None, settings: Settings, monkeypatch: pytest.MonkeyPatch):
    async def hang(_provider: object) -> list[str]:
        import asyncio

        await asyncio.sleep(30)
        return []

    monkeypatch.setattr(probes.sdk, "list_models", hang)
    monkeypatch.setattr(probes, "PROBE_TIMEOUT_SECONDS", 0.05)
    settings.OPENAI_API_KEY = "k"
    probe()
    assert found()["openai"].code == "timeout"
