"""Limits how many requests a process works on at once: each has a thread, with memory of its own, and all of them take
the interpreter from tokens."""

import json
from typing import Any

from accounts.http import network_in
from config.bodies import App, AsgiMessage, Receive, Send
from core.errors import RateLimited
from core.fair_line import FairLine
from core.http import error_body
from core.loops import PerLoop

AT_ONCE = 32
EACH = 16
"""Of one network: a crowd there, or somebody who attacks from it, leaves places for everybody else."""
MOST_WAITING = 1_000
"""Of one network. Who comes beyond that is told so at once."""

_lines = PerLoop(lambda: FairLine(AT_ONCE, EACH, MOST_WAITING))


def limit_requests(app: App) -> App:
    """Return the application, asked for so many answers at once. A request takes a place when it is there with its
    body, and gives it back when its answer begins: event streams and slow clients keep none."""

    async def handle(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        line, network = _lines.get(), network_in(scope)
        state = "coming"  # then "inside", then "answered"

        async def read() -> AsgiMessage:
            nonlocal state
            message = await receive()
            if state == "coming" and message["type"] == "http.request" and not message.get("more_body"):
                await line.enter(network)
                state = "inside"
            return message

        async def answer(message: AsgiMessage) -> None:
            leave()
            await send(message)

        def leave() -> None:
            nonlocal state
            if state == "inside":
                line.leave(network)
            state = "answered"

        try:
            await app(scope, read, answer)
        except RateLimited as error:
            await _refuse(error, send)
        finally:
            leave()

    return handle


async def _refuse(error: RateLimited, send: Send) -> None:
    """Answer as the API does, without a thread."""
    body = error_body(error)
    retry_after = str(body["retry_after"]).encode()
    headers = [(b"content-type", b"application/json"), (b"retry-after", retry_after), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
