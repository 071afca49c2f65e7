"""The tools that an answer calls, as the log has them: one line of JSON for each part of a call, in the order in which
they came. So they are a text that grows, as the answer is, and its end is the end of a line."""

import logging
from collections.abc import Iterable
from typing import Annotated

import msgspec

from chat.llm.providers.base import Message, ToolCall, ToolCallPart
from core.unicode import mend

logger = logging.getLogger(__name__)

MAX_CALLS = 128
"""Calls in one answer that are told apart. OpenAI's API takes as many tools."""


class _Line(msgspec.Struct, array_like=True):
    index: Annotated[int, msgspec.Meta(ge=0, lt=MAX_CALLS)]
    id: str = ""
    name: str = ""
    arguments: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Line).decode


def write_calls(parts: Iterable[ToolCallPart]) -> str:
    """Return parts of calls as lines; those of calls beyond the MAX_CALLSth are left out."""
    return "".join(
        _encode(_Line(part.index, mend(part.id), mend(part.name), mend(part.arguments))).decode() + "\n"
        for part in parts
        if 0 <= part.index < MAX_CALLS
    )


def read_parts(lines: str) -> list[ToolCallPart]:
    """Return the parts that whole lines have; what is none of ours is left out."""
    parts = []
    for line in lines.split("\n"):
        if not line:
            continue
        try:
            found = _decode(line)
        except msgspec.MsgspecError:
            logger.warning("Call of a tool not readable")
            continue
        parts.append(ToolCallPart(found.index, found.id, found.name, found.arguments))
    return parts


def join_calls(lines: str | None) -> list[ToolCall]:
    """Return the calls that the parts are of, in the order of their indexes."""
    calls: dict[int, list[str]] = {}
    for part in read_parts(lines or ""):
        call = calls.setdefault(part.index, ["", "", ""])
        call[0] = call[0] or part.id
        call[1] = call[1] or part.name
        call[2] += part.arguments
    return [ToolCall(*calls[index]) for index in sorted(calls)]


def texts_of_calls(lines: str | None) -> tuple[str, ...]:
    """Return what each call says, as it is counted: its id, its name and its arguments."""
    return Message("assistant", "", tool_calls=tuple(join_calls(lines))).texts[1:]
