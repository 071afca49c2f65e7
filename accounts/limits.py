"""How often something may be tried at the doors of the site, counted in one place for pages and API: see Act.

Two things are counted for each act, and an attempt must find both free (count_attempt.lua):

- **A network** (an IPv4 address, the /64 of an IPv6 one) has so many attempts in a time.
- **An account** has some attempts that are free, and then pauses that grow up to a limit and never become a lock. It is
  told by its address, whether anybody has that address or not: a refusal says nothing about that. Where mails are
  counted, and not passwords, all spellings of an address are its one mailbox.

Nobody can keep an owner out with it. Whoever guesses passwords makes strangers to the account wait, and not the
networks from which somebody has got in before. An owner who comes from a new network in that moment asks for a new
password. That cannot be kept from them either: each request that is counted has put a link into their mailbox, whoever
sent it, and such a link logs in. Nor is a mailbox flooded: beyond the first few it gets one mail of a kind an hour.

Beside the doors, every request to the API and to a shared page is counted, by person, or by network where nobody is
logged in (count_request): so many a minute as no honest client sends, and as their plan has. An API key may have fewer,
and an address that costs much.

Addresses and networks are in Redis as digests only. Without Redis every door answers 503, as the rest of the site.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from django.conf import settings
from django.utils.crypto import salted_hmac
from django.utils.encoding import punycode
from django.utils.translation import ngettext
from rest_framework.request import Request

from accounts import events
from accounts.http import network_of
from accounts.models import normalise_email
from core.errors import RateLimited
from core.lua import LuaScript, Value
from core.redis_clients import sync_redis

_COUNT = LuaScript(Path(__file__).with_name("count_attempt.lua"))
_COUNT_REQUEST = LuaScript(Path(__file__).with_name("count_request.lua"))
_REMEMBER = LuaScript(Path(__file__).with_name("remember_network.lua"))

View = TypeVar("View", bound=Callable[..., Any])

MINUTE_SECONDS, HOUR_SECONDS, DAY_SECONDS = 60, 3_600, 86_400
MOST_KNOWN_NETWORKS = 20
KNOWN_SECONDS = 90 * DAY_SECONDS
MEMBER_ACTS_PER_HOUR = 60
EXPORTS_PER_HOUR = 6
KEYS_PER_HOUR = 20


class Act(StrEnum):
    LOG_IN = "log_in"
    """Any check of a password: at the log-in, and where a member is asked for it again."""
    SECOND_FACTOR = "second_factor"
    """A code of the second factor, at the log-in or where a member is asked for it again. Changes of it are counted by
    member."""
    SIGN_UP = "sign_up"
    RESET = "reset"
    CHANGE_EMAIL = "change_email"
    """The account is the member's; the mail to the new address counts as CONFIRM_EMAIL too."""
    CONFIRM_EMAIL = "confirm_email"
    """A mail with a link to confirm an address, but for the one of the sign-up. The account is that address."""
    REPORT = "report"
    """A report of a shared page, by anybody."""
    SHARE = "share"
    """Sharing a conversation, and copying a shared one: each writes thousands of rows. Counted by member."""
    EXPORT = "export"
    """An export of everything, which keeps a worker busy and sends a mail. Counted by member."""
    BATCH = "batch"
    """A file of a batch, which a worker checks. Counted by member."""
    API_KEY = "api_key"
    """A new API key, of which a mail tells. Counted by member."""
    DISCOUNT = "discount"
    """A code for a discount, right or wrong. The account is the member's."""


GUESSED = frozenset((Act.LOG_IN, Act.SECOND_FACTOR))
"""What is guessed of one account, and not mailed: whoever has another with a like address neither gives attempts back
nor uses them up."""
PER_HOUR = {Act.EXPORT: EXPORTS_PER_HOUR, Act.API_KEY: KEYS_PER_HOUR, Act.SECOND_FACTOR: KEYS_PER_HOUR}
"""What a member may do less often than MEMBER_ACTS_PER_HOUR."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Where somebody stands: `limit` in a time, `remaining` now, `reset_seconds` until all are available again."""

    limit: int
    remaining: int
    reset_seconds: float


@dataclass(frozen=True, slots=True)
class Pauses:
    """The first `free` attempts pass at once. Who tries nothing for `kept_seconds` begins anew."""

    free: int
    first_seconds: int
    longest_seconds: int
    kept_seconds: int


GUESSES = Pauses(free=5, first_seconds=1, longest_seconds=MINUTE_SECONDS, kept_seconds=HOUR_SECONDS)
"""1,500 guesses a day at most, from all strangers together."""
CODES = Pauses(free=5, first_seconds=1, longest_seconds=15 * MINUTE_SECONDS, kept_seconds=DAY_SECONDS)
"""About a hundred guesses a day, of a million codes of which three work. Only who knows the password gets that far: its
owner, whom that makes wait, chooses another."""
MAILS = Pauses(free=3, first_seconds=MINUTE_SECONDS, longest_seconds=HOUR_SECONDS, kept_seconds=DAY_SECONDS)


def count(act: Act, *, peer: str | None = None, account: str | None = None) -> None:
    """Count an attempt from this peer, at the account with this address, or both. Raises RateLimited with the time to
    wait, and counts nothing then, but for a sign-up beyond those of a day, which counts in its hour."""
    pauses = {Act.LOG_IN: GUESSES, Act.DISCOUNT: GUESSES, Act.SECOND_FACTOR: CODES}.get(act, MAILS)
    limit, window_seconds = _limit_of_network(act) if peer is not None else (0, 0)
    here = network_of(peer or "")
    named: dict[str, Value] = {}
    if account is not None:
        named = {
            "account": _account_key(act, account),
            "free": pauses.free,
            "first_seconds": pauses.first_seconds,
            "longest_seconds": pauses.longest_seconds,
            "kept_seconds": pauses.kept_seconds,
        }
    if account is not None and act is Act.LOG_IN:
        named |= {"known": _known_key(account), "account_here": _account_key(act, account, here), "here": _digest(here)}
    network = f"limit:{act}:network:{_digest(here)}"
    wait_ms = _COUNT(sync_redis(), network=network, limit=limit, window_seconds=window_seconds, **named)
    if not wait_ms and act is Act.SIGN_UP and peer is not None:
        daily = settings.SIGN_UPS_PER_DAY
        wait_ms = _COUNT(sync_redis(), network=f"{network}:day", limit=daily, window_seconds=DAY_SECONDS)
    if wait_ms:
        events.record("limited", peer=peer, email=account and normalise_email(account), act=act)
        raise _refusal(act, math.ceil(wait_ms / 1000))


def count_request(
    *,
    user_id: int | None,
    peer: str,
    per_minute: int | None = None,
    key: tuple[str, int] | None = None,
    route: tuple[str, int] | None = None,
) -> Limit | None:
    """Count a request to the API or to a shared page: of a person, or of a network where nobody is logged in. Return
    where they stand; None where there is no limit.

    `per_minute` is what they have, by itself what the site gives; `key` and `route` are a name and how many a minute an
    API key has, and an address that costs much. Raises RateLimited with the time to wait, and counts nothing then.
    One call of Redis; raises RedisError.
    """
    whose = f"network:{_digest(network_of(peer))}" if user_id is None else f"user:{user_id}"
    named: dict[str, Value] = {}
    if key or route:
        named = {"of_key": f"limit:api:key:{key[0] if key else ''}", "key_limit": key[1] if key else 0}
    if route:
        named |= {"of_route": f"limit:api:{route[0]}:{whose}", "route_limit": route[1]}
    wait_ms, most, left, reset_ms = _COUNT_REQUEST(
        sync_redis(),
        person=f"limit:api:{whose}",
        window_seconds=MINUTE_SECONDS,
        limit=settings.API_REQUESTS_PER_MINUTE if per_minute is None else per_minute,
        **named,
    )
    limit = Limit(most, left, reset_ms / 1000) if most else None
    if wait_ms:
        error = RateLimited(retry_after=math.ceil(wait_ms / 1000))
        error.limit = limit
        raise error
    return limit


def say_limit(request: Request, limit: Limit | None) -> None:
    """Have the answer to a request of the API say where somebody stands (config/middleware.py)."""
    request._request.limit = limit  # type: ignore[attr-defined]


def limited_to(name: str, requests_per_minute: int) -> Callable[[View], View]:
    """Give an address of the API that costs much a limit of its own, for each person; a page that does the same counts
    by the same name."""

    def limited(view: View) -> View:
        view.cls.route_limit = (name, requests_per_minute)  # type: ignore[attr-defined]  # as in keys.py
        return view

    return limited


def count_of_member(act: Act, user_id: int) -> None:
    """Count what a member does who is logged in. Raises RateLimited, and counts nothing then."""
    key = _member_key(act, user_id)
    per_hour = PER_HOUR.get(act, MEMBER_ACTS_PER_HOUR)
    if wait_ms := _COUNT(sync_redis(), network=key, limit=per_hour, window_seconds=HOUR_SECONDS):
        raise _refusal(act, math.ceil(wait_ms / 1000))


def remember_network(*, peer: str, account: str) -> None:
    """Note that somebody got into the account from here, and give back what was counted."""
    here = network_of(peer)
    _REMEMBER(
        sync_redis(),
        account=_account_key(Act.LOG_IN, account),
        known=_known_key(account),
        account_here=_account_key(Act.LOG_IN, account, here),
        here=_digest(here),
        most_known=MOST_KNOWN_NETWORKS,
        known_seconds=KNOWN_SECONDS,
    )


def knows_network(*, peer: str, account: str) -> bool:
    """Return whether somebody got into the account from here before."""
    return sync_redis().zscore(_known_key(account), _digest(network_of(peer))) is not None


def forget_attempts(act: Act, account: str) -> None:
    """Give back all that was counted at the account: its owner got through."""
    sync_redis().unlink(_account_key(act, account))


def forget_account(account: str) -> None:
    """Drop what is kept of an account that was deleted, by its address. Raises RedisError."""
    sync_redis().unlink(_known_key(account), *(_account_key(act, account) for act in Act))


def forget_member(user_id: int) -> None:
    """Drop what is counted of a member who was deleted. What is counted by the minute is gone within it. Raises
    RedisError."""
    sync_redis().unlink(f"limit:api:user:{user_id}", *(_member_key(act, user_id) for act in Act))


def _limit_of_network(act: Act) -> tuple[int, int]:
    """Return how many attempts a network has in how many seconds."""
    if act in (Act.LOG_IN, Act.SECOND_FACTOR):
        return 30, MINUTE_SECONDS
    if act is not Act.SIGN_UP:
        return 30, HOUR_SECONDS
    if not settings.SIGN_UPS_PER_HOUR:
        raise RateLimited
    return settings.SIGN_UPS_PER_HOUR, HOUR_SECONDS


def _account_key(act: Act, account: str, network: str = "") -> str:
    name = normalise_email(account)
    if act not in GUESSED:
        name = _mailbox_of(name)
    return f"limit:{act}:account:{_digest(name)}" + (f":{_digest(network)}" if network else "")


def _member_key(act: Act, user_id: int) -> str:
    return f"limit:{act}:user:{user_id}"


def _mailbox_of(email: str) -> str:
    """Return one name for the addresses whose mail goes to the same place: without a tag, and with the host's name as
    mail servers have it, which has many spellings in Unicode."""
    name, at, host = email.rpartition("@")
    with suppress(UnicodeError):  # no host has such a name
        host = punycode(host)
    return name.partition("+")[0] + at + host.lower()


def _known_key(account: str) -> str:
    return f"limit:known:{_digest(normalise_email(account))}"


def _digest(value: str) -> str:
    return salted_hmac("accounts.limits", value).hexdigest()[:32]


def _refusal(act: Act, seconds: int) -> RateLimited:
    if act is Act.LOG_IN:
        sentence = ngettext(
            "Too many attempts. Please try again in %(seconds)d second, or reset the password.",
            "Too many attempts. Please try again in %(seconds)d seconds, or reset the password.",
            seconds,
        )
    else:
        sentence = ngettext(
            "Too many requests. Please try again in %(seconds)d second.",
            "Too many requests. Please try again in %(seconds)d seconds.",
            seconds,
        )
    return RateLimited(sentence % {"seconds": seconds}, retry_after=seconds)
