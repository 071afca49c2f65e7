"""The page of the search, the palette's part of it, and the API: one function, shown three ways."""

import re
from typing import Any

import pytest
from django.test import Client
from django.utils.html import escape
from pytest_django import Settings

from accounts.models import User
from chat.shown import finding
from chat.shown.finding import find_in_history
from core.errors import RateLimited
from history import embeddings, progress
from history.access import Page
from history.models import Conversation, Turn
from history.progress import Outcome
from tests.fakes.embedder import search_by_meaning
from tests.history.growing import ask, begin

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "history"])


@pytest.fixture
def client(ana: User) -> Client:
    client = Client()
    client.force_login(ana)
    return client


def answered(owner: User, question: str, answer: str, *, title: str = "", model: str = "scripted") -> Turn:
    turn = ask(begin(owner.pk, title=title or question), question, status=Turn.Status.QUEUED)
    progress.close(turn, Outcome(Turn.Status.COMPLETED, answer=answer, model=model))
    return turn


def page(client: Client, query: str, **more: str) -> str:
    response = client.get("/search/", {"q": query} | more)
    assert response.status_code == 200
    return response.content.decode()


def test_what_was_found_is_marked_escaped_and_leads_to_its_turn(client: Client, ana: User):
    turn = answered(ana, "¿Qué es <b>Café</b>?", "Una bebida: <script>alert('café')</script>", title="Bebidas & más")
    Conversation.objects.filter(pk=turn.conversation_id).update(is_archived=True)
    html = page(client, "cafe bebida")
    assert f'href="/c/{turn.conversation_id}/?turn={turn.pk}#turn-{turn.pk}"' in html
    assert "&lt;b&gt;<mark>Café</mark>&lt;/b&gt;" in html
    assert "&lt;script&gt;alert(&#x27;<mark>café</mark>&#x27;)" in html
    assert "Bebidas &amp; más" in html
    assert "Archivada" in html
    assert "Scripted" in html


def test_a_page_of_results_leads_to_the_next(client: Client, ana: User):
    conversation = begin(ana.pk)
    for number in range(23):
        ask(conversation, f"arroz {number:02}.")
    first = page(client, "arroz")
    assert len(re.findall('class="search-hit"', first)) == 20
    assert first.count("search-group") == 1  # what follows each other in one conversation is together
    after = re.search(r"after=([^\"]+)\"", first)
    assert after is not None
    second = client.get(f"/search/?q=arroz&after={after[1]}").content.decode()
    assert [f"arroz</mark> {number:02}." in second for number in (0, 1, 2, 3)] == [True, True, True, False]
    assert client.get("/search/?q=arroz&after=x").status_code == 404


def test_a_filter_that_is_not_understood_is_said(client: Client, ana: User):
    ask(begin(ana.pk), "arroz tag:azul")
    assert escape("«anteayer» no es una fecha") in page(client, "arroz after:anteayer")
    assert escape("«tag:azul»") in page(client, "arroz tag:azul")
    assert "Nada" in page(client, "no hay tal cosa")


def test_more_models_than_a_store_can_be_asked_for_are_said_to_be_too_many(client: Client, ana: User):
    """A thousand were an error of SQLite."""
    answered(ana, "arroz", "a")
    assert "search-hit" in page(client, " ".join(["model:scripted"] * 1_000))
    assert escape("más modelos o carpetas") in page(client, " ".join(f"model:m{number}" for number in range(1_000)))


def test_a_person_has_so_many_searches_at_once_and_a_minute(
    client: Client, ana: User, bo: User, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    searches = 0

    def search_again(owner_id: int, *_arguments: Any, **_named: Any) -> Page[Any]:
        """Begin another search before this one ends, and one of somebody else."""
        nonlocal searches
        if owner_id == ana.pk:
            searches += 1
            find_in_history(bo, "arroz")
            find_in_history(ana, "arroz")
        return Page([], None)

    with monkeypatch.context() as changed, pytest.raises(RateLimited):
        changed.setattr(finding, "search_turns", search_again)
        find_in_history(ana, "arroz")
    assert searches == finding.MAX_AT_ONCE
    settings.API_REQUESTS_PER_MINUTE = 1  # before the first: one of 600 a minute is forgotten after 0.1 s
    page(client, "arroz")
    assert client.get("/search/?q=arroz").status_code == 429
    assert client.get("/palette/?q=arroz", headers={"HX-Request": "true"}).status_code == 429


def test_titles_are_found_beside_the_turns_and_all_of_them_on_pages_of_their_own(client: Client, ana: User):
    for number in range(22):
        begin(ana.pk, title=f"Canción {number:02}.")
    html = page(client, "cancion")
    assert html.count("row-name") == 5
    assert "in=titles" in html
    assert page(client, "cancion", **{"in": "titles"}).count("row-name") == 20


def test_the_page_alone_explains_and_a_fragment_is_its_results_alone(client: Client, ana: User):
    answered(ana, "arroz", "blanco")
    assert "<details" in page(client, "")
    fragment = client.get("/search/", {"q": "arroz"}, headers={"HX-Request": "true"}).content.decode()
    assert "<html" not in fragment
    assert "<mark>arroz</mark>" in fragment
    assert Client().get("/search/").status_code == 302


def test_the_palette_finds_titles_and_turns(client: Client, ana: User, bo: User):
    turn = answered(ana, "¿Qué ceno?", "Lentejas con comino")
    begin(ana.pk, title="Lentejas")
    answered(bo, "lentejas", "ajenas")
    fragment = client.get("/palette/", {"q": "lentejas"}, headers={"HX-Request": "true"}).content.decode()
    assert fragment.count('role="option"') == 2
    assert f"/c/{turn.conversation_id}/?turn={turn.pk}#turn-{turn.pk}" in fragment
    unfinished = client.get("/palette/", {"q": "model:"}, headers={"HX-Request": "true"})
    assert (unfinished.status_code, unfinished.content.decode().strip()) == (200, "")


def test_the_api_finds_the_same_a_page_at_a_time(api: Any, ana: User):
    conversation = begin(ana.pk, title="Título ARROZ")
    turns = [ask(conversation, f"arroz {number}") for number in range(21)]
    client = api(ana)
    body = client.get("/api/v1/search", {"q": "árroz tag:x"}).json()
    assert (body["results"], body["not_filters"]) == ([], ["tag:x"])
    body = client.get("/api/v1/search", {"q": "árroz"}).json()
    assert [row["id"] for row in body["results"]] == [str(turn.pk) for turn in reversed(turns[1:])]
    assert body["results"][0]["excerpts"]["question"][0] == {"text": "arroz", "is_match": True}
    assert body["results"][0]["conversation"]["title"] == "Título ARROZ"
    assert [row["id"] for row in body["conversations"]] == [str(conversation.pk)]
    rest = client.get("/api/v1/search", {"q": "árroz", "after": body["next"]}).json()
    assert ([row["id"] for row in rest["results"]], rest["next"]) == ([str(turns[0].pk)], None)
    refused = client.get("/api/v1/search", {"q": "has:cake"})
    assert (refused.status_code, refused.json()["code"]) == (400, "bad_filter")


def test_what_is_similar_is_shown_below_and_in_the_api_where_the_first_page_has_room(
    api: Any, client: Client, ana: User, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    turn = answered(ana, "¿Cómo hago una <b>tarta</b> de chocolate?", "Con cacao.")
    address = f'href="/c/{turn.conversation_id}/?turn={turn.pk}#turn-{turn.pk}"'
    search_by_meaning(settings, monkeypatch)
    embeddings.embed_missing(60)
    html = page(client, "trata de chcolate")
    assert ("Parecido" in html, "Nada" in html, address in html) == (True, True, True)
    assert "una &lt;b&gt;tarta&lt;/b&gt; de" in html
    assert "Parecido" not in page(client, "tarta chocolate")  # what was found is not shown again
    body = api(ana).get("/api/v1/search", {"q": "trata de chcolate"}).json()
    assert (body["results"], [row["id"] for row in body["similar"]]) == ([], [str(turn.pk)])
    assert body["similar"][0]["conversation"]["id"] == str(turn.conversation_id)
    palette = client.get("/palette/?q=trata de chcolate", headers={"HX-Request": "true"}).content.decode()
    assert "tarta" not in palette
    settings.SEARCH_BY_MEANING = False
    assert "Parecido" not in page(client, "trata de chcolate")


def test_a_model_is_found_by_what_people_call_it(client: Client, ana: User):
    answered(ana, "arroz uno", "a", model="scripted")
    answered(ana, "arroz dos", "b", model="gpt-5-mini")
    assert len(re.findall('class="search-hit"', page(client, "arroz model:SCRIPT"))) == 1
