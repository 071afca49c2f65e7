"""Somebody is in whom the owner of the account wants out: as an attacker would, against running processes."""

import asyncio
import base64
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import aiohttp
import pytest
import websockets
from uuid_utils.compat import uuid7

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


# --- Everything somebody has open -------------------------------------------------------------------------------------


@dataclass
class Open:
    """Something that is open, and is read until it ends: `ended_at`, with `last`, the end of what came."""

    name: str
    turn_id: str = ""
    last: bytes = b""
    code: int | None = None
    ended_at: float | None = None

    async def read(self, came: AsyncIterator[Any], socket: websockets.ClientConnection | None = None) -> None:
        with suppress(websockets.ConnectionClosed):
            async for part in came:
                self.last = (self.last + (part.encode() if isinstance(part, str) else part))[-2_000:]
        self.code = socket.close_code if socket else None
        self.ended_at = time.monotonic()


@dataclass
class Reader:
    """Somebody on one web process, with all that can be open; each log-in and each key has a name."""

    site: TestedSite
    member: Member
    stack: AsyncExitStack
    all: list[Open] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def open(self, who: str, credential: str, *, with_sockets: bool) -> None:
        """Open a stream of a turn that is asked, one of a turn that others may read, a program's, and two sockets: one
        that asks, and one that only listens."""
        program = Member(credential, lambda: self.site.port(1))
        session = await self.stack.enter_async_context(aiohttp.ClientSession(headers=program.headers))
        asked = {"text": "¿Qué tal?", "model": SLOW, "stream": True, "turn_id": str(uuid7())}
        path = f"{program.base}/api/v1/conversations/{uuid4()}/turns"
        await self._stream(session.post(path, json=asked), f"{who} asks", asked["turn_id"])
        await self._stream(session.get(f"{program.base}/api/v1/turns/{asked['turn_id']}/events"), f"{who} follows")
        body = {"model": SLOW, "stream": True, "messages": [{"role": "user", "content": "¿Qué tal?"}]}
        await self._stream(session.post(f"{program.base}/v1/chat/completions", json=body), f"{who} completes")
        if not with_sockets:
            return
        for name in ("listens", "talks"):
            opened = Open(f"{who} {name}")
            socket = await self.stack.enter_async_context(program.socket())
            if name == "talks":
                shown = Shown()
                opened.turn_id = str(shown.turn_id)
                await socket.send(start(shown))
                while json.loads(await socket.recv())["type"] != "turn.delta":
                    pass
            self._read(opened, opened.read(socket, socket))

    async def _stream(self, request: Any, name: str, turn_id: str = "") -> None:
        answer = await self.stack.enter_async_context(request)
        assert answer.status == 200, (name, await answer.text())
        first = b""
        while b"delta" not in first:
            first += await answer.content.readany()
        if found := re.search(rb'"chatcmpl-(\w+)"', first):
            turn_id = str(UUID(found[1].decode()))
        opened = Open(name, turn_id)
        self._read(opened, opened.read(answer.content.iter_any()))

    def _read(self, opened: Open, reading: Coroutine[Any, Any, None]) -> None:
        self.all.append(opened)
        self.tasks.add(asyncio.create_task(reading))


@asynccontextmanager
async def reading(site: TestedSite, *, credits: int = 100_000) -> AsyncIterator[tuple[Reader, dict[str, Any]]]:
    """Somebody new who has opened everything by two log-ins and with two keys; and the tokens and keys of these."""
    [member] = site.people(1, has_api=True, credits_per_month=credits)
    first, second = site.log_in_again(member.access), site.log_in_again(member.access)
    keys = [(await member.call("POST", "keys", name="Job", scopes=["chat", "history"]))[1] for _ in range(2)]
    async with AsyncExitStack() as stack:
        reader = Reader(site, member, stack)
        await reader.open("log-in", first["access"], with_sockets=True)
        await reader.open("other log-in", second["access"], with_sockets=True)
        await reader.open("key", keys[0]["key"], with_sockets=False)
        await reader.open("other key", keys[1]["key"], with_sockets=False)
        yield reader, {"log-in": first, "key": keys[0]}
        for task in reader.tasks:
            task.cancel()


async def by_operator(site: TestedSite, path: str, **fields: Any) -> None:
    """Have an operator send a form of the admin."""
    [session_key] = site.create_sessions([site.create_operator()])
    csrf = "a" * 32
    cookies = {"sessionid": session_key, "csrftoken": csrf}
    async with aiohttp.ClientSession(cookies=cookies, headers={"X-CSRFToken": csrf}) as session:
        address = f"http://127.0.0.1:{site.port()}/admin/{path}"
        async with session.post(address, data=fields, allow_redirects=False) as answer:
            assert answer.status == 302, await answer.text()


SLOW = "fake-300t-200ms"
ASKED = ("asks", "completes", "talks")


async def test_what_ends_access_ends_all_it_let_in_within_a_second_and_nothing_else(site: TestedSite) -> None:
    """By refresh reuse, a key's revocation, a log-out everywhere and a suspension, on the process where nothing of it
    is open. Each person has two log-ins and two keys, and whatever these can have open."""
    async with AsyncExitStack() as stack:
        readers = await asyncio.gather(*(stack.enter_async_context(reading(site)) for _ in range(4)))
        (stolen, of_stolen), (revoked, of_revoked), (lost, _), (suspended, _) = readers

        async def reuse() -> None:
            refresh = of_stolen["log-in"]["refresh"]
            assert (await stolen.member.call("POST", "auth/refresh", refresh=refresh))[0] == 200
            assert (await stolen.member.call("POST", "auth/refresh", refresh=refresh))[0] == 401

        async def revoke() -> None:
            assert (await revoked.member.call("DELETE", f"keys/{of_revoked['key']['id']}"))[0] == 204

        async def log_out() -> None:
            assert (await lost.member.call("POST", "auth/logout-everywhere"))[0] == 204

        async def suspend() -> None:
            user_id = json.loads(base64.urlsafe_b64decode(suspended.member.access.split(".")[1] + "=="))["user_id"]
            await by_operator(site, "accounts/user/", action="suspend", _selected_action=str(user_id))

        acts: list[tuple[Callable[[], Awaitable[None]], Reader, set[str]]] = [
            (reuse, stolen, {"log-in"}),
            (revoke, revoked, {"key"}),
            (log_out, lost, {"log-in", "other log-in"}),
            (suspend, suspended, {"log-in", "other log-in", "key", "other key"}),
        ]
        longest = {}
        for act, reader, shut_out in acts:
            await act()
            done_at = time.monotonic()
            ends = [one for one in reader.all if one.name.rsplit(" ", 1)[0] in shut_out]
            with suppress(TimeoutError):
                async with asyncio.timeout(3):
                    while any(one.ended_at is None for one in ends):
                        await asyncio.sleep(0.01)
            assert [one.name for one in ends if one.ended_at is None] == [], act.__name__
            longest[act.__name__] = max(one.ended_at or 0 for one in ends) - done_at
            assert {one.code for one in ends if "listens" in one.name or "talks" in one.name} <= {4401}
            assert all(b'"access_ended"' in one.last for one in ends if "completes" in one.name)
            assert not any(b"turn.completed" in one.last for one in ends)
        print(
            "from the answer to the last end:", {name: f"{1000 * seconds:.0f} ms" for name, seconds in longest.items()}
        )
        assert max(longest.values()) < 1, longest
        await asyncio.sleep(1)  # whatever else would end has ended
        for act, reader, shut_out in acts:
            goes_on = [one for one in reader.all if one.name.rsplit(" ", 1)[0] not in shut_out]
            assert [one.name for one in goes_on if one.ended_at is not None] == [], act.__name__
        found = site.audit()
        for act, reader, shut_out in acts:
            for one in reader.all:
                if one.turn_id:
                    who, what = one.name.rsplit(" ", 1)
                    is_out = who in shut_out
                    is_stopped = is_out and (what == "completes" or "key" in shut_out)
                    expected = "settled" if is_stopped else "held"
                    assert found["states"][one.turn_id] == expected, (act.__name__, one.name)
        assert max(found["records"][one.turn_id] for one in stolen.all if one.name == "log-in completes") < 600


async def test_a_lower_plan_counts_from_the_next_question_on_and_ends_nothing_that_runs(site: TestedSite) -> None:
    """An operator takes a grant back, on the process where nothing is open: what was asked was reserved, and is
    answered to its end; what is asked next is asked on Free, over whatever is open."""
    model = {
        "provider": "compatible",
        "provider_model": "fake-301t-200ms",
        "context_window": 8_000,
        "max_output": 1_000,
    }
    prices = {"input_price": 1_000_000, "output_price": 2_000_000}
    site.offer({"key": "strong", "label": "Strong", "tier": "strong", **model, **prices})
    async with reading(site) as (reader, given):
        program = Member(given["key"]["key"], lambda: site.port(1))
        person = Member(given["log-in"]["access"], program.port)
        async with person.socket() as socket:

            async def refusal(**fields: Any) -> str:
                shown = Shown()
                await socket.send(json.dumps(json.loads(start(shown)) | fields))
                while (event := json.loads(await socket.recv())).get("turn_id") != str(shown.turn_id):
                    pass
                return str(event.get("code", event["type"]))

            assert (await person.call("GET", "allowance"))[1]["allowance"] == 100_000
            account_id = site.account_id_of(reader.member.access)
            act = f"billing/billingaccount/{account_id}/act/revoke/"
            await by_operator(site, act, key=uuid4().hex, reason="It is over.")
            done_at = time.monotonic()
            over_socket = [await refusal(model="strong"), await refusal(), await refusal(text="x" * 100_000)]
            asked = {"text": "¿Qué tal?", "model": "strong"}
            by_key = await program.call("POST", f"conversations/{uuid4()}/turns", **asked)
            async with aiohttp.ClientSession(headers=program.headers) as session:
                body = {"model": "strong", "messages": [{"role": "user", "content": "¿Qué tal?"}]}
                async with session.post(f"{program.base}/v1/chat/completions", json=body) as answer:
                    by_program = answer.status, (await answer.json())["error"]["code"]
            seconds = time.monotonic() - done_at
        print(f"from the answer to the last of five refusals: {1000 * seconds:.0f} ms")
        assert over_socket == ["not_in_plan", "too_many_at_once", "text_too_long"]
        assert (by_key[0], by_key[1]["code"], by_program) == (403, "not_in_plan", (403, "not_in_plan"))
        assert (await person.call("GET", "allowance"))[1]["allowance"] == 500
        await asyncio.sleep(0.5)
        assert [one.name for one in reader.all if one.ended_at is not None] == []
        states = site.audit()["states"]
        assert {states[one.turn_id] for one in reader.all if one.turn_id} == {"held"}


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
