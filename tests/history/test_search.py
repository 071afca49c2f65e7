"""Search: every word, whatever its case and accents, in one person's history."""

import datetime as dt

import pytest
from django.utils import timezone
from hypothesis import example, given, settings
from hypothesis import strategies as st

from history import progress
from history.models import Turn
from history.progress import Outcome
from history.search import fold, search_titles, search_turns
from tests.history.growing import ANA, BO, ask, begin

stores = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]
pytestmark = stores


def found(query: str, owner_id: int = ANA) -> list[str]:
    return [turn.question for turn in search_turns(owner_id, query)]


@pytest.fixture
def conversation():
    return begin()


def test_a_word_of_a_question_is_found(conversation):
    ask(conversation, "¿Cómo se cocina el arroz?")
    ask(conversation, "¿Qué hora es?")
    assert found("arroz") == ["¿Cómo se cocina el arroz?"]


def test_a_word_of_an_answer_is_found(conversation):
    turn = ask(conversation, "¿Qué ceno?", status=Turn.Status.QUEUED)
    assert found("lentejas") == []
    progress.close(turn, Outcome(Turn.Status.COMPLETED, answer="Unas Lentejas."))
    assert found("lentejas") == ["¿Qué ceno?"]


def test_a_part_of_a_word_is_found(conversation):
    ask(conversation, "programación")
    assert found("grama") == ["programación"]


def test_every_word_must_be_there_in_any_order(conversation):
    ask(conversation, "el gato negro duerme")
    ask(conversation, "el gato blanco duerme")
    assert found("duerme negro") == ["el gato negro duerme"]
    assert found("gato perro") == []


@pytest.mark.parametrize("query", ["camion", "CAMIÓN", "Camión", "camio\u0301n", "  camión  "])
def test_case_and_accents_do_not_count_in_the_query(conversation, query):
    ask(conversation, "un camión")
    assert found(query) == ["un camión"]


@pytest.mark.parametrize("text", ["UN CAMIÓN", "un camion", "un camio\u0301n"])
def test_case_and_accents_do_not_count_in_the_text(conversation, text):
    ask(conversation, text)
    assert found("camión") == [text]


def test_other_scripts_are_found(conversation):
    ask(conversation, "Как дела? 你好 ΓΕΙΑ")
    assert found("как") == found("你好") == found("γεια") == ["Как дела? 你好 ΓΕΙΑ"]


@pytest.mark.parametrize(
    ("query", "text", "other"),
    [
        ("100%", "un 100% seguro", "un 1000 seguro"),
        ("a_b", "la clave a_b", "la clave axb"),
        ("a.b", "el punto a.b", "el punto axb"),
        (".*", "la expresión .*", "otra expresión"),
        ("c++", "me gusta c++", "me gusta ccc"),
        ("(a", "un (a sin cerrar", "una a"),
        ("[x]", "la lista [x]", "la lista x"),
        ("\\d", "la cifra \\d", "la cifra 7"),
        ("$x", "la variable $x", "la variable x"),
        ("'\"", "comillas '\"", "sin comillas"),
    ],
)
def test_signs_mean_themselves(conversation, query, text, other):
    ask(conversation, text)
    ask(conversation, other)
    assert found(query) == [text]


def test_nobody_elses_history_is_searched():
    ask(begin(BO), "arroz ajeno")
    ask(begin(ANA), "arroz propio")
    assert found("arroz") == ["arroz propio"]
    assert found("arroz", BO) == ["arroz ajeno"]


def test_the_newest_comes_first(conversation):
    now = timezone.now()
    for hours in (2, 1, 3):
        ask(conversation, f"arroz {hours}", created_at=now - dt.timedelta(hours=hours))
    assert found("arroz") == ["arroz 1", "arroz 2", "arroz 3"]


def test_no_more_are_returned_than_asked_for(conversation):
    for number in range(4):
        ask(conversation, f"arroz {number}")
    assert len(search_turns(ANA, "arroz", limit=3)) == 3


@pytest.mark.parametrize("query", ["", "   ", "\n"])
def test_an_empty_query_finds_nothing(conversation, query):
    ask(conversation, "hola")
    assert found(query) == []


def test_a_query_of_very_many_words_is_no_error(conversation):
    ask(conversation, "hola")
    assert found(" ".join(f"palabra{number}" for number in range(1_200))) == []


def test_a_query_with_a_null_character_is_no_error(conversation):
    ask(conversation, "hola")
    assert found("ho\0la") == ["hola"]


def test_a_sign_that_stands_for_letters_is_found_by_them(conversation):
    ask(conversation, "Tertulia™")
    assert found("tertuliatm") == ["Tertulia™"]


@settings(database=None)
@given(st.text())
@example("™")
def test_what_was_folded_stays_as_it_is(text):
    assert fold(fold(text)) == fold(text)


def test_titles_are_found_like_turns_and_only_ones_own_that_are_there(conversation):
    for number, title in enumerate(["Un camión rojo", "El CAMION azul", "Una bicicleta roja", "Camión borrado"]):
        row = conversation if not number else begin()
        row.title, row.is_deleted = title, True if number == 3 else None
        row.save()
    begin(BO)
    assert [row.title for row in search_titles(ANA, "camion")] == ["El CAMION azul", "Un camión rojo"]
    assert [row.title for row in search_titles(ANA, "ROJO camión")] == ["Un camión rojo"]
    assert search_titles(ANA, "tren\0") == []
    assert [row.title for row in search_titles(ANA, "", limit=1)] == ["Una bicicleta roja"]
    assert len(search_titles(BO, "")) == 1
