"""How far an address is from being listed, measured once for all who ask: it costs more than a whole page."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from sparkle_lite.analyses.analysis import Analysis, Examined, Need
from sparkle_lite.analyses.parameters import parameters, trust
from sparkle_lite.analyses.registry import ANALYSES
from sparkle_lite.config import AnalysisSection
from sparkle_lite.db.database import Database
from sparkle_lite.db.evidence.workspace import Evidence, LeftOut, gather
from sparkle_lite.errors import SparkleError

# How long measured distances are good, and of how many addresses they are kept.
_GOOD_S, _KEPT = 60.0, 256
_AT_ONCE = 2
# What one person may wait for at once: others wait behind it.
_EACH = 4


TIME_LIMIT_S = 10.0


async def measure(
    database: Database, settings: AnalysisSection, address: bytes, now_ms: int, *, time_limit_s: float = TIME_LIMIT_S
) -> list[Need]:
    """How far an address (4 or 16 bytes) is from each analysis that isn't off: what it has and what is needed.

    An analysis that has nothing at all about it is left out. What is said of it and counts for nothing stands behind
    the others, with nothing needed. Raises SparkleError as `worker.find` does.
    """
    key = address if len(address) == 4 else address[:8]
    needs: list[Need] = []
    for name, analysis in ANALYSES.items():
        mode, numbers = parameters(name, settings)
        if mode == "off" or not analysis.of_addresses:
            continue

        def work(
            evidence: Evidence, analysis: Analysis = analysis, numbers: Mapping[str, int] = numbers
        ) -> tuple[list[Examined], Mapping[LeftOut, int]]:
            return analysis.examine(evidence, numbers, key), evidence.left_out

        examined, left_out = await gather(database, trust(settings), now_ms, work, time_limit_s)
        if examined:
            needs += min(examined, key=_missing).needs
        needs += [Need(name, why, count, 0) for why, count in left_out.items() if count]
    return needs


def _missing(examined: Examined) -> float:
    return sum(max(1 - (need.have + need.slack) / need.need, 0) for need in examined.needs if need.need)


class Distances:
    """The measurements of one server."""

    def __init__(self, database: Database, settings: Callable[[], AnalysisSection], clock: Callable[[], int]) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._measured: dict[bytes, tuple[float, asyncio.Task[Sequence[Need]]]] = {}
        self._measuring = asyncio.Semaphore(_AT_ONCE)
        self._asked: Counter[int] = Counter()
        self._closing = False

    async def close(self) -> None:
        """Give up what is being measured."""
        self._closing = True
        tasks = [task for _, task in self._measured.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def forget(self) -> None:
        """What was measured is out of date: the numbers of the analyses have changed."""
        self._measured = {address: one for address, one in self._measured.items() if not one[1].done()}

    async def of(self, address: bytes, asker: int) -> Sequence[Need]:
        """How far an address (4 or 16 bytes) is from each analysis, as measured within the last minute.

        Raises as `measure` does, and too_many for a person (row id) who waits for several others already.
        """
        if self._asked[asker] >= _EACH:
            raise SparkleError("too_many", "address.too_many", retry_after=5)
        self._asked[asker] += 1
        try:
            return await self._wait(address)
        finally:
            self._asked[asker] -= 1
            if not self._asked[asker]:
                del self._asked[asker]

    async def _wait(self, address: bytes) -> Sequence[Need]:
        while True:
            # Others share what is being measured, and who began it may have given it up.
            task = self._task(address)
            await asyncio.wait((task,))
            if not task.cancelled() or self._closing:
                return task.result()

    async def known(self, address: bytes, patience_s: float) -> Sequence[Need] | None:
        """What `of` gives where it is known or found so soon, else None; what takes longer is given up."""
        begun = self._measured.get(address)
        task = self._task(address)
        if begun is None or begun[1] is not task:
            await asyncio.wait((task,), timeout=patience_s)
            task.cancel()
        return task.result() if task.done() and not task.cancelled() and task.exception() is None else None

    def _task(self, address: bytes) -> "asyncio.Task[Sequence[Need]]":
        now = time.monotonic()
        for old, (since, task) in list(self._measured.items()):
            is_over = now - since > _GOOD_S or len(self._measured) > _KEPT
            if task.done() and (is_over or task.cancelled() or task.exception() is not None):
                del self._measured[old]
        if address not in self._measured:
            self._measured[address] = now, asyncio.create_task(self._measure(address), name="distances")
        return self._measured[address][1]

    async def _measure(self, address: bytes) -> Sequence[Need]:
        async with self._measuring:
            return await measure(self._database, self._settings(), address, self._clock())
