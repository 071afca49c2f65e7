"""Whatever a provider sends: each turn ends, is paid once and at most what was reserved, and no other turn notices."""

import asyncio
import importlib
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, find
from hypothesis import settings as hypothesis_settings
from hypothesis.errors import Flaky, NoSuchExample
from pytest_django import Settings
from redis.asyncio import Redis
from rest_framework.test import APIClient

from accounts.models import User
from billing import metering
from billing.models import Reservation, UsageRecord
from chat.errors import SENTENCES
from chat.models import LanguageModel
from chat.turns.runner import Runner
from config.logging import JsonFormatter
from core import caching
from core.alerts import list_alerts
from core.threads import in_thread
from history.models import Turn
from tests.chat.asking import ask
from tests.chat.bad_providers import HALVES, MAX_OUTPUT, SAID, SECRET, SPEAKERS, Case, Served, cases, serving
from tests.chat.transcripts import Script, whole

IS_SOAK = bool(os.environ.get("SOAK"))
SEED = int(os.environ.get("SEED", "20261124"))
CASES = 5_000 if IS_SOAK else 200
GROUP = 250
"""Cases whose models are on offer together."""
AT_ONCE = 25
HEALTHY_EVERY = 10
"""After so many cases comes a turn whose provider is well."""
LOOKED_AT_EVERY = 20
"""One turn of so many is looked at on its page and by the API."""
SILENCE_SECONDS = 5.0
LOADING_SECONDS = 5.0
LONGEST_SECONDS = 12.0
PATIENCE_SECONDS = 15.0
"""How much later than the longest answer a turn may be closed, on a busy machine."""

OURS = {"internal_error", "queue_timeout", "runner_lost", "given_up"}
"""Codes of what goes wrong on our side: nothing that a provider sends may lead to one."""
LOGGED_ERRORS = {"Operator needed", "An SDK broke"}
"""Any other error in the log is one of ours, but for GARBAGE."""
GARBAGE = "aclose(): asynchronous generator is already running"
"""What asyncio logs at times: the SDKs leave the generators of a stream that broke to the garbage collector."""

serial = itertools.count()


@dataclass(frozen=True)
class Complaint:
    """Something that must not be, and the case it happened to where that is known."""

    what: str
    case: Case | None = None

    def __str__(self) -> str:
        return f"- {self.what}: {self.case}" if self.case else f"- {self.what}"


@dataclass(frozen=True)
class Asked:
    """A question to a case's provider, as the databases have it when its time is over."""

    model: str
    case: Case
    turn: Turn
    reservation: Reservation
    record: UsageRecord | None


@pytest.mark.soak
@pytest.mark.timeout(3_600)
async def test_nothing_that_a_provider_sends_harms_its_turn_or_another(
    redis: Redis,
    runner: Runner,
    carla: User,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    caplog.set_level(logging.INFO)
    console = next(handler for handler in logging.root.handlers if type(handler) is logging.StreamHandler)
    monkeypatch.setattr(console, "level", logging.CRITICAL)  # what is expected is thousands of lines long
    settings.FIRST_TOKEN_SECONDS = settings.STALL_SECONDS = SILENCE_SECONDS
    settings.LOADING_SECONDS = LOADING_SECONDS
    settings.TURN_SECONDS = LONGEST_SECONDS
    await asyncio.to_thread(import_sdks)
    cases_by_model: dict[str, Case] = {}
    async with serving(cases_by_model) as served:
        for known in SPEAKERS:
            setattr(settings, f"{known.upper()}_BASE_URL", served.url)
            setattr(settings, f"{known.upper()}_API_KEY", SECRET)
        trial = Trial(carla, settings, caplog, served, cases_by_model)
        drawn = [draw_case(number) for number in range(CASES)]
        complaints = [complaint for group in groups_of(drawn) for complaint in await trial.run(group)]
        if complaints:
            suspects = [drawn.index(told.case) for told in complaints if told.case in drawn]
            smallest = await asyncio.to_thread(trial.find_smallest, suspects, asyncio.get_running_loop())
            listed = "\n".join(map(str, complaints))
            pytest.fail(f"seed {SEED}, {CASES} cases:\n{listed}\nThe smallest:\n{smallest}")
    print(f"seed {SEED}: {CASES} cases")


def import_sdks() -> None:
    """Import them before they are needed: for the first turn it would take longer than a provider may be silent."""
    for name in ("openai", "anthropic", "google.genai"):
        importlib.import_module(name)


def draw_case(number: int) -> Case:
    """Return a case of this seed, always the same. Hypothesis begins with the simplest of all, then varies what it has
    drawn: a fresh search for each case, of which the second is taken, makes them as different as can be."""
    drawn: list[Case] = []
    with pytest.raises(NoSuchExample):
        search(number, lambda case: drawn.append(case) is not None)
    return drawn[-1]


def search(number: int, condition: Callable[[Case], bool]) -> Case:
    """Return the smallest case that meets the condition, as far as it is found; raises NoSuchExample."""
    return find(
        cases(),
        condition,
        random=Random(f"{SEED} {number}"),
        settings=hypothesis_settings(
            max_examples=2,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )


def groups_of(drawn: list[Case]) -> Iterator[list[Case]]:
    """Yield the cases by transport, the slow ones first: they wait beside the others."""
    for transport in ("fast", "sdk"):
        found = [case for case in drawn if case.transport == transport]
        for at in range(0, len(found), GROUP):
            yield sorted(found[at : at + GROUP], key=lambda case: not case.is_slow)


def healthy(transport: str) -> Case:
    """Return a provider that is well, another one each time, and takes a moment for its answer."""
    provider = list(SPEAKERS)[next(serial) % len(SPEAKERS)]
    script = Script(text=tuple(f"word{number} " for number in range(20)), usage=(12, 40, 0, 0, 0))
    [response] = whole(SPEAKERS[provider](script), every=100)
    reads = tuple(response[at : at + 100] for at in range(0, len(response), 100))
    return Case(provider, transport, reads, answer="".join(script.text))


@dataclass
class Trial:
    """Questions of one person to the providers of `cases_by_model`, which is what `served` answers from."""

    person: User
    settings: Settings
    caplog: pytest.LogCaptureFixture
    served: Served
    cases_by_model: dict[str, Case]

    async def run(self, group: list[Case]) -> list[Complaint]:
        """Ask every case's provider, and healthy ones beside them; return all that is wrong.

        Each has a model of its own, and with it a breaker of its own: no case is skipped for what another one did.
        """
        transport = group[0].transport
        self.settings.SDK_PROVIDERS = list(SPEAKERS) if transport == "sdk" else []
        asked = await self._ask(with_healthy(group, transport))
        asked += await self._ask([healthy(transport)])  # the runner is alive
        found = [Complaint(told, one.case) for one in asked for told in complaints_about(one)]
        for told in (*self._of_logs(), *(f"a stranger was asked: {line}" for line in self.served.told_strangers)):
            cases_named = (one.case for one in asked if one.model in told or str(one.turn.pk) in told)
            found.append(Complaint(told, next(cases_named, None)))
        found += map(Complaint, await in_thread(lambda: list(self._of_stores_and_pages(asked))))
        await in_thread(self._withdraw)
        return found

    def find_smallest(self, suspects: list[int], loop: asyncio.AbstractEventLoop) -> str:
        """Return what is left of the first of these cases that fails alone; called in a thread beside the loop."""

        def run_alone(case: Case) -> list[Complaint]:
            return asyncio.run_coroutine_threadsafe(self.run([case]), loop).result()

        for number in suspects:
            with suppress(NoSuchExample, Flaky):
                case = search(number, lambda case: bool(run_alone(case)))
                return "\n".join(map(str, run_alone(case)))
        return "none fails alone"

    async def _ask(self, group: list[Case]) -> list[Asked]:
        """Ask, AT_ONCE at a time; return all of it when each turn is over, or late."""
        models = {f"bad-{next(serial):06}": case for case in group}
        self.cases_by_model |= models
        await in_thread(offer, models)
        waiting = list(models)
        turns: dict[str, Turn] = {}
        deadlines: dict[UUID, float] = {}
        while waiting or deadlines:
            while waiting and len(deadlines) < AT_ONCE:
                model = waiting.pop(0)
                turns[model] = await in_thread(ask, self.person, "hola", model=model)
                deadlines[turns[model].pk] = time.monotonic() + LONGEST_SECONDS + PATIENCE_SECONDS
            await asyncio.sleep(0.05)
            unfinished = await in_thread(list_unfinished, list(deadlines))
            deadlines = {pk: at for pk, at in deadlines.items() if pk in unfinished and at > time.monotonic()}
        return await in_thread(look_at, models, turns)

    def _of_logs(self) -> Iterator[str]:
        formatter = JsonFormatter()
        for record in self.caplog.records:
            line = formatter.format(record)
            is_error = record.levelno >= logging.ERROR and record.getMessage() not in LOGGED_ERRORS
            is_ours = (is_error or record.exc_info) and GARBAGE not in line
            if is_ours or SAID in line or SECRET in line:
                yield f"logged {line[:300]} … {line[-700:]}"
        self.caplog.clear()

    def _of_stores_and_pages(self, asked: list[Asked]) -> Iterator[str]:
        if metering.list_unbalanced_periods().exists():
            yield "what is used is not the sum of the records"
        alerts = repr(list_alerts())
        if SAID in alerts or SECRET in alerts:
            yield "an alert says what a provider said"
        client = APIClient(raise_request_exception=False)
        client.force_login(self.person)
        client.force_authenticate(self.person)
        pages = ["/", "/conversations/", "/api/v1/conversations", "/api/v1/search?q=hola"]
        for one in asked[::LOOKED_AT_EVERY]:
            conversation = one.turn.conversation_id
            pages += [
                f"/c/{conversation}/",
                f"/api/v1/conversations/{conversation}/turns",
                f"/api/v1/turns/{one.turn.pk}",
            ]
        for page in pages:
            if (status := client.get(page).status_code) != 200:
                yield f"{page} is a {status}"

    def _withdraw(self) -> None:
        """Take the models off the offer: pages that list thousands would be slow."""
        LanguageModel.objects.filter(key__startswith="bad-").delete()
        self.cases_by_model.clear()
        self.served.told_strangers.clear()
        caching.forget_everything()


def with_healthy(group: list[Case], transport: str) -> list[Case]:
    """Return the cases, with healthy ones between them."""
    return [
        one
        for at in range(0, len(group), HEALTHY_EVERY)
        for one in (*group[at : at + HEALTHY_EVERY], healthy(transport))
    ]


def offer(models: dict[str, Case]) -> None:
    fields = {"tier": "cheap", "context_window": 8_000, "max_output": MAX_OUTPUT}
    prices = {"input_price": 1_000_000, "output_price": 2_000_000}
    LanguageModel.objects.bulk_create(
        LanguageModel(key=name, label=name, provider=case.provider, provider_model=name, **fields, **prices)
        for name, case in models.items()
    )
    caching.forget_everything()


def list_unfinished(turn_ids: list[UUID]) -> set[UUID]:
    """Return which of the turns are open or not paid yet."""
    is_open = Turn.objects.filter(pk__in=turn_ids, status__in=Turn.OPEN).values_list("pk", flat=True)
    return {*is_open, *metering.list_held_among(turn_ids)}


def look_at(models: dict[str, Case], turns: dict[str, Turn]) -> list[Asked]:
    ids = [turn.pk for turn in turns.values()]
    saved = Turn.objects.in_bulk(ids)
    reservations = Reservation.objects.in_bulk(ids)
    records = {record.reservation_id: record for record in UsageRecord.objects.filter(reservation_id__in=ids)}
    return [
        Asked(model, case, saved[turn.pk], reservations[turn.pk], records.get(turn.pk))
        for (model, case), turn in zip(models.items(), turns.values(), strict=True)
    ]


def complaints_about(asked: Asked) -> Iterator[str]:
    """Yield what one turn shows that must not be."""
    case, turn = asked.case, asked.turn
    if turn.is_open:
        yield f"it is {turn.status}"
    if asked.reservation.state == Reservation.State.HELD:
        yield "its reservation is held"
    if asked.record and asked.record.cost_micros > asked.reservation.amount_micros and not asked.record.above_because:
        yield f"charged {asked.record.cost_micros} where {asked.reservation.amount_micros} were reserved"
    if turn.answer and not (asked.record and asked.record.cost_micros):
        yield "the answer is free"
    if turn.status == Turn.Status.COMPLETED and not turn.answer.strip():
        yield "it is completed, and says nothing"
    if turn.error in OURS or (turn.error and turn.error not in SENTENCES):
        yield f"the error is {turn.error}"
    if HALVES.search(turn.answer + turn.reasoning) or "\0" in turn.answer + turn.reasoning:
        yield "half a character is saved"
    if case.answer is not None and (turn.status, turn.answer) != ("completed", case.answer):
        yield f"{turn.status} {turn.error} with {turn.answer[:200]!r} in place of {case.answer[:200]!r}"
