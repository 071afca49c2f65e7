"""The API of API keys, for members alone: a key neither sees nor makes nor revokes one."""

from typing import Any
from uuid import UUID, uuid4

from rest_framework import status
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.http import member_of, peer_of, user_id_of
from accounts.keys import access_key, list_keys, make_key, revoke_key
from accounts.models import ApiKey
from billing.entitlements import check_api
from billing.metering import used_by_parts
from chat.api.serializers import ApiKeySerializer, NewKeySerializer


@api_view(["GET", "POST"])
def api_keys(request: Request) -> Response:
    """List your keys, the latest first; or make one. 201 with `key`, which is shown this once."""
    if request.method == "GET":
        used_micros = used_by_parts(user_id_of(request))
        found = [_shown(key, used_micros) for key in list_keys(user_id_of(request))]
        return Response({"results": found, "next": None})
    check_api(user_id_of(request))
    serializer = NewKeySerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    key_id = serializer.validated_data.get("id") or uuid4()
    key, secret = make_key(member_of(request), serializer.terms(), peer=peer_of(request), key_id=key_id)
    return Response({**_shown(key, {}), "key": secret}, status=status.HTTP_201_CREATED)


@api_view(["GET", "DELETE"])
def api_key(request: Request, key_id: UUID) -> Response:
    """One key. DELETE revokes it: within a second nothing more is done with it, anywhere."""
    key = access_key(user_id_of(request), key_id)
    if request.method == "DELETE":
        revoke_key(key, peer=peer_of(request))
        return Response(status=status.HTTP_204_NO_CONTENT)
    return Response(_shown(key, used_by_parts(key.user_id)))


def _shown(key: ApiKey, used_micros: dict[str, int]) -> dict[str, Any]:
    return dict(ApiKeySerializer(key, context={"used_micros": used_micros}).data)
