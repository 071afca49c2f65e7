"""The errors that every app raises: a code for programs, a sentence for people. Each surface shows them in its way."""

from typing import Any

from django.db import OperationalError
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from redis.exceptions import RedisError, ResponseError

STORES_AWAY = (RedisError, OperationalError)
"""What is raised where Redis or a database cannot be reached."""


def is_store_away(error: BaseException) -> bool:
    """Return whether a store could not be reached, which is no error of ours, and passes; not where Redis has answered:
    a script or a key may be wrong."""
    return isinstance(error, STORES_AWAY) and not isinstance(error, ResponseError)


class DomainError(Exception):
    """Something a person asked for cannot be done.

    `code` is for programs and never changes; `message` is a plain sentence that says what to do next; `status` is the
    HTTP status; `retry_after` is in seconds, where waiting helps.
    """

    code = "error"
    status = 400
    message: str | Promise = _("That did not work. Please try again.")

    def __init__(
        self, message: str | Promise | None = None, *, code: str | None = None, retry_after: float | None = None
    ) -> None:
        self.message = message or self.message
        self.code = code or self.code
        self.retry_after = retry_after
        super().__init__(self.code)


class UnreadableRequest(DomainError):
    code = "bad_request"
    message = _("We could not read that request. Please go back and try again.")


class NotFound(DomainError):
    """It does not exist, or belongs to somebody else: the two cannot be told apart."""

    code = "not_found"
    status = 404
    message = _("That does not exist, or is not yours.")


class Conflict(DomainError):
    code = "conflict"
    status = 409
    message = _("That id is already in use.")


class RateLimited(DomainError):
    code = "rate_limited"
    status = 429
    limit: Any = None
    """Where they stand who are refused, where that is known: accounts.limits.Limit."""
    message = _("Too many requests. Please wait a moment.")


class Unavailable(DomainError):
    code = "unavailable"
    status = 503
    message = _("The service is overloaded. Please try again in a moment.")
