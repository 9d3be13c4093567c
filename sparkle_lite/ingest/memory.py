"""What bodies may take of memory while they are received and wait."""

import asyncio
from collections import deque

from sparkle_lite.errors import SparkleError


class MemoryBudget:
    """Bytes of bodies that may be held at once, being read or waiting; who finds none free waits for a while."""

    def __init__(self, size: int, patience_s: float = 5.0) -> None:
        self._free = size
        self._size = size
        self._patience_s = patience_s
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used(self) -> int:
        """Bytes held now."""
        return self._size - self._free

    async def acquire(self, size: int) -> None:
        """Wait for so many bytes. Raises SparkleError("overloaded") when they aren't free within the patience (s)."""
        if not self._waiting and self._free >= size:
            self._free -= size
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, future)
        self._waiting.append(entry)
        try:
            await asyncio.wait_for(asyncio.shield(future), self._patience_s)
        except BaseException as error:
            if future.done():
                self.release(size)
            else:
                future.cancel()
                self._waiting.remove(entry)
                self._admit()
            if not isinstance(error, TimeoutError):
                raise
            raise SparkleError("overloaded", "server.busy", retry_after=5) from None

    def release(self, size: int) -> None:
        """Give so many bytes back."""
        self._free += size
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            size, future = self._waiting.popleft()
            self._free -= size
            future.set_result(None)
