"""Running the analyses: what they find becomes decisions."""

import logging
from collections.abc import Awaitable, Callable, Mapping

from sparkle_lite.analyses import worker
from sparkle_lite.analyses.parameters import parameters
from sparkle_lite.analyses.registry import ANALYSES
from sparkle_lite.analyses.worker import AnalysisOrder
from sparkle_lite.clock import now_ms
from sparkle_lite.config import AnalysisSection
from sparkle_lite.db.database import Database
from sparkle_lite.rules.decisions import Decisions
from sparkle_lite.rules.findings import Finding
from sparkle_lite.rules.plan import Plan

logger = logging.getLogger("sparkle.analyses")


class Runs:
    """The analyses of one server or command, with the settings that are in effect.

    `find` is how one is run: in a process of its own, unless somebody has reason to do otherwise.
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
        self.find: Callable[[AnalysisOrder], Awaitable[list[Finding]]] = worker.run

    async def run(self, name: str, overrides: Mapping[str, str | int] | None = None, *, dry: bool = False) -> Plan:
        """Run one analysis and make its findings decisions; `dry`: only tell what would change.

        One that is switched off finds nothing. Raises SparkleError for an unknown name or number, and as worker.run
        does.
        """
        settings = self._settings()
        mode = parameters(name, settings, overrides).mode
        findings = []
        at = self._clock()
        if mode != "off":
            findings = await self.find(worker.order_of(name, self._database, settings, at, overrides))
        act = self._decisions.plan if dry else self._decisions.apply
        version = ANALYSES[name].version
        return await act(name, findings, at, mode="shadow" if mode == "shadow" else "on", formula=version)

    async def run_all(self) -> None:
        """Run every analysis. One that fails keeps its earlier decisions. Raises RuntimeError with all failures."""
        failures = []
        for name in ANALYSES:
            try:
                await self.run(name)
            except Exception as error:
                logger.exception("the analysis %s failed", name)
                failures.append(f"{name}: {error}")
        if failures:
            raise RuntimeError("; ".join(failures))
