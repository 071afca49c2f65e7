"""What came of the lines of a batch, in OpenAI's format: one line for each request that is over.

https://platform.openai.com/docs/api-reference/batch/request-output
"""

from collections.abc import AsyncGenerator, Iterator
from typing import Any
from uuid import UUID

import msgspec
from django.http import StreamingHttpResponse
from django.utils import translation
from django.utils.http import content_disposition_header

from chat.api.openai.answers import document_of
from chat.api.openai.errors import error_of_turn, openai_error
from chat.batches.refusals import ANSWER_LOST, NOT_ASKED
from chat.models import Batch, BatchLine
from chat.turns.line_answers import LineAnswer, decode_line_answer
from core.threads import in_thread
from history.models import Turn

LINES_IN_MEMORY = 100
RESULTS_TYPE = "application/jsonl"
LOST = "answer_lost"
NOT_ASKED_CODES = {"": "batch_cancelled"}
"""The code of a line that was not asked, by that of its batch; else it is the batch's own."""

_encode = msgspec.json.Encoder().encode


def results_response(batch: Batch) -> StreamingHttpResponse:
    """Return what is there as a file to keep, made while it is sent: a page of lines is in memory."""
    response = StreamingHttpResponse(
        _in_threads(write_results(batch), translation.get_language()), content_type=RESULTS_TYPE
    )
    name = f"{batch.name.rpartition('.')[0] or batch.name}.results.jsonl"
    response["Content-Disposition"] = content_disposition_header(True, name) or "attachment"
    response["X-Content-Type-Options"] = "nosniff"
    return response


def write_results(batch: Batch) -> Iterator[bytes]:
    """Yield the lines of what is there, in the order of the file, a page at a time. While the batch runs, these are
    those that are over; after its end there is one for each request."""
    after = 0
    while page := list(BatchLine.objects.filter(batch=batch, number__gt=after).order_by("number")[:LINES_IN_MEMORY]):
        yield b"".join(_encode(found) + b"\n" for line in page if (found := result_of(batch, line)) is not None)
        after = page[-1].number


def result_of(batch: Batch, line: BatchLine) -> dict[str, Any] | None:
    """Return the result of a line; None for one that is still to come."""
    result: dict[str, Any] = {"id": f"batch_req_{line.pk}", "custom_id": line.custom_id, "response": None}
    if line.status != BatchLine.Status.DONE:
        if not batch.is_over:
            return None
        code = NOT_ASKED_CODES.get(batch.error, batch.error)
        return result | {"error": {"code": code, "message": str(NOT_ASKED)}, "cost_micros": 0}
    answer = decode_line_answer(line.answer)
    if answer.error == LOST:
        return result | {"error": {"code": LOST, "message": str(ANSWER_LOST)}, "cost_micros": line.cost_micros}
    status, body = _response_of(line.turn_id, answer)
    request_id = line.turn_id.hex if line.turn_id else None
    response = {"status_code": status, "request_id": request_id, "body": body}
    return result | {"response": response, "error": None, "cost_micros": line.cost_micros}


def _response_of(turn_id: UUID | None, answer: LineAnswer) -> tuple[int, dict[str, Any]]:
    if answer.refused_with or turn_id is None:
        return openai_error(answer.error, answer.answer, status=answer.refused_with or 500)
    fields = msgspec.structs.asdict(answer)
    del fields["refused_with"]
    turn = Turn(pk=turn_id, **fields)
    return error_of_turn(turn, is_new=False) or (200, document_of(turn))


async def _in_threads(pages: Iterator[bytes], language: str) -> AsyncGenerator[bytes]:
    """Yield the pages, each made in a thread, in the language of a request that is over by then."""

    def make() -> bytes | None:
        with translation.override(language):
            return next(pages, None)

    while (page := await in_thread(make)) is not None:
        yield page
