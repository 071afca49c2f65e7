"""Imports conversations from elsewhere, in a worker: all of a file is read and checked before the first is written.

Whatever it dies on, it is gone on with: the ids of what is written follow from the owner and the source's ids, a
conversation's row comes after all of its turns, and where the next one begins is in the import's row. So nothing is
written twice, and what somebody has changed since is left as it is.
"""

import datetime as dt
import logging
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from shutil import copyfileobj
from tempfile import TemporaryFile
from threading import BoundedSemaphore, Timer
from typing import IO, Any
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
from celery import shared_task
from django.conf import settings
from django.core.files import File
from django.core.files.uploadedfile import UploadedFile
from django.db import IntegrityError
from django.db.models import Sum
from django.utils import timezone, translation
from kombu.exceptions import OperationalError

from accounts.models import User
from core import long_work, rows
from core.errors import Conflict, RateLimited
from history import deletion
from history.folding import searched, titled
from history.models import Conversation, Import, TitledBy, Turn, now
from history.transfer import states
from history.transfer.parsed import Extracted, FilePlace, ParsedConversation, Progress
from history.transfer.refusals import ImportRefused, TransferRunning, file_note, image_note
from history.transfer.states import Lost, part, transfer_storage, write_state
from history.tree import first_words_of

logger = logging.getLogger(__name__)

MAX_AT_ONCE = 1
"""Imports in a worker process at once."""
NOWHERE = FilePlace()
PORTION_SECONDS = 10.0
"""After so long of writing the rest is handed on, and others get their turn."""
TURNS_AT_ONCE = 100
CHARACTERS_AT_ONCE = 2_000_000
"""Turns written by one statement, and their text."""
MAX_INSERTS = 5
EARLIEST = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
"""What is said to be older has a wrong date."""
NAMES = uuid5(NAMESPACE_URL, "https://tertulia.example/imports")

_free = BoundedSemaphore(MAX_AT_ONCE)
_decode = msgspec.json.Decoder(ParsedConversation).decode


def begin_import(owner_id: int, upload: "UploadedFile[bytes] | None") -> Import:
    """Store what was uploaded and return its import, which a worker does; raises ImportRefused, TransferRunning or
    RateLimited.

    The row is written first: whatever dies in between, no stored file is without one.
    """
    if upload is None or not upload.size:
        raise ImportRefused("import_missing")
    if upload.size > settings.IMPORT_BYTES:
        raise ImportRefused("import_too_large", status=413)
    of_day = Import.objects.filter(owner_id=owner_id, created_at__gt=timezone.now() - dt.timedelta(days=1))
    # A zip of 8 MB may hold 2 GB.
    written = of_day.filter(imported__gt=0).aggregate(size=Sum("position"))["size"] or 0
    if of_day.count() >= settings.IMPORTS_PER_DAY or written >= settings.IMPORTED_BYTES_PER_DAY:
        raise RateLimited(retry_after=3600)
    name = " ".join((upload.name or "").split())[-100:] or "file"
    # It is nobody's to take until its file is there: `claimed_at` says that this process has it.
    row = Import(owner_id=owner_id, name=name, size=upload.size, key=secrets.token_hex(16), claimed_at=timezone.now())
    rows.insert(row)
    if states.has_another_open(row):
        Import.objects.filter(pk=row.pk).delete()
        raise TransferRunning
    upload.seek(0)
    transfer_storage().save(part(row, "source"), upload)
    if not rows.update(Import, {"pk": row.pk, "status": Import.Status.UPLOADED}, {"claimed_at": None}):
        states.drop_files(row)  # the account was closed meanwhile
    row.claimed_at = None
    import_later(row.pk)
    return row


def import_later(import_id: UUID) -> None:
    """Hand an import to a worker. Without a broker the sweep does it later."""
    try:
        import_conversations.delay(str(import_id))
    except OperationalError:
        logger.warning("Import not handed over yet", extra={"import_id": import_id})


@shared_task(bind=True, max_retries=None)
def import_conversations(self: Any, import_id: str) -> None:
    """Go on with an import, now or a second later: others may have to come first."""
    with long_work.take_place(_free) as is_there_room:
        if not is_there_room:
            raise self.retry(countdown=1)
        is_done = go_on_with(UUID(import_id))
    if not is_done:
        import_later(UUID(import_id))


def go_on_with(import_id: UUID) -> bool:
    """Do a portion of an import; return whether nothing is left to do, or somebody else does it."""
    of = (Import.Status.READING, Import.Status.WRITING)
    row = states.claim_transfer(Import, import_id, of=of, first=Import.Status.UPLOADED)
    if row is None:
        return True
    try:
        if row.tries > states.MAX_TRIES:
            _give_up(row)
            return True
        if row.status != Import.Status.WRITING and not _read(row):
            return True
        return _write_portion(row)
    except Lost:
        states.drop_if_erased(row)
        return True


def _refuse(row: Import, code: str, place: FilePlace = NOWHERE) -> None:
    """Refuse the file: nothing of it was written, unless workers died of it again and again."""
    said = msgspec.json.encode(place).decode()
    write_state(row, status=Import.Status.REFUSED, error=code, place=said, finished_at=timezone.now())
    states.drop_files(row)


def _give_up(row: Import) -> None:
    """Refuse a file of which workers die again and again, and erase what they wrote of a conversation that is not
    there. The conversations before it stay."""
    if row.status == Import.Status.WRITING and (line := next(_lines(row), None)) is not None:
        _erase_half(row.owner_id, id_of(row.owner_id, _decode(line[0]), ""))
    _refuse(row, "import_stuck")


def _erase_half(owner_id: int, conversation_id: UUID) -> None:
    """Erase the turns of a conversation that is not there."""
    if not Conversation.objects.filter(pk=conversation_id).exists():
        Turn.objects.filter(owner_id=owner_id, conversation_id=conversation_id).delete()


def _read(row: Import) -> bool:
    """Read and check the file, and store what that makes of it; return whether there is something to write."""
    write_state(row, status=Import.Status.READING, percent=0)
    with TemporaryFile() as source, TemporaryFile() as made:  # they have no names: nothing of them outlives us
        try:
            with transfer_storage().open(part(row, "source")) as stored:
                copyfileobj(stored, source, 1 << 20)
        except FileNotFoundError:  # whoever uploaded it died before it was written
            _refuse(row, "import_gone")
            return False
        source.seek(0)
        found = _extract(row, source, made)
        if found.error:
            _refuse(row, found.error, found.place)
            return False
        write_state(row)
        transfer_storage().delete(part(row, "made"))  # of who died here
        transfer_storage().save(part(row, "made"), File(made))
    write_state(
        row,
        status=Import.Status.WRITING,
        source=found.source,
        percent=100,
        total=found.conversations,
        left_out=msgspec.json.encode(found.left_out).decode(),
        tries=0,
    )
    transfer_storage().delete(part(row, "source"))
    return True


def _extract(row: Import, source: IO[bytes], made: IO[bytes]) -> Extracted:
    """Return what the child process says of the file, or an error if the kernel ended it; note how far it is."""
    files = (source.fileno(), made.fileno())
    command = [sys.executable, "-m", "history.transfer.extract", *(f"/dev/fd/{number}" for number in files)]
    with subprocess.Popen(  # noqa: S603  our own module
        [*command, row.name, str(settings.IMPORT_SECONDS)],
        cwd=settings.BASE_DIR,
        env={"LANG": "C.UTF-8"},  # no secrets
        pass_fds=files,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        killer = Timer(2 * settings.IMPORT_SECONDS, child.kill)
        killer.start()
        try:
            found = _follow(row, child)
        except BaseException:
            child.kill()
            raise
        finally:
            killer.cancel()
    if found is None:
        logger.warning("Reader of an import ended", extra={"import_id": row.pk, "status": child.returncode})
        return Extracted(error="too_slow")
    return found


def _follow(row: Import, child: "subprocess.Popen[bytes]") -> Extracted | None:
    assert child.stdout is not None
    for line in child.stdout:
        if b'"percent"' in line[:12]:
            write_state(row, percent=msgspec.json.decode(line, type=Progress).percent)
        else:
            return msgspec.json.decode(line, type=Extracted)
    return None


def _write_portion(row: Import) -> bool:
    """Write conversations until the time is up or all are written; return whether they are."""
    user = User.objects.filter(pk=row.owner_id).first()
    if user is None:  # who closes the account erases this, too
        raise Lost
    until = time.monotonic() + PORTION_SECONDS
    with translation.override(user.locale):
        for data, position in _lines(row):
            _write_one(row, _decode(data), position)
            if time.monotonic() > until:
                write_state(row, claimed_at=None)
                return False
    write_state(row, status=Import.Status.DONE, finished_at=timezone.now())
    states.drop_files(row)
    return True


def _lines(row: Import) -> Iterator[tuple[bytes, int]]:
    """Yield what is still to be written, a line for each conversation, and where the next one begins."""
    try:
        file = transfer_storage().open(part(row, "made"))
    except FileNotFoundError:
        _refuse(row, "import_gone")
        raise Lost from None
    with file:
        file.seek(row.position)
        position = row.position
        for line in iter(file.readline, b""):  # Django's own iterator would begin at the start
            position += len(line)
            yield line, position


def _write_one(row: Import, parsed: ParsedConversation, position: int) -> None:
    """Write a conversation unless it is there, and note that."""
    counts = {"done": row.done + 1, "position": position, "tries": 0}
    match write_conversation(row.owner_id, parsed):
        case "new":
            write_state(row, imported=row.imported + 1, turns=row.turns + len(parsed.turns), **counts)
        case "known":
            write_state(row, known=row.known + 1, **counts)
        case "taken":
            left_out = msgspec.json.decode(row.left_out or "{}", type=dict[str, int])
            left_out["taken"] = left_out.get("taken", 0) + 1
            write_state(row, left_out=msgspec.json.encode(left_out).decode(), **counts)


def write_conversation(owner_id: int, parsed: ParsedConversation) -> str:
    """Write a conversation, first its turns and then its row, which shows it; return "new", "known" for one that the
    owner has, in the trash too, which stays as it is, or "taken" where its id, or one of a turn, is another's. One that
    was deleted, and is not erased yet, is erased first; while it is still being answered its id is taken, too."""
    conversation_id = id_of(owner_id, parsed, "")
    candidates = {conversation_id} | _own_id(parsed)
    found = list(Conversation.objects.filter(pk__in=candidates).only("pk", "owner_id", "is_deleted"))
    if any(row.owner_id == owner_id and not row.is_deleted for row in found):
        return "known"
    for row in found:
        if row.pk == conversation_id and not (row.owner_id == owner_id and deletion.erase_if_over(row)):
            return "taken"
    conversation, turns = rows_of(owner_id, conversation_id, parsed)
    try:
        _insert_turns(turns)
    except Conflict:
        _erase_half(owner_id, conversation_id)
        return "taken"
    try:
        rows.insert(conversation)
    except IntegrityError:  # another worker was as fast: it has written the same
        return "known"
    return "new"


def id_of(owner_id: int, parsed: ParsedConversation, turn_key: str) -> UUID:
    """Return the id of an imported conversation, or of a turn of it: the same whenever it is imported, and nobody
    else's."""
    return uuid5(NAMES, "\n".join((str(owner_id), parsed.source, parsed.key, turn_key)))


def _own_id(parsed: ParsedConversation) -> set[UUID]:
    """Return the id that a conversation of ours had: if it is still there, it is known."""
    try:
        return {UUID(parsed.key)} if parsed.source == "tertulia" else set()
    except ValueError:
        return set()


def rows_of(owner_id: int, conversation_id: UUID, parsed: ParsedConversation) -> tuple[Conversation, list[Turn]]:
    """Return the rows of a conversation as they are written, but for what its turns are searched by."""
    latest = timezone.now()
    begun = _moment(parsed.created_at, latest) or _moment(parsed.turns[0].asked_at, latest) or latest
    turns: list[Turn] = []
    by_key: dict[str, Turn] = {}
    for seq, source in enumerate(parsed.turns, 1):
        parent = by_key.get(source.parent) if source.parent is not None else None
        asked_at = _moment(source.asked_at, latest) or (parent.created_at if parent else begun)
        answer = _with_notes(source.answer, source.answer_images, [])
        question = _with_notes(source.question, source.images, source.files)
        turn = Turn(
            pk=id_of(owner_id, parsed, source.key),
            owner_id=owner_id,
            conversation_id=conversation_id,
            parent_id=parent.pk if parent else None,
            seq=seq,
            depth=parent.depth + 1 if parent else 0,
            # As everywhere, `completed` has an answer; where there never was one it can be asked for.
            status=Turn.Status.COMPLETED if answer.strip() else Turn.Status.STOPPED,
            question=question,
            answer=answer,
            reasoning=source.reasoning,
            requested_model=source.model,
            model=source.model,
            max_output=0,
            finish_reason="stop" if answer.strip() else "",
            created_at=asked_at,
            completed_at=max(asked_at, _moment(source.ended_at, latest) or asked_at),
        )
        by_key[source.key] = turn
        turns.append(turn)
    leaf = by_key.get(parsed.leaf) if parsed.leaf is not None else None
    title = " ".join(parsed.title.split())
    conversation = Conversation(
        pk=conversation_id,
        owner_id=owner_id,
        **titled(title or first_words_of(turns[0].question)),
        titled_by=TitledBy.PERSON if title else TitledBy.WORDS,
        turn_count=len(turns),
        leaf_id=leaf.pk if leaf is not None and leaf is not turns[-1] else None,
        is_archived=True if parsed.is_archived else None,
        kept_since=now(),
        created_at=begun,
        updated_at=max(begun, _moment(parsed.updated_at, latest) or max(turn.created_at for turn in turns)),
    )
    return conversation, turns


def _with_notes(text: str, images: int, files: list[str]) -> str:
    """Return the text with a line for each image and file that it had."""
    notes = [image_note()] * min(images, 20) + [file_note(name) for name in files]
    return "\n\n".join((*((text,) if text.strip() else ()), *notes)) if notes else text


def _moment(seconds: float | None, latest: dt.datetime) -> dt.datetime | None:
    """Return the time to the millisecond, as MongoDB stores it; None for none, and for one that cannot be."""
    if seconds is None or not EARLIEST.timestamp() <= seconds <= latest.timestamp():
        return None
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _insert_turns(turns: list[Turn]) -> None:
    """Write the turns, without those that a worker has written who died before the conversation's row. Raises Conflict
    if an id of one, or its place, is another turn's."""
    for portion in _portions(turns):
        for turn in portion:
            turn.search_text = searched(f"{turn.question}\n{turn.answer}")
        _insert(portion)
        for turn in portion:  # it may be longer than all the rest of them: that of one portion is in memory
            turn.search_text = ""


def _portions(turns: list[Turn]) -> Iterator[list[Turn]]:
    some, size = list[Turn](), 0
    for turn in turns:
        length = len(turn.question) + len(turn.answer)
        if some and (len(some) == TURNS_AT_ONCE or size + length > CHARACTERS_AT_ONCE):
            yield some
            some, size = [], 0
        some.append(turn)
        size += length
    if some:
        yield some


def _insert(some: list[Turn]) -> None:
    ids = [turn.pk for turn in some]
    written = Turn.objects.filter(pk__in=ids, owner_id=some[0].owner_id, conversation_id=some[0].conversation_id)
    for _ in range(MAX_INSERTS):
        try:
            Turn.objects.bulk_create(some)
            return
        except IntegrityError:  # MongoDB keeps those before the first that was there
            there = set(written.values_list("pk", flat=True))
            some = [turn for turn in some if turn.pk not in there]
    raise Conflict
