"""Tells an address of its owner's that a batch is over, as Standard Webhooks says: https://www.standardwebhooks.com

Whoever answers with another status than 2xx, or not at all, is told again, later each time. The batch is over either
way. Nobody is told through an address inside the operator's network, unless the operator wants that.
"""

import asyncio
import datetime as dt
import ipaddress
import logging
import secrets
import socket
from base64 import b64encode
from threading import BoundedSemaphore
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from celery import shared_task
from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from kombu.exceptions import OperationalError
from standardwebhooks import Webhook

from accounts.encryption import CannotDecrypt, decrypt, encrypt
from chat.models import Batch
from core import rows
from core.errors import DomainError
from core.sweeps import PAGE_SIZE, guard

logger = logging.getLogger(__name__)

PAUSES = tuple(dt.timedelta(seconds=seconds) for seconds in (5, 60, 300, 1_800, 7_200, 18_000, 36_000, 86_400))
"""After each try that failed; after the last of them nobody is told any more."""
TIMEOUT_SECONDS = 15
SENDING_LASTS = dt.timedelta(seconds=60)
"""Who sends one and has died has it sent again after that."""
SECRET_BYTES = 24
_sending = BoundedSemaphore(1)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_INSIDE = tuple(map(ipaddress.ip_network, ("::/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "fec0::/10")))
"""What Python takes for global: addresses of version 4 in forms of local use, and what was private before fc00::/7
(RFC 4291, 2765, 8215 and 3879)."""


class BadWebhook(DomainError):
    code = "bad_webhook"
    message = _("A webhook needs an address that begins with “https://” and is open to the internet.")


class _NotPublic(OSError):
    """The address leads into a network that is not open to everybody."""


def make_webhook_secret() -> tuple[str, str]:
    """Return a new secret, and as it is stored."""
    secret = "whsec_" + b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    return secret, encrypt(secret)


def check_webhook(url: str) -> str:
    """Return the address; raises BadWebhook for one that nobody could be told at. What its name leads to is looked at
    when it is used."""
    try:
        parts = urlsplit(url)
        _port = parts.port
    except ValueError as error:
        raise BadWebhook from error
    schemes = ("https", "http") if settings.BATCH_WEBHOOKS_INSIDE else ("https",)
    is_whole = parts.scheme in schemes and parts.hostname and not parts.username and not parts.password
    if not is_whole or len(url) > 500 or not url.isascii() or any(ord(character) <= 32 for character in url):
        raise BadWebhook
    try:
        _check_public(parts.hostname or "")
    except _NotPublic as error:
        raise BadWebhook from error
    return url


def webhook_fields(batch: Batch) -> dict[str, Any]:
    """Return what to write into a batch that ends now, so that its owner is told."""
    return {"webhook_due_at": timezone.now()} if batch.webhook_url else {}


def tell_soon(batch: Batch) -> None:
    """Have a worker tell of a batch that is over. Without a broker beat's task does it later."""
    if batch.webhook_url:
        try:
            send_batch_webhooks.delay()
        except OperationalError:
            logger.warning("Webhook not handed over yet", extra={"batch_id": batch.pk})


@shared_task(expires=60)
def send_batch_webhooks() -> None:
    """Tell whoever is to be told now. Sent at the end of a batch, and every 15 seconds. It takes TIMEOUT_SECONDS at
    most, and holds up no batch."""
    if _sending.acquire(blocking=False):
        try:
            send_due_webhooks()
        finally:
            _sending.release()


def send_due_webhooks() -> None:
    """Tell of all that is due, at the same time."""
    due = list(Batch.objects.filter(webhook_due_at__lte=timezone.now()).order_by("webhook_due_at")[:PAGE_SIZE])
    mine = [batch for batch in due if _take(batch)]
    if mine:
        results = asyncio.run(_send_all([(batch.webhook_url, *_message(batch)) for batch in mine]))
        for batch, status in zip(mine, results, strict=True):
            with guard("webhook", batch_id=batch.pk):
                _note(batch, status)


def _take(batch: Batch) -> bool:
    """Have the webhook to oneself for a while; return whether nobody was faster."""
    where = {"pk": batch.pk, "webhook_due_at": batch.webhook_due_at}
    return rows.update(Batch, where, {"webhook_due_at": timezone.now() + SENDING_LASTS}) == 1


def _message(batch: Batch) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers. The id is the same with each try, so that a receiver knows one again."""
    moment = timezone.now()
    data = {
        "id": str(batch.pk),
        "status": batch.status,
        "error": batch.error or None,
        "total": batch.total,
        "completed": batch.completed,
        "failed": batch.failed,
        "cost_micros": batch.cost_micros,
    }
    said = {"type": f"batch.{batch.status}", "timestamp": (batch.finished_at or moment).isoformat(), "data": data}
    body = msgspec.json.encode(said)
    headers = {"content-type": "application/json", "user-agent": f"{settings.SITE_NAME} webhooks"}
    headers |= {"webhook-id": f"msg_{batch.pk.hex}", "webhook-timestamp": str(int(moment.timestamp()))}
    try:
        signature = Webhook(decrypt(batch.webhook_secret)).sign(headers["webhook-id"], moment, body.decode())
    except CannotDecrypt:  # the receiver will not believe it, and the log says why
        signature = ""
    return body, headers | {"webhook-signature": signature}


async def _send_all(messages: list[tuple[str, bytes, dict[str, str]]]) -> list[int]:
    """Return the status of each answer; 0 where there was none."""
    connector = aiohttp.TCPConnector(socket_factory=_public_socket, limit=50, use_dns_cache=False)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=jar) as session:
        return await asyncio.gather(*(_send(session, *message) for message in messages))


async def _send(session: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str]) -> int:
    try:
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            return response.status  # what it says beside that is not read
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        logger.info("Webhook not taken", extra={"error": type(error).__name__})
        return 0


def _public_socket(found: tuple[Any, ...]) -> socket.socket:
    """Make the socket for an address that a name led to. It is looked at here, where it is connected to: a name may
    lead elsewhere each time it is asked for."""
    family, kind, protocol, _name, address = found
    _check_public(str(address[0]))
    return socket.socket(family, kind, protocol)


def _check_public(host: str) -> None:
    """Raise _NotPublic for an address that is not open to everybody; a name passes."""
    if settings.BATCH_WEBHOOKS_INSIDE:
        return
    if host.rstrip(".").lower() in ("localhost", "localhost.localdomain"):
        raise _NotPublic
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return
    if any(not one.is_global or one.is_multicast for one in (address, _inside(address))):
        raise _NotPublic
    if any(address in network for network in _INSIDE):
        raise _NotPublic


def _inside(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address of version 4 that one of version 6 stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else address)


def _note(batch: Batch, status: int) -> None:
    now, tries = timezone.now(), batch.webhook_tries + 1
    fields: dict[str, Any] = {"webhook_tries": tries, "webhook_due_at": None}
    if 200 <= status < 300:
        fields["webhook_sent_at"] = now
    elif status != 410 and tries <= len(PAUSES):  # 410: nobody wants it any more
        fields["webhook_due_at"] = now + PAUSES[tries - 1]
    rows.update(Batch, {"pk": batch.pk, "webhook_tries": batch.webhook_tries}, fields)
