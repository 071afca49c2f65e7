"""Commands that `testbed.site` runs in a site's environment, by `python -m testbed.site_commands`.

Each line on stdin is JSON, `[command, arguments]`; each line on stdout is `{"value": …}` or `{"error": traceback}`.
Django is imported once: every command runs in a fork, with connections of its own, so no state is kept between them.
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

from allauth.account.models import EmailAddress  # noqa: E402
from django.apps import apps  # noqa: E402
from django.conf import settings  # noqa: E402
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db.models import Sum  # noqa: E402
from rest_framework_simplejwt.tokens import AccessToken  # noqa: E402

from accounts.models import User, new_seal  # noqa: E402
from accounts.tokens import begin_family  # noqa: E402
from billing.metering import list_unbalanced_parts, list_unbalanced_periods  # noqa: E402
from billing.models import BillingAccount, Plan, Reservation, Spending, UsagePeriod, UsageRecord  # noqa: E402
from billing.spending import list_unbalanced_days  # noqa: E402
from chat.models import LanguageModel, ProviderLimit  # noqa: E402
from core.caching import RECHECK_SECONDS  # noqa: E402
from history import tree  # noqa: E402
from history.models import Turn, new_id  # noqa: E402
from testbed import many_turns  # noqa: E402
from testbed.sessions import asked_again  # noqa: E402


def prepare() -> None:
    """Do what `manage.py prepare` does, without the limits of a new installation: a load spends more in a minute."""
    call_command("prepare", verbosity=0)
    ProviderLimit.objects.all().delete()


def create_members(count: int, plan: dict[str, Any] | None) -> list[str]:
    """Create members, on a new plan with the given fields if there are any; return their access tokens."""
    new_plan = None
    if plan is not None:
        key = secrets.token_hex(4)
        new_plan = Plan.objects.create(**{"key": key, "name": key, "best_tier": "strong", "rank": 5, **plan})
    access_tokens = []
    for _ in range(count):
        user = User(email=f"{secrets.token_hex(6)}@example.com", locale="en")
        user.set_unusable_password()
        user.save()
        if new_plan is not None:
            BillingAccount.objects.create(user=user, plan=new_plan)
        access_tokens.append(str(begin_family(user).access_token))
    if new_plan is not None:
        wait_until_processes_know()
    return access_tokens


def create_operator() -> str:
    """Create an operator with a password; return their access token."""
    user = User.objects.create_superuser(f"{secrets.token_hex(6)}@example.com", secrets.token_hex(), locale="en")
    return str(begin_family(user).access_token)


def confirm_address(email: str) -> None:
    """Do what the link in the mail of a sign-up does."""
    EmailAddress.objects.filter(email=email).update(verified=True)


def create_sessions(access_tokens: list[Any]) -> list[str]:
    """Log in the owners of access tokens, as a browser does; return the keys of their sessions."""
    keys = []
    for access_token in access_tokens:
        user = User.objects.get(pk=AccessToken(access_token)["user_id"])
        session = import_module(settings.SESSION_ENGINE).SessionStore()
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session.update(asked_again(user))
        session.save()
        keys.append(session.session_key)
    return keys


def log_in_again(access_token: Any) -> dict[str, str]:
    """Log the owner of an access token in once more; return the tokens of that log-in."""
    refresh = begin_family(User.objects.get(pk=AccessToken(access_token)["user_id"]))
    return {"access": str(refresh.access_token), "refresh": str(refresh)}


def account_id_of(access_token: Any) -> int:
    """Return the id of the billing account of an access token's owner."""
    return BillingAccount.objects.get(user_id=AccessToken(access_token)["user_id"]).pk


def end_access_silently(access_token: Any) -> None:
    """Log the owner of an access token out everywhere, and let every notification of it get lost."""
    User.objects.filter(pk=AccessToken(access_token)["user_id"]).update(seal=new_seal())


def create_conversation(access_token: Any, turns: int) -> str:
    """Create a conversation with so many finished turns for the owner of an access token; return its id."""
    owner_id = int(AccessToken(access_token)["user_id"])
    conversation = tree.get_or_create_conversation(owner_id, new_id(), title="Long")
    parent = None
    for number in range(turns):
        turn = Turn(pk=new_id(), owner_id=owner_id, conversation_id=conversation.pk, parent_id=parent, depth=number)
        turn.question, turn.answer = f"Question {number}", f"Answer **{number}**.\n\n```python\nx = {number}\n```\n"
        turn.status, turn.requested_model, turn.max_output = Turn.Status.COMPLETED, "auto", 100
        parent = tree.add_turn(turn).pk
    return str(conversation.pk)


def offer(models: list[dict[str, Any]]) -> None:
    """Create or change models, each by its key."""
    for fields in models:
        LanguageModel.objects.update_or_create(key=fields["key"], defaults=fields)
    wait_until_processes_know()


def wait_until_processes_know() -> None:
    """Return when every process of the site has checked whether its cached tables have changed."""
    time.sleep(RECHECK_SECONDS)


def audit() -> dict[str, Any]:
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


def ledger() -> dict[str, Any]:
    """Return how many reservations are neither settled nor released, the periods and days whose sums are wrong, and
    what each supplier takes in all."""
    return {
        "held": Reservation.objects.filter(state=Reservation.State.HELD).count(),
        "unbalanced": [
            *map(str, list_unbalanced_periods()),
            *map(str, list_unbalanced_parts()),
            *map(str, list_unbalanced_days()),
        ],
        "spent": dict(Spending.objects.values_list("supplier").annotate(Sum("used_micros"))),
    }


def count_rows() -> int:
    """Return how many rows the default database has."""
    return sum(model._default_manager.count() for model in apps.get_models() if model._meta.app_label != "history")


def fill_history(access_token: Any, chats: int) -> None:
    """Give the owner of an access token a long history."""
    many_turns.write_chats(int(AccessToken(access_token)["user_id"]), chats)


def finish_history() -> dict[str, Any]:
    """Make the indexes of what was filled in. Return how many seconds the trigram indexes took, and words to look for:
    what they stand for, a word, and in how many turns it is."""
    seconds = many_turns.index_chats()
    common = many_turns.vocabulary()[many_turns.COMMON_WORD]
    rare, *others = many_turns.RATES.items()
    words = [
        ("rare", rare[0], f"{rare[1]:.3%}"),
        *(("medium", word, f"{rate:.1%}") for word, rate in others),
        ("common", common, "most"),
        ("common and rare", f"{common} {rare[0]}", f"{rare[1]:.3%}"),
        ("none", "wordthatisnowhere", "0"),
    ]
    return {"seconds": seconds, "words": words}


def scan_history(access_token: Any, query: str) -> float:
    """Return the milliseconds of a scan for the last word of a query."""
    return many_turns.time_scan(int(AccessToken(access_token)["user_id"]), query.split()[-1])


COMMANDS: dict[str, Callable[..., object]] = {
    function.__name__: function
    for function in (
        prepare,
        create_members,
        create_operator,
        confirm_address,
        create_sessions,
        log_in_again,
        account_id_of,
        end_access_silently,
        create_conversation,
        offer,
        audit,
        ledger,
        count_rows,
        fill_history,
        finish_history,
        scan_history,
    )
}


def main() -> None:
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what commands print is not their result
    for line in sys.stdin:
        if child := os.fork():
            os.waitpid(child, 0)
            continue
        results.write(json.dumps(run_command(*json.loads(line)), default=str) + "\n")
        results.flush()
        os._exit(0)  # cleaning up at exit is for the parent


def run_command(name: str, arguments: dict[str, Any]) -> dict[str, object]:
    try:
        return {"value": COMMANDS[name](**arguments)}
    except BaseException:  # noqa: BLE001  the site reports it
        return {"error": traceback.format_exc()}


if __name__ == "__main__":
    main()
