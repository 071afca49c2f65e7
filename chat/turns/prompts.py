"""What a model is sent: instructions, the path from the root, the question; trimmed to the window in whole turns."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from chat.attachments.binding import Attached, Contents, decode_attached
from chat.errors import ContextExceeded, NoPdfText, NoVision, TooManyFiles
from chat.llm.catalog import Candidate
from chat.llm.pricing import RESERVE_BYTES_PER_TOKEN, estimate_tokens, question_room
from chat.llm.providers.base import File, Message
from chat.models import LanguageModel
from chat.provider_registry import PAID_PROVIDERS
from chat.turns.quoting import disarm, fence, note
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
MAX_FILE_BYTES = 14_000_000
"""Of all files in one request: in base64 19 MB, and Gemini takes 20."""
MAX_NATIVE_PAGES = 100
"""Of one PDF: Anthropic takes no more with windows of 200,000."""

Form = Literal["file", "text", "note"]
"""How a file is sent: as it is, as its text, or only mentioned."""
Forms: TypeAlias = list[tuple[Attached, Form]]


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


def filter_capable(offered: list[Candidate], files: Sequence[Attached]) -> list[Candidate]:
    """Return the candidates that can take the files of a question.

    Raises NoVision or NoPdfText when none can, TooManyFiles when what must be looked at is more than one request holds.
    """
    if any(file.kind == "image" for file in files):
        offered = [candidate for candidate in offered if candidate.model.sees_images]
        if not offered:
            raise NoVision
    scans = list(filter(is_scan, files))
    if scans:
        can_look = all(file.pages <= MAX_NATIVE_PAGES for file in scans)
        offered = [candidate for candidate in offered if candidate.model.reads_pdfs and can_look]
        if not offered:
            raise NoPdfText
    if sum(file.size for file in files if not file.tokens) > MAX_FILE_BYTES:
        raise TooManyFiles
    return offered


def is_scan(file: Attached) -> bool:
    """Return whether it is a PDF without text, which can only be looked at."""
    return file.kind == "pdf" and not file.tokens


def may_be_looked_at(file: Attached) -> bool:
    """Return whether it is a PDF that is sent as it is to who reads them. Of one whose text was cut, nobody knows how
    long it is."""
    return file.kind == "pdf" and file.pages <= MAX_NATIVE_PAGES and not file.is_cut


def most_tokens(files: Sequence[Attached]) -> int:
    """Return about how many tokens the files of a question are at most, by who reads most of them."""
    return sum(max(_pdf_tokens(file) if may_be_looked_at(file) else 0, least_tokens((file,))) for file in files)


def least_tokens(files: Sequence[Attached]) -> int:
    """Return about how many tokens the files of a question are at least, whoever reads them."""
    return sum(
        TOKENS_PER_IMAGE
        if file.kind == "image"
        else TOKENS_PER_PAGE * file.pages
        if is_scan(file)
        else file.tokens + TOKENS_PER_NOTE
        for file in files
    )


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
    left = room - estimate_tokens((instructions, question))
    budget = _Budget(senses)
    asked = budget.forms(files) if files else []
    if files and _tokens(asked) > left:
        budget = _Budget(senses, prefers_text=True)
        asked = budget.forms(files)
    file_tokens = _tokens(asked)
    left -= file_tokens
    if left < 0:
        raise ContextExceeded
    kept: list[tuple[Turn, Forms]] = []
    trimmed = 0
    for turn in path:
        forms = budget.forms(decode_attached(turn.attachments)) if turn.attachments and turn.answer else []
        left -= estimate_tokens((turn.question, turn.answer)) + (_tokens(forms) if forms else 0)
        if left < 0:
            trimmed = _round_up(turn.depth + 1, at_most=kept[0][0].depth if kept else turn.depth + 1)
            break
        kept.append((turn, forms))
    kept = [(turn, forms) for turn, forms in reversed(kept) if turn.depth >= trimmed]
    past = [forms for _turn, forms in kept if forms]
    file_tokens += sum(map(_tokens, past))
    listed = [file for forms in (*past, asked) for file, _form in forms]
    contents = Contents(owner_id, listed) if listed and owner_id is not None else None
    plain = disarm if senses.is_local else _as_it_is
    messages = [Message("system", instructions)]
    for turn, forms in kept:
        if turn.answer:  # one that got no answer would put two questions in a row, and is left out
            messages.append(_ask(turn.question, forms, contents, plain))
            messages.append(Message("assistant", plain(turn.answer)))
    messages.append(_ask(question, asked, contents, plain))
    return Prompt(tuple(messages), trimmed, file_tokens)


class _Budget:
    """Decides how each file is sent: those of the question first, then backwards, while the request has room.

    A PDF whose pages would be too many tokens may fit as its text.
    """

    def __init__(self, senses: Senses, *, prefers_text: bool = False) -> None:
        self._senses = senses
        self._prefers_text = prefers_text
        self._bytes = MAX_FILE_BYTES

    def forms(self, files: Sequence[Attached]) -> Forms:
        """Return the files in their order; what has no text comes first where room is given."""
        found = {file.id: self._form(file) for file in sorted(files, key=lambda file: file.tokens > 0)}
        return [(file, found[file.id]) for file in files]

    def _form(self, file: Attached) -> Form:
        is_seen = (file.kind == "image" and self._senses.sees_images) or (
            self._senses.reads_pdfs and may_be_looked_at(file) and not (self._prefers_text and file.tokens)
        )
        if is_seen and file.size <= self._bytes:
            self._bytes -= file.size
            return "file"
        return "text" if file.tokens else "note"


def _ask(question: str, forms: Forms, contents: Contents | None, plain: Callable[[str], str]) -> Message:
    """Return a question with its files: the texts before it, fenced, as models read long prompts best.

    Without contents the files are left out: their tokens are counted elsewhere.
    """
    if not forms or contents is None:
        return Message("user", plain(question))
    texts: list[str] = []
    sent: list[File] = []
    for file, form in forms:
        if form == "file" and (data := contents.data_of(file)) is not None:
            sent.append(File("pdf" if file.kind == "pdf" else "image", file.media_type, file.name, data))
        elif form == "text" and (text := contents.text_of(file)) is not None:
            texts.append(fence(file, text))
        elif form == "note":
            texts.append(note(file, "not sent: this model cannot look at it, or it was too long ago."))
        else:
            texts.append(note(file, "it is not there any more."))
    return Message("user", plain("\n\n".join((*texts, question))), tuple(sent))


def _as_it_is(text: str) -> str:
    return text


def _tokens(forms: Forms) -> int:
    """Return what files add to a prompt, by the careful estimate."""
    tokens = 0
    for file, form in forms:
        if form == "file":
            tokens += _pdf_tokens(file) if file.kind == "pdf" else TOKENS_PER_IMAGE
        else:
            tokens += TOKENS_PER_NOTE + (file.tokens if form == "text" else 0)
    return tokens


def _pdf_tokens(file: Attached) -> int:
    """Return what a PDF that is sent as it is counts for: its pages as pictures, and the text on them."""
    pages = max(1, file.pages)
    return max(TOKENS_PER_PAGE * pages, file.tokens + TOKENS_PER_IMAGE * pages)


def _round_up(depth: int, *, at_most: int) -> int:
    """Return the depth the prompt begins at: the next multiple of TRIM_STEP."""
    return min(at_most, -(-depth // TRIM_STEP) * TRIM_STEP)
