"""The lines of a batch's file, in OpenAI's format: `{"custom_id", "method", "url", "body"}`.

https://platform.openai.com/docs/api-reference/batch/request-input
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any
from uuid import UUID

import msgspec
from django.utils.crypto import salted_hmac
from msgspec import Raw, Struct

from accounts.models import ApiKey
from chat.api.openai.errors import openai_error
from chat.api.openai.requests import BadParameter, asked_of, read_request
from chat.batches.refusals import LINE_PROBLEMS
from chat.models import Batch, BatchLine
from chat.turns.completing import Completion
from core.errors import DomainError
from history.temporary import completion_id_of

MAX_LINE_BYTES = 12_000_000
"""As much as a request to `/v1/chat/completions` may have (config/bodies.py)."""
MAX_CUSTOM_ID = 256
URL = "/v1/chat/completions"


class LineProblem(DomainError):
    """What is wrong with a line, before its request is looked at."""

    def __init__(self, code: str) -> None:
        super().__init__(LINE_PROBLEMS[code], code=code)


@dataclass(frozen=True, slots=True)
class FileLine:
    """A line, without its end, and where the next one begins. Where it is too long, `raw` is its beginning."""

    number: int
    position: int
    following: int
    raw: bytes

    @property
    def is_blank(self) -> bool:
        return not self.raw.strip()


class _InputLine(Struct):
    custom_id: Raw = Raw(b"null")
    method: Raw = Raw(b'"POST"')
    url: Raw = Raw(b'"/v1/chat/completions"')
    body: Raw = Raw(b"null")


_decode = msgspec.json.Decoder(_InputLine).decode
_MAX_WORD_BYTES = 12 * MAX_CUSTOM_ID + 2
"""Of an id, a method or an address, each character of which may be two escapes of six bytes. Of a longer value millions
of objects could be made, for which the interpreter stands still."""


def read_lines(file: IO[bytes], position: int, number: int) -> Iterator[FileLine]:
    """Yield the lines from `position` on, the first of which is the `number`th."""
    file.seek(position)
    while raw := file.readline(MAX_LINE_BYTES + 2):
        following = position + len(raw)
        yield FileLine(number, position, following, raw.rstrip(b"\r\n"))
        position = following
        number += 1


def read_custom_id(line: FileLine) -> tuple[str, bytes]:
    """Return the id of a line and the body of its request; raises LineProblem."""
    if len(line.raw) > MAX_LINE_BYTES:
        raise LineProblem("line_too_long")
    try:
        found = _decode(line.raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LineProblem("line_not_json") from error
    custom_id, body = _word(found.custom_id), bytes(found.body)
    if not 0 < len(custom_id) <= MAX_CUSTOM_ID or "\0" in custom_id:
        raise LineProblem("custom_id_missing")
    if _word(found.method) != "POST":
        raise LineProblem("method_wrong")
    if _word(found.url) != URL:
        raise LineProblem("url_wrong")
    if not body.startswith(b"{"):
        raise LineProblem("body_missing")
    return custom_id, body


def _word(raw: Raw) -> str:
    """Return a short text; empty for any other value."""
    try:
        return _decode_word(raw) if len(bytes(raw)) <= _MAX_WORD_BYTES else ""
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


_decode_word = msgspec.json.Decoder(str).decode


def completion_of(body: bytes, *, turn_id: UUID, key: ApiKey | None, most_micros: int | None = None) -> Completion:
    """Return what the body of a line asks; raises LineProblem, BadParameter, or BadFile for its images."""
    wanted = read_request(body)
    if wanted.stream:
        raise LineProblem("stream_wrong")
    return Completion(
        turn_id=turn_id,
        asked=asked_of(wanted),
        model=wanted.model,
        effort=wanted.reasoning_effort or "",
        max_output=wanted.max_output,
        key=key,
        in_batch=True,
        most_micros=most_micros,
    )


def turn_id_of(batch: Batch, number: int, tries: int) -> UUID:
    """Return the id of the turn that answers a line: the same whichever worker asks, and another with each try. Nobody
    else can tell it, and use it first."""
    parts = f"{batch.pk}\n{number}\n{tries}"
    return completion_id_of(salted_hmac("chat.batches", parts, algorithm="sha256").digest())


def read_body(file: IO[bytes], line: BatchLine) -> bytes:
    """Return the body of a line that was checked before. Raises LineProblem where the file is another than it was."""
    file.seek(line.position)
    raw = file.read(line.length)
    custom_id, body = read_custom_id(FileLine(line.number, line.position, line.position + line.length, raw))
    if custom_id != line.custom_id:
        raise LineProblem("line_not_json")
    return body


def describe_problem(number: int, error: DomainError) -> dict[str, Any]:
    """Return what is wrong with a line, as the API says it: codes are those that the request alone would be refused
    with."""
    parameter = error.parameter if isinstance(error, BadParameter) else ""
    _status, body = openai_error(error.code, str(error.message), status=error.status, parameter=parameter)
    said = body["error"]
    return {"line": number, "code": said["code"], "param": said["param"], "detail": said["message"]}
