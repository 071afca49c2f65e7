"""Shows pages in a member's language and time zone; for visitors, the browser's language stays."""

from django.conf import settings
from django.db import OperationalError
from django.http import HttpRequest
from django.utils import timezone, translation
from django.utils.deprecation import MiddlewareMixin
from redis.exceptions import RedisError

from accounts.models import User


class MemberLocaleMiddleware(MiddlewareMixin):
    def process_request(self, request: HttpRequest) -> None:
        timezone.deactivate()
        if settings.SESSION_COOKIE_NAME not in request.COOKIES:
            return
        try:
            if not isinstance(request.user, User):
                return
        except (RedisError, OperationalError):
            return  # the view will fail in the same way, and answer with an error page
        use_locale_of(request.user)
        request.LANGUAGE_CODE = translation.get_language() or settings.LANGUAGE_CODE


def use_locale_of(user: User) -> None:
    """Switch this thread or task to the member's language and time zone."""
    translation.activate(user.locale)
    timezone.activate(user.zone)
