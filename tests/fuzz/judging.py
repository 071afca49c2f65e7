"""What every answer must be, whatever was sent."""

import gzip
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings

from tests.fuzz.drawing import MARK, Request
from tests.fuzz.url_map import API

ERROR_FIELDS = {"code", "detail", "request_id"}
MORE_FIELDS = {"fields", "retry_after"}
TRACES = ("Traceback", 'File "/', "site-packages", "Django Version", "0x7f", "sqlite3", "psycopg")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def __str__(self) -> str:
        return f"{self.status} {self.body[:300]!r}"

    @property
    def text(self) -> str:
        """The body as text, decompressed; raises UnicodeDecodeError."""
        is_compressed = self.headers.get("content-encoding") == "gzip"
        return (gzip.decompress(self.body) if is_compressed else self.body).decode()

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0]


def documented_codes() -> dict[int, set[str]]:
    """Return the error codes of docs/api.md by their status."""
    text = (Path(settings.BASE_DIR) / "docs/api.md").read_text()
    found: dict[int, set[str]] = {}
    for code, status in re.findall(r"^\| `([a-z_]+)` \| (\d{3}) \| [^|]+ \|$", text, re.MULTILINE):
        found.setdefault(int(status), set()).add(code)
    return found


def complaints_about(request: Request, answer: Answer) -> Iterator[str]:
    """Yield what is wrong with an answer."""
    is_api = request.path.startswith(API)
    is_refusal = answer.status >= 400
    if answer.status >= 500 and not _is_documented(request, answer):
        yield f"status {answer.status}"
    try:
        text = answer.text
    except UnicodeDecodeError:
        yield "the answer is no UTF-8"
        return
    if found := [trace for trace in TRACES if trace in text and trace.encode() not in request.body]:
        yield f"it shows {found}"
    if answer.media_type == "text/html" and MARK in text:
        yield "a page echoes what was sent"
    if answer.media_type == "application/json" and text:
        yield from _complaints_about_json(text)
    if is_api and is_refusal and request.method != "HEAD":
        yield from _complaints_about_error(answer, text)
    if not is_api and is_refusal and not text and request.method != "HEAD" and answer.status != 405:
        yield "a page is empty"
    is_private = (
        is_api or b"sessionid=" in request.header("cookie") or "sessionid=" in answer.headers.get("set-cookie", "")
    )
    is_everybodys = request.path.startswith("/static/") or request.path == "/api/schema/"
    if is_private and answer.headers.get("cache-control") != "no-store" and not is_everybodys:
        yield "what is private may be stored"
    if any("\n" in value or "\r" in value for value in answer.headers.values()):
        yield "a header has more than one line"


def complaints_about_log(records: list[logging.LogRecord]) -> Iterator[str]:
    for record in records:
        if record.name.startswith("django.security."):  # what Django calls suspicious, each a 400
            continue
        if str(getattr(record, "subject", "")).startswith("share:"):  # a report, of which operators are told
            continue
        if record.exc_info or record.levelno >= logging.ERROR:
            yield f"logged by {record.name}: {record.getMessage()[:300]} {_tail_of(record)}"


def _is_documented(request: Request, answer: Answer) -> bool:
    """Return whether the answer is a 503 that is documented: of /readyz, and of the API where nobody can answer."""
    return answer.status == 503 and (request.path == "/readyz" or '"no_model"' in answer.text)


def _complaints_about_json(text: str) -> Iterator[str]:
    try:
        json.dumps(json.loads(text), ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        yield f"its JSON cannot be read: {error!r}"


def _complaints_about_error(answer: Answer, text: str) -> Iterator[str]:
    if answer.media_type != "application/json":
        yield f"an error of the API is {answer.media_type}"
        return
    error: Any = json.loads(text)
    if not isinstance(error, dict) or not error.keys() >= ERROR_FIELDS or error.keys() - ERROR_FIELDS - MORE_FIELDS:
        yield f"an error of the API is not in the shape of all: {text[:200]}"
        return
    if error["request_id"] != answer.headers.get("x-request-id") or not error["detail"]:
        yield f"an error of the API without its id or its sentence: {text[:200]}"
    if error["code"] not in documented_codes().get(answer.status, set()):
        yield f"an error of the API that docs/api.md lacks: {answer.status} {error['code']}"
    if ("retry_after" in error) != ("retry-after" in answer.headers):
        yield "retry_after and Retry-After do not agree"


def _tail_of(record: logging.LogRecord) -> str:
    """Return where the error was raised."""
    if not record.exc_info or record.exc_info[2] is None:
        return ""
    trace: Any = record.exc_info[2]
    places = []
    while trace is not None:
        places.append(f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return (
        f"{record.exc_info[0].__name__ if record.exc_info[0] else ''} {record.exc_info[1]} at {' '.join(places[-6:])}"
    )
