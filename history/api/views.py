"""The history API: conversations. Their turns are in chat/api, which can also begin one."""

from uuid import UUID

from rest_framework import status
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.http import user_id_of
from history import access, branches, deletion, tree
from history.api.serializers import ConversationSerializer, NewConversationSerializer
from history.models import TitledBy, new_id


@api_view(["GET", "POST"])
def conversations(request: Request) -> Response:
    """List your conversations, last used first (`?after=` takes `next`); or begin one, 201."""
    owner_id = user_id_of(request)
    if request.method == "GET":
        page = access.list_conversations(owner_id, after=request.query_params.get("after"))
        return Response({"results": ConversationSerializer(page.rows, many=True).data, "next": page.next})
    serializer = NewConversationSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    fields = serializer.validated_data
    title = fields["title"]
    titled_by = TitledBy.PERSON if title.strip() else TitledBy.WORDS
    conversation = tree.get_or_create_conversation(
        owner_id, fields.get("id") or new_id(), title=title, titled_by=titled_by
    )
    return Response(ConversationSerializer(conversation).data, status=status.HTTP_201_CREATED)


@api_view(["GET", "PATCH", "DELETE"])
def conversation(request: Request, conversation_id: UUID) -> Response:
    """One conversation; PATCH changes its `title`, and its branch, to the one that the turn `leaf_id` is on; DELETE
    removes it and its turns."""
    conversation_row = access.access_conversation(user_id_of(request), conversation_id)
    if request.method == "DELETE":
        deletion.delete_conversation(conversation_row)
        return Response(status=status.HTTP_204_NO_CONTENT)
    if request.method == "PATCH":
        serializer = ConversationSerializer(conversation_row, data=request.data, partial=True)
        serializer.is_valid(raise_exception=True)
        fields = serializer.validated_data
        turn = branches.get_turn(conversation_row, fields["leaf_id"]) if fields.get("leaf_id") else None
        if "title" in fields:
            access.rename_conversation(conversation_row, fields["title"])
        if "leaf_id" in fields:
            branches.choose_branch(conversation_row, turn)
    return Response(ConversationSerializer(conversation_row).data)
