"""Addresses that download very many torrents in the same half hour and give nothing back to anyone."""

from sparkle_lite.analyses.analysis import Analysis, Examined, Need, lasts, network, told, words_needed
from sparkle_lite.analyses.numbers import Numbers, counts, modes, spans
from sparkle_lite.db.evidence.concurrent_download import Crowd, find_crowds
from sparkle_lite.db.evidence.workspace import Evidence
from sparkle_lite.rules.findings import Finding
from sparkle_lite.units import DAY_MS

NAME = "concurrent_download"

# Of so many of the torrents that it takes, vouched people must have seen one, so that it rests on them, too.
_VOUCHED_PART = 5


def _examine(evidence: Evidence, numbers: Numbers, only: bytes | None) -> list[Examined]:
    return [_examined(crowd, numbers) for crowd in find_crowds(evidence, numbers, only)]


def _examined(crowd: Crowd, numbers: Numbers) -> Examined:
    finding = Finding(
        target=network(crowd.key),
        code="concurrent_downloader",
        numbers={
            **told(crowd.voices, crowd.words, crowd.against),
            "torrents": crowd.torrents,
            "buckets": crowd.buckets,
            "window_days": numbers["window"] // DAY_MS,
        },
        people=crowd.voices,
        decisive=crowd.decisive,
        vouched=crowd.vouched_torrents * _VOUCHED_PART >= numbers["min_torrents"],
        first_seen=crowd.first,
        last_seen=crowd.last,
        expires=lasts(crowd.knocked, numbers["lifetime"], 1),
    )
    needs = (
        words_needed(NAME, "min_people", crowd.words, numbers["min_people"]),
        Need(NAME, "min_torrents", crowd.torrents, numbers["min_torrents"]),
        # A single person to whom it gave is enough: what gives is a seedbox, a VPN's exit or a campus.
        Need(NAME, "gave_nothing", 0 if crowd.against else 1, 1),
    )
    return Examined(finding, needs)


ANALYSIS = Analysis(
    name=NAME,
    version=3,
    mode=modes("off", "on", "on", "on"),
    numbers={
        "min_people": counts(1, 3, 3, 5),
        "min_torrents": counts(30, 30, 50, 80),
        "window": spans("1d"),
        "lifetime": spans("2d"),
    },
    codes=("concurrent_downloader",),
    examine=_examine,
)
