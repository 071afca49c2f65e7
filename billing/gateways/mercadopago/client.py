"""The SDK of Mercado Pago, with what it lacks: one deadline for all of a call, and two kinds of error.

By itself it waits 60 s three times over, sends a random idempotency key, returns errors as if they were results, and
raises what its HTTP library does.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import mercadopago
import requests
import urllib3
from mercadopago.config import RequestOptions
from mercadopago.http import HttpClient

from billing.gateways.base import SECONDS, GatewayRefused, GatewayUnavailable

API = "https://api.mercadopago.com"
LONGEST_ANSWER = 8_000_000
"""Bytes."""
PAGE = 100
TRY_AGAIN = {408, 423, 424, 425, 429}
"""Answers below 500 that are not about what was asked."""


class TokenRefused(GatewayUnavailable):
    """Mercado Pago takes our token no more, which an operator mends: what was asked is worth trying again."""


class NothingThere(GatewayRefused):
    """Mercado Pago does not know the thing that was asked for."""


class MercadoPagoClient:
    """One conversation with Mercado Pago: however many requests it takes, it is over after SECONDS."""

    def __init__(self, access_token: str, base_url: str) -> None:
        self._access_token = access_token
        self.sdk = mercadopago.SDK(access_token, http_client=_Http(base_url))

    def ask(self, call: Callable[..., Mapping[str, Any]], *given: object, key: str = "") -> Any:
        """Return what Mercado Pago answers. Raises GatewayUnavailable, GatewayRefused, and their kin TokenRefused
        and NothingThere."""
        options = RequestOptions(access_token=self._access_token, max_retries=0)
        if key:
            options.custom_headers = {"x-idempotency-key": hashlib.sha256(key.encode()).hexdigest()}
        try:
            answer = call(*given, request_options=options)
        except requests.RequestException as error:
            raise GatewayUnavailable(type(error).__name__) from error
        status, content = answer["status"], answer["response"]
        if 200 <= status < 300 and isinstance(content, dict | list):
            return content
        if status in (401, 403):
            raise TokenRefused(_code_of(content) or f"HTTP {status}")
        if status < 400 or status >= 500 or status in TRY_AGAIN:
            raise GatewayUnavailable(f"HTTP {status}")
        raise (NothingThere if status == 404 else GatewayRefused)(_code_of(content) or f"http_{status}")

    def find(self, call: Callable[..., Mapping[str, Any]], *given: object) -> dict[str, Any] | None:
        """Return the thing; None where Mercado Pago does not know it."""
        try:
            found = self.ask(call, *given)
        except NothingThere:
            return None
        if not isinstance(found, dict):
            raise GatewayUnavailable("not an object")
        return found

    def search(self, call: Callable[..., Mapping[str, Any]], filters: Mapping[str, object]) -> Iterator[dict[str, Any]]:
        """Yield all that is found, page after page."""
        offset = 0
        while True:
            page = self.ask(call, {**filters, "offset": offset, "limit": PAGE})
            # Preferences alone are called `elements`.
            found = page.get("results", page.get("elements")) if isinstance(page, dict) else None
            if not isinstance(found, list):
                raise GatewayUnavailable("not a page of results")
            yield from found
            offset += len(found)
            if len(found) < PAGE:
                return


class _Http(HttpClient):  # type: ignore[misc]  # the SDK is untyped
    def __init__(self, base_url: str) -> None:
        self._base_url = base_url.rstrip("/")
        self._ends_at = time.monotonic() + SECONDS

    def request(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        """Ask once. The SDK passes retries along, which are ours to make: with the same key."""
        sent = {name: options[name] for name in ("headers", "params", "data") if name in options}
        address = url.replace(API, self._base_url, 1)
        with requests.Session() as session:
            answer = session.request(
                method,
                address,
                timeout=urllib3.Timeout(total=self._seconds_left()),  # type: ignore[arg-type]  # its adapter takes one
                stream=True,
                allow_redirects=False,
                **sent,
            )
            body = self._read(answer)
        if not body:
            return {"status": answer.status_code, "response": None}
        try:
            return {"status": answer.status_code, "response": json.loads(body)}
        except ValueError as error:
            raise GatewayUnavailable(f"HTTP {answer.status_code}, and no JSON") from error

    def _read(self, answer: requests.Response) -> bytes:
        """Return the body. A timeout of `requests` begins anew with every byte: so the clock is looked at, too."""
        body = b""
        try:
            while piece := answer.raw.read1(65_536, decode_content=True):
                body += piece
                self._seconds_left()
                if len(body) > LONGEST_ANSWER:
                    raise GatewayUnavailable("too long an answer")
        except (OSError, urllib3.exceptions.HTTPError) as error:
            raise GatewayUnavailable(type(error).__name__) from error
        return body

    def _seconds_left(self) -> float:
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise GatewayUnavailable("no answer in time")
        return left


def _code_of(content: object) -> str:
    """Return Mercado Pago's word for a refusal: for logs, so that its length is limited."""
    if not isinstance(content, dict):
        return ""
    return str(content.get("error") or content.get("code") or content.get("message") or "")[:80]
