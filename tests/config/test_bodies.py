"""A body that is too long is refused before it costs anything, by a real server."""

import asyncio
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from pytest_django import Settings

from config import bodies
from config.bodies import TOO_LARGE, limit_bodies
from config.embedded import ports
from testbed.site import wait_for_port
from tests.services import migrated_databases

GIGABYTE = 1_000_000_000
MEGABYTE = 1_000_000
UPLOADS = "/api/v1/attachments"
IMPORTED = ("/api/v1/imports", "/settings/import-export/")


class Server:
    def __init__(self, port: int, process: "subprocess.Popen[bytes]") -> None:
        self.port, self._process = port, process

    @property
    def peak(self) -> int:
        """The most memory it ever had, bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    @property
    def written(self) -> int:
        """What it has written so far, to disks or sockets, bytes."""
        counters = Path(f"/proc/{self._process.pid}/io").read_text()
        return int(counters.split("wchar:")[1].split()[0])

    def get(self) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", "/healthz", headers={"Host": "localhost"})
        try:
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    port = ports.any_free_port()
    data = tmp_path_factory.mktemp("bodies")
    shutil.copytree(migrated_databases(), data, dirs_exist_ok=True)
    command = [sys.executable, "manage.py", "run_web", "--port", str(port)]
    environment = {
        **os.environ,
        "DATA_DIR": str(data),
        "DATABASE_URL": "",
        "MONGODB_URI": "",
        "DJANGO_SETTINGS_MODULE": "config.settings_test",
    }
    environment |= {"SECRET_KEY": "x" * 60, "DEBUG": "false"}
    process = subprocess.Popen(command, cwd=settings.BASE_DIR, env=environment)
    try:
        wait_for_port(port)
        found = Server(port, process)
        found.get()
        yield found
    finally:
        process.terminate()
        process.wait(20)


def send(server: Server, head: str, *, chunks: int = 0) -> tuple[int, dict[str, str], bytes, int]:
    """Send a request, and a body of so many megabytes in chunks; return status, headers, body and megabytes sent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n")
        megabyte = b"%x\r\n" % MEGABYTE + b"a" * MEGABYTE + b"\r\n"
        sent = 0
        connection.settimeout(20)
        with suppress(OSError):  # it hangs up
            while sent < chunks:
                connection.sendall(megabyte)
                sent += 1
        answer = b""
        with suppress(OSError):
            while part := connection.recv(65_536):
                answer += part
    if not answer:
        return 0, {}, b"", sent
    lines, _, body = answer.partition(b"\r\n\r\n")
    first, *headers = lines.decode().split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in headers), body, sent


def head(path: str, *headers: str) -> str:
    return "\n".join(
        [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: multipart/form-data; boundary=x", *headers, ""]
    )


@pytest.mark.parametrize(
    "path", [UPLOADS, *IMPORTED, "/c/0193a1b0-0000-7000-8000-000000000001/", "/api/v1/login", "/nothing/"]
)
def test_two_gigabytes_that_are_announced_are_not_read(server: Server, path: str):
    peak, written = server.peak, server.written
    status, headers, body, _ = send(server, head(path, f"Content-Length: {2 * GIGABYTE}", "Accept-Language: en"))
    assert (status, headers["connection"]) == (413, "close")
    assert server.peak - peak < 20 * MEGABYTE
    assert server.written - written < 200_000
    if path == UPLOADS:
        answer = json.loads(body)
        assert answer["code"] == "file_too_large"
        assert "too large: at most" in answer["detail"]
        assert answer["request_id"]
    if path == IMPORTED[0]:
        assert json.loads(body)["code"] == "import_too_large"


def test_an_import_may_be_as_large_as_its_setting_says_and_no_larger(settings: Settings):
    settings.IMPORT_BYTES = 3 * MEGABYTE
    for path in IMPORTED:
        assert bodies._limit_of(path) == (3 * MEGABYTE + bodies.FORM_BYTES, "import")


def test_two_gigabytes_that_come_unannounced_are_read_to_the_limit(server: Server):
    peak, written = server.peak, server.written
    status, _, body, sent = send(server, head(UPLOADS, "Transfer-Encoding: chunked"), chunks=2_000)
    assert status in (413, 0)  # a client that goes on sending may not hear the answer
    if status:
        assert json.loads(body)["code"] == "file_too_large"
    assert sent < 40
    assert server.peak - peak < 30 * MEGABYTE
    assert server.written - written < settings.ATTACHMENT_BYTES + 2 * MEGABYTE
    assert server.get() == 200


def test_a_body_is_limited_whatever_the_method(server: Server):
    """The server keeps what comes with a GET, too, before it looks at it."""
    written = server.written
    unannounced = head("/healthz", "Transfer-Encoding: chunked").replace("POST", "GET", 1)
    _, _, _, sent = send(server, unannounced, chunks=2_000)
    assert sent < 40
    assert server.written - written < 10 * MEGABYTE
    assert server.get() == 200


def test_a_length_that_is_none_is_refused(server: Server):
    status, *_ = send(server, head(UPLOADS, f"Content-Length: {'9' * 18}"))
    assert status == 413


def test_a_body_within_the_limit_reaches_its_view(server: Server):
    body = json.dumps({"email": "a", "password": "b" * 2 * MEGABYTE})
    lines = (
        f"POST /api/v1/login HTTP/1.1\nHost: localhost\nContent-Type: application/json\nContent-Length: {len(body)}\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(f"{lines}Connection: close\n\n".replace("\n", "\r\n").encode() + body.encode())
        answer = connection.recv(65_536)
    assert not answer.startswith(b"HTTP/1.1 413")


class Sender:
    """Somebody who sends a large body to the application itself, and stops in the middle of it."""

    def __init__(self, peer: str) -> None:
        self._scope: dict[str, Any] = {
            "type": "http",
            "path": UPLOADS,
            "headers": [(b"content-length", b"%d" % (20 * MEGABYTE))],
            "client": (peer, 50_000),
        }
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._taken: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._request = asyncio.create_task(limit_bodies(self._take_all)(self._scope, self._incoming.get, self._ignore))

    async def send(self, size: int, *, is_last: bool = False) -> bool:
        """Return whether it was taken."""
        self._incoming.put_nowait({"type": "http.request", "body": b"x" * size, "more_body": not is_last})
        message = await self._taken.get()
        if not message.get("more_body"):
            await self._request
        return self._scope.get(TOO_LARGE) is None

    async def _take_all(self, _scope: Any, receive: Any, _send: Any) -> None:
        while (message := await receive()).get("more_body"):
            self._taken.put_nowait(message)
        self._taken.put_nowait(message)

    async def _ignore(self, _message: Any) -> None:
        pass


async def test_bodies_heaped_up_on_disk_are_limited_and_keep_no_other_network_out(monkeypatch: pytest.MonkeyPatch):
    """4,000 connections that stop before the last byte would fill 80 GB, and nobody needs to log in for that."""
    monkeypatch.setattr(bodies, "ON_DISK_BYTES", 12 * MEGABYTE)
    crowd = [Sender("192.0.2.1") for _ in range(3)]
    assert [await one.send(2 * MEGABYTE) for one in crowd] == [True] * 3  # half of what there is
    late = Sender("192.0.2.1")
    assert not await late.send(MEGABYTE)
    assert await Sender("192.0.2.1").send(60_000, is_last=True)  # it stays in memory
    assert await Sender("192.0.2.2").send(4 * MEGABYTE, is_last=True)
    assert [await one.send(10, is_last=True) for one in crowd] == [True] * 3
    assert await Sender("192.0.2.1").send(6 * MEGABYTE, is_last=True)  # all of it was given back
    assert not bodies._on_disk.get()
