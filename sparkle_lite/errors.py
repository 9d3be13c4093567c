"""The one error that the program raises on purpose: a code for machines, a sentence for people in every language."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from sparkle_lite.texts import ENGLISH, Phrase

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
    "upstream",
]


class SaidError(Exception):
    """An error whose sentence stands in the catalogues: its key there, and the values by name."""

    def __init__(self, key: str, /, **values: Any) -> None:
        super().__init__()
        self.said = Phrase(key, values)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """From one process to another."""
        return partial(type(self), **self.said.values), (self.said.key,)

    @property
    def message(self) -> str:
        """The sentence in English: for logs, the audit log and commands."""
        return self.text(ENGLISH)

    def text(self, language: str) -> str:
        """The sentence in a language."""
        return self.said.text(language)


class SparkleError(SaidError):
    """A refusal that may be shown to whoever asked.

    `code` decides the HTTP status (table in http/problems.py) and the exit status of a command. `retry_after` (s) goes
    out as Retry-After.
    """

    def __init__(self, code: Code, key: str, /, *, retry_after: int | None = None, **values: Any) -> None:
        super().__init__(key, **values)
        self.code: Code = code
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(SparkleError, retry_after=self.retry_after, **self.said.values), (self.code, self.said.key)


class Problem(NamedTuple):
    """One mistake in the configuration, or a note about it.

    `path` names the key (`("rules", 2, "content", 0)`), `message` says what is wrong or what it leads to, `hint` what
    to write instead.
    """

    path: tuple[str | int, ...]
    message: str
    hint: str


class ConfigError(Exception):
    """The configuration can't be used; every problem that was found, each as a ready line with its place."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)
