"""The socket's vocabulary, without a socket."""

import datetime as dt
import json
from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone, translation
from django.utils.safestring import mark_safe
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from billing.entitlements import Allowance, PackCredits
from chat.errors import SENTENCES, BadCommand, sentence_for
from chat.shown import costs, events
from chat.socket import vocabulary
from chat.socket.vocabulary import Start, Stop, Watch, parse_command
from chat.turns.log import Entry, EntryKind
from history.models import Turn, new_id

# The same in every process that collects these tests: they are in their names.
TURN, CONVERSATION = UUID("0193a1b0-0000-7000-8000-000000000001"), UUID("0193a1b0-0000-7000-8000-000000000002")


def command(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, "turn_id": str(TURN), **fields})


def start(**fields: Any) -> str:
    return command("turn.start", **{"conversation_id": str(CONVERSATION), "text": "hola"} | fields)


def spoken(event: Any) -> Any:
    """Return what arrives at the other end."""
    return json.loads(events.encode_json(event))


# --- Commands in ------------------------------------------------------------------------------------------------------


def test_a_question_is_understood():
    parent = new_id()
    text = start(parent_id=str(parent), model="scripted", attachments=[str(parent)])
    assert parse_command(text) == Start(TURN, CONVERSATION, "hola", "scripted", parent, [parent])


def test_a_question_needs_no_more_than_its_ids_and_text():
    found = parse_command(start())
    assert isinstance(found, Start)
    assert (found.model, found.parent_id, found.attachments) == (None, UNSET, [])


def test_an_effort_is_understood():
    assert parse_command(start(effort="low")).effort == "low"
    assert parse_command(start(effort=None)).effort is None
    assert parse_command(start()).effort is None


def test_a_parent_of_null_is_not_an_absent_one():
    found = parse_command(start(parent_id=None))
    assert isinstance(found, Start)
    assert found.parent_id is None


def test_a_stop_is_understood():
    assert parse_command(command("turn.stop")) == Stop(TURN)


def test_a_place_to_go_on_from_is_understood():
    assert parse_command(command("turn.watch", gen=2, at=30, reasoning_at=4)) == Watch(TURN, 2, 30, 4)


def test_without_a_place_one_watches_from_the_start():
    assert parse_command(command("turn.watch")) == Watch(TURN, 0, 0, 0)


def test_what_a_later_page_may_send_as_well_is_ignored():
    assert parse_command(command("turn.stop", colour="red")) == Stop(TURN)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "{", "null", "7", '"turn.stop"', "[]", "{}", "\ud800", '{"type": null}', '{"type": "turn.dance"}'),
        '{"type": "turn.stop"}',
        command("turn.watch", at="7"),
        command("turn.watch", at=1.5),
        command("turn.watch", at=None),
        start(text=None),
        start(text=7),
        start(model=7),
        start(parent_id="7"),
        start(conversation_id="7"),
        start(attachments={}),
        start(attachments=None),
        start(attachments=[{"name": "a"}]),
        '{"type": "turn.stop", "turn_id": "%s"} {}' % TURN,
        "[" * 100_000,
    ],
    ids=lambda text: repr(text[:50]),
)
def test_what_is_no_command_is_refused(text: str):
    with pytest.raises(BadCommand):
        parse_command(text)


@given(st.text() | st.dictionaries(st.text(), st.text() | st.integers() | st.none()).map(json.dumps))
def test_nothing_else_comes_of_any_text(text: str):
    with pytest.raises(BadCommand):
        parse_command(text)


# --- Events out -------------------------------------------------------------------------------------------------------


def finished(**fields: Any) -> Turn:
    defaults = {"pk": TURN, "owner_id": 1, "conversation_id": CONVERSATION, "seq": 3, "status": "completed", "gen": 1}
    return Turn(**(defaults | {"question": "hola", "requested_model": "auto", "max_output": 9} | fields))


@pytest.mark.parametrize(("kind", "name"), [(EntryKind.TEXT, "turn.delta"), (EntryKind.REASONING, "turn.reasoning")])
def test_live_text_carries_its_generation_and_offset(kind: EntryKind, name: str):
    event = events.text_event(Entry(TURN.bytes, kind, 2, 30, "ñ😀"))
    assert spoken(event) == {"type": name, "turn_id": str(TURN), "gen": 2, "at": 30, "text": "ñ😀"}


def test_a_message_is_hardly_longer_than_its_text():
    event = events.text_event(Entry(TURN.bytes, EntryKind.TEXT, 1, 10_000, "x" * 50))
    assert len(events.encode_json(event)) - 50 <= 110


def test_the_start_of_a_turn_names_the_model_that_was_asked_for():
    event = spoken(events.started_event(finished(status="queued"), "<p>"))
    assert (event["type"], event["model"], event["seq"], event["html"]) == ("turn.started", "auto", 3, "<p>")


def test_the_start_of_a_turn_names_the_model_that_answers_once_it_is_known():
    assert events.started_event(finished(model="scripted"), "")["model"] == "scripted"


@pytest.mark.parametrize("status", ["completed", "stopped", "failed", "interrupted"])
def test_every_end_has_its_own_event(status: str):
    assert events.ended_event(finished(status=status), "")["type"] == f"turn.{status}"


def test_a_turn_that_used_nothing_has_no_usage():
    assert costs.usage_of(finished()) is None


def test_usage_names_its_source():
    turn = finished(usage_source="estimated", input_tokens=10, cache_read_tokens=4, cache_write_tokens=2)
    turn.output_tokens, turn.reasoning_tokens = 3, 1
    assert costs.usage_of(turn) == {
        "input": 10,
        "cache_read": 4,
        "cache_write": 2,
        "output": 3,
        "reasoning": 1,
        "source": "estimated",
    }


@pytest.mark.parametrize(
    ("fields", "may"),
    [
        ({"status": "stopped", "answer": "ho"}, True),
        ({"status": "interrupted", "answer": "ho", "error": "connection"}, True),
        ({"status": "completed", "answer": "ho", "finish_reason": "length"}, True),
        ({"status": "completed", "answer": "hola", "finish_reason": "stop"}, False),
        ({"status": "stopped"}, False),
        ({"status": "failed", "error": "timeout"}, False),
        ({"status": "interrupted", "answer": "ho", "error": "content_filter"}, False),
    ],
)
def test_what_broke_off_with_some_text_can_be_continued(fields: dict[str, Any], may: bool):
    assert events.ended_event(finished(**fields), "")["can_continue"] is may


@pytest.mark.parametrize("code", SENTENCES)
def test_an_error_is_told_in_the_language_of_the_moment(code: str):
    with translation.override("es"):
        spanish = spoken(events.ended_event(finished(status="failed", error=code), ""))["detail"]
    with translation.override("en"):
        english = spoken(events.ended_event(finished(status="failed", error=code), ""))["detail"]
    assert spanish
    assert spanish != english


def test_an_error_nobody_has_words_for_is_told_as_unknown():
    with translation.override("en"):
        assert sentence_for("new-code-of-a-provider") == str(SENTENCES["unknown"])


@pytest.mark.parametrize(("seconds", "shown"), [(None, None), (0.0, 1), (0.2, 1), (1.6, 2), (3600.4, 3600)])
def test_the_time_to_wait_is_in_whole_seconds_and_never_none_at_all(seconds: float | None, shown: int | None):
    assert spoken(vocabulary.rejected_event(TURN, "rate_limited", "…", seconds))["retry_after"] == shown


def test_a_refusal_of_what_had_no_id_has_none():
    assert spoken(vocabulary.rejected_event(None, "bad_command", "…", None))["turn_id"] is None


def test_an_allowance_without_a_limit_has_none():
    resets_at = timezone.now().astimezone(dt.UTC)
    event = spoken(vocabulary.allowance_event(Allowance(1.5, 0.2, None, resets_at, (PackCredits(3.5, resets_at),))))
    packs = [{"left": 3.5, "expires_at": resets_at.isoformat()}]
    said = {"used": 1.5, "allowance": None, "resets_at": resets_at.isoformat(), "packs": packs}
    assert event == {"type": "allowance.changed", **said}


def test_a_gone_conversation_has_no_html():
    event = spoken(vocabulary.conversation_event(CONVERSATION, ""))
    gone = {"conversation_id": str(CONVERSATION), "html": "", "leaf_id": None}
    assert event == {"type": "conversation.changed", **gone}


def test_a_notice_says_how_much_it_matters():
    assert spoken(vocabulary.notice_event("info", "hola")) == {"type": "notice", "level": "info", "text": "hola"}


def test_html_that_is_marked_as_safe_is_sent_as_text():
    assert spoken({"html": mark_safe("<p>ñ</p>"), "id": UUID(int=1)}) == {
        "html": "<p>ñ</p>",
        "id": str(UUID(int=1)),
    }
