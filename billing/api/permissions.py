"""Who may use the API."""

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework_simplejwt.tokens import Token

from accounts.http import user_id_of
from accounts.keys import came_with_key
from billing.entitlements import check_api


class PlanHasApi(BasePermission):
    """Programs, which come with a token or a key, need a plan with the API; a page of the site, with its session, does
    not.

    Not asked where a view has permissions of its own: a program can always log in, and see what its plan is.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        """Raises ApiNotInPlan, whose code says more than that something is forbidden."""
        if isinstance(request.auth, Token) or came_with_key(request):
            check_api(user_id_of(request))
        return True
