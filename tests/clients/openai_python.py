"""OpenAI's SDK for Python asks the site."""

import time
from collections.abc import Callable
from typing import Any

import openai
from openai import DefaultHttpxClient, OpenAI
from scenarios import IMAGE, KEYS, MODELS, run_scenarios, scenario

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}

sent: list[str] = []
"""The method and the path of every request."""

http = DefaultHttpxClient(
    event_hooks={"request": [lambda request: sent.append(f"{request.method} {request.url.path}")]}
)
client = OpenAI(http_client=http)


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def raised(call: Callable[[], Any]) -> dict[str, Any]:
    """Return what the SDK raises, and how many requests it has made."""
    before = len(sent)
    try:
        call()
    except openai.APIError as error:
        return {
            "class": type(error).__name__,
            "status": getattr(error, "status_code", None),
            "code": error.code,
            "type": error.type,
            "param": error.param,
            "message": error.message,
            "requests": len(sent) - before,
        }
    return {"class": None}


def with_key(name: str, **options: Any) -> OpenAI:
    return client.with_options(api_key=KEYS[name], **options)


def ask(asker: OpenAI = client, model: str = "text", content: Any = "Hola", **fields: Any) -> Any:
    return asker.chat.completions.create(model=MODELS[model], messages=user(content), **fields)


# --- A key that keeps conversations -----------------------------------------------------------------------------------


@scenario
def kept() -> Any:
    """Tools are called, as programs do that; then one more question."""
    asker = with_key("keeping")
    messages: list[Any] = user('{"city": "Quito"}')  # of which the provider of the tests makes the arguments
    called = asker.chat.completions.create(model=MODELS["call"], messages=messages, tools=[WEATHER])
    message = called.choices[0].message
    messages += [message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "Llueve."}]
    told = asker.chat.completions.create(model=MODELS["text"], messages=messages, tools=[WEATHER])
    messages += [told.choices[0].message.model_dump(exclude_none=True), *user("¿Y mañana?")]
    asker.chat.completions.create(model=MODELS["text"], messages=messages)
    root = str(client.base_url).removesuffix("/v1/") + "/api/v1/"
    headers = {"Authorization": f"Bearer {KEYS['keeping']}"}
    [conversation] = http.get(f"{root}conversations", headers=headers).json()["results"]
    turns = http.get(f"{root}conversations/{conversation['id']}/turns", headers=headers).json()["results"]
    return [[turn[name] for name in ("question", "answer", "status")] for turn in turns]


# --- Answers ----------------------------------------------------------------------------------------------------------


@scenario
def models() -> Any:
    return [model.id for model in client.models.list()]


@scenario
def answer() -> Any:
    completion = ask()
    return {
        "text": completion.choices[0].message.content,
        "finish_reason": completion.choices[0].finish_reason,
        "model": completion.model,
        "usage": completion.usage.model_dump(),
        "request_id": completion._request_id,
    }


@scenario
def stream() -> Any:
    text, finish_reasons, usages = "", [], []
    for chunk in ask(stream=True, stream_options={"include_usage": True}):
        usages.append(chunk.usage.model_dump() if chunk.usage else None)
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish_reasons.append(choice.finish_reason)
    return {"text": text, "finish_reason": finish_reasons[-1], "usage": usages[-1], "usages": sum(map(bool, usages))}


@scenario
def stream_helper() -> Any:
    """The SDK's own accumulation of a stream."""
    with client.chat.completions.stream(model=MODELS["text"], messages=user("Hola")) as events:
        text = "".join(event.delta for event in events if event.type == "content.delta")
        return {"text": text, "final": events.get_final_completion().choices[0].message.content}


@scenario
async def asynchronous() -> Any:
    async with openai.AsyncOpenAI() as asynchronous_client:
        chunks = await asynchronous_client.chat.completions.create(
            model=MODELS["text"], messages=user("Hola"), stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])


@scenario
def image() -> Any:
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": IMAGE}}]
    return ask(content=parts).choices[0].message.content


# --- Tools and JSON ---------------------------------------------------------------------------------------------------


@scenario
def tool() -> Any:
    asked = user('{"city": "Quito"}')
    called = client.chat.completions.create(model=MODELS["call"], messages=asked, tools=[WEATHER])
    [call] = called.choices[0].message.tool_calls
    answered = client.chat.completions.create(
        model=MODELS["call"],
        messages=[
            *asked,
            called.choices[0].message,
            {"role": "tool", "tool_call_id": call.id, "content": "It rains."},
        ],
        tools=[WEATHER],
    )
    return {
        "finish_reason": called.choices[0].finish_reason,
        "name": call.function.name,
        "arguments": call.function.arguments,
        "id": call.id,
        "text": answered.choices[0].message.content,
    }


@scenario
def tools_streamed() -> Any:
    calls: dict[int, list[str]] = {}
    finish_reason, parts = None, 0
    asked = {"content": '{"city": "Quito"}', "tools": [WEATHER], "tool_choice": "required"}
    for chunk in ask(model="two calls", stream=True, **asked):
        for part in chunk.choices[0].delta.tool_calls or ():
            call = calls.setdefault(part.index, [part.id, part.function.name, ""])
            call[2] += part.function.arguments or ""
            parts += 1
        finish_reason = chunk.choices[0].finish_reason or finish_reason
    return {"finish_reason": finish_reason, "calls": list(calls.values()), "parts": parts}


@scenario
def json_mode() -> Any:
    return ask(model="echo", content='{"a": 1}', response_format={"type": "json_object"}).choices[0].message.content


@scenario
def json_schema() -> Any:
    properties = {"a": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "required": ["a"], "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema, "strict": True}}
    return ask(model="echo", content='{"a": 1}', response_format=wanted).choices[0].message.content


@scenario
def options() -> Any:
    fields = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["END"], "max_completion_tokens": 9}
    choice = ask(**fields, presence_penalty=0.5, frequency_penalty=-0.5, user="somebody", metadata={"a": "b"}).choices[
        0
    ]
    return {"text": choice.message.content, "finish_reason": choice.finish_reason}


# --- Errors -----------------------------------------------------------------------------------------------------------


@scenario
def wrong_key() -> Any:
    return raised(lambda: ask(client.with_options(api_key="ttl_00000000_" + "x" * 43)))


@scenario
def wrong_scope() -> Any:
    return raised(lambda: ask(with_key("usage")))


@scenario
def unknown_model() -> Any:
    return raised(lambda: client.chat.completions.create(model="gpt-2", messages=user("Hola")))


@scenario
def unknown_address() -> Any:
    return raised(lambda: client.embeddings.create(model=MODELS["text"], input="Hola"))


@scenario
def bad_parameter() -> Any:
    return raised(lambda: ask(temperature=3))


@scenario
def used_up() -> Any:
    return raised(lambda: ask(with_key("poor")))


@scenario
def too_often() -> Any:
    """The plan of this key has one question an hour."""
    hasty = with_key("hasty", max_retries=0)
    ask(hasty)
    return raised(lambda: ask(hasty))


@scenario
def failed() -> Any:
    return raised(lambda: ask(client.with_options(max_retries=0), model="failing"))


@scenario
def broken_stream() -> Any:
    texts: list[str] = []

    def read() -> None:
        for chunk in ask(model="breaking", stream=True):
            texts.extend(choice.delta.content or "" for choice in chunk.choices)

    return {**raised(read), "text": "".join(texts)}


# --- Going away, and asking again -------------------------------------------------------------------------------------


@scenario
def closed() -> Any:
    """Close a stream that has begun; return the id of its answer."""
    with ask(model="long", stream=True) as chunks:
        for chunk in chunks:
            if chunk.choices[0].delta.content:
                return chunk.id


@scenario
def asked_again() -> Any:
    """Give up waiting, as the SDK does by itself, and ask again with the same Idempotency-Key."""
    before = len(sent)
    asker = client.with_options(timeout=0.7, max_retries=5)
    completion = ask(asker, model="slow", extra_headers={"Idempotency-Key": f"python {time.time()}"})
    return {"text": completion.choices[0].message.content, "requests": len(sent) - before, "id": completion.id}


@scenario
def stream_asked_again() -> Any:
    asker = client.with_options(timeout=0.7, max_retries=5)
    before = len(sent)
    chunks = ask(asker, model="late", stream=True, extra_headers={"Idempotency-Key": f"python stream {time.time()}"})
    return {"text": "".join(chunk.choices[0].delta.content or "" for chunk in chunks), "requests": len(sent) - before}


if __name__ == "__main__":
    run_scenarios()
