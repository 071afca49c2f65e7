"""Bad nights: processes are killed, Redis is set back, databases are cut and away, the disk is full, conversations are
deleted while they are answered, event streams are heaped up, and clocks jump. Every turn ends, keeps its text, and is
paid once."""

import asyncio
import os
import random
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import pytest

from tests.fakes.proxy import CuttingProxy
from tests.fakes.readers import LOST, TERMINAL, Member, Shown, read_by_socket
from tests.processes.stores import TestedSite, clock_library, fresh_store, run_site
from tests.services import STORES

SEED = int(os.environ.get("SEED", "20261124"))
IS_SOAK = bool(os.environ.get("SOAK"))
TURNS = 100 if IS_SOAK else 20
DISTURBANCES = 500 if IS_SOAK else 20
SIDE_BY_SIDE = 10
MODELS = ["fake-200t-20ms", "fake-100t-20ms-r20", "fake-150t-20ms-f800", "fake-60t-20ms-nousage"]
SLOW = "fake-100t-150ms"
ROUGH_PAUSE_SECONDS = (1.5, 4) if IS_SOAK else (1, 3)
TERMINAL_WITHIN_SECONDS = 60
VICTIMS = ("valkey", "web0", "web1", "runner0", "runner1")
OPEN = {"turns_per_hour": None, "turns_at_once": None, "credits_per_month": None}
SET_BACK_SECONDS = 1.0
HEAP = 20
AWAY_SECONDS = 30 if IS_SOAK else 3
"""How long databases are away, and the disk is full, the first time; after that SHORT_SECONDS."""
SHORT_SECONDS = 1
BETWEEN_SECONDS = 5
"""How long databases are there before they go away again: whoever never finds one has no answer."""
DISK_MB = 150
PATIENCE_SECONDS = 15
"""How long what was killed may take until it answers as if nothing had been."""

STATUSES = [event.removeprefix("turn.") for event in TERMINAL]


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_whatever_is_killed_cut_deleted_or_set_back_every_turn_ends_once_with_its_text() -> None:
    async with _site() as (site, proxy):
        members = await asyncio.to_thread(lambda: site.people(SIDE_BY_SIDE, **OPEN))
        two = await asyncio.to_thread(lambda: site.people(2, **OPEN))
        night = Night(site, proxy, random.Random(SEED), two)
        disturbing = asyncio.create_task(night.run())
        everybody: list[Shown] = []
        while len(everybody) < TURNS or not night.is_over:
            shown = [Shown() for _ in members]
            everybody += shown
            readers = [_read(night, member, one) for member, one in zip(members, shown, strict=True)]
            # Each ends within its own length and, after the last kill that met it, TERMINAL_WITHIN_SECONDS.
            try:
                await asyncio.wait_for(asyncio.gather(*readers), 150)
            except TimeoutError:
                print([one for one in shown if not one.is_over])
                raise
            if disturbing.done():
                disturbing.result()
        await night.end(disturbing)
        found = await _until_settled(site, night.deleted, time.monotonic())
        _check(everybody, night.deleted, found)
        statuses = {status: sum(one.status == status for one in everybody) for status in STATUSES}
        paid = sum(str(one.turn_id) in found["records"] for one in night.deleted)
        assert paid >= 0.8 * len(night.deleted), "of the others Redis had forgotten what was shown"
        print(
            f"seed {SEED}, {STORES}: {len(everybody)} turns {statuses}; {night.happened.total()} disturbances "
            f"{dict(sorted(night.happened.items()))}; {len(night.deleted)} turns deleted, {paid} of them paid"
        )


@pytest.mark.soak
@pytest.mark.skipif(not IS_SOAK, reason="half a minute, and a site of its own: make soak")
@pytest.mark.timeout(600)
async def test_while_the_disk_is_full_people_are_told_to_come_again_and_nothing_is_lost() -> None:
    with small_disk() as disk:
        async with _site() as (site, proxy):
            members = await asyncio.to_thread(lambda: site.people(SIDE_BY_SIDE, **OPEN))
            two = await asyncio.to_thread(lambda: site.people(2, **OPEN))
            night = Night(site, proxy, random.Random(SEED), two)
            keeping = asyncio.create_task(night.keep_worker())
            before, shown = [Shown() for _ in members], [Shown() for _ in members]
            await asyncio.gather(*(_read(night, *reader) for reader in zip(members, before, strict=True)))
            slow = {"model": SLOW, "text": "Hola"}
            reading = [
                asyncio.create_task(read_by_socket(night.through_any(member), one, asks=slow))
                for member, one in zip(members, shown, strict=True)
            ]
            while not all(one.text for one in shown):
                await asyncio.sleep(0.1)
            await night.fill(disk)
            await asyncio.wait_for(asyncio.gather(*reading), TERMINAL_WITHIN_SECONDS)
            _check(before + shown, [], await _until_settled(site, [], time.monotonic()))
            assert {one.status for one in shown} == {"completed"}
            keeping.cancel()
            await asyncio.wait((keeping,))


@pytest.mark.soak
@pytest.mark.skipif(not IS_SOAK, reason="half a minute, and a site of its own: make soak")
@pytest.mark.skipif(clock_library() is None, reason="needs libfaketime, for a Redis with a clock of its own")
@pytest.mark.timeout(600)
async def test_redis_s_clock_may_jump_an_hour_ahead_and_back_while_answers_are_written(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    async with _site(redis_clock=clock) as (site, _proxy):
        members = await asyncio.to_thread(lambda: site.people(SIDE_BY_SIDE, **OPEN))
        everybody: list[Shown] = []
        for jump in ("+1h", "+0"):
            shown = [Shown() for _ in members]
            everybody += shown
            slow = {"model": SLOW, "text": "Hola"}
            reading = [
                asyncio.create_task(read_by_socket(member, one, asks=slow))
                for member, one in zip(members, shown, strict=True)
            ]
            while not all(one.text for one in shown):
                await asyncio.sleep(0.1)
            clock.write_text(jump)
            await asyncio.wait_for(asyncio.gather(*reading), TERMINAL_WITHIN_SECONDS)
            assert {one.status for one in shown} == {"completed"}
            print(f"Redis at {jump}: gens {Counter(one.gen for one in shown)}")
        _check(everybody, [], await _until_settled(site, [], time.monotonic()))


@contextmanager
def small_disk() -> Iterator[Path]:
    """Give a disk that is soon full, on which all temporary files are made."""
    folder = Path(tempfile.mkdtemp(prefix="tertulia-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=755", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        folder.rmdir()
        pytest.skip("only who may mount a disk can fill one")
    elsewhere = tempfile.tempdir
    try:
        tempfile.tempdir = str(folder)
        yield folder
    finally:
        tempfile.tempdir = elsewhere
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


@asynccontextmanager
async def _site(redis_clock: Path | None = None) -> AsyncIterator[tuple[TestedSite, CuttingProxy | None]]:
    """Run a site, and with MongoDB's protocol a proxy that can cut it: in this loop, hence a thread starts the site."""
    store = fresh_store()
    if "MONGODB_URI" not in store:
        with run_site([*MODELS, SLOW], webs=2, runners=2, redis_clock=redis_clock, **store) as site:
            yield site, None
        return
    address = urlsplit(store["MONGODB_URI"])
    assert address.port is not None
    async with CuttingProxy(address.port) as proxy:
        store["MONGODB_URI"] = address._replace(netloc=f"127.0.0.1:{proxy.port}").geturl()
        running = run_site([*MODELS, SLOW], webs=2, runners=2, redis_clock=redis_clock, **store)
        site = await asyncio.to_thread(running.__enter__)
        error: BaseException | None = None
        try:
            yield site, proxy
        except BaseException as raised:
            error = raised
            raise
        finally:
            kind = type(error) if error else None
            await asyncio.to_thread(running.__exit__, kind, error, error.__traceback__ if error else None)


class Night:
    """Disturbs a site until each kind of disturbance has come, DISTURBANCES in all."""

    def __init__(
        self,
        site: TestedSite,
        proxy: CuttingProxy | None,
        rng: random.Random,
        members: list[Member],
    ) -> None:
        self.site, self.rng = site, rng
        self.happened: Counter[str] = Counter()
        self.deleted: list[Shown] = []
        self._proxy = proxy
        self._deleter, self._heaper = members
        self._redis_sizes: list[int] = []
        self._peace = asyncio.Lock()
        self._stays_until = 0.0
        self._rough = {**{f"kill {name}": name for name in VICTIMS}, "set Redis back": "valkey"}
        self._gentle: dict[str, Callable[[], Awaitable[None]]] = {
            "delete a conversation": self._delete_while_answered,
            "heap up streams": self._heap_up_streams,
        }
        if STORES != "sqlite":
            self._gentle["cut databases"] = self._cut_databases
            self._gentle["databases away"] = self._take_databases_away

    @property
    def is_over(self) -> bool:
        return self.happened.total() >= DISTURBANCES and set(self.happened) >= {*self._rough, *self._gentle}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for loop in (self._watch_redis(), self._be_rough(), self._be_gentle()):
                group.create_task(loop)

    async def end(self, running: "asyncio.Task[None]") -> None:
        """End every disturbance; what was killed is started again."""
        running.cancel()
        await asyncio.wait((running,))
        for name in VICTIMS:
            if not self.site.is_alive(name):
                await asyncio.to_thread(self.site.start, name)

    # --- Kills and set-backs -----------------------------------------------------------------------------------------

    async def _be_rough(self) -> None:
        """Kill one process after another, each kind in every round; it comes back half a second later."""
        left: list[str] = []
        while True:
            await asyncio.sleep(self.rng.uniform(*ROUGH_PAUSE_SECONDS))
            left = left or self.rng.sample(list(self._rough), len(self._rough))
            kind = left.pop()
            self.happened[kind] += 1
            await self._kill(self._rough[kind], sets_back=kind == "set Redis back")

    async def _kill(self, name: str, *, sets_back: bool) -> None:
        async with self._peace:
            self.site.kill(name)
            if sets_back:
                self.site.truncate_redis(self._redis_sizes[0])
            await asyncio.sleep(0.5)
            await asyncio.to_thread(self.site.start, name)

    async def _watch_redis(self) -> None:
        """Know how much Redis had written SET_BACK_SECONDS ago."""
        pause = SET_BACK_SECONDS / 4
        while True:
            self._redis_sizes = [*self._redis_sizes[-4:], self.site.redis_size()]
            await asyncio.sleep(pause)

    async def keep_worker(self) -> None:
        """Start the worker again, as whoever keeps it running does: Celery ends where Redis takes no writes."""
        while True:
            await asyncio.sleep(1)
            if not self.site.is_alive("worker"):
                await asyncio.to_thread(self.site.start, "worker")

    # --- What people and databases do --------------------------------------------------------------------------------

    async def _be_gentle(self) -> None:
        async with asyncio.TaskGroup() as group:
            left: list[str] = []
            while True:
                await asyncio.sleep(self.rng.uniform(0.3, 1.0))
                left = left or self.rng.sample(list(self._gentle), len(self._gentle))
                group.create_task(self._disturb(left.pop()))

    async def _disturb(self, kind: str) -> None:
        try:
            await asyncio.wait_for(self._gentle[kind](), 60)
        except LOST:  # whom it asked was killed
            return
        self.happened[kind] += 1

    async def _delete_while_answered(self) -> None:
        """Ask, wait for the first words, and delete the conversation under them."""
        shown = Shown()
        asking = asyncio.create_task(
            read_by_socket(self.through_any(self._deleter), shown, asks={"model": SLOW, "text": "Hola"})
        )
        try:
            while not shown.text:
                await asyncio.sleep(0.1)
            while True:
                try:
                    path = f"conversations/{shown.conversation_id}?forever=true"
                    status, _body = await self.through_any(self._deleter).call("DELETE", path)
                except LOST:
                    status = 503
                if status in (204, 404):
                    self.deleted.append(shown)  # not before: the night may end first, and then nobody has deleted it
                    return
                assert status == 503, status
                await asyncio.sleep(0.2)
        finally:
            asking.cancel()
            await asyncio.wait((asking,))

    async def _heap_up_streams(self) -> None:
        """Open HEAP event streams on one slow turn: somebody else is answered all the same."""
        web = self.rng.randrange(2)
        member = Member(self._heaper.access, lambda: self.site.port(web))
        other = Member(self._deleter.access, lambda: self.site.port(web))
        turn_id = str(uuid4())
        question = {"turn_id": turn_id, "text": "Hola", "model": SLOW, "stream": True}
        async with (
            asyncio.timeout(30),
            AsyncExitStack() as stack,
            aiohttp.ClientSession(headers=member.headers, connector=aiohttp.TCPConnector(force_close=True)) as session,
        ):
            asked = session.post(f"{member.base}/api/v1/conversations/{uuid4()}/turns", json=question)
            first = await stack.enter_async_context(asked)
            if first.status != 200:
                raise ConnectionError(str(first.status))
            for _ in range(HEAP):
                stream = session.get(f"{member.base}/api/v1/turns/{turn_id}/events")
                opened = await stack.enter_async_context(stream)
                assert opened.status in (200, 429, 503), opened.status
            async with self._peace:  # nothing is killed meanwhile
                await self._is_answered(other)
        await member.call("POST", f"turns/{turn_id}/stop")

    async def _is_answered(self, member: Member) -> None:
        """A request is answered, at the latest when what was killed is back."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                status, _body = await member.call("GET", "allowance")
            except LOST:
                status = 503
            if status == 200:
                return
            assert time.monotonic() < deadline, status
            await asyncio.sleep(0.2)

    async def _cut_databases(self) -> None:
        if self._proxy is not None:
            self._proxy.cut(1.0)
        if "DATABASE_URL" in self.site.environment:
            await asyncio.to_thread(self.site.cut_postgresql)

    async def _take_databases_away(self) -> None:
        """Nobody reaches a database: who asks is told so, and what is written meanwhile is saved afterwards."""
        has_postgresql = "DATABASE_URL" in self.site.environment
        async with self._peace:
            if time.monotonic() < self._stays_until:
                raise ConnectionError
            try:
                if has_postgresql:
                    await asyncio.to_thread(self.site.let_postgresql_in, is_open=False)
                if self._proxy is not None:
                    self._proxy.is_away = True
                await self._cut_databases()
                await self._is_unavailable(self.happened["databases away"])
            finally:
                if self._proxy is not None:
                    self._proxy.is_away = False
                if has_postgresql:
                    await asyncio.to_thread(self.site.let_postgresql_in, is_open=True)
            await self._is_answered(self._deleter)
            self._stays_until = time.monotonic() + BETWEEN_SECONDS

    async def fill(self, disk: Path) -> None:
        """There is no room for SQLite, Redis, files and logs, and then there is again."""
        filler = disk / "filler"
        try:
            with filler.open("wb") as file:
                free = os.statvfs(disk)
                os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)
            await self._is_unavailable(times_before=0)
        finally:
            filler.unlink()
        await self._is_answered(self._deleter)

    async def _is_unavailable(self, times_before: int) -> None:
        """Who asks meanwhile is told to come again, and soon, every time."""
        ends_at = time.monotonic() + (SHORT_SECONDS if times_before else AWAY_SECONDS)
        refused = 0
        while time.monotonic() < ends_at or not refused:
            begun = time.monotonic()
            status, body = await self._deleter.call("GET", "conversations")
            assert status in (200, 503), (status, body)
            assert time.monotonic() - begun < PATIENCE_SECONDS
            assert begun < ends_at + PATIENCE_SECONDS
            refused += status == 503
            await asyncio.sleep(0.2)

    def through_any(self, member: Member) -> Member:
        number = self.rng.randrange(2)
        return Member(member.access, lambda: self.site.port(number))


async def _read(night: Night, member: Member, shown: Shown) -> None:
    asks = {"model": night.rng.choice(MODELS), "text": "Hola"}
    await read_by_socket(night.through_any(member), shown, asks=asks)


async def _until_settled(site: TestedSite, deleted: list[Shown], since: float) -> dict[str, Any]:
    """Return what the databases have when every turn is over or gone and nothing is held."""
    gone = {str(shown.turn_id) for shown in deleted}
    while True:
        found = await asyncio.to_thread(site.audit)
        is_open = [turn for turn in found["turns"] if turn["status"] in ("queued", "streaming") or turn["pk"] in gone]
        if not is_open and not found["held"]:
            print(f"all settled {time.monotonic() - since:.0f} s after the last disturbance")
            # Once more: the sweep may have settled the last one between two of the audit's queries.
            return await asyncio.to_thread(site.audit)
        assert time.monotonic() - since < TERMINAL_WITHIN_SECONDS + 15, (is_open, found["held"], site.logs())
        await asyncio.sleep(2)


def _check(everybody: list[Shown], deleted: list[Shown], found: dict[str, Any]) -> None:
    turns = {turn["pk"]: turn for turn in found["turns"]}
    for shown in everybody:
        turn = turns[str(shown.turn_id)]
        assert shown.complaints == [], shown
        assert (turn["status"], turn["answer"]) == (shown.status, shown.text), (turn, shown)
        assert turn["reasoning"] == shown.reasoning
        state = found["states"][turn["pk"]]
        has_record = turn["pk"] in found["records"]
        assert (state, has_record) in (("settled", True), ("released", False)), (turn, state)
        assert has_record == bool(turn["answer"] or turn["reasoning"]), (turn, state)
        if has_record:
            assert found["records"][turn["pk"]] == turn["cost_micros"]
    for shown in deleted:
        assert found["states"][str(shown.turn_id)] in ("settled", "released"), shown
    assert found["unbalanced"] == []
    assert found["used"] == sum(found["records"].values())
