"""Google's Gemini format: the events of an answer, and the body of a refusal."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from testbed.openai_format import PLACEHOLDER, OpenAIAnswer, encode

PATH_PREFIX, PATH_SUFFIX = "/v1beta/models/", ":streamGenerateContent"

_FINISH_REASONS = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
_ERROR_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
}


class GeminiAnswer(OpenAIAnswer):
    """Chunks that each have the counts so far; the last one has the reason of the end. Always streamed."""

    __slots__ = ()

    def _events(self) -> Iterator[tuple[bytes, int]]:
        script = self.script
        thought = self._gemini_chunk({"text": PLACEHOLDER, "thought": True})
        yield from self._tokens(thought, script.reasoning, is_text=False)
        for call in self.calls:
            self.sent += 1
            written = {"id": call.id, "name": call.name, "args": json.loads(call.arguments)}
            yield self._gemini_chunk({"functionCall": written}), 0
        if not self.calls:
            yield from self._tokens(self._gemini_chunk({"text": PLACEHOLDER}), script.delivered, is_text=True)
        if script.ending == "error":
            yield self._event(refusal(503)), 0
        if script.ending == "finish":
            yield self._gemini_chunk({"text": ""}, _FINISH_REASONS[script.finish or "stop"]), 0

    def _gemini_chunk(self, part: dict[str, Any], reason: str | None = None) -> bytes:
        candidate: dict[str, Any] = {"content": {"parts": [part], "role": "model"}, "index": 0}
        body: dict[str, Any] = {"candidates": [candidate]}
        if reason:
            candidate["finishReason"] = reason
        if self.script.usage:
            written = max(0, self.sent - self.script.reasoning)
            body["usageMetadata"] = {
                "promptTokenCount": self._prompt_tokens,
                "candidatesTokenCount": written,
                "totalTokenCount": self._prompt_tokens + self.sent,
                "thoughtsTokenCount": self.script.reasoning,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": self._prompt_tokens}],
            }
        return self._event(encode({**body, "modelVersion": self._base["model"], "responseId": self._base["id"]}))


def refusal(status: int) -> bytes:
    return encode(
        {"error": {"code": status, "message": "Sorry.", "status": _ERROR_STATUSES.get(status, "UNAVAILABLE")}}
    )


def as_openai(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return a request as OpenAI's format has it, as far as the script of an answer needs it."""
    messages = [
        {
            "role": "tool" if _has_result(content) else content.get("role", "user"),
            "content": [{"type": "text", **part} for part in content.get("parts") or ()],
        }
        for content in body.get("contents") or ()
    ]
    declared = [tool for tools in body.get("tools") or () for tool in tools.get("functionDeclarations") or ()]
    config = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    allowed = config.get("allowedFunctionNames")
    return {
        "model": unquote(path).removeprefix(PATH_PREFIX).removesuffix(PATH_SUFFIX),
        "messages": messages,
        "tools": [{"function": {"name": tool["name"]}} for tool in declared],
        "tool_choice": {"function": {"name": allowed[0]}} if allowed else config.get("mode", "").lower(),
        "max_tokens": (body.get("generationConfig") or {}).get("maxOutputTokens"),
        "stream": True,
    }


def _has_result(content: dict[str, Any]) -> bool:
    return any("functionResponse" in part for part in content.get("parts") or ())
