"""How a provider is read: at the pace of the turn, whatever it sends and however it ends."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import aiohttp
import pytest

from chat.llm.providers import http, openai_chat
from chat.llm.providers.base import Delta, Finish
from chat.llm.providers.http import close_session
from testbed.provider import FakeProvider, expected_reasoning, expected_text
from tests.chat.test_openai_chat import FINISHED, chunk, request_for
from tests.chat.wire import STREAM, answering, events


@pytest.fixture(autouse=True)
async def session() -> AsyncIterator[None]:
    yield
    await close_session()


@pytest.fixture
async def response() -> AsyncIterator[aiohttp.ClientResponse]:
    """An answer of which there is more to come."""
    async with answering(STREAM, b"data: 1\n\n", pause_seconds=30) as raw:
        async with http.session().get(raw.url) as found:
            yield found


def transport_of(response: aiohttp.ClientResponse) -> asyncio.ReadTransport:
    assert response.connection is not None
    return cast(asyncio.ReadTransport, response.connection.transport)


def event(data: str) -> bytes:
    return b"data: " + data.encode() + b"\n\n"


async def deltas_of(model: str, provider: FakeProvider, *, pace_seconds: float) -> list[Delta]:
    request = request_for(model, provider.url, pace=lambda: asyncio.sleep(pace_seconds))
    all_found = [found async for found in openai_chat.stream(request)]
    assert isinstance(all_found[-1], Finish)
    return [found for found in all_found if isinstance(found, Delta)]


# --- To rest ----------------------------------------------------------------------------------------------------------


async def test_nothing_is_read_until_the_next_beat(response: aiohttp.ClientResponse):
    transport = transport_of(response)
    seen = []

    async def pace() -> None:
        seen.append(transport.is_reading())

    await http.pause_reading(response, pace)
    assert seen == [False]
    assert transport.is_reading()


async def test_who_is_cancelled_while_resting_reads_on(response: aiohttp.ClientResponse):
    transport = transport_of(response)
    resting = asyncio.create_task(http.pause_reading(response, asyncio.Event().wait))
    while transport.is_reading():
        await asyncio.sleep(0)
    resting.cancel()
    await asyncio.wait({resting})
    assert resting.cancelled()
    assert transport.is_reading()


async def test_a_pace_that_breaks_leaves_the_connection_reading(response: aiohttp.ClientResponse):
    async def pace() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await http.pause_reading(response, pace)
    assert transport_of(response).is_reading()


async def test_an_answer_that_is_over_is_not_waited_for():
    async with answering(events([FINISHED])) as raw, http.session().get(raw.url) as response:
        await response.read()
        await http.pause_reading(response, asyncio.Event().wait)


async def test_a_connection_that_is_closing_is_not_waited_for(response: aiohttp.ClientResponse):
    transport_of(response).close()
    await http.pause_reading(response, asyncio.Event().wait)


# --- To stream --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["fake-200t-1ms", "fake-200t-1ms-unicode-split", "fake-150t-1ms-r50"])
async def test_tokens_between_two_beats_are_one_delta(provider: FakeProvider, model: str):
    deltas = await deltas_of(model, provider, pace_seconds=0.05)
    assert "".join(delta.text for delta in deltas) == expected_text(model)
    assert "".join(delta.reasoning for delta in deltas) == expected_reasoning(model)
    assert len(deltas) <= 50


async def test_the_first_text_does_not_wait_for_a_beat():
    """The first event of OpenAI says only who speaks."""
    role, text = event(chunk(role="assistant", content="")), event(chunk(content="hola"))
    async with answering(STREAM, role, text, pause_seconds=0.05) as raw:
        stream = openai_chat.stream(request_for("m", raw.url, pace=asyncio.Event().wait))
        async with asyncio.timeout(10):
            assert await anext(stream) == Delta("hola")
        await stream.aclose()


async def test_what_is_no_text_waits_for_no_beat():
    beats = 0

    async def pace() -> None:
        nonlocal beats
        beats += 1

    pieces = [chunk(role="assistant"), chunk(content="uno"), chunk(), chunk(content="dos"), FINISHED]
    async with answering(STREAM, *map(event, pieces), pause_seconds=0.02) as raw:
        request = request_for("m", raw.url, pace=pace)
        deltas = [found async for found in openai_chat.stream(request) if isinstance(found, Delta)]
    assert "".join(delta.text for delta in deltas) == "unodos"
    assert beats == len(deltas)


async def test_a_stream_that_is_left_while_it_rests_closes_its_connection(provider: FakeProvider):
    request = request_for("fake-500t-20ms", provider.url, pace=asyncio.Event().wait)
    stream = openai_chat.stream(request)
    await anext(stream)
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0.05)
    reading.cancel()
    await asyncio.wait({reading})
    assert reading.cancelled()
    await stream.aclose()
    async with asyncio.timeout(10):
        while not provider.stats().aborted:
            await asyncio.sleep(0.01)
    assert provider.stats().finished == 0


async def test_an_answer_that_ended_while_it_rested_is_whole():
    pieces = [event(chunk(content=f"{number} ")) for number in range(50)]
    async with answering(STREAM, pieces[0], b"".join(pieces[1:]) + event(FINISHED), pause_seconds=0.01) as raw:
        request = request_for("m", raw.url, pace=lambda: asyncio.sleep(0.2))
        found = [delta async for delta in openai_chat.stream(request)]
    assert found[0].text == "0 "
    assert "".join(delta.text for delta in found if isinstance(delta, Delta)) == "".join(
        f"{number} " for number in range(50)
    )
    assert found[-1] == Finish("stop", None)


async def test_a_connection_that_was_rested_on_serves_the_next_answer(provider: FakeProvider):
    for _ in range(2):
        deltas = await deltas_of("fake-50t-1ms", provider, pace_seconds=0.02)
        assert "".join(delta.text for delta in deltas) == expected_text("fake-50t-1ms")
    assert len(http.session().connector._conns) == 1  # type: ignore[union-attr]
