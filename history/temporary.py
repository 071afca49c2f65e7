"""Temporary conversations: kept nowhere but in Redis, and gone an hour after their last question (docs/adr/0022).

Their ids, and those of their turns, are UUIDs of version 8: which store to ask is known from an id alone, and what was
temporary once can never be stored. Their conversations and turns are models that are never saved; `access`, `tree`,
`branches`, `progress` and `deletion` ask here for them. A temporary conversation has no branches.

A conversation is one hash: `owner`, `created` and `used` (when it was last asked in), `count`, `last` (its last turn),
`bytes`, `ended`, and of each turn `turn:<id>`, JSON of its fields, `seq:<id>`, and `open:<id>`, its generation until it
is over.

What a program asks over the OpenAI-compatible API is kept in the same way, as a conversation of one turn that nobody is
told the id of (`kept_after_end`): it is gone soon after its end.
"""

import datetime as dt
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from django.core.exceptions import ValidationError
from django.db.models import DateTimeField, UUIDField
from django.utils.translation import gettext

from core.errors import Conflict
from core.lua import LuaScript
from core.redis_clients import sync_redis
from history.errors import (
    HasNoBranches,
    IdOfOtherKind,
    Overtaken,
    TemporaryGone,
    TooManyTemporary,
    TooMuchTemporary,
)
from history.models import Conversation, TitledBy, Turn, new_id, now

logger = logging.getLogger(__name__)

KEPT = dt.timedelta(hours=1)
"""For how long after its last question a temporary conversation is kept. A turn is over long before."""
MAX_CONVERSATIONS = 50
"""How many of them one person may have at once."""
MAX_BYTES = 2 * 2**20
"""How much text they may have together before one more question is refused: Redis evicts nothing."""
KEPT_AFTER_END = dt.timedelta(minutes=5)
"""For how long the answer to a program's question is kept after its end: until whoever waits for it has read it."""

VERSION = 8
ENDED = "temporary:ended"
"""The conversations that were ended and are not erased yet."""

_CONVERSATION = "temporary:"
_PLACE = "temporary:turn:"

_BEGIN = LuaScript(Path(__file__).with_name("begin_temporary.lua"))
_ADD = LuaScript(Path(__file__).with_name("add_temporary.lua"))
_ADD_COMPLETION = LuaScript(Path(__file__).with_name("add_completion.lua"))
_FIND = LuaScript(Path(__file__).with_name("find_temporary.lua"))
_UPDATE = LuaScript(Path(__file__).with_name("update_temporary.lua"))
_END = LuaScript(Path(__file__).with_name("end_temporary.lua"))

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_NOT_IN_ROW = ("seq", "search_text")
_FIELDS = [field for field in Turn._meta.concrete_fields if field.attname not in _NOT_IN_ROW]
_CONVERTERS = {field.attname: field.to_python for field in _FIELDS if isinstance(field, DateTimeField | UUIDField)}
_NAMES = {field.attname for field in _FIELDS}


@dataclass(frozen=True, slots=True)
class TemporaryConversation:
    """A conversation and its turns, in the order they were asked, as Redis has them."""

    conversation: Conversation
    turns: list[Turn]
    is_ended: bool


def is_temporary(pk: UUID) -> bool:
    """Return whether an id is of a temporary conversation, or of a turn of one."""
    return pk.version == VERSION


def new_turn_id(conversation_id: UUID) -> UUID:
    """Return an id for a turn of a conversation of either kind."""
    return _new_id() if is_temporary(conversation_id) else new_id()


def check_kept(conversation_id: UUID) -> None:
    """Raise IdOfOtherKind for an id that a conversation cannot have that is stored."""
    if is_temporary(conversation_id):
        raise IdOfOtherKind


def check_turn_id(turn_id: UUID, conversation_id: UUID) -> None:
    """Raise IdOfOtherKind for a turn's id that cannot be in that conversation."""
    if is_temporary(turn_id) != is_temporary(conversation_id):
        raise IdOfOtherKind


def gone_at(conversation: Conversation) -> dt.datetime | None:
    """Return when a conversation will be gone, if nothing more is asked in it; None for one that is stored."""
    return conversation.updated_at + KEPT if is_temporary(conversation.pk) else None


def begin_conversation(owner_id: int) -> Conversation:
    """Begin a temporary conversation; raises TooManyTemporary."""
    conversation, moment = _new_id(), now()
    wait_seconds = _BEGIN(
        sync_redis(),
        conversation=_key(conversation),
        of_owner=_owners_key(owner_id),
        id=str(conversation),
        owner=owner_id,
        created=moment.isoformat(),
        kept_seconds=_kept_seconds(),
        most=MAX_CONVERSATIONS,
    )
    if wait_seconds:
        raise TooManyTemporary(retry_after=wait_seconds)
    return _to_conversation(conversation, owner_id=owner_id, created=moment, used=moment)


def find_temporary(conversation_id: UUID, *, even_ended: bool = False) -> TemporaryConversation | None:
    """Return a temporary conversation with its turns, whoever owns it; one that was ended only if asked for."""
    return _read(conversation_id, sync_redis().hgetall(_key(conversation_id)), even_ended=even_ended)


def list_temporary_turns(conversation_id: UUID) -> list[Turn]:
    """Return the turns of a conversation in the order they were asked."""
    found = find_temporary(conversation_id)
    return found.turns if found else []


def find_temporary_turns(turn_ids: Sequence[UUID]) -> dict[UUID, Turn]:
    """Return the turns that are there, by id, also of conversations that were ended."""
    if not turn_ids:
        return {}
    answers = _FIND(sync_redis(), *map(str, turn_ids), prefix=_CONVERSATION, place_prefix=_PLACE)
    found = (_to_turn(*answer) for answer in answers)
    return {turn.pk: turn for turn in found if turn is not None}


def add_temporary_turn(turn: Turn) -> Turn:
    """Write a new turn at the end of its conversation and return it; if its id exists, return the turn that has it.

    Without a number (`seq` 0) it gets the next. Raises Overtaken, HasNoBranches, TooMuchTemporary, or TemporaryGone.
    """
    moment = now()
    answer = _ADD(
        sync_redis(),
        conversation=_key(turn.conversation_id),
        place=_place_key(turn.pk),
        of_owner=_owners_key(turn.owner_id),
        id=str(turn.conversation_id),
        owner=turn.owner_id,
        turn=str(turn.pk),
        parent=str(turn.parent_id or ""),
        wanted=turn.seq,
        row=_encode(turn),
        used=moment.isoformat(),
        kept_seconds=_kept_seconds(),
        most_bytes=MAX_BYTES,
        prefix=_CONVERSATION,
        place_prefix=_PLACE,
    )
    match answer:
        case 0:
            raise TemporaryGone
        case -1:
            raise Overtaken
        case -2:
            raise HasNoBranches
        case -3:
            raise TooMuchTemporary
        case -4:
            if existing := find_temporary_turns([turn.pk]).get(turn.pk):
                return existing
            raise Conflict
    turn.seq = answer
    return turn


def add_completion(turn: Turn) -> Turn:
    """Write the turn of a program's question, alone in its conversation, and return it; if its id exists, return the
    turn that has it."""
    turn.seq = 1
    is_new = _ADD_COMPLETION(
        sync_redis(),
        conversation=_key(turn.conversation_id),
        place=_place_key(turn.pk),
        of_owner=_completions_key(turn.owner_id),
        id=str(turn.conversation_id),
        owner=turn.owner_id,
        turn=str(turn.pk),
        row=_encode(turn),
        created=turn.created_at.isoformat(),
        kept_seconds=_kept_seconds(),
        kept_after_end_seconds=round(KEPT_AFTER_END.total_seconds()),
    )
    if is_new:
        return turn
    if existing := find_temporary_turns([turn.pk]).get(turn.pk):
        return existing
    raise Conflict


def new_completion_id(*, is_kept: bool = False) -> UUID:
    """Return an id for the turn of a program's question, or for its conversation."""
    return new_id() if is_kept else _new_id()


def completion_id_of(digest: bytes, *, is_kept: bool = False) -> UUID:
    """Return the id that a program's question has whenever it comes with the same digest, of 16 bytes or more; where it
    is kept, one that a stored turn can have."""
    return UUID(bytes=digest[:16], version=5) if is_kept else _as_temporary(UUID(bytes=digest[:16]))


def update_open_temporary(turn: Turn, fields: Mapping[str, Any]) -> bool:
    """Write `fields` if the turn is open and `turn.gen` is still its generation; return whether it was.

    All of the turn is written: while its generation is the same, so is the rest of it.
    """
    before = {field.attname: getattr(turn, field.attname) for field in Turn._meta.concrete_fields}
    changed = Turn(**before | dict(fields))
    is_ours = _UPDATE(
        sync_redis(),
        conversation=_key(turn.conversation_id),
        place=_place_key(turn.pk),
        completions=_completions_key(turn.owner_id),
        turn=str(turn.pk),
        gen=turn.gen,
        next_gen=changed.gen if changed.is_open else "",
        row=_encode(changed),
        id=str(turn.conversation_id),
    )
    return bool(is_ours)


def end_conversations(owner_id: int, conversation_ids: Sequence[UUID] = ()) -> list[UUID]:
    """End temporary conversations of a person, all of them where none are named; return those that are there. Nobody
    finds them from now on; `list_ended_temporaries` lists them until they are erased."""
    ended = _END(
        sync_redis(),
        *map(str, conversation_ids),
        of_owner=_owners_key(owner_id),
        ended=ENDED,
        owner=owner_id,
        prefix=_CONVERSATION,
    )
    return [UUID(pk.decode()) for pk in ended]


def list_completions(owner_id: int) -> list[UUID]:
    """Return the conversations of what a person's programs asked, some of which may be gone."""
    found: Any = sync_redis().zrange(_completions_key(owner_id), 0, -1)
    return [UUID(pk.decode()) for pk in found]


def list_ended_temporaries() -> list[UUID]:
    """Return the conversations that were ended and are not erased, whoever owned them."""
    ended: Any = sync_redis().smembers(ENDED)
    return [UUID(pk.decode()) for pk in ended]


def erase_ended(conversation_id: UUID) -> None:
    """Erase a conversation that was ended, with its turns. May be repeated."""
    redis, key = sync_redis(), _key(conversation_id)
    names: Any = redis.hkeys(key)
    owner: Any = redis.hget(key, "owner")
    places = [_PLACE + name.decode().removeprefix("seq:") for name in names if name.startswith(b"seq:")]
    pipeline = redis.pipeline(transaction=False)
    pipeline.delete(key, *places)
    pipeline.srem(ENDED, str(conversation_id))
    if owner is not None:
        for of_owner in (_owners_key(int(owner)), _completions_key(int(owner))):
            pipeline.zrem(of_owner, str(conversation_id))
    pipeline.execute()


def _new_id() -> UUID:
    return _as_temporary(new_id())


def _as_temporary(pk: UUID) -> UUID:
    """Return the id with the version, and the variant, of temporary ones."""
    return UUID(int=pk.int & ~(0xF << 76 | 0x3 << 62) | VERSION << 76 | 0x2 << 62)


def _key(conversation_id: UUID) -> str:
    return f"{_CONVERSATION}{conversation_id}"


def _place_key(turn_id: UUID) -> str:
    """Holds the id of the turn's conversation."""
    return f"{_PLACE}{turn_id}"


def _owners_key(owner_id: int) -> str:
    """A sorted set of the person's temporary conversations, by when they will be gone."""
    return f"temporary:of:{owner_id}"


def _completions_key(owner_id: int) -> str:
    """The same of what the person's programs asked."""
    return f"temporary:completions:of:{owner_id}"


def _kept_seconds() -> int:
    return round(KEPT.total_seconds())


def _read(conversation_id: UUID, found: Any, *, even_ended: bool) -> TemporaryConversation | None:
    is_ended = b"ended" in found
    if b"owner" not in found or (is_ended and not even_ended):
        return None
    try:
        conversation = _to_conversation(
            conversation_id,
            owner_id=int(found[b"owner"]),
            created=dt.datetime.fromisoformat(found[b"created"].decode()),
            used=dt.datetime.fromisoformat(found[b"used"].decode()),
            turn_count=int(found[b"count"]),
        )
    except (KeyError, ValueError):
        logger.exception("Temporary conversation unreadable", extra={"conversation_id": conversation_id})
        return None
    return TemporaryConversation(conversation, _in_order(found), is_ended)


def _in_order(found: Mapping[bytes, bytes]) -> list[Turn]:
    rows: Iterable[tuple[bytes, bytes]] = ((name[5:], row) for name, row in found.items() if name.startswith(b"turn:"))
    turns = (_to_turn(row, found.get(b"seq:" + pk)) for pk, row in rows)
    return sorted((turn for turn in turns if turn is not None), key=lambda turn: turn.seq)


def _to_conversation(
    pk: UUID, *, owner_id: int, created: dt.datetime, used: dt.datetime, turn_count: int = 0
) -> Conversation:
    return Conversation(
        pk=pk,
        owner_id=owner_id,
        title=gettext("Temporary chat"),
        titled_by=TitledBy.PERSON,
        turn_count=turn_count,
        created_at=created,
        updated_at=used,
    )


def _encode(turn: Turn) -> bytes:
    return msgspec.json.encode({name: getattr(turn, name) for name in _NAMES}, enc_hook=str)


def _to_turn(row: bytes | None, seq: bytes | None) -> Turn | None:
    """Return the turn; None for what is none. Processes of another version may know other fields."""
    if row is None or seq is None:
        return None
    try:
        fields = {name: value for name, value in _decode(row).items() if name in _NAMES}
        converted = {name: convert(fields[name]) for name, convert in _CONVERTERS.items() if name in fields}
        return Turn(**fields | converted, seq=int(seq))
    except (ValueError, ValidationError):  # msgspec's errors are the former
        logger.exception("Temporary turn unreadable")
        return None
