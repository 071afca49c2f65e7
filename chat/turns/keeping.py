"""Puts what a program asks into its owner's history, where its API key says so: below the turn that its dialogue had
come to, or else in a conversation of its own (docs/adr/0025-openai-compatible-api.md)."""

from contextlib import suppress

from accounts.models import ApiKey
from chat.turns.asked import Asked
from chat.turns.dialogues import (
    DialogueTurn,
    answer_text,
    call_names,
    digest_with_answer,
    digest_with_question,
    exchanges_of,
    instructions_in,
    question_text,
)
from core.errors import NotFound, Unavailable
from history import access, forks, tree
from history.folding import searched
from history.models import Turn, new_id, now
from history.transfer.importing import rows_of
from history.transfer.parsed import ParsedConversation, ParsedTurn

MAX_EARLIER = 500
"""Turns that are made at once of what was said before: of more, the first are left out."""


def keep_turn(turn: Turn, asked: Asked, key: ApiKey) -> Turn:
    """Write the turn of a program's question, and return it; if its id exists, return the turn that has it.

    Raises what `tree.start_conversation` and `forks.finish_copy` do.
    """
    if (known := access.find_turn(turn.pk)) is not None:
        return known
    *earlier, last = exchanges_of(asked)
    names: dict[str, str] = {}
    for exchange in earlier:
        names |= call_names(exchange.answer)
    digests = _digests_of(key, earlier)
    before = digests[-1] if digests else _beginning(key)
    turn.question = question_text(last, names)
    turn.instructions = instructions_in(asked) or None
    turn.dialogue = digest_with_question(before, last.question)
    if not earlier:
        return tree.start_conversation(turn)[1]
    if end := access.find_dialogue_end(turn.owner_id, before):
        turn.conversation_id, turn.parent_id, turn.depth, turn.seq = end.conversation_id, end.pk, end.depth + 1, 0
        with suppress(NotFound):  # it has just been deleted, or put into the trash
            return tree.add_turn(turn)
    return _begin_with_earlier(turn, earlier, digests, names)


def _beginning(key: ApiKey) -> str:
    """Return the digest of a dialogue of nothing: no other key goes on from it."""
    return key.pk.hex


def _digests_of(key: ApiKey, exchanges: list[DialogueTurn]) -> list[str]:
    """Return the digest of the dialogue up to each of the answers."""
    digests: list[str] = []
    for exchange in exchanges:
        before = digests[-1] if digests else _beginning(key)
        digests.append(digest_with_answer(digest_with_question(before, exchange.question), exchange.answer))
    return digests


def _begin_with_earlier(turn: Turn, earlier: list[DialogueTurn], digests: list[str], names: dict[str, str]) -> Turn:
    """Write a new conversation of what was said before, as an import makes it, and the turn, all at once: what this
    process dies on nobody sees, and the sweep erases."""
    turn.conversation_id = new_id()
    kept = [(str(at), exchange, digests[at]) for at, exchange in enumerate(earlier)][-MAX_EARLIER:]
    parsed = ParsedConversation(source="openai", key=str(turn.conversation_id), created_at=now().timestamp())
    for key, exchange, _digest in kept:
        parent = parsed.turns[-1].key if parsed.turns else None
        question, answer = question_text(exchange, names), answer_text(exchange.answer)
        parsed.turns.append(ParsedTurn(key=key, parent=parent, question=question, answer=answer))
    conversation, rows = rows_of(turn.owner_id, turn.conversation_id, parsed)
    for row, (_key, _exchange, digest) in zip(rows, kept, strict=True):
        row.is_completion, row.dialogue = True, digest
        row.search_text = searched(f"{row.question}\n{row.answer}")
    turn.parent_id, turn.depth, turn.seq = rows[-1].pk, len(rows), len(rows) + 1
    turn.search_text = searched(turn.question)
    forks.begin_hidden(conversation)
    try:
        forks.finish_copy(conversation, [*rows, turn])
    except Unavailable:
        tree.take_back(turn)
        raise
    return turn
