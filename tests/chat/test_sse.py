"""Server-sent events out of bytes, however they are cut."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from chat.llm.providers.errors import BadResponse
from chat.llm.providers.sse import MAX_EVENT_BYTES, SseDecoder

lines = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1, max_size=20)
events = st.lists(st.lists(lines, min_size=1, max_size=3), max_size=6)


def decoded(*chunks: bytes) -> list[bytes]:
    decoder = SseDecoder()
    found = [event for chunk in chunks for event in decoder.feed(chunk)]
    return found + decoder.end()


def test_an_event_is_its_data():
    assert decoded(b'data: {"a":1}\n\ndata: [DONE]\n\n') == [b'{"a":1}', b"[DONE]"]


def test_one_blank_after_the_colon_is_not_data():
    assert decoded(b"data:x\n\ndata: x\n\ndata:  x\n\n") == [b"x", b"x", b" x"]


def test_lines_may_end_in_crlf():
    assert decoded(b"data: x\r\n\r\ndata: y\r\n\r\n") == [b"x", b"y"]


def test_a_cut_between_cr_and_lf_changes_nothing():
    assert decoded(b"data: x\r", b"\n\r", b"\n") == [b"x"]


def test_comments_names_and_ids_are_dropped():
    assert decoded(b": hello\nevent: message\nid: 7\nretry: 10\ndata: x\n: more\n\n: only a comment\n\n") == [b"x"]


def test_lines_may_end_in_cr():
    assert decoded(b"data: x\r\rdata: y\r\r") == [b"x", b"y"]
    assert decoded(b"data: x\r", b"\rdata: y", b"\r\n\r", b"", b"\n") == [b"x", b"y"]


def test_an_event_is_there_with_its_cr():
    """And does not wait for the line feed that may follow."""
    decoder = SseDecoder()
    assert decoder.feed(b"data: x\r\r") == [b"x"]
    assert decoder.feed(b"\ndata: y\n\n") == [b"y"]


@pytest.mark.parametrize("chunks", [[b"\xef\xbb\xbfdata: x\n\n"], [b"\xef", b"\xbb", b"\xbf", b"data: x\n\n"]])
def test_a_byte_order_mark_is_skipped(chunks: list[bytes]):
    assert decoded(*chunks) == [b"x"]


@pytest.mark.parametrize("chunks", [[b'\r\n{"a":\r\n\r\n', b"1}\n"], [b"\xef\xbb\xbf", b"\n", b'{"a":', b"\n\n\n1}\n"]])
def test_json_in_place_of_a_stream_is_one_event(chunks: list[bytes]):
    [event] = decoded(*chunks)
    assert json.loads(event) == {"a": 1}


def test_json_without_end_is_refused():
    decoder = SseDecoder()
    with pytest.raises(BadResponse):
        for _ in range(MAX_EVENT_BYTES // 65_536 + 2):
            decoder.feed(b"[" * 65_536)


def test_comments_without_end_are_refused_and_those_between_events_are_not():
    decoder = SseDecoder()
    comments = b": x\n" * 65_536
    for _ in range(MAX_EVENT_BYTES // len(comments) * 3):
        decoder.feed(comments)
        assert decoder.feed(b"data: x\n\n") == [b"x"]
    with pytest.raises(BadResponse):
        for _ in range(MAX_EVENT_BYTES // len(comments) + 2):
            decoder.feed(comments)


def test_an_event_of_several_lines_is_joined():
    assert decoded(b"data: one\ndata:\ndata: two\n\n") == [b"one\n\ntwo"]


def test_the_last_blank_line_may_be_missing():
    assert decoded(b"data: x\n\ndata: y\n") == [b"x", b"y"]
    assert decoded(b"data: x\n\ndata: y") == [b"x", b"y"]


def test_nothing_is_no_event():
    assert decoded() == []
    assert decoded(b"", b"\n\n\n", b"") == []


def test_an_event_without_data_is_none():
    assert decoded(b"data:\n\ndata: \n\ndata: x\n\n") == [b"x"]


def test_a_line_without_end_is_refused():
    decoder = SseDecoder()
    with pytest.raises(BadResponse):
        for _ in range(MAX_EVENT_BYTES // 65_536 + 2):
            decoder.feed(b"data: " + b"x" * 65_536)


def test_an_event_without_end_is_refused():
    decoder = SseDecoder()
    line = b"data: " + b"x" * 65_536 + b"\n"
    with pytest.raises(BadResponse):
        for _ in range(MAX_EVENT_BYTES // 65_536 + 2):
            decoder.feed(line)


@given(events, st.sampled_from([b"\n", b"\r\n", b"\r"]), st.data())
def test_any_cut_of_the_bytes_gives_the_same_events(events: list[list[str]], newline: bytes, data: st.DataObject):
    """Which are those that OpenAI's SDK finds."""
    wire = b""
    for event in events:
        if data.draw(st.booleans(), "comment"):
            wire += b": still here" + newline
        wire += b"".join(b"data: " + line.encode() + newline for line in event) + newline
    if events and data.draw(st.booleans(), "the last blank line is missing"):
        wire = wire.removesuffix(newline)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=12), "cuts"))
    chunks = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    assert decoded(*chunks) == ["\n".join(event).encode() for event in events]
    if wire.endswith(newline * 2):
        assert [event.data.encode() for event in SSEDecoder().iter_bytes(iter(chunks))] == decoded(*chunks)
