"""Normalising text that was written to take long."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.unicode import MAX_SIGNS, normalise


@given(st.text())
def test_what_people_write_is_normalised_as_ever(text: str):
    assert normalise("NFC", text) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("signs", ["\u0300\u0316", "\u0344\u0316", "\u0316"])
def test_signs_beyond_any_script_are_left_out_and_do_not_take_the_square_of_their_number(signs: str):
    text = ("a" + signs * 50_000 + "b") * 2  # eighty seconds, unless they are
    for form in ("NFC", "NFKD"):
        found = normalise(form, text)
        assert found[-1] == "b"
        assert len(found) <= 2 * (2 + 2 * MAX_SIGNS)
