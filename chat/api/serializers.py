"""Shapes of the chat API."""

from typing import Any

from rest_framework import serializers

from chat.attachments.using import decode_attached
from chat.errors import file_sentence_for, sentence_for
from chat.llm.catalog import Candidate
from chat.models import Attachment
from chat.protocol import usage_of
from history.models import Turn


class TurnSerializer(serializers.ModelSerializer[Turn]):
    """A turn. `instead_of` is the model that failed before `model` answered in its place, or empty. `usage` and `cost_micros` are null while it is open, `error` is `{"code", "detail"}` or null."""

    model = serializers.SerializerMethodField()
    usage = serializers.SerializerMethodField()
    error = serializers.SerializerMethodField()
    attachments = serializers.SerializerMethodField()

    class Meta:
        model = Turn
        fields = (
            *(
                "id",
                "conversation_id",
                "parent_id",
                "seq",
                "model",
                "provider",
                "instead_of",
                "status",
                "question",
                "attachments",
                "answer",
            ),
            *("reasoning", "usage", "cost_micros", "finish_reason", "error", "trimmed_turns"),
            *("created_at", "completed_at"),
        )

    def get_model(self, turn: Turn) -> str:
        return turn.model or turn.requested_model

    def get_usage(self, turn: Turn) -> dict[str, Any] | None:
        return usage_of(turn)

    def get_attachments(self, turn: Turn) -> list[dict[str, Any]]:
        return [
            {
                "id": str(file.id),
                "kind": file.kind,
                "name": file.name,
                "media_type": file.media_type,
                "size": file.size,
                "pages": file.pages,
            }
            for file in decode_attached(turn.attachments)
        ]

    def get_error(self, turn: Turn) -> dict[str, str] | None:
        return {"code": turn.error, "detail": sentence_for(turn.error)} if turn.error else None


class AskSerializer(serializers.Serializer[Any]):
    """A question. `parent_id` absent continues the last turn, null begins a new branch at the root."""

    text = serializers.CharField(trim_whitespace=False, allow_blank=True, max_length=1_000_000)
    model = serializers.CharField(required=False, allow_blank=True, default="", max_length=100)
    parent_id = serializers.UUIDField(required=False, allow_null=True)
    turn_id = serializers.UUIDField(required=False)
    stream = serializers.BooleanField(required=False, default=False)
    attachments = serializers.ListField(child=serializers.UUIDField(), required=False, default=list, max_length=100)


class AttachmentSerializer(serializers.ModelSerializer[Attachment]):
    """A file. `status` is `uploaded`, `processing`, `ready` or `refused`, then `error` is `{"code", "detail"}`; `pages` is
    of PDFs, `width` and `height` are of images."""

    error = serializers.SerializerMethodField()

    class Meta:
        model = Attachment
        fields = (
            "id",
            "kind",
            "name",
            "media_type",
            "size",
            "pages",
            "width",
            "height",
            "status",
            "error",
            "created_at",
        )

    def get_error(self, attachment: Attachment) -> dict[str, str] | None:
        return {"code": attachment.error, "detail": file_sentence_for(attachment.error)} if attachment.error else None


class ModelSerializer(serializers.Serializer[Candidate]):
    """A model on offer. Prices are micro-US-dollars a million tokens; `included` is whether your plan has it."""

    id = serializers.CharField(source="model.key")
    label = serializers.CharField(source="model.label")  # type: ignore[assignment]  # a field here, an argument there
    remark = serializers.CharField(source="model.remark")
    provider = serializers.CharField(source="provider.name")
    tier = serializers.CharField(source="model.tier")
    context_window = serializers.IntegerField(source="model.context_window")
    max_output = serializers.IntegerField(source="model.max_output")
    input_price = serializers.IntegerField(source="model.input_price")
    output_price = serializers.IntegerField(source="model.output_price")
    included = serializers.SerializerMethodField()

    def get_included(self, candidate: Candidate) -> bool:
        return bool(self.context["allowed"].includes_tier(candidate.model.tier))
