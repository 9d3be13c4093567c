"""The numbers of every analysis: what the presets say, and what an operator set by hand."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

from sparkle_lite.config import AnalysisSection, Duration, Refused, Size, parse
from sparkle_lite.config.keys import keys_of
from sparkle_lite.errors import SparkleError

Mode = Literal["on", "shadow", "off"]
Numbers = Mapping[str, int]

PRESETS = ("solo", "friends", "tracker", "public")

_D = Duration.parse
_S = Size.parse

# solo: one person's own clients. friends: people who know each other. tracker: a community of hundreds, most of them
# unknown to each other. public: anyone may register.
TABLE: Mapping[str, Mapping[str, tuple[str | int, str | int, str | int, str | int]]] = {
    "untrusted_vote": {
        "mode": ("on", "on", "on", "on"),
        "min_people": (1, 3, 3, 5),
        "min_people_any": (1, 4, 5, 8),
        "min_torrents": (2, 2, 2, 2),
        "min_days": (1, 1, 2, 2),
        "share_percent": (50, 50, 50, 50),
        "window": (_D("14d"), _D("14d"), _D("14d"), _D("14d")),
        "half_life": (_D("3d"), _D("3d"), _D("3d"), _D("3d")),
    },
    "over_download": {
        "mode": ("shadow", "on", "on", "on"),
        "min_people": (1, 3, 3, 4),
        "min_percent": (400, 250, 250, 320),
        "person_percent": (1000, 110, 110, 110),
        "min_traffic": (_S("2GiB"), _S("2GiB"), _S("4GiB"), _S("15GB")),
        "min_days": (2, 2, 2, 2),
        "share_percent": (50, 50, 50, 50),
        "window": (_D("7d"), _D("7d"), _D("7d"), _D("7d")),
        "lifetime": (_D("7d"), _D("7d"), _D("7d"), _D("7d")),
    },
    "concurrent_download": {
        "mode": ("off", "off", "shadow", "shadow"),
        "min_people": (1, 3, 3, 5),
        "min_torrents": (30, 30, 50, 80),
        "window": (_D("1d"), _D("1d"), _D("1d"), _D("1d")),
        "lifetime": (_D("2d"), _D("2d"), _D("2d"), _D("2d")),
    },
    "client_identity": {
        "mode": ("off", "off", "off", "off"),
        "min_people": (1, 3, 4, 5),
        "min_addresses": (3, 5, 10, 20),
        "min_percent": (95, 95, 95, 98),
        "min_torrents": (2, 2, 2, 2),
        "window": (_D("14d"), _D("14d"), _D("14d"), _D("14d")),
        "lifetime": (_D("14d"), _D("14d"), _D("14d"), _D("14d")),
    },
    "multi_dial": {
        "mode": ("shadow", "on", "on", "on"),
        "min_people": (1, 3, 4, 5),
        "member_people": (1, 2, 3, 3),
        "min_hosts": (8, 8, 8, 8),
        "min_subnets": (3, 3, 3, 3),
        "sharing_percent": (50, 50, 50, 50),
        "min_torrents": (2, 2, 2, 2),
        "share_percent": (50, 50, 50, 50),
        "window": (_D("14d"), _D("14d"), _D("14d"), _D("14d")),
        "half_life": (_D("3d"), _D("3d"), _D("3d"), _D("3d")),
    },
}


class Chosen(NamedTuple):
    """Whether an analysis is on, and its numbers (counts, percents, bytes, ms)."""

    mode: Mode
    numbers: Numbers


def choose(name: str, settings: AnalysisSection, overrides: Mapping[str, str | int] | None = None) -> Chosen:
    """The numbers of one analysis: the preset's, over them the configuration's, over them some for one run.

    Overrides are written as in the configuration ("7d", "4GiB", 3, mode "on") or in ms and bytes; 0 changes nothing.
    Raises SparkleError("bad_request") for one that isn't understood, "not_found" for an analysis that there isn't.
    """
    if name not in TABLE:
        raise SparkleError("not_found", "analysis.unknown", name=name[:64])
    values = preset_values(name, settings.preset)
    section = getattr(settings, name)
    # 0 and "preset" are "not set by hand".
    values |= {key: set_value for key in values if (set_value := getattr(section, key)) not in (0, "preset")}
    tried = {key: _override(name, type(section), key, raw) for key, raw in (overrides or {}).items()}
    values |= {key: value for key, value in tried.items() if value != 0}
    mode = values.pop("mode")
    return Chosen(
        next(m for m in get_args(Mode) if m == mode), MappingProxyType({k: int(v) for k, v in values.items()})
    )


def preset_values(name: str, preset: str) -> dict[str, str | int]:
    """The mode and the numbers that a preset gives an analysis."""
    column = PRESETS.index(preset)
    return {key: columns[column] for key, columns in TABLE[name].items()}


def _override(name: str, section: type, key: str, raw: str | int) -> str | int:
    hints = keys_of(section)
    if key not in hints:
        raise _bad("analysis.no_number", name=name, key=key[:64], known=", ".join(hints))
    if key == "mode" and raw not in get_args(Mode):
        raise _bad("analysis.bad_mode", name=name, key=key)
    try:
        value: str | int = parse(hints[key], raw)
    except Refused as refused:
        raise _bad("analysis.bad_number", name=name, key=key, why=str(refused)) from None
    return value


def _bad(key: str, /, **values: Any) -> SparkleError:
    return SparkleError("bad_request", key, **values)
