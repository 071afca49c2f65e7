"""The shapes of batches."""

from typing import Any, TypedDict

import msgspec
from rest_framework import serializers

from chat.batches.beginning import BatchTerms
from chat.batches.refusals import ending_sentence
from chat.models import Batch

MAX_MICROS = 10**15


class BatchErrorBody(TypedDict):
    """Why a batch was refused, or stopped before its end."""

    code: str
    detail: str


class BatchProblemBody(TypedDict):
    """What is wrong with a line. `code` and `param` are those that the request alone would be refused with."""

    line: int
    code: str
    param: str | None
    detail: str


class NewBatchSerializer(serializers.Serializer[Any]):
    """A file, and what is to be done with it."""

    file = serializers.FileField(allow_empty_file=True, max_length=None)
    start = serializers.BooleanField(default=False)
    max_cost_micros = serializers.IntegerField(min_value=0, max_value=MAX_MICROS, required=False)
    webhook_url = serializers.CharField(max_length=500, default="", allow_blank=True)

    def batch_terms(self) -> BatchTerms:
        sent = self.validated_data
        return BatchTerms(
            starts_itself=sent["start"],
            max_cost_micros=sent.get("max_cost_micros"),
            webhook_url=sent["webhook_url"],
        )


class StartBatchSerializer(serializers.Serializer[Any]):
    max_cost_micros = serializers.IntegerField(min_value=0, max_value=MAX_MICROS, required=False)


class BatchSerializer(serializers.ModelSerializer[Batch]):
    error = serializers.SerializerMethodField()
    problems = serializers.SerializerMethodField()
    webhook_url = serializers.SerializerMethodField()

    class Meta:
        model = Batch
        fields = (
            "id",
            "name",
            "size",
            "status",
            "error",
            "problems",
            "total",
            "completed",
            "failed",
            "estimate_micros",
            "most_micros",
            "max_cost_micros",
            "cost_micros",
            "webhook_url",
            "webhook_sent_at",
            "created_at",
            "started_at",
            "finished_at",
        )

    def get_error(self, batch: Batch) -> BatchErrorBody | None:
        if not batch.error:
            return None
        return BatchErrorBody(code=batch.error, detail=ending_sentence(batch.error))

    def get_problems(self, batch: Batch) -> list[BatchProblemBody]:
        found: list[BatchProblemBody] = msgspec.json.decode(batch.problems or "[]")
        return found

    def get_webhook_url(self, batch: Batch) -> str | None:
        return batch.webhook_url or None


class SentBatchSerializer(BatchSerializer):
    """With the secret of its webhook, which is shown this once."""

    webhook_secret = serializers.SerializerMethodField()

    class Meta(BatchSerializer.Meta):
        fields = (*BatchSerializer.Meta.fields, "webhook_secret")  # type: ignore[assignment]

    def get_webhook_secret(self, _batch: Batch) -> str | None:
        return self.context["secret"] or None
