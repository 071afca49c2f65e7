"""The wire formats that the fake provider speaks, each at its own address.

A refusal has the format's own body where the refusal is a status; the others have OpenAI's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from testbed import anthropic_format, gemini_format, openai_format
from testbed.anthropic_format import AnthropicAnswer
from testbed.gemini_format import GeminiAnswer
from testbed.openai_format import OpenAIAnswer


@dataclass(frozen=True, slots=True)
class WireFormat:
    """How answers and refusals are written; `as_openai` takes a request's path and body to OpenAI's format."""

    answer: type[OpenAIAnswer]
    refusal: Callable[[int], bytes]
    as_openai: Callable[[str, dict[str, Any]], dict[str, Any]]


_OPENAI = WireFormat(OpenAIAnswer, openai_format.refusal, lambda _path, body: body)
_ANTHROPIC = WireFormat(AnthropicAnswer, anthropic_format.refusal, anthropic_format.as_openai)
_GEMINI = WireFormat(GeminiAnswer, gemini_format.refusal, gemini_format.as_openai)


def format_at(path: str) -> WireFormat | None:
    """Return the format that is spoken at an address; None if none is."""
    if path == "/v1/chat/completions":
        return _OPENAI
    if path == "/v1/messages":
        return _ANTHROPIC
    decoded = unquote(path)
    is_gemini = decoded.startswith(gemini_format.PATH_PREFIX) and decoded.endswith(gemini_format.PATH_SUFFIX)
    return _GEMINI if is_gemini else None
