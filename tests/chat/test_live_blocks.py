"""Blocks of an answer that is being written: a page that wants them gets each after its text, as it will be saved."""

import asyncio
from collections.abc import AsyncIterator
from random import Random

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from accounts.models import User
from chat.socket.live_blocks import BlockReader
from chat.turns.log import Entry, EntryKind
from core.threads import in_thread
from history.models import Turn
from history.rendering import render_markdown
from tests.answers import cut, draw_answers
from tests.chat.asking import ask, eventually
from tests.chat.live import ENDS, Page, page_of
from tests.chat.writing import Writing, writing

pytestmark = pytest.mark.usefixtures("catalog")

FIRST = "# Título\n\nUno con `x` y $x^2$.\n\n"
SECOND = "```python\nwhile True: pass\n```\n"


@pytest.fixture
def turn(carla: User) -> Turn:
    return ask(carla)


@pytest_asyncio.fixture
async def it(redis: Redis, turn: Turn) -> AsyncIterator[Writing]:
    async with writing(redis, turn) as found:
        yield found


def shown(page: Page) -> list[str]:
    """Return the blocks a page shows, and check that it had the text of each before."""
    blocks: list[str] = []
    gen = text = 0
    for event in page.events:
        if event["type"] in ("turn.delta", "turn.block") and event["gen"] > gen:
            gen, text, blocks = event["gen"], 0, []
        if event["type"] == "turn.delta":
            text = event["at"] + len(event["text"])
        if event["type"] == "turn.block":
            assert event["end"] <= text
            assert event["index"] <= len(blocks)
            blocks[event["index"] : event["index"] + 1] = [event["html"]]
    return blocks


async def has_blocks(page: Page, it: Writing, count: int) -> list[str]:
    """Go on writing until the page has so many blocks."""

    async def look() -> bool:
        it.say(".")
        return len(shown(page)) >= count

    await eventually(look, seconds=20)
    return shown(page)


async def test_a_block_comes_when_it_is_over_as_it_will_be_saved(it: Writing, turn: Turn, carla: User):
    async with page_of(carla) as page:
        await page.send("turn.watch", turn_id=turn.pk, blocks=True)
        await it.say_and_wait(FIRST)
        blocks = await has_blocks(page, it, 2)
        await it.say_and_wait(f"\n\n{SECOND}")
        blocks = await has_blocks(page, it, 4)
        assert "<math" in blocks[1]
        assert '<span class="k">while</span>' in blocks[3]
        await it.finish()
        end = await page.next(*ENDS)
    saved = render_markdown(it.live.text, str(turn.pk))
    assert saved.startswith("".join(blocks))
    assert saved in end["html"]


async def test_who_does_not_ask_for_blocks_gets_none(it: Writing, turn: Turn, carla: User):
    async with page_of(carla) as page, page_of(carla) as other:
        await page.send("turn.watch", turn_id=turn.pk)
        await other.send("turn.watch", turn_id=turn.pk, blocks=True)
        await it.say_and_wait(FIRST)
        await has_blocks(other, it, 2)
        assert page.of("turn.delta")
        assert not page.of("turn.block")


async def test_a_page_that_comes_back_gets_the_blocks_before_its_place_too(it: Writing, turn: Turn, carla: User):
    """Another process, or this one after everybody left: its text begins in the middle, the log has the rest."""
    await it.say_and_wait(FIRST)
    await it.say_and_wait("Dos.\n\nTr")
    async with page_of(carla) as page:
        await page.send("turn.watch", turn_id=turn.pk, gen=it.live.gen, at=len(FIRST) + 2, blocks=True)
        assert (await page.next("turn.delta"))["at"] == len(FIRST) + 2
        blocks = await has_blocks(page, it, 3)
    assert render_markdown(it.live.text, str(turn.pk)).startswith("".join(blocks))


async def test_a_new_generation_begins_again(redis: Redis, turn: Turn, carla: User):
    async with page_of(carla) as page:
        await page.send("turn.watch", turn_id=turn.pk, blocks=True)
        async with writing(redis, turn) as it:
            await it.say_and_wait(FIRST)
            await has_blocks(page, it, 2)
        await in_thread(turn.refresh_from_db)
        await redis.delete(f"turn:{turn.pk}:lease")
        async with writing(redis, turn, runner="runner-b") as it:
            await it.say_and_wait("Otro.\n\n")
            await eventually(lambda: _is_first(page, it, "<p>Otro.</p>\n"), seconds=20)


async def _is_first(page: Page, it: Writing, html: str) -> bool:
    it.say(".")
    return shown(page)[:1] == [html]


async def test_a_text_whose_beginning_is_lost_has_no_blocks(turn: Turn, redis: Redis):
    reader = BlockReader(turn.pk)
    for at in range(100, 120, 4):
        reader.receive(Entry(turn.pk.bytes, EntryKind.TEXT, 1, at, "a\n\nb"))
        await asyncio.sleep(0.02)
        assert reader.take() == []
    reader.receive(Entry(turn.pk.bytes, EntryKind.TEXT, 2, 0, "a\n\nb"))
    await eventually(lambda: _has(reader, 1))


async def _has(reader: BlockReader, count: int) -> bool:
    return len(reader.take()) == count


async def test_readers_share_what_is_rendered_and_each_gets_it_after_its_own_text(turn: Turn, redis: Redis):
    fast, slow = BlockReader(turn.pk), BlockReader(turn.pk)
    fast.receive(Entry(turn.pk.bytes, EntryKind.TEXT, 1, 0, "uno\n\ndos\n\n"))
    await eventually(lambda: _has(fast, 2))
    slow.receive(Entry(turn.pk.bytes, EntryKind.TEXT, 1, 0, "uno\n\nd"))
    assert len(slow.take()) == 1
    slow.receive(Entry(turn.pk.bytes, EntryKind.TEXT, 1, 6, "os\n\n"))
    assert len(slow.take()) == 1


async def test_answers_come_in_blocks_however_they_are_cut(turn: Turn, redis: Redis):
    """What two readers bring, each in portions of its own, adds up to one answer."""
    text, rng = "\n\n".join(draw_answers()[:60]), Random(3)
    readers = [BlockReader(turn.pk), BlockReader(turn.pk)]
    for reader in readers:
        at = 0
        for portion in cut(text, rng, 200):
            reader.receive(Entry(turn.pk.bytes, EntryKind.TEXT, 1, at, portion))
            at += len(portion)
    answer = readers[0]._answer
    await eventually(lambda: _is_idle(answer), seconds=20)
    assert answer.frames[-1][0] > len(text) - 100
    assert len(readers[0].take()) == len(readers[1].take()) > 80


async def _is_idle(answer) -> bool:
    return answer._task is not None and answer._task.done()
