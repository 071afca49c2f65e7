"""The serializers of the history API."""

from typing import Any, TypedDict

import msgspec
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from history.models import Conversation, Export, Folder, Import
from history.temporary import gone_at
from history.transfer.refusals import place_words, refusal_sentence


class ImportErrorBody(TypedDict):
    """Why a file was refused, and where in it something is wrong."""

    code: str
    detail: str
    place: str


class MarkField(serializers.BooleanField):
    """A mark that is True or null in its row."""

    def get_attribute(self, instance: Any) -> bool:
        return bool(super().get_attribute(instance))


class ListSerializer(serializers.Serializer[Any]):
    """Which conversations are listed: `in` the list, the archive or the trash; of which `folder`; from where on."""

    folder = serializers.UUIDField(required=False, default=None)
    after = serializers.CharField(required=False, allow_blank=True, default="")

    def get_fields(self) -> dict[str, Any]:
        """`in` cannot be the name of an attribute."""
        return {**super().get_fields(), "in": serializers.ChoiceField(["list", "archive", "trash"], default="list")}


class ForeverSerializer(serializers.Serializer[Any]):
    forever = serializers.BooleanField(required=False, default=False)


class FolderDeletionSerializer(serializers.Serializer[Any]):
    conversations = serializers.ChoiceField(["keep", "trash"], default="keep")


class ConversationSerializer(serializers.ModelSerializer[Conversation]):
    """A conversation. `leaf_id` is the last turn of the branch that was chosen; null is the turn asked last. `gone_at`
    is when a temporary one is gone; null for any other."""

    title = serializers.CharField(max_length=200)
    folder_id = serializers.UUIDField(allow_null=True)
    is_pinned = MarkField()
    is_archived = MarkField()

    leaf_id = serializers.UUIDField(allow_null=True)
    gone_at = serializers.SerializerMethodField()

    class Meta:
        model = Conversation
        fields = (
            *("id", "title", "turn_count", "leaf_id", "folder_id", "is_pinned", "is_archived"),
            *("trashed_at", "gone_at", "created_at", "updated_at"),
        )
        read_only_fields = ("turn_count", "trashed_at", "created_at", "updated_at")

    def get_gone_at(self, conversation: Conversation) -> str | None:
        """When a temporary conversation will be gone; null for any other."""
        moment = gone_at(conversation)
        return serializers.DateTimeField().to_representation(moment) if moment else None


class NewConversationSerializer(serializers.Serializer[Conversation]):
    """A client may choose the id, so that it can be sent again without making two. A `temporary` conversation gets its
    id here, and has no title and no folder."""

    id = serializers.UUIDField(required=False)
    title = serializers.CharField(max_length=200, required=False, allow_blank=True, default="")
    folder_id = serializers.UUIDField(required=False, allow_null=True, default=None)
    temporary = serializers.BooleanField(required=False, default=False)

    def validate(self, fields: dict[str, Any]) -> dict[str, Any]:
        given = {name: _("A temporary conversation has none of its own.") for name in fields if fields[name]}
        given.pop("temporary", None)
        if fields["temporary"] and given:
            raise serializers.ValidationError(given)
        return fields


class FolderSerializer(serializers.ModelSerializer[Folder]):
    """A folder. `model` is the id of the model a page begins its chats with, or empty; `instructions` go to the model
    with every question."""

    id = serializers.UUIDField(required=False)

    class Meta:
        model = Folder
        fields = ("id", "name", "model", "instructions", "created_at")
        read_only_fields = ("created_at",)


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

    def get_error(self, row: Import) -> ImportErrorBody | None:
        if not row.error:
            return None
        return {"code": row.error, "detail": refusal_sentence(row.error), "place": place_words(row.place)}


class ExportSerializer(serializers.ModelSerializer[Export]):
    """An export of everything: `done` of `total` conversations are in it; `size` is in bytes."""

    class Meta:
        model = Export
        fields = ("id", "status", "total", "done", "size", "created_at", "finished_at")
