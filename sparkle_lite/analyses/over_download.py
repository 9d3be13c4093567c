"""Addresses that took a torrent several times over from several people: for somebody who says it never has enough."""

from sparkle_lite.analyses.analysis import Analysis, Examined, Need, lasts, network, told, words_needed
from sparkle_lite.analyses.numbers import Numbers, counts, modes, percents, sizes, spans
from sparkle_lite.db.evidence.over_download import Copies, Flow, find_copies, find_flows
from sparkle_lite.db.evidence.workspace import Evidence
from sparkle_lite.rules.findings import Finding
from sparkle_lite.units import DAY_MS

NAME = "over_download"


def _examine(evidence: Evidence, numbers: Numbers, only: bytes | None) -> list[Examined]:
    several = [_examined(flow, numbers) for flow in find_flows(evidence, numbers, only)]
    return several + [_hoarding(copies, numbers) for copies in find_copies(evidence)]


def _examined(flow: Flow, numbers: Numbers) -> Examined:
    # What somebody took of several torrents tells more than as much of one.
    which = "several_percent" if flow.torrents > 1 else "min_percent"
    finding = Finding(
        target=network(flow.key),
        code="over_downloader_several" if flow.torrents > 1 else "over_downloader",
        numbers={
            **told(flow.voices, flow.words, flow.against),
            "percent": flow.least_percent if flow.torrents > 1 else flow.percent,
            "taken_bytes": flow.taken,
            "size_bytes": flow.size,
            "peers": flow.pairs,
            "torrents": flow.torrents,
            "days": flow.days,
            "window_days": numbers["window"] // DAY_MS,
        },
        people=flow.voices,
        decisive=flow.decisive,
        vouched=flow.vouched,
        first_seen=flow.first,
        last_seen=flow.last,
        expires=lasts(flow.knocked, numbers["lifetime"], flow.days),
    )
    needs = (
        words_needed(NAME, "min_people", flow.words, numbers["min_people"]),
        Need(NAME, which, flow.percent, numbers[which]),
        Need(NAME, "min_traffic", flow.taken, numbers["min_traffic"]),
        Need(NAME, "min_days", max(flow.days, flow.torrents), numbers["min_days"]),
    )
    return Examined(finding, needs)


def _hoarding(copies: Copies, numbers: Numbers) -> Examined:
    finding = Finding(
        target=network(copies.key),
        code="over_downloader_copies",
        numbers={
            **told(copies.voices, copies.words, 0),
            "taken_bytes": copies.taken,
            "peers": copies.clients,
            "torrents": copies.copies,
            "days": copies.days,
            "window_days": numbers["window"] // DAY_MS,
        },
        people=copies.voices,
        decisive=copies.decisive,
        vouched=copies.vouched,
        first_seen=copies.first,
        last_seen=copies.last,
        expires=lasts(copies.knocked, numbers["lifetime"], copies.days),
    )
    needs = (
        words_needed(NAME, "min_people", copies.words, numbers["min_people"]),
        Need(NAME, "min_copies", copies.copies // max(copies.clients, 1), numbers["min_copies"]),
        # Who downloads that much and is honest gives something to somebody.
        Need(NAME, "gave_nothing", 0 if copies.gave else 1, 1),
        Need(NAME, "min_traffic", copies.taken, numbers["min_traffic"]),
    )
    return Examined(finding, needs)


ANALYSIS = Analysis(
    name=NAME,
    version=4,
    mode=modes("shadow", "on", "on", "on"),
    numbers={
        "min_people": counts(1, 3, 3, 4),
        "min_percent": percents(400, 250, 250, 320),
        "several_percent": percents(400, 160, 160, 200),
        "person_percent": percents(1000, 110, 110, 110),
        "min_copies": counts(400, 200, 400, 500),
        "min_traffic": sizes("2GiB", "2GiB", "4GiB", "15GB"),
        "min_days": counts(2),
        "share_percent": percents(50),
        "window": spans("7d"),
        "lifetime": spans("7d"),
    },
    codes=("over_downloader", "over_downloader_several", "over_downloader_copies"),
    examine=_examine,
)
