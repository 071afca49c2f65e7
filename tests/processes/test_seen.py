"""What the processes of a site tell their operator: what happened to whom, how they are, and nothing that people write.

Somebody does a bit of everything with secrets in it, on the site of all tests. Then its logs, figures, errors and spans
are read, with what was there before.
"""

import asyncio
import json
import time
import urllib.error
import urllib.request
from typing import Any
from uuid import uuid4

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families as parse

from chat.turns.log import WAKE_UPS
from config.reporting import ids_of
from tests.fakes.collector import Collector
from tests.fakes.readers import Member, Shown, read_by_socket
from tests.processes.stores import METRICS_TOKEN, PROVIDER_KEY, TestedSite
from tests.processes.test_batches import as_form

MODEL = "fake-90t-0ms-echo8"
RUNNERS = ("runner0", "runner1")
PASSWORD, EMAIL = "planted-Pass-word-93", "planted.person@example.com"
QUESTION, FILE, FOLDER = "the planted question of somebody", "planted-text-of-a-file", "planted-name-of-a-folder"
SHARE, ANSWER = "plantedplantedplantedplanted", "plantedanswer" * 3
SECRETS = (PROVIDER_KEY, PASSWORD, EMAIL, "planted.person", QUESTION, FILE, FOLDER, SHARE, ANSWER, METRICS_TOKEN)


def send(site: TestedSite, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(f"http://127.0.0.1:{site.port()}{path}", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def lines_of(site: TestedSite) -> list[tuple[str, dict[str, Any]]]:
    """Return the process and what it said, for each line that is not Python's own, as a warning is."""
    found, process = [], ""
    for line in site.logs().splitlines():
        if line.startswith("== "):
            process = line[3:].removesuffix(".log")
        elif line.startswith("{") and process[:3] in ("web", "run", "wor"):
            found.append((process, json.loads(line)))
    return found


def figures_of(site: TestedSite, *processes: str, path: str = "/metrics") -> dict[str, float]:
    """Return the figures of processes, those of all labels together."""
    found: dict[str, float] = {}
    for process in processes:
        for family in parse(site.read_metrics(process, path, METRICS_TOKEN)):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


async def test_what_processes_tell_has_ids_and_figures_and_nothing_that_was_said(
    site: TestedSite, collector: Collector
) -> None:
    [member] = site.people(1, credits_per_month=1_000)
    fields = {"provider": "compatible", "context_window": 8_000, "max_output": 500, "input_price": 1_000_000}
    fields |= {"output_price": 1_000_000, "position": 950, "tier": "strong"}
    site.offer(*({"key": key, "provider_model": key, **fields} for key in (MODEL, "status-401")))
    before = await asyncio.to_thread(figures_of, site, *RUNNERS)
    bearer = {"Authorization": f"Bearer {member.access}"}
    key = await asyncio.to_thread(ask_for_everything, site, member, bearer)
    shown = Shown()
    await read_by_socket(member, shown, asks={"model": MODEL, "text": ANSWER})
    assert ANSWER in shown.text
    turn_id = uuid4()
    asked = {"turn_id": str(turn_id), "text": QUESTION, "model": MODEL}
    named = bearer | {"X-Request-ID": "named-by-a-proxy-1"}
    status, _ = await asyncio.to_thread(send, site, f"/api/v1/conversations/{uuid4()}/turns", asked, **named)
    assert status == 200
    await asyncio.to_thread(look_at_logs, site, str(turn_id), key)
    await asyncio.to_thread(look_at_figures, site, before)
    await asyncio.to_thread(look_at_reports, site, collector)


def ask_for_everything(site: TestedSite, member: Member, bearer: dict[str, str]) -> str:
    """Do a bit of everything; return an API key."""
    account = {"email": EMAIL, "password": PASSWORD}
    assert send(site, "/api/v1/auth/register", account)[0] == 201
    assert send(site, "/api/v1/auth/login", account | {"password": PASSWORD + "x"})[0] == 401
    assert send(site, "/api/v1/auth/login", b'{"email": "' + EMAIL.encode())[0] == 400
    mailed = bearer | {"X-Request-ID": "named-by-a-proxy-2"}  # of a new key its owner is told
    _, made = send(site, "/api/v1/keys", {"name": FOLDER, "scopes": ["chat"], "password": PASSWORD}, **mailed)
    key = json.loads(made).get("key", "sk-never-made")
    form, kind = as_form(FILE.encode(), name=FOLDER)
    send(site, "/api/v1/attachments", form, **bearer | {"Content-Type": kind})
    question = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}]}
    assert send(site, "/v1/chat/completions", question, **bearer)[0] == 200
    assert send(site, "/v1/chat/completions", question | {"model": QUESTION}, **bearer)[0] == 404
    assert send(site, "/v1/chat/completions", question, Authorization=f"Bearer {key}x")[0] == 401
    send(site, "/api/v1/folders", {"name": FOLDER}, **bearer)
    send(site, f"/api/v1/search?q={FILE}", **bearer)
    assert send(site, f"/share/{SHARE}/")[0] == 404
    assert send(site, "/v1/chat/completions", question | {"model": "status-401"}, **bearer)[0] >= 400
    sync_redis_of(site).publish(WAKE_UPS, b"\xff" + QUESTION.encode())  # an error of ours, with a text in its hands
    send(site, f"/accounts/password/reset/key/{SHARE}/", Cookie=f"sessionid={SHARE}")
    return str(key)


def look_at_logs(site: TestedSite, turn_id: str, key: str) -> None:
    """The request's id is in each process that had to do with it, and no secret in any."""
    deadline = time.monotonic() + 20
    while True:
        lines = lines_of(site)
        about = {process[:3]: line for process, line in lines if line.get("turn_id") == turn_id}
        tasks = [line for process, line in lines if process == "worker" and line["message"] == "Task ended"]
        if {"web", "run"} <= about.keys() and tasks:
            break
        assert time.monotonic() < deadline, (about, tasks)
        time.sleep(0.2)
    assert about["web"]["request_id"] == about["run"]["request_id"] == "named-by-a-proxy-1"
    assert about["web"]["user_id"] == about["run"]["user_id"]
    assert {line["message"] for _, line in lines} >= {"Turn queued", "Turn ended", "Account event", "Runner ready"}
    assert {"core.mail.send_mail"} == {task["task"] for task in tasks if task["request_id"] == "named-by-a-proxy-2"}
    logs = site.logs()
    assert [secret for secret in (*SECRETS, key) if secret in logs] == []


def sync_redis_of(site: TestedSite) -> Any:
    return redis.Redis.from_url(site.environment["REDIS_URL"])


def look_at_reports(site: TestedSite, collector: Collector) -> None:
    """Errors and spans arrive, and are as silent as the logs."""
    deadline = time.monotonic() + 20
    while not ({"Operator needed", "Live text broke"} <= {event["message"] for event in collector.events()}):
        assert time.monotonic() < deadline, collector.events()
        time.sleep(0.2)
    broken = next(event for event in collector.events() if event["message"] == "Live text broke")
    assert any(frame["function"] == "_receive" for frame in broken["exception"]["values"][-1]["stacktrace"]["frames"])
    names: dict[int, set[str]] = {}
    while not any({"request", "turn", "attempt"} <= of_one for of_one in names.values()):
        assert time.monotonic() < deadline, names
        time.sleep(0.2)
        for span in collector.spans():
            names.setdefault(int.from_bytes(span.trace_id, "big"), set()).add(span.name)
    assert names[ids_of("named-by-a-proxy-1")[0]] >= {"request", "turn", "attempt"}
    for path, body in collector.received:
        found = [secret for secret in SECRETS if secret.encode() in body]
        assert not found, (path, found)


def look_at_figures(site: TestedSite, before: dict[str, float]) -> None:
    for token in ("", "wrong"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            site.read_metrics("web0", token=token)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        site.read_metrics("web0", "/admin/", METRICS_TOKEN)
    assert send(site, "/metrics")[0] == 404  # never at the site's own address
    runners = figures_of(site, *RUNNERS)
    grown = {name: value - before.get(name, 0) for name, value in runners.items()}
    assert grown["tertulia_turns_ended_total"] == 4
    assert grown["tertulia_first_token_seconds_count"] == 3
    assert grown["tertulia_attempts_total"] >= 4
    assert grown["tertulia_cost_micros_total"] > 0 < grown["tertulia_tokens_total"]
    assert runners["tertulia_event_loop_lag_seconds_count"] > 0
    web, worker = figures_of(site, "web0"), figures_of(site, "worker")
    assert web["tertulia_event_loop_lag_seconds_count"] > 0
    assert web["tertulia_responses_total"] > 10 < web["tertulia_pool_size"]
    assert worker["tertulia_tasks_ended_total"] > 0
    whole = figures_of(site, "worker", path="/site")
    assert whole == whole | {"tertulia_turns_queued": 0, "tertulia_turns_taken": 0, "tertulia_reservations_open": 0}
    assert whole["tertulia_part_ready"] == 5
    assert whole["tertulia_processes_alive"] >= 5
    asked = [(name, path) for name in ("web0", "runner0", "runner1") for path in ("/metrics", "/site")]
    shown = "".join(site.read_metrics(name, path, METRICS_TOKEN) for name, path in asked)
    assert [secret for secret in SECRETS if secret in shown] == []
