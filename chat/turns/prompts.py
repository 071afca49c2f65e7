"""What a model is sent: instructions, the path from the root, the question; trimmed to its window in whole turns."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Literal, TypeAlias

from chat.attachments.binding import Attached, FileContents, decode_attached
from chat.errors import ContextExceeded, NoPdfText, NoVision, TooManyFiles
from chat.llm.catalog import Candidate
from chat.llm.file_tokens import image_tokens, page_tokens
from chat.llm.pricing import RESERVE_BYTES_PER_TOKEN, estimate_tokens, question_room
from chat.llm.providers.base import File, Message
from chat.models import LanguageModel
from chat.provider_registry import PAID_PROVIDERS, token_factor_of
from chat.turns.asked import Asked
from chat.turns.quoting import break_markers, mention_file, quote_file
from history.models import Turn

INSTRUCTIONS = "You are a helpful assistant. Answer in the language of the question. Use Markdown where it helps."
"""Byte for byte the same in every prompt: providers cache a prefix only while it does not change."""

DEMO_INSTRUCTIONS = "You are a helpful assistant."
"""For the Demo model: with 135 million parameters it answers in broken French when it is told about languages."""

TRIM_STEP = 4
"""Turns leave the window this many at a time, for the same reason: one at a time would change the prefix every time."""

TOKENS_PER_MENTION = 240
"""Of the words around a file's text, or about a file that is not sent, and of the longest name."""
LEAST_TOKENS_PER_IMAGE = 258
"""About what an image, or a page of a scan, is to the model that makes least of it (chat/llm/file_tokens.py)."""
MAX_FILE_BYTES = 14_000_000
"""Of all files in one request: in base64 19 MB, and Gemini takes 20."""
MAX_NATIVE_PAGES = 100
"""Of one PDF: Anthropic takes no more with windows of 200,000 tokens."""

FileForm = Literal["whole", "text", "mention"]
"""How a file is sent: as it is, as its text, or only mentioned."""
Forms: TypeAlias = list[tuple[Attached, FileForm]]


@dataclass(frozen=True, slots=True)
class Abilities:
    """What every candidate can do; `obeys_markers`: some candidate may obey markers of chat templates inside a text."""

    sees_images: bool = False
    reads_pdfs: bool = False
    obeys_markers: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is sent. `trimmed_turns` of the path were left out; the files have `file_tokens`, whether loaded or not."""

    messages: tuple[Message, ...]
    trimmed_turns: int
    file_tokens: int = 0
    option_texts: tuple[str, ...] = ()  # tools, which are sent beside the messages

    def tokens(self, bytes_per_token: int = RESERVE_BYTES_PER_TOKEN) -> int:
        """Return an estimate of its length; only for a prompt whose files were not loaded."""
        files = self.file_tokens * RESERVE_BYTES_PER_TOKEN // bytes_per_token
        texts = (text for message in self.messages for text in message.texts)
        return files + estimate_tokens((*texts, *self.option_texts), bytes_per_token=bytes_per_token)


def add_instructions(ours: str, of_folder: str) -> str:
    """Return our instructions with those of a folder: one message, as some models read no second one."""
    return f"{ours}\n\n{of_folder}" if of_folder else ours


def prompt_as_asked(models: Sequence[LanguageModel], asked: Asked, *, max_output: int) -> Prompt:
    """Return what a program asks as the prompt that it is: nothing is added, and nothing left out. Raises
    ContextExceeded where it does not fit every model's window beside an answer of `max_output` tokens."""
    prompt = Prompt(asked.messages, 0, asked_file_tokens(models, asked), asked.options.texts)
    if prompt.tokens() > min(question_room(model, max_output) for model in models):
        raise ContextExceeded
    return prompt


def asked_file_tokens(models: Sequence[LanguageModel], asked: Asked) -> int:
    """Return the tokens of the images that a program sends, for the model that makes most of each."""
    files = (file for message in asked.messages for file in message.files)
    return sum(_most(models, partial(_size_tokens, file.width, file.height)) for file in files)


def filter_seeing(candidates: list[Candidate], asked: Asked) -> list[Candidate]:
    """Return the candidates that can take what a program asks; raises NoVision when none sees the images in it."""
    if asked.has_images:
        candidates = [candidate for candidate in candidates if candidate.model.sees_images]
        if not candidates:
            raise NoVision
    return candidates


def filter_capable(candidates: list[Candidate], files: Sequence[Attached]) -> list[Candidate]:
    """Return the candidates that can take the files of a question.

    Raises NoVision or NoPdfText when none can, TooManyFiles when files without text are larger than one request may be.
    """
    if any(file.kind == "image" for file in files):
        candidates = [candidate for candidate in candidates if candidate.model.sees_images]
        if not candidates:
            raise NoVision
    scans = list(filter(is_scan, files))
    if scans:
        is_short = all(file.pages <= MAX_NATIVE_PAGES for file in scans)
        candidates = [candidate for candidate in candidates if candidate.model.reads_pdfs and is_short]
        if not candidates:
            raise NoPdfText
    if sum(file.size for file in files if not file.tokens) > MAX_FILE_BYTES:
        raise TooManyFiles
    return candidates


def is_scan(file: Attached) -> bool:
    """Return whether it is a PDF without text, which a model must be able to see."""
    return file.kind == "pdf" and not file.tokens


def is_native_pdf(file: Attached) -> bool:
    """Return whether it is a PDF that is sent whole to models that read PDFs. One whose text was cut is not: how many
    tokens it has is unknown."""
    return file.kind == "pdf" and file.pages <= MAX_NATIVE_PAGES and not file.is_cut


def max_file_tokens(files: Sequence[Attached]) -> int:
    """Return an estimate of the files' tokens for a model that is not chosen yet and is sent most of them."""
    return sum(
        max(_tokens([(file, "whole")], ()) if file.kind == "image" or is_native_pdf(file) else 0, _text_tokens(file))
        for file in files
    )


def min_file_tokens(files: Sequence[Attached]) -> int:
    """Return the same for the model that is sent least of them."""
    return sum(
        LEAST_TOKENS_PER_IMAGE * max(1, file.pages) if file.kind == "image" or is_scan(file) else _text_tokens(file)
        for file in files
    )


def build_prompt(
    models: Sequence[LanguageModel],
    path: Iterable[Turn],
    question: str,
    files: Sequence[Attached] = (),
    *,
    max_output: int,
    max_tokens: int | None = None,
    owner_id: int | None = None,
    instructions: str = "",
) -> Prompt:
    """Return the prompt that fits every model's window beside an answer of `max_output` tokens, and `max_tokens`.

    With `owner_id` the files are loaded, for sending. Without, only their sizes are known, for reserving.
    `instructions` are those of the folder the question is asked in.
    """
    room = min(question_room(model, max_output) for model in models)
    if max_tokens is not None:
        room = min(room, max_tokens)
    is_demo = all(model.tier == LanguageModel.Tier.DEMO for model in models)
    abilities = Abilities(
        sees_images=all(model.sees_images for model in models),
        reads_pdfs=all(model.reads_pdfs for model in models),
        obeys_markers=any(model.provider not in PAID_PROVIDERS for model in models),
    )
    return fit_prompt(
        path,
        question,
        files,
        room=room,
        instructions=add_instructions(DEMO_INSTRUCTIONS if is_demo else INSTRUCTIONS, instructions),
        abilities=abilities,
        models=models,
        owner_id=owner_id,
    )


def fit_prompt(
    path: Iterable[Turn],
    question: str,
    files: Sequence[Attached] = (),
    *,
    room: int,
    instructions: str = INSTRUCTIONS,
    abilities: Abilities = Abilities(),
    models: Sequence[LanguageModel] = (),
    owner_id: int | None = None,
) -> Prompt:
    """Return the prompt for `question` after `path`, which comes newest turn first and is read only as far as it fits.

    `room` is in tokens, by the careful estimate; a file counts as it does for the one of `models` that makes most of
    it. Raises ContextExceeded when the question alone does not fit.
    """
    left = room - estimate_tokens((instructions, question))
    chooser = _FormChooser(abilities)
    own_forms = chooser.choose(files) if files else []
    if files and _tokens(own_forms, models) > left:
        chooser = _FormChooser(abilities, prefers_text=True)
        own_forms = chooser.choose(files)
    file_tokens = _tokens(own_forms, models)
    left -= file_tokens
    if left < 0:
        raise ContextExceeded
    past, trimmed_turns = _fit_path(path, chooser, models, left)
    past_forms = [forms for _turn, forms in past if forms]
    file_tokens += sum(_tokens(forms, models) for forms in past_forms)
    sent_files = [file for forms in (*past_forms, own_forms) for file, _form in forms]
    contents = FileContents(owner_id, sent_files) if sent_files and owner_id is not None else None
    clean = break_markers if abilities.obeys_markers else _unchanged
    messages = [Message("system", clean(instructions))]
    for turn, forms in past:
        if _is_retold(turn):
            messages.append(_user_message(turn.question, forms, contents, clean))
            messages.append(Message("assistant", clean(turn.answer)))
    messages.append(_user_message(question, own_forms, contents, clean))
    return Prompt(tuple(messages), trimmed_turns, file_tokens)


def _fit_path(
    path: Iterable[Turn], chooser: "_FormChooser", models: Sequence[LanguageModel], left: int
) -> tuple[list[tuple[Turn, Forms]], int]:
    """Return the turns that fit into `left` tokens, oldest first, with their files; and how many do not fit."""
    fitting: list[tuple[Turn, Forms]] = []
    trimmed = 0
    for turn in path:
        forms: Forms = []
        if _is_retold(turn):
            forms = chooser.choose(decode_attached(turn.attachments)) if turn.attachments else forms
            left -= estimate_tokens((turn.question, turn.answer)) + (_tokens(forms, models) if forms else 0)
        if left < 0:
            trimmed = _round_up(turn.depth + 1, at_most=fitting[0][0].depth if fitting else turn.depth + 1)
            break
        fitting.append((turn, forms))
    return [(turn, forms) for turn, forms in reversed(fitting) if turn.depth >= trimmed], trimmed


def _is_retold(turn: Turn) -> bool:
    """Return whether models are told of the turn.

    One that got no answer would put two questions in a row. One that a model refused is left out too: Anthropic refuses
    whatever follows it
    (https://platform.claude.com/docs/en/test-and-evaluate/strengthen-guardrails/handle-streaming-refusals).
    """
    return bool(turn.answer.strip()) and turn.error != "refusal"


class _FormChooser:
    """Chooses how each file is sent: whole while the request has room, for the question's files first, then backwards.

    With `prefers_text` a PDF that has text is sent as that: its pages would be too many tokens.
    """

    def __init__(self, abilities: Abilities, *, prefers_text: bool = False) -> None:
        self._abilities = abilities
        self._prefers_text = prefers_text
        self._bytes_left = MAX_FILE_BYTES

    def choose(self, files: Sequence[Attached]) -> Forms:
        """Return the files in their order; those without text are the first to be given room."""
        found = {file.id: self._choose_one(file) for file in sorted(files, key=lambda file: file.tokens > 0)}
        return [(file, found[file.id]) for file in files]

    def _choose_one(self, file: Attached) -> FileForm:
        is_seen = (file.kind == "image" and self._abilities.sees_images) or (
            self._abilities.reads_pdfs and is_native_pdf(file) and not (self._prefers_text and file.tokens)
        )
        if is_seen and file.size <= self._bytes_left:
            self._bytes_left -= file.size
            return "whole"
        return "text" if file.tokens else "mention"


def _user_message(question: str, forms: Forms, contents: FileContents | None, clean: Callable[[str], str]) -> Message:
    """Return a question with its files: quoted texts come before it, as models read long prompts best that way.

    Without contents the files are left out: their tokens are counted in Prompt.file_tokens.
    """
    if not forms or contents is None:
        return Message("user", clean(question))
    texts: list[str] = []
    sent: list[File] = []
    for file, form in forms:
        if form == "whole" and (data := contents.data_of(file)) is not None:
            sent.append(File("pdf" if file.kind == "pdf" else "image", file.media_type, file.name, data))
        elif form == "text" and (text := contents.text_of(file)) is not None:
            texts.append(quote_file(file, text))
        elif form == "mention":
            texts.append(mention_file(file, "not sent: this model cannot look at it, or it was too long ago."))
        else:
            texts.append(mention_file(file, "it is not there any more."))
    return Message("user", clean("\n\n".join((*texts, question))), tuple(sent))


def _unchanged(text: str) -> str:
    return text


def _tokens(forms: Forms, models: Sequence[LanguageModel]) -> int:
    """Return what files add to a prompt, by the careful estimate, for the model that makes most of each."""
    tokens = 0
    for file, form in forms:
        if form != "whole":
            tokens += TOKENS_PER_MENTION + (file.tokens if form == "text" else 0)
        elif file.kind == "pdf":  # its name goes along, and all of its text is read beside the pictures of its pages
            tokens += TOKENS_PER_MENTION + file.tokens + max(1, file.pages) * _most(models, page_tokens)
        else:
            tokens += _most(models, partial(_image_tokens, file))
    return tokens


def _text_tokens(file: Attached) -> int:
    return file.tokens + TOKENS_PER_MENTION


def _image_tokens(file: Attached, provider: str, provider_model: str) -> int:
    return _size_tokens(file.width, file.height, provider, provider_model)


def _size_tokens(width: int, height: int, provider: str, provider_model: str) -> int:
    return image_tokens(provider, provider_model, width, height)


def _most(models: Sequence[LanguageModel], tokens_of: Callable[[str, str], int]) -> int:
    """Return the most tokens that any of the models makes of something, in those of the careful estimate: what a
    provider counts is not to be multiplied with its factor once more. Without models it is a model that is unknown."""
    if not models:
        return tokens_of("", "")
    return max(
        ceil(tokens_of(model.provider, model.provider_model) / token_factor_of(model.provider)) for model in models
    )


def _round_up(depth: int, *, at_most: int) -> int:
    """Return the depth the prompt begins at: the next multiple of TRIM_STEP."""
    return min(at_most, -(-depth // TRIM_STEP) * TRIM_STEP)
