"""How each store is asked: PostgreSQL's trigram indexes, MongoDB's index in order, the stage for Atlas Search."""

import datetime as dt
from typing import Any

import pytest
from django.db import connections
from django_mongodb_backend.queryset import MongoQuerySet

from history import matching
from history.atlas import INDEX_DEFINITION, search_stage
from history.models import Turn
from history.queries import parse_query
from history.search import search_turns
from history.text_indexes import INDEXES, prepare_search
from tests.history.growing import ANA, ask, begin, unsaved

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]


def found(query: str, after: str | None = None) -> list[str]:
    return [hit.turn.question for hit in search_turns(ANA, parse_query(query, dt.UTC), after=after, limit=2).rows]


def only_on(vendor: str) -> None:
    if connections["history"].vendor != vendor:
        pytest.skip(f"of {vendor} alone")


def test_the_stage_for_atlas_asks_for_an_owners_turns_in_order():
    moment = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    stage = search_stage("turns", owner_id=7, words=["camion rojo", "si"], up_to=moment)
    assert stage == {
        "$search": {
            "index": "turns",
            "compound": {
                "filter": [
                    {"equals": {"path": "owner_id", "value": 7}},
                    {"range": {"path": "created_at", "lte": moment}},
                    {"phrase": {"path": "search_text", "query": "camion rojo"}},
                ]
            },
            "sort": {"created_at": -1, "_id": -1},
        }
    }
    assert search_stage("turns", owner_id=7, words=["si", "no"], up_to=None) is None
    asked = {"_id", "owner_id", "created_at", "search_text"}
    assert INDEX_DEFINITION["mappings"]["fields"].keys() == asked
    assert {"_id" if name == "id" else name for name in ("id", *(field.name for field in Turn._meta.fields))} >= asked


def test_what_atlas_finds_is_looked_at_again_and_has_the_same_shape(settings: Any, monkeypatch: pytest.MonkeyPatch):
    only_on("mongodb")
    settings.MONGODB_SEARCH_INDEX = "turns"
    pipelines = []
    real = MongoQuerySet.raw_aggregate

    def without_atlas(self: Any, pipeline: Any, using: Any = None) -> Any:
        pipelines.append(pipeline)
        rest = [{"$sort": {"created_at": -1, "_id": -1}} if "$search" in stage else stage for stage in pipeline]
        return real(self, rest, using)

    monkeypatch.setattr(MongoQuerySet, "raw_aggregate", without_atlas)
    conversation = begin()
    for number in range(3):
        ask(conversation, f"arroz {number}")
    ask(conversation, "otra cosa")
    first = search_turns(ANA, parse_query("ARROZ", dt.UTC), limit=2)
    assert [hit.turn.question for hit in first.rows] == ["arroz 2", "arroz 1"]
    assert found("arroz", first.next) == ["arroz 0"]
    assert [[next(iter(stage)) for stage in pipeline] for pipeline in pipelines] == [
        ["$search", "$match", "$limit"]
    ] * 2
    assert pipelines[1][0]["$search"]["compound"]["filter"][1]["range"]["lte"] is not None
    assert found("a 2") == ["arroz 2"]
    assert next(iter(pipelines[2][0])) == "$match"  # its trigrams know nothing of shorter words


def test_mongodb_goes_through_the_owners_turns_in_their_order():
    only_on("mongodb")
    collection = connections["history"].get_collection(Turn._meta.db_table)
    stages = matching.in_index_order(matching.Candidates(Turn.objects.all(), ANA, "search_text", "created_at"))
    command = {"aggregate": collection.name, "pipeline": stages, "cursor": {}}
    plan = connections["history"].database.command("explain", command, verbosity="queryPlanner")
    assert plan["queryPlanner"]["winningPlan"]["inputStage"]["indexName"] == "turn_newest"


def test_postgresql_has_its_trigram_indexes_again_after_the_next_migrate(caplog: pytest.LogCaptureFixture):
    only_on("postgresql")
    conversation = begin()
    ask(conversation, "un camión 100%")
    connection = connections["history"]
    with connection.cursor() as cursor:
        assert valid_indexes(cursor) == set(INDEXES)
        cursor.execute("SET enable_seqscan = off")
        cursor.execute("SET enable_indexscan = off")
        statement, parameters = matching._sql(Turn.objects.filter(search_text__contains="camion"))
        cursor.execute(f"EXPLAIN {statement}", parameters)
        assert "turn_words" in str(cursor.fetchall())
        cursor.execute("RESET enable_seqscan")
        cursor.execute("RESET enable_indexscan")

        # One who may not create the extension is told who does, and search works.
        cursor.execute("DROP EXTENSION pg_trgm CASCADE")
        cursor.execute("CREATE ROLE somebody")
        try:
            cursor.execute("GRANT USAGE ON SCHEMA history TO somebody")
            cursor.execute("GRANT ALL ON ALL TABLES IN SCHEMA history TO somebody")
            cursor.execute("SET ROLE somebody")
            prepare_search(using="history")
            assert "CREATE EXTENSION pg_trgm" in caplog.text
            assert found("camion") == ["un camión 100%"]
        finally:
            cursor.execute("RESET ROLE")
            cursor.execute("DROP OWNED BY somebody")
            cursor.execute("DROP ROLE somebody")
        assert valid_indexes(cursor) == set()
        prepare_search(using="history")
        prepare_search(using="history")
        assert valid_indexes(cursor) == set(INDEXES)
    assert found("camion 100%") == ["un camión 100%"]


def valid_indexes(cursor: Any) -> set[str]:
    cursor.execute(
        "SELECT relname FROM pg_index JOIN pg_class ON oid = indexrelid WHERE indisvalid AND relname = ANY(%s)",
        [list(INDEXES)],
    )
    return {name for (name,) in cursor.fetchall()}


def test_a_page_is_one_statement_where_words_are_common_and_two_where_they_are_rare(
    django_assert_num_queries: Any, monkeypatch: pytest.MonkeyPatch
):
    only_on("postgresql")
    monkeypatch.setattr(matching, "WINDOW", 8)
    conversation = begin()
    rows = [unsaved(conversation, f"común {number}", seq=number, search_text=f"comun {number}") for number in range(20)]
    rows[0].search_text += " raro"
    for row in rows[::3]:
        row.search_text += " medio"
    Turn.objects.bulk_create(rows)
    with django_assert_num_queries(2, using="history"):  # the second reads the conversations
        assert found("comun") == ["común 19", "común 18"]
    with django_assert_num_queries(3, using="history"):
        assert found("raro") == ["común 0"]
    with django_assert_num_queries(3, using="history"):
        assert found("medio 0") == ["común 0"]
