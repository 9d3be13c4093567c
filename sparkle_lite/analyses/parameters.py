"""What a run of an analysis goes by: its mode and numbers, and whose word counts."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, get_args

from sparkle_lite.accounts.registry import ANONYMOUS
from sparkle_lite.analyses.analysis import Analysis
from sparkle_lite.analyses.numbers import Mode, Numbers, sizes
from sparkle_lite.analyses.registry import ANALYSES
from sparkle_lite.config import AnalysisSection, Refused, parse
from sparkle_lite.db.accounts import name_key
from sparkle_lite.db.evidence.workspace import Trust
from sparkle_lite.errors import SparkleError


class Parameters(NamedTuple):
    """Whether an analysis is on, and its numbers (counts, percents, bytes, ms)."""

    mode: Mode
    numbers: Numbers


def parameters(name: str, settings: AnalysisSection, overrides: Mapping[str, str | int] | None = None) -> Parameters:
    """Those of one analysis: the preset's, over them the configuration's, over them some for one run.

    Overrides are written as in the configuration ("7d", "4GiB", 3, mode "on") or in ms and bytes; 0 changes nothing.
    Raises SparkleError("bad_request") for one that isn't understood, "not_found" for an analysis that there isn't.
    """
    if name not in ANALYSES:
        raise SparkleError("not_found", "analysis.unknown", name=name[:64])
    analysis, table = ANALYSES[name], getattr(settings, name)
    values: dict[str, Any] = {}
    for key, number in analysis.keys.items():
        set_by_hand = getattr(table, key)
        values[key] = number.by_preset[settings.preset] if set_by_hand == number.unset else set_by_hand
    tried = {key: _override(analysis, key, raw) for key, raw in (overrides or {}).items()}
    values |= {key: value for key, value in tried.items() if value != 0}
    return Parameters(values.pop("mode"), MappingProxyType({key: int(value) for key, value in values.items()}))


def _override(analysis: Analysis, key: str, raw: str | int) -> Any:
    if key not in analysis.keys:
        known = ", ".join(analysis.keys)
        raise SparkleError("bad_request", "analysis.no_number", name=analysis.name, key=key[:64], known=known)
    if key == "mode" and raw not in get_args(Mode):
        raise SparkleError("bad_request", "analysis.bad_mode", name=analysis.name, key=key)
    try:
        return parse(analysis.keys[key].annotation, raw)
    except Refused as refused:
        why = str(refused)
        raise SparkleError("bad_request", "analysis.bad_number", name=analysis.name, key=key, why=why) from None


# What a peer must have taken of somebody for their vote to count: a module that measures progress looks at nobody who
# took less than 48 MiB, so that this only keeps out what nobody measured.
_MIN_HARM = sizes("1B", "32MiB", "32MiB", "64MiB")


def trust(settings: AnalysisSection) -> Trust:
    """Whose word counts, and which evidence."""
    counts_private = {"count": True, "ignore": False}.get(settings.private_torrents, settings.preset == "tracker")
    return Trust(
        account_age=settings.account_age,
        active_days=settings.active_days,
        nobody=name_key(ANONYMOUS),
        private=counts_private,
        min_harm=int(settings.min_harm or _MIN_HARM.by_preset[settings.preset]),
    )
