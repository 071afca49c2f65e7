"""Frames and events, however they are cut."""

import struct

import pytest

from bench.sse import EventReader
from bench.websocket import FrameReader, Opcode, accept_of, encode_frame

EVENTS = b"event: turn.delta\r\nid: 7\r\ndata: one\r\n\r\n: comment\n\ndata:two\ndata: three\n\n"
FRAMES = (
    b"\x81\x03one"
    + b"\x01\x02tw"
    + b"\x89\x01!"
    + b"\x80\x01o"
    + b"\x81\x7e" + struct.pack("!H", 300) + b"x" * 300
    + b"\x81\x7f" + struct.pack("!Q", 70_000) + b"y" * 70_000
)  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_events_are_joined_at_any_size_of_read(size: int) -> None:
    reader = EventReader()
    found = [event for at in range(0, len(EVENTS), size) for event in reader.feed(EVENTS[at : at + size])]
    assert found == [("turn.delta", b"one"), ("message", b"two\nthree")]


@pytest.mark.parametrize("size", [1, 3, 1000, len(FRAMES)])
def test_frames_are_joined_at_any_size_of_read(size: int) -> None:
    reader = FrameReader()
    found = [message for at in range(0, len(FRAMES), size) for message in reader.feed(FRAMES[at : at + size])]
    assert found[0] == (Opcode.TEXT, b"one")
    assert found[1] == (Opcode.PING, b"!")
    assert found[2] == (Opcode.TEXT, b"two")
    assert [len(payload) for _, payload in found[3:]] == [300, 70_000]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_what_is_sent_is_masked_and_can_be_read_back(size: int) -> None:
    payload = bytes(number % 251 for number in range(size))
    frame = encode_frame(Opcode.TEXT, payload)
    start = len(frame) - size
    mask = frame[start - 4 : start]
    assert frame[1] & 0x80
    assert bytes(byte ^ mask[at % 4] for at, byte in enumerate(frame[start:])) == payload


def test_the_handshake_s_answer_is_the_standard_s_example() -> None:
    assert accept_of("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
