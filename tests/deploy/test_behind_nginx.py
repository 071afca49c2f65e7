"""The page `docs/deploy.md`, done word for word on a machine of its own: hundreds read through nginx while every
process is restarted in turn and three are killed. Nobody misses a character."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.machine import NAMESPACES, ROOT

pytestmark = [pytest.mark.processes, pytest.mark.timeout(1600)]

SEED = int(os.environ.get("SEED", "20261201"))
IS_SOAK = bool(os.environ.get("SOAK"))
STREAMS = 300 if IS_SOAK else 30


def why_not() -> str:
    """Return why this machine cannot do it; empty if it can."""
    if not shutil.which("nginx") and not Path("/usr/sbin/nginx").exists():
        return "nginx is not installed (apt install nginx)"
    if os.geteuid() != 0:
        return "namespaces with users of their own want root"
    if not shutil.which("unshare") or subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode:
        return "this machine lets nobody make namespaces (unshare)"
    return ""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    reason = why_not()
    if "not installed" in reason and os.environ.get("REQUIRE_NGINX"):
        pytest.fail(reason)
    if reason:
        pytest.skip(f"behind nginx: {reason}")
    scratch = tmp_path_factory.mktemp("machine")
    program = [sys.executable, "-m", "tests.deploy.on_the_machine", str(scratch), str(STREAMS), str(SEED)]
    whole = ["--whole"] if IS_SOAK else []
    foreign = ("DATABASE_", "MONGODB_", "REDIS_", "DATA_", "COV_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    done = subprocess.run(
        [*NAMESPACES, *program, *whole], cwd=ROOT, env=environment, stdout=subprocess.PIPE, timeout=1500, check=False
    )
    assert done.returncode == 0
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print({name: value for name, value in found.items() if name != "gateway"})
    return found


@pytest.mark.soak
def test_every_reader_gets_every_character_whatever_is_restarted_or_killed(report: dict[str, Any]) -> None:
    assert (report["wrong"], report["unlike_saved"], report["asked_anew"]) == ([], [], 0)
    assert sum(report["answers"].values()) >= STREAMS
    assert (report["ledger"]["held"], report["ledger"]["unbalanced"]) == (0, [])


SECURITY = ("Strict-Transport-Security", "X-Content-Type-Options", "Referrer-Policy", "X-Frame-Options")


def values_of(answer: dict[str, Any], name: str) -> list[str]:
    return [value for key, value in answer["headers"] if key.lower() == name.lower()]


def test_the_gateway_answers_for_its_name_alone_and_leads_to_https(report: dict[str, Any]) -> None:
    found = report["gateway"]
    assert found["foreign"] == [0, "TLSV1_UNRECOGNIZED_NAME", 0]
    assert (found["redirect"]["status"], values_of(found["redirect"], "Location")) == (
        308,
        ["https://chat.example.com/c/?a=b"],
    )
    assert found["protocol"] == "h2"
    assert values_of(found["redirect"], "Server") == ["nginx"], "without its version"
    assert found["metrics"] == [404] * 4


def test_headers_are_said_once_and_static_files_are_kept_for_ever(report: dict[str, Any]) -> None:
    found = report["gateway"]
    for answer in (found["page"], found["hashed"], found["plain"], found["away"]["page"]):
        assert {name: len(values_of(answer, name)) for name in SECURITY} == dict.fromkeys(SECURITY, 1)
    assert len(values_of(found["page"], "Content-Security-Policy")) == 1
    hashed = {
        name: values_of(found["hashed"], name) for name in ("Cache-Control", "Content-Encoding", "Content-Type", "Vary")
    }
    assert hashed == {
        "Cache-Control": ["public, max-age=31536000, immutable"],
        "Content-Encoding": ["gzip"],
        "Content-Type": ["text/css; charset=utf-8"],
        "Vary": ["Accept-Encoding"],
    }
    assert values_of(found["plain"], "Cache-Control") == ["public, max-age=60"]
    assert found["member"]["status"] == 200


def test_what_a_client_says_of_itself_is_not_passed_on(report: dict[str, Any]) -> None:
    passed = {name.lower(): value for name, value in report["gateway"]["passed"]["headers"]}
    assert passed.pop("accept-encoding") == "identity"
    assert passed == {
        "host": "chat.example.com",
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "https",
        "x-request-id": "from-the-client-1",
    }
    assert values_of(report["gateway"]["failed"], "X-Request-ID") == ["from-the-client-1"]
    assert report["gateway"]["peers"] != []
    assert all("peer=127.0.0.1" in line for line in report["gateway"]["peers"])


def test_bodies_have_the_limit_of_their_address_and_a_post_is_sent_once(report: dict[str, Any]) -> None:
    found = report["gateway"]
    assert found["large"] == {
        "/settings/": 413,
        "/api/v1/attachments": 200,
        "/settings/import-export/": 200,
        "/c/1/": 200,
        "/v1/chat/completions": 200,
    }
    assert found["waits_for_bodies"] == {"/settings/": False, "/c/1/": False}, "what waits there, nobody counts"
    page, api, openai = found["too_large"].values()
    assert "Eso es demasiado grande" in page["body"]
    assert json.loads(api["body"])["code"] == json.loads(openai["body"])["error"]["code"] == "too_large"
    assert found["died POST"] == [1, 502]
    assert found["died GET"] == [2, 502]
    assert 400 <= found["crowd"]["unavailable"] <= 401 + 50 * (found["crowd_seconds"] + 1)
    assert found["crowd"]["unavailable"] + found["crowd"].get("rate_limited", 0) == 700


def test_a_site_that_is_away_says_so_in_three_languages_and_by_each_api(report: dict[str, Any]) -> None:
    page, form, api, openai = report["gateway"]["away"].values()
    assert {answer["status"] for answer in (page, form, api, openai)} == {502}
    assert [lang for lang in ("es", "en", "pt-BR") if f'<section lang="{lang}">' in page["body"]] == [
        "es",
        "en",
        "pt-BR",
    ]
    assert 'http-equiv="refresh"' in page["body"]
    assert 'http-equiv="refresh"' not in form["body"]
    assert json.loads(api["body"])["code"] == json.loads(openai["body"])["error"]["code"] == "unavailable"
    assert {*values_of(page, "Retry-After"), *values_of(api, "Retry-After")} == {"5"}


def test_no_log_has_what_lets_somebody_in(report: dict[str, Any]) -> None:
    lines = [json.loads(line) for line in report["gateway"]["log"]]
    paths = [line["path"] for line in lines]
    assert "planted0secret" not in "\n".join((*report["gateway"]["log"], report["gateway"]["error_log"]))
    assert {"/share/-/", "/ws/", "/accounts/confirm-email/-/", "/accounts/password/reset/key/-/"} <= set(paths)
    assert not {"/healthz", "/readyz"} & set(paths)
    assert any(line["request_id"] == "from-the-client-1" and line["status"] == 401 for line in lines)
