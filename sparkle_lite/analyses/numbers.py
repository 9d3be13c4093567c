"""How an analysis declares its numbers: each a key of the configuration with its bounds, and what the presets give it.

A number is declared with its value in every preset, or with one value for all of them. solo: one person's own clients.
friends: people who know each other. tracker: a community of hundreds, most of them unknown to each other. public:
anyone may register.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, get_args

from sparkle_lite.config import Duration, Preset, Size
from sparkle_lite.config.values import between
from sparkle_lite.units import DAY_MS, MINUTE_MS

PRESETS: tuple[Preset, ...] = get_args(Preset)

Mode = Literal["on", "shadow", "off"]
Numbers = Mapping[str, int]

# What may be written for each kind of number; 0 and "preset" are the preset's.
_MODE = Literal["preset", "on", "shadow", "off"]
_COUNT = Annotated[int, between(1, 1_000_000, or_zero=True)]
_SPAN = Annotated[Duration, between(Duration(MINUTE_MS), Duration(366 * DAY_MS), or_zero=True)]
_SIZE = Annotated[Size, between(Size(1), or_zero=True)]


class Number(NamedTuple):
    """A number of an analysis, or its mode, as a key of the configuration.

    `annotation` is the type of the key with its bounds, `unset` its default, where the preset's value counts (counts,
    percents, bytes or ms, of the key's type).
    """

    annotation: Any
    unset: str | int
    by_preset: Mapping[str, str | int]


def modes(*values: Mode) -> Number:
    """Whether an analysis is on."""
    return Number(_MODE, "preset", _by_preset(values))


def counts(*values: int) -> Number:
    """A number of people, torrents, days or the like."""
    return Number(_COUNT, 0, _by_preset(values))


def percents(*values: int) -> Number:
    """A share in percent, which may be more than a hundred."""
    return Number(_COUNT, 0, _by_preset(values))


def spans(*values: str) -> Number:
    """A span of time, such as "14d"."""
    return Number(_SPAN, Duration(0), _by_preset([Duration.parse(value) for value in values]))


def sizes(*values: str) -> Number:
    """A number of bytes, such as "4GiB"."""
    return Number(_SIZE, Size(0), _by_preset([Size.parse(value) for value in values]))


def _by_preset(values: Sequence[str | int]) -> Mapping[str, str | int]:
    each = values if len(values) > 1 else [*values] * len(PRESETS)
    return dict(zip(PRESETS, each, strict=True))
