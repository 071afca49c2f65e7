"""The form of a question: what a page without JavaScript sends becomes a turn, or is refused with all it held."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID, uuid5

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.http import QueryDict
from django.utils.safestring import SafeString
from django.utils.translation import gettext

from chat.attachments.binding import decode_attached
from chat.attachments.reading import read_later
from chat.attachments.serving import access_attachment, wait_for
from chat.attachments.states import is_waiting
from chat.attachments.upload import store_upload
from chat.errors import BadFile, FileNotReady, TooManyFiles, file_sentence_for
from chat.llm.catalog import RECORDED, find_model
from chat.models import Attachment
from chat.shown.ways_on import ways_on_html
from chat.turns.limits import count_upload
from chat.turns.opening import LATEST, Question, open_or_await_turn
from core.errors import DomainError, NotFound
from history import access
from history.folders import find_folder
from history.models import Conversation, Folder, Turn, new_id
from history.temporary import is_temporary, new_turn_id

READING_SECONDS = 25
"""How long a request waits until a worker has read the files it brought."""


@dataclass(frozen=True, slots=True)
class RefusedQuestion:
    """Why a question was refused, and what the form is filled with for the next try."""

    sentence: str
    status: int
    conversation: Conversation | None  # None where the question would have begun it
    folder: Folder | None  # where it would have begun
    text: str
    model: str
    effort: str
    files: list[Attachment]
    ways: SafeString  # on from here


def open_turn_from_form(
    owner_id: int, conversation_id: UUID, fields: QueryDict, uploaded: Sequence["UploadedFile[bytes]"]
) -> Turn | RefusedQuestion:
    """Keep the files a form brings, wait until they are read, and open the turn it asks for.

    Raises DomainError for a conversation, or a turn to ask again, that is somebody else's.
    """
    question = _read_question(owner_id, conversation_id, fields)
    files: list[Attachment] = []
    try:
        if not fields.keys() & {"again", "continue", "edit", "instead", "recorded"}:
            files = _list_attached(owner_id, fields)
            _check_count(len(files) + len(uploaded))
            for upload in uploaded:
                files.append(_keep_upload(owner_id, upload))
            files = wait_for(files, seconds=READING_SECONDS)
            _check_read(files)
            question = replace(question, attachments=tuple(file.pk for file in files))
        return open_or_await_turn(owner_id, question).turn
    except DomainError as error:
        if access.is_somebody_elses(owner_id, conversation_id):
            raise
        conversation = access.find_even_temporary(conversation_id)
        if conversation is None and is_temporary(conversation_id):  # gone, and begun by no question
            raise
        return RefusedQuestion(
            sentence=str(error.message),
            status=error.status,
            conversation=conversation,
            folder=None if conversation else find_folder(owner_id, question.folder_id),
            text=question.text,
            model=question.model,
            effort=fields.get("effort", ""),
            files=[file for file in files if file.status == Attachment.Status.READY or is_waiting(file)],
            ways=ways_on_html(owner_id, question, error.code),
        )


def open_beside_from_form(owner_id: int, turn: Turn, fields: QueryDict) -> DomainError | None:
    """Open a turn beside the one a form has opened, if the form asks for a second model; return why that was refused.
    The same form again is the same turn."""
    if not (key := fields.get("beside")):
        return None
    question = Question(
        turn_id=uuid5(turn.pk, "beside"),
        conversation_id=turn.conversation_id,
        text=turn.question,
        model=key,
        beside_id=turn.pk,
    )
    try:
        open_or_await_turn(owner_id, question)
    except DomainError as error:
        return error
    return None


def _read_question(owner_id: int, conversation_id: UUID, fields: QueryDict) -> Question:
    """Return what a form asks: what was typed, a button's own question (`instead`), a recorded example, a turn's
    question `again`: of a recorded example too, unless a model was chosen; what was typed in the place of a turn's
    question (`edit`); or that an answer that was cut shall go on (`continue`). The button of a refusal chooses a model
    itself (`with`).
    """
    turn_id = parse_id(fields.get("turn_id", "")) or new_turn_id(conversation_id)
    model = fields.get("with") or fields.get("model", "")
    effort = _read_effort(fields, model)
    if edited := fields.get("edit"):
        return _replacing(owner_id, edited, turn_id=turn_id, text=fields.get("text", ""), model=model, effort=effort)
    if again := fields.get("again"):
        return _replacing(owner_id, again, turn_id=turn_id, text=None, model=model, effort=effort)
    if cut := fields.get("continue"):
        turn = access.access_turn(owner_id, parse_id(cut) or new_id())
        return Question(
            turn_id=turn_id,
            conversation_id=turn.conversation_id,
            text=gettext("Go on where you stopped."),
            model=model,
            effort=effort,
            parent_id=turn.pk,
        )
    if recorded := fields.get("recorded"):
        model, effort = RECORDED.model.key, ""
    return Question(
        turn_id=turn_id,
        conversation_id=conversation_id,
        text=_with_plain_breaks(recorded or fields.get("instead") or fields.get("text", "")),
        model=model,
        effort=effort,
        parent_id=LATEST,
        folder_id=parse_id(fields.get("folder", "")),
    )


def _replacing(
    owner_id: int, asked_before_id: str, *, turn_id: UUID, text: str | None, model: str, effort: str
) -> Question:
    """Return the question that becomes a sibling of a turn, with its files: `text`, or, where that is None, its own."""
    asked_before = access.access_turn(owner_id, parse_id(asked_before_id) or new_id())
    if text is None and not model and asked_before.requested_model == RECORDED.model.key:
        model = RECORDED.model.key
    return Question(
        turn_id=turn_id,
        conversation_id=asked_before.conversation_id,
        text=asked_before.question if text is None else _with_plain_breaks(text),
        model=model,
        effort=effort,
        parent_id=asked_before.parent_id,
        attachments=tuple(file.id for file in decode_attached(asked_before.attachments)),
    )


def _with_plain_breaks(text: str) -> str:
    return text.replace("\r\n", "\n")  # forms send CRLF


def _read_effort(fields: QueryDict, key: str) -> str:
    """Return the chosen effort, or empty if the chosen model does not have it: without scripts, the levels in the form
    may be those of the model that was chosen before."""
    effort, model = fields.get("effort", ""), find_model(key)
    return effort if model and effort in model.effort_levels else ""


def parse_id(text: str) -> UUID | None:
    """Return the id a form sent; None if it sent none."""
    try:
        return UUID(text)
    except ValueError:
        return None


def _list_attached(owner_id: int, fields: QueryDict) -> list[Attachment]:
    """Return the files a form names: those a script uploaded, or that came with a try that was refused."""
    attached = []
    for text in fields.getlist("attachments")[: settings.ATTACHMENTS_PER_QUESTION]:
        try:
            attached.append(access_attachment(owner_id, UUID(text)))
        except (ValueError, NotFound):  # removed meanwhile: the person sees what is left
            pass
    return attached


def _check_count(count: int) -> None:
    if count > settings.ATTACHMENTS_PER_QUESTION:
        raise TooManyFiles


def _keep_upload(owner_id: int, upload: "UploadedFile[bytes]") -> Attachment:
    """Keep an uploaded file and have a worker read it; raises DomainError, naming the file, if it is refused."""
    try:
        count_upload(owner_id)
        attachment = store_upload(owner_id, upload)
    except BadFile as error:
        raise DomainError(f"{upload.name}: {error.message}", code=error.code) from error
    read_later(attachment.pk)
    return attachment


def _check_read(files: list[Attachment]) -> None:
    """Raise DomainError for the first file that was refused, or that no worker has read yet."""
    for file in files:
        if file.status == Attachment.Status.REFUSED:
            raise DomainError(f"{file.name}: {file_sentence_for(file.error)}", code=file.error)
        if is_waiting(file):
            raise FileNotReady
