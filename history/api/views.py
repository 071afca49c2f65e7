"""The history API: conversations and folders. Turns are in chat/api, which can also begin a conversation."""

from typing import Any
from uuid import UUID

from rest_framework import status
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.http import user_id_of
from accounts.keys import open_to_keys
from accounts.models import ApiKey
from core.errors import Conflict, NotFound
from core.operations import Operation, Rows, described
from history import access, branches, deletion, folders, order, trash, tree
from history.api.serializers import (
    ConversationSerializer,
    FolderDeletionSerializer,
    FolderSerializer,
    ForeverSerializer,
    ListSerializer,
    NewConversationSerializer,
)
from history.errors import IdOfOtherKind, TooManyTemporary
from history.folders import TooManyFolders
from history.models import Conversation, TitledBy, new_id
from history.temporary import begin_conversation, is_temporary


@described(
    "Conversations",
    GET=Operation(
        "listConversations",
        "List your conversations.",
        query=ListSerializer,
        answers={200: Rows(ConversationSerializer, has_more=True)},
        refuses=(NotFound,),
    ),
    POST=Operation(
        "beginConversation",
        "Begin a conversation.",
        takes=NewConversationSerializer,
        answers={201: ConversationSerializer},
        refuses=(Conflict, IdOfOtherKind, NotFound, TooManyTemporary),
        example={"title": "Recipes"},
    ),
)
@open_to_keys(GET=ApiKey.Scope.HISTORY, POST=ApiKey.Scope.CHAT)
@api_view(["GET", "POST"])
def conversations(request: Request) -> Response:
    """List your conversations, last used first (`?after=` takes `next`); or begin one, 201.

    `?in=archive` lists what is archived, `?in=trash` what is in the trash, last put there first; `?folder=` those in a
    folder.
    """
    owner_id = user_id_of(request)
    if request.method == "GET":
        asked = ListSerializer(data=request.query_params)
        asked.is_valid(raise_exception=True)
        which = asked.validated_data
        page = access.list_conversations(owner_id, which["in"], folder_id=which["folder"], after=which["after"])
        return Response({"results": ConversationSerializer(page.rows, many=True).data, "next": page.next})
    serializer = NewConversationSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    fields = serializer.validated_data
    if fields["temporary"]:
        begun = begin_conversation(owner_id)
        return Response(ConversationSerializer(begun).data, status=status.HTTP_201_CREATED)
    title = fields["title"]
    titled_by = TitledBy.PERSON if title.strip() else TitledBy.WORDS
    if fields["folder_id"] is not None:
        folders.access_folder(owner_id, fields["folder_id"])
    conversation = tree.get_or_create_conversation(
        owner_id, fields.get("id") or new_id(), title=title, titled_by=titled_by, folder_id=fields["folder_id"]
    )
    return Response(ConversationSerializer(conversation).data, status=status.HTTP_201_CREATED)


@described(
    "Conversations",
    GET=Operation("getConversation", "One conversation.", answers={200: ConversationSerializer}),
    PATCH=Operation(
        "changeConversation",
        "Rename, file, pin or archive a conversation, or choose its branch.",
        takes=ConversationSerializer,
        answers={200: ConversationSerializer},
    ),
    DELETE=Operation(
        "deleteConversation",
        "Put a conversation into the trash, or remove it for good.",
        query=ForeverSerializer,
        answers={204: None},
    ),
)
@open_to_keys(GET=ApiKey.Scope.HISTORY)
@api_view(["GET", "PATCH", "DELETE"])
def conversation(request: Request, conversation_id: UUID) -> Response:
    """One conversation; PATCH changes its `title`, `folder_id`, `is_pinned`, `is_archived`, and its branch, to the one
    that the turn `leaf_id` is on. DELETE puts it into the trash; with `?forever=true` it removes it and its turns, from
    the trash too. A temporary one is read, and ended by DELETE; nothing of it can be changed."""
    owner_id = user_id_of(request)
    if request.method == "DELETE":
        return _delete(request, owner_id, conversation_id)
    if request.method == "GET":
        found = access.access_even_temporary(owner_id, conversation_id)
        return Response(ConversationSerializer(found).data)
    row = access.access_conversation(owner_id, conversation_id)
    serializer = ConversationSerializer(row, data=request.data, partial=True)
    serializer.is_valid(raise_exception=True)
    _change(row, serializer.validated_data)
    return Response(ConversationSerializer(access.access_conversation(owner_id, conversation_id)).data)


@described("Conversations", POST=Operation("restoreConversation", answers={200: ConversationSerializer}))
@api_view(["POST"])
def restore(request: Request, conversation_id: UUID) -> Response:
    """Take a conversation out of the trash, where it is in it. 404 when it is being erased."""
    owner_id = user_id_of(request)
    trash.restore_conversations(owner_id, [conversation_id])
    return Response(ConversationSerializer(access.access_conversation(owner_id, conversation_id)).data)


@described(
    "Folders",
    GET=Operation("listFolders", "List your folders by name.", answers={200: Rows(FolderSerializer)}),
    POST=Operation(
        "makeFolder",
        "Make a folder.",
        takes=FolderSerializer,
        answers={201: FolderSerializer},
        refuses=(Conflict, TooManyFolders),
    ),
)
@open_to_keys(GET=ApiKey.Scope.HISTORY)
@api_view(["GET", "POST"])
def folders_view(request: Request) -> Response:
    """List your folders by name; or make one, 201."""
    owner_id = user_id_of(request)
    if request.method == "GET":
        found = FolderSerializer(folders.list_folders(owner_id), many=True)
        return Response({"results": found.data, "next": None})
    serializer = FolderSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    folder = folders.create_folder(owner_id, **serializer.validated_data)
    return Response(FolderSerializer(folder).data, status=status.HTTP_201_CREATED)


@described(
    "Folders",
    GET=Operation("getFolder", "One folder.", answers={200: FolderSerializer}),
    PATCH=Operation("changeFolder", "Change a folder.", takes=FolderSerializer, answers={200: FolderSerializer}),
    DELETE=Operation("deleteFolder", "Delete a folder.", query=FolderDeletionSerializer, answers={204: None}),
)
@open_to_keys(GET=ApiKey.Scope.HISTORY)
@api_view(["GET", "PATCH", "DELETE"])
def folder(request: Request, folder_id: UUID) -> Response:
    """One folder; PATCH changes its `name`, `model` and `instructions`. DELETE removes it: its conversations stay, in
    no folder, or go into the trash with `?conversations=trash`."""
    row = folders.access_folder(user_id_of(request), folder_id)
    if request.method == "DELETE":
        asked = FolderDeletionSerializer(data=request.query_params)
        asked.is_valid(raise_exception=True)
        folders.delete_folder(row, with_conversations=asked.validated_data["conversations"] == "trash")
        return Response(status=status.HTTP_204_NO_CONTENT)
    if request.method == "PATCH":
        serializer = FolderSerializer(row, data=request.data, partial=True)
        serializer.is_valid(raise_exception=True)
        folders.change_folder(row, **{k: v for k, v in serializer.validated_data.items() if k != "id"})
    return Response(FolderSerializer(row).data)


def _delete(request: Request, owner_id: int, conversation_id: UUID) -> Response:
    asked = ForeverSerializer(data=request.query_params)
    asked.is_valid(raise_exception=True)
    if asked.validated_data["forever"] or is_temporary(conversation_id):
        deletion.delete_conversation(access.access_even_trashed(owner_id, conversation_id))
    else:
        trash.trash_conversations(owner_id, [access.access_conversation(owner_id, conversation_id).pk])
    return Response(status=status.HTTP_204_NO_CONTENT)


def _change(conversation: Conversation, fields: dict[str, Any]) -> None:
    """Change what a request names. A folder that is not there is refused before anything is changed."""
    owner_id, pk = conversation.owner_id, conversation.pk
    turn = branches.get_turn(conversation, fields["leaf_id"]) if fields.get("leaf_id") else None
    if "folder_id" in fields:
        order.move(owner_id, {pk: fields["folder_id"]})
    if "title" in fields:
        access.rename_conversation(conversation, fields["title"])
    for name, act in (("is_pinned", "pin"), ("is_archived", "archive")):
        if name in fields:
            order.do(owner_id, act if fields[name] else f"un{act}", {pk: None})
    if "leaf_id" in fields:
        branches.choose_branch(conversation, turn)
