"""Commands that `testbed.site` runs in a site's environment: `python -m testbed.site_commands <name> <argument>` prints
JSON."""

import json
import secrets
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY  # noqa: E402
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken  # noqa: E402

from accounts.models import User  # noqa: E402
from billing.metering import list_unbalanced_periods  # noqa: E402
from billing.models import BillingAccount, Plan, Reservation, UsagePeriod, UsageRecord  # noqa: E402
from chat.models import LanguageModel  # noqa: E402
from history import tree  # noqa: E402
from history.models import Turn, new_id  # noqa: E402


def create_members(argument: str) -> list[str]:
    """Create members, on a new plan with the given fields if there are any; return their access tokens."""
    parameters = json.loads(argument)
    plan = None
    if parameters["plan"] is not None:
        key = secrets.token_hex(4)
        plan = Plan.objects.create(**{"key": key, "name": key, "best_tier": "strong", "rank": 5, **parameters["plan"]})
    access_tokens = []
    for _ in range(parameters["count"]):
        user = User(email=f"{secrets.token_hex(6)}@example.com", locale="en")
        user.set_unusable_password()
        user.save()
        if plan is not None:
            BillingAccount.objects.create(user=user, plan=plan)
        access_tokens.append(str(RefreshToken.for_user(user).access_token))
    return access_tokens


def create_operator(_argument: str) -> str:
    """Create an operator with a password; return their access token."""
    user = User.objects.create_superuser(f"{secrets.token_hex(6)}@example.com", secrets.token_hex(), locale="en")
    return str(RefreshToken.for_user(user).access_token)


def create_sessions(argument: str) -> list[str]:
    """Log in the owners of access tokens, as a browser does; return the keys of their sessions."""
    keys = []
    for access_token in json.loads(argument):
        user = User.objects.get(pk=AccessToken(access_token)["user_id"])
        session = import_module(settings.SESSION_ENGINE).SessionStore()
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session.save()
        keys.append(session.session_key)
    return keys


def create_conversation(argument: str) -> str:
    """Create a conversation with so many finished turns for the owner of an access token; return its id."""
    parameters = json.loads(argument)
    owner_id = int(AccessToken(parameters["access"])["user_id"])
    conversation = tree.get_or_create_conversation(owner_id, new_id(), title="Long")
    parent = None
    for number in range(parameters["turns"]):
        turn = Turn(pk=new_id(), owner_id=owner_id, conversation_id=conversation.pk, parent_id=parent)
        turn.question, turn.answer = f"Question {number}", f"Answer **{number}**.\n\n```python\nx = {number}\n```\n"
        turn.status, turn.requested_model, turn.max_output = Turn.Status.COMPLETED, "auto", 100
        parent = tree.add_turn(turn).pk
    return str(conversation.pk)


def offer(argument: str) -> None:
    """Create or change models, each by its key."""
    for fields in json.loads(argument):
        LanguageModel.objects.update_or_create(key=fields["key"], defaults=fields)


def audit(_argument: str) -> dict[str, Any]:
    """Return every turn, reservation and usage record."""
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


def ledger(_argument: str = "") -> dict[str, Any]:
    """Return how many reservations are neither settled nor released, and the periods whose sums are wrong."""
    return {
        "held": Reservation.objects.filter(state=Reservation.State.HELD).count(),
        "unbalanced": [str(period) for period in list_unbalanced_periods()],
    }


if __name__ == "__main__":
    functions = (create_members, create_operator, create_sessions, create_conversation, offer, audit, ledger)
    named: dict[str, Callable[[str], object]] = {function.__name__: function for function in functions}
    json.dump(named[sys.argv[1]](sys.argv[2]), sys.stdout, default=str)
