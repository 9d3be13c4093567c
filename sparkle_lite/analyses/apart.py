"""Analyses in a process of their own at low priority: what they find is tens of thousands of Python objects to make.

In the server's process a thread of low priority could hold the interpreter's lock while it waits for a core.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sparkle_lite import analyses
from sparkle_lite.child import Child, serve
from sparkle_lite.config import AnalysisSection
from sparkle_lite.db.database import Database
from sparkle_lite.findings import Finding

_NICENESS = 10
# Longer than an analysis gives itself.
_TIMEOUT_S = analyses.TIME_LIMIT_S + 60


class AnalysisOrder(NamedTuple):
    """One run of one analysis, as `analyses.run` takes it."""

    name: str
    path: Path
    settings: AnalysisSection
    now_ms: int
    overrides: Mapping[str, str | int] | None


async def run(
    name: str,
    database: Database,
    settings: AnalysisSection,
    now_ms: int,
    overrides: Mapping[str, str | int] | None = None,
) -> list[Finding]:
    """What `analyses.run` does, in a child process. Raises as that and as Child.ask do."""
    child = Child(__name__)
    try:
        found: list[Finding] = await child.ask(
            AnalysisOrder(name, database.path, settings, now_ms, overrides), _TIMEOUT_S
        )
        return found
    finally:
        await child.close()


def _answer(order: AnalysisOrder) -> list[Finding]:
    database = Database(order.path)
    return asyncio.run(analyses.run(order.name, database, order.settings, order.now_ms, order.overrides))


if __name__ == "__main__":
    os.nice(_NICENESS)
    serve(_answer)
