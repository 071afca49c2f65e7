"""The serializers of the history API."""

from rest_framework import serializers

from history.models import Conversation


class ConversationSerializer(serializers.ModelSerializer[Conversation]):
    title = serializers.CharField(max_length=200)

    leaf_id = serializers.UUIDField(allow_null=True)

    class Meta:
        model = Conversation
        fields = ("id", "title", "turn_count", "leaf_id", "created_at", "updated_at")
        read_only_fields = ("turn_count", "created_at", "updated_at")


class NewConversationSerializer(serializers.Serializer[Conversation]):
    """A client may choose the id, so that it can be sent again without making two."""

    id = serializers.UUIDField(required=False)
    title = serializers.CharField(max_length=200, required=False, allow_blank=True, default="")
