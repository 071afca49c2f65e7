"""Which errors an operation of the API may answer: those that its kind brings along, and those that it names."""

from collections.abc import Iterator
from typing import Any

from rest_framework.permissions import AllowAny

from accounts.leaving import AccountClosing
from billing.api.permissions import PlanHasApi
from billing.errors import ApiNotInPlan
from config.api import TooLarge, Unexpected
from core.errors import DomainError, NotFound, RateLimited, Unavailable, UnreadableRequest
from core.operations import Operation, Refusal

SAFE = ("GET", "HEAD")
OF_EVERY_ROUTE: tuple[Refusal, ...] = (RateLimited, Unexpected, Unavailable)
OF_BODIES: tuple[Refusal, ...] = ((400, "parse_error"), UnreadableRequest, TooLarge, (415, "unsupported_media_type"))
OF_LOGGING_IN: tuple[Refusal, ...] = (
    *((401, "authentication_failed"), (401, "token_not_valid"), (401, "key_not_valid"), (403, "key_not_allowed")),
    (403, "origin_not_allowed"),
    AccountClosing,
)


def refusals_of(view: Any, method: str, path: str) -> dict[int, list[str]]:
    """Return the codes of its errors by their statuses, both in order."""
    found: dict[int, set[str]] = {}
    for status, code in map(_status_and_code, _all(view, method, path, view.operations[method])):
        found.setdefault(status, set()).add(code)
    return {status: sorted(found[status]) for status in sorted(found)}


def _all(view: Any, method: str, path: str, operation: Operation) -> Iterator[Refusal]:
    yield from OF_EVERY_ROUTE
    yield from operation.refuses
    if "{" in path:
        yield NotFound
    if operation.takes is not None or isinstance(operation.query, type):
        yield 400, "invalid"
    if operation.takes is not None or operation.takes_file:
        yield from OF_BODIES
    if view.authentication_classes:
        yield from OF_LOGGING_IN
        if AllowAny not in view.permission_classes:
            yield 401, "not_authenticated"
        if PlanHasApi in view.permission_classes:
            yield ApiNotInPlan
        if method not in SAFE:
            yield 403, "permission_denied"  # a page's token against forgery


def _status_and_code(refusal: Refusal) -> tuple[int, str]:
    if isinstance(refusal, tuple):
        return refusal
    assert issubclass(refusal, DomainError)
    return refusal.status, refusal.code
