"""What bodies may take of memory while they are received and wait."""

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable
from typing import NamedTuple

from sparkle_lite.errors import SparkleError


class _Wait(NamedTuple):
    owner: Hashable
    size: int
    admitted: asyncio.Future[None]


class MemoryBudget:
    """Bytes of bodies that may be held at once, being read or waiting; who finds none free waits for a while.

    One owner's bodies may take a quarter of it, but always as much as one body may have.
    """

    def __init__(self, size: int, largest: Callable[[], int], patience_s: float = 5.0) -> None:
        """`largest` tells how many bytes one body may have now."""
        self._free = size
        self._size = size
        self._largest = largest
        self._patience_s = patience_s
        self._held: Counter[Hashable] = Counter()
        self._waiting: list[_Wait] = []

    @property
    def used(self) -> int:
        """Bytes held now."""
        return self._size - self._free

    def of(self, owner: Hashable) -> "OwnRoom":
        """What one owner's bodies may take."""
        return OwnRoom(self, owner)

    async def acquire(self, owner: Hashable, size: int) -> None:
        """Wait for so many bytes. Raises SparkleError("overloaded") when they aren't free within the patience (s)."""
        if not self._waiting and size <= self._free and self._held[owner] + size <= self._most():
            self._take(owner, size)
            return
        wait = _Wait(owner, size, asyncio.get_running_loop().create_future())
        self._waiting.append(wait)
        self._admit()
        if wait.admitted.done():
            return
        try:
            await asyncio.wait_for(asyncio.shield(wait.admitted), self._patience_s)
        except BaseException as error:
            if wait.admitted.done():
                self.release(owner, size)
            else:
                wait.admitted.cancel()
                self._waiting.remove(wait)
                self._admit()
            if not isinstance(error, TimeoutError):
                raise
            raise SparkleError("overloaded", "server.busy", retry_after=5) from None

    def release(self, owner: Hashable, size: int) -> None:
        """Give so many bytes back."""
        self._free += size
        self._held[owner] -= size
        if not self._held[owner]:
            del self._held[owner]
        self._admit()

    def _admit(self) -> None:
        """Let in who has waited longest; who has taken its share holds up nobody but itself."""
        most = self._most()
        full: set[Hashable] = set()
        for wait in list(self._waiting):
            if wait.owner in full or self._held[wait.owner] + wait.size > most:
                full.add(wait.owner)
            elif wait.size > self._free:
                return
            else:
                self._waiting.remove(wait)
                self._take(wait.owner, wait.size)
                wait.admitted.set_result(None)

    def _most(self) -> int:
        return max(self._size // 4, self._largest())

    def _take(self, owner: Hashable, size: int) -> None:
        self._free -= size
        self._held[owner] += size


class OwnRoom(NamedTuple):
    """A memory budget as one owner's bodies see it."""

    budget: MemoryBudget
    owner: Hashable

    async def acquire(self, size: int) -> None:
        """Wait for so many bytes. Raises as `MemoryBudget.acquire`."""
        await self.budget.acquire(self.owner, size)

    def release(self, size: int) -> None:
        """Give so many bytes back."""
        self.budget.release(self.owner, size)
