"""Whatever is sent over a socket: it answers with events it has words for, or hangs up and says why."""

import json
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import get_args

import msgspec
import pytest
from django.conf import settings

from chat.socket.consumer import TOO_MANY_MISTAKES
from chat.socket.vocabulary import Command
from core.threads import in_thread
from history.models import new_id
from tests.chat.live import Page, socket
from tests.fuzz.drawing import TEXTS, Fields, Raw, change, draw_id, draw_value, encode, json_of
from tests.fuzz.judging import complaints_about_log, documented_codes
from tests.fuzz.people import Cast, new_cast
from tests.fuzz.test_requests import EACH_CAST, IS_SOAK, SEED, silence_console

COMMANDS = 2_000 if IS_SOAK else 100

pytestmark = pytest.mark.usefixtures("catalog", "redis")


def sample_of(kind: type[msgspec.Struct], cast: Cast, random: Random) -> Fields:
    """Return the fields of a command that is taken."""
    values = {
        "turn_id": str(new_id()) if kind.__name__ == "Start" else draw_id(random, cast),
        "conversation_id": random.choice((str(new_id()), cast.own["conversation_id"][0])),
        "text": "say:hola",
        "model": "scripted",
        "parent_id": None,
        "attachments": [],
        "folder_id": random.choice((None, cast.own["folder_id"][0])),
        "effort": "",
        "gen": 0,
        "at": 0,
        "reasoning_at": 0,
        "blocks": random.random() < 0.5,
    }
    config = kind.__struct_config__
    return [(config.tag_field, config.tag), *((name, values[name]) for name in kind.__struct_fields__)]


def draw_command(random: Random, cast: Cast) -> str | bytes:
    if random.random() < 0.15:
        text: str = random.choice(
            (*TEXTS, "[" * 100_000, '{"type":"turn.stop","x":' + "[" * 100_000, "null", "[]", "{}")
        )
        return random.choice((text, encode(text, random)))
    fields = sample_of(random.choice(get_args(Command)), cast, random)
    changed = change(fields, random, lambda: draw_value(random, cast))
    kinds = [at for at, (name, _value) in enumerate(changed) if name == "type"]
    if kinds and random.random() < 0.8:  # else most would be refused for this alone
        changed[kinds[0]] = fields[0]
    text = json_of(changed or Raw("{}"))
    return text if random.random() < 0.9 else encode(text, random)


def documented_events() -> set[str]:
    text = (Path(settings.BASE_DIR) / "docs/api.md").read_text()
    table = text.partition("### Events")[2].partition("\n\n`html`")[0]
    return {name for line in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(.+?)`", line)}


async def is_answered(page: Page, command: str | bytes) -> bool:
    """Send a command, and one that is refused for a good reason; return whether the page was told that, in time, and
    not hung up on."""
    mark = str(new_id())
    await (page.send_text(command) if isinstance(command, str) else page.send_bytes(command))
    await page.start("", turn_id=mark)
    await page.until(lambda: page.closed_with is not None or any(event.get("turn_id") == mark for event in page.events))
    return page.closed_with is None


def complaints_about_events(page: Page) -> Iterator[str]:
    kinds, codes = documented_events(), {code for of_status in documented_codes().values() for code in of_status}
    for event in page.events:
        json.dumps(event, ensure_ascii=False).encode()
        if event["type"] not in kinds:
            yield f"an event that docs/api.md lacks: {event['type']}"
        if event["type"] == "turn.rejected" and event["code"] not in codes | {"bad_command"}:
            yield f"a refusal that docs/api.md lacks: {event['code']}"
        if event["type"] == "turn.rejected" and not event["detail"]:
            yield "a refusal without a sentence"


@pytest.mark.soak
@pytest.mark.timeout(3_600)
async def test_no_command_is_an_error_of_ours(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    silence_console(monkeypatch)
    complaints: list[str] = []
    hung_up = 0
    for first in range(0, COMMANDS, EACH_CAST):
        cast = await in_thread(new_cast)
        async with AsyncExitStack() as stack:
            page = await stack.enter_async_context(socket(cookie=cast.member_cookie))
            for number in range(first, first + EACH_CAST):
                caplog.clear()
                command = draw_command(Random(f"{SEED}:{number}"), cast)
                goes_on = await is_answered(page, command)
                found = [*complaints_about_events(page), *complaints_about_log(caplog.records)]
                if not goes_on and page.closed_with != TOO_MANY_MISTAKES:
                    found.append(f"closed with {page.closed_with}")
                if found:
                    complaints.append(f"{number}: {'; '.join(found)}\n    {command[:400]!r}")
                page.events.clear()
                if not goes_on:
                    hung_up += 1
                    page = await stack.enter_async_context(socket(cookie=cast.member_cookie))
    print(f"seed {SEED}: {COMMANDS} commands, hung up on {hung_up} times")
    assert not complaints, f"seed {SEED}: {len(complaints)} of {COMMANDS}\n" + "\n".join(complaints)
