"""Why somebody is listed or allowed, as sentences: from a code and numbers, never from text that a client sent."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from sparkle_lite.rulebook import ALLOWED_BY_OPERATOR, LISTED_BY_OPERATOR
from sparkle_lite.units import DAY_MS, DAY_S


class Reason(NamedTuple):
    """One plain sentence in English (ASCII) and Chinese, without a full stop."""

    en: str
    zh: str


Numbers = Mapping[str, int | float]
Tell = Callable[[str, Numbers], Reason | None]

_BY_HAND = {
    "config": Reason(LISTED_BY_OPERATOR, "由本服务器的运营者列入"),
    "admin": Reason(LISTED_BY_OPERATOR, "由本服务器的管理员列入"),
    "exception": Reason(ALLOWED_BY_OPERATOR, "由本服务器的运营者放行"),
    "pardon": Reason("pardoned by the operator of this server", "已由本服务器的管理员赦免"),
    "imported": Reason("on a list that the operator of this server imported", "在本服务器管理员导入的列表中"),
}


def by_hand(code: str, numbers: Numbers) -> Reason | None:
    """What people do."""
    return _BY_HAND.get(code)


def reason(code: str, numbers: Numbers, *tellers: Tell) -> Reason:
    """The sentence of a code: the first that a teller knows, else the bare numbers."""
    for tell in (by_hand, *tellers):
        found = tell(code, numbers)
        if found is not None:
            return Reason(one_line(found.en), found.zh)
    bare = ", ".join(f"{name} {value:g}" for name, value in numbers.items())
    return Reason(one_line(f"{code}: {bare}" if bare else code), f"{code}：{bare}" if bare else code)


def one_line(text: str) -> str:
    """ASCII on one line, whatever comes in."""
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()
    return " ".join(text.encode("ascii", "replace").decode().split())


def date(at_ms: int | None) -> str:
    """A day as documents and commands show it (UTC)."""
    return "never" if at_ms is None else _day(at_ms // DAY_MS)


@lru_cache(1024)
def _day(number: int) -> str:
    return datetime.fromtimestamp(number * DAY_S, UTC).strftime("%Y-%m-%d")
