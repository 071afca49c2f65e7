"""Runs in a site's environment, as `python -m testbed.inside`, for as long as the site does.

Each line that comes is JSON, `[function, argument]`; each line that goes is `{"value": …}` or `{"error": traceback}`.
Django is imported once. Every call has a forked process with connections of its own, so nothing is kept between calls.
"""

import json
import os
import secrets
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY  # noqa: E402
from django.core.management import call_command  # noqa: E402
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken  # noqa: E402

from accounts.models import User  # noqa: E402
from billing.metering import list_unbalanced_periods  # noqa: E402
from billing.models import BillingAccount, Plan, Reservation, UsagePeriod, UsageRecord  # noqa: E402
from chat.models import LanguageModel  # noqa: E402
from core.cached_tables import RECHECK_SECONDS  # noqa: E402
from history import tree  # noqa: E402
from history.models import Turn, new_id  # noqa: E402


def prepare(_argument: None) -> None:
    """Do what `manage.py prepare` does."""
    call_command("prepare", verbosity=0)


def members(wanted: dict[str, Any]) -> list[str]:
    """Make members, on a plan with the given fields if there are any; return their access tokens."""
    plan = None
    if wanted["plan"] is not None:
        key = secrets.token_hex(4)
        plan = Plan.objects.create(**{"key": key, "name": key, "best_tier": "strong", "rank": 5, **wanted["plan"]})
    accesses = []
    for _ in range(wanted["count"]):
        user = User(email=f"{secrets.token_hex(6)}@example.com", locale="en")
        user.set_unusable_password()
        user.save()
        if plan is not None:
            BillingAccount.objects.create(user=user, plan=plan)
        accesses.append(str(RefreshToken.for_user(user).access_token))
    if plan is not None:
        wait_until_known()
    return accesses


def operator(_argument: None) -> str:
    """Make an operator who has a password; return their access token."""
    user = User.objects.create_superuser(f"{secrets.token_hex(6)}@example.com", secrets.token_hex(), locale="en")
    return str(RefreshToken.for_user(user).access_token)


def sessions(accesses: list[Any]) -> list[str]:
    """Log the owners of access tokens in, as a browser would be; return the keys of their sessions."""
    keys = []
    for access in accesses:
        user = User.objects.get(pk=AccessToken(access)["user_id"])
        session = import_module(settings.SESSION_ENGINE).SessionStore()
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session.save()
        keys.append(session.session_key)
    return keys


def converse(wanted: dict[str, Any]) -> str:
    """Write a conversation of so many finished turns for the owner of an access token; return its id."""
    owner_id = int(AccessToken(wanted["access"])["user_id"])
    conversation = tree.open_conversation(owner_id, new_id(), title="Long")
    parent = None
    for number in range(wanted["turns"]):
        turn = Turn(pk=new_id(), owner_id=owner_id, conversation_id=conversation.pk, parent_id=parent)
        turn.question, turn.answer = f"Question {number}", f"Answer **{number}**.\n\n```python\nx = {number}\n```\n"
        turn.status, turn.requested_model, turn.max_output = Turn.Status.COMPLETED, "auto", 100
        parent = tree.add_turn(turn).pk
    return str(conversation.pk)


def offer(models: list[dict[str, Any]]) -> None:
    """Offer models with the given fields, each by its key; what was there is changed."""
    for fields in models:
        LanguageModel.objects.update_or_create(key=fields["key"], defaults=fields)
    wait_until_known()


def wait_until_known() -> None:
    """Return when every process of the site has looked whether its cached tables have changed."""
    time.sleep(RECHECK_SECONDS)


def audit(_argument: None) -> dict[str, Any]:
    """Return the turns, and the ledger's state."""
    fields = (
        *("pk", "status", "gen", "answer", "reasoning", "error", "usage_source", "cost_micros", "requested_model"),
        *("model", "instead_of", "instead_because", "input_tokens", "output_tokens"),
    )
    records = {str(record.reservation_id): record.cost_micros for record in UsageRecord.objects.all()}
    return {
        "turns": [{name: getattr(turn, name) for name in fields} for turn in Turn.objects.all()],
        **ledger(),
        "states": {str(row.pk): row.state for row in Reservation.objects.all()},
        "records": records,
        "used": sum(period.used_micros for period in UsagePeriod.objects.all()),
    }


def ledger(_argument: None = None) -> dict[str, Any]:
    """Return how many reservations are neither settled nor released, and the periods whose sums are wrong."""
    return {
        "held": Reservation.objects.filter(state=Reservation.State.HELD).count(),
        "unbalanced": [str(period) for period in list_unbalanced_periods()],
    }


FUNCTIONS: dict[str, Callable[[Any], object]] = {
    function.__name__: function for function in (prepare, members, operator, sessions, converse, offer, audit, ledger)
}


def answer(line: str) -> dict[str, object]:
    name, argument = json.loads(line)
    try:
        return {"value": FUNCTIONS[name](argument)}
    except BaseException:  # noqa: BLE001  whoever called is told
        return {"error": traceback.format_exc()}


def serve() -> None:
    """Answer line after line, each in a process of its own."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what commands print is no answer
    for line in sys.stdin:
        if child := os.fork():
            os.waitpid(child, 0)
            continue
        answers.write(json.dumps(answer(line), default=str) + "\n")
        answers.flush()
        os._exit(0)  # whatever ends at exit is the parent's


if __name__ == "__main__":
    serve()
