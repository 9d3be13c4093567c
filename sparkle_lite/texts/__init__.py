"""What the program says to people, by key: each folder beside this file is a language, its TOML files hold the texts.

A key is dotted (`body.empty` is `empty` in the table `[body]`), a text has {names} for values, which are filled in as
str.format does; {days:day|days} is a number with the word that goes with it. Another language is another folder with
the same keys, and one of the manual. English is what logs, the audit log and commands speak; what clients show raw is
said in `SHOWN_RAW`.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from string import Formatter
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

ENGLISH = "en"
# A client shows a refusal or a label as it comes, and nobody knows in which language it is read.
SHOWN_RAW = ("en", "zh")
_LANGUAGE = re.compile(r"[a-z]{2,3}")


@cache
def languages() -> tuple[str, ...]:
    """The languages that there are, by their codes (ISO 639); English first."""
    codes = {each.name for each in resources.files(__package__).iterdir() if _LANGUAGE.fullmatch(each.name)}
    return (ENGLISH, *sorted(codes - {ENGLISH}))


def spoken(environ: Mapping[str, str]) -> str:
    """The language that the environment of a command asks for (POSIX: LC_ALL, LC_MESSAGES, LANG); else English."""
    named = next((value for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (value := environ.get(name))), "")
    code = re.split(r"[_.@-]", named, maxsplit=1)[0].lower()
    return code if code in languages() else ENGLISH


@cache
def catalogue(language: str) -> Mapping[str, str]:
    """All texts of a language: dotted key -> text with {names}. Raises ValueError for a key that stands twice."""
    texts: dict[str, str] = {}
    for file in sorted((resources.files(__package__) / language).iterdir(), key=lambda each: each.name):
        if file.name.endswith(".toml"):
            for key, text in _flat(tomllib.loads(file.read_text("utf-8"))):
                if key in texts:
                    raise ValueError(f"{language}/{file.name}: {key} stands in another file too")
                texts[key] = text
    return texts


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value).strip()


@cache
def places(key: str) -> frozenset[str]:
    """The names of the values that a text takes."""
    return frozenset(name for _, name, _, _ in Formatter().parse(catalogue(ENGLISH)[key]) if name)


class Phrase(NamedTuple):
    """Something to be said: the key of a text and the values in it, which may be phrases themselves."""

    key: str
    values: Mapping[str, Any] = {}

    def text(self, language: str) -> str:
        """What it is in a language. Raises KeyError for a key or value that isn't there."""
        text = catalogue(language)[self.key]
        if not self.values:
            return text
        return text.format_map({name: _told(value, language) for name, value in self.values.items()})

    def raw(self, between: str = " ") -> str:
        """What it is where clients show it raw, which is each of those languages."""
        return between.join(self.text(language) for language in SHOWN_RAW)


class _Number:
    """A number that {days:day|days} puts beside the word that goes with it."""

    def __init__(self, value: float) -> None:
        self._value = value

    def __format__(self, spec: str) -> str:
        one, bar, other = spec.partition("|")
        return f"{self._value} {one if self._value == 1 else other}" if bar else format(self._value, spec)


def _told(value: Any, language: str) -> Any:
    if isinstance(value, Phrase):
        return value.text(language)
    return _Number(value) if type(value) in (int, float) else value


def phrase(key: str, /, **values: Any) -> Phrase:
    """Something to be said, with its values by name."""
    return Phrase(key, values)


def joined(key: str, parts: Iterable[T]) -> T | Phrase:
    """Several words, phrases or sentences as one; the text of the key puts {one} before {other}."""
    first, *others = parts
    said: T | Phrase = first
    for other in others:
        said = phrase(key, one=said, other=other)
    return said
