"""The API of batches."""

from uuid import UUID

from django.http import HttpResponseBase, StreamingHttpResponse
from rest_framework import status
from rest_framework.decorators import api_view, parser_classes
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.http import user_id_of
from accounts.keys import key_of, open_to_keys
from accounts.models import ApiKey
from chat.batches.beginning import begin_batch, cancel_batch, erase_batch, start_batch
from chat.batches.refusals import BatchesNotInPlan, BatchNotReady, BatchRunning, TooManyBatches
from chat.batches.results import RESULTS_TYPE, results_response
from chat.batches.serializers import (
    BatchSerializer,
    NewBatchSerializer,
    SentBatchSerializer,
    StartBatchSerializer,
)
from chat.batches.states import access_batch, access_sent_batch, list_batches
from chat.batches.webhooks import BadWebhook
from chat.models import Batch
from core.operations import Operation, Rows, described

CHAT = ApiKey.Scope.CHAT
BATCH_EXAMPLE = {
    "id": "0193c2a4-0d1c-7b7e-9a52-6f1d0c9b7a11",
    "name": "questions.jsonl",
    "size": 2_048_000,
    "status": "running",
    "error": None,
    "problems": [],
    "total": 10_000,
    "completed": 4_210,
    "failed": 3,
    "estimate_micros": 5_120_000,
    "most_micros": 41_000_000,
    "max_cost_micros": 10_000_000,
    "cost_micros": 2_011_450,
    "webhook_url": "https://example.com/hooks/batches",
    "webhook_sent_at": None,
    "created_at": "2026-12-01T12:00:00Z",
    "started_at": "2026-12-01T12:01:00Z",
    "finished_at": None,
}


@described(
    "Batches",
    GET=Operation(
        "listBatches",
        "List your last batches.",
        answers={200: Rows(BatchSerializer)},
        answer_example={"results": [BATCH_EXAMPLE], "next": None},
    ),
    POST=Operation(
        "sendBatch",
        "Send a file of requests, to be answered while nobody waits.",
        takes=NewBatchSerializer,
        answers={202: SentBatchSerializer},
        refuses=(
            *(BatchesNotInPlan, TooManyBatches, BadWebhook),
            *((400, "batch_missing"), (413, "batch_too_large")),
        ),
        answer_example=BATCH_EXAMPLE
        | {"status": "validating", "total": 0, "completed": 0, "failed": 0, "estimate_micros": 0, "most_micros": 0}
        | {"cost_micros": 0, "started_at": None, "webhook_secret": "whsec_…"},
    ),
)
@open_to_keys(GET=CHAT, POST=CHAT)
@api_view(["GET", "POST"])
@parser_classes([MultiPartParser])
def batches(request: Request) -> Response:
    """Your last 50 batches, the latest first; or send one as multipart/form-data: a `file` of JSON Lines in OpenAI's
    format, to `/v1/chat/completions`. 202: a worker checks all of it, and says what it may cost. With `start` it then
    starts by itself, else it waits to be started. `webhook_secret` is shown this once."""
    owner_id, key = user_id_of(request), key_of(request)
    if request.method == "GET":
        return Response({"results": BatchSerializer(list_batches(owner_id, key), many=True).data, "next": None})
    sent = NewBatchSerializer(data=request.data)
    sent.is_valid(raise_exception=True)
    batch, secret = begin_batch(owner_id, sent.validated_data["file"], sent.batch_terms(), key)
    shown = SentBatchSerializer(batch, context={"secret": secret})
    return Response(shown.data, status=status.HTTP_202_ACCEPTED)


@described(
    "Batches",
    GET=Operation("getBatch", "See how far a batch is.", answers={200: BatchSerializer}, answer_example=BATCH_EXAMPLE),
    DELETE=Operation("deleteBatch", "Erase a batch and its results.", answers={204: None}, refuses=(BatchRunning,)),
)
@open_to_keys(GET=CHAT)
@api_view(["GET", "DELETE"])
def batch(request: Request, batch_id: UUID) -> Response:
    """One batch. DELETE erases it, where it is not running."""
    found = _find(request, batch_id)
    if request.method == "GET":
        return Response(BatchSerializer(found).data)
    erase_batch(found)
    return Response(status=status.HTTP_204_NO_CONTENT)


@described(
    "Batches",
    POST=Operation(
        "startBatch",
        "Start a batch that is checked.",
        takes=StartBatchSerializer,
        answers={200: BatchSerializer},
        refuses=(BatchesNotInPlan, BatchNotReady),
        example={"max_cost_micros": 10_000_000},
        answer_example=BATCH_EXAMPLE,
    ),
)
@open_to_keys(POST=CHAT)
@api_view(["POST"])
def start(request: Request, batch_id: UUID) -> Response:
    """Start a batch whose `status` is `validated`; `max_cost_micros` is the most it may cost, in place of what was said
    when it was sent. One that runs already stays as it is. An API key starts only what was sent with it."""
    found = access_sent_batch(user_id_of(request), batch_id, key_of(request))
    wanted = StartBatchSerializer(data=request.data)
    wanted.is_valid(raise_exception=True)
    started = start_batch(found, max_cost_micros=wanted.validated_data.get("max_cost_micros"))
    return Response(BatchSerializer(started).data)


@described(
    "Batches",
    POST=Operation("cancelBatch", "Cancel a batch.", answers={202: BatchSerializer}, answer_example=BATCH_EXAMPLE),
)
@open_to_keys(POST=CHAT)
@api_view(["POST"])
def cancel(request: Request, batch_id: UUID) -> Response:
    """Ask no more lines of a batch. What is being answered is stopped, and paid for as far as it was written; what is
    there stays. One that is over stays as it is. An API key cancels only what was sent with it."""
    found = cancel_batch(access_sent_batch(user_id_of(request), batch_id, key_of(request)))
    return Response(BatchSerializer(found).data, status=status.HTTP_202_ACCEPTED)


@described(
    "Batches",
    GET=Operation("getBatchResults", "Download the results of a batch.", answers={200: {RESULTS_TYPE: str}}),
)
@open_to_keys(GET=CHAT)
@api_view(["GET"])
def results(request: Request, batch_id: UUID) -> HttpResponseBase:
    """A line of JSON for each request that is over, in OpenAI's format and in the order of the file; once the batch is
    over, for each request."""
    found: StreamingHttpResponse = results_response(_find(request, batch_id))
    return found


def _find(request: Request, batch_id: UUID) -> Batch:
    return access_batch(user_id_of(request), batch_id, key_of(request))
