"""What the wire formats share of calls of tools: their ids and arguments, and the parts that a stream brings."""

import json
import re
import secrets
from dataclasses import replace
from hashlib import sha256
from typing import Any

import msgspec

from chat.llm.providers.base import JsonSchema, Message, ToolCall, ToolCallPart
from chat.llm.providers.errors import BadResponse
from chat.llm.providers.streaming import UNREADABLE

JSON_INSTRUCTION = "Answer with one JSON object and nothing else: no text before or after it, and no code fence."
"""For who has no mode for that."""

_ACCEPTABLE_ID = re.compile(r"[a-zA-Z0-9_-]{1,40}")
"""Anthropic takes these characters alone, and OpenAI so many."""


# --- In a prompt -----------------------------------------------------------------------------------------------------


def with_acceptable_ids(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return messages whose calls have ids that every provider takes, each its own; results follow their calls.

    They may come from another provider, and some count from zero in each answer. The same id becomes the same again, as
    the provider caches what it has read.
    """
    if not any(message.tool_calls or message.tool_call_id for message in messages):
        return messages
    used: set[str] = set()
    unanswered: dict[str, list[str]] = {}  # of the last calls, by the ids that the client knows
    changed = []
    for message in messages:
        if message.tool_calls:
            unanswered = {}
            calls = []
            for call in message.tool_calls:
                call_id = _acceptable_id(call.id, used)
                unanswered.setdefault(call.id, []).append(call_id)
                calls.append(replace(call, id=call_id))
            message = replace(message, tool_calls=tuple(calls))
        elif message.role == "tool":
            ids = unanswered.get(message.tool_call_id)
            message = replace(message, tool_call_id=ids.pop(0) if ids else _acceptable_id(message.tool_call_id, set()))
        changed.append(message)
    return tuple(changed)


def _acceptable_id(call_id: str, used: set[str]) -> str:
    """Return the id, or another in its place, and note that it is used."""
    found, number = call_id, 1
    while not _ACCEPTABLE_ID.fullmatch(found) or found in used:
        found = "call_" + sha256(f"{number} {call_id}".encode(errors="replace")).hexdigest()[:24]
        number += 1
    used.add(found)
    return found


def find_arguments(call: ToolCall) -> dict[str, Any] | None:
    """Return the arguments of a call; None if they are no object."""
    try:
        arguments = msgspec.json.decode(call.arguments)
    except UNREADABLE:
        return None
    return arguments if isinstance(arguments, dict) else None


def arguments_of(call: ToolCall) -> dict[str, Any]:
    """Return the arguments of a call as an object. What a model wrote that is none, it is shown as it is."""
    arguments = find_arguments(call)
    if arguments is not None:
        return arguments
    return {"arguments": call.arguments} if call.arguments.strip() else {}


def as_json(value: Any) -> str:
    """Return JSON, also of text with half a character. Raises one of UNREADABLE for what is nested too deep."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def json_instruction(wanted: JsonSchema) -> str:
    """Return what a model is told that has no mode for answers in JSON, or none for a schema."""
    if wanted.schema is None:
        return JSON_INSTRUCTION
    return f"{JSON_INSTRUCTION} It has to match this JSON schema:\n{as_json(wanted.schema)}"


# --- In an answer ----------------------------------------------------------------------------------------------------


class _Call:
    __slots__ = ("id", "is_named", "number")

    def __init__(self, number: int, call_id: str, *, is_named: bool) -> None:
        self.number = number
        self.id = call_id  # as the server says it
        self.is_named = is_named


class StreamedCalls:
    """The calls of one answer, numbered as they begin. A part that says nothing is none, so that whoever counts the
    characters of all parts knows how much there is."""

    __slots__ = ("_by_id", "_by_index", "_count", "_last")

    def __init__(self) -> None:
        self._count = 0
        self._last: _Call | None = None
        self._by_id: dict[str, _Call] = {}
        self._by_index: dict[int, _Call] = {}

    def begin(self, call_id: Any, name: Any, arguments: Any = "") -> ToolCallPart:
        """Return the first part of the next call. One without an id, or with that of another, is given one."""
        call_id, name = _word(call_id), _word(name)
        call = _Call(self._count, call_id, is_named=bool(name))
        self._count += 1
        self._last = call
        shown_id = call_id
        if not call_id or call_id in self._by_id:
            shown_id = new_call_id()
        self._by_id.setdefault(call_id or shown_id, call)
        return ToolCallPart(call.number, shown_id, name, _arguments(arguments))

    def go_on(self, arguments: Any) -> ToolCallPart | None:
        """Return a further part of the last call; None if it says nothing."""
        text = _arguments(arguments)
        return ToolCallPart(self._last.number, arguments=text) if text and self._last else None

    def read(self, entries: Any) -> list[ToolCallPart]:
        """Return the parts in a delta's `tool_calls` of OpenAI's format, which servers write in many ways.

        An `index` says to which call a part belongs, where it is there and right: some leave it out, and some say 0 of
        every call. Ids and names may be repeated in every part, arguments may be an object.
        """
        parts = []
        for entry in entries if isinstance(entries, list) else [entries]:
            fields = entry if isinstance(entry, dict) else {}
            function = fields.get("function")
            function = function if isinstance(function, dict) else {}
            call_id, name = _word(fields.get("id")), _word(function.get("name"))
            arguments = _arguments(function.get("arguments"))
            if not (call_id or name or arguments):
                continue
            index = fields.get("index")
            index = index if type(index) is int else None
            call = self._find(index, call_id, name)
            if call is None:
                parts.append(self.begin(call_id, name, arguments))
                call = self._last
                assert call is not None
            else:
                name = "" if call.is_named else name
                call.is_named = call.is_named or bool(name)
                if name or arguments:
                    parts.append(ToolCallPart(call.number, name=name, arguments=arguments))
            if index is not None:
                self._by_index[index] = call
            self._last = call
        return parts

    def _find(self, index: int | None, call_id: str, name: str) -> _Call | None:
        """Return the call that a part belongs to; None if it begins one."""
        by_index = None if index is None else self._by_index.get(index)
        if by_index is not None:
            # Another id alone begins none: some make one up for each part.
            is_another = call_id and name and call_id != by_index.id and by_index.is_named
            return None if is_another else by_index
        if index is None and call_id in self._by_id:
            return self._by_id[call_id]
        if name and (index is not None or call_id or self._last is None or self._last.is_named):
            return None
        if index is not None and call_id:
            return self._by_id.get(call_id)
        return self._last


def new_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def _word(value: Any) -> str:
    """Return an id or a name in whole characters, without NUL."""
    if not isinstance(value, str):
        return ""
    return value.replace("\0", "").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _arguments(value: Any) -> str:
    """Return arguments as text; raises BadResponse for what is nested too deep."""
    if isinstance(value, str):
        return value
    try:
        return as_json(value) if isinstance(value, dict | list) else ""
    except UNREADABLE as error:
        raise BadResponse from error
