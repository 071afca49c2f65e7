"""Moves batches on: a worker checks their files, has a few lines of each answered at a time, and ends them.

A line is a turn like any that a program asks: admitted, reserved, answered by a runner and settled, under an id that
follows from the line. Its answer comes into the line's row in the transaction that settles it
(chat/turns/line_answers.py), whether a worker is there or not. So a worker only opens what waits, and whatever it dies
on, the next one opens the same turn, or finds it.
"""

import datetime as dt
import logging
import time
from threading import BoundedSemaphore
from typing import IO, Any, cast
from uuid import UUID

from celery import shared_task
from django.conf import settings
from django.db import OperationalError as DatabaseAway
from django.db import close_old_connections, transaction
from django.utils import timezone, translation
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from accounts.models import ApiKey, User
from billing import entitlements, metering
from billing.errors import AllowanceUsedUp, SpendLimitReached, TooManyAtOnce
from chat.batches import states
from chat.batches.lines import completion_of, read_body, turn_id_of
from chat.batches.results import LOST
from chat.batches.states import BatchLost, write_batch
from chat.batches.validating import validate_portion
from chat.batches.webhooks import tell_soon, webhook_fields
from chat.errors import KeyUsedUp, NoModel, QueueFull
from chat.models import Batch, BatchLine
from chat.turns.closing import settle_turn
from chat.turns.completing import AboveLimit, open_completion
from chat.turns.erasure import stop_and_settle
from chat.turns.line_answers import LineAnswer, end_line, keep_answer
from chat.turns.queue import count_waiting
from core import long_work, rows
from core.errors import Conflict, DomainError, NotFound, RateLimited, Unavailable
from core.sweeps import guard
from history.models import Turn
from history.temporary import find_temporary_turns

logger = logging.getLogger(__name__)

LINES_AT_ONCE = 8
"""Lines of one person that are asked at the same time at most, and half of what their plan has of answers at once: the
other half is for themselves."""
LINES_OF_SITE = 64
"""Lines of all batches together: each has fewer while many run."""
MOST_WAITING = 8
"""While more turns wait for a runner, no line joins them: people come first."""
PORTION_SECONDS = 10.0
"""After so long the worker hands on, and files and imports get their turn."""
PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 1.0
"""A batch in which nothing was to be done is left alone for a while, which grows: many may wait for slow answers."""
LOOK_SECONDS = 3.0
"""How often it is asked whether the batch may go on, and a sign of life is written."""
LOST_AFTER = dt.timedelta(seconds=5)
"""A line that is open for longer is looked at: its turn may be gone, or be over without an answer in its row."""
LONGEST = dt.timedelta(days=7)
PAUSES = ((QueueFull, 5), (TooManyAtOnce, 1), (RateLimited, 5), (NoModel, 30), (SpendLimitReached, 60))
"""What a line waits for, and for how many seconds: nothing was written or spent then."""

_driving = BoundedSemaphore(1)


def drive_soon() -> None:
    """Have a worker look at the batches now. Without a broker beat's task does it later."""
    try:
        drive_batches.delay()
    except OperationalError:
        logger.warning("Batch not handed over yet")


@shared_task(bind=True, max_retries=None, expires=60)
def drive_batches(self: Any) -> None:
    """Move all batches on for a while. Sent by whoever begins one, every 15 seconds, and by itself while any is open;
    one works in each worker process at a time, and comes back later where others have to come first."""
    if not _driving.acquire(blocking=False):
        return
    _driving.release()
    with long_work.take_place(_driving) as is_there_room:
        if not is_there_room:
            raise self.retry(countdown=1)
        is_left = drive(PORTION_SECONDS)
    if is_left:
        drive_soon()


def drive(seconds: float) -> bool:
    """Move all batches on that nobody else has, for so long at most; return whether any is left."""
    ends_at = time.monotonic() + seconds
    drivers: dict[UUID, _Driver] = {}
    try:
        while time.monotonic() < ends_at:
            open_ids = list_to_drive()
            if not open_ids:
                return False
            if not _drive_once(drivers, open_ids):
                close_old_connections()  # back into the pool: who sleeps must not keep others from theirs
                time.sleep(PAUSE_SECONDS)
    finally:
        for driver in drivers.values():
            driver.leave()
    return True


def list_to_drive() -> list[UUID]:
    """Return the batches that are open, the oldest first; of those of one person that run, the first to be started."""
    found = Batch.objects.filter(status__in=Batch.OPEN).order_by("started_at", "created_at", "pk")
    ids, running = [], set()
    for pk, owner_id, status in found.values_list("pk", "owner_id", "status"):
        if status == Batch.Status.RUNNING:
            if owner_id in running:
                continue
            running.add(owner_id)
        ids.append(pk)
    return ids


def _drive_once(drivers: "dict[UUID, _Driver]", open_ids: list[UUID]) -> bool:
    """Do a step of each batch; return whether anything was done."""
    is_done = False
    for pk in [pk for pk in drivers if pk not in open_ids]:
        drivers.pop(pk).leave()
    for pk in open_ids:
        if pk not in drivers:
            batch = states.claim_batch(pk)
            if batch is None:
                continue
            drivers[pk] = _Driver(batch)
        if drivers[pk].rests:
            continue
        try:
            is_done |= drivers[pk].step(share=max(1, LINES_OF_SITE // len(open_ids)))
        except BatchLost:
            drivers.pop(pk).close()
        except (DatabaseAway, RedisError, Unavailable):  # what is open stays so, and is looked at when they are back
            logger.warning("Store unreachable", extra={"batch_id": pk})
        except Exception:
            logger.exception("Batch not moved on", extra={"batch_id": pk})
            drivers.pop(pk).close()  # and it is not left to others before CLAIM_LASTS
    return is_done


class _Driver:
    """One batch that this worker has, for as long as it has it."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._looked_at = -LOOK_SECONDS
        self._pause_seconds = PAUSE_SECONDS
        self._rests_until = 0.0
        self._file: IO[bytes] | None = None
        self._key: ApiKey | None = None
        self._at_once = 1
        self._refused_alone = 0
        self._locale = settings.LANGUAGE_CODE

    @property
    def rests(self) -> bool:
        return time.monotonic() < self._rests_until

    def step(self, *, share: int) -> bool:
        """Do what there is to do now; return whether anything was. Raises BatchLost, and what stores raise that are
        away."""
        is_done = False
        try:
            is_done = self._step(share)
        finally:
            self._pause_seconds = PAUSE_SECONDS if is_done else min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)
            self._rests_until = 0.0 if is_done else time.monotonic() + self._pause_seconds
        return is_done

    def _step(self, share: int) -> bool:
        if time.monotonic() - self._looked_at > LOOK_SECONDS and not self._look():
            return True
        batch = self._batch
        with translation.override(self._locale):
            if batch.status == Batch.Status.VALIDATING:
                validate_portion(batch, self._key)
                return True
            if batch.status == Batch.Status.STOPPING:
                return self._stop()
            return self._run(min(self._at_once, share))

    def leave(self) -> None:
        self.close()
        with guard("batch", batch_id=self._batch.pk):
            states.leave_batch(self._batch)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    # --- Whether it may go on ----------------------------------------------------------------------------------------

    def _look(self) -> bool:
        """Read the batch again, write a sign of life, and ask whether its owner may still have it run; return whether
        it goes on as it is."""
        batch = self._batch
        found = rows.find(Batch, pk=batch.pk)
        if found is None or found.gen != batch.gen or found.status not in Batch.OPEN:
            raise BatchLost
        self._batch = batch = found
        write_batch(batch)
        user = rows.find(User, pk=batch.owner_id)
        self._locale = user.locale if user else settings.LANGUAGE_CODE
        self._key = rows.find(ApiKey, pk=batch.with_key) if batch.with_key else None
        self._looked_at = time.monotonic()
        if batch.status == Batch.Status.STOPPING:
            return True
        if code := self._why_not(user):
            self._end_early(code)
            return False
        return True

    def _why_not(self, user: User | None) -> str:
        """Return why the batch may not go on; empty where it may."""
        batch, key = self._batch, self._key
        if user is None or not user.is_active:
            return "account_suspended"
        if user.closes_at is not None:
            return "account_closing"
        if batch.with_key and (key is None or key.revoked_at is not None or key.has_expired):
            return "key_not_valid"
        allowed = entitlements.entitlements_of(user.pk)
        if not allowed.has_batches:
            return "batches_not_in_plan"
        if not allowed.has_api and batch.with_key:
            return "api_not_in_plan"
        half = LINES_AT_ONCE if allowed.turns_at_once is None else allowed.turns_at_once // 2
        self._at_once = max(1, min(LINES_AT_ONCE, half))
        if batch.started_at is not None and batch.started_at < timezone.now() - LONGEST:
            return "batch_expired"
        return ""

    def _end_early(self, code: str) -> None:
        """Have it stopped, or refused if it is not running yet."""
        batch = self._batch
        if batch.status == Batch.Status.VALIDATING:
            over = {"status": Batch.Status.STOPPED, "error": code, "finished_at": timezone.now()}
            write_batch(batch, total=0, **over, **webhook_fields(batch))
            states.erase_lines(batch)
            states.drop_file(batch)
            tell_soon(batch)
            return
        write_batch(batch, status=Batch.Status.STOPPING, error=code)

    # --- Running -----------------------------------------------------------------------------------------------------

    def _run(self, at_once: int) -> bool:
        batch = self._batch
        lines = BatchLine.objects.filter(batch=batch)
        open_lines = list(lines.filter(status=BatchLine.Status.OPEN))
        self._look_after(open_lines)
        room = at_once - len(open_lines)
        if room <= 0 or count_waiting(MOST_WAITING + 1) > MOST_WAITING:
            return False
        now = timezone.now()
        waiting = list(lines.filter(status=BatchLine.Status.WAITING).order_by("number")[: room + LINES_AT_ONCE])
        due = [line for line in waiting if line.due_at is None or line.due_at <= now][:room]
        if not waiting and not open_lines:
            self._finish(Batch.Status.COMPLETED)
            return True
        is_done = False
        for line in due:
            if not self._take(line):
                return is_done
            is_done = True
            if not self._open(line):
                return is_done
        return is_done

    def _take(self, line: BatchLine) -> bool:
        """Mark a line as open before its turn is: so what it may cost counts, whatever this process dies on. Return
        whether that is left of the batch's limit; where it is not, and nothing else is open, the batch is stopped. What
        is open is looked at once, under the lock that whoever ends a line waits for: what that gives back may do."""
        batch = self._batch
        now = timezone.now()
        turn_id = turn_id_of(batch, line.number, line.tries)
        opened = {"status": BatchLine.Status.OPEN, "turn_id": turn_id, "opened_at": now}
        with transaction.atomic():
            before = {"pk": line.pk, "status": BatchLine.Status.WAITING, "tries": line.tries}
            if not rows.update(BatchLine, before, opened):
                raise BatchLost
            write_batch(batch)
            of_open = BatchLine.objects.filter(batch=batch, status=BatchLine.Status.OPEN)
            promised = list(of_open.values_list("most_micros", flat=True)) if batch.max_cost_micros is not None else []
            if self._is_within_limit(sum(promised)):
                line.status, line.turn_id, line.opened_at = BatchLine.Status.OPEN, turn_id, now
                return True
            transaction.set_rollback(True)
        if len(promised) == 1:
            self._end_early("max_cost")
        return False

    def _others_open(self, line: BatchLine) -> bool:
        of_open = BatchLine.objects.filter(batch=self._batch, status=BatchLine.Status.OPEN)
        return of_open.exclude(pk=line.pk).exists()

    def _is_within_limit(self, promised_micros: int) -> bool:
        batch = self._batch
        if batch.max_cost_micros is None:
            return True
        cost_micros: int = Batch.objects.values_list("cost_micros", flat=True).get(pk=batch.pk)
        return cost_micros + promised_micros <= batch.max_cost_micros

    def _open(self, line: BatchLine) -> bool:
        """Open the turn of a line that is marked as open; return whether the next may be."""
        batch = self._batch
        most_micros = None if batch.max_cost_micros is None else line.most_micros
        try:
            body = read_body(self._opened_file(), line)
            completion = completion_of(body, turn_id=cast("UUID", line.turn_id), key=self._key, most_micros=most_micros)
            opened = open_completion(batch.owner_id, completion)
        except FileNotFoundError:
            self._put_back(line)
            self._end_early("batch_file_lost")
            return False
        except Unavailable:  # nobody knows what was written: it is looked at later
            return False
        except AboveLimit as error:  # prices have changed since it was checked
            self._put_back(line, most_micros=error.needed_micros)
            return True
        except (AllowanceUsedUp, KeyUsedUp) as error:
            self._refused_alone = 0 if self._others_open(line) else self._refused_alone + 1
            self._put_back(line, seconds=0 if self._refused_alone else 2)
            if self._refused_alone > 1:  # at first another line may have ended a moment ago, and given back enough
                self._end_early(error.code)
            return False
        except Conflict:
            self._note_lost(line)
            return False
        except NotFound:  # the account is gone
            self._put_back(line)
            return False
        except DomainError as error:
            seconds = next((seconds for kind, seconds in PAUSES if isinstance(error, kind)), None)
            if seconds is not None:
                self._put_back(line, seconds=seconds)
                return False
            self._refuse(line, error)
            return True
        self._refused_alone = 0
        if not opened.is_new:
            self._take_over(line, opened.turn)
        elif self._is_given_up(line):
            stop_and_settle([opened.turn.pk])
            raise BatchLost
        return True

    def _is_given_up(self, line: BatchLine) -> bool:
        """Return whether another worker has ended the batch while this one was slow to open the line: nobody would get
        its answer, which would be paid. It may be answered already, or be waiting for another try."""
        found = rows.find(BatchLine, pk=line.pk)
        return found is None or (found.status == BatchLine.Status.WAITING and found.tries == line.tries)

    def _put_back(self, line: BatchLine, *, seconds: float = 0, most_micros: int | None = None) -> None:
        """Let a line wait that was not opened after all."""
        waiting: dict[str, Any] = {"status": BatchLine.Status.WAITING, "turn_id": None}
        waiting["due_at"] = timezone.now() + dt.timedelta(seconds=seconds) if seconds else None
        if most_micros is not None:
            waiting["most_micros"] = most_micros
        rows.update(BatchLine, {"pk": line.pk, "status": BatchLine.Status.OPEN}, waiting)

    def _refuse(self, line: BatchLine, error: DomainError) -> None:
        """End a line that is refused now, though it was not when it was checked."""
        said = LineAnswer(error=error.code, answer=str(error.message), refused_with=error.status)
        with transaction.atomic():
            end_line(line, said)

    def _opened_file(self) -> IO[bytes]:
        if self._file is None:
            self._file = states.open_file(self._batch)
        return self._file

    # --- What became of open lines -----------------------------------------------------------------------------------

    def _look_after(self, open_lines: list[BatchLine]) -> None:
        """Look at lines that are open for long: what somebody died on before their turn was written, or after it was
        closed, or what Redis has lost, is gone on with."""
        for line, turn in self._turns_of(open_lines):
            if turn is None:
                if self._is_gone(line):
                    self._open(line)
            elif not turn.is_open:
                self._take_over(line, turn)

    def _turns_of(self, open_lines: list[BatchLine]) -> list[tuple[BatchLine, Turn | None]]:
        """Return the lines that are open for long, with their turns as far as there are any."""
        long_ago = timezone.now() - LOST_AFTER
        old = [line for line in open_lines if line.turn_id and line.opened_at and line.opened_at < long_ago]
        turns = find_temporary_turns([line.turn_id for line in old if line.turn_id])
        return [(line, turns.get(cast("UUID", line.turn_id))) for line in old]

    def _is_gone(self, line: BatchLine) -> bool:
        """Return whether the turn of a line is neither there nor on its way. A hold that nobody ends is released by the
        sweep of turns."""
        reservation = metering.find_reservation(cast("UUID", line.turn_id))
        return reservation is None or reservation.state != reservation.State.HELD

    def _take_over(self, line: BatchLine, turn: Turn) -> None:
        """Settle a turn that is over, if that is not done, and see that its answer is kept."""
        if turn.is_open:
            return
        settle_turn(turn, turn)
        with transaction.atomic():  # settled before by a release that kept no answers: else it is kept now
            if (found := rows.find(BatchLine, pk=line.pk, status=BatchLine.Status.OPEN)) is not None:
                keep_answer(found, turn, turn, cost_micros=metering.find_cost(turn.pk))

    def _note_lost(self, line: BatchLine) -> None:
        """End a line whose turn is paid for and gone. That cannot be while its answer is kept as it is settled, unless
        another release of this site settled it. One that is gone and not paid for is opened again."""
        reservation = metering.find_reservation(cast("UUID", line.turn_id))
        if reservation is None or reservation.state != reservation.State.SETTLED:
            self._put_back(line, seconds=5)
            return
        logger.error("Answer to a line lost", extra={"batch_id": self._batch.pk, "line": line.number})
        with transaction.atomic():
            end_line(line, LineAnswer(error=LOST, cost_micros=metering.find_cost(cast("UUID", line.turn_id))))

    # --- The end -----------------------------------------------------------------------------------------------------

    def _stop(self) -> bool:
        """End a batch before its time: what is being written is paid for as any answer that is stopped; what its owner
        may still have is written to its end."""
        batch = self._batch
        open_lines = list(BatchLine.objects.filter(batch=batch, status=BatchLine.Status.OPEN))
        if batch.error not in ("max_cost", "allowance_used_up", "batches_not_in_plan", "batch_file_lost"):
            stop_and_settle([line.turn_id for line in open_lines if line.turn_id])
        for line, turn in self._turns_of(open_lines):
            if turn is not None:
                self._take_over(line, turn)
            elif self._is_gone(line):
                self._put_back(line)
        if open_lines:
            return False
        self._finish(Batch.Status.STOPPED if batch.error else Batch.Status.CANCELLED)
        return True

    def _finish(self, status: Batch.Status) -> None:
        batch = self._batch
        write_batch(batch, status=status, finished_at=timezone.now(), **webhook_fields(batch))
        self.close()
        states.drop_file(batch)
        tell_soon(batch)
