"""The user who sent a request, where only members may."""

from django.http import HttpRequest
from rest_framework.request import Request

from accounts.models import User


def user_id_of(request: Request) -> int:
    """Return the id of the authenticated user."""
    user_id = request.user.pk
    assert isinstance(user_id, int)
    return user_id


def member_of(request: HttpRequest) -> User:
    """Return the user who is logged in, in a view that only members reach."""
    assert isinstance(request.user, User)
    return request.user
