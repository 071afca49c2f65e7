"""Looks at the gateway of a running site, then at what it passes on: to servers that tell what they were sent."""

import asyncio
import json
import re
import socket
import ssl
import threading
import time
from collections import Counter
from contextlib import closing
from http.client import HTTPConnection, HTTPSConnection, RemoteDisconnected
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.deploy.machine import Machine

NAME = "chat.example.com"
PORTS = (8001, 8002)
PLANTED = "planted0secret"
CLAIMS = {
    "X-Forwarded-For": "6.6.6.6",
    "X_Forwarded_For": "6.6.6.7",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Host": "evil.example.com",
    "X-Real-IP": "6.6.6.8",
    "Forwarded": "for=6.6.6.9",
    "Proxy": "http://evil.example.com",
    "X-DJStripe-Webhook-Secret": "anything",
    "Upgrade": "h2c",
    "Connection": "Upgrade",
    "X-Request-ID": "from-the-client-1",
}
"""What a client says of itself, and nginx must not pass on as it is; but for the last."""
LARGE = 5 * 1024 * 1024
CROWD = 700
Answer = dict[str, Any]


def look(machine: Machine, access: str) -> dict[str, Any]:
    """Return what was seen. The web processes are stopped."""
    page = ask("GET", "/")
    style = page["body"].partition('href="/static/css/')[2].partition('"')[0]
    found: dict[str, Any] = {
        "redirect": ask("GET", "/c/?a=b", secure=False),
        "foreign": [foreign_http(), foreign_tls(), ask("GET", "/", {"Host": "evil.example.com"})["status"]],
        "protocol": chosen_protocol(),
        "metrics": [
            ask("GET", path)["status"] for path in ("/metrics", "//metrics/", "/%6detrics", "/static/../metrics")
        ],
        "page": page,
        "hashed": ask("GET", f"/static/css/{style}", {"Accept-Encoding": "gzip"}),
        "plain": ask("GET", "/static/css/site.css"),
        "member": ask("GET", "/api/v1/allowance", {"Authorization": f"Bearer {access}"}),
        "failed": ask(
            "POST",
            "/api/v1/auth/login",
            {**CLAIMS, "Content-Type": "application/json"},
            json.dumps({"email": "nobody@example.com", "password": "una clave larga"}).encode(),
        ),
    }
    for path in (f"share/{PLANTED}/", f"%73hare/{PLANTED}/", f"ws/?ticket={PLANTED}", f"?q={PLANTED}"):
        ask("GET", f"/{path}")
    for path in (f"accounts/confirm-email/{PLANTED}/", f"accounts/password/reset/key/{PLANTED}/", "healthz"):
        ask("GET", f"/{path}")
    webs = [machine.manager.service(f"tertulia-web@{number}") for number in (1, 2)]
    found["peers"] = [line for web in webs for line in web.log().splitlines() if "log_in_failed" in line]
    for web in webs:
        web.stop()
    found["away"] = {
        "page": ask("GET", "/"),
        "form": ask("POST", "/c/", {}, b"text=Hola"),
        "api": ask("GET", "/api/v1/allowance"),
        "openai": ask("POST", "/v1/chat/completions", {}, b"{}"),
    }
    ask("GET", f"/share/{PLANTED}/")
    found |= _look_behind()
    found["crowd"], found["crowd_seconds"] = _come_at_once(CROWD)
    logs = Path("/var/log/nginx")
    found["log"] = (logs / "access.log").read_text().splitlines()
    found["error_log"] = (logs / "error.log").read_text()
    return found


def _look_behind() -> dict[str, Any]:
    """Return what reaches web processes: servers in their place tell it."""
    servers = [ThreadingHTTPServer(("127.0.0.1", port), Telling) for port in PORTS]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        found: dict[str, Any] = {"passed": json.loads(ask("GET", "/x", CLAIMS)["body"])}
        found["large"] = {
            path: ask("POST", path, {}, b"x" * LARGE)["status"]
            for path in (
                "/settings/",
                "/api/v1/attachments",
                "/settings/import-export/",
                "/c/1/",
                "/v1/chat/completions",
            )
        }
        found["waits_for_bodies"] = {path: not reaches_the_site_unfinished(path) for path in ("/settings/", "/c/1/")}
        found["too_large"] = {
            path: ask("POST", path, {}, b"x" * LARGE) for path in ("/settings/", "/api/v1/conversations", "/v1/models")
        }
        for method in ("POST", "GET"):
            Telling.died.clear()
            status = ask(method, "/die", {}, b"text=Hola" if method == "POST" else None)["status"]
            found[f"died {method}"] = [sum(Telling.died.values()), status]
        return found
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


class Telling(BaseHTTPRequestHandler):
    """Answers with what it was sent, and dies where it is asked to."""

    protocol_version = "HTTP/1.1"
    died: Counter[str] = Counter()
    begun = threading.Event()

    def do_GET(self) -> None:
        self.begun.set()
        length = int(self.headers.get("Content-Length") or 0)
        size = len(self.rfile.read(length))
        if size < length:  # who sent it has gone
            self.close_connection = True
            return
        if self.path == "/die":
            self.died[self.command] += 1
            self.close_connection = True
            return
        body = json.dumps({"headers": self.headers.items(), "path": self.path, "size": size}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815  as http.server has it

    def log_message(self, *_args: object) -> None:
        pass


def ask(
    method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None, *, secure: bool = True
) -> Answer:
    """Return status, headers and body; the status is 0 where there was no answer."""
    connection = (HTTPSConnection if secure else HTTPConnection)(NAME, timeout=30)
    with closing(connection):
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        except (RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            return {"status": 0, "headers": [], "body": ""}
        return {"status": response.status, "headers": response.getheaders(), "body": text}


def reaches_the_site_unfinished(path: str) -> bool:
    """Return whether a request is passed on before its body is there: nginx keeps nothing of it on its own disk."""
    Telling.begun.clear()
    head = f"POST {path} HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 1000000\r\n\r\n"
    with socket.create_connection((NAME, 443), timeout=10) as asking:
        with ssl.create_default_context().wrap_socket(asking, server_hostname=NAME) as secured:
            secured.sendall(head.encode() + b"x" * 500_000)
            return Telling.begun.wait(10)


def _come_at_once(count: int) -> tuple[dict[str, int], float]:
    """Return how often the API answered with which code when so many requests came at once, and within what time."""
    begun, asked = time.monotonic(), f"GET /api/v1/x HTTP/1.1\r\nHost: {NAME}\r\n\r\n"
    last = f"GET /api/v1/x HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n"
    answers = asyncio.run(_read_answers((asked * (count - 1) + last).encode()))
    return dict(Counter(re.findall(r'"code": "(\w+)"', answers.decode()))), time.monotonic() - begun


async def _read_answers(requests: bytes) -> bytes:
    """Return what comes while the requests are sent: one thread may not write to TLS while another reads."""
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(NAME, 443, ssl=ssl.create_default_context())
        writer.write(requests)
        try:
            return await reader.read()
        finally:
            writer.close()


def foreign_http() -> int:
    """Return how many bytes somebody gets who asks for another name without TLS."""
    with socket.create_connection((NAME, 80), timeout=10) as asking:
        asking.sendall(b"GET / HTTP/1.1\r\nHost: evil.example.com\r\n\r\n")
        try:
            return len(asking.recv(1000))
        except ConnectionResetError:
            return 0


def foreign_tls() -> str:
    """Return the words in which a handshake for another name is refused."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((NAME, 443), timeout=10) as asking:
        try:
            context.wrap_socket(asking, server_hostname="other.example.com").close()
        except ssl.SSLError as error:
            return error.reason
    return "taken"


def chosen_protocol() -> str | None:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection((NAME, 443), timeout=10) as asking:
        with context.wrap_socket(asking, server_hostname=NAME) as secured:
            return secured.selected_alpn_protocol()
