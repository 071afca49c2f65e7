"""The API of API keys, for members alone: a key neither sees nor makes nor revokes one."""

from uuid import UUID, uuid4

from rest_framework import status
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.http import member_of, peer_of, user_id_of
from accounts.keys import access_key, list_keys, make_key, revoke_key
from billing.entitlements import check_api
from chat.api.serializers import ApiKeySerializer, NewKeySerializer


@api_view(["GET", "POST"])
def api_keys(request: Request) -> Response:
    """List your keys, the latest first; or make one. 201 with `key`, which is shown this once."""
    if request.method == "GET":
        return Response({"results": ApiKeySerializer(list_keys(user_id_of(request)), many=True).data, "next": None})
    check_api(user_id_of(request))
    serializer = NewKeySerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    key_id = serializer.validated_data.get("id") or uuid4()
    key, secret = make_key(member_of(request), serializer.terms(), peer=peer_of(request), key_id=key_id)
    return Response({**ApiKeySerializer(key).data, "key": secret}, status=status.HTTP_201_CREATED)


@api_view(["GET", "DELETE"])
def api_key(request: Request, key_id: UUID) -> Response:
    """One key. DELETE revokes it: within a second nothing more is done with it, anywhere."""
    key = access_key(user_id_of(request), key_id)
    if request.method == "DELETE":
        revoke_key(key, peer=peer_of(request))
        return Response(status=status.HTTP_204_NO_CONTENT)
    return Response(ApiKeySerializer(key).data)
