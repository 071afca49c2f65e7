"""What streams and what is saved: an answer is the same block by block, however it came."""

import re
from collections.abc import Iterator
from random import Random, randrange

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from history import blocks, highlighting, rendering
from history.blocks import split
from history.rendering import BlockRenderer, render_markdown
from tests.answers import LATE, MANY, cut, draw_answers
from tests.history.harmless import assert_harmless
from tests.hostile import CASES, spread

NAME = "0193a1b0-0000-7000-8000-000000000002"
DETAILS = "<details>\n\na\n\n```\n</details>\n```\n\n</details>\n"
ANSWERS = draw_answers()
PIECES = st.sampled_from([*spread(" ".join(CASES.values())), "\n\n", "\n", "\n- ", "\n```\n", "$$", "[^1]", "\n[^1]: "])


@pytest.fixture(scope="module", autouse=True)
def _patience() -> Iterator[None]:
    """What is rendered within the limits of time is the same; where a busy machine meets them is chance."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(highlighting, "HIGHLIGHTING_SECONDS", 60.0)
        monkeypatch.setattr(rendering, "RENDERING_SECONDS", 60.0)
        yield


def show(text: str, rng: Random) -> tuple[list[list[str]], list[str]]:
    """Show an answer as a page does while it comes in portions; return the blocks at every step, and their texts."""
    splitter, renderer = blocks.Splitter(), BlockRenderer(NAME)
    shown: list[str] = []
    steps, sources = [], []

    def place(more: list[str]) -> None:
        for block in renderer.render(more):
            shown[block.index : block.index + 1] = [block.html]
            assert text[: block.end].endswith(sources[block.index])
        steps.append([*shown])

    waiting: list[str] = []
    for portion in cut(text, rng, rng.choice([1, 5, 40, 400])):
        found = splitter.add(portion)
        waiting += found
        sources += found
        if waiting and rng.random() < 0.7:  # the renderer may be behind
            place(waiting)
            waiting = []
    sources += (rest := splitter.finish())
    place([*waiting, *rest])
    return steps, sources


def test_there_are_two_hundred_answers_and_more():
    assert len(set(ANSWERS)) == MANY >= 200
    assert sum(len(split(answer)) for answer in ANSWERS) > 1_500


def test_every_answer_is_shown_as_it_is_saved_at_every_blocks_end():
    seed = randrange(10**6)
    print("seed", seed)
    rng = Random(seed)
    compared = 0
    for text in ANSWERS * 2:  # cut at other places
        saved = render_markdown(text, NAME)
        steps, sources = show(text, rng)
        assert "".join(sources) == text
        assert "".join(steps[-1]) == saved
        if not any(mark in text for mark in LATE):
            for step in steps:
                assert saved.startswith("".join(step))
                compared += len(step)
    assert compared > 8_000


def test_every_answer_is_harmless():
    for text in ANSWERS:
        assert_harmless(render_markdown(text, NAME))


def test_cuts_change_nothing_of_what_markdown_means():
    """Rendered in one piece the answers are the same, save what only blocks know: details, notes and headings."""
    for text in ANSWERS:
        if "<details" in text or "[^" in text:
            continue
        [whole] = BlockRenderer().render([text])
        references = BlockRenderer().render(split(text))
        assert without_directions(whole.html) == without_directions("".join(block.html for block in references))


def without_directions(html: str) -> str:
    """A block of an answer asks for its own letters whether it needs a direction."""
    return re.sub(' dir="[a-z]+"', "", html)


@settings(max_examples=200, deadline=None, database=None)
@given(
    st.lists(PIECES, max_size=25).map(" ".join) | st.text(st.sampled_from("a\n\n -`~#>$\\[]^:1.|<\t*_ñ\r")),
    st.randoms(),
)
def test_any_text_is_shown_as_it_is_saved(text, random):
    steps, sources = show(text, Random(random.randrange(10**6)))
    assert "".join(sources) == text
    assert "".join(steps[-1]) == render_markdown(text, NAME)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("uno\n\ndos\n", ["uno\n\n", "dos\n"]),
        ("# a\ntexto\n## b\n", ["# a\n", "texto\n", "## b\n"]),
        ("```\nx\n\ny\n```\nz", ["```\nx\n\ny\n```\n", "z"]),
        ("- a\n\n- b\n\n  c\n\nd", ["- a\n\n- b\n\n  c\n\n", "d"]),
        ("- a\n```\nx\n```\n", ["- a\n", "```\nx\n```\n"]),
        ("    a\n\n    b\nc", ["    a\n\n    b\n", "c"]),
        ("[^1]: a\n[^2]: b\n    c\n", ["[^1]: a\n", "[^2]: b\n    c\n"]),
        (f"{DETAILS}b", [DETAILS, "b"]),
        ("| a |\n|---|\n| b |\n\nc", ["| a |\n|---|\n| b |\n\n", "c"]),
        ("a\n  <details>\n\nb\n  </details>\nc", ["a\n", "  <details>\n\nb\n  </details>\n", "c"]),
        ("\n\na\n", ["\n\na\n"]),
        ("", []),
    ],
)  # fmt: skip
def test_a_text_is_cut_where_a_block_is_over(text, expected):
    assert split(text) == expected


def test_code_is_over_and_coloured_with_its_last_line():
    splitter = blocks.Splitter()
    assert splitter.add("```python\nx = 1\n") == []
    [block] = BlockRenderer().render(splitter.add("```\n"))
    assert '<span class="mi">1</span>' in block.html


def test_a_note_that_comes_late_changes_what_refers_to_it_and_nothing_else():
    renderer = BlockRenderer("a")
    assert [block.index for block in renderer.render(["Uno[^1].\n\n", "Dos.\n\n"])] == [0, 1]
    changed = renderer.render(["[^1]: Fuente.\n"])
    assert [block.index for block in changed] == [0, 2]
    assert '<sup><a href="#a-note-1"' in changed[0].html
    assert '<aside class="footnote" id="a-note-1">' in changed[1].html


def test_a_link_that_is_defined_late_becomes_one():
    renderer = BlockRenderer()
    [before] = renderer.render(["[x][r]\n\n"])
    assert "<a" not in before.html
    after, _definition = renderer.render(["[r]: https://example.com/\n"])
    assert 'href="https://example.com/"' in after.html


def test_no_answer_makes_its_blocks_be_rendered_again_for_ever():
    text = "".join(f"[a{n}]\n\n" for n in range(1_000)) + "".join(f"[a{n}]: /x{n}\n\n" for n in range(1_000))
    assert render_markdown(text).count("<a ") == rendering.MAX_DEFINITIONS


def test_a_note_in_a_note_or_in_a_quote_is_text():
    """An answer with a thousand of them once could not be rendered, so that its conversation could not be opened."""
    text = "[^a]: " * 1_000 + "x\n\n> [^b]: y\n"
    html = render_markdown(text)
    assert html.count("<aside") == 1
    assert html.count("</a></sup>: ") == 999
    assert "<p>[^b]: y</p>" in html


def test_notes_of_two_answers_have_addresses_of_their_own():
    one, other = (render_markdown("x[^1]\n\n[^1]: y\n", name) for name in ("a", "b"))
    assert re.findall(r'id="([^"]+)"', one + other) == ["a-note-1", "b-note-1"]
    assert 'href="#b-note-1"' in other


def test_a_hostile_block_takes_the_colours_of_no_later_one_from_the_cache(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(highlighting, "HIGHLIGHTING_SECONDS", 0.25)
    slow = "```java\n" + "x\n" * 4_900 + "```\n\n"
    code = "```python\nwhile True: pass\n```\n"
    assert "<span" not in render_markdown(slow * 9 + code).partition("while")[2]
    assert '<span class="k">while</span>' in render_markdown("Hola.\n\n" + code)
