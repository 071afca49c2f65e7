"""`manage.py smoke`: tries the real providers, history database and mail server, which tests replace with fakes. It
asks (and pays) each provider that has a key for one short answer."""

import asyncio
import datetime as dt
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.mail import EmailMessage
from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from chat.llm.catalog import Candidate, list_offered
from chat.llm.dispatch import AnswerRequest, answer_with_failover
from chat.llm.pricing import price_of
from chat.llm.providers.base import Delta, Finish, Message
from history import deletion, progress, tree
from history.models import Turn, new_id
from history.queries import parse_query
from history.search import search_turns

NOBODY_ID = 0
"""The owner of the conversation that is written and deleted again."""
QUESTION = "Reply with one short greeting."
MAX_ANSWER_TOKENS = 1_000  # a model that reasons needs some before its first word


class Command(BaseCommand):
    help = (
        "Ask each configured provider one question (it costs a fraction of a cent), write to the history, send a mail."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--mail", metavar="ADDRESS", help="send a mail to this address")

    def handle(self, *_args: Any, **options: Any) -> None:
        self.failures = 0
        for candidate in list_cheapest_models():
            with self.report_on(f"{candidate.provider.name}, {candidate.model.label}"):
                self.stdout.write(asyncio.run(ask_candidate(candidate)))
        with self.report_on(f"History on {connections['history'].vendor}"):
            check_history()
        if options["mail"]:
            with self.report_on(f"Mail to {options['mail']}"):
                EmailMessage("Tertulia", "It works.", to=[options["mail"]]).send()
        if self.failures:
            raise CommandError(f"{self.failures} did not work.")

    @contextmanager
    def report_on(self, what: str) -> Iterator[None]:
        """Report whether the block worked. A failure does not keep the next from being tried."""
        begun = time.monotonic()
        try:
            yield
        except Exception as error:  # noqa: BLE001  whatever it is, the operator wants to read it
            self.failures += 1
            self.stdout.write(f"{what}: FAILED, {type(error).__name__}: {error}")
        else:
            self.stdout.write(f"{what}: works, {time.monotonic() - begun:.1f} s")


def list_cheapest_models() -> list[Candidate]:
    """Return one model of each configured provider: the one with the cheapest output."""
    cheapest: dict[str, Candidate] = {}
    for candidate in sorted(list_offered(), key=lambda candidate: price_of(candidate.model).tiers[0].output):
        cheapest.setdefault(candidate.provider.slug, candidate)
    return list(cheapest.values())


async def ask_candidate(candidate: Candidate) -> str:
    """Return the answer and its tokens, as a line of the report."""
    request = AnswerRequest(
        messages=(Message("user", QUESTION),), max_output=min(MAX_ANSWER_TOKENS, candidate.model.max_output)
    )
    text, finish = "", None
    async for event in answer_with_failover([candidate], request):
        if isinstance(event, Delta):
            text += event.text
        elif isinstance(event, Finish):
            finish = event
    if not text or finish is None:
        raise ValueError("nothing was answered")
    if finish.usage is None:
        return f"  {text.strip()!r}, no usage reported"
    usage = finish.usage
    return f"  {text.strip()!r}, {usage.input} + {usage.output} tokens"


def check_history() -> None:
    """Write a conversation, close its turn, find it by a word, delete it."""
    conversation = tree.get_or_create_conversation(NOBODY_ID, new_id(), title="Smoke")
    try:
        turn = Turn(
            pk=new_id(),
            owner_id=NOBODY_ID,
            conversation_id=conversation.pk,
            question="¿Dónde?",
            requested_model="smoke",
            max_output=1,
        )
        turn = tree.add_turn(turn)
        if not progress.claim(turn) or not progress.close(turn, progress.Outcome(Turn.Status.COMPLETED, "Aquí.")):
            raise ValueError("a turn could not be closed")
        if turn.pk not in [hit.turn.pk for hit in search_turns(NOBODY_ID, parse_query("donde aqui", dt.UTC)).rows]:
            raise ValueError("a turn was not found")
    finally:
        deletion.delete_conversation(conversation)
