"""Writes a conversation for whoever takes it along: as Markdown, in our JSON, or as a page to print. Each comes in
parts, and a page of turns is read at a time."""

import datetime as dt
from collections.abc import Iterator
from typing import Literal, TypeAlias
from uuid import uuid4

import msgspec
from django.conf import settings
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _

from history.models import Conversation, Turn
from history.rendering import RenderingBudget, render_markdown
from history.transfer import document
from history.transfer.pages_of_turns import iterate_branch, iterate_tree

Form: TypeAlias = Literal["markdown", "json", "print"]
ENDINGS: dict[Form, str] = {"markdown": "md", "json": "json", "print": "html"}
CONTENT_TYPES: dict[Form, str] = {
    "markdown": "text/markdown; charset=utf-8",
    "json": "application/json",
    "print": "text/html; charset=utf-8",
}
_TURNS_HERE = uuid4().hex
"""Where the turns go into the page. Nobody who writes a title knows it."""

_encode = msgspec.json.Encoder().encode


class _KeptFile(document.ExportedFile):
    """A file as its turn lists it. The rest of what chat keeps of it is chat's alone."""

    id: str = ""


_decode_files = msgspec.json.Decoder(list[_KeptFile]).decode


def write(conversation: Conversation, form: Form, *, beside_files: bool = False) -> Iterator[str]:
    """Yield the parts of the conversation in this form, in the active language and time zone. `beside_files`: it goes
    into a zip with its files, and the JSON says where each is."""
    if form == "json":
        return _json(conversation, beside_files)
    return _markdown(conversation) if form == "markdown" else _page(conversation)


def _json(conversation: Conversation, beside_files: bool) -> Iterator[str]:
    head = document.DocumentHead(
        format=document.FORMAT,
        version=document.VERSION,
        id=str(conversation.pk),
        title=conversation.title,
        is_archived=bool(conversation.is_archived),
        leaf_id=str(conversation.leaf_id) if conversation.leaf_id else None,
        created_at=_utc(conversation.created_at),
        updated_at=_utc(conversation.updated_at),
    )
    yield _encode(head).decode().removesuffix("}") + ',"turns":['
    comma = ""
    for page in iterate_tree(conversation):
        yield comma + ",\n".join(_encode(_exported(turn, beside_files)).decode() for turn in page)
        comma = ",\n"
    yield "]}\n"


def _exported(turn: Turn, beside_files: bool) -> document.ExportedTurn:
    usage = document.ExportedUsage(
        input=turn.input_tokens,
        cache_read=turn.cache_read_tokens,
        cache_write=turn.cache_write_tokens,
        output=turn.output_tokens,
        reasoning=turn.reasoning_tokens,
        source=turn.usage_source,
    )
    return document.ExportedTurn(
        id=str(turn.pk),
        parent_id=str(turn.parent_id) if turn.parent_id else None,
        question=turn.question,
        status=turn.status,
        attachments=[_exported_file(file, beside_files) for file in _files(turn)],
        answer=turn.answer,
        reasoning=turn.reasoning,
        requested_model=turn.requested_model,
        model=turn.model,
        provider=turn.provider,
        effort=turn.effort,
        usage=usage if turn.usage_source else None,
        cost_micros=turn.cost_micros,
        finish_reason=turn.finish_reason,
        error=turn.error,
        created_at=_utc(turn.created_at),
        completed_at=_utc(turn.completed_at) if turn.completed_at else None,
    )


def _exported_file(file: _KeptFile, beside_files: bool) -> document.ExportedFile:
    path = document.path_of_file(file.id, file.media_type) if beside_files and file.id else msgspec.UNSET
    return document.ExportedFile(file.name, file.kind, file.media_type, file.size, path)


def _markdown(conversation: Conversation) -> Iterator[str]:
    yield f"# {_one_line(conversation.title)}\n\n*{_exported_sentence()}*\n"
    for page in iterate_branch(conversation):
        yield "".join(map(_markdown_of, page))


def _markdown_of(turn: Turn) -> str:
    asked = date_format(timezone.localtime(turn.created_at), "SHORT_DATETIME_FORMAT")
    parts = [f"\n---\n\n**{_('You')}** · {asked}\n", turn.question]
    parts += [f"- {_('File')}: {_one_line(file.name)}" for file in _files(turn)]
    if turn.answer:
        parts += [f"\n**{_one_line(turn.model) or _('Answer')}**\n", turn.answer]
    return "\n".join(parts) + "\n"


def _page(conversation: Conversation) -> Iterator[str]:
    context = {"conversation": conversation, "sentence": _exported_sentence(), "turns_here": _TURNS_HERE}
    head, foot = render_to_string("history/print.html", context).split(_TURNS_HERE)
    yield head
    for page in iterate_branch(conversation):
        budget = RenderingBudget()
        # One at a time: a part is made in a thread that others wait for.
        for turn in page:
            yield _html_of(turn, budget)
    yield foot


def _html_of(turn: Turn, budget: RenderingBudget) -> str:
    answer = render_markdown(turn.answer, str(turn.pk), budget) if turn.answer else ""
    return render_to_string("history/_print_turn.html", {"turn": turn, "files": _files(turn), "answer": answer})


def _files(turn: Turn) -> list[_KeptFile]:
    """Return what a question's files were called."""
    try:
        return _decode_files(turn.attachments) if turn.attachments else []
    except msgspec.MsgspecError:
        return []


def _exported_sentence() -> str:
    today = date_format(timezone.localdate(), "DATE_FORMAT")
    return _("From %(site)s, on %(date)s") % {"site": settings.SITE_NAME, "date": today}


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _utc(moment: dt.datetime) -> dt.datetime:
    return moment.astimezone(dt.UTC)
