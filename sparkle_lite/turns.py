"""Whose turn it is: what waits is handed out in turns by its owner, and who has cost least goes first."""

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

# Who did more than this share of all work within the last span (s) or two, while others came as well, takes too much.
_SHARE, _SPAN_S = 0.6, 5.0


class Costs:
    """What everybody has cost lately (s of work), as far as it still matters.

    Who comes is set to the level of whoever was served last: nobody saves up turns while away, and what somebody cost
    while nobody else was there is forgiven.
    """

    def __init__(self) -> None:
        self._of: dict[Hashable, float] = {}
        self._level = 0.0
        self._now: Counter[Hashable] = Counter()
        self._before: Counter[Hashable] = Counter()
        self._since = 0.0

    def of(self, owner: Hashable) -> float:
        """How far somebody is."""
        return self._of.get(owner, self._level)

    def charge(self, owner: Hashable, seconds: float) -> None:
        """Count what somebody's thing has cost."""
        self._of[owner] = self.of(owner) + seconds
        now = time.monotonic()
        if now - self._since > _SPAN_S:
            self._before = self._now if now - self._since <= 2 * _SPAN_S else Counter()
            self._now, self._since = Counter(), now
        # In µs: what is counted are whole numbers.
        self._now[owner] += int(seconds * 1e6) + 1

    def takes_too_much(self, owner: Hashable) -> bool:
        """Whether most of the work lately was somebody's, and others were there as well."""
        if time.monotonic() - self._since > 2 * _SPAN_S:
            return False
        mine, all_ = self._now[owner] + self._before[owner], self._now.total() + self._before.total()
        return _SHARE * all_ < mine < all_

    def arrived(self, owner: Hashable) -> None:
        """Note that somebody waits who did not before."""
        self._of[owner] = max(self.of(owner), self._level)

    def served(self, owner: Hashable) -> None:
        """Note whose turn it is; who is not ahead of that by now is as good as somebody new."""
        self._level = max(self._level, self.of(owner))
        if len(self._of) > 1_000:
            self._of = {each: cost for each, cost in self._of.items() if cost > self._level}


class Turns(Generic[T]):
    """Things that wait, each of an owner; those of one owner go in the order in which they came.

    On one event loop, but for `beside`.
    """

    def __init__(self, costs: Costs, whose: Callable[[T], Hashable]) -> None:
        """`whose` says who owns a thing; several queues may share their `costs`."""
        self._costs = costs
        self._whose = whose
        self._waiting: dict[Hashable, deque[T]] = {}

    def __len__(self) -> int:
        """How many things wait."""
        return sum(map(len, self._waiting.values()))

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._waiting)

    def put(self, thing: T) -> None:
        """Let a thing wait behind the others of its owner."""
        owner = self._whose(thing)
        if owner not in self._waiting:
            self._costs.arrived(owner)
            self._waiting[owner] = deque()
        self._waiting[owner].append(thing)

    def put_back(self, thing: T) -> None:
        """Let a thing wait before the others of its owner: it was taken, and there was no room for it."""
        self._waiting.setdefault(self._whose(thing), deque()).appendleft(thing)

    def remove(self, thing: T) -> None:
        """Forget a thing that may be waiting."""
        owner = self._whose(thing)
        queue = self._waiting.get(owner)
        if queue is not None and thing in queue:
            queue.remove(thing)
            if not queue:
                del self._waiting[owner]

    def beside(self, owners: Collection[Hashable]) -> bool:
        """Whether anybody else waits; may be asked on any thread."""
        return any(owner not in owners for owner in list(self._waiting))

    def take(self, free: Callable[[Hashable], bool] = lambda owner: True) -> T | None:
        """The next thing of whoever has cost least, of those that are `free` to be served; None if there is none."""
        owners = [owner for owner in self._waiting if free(owner)]
        if not owners:
            return None
        owner = min(owners, key=self._costs.of)
        self._costs.served(owner)
        return self._pop(owner)

    def together(self, at_once: int, apart: float) -> Iterator[T]:
        """What may be done together, one by one; what is not asked for goes on waiting.

        That is of everybody who has cost about as little as the one who has cost least (not over `apart` more), at most
        `at_once` things each in turns; and where nobody else waits, all that the last one has. Who takes too much is
        treated as if others waited, since they will soon, and has one thing at once.
        """
        order = sorted(self._waiting, key=self._costs.of)
        if not order:
            return
        self._costs.served(order[0])
        bar = self._costs.of(order[0]) + apart
        near = [owner for owner in order if self._costs.of(owner) <= bar]
        greedy = {owner for owner in near if self._costs.takes_too_much(owner)}
        for turn in range(at_once):
            for owner in near:
                if owner in self._waiting and not (turn and owner in greedy):
                    yield self._pop(owner)
        while len(self._waiting) == 1 and (last := next(iter(self._waiting))) in near and last not in greedy:
            yield self._pop(last)

    def _pop(self, owner: Hashable) -> T:
        queue = self._waiting[owner]
        thing = queue.popleft()
        if not queue:
            del self._waiting[owner]
        return thing
