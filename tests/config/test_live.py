"""The figures of the whole site: as Prometheus gets them at `/site`, and as operators see them."""

import datetime as dt
import json
import time
from types import SimpleNamespace
from uuid import uuid4

import msgspec
import pytest
from django.test import Client
from django.utils import timezone
from prometheus_client import generate_latest
from redis.exceptions import ConnectionError as Away

from accounts.models import User
from billing import metering, reconciliation
from billing.metering import Usage
from billing.models import GatewayEvent, Reservation, UsagePeriod
from chat.llm.breaker import FIVE_MINUTE_COUNTERS, FIVE_MINUTES_MS, OPEN_BREAKERS, PROBES
from chat.turns.queue import GROUP, QUEUE
from config import site_figures
from config.site_figures import SiteFigures, read_site, site_registry
from core import watching
from core.caching import forget_everything
from core.redis_clients import sync_redis
from core.watching import PROCESSES, Announcement, list_processes

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]


@pytest.fixture(autouse=True)
def no_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What /readyz asks is tested elsewhere."""
    monkeypatch.setattr(site_figures, "ask_everything", lambda: {"ready": False, "delivery": {"ok": False, "ms": 12.0}})


def now() -> SiteFigures:
    forget_everything()
    return read_site()


def announce(**fields: object) -> None:
    said = {"name": "here-1", "kind": "runner", "at": time.time(), "began_at": time.time() - 60, **fields}
    sync_redis().hset(PROCESSES, str(said["name"]), msgspec.json.encode(Announcement(**said)))  # type: ignore[arg-type]


def test_a_site_at_rest_has_nothing_open(catalog: None):
    figures = now()
    for name in ("turns_queued", "turns_taken", "celery_queue", "reservations_open", "reservations_oldest_seconds"):
        assert figures.get(name) == 0, name
    assert figures.get("processes_alive", "runner") == figures.get("errands_lag_seconds", "webhooks") == 0
    assert figures.items("breaker_open") == figures.items("ledger_unbalanced") == []
    assert b'tertulia_part_ready{part="delivery"} 0.0' in generate_latest(site_registry())


def test_what_waits_is_counted_with_how_long(ana: User):
    redis, key = sync_redis(), uuid4()
    redis.xgroup_create(QUEUE, GROUP, id="0", mkstream=True)
    for ago in (90, 60, 30):
        redis.xadd(QUEUE, {"turn": uuid4().bytes}, id=f"{round((time.time() - ago) * 1000)}-0")
    redis.xreadgroup(GROUP, "a-runner", {QUEUE: ">"}, count=1)
    metering.reserve(ana.pk, key, amount_micros=10_000)
    hour_ago = timezone.now() - dt.timedelta(hours=1)
    Reservation.objects.filter(pk=key).update(created_at=hour_ago)
    GatewayEvent.objects.create(gateway="stripe", event_id="e", reference_type="t", reference_id="r", due_at=hour_ago)
    announce()
    announce(name="gone-1", at=time.time() - 60)
    figures = now()
    assert (figures.get("turns_taken"), figures.get("turns_queued")) == (1, 2)
    assert figures.get("turns_queued_oldest_seconds") == pytest.approx(60, abs=5)
    assert (figures.get("reservations_open"), figures.get("reserved_micros")) == (1, 10_000)
    assert figures.get("reservations_oldest_seconds") == pytest.approx(3_600, abs=5)
    assert figures.get("errands_waiting", "webhooks") == 1
    assert figures.get("errands_lag_seconds", "webhooks") == pytest.approx(3_600, abs=5)
    assert figures.get("processes_alive", "runner") == 1


def test_what_is_done_or_not_due_does_not_wait(ana: User):
    now_, hour = timezone.now(), dt.timedelta(hours=1)
    fields = {"gateway": "stripe", "reference_type": "t", "reference_id": "r"}
    GatewayEvent.objects.create(event_id="done", due_at=now_ - hour, done_at=now_, **fields)
    GatewayEvent.objects.create(event_id="later", due_at=now_ + hour, **fields)
    figures = now()
    assert figures.get("errands_waiting", "webhooks") == figures.get("errands_lag_seconds", "webhooks") == 0


def test_a_loop_that_was_later_than_the_last_step_is_said_to_be(olga: User, monkeypatch: pytest.MonkeyPatch):
    class Ended(Exception):
        pass

    def end(_seconds: float) -> None:
        raise Ended

    lags = iter([{10.0: 0.0, float("inf"): 0.0}, {10.0: 0.0, float("inf"): 1.0}])
    monkeypatch.setattr(watching, "_read_lags", lambda: next(lags))
    monkeypatch.setattr(watching, "Event", lambda: SimpleNamespace(wait=end))
    with pytest.raises(Ended):
        watching._announce("runner")
    client = Client(HTTP_ACCEPT_LANGUAGE="en")
    client.force_login(olga)
    assert "&gt; 10,000" in client.get("/admin/live/").content.decode()


def test_what_the_nightly_proof_found_is_told_until_the_next(ana: User):
    metering.reserve(ana.pk, uuid4(), amount_micros=10_000)
    reconciliation.prove()
    assert dict(now().items("ledger_unbalanced")) == {(kind,): 0 for kind in ("periods", "accounts", "parts", "days")}
    UsagePeriod.objects.update(used_micros=1)
    reconciliation.prove()
    figures = now()
    assert figures.get("ledger_unbalanced", "periods") == 1
    assert figures.get("ledger_proved_timestamp_seconds") == pytest.approx(time.time(), abs=5)


def test_a_store_that_is_away_leaves_its_figures_out(catalog: None, monkeypatch: pytest.MonkeyPatch):

    def away() -> None:
        raise Away

    monkeypatch.setattr(site_figures, "sync_redis", away)
    figures = now()
    assert figures.get("turns_queued") is None
    assert figures.get("reservations_open") == 0


def test_operators_see_what_happens_and_htmx_gets_the_part_that_changes(olga: User, ana: User):
    client, key = Client(HTTP_ACCEPT_LANGUAGE="en"), uuid4()
    client.force_login(olga)
    metering.reserve(ana.pk, key, amount_micros=10_000)
    metering.settle(key, cost_micros=7_000, usage=Usage(1_200, 34), label="scripted")
    announce(turns=3, outcomes={"completed": 41}, pools={"redis": (2, 64)}, lag_seconds=0.005, megabytes=99)
    forget_everything()
    shown = client.get("/admin/live/").content.decode()
    assert "here-1" in shown
    for text in ("scripted", "1,234", "completed: 41", "redis: 2 / 64", "≤ 5", "Text to readers"):
        assert text in shown, text
    part = client.get("/admin/live/", HTTP_HX_REQUEST="true").content.decode()
    assert "<html" not in part
    assert "here-1" in part
    assert 'hx-trigger="every 5s"' in shown
    assert "hx-" not in client.get("/admin/live/?still=1").content.decode()


def test_what_nobody_of_ours_has_written_hides_no_figures(olga: User, catalog: None):
    redis, deep, now_ms = sync_redis(), b'{"at":' + b"[" * 100_000, round(time.time() * 1000)
    wrong = {"at": 1e300, "began_at": 1e300, "turns": 10**400, "megabytes": -(10**30), "pools": {"x": [10**40, 1]}}
    for field, value in wrong.items():
        said = {"name": field, "kind": "runner", "at": time.time(), "began_at": 0, field: value}
        redis.hset(PROCESSES, field, json.dumps(said))
    redis.hset(PROCESSES, mapping={b"\xff": b"\xff", "deep": deep})
    redis.hset(OPEN_BREAKERS, mapping={"x": "y", "a:b:c": "1e9 1 1 x", b"\xff": b"\xff"})
    redis.hset(PROBES, mapping={"scripted": "{", "deep": deep, b"\xff": "{}", "late": '{"code": "", "at": 1e300}'})
    counted = {"x": "y", b"\xff": "1", "ok|scripted|scripted": "1e9", "first:99999|scripted|scripted": "1"}
    redis.hset(f"{FIVE_MINUTE_COUNTERS}{now_ms // FIVE_MINUTES_MS}", mapping=counted)
    redis.set(reconciliation.PROVED, deep)
    announce()
    client = Client(HTTP_ACCEPT_LANGUAGE="en")
    client.force_login(olga)
    for address in ("/admin/live/", "/status/", "/admin/chat/languagemodel/health/"):
        forget_everything()
        assert client.get(address).status_code == 200, address
    assert now().get("processes_alive", "runner") == 1
    assert redis.hkeys(PROCESSES) == [b"here-1"]
    redis.delete(PROCESSES)
    redis.set(PROCESSES, "no hash")
    assert list_processes() == []
    announce()
    assert [one.name for one in list_processes()] == ["here-1"]


def test_a_process_whose_clock_is_wrong_is_seen_for_as_long_as_it_lives(monkeypatch: pytest.MonkeyPatch):
    hour = 3_600
    monkeypatch.setattr(watching, "time", lambda: time.time() + hour)  # as on another machine
    monkeypatch.setattr(watching.threading.Event, "wait", end_of_thread)
    with pytest.raises(EndOfThread):
        watching._announce("web")
    monkeypatch.undo()
    assert [one.kind for one in list_processes()] == ["web"]
    announce(name="dead-1", at=time.time() + 60)  # of before Redis's clock was set back
    assert [one.kind for one in list_processes()] == ["web"]


class EndOfThread(Exception):
    pass


def end_of_thread(*_arguments: object) -> None:
    raise EndOfThread


def test_others_do_not(olga: User, ana: User):
    ana.is_staff = True
    ana.save()
    client = Client()
    client.force_login(ana)
    assert client.get("/admin/live/").status_code == 403
    assert "/admin/live/" not in client.get("/admin/").content.decode()
    assert Client().get("/admin/live/").status_code == 302
