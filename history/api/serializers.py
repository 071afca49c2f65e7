"""The serializers of the history API."""

from typing import Any

import msgspec
from rest_framework import serializers

from history.models import Conversation, Export, Import
from history.transfer.refusals import place_words, refusal_sentence


class ConversationSerializer(serializers.ModelSerializer[Conversation]):
    title = serializers.CharField(max_length=200)

    class Meta:
        model = Conversation
        fields = ("id", "title", "turn_count", "created_at", "updated_at")
        read_only_fields = ("turn_count", "created_at", "updated_at")


class NewConversationSerializer(serializers.Serializer[Conversation]):
    """A client may choose the id, so that it can be sent again without making two."""

    id = serializers.UUIDField(required=False)
    title = serializers.CharField(max_length=200, required=False, allow_blank=True, default="")


class ImportSerializer(serializers.ModelSerializer[Import]):
    """An import: how far it is, and what came of it."""

    left_out = serializers.SerializerMethodField()
    error = serializers.SerializerMethodField()

    class Meta:
        model = Import
        fields = (
            *("id", "name", "size", "status", "source", "percent", "total", "done", "imported", "known", "turns"),
            *("left_out", "error", "created_at", "finished_at"),
        )

    def get_left_out(self, row: Import) -> dict[str, int]:
        return msgspec.json.decode(row.left_out or "{}", type=dict[str, int])

    def get_error(self, row: Import) -> dict[str, Any] | None:
        if not row.error:
            return None
        return {"code": row.error, "detail": refusal_sentence(row.error), "place": place_words(row.place)}


class ExportSerializer(serializers.ModelSerializer[Export]):
    class Meta:
        model = Export
        fields = ("id", "status", "total", "done", "size", "created_at", "finished_at")
