"""What a program asks as a dialogue: questions with their answers, as a history has them, and a digest of all that was
said up to each, by which the next request of the same dialogue is known.

A digest covers what users, tools and models have said, but no instructions, which programs change from one request to
the next (the time of day, say), no ids of calls, and no blanks around a text. Who begins it with the id of an API key
finds only what was asked with that.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from django.utils.translation import gettext

from chat.llm.providers.base import Message, ToolCall
from chat.turns.asked import Asked
from chat.turns.called_tools import join_calls
from chat.turns.quoting import fenced
from history.models import Turn
from history.progress import Outcome
from history.transfer.grouping import NO_QUESTION
from history.transfer.parsed import MAX_TEXT, clean

MAX_ARGUMENTS = 10_000
"""Characters of a call's arguments that are read as JSON, which SDKs write in their own way. Longer ones have to come
back as they were."""


@dataclass(frozen=True, slots=True)
class DialogueTurn:
    """What was asked, by a user or by the results of tools, and what a model said to that; nothing yet, of the last."""

    question: tuple[Message, ...]
    answer: tuple[Message, ...] = ()


def exchanges_of(asked: Asked) -> list[DialogueTurn]:
    """Return what was said, without instructions; the last exchange is the one that is to be answered."""
    exchanges: list[DialogueTurn] = []
    question: list[Message] = []
    answer: list[Message] = []
    for message in asked.messages:
        if message.role == "assistant":
            answer.append(message)
        elif message.role != "system":
            if answer:
                exchanges.append(DialogueTurn(tuple(question), tuple(answer)))
                question, answer = [], []
            question.append(message)
    if answer:
        exchanges.append(DialogueTurn(tuple(question), tuple(answer)))
        question = []
    return [*exchanges, DialogueTurn(tuple(question))]


def digest_with_question(before: str, question: Sequence[Message]) -> str:
    """Return the digest of a dialogue with one question more."""
    return _digest(before, "question", [_said(message) for message in question])


def digest_with_answer(before: str, answer: Sequence[Message]) -> str:
    """Return the digest of a dialogue whose question is answered."""
    return _digest(before, "answer", [_said(message) for message in answer])


def instructions_in(asked: Asked) -> str:
    """Return the instructions that a program sends along, as they are kept."""
    return _kept("\n\n".join(message.text for message in asked.messages if message.role == "system"))


def question_text(exchange: DialogueTurn, names: dict[str, str]) -> str:
    """Return a question as it is kept: with the results of tools, by their names, and a note for each image. `names`
    are those of the calls, by their ids."""
    texts = []
    for message in exchange.question:
        if message.role == "tool":
            name = names.get(message.tool_call_id, message.tool_call_id)
            texts.append(fenced(f"{name} → {message.text}"))
        else:
            texts += [message.text, *[gettext("[Image, not kept]")] * len(message.files)]
    return _kept("\n\n".join(filter(str.strip, texts))) or NO_QUESTION


def answer_text(answer: Sequence[Message]) -> str:
    """Return an answer as it is kept: with the tools that it calls."""
    texts = [text for message in answer for text in (message.text, _calls_text(message.tool_calls))]
    return _kept("\n\n".join(filter(str.strip, texts)))


def call_names(answer: Sequence[Message]) -> dict[str, str]:
    """Return the names of the tools that an answer calls, by the ids of the calls."""
    return {call.id: call.name for message in answer for call in message.tool_calls}


def as_kept(turn: Turn, outcome: Outcome) -> Outcome:
    """Return how a turn ended as the history has it, where a program has asked it: the tools that it calls are in its
    answer, for whoever reads it, and the digest is that of the dialogue with the answer."""
    if turn.dialogue is None:
        return outcome
    calls = tuple(join_calls(outcome.tool_calls))
    said = Message("assistant", outcome.answer, tool_calls=calls)
    shown = filter(None, (outcome.answer, _calls_text(calls)))
    return msgspec.structs.replace(
        outcome, answer="\n\n".join(shown), dialogue=digest_with_answer(turn.dialogue, [said])
    )


def written_answer(turn: Turn) -> str:
    """Return what a model wrote as its answer, without what `as_kept` adds to it."""
    if turn.dialogue is None or not turn.tool_calls:
        return turn.answer
    calls = _calls_text(join_calls(turn.tool_calls))
    is_with_calls = bool(calls) and turn.answer.endswith(calls)
    return turn.answer.removesuffix(calls).removesuffix("\n\n") if is_with_calls else turn.answer


def _calls_text(calls: Sequence[ToolCall]) -> str:
    return "\n\n".join(fenced(clean(f"{call.name}({call.arguments})")) for call in calls)


def _kept(text: str) -> str:
    return clean(text, MAX_TEXT)


def _said(message: Message) -> list[Any]:
    files = [hashlib.blake2b(file.data, digest_size=16).hexdigest() for file in message.files]
    calls = [[call.name, _canonical(call.arguments)] for call in message.tool_calls]
    return [message.role, clean(message.text).strip(), files, calls]


def _canonical(arguments: str) -> str:
    """Return the arguments of a call in the one way in which JSON can be written; as they are where they are none."""
    arguments = clean(arguments).strip()
    if len(arguments) > MAX_ARGUMENTS:
        return arguments
    try:
        return msgspec.json.encode(msgspec.json.decode(arguments), order="sorted").decode()
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return arguments


def _digest(*parts: Any) -> str:
    return hashlib.blake2b(msgspec.msgpack.encode(parts), digest_size=16).hexdigest()
