"""Texts that people and programs hand in: made clean where they come from elsewhere, refused where somebody types."""

import unicodedata
from typing import Literal

from sparkle_lite.errors import SparkleError
from sparkle_lite.texts import phrase

USER_AGENT_LENGTH = 256
NAME_LENGTH = 64


def is_line(text: str) -> bool:
    """Whether a text has no control characters, line breaks or lone surrogates."""
    return text.isprintable() or not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in text)


def clean_line(text: str) -> str:
    """A text without those characters, and without blanks around it."""
    return (text if text.isprintable() else "".join(filter(is_line, text))).strip()


def _visible(text: str) -> str:
    """A clean line without marks that can't be seen, such as those that turn the direction of writing."""
    line = clean_line(text)
    return line if line.isprintable() else "".join(char for char in line if unicodedata.category(char) != "Cf")


def clean_user_agent(text: str) -> str:
    """What a client or browser calls itself, as it is stored: at most 256 characters, all of them visible."""
    return _visible(text[:USER_AGENT_LENGTH])


def clean_name(text: str) -> str:
    """A name from elsewhere as one that `check_name` takes, or ""."""
    return _visible(text)[:NAME_LENGTH].strip()


def storable(text: str) -> str:
    """Text for a look-up: SQLite refuses lone surrogates, and nothing is stored under a text that has one."""
    return text.encode(errors="replace").decode()


def check_name(name: str) -> None:
    """Raises SparkleError (bad_request) for what can't be a user's name."""
    # Marks that can't be seen make a name look like another one.
    if not name or name != clean_name(name):
        raise SparkleError("bad_request", "user.bad_name")


def checked_line(text: str, name: Literal["comment", "reason"]) -> str:
    """One line of 1-255 characters, without blanks around it. Raises SparkleError (bad_request) that says its name."""
    stripped = text.strip()
    if not 1 <= len(stripped) <= 255 or not is_line(stripped):
        raise SparkleError("bad_request", "user.bad_line", what=phrase(f"user.line_{name}"))
    return stripped
