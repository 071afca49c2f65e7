"""The API of API keys, for members alone: a key neither sees nor makes nor revokes one."""

from uuid import UUID, uuid4

from rest_framework import status
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.asking_again import AskedAgain, check_session
from accounts.http import member_of, peer_of, user_id_of
from accounts.keys import NothingToKeep, TooManyKeys, access_key, list_keys, make_key, revoke_key
from billing.entitlements import check_api
from billing.metering import used_by_parts
from chat.api.serializers import ApiKeySerializer, MadeKeySerializer, NewKeySerializer
from core.errors import Conflict, NotFound
from core.operations import Operation, Rows, described

KEY_EXAMPLE = {
    "id": "0193c2a4-0d1c-4b7e-9a52-6f1d0c9b7a11",
    "name": "Nightly job",
    "prefix": "ttl_1f2e3d4c",
    "scopes": ["chat"],
    "models": [],
    "monthly_credits": 500,
    "used": 0,
    "requests_per_minute": None,
    "origins": [],
    "keep_conversations": False,
    "expires_at": None,
    "created_at": "2026-11-30T12:00:00Z",
    "last_used_at": None,
    "key": "ttl_1f2e3d4c_…",
}


@described(
    "API keys",
    GET=Operation("listKeys", "List your API keys.", answers={200: Rows(ApiKeySerializer)}),
    POST=Operation(
        "makeKey",
        "Make an API key.",
        takes=NewKeySerializer,
        answers={201: MadeKeySerializer},
        refuses=(AskedAgain, Conflict, NotFound, NothingToKeep, TooManyKeys),
        example={"name": "Nightly job", "scopes": ["chat"], "monthly_credits": 500},
        answer_example=KEY_EXAMPLE,
    ),
)
@api_view(["GET", "POST"])
def api_keys(request: Request) -> Response:
    """List your keys, the latest first; or make one. 201 with `key`, which is shown this once."""
    if request.method == "GET":
        context = {"used_micros": used_by_parts(user_id_of(request))}
        found = ApiKeySerializer(list_keys(user_id_of(request)), many=True, context=context)
        return Response({"results": found.data, "next": None})
    check_session(request)
    check_api(user_id_of(request))
    serializer = NewKeySerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    key_id = serializer.validated_data.get("id") or uuid4()
    key, secret = make_key(member_of(request), serializer.terms(), peer=peer_of(request), key_id=key_id)
    made = MadeKeySerializer(key, context={"used_micros": {}, "secret": secret})
    return Response(made.data, status=status.HTTP_201_CREATED)


@described(
    "API keys",
    GET=Operation("getKey", "One API key.", answers={200: ApiKeySerializer}),
    DELETE=Operation("revokeKey", "Revoke an API key.", answers={204: None}),
)
@api_view(["GET", "DELETE"])
def api_key(request: Request, key_id: UUID) -> Response:
    """One key. DELETE revokes it: within a second nothing more is done with it, anywhere."""
    key = access_key(user_id_of(request), key_id)
    if request.method == "DELETE":
        revoke_key(key, peer=peer_of(request))
        return Response(status=status.HTTP_204_NO_CONTENT)
    return Response(ApiKeySerializer(key, context={"used_micros": used_by_parts(key.user_id)}).data)
