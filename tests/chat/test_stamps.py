"""By which prices a turn was reckoned: kept with it, whatever prices do while it is written and afterwards."""

import asyncio

from django.test import Client
from redis.asyncio import Redis

from accounts.models import User
from chat.llm.catalog import find_model
from chat.llm.pricing import Stamp, price_of, read_stamp
from chat.models import LanguageModel
from chat.turns import log
from chat.turns.log import EntryKind, encode_begun
from chat.turns.runner import Runner
from chat.turns.sweeping import settle_unsettled
from core.threads import in_thread
from history.models import Turn
from tests.chat.asking import aask, closed, eventually, record_of, saved

SCRIPTED = {"input": 1_000_000, "output": 2_000_000, "cache_read": 1_000_000, "cache_write": 1_000_000, "above": 0}


def edit(operator: User, *, input_price: str, markup_percent: int) -> None:
    """Change the prices of the scripted model as an operator does."""
    client = Client()
    client.force_login(operator)
    model = LanguageModel.objects.get(key="scripted")
    names = ("key", "provider", "provider_model", "label", "tier", "position", "enabled", "max_tokens_parameter")
    form = {name: getattr(model, name) for name in (*names, "context_window", "max_output")}
    form |= {"input_price": input_price, "output_price": "900", "markup_percent": markup_percent}
    assert client.post(f"/admin/chat/languagemodel/{model.pk}/change/", form).status_code == 302
    assert find_model("scripted").output_price == 900_000_000


async def is_streaming(turn: Turn) -> bool:
    return bool((await in_thread(saved, turn)).status == "streaming")


async def test_a_turn_keeps_the_price_it_was_reckoned_by(redis: Redis, runner: Runner, carla: User):
    turn = await closed(await aask(carla, "say:hola usage:12/34"))
    assert turn.cost_micros == 12 + 68
    assert read_stamp(turn.price) == Stamp(**SCRIPTED, markup_percent=0, as_of="", provider_micros=80)


async def test_a_price_that_changes_while_a_turn_is_written_does_not_change_its_cost(
    redis: Redis, runner: Runner, carla: User, olga: User
):
    turn = await aask(carla, "say:hola wait:1 say:mundo usage:12/34")
    await eventually(lambda: is_streaming(turn))
    await in_thread(edit, olga, input_price="500", markup_percent=900)
    turn = await closed(turn)
    assert (turn.cost_micros, turn.answer) == (80, "hola mundo ")
    assert read_stamp(turn.price) == Stamp(**SCRIPTED, markup_percent=0, as_of="", provider_micros=80)
    assert (await in_thread(record_of, turn)).spent_micros == 80
    after = await closed(await aask(carla, "say:hola usage:12/34"))
    assert after.cost_micros == (12 * 500 + 34 * 900) * 10
    assert read_stamp(after.price).markup_percent == 900
    assert (await in_thread(record_of, after)).spent_micros == 12 * 500 + 34 * 900


async def test_a_price_that_changes_afterwards_changes_no_cost(
    redis: Redis, runner: Runner, carla: User, olga: User, api
):
    turn = await closed(await aask(carla, "say:hola usage:12/34"))
    before = await in_thread(lambda: api(carla).get(f"/api/v1/turns/{turn.pk}").json())
    await in_thread(edit, olga, input_price="500", markup_percent=900)
    await in_thread(settle_unsettled)
    found = await in_thread(saved, turn)
    assert (found.cost_micros, found.price) == (turn.cost_micros, turn.price)
    assert await in_thread(lambda: api(carla).get(f"/api/v1/turns/{turn.pk}").json()) == before
    assert (await in_thread(record_of, turn)).cost_micros == 80


async def test_the_log_of_a_running_turn_says_its_price(redis: Redis, runner: Runner, carla: User, olga: User):
    """So that whoever finds it, if the runner dies now, reckons the same."""
    turn = await aask(carla, "say:hola wait:0.5 say:mundo")
    await eventually(lambda: is_streaming(turn))
    await asyncio.sleep(0.2)
    begun = [entry.text for entry in await log.read_log(redis, turn.pk) if entry.kind == EntryKind.BEGUN]
    model = await in_thread(LanguageModel.objects.get, key="scripted")
    assert begun == [encode_begun(model, price=price_of(model), request=f"{runner.name}:1:0")]
    await closed(turn)
