"""The socket: translates commands and relays events. The rules are in chat/turns."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from channels.consumer import get_handler_name
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.sessions.backends.cache import SessionStore
from django.http import HttpRequest, parse_cookie
from django.http.request import split_domain_port, validate_host
from django.utils import timezone, translation
from django.utils.translation import ngettext
from msgspec import UNSET
from redis.exceptions import RedisError

from accounts.models import User
from billing import entitlements
from chat.errors import BadCommand
from chat.shown.fragments import turn_html
from chat.socket import vocabulary
from chat.socket.tickets import redeem_ticket
from chat.socket.vocabulary import Command, Start, Stop, Watch
from chat.turns import notices
from chat.turns.log import Entry, EntryKind
from chat.turns.opening import LATEST, OpenedTurn, Question, open_turn
from chat.turns.queue import opening_limit
from chat.turns.stopping import stop_turn
from chat.turns.watching import Place, Watcher, hub, watch
from core.errors import DomainError, NotFound, RateLimited, Unavailable
from core.threads import cancel_and_wait, in_thread
from history import access
from history.fragments import conversation_html
from history.models import Conversation, Turn

logger = logging.getLogger(__name__)

MAX_WATCHED = 32
"""Turns one page follows at once."""
MAX_MISTAKES = 20
"""Commands a client may get wrong before it is hung up on."""
RETRY_SECONDS = 1.0


class TurnConsumer(AsyncWebsocketConsumer):
    """One page's socket."""

    user: User
    watching: dict[UUID, "asyncio.Task[None]"]
    opening: set[UUID]  # turns this page is just asking for
    begun: set[UUID]  # turns of other tabs this page was told of and does not follow
    mistakes = 0
    background: set["asyncio.Task[None]"]
    telling: asyncio.Lock  # what other tabs do is told in order

    # --- Coming and going --------------------------------------------------------------------------------------------

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        """As Channels does, with one loop for commands and one for notices: its own makes two tasks for every message."""
        self.scope, self.base_send = scope, send
        layer = get_channel_layer(self.channel_layer_alias)
        assert layer is not None
        self.channel_layer = layer
        self.channel_name = await self.channel_layer.new_channel()
        self.watching, self.opening, self.begun, self.background = {}, set(), set(), set()
        self.telling = asyncio.Lock()
        try:
            while True:
                await self.dispatch(await receive())
        except StopConsumer:
            pass
        finally:
            await self.leave()

    async def connect(self) -> None:
        user = await in_thread(_authenticate, dict(self.scope))
        if user is None:
            await self.close()  # before accept: the handshake is answered with 403
            return
        self.user = user
        await self.channel_layer.group_add(notices.notice_group(user.pk), self.channel_name)
        self.spawn(self.follow_notices())
        await hub().listen(user.pk, self.hear)
        await self.accept()

    async def websocket_disconnect(self, message: Any) -> None:
        """As Channels does, without its thread hop to close connections."""
        raise StopConsumer

    async def leave(self) -> None:
        """End what this socket began, however it ended itself."""
        await cancel_and_wait((*self.watching.values(), *self.background))
        if hasattr(self, "user"):
            hub().unlisten(self.user.pk, self.hear)
            await self.channel_layer.group_discard(notices.notice_group(self.user.pk), self.channel_name)

    # --- Commands in -------------------------------------------------------------------------------------------------

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        turn_id = None
        try:
            command = vocabulary.parse_command(text_data or "")
            turn_id = command.turn_id
            await self.obey(command)
        except DomainError as error:
            await self.reject(turn_id, error)
            self.mistakes += isinstance(error, BadCommand)
            if self.mistakes > MAX_MISTAKES:
                await self.close(1008)
        except Exception:
            logger.exception("Command failed", extra={"user_id": self.user.pk, "turn_id": turn_id})
            await self.reject(turn_id, Unavailable())

    async def obey(self, command: Command) -> None:
        match command:
            case Start():
                await self.start(command)
            case Stop():
                await stop_turn(await in_thread(access.access_turn, self.user.pk, command.turn_id))
            case Watch():
                turn = await in_thread(access.access_turn, self.user.pk, command.turn_id)
                self.watch(turn, Place(command.gen, command.at, command.reasoning_at))

    async def start(self, command: Start) -> None:
        if command.turn_id not in self.watching:
            self.require_room()
        async with opening_limit().slot():
            await self.open_and_watch(command)

    async def open_and_watch(self, command: Start) -> None:
        question = _question(command)
        watcher = None
        if command.turn_id not in self.watching:
            watcher = await hub().add_new(command.turn_id)  # before the turn can say anything
        self.opening.add(command.turn_id)
        try:
            opened, events = await in_thread(self.open, question)
            for event in events:
                await self.send_event(event)
            if watcher is not None and not opened.is_new:
                watcher.mark_gap()
            self.watch(opened.turn, watcher=watcher)
        except BaseException:
            if watcher is not None:
                hub().remove(watcher)
            raise
        finally:
            self.opening.discard(command.turn_id)

    async def reject(self, turn_id: UUID | None, error: DomainError) -> None:
        with _speaking_to(self.user):
            detail = str(error.message)
        await self.send_event(vocabulary.rejected(turn_id, error.code, detail, error.retry_after))

    # --- Live text out -----------------------------------------------------------------------------------------------

    def watch(self, turn: Turn, place: Place | None = None, *, watcher: Watcher | None = None) -> None:
        """Follow a turn from `place`; a turn that is followed already starts over from there."""
        self.begun.discard(turn.pk)
        if old := self.watching.pop(turn.pk, None):
            old.cancel()
            self.spawn(cancel_and_wait((old,)))
        self.require_room()
        task = self.watching[turn.pk] = asyncio.create_task(self.relay(turn, place, watcher))
        task.add_done_callback(lambda done: self.watched(turn.pk, done))
        if watcher is not None:  # a task that is cancelled before it begins cleans up nothing
            task.add_done_callback(lambda _done: hub().remove(watcher))

    def require_room(self) -> None:
        if len(self.watching) >= MAX_WATCHED:
            raise RateLimited

    def watched(self, turn_id: UUID, task: "asyncio.Task[None]") -> None:
        if self.watching.get(turn_id) is task:
            del self.watching[turn_id]
        # An OSError is a socket that went away; NotFound, a conversation deleted while it was being read.
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, OSError | NotFound):
            logger.error("Relay broke", exc_info=error, extra={"turn_id": turn_id})
            self.spawn(self.close(1011))  # the page comes back, and goes on where it was

    async def relay(self, turn: Turn, place: Place | None, watcher: Watcher | None) -> None:
        send: Any = self.base_send  # past what Channels would ask of every message
        async with aclosing(watch(turn, place, watcher=watcher)) as batches:
            async for entries in batches:
                for entry in entries:
                    if entry.kind == EntryKind.END:
                        await self.send_end(turn.pk)
                    elif entry.kind == EntryKind.WAITING:
                        await self.send_event(vocabulary.waiting(turn.pk, entry.at))
                    else:
                        await send({"type": "websocket.send", "text": vocabulary.text_frame(entry)})

    async def send_end(self, turn_id: UUID) -> None:
        for event in await in_thread(self.end, turn_id):
            await self.send_event(event)

    # --- What happens elsewhere ---------------------------------------------------------------------------------------

    def hear(self, entry: Entry) -> None:
        """A turn of this person was opened or ended, here or in another tab."""
        turn_id = UUID(bytes=entry.turn)
        if entry.kind == EntryKind.OPENED:
            if turn_id not in self.watching and turn_id not in self.opening and turn_id not in self.begun:
                self.begun.add(turn_id)
                self.spawn(self.tell_begun(turn_id))
        elif turn_id in self.begun:
            # Who follows a turn learns its end from its text; who has just come back is about to ask for that text,
            # and would take the end for the end of it.
            self.begun.discard(turn_id)
            self.spawn(self.tell_end(turn_id))

    async def tell_begun(self, turn_id: UUID) -> None:
        async with self.telling:
            turn, events = await in_thread(self.begin, turn_id)
            for event in events:
                await self.send_event(event)
            if not turn.is_open and turn_id in self.begun:  # the word of its end may have come first, or got lost
                self.begun.discard(turn_id)
                await self.send_end(turn_id)

    async def tell_end(self, turn_id: UUID) -> None:
        async with self.telling:
            await self.send_end(turn_id)

    def spawn(self, telling: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(telling)
        self.background.add(task)
        task.add_done_callback(self.told)

    def told(self, task: "asyncio.Task[None]") -> None:
        self.background.discard(task)
        # What a notice tells can be seen again; it must not cost the page its socket.
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, OSError | NotFound):
            logger.warning("Notice lost", exc_info=error)

    async def follow_notices(self) -> None:
        while True:
            try:
                notice = await self.channel_layer.receive(self.channel_name)
            except (RedisError, OSError):
                await asyncio.sleep(RETRY_SECONDS)
                # Who was emptied knows of no group any more.
                with suppress(RedisError, OSError):
                    await self.channel_layer.group_add(notices.notice_group(self.user.pk), self.channel_name)
                continue
            try:
                await self.dispatch(notice)
            except Exception as error:
                if not isinstance(error, OSError):  # else the socket went away
                    logger.warning("Notice lost", exc_info=True, extra={"notice": notice["type"]})

    async def dispatch(self, message: Any) -> None:
        """As Channels does, without its thread hop to close connections: `in_thread` sees to them."""
        await getattr(self, get_handler_name(message))(message)

    async def notice_conversation(self, message: dict[str, Any]) -> None:
        """A conversation got another title, or is gone."""
        await self.send_event(await in_thread(self.conversation, UUID(message["conversation_id"])))

    async def notice_revoked(self, _message: dict[str, Any]) -> None:
        """The person was suspended or signed out everywhere."""
        await self.close(4401)

    async def send_event(self, event: Any) -> None:
        await self.send(text_data=vocabulary.encode(event).decode())

    # --- What events say: sync, each in one go beside the loop -------------------------------------------------------

    def open(self, question: Question) -> tuple[OpenedTurn, list[dict[str, Any]]]:
        with _speaking_to(self.user):
            opened = open_turn(self.user.pk, question)
            events = [vocabulary.started(opened.turn, turn_html(opened.turn))]
            if opened.conversation is not None:
                events.append(_conversation_changed(opened.conversation))
                if opened.turn.trimmed_turns:
                    events.append(vocabulary.notice("info", _trimmed(opened.turn)))
        return opened, events

    def begin(self, turn_id: UUID) -> tuple[Turn, list[dict[str, Any]]]:
        turn = access.access_turn(self.user.pk, turn_id)
        with _speaking_to(self.user):
            started = vocabulary.started(turn, turn_html(turn))
        return turn, [started, self.conversation(turn.conversation_id)]

    def end(self, turn_id: UUID) -> list[dict[str, Any]]:
        turn = access.access_turn(self.user.pk, turn_id)
        with _speaking_to(self.user):
            ended = vocabulary.ended(turn, turn_html(turn))
        return [ended, vocabulary.allowance_changed(entitlements.allowance_of(self.user.pk))]

    def conversation(self, conversation_id: UUID) -> dict[str, Any]:
        """Return the conversation's line of the sidebar; empty when it is gone."""
        conversation = access.find_conversation(conversation_id)
        if conversation is None or conversation.owner_id != self.user.pk:
            return vocabulary.conversation_changed(conversation_id, "")
        with _speaking_to(self.user):
            return _conversation_changed(conversation)


@contextmanager
def _speaking_to(user: User) -> Iterator[None]:
    """The person's language and time zone, for what is rendered in between."""
    with translation.override(user.locale), timezone.override(user.zone):
        yield


def _authenticate(scope: dict[str, Any]) -> User | None:
    """Return whose socket this is: the ticket's owner, or the session's when the page is our own; None to refuse.

    Channels' session middleware is not used: it would look at every message that is sent.
    """
    headers = dict(scope["headers"])
    origin = headers.get(b"origin", b"").decode("latin-1")
    if origin and not _is_ours(origin):
        return None
    query = parse_qs(scope["query_string"].decode("latin-1"))
    if "ticket" in query:
        return User.objects.filter(pk=redeem_ticket(query["ticket"][0]) or 0, is_active=True).first()
    if not origin:  # a cookie without an origin is not a browser's page
        return None
    request = HttpRequest()
    cookies = parse_cookie(headers.get(b"cookie", b"").decode("latin-1"))
    request.session = SessionStore(cookies.get(settings.SESSION_COOKIE_NAME))
    user = get_user(request)
    return user if isinstance(user, User) and user.is_active else None


def _is_ours(origin: str) -> bool:
    """Return whether a page of this origin is one of ours. What is no address at all is not."""
    try:
        host, _port = split_domain_port(urlsplit(origin).netloc)  # keeps the brackets ALLOWED_HOSTS has
    except ValueError:
        return False
    return validate_host(host, settings.ALLOWED_HOSTS)


def _question(command: Start) -> Question:
    return Question(
        turn_id=command.turn_id,
        conversation_id=command.conversation_id,
        text=command.text,
        model=command.model or "",
        effort=command.effort or "",
        parent_id=LATEST if command.parent_id is UNSET else command.parent_id,
        attachments=tuple(command.attachments),
    )


def _conversation_changed(conversation: Conversation) -> dict[str, Any]:
    return vocabulary.conversation_changed(conversation.pk, conversation_html(conversation))


def _trimmed(turn: Turn) -> str:
    count = turn.trimmed_turns
    return ngettext(
        "The conversation is longer than the model can read: its oldest question was left out.",
        "The conversation is longer than the model can read: its %(count)d oldest questions were left out.",
        count,
    ) % {"count": count}
