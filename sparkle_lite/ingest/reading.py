"""Bodies that take long to read, read in a process of their own: behind one of them nobody else has to wait.

Inflating, mending and decoding what is large or damaged holds the interpreter for tenths of a second at a time, and
a body may be made for that. The process works on one at a time, by turns of their applications, and gives way to the
server where both want the processor.
"""

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple

from sparkle_lite.errors import SparkleError
from sparkle_lite.turns import Costs, Owner, Turns
from sparkle_lite.units import KIB, MIB
from sparkle_lite.wire.bodies import Batch, decode, inflate
from sparkle_lite.wire.packed import Packed, pack, unpack
from sparkle_lite.worker_process import WorkerProcess, serve

# What is inflated to more than this is large: not 5,000 peers, but 1,000 of somebody who takes too much already.
LIGHT_BYTES, LIGHT_BYTES_OF_GREEDY = 2 * MIB, 256 * KIB

# No body takes so long on the slowest machine that a server runs on; then the process is ended and the body refused.
TIMEOUT_S = 60.0

# The process takes some 25 MB, which are given back when nothing has come for so long.
STAY_S = 120.0

# Bodies whose rows are in memory: one that is being stored, and the next one.
_AT_ONCE = 2
_NICE = 5
_GZIP_MAGIC = b"\x1f\x8b"
logger = logging.getLogger("sparkle.reading")


class ReadOrder(NamedTuple):
    """A body as it came, whose it is, and how to read it: as wire.bodies.inflate and decode take it."""

    owner: Owner
    body: bytes
    encoding: str
    max_inflated: int
    max_rows: int
    offsets_add: bool


class _PackedBody(NamedTuple):
    """What was read: in pieces, its digest, and how long it took (s of the processor)."""

    packed: Packed
    digest: bytes
    seconds: float


class ReadBody(NamedTuple):
    """The rows of a body, and the digest that tells it again."""

    batch: Batch
    digest: bytes


@dataclass(slots=True, eq=False)
class _Waiting:
    order: ReadOrder
    answer: "asyncio.Future[_PackedBody]"


def looks_large(body: bytes, light: int) -> bool:
    """Whether a body says that it has more than `light` bytes, which is quickly asked; it may not tell the truth."""
    says = int.from_bytes(body[-4:], "little") if body.startswith(_GZIP_MAGIC) else 0
    return max(len(body), says) > light


def digest_of(userapp: int, data: bytes) -> bytes:
    """What tells the inflated body of an application again."""
    digest = hashlib.sha256(b"%d:" % userapp)
    digest.update(data)
    return digest.digest()[:16]


class PatientReader:
    """The process of one server that reads such bodies: started for the first one, and ended when there are none."""

    def __init__(self, costs: Costs) -> None:
        """What a body takes is charged to its application in `costs`."""
        self._costs = costs
        self._process = WorkerProcess(__name__)
        self._turns: Turns[_Waiting] = Turns(costs, lambda waiting: waiting.order.owner)
        self._wake = asyncio.Event()
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def read(self, order: ReadOrder) -> AsyncIterator[ReadBody]:
        """The rows of a body, for as long as the block lasts; others are read only once there is room for them.

        Raises SparkleError as `inflate` and `decode` do, and overloaded when it can't be read.
        """
        waiting = _Waiting(order, asyncio.get_running_loop().create_future())
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="reading")
        self._turns.put(waiting)
        self._wake.set()
        try:
            found = await waiting.answer
        except asyncio.CancelledError:
            self._turns.remove(waiting)
            if waiting.answer.done() and not waiting.answer.cancelled() and waiting.answer.exception() is None:
                self._room.release()
            raise
        try:
            batch = await asyncio.to_thread(unpack, found.packed)
            yield ReadBody(batch, found.digest)
        finally:
            self._room.release()

    async def _run(self) -> None:
        while True:
            await self._room.acquire()
            while (waiting := self._turns.take()) is None:
                self._wake.clear()
                try:
                    async with asyncio.timeout(STAY_S):
                        await self._wake.wait()
                except TimeoutError:
                    await self._process.close()
            try:
                found = _PackedBody(*await self._process.ask(waiting.order, TIMEOUT_S))
            except asyncio.CancelledError:
                self._refuse(waiting, _overloaded())
                raise
            except TimeoutError:
                logger.error("a body could not be read in %d s", TIMEOUT_S, extra=_about(waiting.order))
                self._costs.charge(waiting.order.owner, TIMEOUT_S)
                self._refuse(waiting, _overloaded())
            except Exception as error:
                self._costs.charge(waiting.order.owner, 0.01)
                has_ended = isinstance(error, SparkleError) and error.code == "internal"
                if has_ended:
                    logger.error("the process that reads large bodies ended", extra=_about(waiting.order))
                self._refuse(waiting, _overloaded() if has_ended else error)
            else:
                self._costs.charge(waiting.order.owner, found.seconds)
                if waiting.answer.done():
                    self._room.release()
                else:
                    waiting.answer.set_result(found)

    def _refuse(self, waiting: _Waiting, error: Exception) -> None:
        self._room.release()
        if not waiting.answer.done():
            waiting.answer.set_exception(error)

    async def close(self) -> None:
        """End the process; what still waits is refused."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        while (waiting := self._turns.take()) is not None:
            if not waiting.answer.done():
                waiting.answer.set_exception(_overloaded())
        await self._process.close()


def _about(order: ReadOrder) -> dict[str, int]:
    return {"userapp": order.owner.userapp, "bytes": len(order.body)}


def _overloaded() -> SparkleError:
    return SparkleError("overloaded", "server.busy", retry_after=5)


# --- In the process ---------------------------------------------------------------------------------------------------


def read_body(order: ReadOrder) -> tuple[Packed, bytes, float]:
    """Inflate and decode a body: what _PackedBody is made of, whose class has another name in this process.

    Raises SparkleError as `inflate` and `decode` do.
    """
    started = time.process_time()
    data, cut_off = inflate(order.body, order.encoding, order.max_inflated)
    digest = digest_of(order.owner.userapp, data)
    batch = decode(data, order.max_rows, offsets_add=order.offsets_add, cut_off=cut_off)
    return pack(batch), digest, time.process_time() - started


if __name__ == "__main__":
    os.nice(_NICE)
    serve(read_body)
