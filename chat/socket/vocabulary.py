"""The socket's vocabulary, as JSON with a dotted `type`: the commands it takes, and the events only it sends.

Events that the API's event stream sends too are in chat/shown/events.py.
"""

from functools import lru_cache
from typing import Annotated, Any, Literal, TypeAlias
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from billing.entitlements import Allowance
from chat.errors import BadCommand
from chat.shown.events import encode_json, text_event
from chat.turns.log import Entry

# --- Commands in -----------------------------------------------------------------------------------------------------

Offset: TypeAlias = Annotated[int, Meta(ge=0)]


class Start(Struct, tag_field="type", tag="turn.start"):
    """`parent_id` absent continues the last turn; null begins a new branch at the root. `attachments` are ids.
    `blocks` asks for `turn.block` events; `folder_id` is where a new conversation begins."""

    turn_id: UUID
    conversation_id: UUID
    text: str
    model: str | None = None
    parent_id: UUID | UnsetType | None = UNSET
    attachments: list[UUID] = []
    effort: str | None = None
    blocks: bool = False
    folder_id: UUID | None = None


class Stop(Struct, tag_field="type", tag="turn.stop"):
    turn_id: UUID


class Watch(Struct, tag_field="type", tag="turn.watch"):
    """`at` is in characters of text, `reasoning_at` of reasoning; `blocks` asks for `turn.block` events."""

    turn_id: UUID
    gen: Offset = 0
    at: Offset = 0
    reasoning_at: Offset = 0
    blocks: bool = False


Command: TypeAlias = Start | Stop | Watch

_decode = msgspec.json.Decoder(Command).decode


def parse_command(text: str) -> Command:
    """Return the command; raises BadCommand."""
    try:
        command: Command = _decode(text)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as error:  # the last: nested too deeply
        raise BadCommand from error
    return command


# --- Events out ------------------------------------------------------------------------------------------------------


KEEP_ALIVE_FRAME = encode_json({"type": "keep_alive"}).decode()
"""Sent while a turn that the page follows says nothing, every few seconds: the connection is alive."""


@lru_cache(256)
def text_frame(entry: Entry) -> str:
    """Return the event of live text as it is sent: encoded once, however many sockets of this process send it."""
    return encode_json(text_event(entry)).decode()


def rejected_event(turn_id: UUID | None, code: str, detail: str, retry_after: float | None) -> dict[str, Any]:
    """Return `turn.rejected`. `retry_after` is in seconds; `turn_id` is None if the command could not be read."""
    return {
        "type": "turn.rejected",
        "turn_id": turn_id,
        "code": code,
        "detail": detail,
        "retry_after": None if retry_after is None else max(1, round(retry_after)),
    }


def conversation_event(conversation_id: UUID, html: str) -> dict[str, Any]:
    """Return `conversation.changed`: the conversation's line of the sidebar, empty when it is gone."""
    return {"type": "conversation.changed", "conversation_id": conversation_id, "html": html}


def list_event() -> dict[str, Any]:
    """Return `list.changed`: the list of conversations has changed in more than one place."""
    return {"type": "list.changed"}


def allowance_event(allowance: Allowance) -> dict[str, Any]:
    return {
        "type": "allowance.changed",
        "used": allowance.used,
        "allowance": allowance.allowance,
        "resets_at": allowance.resets_at.isoformat(),
        "packs": [{"left": pack.left, "expires_at": pack.expires_at.isoformat()} for pack in allowance.packs],
    }


def notice_event(level: Literal["info", "warning", "error"], text: str) -> dict[str, Any]:
    return {"type": "notice", "level": level, "text": text}
