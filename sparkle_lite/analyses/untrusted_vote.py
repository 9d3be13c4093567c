"""Addresses that enough people's clients banned for what they did: progress cheaters above all."""

import math

from sparkle_lite.analyses.analysis import HARD_EXPIRY_MS, Analysis, Examined, Need, network, told, words_needed
from sparkle_lite.analyses.evidence_table import MODULES
from sparkle_lite.analyses.numbers import Numbers, counts, modes, percents, spans
from sparkle_lite.db.evidence.untrusted_vote import Votes, find_votes
from sparkle_lite.db.evidence.workspace import LONGEST_RECURRENCE, WORD, Evidence, enough
from sparkle_lite.rules.findings import Finding
from sparkle_lite.units import DAY_MS

NAME = "untrusted_vote"


def fresh_need(need: int) -> int:
    """How much weight (percent of a vote) must be left of as many votes: half, so that a list doesn't flicker."""
    return need * 50


def fades(votes: Votes, now_ms: int, half_life: int, need: int) -> int:
    """When too little weight is left without new evidence, or the hard expiry if that is earlier."""
    half = half_life * min(votes.days, LONGEST_RECURRENCE)
    left = votes.weight * 100 / max(fresh_need(need), 1)
    return min(votes.knocked + HARD_EXPIRY_MS, now_ms + int(half * math.log2(max(left, 0.01))))


def _examine(evidence: Evidence, numbers: Numbers, only: bytes | None) -> list[Examined]:
    return [_examined(votes, numbers, evidence.now) for votes in find_votes(evidence, MODULES, numbers, only)]


def _examined(votes: Votes, numbers: Numbers, now_ms: int) -> Examined:
    by_any = votes.cheat_words < enough(numbers["min_people"]) and votes.words >= enough(numbers["min_people_any"])
    which, words = ("min_people_any", votes.words) if by_any else ("min_people", votes.cheat_words)
    voices = votes.voices if by_any else votes.cheat_voices
    need = numbers[which]
    finding = Finding(
        target=network(votes.key),
        code="reported_peer" if by_any else "progress_cheater",
        numbers={
            **told(voices, words, votes.against),
            **({"support": votes.support / WORD} if votes.support else {}),
            "torrents": votes.torrents,
            "days": votes.days,
            "reports": votes.reports,
            "modules": votes.groups,
            "weight": round(votes.weight, 2),
            "window_days": numbers["window"] // DAY_MS,
        },
        people=voices,
        decisive=votes.decisive,
        vouched=votes.vouched_members > 0,
        first_seen=votes.first,
        last_seen=votes.last,
        expires=fades(votes, now_ms, numbers["half_life"], need),
    )
    needs = (
        words_needed(NAME, which, words, need),
        Need(NAME, "min_torrents", max(votes.torrents, votes.days), numbers["min_torrents"]),
        Need(NAME, "min_days", max(votes.days, votes.groups), numbers["min_days"]),
        Need(NAME, "weight_percent", round(votes.weight * 100), fresh_need(need)),
    )
    return Examined(finding, needs)


ANALYSIS = Analysis(
    name=NAME,
    version=3,
    mode=modes("on"),
    numbers={
        "min_people": counts(1, 3, 3, 5),
        "min_people_any": counts(1, 4, 5, 8),
        "min_torrents": counts(2),
        "min_days": counts(1, 1, 2, 2),
        "share_percent": percents(50),
        "window": spans("14d"),
        "half_life": spans("3d"),
    },
    codes=("progress_cheater", "reported_peer"),
    examine=_examine,
)
