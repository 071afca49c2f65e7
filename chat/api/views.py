"""The chat API: models, turns, attachments, search, shares, and tickets for the socket."""

from uuid import UUID

from asgiref.sync import async_to_sync
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpResponseBase
from rest_framework import status
from rest_framework.decorators import api_view, parser_classes
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import limits
from accounts.admission import admission_of
from accounts.http import member_of, user_id_of
from accounts.keys import key_of, open_to_keys
from accounts.limits import Act, limited_to, say_limit
from accounts.models import ApiKey, User
from billing import entitlements
from chat.api.descriptions import (
    ANSWERED,
    ASK,
    ASK_REFUSES,
    FILE_REFUSES,
    FILE_TYPES,
    MODELS,
    RATE_LIMITS,
    SHARE_REFUSES,
    STREAM,
)
from chat.api.open_streams import one_more_stream
from chat.api.serializers import (
    AskSerializer,
    AttachmentSerializer,
    ForkSerializer,
    FoundSerializer,
    ModelSerializer,
    NewShareSerializer,
    ShareSerializer,
    TicketBody,
    TurnSerializer,
    auto_model,
)
from chat.api.streams import LAST_EVENT_ID, event_stream, finished_turn, parse_event_id
from chat.attachments.erasing import erase_unused
from chat.attachments.reading import read_later
from chat.attachments.serving import access_attachment
from chat.attachments.upload import store_upload
from chat.errors import BadFile, TooManyStreams
from chat.llm.catalog import list_offered
from chat.shown.files import file_response
from chat.shown.finding import SEARCH_LIMIT, find_in_history
from chat.shown.fragments import description_of
from chat.socket.tickets import TICKET_SECONDS, issue_ticket
from chat.turns import forking
from chat.turns.by_key import check_asked_with, check_may_read
from chat.turns.limits import count_upload
from chat.turns.opening import LATEST, Question, open_or_await_turn
from chat.turns.stopping import stop_turn
from core.errors import Conflict, NotFound
from core.operations import Operation, Rows, described
from history import access, sharing
from history.api.serializers import ConversationSerializer
from history.errors import BadFilter, ForkTooLarge, IdOfOtherKind, ParentNotFinished, ShareTakenDown
from history.models import new_id
from history.sharing import Terms
from history.temporary import new_turn_id


@described("Models", GET=Operation("listModels", answers={200: Rows(ModelSerializer)}, answer_example=MODELS))
@open_to_keys(GET=ApiKey.Scope.CHAT)
@api_view(["GET"])
def models(request: Request) -> Response:
    """What may be asked: `auto`, then the models on offer, in the operator's order. A key sees those it may ask."""
    allowed, key = entitlements.entitlements_of(user_id_of(request)), key_of(request)
    only = key.model_ids if key else ()
    found = [candidate for candidate in list_offered() if not only or candidate.model.key in only]
    offered = ModelSerializer(found, many=True, context={"allowed": allowed})  # type: ignore[arg-type]  # many
    auto = [auto_model(found, allowed)] if found else []
    return Response({"results": [*auto, *offered.data], "next": None})


@described(
    "Asking",
    GET=Operation(
        "listTurns",
        "List the turns of a conversation, in the order they were asked.",
        query={"after": {"type": "string", "description": "`next` of the page before."}},
        answers={200: Rows(TurnSerializer, has_more=True)},
    ),
    POST=Operation(
        "askQuestion",
        "Ask: the answer as one document, or as server-sent events.",
        takes=AskSerializer,
        answers={200: {"application/json": TurnSerializer, "text/event-stream": str}},
        refuses=ASK_REFUSES,
        example=ASK,
        answer_example={"application/json": ANSWERED, "text/event-stream": STREAM},
        answer_headers=RATE_LIMITS,
    ),
)
@open_to_keys(GET=ApiKey.Scope.HISTORY, POST=ApiKey.Scope.CHAT)
@api_view(["GET", "POST"])
def turns(request: Request, conversation_id: UUID) -> HttpResponseBase:
    """List a conversation's turns in the order they were asked; or ask.

    A question is answered with the finished turn, or with server-sent events when `stream` is true. The conversation
    begins with its first question if the id is new. The same `turn_id` again is the same turn.
    """
    if request.method == "POST":
        return _ask(request, conversation_id)
    conversation = access.access_even_temporary(user_id_of(request), conversation_id)
    after = request.query_params.get("after", "")
    page = access.list_turns(conversation, after=int(after) if after.isdecimal() and len(after) < 10 else 0)
    return Response({"results": TurnSerializer(page.rows, many=True).data, "next": page.next})


@described("Asking", GET=Operation("getTurn", answers={200: TurnSerializer}))
@open_to_keys(GET=(ApiKey.Scope.CHAT, ApiKey.Scope.HISTORY))
@api_view(["GET"])
def turn(request: Request, turn_id: UUID) -> Response:
    """One turn, finished or not. A key that does not read the history sees those that were asked with it."""
    check_may_read(key_of(request), turn_id)
    return Response(TurnSerializer(access.access_turn(user_id_of(request), turn_id)).data)


@described(
    "Asking",
    GET=Operation(
        "followTurn",
        headers={"Last-Event-ID": "The id of the last event you have: you get exactly the rest."},
        answers={200: {"text/event-stream": str}, 204: None},
        refuses=(TooManyStreams,),
        answer_example={"text/event-stream": STREAM},
    ),
)
@open_to_keys(GET=(ApiKey.Scope.CHAT, ApiKey.Scope.HISTORY))
@api_view(["GET"])
def events(request: Request, turn_id: UUID) -> HttpResponseBase:
    """A turn's events as server-sent events, from `Last-Event-ID` on. 204 when the reader has them all."""
    check_may_read(key_of(request), turn_id)
    turn = access.access_turn(user_id_of(request), turn_id)
    last_event_id = request.headers.get("Last-Event-ID", "")
    if last_event_id == LAST_EVENT_ID:
        return Response(status=status.HTTP_204_NO_CONTENT)
    with one_more_stream(admission_of(request)) as stream:
        return event_stream(turn, parse_event_id(last_event_id), stream)


@described("Asking", POST=Operation("stopTurn", answers={202: TurnSerializer}))
@open_to_keys(POST=ApiKey.Scope.CHAT)
@api_view(["POST"])
def stop(request: Request, turn_id: UUID) -> Response:
    """Stop a turn: what was written is kept. 202; its events and its status tell when it has stopped. A key stops those
    that were asked with it."""
    check_asked_with(key_of(request), turn_id)
    turn = access.access_turn(user_id_of(request), turn_id)
    async_to_sync(stop_turn)(turn)
    return Response(TurnSerializer(turn).data, status=status.HTTP_202_ACCEPTED)


@described(
    "Asking",
    POST=Operation(
        "forkConversation",
        takes=ForkSerializer,
        answers={201: ConversationSerializer},
        refuses=(Conflict, ForkTooLarge, IdOfOtherKind, ParentNotFinished),
    ),
)
@api_view(["POST"])
def fork(request: Request, turn_id: UUID) -> Response:
    """A new conversation with copies of the turns that lead to this one, and of it. 201; the same `conversation_id`
    again returns what is there."""
    serializer = ForkSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    conversation_id = serializer.validated_data.get("conversation_id") or new_id()
    copy = forking.fork(user_id_of(request), turn_id, conversation_id)
    return Response(ConversationSerializer(copy).data, status=status.HTTP_201_CREATED)


@described(
    "Attachments",
    POST=Operation("uploadFile", takes_file=True, answers={202: AttachmentSerializer}, refuses=FILE_REFUSES),
)
@open_to_keys(POST=ApiKey.Scope.CHAT)
@api_view(["POST"])
@parser_classes([MultiPartParser])
def attachments(request: Request) -> Response:
    """Upload one `file` as multipart/form-data. 202: it is read by a worker; ask for it until `status` is `ready` or
    `refused`.

    A file no question uses is deleted after a day.
    """
    upload = request.FILES.get("file")
    if not isinstance(upload, UploadedFile):
        raise BadFile("file_missing", status=400)
    count_upload(user_id_of(request))
    attachment = store_upload(user_id_of(request), upload)
    read_later(attachment.pk)
    return Response(AttachmentSerializer(attachment).data, status=status.HTTP_202_ACCEPTED)


@described(
    "Attachments",
    GET=Operation("getFile", "One attached file, and how far it is read.", answers={200: AttachmentSerializer}),
    DELETE=Operation(
        "deleteFile", "Delete a file that no question has used.", answers={204: None}, refuses=((409, "file_used"),)
    ),
)
@open_to_keys(GET=ApiKey.Scope.CHAT, DELETE=ApiKey.Scope.CHAT)
@api_view(["GET", "DELETE"])
def attachment(request: Request, attachment_id: UUID) -> Response:
    """One attachment. DELETE removes one no question has used; a used one goes with its conversation, and this is a
    409."""
    attachment = access_attachment(user_id_of(request), attachment_id)
    if request.method == "DELETE":
        erase_unused(attachment)
        return Response(status=status.HTTP_204_NO_CONTENT)
    return Response(AttachmentSerializer(attachment).data)


@described("Attachments", GET=Operation("downloadFile", answers={200: dict.fromkeys(FILE_TYPES, bytes)}))
@open_to_keys(GET=ApiKey.Scope.HISTORY)
@api_view(["GET"])
def attachment_content(request: Request, attachment_id: UUID) -> HttpResponseBase:
    """The file as it is kept: images made anew, texts in UTF-8."""
    return file_response(user_id_of(request), attachment_id)


@described(
    "Search",
    GET=Operation(
        "search",
        "Search your turns and conversations.",
        query={
            "q": {"type": "string", "description": "Words, and filters as on the page of the search."},
            "after": {"type": "string", "description": "`next` of the page before."},
        },
        answers={200: FoundSerializer},
        refuses=(BadFilter, NotFound),
    ),
)
@limited_to(*SEARCH_LIMIT)
@open_to_keys(GET=ApiKey.Scope.HISTORY)
@api_view(["GET"])
def search(request: Request) -> Response:
    """Your turns that are as `q` says, newest first (`?after=` takes `next`); and on the first page conversations whose
    titles are, and turns that mean something similar, where the site searches by meaning."""
    after = request.query_params.get("after") or None
    text = request.query_params.get("q", "")
    found = find_in_history(member_of(request), text, after=after, with_similar=True)
    return Response(FoundSerializer(found).data)


@described(
    "Shared links",
    GET=Operation(
        "listSharesOfConversation", "List the links to a conversation.", answers={200: Rows(ShareSerializer)}
    ),
    POST=Operation(
        "shareConversation",
        "Share a conversation as it is now.",
        takes=NewShareSerializer,
        answers={201: ShareSerializer},
        refuses=(Conflict, *SHARE_REFUSES),
    ),
)
@api_view(["GET", "POST"])
def conversation_shares(request: Request, conversation_id: UUID) -> Response:
    """List the links to a conversation, the latest first; or share it as it is now, 201."""
    conversation = access.access_conversation(user_id_of(request), conversation_id)
    if request.method == "GET":
        found = sharing.list_shares(conversation.owner_id, conversation_id=conversation.pk)
        return Response({"results": ShareSerializer(found, many=True).data, "next": None})
    serializer = NewShareSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    fields = serializer.validated_data
    limits.count_of_member(Act.SHARE, conversation.owner_id)
    author = User.objects.get(pk=conversation.owner_id).name if fields["show_name"] else ""
    terms = Terms(fields.get("until_turn_id"), fields.get("expires_at"), fields["members_only"], author)
    share = sharing.create_share(conversation, terms, description_of, share_id=fields.get("id") or new_id())
    return Response(ShareSerializer(share).data, status=status.HTTP_201_CREATED)


@described("Shared links", GET=Operation("listShares", answers={200: Rows(ShareSerializer)}))
@api_view(["GET"])
def shares(request: Request) -> Response:
    """List everything you share, the latest first: 100 links at most."""
    found = sharing.list_shares(user_id_of(request))
    return Response({"results": ShareSerializer(found, many=True).data, "next": None})


@described(
    "Shared links",
    GET=Operation("getShare", "One shared link.", answers={200: ShareSerializer}),
    DELETE=Operation("stopSharing", "Stop sharing, at once.", answers={204: None}, refuses=(ShareTakenDown,)),
)
@api_view(["GET", "DELETE"])
def share(request: Request, share_id: UUID) -> Response:
    """One link; DELETE stops sharing, at once."""
    found = sharing.access_share(user_id_of(request), share_id)
    if request.method == "DELETE":
        sharing.revoke_share(found)
        return Response(status=status.HTTP_204_NO_CONTENT)
    return Response(ShareSerializer(found).data)


@described("Shared links", POST=Operation("updateShare", answers={200: ShareSerializer}, refuses=SHARE_REFUSES))
@api_view(["POST"])
def update_share(request: Request, share_id: UUID) -> Response:
    """Show the conversation as it is now, under the same link."""
    found = sharing.access_share(user_id_of(request), share_id)
    limits.count_of_member(Act.SHARE, found.owner_id)
    return Response(ShareSerializer(sharing.update_share(found, description_of)).data)


@described("Asking", POST=Operation("makeSocketTicket", answers={201: TicketBody}))
@api_view(["POST"])
def socket_tickets(request: Request) -> Response:
    """A ticket that opens one socket: `/ws/?ticket=…`. 201 with `ticket` and `expires_in` (seconds)."""
    body: TicketBody = {"ticket": issue_ticket(admission_of(request)), "expires_in": TICKET_SECONDS}
    return Response(body, status=status.HTTP_201_CREATED)


def _ask(request: Request, conversation_id: UUID) -> HttpResponseBase:
    serializer = AskSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    fields = serializer.validated_data
    question = Question(
        turn_id=fields.get("turn_id") or new_turn_id(conversation_id),
        conversation_id=conversation_id,
        text=fields.get("text", ""),
        model=fields["model"],
        effort=fields["effort"],
        parent_id=fields.get("parent_id", LATEST),
        attachments=tuple(fields["attachments"]),
        beside_id=fields.get("beside_id"),
        folder_id=fields["folder_id"],
        key=key_of(request),
    )
    with one_more_stream(admission_of(request)) as stream:
        opened = open_or_await_turn(user_id_of(request), question)
        if not opened.is_new:
            check_may_read(question.key, opened.turn.pk)
        response = event_stream(opened.turn, None, stream) if fields["stream"] else finished_turn(opened.turn, stream)
    if opened.limit is not None:
        say_limit(request, opened.limit)
    return response
