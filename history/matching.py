"""Reads the newest rows whose folded text has every word, in the way that is fastest on each store.

SQLite and MongoDB go through an index that has an owner's rows in the order wanted, and stop when a page is full. So
does PostgreSQL where the words are common; rare ones it looks up in a trigram index, where there is one
(text_indexes.py). Which they are is tried: its planner knows nothing of what is in long texts. Atlas Search is asked
where the operator has named an index.
"""

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.core.exceptions import EmptyResultSet
from django.db import connections
from django.db.models import Model, QuerySet

from core.rows import fetch, fetch_rows
from history.atlas import search_stage

M = TypeVar("M", bound=Model)

MAX_WORDS, MAX_LETTERS = 20, 100
"""How many words, and how much of each, a store is asked for. Who asks looks at the rows again."""
WINDOW = 500
"""Of so many of an owner's newest rows PostgreSQL is asked first."""
COMMON = 3
"""Words that are in so many of them are common."""
_TRIGRAM = re.compile(r"[^\W_]{3}")


@dataclass(frozen=True, slots=True)
class Candidates(Generic[M]):
    """An owner's rows that may be found: by `moment`, a field that an index of the owner has in order, and by `column`,
    which has their folded text. `up_to` is the moment of the last one that is known already."""

    rows: "QuerySet[M, M]"
    owner_id: int
    column: str
    moment: str
    up_to: dt.datetime | None = None
    atlas_index: str = ""

    def with_words(self, words: Sequence[str]) -> "QuerySet[M, M]":
        rows = self.rows
        for word in words:
            rows = rows.filter(**{f"{self.column}__contains": word})
        return rows

    def in_order(self, rows: "QuerySet[M, M]") -> "QuerySet[M, M]":
        return rows.order_by(f"-{self.moment}", "-pk")


def newest_matching(candidates: Candidates[M], words: Sequence[str], limit: int) -> list[M]:
    """Return up to `limit` rows that have the words, newest first; of very many or very long words, what a store can be
    asked for."""
    asked = [word[:MAX_LETTERS] for word in sorted(words, key=len, reverse=True)[:MAX_WORDS]]
    vendor = connections[candidates.rows.db].vendor
    if vendor == "mongodb":
        return _on_mongodb(candidates, asked, limit)
    if vendor == "postgresql" and any(map(_TRIGRAM.search, asked)):
        return _on_postgresql(candidates, asked, limit)
    return list(candidates.in_order(candidates.with_words(asked))[:limit])


def read_newest(candidates: Candidates[M], fields: Sequence[str], limit: int) -> list[tuple[Any, ...]]:
    """Return these fields, and no others, of up to `limit` rows, newest first, as the driver has them: to make UUIDs
    of thousands of keys takes longer than to read them."""
    if connections[candidates.rows.db].vendor != "mongodb":
        return fetch(candidates.rows.model, *_sql(candidates.in_order(candidates.rows).values_list(*fields)[:limit]))
    project: dict[str, Any] = {"$project": dict.fromkeys(fields, 1)}
    stages = [*in_index_order(candidates), _match(candidates.rows), {"$limit": limit}, project]
    return [tuple(getattr(row, field) for field in fields) for row in _aggregate(candidates, stages)]


def _on_postgresql(candidates: Candidates[M], words: Sequence[str], limit: int) -> list[M]:
    """Look at the newest rows; where they are not enough, at all in order if the words are common there, else into the
    trigram index. OFFSET 0 keeps the planner from taking the one way for the other."""
    newest = candidates.in_order(candidates.rows)
    found = _having(candidates, newest[:WINDOW], words, limit)
    if len(found) == limit:
        return found
    if len(found) >= COMMON:
        return _having(candidates, newest, words, limit)
    statement, parameters = _sql(candidates.with_words(words))
    order = f'"{candidates.moment}" DESC, "_id" DESC'
    statement = f"SELECT * FROM ({statement} OFFSET 0) AS found ORDER BY {order} LIMIT %s"  # noqa: S608  names of ours
    return fetch_rows(candidates.rows.model, statement, (*parameters, limit))


def _having(candidates: Candidates[M], rows: "QuerySet[M, M]", words: Sequence[str], limit: int) -> list[M]:
    """Return the first of the rows, in their order, that have the words."""
    statement, parameters = _sql(rows)
    if rows.query.high_mark is None:
        statement += " OFFSET 0"
    escape = connections[rows.db].ops.prep_for_like_query
    conditions = " AND ".join([f'"{candidates.column}" LIKE %s'] * len(words))
    statement = f"SELECT * FROM ({statement}) AS newest WHERE {conditions} LIMIT %s"  # noqa: S608  names of ours
    patterns = [f"%{escape(word)}%" for word in words]
    return fetch_rows(rows.model, statement, (*parameters, *patterns, limit))


def _sql(rows: "QuerySet[Any, Any]") -> tuple[str, tuple[Any, ...]]:
    statement, parameters = rows.query.get_compiler(rows.db).as_sql()
    return statement, tuple(parameters)


def in_index_order(candidates: Candidates[M]) -> list[dict[str, Any]]:
    """Return the stages that read an owner's rows through their index, the newest first."""
    return [{"$match": {"owner_id": candidates.owner_id}}, {"$sort": {candidates.moment: -1, "_id": -1}}]


def _on_mongodb(candidates: Candidates[M], words: Sequence[str], limit: int) -> list[M]:
    """Find, sort and limit, in this order, which Django's own pipeline has not: so the index gives the order."""
    stages = [_match(candidates.with_words(words)), {"$limit": limit}]
    by_atlas = candidates.atlas_index and search_stage(
        candidates.atlas_index, owner_id=candidates.owner_id, words=words, up_to=candidates.up_to
    )
    stages = [by_atlas, *stages] if by_atlas else [*in_index_order(candidates), *stages]
    return _aggregate(candidates, stages)


def _match(rows: "QuerySet[Any, Any]") -> dict[str, Any]:
    compiler: Any = rows.query.get_compiler(rows.db)
    compiler.pre_sql_setup()
    try:
        return {"$match": compiler.build_query().match_mql}
    except EmptyResultSet:  # one of a list that is empty: a folder that nothing is in
        return {"$match": {"$expr": False}}


def _aggregate(candidates: Candidates[M], stages: Sequence[dict[str, Any]]) -> list[M]:
    from django_mongodb_backend.queryset import MongoQuerySet  # here: without MongoDB nobody needs its driver

    return list(MongoQuerySet(candidates.rows.model, using=candidates.rows.db).raw_aggregate(list(stages)))
