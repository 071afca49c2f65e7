"""The socket's vocabulary: commands in, events out, as JSON with a dotted `type`. The event stream speaks it too."""

from functools import lru_cache
from typing import Annotated, Any, Literal, TypeAlias
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from billing.entitlements import Allowance
from chat.errors import BadCommand, sentence_for
from chat.turns.closing import can_continue
from chat.turns.log import Entry, EntryKind
from history.models import Turn

MAX_COMMAND_CHARACTERS = 1_000_000
"""Characters. The server closes the socket on longer frames before they get here."""


Offset: TypeAlias = Annotated[int, Meta(ge=0)]


class Start(Struct, tag_field="type", tag="turn.start"):
    """`parent_id` absent continues the last turn; null begins a new branch at the root. `attachments` are ids."""

    turn_id: UUID
    conversation_id: UUID
    text: str
    model: str | None = None
    parent_id: UUID | UnsetType | None = UNSET
    attachments: list[UUID] = []
    effort: str | None = None


class Stop(Struct, tag_field="type", tag="turn.stop"):
    turn_id: UUID


class Watch(Struct, tag_field="type", tag="turn.watch"):
    """`at` is in characters of text, `reasoning_at` of reasoning."""

    turn_id: UUID
    gen: Offset = 0
    at: Offset = 0
    reasoning_at: Offset = 0


Command: TypeAlias = Start | Stop | Watch

_decode = msgspec.json.Decoder(Command).decode


def _plain(value: object) -> str:
    """Return what JSON has no type for as text. `str` of a SafeString is that SafeString again, for ever."""
    return value + "" if isinstance(value, str) else str(value)


encode = msgspec.json.Encoder(enc_hook=_plain).encode


def parse_command(text: str) -> Command:
    """Return the command; raises BadCommand."""
    try:
        command: Command = _decode(text)
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise BadCommand from error
    return command


class TextEvent(Struct, gc=False):
    """`turn.delta` or `turn.reasoning`: `text` begins at character `at` of generation `gen`."""

    type: Literal["turn.delta", "turn.reasoning"]
    turn_id: str
    gen: int
    at: int
    text: str


def text_event(entry: Entry) -> TextEvent:
    kind: Literal["turn.delta", "turn.reasoning"] = "turn.delta" if entry.kind == EntryKind.TEXT else "turn.reasoning"
    return TextEvent(kind, str(UUID(bytes=entry.turn)), entry.gen, entry.at, entry.text)


@lru_cache(256)
def text_frame(entry: Entry) -> str:
    """Return the event as it is sent: encoded once, however many follow the turn."""
    return encode(text_event(entry)).decode()


def started(turn: Turn, html: str) -> dict[str, Any]:
    return {
        "type": "turn.started",
        "turn_id": turn.pk,
        "conversation_id": turn.conversation_id,
        "parent_id": turn.parent_id,
        "seq": turn.seq,
        "model": turn.model or turn.requested_model,
        "route": turn.route,
        "html": html,
    }


def waiting(turn_id: UUID, place: int) -> dict[str, Any]:
    """Return `turn.waiting`: no runner is free yet; `place` 1 is the next, 0 is through."""
    return {"type": "turn.waiting", "turn_id": turn_id, "place": place}


def ended(turn: Turn, html: str) -> dict[str, Any]:
    """Return `turn.completed`, `turn.stopped`, `turn.failed` or `turn.interrupted`."""
    return {
        "type": f"turn.{turn.status}",
        "turn_id": turn.pk,
        "html": html,
        "usage": usage_of(turn),
        "cost_micros": turn.cost_micros,
        "from_cache": turn.is_from_cache,
        "code": turn.error,
        "detail": sentence_for(turn.error),
        "can_continue": can_continue(turn),
    }


def rejected(turn_id: UUID | None, code: str, detail: str, retry_after: float | None) -> dict[str, Any]:
    return {
        "type": "turn.rejected",
        "turn_id": turn_id,
        "code": code,
        "detail": detail,
        "retry_after": None if retry_after is None else max(1, round(retry_after)),
    }


def conversation_changed(conversation_id: UUID, html: str) -> dict[str, Any]:
    return {"type": "conversation.changed", "conversation_id": conversation_id, "html": html}


def allowance_changed(allowance: Allowance) -> dict[str, Any]:
    return {
        "type": "allowance.changed",
        "used": allowance.used,
        "allowance": allowance.allowance,
        "resets_at": allowance.resets_at.isoformat(),
    }


def notice(level: Literal["info", "warning", "error"], text: str) -> dict[str, Any]:
    return {"type": "notice", "level": level, "text": text}


def usage_of(turn: Turn) -> dict[str, Any] | None:
    """Return the tokens of a finished turn; None while it is open or when nothing was used."""
    if not turn.usage_source:
        return None
    return {
        "input": turn.input_tokens,
        "cache_read": turn.cache_read_tokens,
        "cache_write": turn.cache_write_tokens,
        "output": turn.output_tokens,
        "reasoning": turn.reasoning_tokens,
        "source": turn.usage_source,
    }
