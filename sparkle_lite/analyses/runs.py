"""Running the analyses: what they find becomes decisions."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from sparkle_lite.analyses import worker
from sparkle_lite.analyses.parameters import parameters, trust
from sparkle_lite.analyses.registry import ANALYSES
from sparkle_lite.analyses.worker import AnalysisOrder, WordOrder
from sparkle_lite.clock import now_ms
from sparkle_lite.config import AnalysisSection
from sparkle_lite.db import words
from sparkle_lite.db.database import Database
from sparkle_lite.db.evidence.words import Standing
from sparkle_lite.rules.decisions import Decisions
from sparkle_lite.rules.findings import Finding
from sparkle_lite.rules.plan import Plan
from sparkle_lite.units import DAY_MS

# Who reported within this time is named where words are missing, so many at the most.
_REPORTED_MS, _NAMED = 14 * DAY_MS, 20

WAITS = (
    "%s would end more than a fifth of its list, since only the words of people count for whom somebody vouches"
    " or who earned it; up to 7 days that waits: vouch for those you trust (sparkle-lite user vouch NAME)"
)
"""What is said of an analysis (its name) whose list waits for want of words."""

logger = logging.getLogger("sparkle.analyses")


class Wanting(NamedTuple):
    """Which analyses keep their lists for now for want of words, and who reported and has none (names)."""

    analyses: tuple[str, ...]
    people: list[str]


class Runs:
    """The analyses of one server or command, with the settings that are in effect.

    `ask` is how one is run: in a process of its own, unless somebody has reason to do otherwise.
    """

    def __init__(
        self,
        database: Database,
        decisions: Decisions,
        settings: Callable[[], AnalysisSection],
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._database = database
        self._decisions = decisions
        self._settings = settings
        self._clock = clock
        self.ask: Callable[[AnalysisOrder | WordOrder], Awaitable[Any]] = worker.run

    async def run(self, name: str, overrides: Mapping[str, str | int] | None = None, *, dry: bool = False) -> Plan:
        """Run one analysis and make its findings decisions; `dry`: only tell what would change.

        One that is switched off finds nothing. Raises SparkleError for an unknown name or number, and as worker.run
        does.
        """
        settings = self._settings()
        mode = parameters(name, settings, overrides).mode
        findings: list[Finding] = []
        at = self._clock()
        if mode != "off":
            findings = await self.ask(worker.order_of(name, self._database, settings, at, overrides))
        act = self._decisions.plan if dry else self._decisions.apply
        version = ANALYSES[name].version
        plan = await act(name, findings, at, mode=mode, formula=version)
        if plan.brake == "words" and not dry:
            await self._ask_for_words(name, at)
        return plan

    async def _ask_for_words(self, name: str, at_ms: int) -> None:
        people = await self._unheard(at_ms)
        logger.warning(WAITS, name, extra={"reported": ", ".join(people)})

    async def _unheard(self, at_ms: int) -> list[str]:
        async with self._database.reader() as reader:
            return await words.unheard(reader, at_ms - _REPORTED_MS, _NAMED)

    async def wanting(self) -> Wanting:
        """What waits for want of words, as a run would have it now; changes nothing. Raises SparkleError as `run`."""
        names = tuple([name for name in ANALYSES if (await self.run(name, dry=True)).brake == "words"])
        return Wanting(names, await self._unheard(self._clock()) if names else [])

    async def weigh(self) -> None:
        """Measure what everybody's word is worth by now. Raises SparkleError as `run` does."""
        order = WordOrder(database=self._database.path, trust=trust(self._settings()), now_ms=self._clock())
        standings: list[Standing] = await self.ask(order)
        await self._database.write(partial(words.replace, standings=standings))

    async def run_all(self) -> None:
        """Weigh the words, and run every analysis with them. One that fails keeps its earlier decisions.

        Raises RuntimeError with all failures.
        """
        failures = []
        try:
            await self.weigh()
        except Exception as error:
            logger.exception("what people's words are worth could not be measured")
            failures.append(f"words: {error}")
        for name in ANALYSES:
            try:
                await self.run(name)
            except Exception as error:
                logger.exception("the analysis %s failed", name)
                failures.append(f"{name}: {error}")
        if failures:
            raise RuntimeError("; ".join(failures))
