"""Compiled fragments: what is filled in is exactly what the template would have rendered."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any
from uuid import UUID

import hypothesis
import pytest
from django.conf import settings as django_settings
from django.template.loader import render_to_string
from django.utils import translation
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from chat.shown import fragments
from chat.shown.fragments import turn_html
from core import compiled_fragments
from core.compiled_fragments import CompiledFragment
from history import fragments as history_fragments
from history.fragments import conversation_html
from history.models import Conversation, Turn, new_id

LANGUAGES = [code for code, _name in django_settings.LANGUAGES]
ID = str(new_id())
TURN = {
    "id": ID,
    "parent": str(new_id()),
    "question": "¿1 < 2 & 'dos' > \"uno\"?",
    "reasoning": "<hm> & 'ah'",
    "answer": mark_safe("<p>Sí &amp; <b>no</b></p>"),
    "text": "<b>1</b> & 2",
    "label": "Model <1> & 'co'",
    "error_sentence": 'It\'s <broken> & "gone".',
    "time": "12:30",
    "date_and_time": "1/2/2026 12:30 p. m.",
    "asked_at": "2026-01-02T12:30:00+00:00",
    "credits": "1,25",
    "input_tokens": "1.234",
    "cached_tokens": "<1>",
    "output_tokens": "2 & 'dos'",
    "reasoning_tokens": '"0"',
    "exact_credits": "1,25",
    "first_token_seconds": "0,4",
    "tokens_per_second": "–",
    "price_date": "24/11/26",
    "raw_context_tokens": "1234",
    "raw_output_tokens": "56",
    "model_key": "a-\"model\"-of-'ours'",
    "ended_at": "2026-01-02T12:30:00+00:00",
    "route": "short <question>",
    "thinking_time": "1 min 12 s",
    "siblings": mark_safe("<div>2 &amp; 3</div>"),
    "duration": "4.2 <s>",
}
MAY_BE_EMPTY = (
    *(
        "reasoning",
        "answer",
        "text",
        "label",
        "error_sentence",
        "credits",
        "input_tokens",
        "route",
        "thinking_time",
        "duration",
    ),
)
"""What the template asks whether it is empty; the rest is only printed."""
SAYS_NO_MORE = {"is_cut_at_limit": False, "can_continue": False, "can_ask_again": False, "is_auto": False}
HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "{{ shown.id }} {{ }} {% load i18n %}{# hm #}{% url %}",
    "&amp; &lt;b&gt; &#39;",
    "%s %(title)s %(model)s 100%",
    r"\1 \g<0> \\ $1",
    "a\u2028b\r\n\t😀 ‮עברית",
    " ",
    "0",
    "<&\"'x" * 20_000,
]

turn_fragment, line_fragment = fragments._turn, history_fragments._line


def rendered(template: str, name: str, values: Mapping[str, Any], flags: Mapping[str, Any]) -> str:
    return render_to_string(template, {name: {**values, **flags}})


def rendered_turn(values: Mapping[str, Any], flags: Mapping[str, Any]) -> str:
    return rendered("chat/_turn.html", "shown", values, flags)


def rendered_line(values: Mapping[str, Any], flags: Mapping[str, Any]) -> str:
    return rendered("history/_conversation.html", "conversation", values, flags)


@pytest.fixture(params=LANGUAGES)
def _language(request: pytest.FixtureRequest) -> Iterator[None]:
    with translation.override(request.param):
        yield


in_each_language = pytest.mark.usefixtures("_language")
STATUSES = [(status, status in Turn.OPEN) for status in Turn.Status.values]


# --- The same as the template -----------------------------------------------------------------------------------------


@in_each_language
@pytest.mark.parametrize(("status", "is_open"), STATUSES)
def test_a_turn_is_what_its_template_renders_whatever_is_absent(status: str, is_open: bool):
    flags = {"status": status, "is_open": is_open, **SAYS_NO_MORE}
    for presence in product([True, False], repeat=len(MAY_BE_EMPTY)):
        absent = {name: "" for name, is_present in zip(MAY_BE_EMPTY, presence, strict=True) if not is_present}
        values = TURN | absent
        expected = rendered_turn(values, flags)
        assert turn_fragment.fill(values, flags) == expected, absent
        assert turn_fragment.fill(values, flags) == expected, "The second time."


@in_each_language
@pytest.mark.parametrize(("status", "is_open"), STATUSES)
def test_a_turn_is_what_its_template_renders_whatever_may_be_done(status: str, is_open: bool):
    for answers in product([True, False], repeat=len(SAYS_NO_MORE)):
        flags = {"status": status, "is_open": is_open, **dict(zip(SAYS_NO_MORE, answers, strict=True))}
        for values in (TURN, dict.fromkeys(TURN, "") | {"id": ID}):
            assert turn_fragment.fill(values, flags) == rendered_turn(values, flags), flags


@pytest.mark.parametrize("name", sorted(set(TURN) - {"id"}))
def test_a_turn_without_any_one_value_is_what_its_template_renders(name: str):
    for status, is_open in STATUSES:
        flags = {"status": status, "is_open": is_open, **SAYS_NO_MORE}
        values = TURN | {name: ""}
        assert turn_fragment.fill(values, flags) == rendered_turn(values, flags)


@in_each_language
@pytest.mark.parametrize("is_current", [True, False])
@pytest.mark.parametrize("title", ["", "Saludos", *HOSTILE], ids=lambda title: title[:20])
def test_a_conversation_is_what_its_template_renders(title: str, is_current: bool):
    row = Conversation(pk=new_id(), owner_id=1, title=title)
    values = {"id": row.pk, "title": title, "place": "list", "used_at": row.updated_at.isoformat()}
    expected = rendered_line(values, {"is_current": is_current})
    assert conversation_html(row, is_current=is_current) == expected
    assert conversation_html(row, is_current=is_current) == expected, "The second time."


@in_each_language
@pytest.mark.parametrize("status", Turn.Status.values)
@pytest.mark.parametrize("text", ["", "**hola**", *HOSTILE[:6]], ids=lambda text: text[:20])
def test_a_turn_of_the_database_is_what_its_template_renders(monkeypatch: pytest.MonkeyPatch, status: str, text: str):
    row = Turn(owner_id=1, status=status, question=text, reasoning=text, answer=text, error="overloaded", cost_micros=7)

    class Template:
        def fill(self, values: Mapping[str, Any], flags: Mapping[str, Any]) -> str:
            return rendered_turn(values, flags)

    filled = turn_html(row, text=text)
    monkeypatch.setattr(fragments, "_turn", Template())
    assert filled == turn_html(row, text=text)


def test_each_language_has_its_own():
    filled = set()
    for code in LANGUAGES:
        with translation.override(code):
            filled.add(line_fragment.fill({"id": ID, "title": "x"}, {"is_current": False}))
    assert len(filled) == len(LANGUAGES) > 1


def test_what_is_filled_is_safe_to_print():
    assert isinstance(line_fragment.fill({"id": ID, "title": "<b>"}, {"is_current": False}), SafeString)


def test_more_variants_than_are_cached_are_right_all_the_same(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled_fragments, "MAX_VARIANTS", 2)
    fragment = CompiledFragment("history/_conversation.html", "conversation", "id", "title")
    for _ in range(3):
        for title, is_current in product(["", "<x>"], [True, False]):
            values, flags = {"id": ID, "title": title}, {"is_current": is_current}
            assert fragment.fill(values, flags) == rendered_line(values, flags)


# --- Hostile values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda text: text[:20])
@pytest.mark.parametrize("name", sorted(set(TURN) - {"id"}))
def test_a_hostile_value_is_escaped_as_the_template_does(name: str, hostile: str):
    for status, is_open in (("streaming", True), ("stopped", False)):
        flags = {"status": status, "is_open": is_open, **SAYS_NO_MORE}
        values = TURN | {name: hostile}
        assert turn_fragment.fill(values, flags) == rendered_turn(values, flags)


@pytest.mark.parametrize("hostile", HOSTILE[:3])
def test_nothing_hostile_gets_through(hostile: str):
    values = dict.fromkeys(TURN, hostile) | {"id": ID}
    html = turn_fragment.fill(values, {"status": "stopped", "is_open": False, **SAYS_NO_MORE})
    assert hostile not in html
    assert html.count(escape(hostile)) > 5


def test_html_that_is_marked_safe_is_left_as_it_is():
    html = turn_fragment.fill(TURN, {"status": "completed", "is_open": False, **SAYS_NO_MORE})
    assert TURN["answer"] in html


@pytest.mark.parametrize("name", sorted(set(TURN) - {"id"}))
def test_a_value_that_contains_the_placeholder_of_another_is_not_filled_again(name: str):
    placeholders = turn_fragment._placeholders
    values = TURN | {name: " ".join(placeholders.values())}
    for status, is_open in (("streaming", True), ("stopped", False)):
        flags = {"status": status, "is_open": is_open, **SAYS_NO_MORE}
        html = turn_fragment.fill(values, flags)
        assert html == rendered_turn(values, flags)
        assert html.count(ID) == turn_fragment.fill(TURN, flags).count(ID)


def test_a_turn_whose_id_is_the_placeholder_of_another_value_is_that_turn():
    """Nobody can know a placeholder; whoever guesses one gets what they asked for."""
    values = {"id": line_fragment._placeholders["title"], "title": line_fragment._placeholders["id"]}
    assert line_fragment.fill(values, {"is_current": True}) == rendered_line(values, {"is_current": True})


def test_every_value_of_a_fragment_has_a_placeholder_of_its_own():
    placeholders = [*turn_fragment._placeholders.values(), *line_fragment._placeholders.values()]
    assert len(set(placeholders)) == len(placeholders)
    assert all(UUID(placeholder) for placeholder in placeholders)
    assert placeholders[0] not in turn_fragment.fill(TURN, {"status": "stopped", "is_open": False, **SAYS_NO_MORE})


any_value = st.one_of(
    st.just(""),
    st.text(max_size=40),
    st.text("<>&\"'{}%#\\$ x", max_size=20),
    st.sampled_from([*turn_fragment._placeholders.values()]),
)


@hypothesis.settings(max_examples=200)
@given(
    st.fixed_dictionaries(dict.fromkeys(sorted(set(TURN) - {"id"}), any_value)),
    st.sampled_from(STATUSES),
    st.fixed_dictionaries(dict.fromkeys(SAYS_NO_MORE, st.booleans())),
    st.sampled_from(LANGUAGES),
)
def test_any_turn_is_what_its_template_renders(
    drawn: dict[str, str], status: tuple[str, bool], may: dict[str, bool], language: str
):
    values, flags = drawn | {"id": ID}, {"status": status[0], "is_open": status[1], **may}
    with translation.override(language):
        assert turn_fragment.fill(values, flags) == rendered_turn(values, flags)


# --- While somebody works on the template -----------------------------------------------------------------------------


@pytest.fixture
def templates(settings: Settings) -> dict[str, str]:
    """Templates that can be changed."""
    found = {"it.html": "<p>{{ it.name }}</p>"}
    loaders = [("django.template.loaders.locmem.Loader", found)]
    backend = {"BACKEND": "django.template.backends.django.DjangoTemplates", "OPTIONS": {"loaders": loaders}}
    settings.TEMPLATES = [backend]
    return found


def test_with_debug_the_template_is_rendered_anew(templates: dict[str, str], settings: Settings):
    settings.DEBUG = True
    fragment = CompiledFragment("it.html", "it", "name")
    assert fragment.fill({"name": "<a>"}, {}) == "<p>&lt;a&gt;</p>"
    templates["it.html"] = "<b>{{ it.name }}</b>"
    assert fragment.fill({"name": "<a>"}, {}) == "<b>&lt;a&gt;</b>"


def test_without_debug_the_template_is_rendered_once(templates: dict[str, str]):
    fragment = CompiledFragment("it.html", "it", "name")
    fragment.fill({"name": "a"}, {})
    templates["it.html"] = "<b>{{ it.name }}</b>"
    assert fragment.fill({"name": "b"}, {}) == "<p>b</p>"


@pytest.mark.parametrize(
    "template",
    [
        "",
        "nothing of it",
        "{{ it.name }}",
        "{{ it.name }}{{ it.other }}{{ it.name }}",
        "{% if it.name %}{{ it.other }}{% else %}none{% endif %}",
        '<a title="{{ it.name }}">{% if it.is_big %}{{ it.other }}{% endif %}</a>',
        "{% for number in it.numbers %}{{ number }}{{ it.name }}{% endfor %}",
        "{% load i18n %}{% blocktranslate with x=it.name %}A {{ x }} 100%{% endblocktranslate %}",
    ],
)
def test_a_template_may_print_a_value_anywhere_and_any_number_of_times(templates: dict[str, str], template: str):
    templates["it.html"] = template
    fragment = CompiledFragment("it.html", "it", "name", "other")
    for name, other, is_big in product(["", "<n>", "100%"], ["", "<o>"], [True, False]):
        values, flags = {"name": name, "other": other}, {"is_big": is_big, "numbers": (1, 2, 3)}
        assert fragment.fill(values, flags) == rendered("it.html", "it", values, flags)
