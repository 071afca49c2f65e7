"""What a model is sent: instructions, the path from the root, the question; trimmed to the window in whole turns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from chat.attachments.using import Attached, Contents, decode_attached
from chat.errors import ContextExceeded, NoPdfText, NoVision, TooManyFiles
from chat.llm.catalog import Candidate
from chat.llm.pricing import RESERVE_BYTES_PER_TOKEN, estimate_tokens, question_room
from chat.llm.providers.base import File, Message
from chat.models import PAID_PROVIDERS, LanguageModel
from chat.turns.fencing import disarm, fence, note
from history.models import Turn

INSTRUCTIONS = "You are a helpful assistant. Answer in the language of the question. Use Markdown where it helps."
"""Byte for byte the same in every prompt: providers cache a prefix only while it does not change."""

DEMO_INSTRUCTIONS = "You are a helpful assistant."
"""A model of 135 million parameters answers in broken French when it is told about languages."""

TRIM_STEP = 4
"""Turns leave the window this many at a time, for the same reason: dropping one a turn would change every prefix."""

TOKENS_PER_IMAGE = 1_500
TOKENS_PER_PAGE = 2_500
TOKENS_PER_NOTE = 100
"""What stands around a text, or for a file that is not sent."""
MOST_FILE_BYTES = 14_000_000
"""Of all files in one request: in base64 19 MB, and Gemini takes 20."""
MOST_NATIVE_PAGES = 100
"""Of one PDF: Anthropic takes no more with windows of 200,000."""

Form = Literal["file", "text", "note"]
"""How a file is sent: as it is, as its text, or only mentioned."""


@dataclass(frozen=True, slots=True)
class Senses:
    """What every candidate can do, and whether any is one whose template may be talked to from inside a text."""

    sees_images: bool = False
    reads_pdfs: bool = False
    is_local: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """`trimmed_turns` is how many turns of the path were left out; `file_tokens` what their files are, in the texts or not."""

    messages: tuple[Message, ...]
    trimmed_turns: int
    file_tokens: int = 0

    def tokens(self, bytes_per_token: int = RESERVE_BYTES_PER_TOKEN) -> int:
        """Return an estimate of its length, for a prompt whose files were not loaded."""
        files = self.file_tokens * RESERVE_BYTES_PER_TOKEN // bytes_per_token
        return files + estimate_tokens((message.text for message in self.messages), bytes_per_token=bytes_per_token)


def able(offered: list[Candidate], files: Sequence[Attached]) -> list[Candidate]:
    """Return the candidates that can take the files of a question.

    Raises NoVision or NoPdfText when none can, TooManyFiles when what must be looked at is more than one request holds.
    """
    if any(file.kind == "image" for file in files):
        offered = [candidate for candidate in offered if candidate.model.sees_images]
        if not offered:
            raise NoVision
    # What has no text, a scan, can only be looked at.
    scans = [file for file in files if file.kind == "pdf" and not file.tokens]
    if scans:
        can_look = all(file.pages <= MOST_NATIVE_PAGES for file in scans)
        offered = [candidate for candidate in offered if candidate.model.reads_pdfs and can_look]
        if not offered:
            raise NoPdfText
    if sum(file.size for file in files if not file.tokens) > MOST_FILE_BYTES:
        raise TooManyFiles
    return offered


def build_for(
    offered: list[Candidate],
    path: Iterable[Turn],
    question: str,
    files: Sequence[Attached] = (),
    *,
    max_output: int,
    owner_id: int | None = None,
) -> Prompt:
    """Return the prompt that fits every candidate's window beside an answer of `max_output` tokens.

    With `owner_id` the files are loaded: for sending. Without, only their sizes are known: for reserving.
    """
    room = min(question_room(candidate.model, max_output) for candidate in offered)
    models = [candidate.model for candidate in offered]
    is_demo = all(model.tier == LanguageModel.Tier.DEMO for model in models)
    senses = Senses(
        sees_images=all(model.sees_images for model in models),
        reads_pdfs=all(model.reads_pdfs for model in models),
        is_local=any(model.provider not in PAID_PROVIDERS for model in models),
    )
    instructions = DEMO_INSTRUCTIONS if is_demo else INSTRUCTIONS
    return build(path, question, files, room=room, instructions=instructions, senses=senses, owner_id=owner_id)


def build(
    path: Iterable[Turn],
    question: str,
    files: Sequence[Attached] = (),
    *,
    room: int,
    instructions: str = INSTRUCTIONS,
    senses: Senses = Senses(),
    owner_id: int | None = None,
) -> Prompt:
    """Return the prompt for `question` after `path`, which comes newest turn first and is read only as far as it fits.

    `room` is in tokens, by the careful estimate. Raises ContextExceeded when the question alone does not fit.
    """
    budget = _Budget(senses)
    sent = {"": budget.forms(files)}
    file_tokens = _tokens(sent[""])
    left = room - estimate_tokens((instructions, question)) - file_tokens
    if left < 0:
        raise ContextExceeded
    kept: list[Turn] = []
    trimmed = 0
    for turn in path:
        forms = budget.forms(decode_attached(turn.attachments)) if turn.answer else []
        left -= estimate_tokens((turn.question, turn.answer)) + _tokens(forms)
        if left < 0:
            trimmed = _round_up(turn.depth + 1, at_most=kept[0].depth if kept else turn.depth + 1)
            break
        kept.append(turn)
        if forms:
            sent[str(turn.pk)] = forms
    kept = [turn for turn in reversed(kept) if turn.depth >= trimmed]
    used = [sent[""], *(sent[str(turn.pk)] for turn in kept if str(turn.pk) in sent)]
    contents = Contents(owner_id, (f for forms in used for f, _ in forms)) if owner_id is not None else None
    writer = _Writer(senses, contents)
    messages = [Message("system", instructions)]
    for turn in kept:
        if turn.answer:  # one that got no answer would put two questions in a row, and is left out
            messages += (writer.user(turn.question, sent.get(str(turn.pk), [])), writer.assistant(turn.answer))
    messages.append(writer.user(question, sent[""]))
    return Prompt(tuple(messages), trimmed, sum(map(_tokens, used)))


class _Budget:
    """Decides how each file is sent: those of the question first, then backwards, while the request has room."""

    def __init__(self, senses: Senses) -> None:
        self._senses = senses
        self._bytes = MOST_FILE_BYTES

    def forms(self, files: Sequence[Attached]) -> list[tuple[Attached, Form]]:
        """Return the files in their order; what has no text comes first where room is given."""
        found = {file.id: self._form(file) for file in sorted(files, key=lambda file: file.tokens > 0)}
        return [(file, found[file.id]) for file in files]

    def _form(self, file: Attached) -> Form:
        is_seen = (file.kind == "image" and self._senses.sees_images) or (
            file.kind == "pdf" and self._senses.reads_pdfs and file.pages <= MOST_NATIVE_PAGES
        )
        if is_seen and file.size <= self._bytes:
            self._bytes -= file.size
            return "file"
        return "text" if file.tokens else "note"


class _Writer:
    """Writes messages. Without contents the texts of files are left out: their tokens are counted elsewhere."""

    def __init__(self, senses: Senses, contents: Contents | None) -> None:
        self._plain = disarm if senses.is_local else str
        self._contents = contents

    def assistant(self, answer: str) -> Message:
        return Message("assistant", self._plain(answer))

    def user(self, question: str, files: list[tuple[Attached, Form]]) -> Message:
        """Return a question with its files: the texts before it, fenced, as models read long prompts best."""
        if not files or self._contents is None:
            return Message("user", self._plain(question))
        texts: list[str] = []
        sent: list[File] = []
        for file, form in files:
            if form == "file" and (data := self._contents.data_of(file)) is not None:
                sent.append(File("pdf" if file.kind == "pdf" else "image", file.media_type, file.name, data))
            elif form == "text" and (text := self._contents.text_of(file)) is not None:
                texts.append(fence(file, text))
            elif form == "note":
                texts.append(note(file, "not sent: this model cannot look at it, or it was too long ago."))
            else:
                texts.append(note(file, "it is not there any more."))
        return Message("user", self._plain("\n\n".join((*texts, question))), tuple(sent))


def _tokens(forms: list[tuple[Attached, Form]]) -> int:
    """Return what files add to a prompt, by the careful estimate."""
    tokens = 0
    for file, form in forms:
        if form == "file":
            tokens += TOKENS_PER_PAGE * max(1, file.pages) if file.kind == "pdf" else TOKENS_PER_IMAGE
        else:
            tokens += TOKENS_PER_NOTE + (file.tokens if form == "text" else 0)
    return tokens


def _round_up(depth: int, *, at_most: int) -> int:
    """Return the depth the prompt begins at: the next multiple of TRIM_STEP."""
    return min(at_most, -(-depth // TRIM_STEP) * TRIM_STEP)
