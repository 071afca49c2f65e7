"""Exports of other chats, made up: their shapes, and nobody's words."""

import io
import json
import random
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

BEGUN = 1_700_000_000.0
WORDS = (
    "sol",
    "mar",
    "árbol",
    "niño",
    "canción",
    "über",
    "Straße",
    "lluvia",
    "light",
    "tarde",
    "você",
    "amanhã",
    "pão",
)


def chatgpt_message(
    role: str, *parts: Any, at: float | None = BEGUN, kind: str = "text", recipient: str = "all", **metadata: Any
) -> dict[str, Any]:
    content: dict[str, Any] = {"content_type": kind}
    if kind == "thoughts":
        content["thoughts"] = list(parts)
    elif kind in ("code", "execution_output"):
        content |= {"language": "python", "text": parts[0]}
    else:
        content["parts"] = list(parts)
    return {
        "id": "m",
        "author": {"role": role, "name": None, "metadata": {}},
        "create_time": at,
        "update_time": None,
        "content": content,
        "status": "finished_successfully",
        "end_turn": True,
        "weight": 1.0,
        "metadata": metadata,
        "recipient": recipient,
        "channel": None,
    }


def chatgpt(
    nodes: dict[str, tuple[str | None, dict[str, Any] | None]],
    key: str = "c1",
    current: str | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Return a conversation of ChatGPT's export; `nodes` are parent and message by id."""
    mapping = {
        name: {
            "id": name,
            "message": message,
            "parent": parent,
            "children": [child for child, (above, _message) in nodes.items() if above == name],
        }
        for name, (parent, message) in nodes.items()
    }
    return {
        "title": "Saludos",
        "create_time": BEGUN,
        "update_time": BEGUN + 100,
        "mapping": mapping,
        "moderation_results": [],
        "current_node": current or next(reversed(nodes), None),
        "plugin_ids": None,
        "conversation_id": key,
        "conversation_template_id": None,
        "gizmo_id": None,
        "is_archived": False,
        "safe_urls": [],
        "default_model_slug": "gpt-4o",
        "id": key,
    } | fields


def chatgpt_tree() -> dict[str, Any]:
    """Return a conversation with all that ChatGPT's trees have: hidden messages, thoughts, tools, images, an answer
    made again, an edited question, and a branch that is shown though another one is younger."""
    say = chatgpt_message
    return chatgpt(
        {
            "client-created-root": (None, None),
            "system": ("client-created-root", say("system", "")),
            "profile": (
                "system",
                say("user", "I am a gardener", kind="user_editable_context", is_visually_hidden_from_conversation=True),
            ),
            "q1": ("profile", say("user", "¿Qué árbol es?", at=BEGUN + 1)),
            "t1": ("q1", say("assistant", {"summary": "Hojas", "content": "Son de roble."}, kind="thoughts")),
            "call": ("t1", say("assistant", "search('oak')", kind="code", recipient="browser")),
            "tool": ("call", say("tool", "oak: a tree")),
            "a1": (
                "tool",
                say("assistant", "Un roble\ue200cite\ue202turn0search0\ue201.", at=BEGUN + 2, model_slug="o3"),
            ),
            "a1b": ("q1", say("assistant", "Una encina.", at=BEGUN + 9, model_slug="gpt-4o")),
            "q2": ("a1", say("user", "Gracias", at=BEGUN + 3)),
            "a2": ("q2", say("assistant", "De nada.", at=BEGUN + 4)),
            "q2b": (
                "a1",
                say(
                    "user",
                    {"content_type": "image_asset_pointer", "asset_pointer": "file-service://file-1", "size_bytes": 9},
                    "¿Y este?",
                    at=BEGUN + 5,
                    kind="multimodal_text",
                    attachments=[{"id": "file-1", "name": "hoja.png", "size": 9, "mime_type": "image/png"}],
                ),
            ),
            "draw": (
                "q2b",
                say(
                    "tool",
                    {"content_type": "image_asset_pointer", "asset_pointer": "sediment://file_2"},
                    at=BEGUN + 6,
                    kind="multimodal_text",
                ),
            ),
            "a2b": ("draw", say("assistant", "Así.", at=BEGUN + 7)),
            "q3": ("a2b", say("user", "¿Hola?", at=BEGUN + 8)),
            "q4": ("q3", say("user", "¿Sigues ahí?", at=BEGUN + 9)),
        },
        key="aaaaaaaa-0000-4000-8000-000000000001",
        current="a2",
    )


def claude(messages: Iterable[dict[str, Any]], key: str = "cl-1", **fields: Any) -> dict[str, Any]:
    return {
        "uuid": key,
        "name": "Un plan",
        "summary": "",
        "created_at": "2025-01-02T03:04:05.678901Z",
        "updated_at": "2025-01-02T04:04:05Z",
        "account": {"uuid": "an-account"},
        "chat_messages": list(messages),
    } | fields


def claude_message(key: str, sender: str, text: str, **fields: Any) -> dict[str, Any]:
    return {
        "uuid": key,
        "text": text,
        "content": [{"type": "text", "text": text, "citations": []}],
        "sender": sender,
        "created_at": "2025-01-02T03:05:00Z",
        "updated_at": "2025-01-02T03:05:00Z",
        "attachments": [],
        "files": [],
    } | fields


def claude_tree() -> dict[str, Any]:
    """Return a conversation of a newer export: parents, blocks, a file, and an answer that was made again."""
    root = "00000000-0000-4000-8000-000000000000"
    thought = [
        {"type": "thinking", "thinking": "Primero el suelo."},
        {"type": "tool_use", "name": "artifacts", "input": {}},
        {"type": "text", "text": "Empieza por el suelo."},
    ]
    return claude(
        [
            claude_message(
                "m1", "human", "¿Cómo planto un roble?", parent_message_uuid=root, files=[{"file_name": "plano.pdf"}]
            ),
            claude_message("m2", "assistant", "", content=thought, parent_message_uuid="m1"),
            claude_message("m3", "assistant", "En otoño.", parent_message_uuid="m1"),
            claude_message("m4", "human", "Gracias", parent_message_uuid="m3"),
            claude_message("m5", "assistant", "De nada.", parent_message_uuid="m4"),
        ]
    )


def claude_list() -> dict[str, Any]:
    """Return a conversation of an older export, whose messages follow each other: it begins with an answer."""
    old = [claude_message(f"o{n}", *message) for n, message in enumerate(OLD)]
    for message in old:
        del message["content"]
    return claude(old, key="cl-2", name="")


OLD = [("assistant", "Hola."), ("human", "Uno"), ("human", "Dos"), ("assistant", "Tres")]


def as_json(*conversations: Any) -> bytes:
    return json.dumps(conversations).encode()


def zipped(files: dict[str, bytes], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def write_large_export(path: Path, megabytes: int, seed: int = 1) -> int:
    """Write a `conversations.json` of ChatGPT's shapes of so many megabytes; return how many conversations it has."""
    draw = random.Random(seed)
    text = " ".join(draw.choices(WORDS, k=4_000))
    count = 0
    with path.open("w") as file:
        file.write("[")
        while file.tell() < megabytes * 1_000_000:
            file.write(",\n" if count else "")
            json.dump(_large(count, draw, text), file)
            count += 1
        file.write("]")
    return count


def _large(number: int, draw: random.Random, text: str) -> dict[str, Any]:
    at = BEGUN + 1000 * number
    nodes: dict[str, tuple[str | None, dict[str, Any] | None]] = {"root": (None, None)}
    above = "root"
    for turn in range(draw.randint(1, 12)):
        question, answer = f"q{turn}", f"a{turn}"
        nodes[question] = (above, chatgpt_message("user", _piece(text, draw, 300), at=at + turn))
        if draw.random() < 0.2:
            nodes[f"again{turn}"] = (
                question,
                chatgpt_message("assistant", _piece(text, draw, 1_500), at=at + turn + 0.2),
            )
        nodes[answer] = (question, chatgpt_message("assistant", _piece(text, draw, 3_000), at=at + turn + 0.5))
        above = answer
    key = str(UUID(int=draw.getrandbits(128), version=4))
    return chatgpt(nodes, key, title=f"Charla {number}", create_time=at, update_time=at + 60)


def _piece(text: str, draw: random.Random, length: int) -> str:
    start = draw.randrange(len(text) // 2)
    return text[start : start + draw.randint(length // 4, length)]


def lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        yield json.loads(line)
