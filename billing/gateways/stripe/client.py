"""How Stripe is asked: with a limit for the whole operation, and with errors that say whether to try again."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import stripe
from django.conf import settings

from billing.gateways.base import SECONDS, GatewayRefused, GatewayUnavailable, deadline

Data = dict[str, Any]
"""An object of Stripe's, as it was sent."""

MISSING = "resource_missing"


@contextmanager
def asking(seconds: float = SECONDS) -> Iterator[stripe.StripeClient]:
    """Give a client for one operation, which takes at most so long. Raises GatewayUnavailable, GatewayRefused.

    A refused key or permission is what an operator mends: it is worth trying again.
    """
    http = _Http(seconds)
    try:
        yield _client(http)
    except (stripe.InvalidRequestError, stripe.CardError) as error:
        raise GatewayRefused(error.code or "invalid_request") from error
    except stripe.IdempotencyError as error:
        if error.code == "idempotency_key_in_use":
            raise GatewayUnavailable(error.code) from error
        raise GatewayRefused("idempotency_error") from error
    except stripe.StripeError as error:
        raise GatewayUnavailable(type(error).__name__) from error
    finally:
        http.close()  # type: ignore[no-untyped-call]


def plain(found: stripe.StripeObject) -> Data:
    """Return what was sent as dicts and lists, which JSON can hold."""
    return found.to_dict(for_json=True)


def every(found: "stripe.ListObject[Any]") -> list[Data]:
    """Return all of a list, page after page."""
    return [plain(one) for one in found.auto_paging_iter()]


def is_missing(error: stripe.InvalidRequestError) -> bool:
    return error.code == MISSING


def _client(http: "_Http") -> stripe.StripeClient:
    simulated = settings.SIMULATED_STRIPE_URL
    return stripe.StripeClient(
        settings.STRIPE_SECRET_KEY,
        stripe_version=settings.STRIPE_API_VERSION,
        http_client=http,
        base_addresses={"api": simulated} if simulated else None,
        max_network_retries=0,  # who calls tries again, with the same key
    )


class _Http(stripe.RequestsClient):
    """Each request may take what is left of the operation's time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._deadline = deadline(seconds)

    def request(  # type: ignore[override]  # the SDK's own class is at odds with its base, too
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        self._timeout = self._deadline - time.monotonic()
        if self._timeout <= 0:
            raise GatewayUnavailable("The operation took too long.")
        return super().request(method, url, headers, post_data)
