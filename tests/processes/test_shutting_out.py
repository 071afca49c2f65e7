"""Somebody is in whom the owner of the account wants out: as an attacker would, against running processes."""

import asyncio
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import websockets

from tests.fakes.readers import Member, Shown
from tests.processes.stores import TestedSite

OLD, NEW = "una clave larga", "otra clave larga"
RESET_LINK = "/accounts/password/reset/key/"

pytestmark = pytest.mark.stores


class Browser:
    """A browser that submits forms."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self.session = session
        self.base = base

    @classmethod
    @asynccontextmanager
    async def open(cls, site: TestedSite) -> "AsyncIterator[Browser]":
        jar = aiohttp.CookieJar(unsafe=True)  # of an address without a name
        async with aiohttp.ClientSession(cookie_jar=jar) as session:
            yield cls(session, f"http://127.0.0.1:{site.port()}")

    def cookie(self, name: str) -> str:
        return next((cookie.value for cookie in self.session.cookie_jar if cookie.key == name), "")

    async def get(self, path: str) -> str:
        """Follow redirects; return the path of the page that is shown in the end."""
        async with self.session.get(self.base + path) as response:
            return response.url.path

    async def post(self, path: str, **fields: str) -> str:
        """Submit a form; return the path that is shown in the end."""
        if not self.cookie("csrftoken"):
            await self.get("/accounts/login/")
        fields["csrfmiddlewaretoken"] = self.cookie("csrftoken")
        async with self.session.post(self.base + path, data=fields) as response:
            return response.url.path

    @asynccontextmanager
    async def socket(self) -> AsyncIterator[websockets.ClientConnection]:
        headers = {"Cookie": f"sessionid={self.cookie('sessionid')}"}
        address = self.base.replace("http", "ws") + "/ws/"
        async with websockets.connect(address, origin=self.base, additional_headers=headers) as socket:  # type: ignore[arg-type]
            yield socket


async def link_to(site: TestedSite, address: str, part: str) -> str:
    """Wait for a mail with such a link; return its path."""
    deadline = time.monotonic() + 20
    while True:
        for mail in reversed(site.mails_to(address)):
            if found := re.search(rf"https?://\S+{part}\S+", mail):
                return urlsplit(found[0]).path
        assert time.monotonic() < deadline, (address, site.logs())
        await asyncio.sleep(0.1)


async def hangs_up(socket: websockets.ClientConnection) -> int | None:
    """Wait for the server to close; return its code."""
    async with asyncio.timeout(10):
        await socket.wait_closed()
    return socket.close_code


async def timed(done: Awaitable[Any]) -> float:
    begun = time.monotonic()
    await done
    return time.monotonic() - begun


async def test_an_account_is_not_taken_by_a_pending_address(site: TestedSite) -> None:
    """Somebody signs up with another person's address, asks for their own instead, and waits until that person resets
    the password."""
    name = secrets.token_hex(6)
    victim, thief = f"victim-{name}@example.com", f"thief-{name}@example.org"
    nobody = Member("", site.port)
    status, _ = await nobody.call("POST", "auth/register", email=victim, password=OLD)
    assert status == 201
    _, tokens = await nobody.call("POST", "auth/login", email=victim, password=OLD)
    attacker = Member(tokens["access"], lambda: site.port(1))
    async with Browser.open(site) as browser, Browser.open(site) as owner:
        assert await browser.post("/accounts/login/", login=victim, password=OLD) == "/"
        assert await browser.post("/accounts/email/", email=thief, action_add="") == "/accounts/reauthenticate/"
        await browser.post("/accounts/reauthenticate/", password=OLD, next="/accounts/email/")
        link = await link_to(site, thief, "/accounts/confirm-email/")
        async with attacker.socket() as by_ticket, browser.socket() as by_session:
            await owner.post("/accounts/password/reset/", email=victim)
            page = await owner.get(await link_to(site, victim, RESET_LINK))
            assert await owner.post(page, password1=NEW, password2=NEW) == "/"
            assert (await hangs_up(by_ticket), await hangs_up(by_session)) == (4401, 4401)
        assert (await attacker.call("GET", "me"))[0] == 401
        assert (await attacker.call("POST", "auth/refresh", refresh=tokens["refresh"]))[0] == 401
        assert await browser.get("/settings/") == "/accounts/login/"
        assert await browser.post(link) == "/accounts/login/"
        assert await browser.post("/accounts/login/", login=victim, password=OLD, next=link) == "/accounts/login/"
        assert await browser.post("/accounts/password/reset/", email=thief) == "/accounts/password/reset/done/"
        await owner.get(link)
        await owner.post(link)
    _, tokens = await nobody.call("POST", "auth/login", email=victim, password=NEW)
    assert (await Member(tokens["access"], site.port).call("GET", "me"))[1]["email"] == victim
    assert not [mail for mail in site.mails_to(thief) if RESET_LINK in mail]


async def begin_slow_turn(member: Member) -> Shown:
    shown = Shown()
    async with member.socket() as socket:
        await socket.send(start(shown))
        while json.loads(await socket.recv())["type"] != "turn.delta":
            pass
    return shown


def start(shown: Shown) -> str:
    ids = {"turn_id": str(shown.turn_id), "conversation_id": str(shown.conversation_id)}
    return json.dumps({"type": "turn.start", "text": "¿Qué tal?", "model": "fake-300t-200ms", **ids})


async def test_who_logs_out_everywhere_is_rid_of_what_others_have_open_within_a_moment(site: TestedSite) -> None:
    [member] = site.people(1)
    elsewhere = Member(member.access, lambda: site.port(1))
    shown = await begin_slow_turn(member)
    async with member.socket() as socket, elsewhere.socket() as other, aiohttp.ClientSession() as session:
        address = f"{elsewhere.base}/api/v1/turns/{shown.turn_id}/events"
        async with session.get(address, headers=member.headers) as stream:
            assert b"turn.started" in await stream.content.readline()
            assert (await member.call("POST", "auth/logout-everywhere"))[0] == 204
            waiting: list[Callable[[], Awaitable[Any]]] = [
                lambda: hangs_up(socket),
                lambda: hangs_up(other),
                stream.read,
            ]
            taken = await asyncio.gather(*(timed(wait()) for wait in waiting))
    print(f"from the answer to the end of sockets and stream: {[f'{seconds * 1000:.0f} ms' for seconds in taken]}")
    assert (socket.close_code, other.close_code) == (4401, 4401)
    assert max(taken) < 5  # the next time they are asked is later
    assert (await elsewhere.call("GET", f"turns/{shown.turn_id}"))[0] == 401


async def test_a_key_that_is_revoked_ends_within_a_second_in_every_process(site: TestedSite) -> None:
    [member] = site.people(1)
    status, made = await member.call("POST", "keys", name="Job", scopes=["chat", "history"])
    assert status == 201
    programs = [Member(made["key"], lambda number=number: site.port(number)) for number in (0, 1)]  # type: ignore[misc]
    shown = await begin_slow_turn(member)
    async with AsyncExitStack() as stack:
        streams = []
        for program in programs:
            session = await stack.enter_async_context(aiohttp.ClientSession(headers=program.headers))
            address = f"{program.base}/api/v1/turns/{shown.turn_id}/events"
            streams.append(await stack.enter_async_context(session.get(address)))
            assert b"turn.started" in await streams[-1].content.readline()
        assert (await member.call("DELETE", f"keys/{made['id']}"))[0] == 204
        assert [(await program.call("GET", "models"))[0] for program in programs] == [401, 401]
        taken = await asyncio.gather(*(timed(stream.read()) for stream in streams))
    print(f"from the answer to the end of two streams: {[f'{seconds * 1000:.0f} ms' for seconds in taken]}")
    assert max(taken) < 1
    assert (await member.call("GET", f"turns/{shown.turn_id}"))[1]["status"] == "streaming"


async def test_an_old_socket_asks_nothing_more_where_the_notice_was_lost(site: TestedSite) -> None:
    [member] = site.people(1)
    async with member.socket() as socket:
        site.end_access_silently(member.access)
        shown = Shown()
        await socket.send(start(shown))
        assert await hangs_up(socket) == 4401
    assert str(shown.turn_id) not in {turn["pk"] for turn in site.audit()["turns"]}


async def test_guesses_are_slowed_down_by_whatever_door_and_their_owner_is_not(site: TestedSite) -> None:
    """Ninety guesses at once over API and page of both processes, then the right password."""
    email = f"victim-{secrets.token_hex(6)}@example.com"
    doors = [f"http://127.0.0.1:{site.port(number)}" for number in (0, 1)]
    guess = {"email": email, "password": "una clave errada"}
    async with networks("127.0.0.9", "127.0.0.7") as (attacker, owner):

        async def by_owner(door: str, path: str) -> int:
            """Come again where a busy machine has no time for a hash, as the answer asks."""
            while True:
                async with owner.post(f"{door}/api/v1/auth/{path}", json={"email": email, "password": OLD}) as answer:
                    if answer.status != 503:
                        return answer.status
                await asyncio.sleep(0.5)

        assert [await by_owner(doors[0], path) for path in ("register", "login")] == [201, 200]
        async with attacker.get(f"{doors[0]}/accounts/login/") as page:
            token = page.cookies["csrftoken"].value

        async def by_api(number: int) -> int:
            async with attacker.post(f"{doors[number % 2]}/api/v1/auth/login", json=guess) as answer:
                return answer.status

        async def by_page(number: int, password: str) -> int:
            form = {"login": email, "password": password, "csrfmiddlewaretoken": token}
            async with attacker.post(f"{doors[number % 2]}/accounts/login/", data=form) as answer:
                return answer.status

        begun = time.monotonic()
        guesses = [by_page(number, "una clave errada") if number % 3 else by_api(number) for number in range(90)]
        statuses = await asyncio.gather(*guesses)
        compared = 90 - statuses.count(429)
        assert 5 <= compared <= 5 + 2 + (time.monotonic() - begun), statuses  # the free ones, then one a second at most
        for _ in range(3):  # so that a pause has just begun, and lasts eight seconds or more
            while await by_page(0, "una clave errada") == 429:
                await asyncio.sleep(0.1)
        assert await by_page(1, OLD) == 429  # the right one makes no difference
        assert await by_owner(doors[1], "login") == 200


@asynccontextmanager
async def networks(*addresses: str) -> AsyncIterator[list[aiohttp.ClientSession]]:
    """Clients that come from these addresses."""
    async with AsyncExitStack() as stack:
        clients = []
        for address in addresses:
            jar, connector = (
                aiohttp.CookieJar(unsafe=True),
                aiohttp.TCPConnector(local_addr=(address, 0), force_close=True),
            )
            clients.append(await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=jar, connector=connector)))
        yield clients
