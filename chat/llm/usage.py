"""Which of the usage that providers report is believed. What cannot be true is estimated, as if nothing was reported.

A report is held against what was sent and what came: a token has at least one byte, and at most as many characters as
the longest one any tokenizer is known to have. Tokens that send no bytes are bounded by the cap that was asked for.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from typing import Any

from django.utils.translation import gettext_noop

from chat.llm.pricing import TOKENS_PER_MESSAGE
from chat.llm.providers.base import NO_OPTIONS, AnswerOptions, File, Finish, Message, TokenUsage
from chat.models import LanguageModel
from core.alerts import alert

logger = logging.getLogger(__name__)

LONGEST_TOKEN_CHARACTERS = 128
"""A run of spaces, in several tokenizers."""
MAX_TOKEN_CHARACTERS = 32
"""On the average of a whole answer: English has up to 9, a wide table 18, a list of the longest words 19. Only runs
of one character have more; they are cut off here."""
MAX_UNSEEN_TOKENS = 32
"""Of an answer, besides its text: what marks its parts and its end. So many for each call of a tool, too."""
MAX_ADDED_TOKENS = 1_000
"""What a provider sends its model besides the prompt: instructions of its own, and a template. So many where tools are
offered, too: how to use them."""
MAX_IMAGE_TOKENS = 50_000
"""More than any provider counts for a picture, however large."""

NOT_BELIEVED = gettext_noop(
    "%(model)s reports tokens that cannot be true. They are estimated: look at what its provider sends."
)


def believed_usage(
    finish: Finish | None,
    *,
    model: LanguageModel,
    messages: Sequence[Message],
    max_output: int,
    shown: Sequence[str],
    options: AnswerOptions = NO_OPTIONS,
    **log_fields: Any,
) -> TokenUsage | None:
    """Return what the provider reported, or None if it reported nothing that can be true; that is logged.

    `shown` is what came of the answer: its text, its reasoning, and each call of a tool, with its id and its name.
    """
    if finish is None or finish.usage is None:
        return None
    doubt = doubt_about(finish, model=model, messages=messages, max_output=max_output, shown=shown, options=options)
    if not doubt:
        return finish.usage
    fields = {
        "model": model.key,
        "provider": model.provider,
        "doubt": doubt,
        "reported": repr(astuple(finish.usage)),  # a number may be too long for whatever reads the log
        "max_output": max_output,
        "shown_characters": sum(map(len, shown)),
    }
    logger.warning("Usage not believed", extra=fields | log_fields)
    alert(f"{model.provider}:{model.key}:usage", NOT_BELIEVED, provider=model.provider, model=model.key, doubt=doubt)
    return None


def doubt_about(
    finish: Finish,
    *,
    model: LanguageModel,
    messages: Sequence[Message],
    max_output: int,
    shown: Sequence[str],
    options: AnswerOptions = NO_OPTIONS,
) -> str:
    """Return why the usage of `finish` cannot be true, as a code; empty if it can."""
    usage = finish.usage
    assert usage is not None
    if not all(type(count) is int and count >= 0 for count in astuple(usage)):
        return "no_count"
    if usage.cache_read + usage.cache_write > usage.input or usage.reasoning > usage.output:
        return "part_above_whole"
    if usage.input > model.context_window:
        return "input_above_window"
    if usage.input > _most_input(messages, options):
        return "input_above_prompt"
    if _characters(message.text for message in messages) > usage.input * LONGEST_TOKEN_CHARACTERS:
        return "input_below_prompt"
    received = sum(len(text.encode()) for text in shown)
    unseen = MAX_UNSEEN_TOKENS * max(1, len(shown) - 1) + max((len(text.encode()) for text in options.stop), default=0)
    if usage.reasoning > max_output + MAX_UNSEEN_TOKENS:
        return "reasoning_above_cap"
    if usage.output > max(received, max_output) + unseen:
        return "output_above_cap"
    if _is_all_shown(finish, model, options) and usage.output - usage.reasoning > received + unseen:
        return "output_above_answer"
    if _characters(shown) > usage.output * LONGEST_TOKEN_CHARACTERS:
        return "output_below_answer"
    return ""


def _is_all_shown(finish: Finish, model: LanguageModel, options: AnswerOptions) -> bool:
    """Return whether the answer came whole, but for the reasoning that is reported.

    What was filtered, or was a call of a tool, did not; a call that was cut off or went wrong is shown by few; and a
    model that reasons may keep that to itself, and say nothing of it in its report.
    """
    return finish.reason in ("stop", "length") and not model.reasons and not options.tools


def _most_input(messages: Iterable[Message], options: AnswerOptions) -> int:
    """Return how many tokens a prompt can be. Schemas and calls of tools are JSON, which some write anew, with more
    blanks and with escapes."""
    prompt = sum(
        TOKENS_PER_MESSAGE + len(message.text.encode()) + sum(map(_most_of_file, message.files)) for message in messages
    )
    written_anew = [text for message in messages for text in message.texts[1:]] + list(options.texts)
    in_json = sum(TOKENS_PER_MESSAGE + 2 * len(text.encode()) for text in written_anew)
    return MAX_ADDED_TOKENS * (2 if options.tools else 1) + prompt + in_json


def _most_of_file(file: File) -> int:
    return MAX_IMAGE_TOKENS if file.kind == "image" else max(MAX_IMAGE_TOKENS, len(file.data))


def _characters(texts: Iterable[str]) -> int:
    return sum(map(len, texts))
