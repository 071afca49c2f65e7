"""Anthropic's Messages format: the events of an answer, and the body of a refusal."""

from collections.abc import Iterator
from typing import Any

from testbed.openai_format import NS_PER_MS, PLACEHOLDER, Call, OpenAIAnswer, encode, in_parts

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use"}
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class AnthropicAnswer(OpenAIAnswer):
    """A block of thinking, if there is any, and one of text or of each call. Always streamed, whatever is asked."""

    __slots__ = ()

    def _events(self) -> Iterator[tuple[bytes, int]]:
        script = self.script
        counts = {"input_tokens": self._prompt_tokens, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
        message = {
            "id": self._base["id"],
            "type": "message",
            "role": "assistant",
            "model": self._base["model"],
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {**counts, "output_tokens": 1},
        }
        yield self._named_event("message_start", {"message": message}), 0
        yield self._named_event("ping", {}), 0
        blocks = [("thinking", script.reasoning)] if script.reasoning else []
        if not self.calls:
            blocks.append(("text", script.delivered))
        for index, (kind, count) in enumerate(blocks):
            yield (
                self._named_event("content_block_start", {"index": index, "content_block": {"type": kind, kind: ""}}),
                0,
            )
            delta = {"index": index, "delta": {"type": f"{kind}_delta", kind: PLACEHOLDER}}
            yield from self._tokens(self._named_event("content_block_delta", delta), count, is_text=kind == "text")
            if script.ending in ("finish", "silent") or kind != "text":
                yield self._named_event("content_block_stop", {"index": index}), 0
        for index, call in enumerate(self.calls, len(blocks)):
            yield from self._call_block(index, call)
        if script.ending == "error":
            yield self._named_event("error", {"error": {"type": "overloaded_error", "message": "Overloaded"}}), 0
        if script.ending != "finish":
            return
        usage = {"output_tokens": self.sent, "output_tokens_details": {"thinking_tokens": script.reasoning}}
        ended = {"stop_reason": _STOP_REASONS[self._finish() or "stop"], "stop_sequence": None}
        yield self._named_event("message_delta", {"delta": ended, "usage": usage}), 0
        yield self._named_event("message_stop", {}), 0

    def _call_block(self, index: int, call: Call) -> Iterator[tuple[bytes, int]]:
        block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        yield self._named_event("content_block_start", {"index": index, "content_block": block}), 0
        for part in in_parts(call.arguments):
            self.sent += 1
            delta = {"type": "input_json_delta", "partial_json": part}
            pause = self.script.gap_ms * NS_PER_MS
            yield self._named_event("content_block_delta", {"index": index, "delta": delta}), pause
        yield self._named_event("content_block_stop", {"index": index}), 0

    def _broken_event(self) -> bytes:
        return b"event: content_block_delta" + self._newline + super()._broken_event()

    def _named_event(self, name: str, data: dict[str, Any]) -> bytes:
        return b"event: " + name.encode() + self._newline + self._event(encode({"type": name, **data}))


def refusal(status: int) -> bytes:
    error = {"type": _ERROR_TYPES.get(status, "api_error"), "message": "Sorry."}
    return encode({"type": "error", "error": error, "request_id": "req_fake"})


def as_openai(_path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return a request as OpenAI's format has it, as far as the script of an answer needs it."""
    messages = [
        {**message, "role": "tool"} if _has_result(message) else message for message in body.get("messages") or ()
    ]
    tools = [{"function": {"name": tool["name"]}} for tool in body.get("tools") or ()]
    choice = body.get("tool_choice") or {}
    named = {"function": {"name": choice["name"]}} if choice.get("type") == "tool" else choice.get("type")
    return {**body, "messages": messages, "tools": tools, "tool_choice": named, "stream": True}


def _has_result(message: dict[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(part.get("type") == "tool_result" for part in content)
