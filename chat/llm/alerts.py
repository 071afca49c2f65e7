"""What an operator must know: logged, mailed at most once an hour a subject, and listed in the admin."""

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from django.conf import settings
from django.utils import timezone, translation
from django.utils.functional import Promise
from redis.exceptions import RedisError

from core.mail import send_mail
from core.redis_clients import sync_redis

logger = logging.getLogger(__name__)

HOUR_SECONDS = 3600
ALERTS = "alerts"
MAX_ALERTS = 100

# A thread of its own: whoever alerts may be a loop that writes tokens, and Redis or the broker be away.
_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="alerts")


class Alert(msgspec.Struct, frozen=True):
    """Something that happened `times` times; the moments are seconds since 1970."""

    subject: str
    sentence: str
    first_at: float
    last_at: float
    times: int = 1
    fields: dict[str, str] = {}


# KEYS: alerts. ARGV: subject, the alert as JSON.
_KEEP = """
local new, known = cjson.decode(ARGV[2]), redis.call('HGET', KEYS[1], ARGV[1])
if known then
  known = cjson.decode(known)
  new.first_at, new.times = known.first_at, known.times + 1
end
if next(new.fields) == nil then new.fields = nil end
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(new))
return redis.call('HLEN', KEYS[1])
"""


def alert(subject: str, sentence: str | Promise, **fields: object) -> None:
    """Tell the operators. Returns at once; never with a key, or with a provider's text, in it.

    `subject` names what is the matter (`openai:authentication:3fa2…`): the same one is mailed once an hour.
    """
    logger.error("Operator needed", extra={"subject": subject, **fields})
    with translation.override(settings.LANGUAGE_CODE):
        said = str(sentence)
    now = round(timezone.now().timestamp(), 3)  # Lua's JSON has fourteen digits
    found = Alert(subject, said, now, now, fields={name: str(value) for name, value in fields.items()})
    _thread.submit(_tell, found)


def list_alerts() -> list[Alert]:
    """Return the last alerts, the latest first; none while Redis is away."""
    try:
        kept: Any = sync_redis().hvals(ALERTS)
    except RedisError:
        return []
    return sorted((msgspec.json.decode(one, type=Alert) for one in kept), key=lambda one: -one.last_at)


def _tell(found: Alert) -> None:
    """Keep it, and mail it unless that was done within the hour. What cannot be told was logged."""
    try:
        redis = sync_redis()
        if redis.eval(_KEEP, 1, ALERTS, found.subject, msgspec.json.encode(found)) > MAX_ALERTS:
            oldest = [one.subject for one in list_alerts()[MAX_ALERTS:]]
            redis.hdel(ALERTS, *oldest)
        to = settings.OPERATOR_EMAIL
        if to and redis.set(f"alert:{found.subject}", b"1", nx=True, ex=HOUR_SECONDS):
            _mail(found, to)
    except Exception as error:  # noqa: BLE001  whatever it is, it must not stop the next one
        logger.warning("Operator not told", extra={"subject": found.subject, "error": type(error).__name__})


def _mail(found: Alert, to: list[str]) -> None:
    details = "\n".join(f"{name}: {value}" for name, value in found.fields.items())
    subject = f"[{settings.SITE_NAME}] {found.sentence}"
    send_mail.delay(subject=subject[:200], body=f"{found.sentence}\n\n{details}\n\n{settings.SITE_URL}/admin/", to=to)
