"""Every sentence a person reads exists in every language. `manage.py translate` brings the catalogues up to date."""

import json
import re
from pathlib import Path

import pytest
from asgiref.testing import ApplicationCommunicator
from babel.messages.catalog import Catalog, Message
from babel.messages.plurals import get_plural
from django.conf import settings
from django.utils import translation
from django.utils.translation import ngettext, to_locale

from accounts.models import User
from config.asgi import application
from config.management.commands.translate import (
    compiled,
    extract_messages,
    is_translated,
    merge,
    po_file,
    read_catalog,
    save,
)
from core.errors import NotFound
from core.threads import in_thread
from history.models import new_id
from tests.chat.live import ticket_for

LANGUAGES = [language for language, _name in settings.LANGUAGES]
PLACEHOLDER = re.compile(r"%\(\w+\)[a-z]|%[a-z]|\{\w*\}")

each_language = pytest.mark.parametrize("language", LANGUAGES)
each_saying = pytest.mark.parametrize(
    ("language", "sentence"),
    [
        ("es", "Eso no existe o no es tuyo."),
        ("en", "That does not exist, or is not yours."),
        ("pt-br", "Isso não existe ou não é seu."),
    ],
)


def ids_of(catalog: Catalog) -> set[object]:
    return {(message.context, message.id) for message in catalog if message.id}


def messages_of(language: str) -> list[Message]:
    return [message for message in read_catalog(language) if message.id]


def forms_of(text: str | tuple[str, ...] | list[str]) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else tuple(text)


def placeholders_of(text: str) -> list[str]:
    return sorted(PLACEHOLDER.findall(text.replace("%%", "")))


@each_language
def test_a_catalogue_has_exactly_the_messages_of_the_code(language):
    in_code, in_catalogue = ids_of(extract_messages()), ids_of(read_catalog(language))
    assert in_code - in_catalogue == set(), "Run `manage.py translate`, then translate what it added."
    assert in_catalogue - in_code == set(), "Run `manage.py translate`: nobody says this any more."


@each_language
def test_every_message_is_translated_and_none_is_fuzzy(language):
    assert [message.id for message in messages_of(language) if not is_translated(message)] == []


@each_language
def test_a_translation_has_the_placeholders_of_its_message(language):
    for message in messages_of(language):
        singular, *plurals = forms_of(message.id)
        for number, translated in enumerate(forms_of(message.string)):
            original = plurals[0] if number and plurals else singular
            assert placeholders_of(translated) == placeholders_of(original), translated


@each_language
def test_a_plural_has_the_forms_of_its_language(language):
    catalog = read_catalog(language)
    assert catalog.plural_forms == get_plural(to_locale(language)).plural_forms
    for message in catalog:
        if message.id:
            expected = catalog.num_plurals if message.pluralizable else 1
            assert len(forms_of(message.string)) == expected, message.id


@each_language
def test_the_compiled_catalogue_is_that_of_the_source(language):
    assert po_file(language).with_suffix(".mo").read_bytes() == compiled(read_catalog(language)), (
        "Run `manage.py translate`."
    )


def test_english_says_what_the_code_says():
    assert all(forms_of(message.string) == forms_of(message.id) for message in messages_of("en"))


@each_saying
def test_django_finds_the_catalogues(language, sentence):
    with translation.override(language):
        assert str(NotFound.message) == sentence


@each_saying
def test_an_error_of_the_api_is_in_the_language_that_was_asked_for(api, carla, language, sentence):
    answer = api(carla).get(f"/api/v1/conversations/{new_id()}", headers={"Accept-Language": language})
    assert (answer.status_code, answer.json()["code"], answer.json()["detail"]) == (404, "not_found", sentence)


@each_saying
async def test_a_rejection_over_the_socket_is_in_the_language_of_the_account(carla, language, sentence):
    await User.objects.filter(pk=carla.pk).aupdate(locale=language)
    ticket = await in_thread(ticket_for, carla)
    scope = {"type": "websocket", "path": "/ws/", "query_string": f"ticket={ticket}".encode(), "headers": []}
    socket = ApplicationCommunicator(application, scope)
    await socket.send_input({"type": "websocket.connect"})
    assert (await socket.receive_output())["type"] == "websocket.accept"
    command = json.dumps({"type": "turn.stop", "turn_id": str(new_id())})
    await socket.send_input({"type": "websocket.receive", "text": command})
    answer = json.loads((await socket.receive_output())["text"])
    await socket.send_input({"type": "websocket.disconnect", "code": 1000})
    await socket.wait()
    assert (answer["type"], answer["code"], answer["detail"]) == ("turn.rejected", "not_found", sentence)


@each_language
def test_django_finds_the_plurals(language):
    message = next(message for message in read_catalog(language) if message.pluralizable)
    with translation.override(language):
        assert ngettext(*message.id, 1) == message.string[0]
        assert ngettext(*message.id, 2) == message.string[1]


@pytest.fixture
def project(settings, tmp_path: Path) -> Path:
    """An empty project beside this one."""
    settings.BASE_DIR = tmp_path
    (tmp_path / "chat").mkdir()
    (tmp_path / "templates").mkdir()
    return tmp_path


def test_messages_are_found_in_code_and_in_templates(project):
    (project / "chat" / "views.py").write_text('_("Hello")\nngettext("%(n)d chat", "%(n)d chats", n)\nother("No")\n')
    (project / "templates" / "page.html").write_text(
        "{% load i18n %}<p>\n      It's text, (not) a message</p>\n  {# Translators: a greeting #}\n"
        '<b>{% translate "Welcome" %}</b>\n {% blocktranslate count n=n %}{{ n }} turn{% plural %}{{ n }} turns'
        '{% endblocktranslate %} {% translate "May" context "month" %}'
    )
    assert ids_of(extract_messages()) == {
        (None, "Hello"),
        (None, ("%(n)d chat", "%(n)d chats")),
        (None, "Welcome"),
        (None, ("%(n)s turn", "%(n)s turns")),
        ("month", "May"),
    }


def test_a_merge_keeps_translations_and_drops_what_nobody_says(project):
    code = project / "chat" / "views.py"
    code.write_text('_("Hello")\n_("Bye")\n')
    catalog = merge("es", extract_messages())
    catalog["Hello"].string, catalog["Bye"].string = "Hola", "Adiós"
    save("es", catalog)
    code.write_text('_("Hello")\n_("Thanks")\n')
    merged = merge("es", extract_messages())
    assert {message.id: message.string or "" for message in merged if message.id} == {"Hello": "Hola", "Thanks": ""}
