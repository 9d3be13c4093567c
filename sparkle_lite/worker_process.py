"""Work in a process of its own, for what would keep every request waiting: Python that runs long.

The process runs a module of this program that calls `serve`; the server speaks with it through a `WorkerProcess`, in
pickle on its standard streams.
"""

import asyncio
import gc
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from sparkle_lite.errors import SparkleError


class WorkerProcess:
    """A process that answers orders one by one: started when it is needed, and anew after a failure."""

    def __init__(self, module: str) -> None:
        """`module` is the dotted name of one that calls `serve` when it is run."""
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None

    async def ask(
        self, order: object, timeout_s: float, on_report: Callable[[Any], object] = lambda message: None
    ) -> Any:
        """The answer to an order, the only one at this time.

        `on_report` is called with what the process reports meanwhile, on a thread.
        Raises the SparkleError that the process raised, TimeoutError, and SparkleError("internal") when it fails. It is
        killed when the caller is cancelled or has waited too long.
        """
        process = await self._running()
        # Tens of megabytes come back: a thread reads them in one go, the event loop would in a thousand pieces.
        asking = asyncio.create_task(asyncio.to_thread(_ask, process, order, on_report))
        try:
            async with asyncio.timeout(timeout_s):
                answer = await asyncio.shield(asking)
        except BaseException:
            process.kill()
            await asyncio.wait([asking])
            await self.close()
            if not asking.cancelled():
                # That it was killed is nobody's news; asyncio would log what nobody asks for.
                asking.exception()
            raise
        if isinstance(answer, SparkleError):
            raise answer
        return answer

    async def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._process.poll() is not None:
            await self.close()
        if self._process is None:
            starting = asyncio.create_task(asyncio.to_thread(_start, self._module))
            try:
                self._process = await asyncio.shield(starting)
            except asyncio.CancelledError:
                # It starts all the same, and nobody else would end it.
                await asyncio.wait([starting])
                self._process = None if starting.exception() else starting.result()
                await self.close()
                raise
        return self._process

    async def close(self) -> None:
        """End the process; does nothing without one."""
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(_end, process)


def _start(module: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - this very program
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # A signal from the terminal is for the server, which ends its processes itself.
        start_new_session=True,
    )


class _Reported(NamedTuple):
    message: object


def report(message: object) -> None:
    """Say something to whoever waits for the answer to an order; in the process that works on it."""
    pickle.dump(_Reported(message), sys.stdout.buffer, protocol=5)
    sys.stdout.buffer.flush()


def _ask(process: subprocess.Popen[bytes], order: object, on_report: Callable[[Any], object]) -> Any:
    assert process.stdin and process.stdout
    try:
        pickle.dump(order, process.stdin)
        process.stdin.flush()
        while isinstance(answer := pickle.load(process.stdout), _Reported):  # noqa: S301 - from the process we started
            on_report(answer.message)
        return answer
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise SparkleError("internal", "server.child_ended") from error


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    # What could not be written to it is lost with it.
    with suppress(OSError):
        process.communicate()


def serve(work: Callable[[Any], object]) -> None:
    """Answer orders until there are no more. A SparkleError is an answer, any other exception ends the process."""
    # Hardly anything here is garbage that must be looked for, and looking for it would be a third of the time.
    gc.disable()
    while True:
        try:
            order = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the server that started us
        except (EOFError, OSError, pickle.UnpicklingError):
            # Half an order, too, is from a server that was killed.
            return
        try:
            answer = work(order)
        except SparkleError as error:
            answer = error
        try:
            pickle.dump(answer, sys.stdout.buffer, protocol=5)
            sys.stdout.buffer.flush()
        except OSError:
            # The server was killed. What is buffered would only fail again when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        del order, answer
        # Of the young objects alone: what is remembered is old by the second time.
        gc.collect(1)
