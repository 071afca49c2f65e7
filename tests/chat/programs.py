"""Programs that ask over the OpenAI-compatible API, without a server."""

import base64
import io
import json
from typing import Any
from uuid import UUID, uuid4

from django.test import AsyncClient
from PIL import Image

from accounts.keys import KeyTerms, make_key
from accounts.models import User

JSON = "application/json"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def key_of(user: User, *scopes: str, **terms: Any) -> str:
    return make_key(user, KeyTerms(name="Nightly", scopes=scopes or ("chat",), **terms), peer="", key_id=uuid4())[1]


async def call(secret: str, path: str, body: Any = None, method: str = "", **headers: str) -> Any:
    fields = {"Authorization": f"Bearer {secret}", "Accept-Language": "en"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {} if body is None else {"data": json.dumps(body), "content_type": JSON}
    send = getattr(AsyncClient(), method or ("get" if body is None else "post"))
    return await send(f"/v1/{path}", headers=fields, **sent)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


async def ask(secret: str, text: str = "say:hola", **fields: Any) -> Any:
    body = {"model": "scripted", "messages": [user(text)]} | fields
    return await call(secret, "chat/completions", body)


async def answered(secret: str, text: str = "say:hola", **fields: Any) -> Any:
    answer = await ask(secret, text, **fields)
    assert answer.status_code == 200, answer.content
    return json.loads(answer.content)


async def streamed(secret: str, text: str = "say:hola", **fields: Any) -> list[Any]:
    """Return the events of a stream; the last is `[DONE]`."""
    answer = await ask(secret, text, stream=True, **fields)
    assert (answer.status_code, answer["Content-Type"]) == (200, "text/event-stream")
    raw = b"".join([part async for part in answer.streaming_content]).decode()
    events = [frame.removeprefix("data: ") for frame in raw.split("\n\n") if frame.startswith("data: ")]
    return [event if event == "[DONE]" else json.loads(event) for event in events]


def turn_of(document: Any) -> UUID:
    return UUID(document["id"].removeprefix("chatcmpl-"))


def an_image(kind: str = "PNG", size: tuple[int, int] = (40, 30)) -> str:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


async def refused(answer: Any) -> tuple[int, str, str | None]:
    error = json.loads(answer.content)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    return answer.status_code, error["code"], error["param"]
