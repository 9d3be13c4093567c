"""The one error that the program raises on purpose: a code for machines, a sentence for people in two languages."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

Code = Literal[
    "bad_request",
    "forbidden",
    "not_found",
    "method_not_allowed",
    "timeout",
    "conflict",
    "too_large",
    "unsupported",
    "too_many",
    "quota",
    "overloaded",
    "internal",
]


class SparkleError(Exception):
    """A refusal that may be shown to whoever asked.

    `code` decides the HTTP status (table in http/problems.py) and the exit status of a command. `message` is one plain
    sentence in English, `message_zh` the same in Chinese. `retry_after` (s) goes out as Retry-After.
    """

    def __init__(self, code: Code, message: str, message_zh: str = "", *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message
        self.message_zh = message_zh
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        """From one process to another."""
        return SparkleError, (self.code, self.message, self.message_zh), {"retry_after": self.retry_after}


class Problem(NamedTuple):
    """One mistake in the configuration, or a note about it.

    `path` names the key (`("rules", 2, "content", 0)`), `message` says what is wrong or what it leads to, `mend` what
    to write instead.
    """

    path: tuple[str | int, ...]
    message: str
    mend: str


class ConfigError(Exception):
    """The configuration can't be used; every problem that was found, each as a ready line with its place."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)
