"""Alerts for the operator: logged, mailed at most once an hour for each subject, and listed in the admin."""

import datetime as dt
import logging
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import msgspec
from django.conf import settings
from django.utils import timezone, translation
from redis.exceptions import RedisError

from core.lua import LuaScript
from core.mail import send_mail
from core.redis_clients import sync_redis

logger = logging.getLogger(__name__)

HOUR_SECONDS = 3600
ALERTS = "alerts"
MAX_ALERTS = 100

_SAVE = LuaScript(Path(__file__).with_name("save_alert.lua"))

# In a thread of its own: the caller may be an event loop that streams tokens, and Redis or the broker may not answer.
_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="alerts")


class Alert(msgspec.Struct, frozen=True):
    """Something that happened `times` times; the moments are seconds since 1970.

    `message` is not translated, and names `fields`: whoever reads the alert may have another language than whoever
    caused it.
    """

    subject: str
    message: str = msgspec.field(name="sentence")  # in Redis
    first_at: float
    last_at: float
    times: int = 1
    fields: dict[str, str] = {}

    @property
    def first(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.first_at, dt.UTC)

    @property
    def last(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.last_at, dt.UTC)

    @property
    def sentence(self) -> str:
        """What operators read, in the active language."""
        sentence = translation.gettext(self.message)
        return sentence % self.fields if "%(" in self.message else sentence

    @property
    def details(self) -> str:
        return ", ".join(f"{name}: {value}" for name, value in sorted(self.fields.items()))


def alert(subject: str, message: str, **fields: object) -> None:
    """Alert the operators, and return at once. Never pass a key, or a text of somebody else's.

    `subject` identifies the problem (`openai:authentication:3fa2…`): the same one is mailed at most once an hour.
    `message` is marked with `gettext_noop`, and may name `fields`, as `%(model)s`: it is translated when it is read.
    """
    logger.error("Operator needed", extra={"subject": subject, **fields})
    now = round(timezone.now().timestamp(), 3)  # Lua's JSON has fourteen digits
    strings = {name: str(value) for name, value in fields.items()}
    context = copy_context()  # the mail's task has the ids of what this is about
    _thread.submit(context.run, _save_and_mail, Alert(subject, message, now, now, fields=strings))


def list_alerts() -> list[Alert]:
    """Return the last alerts, the latest first; none without Redis."""
    try:
        values: Any = sync_redis().hvals(ALERTS)
    except RedisError:
        return []
    return sorted((msgspec.json.decode(value, type=Alert) for value in values), key=lambda alert: -alert.last_at)


def _save_and_mail(new: Alert) -> None:
    """Save an alert, and mail it unless that was done within the hour. If neither works, it was logged."""
    try:
        redis = sync_redis()
        if _SAVE(redis, alerts=ALERTS, subject=new.subject, alert_json=msgspec.json.encode(new)) > MAX_ALERTS:
            oldest = [alert.subject for alert in list_alerts()[MAX_ALERTS:]]
            redis.hdel(ALERTS, *oldest)
        to = settings.OPERATOR_EMAIL
        if to and redis.set(f"alert:{new.subject}", b"1", nx=True, ex=HOUR_SECONDS):
            _mail(new, to)
    except Exception as error:  # noqa: BLE001  no error may stop the next alert
        logger.warning("Alert not sent", extra={"subject": new.subject, "error": type(error).__name__})


def _mail(new: Alert, to: list[str]) -> None:
    details = "\n".join(f"{name}: {value}" for name, value in new.fields.items())
    with translation.override(settings.LANGUAGE_CODE):
        sentence = new.sentence
    subject = f"[{settings.SITE_NAME}] {sentence}"
    send_mail.delay(subject=subject[:200], body=f"{sentence}\n\n{details}\n\n{settings.SITE_URL}/admin/", to=to)
