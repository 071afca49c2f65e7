"""What the simulated payment gateways share: an HTTP server, a clock of its own, faults, notifications, a state.

It knows nothing of the site. Beside a gateway's own addresses there are controls, for tests and for the checkout page:

- `GET /_control/clock`, `POST {"to": seconds}` or `{"forward": seconds}`: what time it is for the gateway. The clock
  runs on from there, unless `"stopped": true`.
- `POST /_control/faults` `{"kind": "html" | "cut" | "lost" | "slow", "times": 1, "seconds": 5, "path": "/v1/"}`: what
  becomes of the next requests below that path. `html` is a 502 page of some proxy; `cut` ends the connection before
  the request is looked at, `lost` after it was carried out.
- `POST /_control/notices` `{"mode": "send" | "hold" | "lose"}`: what becomes of notifications from now on.
  `GET /_control/notices` lists those that wait; `POST /_control/deliver` `{"ids": […], "newest_first": true, "copies":
  2}` sends them now, in that order, and says what was answered; `POST /_control/drop` `{"ids": […]}` loses them.
- `POST /_control/reset` forgets everything.
"""

import argparse
import html
import json
import logging
import os
import re
import secrets
import socket
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

RETRY_SECONDS = (1, 2, 5, 15, 60, 300, 900)
"""How long after each refused notification it is sent again; then no more."""
NOTICE_SECONDS = 10.0
LONGEST_BODY = 2_000_000
"""The longest request body in bytes."""

SIMULATION = (
    "Esto es una simulación: no se cobra nada, y ningún dato de pago sale de esta computadora.",
    "This is a simulation: nothing is charged, and no payment data leaves this computer.",
    "Isto é uma simulação: nada é cobrado, e nenhum dado de pagamento sai deste computador.",
)

AHEAD_OF_TIME = (
    "Aquí se cobra antes de tiempo, y el reloj del sitio no se mueve: lo que se paga ahora vale por el período que "
    "sigue. Un cobro rechazado cambia el plan cuando termina lo ya pagado: desde entonces dura unos días más "
    "(GRACE_DAYS), y termina.",
    "Here charges are made ahead of time, and the site's clock does not move: what is paid now is for the period that "
    "follows. A refused charge changes the plan when what is paid already is over: from then on it lasts some days "
    "more (GRACE_DAYS), and ends.",
    "Aqui se cobra antes da hora, e o relógio do site não se move: o que é pago agora vale pelo período seguinte. Uma "
    "cobrança recusada muda o plano quando termina o que já foi pago: a partir daí ele dura mais alguns dias "
    "(GRACE_DAYS) e termina.",
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """One request. The names of headers are lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        found = json.loads(self.body or b"{}")
        return found if isinstance(found, dict) else {}

    def form(self) -> list[tuple[str, str]]:
        return parse_qsl(self.body.decode(), keep_blank_values=True)


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: `content` is sent as JSON, or as a page if it is text."""

    content: object = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """A handler's way to answer with an error from anywhere."""

    def __init__(self, content: object, status: int) -> None:
        super().__init__(status)
        self.answer = Reply(content, status)


def redirect(url: str) -> Reply:
    return Reply("", 303, {"Location": url})


Handler = Callable[..., Reply]
Route = tuple[str, str, Handler]
"""Method, a pattern of the whole path, and who answers: called with the request and the pattern's groups."""


class SimulatedGateway:
    """One gateway. `state` is whatever can be written as JSON; it is changed under `lock` alone, and kept in `file`."""

    name = "gateway"

    def __init__(
        self, *, notice_url: str = "", notice_secret: str = "", back_url: str = "", file: Path | None = None
    ) -> None:
        self.notice_url, self.notice_secret, self.back_url = notice_url, notice_secret, back_url
        self.url = ""
        self.lock = threading.RLock()
        self._file, self._written = file, ""
        self._wakes = threading.Condition(self.lock)
        self._stops = False
        self._faults: list[dict[str, Any]] = []
        self.state = self._read_state()
        self._routes = [(method, re.compile(pattern), handler) for method, pattern, handler in self._all_routes()]

    # --- What a gateway adds -----------------------------------------------------------------------------------------

    def routes(self) -> Sequence[Route]:
        raise NotImplementedError

    def empty_state(self) -> dict[str, Any]:
        raise NotImplementedError

    def sign(self, url: str, body: bytes) -> Mapping[str, str]:
        """Return the headers of a notification, signed with the machine's own time: the site compares with that."""
        raise NotImplementedError

    def on_clock(self) -> None:
        """Do what is due by now: called before every request, when the clock was moved, and all the time."""

    # --- Clock -------------------------------------------------------------------------------------------------------

    def now(self) -> int:
        clock = self.state["clock"]
        return int(clock["at"] if clock["stopped"] else time.time() + clock["offset"])

    def set_clock(self, at: float, *, stopped: bool = False) -> None:
        self.state["clock"] = {"at": int(at), "offset": at - time.time(), "stopped": stopped}
        self.on_clock()

    # --- Pages -------------------------------------------------------------------------------------------------------

    def way_back(self) -> str:
        """Return a link to the site, if it is known where that is."""
        label = "Volver al sitio · Back to the site · Voltar ao site"
        return f'<p><a href="{html.escape(self.back_url, quote=True)}">{label}</a></p>' if self.back_url else ""

    # --- Notifications -----------------------------------------------------------------------------------------------

    def notify(self, body: dict[str, Any], *, url: str = "") -> None:
        """Queue a notification to `url`, or to the site; it is sent from a thread of its own."""
        url = url or self.notice_url
        if not url or self.state["notices_mode"] == "lose":
            return
        notice = {"id": secrets.token_hex(8), "url": url, "body": body, "attempts": 0, "due": time.time()}
        self.state["notices"].append(notice)
        self._wakes.notify_all()

    def _send_notices(self) -> None:
        while True:
            with self._wakes:
                due = self._due_notices()
                if self._stops:
                    return
                if not due:
                    self._wakes.wait(0.2)
                    continue
            self._deliver(due)

    def _due_notices(self) -> list[dict[str, Any]]:
        self.on_clock()
        if self.state["notices_mode"] != "send":
            return []
        return [notice for notice in self.state["notices"] if notice["due"] <= time.time()]

    def _deliver(self, notices: Sequence[dict[str, Any]], copies: int = 1) -> list[dict[str, Any]]:
        """Send notifications, outside the lock; return what was answered to each."""
        answers = []
        for notice in notices:
            statuses = [self._post(notice["url"], json.dumps(notice["body"]).encode()) for _ in range(copies)]
            answers.append({"id": notice["id"], "statuses": statuses})
            with self.lock:
                self._note_answer(notice["id"], is_taken=any(200 <= status < 300 for status in statuses))
                self._write_state()
        return answers

    def _note_answer(self, notice_id: str, *, is_taken: bool) -> None:
        for notice in [notice for notice in self.state["notices"] if notice["id"] == notice_id]:
            if is_taken or notice["attempts"] >= len(RETRY_SECONDS):
                self.state["notices"].remove(notice)
            else:
                notice["due"] = time.time() + RETRY_SECONDS[notice["attempts"]]
                notice["attempts"] += 1

    def _post(self, url: str, body: bytes) -> int:
        """Return the status that was answered; 0 without an answer."""
        headers = {"Content-Type": "application/json", **self.sign(url, body)}
        request = urllib.request.Request(url, body, headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=NOTICE_SECONDS) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0

    # --- Serving -----------------------------------------------------------------------------------------------------

    @contextmanager
    def serve(self, port: int = 0) -> Iterator[str]:
        """Serve on this machine until the block ends; gives the address."""
        server = _Server(("127.0.0.1", port), _handler_of(self))
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        threads = [threading.Thread(target=run, daemon=True) for run in (server.serve_forever, self._send_notices)]
        for thread in threads:
            thread.start()
        try:
            yield self.url
        finally:
            with self._wakes:
                self._stops = True
                self._wakes.notify_all()
            server.shutdown()
            for thread in threads:
                thread.join(NOTICE_SECONDS)
            server.server_close()
            self._stops = False

    def answer(self, request: Request) -> Reply | None:
        """Return the answer; None cuts the connection."""
        fault = None if request.path.startswith("/_control/") else self._take_fault(request.path)
        if fault == "cut":
            return None
        if fault == "html":
            return Reply("<html><body><h1>502 Bad Gateway</h1></body></html>", 502)
        with self.lock:
            self.on_clock()
            answer = self._carry_out(request)
            self._write_state()
        return None if fault == "lost" else answer

    def _carry_out(self, request: Request) -> Reply:
        for method, pattern, handler in self._routes:
            if method == request.method and (match := pattern.fullmatch(request.path)):
                try:
                    return handler(request, *match.groups())
                except Refusal as refusal:
                    return refusal.answer
        return Reply({"error": {"message": f"Unrecognized request URL ({request.method}: {request.path})."}}, 404)

    def _take_fault(self, path: str) -> str | None:
        with self.lock:
            fault = next((fault for fault in self._faults if path.startswith(fault.get("path", "/"))), None)
            if fault is None:
                return None
            fault["times"] = fault.get("times", 1) - 1
            if fault["times"] <= 0:
                self._faults.remove(fault)
        if fault["kind"] == "slow":
            time.sleep(fault.get("seconds", 5))
        return str(fault["kind"])

    # --- Controls ----------------------------------------------------------------------------------------------------

    def _all_routes(self) -> Sequence[Route]:
        return [
            ("GET", "/_control/clock", self._show_clock),
            ("POST", "/_control/clock", self._move_clock),
            ("POST", "/_control/faults", self._add_fault),
            ("GET", "/_control/notices", self._list_notices),
            ("POST", "/_control/notices", self._set_notices_mode),
            ("POST", "/_control/drop", self._drop_notices),
            ("POST", "/_control/reset", self._reset),
            *self.routes(),
        ]

    def _show_clock(self, _request: Request) -> Reply:
        return Reply({"now": self.now()})

    def _move_clock(self, request: Request) -> Reply:
        asked = request.json()
        at = asked["to"] if "to" in asked else self.now() + asked["forward"]
        self.set_clock(at, stopped=asked.get("stopped", self.state["clock"]["stopped"]))
        return Reply({"now": self.now()})

    def _add_fault(self, request: Request) -> Reply:
        self._faults.append(request.json())
        return Reply({})

    def _list_notices(self, _request: Request) -> Reply:
        return Reply({"notices": self.state["notices"]})

    def _set_notices_mode(self, request: Request) -> Reply:
        self.state["notices_mode"] = request.json()["mode"]
        self._wakes.notify_all()
        return Reply({})

    def deliver_now(self, request: Request) -> Reply:
        """Called without the lock: the site asks back before it answers."""
        asked = request.json()
        with self.lock:
            waiting = {notice["id"]: notice for notice in self.state["notices"]}
        chosen = [waiting[key] for key in asked.get("ids", waiting)]
        if asked.get("newest_first"):
            chosen.reverse()
        return Reply({"delivered": self._deliver(chosen, asked.get("copies", 1))})

    def _drop_notices(self, request: Request) -> Reply:
        lost = request.json().get("ids")
        kept = [notice for notice in self.state["notices"] if lost is not None and notice["id"] not in lost]
        self.state["notices"] = kept
        return Reply({})

    def _reset(self, _request: Request) -> Reply:
        self._faults.clear()
        self.state = self._fresh_state()
        return Reply({})

    # --- State -------------------------------------------------------------------------------------------------------

    def _fresh_state(self) -> dict[str, Any]:
        clock = {"at": 0, "offset": 0.0, "stopped": False}
        return {"clock": clock, "notices": [], "notices_mode": "send", **self.empty_state()}

    def _read_state(self) -> dict[str, Any]:
        if self._file is None or not self._file.exists():
            return self._fresh_state()
        try:
            kept: dict[str, Any] = json.loads(self._file.read_text())
        except ValueError:
            logger.warning("%s cannot be read: it begins anew.", self._file)
            return self._fresh_state()
        return self._fresh_state() | kept

    def _write_state(self) -> None:
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.state)
        if text != self._written:
            new = self._file.with_suffix(".new")
            new.write_text(text)
            new.replace(self._file)
            self._written = text


def in_each_language(spanish: str, english: str, portuguese: str) -> str:
    """Return a paragraph in each language."""
    return "".join(
        f'<p lang="{language}">{html.escape(sentence)}</p>'
        for language, sentence in (("es", spanish), ("en", english), ("pt-BR", portuguese))
    )


def page(title: str, *parts: str) -> Reply:
    """Return a plain page that says it is a simulation. `parts` are HTML: escape what comes from elsewhere."""
    return Reply(
        '<!doctype html><html lang="es"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title><style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:36rem;"
        "margin:2rem auto;padding:0 1rem}.simulation{border:3px dashed #b45309;padding:0 1rem;background:#fef3c7;"
        "color:#111}h2{font-size:1rem;margin:1.5rem 0 .5rem;overflow-wrap:anywhere}"
        "button{font:inherit;padding:.5rem 1rem;margin:.25rem 0;display:block;width:100%}</style>"
        f'<main><h1>{html.escape(title)}</h1><div class="simulation">{in_each_language(*SIMULATION)}</div>'
        f"{''.join(parts)}</main></html>"
    )


def button(action: str, name: str, value: str, label: str) -> str:
    """Return a form of one button."""
    name, value, action = (html.escape(text, quote=True) for text in (name, value, action))
    return (
        f'<form method="post" action="{action}"><input type="hidden" name="{name}" value="{value}">'
        f"<button>{html.escape(label)}</button></form>"
    )


def run_gateway(gateway_class: type[SimulatedGateway]) -> None:
    """Serve a gateway as a process of its own. The secret of its notifications is the variable NOTICE_SECRET."""
    parser = argparse.ArgumentParser(description=gateway_class.__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--state", type=Path, help="the file its state is kept in")
    parser.add_argument("--notice-url", default="", help="where the site takes notifications")
    parser.add_argument("--back-url", default="", help="where its pages lead back to the site")
    given = parser.parse_args()
    secret = os.environ.get("NOTICE_SECRET", "")
    gateway = gateway_class(
        notice_url=given.notice_url, notice_secret=secret, back_url=given.back_url, file=given.state
    )
    with gateway.serve(given.port):
        threading.Event().wait()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            logger.error("A request broke.\n%s", traceback.format_exc())


def _handler_of(gateway: SimulatedGateway) -> type[BaseHTTPRequestHandler]:
    class _Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _respond(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if length > LONGEST_BODY:
                self.close_connection = True
                return
            url = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            query = dict(parse_qsl(url.query, keep_blank_values=True))
            request = Request(self.command, url.path, query, headers, self.rfile.read(length))
            is_delivery = (request.method, request.path) == ("POST", "/_control/deliver")
            answer = gateway.deliver_now(request) if is_delivery else gateway.answer(request)
            if answer is None:
                self._cut()
            else:
                self._send(answer)

        do_GET = do_POST = do_PUT = do_DELETE = _respond  # noqa: N815  the names http.server looks for

        def _send(self, answer: Reply) -> None:
            is_page = isinstance(answer.content, str)
            body = str(answer.content).encode() if is_page else json.dumps(answer.content).encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", "text/html; charset=utf-8" if is_page else "application/json")
            self.send_header("Content-Length", str(len(body)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def _cut(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return _Handler
