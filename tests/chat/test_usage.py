"""Which usage is believed: what can be true, held against what was sent and what came."""

import logging
from typing import Any

import pytest

from chat.llm.providers.base import (
    AnswerOptions,
    File,
    Finish,
    JsonSchema,
    Message,
    TokenUsage,
    Tool,
    ToolCall,
    ToolCallPart,
)
from chat.llm.usage import (
    LONGEST_TOKEN_CHARACTERS,
    MAX_ADDED_TOKENS,
    MAX_IMAGE_TOKENS,
    MAX_UNSEEN_TOKENS,
    believed_usage,
    doubt_about,
)
from chat.models import LanguageModel
from chat.turns.called_tools import texts_of_calls, write_calls

ASKED = (Message("system", "Be kind."), Message("user", "¿Cuántos habitantes tiene Quito?"))
ANSWER = "Unos dos millones. " * 20  # 380 bytes
WINDOW, CAP = 8_000, 1_000
IMAGE = File("image", "image/png", "a.png", b"\0" * 600)
PDF = File("pdf", "application/pdf", "a.pdf", b"\0" * 6_000)


def doubt(usage: tuple[Any, ...], *shown: str, reason: str = "stop", **fields: Any) -> str:
    """Return why a report of input, output, read from and written to a cache, and reasoning is not believed."""
    asked = {"messages": ASKED, "max_output": CAP} | {
        name: fields.pop(name) for name in ("messages", "options") if name in fields
    }
    model = LanguageModel(key="m", provider="openai", context_window=WINDOW, **fields)
    finish = Finish(reason, TokenUsage(*usage))  # type: ignore[arg-type]
    return doubt_about(finish, model=model, shown=shown or (ANSWER, ""), **asked)


@pytest.mark.parametrize(
    "usage",
    [
        (20, 95),
        (20, 1_000, 0, 0, 900),  # reasoning that was not shown
        (20, 95, 15, 5),
        (1, 3),  # a tokenizer nobody has yet
        (40 + MAX_ADDED_TOKENS, 380 + MAX_UNSEEN_TOKENS),
    ],
)
def test_what_can_be_true_is_believed(usage: tuple[int, ...]):
    assert doubt(usage) == ""


@pytest.mark.parametrize(
    ("usage", "why"),
    [
        ((-1, 95), "no_count"),
        ((20, -95), "no_count"),
        ((20, 95, 0, 0, -1), "no_count"),
        ((20.5, 95), "no_count"),
        ((20, 95.0), "no_count"),
        ((20, float("inf")), "no_count"),
        ((20, float("nan")), "no_count"),
        ((20, "95"), "no_count"),
        ((20, None), "no_count"),
        ((20, True), "no_count"),
        ((20, 95, 21), "part_above_whole"),
        ((20, 95, 11, 10), "part_above_whole"),
        ((20, 95, 0, 0, 96), "part_above_whole"),
        ((WINDOW + 1, 95), "input_above_window"),
        ((9 * 10**18, 95), "input_above_window"),
        ((5_000, 95), "input_above_prompt"),
        ((0, 95), "input_below_prompt"),
        ((20, 0), "output_below_answer"),
        ((20, 2), "output_below_answer"),
        ((0, 0), "input_below_prompt"),
        ((20, 380 + MAX_UNSEEN_TOKENS + 1), "output_above_answer"),
        ((20, 3 * 10**9), "output_above_cap"),
        ((20, 95 + CAP + 50, 0, 0, CAP + 50), "reasoning_above_cap"),
        ((20, CAP + 95, 0, 0, CAP), "output_above_cap"),  # reasoning counts in the cap
    ],
)
def test_what_cannot_be_true_is_not_believed(usage: tuple[Any, ...], why: str):
    assert doubt(usage) == why


def test_a_model_that_reasons_may_keep_it_to_itself_up_to_its_cap():
    assert doubt((20, CAP), reasons=True) == ""
    assert doubt((20, CAP), "", "", reason="length", reasons=True) == ""
    assert doubt((20, CAP + MAX_UNSEEN_TOKENS + 1), reasons=True) == "output_above_cap"


def test_reasoning_that_was_shown_counts_as_what_came():
    assert doubt((20, 700), ANSWER, "hmm " * 100) == ""


@pytest.mark.parametrize(("reason", "why"), [("content_filter", ""), ("stop", "output_above_answer")])
def test_what_was_filtered_was_written_all_the_same(reason: str, why: str):
    assert doubt((20, 300), "", "", reason=reason) == why


def test_an_empty_answer_may_have_no_output_and_some_that_marks_its_end():
    assert doubt((20, 0), "", "") == doubt((20, 3), "", "") == ""


def test_a_provider_that_ignores_its_cap_is_believed_what_came():
    assert doubt((20, 3 * CAP), "palabra " * 3 * CAP) == ""


def test_the_longest_tokens_are_believed():
    spaces = (Message("user", " " * 8 * LONGEST_TOKEN_CHARACTERS),)
    assert doubt((8, 2), "-" * 2 * LONGEST_TOKEN_CHARACTERS, messages=spaces) == ""
    assert doubt((7, 2), "-" * 2 * LONGEST_TOKEN_CHARACTERS, messages=spaces) == "input_below_prompt"


def test_a_character_may_be_as_many_tokens_as_it_has_bytes():
    assert doubt((20, 4 * 30), "😀" * 30) == ""


TOOLS = AnswerOptions(tools=(Tool("get_weather", "The weather. " * 40, {"type": "object"}),))
CALLED = (
    *ASKED,
    Message("assistant", "", tool_calls=(ToolCall("call_1", "get_weather", f'{{"city": "{"Quito " * 400}"}}'),)),
    Message("tool", "Clear.", tool_call_id="call_1"),
)


@pytest.mark.parametrize("fields", [{"options": TOOLS}, {"messages": CALLED}])
def test_tools_and_their_calls_are_part_of_what_was_sent(fields: dict[str, Any]):
    assert doubt((1_500, 95)) == "input_above_prompt"
    assert doubt((1_500, 95), **fields) == ""
    assert doubt((7_900, 95), **fields) == "input_above_prompt"


def test_a_schema_is_part_of_what_was_sent():
    schema = {"type": "object", "description": "Somebody. " * 60}
    assert doubt((1_500, 95), options=AnswerOptions(json=JsonSchema(schema=schema))) == ""


def test_tools_that_a_provider_leaves_out_are_no_part_of_the_least_that_was_sent():
    many = AnswerOptions(tools=TOOLS.tools * 50, tool_choice="none")
    assert doubt((20, 95), options=many) == doubt((20, 95), messages=CALLED) == ""


def test_calls_that_came_are_part_of_the_answer():
    call = "call_1 get_weather " + "x" * 1_500
    assert doubt((20, 1_400), "", "", call, reason="tool_call", options=TOOLS) == ""
    assert doubt((20, 1_400), "", "", reason="tool_call", options=TOOLS) == "output_above_cap"
    assert doubt((20, 3), "", "", call, reason="tool_call", options=TOOLS) == "output_below_answer"


def test_a_call_is_counted_with_its_id_and_its_name():
    parts = (
        ToolCallPart(0, "call_1", "get_weather", '{"a"'),
        ToolCallPart(1, "call_2", "now"),
        ToolCallPart(0, "", "", ":1}"),
    )
    assert texts_of_calls(write_calls(parts)) == ('call_1 get_weather {"a":1}', "call_2 now ")
    assert texts_of_calls("") == texts_of_calls(None) == ()


def test_a_call_that_was_cut_off_may_have_been_written_and_not_shown():
    assert doubt((20, 900), "", "", reason="length", options=TOOLS) == ""
    assert doubt((20, 900), "", "", reason="length") == "output_above_answer"


def test_each_call_has_tokens_of_its_own_that_are_not_seen():
    calls = ["x"] * 40
    assert doubt((20, CAP + 32 * MAX_UNSEEN_TOKENS), "", "", *calls, reason="tool_call", options=TOOLS) == ""


def test_what_an_answer_stopped_at_was_written_too():
    assert doubt((20, 480), options=AnswerOptions(stop=("END", "x" * 90))) == ""
    assert doubt((20, 480)) == "output_above_answer"


@pytest.mark.parametrize("file", [IMAGE, PDF])
def test_a_file_may_be_more_tokens_than_it_has_bytes(file: File):
    fields = {"messages": (Message("user", "?", (file,)),)}
    assert doubt((7_500, 95), **fields) == ""
    assert MAX_IMAGE_TOKENS > WINDOW, "only the window is above it here"
    assert doubt((WINDOW + 1, 95), **fields) == "input_above_window"


def test_what_is_not_believed_is_logged_in_numbers_and_no_words(caplog: pytest.LogCaptureFixture):
    model = LanguageModel(key="m", provider="openai", context_window=WINDOW)
    finish = Finish("stop", TokenUsage(20, 9 * 10**18))
    common = {"model": model, "messages": ASKED, "max_output": CAP, "shown": (ANSWER, "")}
    assert believed_usage(finish, **common, turn_id="t") is None
    record, needed = caplog.records[:2]
    assert (record.levelno, record.message) == (logging.WARNING, "Usage not believed")
    assert (needed.message, needed.subject) == ("Operator needed", "openai:m:usage")
    logged = vars(record)
    assert (logged["turn_id"], logged["model"], logged["provider"]) == ("t", "m", "openai")
    assert (logged["doubt"], logged["reported"]) == ("output_above_cap", "(20, 9000000000000000000, 0, 0, 0)")
    assert "Unos dos" not in str(logged)
    assert "Quito" not in str(logged)


def test_no_report_is_nothing_to_doubt(caplog: pytest.LogCaptureFixture):
    model = LanguageModel(key="m", provider="openai", context_window=WINDOW)
    for finish in (None, Finish("stop", None)):
        assert believed_usage(finish, model=model, messages=ASKED, max_output=CAP, shown=("",)) is None
    assert not caplog.records


def test_calls_of_tools_may_be_written_anew_with_more_blanks():
    model = LanguageModel(key="m", provider="openai", context_window=WINDOW)
    messages = (Message("assistant", "", tool_calls=(ToolCall("c", "now", "x" * 3_000),)),)
    fields: Any = {"model": model, "messages": messages, "max_output": CAP, "shown": ("a", "")}
    assert doubt_about(Finish("stop", TokenUsage(6_000, 1)), **fields) == ""
    assert doubt_about(Finish("stop", TokenUsage(7_500, 1)), **fields) == "input_above_prompt"
