"""Log formatters: one line a record. Callers log ids and codes, never prompts, keys or a provider's raw answer."""

import logging
from contextvars import ContextVar
from datetime import UTC, datetime

import msgspec

current_request_id: ContextVar[str] = ContextVar("request_id", default="")

STANDARD_FIELDS = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "request", "taskName"}


def extra_fields(record: logging.LogRecord) -> dict[str, object]:
    """Return what was passed as `extra`, and the request's id."""
    fields = {name: value for name, value in vars(record).items() if name not in STANDARD_FIELDS}
    return ({"request_id": current_request_id.get()} if current_request_id.get() else {}) | fields


class ShortRefusals(logging.Filter):
    """Makes a request that Django refuses as suspicious one line of the log: anybody can send thousands of them."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith("django.security."):
            record.exc_info = record.exc_text = None
        return True


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **extra_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=repr).decode()


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the base class's name
        fields = " ".join(f"{name}={value}" for name, value in extra_fields(record).items())
        return f"{super().formatMessage(record)} {fields}".rstrip()
