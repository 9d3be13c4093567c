"""What bodies may take of memory while they are received and wait."""

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable
from typing import NamedTuple

from sparkle_lite.errors import SparkleError
from sparkle_lite.turns import Owner


class _Wait(NamedTuple):
    owner: Owner
    size: int
    admitted: asyncio.Future[None]


class MemoryBudget:
    """Bytes of bodies that may be held at once, being read or waiting; who finds none free waits for a while.

    One application's bodies may take a quarter of it, and one person's half; but always as much as one body may have,
    and one person's two of them.
    """

    def __init__(self, size: int, largest: Callable[[], int], patience_s: float = 5.0) -> None:
        """`largest` tells how many bytes one body may have now."""
        self._free = size
        self._size = size
        self._largest = largest
        self._patience_s = patience_s
        self._held: Counter[Owner] = Counter()
        self._held_of: Counter[Hashable] = Counter()
        self._waiting: list[_Wait] = []

    @property
    def used(self) -> int:
        """Bytes held now."""
        return self._size - self._free

    def of(self, owner: Owner) -> "OwnRoom":
        """What one owner's bodies may take."""
        return OwnRoom(self, owner)

    async def acquire(self, owner: Owner, size: int) -> None:
        """Wait for so many bytes. Raises SparkleError("overloaded") when they aren't free within the patience (s)."""
        if not self._waiting and size <= self._free and self._has_share(owner, size):
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

    def release(self, owner: Owner, size: int) -> None:
        """Give so many bytes back."""
        self._free += size
        self._held[owner] -= size
        self._held_of[owner.person] -= size
        if not self._held[owner]:
            del self._held[owner]
        if not self._held_of[owner.person]:
            del self._held_of[owner.person]
        self._admit()

    def _admit(self) -> None:
        """Let in who has waited longest; who has taken its share holds up nobody but itself."""
        full: set[Owner] = set()
        for wait in list(self._waiting):
            if wait.owner in full or not self._has_share(wait.owner, wait.size):
                full.add(wait.owner)
            elif wait.size > self._free:
                return
            else:
                self._waiting.remove(wait)
                self._take(wait.owner, wait.size)
                wait.admitted.set_result(None)

    def _has_share(self, owner: Owner, size: int) -> bool:
        """Whether so many bytes more are within what an application and its person may take."""
        most = max(self._size // 4, self._largest())
        return self._held[owner] + size <= most and self._held_of[owner.person] + size <= 2 * most

    def _take(self, owner: Owner, size: int) -> None:
        self._free -= size
        self._held[owner] += size
        self._held_of[owner.person] += size


class OwnRoom(NamedTuple):
    """A memory budget as one owner's bodies see it."""

    budget: MemoryBudget
    owner: Owner

    async def acquire(self, size: int) -> None:
        """Wait for so many bytes. Raises as `MemoryBudget.acquire`."""
        await self.budget.acquire(self.owner, size)

    def release(self, size: int) -> None:
        """Give so many bytes back."""
        self.budget.release(self.owner, size)
