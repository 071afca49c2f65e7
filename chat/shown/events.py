"""Events of a turn, as JSON with a dotted `type`: the socket sends them, and the API's event stream."""

from typing import Any, Literal
from uuid import UUID

import msgspec
from msgspec import Struct

from chat.shown.costs import usage_of
from chat.shown.sentences import charge_sentence, error_sentence
from chat.turns.closing import can_continue
from chat.turns.log import Entry, EntryKind
from history.models import Turn


def _to_plain_text(value: object) -> str:
    """Return as text what JSON has no type for. A SafeString needs the `+`: its `str()` is a SafeString again."""
    return value + "" if isinstance(value, str) else str(value)


encode_json = msgspec.json.Encoder(enc_hook=_to_plain_text).encode


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


def started_event(turn: Turn, html: str) -> dict[str, Any]:
    return {
        "type": "turn.started",
        "turn_id": turn.pk,
        "conversation_id": turn.conversation_id,
        "parent_id": turn.parent_id,
        "beside_id": turn.beside_id,
        "seq": turn.seq,
        "model": turn.model or turn.requested_model,
        "route": turn.route,
        "html": html,
    }


def waiting_event(turn_id: UUID, queue_position: int) -> dict[str, Any]:
    """Return `turn.waiting`: no runner has taken the turn yet. Position 1 is the next; 0, it waits no more."""
    return {"type": "turn.waiting", "turn_id": turn_id, "place": queue_position}


def ended_event(turn: Turn, html: str) -> dict[str, Any]:
    """Return `turn.completed`, `turn.stopped`, `turn.failed` or `turn.interrupted`."""
    return {
        "type": f"turn.{turn.status}",
        "turn_id": turn.pk,
        "html": html,
        "usage": usage_of(turn),
        "cost_micros": turn.cost_micros,
        "cost_detail": charge_sentence(turn),
        "from_cache": turn.is_from_cache,
        "code": turn.error,
        "detail": error_sentence(turn),
        "can_continue": can_continue(turn),
    }
