"""Search by meaning: what is embedded, when, and what is found by it."""

import datetime as dt

import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from history import embeddings, trash
from history.deletion import delete_conversation
from history.models import Conversation, Turn
from history.queries import parse_query
from history.search import search_similar
from history.tasks import embed_turns
from tests.fakes.embedder import HAS_MODEL, search_by_meaning
from tests.history.growing import ANA, BO, ask, begin, unsaved

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

CAKE = ("¿Cómo hago una tarta de chocolate?", "Bate huevos, azúcar y cacao, y hornéala media hora.")
CAR = ("Mi coche no arranca por la mañana", "Mide la batería: si baja de doce voltios, cárgala.")
CAT = ("O gato não quer comer a ração", "Leve-o ao veterinário se passar um dia sem comer.")
SLEEP = ("I can't fall asleep at night", "Go to bed at the same time, and put your screen away an hour before.")


@pytest.fixture(autouse=True)
def _model(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    search_by_meaning(settings, monkeypatch)


def answered(text: tuple[str, str], owner_id: int = ANA, conversation: Conversation | None = None) -> Turn:
    return ask(conversation or begin(owner_id), text[0], answer=text[1])


def similar(query: str, owner_id: int = ANA, **options: set[object]) -> list[Turn]:
    hits = search_similar(owner_id, parse_query(query, dt.UTC), **options)  # type: ignore[arg-type]
    assert all(hit.turn.conversation_id == hit.conversation.pk for hit in hits)
    return [hit.turn for hit in hits]


def test_a_typing_error_finds_what_was_meant_among_the_owners_turns():
    cake, car, cat = map(answered, (CAKE, CAR, CAT))
    of_bo = answered(CAKE, BO)
    assert similar("tarta de chocolate") == []  # nothing is embedded yet
    assert embeddings.embed_missing(60) == 4
    assert [similar(words)[0] for words in ("trata de chcolate", "mi coche no aranca")] == [cake, car]
    assert set(similar("tarta")) == {cake, car, cat}
    assert similar("tarta", BO) == [of_bo]
    assert set(similar("tarta", found={cake.pk})) == {car, cat}
    assert similar("") == similar("has:file") == []


def test_filters_and_the_trash_hold_as_for_words():
    first, second, third, gone = (begin(title=str(number)) for number in range(4))
    cake = answered(CAKE, conversation=first)
    again = ask(first, CAKE[0], answer="Otra receta.", after=cake, attachments="[]")
    car, cat, sleep = (
        answered(text, conversation=place) for text, place in ((CAR, second), (CAT, third), (SLEEP, gone))
    )
    Conversation.objects.filter(pk=third.pk).update(is_archived=True)
    embeddings.embed_missing(60)
    assert set(similar("tarta chocolate hacer")) in ({cake, car, cat, sleep}, {again, car, cat, sleep})
    assert similar("tarta has:file") == [again]
    assert similar("tarta before:2020") == []
    delete_conversation(gone)
    trash.trash_conversations(ANA, [second.pk])
    found = similar("coche")
    assert (len(found), cat in found) == (2, True)
    assert not Turn.objects.filter(pk=sleep.pk).exists()


def test_what_has_ended_is_embedded_once_and_the_newest_first():
    old, new = answered(CAKE), answered(CAR)
    writing = ask(begin(), "¿y?", status=Turn.Status.STREAMING)
    assert embeddings.embed_missing(0) == 1
    new.refresh_from_db()
    assert (len(bytes(new.embedding or b"")), new.embedded_by) == (embeddings.DIMENSIONS, embeddings.EDITION)
    embed_turns()
    assert embeddings.embed_missing(0) == 0
    old.refresh_from_db()
    writing.refresh_from_db()
    assert (old.embedded_by, writing.embedded_by) == (embeddings.EDITION, None)


def test_what_another_model_made_is_not_compared_and_is_made_anew(capsys: pytest.CaptureFixture[str]):
    turn = answered(CAKE)
    Turn.objects.update(embedding=b"older", embedded_by=embeddings.EDITION - 1)
    assert similar("tarta") == []
    call_command("embed_turns")
    assert capsys.readouterr().out == "1 turns are embedded.\n"
    assert similar("tarta") == [turn]


def test_what_is_missing_is_read_from_its_index():
    """Once a minute, when nothing is missing as well: among 100,000 turns it took 49 s without."""
    if connections["history"].vendor != "sqlite":
        pytest.skip("of sqlite alone")
    with CaptureQueriesContext(connections["history"]) as captured:
        assert embeddings.embed_missing(0) == 0
    assert len(captured) == 2
    with connections["history"].cursor() as cursor:
        for query in captured.captured_queries:
            cursor.execute(f"EXPLAIN QUERY PLAN {query['sql']}")
            ((*_ids, plan),) = cursor.fetchall()
            assert "USING INDEX turn_embedded" in plan


def test_only_the_newest_are_compared(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("history.search.MAX_COMPARED", 2)
    _cake, car, cat = map(answered, (CAKE, CAR, CAT))
    embeddings.embed_missing(60)
    assert set(similar("tarta de chocolate")) == {car, cat}


def test_the_trash_does_not_fill_what_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("history.search.MOST_AT_ONCE", 2)
    kept = answered(CAT)
    for _ in range(5):
        trash.trash_conversations(ANA, [answered(CAKE).conversation_id])
    embeddings.embed_missing(60)
    assert similar("tarta de chocolate") == [kept]


def test_while_it_is_off_nothing_is_embedded_or_compared(settings: Settings):
    turn = answered(CAKE)
    settings.SEARCH_BY_MEANING = False
    embed_turns()
    turn.refresh_from_db()
    assert turn.embedding is None
    with pytest.raises(CommandError):
        call_command("embed_turns")
    settings.SEARCH_BY_MEANING = True
    embed_turns()
    assert similar("tarta") == [turn]
    settings.SEARCH_BY_MEANING = False
    assert similar("tarta") == []


@pytest.mark.parametrize("text", ["ﷺ" * 30, "\0", "", "\ud800"])
def test_any_text_is_embedded(text: str):
    """Twenty of the first sign write beyond the memory that the model's C code has taken, and end the process."""
    turn = unsaved(begin(), text, answer=text)
    assert "ﷺ" not in embeddings._readable(text, 500)
    assert embeddings.most_similar(text, [embeddings._embedding_of(turn)]) == [0]


@pytest.mark.skipif(not HAS_MODEL, reason="the package of requirements-meaning.txt is not installed")
def test_other_words_for_the_same_thing_find_it_in_three_languages():
    turns = {text: answered(text) for text in (CAKE, CAR, CAT, SLEEP)}
    embeddings.embed_missing(60)
    asked = {
        "receta de un postre": CAKE,
        "o carro não liga": CAR,
        "mascota sin apetito": CAT,
        "insomnia remedies": SLEEP,
    }
    assert {words: similar(words)[0] for words in asked} == {words: turns[text] for words, text in asked.items()}
