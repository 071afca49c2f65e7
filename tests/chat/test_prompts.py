"""What a model is sent: the path from the root, trimmed to the window in whole turns."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.errors import ContextExceeded
from chat.llm.pricing import estimate_tokens
from chat.llm.providers.base import Message
from chat.turns.prompts import INSTRUCTIONS, TRIM_STEP, Prompt, fit_prompt
from history.models import Turn

ALONE = estimate_tokens((INSTRUCTIONS, "question"))
"""What the shortest prompt takes."""
A_TURN = estimate_tokens(("q" * 30, "a" * 30))


def path(*texts: tuple[str, str]) -> list[Turn]:
    """A path from leaf to root, as `tree.path_to_root` yields it, of questions and answers given oldest first."""
    return [Turn(depth=depth, question=q, answer=a) for depth, (q, a) in enumerate(texts)][::-1]


def turns(count: int) -> list[Turn]:
    return path(*((f"q{depth}".ljust(30), f"a{depth}".ljust(30)) for depth in range(count)))


def first_depth(prompt: Prompt) -> int | None:
    """The depth of the oldest turn that is in the prompt."""
    past = prompt.messages[1:-1]
    return int(past[0].text.strip()[1:]) if past else None


def test_a_first_question_goes_with_the_instructions():
    assert fit_prompt([], "question", room=1_000) == Prompt(
        (Message("system", INSTRUCTIONS), Message("user", "question")), trimmed_turns=0
    )


def test_the_path_is_sent_oldest_first():
    prompt = fit_prompt(path(("one", "uno"), ("two", "dos")), "three", room=1_000)
    assert [(m.role, m.text) for m in prompt.messages[1:]] == [
        ("user", "one"),
        ("assistant", "uno"),
        ("user", "two"),
        ("assistant", "dos"),
        ("user", "three"),
    ]
    assert prompt.trimmed_turns == 0


def test_turns_without_an_answer_are_left_out():
    prompt = fit_prompt(path(("one", ""), ("two", "dos"), ("three", "")), "four", room=1_000)
    assert [m.text for m in prompt.messages[1:]] == ["two", "dos", "four"]


def test_its_length_is_estimated_both_ways():
    prompt = fit_prompt([], "x" * 100, room=1_000)
    assert prompt.tokens() == estimate_tokens((INSTRUCTIONS, "x" * 100))
    assert prompt.tokens(4) < prompt.tokens()


def test_whole_turns_leave_the_oldest_first():
    prompt = fit_prompt(turns(6), "question", room=ALONE + 3 * A_TURN)
    assert [m.text.strip() for m in prompt.messages[1:]] == ["q4", "a4", "q5", "a5", "question"]
    assert prompt.trimmed_turns == TRIM_STEP == 4


def test_turns_leave_in_steps():
    """A prefix that changed with every turn would never be found in a provider's cache."""
    starts = [first_depth(fit_prompt(turns(count), "question", room=ALONE + 6 * A_TURN)) for count in range(1, 16)]
    assert starts == [0] * 6 + [4] * 4 + [8] * 4 + [12]


def test_the_newest_turn_stays_if_it_fits():
    prompt = fit_prompt(turns(3), "question", room=ALONE + A_TURN)
    assert [m.text.strip() for m in prompt.messages[1:]] == ["q2", "a2", "question"]
    assert prompt.trimmed_turns == 2


def test_a_question_alone_is_sent_if_nothing_else_fits():
    prompt = fit_prompt(turns(3), "question", room=ALONE)
    assert [m.text for m in prompt.messages] == [INSTRUCTIONS, "question"]
    assert prompt.trimmed_turns == 3


def test_a_question_that_does_not_fit_is_refused():
    with pytest.raises(ContextExceeded):
        fit_prompt([], "question", room=ALONE - 1)
    with pytest.raises(ContextExceeded):
        fit_prompt(turns(2), "question", room=-5)


def test_a_path_is_read_only_as_far_as_it_fits():
    read = []

    def reading() -> object:
        for turn in turns(100):
            read.append(turn.depth)
            yield turn

    fit_prompt(reading(), "question", room=ALONE + 2 * A_TURN)
    assert read == [99, 98, 97]


texts = st.text("añ你 ", max_size=40)
past = st.lists(st.tuples(texts, texts), max_size=30)


@given(past, texts, st.integers(-10, 900))
def test_a_prompt_fits_and_is_the_end_of_the_path(past: list[tuple[str, str]], asked: str, room: int):
    if estimate_tokens((INSTRUCTIONS, asked)) > room:
        with pytest.raises(ContextExceeded):
            fit_prompt(path(*past), asked, room=room)
        return
    prompt = fit_prompt(path(*past), asked, room=room)
    assert prompt.tokens() <= room
    kept = past[prompt.trimmed_turns :]
    expected = [text for q, a in kept if a.strip() for text in (q, a)]
    assert [message.text for message in prompt.messages] == [INSTRUCTIONS, *expected, asked]
    assert [m.role for m in prompt.messages[1:]] == ["user", "assistant"] * (len(expected) // 2) + ["user"]


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=30), st.integers(0, 900))
def test_nothing_is_left_out_that_fits(past: list[tuple[str, str]], spare: int):
    whole = estimate_tokens((INSTRUCTIONS, "", *(text for turn in past for text in turn)))
    assert fit_prompt(path(*past), "", room=whole + spare).trimmed_turns == 0


@given(st.integers(5, 12), st.integers(20, 40))
def test_the_beginning_stays_for_several_turns(fitting: int, count: int):
    """Turns of one length: the first message of the past changes once in TRIM_STEP turns, never back."""
    room = ALONE + fitting * A_TURN
    starts = [first_depth(fit_prompt(turns(n), "question", room=room)) for n in range(1, count)]
    assert all(later - earlier in (0, TRIM_STEP) for earlier, later in pairwise(starts))
    changes = [n for n, (earlier, later) in enumerate(pairwise(starts)) if earlier != later]
    assert all(later - earlier == TRIM_STEP for earlier, later in pairwise(changes))
