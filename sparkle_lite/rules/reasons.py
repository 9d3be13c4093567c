"""Why somebody is listed or allowed, as sentences: from a code and numbers, never from text that a client sent."""

from collections.abc import Mapping
from typing import Any

from sparkle_lite.texts import ENGLISH, Phrase, catalogue, phrase, places

Numbers = Mapping[str, int | float]
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def reason(code: str, numbers: Numbers) -> Phrase:
    """The sentence of a code with its numbers (catalogues: reason.<code>), without a full stop; in English it is ASCII.

    A {name} takes the number of that name, or `<name>_bytes` as a size; {who} takes the people, with what their words
    come to where that is not as much. The bare numbers are told where there is no sentence, or where it takes numbers
    that are missing.
    """
    key = f"reason.{code}"
    if key in catalogue(ENGLISH):
        try:
            return Phrase(key, {name: _shown(name, numbers) for name in places(key)})
        except KeyError:
            pass
    bare = one_line(", ".join(f"{name} {value:g}" for name, value in numbers.items()))
    code = one_line(code)
    if not bare:
        return phrase("reason_without_sentence.bare", code=code)
    return phrase("reason_without_sentence.numbers", code=code, numbers=bare)


def _shown(name: str, numbers: Numbers) -> Any:
    if name == "who":
        return _who(numbers)
    if name not in numbers:
        return size(numbers[f"{name}_bytes"])
    return _plain(numbers[name], 2)


def _who(numbers: Numbers) -> Phrase:
    """So many people; words are told only where they come to something else, or a list adds to them, rounded."""
    people = _plain(numbers["people"], 0)
    words = _plain(numbers.get("words", people), 1)
    if numbers.get("support"):
        return phrase("reason_who.supported", people=people, words=words)
    if words == people:
        return phrase("reason_who.people", people=people)
    return phrase("reason_who.words", people=people, words=words)


def _plain(value: float, digits: int) -> int | float:
    rounded = round(value, digits)
    return int(rounded) if float(rounded).is_integer() else rounded


def size(value: float) -> str:
    """Bytes for people: 1.5 GiB."""
    unit = 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.3g} {_UNITS[unit]}"


def one_line(text: str) -> str:
    """ASCII on one line, whatever comes in."""
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()
    return " ".join(text.encode("ascii", "replace").decode().split())
