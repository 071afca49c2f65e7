"""What a model is sent: instructions, the path from the root, the question; trimmed to the window in whole turns."""

from collections.abc import Iterable
from dataclasses import dataclass

from chat.errors import ContextExceeded
from chat.llm.catalog import Candidate
from chat.llm.pricing import RESERVE_BYTES_PER_TOKEN, estimate_tokens, question_room
from chat.llm.providers.base import Message
from chat.models import LanguageModel
from history.models import Turn

INSTRUCTIONS = "You are a helpful assistant. Answer in the language of the question. Use Markdown where it helps."
"""Byte for byte the same in every prompt: providers cache a prefix only while it does not change."""

DEMO_INSTRUCTIONS = "You are a helpful assistant."
"""A model of 135 million parameters answers in broken French when it is told about languages."""

TRIM_STEP = 4
"""Turns leave the window this many at a time, for the same reason: dropping one a turn would change every prefix."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """`trimmed_turns` is how many turns of the path were left out."""

    messages: tuple[Message, ...]
    trimmed_turns: int

    def tokens(self, bytes_per_token: int = RESERVE_BYTES_PER_TOKEN) -> int:
        """Return an estimate of its length."""
        return estimate_tokens((message.text for message in self.messages), bytes_per_token=bytes_per_token)


def build_for(offered: list[Candidate], path: Iterable[Turn], question: str, *, max_output: int) -> Prompt:
    """Return the prompt that fits every candidate's window beside an answer of `max_output` tokens."""
    room = min(question_room(candidate.model, max_output) for candidate in offered)
    is_demo = all(candidate.model.tier == LanguageModel.Tier.DEMO for candidate in offered)
    return build(path, question, room=room, instructions=DEMO_INSTRUCTIONS if is_demo else INSTRUCTIONS)


def build(path: Iterable[Turn], question: str, *, room: int, instructions: str = INSTRUCTIONS) -> Prompt:
    """Return the prompt for `question` after `path`, which comes newest turn first and is read only as far as it fits.

    `room` is in tokens, by the careful estimate. Raises ContextExceeded when the question alone does not fit.
    """
    left = room - estimate_tokens((instructions, question))
    if left < 0:
        raise ContextExceeded
    kept: list[Turn] = []
    trimmed = 0
    for turn in path:
        left -= estimate_tokens((turn.question, turn.answer))
        if left < 0:
            trimmed = _round_up(turn.depth + 1, at_most=kept[0].depth if kept else turn.depth + 1)
            break
        kept.append(turn)
    kept = [turn for turn in reversed(kept) if turn.depth >= trimmed]
    return Prompt((Message("system", instructions), *_messages(kept), Message("user", question)), trimmed)


def _round_up(depth: int, *, at_most: int) -> int:
    """Return the depth the prompt begins at: the next multiple of TRIM_STEP."""
    return min(at_most, -(-depth // TRIM_STEP) * TRIM_STEP)


def _messages(turns: Iterable[Turn]) -> Iterable[Message]:
    """Yield question and answer of the turns; one that got no answer would put two questions in a row, and is left out."""
    for turn in turns:
        if turn.answer:
            yield Message("user", turn.question)
            yield Message("assistant", turn.answer)
