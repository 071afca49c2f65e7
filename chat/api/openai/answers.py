"""An answer as OpenAI's API gives it: as one document, or as the chunks of a stream."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import msgspec

from chat.api.openai.errors import error_of_turn
from chat.turns.called_tools import join_calls, read_parts
from chat.turns.dialogues import written_answer
from chat.turns.log import GROWING, Entry, EntryKind
from history.models import Turn

_FINISH = {
    "length": "length",
    "thought_too_long": "length",
    "content_filter": "content_filter",
    "tool_call": "tool_calls",
}
"""Why an answer ended, in OpenAI's words, by ours; else it is `stop`."""

DONE = b"data: [DONE]\n\n"
STILL_HERE = b": still here\n\n"

encode = msgspec.json.Encoder().encode


def completion_id(turn_id: UUID) -> str:
    return f"chatcmpl-{turn_id.hex}"


def document_of(turn: Turn) -> dict[str, Any]:
    """Return the finished turn as a `chat.completion`."""
    text = written_answer(turn)
    message: dict[str, Any] = {"role": "assistant", "content": text or None, "refusal": None}
    if turn.error == "refusal" or turn.finish_reason == "refusal":
        message |= {"content": None, "refusal": text}
    if turn.reasoning:
        message["reasoning_content"] = turn.reasoning
    if calls := join_calls(turn.tool_calls):
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    elif message["content"] is None and message["refusal"] is None:
        message["content"] = ""
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason_of(turn)}
    return {
        "id": completion_id(turn.pk),
        "object": "chat.completion",
        "created": int(turn.created_at.timestamp()),
        "model": turn.model or turn.requested_model,
        "choices": [choice],
        "usage": usage_as_openai(turn),
    }


def finish_reason_of(turn: Turn) -> str:
    """Return why the answer ended. A call of a tool that nobody can make out is none."""
    found = _FINISH.get(turn.error) or _FINISH.get(turn.finish_reason) or "stop"
    return "stop" if found == "tool_calls" and not turn.tool_calls else found


def usage_as_openai(turn: Turn) -> dict[str, Any]:
    """Return what the turn used, and `cost_micros`: what was charged, in millionths of a US dollar."""
    return {
        "prompt_tokens": turn.input_tokens if turn.usage_source else 0,
        "completion_tokens": turn.output_tokens,
        "total_tokens": turn.input_tokens + turn.output_tokens if turn.usage_source else 0,
        "prompt_tokens_details": {"cached_tokens": turn.cache_read_tokens},
        "completion_tokens_details": {"reasoning_tokens": turn.reasoning_tokens},
        "cost_micros": turn.cost_micros or 0,
    }


class Chunks:
    """The chunks of one stream, as server-sent events. `model` is who answers, as far as that is known."""

    def __init__(self, turn: Turn, model: str, *, wants_usage: bool) -> None:
        head = {
            "id": completion_id(turn.pk),
            "object": "chat.completion.chunk",
            "created": int(turn.created_at.timestamp()),
            "model": model,
        }
        self._head = b"data: " + encode(head)[:-1]
        self._usage = b',"usage":null' if wants_usage else b""
        self._wants_usage = wants_usage
        self._sent: dict[int, int] = dict.fromkeys(GROWING, 0)  # characters of each kind

    def first(self) -> bytes:
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def of(self, entry: Entry) -> bytes:
        """Return what an entry of the log has new. A runner that has lost the log writes the same text once more, under
        another generation: what was sent of it is left out."""
        if entry.kind not in GROWING:
            return b""
        text = entry.text[max(0, self._sent[entry.kind] - entry.at) :]
        if not text:
            return b""
        self._sent[entry.kind] += len(text)
        if entry.kind == EntryKind.TEXT:
            return self._chunk({"content": text})
        if entry.kind == EntryKind.REASONING:
            return self._chunk({"reasoning_content": text})
        return self._chunk({"tool_calls": list(_call_chunks(text))})

    def last(self, turn: Turn, *, is_new: bool = True) -> Iterable[bytes]:
        """Yield how the finished turn ended, what it used, and the end of the stream."""
        if found := error_of_turn(turn, is_new=is_new):
            yield b"data: " + encode(found[1]) + b"\n\n"
            yield DONE
            return
        yield self._chunk({}, finish_reason_of(turn))
        if self._wants_usage:
            yield self._head + b',"choices":[],"usage":' + encode(usage_as_openai(turn)) + b"}\n\n"
        yield DONE

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._head + b',"choices":[' + encode(choice) + b"]" + self._usage + b"}\n\n"


def _call_chunks(lines: str) -> Iterable[dict[str, Any]]:
    for part in read_parts(lines):
        function = {"arguments": part.arguments}
        if part.name:
            function["name"] = part.name
        chunk: dict[str, Any] = {"index": part.index, "function": function}
        if part.id:
            chunk |= {"id": part.id, "type": "function"}
        yield chunk
