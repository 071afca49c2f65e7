"""Who has something open in this process, a socket or a stream: they are asked again and again whether they may.

A notification that something of a person is over makes their guests asked at once. Those that got lost are made up for
every RECHECK_SECONDS, in one go for the whole process, however many guests there are.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from contextvars import Context
from dataclasses import dataclass

from django.utils import timezone

from accounts.admission import Admission, list_ended
from chat.turns.log import WAKE_UPS, Entry, EntryKind, encode_entries
from chat.turns.watching import hub
from core.errors import STORES_AWAY
from core.loops import PerLoop
from core.redis_clients import sync_redis
from core.sweeps import in_portions
from core.threads import in_thread

logger = logging.getLogger(__name__)

RECHECK_SECONDS = 30.0


@dataclass(eq=False, slots=True)
class Guest:
    """Something that is open: `shut_out` is called once, when its admission is over."""

    admission: Admission
    shut_out: Callable[[], None]
    expiry: asyncio.TimerHandle | None = None


class Guests:
    """The guests of the running loop."""

    def __init__(self) -> None:
        self._guests: dict[int, set[Guest]] = {}  # by user
        self._rechecking: asyncio.Task[None] | None = None
        self._to_ask: set[Guest] = set()
        self._asking: asyncio.Task[None] | None = None

    async def admit(self, admission: Admission, shut_out: Callable[[], None]) -> Guest:
        """Ask from now on whether this admission is over, until `dismiss`."""
        guest = Guest(admission, shut_out)
        self._guests.setdefault(admission.user_id, set()).add(guest)
        if admission.expires_at is not None:
            seconds = (admission.expires_at - timezone.now()).total_seconds()
            guest.expiry = asyncio.get_running_loop().call_later(seconds, self._shut_out, guest)
        if self._rechecking is None or self._rechecking.done():
            self._rechecking = asyncio.create_task(self._keep_asking(), context=Context())
        try:
            await hub().listen(admission.user_id, self._on_news)
        except BaseException:
            self.dismiss(guest)
            raise
        self._ask_soon([guest])  # a notification may have come since they were let in, and before this
        return guest

    def dismiss(self, guest: Guest) -> None:
        """Ask no more; may be repeated."""
        if guest.expiry is not None:
            guest.expiry.cancel()
        user_id = guest.admission.user_id
        guests = self._guests.get(user_id, set())
        guests.discard(guest)
        if not guests:
            self._guests.pop(user_id, None)
            hub().unlisten(user_id, self._on_news)

    def _on_news(self, entry: Entry) -> None:
        if entry.kind == EntryKind.REVOKED:
            self._ask_soon(list(self._guests.get(int(entry.text), ())))

    def _ask_soon(self, guests: Collection[Guest]) -> None:
        """Ask at once; if others are asked at this moment, then with all who come meanwhile: threads are few, and in a
        second hundreds may come."""
        self._to_ask.update(guests)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_all(), context=Context())

    async def _ask_all(self) -> None:
        while self._to_ask:
            asked, self._to_ask = list(self._to_ask), set()
            for some in in_portions(asked):
                await self._ask(some)

    async def _keep_asking(self) -> None:
        while self._guests:
            await asyncio.sleep(RECHECK_SECONDS)
            for some in in_portions([guest for guests in self._guests.values() for guest in guests]):
                await self._ask(some)

    async def _ask(self, guests: Collection[Guest]) -> None:
        try:
            ended = await in_thread(list_ended, {guest.admission for guest in guests})
        except STORES_AWAY as error:  # nobody knows: they are asked the next time
            logger.warning("Guests not asked", extra={"error": type(error).__name__})
            return
        except Exception:
            logger.exception("Guests not asked")
            return
        for guest in guests:
            if guest.admission in ended:
                self._shut_out(guest)

    def _shut_out(self, guest: Guest) -> None:
        if guest in self._guests.get(guest.admission.user_id, ()):
            self.dismiss(guest)
            guest.shut_out()


def announce_revocation(user_id: int) -> None:
    """Have every process ask this person's guests now. Raises RedisError."""
    entry = Entry(bytes(16), EntryKind.REVOKED, 0, 0, str(user_id))
    sync_redis().publish(WAKE_UPS, encode_entries([entry]))


_guests = PerLoop(Guests)


def guests() -> Guests:
    """Return the running loop's guests."""
    return _guests.get()
