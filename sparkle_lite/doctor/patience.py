"""Waiting for what may never answer: a disk, a socket."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")


async def on_thread(work: Callable[[], T]) -> T:
    """Run what blocks on a thread that nobody waits for when the program ends, unlike one of the loop's own."""
    return await _ThreadedCall(work).result()


class _ThreadedCall(Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[T] = self._loop.create_future()

    async def result(self) -> T:
        threading.Thread(target=self._run, name="doctor", daemon=True).start()
        return await self._future

    def _run(self) -> None:
        try:
            value = self._work()
        except BaseException as error:
            self._tell(self._future.set_exception, error)
        else:
            self._tell(self._future.set_result, value)

    def _tell(self, settle: Callable[[Any], None], outcome: object) -> None:
        # Whoever asked may have gone, and the loop with them.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._settle, settle, outcome)

    def _settle(self, settle: Callable[[Any], None], outcome: object) -> None:
        if not self._future.done():
            settle(outcome)
