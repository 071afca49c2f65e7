"""The OpenAI-compatible API: `/v1/models` and `/v1/chat/completions`.

What is asked goes through the same turn as a question of a page: it is counted, reserved, answered by a runner, and
settled. Whoever asks has to wait for the answer: if they go away, it is stopped. What has an `Idempotency-Key` goes on
until something of it was sent: an SDK that has waited too long goes away and sends the same again.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import AsyncExitStack, aclosing, suppress
from typing import IO, Any
from uuid import UUID

from asgiref.sync import async_to_sync
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.utils import translation
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext_lazy as _
from django.views.decorators.csrf import csrf_exempt
from rest_framework.decorators import api_view, authentication_classes, parser_classes
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.admission import admission_of
from accounts.http import user_id_of
from accounts.keys import KeyAuthentication, key_of, open_to_keys
from accounts.limits import say_limit
from accounts.models import ApiKey
from accounts.tokens import TokenAuthentication
from billing import entitlements
from chat.api.open_streams import OpenStream, one_more_stream
from chat.api.openai.answers import DONE, STILL_HERE, Chunks, document_of, encode
from chat.api.openai.errors import openai_error, response_to_turn, with_retry
from chat.api.openai.requests import CompletionRequest, asked_of, read_request
from chat.api.streams import EventStream, followed
from chat.errors import AccessEnded, UnknownModel
from chat.llm.catalog import Candidate, list_offered
from chat.llm.selection import AUTO
from chat.turns.completing import Completion, OpenedCompletion, open_completion
from chat.turns.known_turns import BeingWritten, await_written
from chat.turns.log import GROWING, Entry, EntryKind, read_begun
from chat.turns.stopping import stop_turn
from chat.turns.watching import Place, Watcher
from core.errors import DomainError, NotFound
from core.threads import in_thread
from history import access
from history.models import Turn
from history.temporary import completion_id_of, new_completion_id

HOLD_SECONDS = 20.0
"""How long a stream is held back for its first word: what fails before has the status of an error. After that it
begins, so that nobody in between takes it for dead."""

IDEMPOTENCY_KEY = "Idempotency-Key"
"""The header that says that two requests are one."""

BY_PROGRAMS = (KeyAuthentication, TokenAuthentication)
"""No session: another site could make a browser ask in its member's name."""


class BytesParser(BaseParser):
    """A body as it is, whatever it says of itself. config/bodies.py limits its length."""

    media_type = "*/*"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        body: bytes = stream.read()
        return body


class NoSuchAddress(NotFound):
    code = "unknown_url"
    message = _("There is no such address here. There are /v1/models, /v1/models/… and /v1/chat/completions.")


@csrf_exempt
def unknown(request: HttpRequest) -> HttpResponse:
    raise NoSuchAddress


async def models(request: HttpRequest) -> HttpResponse:
    """List the models that may be asked: `auto`, which chooses among the others, then those of the plan and the key."""
    return await in_thread(_models, request)


@open_to_keys(GET=ApiKey.Scope.CHAT)
@api_view(["GET"])
@authentication_classes(BY_PROGRAMS)
def _models(request: Request) -> Response:
    found = _list_allowed(request)
    auto = [_auto()] if found else []
    return Response({"object": "list", "data": [*auto, *map(_shown, found)]})


async def model(request: HttpRequest, model_id: str) -> HttpResponse:
    """One of those models."""
    return await in_thread(_model, request, model_id)


@open_to_keys(GET=ApiKey.Scope.CHAT)
@api_view(["GET"])
@authentication_classes(BY_PROGRAMS)
def _model(request: Request, model_id: str) -> Response:
    if model_id == AUTO:
        return Response(_auto())
    for candidate in _list_allowed(request):
        if candidate.model.key == model_id:
            return Response(_shown(candidate))
    raise UnknownModel


@csrf_exempt
async def chat_completions(request: HttpRequest) -> HttpResponseBase:
    """Answer a conversation: with one document, or as server-sent events when `stream` is true."""
    opening = asyncio.ensure_future(in_thread(_open, request))
    try:
        response: HttpResponseBase = await asyncio.shield(opening)
    except asyncio.CancelledError:  # the client is gone; the thread goes on
        opening.add_done_callback(_leave_what_opened)
        raise
    if not isinstance(response, _Opened):
        return response
    return await (_stream(response) if response.wanted.stream else _answer(response))


class _Opened(HttpResponse):
    """What the request has opened. It is no answer: its view makes one of it."""

    def __init__(
        self, opened: OpenedCompletion, wanted: CompletionRequest, stream: OpenStream, *, may_come_again: bool
    ) -> None:
        super().__init__()
        self.opened = opened
        self.may_come_again = may_come_again
        self.wanted = wanted
        self.stream = stream
        self.language = translation.get_language()


@open_to_keys(POST=ApiKey.Scope.CHAT)
@api_view(["POST"])
@authentication_classes(BY_PROGRAMS)
@parser_classes([BytesParser])
def _open(request: Request) -> HttpResponse:
    body: Any = request.data
    wanted = read_request(body if isinstance(body, bytes) else b"")
    completion = Completion(
        turn_id=_turn_id_of(request, is_kept=_is_kept(request, wanted)),
        asked=asked_of(wanted),
        model=wanted.model,
        effort=wanted.reasoning_effort or "",
        max_output=wanted.max_output,
        key=key_of(request),
    )
    with one_more_stream(admission_of(request)) as stream:
        opened = _open_or_await(user_id_of(request), completion)
        if opened.limit is not None:
            say_limit(request, opened.limit)
        return _Opened(opened, wanted, stream, may_come_again=IDEMPOTENCY_KEY in request.headers)


def _open_or_await(owner_id: int, completion: Completion) -> OpenedCompletion:
    try:
        return open_completion(owner_id, completion)
    except BeingWritten:
        close_old_connections()
    async_to_sync(await_written)(completion.turn_id)
    return open_completion(owner_id, completion)


def _is_kept(request: Request, wanted: CompletionRequest) -> bool:
    """Return whether it goes into the history: the API key says so, and this request nothing against it."""
    key = key_of(request)
    return key is not None and bool(key.keeps_conversations) and wanted.store is not False


def _turn_id_of(request: Request, *, is_kept: bool) -> UUID:
    """Return the id of the turn: the same for the same `Idempotency-Key` of a person, who came with the same API key:
    another one of theirs reads nothing of what was asked with this. Nobody else can tell the id, and use it first."""
    given = request.headers.get(IDEMPOTENCY_KEY, "")
    if not given:
        return new_completion_id(is_kept=is_kept)
    key = key_of(request)
    parts = f"{user_id_of(request)}\n{key.pk if key else ''}\n{given}"
    digest = salted_hmac("chat.completions", parts, algorithm="sha256").digest()
    return completion_id_of(digest, is_kept=is_kept)


# --- Waiting for the answer ------------------------------------------------------------------------------------------


async def _answer(given: _Opened) -> HttpResponseBase:
    """Return the whole answer, with the status it has: nothing is sent before."""
    turn = given.opened.turn
    watcher, is_over = Watcher(turn.pk, Place()), False
    try:
        with given.stream:
            async with followed(watcher, turn, given.stream.admission) as batches:
                async for _entries in batches:
                    pass
        is_over = True
        saved = await in_thread(access.access_completion, turn.owner_id, turn.pk)
    except (NotFound, AccessEnded) as error:
        return _refusal(error, given.language)
    except asyncio.CancelledError:
        is_over = given.may_come_again
        raise
    finally:
        if not is_over:
            _stop_soon(turn)
    with translation.override(given.language):
        response: HttpResponse | None = response_to_turn(saved, is_new=given.opened.is_new)
    if response is None:
        response = HttpResponse(encode(document_of(saved)), content_type="application/json")
    response["X-Cost-Micros"] = str(saved.cost_micros or 0)
    return response


async def _stream(given: _Opened) -> HttpResponseBase:
    """Return the answer as server-sent events, once it has begun; or the error, if it fails before."""
    turn = given.opened.turn
    reading, is_begun, is_left = _Reading(given), False, False
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(HOLD_SECONDS):
                await reading.begin()
        if reading.watcher.is_ended:
            saved = await in_thread(access.access_completion, turn.owner_id, turn.pk)
            with translation.override(given.language):
                failed = response_to_turn(saved, is_new=given.opened.is_new)
            if failed is not None:
                return failed
        is_begun = True
    except (NotFound, AccessEnded) as error:
        return _refusal(error, given.language)
    except asyncio.CancelledError:
        is_left = given.may_come_again
        raise
    finally:
        if not is_begun:
            given.stream.close()
            await reading.aclose()
            if not reading.watcher.is_ended and not is_left:
                _stop_soon(turn)
    return EventStream(_Content(given, reading))


class _Reading:
    """What comes of an answer, from its start: read until it has begun, and later to its end, as one reader."""

    def __init__(self, given: _Opened) -> None:
        self._given = given
        self.watcher = Watcher(given.opened.turn.pk, Place())
        self._context = AsyncExitStack()
        self._batches: AsyncGenerator[list[Entry]] | None = None
        self._read: list[list[Entry]] = []
        self._has_begun = False

    async def begin(self) -> None:
        """Return when the answer has begun, or is over."""
        async for entries in await self._follow():
            self._read.append(entries)
            if any(entry.kind in GROWING or entry.kind == EntryKind.END for entry in entries):
                self._has_begun = True
                return

    async def batches(self) -> AsyncGenerator[list[Entry]]:
        """Yield all of it; what was read before, first."""
        if not self._has_begun:  # `begin` was cancelled, and what it read from is over
            await self.aclose()
            self.watcher, self._read = Watcher(self._given.opened.turn.pk, Place()), []
        for entries in self._read:
            yield entries
        async for entries in await self._follow():
            yield entries

    async def _follow(self) -> AsyncGenerator[list[Entry]]:
        if self._batches is None:
            turn, admission = self._given.opened.turn, self._given.stream.admission
            self._batches = await self._context.enter_async_context(followed(self.watcher, turn, admission))
        return self._batches

    async def aclose(self) -> None:
        """Read no more; may be repeated."""
        self._batches = None
        await self._context.aclose()


class _Content:
    """What a stream sends. Django calls `close` when it is over, also when its content was never asked for."""

    def __init__(self, given: _Opened, reading: _Reading) -> None:
        self._given = given
        self._reading = reading
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> AsyncGenerator[bytes]:  # Django calls it as the response is made, long before it is sent
        return _events(self._given, self._reading)

    def close(self) -> None:
        stream = self._given.stream
        stream.close()
        if stream.is_begun:
            return
        if self._loop.is_running():  # nobody waits: all requests share the thread that closes them
            asyncio.run_coroutine_threadsafe(self._leave(), self._loop)
        else:  # Django's test client
            async_to_sync(self._leave)()

    async def _leave(self) -> None:
        await self._reading.aclose()
        if not self._given.may_come_again:
            await stop_turn(self._given.opened.turn)


async def _events(given: _Opened, reading: _Reading) -> AsyncGenerator[bytes]:
    turn, is_over = given.opened.turn, False
    model = read_begun(reading.watcher.begun).model or turn.requested_model
    chunks = Chunks(turn, model, wants_usage=given.wanted.wants_usage)
    try:
        with given.stream:
            yield chunks.first()
            async with aclosing(reading.batches()) as batches:
                async for entries in batches:
                    if not entries:
                        yield STILL_HERE
                    elif parts := b"".join(chunks.of(entry) for entry in entries):
                        yield parts
            is_over = True
            saved = await in_thread(access.access_completion, turn.owner_id, turn.pk)
            with translation.override(given.language):
                last = b"".join(chunks.last(saved, is_new=given.opened.is_new))
            yield last
    except (NotFound, AccessEnded) as error:
        with translation.override(given.language):
            _status, body = openai_error(error.code, str(error.message), status=error.status)
        yield b"data: " + encode(body) + b"\n\n" + DONE
    finally:
        await reading.aclose()
        if not is_over:
            _stop_soon(turn)


def _refusal(error: DomainError, language: str | None) -> JsonResponse:
    with translation.override(language):
        status, body = openai_error(error.code, str(error.message), status=error.status)
    return with_retry(JsonResponse(body, status=status), body["error"]["code"])


# --- Nobody waits any more -------------------------------------------------------------------------------------------

_stopping: set[asyncio.Task[None]] = set()


def _stop_soon(turn: Turn) -> None:
    """Stop a turn that nobody will read: whoever waited for it is gone, or may not be here any more."""
    _run(stop_turn(turn))


def _leave_what_opened(opening: "asyncio.Future[HttpResponse]") -> None:
    if opening.cancelled() or opening.exception() is not None:
        return
    response = opening.result()
    if isinstance(response, _Opened):
        response.stream.close()
        if not response.may_come_again:
            _stop_soon(response.opened.turn)


def _run(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.get_running_loop().create_task(work)
    _stopping.add(task)
    task.add_done_callback(_on_stopped)


def _on_stopped(task: asyncio.Task[None]) -> None:
    _stopping.discard(task)
    if not task.cancelled():
        task.exception()  # seen: Redis is away, and the answer goes on to its end


# --- Models ----------------------------------------------------------------------------------------------------------


def _list_allowed(request: Request) -> list[Candidate]:
    allowed, key = entitlements.entitlements_of(user_id_of(request)), key_of(request)
    only = key.model_ids if key else ()
    return [
        candidate
        for candidate in list_offered()
        if allowed.includes_tier(candidate.model.tier) and (not only or candidate.model.key in only)
    ]


def _auto() -> dict[str, Any]:
    return {"id": AUTO, "object": "model", "created": 0, "owned_by": "tertulia"}


def _shown(candidate: Candidate) -> dict[str, Any]:
    return {
        "id": candidate.model.key,
        "object": "model",
        "created": 0,
        "owned_by": candidate.provider.slug,
    }
