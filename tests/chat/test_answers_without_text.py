"""Answers that are none: the model declines, calls a tool, or ends without a word. Each says so, everywhere."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import astuple
from typing import Any

import pytest
from pytest_django import Settings

from chat.llm.catalog import Candidate
from chat.llm.providers import anthropic_messages, gemini, openai_chat, sdk
from chat.llm.providers.base import Message, ModelRequest, Provider, Stream
from chat.llm.providers.http import close_session
from chat.llm.title_generation import make_title
from chat.models import LanguageModel
from chat.provider_registry import KNOWN_PROVIDERS
from tests.chat.reading import Read, read
from tests.chat.wire import STREAM, answering

# --- On the wire ------------------------------------------------------------------------------------------------------

ADAPTERS: dict[str, Stream] = {
    "openai": openai_chat.stream,
    "deepseek": openai_chat.stream,
    "anthropic": anthropic_messages.stream,
    "gemini": gemini.stream,
}


@pytest.fixture(params=["fast", "sdk"])
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    yield request.param
    await close_session()
    await sdk.close_clients()


def event(data: dict[str, Any] | str) -> bytes:
    if isinstance(data, str):
        return f"data: {data}\n\n".encode()
    name = f"event: {data['type']}\n" if "type" in data else ""  # Anthropic's have one, and its SDK goes by that
    return f"{name}data: {json.dumps(data)}\n\n".encode()


async def read_from(slug: str, transport: str, *datas: dict[str, Any] | str) -> Read:
    """Return what is read of a stream with these events."""
    known = KNOWN_PROVIDERS[slug]
    async with answering(STREAM + b"".join(map(event, datas))) as raw:
        provider = Provider(slug, slug, known.adapter, raw.url, "sk-secret", parameters=known.parameters)
        request = ModelRequest(provider=provider, model="m", messages=(Message("user", "hola"),), max_output=100)
        async with aclosing((ADAPTERS[slug] if transport == "fast" else sdk.stream)(request)) as stream:
            return await read(stream)


def chat(*deltas: dict[str, Any], end: str) -> list[dict[str, Any] | str]:
    """The events of OpenAI and DeepSeek."""
    base = {"id": "c_1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    ends: tuple[tuple[dict[str, Any], str | None], ...] = (*((delta, None) for delta in deltas), ({}, end))
    choices = [[{"index": 0, "delta": delta, "finish_reason": reason}] for delta, reason in ends]
    usage = {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19}
    return [*({**base, "choices": choice} for choice in choices), {**base, "choices": [], "usage": usage}, "[DONE]"]


def messages(*blocks: tuple[dict[str, Any], dict[str, Any]], end: str) -> list[dict[str, Any] | str]:
    """The events of Anthropic; of each block how it starts, and its delta."""
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None}
    said: list[dict[str, Any] | str] = [
        {"type": "message_start", "message": {**message, "usage": {"input_tokens": 12, "output_tokens": 1}}}
    ]
    for index, (block, delta) in enumerate(blocks):
        said += [
            {"type": "content_block_start", "index": index, "content_block": block},
            {"type": "content_block_delta", "index": index, "delta": delta},
            {"type": "content_block_stop", "index": index},
        ]
    ended = {"type": "message_delta", "delta": {"stop_reason": end}, "usage": {"output_tokens": 7}}
    return [*said, ended, {"type": "message_stop"}]


def candidates(*parts: dict[str, Any], end: str) -> list[dict[str, Any] | str]:
    """The events of Gemini."""
    usage = {"promptTokenCount": 12, "candidatesTokenCount": 7, "totalTokenCount": 19}
    ended = {"candidates": [{"content": {"parts": []}, "finishReason": end}], "usageMetadata": usage}
    return [*({"candidates": [{"content": {"parts": [part], "role": "model"}}]} for part in parts), ended]


TOOL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "search", "arguments": "{}"}}
SAYS = ({"type": "text", "text": ""}, {"type": "text_delta", "text": "Let me look."})
USES = (
    {"type": "tool_use", "id": "toolu_1", "name": "search", "input": {}},
    {"type": "input_json_delta", "partial_json": "{}"},
)
CALLS = {"functionCall": {"name": "search", "args": {}}}

ENDS = {
    "a refusal in words": ("openai", chat({"refusal": "I would "}, {"refusal": "rather not."}, end="stop"), "refusal"),
    "a refusal that is cut": ("openai", chat({"refusal": "I would rather not."}, end="length"), "refusal"),
    "a refusal that is filtered": ("openai", chat({"refusal": "I…"}, end="content_filter"), "content_filter"),
    "no refusal": ("openai", chat({"content": "Hola.", "refusal": None, "tool_calls": []}, end="stop"), "stop"),
    "tool calls": ("openai", chat({"tool_calls": [TOOL]}, end="tool_calls"), "tool_call"),
    "a tool call after text": ("openai", chat({"content": "So."}, {"tool_calls": [TOOL]}, end="stop"), "tool_call"),
    "a function call": ("openai", chat({"function_call": {"name": "f"}}, end="function_call"), "tool_call"),
    "nothing": ("openai", chat(end="stop"), "stop"),
    "deepseek filters": ("deepseek", chat({"content": "So."}, end="content_filter"), "content_filter"),
    "deepseek calls tools": ("deepseek", chat({"tool_calls": [TOOL]}, end="tool_calls"), "tool_call"),
    "deepseek only thinks": ("deepseek", chat({"reasoning_content": "Hm."}, end="length"), "length"),
    "claude refuses": ("anthropic", messages(end="refusal"), "refusal"),
    "claude refuses after text": ("anthropic", messages(SAYS, end="refusal"), "refusal"),
    "claude uses a tool": ("anthropic", messages(SAYS, USES, end="tool_use"), "tool_call"),
    "claude pauses": ("anthropic", messages(SAYS, end="pause_turn"), "tool_call"),
    "claude says nothing": ("anthropic", messages(end="end_turn"), "stop"),
    "gemini calls": ("gemini", candidates({"text": "So."}, CALLS, end="STOP"), "tool_call"),
    "gemini calls badly": ("gemini", candidates(end="MALFORMED_FUNCTION_CALL"), "tool_call"),
    "gemini calls what is not there": ("gemini", candidates(end="UNEXPECTED_TOOL_CALL"), "tool_call"),
    "gemini filters a call": ("gemini", candidates(CALLS, end="SAFETY"), "content_filter"),
    "gemini recites": ("gemini", candidates({"text": "So."}, end="RECITATION"), "content_filter"),
    "gemini must not": ("gemini", candidates(end="PROHIBITED_CONTENT"), "content_filter"),
    "gemini says nothing": ("gemini", candidates(end="STOP"), "stop"),
    "gemini only thinks": ("gemini", candidates({"text": "Hm.", "thought": True}, end="MAX_TOKENS"), "length"),
}


@pytest.mark.parametrize(("slug", "said", "finish"), ENDS.values(), ids=ENDS)
async def test_what_came_in_place_of_an_answer_is_told(slug: str, said: list[Any], finish: str, transport: str):
    found = await read_from(slug, transport, *said)
    assert (found.finish, found.error, found.usage) == (finish, "", (12, 7, 0, 0, 0))


async def test_the_words_of_a_refusal_are_its_text(transport: str):
    found = await read_from("openai", transport, *ENDS["a refusal in words"][1])
    assert found.text == "I would rather not."


async def test_a_question_that_gemini_blocks_is_filtered_whatever_the_reason(transport: str):
    found = await read_from("gemini", transport, {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}})
    assert (found.text, found.finish, found.error) == ("", "content_filter", "")


@pytest.mark.parametrize("said", [(), ({"content": "So."},)], ids=["at once", "after text"])
async def test_a_provider_that_ran_out_of_room_failed(said: tuple[dict[str, Any], ...], transport: str):
    found = await read_from("deepseek", transport, *chat(*said, end="insufficient_system_resource"))
    assert astuple(found) == ("".join(delta["content"] for delta in said), "", None, None, "overloaded")


async def test_a_refusal_to_make_a_title_is_no_title(transport: str, settings: Settings):
    settings.SDK_PROVIDERS = ["openai"] if transport == "sdk" else []
    async with answering(STREAM + b"".join(map(event, ENDS["a refusal in words"][1]))) as raw:
        provider = Provider("openai", "OpenAI", "openai_chat", raw.url, "sk-secret")
        prices = {"input_price": 1, "output_price": 1}
        model = LanguageModel(key="m", provider="openai", provider_model="m", max_output=100, **prices)
        title = await make_title(Candidate(model, provider), "hola", "¿sí?")
    assert (title.text, title.usage.output) == ("", 7)
