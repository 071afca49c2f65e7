"""Each fault that is planted is found by `manage.py doctor`, which says what to do; nothing is found where none is."""

import datetime as dt
import http.client
import importlib
import json
import shutil
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
import uvicorn
from django.core.management import call_command
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder
from django.urls import reverse
from pymongo import MongoClient
from pymongo.write_concern import WriteConcern
from pytest_django import Settings
from redis import Redis

from accounts.models import User
from chat.turns.presence import ALIVE_KEY
from config import probed
from config.asgi import application
from config.backups.keys import x25519
from config.backups.taken import TAKEN_AT, note_backup
from config.celery import app
from config.doctor import clocks
from config.doctor.examination import EXAMINATIONS
from config.embedded import ports
from core import caching, half_restored
from core.redis_clients import close_async_redis, sync_redis
from core.sweeps import SWEPT_AT, note_sweep
from testbed.provider import FakeProvider
from testbed.site import wait_for_port

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "history"])
VENDOR = connections["history"].vendor
GOOD = "another-one-for-tests-0123456789-abcdefghijklmnopqrstuvwxyz"


class Proxy(ThreadingHTTPServer):
    """A proxy before the site, as it should be, unless it is told otherwise."""

    daemon_threads = True
    site_port = 0
    holds_back, takes_posts, is_ours, adds = False, True, True, 1

    def reset(self) -> None:
        self.holds_back, self.takes_posts, self.is_ours, self.adds = False, True, True, 1


class Handler(BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        if self.command == "POST" and not self.server.takes_posts:
            self.send_error(405)
            return
        if not self.server.is_ours:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!doctype html>\n<title>It works!</title>\n")
            return
        headers = dict(self.headers)
        if self.server.adds:
            headers["X-Forwarded-For"] = headers.get("X-Forwarded-For", "") + ", 203.0.113.7" * self.server.adds
        site = http.client.HTTPConnection("127.0.0.1", self.server.site_port)
        site.request(self.command, self.path, body, headers)
        answer = site.getresponse()
        self.send_response(answer.status)
        self.end_headers()
        if self.server.holds_back:
            self.wfile.write(answer.read())
        while data := answer.read1(65_536):
            self.wfile.write(data)
        site.close()

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_arguments: Any) -> None:
        """Not to the terminal."""


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """A web process, of this process's settings and stores, and the proxy before it."""
    with Proxy(("127.0.0.1", 0), Handler) as proxy, WebServer() as server:
        proxy.site_port = server.config.port
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


class WebServer(uvicorn.Server):
    """A web process, as a thread of this one."""

    def __init__(self) -> None:
        quiet: dict[str, Any] = {"lifespan": "off", "log_config": None, "access_log": False}
        port = ports.any_free_port()
        super().__init__(uvicorn.Config(application, port=port, loop="asyncio", timeout_graceful_shutdown=1, **quiet))

    async def serve(self, sockets: Any = None) -> None:
        await super().serve(sockets)
        await close_async_redis()

    def __enter__(self) -> "WebServer":
        self._thread = threading.Thread(target=self.run, daemon=True)
        self._thread.start()
        wait_for_port(self.config.port)
        return self

    def __exit__(self, *_error: object) -> None:
        self.should_exit = True
        self._thread.join()


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    importlib.import_module("openai")  # which takes its seconds, and a probe has eight
    with FakeProvider() as provider:
        yield provider


class Place:
    """A site that is well, to plant a fault in; what is planted is undone."""

    def __init__(self, settings: Settings, patch: pytest.MonkeyPatch, proxy: Proxy, undo: ExitStack) -> None:
        self.settings, self.patch, self.proxy, self.undo = settings, patch, proxy, undo

    def configure_redis(self, name: str, value: object) -> None:
        redis = sync_redis()
        (before,) = redis.config_get(name).values()
        self.undo.callback(redis.config_set, name, before)
        redis.config_set(name, value)

    def used(self, section: str, name: str) -> int:
        return int(sync_redis().info(section)[name])


@pytest.fixture
def place(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, proxy: Proxy, provider: FakeProvider, catalog: None
) -> Iterator[Place]:
    proxy.reset()
    settings.SITE_URL = f"http://127.0.0.1:{proxy.server_address[1]}"
    settings.ALLOWED_HOSTS = ["127.0.0.1"]
    settings.TRUSTED_PROXIES = 1
    settings.JWT_SECRET_KEY = GOOD
    settings.HAS_MAIL_SERVER = True
    settings.BACKUP_RECIPIENT = [str(x25519.Identity.generate().to_public())]
    settings.SESSION_COOKIE_SECURE = settings.CSRF_COOKIE_SECURE = True
    settings.SECURE_HSTS_SECONDS = 1
    settings.GATEWAYS = {"mercadopago": "billing.gateways.mercadopago.gateway.from_settings"}
    settings.MERCADOPAGO_ACCESS_TOKEN = settings.MERCADOPAGO_COUNTRY = ""
    settings.MERCADOPAGO_WEBHOOK_SECRETS = ["secret"]
    settings.SCRIPTED_PROVIDER = False
    settings.OPENAI_COMPATIBLE_BASE_URL, settings.OPENAI_COMPATIBLE_MODELS = provider.url, ["say:hola"]
    caching.forget_everything()
    seconds, _microseconds = sync_redis().time()
    sync_redis().zadd(ALIVE_KEY, {"runner": seconds})
    note_sweep(sync_redis())
    note_backup()
    monkeypatch.setattr(app.control, "ping", lambda timeout: [{"worker@here": {"ok": "pong"}}])
    monkeypatch.setattr(probed, "GAP_SECONDS", 0.2)
    monkeypatch.setattr("config.doctor.way_in.GAP_SECONDS", 0.2)
    with ExitStack() as undo:
        yield Place(settings, monkeypatch, proxy, undo)


def states(examination: str) -> dict[str, str]:
    """The worst that is found, by subject."""
    found: dict[str, str] = {}
    for finding in EXAMINATIONS[examination]():
        assert bool(finding.remedy) == (finding.state != "ok"), finding
        if found.get(finding.subject) != "fail":
            found[finding.subject] = finding.state
    return found


# --- Faults -----------------------------------------------------------------------------------------------------------


def forget_migration(place: Place) -> None:
    recorder = MigrationRecorder(connections["default"])
    last = recorder.migration_qs.filter(app="accounts").order_by("name").last()
    assert last is not None
    place.undo.callback(recorder.record_applied, "accounts", last.name)
    recorder.record_unapplied("accounts", last.name)


def migrate_later(place: Place) -> None:
    recorder = MigrationRecorder(connections["default"])
    place.undo.callback(recorder.record_unapplied, "accounts", "9999_later")
    recorder.record_applied("accounts", "9999_later")


def break_restore(place: Place) -> None:
    place.undo.callback(half_restored.mark_restored, half_restored.mark_half_restored())


def open_folder(place: Place) -> None:
    folder = place.settings.DATA_DIR
    place.undo.callback(folder.chmod, 0o700)
    folder.chmod(0o755)


def leave_of_disk(permille: int) -> Callable[[Place], None]:
    usage = namedtuple("usage", "total used free")
    found = usage(1000, 1000 - permille, permille)
    return lambda place: place.patch.setattr(shutil, "disk_usage", lambda _path: found)


def break_append_only_file(place: Place) -> None:
    told = sync_redis().info() | {"aof_last_write_status": "err"}
    place.patch.setattr(Redis, "info", lambda _self: told)


def silence_mail(place: Place) -> None:
    place.settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    place.settings.EMAIL_HOST, place.settings.EMAIL_PORT = "127.0.0.1", ports.any_free_port()


def lose_provider(place: Place) -> None:
    place.settings.OPENAI_COMPATIBLE_BASE_URL = f"http://127.0.0.1:{ports.any_free_port()}/v1"
    caching.forget_everything()


def lose_key(place: Place) -> None:
    place.settings.OPENAI_COMPATIBLE_BASE_URL = ""
    caching.forget_everything()


def shift_clock(seconds: int) -> Callable[[Place], None]:
    shift = dt.timedelta(seconds=seconds)
    return lambda place: place.patch.setattr(clocks, "local_time", lambda: dt.datetime.now(dt.UTC) - shift)


def set_to(name: str, value: object) -> Callable[[Place], None]:
    return lambda place: setattr(place.settings, name, value)


def tell_proxy(name: str, value: bool | int) -> Callable[[Place], None]:
    return lambda place: setattr(place.proxy, name, value)


def rename_index(place: Place) -> None:
    def rename(old: str, new: str) -> None:
        with connections["history"].cursor() as cursor:
            cursor.execute(f"ALTER INDEX history.{old} RENAME TO {new}")

    place.undo.callback(rename, "gone", "turn_words")
    rename("turn_words", "gone")


FAULTS: dict[str, tuple[str, str, str, Callable[[Place], object]]] = {
    "no persistence": (
        "Redis",
        "Redis, persistence",
        "warn",
        lambda place: place.configure_redis("appendonly", "no"),
    ),
    "eviction": (
        "Redis",
        "Redis, eviction",
        "fail",
        lambda place: place.configure_redis("maxmemory-policy", "allkeys-lru"),
    ),
    "Redis is nearly full": (
        "Redis",
        "Redis, memory",
        "fail",
        lambda place: place.configure_redis("maxmemory", int(place.used("memory", "used_memory") * 1.1)),
    ),
    "Redis has few connections left": (
        "Redis",
        "Redis, connections",
        "fail",
        lambda place: place.configure_redis("maxclients", place.used("clients", "connected_clients")),
    ),
    "a clock is wrong": ("Redis", "clock of Redis", "fail", shift_clock(20)),
    "a clock is a little wrong": ("Redis", "clock of Redis", "warn", shift_clock(3)),
    "Redis cannot write its file": ("Redis", "Redis, persistence", "fail", break_append_only_file),
    "a migration is missing": ("databases", "tables of default", "fail", forget_migration),
    "a later release was here": ("databases", "tables of default", "warn", migrate_later),
    "half restored": ("databases", "tables of default", "fail", break_restore),
    "the data folder is everybody's": ("machine", "data folder, rights", "fail", open_folder),
    "the disk is full": ("machine", "data folder, room", "fail", leave_of_disk(10)),
    "the disk is nearly full": ("machine", "data folder, room", "warn", leave_of_disk(50)),
    "no runner": ("processes", "runners", "fail", lambda _place: sync_redis().delete(ALIVE_KEY)),
    "no worker": (
        "processes",
        "workers",
        "fail",
        lambda place: place.patch.setattr(app.control, "ping", lambda timeout: []),
    ),
    "no beat": ("processes", "beat", "fail", lambda _place: sync_redis().set(SWEPT_AT, 1)),
    "the mail server is away": ("mail", "mail server", "fail", silence_mail),
    "the provider is away": ("providers", "provider compatible", "fail", lose_provider),
    "no provider": ("providers", "providers", "fail", lose_key),
    "the proxy buffers": ("way in", "proxy, streams", "fail", tell_proxy("holds_back", True)),
    "anybody is believed": ("way in", "proxy, addresses", "fail", tell_proxy("adds", 0)),
    "the proxy is taken for everybody": ("way in", "proxy, addresses", "fail", set_to("TRUSTED_PROXIES", 0)),
    "one of two proxies is taken for everybody": ("way in", "proxy, addresses", "fail", tell_proxy("adds", 2)),
    "something else is at SITE_URL": ("way in", "SITE_URL", "fail", tell_proxy("is_ours", False)),
    "the site does not know its name": ("way in", "SITE_URL", "fail", set_to("ALLOWED_HOSTS", ["chat.example.com"])),
    "SITE_URL leads nowhere": ("way in", "SITE_URL", "fail", set_to("SITE_URL", "http://127.0.0.1:9")),
    "the webhook does not come in": ("webhooks", "webhook of Mercado Pago", "fail", tell_proxy("takes_posts", False)),
    "an operator without a second factor": (
        "operators",
        "operators, second factor",
        "fail",
        lambda _place: User.objects.create_superuser("op@example.com", "una clave larga"),
    ),
    "no key for backups": ("settings", "backups", "warn", set_to("BACKUP_RECIPIENT", [])),
    "no backup of last night": (
        "settings",
        "last backup",
        "warn",
        lambda _place: sync_redis().set(TAKEN_AT, time.time() - 31 * 3_600),
    ),
    "no backup at all": ("settings", "last backup", "warn", lambda _place: sync_redis().delete(TAKEN_AT)),
    "one key for everything": ("settings", "settings (tertulia.E002)", "fail", set_to("JWT_SECRET_KEY", "short")),
}
FAULTS_OF = {
    "postgresql": {"search has no index": ("databases", "search (pg_trgm)", "warn", rename_index)},
    "mongodb": {
        "no journal": (
            "databases",
            "MongoDB, journal",
            "fail",
            lambda place: place.patch.setattr(MongoClient, "write_concern", WriteConcern(w=1)),
        ),
    },
}


def check_found(place: Place, examination: str, subject: str, state: str, plant: Callable[[Place], object]) -> None:
    assert states(examination).get(subject, "ok") == "ok"
    plant(place)
    assert states(examination)[subject] == state


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(place: Place, fault: str) -> None:
    check_found(place, *FAULTS[fault])


@pytest.mark.stores
@pytest.mark.parametrize("fault", FAULTS_OF.get(VENDOR, {}))
def test_a_fault_of_a_store_is_found(place: Place, fault: str) -> None:
    check_found(place, *FAULTS_OF[VENDOR][fault])
    if VENDOR == "postgresql":  # that of the tests has no fsync
        assert states("databases")["PostgreSQL, history"] == "fail"


def test_the_word_of_doctor_is_good_once(place: Place) -> None:
    probed.allow_probe("a-word")
    url = f"{place.settings.SITE_URL}{reverse('probed', args=['a-word'])}"
    assert [requests.get(url, timeout=10).status_code for _time in range(2)] == [200, 404]


def test_the_command_says_what_to_do_and_ends_with_a_code(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.patch.setattr("config.doctor.examination.EXAMINATIONS", {"processes": EXAMINATIONS["processes"]})
    call_command("doctor")
    assert "FAIL" not in capsys.readouterr().out
    sync_redis().delete(ALIVE_KEY)
    with pytest.raises(SystemExit) as ended:
        call_command("doctor", json=True, only_wrong=True)
    assert ended.value.code == 2
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["state"], found["subject"]) == ("fail", "runners")
    assert "run_turns" in found["remedy"]
    place.patch.setattr("config.doctor.examination.EXAMINATIONS", {"x": lambda: 1 / 0})  # type: ignore[dict-item]
    with pytest.raises(SystemExit):
        call_command("doctor")
    assert "could not be examined: ZeroDivisionError" in capsys.readouterr().out
