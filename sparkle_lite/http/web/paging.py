"""Pages of a table: which one a URL asks for, and the cursors of the pages around it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from sparkle_lite.observations.stored import Position

T = TypeVar("T")
K = TypeVar("K")

# The parameters that say where a page stands; every other change of a URL begins at the first page again.
PARAMETERS = ("after", "before", "page")


class Slice(NamedTuple, Generic[T]):
    """The rows of a page, and the cursors of the pages around it, where there are any."""

    rows: Sequence[T]
    previous: str | None
    next: str | None


def position(parameters: Mapping[str, str], read: Callable[[str], K | None]) -> Position[K]:
    """Where the page stands that a URL asks for; what is no cursor is as good as nothing."""
    for name in ("after", "before"):
        if (key := read(parameters.get(name, ""))) is not None:
            return Position(key, name == "before")
    return Position()


def cut(found: Sequence[T], at: Position[K], size: int, cursor: Callable[[T], str]) -> Slice[T]:
    """The page of rows that were found at a position, one more than its size if there are more on that way."""
    more = len(found) > size
    rows = found[-size:] if at.is_before else found[:size]
    has_previous, has_next = (more, True) if at.is_before else (at.key is not None, more)
    return Slice(
        rows,
        cursor(rows[0]) if rows and has_previous else None,
        cursor(rows[-1]) if rows and has_next else None,
    )


def row_id(text: str) -> int | None:
    """A row id of a URL, or another number that the database can hold."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


def page_number(parameters: Mapping[str, str]) -> int:
    """Which page is asked for of a table whose pages are numbered, from 0."""
    text = parameters.get("page", "")
    return int(text) if text.isdecimal() and len(text) < 10 else 0
