"""The grammar of model names."""

import pytest

from testbed.script import Script, UnknownScriptError, expected_reasoning, expected_text


def test_a_name_says_how_many_tokens_and_how_fast() -> None:
    script = Script.parse("fake-200t-20ms")
    assert (script.tokens, script.gap_ms, script.first_ms, script.finish) == (200, 20, 50, "stop")
    assert script.duration_ms == 50 + 199 * 20


def test_options_come_in_any_order() -> None:
    assert Script.parse("fake-9t-1ms-cut5-r2-f300") == Script.parse("fake-9t-1ms-f300-cut5-r2")


@pytest.mark.parametrize(
    "model",
    ["", "gpt-4o", "fake-9t", "fake-9t-1ms-", "fake-9t-1ms-cut", "fake-9t-1ms-ns5", "fake-9t-1ms-what", "status-200"],
)
def test_other_names_are_unknown(model: str) -> None:
    with pytest.raises(UnknownScriptError):
        Script.parse(model)


def test_the_text_is_computable() -> None:
    assert expected_text("fake-3t-0ms") == "t0 t1 t2 "
    assert expected_text("fake-2t-0ms-p4") == "t0 xxx t1 xxx "
    assert expected_reasoning("fake-3t-0ms-r2") == "r0 r1 "
    assert expected_text("status-500") == ""


@pytest.mark.parametrize("option", ["cut", "stall", "error"])
def test_the_text_ends_where_the_stream_breaks(option: str) -> None:
    assert expected_text(f"fake-9t-0ms-{option}2") == "t0 t1 "
    assert expected_text(f"fake-9t-0ms-{option}0") == ""
    assert expected_text(f"fake-2t-0ms-{option}9") == "t0 t1 "


def test_rubbish_takes_nothing_from_the_text() -> None:
    assert expected_text("fake-3t-0ms-rubbish1") == "t0 t1 t2 "


def test_a_limit_counts_reasoning_first() -> None:
    assert expected_text("fake-9t-0ms-r2", max_tokens=3) == "t0 "
    assert expected_reasoning("fake-9t-0ms-r2", max_tokens=1) == "r0 "
    assert Script.parse("fake-9t-0ms").limited_to(3).finish == "length"


def test_the_text_of_timed_tokens_is_not_computable() -> None:
    with pytest.raises(ValueError, match="the time at which it is sent"):
        expected_text("fake-3t-0ms-ns")
