"""Rendering rules in a process of its own: a long list is a second of Python, behind which every request would wait.

The process reads the decisions itself, so that only what it can't know is handed over. It stays for a while and
remembers how the decisions that still stand are rendered, so that a change of a few costs half of the time.
"""

import asyncio
import pickle
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from sparkle_lite.db.connection import connect_readonly
from sparkle_lite.rules.address_sets import single
from sparkle_lite.rules.in_force import InForce
from sparkle_lite.rules.rendering import Listing, Published, publish
from sparkle_lite.worker_process import WorkerProcess, serve

# A hundred thousand networks take a second and a half the first time.
TIMEOUT_S = 120.0

# The analyses come every hour and change something; without any change the memory is given back.
STAY_S = 4000.0


class RenderOrder(NamedTuple):
    """What to render: `rules` is a pickled operator.Rules, the rest is as rendering.publish and Decisions take it.

    All of it is quick to pickle, which nothing else in the server can run beside.
    """

    database: Path
    rules: bytes
    protected: Collection[bytes]
    now_ms: int
    link: str


class RenderWorker:
    """The process of one server that renders; it ends when it has had nothing to do for long."""

    def __init__(self) -> None:
        self._process = WorkerProcess(__name__)
        self._leaving: asyncio.Task[None] | None = None

    async def render(self, order: RenderOrder) -> Published:
        """Render one order, the only one at this time. Raises as WorkerProcess.ask does."""
        await self._stay()
        published: Published = await self._process.ask(order, TIMEOUT_S)
        self._leaving = asyncio.create_task(self._leave())
        return published

    async def _leave(self) -> None:
        await asyncio.sleep(STAY_S)
        await self._process.close()

    async def _stay(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            await asyncio.wait([self._leaving])

    async def close(self) -> None:
        """End the process."""
        await self._stay()
        await self._process.close()


async def _read(order: RenderOrder, in_force: InForce) -> tuple[list[Listing], list[Listing]]:
    connection = await connect_readonly(order.database)
    try:
        return await in_force.read(connection, order.now_ms)
    finally:
        await connection.close()


class _Renderer:
    """What the process remembers."""

    def __init__(self) -> None:
        self._in_force: InForce | None = None

    def render(self, order: RenderOrder) -> Published:
        """The documents of one order."""
        self._in_force = self._in_force or InForce()
        # Not the whole of this on the loop: asyncio.run would write out what comes back, all documents, for a message
        # that nobody reads.
        denied, allowed = asyncio.run(_read(order, self._in_force))
        rules = pickle.loads(order.rules)  # noqa: S301 - from the server that started us
        protected = [single(address) for address in order.protected]
        return publish(rules, protected, order.now_ms, denied=denied, allowed=allowed, link=order.link)


if __name__ == "__main__":
    serve(_Renderer().render)
