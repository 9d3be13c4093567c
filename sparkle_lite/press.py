"""Rendering rules in a process of its own: a long list is a second of Python, behind which every request would wait.

The child reads the decisions itself, so that only what it can't know is handed over. `python -m sparkle_lite.press` is
no command: it speaks pickle on its standard streams with the server that started it.
"""

import asyncio
import pickle
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from sparkle_lite.db import decisions as store
from sparkle_lite.db.connection import connect_readonly
from sparkle_lite.decisions import listings
from sparkle_lite.net import Network
from sparkle_lite.reasons import Tell
from sparkle_lite.rulebook import Published, publish

# A hundred thousand networks take a second and a half.
TIMEOUT_S = 120.0


class Order(NamedTuple):
    """What to render: `rules` is a pickled rulebook.Rules, the rest is as rulebook.publish and Decisions take it."""

    database: Path
    rules: bytes
    protected: Collection[Network]
    now_ms: int
    link: str
    tellers: Sequence[Tell]


async def render(order: Order) -> Published:
    """Render in a child process. Raises RuntimeError or TimeoutError when it fails."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # A signal from the terminal is for the server, which ends its child itself.
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            body, _ = await process.communicate(pickle.dumps(order))
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"the process that renders the rules ended with {process.returncode}")
    found = await asyncio.to_thread(pickle.loads, body)
    if not isinstance(found, Published):
        raise RuntimeError("the process that renders the rules answered something else")
    return found


async def _render(order: Order) -> Published:
    connection = await connect_readonly(order.database)
    try:
        rows = await store.served(connection, order.now_ms)
    finally:
        await connection.close()
    rules = pickle.loads(order.rules)  # noqa: S301 - from the server that started us
    denied, allowed = listings(rows, order.tellers)
    return publish(rules, order.protected, order.now_ms, denied, allowed, link=order.link)


def main() -> None:
    """Read an order, write what was rendered."""
    order: Order = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the server that started us
    pickle.dump(asyncio.run(_render(order)), sys.stdout.buffer, protocol=5)


if __name__ == "__main__":
    main()
