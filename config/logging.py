"""Log lines, by structlog under the standard logging: code here and elsewhere calls `logging` as ever.

Callers log ids and codes, never prompts, keys or a provider's raw answer. What others write may quote what people sent:
of a library's line the first line is kept, without the fields and addresses it names; of an exception its class, and
its message where that names things of ours alone. Each line has the ids that were bound where it was written: of the
request, the turn, the user and the task.
"""

import logging
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
from django.http import HttpRequest
from structlog.contextvars import merge_contextvars
from structlog.processors import ExceptionRenderer, JSONRenderer
from structlog.stdlib import ExtraAdder, ProcessorFormatter
from structlog.typing import EventDict, ExcInfo, WrappedLogger

from core.errors import DomainError

OURS = frozenset(("accounts", "billing", "chat", "config", "core", "history"))
OF_STORES = ("django.db.utils", "psycopg", "sqlite3", "pymongo.errors", "redis.exceptions")
"""Modules whose errors name tables, addresses and rules; but for those called DataError, which quote the value."""
NAMING_ERRORS = (OSError, ImportError, AttributeError, NameError, RuntimeError, MemoryError)
"""Python's own errors that name files, addresses and code. The others quote the value."""
WHERE_VALUES_BEGIN = ("\n", " dup key", ", full error")
"""In messages of PostgreSQL and MongoDB."""
MAX_CHAIN = 16

_all_fields, _status_field = ExtraAdder(), ExtraAdder(allow=["status_code"])


class ShortRefusals(logging.Filter):
    """Makes a request that Django refuses as suspicious one line of the log: anybody can send thousands of them."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith("django.security."):
            record.exc_info = record.exc_text = None
        return True


def route_of(request: HttpRequest) -> str:
    """Return the pattern of a request's address for a log: the address may have a key in it, as that of a share has."""
    match = request.resolver_match
    return f"/{match.route}" if match is not None else "…"


def add_fields(logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
    """Add what a line of ours has as `extra`. Celery passes the arguments of a task, which may be a mail."""
    line = merge_contextvars(logger, method, line)
    arguments, record = line.pop("positional_args"), line["_record"]
    line["message"] = line.pop("event")  # structlog's name for it, which is a field of ours, too
    if record.name.partition(".")[0] in OURS:
        line = _all_fields(logger, method, line)
        line.pop("request", None)  # an object that Django puts there
        return line
    line["message"] = _message_of_others(record, arguments).partition("\n")[0]
    return _status_field(logger, method, line)


def _message_of_others(record: logging.LogRecord, arguments: Any) -> str:
    """Return a library's message, without a request's address, which may be a key, and an exception's text."""
    if isinstance(arguments, dict):  # Celery's
        kept = {name: value for name, value in arguments.items() if name in ("name", "id", "description", "runtime")}
        arguments = {name: kept.get(name, "…") for name in arguments}
    elif isinstance(arguments, tuple):
        request = getattr(record, "request", None)
        arguments = tuple(_without_value(one, request) for one in arguments)
    try:
        return str(record.msg) % arguments if arguments else str(record.msg)
    except (TypeError, ValueError, KeyError):
        return str(record.msg)


def _without_value(argument: Any, request: HttpRequest | None) -> Any:
    if isinstance(argument, BaseException):
        return type(argument).__name__
    if isinstance(request, HttpRequest) and isinstance(argument, str) and argument.startswith("/"):
        return route_of(request)
    return argument


def add_record(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Put the moment, the level and the logger first."""
    record = line["_record"]
    first = {"at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")}
    return {**first, "level": record.levelname, "logger": record.name, "message": line.pop("message"), **line}


def rename_exception(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    if "exception" in line:
        line["traceback"] = line.pop("exception")
    return line


def write_json(line: Any, **_options: Any) -> str:
    return msgspec.json.encode(line, enc_hook=repr).decode()


def write_text(_logger: WrappedLogger, _method: str, line: EventDict) -> str:
    """For the eyes of developers: as it always was, with the whole exception."""
    found, shown = line.pop("traceback", None), line.pop("message")
    at, level, name = datetime.fromisoformat(line.pop("at")).astimezone(), line.pop("level"), line.pop("logger")
    fields = " ".join(f"{field}={value}" for field, value in line.items())
    head = f"{at:%H:%M:%S} {level:7} {name}: {shown} {fields}".rstrip()
    return f"{head}\n{found}" if found else head


def traceback_without_values(exc_info: ExcInfo) -> str:
    """Return a traceback in Python's words: of each exception its frames, its class, and what of its message names no
    value."""
    return "\n".join(_lines_of(exc_info[1], set()))


def _lines_of(error: BaseException | None, seen: set[int]) -> Iterator[str]:
    if error is None or id(error) in seen or len(seen) >= MAX_CHAIN:
        return
    seen.add(id(error))
    if error.__cause__ is not None:
        yield from _lines_of(error.__cause__, seen)
        yield "The above exception was the direct cause of the following exception:"
    elif error.__context__ is not None and not error.__suppress_context__:
        yield from _lines_of(error.__context__, seen)
        yield "During handling of the above exception, another exception occurred:"
    yield "Traceback (most recent call last):"
    yield "".join(traceback.format_tb(error.__traceback__)).rstrip("\n")
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    yield f"{name}: {message_without_values(error)}"
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _lines_of(one, seen)


def walk_exceptions(error: BaseException | None, seen: set[int] | None = None) -> Iterator[BaseException]:
    """Yield an exception and all that it came from."""
    seen = set() if seen is None else seen
    if error is None or id(error) in seen or len(seen) >= MAX_CHAIN:
        return
    seen.add(id(error))
    yield error
    for one in (error.__cause__, error.__context__, *getattr(error, "exceptions", ())):
        yield from walk_exceptions(one, seen)


def message_without_values(error: BaseException) -> str:
    """Return an exception's message where it quotes no value: it may be anybody's text, address or key."""
    if isinstance(error, DomainError):
        return error.code
    kind = type(error)
    if kind.__module__.startswith(OF_STORES):
        is_named = all(base.__name__ != "DataError" for base in kind.__mro__)
    else:  # an error of a library may be an OSError, and have an address of somebody's mail in it
        is_named = isinstance(error, NAMING_ERRORS) and kind.__module__ in ("builtins", "socket", "ssl")
    if not is_named:
        return "…"
    message = str(error)
    for beginning in WHERE_VALUES_BEGIN:
        message = message.partition(beginning)[0]
    return message


class _Formatter(ProcessorFormatter):
    def __init__(self, *processors: Any) -> None:
        super().__init__(foreign_pre_chain=[add_fields], processors=[add_record, *processors], pass_foreign_args=True)


_REMOVE_META = ProcessorFormatter.remove_processors_meta


class JsonFormatter(_Formatter):
    """One JSON object a line."""

    def __init__(self) -> None:
        render = ExceptionRenderer(traceback_without_values)
        super().__init__(render, _REMOVE_META, rename_exception, JSONRenderer(write_json))


class TextFormatter(_Formatter):
    def __init__(self) -> None:
        super().__init__(ExceptionRenderer(), _REMOVE_META, rename_exception, write_text)
