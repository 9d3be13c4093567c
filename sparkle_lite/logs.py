"""Logging: what a line looks like, and that writing it never holds up the event loop or shows a secret.

`cli` calls `setup` once; everything else uses stdlib loggers below "sparkle" with fields in `extra`.
"""

import asyncio
import json
import logging
import os
import re
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from functools import lru_cache
from typing import Any, Literal, TextIO

_ACCESS = logging.getLogger("sparkle.access")

QUEUE_LINES = 10_000
LONGEST_TEXT = 8_000  # characters of one message, field or traceback
MASK = "***"

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_SECRET_NAME = re.compile(r"secret|token|passw(?:or)?d|authorization|authentication|cookie", re.IGNORECASE)
# A name, what stands between it and its value in a header, a query string, a dict or a tuple, then the value. Repeats
# are bounded: the text comes from strangers and a pattern that backtracks far would stop the server.
_SECRET_VALUE = re.compile(
    r"""(?P<name>authorization|authentication|installation_?id|secret\w{0,20}|token|passw(?:or)?d|(?P<line>cookie))
        (?P<between>(?:["']?\s{0,3}[:=]|["'],)\s{0,3}(?:b?["'])?)
        (?(line)[^\n]+|(?:(?<=")[^"\n]+|(?<=')[^'\n]+|(?:(?:bearer|basic|token)\s{1,3})?[^\s"',;&<>]+))""",
    re.IGNORECASE | re.VERBOSE,
)
# Feed keys stand in URLs, which people mistype: what should be a query may come as a path.
_BARE_SECRET = re.compile(
    r"\b(bearer\s{1,3})[^\s\"',;&<>]+|\beyJ[\w-]{8,200}\.[\w-]{1,2000}\.[\w-]{1,1000}|slf_[\w-]{1,2000}",
    re.IGNORECASE,
)

# Every match of the two contains one of these; looking for them first makes a clean text ten times cheaper.
_HINTS = ("auth", "secret", "token", "passw", "cookie", "bearer", "install", "eyj", "slf_")

# What could end a line, move the cursor, or reverse the text of a terminal; surrogates can't be encoded at all.
_UNSAFE = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for span in ((0, 32), (127, 160), (0x200B, 0x2010), (0x2028, 0x202F), (0x2066, 0x206A), (0xD800, 0xE000))
    for code in range(*span)
} | {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}

_to_json = json.JSONEncoder(default=str).encode

_COLOURS = {
    "DEBUG": "\x1b[2m",
    "INFO": "\x1b[32m",
    "WARNING": "\x1b[33m",
    "ERROR": "\x1b[31m",
    "CRITICAL": "\x1b[31;1m",
}


def setup(
    format: Literal["auto", "text", "json"] = "auto",
    stream: TextIO | None = None,
    level: int | str = "INFO",
) -> "LogWriter":
    """Send every logger's lines to `stream` (standard error); the writer closes itself when the interpreter ends.

    "auto" is text on a terminal and one JSON object a line otherwise. A second call replaces the first.
    """
    out = stream or sys.stderr
    terminal = out.isatty()
    formatter: logging.Formatter
    if format == "json" or (format == "auto" and not terminal):
        formatter = JsonFormatter()
    else:
        formatter = TextFormatter(colour=terminal and "NO_COLOR" not in os.environ)
    # Never shown, and each costs a lookup per record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, LogWriter)]:
        root.removeHandler(old)
        old.close()
    writer = LogWriter(out, formatter)
    root.addHandler(writer)
    root.setLevel(level.upper() if isinstance(level, str) else level)
    return writer


def access(
    *,
    method: str,
    path: str,
    status: int,
    duration_ms: float,
    bytes_in: int,
    client: str,
    app_id: str | None = None,
) -> None:
    """One line for one request, at INFO. `path` comes without its query string, `bytes_in` is the body as sent."""
    if not _ACCESS.isEnabledFor(logging.INFO):
        return
    record = logging.LogRecord(
        name=_ACCESS.name,
        level=logging.INFO,
        pathname="",
        lineno=0,
        msg="%s %s %d",
        args=(method, path, status),
        exc_info=None,
    )
    # Straight to the record: Logger.info would walk the stack for a caller's name that no format shows.
    record.__dict__.update(method=method, path=path, status=status, duration_ms=round(duration_ms, 1))
    record.__dict__.update(bytes_in=bytes_in, client=client, app_id=app_id)
    _ACCESS.handle(record)


class LogWriter(logging.Handler):
    """A handler that only keeps records; a thread of its own formats them and writes them in batches.

    Beyond `capacity` waiting records new ones are dropped and counted: the server never waits for its log's reader.
    """

    # Waking a thread costs more than a line; a line may be this late instead (s).
    gather: float = 0.05

    def __init__(self, stream: TextIO, formatter: logging.Formatter, capacity: int = QUEUE_LINES) -> None:
        super().__init__()
        self.formatter: logging.Formatter = formatter
        self.dropped = 0
        self._capacity = capacity
        self._stream = stream
        self._reported = 0
        self._waiting: deque[logging.LogRecord] = deque()
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._redact = Redact()
        self.addFilter(_is_worth_a_line)
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record for the thread, or count it as dropped."""
        if len(self._waiting) >= self._capacity:
            self.dropped += 1
            return
        # Arguments may change after this call, so the message is made now; the rest is the thread's work.
        record.msg, record.args = record.getMessage(), None
        self._waiting.append(record)
        if not self._wake.is_set():
            self._wake.set()

    def close(self) -> None:
        """Write what waits, for at most about two seconds, and end the thread."""
        self._ending.set()
        self._wake.set()
        self._thread.join(2.0)
        super().close()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._wake.wait()
            self._ending.wait(self.gather)
            self._wake.clear()
            self._write_waiting()
        self._write_waiting()

    def _write_waiting(self) -> None:
        lines = []
        while self._waiting:
            lines.append(self._line(self._waiting.popleft()))
            if len(lines) == 100:
                self._write(lines)
                lines = []
        if self.dropped > self._reported:
            lost, self._reported = self.dropped - self._reported, self.dropped
            fields = {"name": "sparkle.logs", "levelname": "WARNING", "dropped": lost}
            lines.append(
                self._line(logging.makeLogRecord({**fields, "msg": "lines dropped: the log's reader is slow"}))
            )
        if lines:
            self._write(lines)

    def _line(self, record: logging.LogRecord) -> str:
        # One record that can't be shown must not end the thread.
        try:
            self._redact.filter(record)
            return self.formatter.format(record) + "\n"
        except Exception as exc:
            return f"log record of {record.name} can't be shown: {type(exc).__name__}\n"

    def _write(self, lines: list[str]) -> None:
        # A closed pipe or a full disk neither: there is nowhere left to say so.
        with suppress(OSError, ValueError):
            text = "".join(lines)
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            self._stream.flush()


class Redact(logging.Filter):
    """Second line of defence: masks what looks like a secret in the message, the fields and the traceback.

    The first line is that no code logs headers, bodies or query strings.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record in place; always True."""
        record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            record.exc_text = _traceback(record)
        if record.exc_text:
            record.exc_text = redact(record.exc_text)
        for name, value in _fields(record):
            if value is None or isinstance(value, int | float):
                continue
            text = MASK if _SECRET_NAME.search(name) else redact(str(value))
            if text != value:
                setattr(record, name, text)
        return True


def redact(text: str) -> str:
    """The text, cut to LONGEST_TEXT, with the values after credential names, bearer tokens and JWTs masked."""
    if len(text) > LONGEST_TEXT:
        text = text[:LONGEST_TEXT] + " ..."
    lowered = text.lower()
    for hint in _HINTS:
        if hint in lowered:
            break
    else:
        return text
    text = _SECRET_VALUE.sub(rf"\g<name>\g<between>{MASK}", text)
    return _BARE_SECRET.sub(lambda match: (match[1] or "") + MASK, text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the fields, and the traceback as `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line without its end; ASCII, so that no control character or line separator survives."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in _fields(record) if name not in line and value is not None}
        if record.exc_info or record.exc_text:
            line["exception"] = record.exc_text or _traceback(record)
        return _to_json(line)


class TextFormatter(logging.Formatter):
    """`time LEVEL logger message key=value ...`; a traceback follows indented, so that no text can pose as a line."""

    def __init__(self, *, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """The line without its end; more than one only for a traceback."""
        level = f"{record.levelname:<7}"
        if self._colour:
            level = f"{_COLOURS.get(record.levelname, '')}{level}\x1b[0m"
        parts = [_time(record), level, record.name.removeprefix("sparkle."), escape(record.getMessage())]
        # An access line's message is made of these three.
        shown = {"method", "path", "status"} if record.name == _ACCESS.name else set()
        parts += [
            f"{name}={_quoted(value)}" for name, value in _fields(record) if value is not None and name not in shown
        ]
        text = " ".join(parts)
        if record.exc_info or record.exc_text:
            trace = record.exc_text or _traceback(record)
            text += "".join(f"\n    {escape(line)}" for line in trace.split("\n"))
        return text


def escape(text: str) -> str:
    """The text with control, bidirectional and unencodable characters as backslash escapes."""
    return text if text.isascii() and text.isprintable() else text.translate(_UNSAFE)


def _quoted(value: object) -> str:
    text = escape(str(value))
    return f'"{text}"' if " " in text or not text else text


def _time(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(record.msecs):03d}Z"


@lru_cache(maxsize=2)
def _second(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))


def _fields(record: logging.LogRecord) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in vars(record).items() if name not in _STANDARD]


def _traceback(record: logging.LogRecord) -> str:
    # The standard formatter shows source lines and never local variables.
    return logging.Formatter().formatException(record.exc_info) if record.exc_info else ""


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """False for what libraries report as errors and is only a client that went away, or our own stop."""
    if record.name == "asyncio":
        return record.getMessage() != "socket.send() raised exception."
    if record.name != "uvicorn.error" or not record.exc_info:
        return True
    reason = record.exc_info[1]
    # uvloop's words for an answer to a client that has gone; uvicorn notices it itself unless requests were pipelined.
    gone = isinstance(reason, RuntimeError) and "the handler is closed" in str(reason)
    return not gone and not isinstance(reason, ConnectionError | asyncio.CancelledError)
