"""The provider as its clients see it: over HTTP, byte for byte where the bytes matter."""

import http.client
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from email.message import Message
from typing import Any

import pytest

from testbed.http1 import Dechunker
from testbed.provider import Counters, FakeProvider, expected_reasoning, expected_text

Body = bytes | Iterator[bytes]


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def provider(shared: FakeProvider) -> FakeProvider:
    shared.reset()
    return shared


def body_of(model: str, **fields: Any) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "one two three"}], **fields}).encode()


@dataclass(frozen=True)
class Reply:
    status: int
    fields: Message
    body: bytes
    whole: bool


def ask(provider: FakeProvider, method: str, path: str, body: Body | None = None) -> Reply:
    with closing(http.client.HTTPConnection("127.0.0.1", provider.port, timeout=20)) as connection:
        connection.request(method, path, body, encode_chunked=True)
        response = connection.getresponse()
        try:
            return Reply(response.status, response.headers, response.read(), whole=True)
        except http.client.IncompleteRead as error:
            return Reply(response.status, response.headers, error.partial, whole=False)


def post(provider: FakeProvider, model: str, **fields: Any) -> Reply:
    return ask(provider, "POST", "/v1/chat/completions", body_of(model, **fields))


def stream(provider: FakeProvider, model: str, **fields: Any) -> bytes:
    reply = post(provider, model, stream=True, **fields)
    assert reply.status == 200
    assert reply.fields["content-type"].startswith("text/event-stream")
    assert reply.whole
    return reply.body


def events(raw: bytes) -> list[dict[str, Any]]:
    """The JSON of every event but [DONE]."""
    lines = [line[6:] for line in re.split(rb"\r?\n\r?\n", raw) if line]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


def joined(found: list[dict[str, Any]], field: str = "content") -> str:
    deltas = [choice["delta"] for event in found for choice in event.get("choices", ())]
    return "".join(delta.get(field) or "" for delta in deltas)


def raw_stream(provider: FakeProvider, model: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", provider.port), timeout=20)
    body = body_of(model, stream=True)
    client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
    return client


def read_until(client: socket.socket, wanted: bytes) -> bytes:
    found = b""
    while wanted not in found:
        data = client.recv(65536)
        if not data:
            break
        found += data
    return found


def wait_for(provider: FakeProvider, done: Callable[[Counters], bool]) -> Counters:
    until = time.monotonic() + 5
    while not done(stats := provider.stats()):
        assert time.monotonic() < until, stats
        time.sleep(0.005)
    return stats


def test_a_stream_carries_the_expected_text_a_finish_and_done(provider: FakeProvider) -> None:
    raw = stream(provider, "fake-20t-1ms")
    found = events(raw)
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert joined(found) == expected_text("fake-20t-1ms")
    assert found[-1]["choices"][0]["finish_reason"] == "stop"
    assert raw.endswith(b"data: [DONE]\n\n")
    assert {event["id"] for event in found} == {found[0]["id"]}


def test_usage_comes_after_the_finish_with_no_choices(provider: FakeProvider) -> None:
    found = events(stream(provider, "fake-5t-0ms-r2", stream_options={"include_usage": True}))
    assert found[-2]["choices"][0]["finish_reason"] == "stop"
    assert found[-2]["usage"] is None
    assert found[-1]["choices"] == []
    usage = found[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 7, 10)
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 2
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0


@pytest.mark.parametrize("fields", [{}, {"stream_options": {"include_usage": False}}])
def test_usage_is_sent_only_when_asked_for(provider: FakeProvider, fields: dict[str, Any]) -> None:
    assert all("usage" not in event for event in events(stream(provider, "fake-2t-0ms", **fields)))


def test_nousage_keeps_it_back(provider: FakeProvider) -> None:
    found = events(stream(provider, "fake-2t-0ms-nousage", stream_options={"include_usage": True}))
    assert all(event["usage"] is None for event in found)


def test_reasoning_comes_first(provider: FakeProvider) -> None:
    found = events(stream(provider, "fake-3t-0ms-r4"))
    assert joined(found, "reasoning_content") == expected_reasoning("fake-3t-0ms-r4") == "r0 r1 r2 r3 "
    assert joined(found) == "t0 t1 t2 "


def test_an_answer_can_come_whole(provider: FakeProvider) -> None:
    answer = json.loads(post(provider, "fake-5t-1ms-r2").body)
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["content"] == expected_text("fake-5t-1ms-r2")
    assert answer["choices"][0]["message"]["reasoning_content"] == "r0 r1 "
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 7


def test_the_first_token_waits_as_asked(provider: FakeProvider) -> None:
    begun = time.monotonic()
    with raw_stream(provider, "fake-2t-0ms-f150") as client:
        read_until(client, b"t0 ")
    assert 0.14 < time.monotonic() - begun < 5


def test_tokens_keep_their_pace(provider: FakeProvider) -> None:
    begun = time.monotonic()
    stream(provider, "fake-21t-10ms-f0")
    assert 0.19 < time.monotonic() - begun < 5


def test_timed_tokens_tell_when_they_were_sent(provider: FakeProvider) -> None:
    before = time.monotonic_ns()
    times = [int(word[1:]) for word in joined(events(stream(provider, "fake-9t-2ms-ns"))).split()]
    assert before < times[0]
    assert times == sorted(set(times))
    assert times[-1] < time.monotonic_ns()
    assert len(times) == 9


def test_a_cut_stream_ends_inside_a_chunk(provider: FakeProvider) -> None:
    reply = post(provider, "fake-9t-1ms-cut5", stream=True)
    assert not reply.whole
    assert b'"t4 "' in reply.body
    assert b"t5 " not in reply.body


def test_a_stall_keeps_the_connection(provider: FakeProvider) -> None:
    with raw_stream(provider, "fake-9t-0ms-stall2-f0") as client:
        found = read_until(client, b"t1 ")
        assert b"t2 " not in found
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)
        assert provider.stats().active == 1
    assert wait_for(provider, lambda stats: stats.active == 0).aborted == 1


def test_an_error_event_ends_the_stream(provider: FakeProvider) -> None:
    raw = stream(provider, "fake-9t-0ms-error3")
    found = events(raw)
    assert joined(found) == expected_text("fake-9t-0ms-error3") == "t0 t1 t2 "
    assert found[-1]["error"]["type"] == "server_error"
    assert b"[DONE]" not in raw


def test_rubbish_stands_between_good_events(provider: FakeProvider) -> None:
    raw = stream(provider, "fake-4t-0ms-rubbish2")
    good = [event for event in raw.split(b"\n\n") if not event.endswith(b"{")]
    (bad,) = [event for event in raw.split(b"\n\n") if event.endswith(b'[{"del')]
    with pytest.raises(json.JSONDecodeError):
        json.loads(bad[6:])
    good.remove(bad)
    assert joined(events(b"\n\n".join(good))) == "t0 t1 t2 t3 "


def test_an_end_without_a_reason_is_clean(provider: FakeProvider) -> None:
    raw = stream(provider, "fake-3t-0ms-nofinish", stream_options={"include_usage": True})
    assert joined(events(raw)) == "t0 t1 t2 "
    assert all(event["choices"][0]["finish_reason"] is None for event in events(raw))
    assert b"[DONE]" not in raw


@pytest.mark.parametrize(("option", "reason"), [("filter", "content_filter"), ("length", "length")])
def test_the_finish_reason_can_be_another(provider: FakeProvider, option: str, reason: str) -> None:
    assert events(stream(provider, f"fake-2t-0ms-{option}"))[-1]["choices"][0]["finish_reason"] == reason


def test_max_tokens_ends_the_answer(provider: FakeProvider) -> None:
    found = events(stream(provider, "fake-9t-0ms", max_tokens=4))
    assert joined(found) == expected_text("fake-9t-0ms", max_tokens=4)
    assert found[-1]["choices"][0]["finish_reason"] == "length"


def test_lines_can_end_in_crlf(provider: FakeProvider) -> None:
    raw = stream(provider, "fake-3t-0ms-crlf")
    assert raw.count(b"\r\n\r\n") == raw.count(b"\n\r\n") == 6
    assert joined(events(raw)) == "t0 t1 t2 "


def test_unicode_arrives_whole(provider: FakeProvider) -> None:
    text = joined(events(stream(provider, "fake-18t-0ms-unicode")))
    assert text == expected_text("fake-18t-0ms-unicode")
    assert {"🙂", "\u202e", "<", "\u0301"} <= set(text)


def test_split_events_are_cut_inside_characters_and_lose_nothing(provider: FakeProvider) -> None:
    model = "fake-300t-0ms-unicode-split-f0"  # a busy machine reads several writes at once, but not all
    dechunker, reads = Dechunker(), []
    with raw_stream(provider, model) as client:
        found = read_until(client, b"\r\n\r\n").partition(b"\r\n\r\n")[2]
        while not dechunker.finished:
            reads.append(dechunker.feed(found))
            found = b"" if dechunker.finished else client.recv(65536)
    assert joined(events(b"".join(reads))) == expected_text(model)
    assert any(read and read[0] & 0xC0 == 0x80 for read in reads), "no read begins inside a character"


def test_a_flaky_model_recovers(provider: FakeProvider) -> None:
    statuses = [post(provider, "fake-1t-0ms-flaky2").status for _ in range(3)]
    assert statuses == [500, 500, 200]


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("status-401", 401, "invalid_api_key"),
        ("status-429", 429, "rate_limit_exceeded"),
        ("status-500", 500, None),
        ("status-503", 503, None),
        ("status-400", 400, "invalid_value"),
        ("context", 400, "context_length_exceeded"),
        ("quota", 429, "insufficient_quota"),
        ("gpt-unheard-of", 404, "model_not_found"),
    ],
)
def test_a_refusal_has_openai_s_shape(provider: FakeProvider, model: str, status: int, code: str | None) -> None:
    reply = post(provider, model, stream=True)
    assert reply.status == status
    assert json.loads(reply.body)["error"]["code"] == code
    assert provider.stats().refused == 1


def test_retry_after_is_sent_where_asked(provider: FakeProvider) -> None:
    assert post(provider, "status-429-retry2").fields["retry-after"] == "2"
    assert "retry-after" not in post(provider, "status-429").fields


def test_a_proxy_s_page_is_html(provider: FakeProvider) -> None:
    reply = post(provider, "html-500")
    assert reply.status == 500
    assert reply.fields["content-type"] == "text/html"
    assert reply.body.startswith(b"<html>")


def test_hang_never_answers(provider: FakeProvider) -> None:
    with raw_stream(provider, "hang") as client:
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)
        assert provider.stats().active == 1


def test_an_abort_is_noticed_when_it_happens(provider: FakeProvider) -> None:
    with raw_stream(provider, "fake-500t-5ms") as client:
        read_until(client, b"t3 ")
        closed = time.monotonic_ns()
    stats = wait_for(provider, lambda stats: stats.aborted == 1)
    assert 0 < stats.last_abort_ns - closed < 200_000_000
    assert (stats.started, stats.finished, stats.active) == (1, 0, 0)
    assert 4 <= stats.tokens < 500


def test_requests_are_remembered_and_counted(provider: FakeProvider) -> None:
    for number in range(60):
        post(provider, "fake-1t-0ms-f0", seed=number)
    stats = provider.stats()
    assert [request["seed"] for request in stats.requests] == list(range(10, 60))
    assert (stats.started, stats.finished, stats.tokens) == (60, 60, 60)
    assert provider.requests[-1]["messages"][0]["content"] == "one two three"


def test_reset_drops_what_runs(provider: FakeProvider) -> None:
    with raw_stream(provider, "fake-500t-5ms-f0") as client:
        read_until(client, b"t0 ")
        provider.reset()
        assert provider.stats() == Counters(0, 0, 0, 0, 0, 0, 0, [])
        client.settimeout(2)
        with suppress(ConnectionResetError):
            while client.recv(65536):
                pass


def test_a_connection_serves_request_after_request(provider: FakeProvider) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", provider.port, timeout=20)) as connection:
        for _ in range(3):
            connection.request("POST", "/v1/chat/completions", body_of("fake-2t-0ms-f0", stream=True))
            assert connection.getresponse().read().endswith(b"[DONE]\n\n")
        connection.request("GET", "/v1/models")
        models = json.loads(connection.getresponse().read())["data"]
    assert "fake-200t-20ms" in {model["id"] for model in models}


def test_pipelined_requests_are_answered_in_order(provider: FakeProvider) -> None:
    with raw_stream(provider, "fake-2t-1ms-f0") as client:
        client.sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        found = read_until(client, b"never")
    assert found.index(b"[DONE]") < found.index(b'"object":"list"')


def test_a_chunked_request_body_is_read(provider: FakeProvider) -> None:
    body = body_of("fake-1t-0ms-f0")
    assert ask(provider, "POST", "/v1/chat/completions", iter([body[:20], body[20:]])).status == 200


@pytest.mark.parametrize(
    "raw", [b"nonsense\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n", b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n"]
)
def test_other_protocols_are_refused(provider: FakeProvider, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", provider.port), timeout=20) as client:
        client.sendall(raw)
        assert read_until(client, b"never").startswith(b"HTTP/1.1 400 ")


def test_many_streams_at_once_lose_nothing(provider: FakeProvider) -> None:
    with ExitStack() as open_clients:
        clients = [open_clients.enter_context(raw_stream(provider, "fake-40t-5ms")) for _ in range(100)]
        for client in clients:
            assert b"t39 " in read_until(client, b"[DONE]")
    assert wait_for(provider, lambda stats: stats.finished == 100).tokens == 4000


def test_the_provider_runs_as_a_process() -> None:
    command = [sys.executable, "-m", "testbed.provider", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().strip().removesuffix("/v1").rpartition(":")[2])
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            connection.request("GET", "/stats")
            assert json.loads(connection.getresponse().read())["started"] == 0
            connection.request("POST", "/reset")
            assert connection.getresponse().status == 200
        process.terminate()
        assert process.wait(5) == 0


TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("now", "weather")
]


def asking_for_a_tool(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": '{"city": "Quito"}'}], "tools": TOOLS, **fields}


def test_a_tool_is_called_in_parts(provider: FakeProvider) -> None:
    found = events(stream(provider, "fake-9t-0ms-call2", **asking_for_a_tool()))
    parts = [part for event in found for part in event["choices"][0]["delta"].get("tool_calls", ())]
    assert [(part["id"], part["function"]["name"]) for part in parts if "id" in part] == [
        ("call_fake0", "now"),
        ("call_fake1", "now"),
    ]
    for index in (0, 1):
        arguments = [part["function"]["arguments"] for part in parts if part["index"] == index]
        assert len(arguments) > 2
        assert "".join(arguments) == '{"city": "Quito"}'
    assert joined(found) == ""
    assert found[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_the_tool_that_is_asked_for_is_called(provider: FakeProvider) -> None:
    choice = {"type": "function", "function": {"name": "weather"}}
    body = json.loads(post(provider, "fake-9t-0ms-call1", **asking_for_a_tool(tool_choice=choice)).body)
    message = body["choices"][0]["message"]
    assert message["content"] is None
    assert [call["function"] for call in message["tool_calls"]] == [
        {"name": "weather", "arguments": '{"city": "Quito"}'}
    ]
    assert (body["choices"][0]["finish_reason"], body["usage"]["completion_tokens"]) == ("tool_calls", 4)


def test_a_text_follows_the_result_of_a_tool_or_no_offer_of_one(provider: FakeProvider) -> None:
    asked = asking_for_a_tool()
    result = {"role": "tool", "tool_call_id": "call_fake0", "content": "Llueve."}
    for fields in (
        {**asked, "messages": [*asked["messages"], result]},
        {**asked, "tool_choice": "none"},
        {**asked, "tools": []},
    ):
        body = json.loads(post(provider, "fake-2t-0ms-call1", **fields).body)
        assert (body["choices"][0]["message"]["content"], body["choices"][0]["finish_reason"]) == ("t0 t1 ", "stop")


def test_a_tool_is_called_in_anthropic_s_format(provider: FakeProvider) -> None:
    asked: dict[str, Any] = {
        "messages": [{"role": "user", "content": '{"city": "Quito"}'}],
        "tools": [{"name": "now", "input_schema": {}}, {"name": "weather", "input_schema": {}}],
        "tool_choice": {"type": "tool", "name": "weather"},
    }
    found = named_events(ask(provider, "POST", "/v1/messages", body_of("fake-9t-0ms-r1-call1", **asked)).body)
    starts = [event["content_block"] for event in found if event["type"] == "content_block_start"]
    assert [(block["type"], block.get("name")) for block in starts] == [("thinking", None), ("tool_use", "weather")]
    deltas = [event["delta"] for event in found if event["type"] == "content_block_delta"]
    parts = [delta["partial_json"] for delta in deltas if delta["type"] == "input_json_delta"]
    assert (len(parts) > 2, "".join(parts)) == (True, '{"city": "Quito"}')
    assert [event["delta"]["stop_reason"] for event in found if event["type"] == "message_delta"] == ["tool_use"]
    result = {"type": "tool_result", "tool_use_id": "call_fake0", "content": "Llueve."}
    asked["messages"].append({"role": "user", "content": [result]})
    reply = ask(provider, "POST", "/v1/messages", body_of("fake-2t-0ms-call1", **asked))
    assert b'"stop_reason":"end_turn"' in reply.body


def test_a_tool_is_called_in_gemini_s_format(provider: FakeProvider) -> None:
    asked: dict[str, Any] = {
        "contents": [{"role": "user", "parts": [{"text": '{"city": "Quito"}'}]}],
        "tools": [{"functionDeclarations": [{"name": "now"}, {"name": "weather"}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["weather"]}},
    }
    path = "/v1beta/models/fake-2t-0ms-call1:streamGenerateContent"
    found = named_events(ask(provider, "POST", path, json.dumps(asked).encode()).body)
    parts = [part for event in found for part in event["candidates"][0]["content"]["parts"]]
    assert parts[0]["functionCall"] == {"id": "call_fake0", "name": "weather", "args": {"city": "Quito"}}
    asked["contents"].append({"role": "user", "parts": [{"functionResponse": {"name": "weather", "response": {}}}]})
    found = named_events(ask(provider, "POST", path, json.dumps(asked).encode()).body)
    texts = [part["text"] for event in found for part in event["candidates"][0]["content"]["parts"]]
    assert "".join(texts) == "t0 t1 "


def named_events(raw: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in raw.splitlines() if line.startswith(b"data: ")]
