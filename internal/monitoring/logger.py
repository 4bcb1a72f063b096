"""Log lines: JSON for machines or text for people, never a secret, never a forged line."""

import atexit
import logging
import os
import re
import select
import sys
import threading
import traceback
from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import PurePath
from types import TracebackType
from typing import Literal

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger
from typing_extensions import override

from internal.config.values import MASK

STDERR = 2

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_SECRET_PART = re.compile(r"passw|secret|token|authorization|cookie|jwt|api_?key|dsn")
# What people wrote or who they are, under the names that it has in bodies and rows.
_PRIVATE = frozenset({"content", "email", "body", "payload", "database_url", "redis_url"})
# In texts that come from libraries: a token in a URL or a header, and a password in a DSN.
_SECRET_IN_TEXT = re.compile(
    r"(?P<head>[?&](?:access_|refresh_)?token=|\bBearer\s+|\b[a-z][a-z0-9+]*://[^\s:/@]*:)"
    r"(?P<secret>[^\s&\"'@]+)",
    re.IGNORECASE,
)
# The driver repeats parameters in its messages: ...argument $1: 'what somebody wrote'.
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"\s*$|=\(.*\)")
# Everything that could end a line, move a terminal's cursor, or turn the direction of a text.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_NEEDS_QUOTES = re.compile(r"[\s\"'=]")
_LONGEST_MESSAGE = 500
_MOST_WAITING = 256
_DEEPEST = 6
_COLOURS = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}
_RESET = "\x1b[0m"


class LineWriter:
    """Writes lines to a file descriptor: those of one turn of the event loop in one call.

    Outside a loop, in threads, and for errors a line is written at once.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._waiting: list[bytes] = []
        self._loop: AbstractEventLoop | None = None

    def write(self, line: bytes, *, at_once: bool = False) -> None:
        loop = None if at_once else _running_loop()
        with self._lock:
            self._waiting.append(line)
            if loop is not None and len(self._waiting) < _MOST_WAITING:
                if self._loop is not loop:
                    self._loop = loop
                    loop.call_soon(self.flush)
                return
        self.flush()

    def flush(self) -> None:
        with self._lock:
            self._loop = None
            lines, self._waiting = self._waiting, []
            if lines:
                self._write_all(b"".join(lines))

    def close(self) -> None:
        """Write what waits, and nothing from then on."""
        self.flush()
        self._fd = -1

    def _write_all(self, text: bytes) -> None:
        rest = memoryview(text)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                # Somebody made our end non-blocking. One second for the reader, then the lines are
                # lost: a log that nobody reads must not stop the server.
                if not select.select([], [self._fd], [], 1.0)[1]:
                    return
            except OSError:
                return


def configure(
    level: Literal["debug", "info", "warning", "error"] = "info",
    line_format: Literal["console", "json"] = "console",
    *,
    fd: int = STDERR,
) -> LineWriter:
    """Set structlog up, and send what libraries log by `logging` the same way."""
    writer = LineWriter(fd)
    renderer = _render_json if line_format == "json" else _Console(colours=os.isatty(fd))
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _add_time,
        _add_exception,
        mask_secrets,
        renderer,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _Logger(writer),
        cache_logger_on_first_use=True,
    )
    _route_logging(_LEVELS[level])
    atexit.register(writer.flush)
    return writer


def mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace what stands under the name of a secret, and tokens inside of texts."""
    return {key: _masked(key, value, 0) for key, value in event.items()}


class _Logger:
    """What structlog calls with a finished line, by the name of its level."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def debug(self, line: bytes) -> None:
        self._writer.write(line)

    info = warning = debug

    def error(self, line: bytes) -> None:
        self._writer.write(line, at_once=True)

    exception = critical = fatal = error


class _Forward(logging.Handler):
    """Hands a record of the standard library on to structlog."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            structlog.get_logger().log(
                max(10, min(record.levelno // 10 * 10, 50)),
                record.getMessage(),
                logger=record.name,
                exc_info=record.exc_info,
            )
        except Exception:  # noqa: BLE001  # As every logging.Handler: a line must not raise.
            self.handleError(record)


class _Console:
    """Lines for people: time, level, what happened, then key=value."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
        time = str(event.pop("timestamp"))[11:23]
        level = str(event.pop("level"))
        happened = escape(str(event.pop("event", "")))
        trace = event.pop("exception", None)
        pairs = "".join(f" {escape(str(key))}={_value(value)}" for key, value in event.items())
        name = f"{level:<7}"
        if self._colours:
            name = f"{_COLOURS.get(level, '')}{name}{_RESET}"
        line = f"{time} {name} {happened}{pairs}\n"
        if trace:
            line += "".join(f"    {escape(part)}\n" for part in str(trace).split("\n"))
        return line.encode()


def escape(text: str) -> str:
    r"""Write control characters as \xNN or \uNNNN, so that a value stays on its line."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = escape(value if isinstance(value, str) else repr(value))
    if isinstance(value, str) and (not text or _NEEDS_QUOTES.search(text)):
        return '"' + text.replace('"', '\\"') + '"'
    return text


_encode = msgspec.json.Encoder(enc_hook=repr).encode


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    try:
        return _encode(event) + b"\n"
    except (ValueError, TypeError, RecursionError):
        # A lone surrogate, a key of an odd type: the line is worth more than its exact shape.
        return _encode({escape(str(k)): escape(str(v)) for k, v in event.items()}) + b"\n"


def _add_time(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"timestamp": now, "level": event.pop("level"), "event": event.pop("event", ""), **event}


def _add_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    given = event.pop("exc_info", None)
    if isinstance(given, BaseException):
        event["exception"] = format_exception(given)
    elif isinstance(given, tuple):
        if given[1] is not None:
            event["exception"] = format_exception(given[1])
    elif given and (error := sys.exc_info()[1]) is not None:
        event["exception"] = format_exception(error)
    return event


def format_exception(error: BaseException) -> str:
    """Write an exception with its frames and causes, without the values of SQL parameters."""
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and len(seen) < _DEEPEST:
        seen.add(id(current))
        parts.append("\n".join([*_frames(current.__traceback__), _headline(current)]))
        if isinstance(current, BaseExceptionGroup):
            parts += [format_exception(inner) for inner in current.exceptions[:_DEEPEST]]
        current = current.__cause__ or (
            None if current.__suppress_context__ else current.__context__
        )
    return "\ncaused by\n".join(parts) if len(parts) > 1 else parts[0]


def _frames(trace: TracebackType | None) -> list[str]:
    return [
        f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}"
        for frame in traceback.extract_tb(trace)
    ]


def _headline(error: BaseException) -> str:
    kind = type(error)
    text = str(error)
    if kind.__module__.startswith("asyncpg"):
        # The first line alone: DETAIL would repeat the row, with addresses and texts in it.
        text = _QUOTED.sub("'…'", text.partition("\n")[0])
    return f"{kind.__module__}.{kind.__qualname__}: {escape(text[:_LONGEST_MESSAGE])}"


def _masked(key: object, value: object, depth: int) -> object:
    if isinstance(key, str) and value is not None and _is_secret(key):
        return MASK
    # By its exact type: a Secret is a str too, and its repr is what hides it.
    if type(value) is str:
        return _scrubbed(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    return _masked_parts(value, depth + 1) if depth < _DEEPEST else _plain(value)


def _masked_parts(value: object, depth: int) -> object:
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    if isinstance(value, Mapping):
        return {key: _masked(key, part, depth) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked(None, part, depth) for part in value]
    if isinstance(value, datetime | timedelta | PurePath):
        return str(value)
    return _plain(value)


def _plain(value: object) -> object:
    return _scrubbed(repr(value))


def _scrubbed(text: str) -> str:
    # The cheap look first: hardly any text of a line is a URL or a header.
    if "=" in text or "://" in text or " " in text:
        return _SECRET_IN_TEXT.sub(rf"\g<head>{MASK}", text)
    return text


@lru_cache(maxsize=1024)
def _is_secret(key: str) -> bool:
    lowered = key.lower()
    return lowered in _PRIVATE or _SECRET_PART.search(lowered) is not None


def _running_loop() -> AbstractEventLoop | None:
    try:
        return get_running_loop()
    except RuntimeError:
        return None


def _route_logging(level: int) -> None:
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _Forward)]:
        root.removeHandler(handler)
    root.addHandler(_Forward())
    root.setLevel(level)
    # Requests have their own line, with a route and a request id; asyncio's debug lines are noise.
    logging.getLogger("aiohttp.access").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(max(level, logging.WARNING))
    logging.captureWarnings(capture=True)
