"""What somebody's word is worth and what it is made of, for their own page and for administrators."""

import math
from typing import NamedTuple

from sparkle_lite.accounts.users import UserRow, WordRow, is_nobody
from sparkle_lite.analyses.analysis import network
from sparkle_lite.analyses.registry import ANALYSES
from sparkle_lite.config import AnalysisSection
from sparkle_lite.net import Network
from sparkle_lite.observations.stored import REPORTED_DAYS, Helped, Reported
from sparkle_lite.server import Server
from sparkle_lite.texts import Phrase, phrase
from sparkle_lite.units import DAY_MS

# After reporting for so long without a word, people are told why.
_PATIENCE_MS = 7 * DAY_MS
_VERDICTS = ("agreed", "late", "disagreed", "canary")


class Verdicts(NamedTuple):
    """Reports of one kind, by what became of them: how many addresses there are, and the newest of them."""

    name: str
    total: int
    networks: list[Network]


class WordCard(NamedTuple):
    """Somebody's word as pages show it; `row` is None where nothing was measured.

    `companions` are the names of those with whom they share a voice, `reports` how many bans their clients reported
    within `days`, `helped` what listings of the analyses in force have to do with what they met. `why_silent` says to
    whoever reports in vain what is missing.
    """

    user: UserRow
    is_nobody: bool
    row: WordRow | None
    companions: list[str]
    verdicts: list[Verdicts]
    reports: int
    days: int
    helped: Helped
    why_silent: Phrase | None


async def word_card(server: Server, user: UserRow) -> WordCard:
    """What a user's word is worth by now."""
    row, companions = await server.users.word(user.id)
    reported = (await server.overview.reported()).get(user.id)
    now = server.timekeeping.clock.settled()
    return WordCard(
        user=user,
        is_nobody=is_nobody(user),
        row=row,
        companions=companions,
        verdicts=[_verdicts(name, row) for name in _VERDICTS] if row else [],
        reports=reported.recent if reported else 0,
        days=REPORTED_DAYS,
        helped=await server.overview.helped(user.id, tuple(ANALYSES)),
        why_silent=_why_silent(user, row, reported, server.config.analysis, now),
    )


def _verdicts(name: str, row: WordRow) -> Verdicts:
    total, keys = row.addresses.get(name, (0, ()))
    return Verdicts(name, total, [network(bytes.fromhex(key)) for key in keys])


def _why_silent(
    user: UserRow, row: WordRow | None, reported: Reported | None, settings: AnalysisSection, now: int
) -> Phrase | None:
    """Why nothing was earned, for whoever has reported for a while; accounts that are too new are told at once."""
    if user.speaks or is_nobody(user) or (row and row.worth):
        return None
    if row is None and user.registered_by == "self":
        if now - user.registered_at < settings.account_age:
            return phrase("word.why.young", days=math.ceil(settings.account_age / DAY_MS))
        return phrase("word.why.inactive", days=settings.active_days)
    if reported is None or now - reported.first_at < _PATIENCE_MS:
        return None
    if row is None:
        return phrase("word.why.unmeasured")
    counts = {name: count for name, (count, _) in row.addresses.items()}
    if counts.get("disagreed") or counts.get("canary"):
        return phrase("word.why.disagreed")
    if counts.get("agreed"):
        return phrase("word.why.little")
    return phrase("word.why.late") if counts.get("late") else phrase("word.why.nobody")
