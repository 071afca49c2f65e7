"""Where somebody is logged in: the sessions of their browsers, and what programs began over the API. And which browsers
are theirs: a log-in in another one is told by mail.

What is known of a session is in a hash of Redis beside it, `devices:<user>`: the session itself says whether it is
over, the hash only helps to find it. A browser proves with a signed cookie that somebody has logged in with it before.
"""

import datetime as dt
import json
import re
import time
from dataclasses import dataclass
from uuid import UUID

from allauth.account.adapter import get_adapter
from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponse
from django.utils import timezone, translation
from django.utils.crypto import salted_hmac

from accounts import events
from accounts.http import peer_of
from accounts.models import TokenFamily, User
from accounts.sessions import SessionStore, find_ended
from accounts.signals import access_revoked
from core.errors import NotFound
from core.redis_clients import sync_redis

USE_NOTED_EVERY_SECONDS = 300
AGENT_CHARACTERS = 200
COOKIE = "device"
COOKIE_SECONDS = 400 * 24 * 3600
"""As long as browsers keep one."""
MOST_MEMBERS = 10
"""Of whom a browser is remembered."""
_SALT = "accounts.devices"

_BROWSERS = {
    "Edge": r"\bEdg(?:e|A|iOS)?/",
    "Opera": r"\bOPR/|\bOpera\b",
    "Samsung Internet": r"\bSamsungBrowser/",
    "Firefox": r"\bFirefox/|\bFxiOS/",
    "Chrome": r"Chrome/|\bCriOS/|\bChromium/",
    "Safari": r"\bSafari/",
}
_SYSTEMS = {
    "iPhone": r"\biPhone\b",
    "iPad": r"\biPad\b",
    "Android": r"\bAndroid\b",
    "Windows": r"\bWindows\b",
    "ChromeOS": r"\bCrOS\b",
    "macOS": r"\bMac OS X\b|\bMacintosh\b",
    "Linux": r"\bLinux\b|\bX11\b",
}
_noted: dict[str, float] = {}  # when this process last noted the use of a session
_MOST_NOTED = 10_000


@dataclass(frozen=True, slots=True)
class LogIn:
    """A session or a family of tokens. `name` is a browser and its system, or what a program calls itself; empty where
    nobody knows."""

    id: str
    name: str
    peer: str
    since: dt.datetime
    used_at: dt.datetime
    is_this: bool = False


def note_session(request: HttpRequest, user: User) -> None:
    """Note a session, and that it was used, at most once in five minutes. Raises RedisError."""
    key, now = request.session.session_key, time.time()
    if not key or now - _noted.get(key, 0) < USE_NOTED_EVERY_SECONDS:
        return
    if len(_noted) >= _MOST_NOTED:
        _noted.clear()
    first = json.dumps({"since": now, "agent": agent_of(request), "seal": user.seal})
    last = json.dumps({"used_at": now, "peer": peer_of(request)})
    pipeline = sync_redis().pipeline(transaction=False)
    pipeline.hsetnx(_hash_of(user.pk), key, first)
    pipeline.hset(_hash_of(user.pk), f"{key}:used", last)
    pipeline.expire(_hash_of(user.pk), settings.SESSION_COOKIE_AGE)
    pipeline.execute()
    _noted[key] = now


def list_sessions(user: User, this_key: str | None) -> list[LogIn]:
    """Return the browsers where the user is logged in, the latest used first. Raises RedisError."""
    return sorted(
        (_session(user.pk, key, known, this_key) for key, known in _find_live(user).items()),
        key=lambda one: (one.is_this, one.used_at),
        reverse=True,
    )


def list_programs(user: User) -> list[LogIn]:
    """Return the log-ins over the API whose tokens are good, the latest first."""
    families = TokenFamily.objects.filter(user=user, expires_at__gt=timezone.now()).order_by("-created_at")
    return [
        LogIn(str(one.pk), device_name(one.agent or ""), one.peer or "", begun, one.used_at or begun)
        for one in families
        if (begun := one.created_at or one.expires_at - dt.timedelta(days=settings.REFRESH_TOKEN_EXPIRE_DAYS))
    ]


def forget_ended(user: User) -> None:
    """Drop what is known of the user's sessions that are over. Raises RedisError."""
    _find_live(user)


def end_session(user: User, session_id: str, *, peer: str) -> None:
    """Log one of the user's browsers out, and end whatever is open in it. Raises NotFound."""
    for key in map(_as_text, sync_redis().hkeys(_hash_of(user.pk))):
        if ":" not in key and _id_of(user.pk, key) == session_id:
            SessionStore(key).flush()
            sync_redis().hdel(_hash_of(user.pk), key, f"{key}:used")
            events.record("session_ended", peer=peer, user_id=user.pk)
            return
    raise NotFound


def end_program(user: User, family_id: UUID, *, peer: str) -> None:
    """End a log-in over the API, and whatever is open with its tokens. Raises NotFound."""
    removed, _rows = TokenFamily.objects.filter(pk=family_id, user=user).delete()
    if not removed:
        raise NotFound
    access_revoked.send(TokenFamily, user_id=user.pk)
    events.record("session_ended", peer=peer, user_id=user.pk)


def forget_sessions(user_ids: set[int]) -> None:
    """Drop what is known of the sessions of people who were deleted. Raises RedisError."""
    if user_ids:
        sync_redis().unlink(*map(_hash_of, user_ids))


def agent_of(request: HttpRequest) -> str:
    return request.headers.get("User-Agent", "")[:AGENT_CHARACTERS]


def device_name(agent: str) -> str:
    """Return what a person calls this: a browser and its system, else how a program begins to call itself."""
    browser = next((name for name, pattern in _BROWSERS.items() if re.search(pattern, agent)), "")
    system = next((name for name, pattern in _SYSTEMS.items() if re.search(pattern, agent)), "")
    if not browser and not system:
        return agent.partition(" ")[0][:40]
    return " · ".join(filter(None, (browser, system)))


# --- Browsers that are known ------------------------------------------------------------------------------------------


def is_known(request: HttpRequest, user: User) -> bool:
    """Return whether the user has logged in with this browser before, with the password they have now."""
    return _mark_of(user) in _marks_in(request)


def remember_browser(request: HttpRequest, user: User) -> None:
    """Have the answer to this request say that this browser is the user's."""
    request.device_marks = [_mark_of(user), *_marks_in(request)][:MOST_MEMBERS]  # type: ignore[attr-defined]


def add_cookie(request: HttpRequest, response: HttpResponse) -> None:
    """Give the browser its cookie, where somebody has logged in with it in this request."""
    marks = getattr(request, "device_marks", None)
    if marks is not None:
        response.set_cookie(
            COOKIE,
            signing.dumps(marks, salt=_SALT, compress=True),
            max_age=COOKIE_SECONDS,
            samesite="Lax",
            secure=settings.SESSION_COOKIE_SECURE,
            httponly=True,
        )


def tell_of_new_device(request: HttpRequest, user: User) -> None:
    """Tell the mailbox, in its owner's language, of a log-in from where nobody has logged in to this account before."""
    events.record("new_device", peer=peer_of(request), user_id=user.pk)
    adapter = get_adapter()
    adapter.request = request
    with translation.override(user.locale), timezone.override(user.zone):
        adapter.send_notification_mail("account/email/new_device", user)


def _marks_in(request: HttpRequest) -> list[str]:
    try:
        marks = signing.loads(request.COOKIES.get(COOKIE, ""), salt=_SALT, max_age=COOKIE_SECONDS)
    except signing.BadSignature:
        return []
    return [str(mark) for mark in marks] if isinstance(marks, list) else []


def _mark_of(user: User) -> str:
    """Return what a browser keeps of a user. With a new password it is another: whoever had the old one, and a browser
    that was known for that, is a stranger again."""
    return salted_hmac(_SALT, f"{user.pk}:{user.password}").hexdigest()[:32]


def _find_live(user: User) -> dict[str, dict[str, str | float]]:
    """Return what is known of the sessions that are not over, by their keys, and forget the others."""
    found = {_as_text(name): json.loads(value) for name, value in sync_redis().hgetall(_hash_of(user.pk)).items()}
    keys = [name for name in found if ":" not in name]
    over = find_ended(keys) | {key for key in keys if found[key]["seal"] != user.seal}
    if over:
        sync_redis().hdel(_hash_of(user.pk), *over, *(f"{key}:used" for key in over))
    return {key: found[key] | found.get(f"{key}:used", {}) for key in keys if key not in over}


def _session(user_id: int, key: str, known: dict[str, str | float], this_key: str | None) -> LogIn:
    since = float(known["since"])
    return LogIn(
        id=_id_of(user_id, key),
        name=device_name(str(known["agent"])),
        peer=str(known.get("peer", "")),
        since=dt.datetime.fromtimestamp(since, dt.UTC),
        used_at=dt.datetime.fromtimestamp(float(known.get("used_at", since)), dt.UTC),
        is_this=key == this_key,
    )


def _id_of(user_id: int, key: str) -> str:
    """Return what a page calls a session: its key would let in."""
    return salted_hmac(_SALT, f"{user_id}:{key}").hexdigest()[:32]


def _as_text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()


def _hash_of(user_id: int) -> str:
    return f"devices:{user_id}"
