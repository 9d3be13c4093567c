"""Rendering rules in a process of its own: a long list is a second of Python, behind which every request would wait.

The child reads the decisions itself, so that only what it can't know is handed over. It stays for a while and remembers
how the decisions that still stand are told, so that a change of a few costs half of the time. `python -m
sparkle_lite.press` is no command: it speaks pickle on its standard streams with the server that started it.
"""

import asyncio
import gc
import pickle
import subprocess
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from sparkle_lite.db.connection import connect_readonly
from sparkle_lite.decisions import InForce
from sparkle_lite.reasons import Tell
from sparkle_lite.rulebook import Listing, Published, publish, single

# A hundred thousand networks take a second.
TIMEOUT_S = 120.0
# The analyses come every hour and change something; without any change the memory is given back.
STAY_S = 4000.0


class Order(NamedTuple):
    """What to render: `rules` is a pickled rulebook.Rules, the rest is as rulebook.publish and Decisions take it.

    All of it is quick to pickle, which nothing else in the server can run beside.
    """

    database: Path
    rules: bytes
    protected: Collection[bytes]
    now_ms: int
    link: str
    tellers: Sequence[Tell]


class Press:
    """The child process of one server: started when needed, ended when it fails or has had nothing to do for long."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._leaving: asyncio.TimerHandle | None = None

    async def render(self, order: Order) -> Published:
        """Render one order, the only one at this time. Raises RuntimeError or TimeoutError when it fails."""
        if self._leaving is not None:
            self._leaving.cancel()
        if self._process is not None and self._process.poll() is not None:
            await self.close()
        if self._process is None:
            self._process = await asyncio.to_thread(_start)
        # Tens of megabytes come back: a thread reads them in one go, the event loop would in a thousand pieces.
        answer = asyncio.create_task(asyncio.to_thread(_ask, self._process, order))
        try:
            async with asyncio.timeout(TIMEOUT_S):
                found = await asyncio.shield(answer)
        except BaseException:
            self._process.kill()
            await asyncio.wait([answer])
            await self.close()
            raise
        self._leaving = asyncio.get_running_loop().call_later(STAY_S, self._leave)
        return found

    def _leave(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            asyncio.get_running_loop().run_in_executor(None, _end, process)

    async def close(self) -> None:
        """End the child; does nothing without one."""
        if self._leaving is not None:
            self._leaving.cancel()
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(_end, process)


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - this very program
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # A signal from the terminal is for the server, which ends its child itself.
        start_new_session=True,
    )


def _ask(process: subprocess.Popen[bytes], order: Order) -> Published:
    assert process.stdin and process.stdout
    try:
        pickle.dump(order, process.stdin)
        process.stdin.flush()
        found = pickle.load(process.stdout)  # noqa: S301 - from the process that we started
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise RuntimeError("the process that renders the rules ended before it was done") from error
    if not isinstance(found, Published):
        raise RuntimeError("the process that renders the rules answered something else")
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    # What could not be written to it is lost with it.
    with suppress(OSError):
        process.communicate()


async def _read(order: Order, in_force: InForce) -> tuple[list[Listing], list[Listing]]:
    connection = await connect_readonly(order.database)
    try:
        return await in_force.read(connection, order.now_ms)
    finally:
        await connection.close()


def _render(order: Order, in_force: InForce) -> Published:
    # Not the whole of this on the loop: asyncio.run would write out what comes back, all documents, for a message that
    # nobody reads.
    denied, allowed = asyncio.run(_read(order, in_force))
    rules = pickle.loads(order.rules)  # noqa: S301 - from the server that started us
    protected = [single(address) for address in order.protected]
    return publish(rules, protected, order.now_ms, denied, allowed, link=order.link)


def main() -> None:
    """Answer each order with what was rendered, until there are no more."""
    # Hardly anything here is garbage that must be looked for, and looking for it would be a third of the time.
    gc.disable()
    in_force: InForce | None = None
    while True:
        try:
            order: Order = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the server that started us
        except EOFError:
            return
        in_force = in_force or InForce(order.tellers)
        pickle.dump(_render(order, in_force), sys.stdout.buffer, protocol=5)
        sys.stdout.buffer.flush()
        # Of the young objects alone: what is remembered is old by the second time.
        gc.collect(1)


if __name__ == "__main__":
    main()
