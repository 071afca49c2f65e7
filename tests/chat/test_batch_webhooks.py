"""Whoever is told of the end of a batch can check that it comes from here; nobody is told inside our own network."""

import datetime as dt
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings
from standardwebhooks import Webhook, WebhookVerificationError

from accounts.models import User
from chat.batches import webhooks
from chat.batches.webhooks import BadWebhook, check_webhook, make_webhook_secret, send_due_webhooks
from chat.models import Batch

pytestmark = [pytest.mark.stores, pytest.mark.usefixtures("catalog")]


class Receiver(HTTPServer):
    """Takes what it is told, and answers with `status`."""

    def __init__(self) -> None:
        self.status, self.taken = 200, list[tuple[dict[str, str], bytes]]()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.taken.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(outer.status)
                self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_arguments: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def receiver(settings: Settings) -> Iterator[Receiver]:
    settings.BATCH_WEBHOOKS_INSIDE = True
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ended(user: User, url: str) -> tuple[Batch, str]:
    """Return a batch that is over, and the secret of its webhook."""
    secret, stored = make_webhook_secret()
    batch = Batch.objects.create(
        owner_id=user.pk,
        name="x.jsonl",
        size=1,
        key="k",
        status=Batch.Status.COMPLETED,
        total=3,
        completed=2,
        failed=1,
        cost_micros=17,
        finished_at=timezone.now(),
        webhook_url=url,
        webhook_secret=stored,
        webhook_due_at=timezone.now(),
    )
    return batch, secret


def come_due(batch: Batch) -> Batch:
    Batch.objects.filter(pk=batch.pk, webhook_due_at__isnull=False).update(webhook_due_at=timezone.now())
    send_due_webhooks()
    batch.refresh_from_db()
    return batch


def test_it_is_signed_and_told_once(ana: User, receiver: Receiver):
    batch, secret = ended(ana, f"http://127.0.0.1:{receiver.server_port}/hook?a=b")
    send_due_webhooks()
    send_due_webhooks()
    [(headers, body)] = receiver.taken
    said = Webhook(secret).verify(body, headers)
    assert said["type"] == "batch.completed"
    assert said["data"] == {
        "id": str(batch.pk),
        "status": "completed",
        "error": None,
        "total": 3,
        "completed": 2,
        "failed": 1,
        "cost_micros": 17,
    }
    batch.refresh_from_db()
    assert (batch.webhook_due_at, batch.webhook_tries, batch.webhook_sent_at is not None) == (None, 1, True)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body.replace(b"17", b"71"), headers)
    assert secret not in json.dumps(list(Batch.objects.values()), default=str)


def test_whoever_does_not_take_it_is_told_again_later_and_at_last_no_more(ana: User, receiver: Receiver):
    receiver.status = 307
    batch, _secret = ended(ana, f"http://127.0.0.1:{receiver.server_port}/")
    for tries, pause in enumerate(webhooks.PAUSES, 1):
        batch = come_due(batch)
        assert batch.webhook_tries == tries
        due_in = batch.webhook_due_at - timezone.now()
        assert pause - dt.timedelta(seconds=20) < due_in <= pause
    assert len({headers["webhook-id"] for headers, _body in receiver.taken}) == 1
    assert come_due(batch).webhook_due_at is None
    assert len(receiver.taken) == len(webhooks.PAUSES) + 1  # no redirect was followed
    other, _secret = ended(ana, f"http://127.0.0.1:{receiver.server_port}/")
    receiver.status = 410
    assert (come_due(other).webhook_due_at, other.webhook_sent_at) == (None, None)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
def test_wherever_a_name_leads_nobody_is_told_inside_our_network(
    ana: User, receiver: Receiver, settings: Settings, host: str
):
    """The address was good when it was given, and leads elsewhere now."""
    settings.BATCH_WEBHOOKS_INSIDE = False
    batch, _secret = ended(ana, f"http://{host}:{receiver.server_port}/")
    batch = come_due(batch)
    assert receiver.taken == []
    assert (batch.webhook_tries, batch.webhook_due_at is not None, batch.webhook_sent_at) == (1, True, None)


@pytest.mark.parametrize(
    "url",
    [
        *("http://example.com/", "ftp://example.com", "https://", "https://user:word@example.com/", "//example.com"),
        *(
            "https://10.1.2.3/",
            "https://169.254.169.254/latest/",
            "https://[::1]/",
            "https://0.0.0.0/",
            "https://a b.c/",
        ),
        *("https://[64:ff9b:1::a00:1]/", "https://[fec0::1]/", "https://[::7f00:1]/", "https://[2002:7f00:1::]/"),
        *("https://[64:ff9b::a00:1]/", "https://[fd00::1]/", "https://100.64.0.1/", "https://224.0.0.1/"),
        *("https://example.com:port/", "https://exämple.com/", "https://[fe80::1%25eth0]/", "https://localhost./"),
    ],
)
def test_an_address_that_nobody_could_be_told_at_is_refused(url: str):
    with pytest.raises(BadWebhook):
        check_webhook(url)


def test_an_address_that_is_open_to_the_internet_is_taken():
    for url in ("https://example.com/hooks?x=1", "https://example.com:8443/", "https://93.184.215.14/"):
        assert check_webhook(url) == url
