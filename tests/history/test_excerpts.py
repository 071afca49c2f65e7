"""Excerpts: what was found is marked in the text as it was written."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from history import folding
from history.excerpts import Letters, excerpt_of
from history.folding import FoldedText, fold

texts = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from("aeioußﬁ™é\u0301\u0327İǅΣς🇧🇷👩\u200d ")), max_size=200
)


def marked(text: str, *words: str, length: int = 280) -> str:
    return "".join(
        f"[{piece.text}]" if piece.is_match else piece.text
        for piece in excerpt_of(text, [fold(word) for word in words], length, Letters()).pieces
    )


@pytest.mark.parametrize(
    ("text", "words", "shown"),
    [
        ("un camión", ["CAMION"], "un [camión]"),
        ("un camio\u0301n", ["camio"], "un [camio\u0301]n"),
        ("Straße", ["strasse"], "[Straße]"),
        ("Straße", ["ss"], "Stra[ß]e"),
        ("oﬃce", ["fic"], "o[ﬃc]e"),
        ("a™ b", ["tm"], "a[™] b"),
        ("👩\u200d👩\u200d👧 y 👍🏽", ["👩", "👍"], "[👩\u200d👩\u200d👧] y [👍🏽]"),
        ("gato gato GATO", ["gato", "at"], "[gato] [gato] [GATO]"),
        ("gatopardo", ["gatop", "opardo"], "[gatopardo]"),
        ("nada", ["x"], "nada"),
        ("", ["x"], ""),
        ("한국어 ΣΑΣ ας", ["국", "σασ", "ασ"], "한[국]어 [ΣΑΣ] [ας]"),
    ],
)
def test_what_was_found_is_marked_in_what_was_written(text, words, shown):
    assert marked(text, *words) == shown


def test_the_part_with_the_most_words_is_shown():
    text = f"uno {'relleno ' * 100}dos uno tres {'relleno ' * 100}tres"
    shown = excerpt_of(text, ["uno", "dos", "tres"], 120, Letters())
    assert "".join(piece.text for piece in shown.pieces if piece.is_match) == "dosunotres"
    assert (shown.has_before, shown.has_after) == (True, True)


def test_signs_without_end_are_not_gone_through_once_for_each_word(monkeypatch: pytest.MonkeyPatch):
    """Each word ends before them: 400,000 took four seconds a word."""
    letters, calls = "abcdefghij", 0

    def count(text: str) -> str:
        nonlocal calls
        calls += 1
        return fold(text)

    monkeypatch.setattr(folding, "fold", count)
    text = letters + "\u0301" * 20_000
    shown = excerpt_of(text, [letters[start:] for start in range(10)], 280, Letters())
    assert shown.has_match
    assert calls < 1_000


def test_a_page_looks_through_so_many_letters_of_its_texts_together():
    """A page of twenty imported turns, of a sign that is eighteen letters, took minutes."""
    letters = Letters(40_000)
    assert excerpt_of("\ufdfa" * 400_000, [fold("\ufdfa")], 280, letters).has_match
    assert letters.left == 0
    assert not excerpt_of("é" * 50_000 + "x", ["x"], 280, letters).has_match
    assert letters.left == 0
    shown = excerpt_of("é" * 300 + "x", ["x"], 280, letters)
    assert [(piece.text, piece.is_match) for piece in shown.pieces] == [("é" * 280, False)]
    assert excerpt_of("e" * 300 + "x", ["x"], 280, letters).has_match, "What needs no folding is looked through."


def test_an_excerpt_has_no_more_than_its_length_of_a_long_text_without_blanks():
    text = "é" * 50_000 + "x" + "é" * 50_000
    shown = excerpt_of(text, ["x"], 280, Letters())
    assert sum(len(piece.text) for piece in shown.pieces) <= 2 * 280
    assert [piece.text for piece in shown.pieces if piece.is_match] == ["x"]
    assert sum(len(piece.text) for piece in excerpt_of(text, [fold(text)], 280, Letters()).pieces) <= 2 * 280


@settings(database=None)
@given(texts, st.data())
@example("ﬁ", None)
def test_a_part_of_a_text_is_found_where_it_is(text, data):
    folded = FoldedText(text)
    assert folded.folded == fold(text) == "".join(map(fold, text))
    if data is None or not folded.folded:
        return
    start = data.draw(st.integers(0, len(folded.folded) - 1))
    word = folded.folded[start : start + data.draw(st.integers(1, 8))]
    spans = folded.find_all(word, 1_000)
    assert spans
    for span in spans:
        assert word in fold(text[span.start : span.end])
        assert 0 <= span.start < span.end <= len(text)
    shown = excerpt_of(text, [word], 60, Letters())
    assert shown.has_match
    assert "".join(piece.text for piece in shown.pieces) in text
