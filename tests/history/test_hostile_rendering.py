"""Hostile Markdown to HTML: whatever a model writes, nothing but text and plain structure reaches a page."""

import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from history import rendering
from history.highlighting import MAX_HIGHLIGHTED_CHARACTERS
from history.rendering import render_markdown
from tests.history.harmless import Reader, assert_harmless
from tests.hostile import CASES, LONG, spread

ENOUGH = 10_000  # characters to see that something is quadratic
MAX_CALLS = 200  # of functions, for one character; a bracket takes 90, one of an image 155
MAX_SECONDS = 2  # of the processor, a multiple of what it takes


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_answer_builds_nothing_but_text_and_structure(name):
    begun = time.process_time()
    assert_harmless(render_markdown(CASES[name]))
    assert time.process_time() - begun < MAX_SECONDS


@pytest.mark.parametrize(
    "target",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "&#106;avascript:alert(1)",
        "javascript&colon;alert(1)",
        "java&Tab;script:alert(1)",
        "%6aavascript:alert(1)",
        "<java\tscript:alert(1)>",
        "<\x01javascript:alert(1)>",
        "vbscript:msgbox(1)",
        "data:text/html,<script>alert(1)</script>",
        "data:text/html;base64,PHNjcmlwdD4=",
        "data:image/svg+xml;base64,PHN2Zz4=",
        "data:image/png;base64,iVBORw0KGgo=",
        "file:///etc/passwd",
        "blob:https://example.com/x",
        "ftp://example.com/",
        "intent://scan/",
    ],
)
@pytest.mark.parametrize("form", ["[x]({})", "![x]({})", "[x][r]\n\n[r]: {}", "[x]( {} 'título')"])
def test_a_link_leads_to_a_page_or_a_mailbox_or_nowhere(target, form):
    assert_harmless(render_markdown(form.format(target)))


@pytest.mark.parametrize("mark", ["\u202a", "\u202b", "\u202e", "\u2066", "\u2067", "\u2069", "\u200e", "\u200f"])
def test_marks_of_direction_stay_in_the_text_and_get_nowhere_else(mark):
    html = render_markdown(f"uno {mark} dos\n\n[x](https://example.com/{mark}exe)")
    assert f"uno {mark} dos" in Reader(html).text
    assert not [value for _tag, _name, value in assert_harmless(html).attributes if mark in value]


@pytest.mark.parametrize("name", LONG)
def test_what_is_nested_deep_or_never_closed_takes_little_work(name):
    text, calls = LONG[name][:ENOUGH], 0

    def hear(_frame, event, _argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(hear)
    try:
        html = render_markdown(text)
    finally:
        sys.setprofile(None)
    assert_harmless(html)
    assert calls < MAX_CALLS * len(text)


@pytest.mark.parametrize(
    ("language", "line"),
    [
        ("java", "\n"),
        ("java", "x\n"),
        ("java", "a " * 400 + "\n"),
        ("console", "a:"),
        ("aspx-cs", "<script>\n"),
        ("ini", "a = "),
    ],
)
def test_an_answer_full_of_hostile_code_takes_no_time(language, line):
    block = f"~~~{language}\n{(line * MAX_HIGHLIGHTED_CHARACTERS)[: MAX_HIGHLIGHTED_CHARACTERS - 1]}\n~~~\n\n"
    begun = time.process_time()
    html = render_markdown(block * 10)
    assert time.process_time() - begun < MAX_SECONDS
    assert html.count("<pre>") == 10


@pytest.mark.parametrize("line", ["- a\n", "|*a*|b|\n", "[r] "])
def test_a_block_without_end_is_shown_as_it_is_written(line):
    text = f"# Título\n\n|a|b|\n|-|-|\n{line * rendering.MAX_BLOCK_CHARACTERS}\n\n[r]: http://x.y/\n\n*fin*"
    html = render_markdown(text)
    assert_harmless(html)
    assert (html.count("<pre>"), "<em>fin</em>" in html) == (1, True)
    assert len(html) < len(text) + 1_000
    assert "<pre>" in render_markdown(f"```python\n{'x = 1' * rendering.MAX_BLOCK_CHARACTERS}\n```")


@pytest.mark.parametrize("limit", ["RENDERING_SECONDS", "MAX_HTML_CHARACTERS"])
def test_the_long_answers_of_a_page_share_what_may_be_spent(monkeypatch: pytest.MonkeyPatch, limit: str):
    monkeypatch.setattr(rendering, limit, 1e-9)
    budget = rendering.RenderingBudget()
    long = "\n\n".join(f"*{number}* <b onclick=x>" for number in range(2_000))
    first, second = (render_markdown(long, name, budget) for name in "ab")
    assert (first.count("<em>"), second.count("<em>")) == (1, 0)
    assert_harmless(second)
    assert "<em>3</em>" in render_markdown("*3*", "c", budget)


PIECES = st.sampled_from([*spread(" ".join(CASES.values())), "\t", "\0", "]: ", "ñ", "&#60;", "<!--", "]]>", "#"])


@settings(max_examples=200, deadline=None, database=None)
@given(st.lists(PIECES, max_size=25).map(" ".join) | st.text(st.characters(exclude_categories=["Cs"])))
def test_no_text_at_all_builds_anything_forbidden(text):
    assert_harmless(render_markdown(text))
