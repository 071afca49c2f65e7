"""Conversations as ChatGPT exports them: `conversations.json`, each a `mapping` of messages by id, with their parents.

OpenAI publishes no description. The shapes are those that converters of many people agree on; what a new one adds is
left out and counted, and what every one of them needs must be right.
"""

import re
from typing import Any

import msgspec

from history.transfer.grouping import TreeMessage, group_turns
from history.transfer.parsed import MAX_KEY, MAX_TITLE, Notes, ParsedConversation, clean

CITATION = re.compile("\ue200[^\ue201]*\ue201|[\ue200-\ue2ff]")
"""Marks that ChatGPT's page replaces with a link to a source; they are no text."""
HIDDEN_TYPES = ("user_editable_context", "model_editable_context", "app_pairing_content")


class Author(msgspec.Struct):
    role: str


class Content(msgspec.Struct):
    content_type: str = ""
    parts: list[Any] | None = None
    text: str | None = None
    language: str | None = None
    thoughts: list[Any] | None = None
    content: Any = None


class ChatGptMessage(msgspec.Struct):
    author: Author
    content: Content | None = None
    create_time: float | None = None
    recipient: str | None = None
    metadata: dict[str, Any] | None = None


class Node(msgspec.Struct):
    message: ChatGptMessage | None = None
    parent: str | None = None


class ChatGptConversation(msgspec.Struct):
    mapping: dict[str, msgspec.Raw]
    title: str | None = None
    create_time: float | None = None
    update_time: float | None = None
    current_node: str | None = None
    conversation_id: str | None = None
    id: str | None = None
    default_model_slug: str | None = None
    is_archived: bool | None = None


def parse_chatgpt(data: bytes, notes: Notes) -> ParsedConversation:
    """Return a conversation; raises FileRefused, or msgspec's errors for a shape that is wrong."""
    found = msgspec.json.decode(data, type=ChatGptConversation)
    key = found.conversation_id or found.id
    if not key or len(key) > MAX_KEY:
        raise notes.refuse("missing_id")
    messages = [_message(name, raw, found, notes) for name, raw in found.mapping.items()]
    turns, leaf = group_turns(messages, found.current_node, notes)
    return ParsedConversation(
        source="chatgpt",
        key=key,
        title=clean(found.title or "", MAX_TITLE),
        created_at=found.create_time,
        updated_at=found.update_time,
        leaf=leaf,
        is_archived=bool(found.is_archived),
        turns=turns,
    )


def _message(key: str, raw: msgspec.Raw, conversation: ChatGptConversation, notes: Notes) -> TreeMessage:
    if len(key) > MAX_KEY:
        raise notes.refuse("missing_id", key)
    try:
        node = msgspec.json.decode(raw, type=Node)
    except msgspec.ValidationError as error:
        raise notes.refuse("wrong_shape", key, detail=str(error)) from error
    message = TreeMessage(key, node.parent)
    if node.message is not None and node.message.content is not None:
        _fill(message, node.message, node.message.content, conversation, notes)
    return message


def _fill(
    message: TreeMessage, source: ChatGptMessage, content: Content, conversation: ChatGptConversation, notes: Notes
) -> None:
    """Take text, thoughts, images and the names of files from what a person or the model wrote."""
    role, metadata = source.author.role, source.metadata or {}
    message.at = source.create_time
    if role == "system":
        return
    if metadata.get("is_visually_hidden_from_conversation") is True or content.content_type in HIDDEN_TYPES:
        notes.left_out["hidden"] += 1
        return
    text, images = _read(content, notes)
    if role == "user":
        message.files = _file_names(metadata)
        message.images = max(0, images - len(message.files))
        message.text = text
        if text.strip() or message.files or message.images:
            message.kind = "question"
    elif role == "tool":
        # A tool's words are not the answer, but the pictures it made are in it.
        message.images = images
        message.kind = "answer" if images else "other"
        if not images:
            notes.left_out["tools"] += 1
    elif role != "assistant":
        notes.left_out["unknown"] += 1
    elif source.recipient not in (None, "all"):
        notes.left_out["tools"] += 1
    else:
        message.text, message.images, message.reasoning = text, images, _thoughts(content)
        if text.strip() or images or message.reasoning:
            message.kind = "answer"
            slug = metadata.get("model_slug") or conversation.default_model_slug
            message.model = clean(slug, 100) if isinstance(slug, str) else ""
    notes.left_out["images"] += message.images
    notes.left_out["files"] += len(message.files)


def _read(content: Content, notes: Notes) -> tuple[str, int]:
    """Return the text of a message, and how many images are in it."""
    if content.content_type == "code" and content.text:
        language = content.language if content.language and content.language.isalnum() else ""
        return f"```{language}\n{content.text}\n```", 0
    if content.content_type in ("thoughts", "reasoning_recap"):
        return "", 0
    texts: list[str] = []
    images = 0
    for part in content.parts if content.parts is not None else [content.text or ""]:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and isinstance(kind := part.get("content_type"), str):
            if kind == "image_asset_pointer":
                images += 1
            elif kind == "audio_transcription" and isinstance(part.get("text"), str):
                texts.append(part["text"])
            else:
                notes.left_out["unknown"] += 1
        elif part is not None:
            notes.left_out["unknown"] += 1
    return CITATION.sub("", "\n\n".join(text for text in texts if text)), images


def _thoughts(content: Content) -> str:
    if content.content_type != "thoughts":
        return ""
    found = [part for part in content.thoughts or [] if isinstance(part, dict)]
    texts = [[part.get("summary"), part.get("content")] for part in found]
    return "\n\n".join(text for pair in texts for text in pair if isinstance(text, str) and text)


def _file_names(metadata: dict[str, Any]) -> list[str]:
    attachments = metadata.get("attachments")
    found = attachments if isinstance(attachments, list) else []
    names = [part.get("name") for part in found[:100] if isinstance(part, dict)]
    return [clean(name, 100) for name in names if isinstance(name, str) and name]
