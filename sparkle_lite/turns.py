"""Whose turn it is: what waits is handed out in turns by its owner, and who has cost least goes first.

A person may own things through several applications. Persons take turns, whatever the number of their applications, and
so do the applications of one person.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

# Who did more than this share of all work within the last span (s) or two, while others came as well, takes too much.
_SHARE, _SPAN_S = 0.6, 5.0


class Owner(NamedTuple):
    """Whose a thing is: a person's, and of those the one that came from an application."""

    person: Hashable
    userapp: int = 0


class _Levels:
    """How far each of some is who take turns with one another.

    Who comes is set to the level of whoever was served last: nobody saves up turns while away, and what somebody cost
    while nobody else was there is forgiven.
    """

    def __init__(self) -> None:
        self._of: dict[Hashable, float] = {}
        self._level = 0.0

    def of(self, who: Hashable) -> float:
        return self._of.get(who, self._level)

    def charge(self, who: Hashable, seconds: float) -> None:
        self._of[who] = self.of(who) + seconds

    def arrived(self, who: Hashable) -> None:
        self._of[who] = max(self.of(who), self._level)

    def served(self, who: Hashable) -> list[Hashable]:
        """Note whose turn it is; those who are forgotten, because they are as good as somebody new by now."""
        self._level = max(self._level, self.of(who))
        if len(self._of) <= 1_000:
            return []
        forgotten = [each for each, cost in self._of.items() if cost <= self._level]
        for each in forgotten:
            del self._of[each]
        return forgotten


class _Lately:
    """Work (µs) that was done within a span, by application, by person, and in all."""

    def __init__(self) -> None:
        self.of_owner: Counter[Owner] = Counter()
        self.of_person: Counter[Hashable] = Counter()
        self.total = 0

    def add(self, owner: Owner, work: int) -> None:
        self.of_owner[owner] += work
        self.of_person[owner.person] += work
        self.total += work


class Costs:
    """What everybody has cost lately (s of work), as far as it still matters."""

    def __init__(self) -> None:
        self._persons = _Levels()
        self._userapps: dict[Hashable, _Levels] = {}
        self._now = self._before = _Lately()
        self._since = 0.0

    def of(self, owner: Owner) -> tuple[float, float]:
        """How far somebody is among all persons, and their application among theirs."""
        return self._persons.of(owner.person), self._mine(owner).of(owner.userapp)

    def _mine(self, owner: Owner) -> _Levels:
        return self._userapps.get(owner.person) or self._userapps.setdefault(owner.person, _Levels())

    def charge(self, owner: Owner, seconds: float) -> None:
        """Count what somebody's thing has cost."""
        self._persons.charge(owner.person, seconds)
        self._mine(owner).charge(owner.userapp, seconds)
        now = time.monotonic()
        if now - self._since > _SPAN_S:
            self._before = self._now if now - self._since <= 2 * _SPAN_S else _Lately()
            self._now, self._since = _Lately(), now
        self._now.add(owner, int(seconds * 1e6) + 1)

    def takes_too_much(self, owner: Owner) -> bool:
        """Whether most of the work lately was somebody's, or one application's, and others were there as well."""
        if time.monotonic() - self._since > 2 * _SPAN_S:
            return False
        all_ = self._now.total + self._before.total
        mine = self._now.of_owner[owner] + self._before.of_owner[owner]
        persons = self._now.of_person[owner.person] + self._before.of_person[owner.person]
        return _SHARE * all_ < mine < all_ or _SHARE * all_ < persons < all_

    def arrived(self, owner: Owner) -> None:
        """Note that something of somebody waits where nothing did before."""
        self._persons.arrived(owner.person)
        self._mine(owner).arrived(owner.userapp)

    def served(self, owner: Owner) -> None:
        """Note whose turn it is."""
        self._mine(owner).served(owner.userapp)
        for person in self._persons.served(owner.person):
            self._userapps.pop(person, None)


class Turns(Generic[T]):
    """Things that wait, each of an owner; those of one owner go in the order in which they came.

    On one event loop, but for `beside`.
    """

    def __init__(self, costs: Costs, whose: Callable[[T], Owner]) -> None:
        """`whose` says who owns a thing; several queues may share their `costs`."""
        self._costs = costs
        self._whose = whose
        self._waiting: dict[Owner, deque[T]] = {}

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

    def beside(self, owners: Collection[Owner]) -> bool:
        """Whether anybody else waits; may be asked on any thread."""
        return any(owner not in owners for owner in list(self._waiting))

    def take(self, free: Callable[[Owner], bool] = lambda owner: True) -> T | None:
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
        `at_once` things each in turns; and where nobody else waits, all that the last one has. Each means each person
        where several wait, else each application. Who takes too much is treated as if others waited, since they will
        soon, and has one thing at once.
        """
        order = sorted(self._waiting, key=self._costs.of)
        if not order:
            return
        self._costs.served(order[0])
        near = self._near(order, apart)
        greedy = {owner for owner in near if self._costs.takes_too_much(owner)}
        are_many = len({owner.person for owner in order}) > 1
        had: Counter[Hashable] = Counter()
        for turn in range(at_once):
            for owner in near:
                who = owner.person if are_many else owner
                most = 1 if owner in greedy else at_once
                if owner in self._waiting and had[who] < min(turn + 1, most):
                    had[who] += 1
                    yield self._pop(owner)
        while len(self._waiting) == 1 and (last := next(iter(self._waiting))) in near and last not in greedy:
            yield self._pop(last)

    def _near(self, order: Sequence[Owner], apart: float) -> list[Owner]:
        """Those who have cost about as little as the first, and of each person the applications that have so."""
        bar = self._costs.of(order[0])[0] + apart
        least: dict[Hashable, float] = {}
        near = []
        for owner in order:
            person, userapp = self._costs.of(owner)
            if person <= bar and userapp <= least.setdefault(owner.person, userapp) + apart:
                near.append(owner)
        return near

    def _pop(self, owner: Owner) -> T:
        queue = self._waiting[owner]
        thing = queue.popleft()
        if not queue:
            del self._waiting[owner]
        return thing
