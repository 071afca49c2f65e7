"""The stage by which Atlas Search finds turns, and the index it asks. Both are built here and run on Atlas alone.

A trigram phrase is a part of a word, as everywhere else in search. docs/mongodb.md says how an operator makes it.
"""

import datetime as dt
from collections.abc import Sequence
from typing import Any

LETTERS = 3
INDEX_DEFINITION: dict[str, Any] = {
    "mappings": {
        "dynamic": False,
        "fields": {
            "_id": {"type": "token"},
            "owner_id": {"type": "number"},
            "created_at": {"type": "date"},
            "search_text": {"type": "string", "analyzer": "trigrams"},
        },
    },
    "analyzers": [
        {
            "name": "trigrams",
            "tokenizer": {"type": "nGram", "minGram": LETTERS, "maxGram": LETTERS},
        }
    ],
}


def search_stage(
    index: str, *, owner_id: int, words: Sequence[str], up_to: dt.datetime | None
) -> dict[str, Any] | None:
    """Return the `$search` stage for an owner's turns that have the folded `words`, newest first; `up_to` is when the
    last one was asked that is known already. None where the index knows nothing of the words: they are too short."""
    phrases = [{"phrase": {"path": "search_text", "query": word}} for word in words if len(word) >= LETTERS]
    if not phrases:
        return None
    of_owner: list[dict[str, Any]] = [{"equals": {"path": "owner_id", "value": owner_id}}]
    if up_to is not None:
        of_owner.append({"range": {"path": "created_at", "lte": up_to}})
    return {
        "$search": {
            "index": index,
            "compound": {"filter": [*of_owner, *phrases]},
            "sort": {"created_at": -1, "_id": -1},
        }
    }
