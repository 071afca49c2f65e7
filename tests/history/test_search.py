"""Search: every word, whatever its case and accents, in one person's history."""

import datetime as dt
import random
from zoneinfo import ZoneInfo

import pytest
from django.utils import timezone
from hypothesis import example, given, settings
from hypothesis import strategies as st

from history import access, matching, progress, tree
from history.errors import BadFilter
from history.folding import fold
from history.models import Conversation, Folder, Turn, new_id
from history.progress import Outcome
from history.queries import Query, parse_query
from history.search import search_titles, search_turns
from history.text_indexes import prepare_search
from tests.history import corpus, growing
from tests.history.growing import ANA, BO, ask, begin

stores = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]
pytestmark = stores


def found(query: str, owner_id: int = ANA) -> list[str]:
    return [hit.turn.question for hit in search_turns(owner_id, parse_query(query, dt.UTC)).rows]


def titles(query: str, owner_id: int = ANA, **options: int) -> list[str]:
    return [row.title for row in search_titles(owner_id, parse_query(query, dt.UTC), **options).rows]


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
    assert len(search_turns(ANA, parse_query("arroz", dt.UTC), limit=3).rows) == 3


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
        access.rename_conversation(row, title)
        if number == 3:
            Conversation.objects.filter(pk=row.pk).update(is_deleted=True)
    begin(BO)
    assert titles("camion") == ["El CAMION azul", "Un camión rojo"]
    assert titles("ROJO camión") == ["Un camión rojo"]
    assert titles("tren\0") == []
    assert titles("", limit=1) == ["Una bicicleta roja"]
    assert len(titles("", BO)) == 1


# --- A known history --------------------------------------------------------------------------------------------------


def write(conversation: Conversation, text: corpus.Text, number: int) -> None:
    files = '[{"id": "…"}]' if text.has_file else ""
    fields = {"created_at": corpus.asked_at(number), "attachments": files}
    turn = ask(conversation, text.question, status=Turn.Status.QUEUED, **fields)
    assert progress.close(turn, Outcome(Turn.Status.COMPLETED, answer=text.answer, model=text.model))


def write_corpus() -> None:
    """Write the corpus, in an order that is not that of its times, and the same texts where nothing may be found."""
    folder = Folder.objects.create(owner_id=ANA, name=corpus.FOLDER)
    Folder.objects.create(owner_id=BO, name="Ajena")
    conversations: dict[str, Conversation] = {}
    numbers = list(range(len(corpus.TEXTS)))
    random.Random(7).shuffle(numbers)
    trashed, deleted, foreign = begin(title="Recetas"), begin(title="Recetas"), begin(BO, title="Recetas")
    for number in numbers:
        text = corpus.TEXTS[number]
        if text.conversation not in conversations:
            conversations[text.conversation] = begin(title=text.conversation)
        write(conversations[text.conversation], text, number)
        for elsewhere in (trashed, deleted, foreign):
            fields = {"created_at": corpus.asked_at(number) + dt.timedelta(hours=1), "search_text": text.question}
            ask(elsewhere, text.question, **fields)
    of_folder = [row.pk for title, row in conversations.items() if title in corpus.IN_FOLDER]
    Conversation.objects.filter(pk__in=of_folder).update(folder_id=folder.pk)
    Conversation.objects.filter(pk=conversations["Recetas"].pk).update(is_archived=True)
    Conversation.objects.filter(pk=trashed.pk).update(trashed_at=timezone.now())
    Conversation.objects.filter(pk=deleted.pk).update(is_deleted=True)


def all_pages(query: Query, limit: int) -> list[str]:
    questions, after = list[str](), None
    while True:
        page = search_turns(ANA, query, after=after, limit=limit)
        assert len(page.rows) == limit or page.next is None  # what is in the trash takes no places
        questions += [hit.turn.question for hit in page.rows]
        if (after := page.next) is None:
            return questions


def test_three_hundred_queries_find_what_they_must_in_order(monkeypatch):
    monkeypatch.setattr(matching, "WINDOW", 5)  # as small against the corpus as the real one is against a long history
    write_corpus()
    made = corpus.made_queries(300 - len(corpus.WRITTEN))
    wanted = corpus.WRITTEN | {query.written: corpus.expected(query) for query in made}
    assert len(wanted) == 300
    assert sum(1 for questions in wanted.values() if questions) > 250
    wrong = {}
    for number, (written, questions) in enumerate(wanted.items()):
        query = parse_query(written, dt.UTC)
        got = (
            all_pages(query, limit=3)
            if number % 10 == 0
            else [hit.turn.question for hit in search_turns(ANA, query, limit=40).rows]
        )
        if got != questions:
            wrong[written] = (got, questions)
    assert wrong == {}
    archived = search_turns(ANA, parse_query("arroz", dt.UTC)).rows
    assert [hit.conversation.is_archived for hit in archived] == [True]
    with pytest.raises(BadFilter, match="bad_filter"):
        search_turns(ANA, parse_query("folder:ajena", dt.UTC))
    assert titles("recetas") == ["Recetas"]
    assert sorted(titles('folder:"mis viajes" via')) == ["Viagens", "Viajes"]
    Folder.objects.create(owner_id=ANA, name="Vacía")
    assert all_pages(parse_query("folder:vacia arroz", dt.UTC), limit=3) == [] == titles("folder:vacia")


def test_words_that_no_store_can_be_asked_for_at_once_must_be_there_all_the_same(conversation):
    letters = "".join(chr(0x3B1 + number % 24) for number in range(12_000))
    words = " ".join(f"palabra{number}" for number in range(950))
    long = ask(conversation, f"{letters} {words} 100%_\\")
    assert found(letters[:10_000]) == [long.question]
    assert found(letters[:9_999] + "x") == []
    assert len(words) > 10_000
    assert found(words) == [long.question]
    assert found(f"{words} palabra950") == []
    assert found("%") == found("_") == found("\\") == found("p") == [long.question]


def test_many_matches_in_the_trash_do_not_end_a_page(conversation):
    trashed = begin()
    for number in range(30):
        ask(trashed, f"arroz {number}", created_at=timezone.now() + dt.timedelta(hours=number))
    for number in range(3):
        ask(conversation, f"arroz bueno {number}")
    Conversation.objects.filter(pk=trashed.pk).update(trashed_at=timezone.now())
    first = search_turns(ANA, parse_query("arroz", dt.UTC), limit=2)
    assert [hit.turn.question for hit in first.rows] == ["arroz bueno 2", "arroz bueno 1"]
    second = search_turns(ANA, parse_query("arroz", dt.UTC), limit=2, after=first.next)
    assert ([hit.turn.question for hit in second.rows], second.next) == (["arroz bueno 0"], None)


def test_turns_that_only_begin_like_a_very_long_word_hide_no_other_of_their_conversation(conversation):
    ask(conversation, "a" * (matching.MAX_LETTERS + 1))
    for number in range(4):
        ask(conversation, f"{'a' * matching.MAX_LETTERS} {number}")
    query = parse_query("a" * (matching.MAX_LETTERS + 1), dt.UTC)
    assert [len(hit.turn.question) for hit in search_turns(ANA, query, limit=1).rows] == [matching.MAX_LETTERS + 1]


def test_turns_of_one_moment_are_paged_by_their_ids(conversation):
    moment = timezone.now().replace(microsecond=0)
    for number in range(7):
        ask(conversation, f"arroz {number}", created_at=moment)
    pages = all_pages(parse_query("arroz", dt.UTC), limit=3)
    assert sorted(pages) == [f"arroz {number}" for number in range(7)]


def test_titles_are_folded_wherever_they_are_written(conversation):
    folded = lambda: Conversation.objects.get(pk=conversation.pk).search_title  # noqa: E731
    assert folded() == "saludos"
    access.title_conversation(conversation, "Café MODELO")
    assert folded() == "cafe modelo"
    access.rename_conversation(conversation, "Œuvre Ñ")
    assert folded() == "œuvre n"
    untitled = begin(title="")
    tree.title_from_question(untitled, "¿Qué TAL?")
    assert titles("que tal") == ["¿Qué TAL?"]
    turn = growing.unsaved(Conversation(pk=new_id(), owner_id=ANA), "# Primera **Pregúnta**\n\n```sh\nls `x\n```")
    tree.start_conversation(turn)
    assert titles("pregunta") == ["Primera Pregúnta ls `x"]
    # Processes of the release before do not know the field.
    Conversation.objects.filter(pk=conversation.pk).update(search_title=None)
    prepare_search(using="history")
    assert folded() == "œuvre n"


# --- What is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  ", ()),
        ('el "Gato  Negro" EL', ("el", "gato  negro")),
        ('"sin cerrar', ("sin cerrar",)),
        ('"', ('"',)),
        ('""', ()),
        ('5" de largo', ('5"', "de", "largo")),
        ('"model:x"', ("model:x",)),
        ("http://x.y/z 12:30 a:b", ("http://x.y/z", "12:30", "a:b")),
        ("\0", ()),
    ],
)
def test_words_and_phrases(text, words):
    assert parse_query(text, dt.UTC).words == words


def test_what_looks_like_a_filter_and_is_none_is_searched_for_and_said():
    query = parse_query("tag:azul http://x std::vector 12:30", dt.UTC)
    assert query.unknown == ("tag:azul",)
    assert query.words == ("tag:azul", "http://x", "std::vector", "12:30")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "model:",
            "folder: x",
            'model:""',
            "after:antier",
            "after:2026-13",
            "before:2026-02-30",
            "after:0001",
            "after:26",
        ),
        *("has:images", "after:2026-1-1-1", "before:99999", "after:٢٠٢٦", f"has:{'x' * 10_000}"),
    ],
)
def test_a_filter_that_is_not_understood_is_refused_in_plain_words(text):
    with pytest.raises(BadFilter) as refused:
        parse_query(text, dt.UTC)
    assert 10 < len(str(refused.value.message)) < 200


def test_dates_begin_where_the_reader_is():
    query = parse_query("after:2026 after:2026-03 before:2026-03-29 before:2027", ZoneInfo("America/Sao_Paulo"))
    assert query.after == dt.datetime(2026, 3, 1, 3, tzinfo=dt.UTC)
    assert query.before == dt.datetime(2026, 3, 29, 3, tzinfo=dt.UTC)


@pytest.mark.parametrize(("since", "until"), [("yesterday", "today"), ("Ayer", "hoy"), ("ontem", "HOJE")])
def test_days_have_names_in_each_language(since, until):
    zone = ZoneInfo("Pacific/Auckland")
    query = parse_query(f"desde:{since} antes:{until}", zone)
    begins = dt.datetime.now(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    assert query.before == begins
    assert query.after is not None
    assert query.after.astimezone(zone).date() == begins.date() - dt.timedelta(days=1)
