"""The limits of every route of the API: REST framework asks here before each view, after who it is."""

from typing import Any

from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from accounts import limits
from accounts.http import peer_of
from accounts.keys import key_of
from accounts.models import User
from billing.entitlements import requests_per_minute_of
from core.errors import RateLimited


class RequestThrottle(BaseThrottle):
    def allow_request(self, request: Request, view: Any) -> bool:
        """Count a request, of its person (in their plan), of its key, and at its address; raises RateLimited. The
        answer says how many are left (config/middleware.py)."""
        user, key = request.user, key_of(request)
        user_id = user.pk if isinstance(user, User) else None
        limit: limits.Limit | None = None
        try:
            limit = limits.count_request(
                user_id=user_id,
                peer=peer_of(request),
                per_minute=None if user_id is None else requests_per_minute_of(user_id),
                key=None if key is None or key.requests_per_minute is None else (str(key.pk), key.requests_per_minute),
                route=getattr(view, "route_limit", None),
            )
        except RateLimited as error:
            limit = error.limit
            raise
        finally:
            limits.say_limit(request, limit)
        return True
