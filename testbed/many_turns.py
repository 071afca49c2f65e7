"""Fills a history with very many turns in one go, for `bench.search`, and scans them as a search without an index does.

The words are made up: a vocabulary whose frequencies follow Zipf's law, as those of a language do, and words that are
put in at known rates.
"""

import datetime as dt
import itertools
import random
import time
from collections.abc import Iterator
from typing import Any

from django.db import connections
from django.db.models import Model

from history.folding import fold
from history.models import Conversation, Turn, new_id
from history.text_indexes import INDEXES, prepare_search

VOCABULARY, WORDS_A_TURN = 20_000, 60
TURNS_A_CHAT = 10
RATES = {"zacatecoluca": 0.00002, "quetzaltenango": 0.001, "chichicastenango": 0.02}
"""What is put in, and in what part of the turns: a rare word, one of every thousand, one of every fifty."""
COMMON_WORD = 3
"""Which word of the vocabulary stands for a common one: it is in most turns."""
BEGAN = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
PORTION = 20_000


def vocabulary() -> list[str]:
    """Return made-up words, the most frequent first."""
    randomness = random.Random(1)
    syllables = [first + vowel for first in "bcdfghjklmnprstvz" for vowel in "aeiou"]
    words: dict[str, None] = {}
    while len(words) < VOCABULARY:
        words["".join(randomness.choices(syllables, k=randomness.randint(2, 4)))] = None
    return list(words)


def write_chats(owner_id: int, chats: int) -> None:
    """Write so many conversations of TURNS_A_CHAT turns, the last of them the newest, without any trigram index."""
    connection = connections["history"]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            for name, (model, _field) in INDEXES.items():
                table = connection.ops.quote_name(model._meta.db_table)
                schema = table.rpartition(".")[0]
                cursor.execute(f"DROP INDEX IF EXISTS {schema + '.' if schema else ''}{name}")
    rows = _rows(owner_id, chats)
    while portion := list(itertools.islice(rows, PORTION // TURNS_A_CHAT)):
        _insert(Conversation, [conversation for conversation, _turns in portion])
        _insert(Turn, [turn for _conversation, turns in portion for turn in turns])


def index_chats() -> float:
    """Make the indexes and what planners know; return how many seconds the trigram indexes took."""
    connection, began = connections["history"], time.monotonic()
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET maintenance_work_mem = '1GB'")
            connection.connection.statement_seconds = None
            prepare_search("history")
        seconds = time.monotonic() - began
        cursor.execute("ANALYZE")
        if connection.vendor == "postgresql":
            cursor.execute("VACUUM")
    return seconds


def time_scan(owner_id: int, word: str) -> float:
    """Return how many milliseconds the store itself takes to look at all texts of an owner, at best of three times."""
    connection = connections["history"]
    table = connection.ops.quote_name(Turn._meta.db_table)
    best = float("inf")
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET enable_bitmapscan = off")
            connection.connection.statement_seconds = None
        for _ in range(3):
            began = time.monotonic()
            cursor.execute(
                f"SELECT count(*) FROM {table} WHERE owner_id = %s AND search_text LIKE %s", [owner_id, f"%{word}%"]
            )
            cursor.fetchall()
            best = min(best, time.monotonic() - began)
    return best * 1_000


def _rows(owner_id: int, chats: int) -> Iterator[tuple[Conversation, list[Turn]]]:
    randomness = random.Random(owner_id)
    words = vocabulary()
    weights = list(itertools.accumulate(1 / place for place in range(1, len(words) + 1)))
    for number in range(chats):
        conversation = Conversation(pk=new_id(), owner_id=owner_id, turn_count=TURNS_A_CHAT)
        conversation.created_at = conversation.updated_at = BEGAN + dt.timedelta(seconds=300 * number)
        turns = list[Turn]()
        for place in range(TURNS_A_CHAT):
            text = randomness.choices(words, cum_weights=weights, k=WORDS_A_TURN)
            for word, rate in RATES.items():
                if randomness.random() < rate:
                    text[randomness.randrange(WORDS_A_TURN)] = word
            turn = Turn(pk=new_id(), owner_id=owner_id, conversation_id=conversation.pk, max_output=1000)
            turn.seq, turn.depth, turn.parent_id = place + 1, place, turns[-1].pk if turns else None
            turn.question, turn.answer = " ".join(text[:10]).capitalize() + "?", " ".join(text[10:])
            turn.search_text = fold(f"{turn.question}\n{turn.answer}")
            turn.status, turn.requested_model, turn.model = Turn.Status.COMPLETED, "auto", "bench"
            turn.created_at = turn.completed_at = conversation.created_at + dt.timedelta(seconds=20 * place)
            turns.append(turn)
        conversation.title = turns[0].question[:60]
        conversation.search_title = fold(conversation.title)
        yield conversation, turns


def _insert(model: type[Model], rows: list[Any]) -> None:
    connection = connections["history"]
    fields = model._meta.concrete_fields
    columns = ", ".join(f'"{field.column}"' for field in fields)
    table = connection.ops.quote_name(model._meta.db_table)
    values = ([field.get_db_prep_save(getattr(row, field.attname), connection) for field in fields] for row in rows)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            connection.connection.statement_seconds = None
            with cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
                for row in values:
                    copy.write_row(row)
        else:
            marks = ", ".join(["%s"] * len(fields))
            cursor.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", list(values))
