"""What the stored reports say about peers: each analysis is one query, some numbers and a sentence.

`run` gives the findings of one analysis; what becomes of them is the rulebook's business.
"""

from collections.abc import Mapping

from sparkle_lite.accounts.registry import ANONYMOUS
from sparkle_lite.analyses import client_identity, concurrent_download, multi_dial, over_download, untrusted_vote
from sparkle_lite.analyses.analysis import Analysis, Need
from sparkle_lite.analyses.numbers import TABLE, Chosen, Mode, choose
from sparkle_lite.config import AnalysisSection
from sparkle_lite.db.accounts import name_key
from sparkle_lite.db.database import Database
from sparkle_lite.db.evidence import Evidence, Trust, gather
from sparkle_lite.findings import Finding

__all__ = ["ANALYSES", "TABLE", "Analysis", "Chosen", "Mode", "Need", "choose", "run"]

ANALYSES: Mapping[str, Analysis] = {
    module.ANALYSIS.name: module.ANALYSIS
    for module in (untrusted_vote, over_download, concurrent_download, client_identity, multi_dial)
}

# An analysis of 10 million rows takes some ten seconds; beside everything else on a slow machine some minutes.
TIME_LIMIT_S = 900.0


async def run(
    name: str,
    database: Database,
    settings: AnalysisSection,
    now_ms: int,
    overrides: Mapping[str, str | int] | None = None,
    *,
    time_limit_s: float = TIME_LIMIT_S,
) -> list[Finding]:
    """What one analysis finds in the stored data at this instant, strongest first, whatever its mode.

    `overrides` are numbers for this run, written as in the configuration. Raises SparkleError for an unknown name or
    number, for a database that can't be read, and when it takes too long.
    """
    numbers = choose(name, settings, overrides).numbers

    def work(evidence: Evidence) -> list[Finding]:
        examined = ANALYSES[name].examine(evidence, numbers, None)
        return [one.finding for one in examined if one.is_listed(now_ms)]

    return await gather(database, trust(settings), now_ms, work, time_limit_s)


def trust(settings: AnalysisSection) -> Trust:
    """Whose word counts."""
    return Trust(settings.account_age, settings.active_days, name_key(ANONYMOUS))
