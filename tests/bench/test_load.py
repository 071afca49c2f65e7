"""The load client against the provider, and against a small site that keeps the contract or breaks it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.clients import Target
from bench.connections import ConnectionFailedError
from bench.load import Load, measure_load
from testbed.provider import FakeProvider
from tests.bench.relay import Relay

MODEL = "fake-20t-5ms-ns"
TOKENS = ("token-of-ana", "token-of-bia")
SITE_TARGETS: tuple[Target, ...] = ("socket", "events")


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def site(provider: FakeProvider) -> Iterator[Relay]:
    provider.reset()
    with Relay(provider.url) as relay:
        yield relay


def test_the_provider_itself_is_the_floor(provider: FakeProvider) -> None:
    report = measure_load(Load("provider", provider.url, MODEL, streams=10, rounds=2))
    assert report.ok
    assert (report.completed, report.tokens, report.missing) == (20, 400, 0)
    assert report.frames_per_token == 1
    assert report.token_added_ms.p50 is not None
    assert 0 < report.token_added_ms.p50 < 200
    assert report.first_token_added_ms.p50 is not None
    assert -1 < report.first_token_added_ms.p50 < 200
    assert report.stretch.p50 is not None
    assert 0.9 < report.stretch.p50 < 5


@pytest.mark.parametrize("target", SITE_TARGETS)
def test_a_site_is_read_to_the_end(site: Relay, target: Target) -> None:
    report = measure_load(Load(target, site.url, MODEL, streams=4, rounds=2, access_tokens=TOKENS))
    assert report.ok
    assert (report.completed, report.tokens) == (8, 160)
    assert report.bytes_beyond_text_per_frame is not None
    assert 50 < report.bytes_beyond_text_per_frame < 150
    assert set(site.tokens) == set(TOKENS)
    assert len(set(site.conversations)) == 8


@pytest.mark.parametrize("target", SITE_TARGETS)
def test_turns_can_follow_each_other(site: Relay, target: Target) -> None:
    assert measure_load(Load(target, site.url, MODEL, rounds=3, access_tokens=TOKENS, continued=True)).ok
    assert len(set(site.conversations)) == 1
    assert site.parents[0] is None
    assert None not in site.parents[1:]


@pytest.mark.parametrize(
    ("target", "trouble", "errors"),
    [
        ("socket", "reject", {"rejected:allowance_used_up": 1}),
        ("events", "reject", {"http-402:allowance_used_up": 1}),
        ("socket", "fail", {"failed:provider_down": 1}),
        ("events", "fail", {"failed:provider_down": 1}),
        ("socket", "drop", {"ws-closed-1011": 1}),
        ("events", "drop", {"closed": 1}),
        ("socket", "silence", {"timeout": 1}),
        ("events", "silence", {"timeout": 1}),
        ("socket", "gap", {"gap": 1, "short": 1}),
        ("events", "gap", {"gap": 1, "short": 1}),
    ],
)
def test_what_goes_wrong_is_counted_by_kind(site: Relay, target: Target, trouble: str, errors: dict[str, int]) -> None:
    load = Load(target, site.url, MODEL, access_tokens=TOKENS, text=trouble, timeout_seconds=0.5)
    report = measure_load(load)
    assert not report.ok
    assert report.errors == errors
    assert report.completed == 0
    assert report.missing > 0


def test_a_refusal_is_timed(site: Relay) -> None:
    refusals = measure_load(Load("socket", site.url, MODEL, streams=3, access_tokens=TOKENS, text="reject")).refusals
    assert (refusals.count, refusals.without_retry_after) == (3, 0)
    assert refusals.after_ms.p50 is not None
    assert 0 < refusals.after_ms.p50 < 1_000


def test_messages_are_counted_by_the_second(site: Relay) -> None:
    report = measure_load(Load("socket", site.url, "fake-20t-20ms-ns", access_tokens=TOKENS))
    assert report.frames_per_second is not None
    assert report.stretch.p50 is not None
    # By as much as a busy machine took longer, it counts fewer.
    assert report.frames_per_second * report.stretch.p50 == pytest.approx(50 * 20 / 19, rel=0.1)


@pytest.mark.parametrize("target", SITE_TARGETS)
def test_text_sent_twice_is_counted_once(site: Relay, target: Target) -> None:
    report = measure_load(Load(target, site.url, MODEL, access_tokens=TOKENS, text="resend"))
    assert report.ok
    assert report.tokens == 20
    assert report.resent_characters > 10


@pytest.mark.parametrize("target", SITE_TARGETS)
def test_a_new_generation_begins_again(site: Relay, target: Target) -> None:
    report = measure_load(Load(target, site.url, MODEL, access_tokens=TOKENS, text="restart"))
    assert report.ok
    assert (report.tokens, report.restarts) == (20, 1)


def test_a_stream_that_breaks_is_short(provider: FakeProvider) -> None:
    report = measure_load(Load("provider", provider.url, "fake-20t-1ms-ns-cut5"))
    assert report.errors == {"closed": 1}
    report = measure_load(Load("provider", provider.url, "fake-20t-1ms-ns-nofinish"))
    assert report.errors == {"no-done": 1}


@pytest.mark.parametrize("target", SITE_TARGETS)
def test_a_site_that_refuses_a_reader_stops_the_run(site: Relay, target: Target) -> None:
    with pytest.raises(ConnectionFailedError, match="http-401:not_authenticated"):
        measure_load(Load(target, site.url, MODEL, access_tokens=("nobody",)))


def test_a_place_where_nobody_listens_stops_the_run() -> None:
    with pytest.raises(ConnectionFailedError, match="connect-"):
        measure_load(Load("provider", "http://127.0.0.1:9/v1", MODEL))


@pytest.mark.parametrize(("url", "model"), [("http://example.com/v1", MODEL), ("http://127.0.0.1:1/v1", "fake-2t-1ms")])
def test_other_machines_and_untimed_models_are_refused(url: str, model: str) -> None:
    with pytest.raises(ValueError, match=r"not on this machine|cannot be timed"):
        measure_load(Load("provider", url, model))


def test_the_cost_of_processes_is_reported(provider: FakeProvider) -> None:
    load = Load("provider", provider.url, "fake-2000t-0ms-ns", streams=20, processes={"me": (os.getpid(),)})
    cost = measure_load(load).processes["me"]
    assert cost.cpu_seconds > 0
    assert cost.cpu_us_per_token
    assert cost.cpu_ms_per_turn > 0
    assert cost.rss_peak_mb >= cost.rss_before_mb > 5


def test_the_command_prints_one_line(site: Relay, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("\n".join(TOKENS))
    command = [sys.executable, "-m", "bench.load", "--target", "socket", "--url", site.url, "--model", MODEL]
    command += ["--streams", "2", "--tokens", str(tokens), "--pid", f"me={os.getpid()}"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    assert report["completed"] == 2
    assert "me" in report["processes"]
