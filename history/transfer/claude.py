"""Conversations as Claude exports them: `conversations.json`, each a list of `chat_messages`.

Older exports have a text alone and no parents: a message follows the one before it. Newer ones have blocks of content,
and `parent_message_uuid`.
"""

import datetime as dt
from typing import Any

import msgspec

from history.transfer.document import seconds
from history.transfer.grouping import TreeMessage, group_turns
from history.transfer.parsed import MAX_KEY, MAX_TITLE, Notes, ParsedConversation, clean

ROOT = "00000000-0000-4000-8000-000000000000"
"""The parent that a first message has."""
TOOLS = ("tool_use", "tool_result", "token_budget")


class ClaudeMessage(msgspec.Struct):
    uuid: str
    sender: str
    text: str | None = None
    content: list[dict[str, Any]] | None = None
    created_at: dt.datetime | None = None
    attachments: list[Any] | None = None
    files: list[Any] | None = None
    parent_message_uuid: str | None = None


class ClaudeConversation(msgspec.Struct):
    uuid: str
    chat_messages: list[msgspec.Raw]
    name: str | None = None
    created_at: dt.datetime | None = None
    updated_at: dt.datetime | None = None
    current_leaf_message_uuid: str | None = None
    model: str | None = None


def parse_claude(data: bytes, notes: Notes) -> ParsedConversation:
    """Return a conversation; raises FileRefused, or msgspec's errors for a shape that is wrong."""
    found = msgspec.json.decode(data, type=ClaudeConversation)
    if not found.uuid or len(found.uuid) > MAX_KEY:
        raise notes.refuse("missing_id")
    sources = [_source(number, raw, notes) for number, raw in enumerate(found.chat_messages, 1)]
    has_parents = any(source.parent_message_uuid for source in sources)
    messages: list[TreeMessage] = []
    for source in sources:
        before = messages[-1].key if messages else None
        messages.append(_message(source, source.parent_message_uuid if has_parents else before, found, notes))
    if has_parents:
        keys = {message.key for message in messages}
        for message in messages:
            if message.parent == ROOT and ROOT not in keys:
                message.parent = None
    shown = found.current_leaf_message_uuid or (messages[-1].key if messages else None)
    turns, leaf = group_turns(messages, shown, notes)
    return ParsedConversation(
        source="claude",
        key=found.uuid,
        title=clean(found.name or "", MAX_TITLE),
        created_at=seconds(found.created_at),
        updated_at=seconds(found.updated_at),
        leaf=leaf,
        turns=turns,
    )


def _source(number: int, raw: msgspec.Raw, notes: Notes) -> ClaudeMessage:
    try:
        return msgspec.json.decode(raw, type=ClaudeMessage)
    except msgspec.ValidationError as error:
        raise notes.refuse("wrong_shape", str(number), detail=str(error)) from error


def _message(source: ClaudeMessage, parent: str | None, conversation: ClaudeConversation, notes: Notes) -> TreeMessage:
    if not source.uuid or len(source.uuid) > MAX_KEY:
        raise notes.refuse("missing_id", source.uuid)
    message = TreeMessage(source.uuid, parent, at=seconds(source.created_at))
    texts, thoughts, images = _blocks(source.content or [], notes)
    message.text = "\n\n".join(texts) if texts else source.text or ""
    message.images = images
    message.files = _file_names(source.attachments) + _file_names(source.files)
    if source.sender == "human":
        is_something = bool(message.text.strip() or message.files or images)
        message.kind = "question" if is_something else "other"
    elif source.sender == "assistant":
        message.reasoning = "\n\n".join(thoughts)
        message.model = clean(conversation.model or "", 100)
        message.kind = "answer" if message.text.strip() or thoughts or images else "other"
    else:
        notes.left_out["unknown"] += 1
    if message.kind != "other":
        notes.left_out["images"] += images
        notes.left_out["files"] += len(message.files)
    return message


def _blocks(blocks: list[dict[str, Any]], notes: Notes) -> tuple[list[str], list[str], int]:
    """Return the texts and the thoughts of a message, and how many images are in it."""
    texts: list[str] = []
    thoughts: list[str] = []
    images = 0
    for block in blocks:
        kind = block.get("type")
        if kind == "text" and isinstance(text := block.get("text"), str):
            texts += [text] if text else []
        elif kind == "thinking" and isinstance(thought := block.get("thinking"), str):
            thoughts += [thought] if thought else []
        elif kind == "image":
            images += 1
        else:
            notes.left_out["tools" if kind in TOOLS else "unknown"] += 1
    return texts, thoughts, images


def _file_names(files: list[Any] | None) -> list[str]:
    names = [file.get("file_name") for file in (files or [])[:100] if isinstance(file, dict)]
    return [clean(name, 100) for name in names if isinstance(name, str) and name]
