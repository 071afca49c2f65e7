"""Makes turns of messages: one question and its answer each; what was asked or answered again is a sibling."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from history.transfer.parsed import Notes, ParsedTurn

MAX_CHARACTERS = 60_000_000
"""Of all turns of a conversation: a tree whose branches share much becomes more than its file was."""
NO_QUESTION = "…"
"""Stands for the question of an answer that has none: some providers refuse an empty one."""


@dataclass(slots=True)
class TreeMessage:
    """A node of a source's tree. `other` is what no turn is made of, such as an instruction: what hangs on it hangs on
    what is above it."""

    key: str
    parent: str | None
    kind: Literal["question", "answer", "other"] = "other"
    text: str = ""
    reasoning: str = ""
    model: str = ""
    at: float | None = None
    files: list[str] = field(default_factory=list)
    images: int = 0


Chain: TypeAlias = "tuple[Chain | None, TreeMessage]"
"""Answers, the last first: a branch shares those before it."""


@dataclass(frozen=True, slots=True)
class _Open:
    """A turn on the way down: what there is of it, below the turn `parent`."""

    parent: str | None = None
    question: TreeMessage | None = None
    answers: "Chain | None" = None

    @property
    def last(self) -> TreeMessage | None:
        return self.answers[1] if self.answers else self.question


class _Grouping:
    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._characters = 0
        self.turns: dict[str, ParsedTurn] = {}

    def close(self, state: _Open) -> str | None:
        """Return the key of the turn, made once for all branches that go on from it; None where there is none."""
        last = state.last
        if last is None:
            return state.parent
        if last.key not in self.turns:
            self.turns[last.key] = self._make(state, last)
        return last.key

    def _make(self, state: _Open, last: TreeMessage) -> ParsedTurn:
        answers = _in_order(state.answers)
        question = state.question
        messages = ([question] if question else []) + answers
        turn = ParsedTurn(
            key=last.key,
            parent=state.parent,
            question=self._notes.cut(question.text if question else NO_QUESTION),
            answer=self._notes.cut("\n\n".join(message.text for message in answers if message.text)),
            reasoning=self._notes.cut("\n\n".join(message.reasoning for message in answers if message.reasoning)),
            model=next((message.model for message in reversed(answers) if message.model), ""),
            asked_at=next((message.at for message in messages if message.at is not None), None),
            ended_at=next((message.at for message in reversed(answers) if message.at is not None), None),
            files=question.files if question else [],
            images=question.images if question else 0,
            answer_images=sum(message.images for message in answers),
        )
        self._characters += len(turn.question) + len(turn.answer) + len(turn.reasoning)
        if self._characters > MAX_CHARACTERS:
            raise self._notes.refuse("conversation_too_large")
        return turn


def group_turns(
    messages: Sequence[TreeMessage], shown: str | None, notes: Notes
) -> tuple[list[ParsedTurn], str | None]:
    """Return the turns, each after its parent, and the key of the last one of the branch on which `shown` is.

    Raises FileRefused for ids that come twice, parents that do not exist, and circles.
    """
    children = _children(messages, notes)
    grouping = _Grouping(notes)
    ends: dict[str, str | None] = {}  # by message, the key of the message that its turn is called by
    ways: list[tuple[TreeMessage, _Open]] = [(root, _Open()) for root in reversed(children[None])]
    while ways:
        message, state = ways.pop()
        if message.kind == "question":
            state = _Open(grouping.close(state), message)
        elif message.kind == "answer":
            state = _Open(state.parent, state.question, (state.answers, message))
        ends[message.key] = state.last.key if state.last else None
        below = children.get(message.key, [])
        if not below:
            grouping.close(state)
        ways += [(child, state) for child in reversed(below)]
    for message in messages:
        if message.key not in ends:
            raise notes.refuse("cycle", message.key)
    return _by_time(grouping.turns), _leaf(shown, ends, children, grouping.turns)


def _children(messages: Sequence[TreeMessage], notes: Notes) -> dict[str | None, list[TreeMessage]]:
    keys: set[str] = set()
    for message in messages:
        if message.key in keys:
            raise notes.refuse("duplicate_id", message.key)
        keys.add(message.key)
    children: dict[str | None, list[TreeMessage]] = {None: []}
    for message in messages:
        if message.parent is not None and message.parent not in keys:
            raise notes.refuse("missing_parent", message.key)
        children.setdefault(message.parent, []).append(message)
    return children


def _in_order(chain: "Chain | None") -> list[TreeMessage]:
    found: list[TreeMessage] = []
    while chain is not None:
        chain, message = chain
        found.append(message)
    return found[::-1]


def _leaf(
    shown: str | None,
    ends: dict[str, str | None],
    children: dict[str | None, list[TreeMessage]],
    turns: dict[str, ParsedTurn],
) -> str | None:
    """Return the turn that ends where the source's page does; below a message whose turn goes on, the last branch."""
    while shown is not None and shown in ends:
        if (end := ends[shown]) in turns:
            return end
        below = children.get(shown, [])
        shown = below[-1].key if below else None
    return None


def _by_time(turns: dict[str, ParsedTurn]) -> list[ParsedTurn]:
    """Return the turns in the order they were asked in, but each after its parent, whatever its time says."""
    below: dict[str | None, list[str]] = {}
    for turn in turns.values():
        below.setdefault(turn.parent, []).append(turn.key)
    number = {key: index for index, key in enumerate(turns)}
    ready = [(turns[key].asked_at or 0, number[key], key) for key in below.get(None, [])]
    heapq.heapify(ready)
    ordered: list[ParsedTurn] = []
    while ready:
        at, _number, key = heapq.heappop(ready)
        ordered.append(turns[key])
        for child in below.get(key, []):
            heapq.heappush(ready, (turns[child].asked_at or at, number[child], child))
    return ordered
