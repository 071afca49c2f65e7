"""Pages speak a member's language and tell the time where they live; visitors keep what their browser says."""

from django.conf import settings
from django.db import OperationalError
from django.http import HttpRequest
from django.utils import timezone, translation
from django.utils.deprecation import MiddlewareMixin
from redis.exceptions import RedisError

from accounts.models import User


class PersonMiddleware(MiddlewareMixin):
    def process_request(self, request: HttpRequest) -> None:
        timezone.deactivate()
        if settings.SESSION_COOKIE_NAME not in request.COOKIES:
            return
        try:
            if not isinstance(request.user, User):
                return
        except (RedisError, OperationalError):
            return  # the view will meet it too, and its answer is a page
        speak_to(request.user)
        request.LANGUAGE_CODE = translation.get_language() or settings.LANGUAGE_CODE


def speak_to(user: User) -> None:
    """Switch this thread or task to the member's language and time zone."""
    translation.activate(user.locale)
    timezone.activate(user.zone)
