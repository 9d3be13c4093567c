"""Runs of the analyses, in a process of their own at low priority: what they find is tens of thousands of objects.

In the server's process a thread of low priority could hold the interpreter's lock while it waits for a core.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sparkle_lite.analyses.evidence_table import MODULES
from sparkle_lite.analyses.numbers import Numbers
from sparkle_lite.analyses.parameters import parameters, trust
from sparkle_lite.analyses.registry import ANALYSES
from sparkle_lite.config import AnalysisSection
from sparkle_lite.db.database import Database
from sparkle_lite.db.evidence import words
from sparkle_lite.db.evidence.words import Standing
from sparkle_lite.db.evidence.workspace import Evidence, Trust, gather
from sparkle_lite.rules.findings import Finding
from sparkle_lite.worker_process import WorkerProcess, serve

_NICENESS = 10
# An analysis of 10 million rows takes some ten seconds; beside everything else on a slow machine some minutes.
TIME_LIMIT_S = 900.0
# Longer than an analysis gives itself.
_TIMEOUT_S = TIME_LIMIT_S + 60


class AnalysisOrder(NamedTuple):
    """One run of one analysis: on which database, with which numbers, whose word counts, and at which instant (ms)."""

    name: str
    database: Path
    numbers: Numbers
    trust: Trust
    now_ms: int

    async def answer(self) -> list[Finding]:
        """What is found. Raises as `find` does."""
        return await find(self)


class WordOrder(NamedTuple):
    """To weigh everybody's word: on which database, whose may count at all, and at which instant (ms)."""

    database: Path
    trust: Trust
    now_ms: int

    async def answer(self) -> list[Standing]:
        """What everybody's word is worth. Raises as `find` does."""
        return await weigh(self)


def order_of(
    name: str,
    database: Database,
    settings: AnalysisSection,
    now_ms: int,
    overrides: Mapping[str, str | int] | None = None,
) -> AnalysisOrder:
    """A run of an analysis, whatever its mode; `overrides` are numbers for this run, as `parameters` takes them.

    Raises SparkleError for an unknown name or number.
    """
    # The numbers go to another process.
    numbers = dict(parameters(name, settings, overrides).numbers)
    return AnalysisOrder(name, database.path, numbers, trust(settings), now_ms)


async def run(order: AnalysisOrder | WordOrder) -> Any:
    """What `find` or `weigh` does, in a process of its own. Raises as those and as WorkerProcess.ask do."""
    process = WorkerProcess(__name__)
    try:
        return await process.ask(order, _TIMEOUT_S)
    finally:
        await process.close()


async def find(order: AnalysisOrder, time_limit_s: float = TIME_LIMIT_S) -> list[Finding]:
    """What an analysis finds in the stored data, strongest first.

    Raises SparkleError for a database that can't be read, and when it takes too long.
    """

    def work(evidence: Evidence) -> list[Finding]:
        examined = ANALYSES[order.name].examine(evidence, order.numbers, None)
        return [subject.finding for subject in examined if subject.is_listed(order.now_ms)]

    return await gather(Database(order.database), order.trust, order.now_ms, work, time_limit_s)


async def weigh(order: WordOrder, time_limit_s: float = TIME_LIMIT_S) -> list[Standing]:
    """What everybody's word is worth. Raises as `find` does."""

    def work(evidence: Evidence) -> list[Standing]:
        return words.weigh(evidence, MODULES)

    return await gather(Database(order.database), order.trust, order.now_ms, work, time_limit_s)


async def answer(order: AnalysisOrder | WordOrder) -> Any:
    """What an order asks for, in this process."""
    # Asked of the order itself: in a process of its own this module has another name, and so have its classes.
    return await order.answer()


def _work(order: AnalysisOrder | WordOrder) -> Any:
    return asyncio.run(answer(order))


if __name__ == "__main__":
    os.nice(_NICENESS)
    serve(_work)
