"""The limit of every route of the API: REST framework asks it before each view, after who it is."""

from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from accounts import limits
from accounts.http import peer_of
from accounts.models import User


class RequestThrottle(BaseThrottle):
    def allow_request(self, request: Request, view: object) -> bool:
        """Count a request; raises RateLimited."""
        user = request.user
        limits.count_request(user_id=user.pk if isinstance(user, User) else None, peer=peer_of(request))
        return True
