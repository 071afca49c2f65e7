"""Every error of a provider. A turn stores the `code`; a provider's own text goes no further than its adapter."""

from math import isfinite

MAX_RETRY_AFTER_SECONDS = 86_400.0
REDIRECTS = range(300, 400)
GATEWAY_TIMEOUTS = (504, 524)
"""The provider was asked and did not answer in time: who says so stands in between."""


class ProviderError(Exception):
    """`retryable`: the same request may work in a moment. `retry_after`: seconds the provider asks to wait, at most a
    day; None where it asked for nothing, or for what is not a time. `model` is the key of the model that failed, once
    that is known."""

    code = "unknown"
    retryable = False
    ends_accepted_request = False

    def __init__(self, *, status: int | None = None, retry_after: float | None = None) -> None:
        self.status = status
        self.retry_after = _believe(retry_after)
        self.model = ""
        super().__init__(f"{self.code} (status {status})" if status else self.code)

    @property
    def may_be_billed(self) -> bool:
        """Whether the provider may charge for the request, once it was sent (docs/adr/0006). What it answers with the
        status of an error, or refuses in another way, it has not worked on."""
        return self.ends_accepted_request and (self.status is None or self.status in GATEWAY_TIMEOUTS)


class AuthenticationFailed(ProviderError):
    code = "authentication"


class PermissionRefused(ProviderError):
    code = "permission"


class ModelNotFound(ProviderError):
    code = "not_found"


class ProviderRateLimited(ProviderError):
    code = "rate_limited"
    retryable = True


class Overloaded(ProviderError):
    code = "overloaded"
    ends_accepted_request = True
    retryable = True


class TimedOut(ProviderError):
    code = "timeout"
    ends_accepted_request = True
    retryable = True


class ConnectionFailed(ProviderError):
    code = "connection"
    ends_accepted_request = True
    retryable = True


class NotReached(ConnectionFailed):
    """No connection could be made: nothing was asked."""

    ends_accepted_request = False


class PromptTooLong(ProviderError):
    code = "context_exceeded"


class Redirected(ProviderError):
    """The provider sends us to another address, which would get the key and the question: nobody is followed."""

    code = "redirected"


class ContentFiltered(ProviderError):
    code = "content_filter"
    ends_accepted_request = True


class BadRequest(ProviderError):
    code = "bad_request"


class BadResponse(ProviderError):
    code = "bad_response"
    ends_accepted_request = True
    retryable = True


class Truncated(ProviderError):
    """The stream ended without saying why."""

    code = "truncated"
    ends_accepted_request = True
    retryable = True


def _believe(seconds: float | None) -> float | None:
    return None if seconds is None or not isfinite(seconds) else min(max(0.0, seconds), MAX_RETRY_AFTER_SECONDS)


def error_from_status(status: int, *, retry_after: float | None = None) -> ProviderError:
    """Return the error that an HTTP status means when its body says nothing more."""
    kinds: dict[int, type[ProviderError]] = {
        400: BadRequest,
        401: AuthenticationFailed,
        402: PermissionRefused,
        403: PermissionRefused,
        404: ModelNotFound,
        408: TimedOut,
        409: Overloaded,
        413: PromptTooLong,
        422: BadRequest,
        429: ProviderRateLimited,
        504: TimedOut,
    }
    kind = kinds.get(status) or (Overloaded if status >= 500 else Redirected if status in REDIRECTS else ProviderError)
    return kind(status=status, retry_after=retry_after)
