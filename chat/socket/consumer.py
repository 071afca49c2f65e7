"""The socket: translates commands and relays events. The rules are in chat/turns."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any
from uuid import UUID

from channels.consumer import get_handler_name
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from msgspec import UNSET
from structlog.contextvars import bind_contextvars
from uvicorn.protocols.utils import ClientDisconnected

from accounts.admission import Admission, find_admitted
from accounts.models import User
from billing.entitlements import check_api
from chat.errors import AccessEnded, BadCommand, TooManySockets
from chat.shown.events import encode_json, waiting_event
from chat.shown.ways_on import CODES_WITH_WAYS_ON
from chat.socket.authentication import find_in_turn
from chat.socket.live_blocks import BlockReader
from chat.socket.rendered_events import (
    SocketEvent,
    localized_for,
    render_conversation,
    render_ended,
    render_opened,
    render_refused,
    render_rejected,
    render_started,
)
from chat.socket.shares import Share, take_share
from chat.socket.vocabulary import (
    KEEP_ALIVE_FRAME,
    Command,
    Start,
    Stop,
    Watch,
    list_event,
    parse_command,
    text_frame,
)
from chat.turns.guests import Guest, guests
from chat.turns.known_turns import BeingWritten, await_written
from chat.turns.log import Entry, EntryKind
from chat.turns.notices import WHOLE_LIST, receive_notices
from chat.turns.opening import LATEST, OpenedTurn, Question, open_turn
from chat.turns.queue import opening_limit
from chat.turns.stopping import stop_turn
from chat.turns.watching import Place, Watcher, hub, watch
from core.errors import STORES_AWAY, DomainError, NotFound, RateLimited, Unavailable, is_store_away
from core.http import error_body
from core.request_ids import request_id_of
from core.threads import cancel_and_wait, in_thread
from history import access
from history.models import Turn

logger = logging.getLogger(__name__)

MAX_WATCHED_TURNS = 32
"""Turns one page follows at once."""
MAX_BAD_COMMANDS = 20
"""Commands a client may get wrong before its socket is closed."""

# Why a socket is closed, for its client (RFC 6455, section 7.4).
TOO_MANY_MISTAKES = 1008
OUR_ERROR = 1011  # the page connects again, and goes on where it was
SHUT_OUT = 4401


class TurnConsumer(AsyncWebsocketConsumer):
    """One page's socket."""

    user: User
    admission: Admission
    share: Share  # of the process, which all sockets of this person have together
    guest: Guest | None = None
    is_over = False  # whether it was closed from here
    watching: dict[UUID, "asyncio.Task[None]"]  # for each turn the page follows, what relays its live text
    opening: set[UUID]  # turns this page is asking for at the moment
    announced: set[UUID]  # open turns of other pages: this one was told of their start, and does not follow them
    bad_commands = 0
    background: set["asyncio.Task[None]"]
    announcing: asyncio.Lock  # what other pages did is sent in its order

    # --- Coming and going --------------------------------------------------------------------------------------------

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        """As Channels does, without its layer, for which it makes two tasks a message."""
        self.scope, self.base_send = scope, send
        self.watching, self.opening, self.announced, self.background = {}, set(), set(), set()
        self.announcing = asyncio.Lock()
        bind_contextvars(request_id=request_id_of(dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")))
        try:
            while True:
                await self.dispatch(await receive())
        except StopConsumer:
            pass
        finally:
            await self.clean_up()

    async def connect(self) -> None:
        try:
            found = await find_in_turn(dict(self.scope))
        except RateLimited as error:
            await self.refuse(error)
            return
        except AccessEnded:
            await self.accept()  # a page does not learn why a handshake was refused
            await self.close(SHUT_OUT)
            raise StopConsumer from None
        except STORES_AWAY as error:
            logger.warning("Store unreachable", extra={"path": self.scope["path"], "error": type(error).__name__})
            await self.refuse(Unavailable(retry_after=5))
            return
        if found is None:
            await self.close()  # before accept: the handshake is answered with 403
            return
        user, admission = found
        try:
            self.share = take_share(user.pk)
        except TooManySockets as error:
            with localized_for(user):
                await self.refuse(error)
            return
        self.user, self.admission = user, admission
        bind_contextvars(user_id=user.pk)
        await self.share.pace()
        self.guest = await guests().admit(admission, self.on_shut_out)
        await receive_notices()
        await hub().listen(user.pk, self.on_news)
        if not self.is_over:
            await self.accept()

    async def refuse(self, error: DomainError) -> None:
        """Answer the handshake as the API answers a request."""
        headers = [(b"content-type", b"application/json")]
        if error.retry_after is not None:
            headers.append((b"retry-after", str(round(error.retry_after)).encode()))
        start = {"type": "websocket.http.response.start", "status": error.status, "headers": headers}
        await self.base_send(start)  # type: ignore[arg-type]  # an extension of ASGI that uvicorn has
        body = encode_json(error_body(error))
        await self.base_send({"type": "websocket.http.response.body", "body": body})  # type: ignore[arg-type]
        await asyncio.sleep(0)  # then uvicorn knows that the connection is over, and misses no answer in its log
        raise StopConsumer

    async def websocket_disconnect(self, message: Any) -> None:
        """As Channels does, without its thread hop to close connections."""
        raise StopConsumer

    async def clean_up(self) -> None:
        """End whatever this socket began, however it ended itself."""
        if hasattr(self, "share"):
            self.share.leave()
        await cancel_and_wait((*self.watching.values(), *self.background))
        if self.guest is not None:
            guests().dismiss(self.guest)
            hub().unlisten(self.user.pk, self.on_news)

    def on_shut_out(self) -> None:
        self.run_in_background(self.hang_up(SHUT_OUT))

    async def hang_up(self, code: int) -> None:
        """Close: nothing more is sent, and no command is taken, not even one that is here already."""
        if not self.is_over:
            self.is_over = True
            await cancel_and_wait(tuple(self.watching.values()))
            await self.close(code)

    # --- Commands in -------------------------------------------------------------------------------------------------

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.share.pace()
        if self.is_over:
            return
        turn_id, command = None, None
        try:
            command = parse_command(text_data or "")
            turn_id = command.turn_id
            await self.execute(command)
        except AccessEnded:
            await self.hang_up(SHUT_OUT)
        except DomainError as error:
            await self.reject(turn_id, error, command)
            self.bad_commands += isinstance(error, BadCommand | NotFound)  # the second: who guesses ids
            if self.bad_commands > MAX_BAD_COMMANDS:
                await self.hang_up(TOO_MANY_MISTAKES)
        except ClientDisconnected:  # a question that is opened stays so: who comes back with it finds its turn
            raise
        except Exception as error:
            if is_store_away(error):
                logger.warning("Store unreachable", extra={"turn_id": turn_id, "error": type(error).__name__})
            else:
                logger.exception("Command failed", extra={"user_id": self.user.pk, "turn_id": turn_id})
            await self.reject(turn_id, Unavailable(retry_after=5))

    async def execute(self, command: Command) -> None:
        match command:
            case Start():
                await self.start(command)
            case Stop():
                await stop_turn(await in_thread(access.access_turn, self.user.pk, command.turn_id))
            case Watch():
                turn = await in_thread(access.access_turn, self.user.pk, command.turn_id)
                place = Place(command.gen, command.at, command.reasoning_at)
                self.watch(turn, place, has_blocks=command.blocks)

    async def start(self, command: Start) -> None:
        if command.turn_id not in self.watching:
            self.check_room()
        self.opening.add(command.turn_id)
        try:
            await self.open_in_slot(command)
        except BeingWritten:
            await await_written(command.turn_id)  # outside of the slot: others may open meanwhile
            await self.open_in_slot(command)
        finally:
            self.opening.discard(command.turn_id)

    async def open_in_slot(self, command: Start) -> None:
        async with opening_limit().slot(self.user.pk):
            await self.open_and_watch(command)

    async def open_and_watch(self, command: Start) -> None:
        question = _to_question(command)
        watcher = None
        if command.turn_id not in self.watching:
            watcher = await hub().add_new(command.turn_id)  # before a runner can write anything of the turn
        try:
            self.user, opened, events = await in_thread(_open_and_render, self.admission, question)
            for event in events:
                await self.send_event(event)
            if watcher is not None and not opened.is_new:
                watcher.mark_unread()
            self.watch(opened.turn, watcher=watcher, has_blocks=command.blocks)
        except BaseException:
            if watcher is not None:
                hub().remove(watcher)
            raise

    async def reject(self, turn_id: UUID | None, error: DomainError, command: Command | None = None) -> None:
        if isinstance(command, Start) and error.code in CODES_WITH_WAYS_ON:
            event = await in_thread(render_refused, self.user, _to_question(command), error)
        else:
            event = render_rejected(self.user, turn_id, error)
        await self.send_event(event)

    # --- Live text out -----------------------------------------------------------------------------------------------

    def watch(
        self, turn: Turn, place: Place | None = None, *, watcher: Watcher | None = None, has_blocks: bool = False
    ) -> None:
        """Follow a turn from `place`; a turn that is followed already starts over from there. Raises RateLimited, and
        AccessEnded if whoever opened this socket was shut out meanwhile."""
        if self.is_over:
            raise AccessEnded
        self.announced.discard(turn.pk)
        if previous := self.watching.pop(turn.pk, None):
            previous.cancel()
            self.run_in_background(cancel_and_wait((previous,)))
        self.check_room()
        task = self.watching[turn.pk] = asyncio.create_task(self.relay(turn, place, watcher, has_blocks))
        task.add_done_callback(lambda done: self.on_relay_done(turn.pk, done))
        if watcher is not None:  # a task that is cancelled before it begins cleans up nothing
            task.add_done_callback(lambda _done: hub().remove(watcher))

    def check_room(self) -> None:
        """Raise RateLimited if the page follows as many turns as it may."""
        if len(self.watching) >= MAX_WATCHED_TURNS:
            raise RateLimited

    async def relay(self, turn: Turn, place: Place | None, watcher: Watcher | None, has_blocks: bool) -> None:
        try:
            await self.relay_to_end(turn, place, watcher, BlockReader(turn.pk) if has_blocks else None)
        except NotFound:  # deleted: the page may have missed the notice of it
            await self.send_event(await self.share.render(render_conversation, self.user, turn.conversation_id))

    async def relay_to_end(
        self, turn: Turn, place: Place | None, watcher: Watcher | None, blocks: BlockReader | None
    ) -> None:
        send: Any = self.base_send  # Channels' own `send` does more for every message
        async with aclosing(watch(turn, place, watcher=watcher)) as batches:
            async for entries in batches:
                if not entries:
                    await send({"type": "websocket.send", "text": KEEP_ALIVE_FRAME})
                for entry in entries:
                    if entry.kind == EntryKind.END:
                        await self.send_end(turn.pk)
                    elif entry.kind == EntryKind.WAITING:
                        await self.send_event(waiting_event(turn.pk, entry.at))
                    else:
                        await send({"type": "websocket.send", "text": text_frame(entry)})
                        if blocks is not None and entry.kind == EntryKind.TEXT:
                            blocks.receive(entry)
                if blocks is not None:
                    for frame in blocks.take():
                        await send({"type": "websocket.send", "text": frame})

    def on_relay_done(self, turn_id: UUID, task: "asyncio.Task[None]") -> None:
        if self.watching.get(turn_id) is task:
            del self.watching[turn_id]
        if error := _find_failure(task):
            if is_store_away(error):
                logger.warning("Store unreachable", extra={"turn_id": turn_id, "error": type(error).__name__})
            else:
                logger.error("Relay broke", exc_info=error, extra={"turn_id": turn_id})
            self.run_in_background(self.hang_up(OUR_ERROR))  # the page connects again, and goes on where it was

    async def send_end(self, turn_id: UUID) -> None:
        for event in await self.share.render(render_ended, self.user, turn_id):
            await self.send_event(event)

    async def send_event(self, event: SocketEvent) -> None:
        if self.is_over:
            return
        await self.send(text_data=encode_json(event).decode())

    # --- What other pages did ----------------------------------------------------------------------------------------

    def on_news(self, entry: Entry) -> None:
        """Announce that a conversation of this person has changed, and that a turn was opened or has ended, unless this
        page opens or follows it."""
        turn_id = UUID(bytes=entry.turn)
        if entry.kind == EntryKind.REVOKED:
            return  # guests.py asks what follows from it
        if entry.kind == EntryKind.CHANGED:
            self.run_in_background(self.announce_change(turn_id))
        elif entry.kind == EntryKind.OPENED:
            if turn_id not in self.watching and turn_id not in self.opening and turn_id not in self.announced:
                self.announced.add(turn_id)
                self.run_in_background(self.announce_start(turn_id))
        elif turn_id in self.announced:
            # Only then: a page that follows the turn gets its end after its text, and a page that has just connected
            # again is about to follow it, and would take this for the end of a text it has not got yet.
            self.announced.discard(turn_id)
            self.run_in_background(self.announce_end(turn_id))

    async def announce_start(self, turn_id: UUID) -> None:
        async with self.announcing:
            turn, events = await self.share.render(render_started, self.user, turn_id)
            for event in events:
                await self.send_event(event)
            if not turn.is_open and turn_id in self.announced:  # the news of its end may have come first, or got lost
                self.announced.discard(turn_id)
                await self.send_end(turn_id)

    async def announce_end(self, turn_id: UUID) -> None:
        async with self.announcing:
            await self.send_end(turn_id)

    async def announce_change(self, conversation_id: UUID) -> None:
        """A conversation got another title or place, or is gone; or the whole list has changed."""
        async with self.announcing:
            if conversation_id == WHOLE_LIST:
                await self.send_event(list_event())
            else:
                await self.send_event(await self.share.render(render_conversation, self.user, conversation_id))

    async def dispatch(self, message: Any) -> None:
        """As Channels does, without its thread hop to close connections: `in_thread` closes them."""
        await getattr(self, get_handler_name(message))(message)

    # --- Background tasks --------------------------------------------------------------------------------------------

    def run_in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.background.add(task)
        task.add_done_callback(self.on_background_done)

    def on_background_done(self, task: "asyncio.Task[None]") -> None:
        self.background.discard(task)
        if error := _find_failure(task):  # the socket stays open: what was lost is there when the page is loaded again
            logger.warning("Notice lost", exc_info=error)


def _to_question(command: Start) -> Question:
    return Question(
        turn_id=command.turn_id,
        conversation_id=command.conversation_id,
        text=command.text,
        model=command.model or "",
        effort=command.effort or "",
        parent_id=LATEST if command.parent_id is UNSET else command.parent_id,
        attachments=tuple(command.attachments),
        beside_id=command.beside_id,
        folder_id=command.folder_id,
    )


def _open_and_render(admission: Admission, question: Question) -> tuple[User, OpenedTurn, list[SocketEvent]]:
    """Ask once more who this is, open the turn and render its events: one visit to a thread for all. Some errors get
    their sentence when they are raised, hence the person's language. Raises AccessEnded and what `open_turn` does, and
    ApiNotInPlan where a program asks."""
    user = find_admitted(admission)
    if user is None:
        raise AccessEnded
    with localized_for(user):
        if admission.family is not None:
            check_api(user.pk)
        opened = open_turn(user.pk, question)
    return user, opened, render_opened(user, opened)


def _find_failure(task: "asyncio.Task[None]") -> BaseException | None:
    """Return why a task failed; None if it did not, if the socket went away (OSError), or if what it was about was
    deleted meanwhile (NotFound)."""
    error = None if task.cancelled() else task.exception()
    return None if isinstance(error, OSError | NotFound) else error
