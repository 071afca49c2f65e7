"""Notifications of payments that are not genuine change nothing, however many; and a slow gateway holds nobody up."""

import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.apps import apps
from django.db import connections
from django.test import Client

from accounts.models import User
from billing import reconciliation
from billing.models import GatewayEvent, Subscription
from tests.billing.chaos import REFUSALS, World
from tests.chat.asking import ask

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

FORGED = 5_000 if os.environ.get("SOAK") == "1" else 60
SLOW_SECONDS = 5

at_each_gateway = pytest.mark.parametrize("gateway", ["stripe", "mercadopago"])


def count_rows() -> dict[str, int]:
    models = [model for model in apps.get_models() if model._meta.app_label != "history"]
    return {model._meta.label: model._default_manager.count() for model in models}


def post(world: World, gateway: str, url: str, body: bytes, headers: Any) -> int:
    address = url.removeprefix("http://testserver")
    return Client().post(address, body, content_type="application/json", headers=headers).status_code


def notice(world: World, gateway: str) -> tuple[str, bytes, Callable[[bytes], dict[str, str]]]:
    """Somebody has bought: return the address, the body of the last notification, and how that is signed."""
    world.open_checkout(gateway, "premium", "month")
    world.pay_tab(0)
    server = world.sites[gateway].server
    found = server.state["notices"][-1]
    return found["url"], json.dumps(found["body"]).encode(), lambda body: dict(server.sign(found["url"], body))


@at_each_gateway
@pytest.mark.parametrize(
    "body", [b"null", b"5", b"[]", b"\0", b'"\0"', b"x" * 3_000_000], ids=lambda body: repr(body[:6])
)
def test_a_malformed_body_changes_nothing_signed_or_not(world: World, gateway: str, body: bytes) -> None:
    url, genuine, sign = notice(world, gateway)
    before = count_rows()
    headers = sign(genuine)
    if gateway == "stripe":  # whoever knows the secret signs what they like; Mercado Pago signs the address alone
        headers = sign(body)
    for given in (headers, {}):
        assert post(world, gateway, url, body, given) == REFUSALS[gateway]
    assert count_rows() == before


@at_each_gateway
def test_what_is_forged_or_stale_changes_nothing_and_what_is_replayed_is_one_row(
    world: World, gateway: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, body, sign = notice(world, gateway)
    before, headers, server = count_rows(), sign(body), world.sites[gateway].server
    for _ in range(3):
        world.forge(gateway)
    with monkeypatch.context() as later:
        real_time = time.time
        later.setattr(time, "time", lambda: real_time() + 400)
        assert post(world, gateway, url, body, headers) == REFUSALS[gateway]
    assert count_rows() == before
    for _ in range(3):
        assert post(world, gateway, url, body, headers) == 200
    assert count_rows() == before | {"billing.GatewayEvent": 1}
    assert server.state["notices"]


@at_each_gateway
@pytest.mark.soak
def test_however_many_are_forged_no_row_stays(world: World, gateway: str) -> None:
    url, body, _sign = notice(world, gateway)
    before, told = count_rows(), json.loads(body)
    for number in range(FORGED):
        forged = json.dumps({**told, "id": f"forged-{number}"}).encode()
        headers = {"stripe-signature": "t=1,v1=0", "x-signature": f"ts={int(time.time())},v1=0"}
        assert post(world, gateway, url, forged, headers) == REFUSALS[gateway]
    assert count_rows() == before


@at_each_gateway
def test_turns_are_opened_without_waiting_while_a_gateway_takes_five_seconds(
    world: World, gateway: str, carla: User
) -> None:
    """Nobody holds the database, of which SQLite has one writer, while a gateway is asked."""
    world.open_checkout(gateway, "premium", "month")
    world.pay_tab(0)
    world.deliver(gateway, "all")
    ask(carla)
    path = {"stripe": "/v1/", "mercadopago": "/preapproval"}[gateway]
    world.sites[gateway].post("/_control/faults", {"kind": "slow", "seconds": SLOW_SECONDS, "path": path})

    def work() -> None:
        reconciliation.work_off()
        connections.close_all()

    worker = threading.Thread(target=work)
    worker.start()
    while not GatewayEvent.objects.filter(attempts=1).exists():
        time.sleep(0.01)
    longest = 0.0
    for _ in range(3):
        began = time.monotonic()
        ask(carla)
        longest = max(longest, time.monotonic() - began)
    assert worker.is_alive()
    assert not Subscription.objects.exists()
    worker.join()
    assert Subscription.objects.get().status == "active"
    assert longest < SLOW_SECONDS / 2
