"""The OpenAPI document is true: requests are drawn from it, valid ones and others, and every answer is what it says."""

import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from random import Random
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from jsonschema import Draft202012Validator
from pytest_django import Settings
from schemathesis.core.errors import SchemathesisError
from schemathesis.core.failures import FailureGroup
from schemathesis.core.transport import Response
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

from chat.pages import question_form
from config.openapi import documents
from core.threads import in_thread
from tests.chat.conftest import running
from tests.fuzz.drawing import Request
from tests.fuzz.judging import Answer, complaints_about, complaints_about_log
from tests.fuzz.people import PASSWORD, Cast, new_cast
from tests.fuzz.sending import CUT_SECONDS, send
from tests.fuzz.test_commands import documented_events

IS_SOAK = bool(os.environ.get("SOAK"))
SEED = int(os.environ.get("SEED", "20261130"))
VALID, OTHERS = (25, 20) if IS_SOAK else (4, 2)
"""Cases of each operation that are as the document says, and that are not."""
ANSWER_SECONDS = 5.0
ANSWERED = {"askQuestion"}
"""What a runner is needed for."""
NO_SUCCESS = {"beginExport", "importFile", "downloadExport", "downloadFile", "closeAccount"}
"""Of the first two, one runs already; of the next two, no file is there; the last would end all that follows. Other
tests do it."""
CHECKS: list[Any] = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]

pytestmark = pytest.mark.usefixtures("catalog", "redis")


@pytest.fixture(autouse=True)
def site(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.API_REQUESTS_PER_MINUTE = 0
    monkeypatch.setattr(question_form, "READING_SECONDS", 0.0)
    console = next(handler for handler in logging.root.handlers if type(handler) is logging.StreamHandler)
    monkeypatch.setattr(console, "level", logging.CRITICAL)  # what is logged is judged


def operations() -> list[Any]:
    schema = schemathesis.openapi.from_dict(documents._schema())  # type: ignore[arg-type]
    return [found.ok() for found in schema.get_all_operations()]


def draw_cases(operation: Any, mode: GenerationMode, number: int) -> list[Any]:
    found: list[Any] = []

    @seed(SEED)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(mode))
    def keep(case: Any) -> None:
        found.append(case)

    keep()
    return found[:number]


def draw_all(operation: Any) -> list[tuple[Any, bool]]:
    """Return cases of an operation, each with whether it is as the document says."""
    found = [(case, True) for case in draw_cases(operation, GenerationMode.POSITIVE, VALID)]
    try:
        found += [(case, False) for case in draw_cases(operation, GenerationMode.NEGATIVE, OTHERS)]
    except (SchemathesisError, Unsatisfiable):  # nothing of it can be wrong
        pass
    return found


def put_ids(case: Any, random: Random, cast: Cast, *, is_first: bool) -> None:
    """Put ids of the person's own, and of somebody else's, in the place of drawn ones, now and then. An operation's
    first case has the person's own first ids, with which it succeeds: what is drawn depends on what else was loaded."""
    for name in case.path_parameters or {}:
        whose = cast.own if is_first else random.choices((cast.own, cast.foreign, {}), (7, 1, 2))[0]
        if name in whose:
            case.path_parameters[name] = whose[name][0] if is_first else random.choice(whose[name])


def make_sensible(case: Any, random: Random, cast: Cast) -> None:
    """Put into a body what nobody draws by chance: a model there is, their password."""
    body = case.body
    if not isinstance(body, dict):
        return
    for name in [name for name in body if name.endswith("_id") or name in ("id", "attachments")]:
        if random.random() < 0.7:
            del body[name]
    if "text" in body or case.operation.definition.raw["operationId"] == "askQuestion":
        body |= {"text": "say:hola", "model": "scripted", "effort": ""}
    if "models" in body:
        body["models"] = random.choice(([], ["scripted"]))
    if "email" in body and random.random() < 0.7:
        body |= {"email": cast.email, "password": PASSWORD}
    if "time_zone" in body:
        body["time_zone"] = "America/Bogota"
    if case.operation.definition.raw["operationId"] == "register":
        body |= {"email": f"new{random.randrange(10**9)}@example.com", "password": PASSWORD}
    if "refresh" in body:
        body["refresh"] = cast.refresh
    if "expires_at" in body:
        body["expires_at"] = random.choice((None, "2040-01-01T00:00:00Z"))
    if "webhook_url" in body:
        body["webhook_url"] = random.choice(("", "https://example.com/hook"))
    if body.get("temporary"):
        for name in ("title", "folder_id", "id"):
            body.pop(name, None)


def prepared(case: Any, cast: Cast) -> requests.PreparedRequest:
    headers = {} if case.operation.definition.raw["security"] == [] else {"Authorization": f"Bearer {cast.access}"}
    sent = case.as_transport_kwargs(base_url="http://localhost", headers=headers)
    return requests.Request(**{name: value for name, value in sent.items() if name in REQUEST_FIELDS}).prepare()


REQUEST_FIELDS = ("method", "url", "headers", "params", "json", "data", "files", "cookies")


def as_request(sent: requests.PreparedRequest) -> Request:
    where = urlsplit(str(sent.url))
    body = sent.body or b""
    return Request(
        method=str(sent.method),
        path=where.path,
        query=where.query.encode(),
        headers=tuple(
            (
                name.lower().encode("latin-1"),
                (value if isinstance(value, bytes) else value.encode("latin-1", "replace")),
            )
            for name, value in sent.headers.items()
        ),
        body=body.encode() if isinstance(body, str) else bytes(body),
        peer="192.0.2.1",
    )


def complaints_of_events(stream: str) -> Iterator[str]:
    """Yield what is wrong with a stream: an event that docs/api.md lacks, a last one without its turn."""
    events = [json.loads(data) for data in re.findall(r"^data: (.*)$", stream, re.MULTILINE)]
    if not events or events[0]["type"] != "turn.started":
        yield "a stream does not begin with its turn"
    if missing := {event["type"] for event in events} - documented_events():
        yield f"docs/api.md lacks {missing}"
    schema = {"$ref": "#/components/schemas/Turn", "components": documents._schema()["components"]}
    for turn in (event["turn"] for event in events if "turn" in event):
        yield from (f"turn: {error.message}" for error in Draft202012Validator(schema).iter_errors(turn))


def complaints_of_document(case: Any, sent: requests.PreparedRequest, answer: Answer) -> Iterator[str]:
    headers = {name: [value] for name, value in answer.headers.items()}
    response = Response(answer.status, headers, answer.body, sent, elapsed=0.1, verify=False)
    is_stream = answer.media_type == "text/event-stream"
    if is_stream:
        yield from complaints_of_events(answer.text)
    try:
        case.validate_response(response, checks=CHECKS[:-1] if is_stream else CHECKS)
    except FailureGroup as group:
        yield "; ".join(" ".join(str(one).split()) for one in group.exceptions)[:600]
    if answer.status >= 400:
        said = case.operation.definition.raw["responses"].get(str(answer.status), {}).get("description", "")
        code = json.loads(answer.body)["code"]
        if f"`{code}`" not in said:
            yield f"{answer.status} {code} is not among the errors of this operation"


@pytest.mark.soak
@pytest.mark.timeout(3_600)
async def test_every_answer_is_what_the_document_says(caplog: pytest.LogCaptureFixture) -> None:
    complaints: list[str] = []
    statuses: dict[str, list[int]] = defaultdict(list)
    random = Random(SEED)
    for operation in operations():
        name = operation.definition.raw["operationId"]
        cast = await in_thread(new_cast)
        async with running() if name in ANSWERED else nullcontext():
            for number, (case, is_valid) in enumerate(await in_thread(draw_all, operation)):
                put_ids(case, random, cast, is_first=number == 0)
                if is_valid:
                    make_sensible(case, random, cast)
                sent = prepared(case, cast)
                request = as_request(sent)
                caplog.clear()
                answer = await send(request, cut_seconds=ANSWER_SECONDS if name in ANSWERED else CUT_SECONDS)
                statuses[name].append(answer.status)
                found = [*complaints_about_log(caplog.records), *complaints_about(request, answer)]
                found += complaints_of_document(case, sent, answer)
                if found:
                    complaints.append(f"{name}: {'; '.join(found)}\n    {request}\n    {answer}")
    assert not complaints, f"seed {SEED}: {len(complaints)}\n" + "\n".join(complaints[:40])
    assert {name for name, found in statuses.items() if min(found) >= 300} <= NO_SUCCESS
